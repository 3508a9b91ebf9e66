/* hak_judge.c - who is heard, who has been silent for too long, and whose fault that is.
 * All of it runs in the io thread.
 *
 * Not handled: what follows from a death; see hak2k/election.py.
 */
#include "hak_engine_int.h"

enum { DEAF_MS = 5000 };

static uint64_t ms(uint32_t n)
{
	return (uint64_t)n * HAK_MS;
}

static void link_state(struct hak_engine *e, unsigned i, bool up, enum hak_link_why why)
{
	if (atomic_exchange(&e->links[i].up, up) == up)
		return;
	pthread_mutex_lock(&e->q_lock);
	e->links[i].info.up = up;
	e->links[i].info.since_ms = hak_wall_ms();
	if (!up)
		e->links[i].info.rtt_us = -1;
	pthread_mutex_unlock(&e->q_lock);
	hak_emit(e, up ? HAK_EV_LINK_UP : HAK_EV_LINK_DOWN, i, why, 0, NULL);
}

/* What a silence has to last before it counts. */
static uint64_t limit_of(const struct hak_engine *e, const struct hak_suspect *s)
{
	return hak_suspect_limit(s, ms(e->cfg.dead_after_ms), ms(e->cfg.dead_after_max_ms));
}

static void learn(const struct hak_engine *e, struct hak_suspect *s, uint64_t heard, uint64_t now)
{
	/* One that was longer was a death, which tells nothing of the network; nor does
	 * one in which we were deaf ourselves. */
	if (heard > e->slipped_ns && now - heard < limit_of(e, s))
		hak_suspect_heard(s, now - heard);
}

void hak_heard(struct hak_engine *e, unsigned i, uint64_t now)
{
	struct hak_link *l = &e->links[i];

	learn(e, &l->suspect, l->heard_ns, now);
	l->heard_ns = now;
	link_state(e, i, true, HAK_LINK_WORKS);
	learn(e, &e->suspect, atomic_exchange(&e->peer_heard_ns, now), now);
	atomic_store(&e->longest_ns, e->suspect.longest);
	if (!atomic_exchange(&e->peer_alive, true)) {
		e->accused = false;
		hak_emit(e, HAK_EV_PEER_ALIVE, 0, 0, 0, NULL);
	}
}

/* Datagrams of its stream that the peer told of, and that never came. */
static uint64_t missing(struct hak_engine *e)
{
	uint64_t n;

	pthread_mutex_lock(&e->rx_lock);
	n = e->rx_reset ? 0 : e->rx.top - e->rx.next;
	pthread_mutex_unlock(&e->rx_lock);
	return n;
}

/* An interface went down, or lost its carrier: no need to wait for silence.  A heartbeat
 * brings it back. */
static void see_interfaces(struct hak_engine *e)
{
	bool told = false;

	for (unsigned i = 0; i < e->cfg.n_links; i++) {
		struct hak_link *l = &e->links[i];
		uint8_t now = atomic_load(&l->interface);

		if (now == l->seen)
			continue;
		l->seen = now;
		told = true;
		if (now != HAK_LINK_WORKS)
			link_state(e, i, false, now);
	}
	if (!told)
		return;
	pthread_mutex_lock(&e->tx_lock);
	hak_send_heartbeats(e);
	pthread_mutex_unlock(&e->tx_lock);
}

void hak_peer_links(struct hak_engine *e, uint8_t down, uint64_t seq)
{
	for (unsigned i = 0; i < e->cfg.n_links; i++)
		/* a heartbeat that came over it before is no life */
		if (down >> i & 1 && e->links[i].last_seq < seq) {
			e->links[i].last_seq = seq;
			link_state(e, i, false, HAK_LINK_PEER);
		}
}

/* A passive node whose own HA interfaces are all administratively down hears nobody by
 * its own doing: that is no reason to take over.  Nor is the time until one of them has
 * a carrier again, within reason. */
static bool is_deaf(struct hak_engine *e, uint64_t now)
{
	unsigned down = 0, work = 0;

	for (unsigned i = 0; i < e->cfg.n_links; i++) {
		down += e->links[i].seen == HAK_LINK_DOWN;
		work += e->links[i].seen == HAK_LINK_WORKS;
	}
	if (down == e->cfg.n_links) {
		e->deaf = true;
		e->deaf_ns = now;
	} else if (e->deaf && (work || now - e->deaf_ns > ms(DEAF_MS))) {
		e->deaf = false;
		atomic_store(&e->peer_heard_ns, now);	/* from now on silence counts */
	}
	return e->deaf && atomic_load(&e->role) == HAK_PASSIVE;
}

/* Links and peer: who has been silent for too long? */
uint64_t hak_judge(struct hak_engine *e, uint64_t now)
{
	uint64_t limit = limit_of(e, &e->suspect), next = now + limit, heard;
	bool deaf, dead;

	see_interfaces(e);
	deaf = is_deaf(e, now);
	heard = atomic_load(&e->peer_heard_ns);
	dead = !deaf && heard && now - heard >= limit;

	for (unsigned i = 0; i < e->cfg.n_links; i++) {
		uint64_t h = e->links[i].heard_ns, due = h + limit_of(e, &e->links[i].suspect);

		if (!h)
			continue;
		/* a link may be granted more than the peer, but not beyond its death */
		if (now >= due || dead)
			link_state(e, i, false, HAK_LINK_WORKS);
		else if (due < next)
			next = due;
	}
	atomic_store(&e->limit_ns, limit);
	if (dead) {
		atomic_store(&e->peer_alive, false);
		if (!e->accused) {
			e->accused = true;
			e->lost_ns = now;
			if (atomic_load(&e->alone_ns) != HAK_OFFER_ALL)
				atomic_store(&e->alone_ns, hak_untold_since(e));
			hak_emit(e, HAK_EV_PEER_DEAD, now - heard, missing(e), 0, NULL);
			hak_wake(e->wake_capture);	/* stop waiting for its window */
			hak_peer_prepares(e, 0, 0);
		}
	} else if (!deaf && heard && heard + limit < next) {
		next = heard + limit;
	}
	return next;
}

static uint64_t forgive(const struct hak_engine *e, const struct hak_suspect *s, uint64_t heard,
			uint64_t now)
{
	uint64_t limit = limit_of(e, s), more = 2 * ms(e->cfg.heartbeat_ms);
	uint64_t grace = now - limit + (more < limit ? more : limit);

	return heard < grace ? grace : heard;
}

/* A loop that comes round much later than it meant to was stopped or starved: what
 * it did not hear in the meantime is its own fault, so everybody gets a heartbeat's
 * time more before judgement. */
void hak_note_slip(struct hak_engine *e, uint64_t meant, uint64_t now)
{
	if (now < meant + ms(e->cfg.dead_after_ms) / 2)
		return;
	e->slipped_ns = now;
	hak_count(&e->stats, HAK_STAT_SLIPS);
	hak_emit(e, HAK_EV_SLIP, now - meant, 0, 0, NULL);
	for (unsigned i = 0; i < e->cfg.n_links; i++)
		if (e->links[i].heard_ns)
			e->links[i].heard_ns =
				forgive(e, &e->links[i].suspect, e->links[i].heard_ns, now);
	if (atomic_load(&e->peer_alive))
		atomic_store(&e->peer_heard_ns,
			     forgive(e, &e->suspect, atomic_load(&e->peer_heard_ns), now));
}
