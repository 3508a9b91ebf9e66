/* hak_recon.c - the passive side of the comparison: are both tables equal, and what
 * is to be done until they are?  (hak_digest.h: how; hak_list.c: the active side.)
 *
 *                    +--- some slots were dirty, or were repaired: once more ---+
 *                    v                                                          |
 *   OFF --> WANT --> LISTING --> CLOSING --> NARROW --> all equal, none dirty --> OFF
 *            |                                 |
 *            | tables of very different size   | some are unequal
 *            v                                 v
 *          SURVEY <------------------------ MARKING
 *            |            a copy of the marked slots, or of all
 *            +--> ASKED --> RUNNING --> PURGE --> compare again
 *
 * Of marked slots, SURVEY and PURGE list nothing: the sums before and after do both.
 *
 * One mechanism serves the first meeting, a rejoin, lost events, a gap in the stream,
 * the continuous scrub and `verify`.  What begins it is only remembered in `joining`
 * (the node is not ready before the end) and `verify_id`.
 *
 * Each step is asked for by a CONTROL record, a wish that is repeated until the answer
 * comes, and answered in the ordered stream.  So the answer tells both what is so and
 * as of which point of the stream, and nothing that is done upon it can undo what the
 * stream said later.  A step that stays unanswered for too long starts all over.
 *
 * Not handled: entries that this kernel cannot hold as the peer's does (a helper it
 * lacks): after VAIN_MAX attempts they are reported, and tried again later.
 */
#include "hak_apply_int.h"

#include <stdio.h>

enum {
	STEPS_MAX = 4,			/* rounds for dirty slots before they are copied */
	VAIN_MAX = 4,			/* repairs that do not help */
};

#define STALE_NS (3000 * (uint64_t)HAK_MS)
#define RETRY_NS (10000 * (uint64_t)HAK_MS)

static uint64_t *unequal(struct hak_apply *a, unsigned shift)
{
	return a->unequal[shift / HAK_DIGEST_FAN - 1];
}

/* ---- beginning and ending -------------------------------------------- */

static void want_round(struct hak_apply *a)
{
	int64_t n = hak_nl_table_count(&a->e->apply_nl, NULL);
	struct hak_round r = { .round = a->round, .entries = n > 0 ? (uint32_t)n : 0 };
	uint8_t bytes[32];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);

	hak_apply_phase(a, HAK_PHASE_WANT);
	/* A mere look has no further round in which it finds what brief sums hide. */
	r.brief = a->repair;
	hak_put_round(&w, HAK_REC_RECON_WANT, &r);
	hak_wish(a->e, &w);
}

/* The next comparison, with new keys. */
static void begin_anew(struct hak_apply *a)
{
	a->round = (a->round / HAK_ROUND_STEPS + 1) * HAK_ROUND_STEPS;
	if (!a->round)
		a->round = HAK_ROUND_STEPS;
	a->residue = false;
	a->purging = false;
	memset(a->repaired, 0, sizeof a->repaired);
	want_round(a);
}

void hak_recon_start(struct hak_apply *a, const struct hak_verify *v)
{
	a->joining = !atomic_load(&a->e->synced);
	a->repair = !v || v->repair || a->joining;
	a->verify_id = v ? v->id : 0;
	a->told = false;
	a->unread = false;
	a->vain = 0;
	a->began_ns = hak_now();
	a->found = (struct hak_table){ 0 };
	a->matched = 0;
	a->example[0] = '\0';
	a->copied = 0;
	hak_count(&a->e->stats, HAK_STAT_RECON_STARTED);
	begin_anew(a);
}

void hak_recon_off(struct hak_apply *a)
{
	if (a->phase == HAK_PHASE_OFF)
		return;
	hak_wish(a->e, NULL);
	if (a->pass != HAK_PASS_SWEEP && a->pass != HAK_PASS_SWEEP_EXPECTS)
		a->pass = HAK_PASS_NONE;
	hak_digest_rest(&a->e->rx_digest);
	hak_roll_rest(&a->e->rx_roll);
	hak_apply_phase(a, HAK_PHASE_OFF);
}

/* An operator's question that was cut short is asked again. */
static void put_off(struct hak_apply *a)
{
	struct hak_engine *e = a->e;

	if (a->phase == HAK_PHASE_OFF)
		return;
	if (a->joining)
		atomic_store(&e->sync_needed, true);
	if (a->verify_id) {
		pthread_mutex_lock(&e->q_lock);
		if (e->verify[a->verify_of].state == HAK_COMPARING)
			e->verify[a->verify_of].state = HAK_ASKED;
		pthread_mutex_unlock(&e->q_lock);
	}
	hak_recon_off(a);
}

