/* hak_sync.c - passes of the apply thread over this kernel's whole table.
 *
 * A copy on the passive side, of the whole table or of the slots that a comparison
 * (hak_recon.c) found unequal.  No list of what the copy touched is kept: the kernel's
 * own timeouts tell.  Before asking, a SURVEY finds the longest timeout in the table
 * (the sums of a comparison do so on their way); then a larval timeout that ends later than all of these is chosen for everything
 * written from now on.  After SYNC_END, whatever was to be copied and ends earlier was
 * touched neither by the copy nor by the stream since: the active does not have it,
 * and the PURGE removes it; after a copy of some slots, the pass that sums the table up
 * for the second proof does so on its way.  Timeouts are in seconds, so a margin of some seconds
 * keeps the two apart.  Expectations have a larval timeout of their own, and the same.
 *
 * GRE's larvae bear FIXED_TIMEOUT, which nothing renews: they are replaced (hak_gre.c).
 *
 * While the table is summed up for a comparison, what bears no larval timeout (because
 * this node was active until now) or has used up a day of it is made a larva anew.
 *
 * After a swap the SWEEP gives every entry that still bears a larval timeout its
 * natural one; those that saw a packet have it already (the kernel did it).  Then it
 * does the same for expectations, whose natural timeouts are their helpers' secret.
 *
 * All passes list unfiltered (a filtered listing holds its CPU for half a second
 * at a million buckets), one chunk at a time, between what the stream brings.
 *
 * Not handled: a ct timeout policy longer than six days.
 */
#include "hak_apply_int.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>

enum {
	MARGIN_S = 16,			/* between two copies' timeouts */
	SLACK_S = 8,			/* of it, for rounding and for slow clocks */
	TIMEOUT_MAX_S = 20 * 86400,	/* below what any HZ can hold */
	RENEW_S = 86400,		/* a larva that old is renewed */
	LOOK_SCAN = 4096, LOOK_FETCH = 64,	/* what is done at a time: some 200 us */
	SWEEP_BELOW_S = 2 * 86400,	/* larval minus this: no natural one is there */
	EXPECT_LARVAL_MAX = 10 * 86400,
	EXPECT_S = 300,			/* nf_conntrack_ftp.c, _pptp.c, _sane.c, ... */
	EXPECT_MEDIA_S = 180,		/* nf_conntrack_sip.c */
	SIP_S = 3600,			/* nf_conntrack_sip.h: of a dialogue, a registration */
};

bool hak_apply_ours(const struct hak_engine *e, const struct hak_flow *f)
{
	const struct hak_locals *l = hak_engine_locals(e);

	/* Whatever the policy: our own connections are not the peer's to judge.  Copies of
	 * the peer's own, if they are wanted, bear a larval timeout. */
	return hak_policy_wants(&e->cfg.policy, l, f) &&
	       (!hak_flow_is_local(l, f) || f->timeout + SWEEP_BELOW_S >= e->cfg.larval_timeout);
}

void hak_apply_phase(struct hak_apply *a, enum hak_phase phase)
{
	a->phase = phase;
	a->phase_ns = hak_now();
}

static bool of_expects(enum hak_pass pass)
{
	return pass == HAK_PASS_DIGEST_EXPECTS || pass == HAK_PASS_PURGE_EXPECTS ||
	       pass == HAK_PASS_SWEEP_EXPECTS;
}

static bool active_pass(enum hak_pass pass)
{
	return pass == HAK_PASS_SWEEP || pass == HAK_PASS_SWEEP_EXPECTS ||
	       pass == HAK_PASS_REAP || pass == HAK_PASS_LOOSEN;
}

/* Some slots, and we know who is in them. */
static const uint64_t *few(const struct hak_apply *a, enum hak_pass pass)
{
	const struct hak_engine *e = a->e;
	const struct hak_digest *d = &e->rx_digest;

	if (!e->rx_roll.whole)
		return NULL;
	if (pass == HAK_PASS_DIGEST)
		return a->round % HAK_ROUND_STEPS && hak_digest_scope(d) <= HAK_ROLL_SLOTS ?
		       d->scope : NULL;
	return (pass == HAK_PASS_COUNT || pass == HAK_PASS_PURGE) && a->scoped &&
	       !a->purge_all && hak_digest_marks(d) <= HAK_ROLL_SLOTS ? d->marked : NULL;
}

