/* hak_capture.c - the capture thread: this kernel's events become the stream.
 *
 * Active only.  Takes conntrack events (hak_events.c), asks the policy, encodes each into
 * the open payload and sends that as soon as no further event waits, or when it is
 * full.  While events come fast it naps between reads so that they queue up: being
 * woken for each costs more than reading them.
 *
 * Helpers change sequence adjustments without any event, and just after they made
 * an expectation: so an expectation's master is read at once and once more later.
 *
 * Not handled: conntrack templates (never confirmed, never listed); the secmark
 * (the kernel ignores it when entries are made).
 */
#include "hak_capture_int.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/netfilter/nf_conntrack_common.h>

enum {
	NAP_RATE = 20000,		/* events per second above which we nap, */
	NAP_NS = 1 * HAK_MS,
	LONG_NAP_RATE = 40000,		/* and longer */
	LONG_NAP_NS = 5 * HAK_MS,
	KEEP_BELOW = HAK_PAYLOAD_MAX * 3 / 4,
	POKE_NS = 3 * HAK_MS,		/* unacknowledged and idle: say where we are */
	SEQADJ_LATER_NS = 20 * HAK_MS,
	WAITING_NS = 250 * HAK_MS,	/* the first look; each one waits twice as long */
	WAITING_LOOKS = 5,
	TRAP_QUIET_NS = 500 * HAK_MS,	/* then an incident is over, and told */
	BUSY_NS = 5 * HAK_MS,		/* a listing that waits so long goes before events, */
	BUSY_SHARE_NS = 1 * HAK_MS,	/* for as long as this */
	BUSY_NAP_NS = 20000,		/* while somebody writes into the ring */
};

#define TRAP_LONGEST_NS (60000 * (uint64_t)HAK_MS)	/* then the peer will not take over */

/* ---- sending --------------------------------------------------------- */

static void batch_begin(struct hak_engine *e)
{
	e->batch = hak_wr_on(e->batch_bytes, sizeof e->batch_bytes);
	e->batch_records = 0;
}

/* A living peer that lags behind holds us up here, and the kernel's socket buffer
 * takes the events meanwhile; if that overflows, ENOBUFS tells. */
static void await_window(struct hak_engine *e)
{
	struct pollfd p = { .fd = e->wake_capture, .events = POLLIN };
	bool open, counted = false;

	for (;;) {
		pthread_mutex_lock(&e->tx_lock);
		open = hak_tx_open(&e->tx);
		atomic_store(&e->window_awaited, !open);
		pthread_mutex_unlock(&e->tx_lock);
		if (open || !atomic_load(&e->peer_alive) || atomic_load(&e->stop) ||
		    atomic_load(&e->role) != HAK_ACTIVE)
			return;
		if (!counted)
			hak_count(&e->stats, HAK_STAT_TX_STALLS);
		counted = true;
		(void)poll(&p, 1, 1);
		hak_unwake(e->wake_capture);
	}
}

/* Is there room in the window for what can wait? */
bool hak_room(struct hak_engine *e)
{
	bool room;

	pthread_mutex_lock(&e->tx_lock);
	room = e->tx.next - e->tx.applied < HAK_WINDOW / 4;
	pthread_mutex_unlock(&e->tx_lock);
	return room;
}

/* Seal the open payload and send it.  Without a session, or once we have stepped down,
 * it is thrown away: whoever listens to us next begins with a full copy. */