static void publish(struct hak_apply *a, bool equal)
{
	struct hak_engine *e = a->e;
	uint64_t now = hak_now();

	a->found.equal = equal;
	a->found.entries = a->peer_entries;
	pthread_mutex_lock(&e->q_lock);
	a->found.verified = a->verify_id ? a->verify_id : e->table.verified;
	if (a->verify_id && e->verify[a->verify_of].state == HAK_COMPARING)
		e->verify[a->verify_of].state = HAK_ANSWERED;
	e->table = a->found;
	e->table_ns = now;
	pthread_mutex_unlock(&e->q_lock);
	if (a->verify_id)
		hak_emit(e, HAK_EV_VERIFIED, a->verify_id, 0, 0, NULL);
	a->verify_id = 0;
	a->scrub_ns = now;
}

static uint64_t differences(const struct hak_apply *a)
{
	return (uint64_t)a->found.missing + a->found.extra + a->found.different;
}

static void proved(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	uint64_t n = differences(a), took = hak_now() - a->began_ns;
	const struct hak_table f = a->found;

	if (a->repair)
		a->found.repaired = (uint32_t)n;
	publish(a, a->repair || !n);
	if (a->unread)			/* the scrub, if there is one, lists it at once */
		a->scrub_ns = 0;
	hak_recon_off(a);
	hak_count(&e->stats, HAK_STAT_RECON_DONE);
	if (a->repair)
		hak_count_n(&e->stats, HAK_STAT_RECON_REPAIRED, n);
	if (a->joining) {
		if (!atomic_load(&e->sync_needed))
			atomic_store(&e->synced, true);
		hak_emit(e, HAK_EV_SYNC_DONE, a->copied, f.extra, took, NULL);
	} else if (n && a->repair) {
		hak_emit(e, HAK_EV_RECON_REPAIRED, f.missing, f.extra, f.different, a->example);
	}
}

static void stuck(struct hak_apply *a)
{
	struct hak_engine *e = a->e;

	publish(a, false);
	hak_recon_off(a);
	hak_emit(e, HAK_EV_RECON_STUCK, a->found.missing, a->found.extra, a->found.different,
		 a->example);
	atomic_store(&e->synced, false);
	atomic_store(&e->sync_needed, true);
	a->retry_ns = hak_now() + RETRY_NS;
}

/* What a copy brings is a difference, unless it is all of the table and this node joins. */
bool hak_recon_counts(const struct hak_apply *a)
{
	return a->phase == HAK_PHASE_RUNNING && (a->scoped || !a->joining);
}

void hak_recon_found(struct hak_apply *a, uint32_t *counter, const char *what,
		     const struct hak_flow *f)
{
	char flow[112] = "one";

	++*counter;
	if (a->example[0])
		return;
	if (f)
		hak_flow_text(f, flow, sizeof flow);
	snprintf(a->example, sizeof a->example, "%s: %s", what, flow);
}

/* ---- a round --------------------------------------------------------- */

void hak_recon_sums(struct hak_apply *a, uint8_t bits)
{
	hak_session_sums(a->e, &a->e->rx_digest, bits, a->round);
}

static void on_begin(struct hak_apply *a, const struct hak_round *r)
{
	struct hak_engine *e = a->e;

	if (a->phase != HAK_PHASE_WANT || r->round != a->round)
		return;
	hak_wish(e, NULL);
	if (a->joining && !a->told)
		hak_emit(e, HAK_EV_SYNC_BEGIN, 0, 0, 0, NULL);
	a->told = true;
	if (!r->bits) {
		/* Next to nothing is here.  A mere look has no use for a list of all. */
		a->peer_entries = r->entries;
		if (a->repair) {
			hak_copy_begin(a, false);
		} else {
			a->found.missing = r->entries;
			a->found.as_of = a->seq;
			publish(a, false);
			hak_recon_off(a);
		}
		return;
	}
	if (r->round % HAK_ROUND_STEPS)
		hak_digest_again(&e->rx_digest);
	else {
		hak_recon_sums(a, r->bits);
		e->rx_digest.brief = r->brief;
	}
	a->own_done = a->peer_done = false;
	hak_apply_phase(a, HAK_PHASE_LISTING);
	hak_count(&e->stats, HAK_STAT_RECON_ROUNDS);
	if (!hak_pass_begin(a, HAK_PASS_DIGEST))
		put_off(a);
}