static void begun(struct hak_apply *a, enum hak_pass pass, unsigned buckets)
{
	a->pass = pass;
	a->pass_began = hak_now();
	a->pass_next = 0;
	a->pass_done = 0;
	a->pass_buckets = buckets;
	a->pass_disturbed = false;
}

bool hak_pass_begin(struct hak_apply *a, enum hak_pass pass)
{
	struct hak_engine *e = a->e;
	uint8_t buf[256];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	unsigned buckets = hak_nl_buckets(&a->buckets_fd);

	a->pass = HAK_PASS_NONE;
	a->some = few(a, pass);
	if (a->some) {
		hak_roll_look(&e->rx_roll);
		begun(a, pass, buckets);
		return true;
	}
	if (pass == HAK_PASS_DIGEST && a->round % HAK_ROUND_STEPS == 0)
		hak_roll_begin(&e->rx_roll);
	hak_nl_close(&e->survey_nl);		/* an unfinished listing blocks its socket */
	if (hak_nl_open(&e->survey_nl, HAK_NL_CALL_BUF) ||
	    (of_expects(pass) ? hak_exp_put_list(&w, ++e->survey_nl.seq)
			      : hak_ct_put_list(&w, ++e->survey_nl.seq)) ||
	    hak_nl_send(&e->survey_nl, &w))
		return false;
	if (pass == HAK_PASS_DIGEST || pass == HAK_PASS_SURVEY)
		a->longest = 0;
	if (pass == HAK_PASS_SURVEY)
		a->empty = true;
	begun(a, pass, buckets);
	return true;
}

/* What a pass has to say so far. */
static void send_out(struct hak_apply *a, struct hak_wr *w)
{
	if (hak_wr_len(w)) {
		(void)hak_nl_send(&a->e->apply_nl, w);
		hak_nl_drain(&a->e->apply_nl);	/* entries that went meanwhile */
	}
	*w = hak_wr_on(a->out, sizeof a->out);
}

/* Is this entry older than the copy?  Its timeout counts down from the moment it
 * was written, so its end, not its remainder, is compared. */
static bool stale(const struct hak_apply *a, uint32_t timeout, uint32_t larval)
{
	uint64_t since = (hak_now() - a->mark_ns) / 1000000000u;

	return a->purge_all || timeout + since + SLACK_S < larval;
}

static bool in_copy(const struct hak_apply *a, uint32_t slot)
{
	return !a->scoped || hak_bit(a->purging ? a->purge : a->e->rx_digest.marked, slot);
}

/* True: it is gone. */
static bool purge(struct hak_apply *a, struct hak_wr *w, const struct hak_flow *f)
{
	uint32_t larval = atomic_load(&a->e->larval_timeout);
	struct hak_ctmsg now;

	/* with the gate open, it may have been made by a packet here */
	if (atomic_load(&a->e->armed) || !stale(a, f->timeout, larval) ||
	    !in_copy(a, hak_digest_slot(&a->e->rx_digest, f)))
		return false;
	send_out(a, w);
	/* The listing is a moment old; this thread alone writes, so a second look
	 * just before the deletion is final. */
	if (hak_apply_get(a, f, &now))
		return true;
	if (!stale(a, now.flow.timeout, larval) || hak_apply_delete(a, &now.flow))
		return false;
	a->pass_done++;
	if (a->scoped || !a->joining)
		hak_recon_found(a, &a->found.extra, "extra", &now.flow);
	return true;
}

static bool our_expect(struct hak_apply *a, const struct hak_expect *x)
{
	struct hak_flow id = {
		.l3 = x->l3, .zone = x->zone, .zone_dir = x->zone_dir,
		.l4proto = x->master_l4proto, .l4kind = x->master_l4kind, .orig = x->master,
	};
	struct hak_ctmsg master;

	return !hak_apply_get(a, &id, &master) && hak_apply_ours(a->e, &master.flow);
}

static void purge_expect(struct hak_apply *a, const struct hak_expect *x)
{
	uint8_t out[512];
	struct hak_wr w = hak_wr_on(out, sizeof out);
	uint32_t seq;

	if (!stale(a, x->timeout, a->expect_larval) ||
	    !in_copy(a, hak_digest_expect_slot(&a->e->rx_digest, x)) || !our_expect(a, x))
		return;
	seq = ++a->e->apply_nl.seq;
	if (hak_exp_put_delete(&w, seq, x, true) || hak_apply_call(a, &w, seq, NULL))
		return;
	if (a->scoped || !a->joining)
		hak_recon_found(a, &a->found.extra, "extra expectation", NULL);
}

