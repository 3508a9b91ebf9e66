/* hak_io.c - the io thread: all datagrams, all timers.
 *
 * One loop over the links' sockets: read what is there (bounded), then do what is
 * due.  Reading comes before judging, so a process that was stopped sees the
 * heartbeats that waited in its sockets before it would accuse anybody.
 *
 * The order of refusals is the order of what they cost: length, address, header,
 * session, then the seal, then the replay window, and only then is anything parsed.
 *
 * Not handled: path MTU discovery (datagrams stay below what any link carries by
 * configuration), more than one peer.
 */
#include "hak_io_int.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>

enum {
	RX_BATCHES = 4,			/* of HAK_RX_BATCH datagrams, before the timers' turn */
	QUIET_MS = 1000,		/* then a stream is idle */
	REKEY_MS = 1000,
	ROUND_MS = 200,			/* there and back, at most, without other offers */
	WISH_MS = 100,			/* a wish not granted by then is told again */
	RESEND_MAX = 1024,		/* datagrams for one NACK */
};

/* What makes this node work, whoever asks: a peer gone wrong must not keep it from its
 * own stream.  In the long run, and at once.  A comparison asks once per round trip; a
 * wish that was refused comes again. */
static const struct limit {
	uint64_t each_ns, burst;
} limits[] = {
	{ 20 * HAK_MS, 64 },		/* listings: 50 a second, half of the thread's time */
	{ HAK_MS / 10, 512 },		/* questions of a round */
	{ HAK_MS / 5, 1024 },		/* connections; some 15 us each */
	{ HAK_MS / 50, 4096 },		/* datagrams once more: some 500 Mbit/s */
	{ HAK_MS, 16 },			/* up to 32 connections to be made here, each */
};

static uint64_t ms(uint32_t n)
{
	return (uint64_t)n * HAK_MS;
}

/* ---- sending --------------------------------------------------------- */

void hak_put_header(uint8_t *out, const struct hak_engine *e, uint8_t kind,
		    uint32_t session, uint64_t seq)
{
	uint8_t h[HAK_HDR_LEN];
	struct hak_wr w = hak_wr_on(h, sizeof h);

	hak_wr_u8(&w, HAK_WIRE_VERSION);
	hak_wr_u8(&w, kind);
	hak_wr_u16(&w, e->cfg.cluster);
	hak_wr_u32(&w, session);
	hak_wr_u64(&w, seq);
	memcpy(out, h, sizeof h);
}

void hak_send_bytes(struct hak_engine *e, unsigned i, const uint8_t *bytes, size_t n)
{
	const struct sockaddr_storage *to = &e->cfg.links[i].peer;
	socklen_t len = to->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
						  : sizeof(struct sockaddr_in);

	/* A link that is down says so here; the other link and the resends make
	 * good for it, so it is counted and nothing else. */
	if (sendto(e->links[i].fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL, (const void *)to, len) < 0)
		hak_count(&e->stats, HAK_STAT_TX_ERRORS);
}

/* The first link that is up; with `other`, the one after it if there is one. */
unsigned hak_best_link(struct hak_engine *e, bool other)
{
	unsigned found[HAK_LINKS_MAX], n = 0;

	for (unsigned i = 0; i < e->cfg.n_links; i++)
		if (atomic_load_explicit(&e->links[i].up, memory_order_relaxed))
			found[n++] = i;
	if (!n)
		return other && e->cfg.n_links > 1 ? 1 : 0;
	return other && n > 1 ? found[1] : found[0];
}