void hak_say_flush(struct hak_engine *e)
{
	size_t n = hak_wr_len(&e->batch);
	struct hak_sent *d;
	uint64_t seq;

	if (!n)
		return;
	await_window(e);
	pthread_mutex_lock(&e->tx_lock);
	if (!e->now.live || atomic_load(&e->role) != HAK_ACTIVE) {
		hak_count_n(&e->stats, HAK_STAT_EVENTS_UNSENT, e->batch_records);
		goto out;
	}
	d = hak_tx_slot(&e->tx);
	seq = e->tx.next;
	hak_put_header(d->bytes, e, HAK_KIND_DATA, e->now.peer_id, seq);
	memcpy(d->bytes + HAK_HDR_LEN, e->batch.base, n);
	if (hak_aead_seal(&e->now.seal, HAK_KIND_DATA, seq, d->bytes, HAK_HDR_LEN,
			  d->bytes + HAK_HDR_LEN, n, d->bytes + HAK_HDR_LEN + n,
			  !e->cfg.encrypt && !e->now.peer.encrypt))
		goto out;	/* out of memory: the gap becomes a full copy */
	d->len = (uint16_t)(HAK_HDR_LEN + n + HAK_TAG_LEN);
	d->records = e->batch_records;
	hak_tx_commit(&e->tx, hak_now());
	hak_send_bytes(e, hak_best_link(e, false), d->bytes, d->len);
	hak_count(&e->stats, HAK_STAT_TX_DATAGRAMS);
	hak_count_n(&e->stats, HAK_STAT_TX_BYTES, d->len);
	hak_count_n(&e->stats, HAK_STAT_TX_RECORDS, d->records);
	hak_count_n(&e->stats, HAK_STAT_TX_RECORD_BYTES, n);
out:
	pthread_mutex_unlock(&e->tx_lock);
	batch_begin(e);
}

/* `put` is one of hak_wire_put_*(); a full payload goes out first. */
#define PUT(e, put, ...) do { \
	enum hak_err err_ = put(&(e)->batch, __VA_ARGS__); \
	if (err_ == HAK_ESPACE) { \
		hak_say_flush(e); \
		err_ = put(&(e)->batch, __VA_ARGS__); \
	} \
	if (err_) \
		hak_count(&(e)->stats, HAK_STAT_EVENTS_BAD); \
	else \
		(e)->batch_records++; \
	} while (0)

/* Connections that opted out by mark and that the peer does not hold: each of their
 * changes would else be told as an end.  One that loses its slot is told so again. */
static bool is_out(const struct hak_engine *e, uint64_t hash)
{
	return e->out[hash % HAK_OUT_SLOTS] == hash;
}

void hak_say_flow(struct hak_engine *e, uint8_t type, const struct hak_flow *f)
{
	if (type != HAK_REC_FLOW_DESTROY && (hak_holding(e) || e->cfg.policy.mark_mask)) {
		uint64_t hash = hak_flow_hash(f, e->hash_key);

		if (is_out(e, hash))
			e->out[hash % HAK_OUT_SLOTS] = 0;
		if (e->hold)		/* from now on its changes and its end are news */
			(void)hak_hold_drop(e->hold, f, hash);
	}
	PUT(e, hak_wire_put_flow, type, f);
	if (e->tx_digest.open && e->tx_digest.copying && type == HAK_REC_FLOW_SYNC)
		hak_digest_add_flow(&e->tx_digest, f);
	else if (e->tx_digest.open)
		hak_bit_set(e->tx_digest.dirty, hak_digest_slot(&e->tx_digest, f));
	/* a change makes nobody appear, but by mark */
	if (e->tx_roll.whole && type != HAK_REC_FLOW_DESTROY &&
	    (type != HAK_REC_FLOW_UPDATE || e->cfg.policy.mark_mask))
		hak_roll_add(&e->tx_roll, f);
}

void hak_say_expect(struct hak_engine *e, uint8_t type, const struct hak_expect *x)
{
	PUT(e, hak_wire_put_expect, type, x);
	if (e->tx_digest.open)
		hak_bit_set(e->tx_digest.dirty, hak_digest_expect_slot(&e->tx_digest, x));
}

void hak_say_raw(struct hak_engine *e, uint8_t type, const struct hak_wr *body)
{
	PUT(e, hak_wire_put_raw, type, body->base, hak_wr_len(body));
}

void hak_say_numbers(struct hak_engine *e, uint8_t type, uint32_t a, bool has_b, uint64_t b)
{
	uint8_t bytes[12];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);

	hak_wr_u32(&w, a);
	if (has_b)
		hak_wr_u64(&w, b);
	hak_say_raw(e, type, &w);
}

/* ---- reading one entry ----------------------------------------------- */

bool hak_wanted(const struct hak_engine *e, const struct hak_flow *f)
{
	return hak_policy_wants(&e->cfg.policy, hak_engine_locals(e), f);
}