void hak_recon_touch(struct hak_apply *a, const struct hak_record *rec)
{
	struct hak_digest *d = &a->e->rx_digest;

	if (rec->type == HAK_REC_FLOW_NEW || rec->type == HAK_REC_FLOW_SYNC)
		hak_roll_add(&a->e->rx_roll, &rec->flow);
	if (!d->open || (d->copying && rec->type == HAK_REC_FLOW_SYNC))
		return;
	switch (rec->type) {
	case HAK_REC_FLOW_NEW:
	case HAK_REC_FLOW_UPDATE:
	case HAK_REC_FLOW_DESTROY:
	case HAK_REC_FLOW_SYNC:
		hak_bit_set(d->dirty, hak_digest_slot(d, &rec->flow));
		break;
	case HAK_REC_EXP_NEW:
	case HAK_REC_EXP_DESTROY:
		hak_bit_set(d->dirty, hak_digest_expect_slot(d, &rec->expect));
		break;
	}
}

void hak_recon_sum(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_flow g = *f, id = {
		.l3 = f->l3, .zone = f->zone, .zone_dir = f->zone_dir,
		.l4proto = f->master_l4proto, .l4kind = f->master_l4kind, .orig = f->master,
	};
	struct hak_ctmsg master;

	if (f->have & HAK_HAS_MASTER && hak_apply_get(a, &id, &master))
		g.have &= ~(uint32_t)HAK_HAS_MASTER;
	hak_digest_add_flow(&a->e->rx_digest, &g);
}

void hak_recon_sum_expect(struct hak_apply *a, const struct hak_expect *x)
{
	hak_digest_add_expect(&a->e->rx_digest, x);
}

static void close_round(struct hak_apply *a)
{
	struct hak_round r = { .round = a->round };
	uint8_t bytes[32];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);

	hak_apply_phase(a, HAK_PHASE_CLOSING);
	hak_put_round(&w, HAK_REC_RECON_CLOSE_WANT, &r);
	hak_wish(a->e, &w);
}

static void close_if_done(struct hak_apply *a)
{
	if (a->phase == HAK_PHASE_LISTING && a->own_done && a->peer_done)
		close_round(a);
}

void hak_recon_listed(struct hak_apply *a)
{
	a->own_done = true;
	a->own_ns = hak_now() - a->phase_ns;
	close_if_done(a);
}

static void on_close(struct hak_apply *a, const struct hak_round *r)
{
	if (a->phase != HAK_PHASE_CLOSING || r->round != a->round)
		return;
	hak_wish(a->e, NULL);
	a->e->rx_digest.open = false;
	a->found.as_of = a->seq;
	memset(a->unequal, 0, sizeof a->unequal);
	hak_apply_phase(a, HAK_PHASE_NARROW);
	a->shift = HAK_DIGEST_TOP + HAK_DIGEST_FAN;	/* the top's sums come unasked */
}

/* ---- narrowing down -------------------------------------------------- */

static void tell_marks(struct hak_apply *a)
{
	struct hak_digest *d = &a->e->rx_digest;
	uint32_t groups = hak_digest_nodes(d, HAK_DIGEST_FAN);
	struct hak_marks m = { .round = a->round, .chunk = a->marks_at };
	uint8_t bytes[HAK_PAYLOAD_MAX];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);

	for (; a->group_at < groups && m.n < HAK_RECON_GROUPS; a->group_at++) {
		uint16_t slots = (uint16_t)(d->marked[a->group_at / 4] >> (a->group_at % 4 * 16));

		if (!slots)
			continue;
		m.v[m.n].group = a->group_at;
		m.v[m.n++].slots = slots;
	}
	if (m.n) {
		hak_apply_phase(a, HAK_PHASE_MARKING);
		hak_put_marks(&w, &m);
		hak_wish(a->e, &w);
	} else if (a->repair) {
		hak_copy_begin(a, true);
	} else {
		a->scoped = true;
		hak_copy_ask(a);
	}
}

static void on_marked(struct hak_apply *a, const struct hak_round *r)
{
	if (a->phase != HAK_PHASE_MARKING || r->round != a->round || r->entries != a->marks_at + 1)
		return;
	a->marks_at++;
	tell_marks(a);
}

static void next_round(struct hak_apply *a)
{
	a->round++;
	if (a->round % HAK_ROUND_STEPS)
		want_round(a);
	else
		begin_anew(a);		/* all of it once more, under other keys */
}