void hak_send_control(struct hak_engine *e, unsigned i, const uint8_t *payload, size_t n)
{
	struct hak_session *s = &e->now;
	uint8_t dg[HAK_DGRAM_MAX];
	struct hak_wr w = hak_wr_on(dg + HAK_HDR_LEN, sizeof dg - HAK_HDR_LEN - HAK_TAG_LEN);
	uint64_t seq;

	if (!s->live || n > HAK_PAYLOAD_MAX)
		return;
	seq = s->control_seq++;
	hak_put_header(dg, e, HAK_KIND_CONTROL, s->peer_id, seq);
	hak_wr_copy(&w, payload, n);
	if (hak_aead_seal(&s->seal, HAK_KIND_CONTROL, seq, dg, HAK_HDR_LEN, dg + HAK_HDR_LEN, n,
			  dg + HAK_HDR_LEN + n, !e->cfg.encrypt && !s->peer.encrypt))
		return;
	hak_count(&e->stats, HAK_STAT_TX_CONTROL);
	hak_send_bytes(e, i, dg, HAK_HDR_LEN + n + HAK_TAG_LEN);
}

void hak_io_send(struct hak_engine *e, const uint8_t *body, const struct hak_wr *w, bool other)
{
	pthread_mutex_lock(&e->tx_lock);
	hak_send_control(e, hak_best_link(e, other), body, hak_wr_len(w));
	pthread_mutex_unlock(&e->tx_lock);
}

/* One small NACK asks for a thousand datagrams: they, not it, are counted.  What it
 * does not get, the peer asks for again. */
static void resend(struct hak_io *io, const struct hak_range *r, int n, uint64_t now)
{
	const struct limit *l = &limits[ASKED_RESEND];
	struct hak_engine *e = io->e;
	unsigned budget = RESEND_MAX, via;

	hak_count(&e->stats, HAK_STAT_NACK_RECEIVED);
	pthread_mutex_lock(&e->tx_lock);
	via = hak_best_link(e, true);	/* the link that lost it gets a rest */
	for (int i = 0; i < n; i++)
		for (unsigned k = 0; k < r[i].count && budget; k++, budget--) {
			const struct hak_sent *d = hak_tx_find(&e->tx, r[i].first + k);

			if (!d)
				continue;
			if (!hak_rate_take(&io->rates[ASKED_RESEND], now, l->each_ns, l->burst)) {
				hak_count(&e->stats, HAK_STAT_NACK_LIMITED);
				goto out;
			}
			hak_send_bytes(e, via, d->bytes, d->len);
			hak_count(&e->stats, HAK_STAT_TX_RESENT);
		}
out:
	pthread_mutex_unlock(&e->tx_lock);
}

/* ---- receiving ------------------------------------------------------- */

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *x = (const void *)a, *y = (const void *)b;

		return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
	}
	const struct sockaddr_in6 *x = (const void *)a, *y = (const void *)b;

	return x->sin6_port == y->sin6_port &&
	       !memcmp(&x->sin6_addr, &y->sin6_addr, sizeof x->sin6_addr);
}

static void on_heartbeat(struct hak_io *io, unsigned i, uint64_t seq, const struct hak_heartbeat *h,
			 uint64_t now)
{
	struct hak_engine *e = io->e;
	struct hak_link *l = &e->links[i];
	bool lost = false;

	hak_count(&e->stats, HAK_STAT_HEARTBEATS_RECEIVED);
	/* One counter runs over all links: an old one says nothing about now. */
	if (seq < l->last_seq)
		return;
	l->last_seq = seq;
	pthread_mutex_lock(&e->tx_lock);
	l->echo_ns = h->sent_ns;
	l->echo_at = now;
	pthread_mutex_unlock(&e->tx_lock);
	if (h->echo_ns > e->echoed_ns)
		e->echoed_ns = h->echo_ns;
	if (h->echo_ns && now > h->echo_ns) {
		int64_t rtt = (int64_t)((now - h->echo_ns) / 1000) - h->hold_us;

		pthread_mutex_lock(&e->q_lock);
		if (rtt >= 0)
			l->info.rtt_us = l->info.rtt_us < 0 ? rtt : (l->info.rtt_us * 7 + rtt) / 8;
		pthread_mutex_unlock(&e->q_lock);
	}
	hak_heard(e, i, now);
	hak_rhythm_heard(&io->rhythm, h->sent_ns, now);

	/* Where its stream stands matters to a passive node only: what an active
	 * one missed, it will get by a full copy when it steps down. */
	if (atomic_load(&e->role) != HAK_PASSIVE)
		return;
	/* One that got lost is made good for here; of an idle stream our heartbeats tell. */
	if (now - io->data_ns < ms(QUIET_MS) || atomic_load(&e->peer_prepares))
		hak_owe_ack(io, now);
	pthread_mutex_lock(&e->rx_lock);
	if (!e->rx_reset) {
		if (h->stream_base > e->rx.next) {
			e->rx_jump = lost = true;	/* done by the apply thread */
			e->jump_next = h->stream_next;
			e->jump_base = h->stream_base;
		} else {
			(void)hak_rx_announce(&e->rx, h->stream_next, h->stream_base, now);
		}
	}
	pthread_mutex_unlock(&e->rx_lock);
	if (lost)
		hak_wake(e->wake_apply);
}

