/* hak_capture.c - the capture thread: this kernel's events become the stream.
 *
 * Active only.  Reads conntrack events in bulk, asks the policy, encodes each into
 * the open payload and sends that as soon as no further event waits, or when it is
 * full.  While events come fast it naps between reads so that they queue up: being
 * woken for each costs more than reading them.
 *
 * A full copy (the peer asked with SYNC_WANT) is a listing of the table sent as
 * SYNC records in the same stream.  The kernel fills a chunk of the listing while
 * the one before it is being read, so a chunk may be older than events already
 * sent.  Therefore every event since then leaves its mark in `touched`; a listed
 * entry that hits a mark is read anew, one by one, and so is current.  Together
 * with in-order delivery the copy needs no lock and no memory of entries.
 *
 * Helpers change sequence adjustments without any event, and just after they made
 * an expectation: so an expectation's master is read at once and once more later.
 *
 * Not handled: conntrack templates (never confirmed, never listed); the secmark
 * (the kernel ignores it when entries are made).
 */
#include "hak_engine_int.h"
#include "hak_siphash.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <linux/netfilter/nf_conntrack_common.h>

enum {
	BATCH = 64,
	EVENT_BUF = 4096,
	NAP_RATE = 20000,		/* events per second above which we nap */
	NAP_NS = 1 * HAK_MS,
	POKE_NS = 3 * HAK_MS,		/* unacknowledged and idle: say where we are */
	SEQADJ_LATER_NS = 20 * HAK_MS,
	GENERATIONS = 8,		/* of masters; H.323 has four */
};

enum listing { LIST_NONE, LIST_FLOWS, LIST_EXPECTS };

enum { HAK_EARLY = 16 };	/* the youngest win */

struct capture {
	struct hak_engine *e;
	uint64_t rate_from, rate_events;
	bool fast;			/* events come faster than NAP_RATE */
	uint64_t poked;			/* stream sequence we last poked for */
	enum listing listing;
	uint32_t generation;
	uint64_t list_began, list_sent, list_next;	/* ns, entries, ns */
	unsigned list_buckets;
	bool list_disturbed;		/* the hash table was resized under it */
	struct hak_ctmsg msg;
	struct hak_ctmsg early[HAK_EARLY];	/* expectations told before their masters */
	unsigned early_at;
	struct mmsghdr mm[BATCH];
	struct iovec iov[BATCH];
	uint8_t bytes[BATCH][EVENT_BUF];
	uint8_t chunk[HAK_NL_BUF];
};

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

/* Seal the open payload and send it.  Without a session, or once we have stepped down,
 * it is thrown away: whoever listens to us next begins with a full copy. */
static void flush(struct hak_engine *e)
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
		flush(e); \
		err_ = put(&(e)->batch, __VA_ARGS__); \
	} \
	if (err_) \
		hak_count(&(e)->stats, HAK_STAT_EVENTS_BAD); \
	else \
		(e)->batch_records++; \
	} while (0)

static void put_flow(struct hak_engine *e, uint8_t type, const struct hak_flow *f)
{
	PUT(e, hak_wire_put_flow, type, f);
}

static void put_expect(struct hak_engine *e, uint8_t type, const struct hak_expect *x)
{
	PUT(e, hak_wire_put_expect, type, x);
}

static void put_raw(struct hak_engine *e, uint8_t type, const struct hak_wr *body)
{
	PUT(e, hak_wire_put_raw, type, body->base, hak_wr_len(body));
}

static void put_numbers(struct hak_engine *e, uint8_t type, uint32_t a, bool has_b, uint64_t b)
{
	uint8_t bytes[12];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);

	hak_wr_u32(&w, a);
	if (has_b)
		hak_wr_u64(&w, b);
	put_raw(e, type, &w);
}

/* ---- what was touched since the listing's chunk was made ------------- */

static void touch(struct hak_engine *e, const struct hak_flow *f)
{
	uint64_t h = hak_flow_hash(f, e->hash_key) % HAK_TOUCHED_BITS;

	e->touched[h / 8] |= (uint8_t)(1u << (h % 8));
}

static bool was_touched(const struct hak_engine *e, const struct hak_flow *f)
{
	uint64_t h = hak_flow_hash(f, e->hash_key) % HAK_TOUCHED_BITS;

	return e->touched[h / 8] >> (h % 8) & 1;
}