static void verdict(struct hak_apply *a)
{
	struct hak_digest *d = &a->e->rx_digest;
	uint64_t marks = hak_digest_marks(d), dirty = hak_digest_dirty(d);

	hak_wish(a->e, NULL);
	if (!marks && !dirty) {
		proved(a);
		return;
	}
	if (!marks && a->round % HAK_ROUND_STEPS < STEPS_MAX) {
		next_round(a);
		return;
	}
	/* Under load each round finds what was dirty in the one before it, so only what
	 * was repaired already and differs again is a sign that repairs do not help. */
	if (marks && hak_digest_join_marks(d, a->repaired) && a->vain++ == VAIN_MAX) {
		stuck(a);
		return;
	}
	/* Slots that are dirty each time belong to connections that never rest: these
	 * are not compared but written anew, which proves as much. */
	a->residue = !marks;
	if (a->residue)
		hak_digest_mark_dirty(d);
	a->marks_at = a->group_at = 0;
	tell_marks(a);
}

/* Ask for the children of the next unequal nodes, on this level or below. */
static void narrow(struct hak_apply *a)
{
	const struct hak_digest *d = &a->e->rx_digest;
	struct hak_nodes n = { .round = a->round, .brief = d->brief };
	uint8_t bytes[HAK_PAYLOAD_MAX];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);

	for (; a->shift; a->shift -= HAK_DIGEST_FAN, a->node_at = 0) {
		uint32_t nodes = hak_digest_nodes(d, a->shift);

		for (; a->node_at < nodes && n.n < HAK_RECON_NODES; a->node_at++)
			if (hak_bit(unequal(a, a->shift), a->node_at))
				n.node[n.n++] = a->node_at;
		if (n.n)
			break;
	}
	if (!n.n) {
		verdict(a);
		return;
	}
	n.shift = (uint8_t)a->shift;
	a->node_last = n.node[n.n - 1];
	a->node_due = n.node[0];
	hak_apply_phase(a, HAK_PHASE_NARROW);
	hak_put_nodes(&w, &n);
	hak_wish(a->e, &w);
}

static void on_sums(struct hak_apply *a, const struct hak_sums *s)
{
	struct hak_digest *d = &a->e->rx_digest;
	uint32_t nodes = hak_digest_nodes(d, s->shift);

	/* only what the level in question brings: an answer that came twice says nothing */
	if (a->phase != HAK_PHASE_NARROW || s->round != a->round ||
	    (unsigned)s->shift + HAK_DIGEST_FAN != a->shift || s->first + s->n > nodes)
		return;
	for (uint32_t i = 0; i < s->n; i++) {
		uint64_t own = hak_digest_sum(d, s->shift, s->first + i);

		if (s->shift != HAK_DIGEST_TOP)
			own = (uint32_t)own;
		if (own != s->sum[i])
			hak_bit_set(s->shift ? unequal(a, s->shift) : d->marked, s->first + i);
	}
	if (s->shift == HAK_DIGEST_TOP ? s->first + s->n == nodes
				       : s->first >> HAK_DIGEST_FAN == a->node_last) {
		if (s->shift == HAK_DIGEST_TOP) {
			a->shift = HAK_DIGEST_TOP;
			a->node_at = 0;
		}
		narrow(a);
	}
}

/* Of the children of nodes that were asked for, in their order. */
static void on_brief(struct hak_apply *a, const struct hak_brief *s)
{
	const struct hak_digest *d = &a->e->rx_digest;
	uint64_t *below = s->shift ? unequal(a, s->shift) : d->marked;
	uint32_t nodes;

	if (a->phase != HAK_PHASE_NARROW || s->round != a->round || !d->brief ||
	    (unsigned)s->shift + HAK_DIGEST_FAN != a->shift || s->first != a->node_due)
		return;
	nodes = hak_digest_nodes(d, a->shift);
	for (unsigned at = 0; at < s->n && a->node_due <= a->node_last;) {
		uint32_t first = a->node_due << HAK_DIGEST_FAN;
		bool found = false;

		for (uint32_t i = first; i < first + (1u << HAK_DIGEST_FAN); i++, at++) {
			if (hak_digest_brief(hak_digest_sum(d, s->shift, i), s->size, a->round) ==
			    s->sum[at])
				continue;
			hak_bit_set(below, i);
			found = true;
		}
		/* One of them differs for certain. */
		for (uint32_t i = first; !found && i < first + (1u << HAK_DIGEST_FAN); i++)
			hak_bit_set(below, i);
		do
			a->node_due++;
		while (a->node_due < nodes && !hak_bit(unequal(a, a->shift), a->node_due));
	}
	if (a->node_due > a->node_last)
		narrow(a);
}

/* ---- after a copy ---------------------------------------------------- */