static void on_status(struct hak_engine *e, const struct hak_status *s)
{
	bool changed;

	pthread_mutex_lock(&e->q_lock);
	changed = memcmp(&e->peer.status, s, sizeof *s) != 0;
	e->peer.status = *s;
	if (s->priority)
		e->peer.hello.priority = (uint16_t)(s->priority - 1);
	pthread_mutex_unlock(&e->q_lock);
	atomic_store(&e->peer_mode, s->mode);
	if (s->mode == HAK_ACTIVE && atomic_load(&e->role) == HAK_ACTIVE)
		hak_note_conflict(e);
	else if (s->mode == HAK_PASSIVE && e->echoed_ns > e->lost_ns)	/* said since then */
		atomic_store(&e->alone_ns, 0);
	if (changed) {
		hak_emit(e, HAK_EV_PEER_STATUS, 0, 0, 0, NULL);
		hak_wake(e->wake_apply);	/* an active peer can be asked for a copy */
	}
}

/* Only an active node answers; a question is not kept for when it will be one. */
static bool may_ask(struct hak_io *io, enum asked kind, uint64_t now)
{
	const struct limit *l = &limits[kind];

	if (atomic_load(&io->e->role) != HAK_ACTIVE)
		return false;
	if (hak_rate_take(&io->rates[kind], now, l->each_ns, l->burst))
		return true;
	hak_count(&io->e->stats, HAK_STAT_ASKS_LIMITED);
	return false;
}

/* For the capture thread; a newer question takes the place of an older one, which the
 * peer asks again if it still wants to know.  False: malformed. */
static bool take_mail(struct hak_io *io, const struct hak_record *rec, uint64_t now)
{
	struct hak_engine *e = io->e;
	struct hak_rd body = rec->body;
	struct hak_round r;
	struct hak_nodes n;
	struct hak_marks m;
	bool ok = rec->type == HAK_REC_RECON_ASK    ? !hak_get_nodes(body, &n)
		  : rec->type == HAK_REC_RECON_MARK ? !hak_get_marks(body, &m)
		  : rec->type == HAK_REC_OFFER	    ? hak_offer_valid(body)
						    : !hak_get_round(body, &r);
	size_t len = hak_rd_left(&body);

	if (!ok || len > sizeof e->mail.body)
		return false;
	if (!may_ask(io, rec->type == HAK_REC_RECON_WANT ? ASKED_LISTING
			 : rec->type == HAK_REC_OFFER	 ? ASKED_OFFER : ASKED_ROUND, now))
		return true;
	pthread_mutex_lock(&e->q_lock);
	e->mail.type = rec->type;
	e->mail.len = (uint16_t)len;
	hak_rd_copy(&body, e->mail.body, len);
	pthread_mutex_unlock(&e->q_lock);
	hak_wake(e->wake_capture);
	return true;
}