/* ---- reading one entry ----------------------------------------------- */

static bool wanted(const struct hak_engine *e, const struct hak_flow *f)
{
	return hak_policy_wants(&e->cfg.policy, hak_engine_locals(e), f);
}

/* False: the kernel has no such entry (any more). */
static bool fetch(struct hak_engine *e, const struct hak_flow *id, struct hak_flow *out)
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

static void master_id(const struct hak_flow *child, struct hak_flow *id)
{
	memset(id, 0, sizeof *id);
	id->l3 = child->l3;
	id->zone = child->zone;
	id->zone_dir = child->zone_dir;
	id->l4proto = child->master_l4proto;
	id->l4kind = child->master_l4kind;
	id->orig = child->master;
}

static struct hak_flow expect_master(const struct hak_expect *x)
{
	return (struct hak_flow){
		.l3 = x->l3, .zone = x->zone, .zone_dir = x->zone_dir,
		.l4proto = x->master_l4proto, .l4kind = x->master_l4kind, .orig = x->master,
	};
}

static void later(struct hak_engine *e, const struct hak_flow *id, uint64_t due)
{
	struct hak_ask a = { .flow = *id, .due_ns = due, .seqadj_only = true };

	pthread_mutex_lock(&e->q_lock);
	(void)hak_asks_put(&e->fetches, &a);	/* full: its next event will do */
	pthread_mutex_unlock(&e->q_lock);
}

/* Send what a helper did to a connection's sequence numbers, if anything. */
static void send_seqadj(struct hak_engine *e, const struct hak_flow *id)
{
	struct hak_flow f;

	if (!fetch(e, id, &f) || !(f.have & HAK_HAS_SEQADJ) || !wanted(e, &f))
		return;
	f.have &= HAK_HAS_REPLY | HAK_HAS_SEQADJ;
	put_flow(e, HAK_REC_FLOW_UPDATE, &f);
}

/* An entry found by listing or asked for: all of it, its masters before it. */
static void send_whole(struct hak_engine *e, struct hak_flow *f, unsigned generations)
{
	if (f->have & HAK_HAS_MASTER) {
		struct hak_flow id, m;

		master_id(f, &id);
		if (!generations || !fetch(e, &id, &m))
			f->have &= ~(uint32_t)HAK_HAS_MASTER;	/* it went first */
		else if (wanted(e, &m))
			send_whole(e, &m, generations - 1);
	}
	put_flow(e, HAK_REC_FLOW_SYNC, f);
}

/* Whether an expectation is to be told, which is its master's affair: only the whole of
 * it has a mark, and where it ends behind a DNAT.  Its sequence adjustments, which
 * change without an event, go before. */
static bool send_master_of(struct hak_engine *e, const struct hak_flow *id)
{
	struct hak_flow f;

	/* Gone, and with it what was expected; or in a zone, which the kernel does not
	 * tell of expectations: there it could not be found on the other side either. */
	if (!fetch(e, id, &f) || !wanted(e, &f))
		return false;
	/* All of it: when a first packet announces (SIP, TFTP), its NEW is yet to come. */
	send_whole(e, &f, GENERATIONS);
	return true;
}

static void serve_fetches(struct capture *c, uint64_t *next)
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
		else if (fetch(e, &a.flow, &f) && wanted(e, &f))
			send_whole(e, &f, GENERATIONS);
	}
}

/* ---- events ---------------------------------------------------------- */

/* What was expected of a connection before it was in the table. */
static void put_early(struct capture *c, const struct hak_flow *f)
{
	for (unsigned i = 0; i < (unsigned)HAK_EARLY; i++) {
		struct hak_ctmsg *m = &c->early[i];
		struct hak_flow id;

		if (m->what != HAK_CT_EXP_NEW)
			continue;
		id = expect_master(&m->expect);
		if (id.l3 != f->l3 || id.l4proto != f->l4proto || id.zone != f->zone ||
		    !hak_tuple_equal(&id.orig, &f->orig))
			continue;
		put_expect(c->e, HAK_REC_EXP_NEW, &m->expect);
		later(c->e, &id, hak_now() + SEQADJ_LATER_NS);
		m->what = 0;
	}
}

