/* hak_list.c - the active side of the comparison, and of copies.
 *
 * Two uses of a listing of this kernel's table:
 *
 *   to sum it up   into slots (hak_digest.h), as the peer does with its own at the
 *                  same time; then the peer asks for sums, from the top down
 *   to send it     whole, or the slots that the peer marked as unequal, as SYNC
 *                  records in the same stream as the events
 *
 * The kernel fills a chunk of the listing while the one before it is being read, so
 * a chunk may be older than events already sent.  Therefore every event since then
 * leaves its mark in `touched`; an entry about to be sent that hits a mark is read
 * anew, one by one, and so is current.  Together with in-order delivery a copy needs
 * no lock and no memory of entries.  For sums, such slots are dirty.
 *
 * Listings are unfiltered.  Between two chunks the events have their turn, and the
 * kernel its packets, which it does not look at while it fills a chunk: so chunks are
 * small here, where packets are forwarded.  Nothing else holds a listing up.
 */
#include "hak_capture_int.h"
#include "hak_siphash.h"

#include <errno.h>

enum {
	DIFFERENT = 8,			/* a table this many times larger: copy it all */
	FEW = 64,
	DRAIN_ROUNDS = 1000,
	LOOK_SCAN = 2048, LOOK_FETCH = 32,	/* some 100 us each */
};

/* Longer than a passive node takes for its own part of a round. */
#define KEEP_NS (30000 * (uint64_t)HAK_MS)

/* ---- what was touched since the listing's chunk was made ------------- */

void hak_list_touch(struct hak_engine *e, const struct hak_flow *f)
{
	uint64_t h = hak_flow_hash(f, e->hash_key) % HAK_TOUCHED_BITS;

	e->touched[h / 8] |= (uint8_t)(1u << (h % 8));
}

static bool was_touched(const struct hak_engine *e, const struct hak_flow *f)
{
	uint64_t h = hak_flow_hash(f, e->hash_key) % HAK_TOUCHED_BITS;

	return e->touched[h / 8] >> (h % 8) & 1;
}

/* ---- listings -------------------------------------------------------- */

static bool expects(enum hak_listing l)
{
	return l == HAK_LIST_EXPECTS || l == HAK_LIST_DIGEST_EXPECTS;
}

static bool summing(const struct hak_capture *c)
{
	return c->listing == HAK_LIST_DIGEST || c->listing == HAK_LIST_DIGEST_EXPECTS;
}

/* Some slots, and we know who is in them. */
static const uint64_t *few(const struct hak_capture *c)
{
	const struct hak_engine *e = c->e;
	const struct hak_digest *d = &e->tx_digest;

	if (!e->tx_roll.whole)
		return NULL;
	if (c->listing == HAK_LIST_DIGEST)
		return c->round % HAK_ROUND_STEPS && hak_digest_scope(d) <= HAK_ROLL_SLOTS ?
		       d->scope : NULL;
	return c->listing == HAK_LIST_FLOWS && c->scoped && hak_digest_marks(d) <= HAK_ROLL_SLOTS ?
	       d->marked : NULL;
}

static bool list_request(struct hak_capture *c)
{
	struct hak_engine *e = c->e;
	uint8_t buf[256];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	uint32_t seq = ++e->list_nl.seq;

	memset(e->touched, 0, sizeof e->touched);
	c->list_disturbed = false;
	c->some = few(c);
	if (c->some) {
		hak_roll_look(&e->tx_roll);
		return true;
	}
	if (c->listing == HAK_LIST_DIGEST && c->round % HAK_ROUND_STEPS == 0)
		hak_roll_begin(&e->tx_roll);
	/* A listing that was cut short leaves its socket busy: a new one. */
	hak_nl_close(&e->list_nl);
	if (hak_nl_open(&e->list_nl, HAK_NL_CALL_BUF))
		return false;
	if (expects(c->listing) ? hak_exp_put_list(&w, seq) : hak_ct_put_list(&w, seq))
		return false;
	c->list_buckets = hak_nl_buckets(&c->buckets_fd);
	return !hak_nl_send(&e->list_nl, &w);
}