void hak_recon_counted(struct hak_apply *a)
{
	/* those of our own in these slots that the peer did not tell */
	if (a->pass_done > a->matched)
		a->found.extra += (uint32_t)(a->pass_done - a->matched);
	proved(a);
}

void hak_recon_copied(struct hak_apply *a)
{
	if (a->e->rx_digest.copying)
		close_round(a);
	else if (!a->scoped)
		begin_anew(a);
	else if (a->residue)
		proved(a);
	else
		next_round(a);
}

/* ---- records and time ------------------------------------------------ */

enum hak_err hak_recon_on_record(struct hak_apply *a, uint8_t type, struct hak_rd body)
{
	struct hak_sums s;
	struct hak_brief b;
	struct hak_round r;

	if (type == HAK_REC_RECON_SUMS) {
		if (hak_get_sums(body, &s))
			return HAK_EFORMAT;
		on_sums(a, &s);
		return HAK_OK;
	}
	if (type == HAK_REC_RECON_BRIEF) {
		if (hak_get_brief(body, &b))
			return HAK_EFORMAT;
		on_brief(a, &b);
		return HAK_OK;
	}
	if (hak_get_round(body, &r))
		return HAK_EFORMAT;
	switch (type) {
	case HAK_REC_RECON_BEGIN:
		on_begin(a, &r);
		break;
	case HAK_REC_RECON_LISTED:
		if (a->phase != HAK_PHASE_LISTING || r.round != a->round)
			break;
		a->peer_done = true;
		if (a->round % HAK_ROUND_STEPS == 0)
			a->peer_entries = r.entries;
		close_if_done(a);
		break;
	case HAK_REC_RECON_CLOSE:
		on_close(a, &r);
		break;
	case HAK_REC_RECON_MARKED:
		on_marked(a, &r);
		break;
	}
	return HAK_OK;
}

static bool take_verify(struct hak_apply *a, struct hak_verify *v)
{
	struct hak_engine *e = a->e;
	bool asked = false;

	pthread_mutex_lock(&e->q_lock);
	for (unsigned i = 0; i < 2 && !asked; i++) {
		if (e->verify[i].state != HAK_ASKED)
			continue;
		e->verify[i].state = HAK_COMPARING;
		*v = e->verify[i].v;
		a->verify_of = i;
		asked = true;
	}
	pthread_mutex_unlock(&e->q_lock);
	return asked;
}

/* How long the present step may stay as it is.  The peer lists at its own pace, and says
 * nothing meanwhile but what is in marked slots: a table like ours takes about as long
 * as ours did, be it under much more load.  All else is a matter of a round trip. */
static uint64_t patience(const struct hak_apply *a)
{
	if (a->phase == HAK_PHASE_LISTING || a->phase == HAK_PHASE_RUNNING)
		return a->e->cfg.patience_ms * (uint64_t)HAK_MS + 10 * a->own_ns;
	return STALE_NS;
}

uint64_t hak_recon_step(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	bool can = atomic_load(&e->session_up) && atomic_load(&e->peer_alive) &&
		   atomic_load(&e->peer_mode) == 2;
	uint64_t now = hak_now(), period = (uint64_t)atomic_load(&e->scrub_ms) * HAK_MS, due;
	struct hak_verify v;

	if (atomic_load(&e->sync_needed)) {
		put_off(a);
		if (!can || now < a->retry_ns)
			return 100 * HAK_MS;
		atomic_store(&e->synced, false);
		atomic_store(&e->sync_needed, false);
		pthread_mutex_lock(&e->q_lock);
		e->table.equal = 2;		/* what was proved, is history */
		pthread_mutex_unlock(&e->q_lock);
		if (!hak_offer_begin(a))
			hak_recon_start(a, NULL);
		return STALE_NS;
	}
	if (!can) {
		put_off(a);
		return UINT64_MAX;
	}
	if (a->phase == HAK_PHASE_OFF) {
		if (take_verify(a, &v))
			hak_recon_start(a, &v);
		else if (!period)
			return UINT64_MAX;
		else if (now >= a->scrub_ns + period)
			hak_recon_start(a, NULL);
		else
			return a->scrub_ns + period - now;
		return STALE_NS;
	}
	if (a->phase == HAK_PHASE_OFFER)
		return hak_offer_step(a);
	if (a->pass != HAK_PASS_NONE)
		return STALE_NS;		/* our own work, which ends */
	due = a->phase_ns + patience(a);
	if (now > due) {
		hak_count(&e->stats, HAK_STAT_RECON_STALLED);
		put_off(a);
		return 0;
	}
	return due - now;
}
