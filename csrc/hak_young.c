/* hak_young.c - the capture thread: connections that wait before they are told of.
 *
 * By policy (min_duration_s) all wait while they are young; else, in adaptive mode, some
 * do while the stream cannot keep up (hak_pressure.h).  They wait in one ring
 * (hak_hold.h), each for the same time.  What ends before that is never sent.  In
 * adaptive mode the others go as soon as the pressure is over.
 *
 * Comparisons leave out, on the active side, what is held; the peer has none of it.  One
 * that was summed up before its NEW was read costs the comparison another round.
 *
 * Nobody begins to wait while a copy is being sent.
 *
 * Not handled: more than the ring holds.  What finds it full is sent at once, as if
 * nobody waited.  With min_duration_s adaptive mode measures and tells, and changes
 * nothing: the young wait anyway.
 */
#include "hak_capture_int.h"

enum {
	HELD_ROUND = 256,		/* before events are read again */
	LOAD_NS = 10 * HAK_MS,		/* between two measurements */
	PRESSED_NS = 100 * HAK_MS,	/* the same while nothing happens, for the level to fall */
};

/* A little longer than the kernel gives to a question and its answer
 * (nf_conntrack_udp_timeout, nf_conntrack_icmp_timeout: 30 s), so that most end here. */
#define WAIT_NS (35000 * (uint64_t)HAK_MS)

bool hak_held(const struct hak_engine *e, const struct hak_flow *f)
{
	return hak_holding(e) && hak_hold_has(e->hold, f, hak_flow_hash(f, e->hash_key));
}

static uint64_t hold_until(const struct hak_engine *e)
{
	uint64_t min_ns = e->cfg.policy.min_ms * (uint64_t)HAK_MS;

	return hak_now() + (min_ns ? min_ns : WAIT_NS);
}

static void tell(struct hak_engine *e, struct hak_flow *f)
{
	hak_send_whole(e, f, HAK_MASTERS);
	hak_count(&e->stats, HAK_STAT_HOLD_SENT);
}

/* One that was held back, as it is now.  False: it has ended meanwhile. */
static bool grown(struct hak_engine *e, const struct hak_flow *id, struct hak_flow *out)
{
	if (hak_fetch(e, id, out) && hak_wanted(e, out))
		return true;
	hak_count(&e->stats, HAK_STAT_HOLD_DIED);
	return false;
}

/* Send, whole, one that was held back; nothing if it has ended meanwhile. */
void hak_release(struct hak_engine *e, const struct hak_flow *id)
{
	struct hak_flow f;

	if (grown(e, id, &f))
		tell(e, &f);
}

/* A few of those due by `now`; of all, once the pressure is over, as fast as the peer
 * takes them.  When to come again. */
uint64_t hak_serve_held(struct hak_capture *c, uint64_t now)
{
	struct hak_engine *e = c->e;
	bool adapts = !e->cfg.policy.min_ms, pressed = c->pressure.level;
	bool over = adapts && !pressed, all;
	uint64_t due = UINT64_MAX;
	struct hak_flow id, f;

	if (hak_holding(e)) {
		all = over && hak_room(e);
		for (unsigned i = 0; i < HELD_ROUND; i++) {
			if (!hak_hold_take(e->hold, all ? UINT64_MAX : now, &id))
				break;
			if (!grown(e, &id, &f))
				continue;
			if (adapts && pressed && hak_pressure_over(&f))
				hak_hold_put(e->hold, &f, hak_flow_hash(&f, e->hash_key),
					     hold_until(e));
			else
				tell(e, &f);
		}
		due = hak_hold_due(e->hold);
		if (over && due != UINT64_MAX && due > now)
			due = all ? now : now + LOAD_NS;
	}
	if (e->hold)
		atomic_store_explicit(&e->held, e->hold->live, memory_order_relaxed);
	return due;
}

/* True: nothing is to be said of this event, now or ever. */
bool hak_hold_back(struct hak_capture *c, const struct hak_ctmsg *m)
{
	struct hak_engine *e = c->e;
	const struct hak_flow *f = &m->flow;
	uint64_t hash = hak_flow_hash(f, e->hash_key);
	bool by_policy = e->cfg.policy.min_ms;
	struct hak_flow now;

	if (m->what == HAK_CT_UPDATE && hak_wanted(e, f)) {
		if (!hak_hold_has(e->hold, f, hash))
			return false;
		/* it has turned out to be one of those that do not wait */
		if (!by_policy && !hak_pressure_waits(HAK_PRESSURE_MAX, f) && hak_fetch(e, f, &now))
			tell(e, &now);
		return true;
	}
	if (m->what != HAK_CT_NEW) {
		if (!hak_hold_drop(e->hold, f, hash))
			return false;
		hak_count(&e->stats, HAK_STAT_HOLD_DIED);
		return true;
	}
	/* A helper's child is not young: it belongs to what is older, and brings it.  And
	 * what a copy may have sent already, the peer need not lose again. */
	if (!hak_wanted(e, f) || f->have & HAK_HAS_MASTER || c->list_echo ||
	    !(by_policy || hak_pressure_waits(c->pressure.level, f)))
		return false;
	if (hak_hold_full(e->hold)) {
		hak_count(&e->stats, HAK_STAT_HOLD_FULL);
		return false;
	}
	hak_hold_put(e->hold, f, hash, hold_until(e));
	return true;
}

/* ---- can the stream keep up? ----------------------------------------- */

static void measure_load(struct hak_capture *c, struct hak_load *l, uint64_t now)
{
	struct hak_engine *e = c->e;
	uint64_t overruns = atomic_load(&e->stats.v[HAK_STAT_OVERRUNS]);
	uint8_t fill = atomic_load(&e->peer_fill);

	l->overrun = overruns != c->overruns;
	c->overruns = overruns;
	l->events = e->cfg.probe ? hak_probe_backlog(e->cfg.probe) : hak_nl_backlog(&e->events_nl);
	/* nobody is behind who is not there */
	if (!atomic_load(&e->peer_alive))
		return;
	l->table = fill ? fill - 1u : 0;
	pthread_mutex_lock(&e->tx_lock);
	l->lag_ms = hak_tx_lag(&e->tx, now) / HAK_MS;
	l->window = (unsigned)((e->tx.next - e->tx.applied) * 100 / HAK_WINDOW);
	pthread_mutex_unlock(&e->tx_lock);
}

/* When to measure again though nothing happens. */
uint64_t hak_adapt(struct hak_capture *c, uint64_t now)
{
	struct hak_engine *e = c->e;
	struct hak_pressure *p = &c->pressure;
	unsigned before = p->level;
	struct hak_load l = { 0 };

	if (!e->cfg.adaptive)
		return UINT64_MAX;
	if (now - c->load_ns >= LOAD_NS) {
		c->load_ns = now;
		measure_load(c, &l, now);
		if (hak_pressure_step(p, &l, now)) {
			if (p->level > before)
				hak_count(&e->stats, HAK_STAT_PRESSURES);
			hak_emit(e, HAK_EV_PRESSURE, p->level, before, e->hold->live,
				 hak_cause_name(p->cause));
		}
		atomic_store_explicit(&e->pressure, p->level | (uint32_t)p->cause << 8,
				      memory_order_relaxed);
	}
	return p->level ? now + PRESSED_NS : UINT64_MAX;
}