static void on_verify(struct hak_engine *e, const struct hak_verify *v)
{
	/* It is repeated until its end is heard of, and may be under way. */
	pthread_mutex_lock(&e->q_lock);
	if (v->id != e->table.verified &&
	    (v->id != e->verify[1].v.id || e->verify[1].state == HAK_ANSWERED))
		e->verify[1] = (struct hak_question){ *v, HAK_ASKED };
	pthread_mutex_unlock(&e->q_lock);
	hak_wake(e->wake_apply);
}

static void on_table(struct hak_engine *e, const struct hak_table *t, uint64_t now)
{
	uint32_t before;

	atomic_store(&e->peer_fill, t->fill);
	atomic_store(&e->peer_max, t->max);
	pthread_mutex_lock(&e->q_lock);
	before = e->table.verified;
	e->table = *t;
	e->table_ns = now - (uint64_t)t->age_ms * HAK_MS;
	if (t->verified == e->verify[0].v.id && e->wish.type == HAK_REC_VERIFY)
		e->wish.type = 0;		/* granted; another id is its own operator's */
	pthread_mutex_unlock(&e->q_lock);
	if (t->verified != before)
		hak_emit(e, HAK_EV_VERIFIED, t->verified, 0, 0, NULL);
}

/* One authentic, fresh CONTROL payload.  False: it is not K2K. */
static bool on_control(struct hak_io *io, unsigned link, uint64_t seq, struct hak_rd r, uint64_t now)
{
	struct hak_engine *e = io->e;
	bool newest = seq + 1 == e->now.control_seen.top;
	bool active = atomic_load(&e->role) == HAK_ACTIVE, beats = false;
	uint32_t prepares = 0;
	uint64_t prepare_seq = 0;

	while (hak_rd_left(&r)) {
		struct hak_range ranges[HAK_NACK_MAX];
		struct hak_heartbeat beat;
		struct hak_status status;
		struct hak_verify verify;
		struct hak_table table;
		struct hak_record rec;
		struct hak_ack ack;
		enum hak_err err = hak_wire_get(&r, &rec, NULL);
		int n;

		if (err == HAK_ESKIP) {
			hak_count(&e->stats, HAK_STAT_DROP_RECORD);
			continue;
		}
		if (err)
			return false;
		switch (rec.type) {
		case HAK_REC_HEARTBEAT:
			if (hak_get_heartbeat(rec.body, &beat))
				return false;
			on_heartbeat(io, link, seq, &beat, now);
			beats = true;
			break;
		case HAK_REC_STATUS:
			if (hak_get_status(rec.body, &status))
				return false;
			if (newest)	/* one that was overtaken is history */
				on_status(e, &status);
			break;
		case HAK_REC_ACK:
			if (hak_get_ack(rec.body, &ack))
				return false;
			pthread_mutex_lock(&e->tx_lock);
			err = hak_tx_ack(&e->tx, &ack);
			pthread_mutex_unlock(&e->tx_lock);
			if (err)
				return false;
			if (atomic_load(&e->window_awaited))
				hak_wake(e->wake_capture);
			break;
		case HAK_REC_NACK:
			n = hak_get_nack(rec.body, ranges);
			if (n < 0)
				return false;
			resend(io, ranges, n, now);
			break;
		case HAK_REC_SYNC_WANT:
			if (!may_ask(io, ASKED_LISTING, now))
				break;
			pthread_mutex_lock(&e->q_lock);
			e->sync_asked = rec.sync.generation;
			e->sync_round = rec.sync.round;
			e->sync_sums = rec.sync.sums;
			pthread_mutex_unlock(&e->q_lock);
			hak_wake(e->wake_capture);
			break;
		case HAK_REC_RECON_WANT:
		case HAK_REC_RECON_CLOSE_WANT:
		case HAK_REC_RECON_ASK:
		case HAK_REC_RECON_MARK:
		case HAK_REC_OFFER:
			if (!take_mail(io, &rec, now))
				return false;
			break;
		case HAK_REC_VERIFY:
			if (hak_get_verify(rec.body, &verify))
				return false;
			if (atomic_load(&e->role) == HAK_PASSIVE)
				on_verify(e, &verify);
			break;
		case HAK_REC_PREPARE:
			prepares = rec.prepare.term;
			prepare_seq = rec.prepare.seq;
			break;
		case HAK_REC_LINKS: {
			uint8_t down = hak_rd_u8(&rec.body);

			if (rec.body.bad)
				return false;
			hak_peer_links(e, down, seq);
			break;
		}
		case HAK_REC_ARMED:
			pthread_mutex_lock(&e->q_lock);
			if (newest)
				e->peer_armed = rec.term;
			pthread_cond_broadcast(&e->turned);
			pthread_mutex_unlock(&e->q_lock);
			break;
		case HAK_REC_TABLE:
			if (hak_get_table(rec.body, &table))
				return false;
			if (newest && active)
				on_table(e, &table, now);
			break;
		case HAK_REC_FLOW_WANT: {
			struct hak_ask a = { .flow = rec.flow };

			if (!may_ask(io, ASKED_FLOW, now))
				break;
			pthread_mutex_lock(&e->q_lock);
			(void)hak_asks_put(&e->fetches, &a);	/* full: its next event */
			pthread_mutex_unlock(&e->q_lock);
			hak_wake(e->wake_capture);
			break;
		}
		case HAK_REC_BYE:
			/* a heartbeat that it overtook on the other link is no life */
			for (unsigned i = 0; i < e->cfg.n_links; i++)
				if (e->links[i].last_seq < seq)
					e->links[i].last_seq = seq;
			atomic_store(&e->peer_alive, false);
			e->accused = true;	/* no peer.dead on top of it */
			atomic_store(&e->alone_ns, hak_untold_since(e));
			e->lost_ns = now;
			hak_emit(e, HAK_EV_PEER_BYE, 0, 0, 0, NULL);
			hak_peer_prepares(e, 0, 0);
			return true;
		default:
			hak_count(&e->stats, HAK_STAT_DROP_RECORD);
		}
	}
	if (beats && newest)
		hak_peer_prepares(e, prepares, prepare_seq);
	return true;
}