void hak_list_off(struct hak_capture *c)
{
	c->listing = HAK_LIST_NONE;
	c->round = 0;
	c->closed = false;
	hak_digest_rest(&c->e->tx_digest);
	hak_roll_rest(&c->e->tx_roll);
}

/* The peer must not wait for an end that will not come: it asks anew. */
static void list_abort(struct hak_capture *c)
{
	bool copy = !summing(c);

	hak_list_off(c);
	hak_say_numbers(c->e, HAK_REC_SYNC_LOST, copy ? c->generation : 0, false, 0);
}

static void list_start(struct hak_capture *c, enum hak_listing what)
{
	c->listing = what;
	c->list_began = hak_now();
	c->list_sent = 0;
	if (!list_request(c))
		list_abort(c);
}

/* What was agreed upon in an earlier session is void. */
static void meet(struct hak_capture *c)
{
	uint64_t session = atomic_load(&c->e->sessions);

	if (session == c->session)
		return;
	hak_list_off(c);
	c->session = session;
	c->generation = 0;
	c->offer = 0;
}

static void say_round(struct hak_capture *c, uint8_t type, uint32_t entries, uint8_t bits)
{
	struct hak_engine *e = c->e;
	struct hak_round r = {
		.round = c->round, .entries = entries, .bits = bits,
		.brief = type == HAK_REC_RECON_BEGIN && bits && e->tx_digest.brief,
	};

	if (hak_wr_left(&e->batch) < 16)
		hak_say_flush(e);
	hak_put_round(&e->batch, type, &r);
	e->batch_records++;
}

static void sums_begin(struct hak_capture *c, uint32_t round, uint64_t entries)
{
	struct hak_engine *e = c->e;

	hak_session_sums(e, &e->tx_digest, hak_digest_bits(entries), round);
	c->round = round;
	c->closed = false;
	c->chunks = 0;
}

static uint64_t own_entries(const struct hak_capture *c)
{
	int64_t n = hak_nl_table_count(&c->e->fetch_nl, NULL);

	return n > 0 ? (uint64_t)n : 0;
}

/* A request that was overtaken, by the other link, by what came after its copy would cut
 * that short: so no generation is listed twice. */
void hak_list_begin(struct hak_capture *c, uint32_t generation, uint32_t round, uint32_t sums)
{
	uint8_t bytes[16];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_engine *e = c->e;

	meet(c);
	if (hak_now() < atomic_load(&e->trapped_until_ns) || generation == c->generation ||
	    (round && (round != c->round || !c->closed)))
		return;			/* of a comparison that is no more */
	c->generation = generation;
	c->scoped = round != 0;
	hak_wr_u32(&w, generation);
	if (!c->scoped && sums && sums % HAK_ROUND_STEPS == 0 && sums != c->round) {
		sums_begin(c, sums, own_entries(c));
		e->tx_digest.copying = e->tx_digest.brief = true;
		hak_roll_begin(&e->tx_roll);	/* each that is sent enters itself */
		hak_wr_u32(&w, sums);
		hak_wr_u8(&w, (uint8_t)e->tx_digest.bits);
	}
	hak_say_raw(e, HAK_REC_SYNC_BEGIN, &w);
	list_start(c, HAK_LIST_FLOWS);
}