/* ---- larvae ---------------------------------------------------------- */

/* An update of a mark or a label alone sets the timeout and leaves TCP as it was. */
static bool is_larva(const struct hak_flow *f, uint32_t larval)
{
	if (f->have & HAK_HAS_TCP_FLAGS &&
	    !(f->tcp_flags[0] & f->tcp_flags[1] & IP_CT_TCP_FLAG_BE_LIBERAL))
		return false;
	return f->timeout + RENEW_S >= larval;
}

static void sum_up(struct hak_apply *a, struct hak_wr *w, struct hak_flow *f)
{
	struct hak_engine *e = a->e;
	uint32_t larval = atomic_load(&e->larval_timeout);

	if (a->purging && purge(a, w, f))
		return;
	if (f->timeout > a->longest)
		a->longest = f->timeout;
	hak_recon_sum(a, f);
	if (hak_gre_fixed(f)) {
		send_out(a, w);
		hak_gre_renew(a, f, larval);
	} else if (!is_larva(f, larval)) {
		(void)hak_ct_put_timeout(w, ++e->apply_nl.seq, f, larval, HAK_LIBERAL_SET);
	}
}

static void sum_up_expect(struct hak_apply *a, struct hak_wr *w, const struct hak_expect *x)
{
	if (!our_expect(a, x))
		return;
	hak_recon_sum_expect(a, x);
	if (x->timeout < HAK_EXPECT_LARVAL / 2)
		(void)hak_exp_put_timeout(w, ++a->e->apply_nl.seq, x, a->expect_larval);
}

static bool is_sip(const char *helper)
{
	return !strncmp(helper, "sip", 3);
}

uint32_t hak_natural(const uint32_t table[256][16], const struct hak_flow *f)
{
	unsigned state = 0;
	uint32_t t;

	if (is_sip(f->helper))		/* it outlives any UDP: its helper prolongs it */
		return SIP_S;
	if (f->have & HAK_HAS_TCP)
		state = f->tcp_state;
	else if (f->have & HAK_HAS_SCTP)
		state = f->sctp_state;
	else if (f->have & HAK_HAS_DCCP)
		state = f->dccp_state;
	else
		/* The first answer alone makes no stream of UDP, UDP-Lite, GRE. */
		state = f->status & IPS_ASSURED ? 1 : 0;
	t = table[f->l4proto][state & 15];
	if (!t)
		t = table[f->l4proto][0];
	return t ? t : table[0][0];
}

static uint32_t natural(const struct hak_apply *a, const struct hak_flow *f)
{
	return hak_natural((const uint32_t(*)[16])a->natural, f);
}

static void sweep(struct hak_apply *a, struct hak_wr *w, const struct hak_flow *f)
{
	struct hak_engine *e = a->e;

	if (hak_gre_fixed(f)) {
		send_out(a, w);
		hak_gre_look(a, f, natural(a, f));
		return;
	}
	if (f->timeout + SWEEP_BELOW_S < e->cfg.larval_timeout || f->status & IPS_FIXED_TIMEOUT)
		return;
	if (!hak_ct_put_timeout(w, ++e->apply_nl.seq, f, natural(a, f), HAK_LIBERAL_LEAVE))
		a->pass_done++;
}

/* An expectation is a hole in the firewall, so it may not stay open for a day. */
static void sweep_expect(struct hak_apply *a, struct hak_wr *w, const struct hak_expect *x)
{
	uint32_t s = is_sip(x->helper) ? (x->class_ ? EXPECT_MEDIA_S : SIP_S) : EXPECT_S;

	if (x->timeout > HAK_EXPECT_LARVAL / 2)
		(void)hak_exp_put_timeout(w, ++a->e->apply_nl.seq, x, s);
}

/* After a split the other node may have forwarded this connection, beyond the windows that
 * were seen here: from now on they do not matter. */