static void on_data(struct hak_io *io, uint64_t seq, const uint8_t *payload, size_t n, uint64_t now)
{
	struct hak_engine *e = io->e;
	enum hak_err err;
	bool ready = false;

	if (atomic_load(&e->role) != HAK_PASSIVE) {
		hak_count(&e->stats, HAK_STAT_DROP_ROLE);
		return;
	}
	pthread_mutex_lock(&e->rx_lock);
	/* until the apply thread has let go of the old session's slots */
	err = e->rx_reset || e->rx_jump ? HAK_ESPACE : hak_rx_wanted(&e->rx, seq);
	if (!err) {
		uint64_t before = e->rx.next;

		hak_rx_put(&e->rx, seq, payload, n, now);
		ready = e->rx.next != before;
	}
	pthread_mutex_unlock(&e->rx_lock);
	if (err) {
		hak_count(&e->stats, err == HAK_EREPLAY ? HAK_STAT_DROP_DUPLICATE
							: HAK_STAT_DROP_WINDOW);
		return;
	}
	hak_count(&e->stats, HAK_STAT_RX_DATAGRAMS);
	hak_count_n(&e->stats, HAK_STAT_RX_BYTES, n + HAK_HDR_LEN + HAK_TAG_LEN);
	io->unacked++;
	io->data_ns = now;
	hak_owe_ack(io, now);
	if (ready && atomic_exchange(&e->apply_idle, false))
		hak_wake(e->wake_apply);
}

#define REFUSE(reason) do { hak_count(&e->stats, HAK_STAT_DROP_##reason); return; } while (0)