static void list_done(struct hak_capture *c)
{
	struct hak_engine *e = c->e;

	/* What a resize hid, the peer would take for gone: list again.  What is sent
	 * twice does no harm; what is summed up twice would. */
	if (c->list_disturbed) {
		if (summing(c)) {
			hak_digest_restart(&e->tx_digest);
			c->listing = HAK_LIST_DIGEST;
			c->list_sent = 0;
		}
		if (!list_request(c))
			list_abort(c);
		return;
	}
	if (!expects(c->listing)) {
		c->listing++;
		if (!list_request(c))
			list_abort(c);
		return;
	}
	if (summing(c)) {
		c->listing = HAK_LIST_NONE;
		say_round(c, HAK_REC_RECON_LISTED, (uint32_t)c->list_sent, 0);
		hak_say_flush(e);
		return;
	}
	c->listing = HAK_LIST_NONE;
	hak_say_numbers(e, HAK_REC_SYNC_END, c->generation, true, c->list_sent);
	hak_say_flush(e);
	hak_count(&e->stats, HAK_STAT_SYNCS_SENT);
	hak_count_n(&e->stats, HAK_STAT_SYNC_ENTRIES_SENT, c->list_sent);
	if (!c->scoped)
		hak_emit(e, HAK_EV_SYNC_SENT, c->list_sent, 0, hak_now() - c->list_began, NULL);
}

static void sum_flow(struct hak_capture *c, struct hak_flow *f)
{
	struct hak_engine *e = c->e;
	struct hak_flow id, master;

	if (!hak_wanted(e, f) || hak_held(e, f))
		return;
	if (f->have & HAK_HAS_MASTER) {
		hak_master_id(f, &id);
		if (!hak_fetch(e, &id, &master))
			f->have &= ~(uint32_t)HAK_HAS_MASTER;	/* it went first */
	}
	hak_digest_add_flow(&e->tx_digest, f);
	c->list_sent++;
}

static void sum_expect(struct hak_capture *c, const struct hak_expect *x)
{
	struct hak_engine *e = c->e;
	struct hak_flow id = hak_expect_master(x), master;

	if (hak_fetch(e, &id, &master) && hak_wanted(e, &master))
		hak_digest_add_expect(&e->tx_digest, x);
}

static void send_flow(struct hak_capture *c, struct hak_flow *f)
{
	struct hak_engine *e = c->e;
	struct hak_flow now;

	if (c->scoped && !hak_bit(e->tx_digest.marked, hak_digest_slot(&e->tx_digest, f)))
		return;
	if (was_touched(e, f)) {
		if (!hak_fetch(e, f, &now))
			return;
		*f = now;
	}
	if (!hak_wanted(e, f) || hak_held(e, f))
		return;
	hak_send_whole(e, f, HAK_MASTERS);
	c->list_sent++;
}

static void send_expect(struct hak_capture *c, const struct hak_expect *x)
{
	struct hak_engine *e = c->e;
	struct hak_flow id = hak_expect_master(x);

	if (c->scoped && !hak_bit(e->tx_digest.marked, hak_digest_expect_slot(&e->tx_digest, x)))
		return;
	if (hak_send_master_of(e, &id))
		hak_say_expect(e, HAK_REC_EXP_NEW, x);
}

static void list_chunk(struct hak_capture *c)
{
	struct hak_engine *e = c->e;
	struct hak_rd r;
	size_t n;

	if (hak_nl_recv(&e->list_nl, c->chunk, sizeof c->chunk, 0, &n)) {
		list_abort(c);
		return;
	}
	/* at each chunk: there and back again would look like nothing at the end */
	c->list_disturbed |= hak_nl_buckets(&c->buckets_fd) != c->list_buckets;
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
			if (summing(c))
				sum_expect(c, &m->expect);
			else
				send_expect(c, &m->expect);
		} else if (summing(c)) {
			if (c->round % HAK_ROUND_STEPS == 0)
				hak_roll_add(&e->tx_roll, &m->flow);
			sum_flow(c, &m->flow);
		} else {
			send_flow(c, &m->flow);
		}
	}
	memset(e->touched, 0, sizeof e->touched);
}