/* False: the kernel has no such entry (any more). */
bool hak_fetch(struct hak_engine *e, const struct hak_flow *id, struct hak_flow *out)
{
	uint8_t buf[4096];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	uint32_t seq = ++e->fetch_nl.seq;
	struct hak_ctmsg m;
	size_t n;

	hak_nl_drain(&e->fetch_nl);
	hak_count(&e->stats, HAK_STAT_FETCHES);
	if (hak_ct_put_get(&w, seq, id) || hak_nl_send(&e->fetch_nl, &w) ||
	    hak_nl_recv(&e->fetch_nl, buf, sizeof buf, MSG_DONTWAIT, &n))
		return false;
	struct hak_rd r = hak_rd_on(buf, n);
	if (hak_ct_next(&r, &m) || (m.what != HAK_CT_NEW && m.what != HAK_CT_UPDATE))
		return false;
	*out = m.flow;
	return true;
}

void hak_master_id(const struct hak_flow *child, struct hak_flow *id)
{
	memset(id, 0, sizeof *id);
	id->l3 = child->l3;
	id->zone = child->zone;
	id->zone_dir = child->zone_dir;
	id->l4proto = child->master_l4proto;
	id->l4kind = child->master_l4kind;
	id->orig = child->master;
}

struct hak_flow hak_expect_master(const struct hak_expect *x)
{
	return (struct hak_flow){
		.l3 = x->l3, .zone = x->zone, .zone_dir = x->zone_dir,
		.l4proto = x->master_l4proto, .l4kind = x->master_l4kind, .orig = x->master,
	};
}

/* What was expected may have changed its master's sequence numbers, or waits. */
static void later(struct hak_engine *e, const struct hak_expect *x)
{
	struct hak_ask a = {
		.flow = hak_expect_master(x), .due_ns = hak_now() + SEQADJ_LATER_NS,
		.seqadj_only = true,
	};

	pthread_mutex_lock(&e->q_lock);
	(void)hak_asks_put(&e->fetches, &a);	/* full: its next event will do */
	if (x->flags & NF_CT_EXPECT_INACTIVE) {
		a.due_ns = hak_now() + WAITING_NS;
		a.seqadj_only = false;
		a.looks = WAITING_LOOKS;
		(void)hak_asks_put(&e->fetches, &a);
	}
	pthread_mutex_unlock(&e->q_lock);
}

/* Send what a helper did to a connection's sequence numbers, if anything. */
static void send_seqadj(struct hak_engine *e, const struct hak_flow *id)
{
	struct hak_flow f;

	if (!hak_fetch(e, id, &f) || !(f.have & HAK_HAS_SEQADJ) || !hak_wanted(e, &f))
		return;
	f.have &= HAK_HAS_REPLY | HAK_HAS_SEQADJ;
	hak_say_flow(e, HAK_REC_FLOW_UPDATE, &f);
}

/* A registration with SIP is expected as "inactive" until the registrar agrees, which
 * makes no event (nf_conntrack_sip.c, refresh_signalling_expectation).  So it is looked
 * at a few times; whoever takes longer to agree is found by the next comparison. */
static void send_registrations(struct hak_engine *e, const struct hak_ask *a)
{
	struct hak_ask again = *a;
	uint8_t buf[8192];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	bool waits = false, done = false;
	size_t n;

	hak_nl_drain(&e->fetch_nl);
	e->fetch_nl.seq++;
	if (hak_exp_put_list_of(&w, e->fetch_nl.seq, &a->flow) || hak_nl_send(&e->fetch_nl, &w))
		return;
	while (!done && !hak_nl_recv(&e->fetch_nl, buf, sizeof buf, MSG_DONTWAIT, &n) && n) {
		struct hak_rd r = hak_rd_on(buf, n);

		while (hak_rd_left(&r) && !done) {
			struct hak_ctmsg m;

			if (hak_ct_next(&r, &m))
				continue;
			done = m.what == HAK_CT_DONE || m.what == HAK_CT_ERROR;
			if (m.what != HAK_CT_EXP_NEW || !(m.expect.flags & NF_CT_EXPECT_PERMANENT))
				continue;
			if (m.expect.flags & NF_CT_EXPECT_INACTIVE)
				waits = true;
			else
				hak_say_expect(e, HAK_REC_EXP_NEW, &m.expect);
		}
	}
	if (!waits || !--again.looks)
		return;
	again.due_ns = hak_now() + (WAITING_NS << (WAITING_LOOKS - again.looks));
	pthread_mutex_lock(&e->q_lock);
	(void)hak_asks_put(&e->fetches, &again);
	pthread_mutex_unlock(&e->q_lock);
}