static void on_datagram(struct hak_io *io, unsigned link, uint8_t *bytes, size_t len,
			const struct sockaddr_storage *from, uint64_t now)
{
	struct hak_engine *e = io->e;
	struct hak_session *s;
	struct hak_rd r = hak_rd_on(bytes, len);
	uint8_t version, kind;
	uint16_t cluster;
	uint32_t session;
	uint64_t seq;
	uint8_t *text;
	size_t n;

	if (len < HAK_HDR_LEN + HAK_TAG_LEN)
		REFUSE(SHORT);
	if (len > HAK_DGRAM_MAX)
		REFUSE(LONG);
	if (!same_address(from, &e->cfg.links[link].peer))
		REFUSE(ADDRESS);
	version = hak_rd_u8(&r);
	kind = hak_rd_u8(&r);
	cluster = hak_rd_u16(&r);
	session = hak_rd_u32(&r);
	seq = hak_rd_u64(&r);
	if (version != HAK_WIRE_VERSION)
		REFUSE(VERSION);
	if (kind < HAK_KIND_HELLO || kind > HAK_KIND_CONTROL)
		REFUSE(KIND);
	if (cluster != e->cfg.cluster)
		REFUSE(CLUSTER);
	io->control |= kind != HAK_KIND_DATA;
	if (kind == HAK_KIND_HELLO || kind == HAK_KIND_WELCOME) {
		if (kind == HAK_KIND_HELLO)
			hak_on_hello(e, link, r.pos, hak_rd_left(&r), now);
		else
			hak_on_welcome(e, session, r.pos, hak_rd_left(&r), now);
		return;
	}

	s = e->now.live && session == e->now.local_id ? &e->now :
	    e->next.live && session == e->next.local_id ? &e->next :
	    e->old.live && session == e->old.local_id ? &e->old : NULL;
	if (!s)
		REFUSE(SESSION);
	text = bytes + HAK_HDR_LEN;
	n = len - HAK_HDR_LEN - HAK_TAG_LEN;
	if (hak_aead_open(&s->open, kind, seq, bytes, HAK_HDR_LEN, text, n, text + n,
			  !e->cfg.encrypt && !s->peer.encrypt))
		REFUSE(AUTH);
	if (s == &e->next) {
		if (!s->keep) {
			io->acked = (struct hak_ack){ 0 };
			e->accused = false;
		}
		hak_confirm_session(e);
		s = &e->now;
	}
	s->heard = true;
	if (kind == HAK_KIND_DATA) {
		if (!n)
			REFUSE(MALFORMED);
		on_data(io, seq, text, n, now);
		return;
	}
	/* the numbers go on when keys change: one window for old and new */
	if (!hak_replay_take(&e->now.control_seen, seq))
		REFUSE(REPLAY);
	if (!on_control(io, link, seq, hak_rd_on(text, n), now))
		REFUSE(MALFORMED);
}

static bool read_link(struct hak_io *io, unsigned link)
{
	struct hak_inbox *in = &io->in;
	struct hak_engine *e = io->e;
	uint64_t now;
	int n;

	n = recvmmsg(e->links[link].fd, in->mm, HAK_RX_BATCH, MSG_DONTWAIT, NULL);
	now = hak_now();
	for (int i = 0; i < n; i++) {
		on_datagram(io, link, in->bytes[i], in->mm[i].msg_len, &in->from[i], now);
		in->mm[i].msg_hdr.msg_namelen = sizeof in->from[i];
	}
	return n == HAK_RX_BATCH;
}

bool hak_io_read_some(struct hak_io *io, unsigned link)
{
	for (unsigned i = 0; i < RX_BATCHES; i++)
		if (!read_link(io, link))
			return false;
	return true;
}

/* ---- timers ---------------------------------------------------------- */