/* The same for those who are known to be in the slots in question. */
static void look_at_some(struct hak_capture *c)
{
	struct hak_engine *e = c->e;
	unsigned scan = LOOK_SCAN;
	struct hak_flow id, now;
	bool found = true;

	for (unsigned i = 0; found && i < LOOK_FETCH; i++) {
		if (hak_roll_next(&e->tx_roll, &e->tx_digest, c->some, &scan, &id, &found)) {
			/* too many: a listing after all */
			if (summing(c))
				hak_digest_restart(&e->tx_digest);
			c->list_sent = 0;
			if (!list_request(c))
				list_abort(c);
			return;
		}
		if (!found || !hak_fetch(e, &id, &now) || !hak_same_flow(&id, &now))
			continue;
		if (summing(c))
			sum_flow(c, &now);
		else
			send_flow(c, &now);
	}
	if (hak_roll_looked(&e->tx_roll))
		list_done(c);
}

void hak_list_some(struct hak_capture *c, uint64_t ns)
{
	uint64_t until = hak_now() + ns;

	do {
		if (c->some)
			look_at_some(c);
		else
			list_chunk(c);
	} while (c->listing && hak_now() < until && hak_room(c->e));
	c->list_last = hak_now();
}

void hak_list_rest(struct hak_capture *c, uint64_t now)
{
	if (c->e->tx_roll.len && !c->listing && now - c->list_last > KEEP_NS)
		hak_roll_rest(&c->e->tx_roll);
}

/* ---- what the peer asks ---------------------------------------------- */

static void round_begin(struct hak_capture *c, const struct hak_round *r)
{
	struct hak_engine *e = c->e;
	bool first = r->round % HAK_ROUND_STEPS == 0;
	uint64_t own;

	if (r->round == c->round)
		return;			/* it has not heard us yet; or 0, which is no round */
	/* A further step needs the one before it; without, the peer begins anew. */
	if (!first && !(r->round == c->round + 1 && c->closed))
		return;
	if (first) {
		own = own_entries(c);
		c->round = r->round;
		if (own > FEW && own / DIFFERENT > r->entries) {
			say_round(c, HAK_REC_RECON_BEGIN, (uint32_t)own, 0);
			hak_say_flush(e);
			c->round = 0;
			return;
		}
		sums_begin(c, r->round, own);
		e->tx_digest.brief = r->brief;
	} else {
		c->round = r->round;
		c->closed = false;
		c->chunks = 0;
		hak_digest_again(&e->tx_digest);
	}
	/* Before the records that make slots dirty over there as well. */
	say_round(c, HAK_REC_RECON_BEGIN, 0, (uint8_t)e->tx_digest.bits);
	list_start(c, HAK_LIST_DIGEST);
}

static void say_sums(struct hak_capture *c, unsigned shift, uint32_t first, uint32_t n)
{
	struct hak_engine *e = c->e;
	struct hak_sums s = { .round = c->round, .shift = (uint8_t)shift, .first = first, .n = n };

	for (uint32_t i = 0; i < n; i++)
		s.sum[i] = hak_digest_sum(&e->tx_digest, shift, first + i);
	if (hak_put_sums(&e->batch, &s)) {
		hak_say_flush(e);
		(void)hak_put_sums(&e->batch, &s);
	}
	e->batch_records++;
}

/* Of the children of all these nodes. */
static void say_brief(struct hak_capture *c, const struct hak_nodes *nodes)
{
	const struct hak_digest *d = &c->e->tx_digest;
	struct hak_brief s = { .round = c->round, .shift = nodes->shift - HAK_DIGEST_FAN };

	s.size = (uint8_t)hak_digest_brief_size(d, s.shift);
	for (unsigned i = 0; i < nodes->n; i++) {
		if (nodes->node[i] >= hak_digest_nodes(d, nodes->shift))
			return;
		if (!s.n)
			s.first = nodes->node[i];
		for (uint32_t k = 0; k < 1u << HAK_DIGEST_FAN; k++)
			s.sum[s.n++] = hak_digest_brief(
				hak_digest_sum(d, s.shift, nodes->node[i] << HAK_DIGEST_FAN | k),
				s.size, c->round);
		if (s.n * s.size < HAK_RECON_BRIEF && i + 1 < nodes->n)
			continue;
		if (hak_put_brief(&c->e->batch, &s)) {
			hak_say_flush(c->e);
			(void)hak_put_brief(&c->e->batch, &s);
		}
		c->e->batch_records++;
		s.n = 0;
	}
	hak_say_flush(c->e);
}