static void on_flow(struct capture *c, struct hak_ctmsg *m)
{
	struct hak_engine *e = c->e;
	struct hak_flow *f = &m->flow;

	if (c->listing)
		touch(e, f);
	if (!wanted(e, f)) {
		hak_count(&e->stats, HAK_STAT_EVENTS_EXCLUDED);
		/* Perhaps its mark opted out just now: it must not stay over there. */
		if (m->what == HAK_CT_UPDATE &&
		    hak_policy_concerns(&e->cfg.policy, hak_engine_locals(e), f))
			put_flow(e, HAK_REC_FLOW_DESTROY, f);
		return;
	}
	if (m->what == HAK_CT_DESTROY) {
		put_flow(e, HAK_REC_FLOW_DESTROY, f);
		return;
	}
	put_flow(e, m->what == HAK_CT_NEW ? HAK_REC_FLOW_NEW : HAK_REC_FLOW_UPDATE, f);
	if (m->what == HAK_CT_NEW && f->have & HAK_HAS_HELPER)
		put_early(c, f);
	if (f->have & HAK_HAS_SEQADJ)
		return;
	if (f->have & HAK_HAS_STATUS && f->status & IPS_SEQ_ADJUST)
		send_seqadj(e, f);
	if (m->what == HAK_CT_NEW && f->have & HAK_HAS_MASTER) {
		struct hak_flow id;

		master_id(f, &id);
		send_seqadj(e, &id);
	}
}

static void on_expect(struct capture *c, struct hak_ctmsg *m)
{
	struct hak_engine *e = c->e;
	struct hak_expect *x = &m->expect;
	struct hak_flow id = expect_master(x);

	if (!send_master_of(e, &id)) {
		if (m->what == HAK_CT_EXP_NEW)
			c->early[c->early_at++ % (unsigned)HAK_EARLY] = *m;
		hak_count(&e->stats, HAK_STAT_EVENTS_EXCLUDED);
		return;
	}
	put_expect(e, m->what == HAK_CT_EXP_NEW ? HAK_REC_EXP_NEW : HAK_REC_EXP_DESTROY, x);
	later(e, &id, hak_now() + SEQADJ_LATER_NS);
}

static void on_event_bytes(struct capture *c, const uint8_t *bytes, size_t n)
{
	struct hak_engine *e = c->e;
	struct hak_rd r = hak_rd_on(bytes, n);

	while (hak_rd_left(&r)) {
		enum hak_err err = hak_ct_next(&r, &c->msg);

		if (err == HAK_ESKIP)
			continue;
		hak_count(&e->stats, HAK_STAT_EVENTS);
		if (err) {
			hak_count(&e->stats, HAK_STAT_EVENTS_BAD);
			continue;
		}
		switch (c->msg.what) {
		case HAK_CT_NEW:
		case HAK_CT_UPDATE:
		case HAK_CT_DESTROY:
			on_flow(c, &c->msg);
			break;
		case HAK_CT_EXP_NEW:
		case HAK_CT_EXP_DESTROY:
			on_expect(c, &c->msg);
			break;
		}
	}
}

/* Read what waits, at most `rounds` times a batch.  True: there may be more. */
static bool read_events(struct capture *c, unsigned rounds)
{
	struct hak_engine *e = c->e;
	bool idle = !atomic_load(&e->session_up);

	while (rounds--) {
		int n;

		for (unsigned i = 0; i < BATCH; i++) {
			c->iov[i] = (struct iovec){ c->bytes[i], EVENT_BUF };
			c->mm[i].msg_hdr = (struct msghdr){ .msg_iov = &c->iov[i], .msg_iovlen = 1 };
		}
		n = recvmmsg(e->events_nl.fd, c->mm, BATCH, MSG_DONTWAIT, NULL);
		if (n < 0 && errno == ENOBUFS) {
			/* Events were lost; only a full copy makes the tables equal
			 * again.  At once: more loss must not push it back. */
			hak_count(&e->stats, HAK_STAT_OVERRUNS);
			hak_emit(e, HAK_EV_OVERRUN, 0, 0, 0, NULL);
			put_numbers(e, HAK_REC_SYNC_LOST, 0, false, 0);
			continue;
		}
		if (n <= 0)
			return false;
		c->rate_events += (unsigned)n;
		if (idle) {
			hak_count_n(&e->stats, HAK_STAT_EVENTS, (unsigned)n);
			hak_count_n(&e->stats, HAK_STAT_EVENTS_UNSENT, (unsigned)n);
			continue;
		}
		for (int i = 0; i < n; i++)
			on_event_bytes(c, c->bytes[i], c->mm[i].msg_len);
		if (n < BATCH)
			return false;
	}
	return true;
}