static void beat(struct hak_io *io, uint64_t now)
{
	struct hak_engine *e = io->e;

	/* The lease counts from before, the peer from when it hears us.  Sent first: a
	 * stop between the two must not leave a lease for a heartbeat that is not heard. */
	pthread_mutex_lock(&e->tx_lock);
	hak_send_heartbeats(e);
	pthread_mutex_unlock(&e->tx_lock);
	hak_renew_lease(e, now);
	hak_rhythm_sent(&io->rhythm, now);
}

/* How long to wait before asking for what is missing: a little reordering is
 * normal, a round trip must be given to a resend.  ns. */
static void nack_times(struct hak_engine *e, uint64_t *wait, uint64_t *again)
{
	int64_t rtt;

	pthread_mutex_lock(&e->q_lock);
	rtt = e->links[hak_best_link(e, false)].info.rtt_us;
	pthread_mutex_unlock(&e->q_lock);
	if (rtt < 0)
		rtt = 1000;
	*wait = 500000 + (uint64_t)rtt * 250;
	*again = 2 * HAK_MS + (uint64_t)rtt * 2000;
}

static uint64_t nack(struct hak_io *io, uint64_t now)
{
	struct hak_engine *e = io->e;
	struct hak_range ranges[HAK_NACK_MAX];
	uint8_t body[HAK_NACK_MAX * 10 + 8];
	struct hak_wr w = hak_wr_on(body, sizeof body);
	uint64_t wait, again, due = UINT64_MAX;
	unsigned n = 0;

	nack_times(e, &wait, &again);
	pthread_mutex_lock(&e->rx_lock);
	if (!e->rx_reset && !e->rx_jump && atomic_load(&e->role) == HAK_PASSIVE) {
		n = hak_rx_missing(&e->rx, ranges, HAK_NACK_MAX, now, wait, again);
		due = hak_rx_due(&e->rx, wait, again);
	}
	pthread_mutex_unlock(&e->rx_lock);
	if (n) {
		hak_put_nack(&w, ranges, n);
		hak_io_send(e, body, &w, true);
		hak_count(&e->stats, HAK_STAT_NACK_SENT);
	}
	return due;
}

static void ask(struct hak_io *io, uint64_t now)
{
	struct hak_engine *e = io->e;
	uint8_t body[HAK_PAYLOAD_MAX];
	struct hak_wr w = hak_wr_on(body, sizeof body);
	struct hak_ask a;
	uint64_t due;

	pthread_mutex_lock(&e->q_lock);
	if (e->wish.type && now >= e->wish.due_ns) {
		hak_wr_copy(&w, e->wish.body, e->wish.len);
		e->wish.due_ns = now + ms(WISH_MS);
	}
	while (hak_wr_left(&w) > 64 && hak_asks_take(&e->wants, now, &a, &due))
		(void)hak_wire_put_flow(&w, HAK_REC_FLOW_WANT, &a.flow);
	pthread_mutex_unlock(&e->q_lock);
	if (hak_wr_len(&w))
		hak_io_send(e, body, &w, false);
}

/* A session that has just begun is given time to be heard, with the longest way there and
 * back that we want to bear: another offer now would only put a second one in its place. */
static bool lonely(const struct hak_io *io, uint64_t now)
{
	struct hak_engine *e = io->e;
	uint64_t began = e->now.began_ns + ms(ROUND_MS);
	uint64_t heard = e->now.heard ? atomic_load(&e->peer_heard_ns) : began;

	return now > heard + 2 * ms(e->cfg.heartbeat_ms);
}