/* An entry found by listing or asked for: all of it, its masters before it. */
void hak_send_whole(struct hak_engine *e, struct hak_flow *f, unsigned generations)
{
	if (f->have & HAK_HAS_MASTER) {
		struct hak_flow id, m;

		hak_master_id(f, &id);
		if (!generations || !hak_fetch(e, &id, &m))
			f->have &= ~(uint32_t)HAK_HAS_MASTER;	/* it went first */
		else if (hak_wanted(e, &m))
			hak_send_whole(e, &m, generations - 1);
	}
	hak_say_flow(e, HAK_REC_FLOW_SYNC, f);
}

/* Whether an expectation is to be told, which is its master's affair: only the whole of
 * it has a mark, and where it ends behind a DNAT.  Its sequence adjustments, which
 * change without an event, go before. */
bool hak_send_master_of(struct hak_engine *e, const struct hak_flow *id)
{
	struct hak_flow f;

	/* Gone, and with it what was expected; or in a zone, which the kernel does not
	 * tell of expectations: there it could not be found on the other side either. */
	if (!hak_fetch(e, id, &f) || !hak_wanted(e, &f))
		return false;
	/* All of it: when a first packet announces (SIP, TFTP), its NEW is yet to come. */
	hak_send_whole(e, &f, HAK_MASTERS);
	return true;
}

/* ---- what was asked for ------------------------------------------------- */

static void serve_fetches(struct hak_capture *c, uint64_t *next)
{
	struct hak_engine *e = c->e;
	struct hak_ask a;
	struct hak_flow f;

	for (unsigned i = 0; i < HAK_ASK_HELD; i++) {
		bool got;

		pthread_mutex_lock(&e->q_lock);
		got = hak_asks_take(&e->fetches, hak_now(), &a, next);
		pthread_mutex_unlock(&e->q_lock);
		if (!got)
			return;
		if (a.seqadj_only)
			send_seqadj(e, &a.flow);
		else if (a.looks)
			send_registrations(e, &a);
		else if (hak_fetch(e, &a.flow, &f) && hak_wanted(e, &f))
			hak_send_whole(e, &f, HAK_MASTERS);
	}
}

/* ---- the masquerade trap ---------------------------------------------- */

/* The device or address that a connection was masqueraded to is gone, and the kernel
 * ended it for that: the peer's copy lives on, for the peer may soon serve it. */
static bool trapped(struct hak_capture *c, const struct hak_flow *f)
{
	struct hak_engine *e = c->e;
	uint64_t now = hak_now();

	if (!c->trap_read)	/* why it ended has been told before it */
		hak_trap_read(&e->trap, now);
	c->trap_read = true;
	if (!hak_trap_holds(&e->trap, f, now))
		return false;
	hak_count(&e->stats, HAK_STAT_TRAPPED);
	c->trapped++;
	c->trapped_ns = now;
	atomic_store(&e->trapped_until_ns, now + HAK_TRAP_NS);
	return true;
}

/* While what was lost is missing, the tables go on to differ.  Once it is back and no
 * swap came, the time runs out and the peer's copies are extra like any others. */
static void watch_trap(struct hak_capture *c)
{
	struct hak_engine *e = c->e;
	uint64_t now = hak_now();
	uint64_t until = atomic_load(&e->trapped_until_ns);

	if (c->trap_waits || c->nap_ns || until || c->trapped)
		hak_trap_read(&e->trap, now);
	c->trap_waits = false;
	if (until && now < until && now - c->trapped_ns < TRAP_LONGEST_NS &&
	    hak_trap_missing(&e->trap))
		atomic_store(&e->trapped_until_ns, now + HAK_TRAP_NS);
	if (c->trapped && now - c->trapped_ns > TRAP_QUIET_NS) {
		hak_emit(e, HAK_EV_TRAPPED, c->trapped, 0, 0, NULL);
		c->trapped = 0;
	}
}

static void leave_trap(struct hak_capture *c)
{
	atomic_store(&c->e->trapped_until_ns, 0);
	if (c->trapped)
		hak_emit(c->e, HAK_EV_TRAPPED, c->trapped, 0, 0, NULL);
	c->trapped = 0;
	hak_trap_read(&c->e->trap, hak_now());
}