static void round_close(struct hak_capture *c)
{
	struct hak_digest *d = &c->e->tx_digest;
	uint32_t top = hak_digest_nodes(d, HAK_DIGEST_TOP);

	/* What the listing saw and events have yet to tell, they tell now. */
	(void)hak_read_events(c, DRAIN_ROUNDS);
	say_round(c, HAK_REC_RECON_CLOSE, 0, 0);
	d->open = false;
	c->closed = true;
	for (uint32_t i = 0; i < top; i += HAK_RECON_SUMS)
		say_sums(c, HAK_DIGEST_TOP, i, top - i < HAK_RECON_SUMS ? top - i : HAK_RECON_SUMS);
	hak_say_flush(c->e);
}

static void note_marks(struct hak_capture *c, const struct hak_marks *m)
{
	struct hak_digest *d = &c->e->tx_digest;

	if (m->chunk == c->chunks) {
		for (unsigned i = 0; i < m->n; i++)
			for (unsigned k = 0; k < 1u << HAK_DIGEST_FAN; k++)
				if (m->v[i].slots >> k & 1 &&
				    m->v[i].group < hak_digest_nodes(d, HAK_DIGEST_FAN))
					hak_bit_set(d->marked, m->v[i].group << HAK_DIGEST_FAN | k);
		c->chunks++;
	}
	say_round(c, HAK_REC_RECON_MARKED, c->chunks, 0);
	hak_say_flush(c->e);
}

void hak_list_mail(struct hak_capture *c)
{
	const struct hak_mail *m = &c->mail;
	struct hak_rd body = hak_rd_on(m->body, m->len);
	struct hak_digest *d = &c->e->tx_digest;
	bool trapped = hak_now() < atomic_load(&c->e->trapped_until_ns);
	struct hak_round r;
	struct hak_nodes nodes;
	struct hak_marks marks;

	if (!m->type)
		return;
	meet(c);
	/* The io thread has parsed them once: none is malformed.  No round is open while
	 * there is none (0), and none is closed. */
	switch (m->type) {
	case HAK_REC_RECON_WANT:
		/* The tables differ on purpose (hak_trap.h): no time to make them equal. */
		if (!trapped && !hak_get_round(body, &r))
			round_begin(c, &r);
		break;
	case HAK_REC_RECON_CLOSE_WANT:
		if (!hak_get_round(body, &r) && c->round && r.round == c->round && !c->closed &&
		    !trapped && c->listing == HAK_LIST_NONE)
			round_close(c);
		break;
	case HAK_REC_RECON_ASK:
		if (hak_get_nodes(body, &nodes) || nodes.round != c->round || !c->closed)
			break;
		for (unsigned i = 0; i < nodes.n; i++)
			if (nodes.node[i] < hak_digest_nodes(d, nodes.shift))
				say_sums(c, nodes.shift - HAK_DIGEST_FAN,
					 nodes.node[i] << HAK_DIGEST_FAN, 1u << HAK_DIGEST_FAN);
		hak_say_flush(c->e);
		break;
	case HAK_REC_RECON_ASK_BRIEF:
		if (!hak_get_nodes(body, &nodes) && nodes.round == c->round && c->closed)
			say_brief(c, &nodes);
		break;
	case HAK_REC_RECON_MARK:
		if (!hak_get_marks(body, &marks) && marks.round == c->round && c->closed)
			note_marks(c, &marks);
		break;
	case HAK_REC_OFFER:
		hak_offer_take(c, body);
		break;
	}
}