static uint64_t timers(struct hak_io *io, uint64_t now)
{
	struct hak_engine *e = io->e;
	uint64_t due, next, wish_due;

	hak_take_keys(e);
	hak_retire_keys(e, now);
	if (now >= io->rhythm.due)
		beat(io, now);
	next = io->rhythm.due;
	if (e->initiator && lonely(io, now)) {
		if (now >= io->hello_due) {
			hak_offer_session(e, hak_keys_offered(e, now), now);
			io->hello_due = now + ms(e->cfg.heartbeat_ms);
		}
		if (io->hello_due < next)
			next = io->hello_due;
	} else if (hak_rekey_due(e)) {
		/* Not in a hurry: the peer may not know the key for an hour. */
		if (now >= io->rekey_due) {
			hak_offer_session(e, true, now);
			io->rekey_due = now + ms(REKEY_MS);
		}
		if (io->rekey_due < next)
			next = io->rekey_due;
	}
	if (e->now.live) {
		due = nack(io, now);
		if (due < next)
			next = due;
		if (io->ack_due && now >= io->ack_due)
			hak_acknowledge(io, now);
		if (io->ack_due && io->ack_due < next)
			next = io->ack_due;
		ask(io, now);
		pthread_mutex_lock(&e->q_lock);
		wish_due = e->wish.type ? e->wish.due_ns : UINT64_MAX;
		pthread_mutex_unlock(&e->q_lock);
		if (wish_due < next)
			next = wish_due;
	}
	due = hak_judge(e, now);
	if (due < next)
		next = due;
	/* a wish that came in meanwhile is due, and was not due long ago */
	return next < now ? now : next;
}

/* The time, at a point that was meant to be reached at `meant`.  At each: a stop may
 * come anywhere, and whoever was stopped must know it before it judges. */
static uint64_t on_time(struct hak_engine *e, uint64_t meant)
{
	uint64_t now = hak_now();

	hak_note_slip(e, meant, now);
	return now;
}

void *hak_io_main(void *engine)
{
	struct hak_engine *e = engine;
	struct hak_io io;			/* 50 KB, mostly buffers */
	struct sched_param rt = { .sched_priority = 10 };
	struct pollfd fds[HAK_LINKS_MAX + 1];
	uint64_t now = hak_now(), next = now;

	/* where allowed; without it a busy machine may delay heartbeats */
	(void)pthread_setschedparam(pthread_self(), SCHED_RR, &rt);
	memset(&io, 0, sizeof io);
	io.e = e;
	for (unsigned i = 0; i < HAK_RX_BATCH; i++) {
		io.in.iov[i] = (struct iovec){ io.in.bytes[i], sizeof io.in.bytes[i] };
		io.in.mm[i].msg_hdr = (struct msghdr){
			.msg_name = &io.in.from[i], .msg_namelen = sizeof io.in.from[i],
			.msg_iov = &io.in.iov[i], .msg_iovlen = 1,
		};
	}
	hak_rhythm_begin(&io.rhythm, ms(e->cfg.heartbeat_ms), !e->initiator, now);
	fds[0] = (struct pollfd){ .fd = e->wake_io, .events = POLLIN };
	for (unsigned i = 0; i < e->cfg.n_links; i++)
		fds[i + 1] = (struct pollfd){ .fd = e->links[i].fd, .events = POLLIN };
	pthread_mutex_lock(&e->io_lock);
	e->io_self = &io;

	while (!atomic_load(&e->stop)) {
		uint64_t wait = next > now ? next - now : 0;
		struct timespec t = { .tv_sec = (time_t)(wait / 1000000000u),
				      .tv_nsec = (long)(wait % 1000000000u) };
		bool lent = atomic_load(&e->links_lent) && !atomic_load(&e->links_deep);

		pthread_mutex_unlock(&e->io_lock);
		(void)ppoll(fds, lent ? 1 : e->cfg.n_links + 1, &t, NULL);
		pthread_mutex_lock(&e->io_lock);
		now = on_time(e, next);
		if (fds[0].revents)
			hak_unwake(e->wake_io);
		for (unsigned i = 0; i < e->cfg.n_links; i++)
			if ((lent || fds[i + 1].revents) && hak_io_read_some(&io, i) && lent)
				atomic_store(&e->links_deep, true);
		now = on_time(e, now);
		next = timers(&io, now);
		now = on_time(e, now);
	}
	e->io_self = NULL;
	pthread_mutex_unlock(&e->io_lock);
	return NULL;
}