static void loosen(struct hak_apply *a, struct hak_wr *w, const struct hak_flow *f)
{
	if (f->have & HAK_HAS_TCP_FLAGS &&
	    !(f->tcp_flags[0] & f->tcp_flags[1] & IP_CT_TCP_FLAG_BE_LIBERAL))
		(void)hak_ct_put_timeout(w, ++a->e->apply_nl.seq, f, f->timeout, HAK_LIBERAL_SET);
}

static void on_entry(struct hak_apply *a, struct hak_wr *w, struct hak_flow *f)
{
	const struct hak_digest *d = &a->e->rx_digest;

	if (!hak_apply_ours(a->e, f))
		return;
	if (a->pass == HAK_PASS_DIGEST)
		sum_up(a, w, f);
	else if (a->pass == HAK_PASS_SURVEY) {
		a->empty = false;
		if (f->timeout > a->longest)
			a->longest = f->timeout;
	}
	else if (a->pass == HAK_PASS_OFFER)
		hak_offer_see(a, f);
	else if (a->pass == HAK_PASS_COUNT)
		a->pass_done += hak_bit(d->marked, hak_digest_slot(d, f));
	else if (a->pass == HAK_PASS_PURGE)
		(void)purge(a, w, f);
	else if (a->pass == HAK_PASS_SWEEP)
		sweep(a, w, f);
	else if (a->pass == HAK_PASS_LOOSEN)
		loosen(a, w, f);
	else if (a->pass == HAK_PASS_REAP && hak_gre_fixed(f))
		hak_gre_look(a, f, natural(a, f));
}

/* The same as a chunk, of those who are known to be in the slots in question. */
static bool look_at_some(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	struct hak_wr w = hak_wr_on(a->out, sizeof a->out);
	unsigned scan = LOOK_SCAN;
	struct hak_ctmsg now;
	struct hak_flow id;
	bool found = true;

	for (unsigned i = 0; found && i < LOOK_FETCH; i++) {
		if (hak_roll_next(&e->rx_roll, &e->rx_digest, a->some, &scan, &id, &found)) {
			a->pass_disturbed = true;	/* too many: a listing after all */
			break;
		}
		if (found && !hak_apply_get(a, &id, &now) && hak_same_flow(&id, &now.flow))
			on_entry(a, &w, &now.flow);
	}
	send_out(a, &w);
	return a->pass_disturbed || hak_roll_looked(&e->rx_roll);
}

/* One chunk of the listing.  True: the pass is complete. */
static bool pass_chunk(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	struct hak_wr w = hak_wr_on(a->out, sizeof a->out);
	uint64_t began = hak_now();
	bool done = false;
	struct hak_rd r;
	size_t n;

	if (hak_nl_recv(&e->survey_nl, a->chunk, sizeof a->chunk, 0, &n))
		return true;
	/* at each chunk: there and back again would look like nothing at the end */
	a->pass_disturbed |= hak_nl_buckets(&a->buckets_fd) != a->pass_buckets;
	r = hak_rd_on(a->chunk, n);
	while (hak_rd_left(&r)) {
		struct hak_ctmsg *m = &a->msg;
		struct hak_flow f;

		if (hak_ct_next(&r, m))
			continue;
		if (m->what == HAK_CT_DONE || m->what == HAK_CT_ERROR) {
			done = true;
			break;
		}
		if (m->what == HAK_CT_EXP_NEW) {
			struct hak_expect x = m->expect;

			if (a->pass == HAK_PASS_DIGEST_EXPECTS)
				sum_up_expect(a, &w, &x);
			else if (a->pass == HAK_PASS_PURGE_EXPECTS)
				purge_expect(a, &x);
			else if (a->pass == HAK_PASS_SWEEP_EXPECTS)
				sweep_expect(a, &w, &x);
			continue;
		}
		f = m->flow;	/* the calls below decode into a->msg */
		if (a->pass == HAK_PASS_DIGEST && a->round % HAK_ROUND_STEPS == 0)
			hak_roll_add(&e->rx_roll, &f);
		on_entry(a, &w, &f);
	}
	send_out(a, &w);
	/* Where packets are forwarded, half of the time at most.  A passive node has nothing
	 * else to do than what the stream brings, and that goes first. */
	a->pass_next = active_pass(a->pass) ? hak_now() + (hak_now() - began) : 0;
	return done;
}

/* ---- the copy -------------------------------------------------------- */

static void surveyed(struct hak_apply *a);