static void measure(struct capture *c, uint64_t now)
{
	uint64_t span = now - c->rate_from;

	if (span < 10 * HAK_MS)
		return;
	c->fast = c->rate_events * 1000000000u / span > NAP_RATE;
	c->rate_from = now;
	c->rate_events = 0;
}

/* ---- the full copy --------------------------------------------------- */

static bool list_request(struct capture *c)
{
	struct hak_engine *e = c->e;
	uint8_t buf[256];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	uint32_t seq = ++e->list_nl.seq;

	/* A listing that was cut short leaves its socket busy: a new one. */
	hak_nl_close(&e->list_nl);
	if (hak_nl_open(&e->list_nl, HAK_NL_CALL_BUF))
		return false;
	if (c->listing == LIST_FLOWS ? hak_ct_put_list(&w, seq) : hak_exp_put_list(&w, seq))
		return false;
	memset(e->touched, 0, sizeof e->touched);
	c->list_buckets = hak_nl_buckets();
	c->list_disturbed = false;
	return !hak_nl_send(&e->list_nl, &w);
}

/* The peer must not wait for an end that will not come: it asks anew. */
static void list_abort(struct capture *c)
{
	c->listing = LIST_NONE;
	put_numbers(c->e, HAK_REC_SYNC_LOST, c->generation, false, 0);
}

static void list_begin(struct capture *c, uint32_t generation)
{
	c->listing = LIST_FLOWS;
	c->generation = generation;
	c->list_began = hak_now();
	c->list_sent = 0;
	c->list_next = 0;
	put_numbers(c->e, HAK_REC_SYNC_BEGIN, generation, false, 0);
	if (!list_request(c))
		list_abort(c);
}

static void list_done(struct capture *c)
{
	struct hak_engine *e = c->e;

	if (c->listing == LIST_FLOWS) {
		/* What a resize hid, the peer would take for gone: list again.  What
		 * is sent twice does no harm. */
		if (!c->list_disturbed)
			c->listing = LIST_EXPECTS;
		if (!list_request(c))
			list_abort(c);
		return;
	}
	c->listing = LIST_NONE;
	put_numbers(e, HAK_REC_SYNC_END, c->generation, true, c->list_sent);
	flush(e);
	hak_count(&e->stats, HAK_STAT_SYNCS_SENT);
	hak_count_n(&e->stats, HAK_STAT_SYNC_ENTRIES_SENT, c->list_sent);
	hak_emit(e, HAK_EV_SYNC_SENT, c->list_sent, 0, hak_now() - c->list_began, NULL);
}

/* One chunk (some 130 entries); events come first, so it is called when none wait. */
static void list_chunk(struct capture *c)
{
	struct hak_engine *e = c->e;
	uint64_t began = hak_now();
	struct hak_rd r;
	size_t n;

	if (hak_nl_recv(&e->list_nl, c->chunk, sizeof c->chunk, 0, &n)) {
		list_abort(c);
		return;
	}
	/* at each chunk: there and back again would look like nothing at the end */
	c->list_disturbed |= hak_nl_buckets() != c->list_buckets;
	r = hak_rd_on(c->chunk, n);
	while (hak_rd_left(&r)) {
		struct hak_ctmsg *m = &c->msg;
		enum hak_err err = hak_ct_next(&r, m);

		if (err) {
			if (err != HAK_ESKIP)
				hak_count(&e->stats, HAK_STAT_EVENTS_BAD);
			continue;
		}
		if (m->what == HAK_CT_DONE) {
			list_done(c);
			return;
		}
		if (m->what == HAK_CT_ERROR) {
			list_abort(c);
			return;
		}
		if (m->what == HAK_CT_EXP_NEW) {
			struct hak_flow id = expect_master(&m->expect);

			if (send_master_of(e, &id))
				put_expect(e, HAK_REC_EXP_NEW, &m->expect);
			continue;
		}
		if (was_touched(e, &m->flow)) {
			struct hak_flow f;

			if (!fetch(e, &m->flow, &f))
				continue;
			m->flow = f;
		}
		if (!wanted(e, &m->flow))
			continue;
		send_whole(e, &m->flow, GENERATIONS);
		c->list_sent++;
	}
	memset(e->touched, 0, sizeof e->touched);
	/* half of the time at most, whatever the table's size */
	c->list_next = hak_now() + (hak_now() - began);
}