/* ---- events ---------------------------------------------------------- */

/* Born so, or perhaps just now: then it must not stay over there. */
static void opted_out(struct hak_engine *e, const struct hak_flow *f, bool born)
{
	uint64_t hash = hak_flow_hash(f, e->hash_key);

	if (!born && !is_out(e, hash))
		hak_say_flow(e, HAK_REC_FLOW_DESTROY, f);
	e->out[hash % HAK_OUT_SLOTS] = hash;
	hak_closing_forget(&e->closing, hash);
}

/* What was expected of a connection before it was in the table. */
static void put_early(struct hak_capture *c, const struct hak_flow *f)
{
	for (unsigned i = 0; i < (unsigned)HAK_EARLY; i++) {
		struct hak_ctmsg *m = &c->early[i];
		struct hak_flow id;

		if (m->what != HAK_CT_EXP_NEW)
			continue;
		id = hak_expect_master(&m->expect);
		if (id.l3 != f->l3 || id.l4proto != f->l4proto || id.zone != f->zone ||
		    !hak_tuple_equal(&id.orig, &f->orig))
			continue;
		hak_say_expect(c->e, HAK_REC_EXP_NEW, &m->expect);
		later(c->e, &m->expect);
		m->what = 0;
	}
}

void hak_on_flow(struct hak_capture *c, struct hak_ctmsg *m)
{
	struct hak_engine *e = c->e;
	struct hak_flow *f = &m->flow;
	uint64_t hash = 0;

	if (m->what == HAK_CT_NEW) {
		hash = hak_flow_hash(f, e->hash_key);
		hak_closing_forget(&e->closing, hash);
		if (hak_closing_is(f))		/* all at once: hak_batch.h */
			(void)hak_closing_told(&e->closing, f, hash);
		hak_born_expect(&e->born, hash);
	}
	if (c->listing)
		hak_list_touch(e, f);
	if (hak_holds_back(c) && hak_hold_back(c, m))
		return;
	if (!hak_wanted(e, f)) {
		hak_count(&e->stats, HAK_STAT_EVENTS_EXCLUDED);
		if (m->what != HAK_CT_DESTROY &&
		    hak_policy_concerns(&e->cfg.policy, hak_engine_locals(e), f))
			opted_out(e, f, m->what == HAK_CT_NEW);
		return;
	}
	if (m->what == HAK_CT_DESTROY) {
		if (!trapped(c, f))
			hak_say_flow(e, HAK_REC_FLOW_DESTROY, f);
		return;
	}
	if (m->what == HAK_CT_UPDATE && hak_closing_is(f) &&
	    hak_closing_told(&e->closing, f, hak_flow_hash(f, e->hash_key))) {
		hak_count(&e->stats, HAK_STAT_EVENTS_NO_NEWS);
		return;
	}
	if (m->what == HAK_CT_NEW && f->have & HAK_HAS_HELPER) {
		struct hak_flow now;

		/* Its expectation may have told the whole of it already, as it was later
		 * than this: a NEW on top of that would begin another life over there. */
		if (hak_fetch(e, f, &now))
			hak_send_whole(e, &now, HAK_MASTERS);
		else
			hak_say_flow(e, HAK_REC_FLOW_NEW, f);
		put_early(c, f);
	} else {
		hak_say_flow(e, m->what == HAK_CT_NEW ? HAK_REC_FLOW_NEW : HAK_REC_FLOW_UPDATE, f);
	}
	/* after it is in a datagram: that one's time is not before this */
	if (m->what == HAK_CT_NEW)
		hak_born_note(&e->born, hash, hak_now());
	if (f->have & HAK_HAS_SEQADJ)
		return;
	if (f->have & HAK_HAS_STATUS && f->status & IPS_SEQ_ADJUST)
		send_seqadj(e, f);
	if (m->what == HAK_CT_NEW && f->have & HAK_HAS_MASTER) {
		struct hak_flow id;

		hak_master_id(f, &id);
		if (hak_held(e, &id))
			hak_release(e, &id);
		send_seqadj(e, &id);
	}
}