void hak_copy_begin(struct hak_apply *a, bool scoped)
{
	uint32_t larval = atomic_load(&a->e->larval_timeout);

	a->scoped = scoped;
	a->purging = false;
	a->copied = 0;
	hak_apply_phase(a, HAK_PHASE_SURVEY);
	if (scoped) {
		/* The sums have seen all of the table, and what was written since bears
		 * the larval timeout in use. */
		if (a->longest < larval)
			a->longest = larval;
		surveyed(a);
	} else if (!hak_pass_begin(a, HAK_PASS_SURVEY))
		hak_recon_off(a);
}

/* One that only looks needs no survey. */
void hak_copy_ask(struct hak_apply *a)
{
	uint8_t bytes[16], body[12];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes), b = hak_wr_on(body, sizeof body);

	a->generation = a->generation + 1 ? a->generation + 1 : 1;
	atomic_store(&a->e->generation, a->generation);
	hak_apply_phase(a, HAK_PHASE_ASKED);
	hak_wr_u32(&b, a->generation);
	hak_wr_u32(&b, a->scoped ? a->round : 0);
	if (!a->scoped && a->round % HAK_ROUND_STEPS == 0)
		hak_wr_u32(&b, a->round);
	(void)hak_wire_put_raw(&w, HAK_REC_SYNC_WANT, body, hak_wr_len(&b));
	hak_wish(a->e, &w);
}

static void surveyed(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	uint32_t larval = e->cfg.larval_timeout;

	if (a->longest + MARGIN_S > larval)
		larval = a->longest + MARGIN_S;
	if (larval > TIMEOUT_MAX_S) {
		/* Thousands of copies within the same days: begin at the bottom
		 * again, with nothing left that could be mistaken. */
		a->purge_all = true;
		a->scoped = false;
		if (hak_pass_begin(a, HAK_PASS_PURGE))
			return;
	}
	atomic_store(&e->larval_timeout, larval);
	a->expect_larval += MARGIN_S;
	if (a->expect_larval > EXPECT_LARVAL_MAX)
		a->expect_larval = HAK_EXPECT_LARVAL;
	a->mark_ns = hak_now();
	hak_copy_ask(a);
}

void hak_sync_on_begin(struct hak_apply *a, uint32_t generation, uint32_t sums, uint8_t bits)
{
	if (a->phase != HAK_PHASE_ASKED || generation != a->generation)
		return;			/* of a copy we gave up */
	hak_wish(a->e, NULL);
	if (!a->scoped && sums && sums == a->round) {
		hak_recon_sums(a, bits);
		a->e->rx_digest.copying = a->e->rx_digest.brief = a->unread = true;
		hak_roll_begin(&a->e->rx_roll);
	}
	hak_apply_phase(a, HAK_PHASE_RUNNING);
}

void hak_sync_on_end(struct hak_apply *a, uint32_t generation, uint64_t entries)
{
	if (a->phase != HAK_PHASE_RUNNING || generation != a->generation)
		return;
	hak_apply_phase(a, HAK_PHASE_PURGE);
	if (a->e->rx_digest.copying) {
		a->peer_entries = (uint32_t)entries;
		if (a->empty) {			/* all that is here is of the copy, or later */
			hak_count(&a->e->stats, HAK_STAT_SYNCS_DONE);
			hak_recon_copied(a);
			return;
		}
	}
	/* The second proof lists the table anyway, and can remove what it finds. */
	a->purging = a->repair && a->scoped && !a->residue && (a->round + 1) % HAK_ROUND_STEPS;
	if (a->purging)
		hak_digest_keep_marks(&a->e->rx_digest, a->purge);
	if (!hak_pass_begin(a, a->purging ? HAK_PASS_PURGE_EXPECTS :
				a->repair ? HAK_PASS_PURGE : HAK_PASS_COUNT)) {
		hak_recon_off(a);
		atomic_store(&a->e->sync_needed, true);
	}
}

static void swept(struct hak_engine *e, uint64_t began, uint64_t done)
{
	hak_count_n(&e->stats, HAK_STAT_SWEPT, done);
	hak_emit(e, HAK_EV_SWEEP_DONE, done, 0, hak_now() - began, NULL);
}