/* ---- the loop -------------------------------------------------------- */

static void drain_for_handover(struct capture *c)
{
	struct hak_engine *e = c->e;

	while (read_events(c, 1000))
		;
	c->listing = LIST_NONE;		/* the next active will be asked anew */
	put_numbers(e, HAK_REC_HANDOVER, e->drain_term, false, 0);
	flush(e);
	pthread_mutex_lock(&e->tx_lock);
	uint64_t seq = e->tx.next;
	pthread_mutex_unlock(&e->tx_lock);
	pthread_mutex_lock(&e->q_lock);
	e->drain_asked = false;
	e->drained = true;
	e->drained_seq = seq;
	pthread_cond_broadcast(&e->turned);
	pthread_mutex_unlock(&e->q_lock);
}

/* The last datagram of a burst has no successor that would show its loss. */
static bool poke(struct capture *c, uint64_t now)
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

static bool room_for_listing(struct hak_engine *e)
{
	bool room;

	pthread_mutex_lock(&e->tx_lock);
	room = e->tx.next - e->tx.applied < HAK_WINDOW / 4;
	pthread_mutex_unlock(&e->tx_lock);
	return room;
}

static void active_round(struct capture *c)
{
	struct hak_engine *e = c->e;
	uint64_t fetch_due = UINT64_MAX, now, wait = 1000u * (uint64_t)HAK_MS;
	struct pollfd p[2] = {
		{ .fd = e->events_nl.fd, .events = POLLIN },
		{ .fd = e->wake_capture, .events = POLLIN },
	};
	uint32_t asked;
	bool drain, more;

	more = read_events(c, 16);
	serve_fetches(c, &fetch_due);

	pthread_mutex_lock(&e->q_lock);
	asked = e->sync_asked;
	e->sync_asked = 0;
	drain = e->drain_asked;
	pthread_mutex_unlock(&e->q_lock);
	if (drain) {
		drain_for_handover(c);
		return;
	}
	if (asked && !(c->listing && asked == c->generation))
		list_begin(c, asked);
	now = hak_now();
	if (c->listing && !more && now >= c->list_next && room_for_listing(e))
		list_chunk(c);
	flush(e);

	now = hak_now();
	measure(c, now);
	if (more)
		return;
	if (c->fast) {
		struct timespec nap = { .tv_nsec = NAP_NS };

		nanosleep(&nap, NULL);
		return;
	}
	if (poke(c, now))
		wait = POKE_NS;
	if (c->listing) {
		uint64_t until = c->list_next > now ? c->list_next - now : 0;

		if (!room_for_listing(e) && until < HAK_MS)
			until = HAK_MS;
		if (until < wait)
			wait = until;
	}
	if (fetch_due != UINT64_MAX) {
		uint64_t until = fetch_due > now ? fetch_due - now : 0;

		if (until < wait)
			wait = until;
	}
	struct timespec t = { .tv_sec = (time_t)(wait / 1000000000u),
			      .tv_nsec = (long)(wait % 1000000000u) };
	(void)ppoll(p, 2, &t, NULL);
	if (p[1].revents)
		hak_unwake(e->wake_capture);
}

void *hak_capture_main(void *engine)
{
	struct hak_engine *e = engine;
	struct capture c;		/* 300 KB, mostly buffers */
	struct pollfd p = { .fd = e->wake_capture, .events = POLLIN };

	memset(&c, 0, sizeof c);
	c.e = e;
	batch_begin(e);
	while (!atomic_load(&e->stop)) {
		if (atomic_load(&e->role) == HAK_ACTIVE) {
			active_round(&c);
			continue;
		}
		/* not ours to publish: forget what was begun */
		c.listing = LIST_NONE;
		batch_begin(e);
		(void)poll(&p, 1, 1000);
		hak_unwake(e->wake_capture);
	}
	return NULL;
}