void hak_on_expect(struct hak_capture *c, struct hak_ctmsg *m)
{
	struct hak_engine *e = c->e;
	struct hak_expect *x = &m->expect;
	struct hak_flow id = hak_expect_master(x);

	if (!hak_send_master_of(e, &id)) {
		if (m->what == HAK_CT_EXP_NEW)
			c->early[c->early_at++ % (unsigned)HAK_EARLY] = *m;
		hak_count(&e->stats, HAK_STAT_EVENTS_EXCLUDED);
		return;
	}
	hak_say_expect(e, m->what == HAK_CT_EXP_NEW ? HAK_REC_EXP_NEW : HAK_REC_EXP_DESTROY, x);
	later(e, x);
}

static void measure(struct hak_capture *c, uint64_t now)
{
	uint64_t span = now - c->rate_from;

	if (span < 10 * HAK_MS)
		return;
	uint64_t rate = c->rate_events * 1000000000u / span;

	c->nap_ns = rate > LONG_NAP_RATE ? LONG_NAP_NS : rate > NAP_RATE ? NAP_NS : 0;
	c->rate_from = now;
	c->rate_events = 0;
}

/* ---- the loop -------------------------------------------------------- */

/* True: somebody is writing into the probe's ring, perhaps on this processor. */
static bool let_be_written(const struct hak_engine *e)
{
	struct timespec nap = { .tv_nsec = BUSY_NAP_NS };

	if (!e->cfg.probe || !hak_probe_busy(e->cfg.probe))
		return false;
	nanosleep(&nap, NULL);
	return true;
}

/* PREPARE: the gate is still open, and there is no end of events. */
static void drain_for_handover(struct hak_capture *c, uint8_t rec)
{
	struct hak_engine *e = c->e;
	struct hak_flow id;

	while ((hak_read_events(c, 1000) || let_be_written(e)) && rec == HAK_REC_HANDOVER)
		;
	while (e->hold && hak_hold_take(e->hold, UINT64_MAX, &id))
		hak_release(e, &id);
	if (rec == HAK_REC_HANDOVER) {
		hak_list_off(c);	/* the next active will be asked anew */
		hak_say_numbers(e, rec, e->drain_term, false, 0);
	}
	hak_say_flush(e);
	pthread_mutex_lock(&e->tx_lock);
	uint64_t seq = e->tx.next;
	pthread_mutex_unlock(&e->tx_lock);
	pthread_mutex_lock(&e->q_lock);
	if (e->drain_asked == rec) {	/* and not yet for the next one */
		e->drain_asked = 0;
		e->drained = true;
		e->drained_seq = seq;
	}
	pthread_cond_broadcast(&e->turned);
	pthread_mutex_unlock(&e->q_lock);
}

/* The last datagram of a burst has no successor that would show its loss. */
static bool poke(struct hak_capture *c, uint64_t now)
{
	struct hak_engine *e = c->e;
	bool waiting;

	pthread_mutex_lock(&e->tx_lock);
	waiting = e->tx.acked < e->tx.next && c->poked < e->tx.next;
	if (waiting && now - e->tx.last_ns >= POKE_NS) {
		hak_send_heartbeats(e);
		c->poked = e->tx.next;
		waiting = false;
	}
	if (c->poked > e->tx.next)
		c->poked = 0;			/* a new session */
	pthread_mutex_unlock(&e->tx_lock);
	return waiting;
}