static void pass_complete(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	enum hak_pass pass = a->pass;
	uint64_t done = a->pass_done, began = a->pass_began;

	a->pass = HAK_PASS_NONE;
	/* A resize hid entries from this pass: once more, until one was undisturbed. */
	if (a->pass_disturbed && !of_expects(pass)) {
		if (pass == HAK_PASS_DIGEST)
			hak_digest_restart(&e->rx_digest);
		if (hak_pass_begin(a, pass)) {
			a->pass_done = pass == HAK_PASS_COUNT ? 0 : done;
			return;
		}
	}
	switch (pass) {
	case HAK_PASS_DIGEST:
		hak_count_n(&e->stats, HAK_STAT_SYNC_REMOVED, done);
		a->purging = false;
		if (!hak_pass_begin(a, HAK_PASS_DIGEST_EXPECTS))
			hak_recon_off(a);
		break;
	case HAK_PASS_DIGEST_EXPECTS:
		hak_recon_listed(a);
		break;
	case HAK_PASS_SURVEY:
		surveyed(a);
		break;
	case HAK_PASS_COUNT:
		a->pass_done = done;
		hak_recon_counted(a);
		break;
	case HAK_PASS_PURGE:
		if (a->purge_all) {
			a->purge_all = false;
			a->longest = 0;
			surveyed(a);
			break;
		}
		hak_count_n(&e->stats, HAK_STAT_SYNC_REMOVED, done);
		if (!hak_pass_begin(a, HAK_PASS_PURGE_EXPECTS))
			hak_recon_off(a);
		a->pass_done = done;
		break;
	case HAK_PASS_PURGE_EXPECTS:
		hak_count(&e->stats, HAK_STAT_SYNCS_DONE);
		hak_recon_copied(a);
		break;
	case HAK_PASS_SWEEP:
		hak_gre_looked(a);
		if (!hak_pass_begin(a, HAK_PASS_SWEEP_EXPECTS))
			swept(e, began, done);
		a->pass_began = began;		/* both count as one */
		a->pass_done = done;
		break;
	case HAK_PASS_SWEEP_EXPECTS:
		swept(e, began, done);
		break;
	case HAK_PASS_REAP:
		hak_gre_looked(a);
		break;
	case HAK_PASS_LOOSEN:
	case HAK_PASS_OFFER:
	case HAK_PASS_NONE:
		break;
	}
}

static uint64_t passive_step(struct hak_apply *a)
{
	if (active_pass(a->pass))
		a->pass = HAK_PASS_NONE;	/* we stepped down during it */
	return hak_recon_step(a);
}

/* ns until there is more to do */
static uint64_t active_step(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	bool asked;

	hak_recon_off(a);
	pthread_mutex_lock(&e->q_lock);
	asked = e->sweep_asked;
	e->sweep_asked = false;
	if (asked)
		memcpy(a->natural, e->natural, sizeof a->natural);
	pthread_mutex_unlock(&e->q_lock);
	if (asked)
		hak_gre_forget(a);
	if (asked && !hak_pass_begin(a, HAK_PASS_SWEEP)) {
		pthread_mutex_lock(&e->q_lock);
		e->sweep_asked = true;
		pthread_mutex_unlock(&e->q_lock);
	}
	if (a->pass == HAK_PASS_NONE && atomic_exchange(&e->loosen_asked, false))
		(void)hak_pass_begin(a, HAK_PASS_LOOSEN);
	if (!a->gre_due_ns || a->pass != HAK_PASS_NONE)
		return UINT64_MAX;
	if (hak_now() < a->gre_due_ns)
		return a->gre_due_ns - hak_now();
	if (!hak_pass_begin(a, HAK_PASS_REAP))
		a->gre_due_ns = hak_now() + 1000 * (uint64_t)HAK_MS;
	return 0;
}

uint64_t hak_sync_step(struct hak_apply *a)
{
	int role = atomic_load(&a->e->role);
	uint64_t now, wait = UINT64_MAX;

	if (role == HAK_PASSIVE)
		wait = passive_step(a);
	else if (role == HAK_ACTIVE)
		wait = active_step(a);
	else
		hak_recon_off(a);
	if (a->pass == HAK_PASS_NONE || hak_offer_waits(a))
		return wait;
	now = hak_now();
	if (now < a->pass_next)
		return a->pass_next - now < wait ? a->pass_next - now : wait;
	if (a->some ? look_at_some(a) : pass_chunk(a))
		pass_complete(a);
	return 0;
}