static void active_round(struct hak_capture *c)
{
	struct hak_engine *e = c->e;
	uint64_t fetch_due = UINT64_MAX, held_due, adapt_due, now, wait = 1000u * (uint64_t)HAK_MS;
	struct pollfd p[3] = {
		{ .fd = e->cfg.probe ? e->cfg.probe->ring : e->events_nl.fd, .events = POLLIN },
		{ .fd = e->wake_capture, .events = POLLIN },
		{ .fd = e->trap.fd, .events = POLLIN },
	};
	uint32_t asked, round, sums;
	uint8_t drain;
	bool more, listed = false;

	/* one that trickles is not to wait for whoever runs; see hak_lent.c */
	hak_prefer(&c->preferred, !c->nap_ns && !c->listing);
	watch_trap(c);
	c->list_echo |= c->listing >= HAK_LIST_FLOWS;
	more = hak_read_events(c, 16);
	if (!more)
		c->list_echo = c->listing >= HAK_LIST_FLOWS;
	serve_fetches(c, &fetch_due);
	held_due = hak_serve_held(c, hak_now());
	if (held_due < fetch_due)
		fetch_due = held_due;

	pthread_mutex_lock(&e->q_lock);
	asked = e->sync_asked;
	e->sync_asked = 0;
	round = e->sync_round;
	sums = e->sync_sums;
	drain = e->drain_asked;
	c->mail.type = 0;
	if (e->mail.type)
		c->mail = e->mail;
	e->mail.type = 0;
	pthread_mutex_unlock(&e->q_lock);
	if (drain) {
		drain_for_handover(c, drain);
		return;
	}
	hak_list_mail(c);
	if (asked)
		hak_list_begin(c, asked, round, sums);
	now = hak_now();
	/* Events come first, but under a load that never ends the tables must become
	 * equal all the same. */
	if (c->listing && (!more || now >= c->list_last + BUSY_NS) && hak_room(e)) {
		hak_list_some(c, more ? BUSY_SHARE_NS : c->nap_ns);
		listed = true;
	}
	/* A datagram costs as much as ten events: one that has little in it may wait for
	 * what comes after the nap, or with a listing's next chunk. */
	c->kept = !c->kept && hak_wr_len(&e->batch) < KEEP_BELOW &&
		  (c->listing ? listed : c->nap_ns != 0);
	if (!c->kept)
		hak_say_flush(e);

	now = hak_now();
	measure(c, now);
	hak_list_rest(c, now);
	adapt_due = hak_adapt(c, now);
	if (more)
		return;
	if (listed) {
		(void)poke(c, now);
		return;
	}
	if (c->nap_ns) {
		struct timespec nap = { .tv_nsec = (long)c->nap_ns };

		if (e->cfg.probe)
			hak_probe_quiet(e->cfg.probe, true);
		nanosleep(&nap, NULL);
		return;
	}
	if (c->kept)			/* there is no next nap */
		hak_say_flush(e);
	c->kept = false;
	if (poke(c, now))
		wait = POKE_NS;
	if (c->listing && wait > HAK_MS)
		wait = HAK_MS;			/* for room; no acknowledgement wakes us */
	if (adapt_due < fetch_due)
		fetch_due = adapt_due;
	if (fetch_due != UINT64_MAX) {
		uint64_t until = fetch_due > now ? fetch_due - now : 0;

		if (until < wait)
			wait = until;
	}
	struct timespec t = { .tv_sec = (time_t)(wait / 1000000000u),
			      .tv_nsec = (long)(wait % 1000000000u) };
	if (e->cfg.probe) {
		hak_probe_quiet(e->cfg.probe, false);
		if (let_be_written(e))
			return;
	}
	(void)ppoll(p, 3, &t, NULL);
	if (p[1].revents)
		hak_unwake(e->wake_capture);
	c->trap_waits = p[2].revents;
}

void *hak_capture_main(void *engine)
{
	struct hak_engine *e = engine;
	struct hak_capture c;		/* 300 KB, mostly buffers */
	struct pollfd p = { .fd = e->wake_capture, .events = POLLIN };

	memset(&c, 0, sizeof c);
	c.e = e;
	c.buckets_fd = -1;
	for (unsigned i = 0; i < HAK_READ_BATCH; i++) {
		c.iov[i] = (struct iovec){ c.bytes[i], HAK_READ_BUF };
		c.mm[i].msg_hdr = (struct msghdr){ .msg_iov = &c.iov[i], .msg_iovlen = 1 };
	}
	batch_begin(e);
	while (!atomic_load(&e->stop)) {
		if (atomic_load(&e->role) == HAK_ACTIVE) {
			active_round(&c);
			continue;
		}
		/* not ours to publish: forget what was begun */
		leave_trap(&c);
		hak_prefer(&c.preferred, false);
		if (c.round || c.listing)
			hak_list_off(&c);
		memset(e->out, 0, sizeof e->out);
		memset(&e->closing, 0, sizeof e->closing);
		if (e->hold)
			hak_hold_clear(e->hold);
		c.pressure = (struct hak_pressure){ 0 };
		atomic_store(&e->pressure, 0);
		atomic_store(&e->held, 0);
		batch_begin(e);
		(void)poll(&p, 1, 1000);
		hak_unwake(e->wake_capture);
	}
	if (c.buckets_fd >= 0)
		close(c.buckets_fd);
	return NULL;
}
