/* hak_apply.c - the apply thread: the stream becomes entries of this kernel.
 *
 * Records are put into batches of ctnetlink messages, one system call each.  The
 * kernel answers failures only, by sequence number, so every error is matched to
 * its record and cured one by one, by class:
 *
 *   NEW, EEXIST        the tuple is here: same reply, update it; other reply, or a
 *                      stranger that owns the reply tuple: evict, create again
 *   NEW, ENOENT        its master is not here: create without
 *   NEW, EOPNOTSUPP    helper unknown to this kernel: create without
 *   UPDATE, ENOENT     ask the active for the whole entry
 *   UPDATE, EBUSY      EXPECTED differs, or a bit would be cleared: replace
 *   ENOMEM, ENOSPC     table full, chain too long: count, alarm, go on
 *   DESTROY, ENOENT    gone already: fine
 *
 * A cure must not undo what a later record of the same batch did to the same
 * connection, so those later records are done again after it, in order.
 *
 * SYNC records travel in batches of their own.  While most of them are here
 * already a first batch of GETs looks at them (an update by the original tuple would
 * not notice another NAT, helper or master), and a second one updates or creates.
 *
 * Not handled: two connections swapping their translated ports within one batch
 * (the second is cured like any clash, the first comes back with its next event).
 */
#include "hak_apply_int.h"
#include "hak_tcp.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/netfilter/nf_conntrack_common.h>

enum { SLOTS_PER_TURN = 64, COMPLAIN_NS = 1000 * HAK_MS, FILL_NS = 250 * HAK_MS };

static struct hak_ct_form larval(const struct hak_apply *a)
{
	return (struct hak_ct_form){
		.timeout = atomic_load_explicit(&a->e->larval_timeout, memory_order_relaxed),
		.larval = true,
	};
}

/* An entry whose timeout is fixed refuses CTA_TIMEOUT (EPERM). */
static struct hak_ct_form larval_update(const struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_ct_form form = larval(a);

	if (f->l4proto == IPPROTO_GRE)
		form.timeout = 0;
	return form;
}

/* Can an update make of the entry that is here what *f says, *f being told as a whole?
 * What an entry is born with, and what an update can add and not take away, only
 * another entry in its place has otherwise. */
static bool can_update(const struct hak_flow *here, const struct hak_flow *f)
{
	const uint32_t grows = IPS_SEEN_REPLY | IPS_ASSURED;
	const uint32_t extras = HAK_HAS_SEQADJ | HAK_HAS_SYNPROXY;
	static const uint8_t none[HAK_LABELS_LEN];

	if (f->l4proto == IPPROTO_GRE)		/* its timeout is fixed: see hak_gre.c */
		return false;
	if (!hak_tuple_equal(&here->reply, &f->reply) || strcmp(here->helper, f->helper) ||
	    here->status & ~f->status & grows || here->have & ~f->have & extras)
		return false;
	/* A child without its master's name is one whose master is gone. */
	if (f->have & HAK_HAS_MASTER ? !(here->have & HAK_HAS_MASTER) ||
				       !hak_tuple_equal(&here->master, &f->master)
				     : here->have & HAK_HAS_MASTER && !(f->status & IPS_EXPECTED))
		return false;
	return f->have & HAK_HAS_LABELS || !memcmp(here->labels, none, sizeof none);
}

/* ---- one synchronous call -------------------------------------------- */

int hak_apply_call(struct hak_apply *a, const struct hak_wr *w, uint32_t seq,
		   struct hak_ctmsg *reply)
{
	struct hak_nl *nl = &a->e->apply_nl;

	if (hak_nl_send(nl, w))
		return errno;
	for (;;) {
		struct hak_rd r;
		size_t n;

		/* the kernel has answered before send() returned */
		if (hak_nl_recv(nl, a->in, sizeof a->in, MSG_DONTWAIT, &n))
			return errno;
		if (!n)
			return EIO;
		r = hak_rd_on(a->in, n);
		while (hak_rd_left(&r)) {
			struct hak_ctmsg *m = reply ? reply : &a->msg;

			if (hak_ct_next(&r, m) || m->seq != seq)
				continue;
			return m->what == HAK_CT_ERROR ? m->error : 0;
		}
	}
}

static int call(struct hak_apply *a,
		enum hak_err (*put)(struct hak_wr *, uint32_t, const struct hak_flow *,
				    const struct hak_ct_form *),
		const struct hak_flow *f, struct hak_ct_form form)
{
	struct hak_wr w = hak_wr_on(a->out, sizeof a->out);
	uint32_t seq = ++a->e->apply_nl.seq;

	form.ack = true;
	return put(&w, seq, f, &form) ? EINVAL : hak_apply_call(a, &w, seq, NULL);
}

int hak_apply_get(struct hak_apply *a, const struct hak_flow *f, struct hak_ctmsg *reply)
{
	uint8_t out[512];		/* a pass may have messages in a->out */
	struct hak_wr w = hak_wr_on(out, sizeof out);
	uint32_t seq = ++a->e->apply_nl.seq;

	return hak_ct_put_get(&w, seq, f) ? EINVAL : hak_apply_call(a, &w, seq, reply);
}

int hak_apply_delete(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_wr w = hak_wr_on(a->out, sizeof a->out);
	uint32_t seq = ++a->e->apply_nl.seq;

	return hak_ct_put_delete(&w, seq, f, true) ? EINVAL : hak_apply_call(a, &w, seq, NULL);
}

static int delete_reply_owner(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_wr w = hak_wr_on(a->out, sizeof a->out);
	uint32_t seq = ++a->e->apply_nl.seq;

	return hak_ct_put_delete_reply(&w, seq, f, true) ? EINVAL
							 : hak_apply_call(a, &w, seq, NULL);
}

/* ---- cures, one record at a time ------------------------------------- */

static void complain(struct hak_apply *a, int err, const struct hak_record *rec)
{
	uint64_t now = hak_now();
	char flow[112], text[HAK_TEXT];

	if (err == ENOMEM || err == ENOSPC || err == E2BIG) {
		hak_count(&a->e->stats, HAK_STAT_APPLY_FULL);
		if (now - a->full_ns > COMPLAIN_NS || !a->full_ns) {
			a->full_ns = now;
			hak_emit(a->e, HAK_EV_TABLE_FULL, (uint64_t)err, 0, 0, NULL);
		}
		return;
	}
	hak_count(&a->e->stats, HAK_STAT_APPLY_FAILED);
	if (now - a->complained_ns < COMPLAIN_NS && a->complained_ns)
		return;
	a->complained_ns = now;
	if (rec->type <= HAK_REC_FLOW_SYNC)
		hak_flow_text(&rec->flow, flow, sizeof flow);
	else
		snprintf(flow, sizeof flow, "expectation");
	snprintf(text, sizeof text, "%s: %s", hak_rec_name(rec->type), flow);
	hak_emit(a->e, HAK_EV_APPLY_ERROR, (uint64_t)err, 0, 0, text);
}

static void want(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_ask ask = { .flow = *f };

	hak_count(&a->e->stats, HAK_STAT_APPLY_WANTED);
	pthread_mutex_lock(&a->e->q_lock);
	(void)hak_asks_put(&a->e->wants, &ask);	/* full: its next event asks again */
	pthread_mutex_unlock(&a->e->q_lock);
	hak_wake(a->e->wake_io);
}

/* Create, giving up what this kernel cannot take: better a connection without
 * its helper than none. */
static int create(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_ct_form form = larval(a);
	int err;

	form.excl = true;
	err = call(a, hak_ct_put_create, f, form);
	if (err == ENOENT && f->have & HAK_HAS_MASTER) {
		form.no_master = a->reduced = true;
		hak_count(&a->e->stats, HAK_STAT_APPLY_NO_MASTER);
		err = call(a, hak_ct_put_create, f, form);
	}
	if (err == EOPNOTSUPP && f->have & HAK_HAS_HELPER) {
		form.no_helper = a->reduced = true;
		hak_count(&a->e->stats, HAK_STAT_APPLY_NO_HELPER);
		err = call(a, hak_ct_put_create, f, form);
	}
	if (!err)
		hak_count(&a->e->stats, HAK_STAT_APPLY_CREATED);
	return err;
}

static int update(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_ct_form form = larval_update(a, f);
	int err = call(a, hak_ct_put_update, f, form);

	if (err == EBUSY) {
		form.flip_expected = true;	/* it was created without its master */
		err = call(a, hak_ct_put_update, f, form);
	}
	if (err == ENOSPC && f->have & HAK_HAS_LABELS) {
		form.no_labels = a->reduced = true;
		hak_count(&a->e->stats, HAK_STAT_APPLY_NO_LABELS);
		err = call(a, hak_ct_put_update, f, form);
	}
	if (!err)
		hak_count(&a->e->stats, HAK_STAT_APPLY_UPDATED);
	return err;
}

int hak_apply_replace(struct hak_apply *a, const struct hak_flow *f)
{
	(void)hak_apply_delete(a, f);
	return create(a, f);
}

/* The entry must be as *f says, whatever is here now. */
static int impose(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_ctmsg here;
	int err;

	err = hak_apply_get(a, f, &here);
	if (!err && can_update(&here.flow, f)) {
		err = update(a, f);
		if (!err)
			hak_count(&a->e->stats, HAK_STAT_APPLY_EXISTED);
		if (err != EBUSY && err != EOPNOTSUPP)
			return err;
		/* an older life of the same tuple, with bits the kernel never clears */
		err = 0;
	}
	if (!err) {
		hak_count(&a->e->stats, HAK_STAT_APPLY_REPLACED);
		(void)hak_apply_delete(a, f);
	}
	err = create(a, f);
	if (err != EEXIST)
		return err;
	/* Somebody else owns the reply tuple: pin ours, the active is right. */
	hak_count(&a->e->stats, HAK_STAT_APPLY_EVICTED);
	(void)delete_reply_owner(a, f);
	return create(a, f);
}

static int cure_update(struct hak_apply *a, const struct hak_flow *f)
{
	int err = update(a, f);

	if (err == EBUSY) {
		/* What was told as a whole between two events is ahead of the second one,
		 * and a status only grows.  Delete the entry for that, and what is expected
		 * of it is gone as well. */
		struct hak_flow grown = *f;
		struct hak_ctmsg here;

		if (!hak_apply_get(a, f, &here)) {
			grown.status |= here.flow.status & (IPS_SEEN_REPLY | IPS_ASSURED);
			err = update(a, &grown);
		}
	}
	if (err == EBUSY || err == EOPNOTSUPP) {
		(void)hak_apply_delete(a, f);
		err = ENOENT;
	}
	if (err != ENOENT)
		return err;
	want(a, f);
	return 0;
}

static int put_expect(struct hak_apply *a, const struct hak_record *rec)
{
	struct hak_wr w = hak_wr_on(a->out, sizeof a->out);
	uint32_t seq = ++a->e->apply_nl.seq;
	int err;

	hak_count(&a->e->stats, HAK_STAT_APPLY_EXPECTS);
	if (rec->type == HAK_REC_EXP_DESTROY) {
		if (hak_exp_put_delete(&w, seq, &rec->expect, true))
			return EINVAL;
		err = hak_apply_call(a, &w, seq, NULL);
		return err == ENOENT ? 0 : err;	/* it died with its master */
	}
	if (hak_exp_put_create(&w, seq, &rec->expect, true))
		return EINVAL;
	err = hak_apply_call(a, &w, seq, NULL);
	if (err == EEXIST) {
		/* perhaps with other flags, which no update changes */
		w = hak_wr_on(a->out, sizeof a->out);
		seq = ++a->e->apply_nl.seq;
		if (hak_exp_put_delete(&w, seq, &rec->expect, true))
			return EINVAL;
		(void)hak_apply_call(a, &w, seq, NULL);
		w = hak_wr_on(a->out, sizeof a->out);
		seq = ++a->e->apply_nl.seq;
		if (hak_exp_put_create(&w, seq, &rec->expect, true))
			return EINVAL;
		err = hak_apply_call(a, &w, seq, NULL);
	}
	if (err)
		return err;
	if (hak_recon_counts(a))
		hak_recon_found(a, &a->found.missing, "missing expectation of", NULL);
	w = hak_wr_on(a->out, sizeof a->out);
	seq = ++a->e->apply_nl.seq;
	if (hak_exp_put_timeout(&w, seq, &rec->expect, a->expect_larval))
		return EINVAL;
	return hak_apply_call(a, &w, seq, NULL);
}

/* True: the kernel has it as it was told. */
static bool cure(struct hak_apply *a, const struct hak_record *rec)
{
	int err = 0;

	a->reduced = false;
	switch (rec->type) {
	case HAK_REC_FLOW_NEW:
	case HAK_REC_FLOW_SYNC:
		err = impose(a, &rec->flow);
		break;
	case HAK_REC_FLOW_UPDATE:
		err = cure_update(a, &rec->flow);
		break;
	case HAK_REC_FLOW_DESTROY:
		err = hak_apply_delete(a, &rec->flow);
		if (err == ENOENT)
			err = 0;
		break;
	}
	if (err)
		complain(a, err, rec);
	return !err && !a->reduced;
}

/* ---- batches --------------------------------------------------------- */

/* The entry of SYNC record i, as it is here. */
static void saw(struct hak_apply *a, uint32_t i, struct hak_flow *here)
{
	const struct hak_flow *f = &a->recs[i].flow;

	a->seen[i] = can_update(here, f) ? 1 : 2;
	/* a child's master may have gone on either node first */
	if (!(f->have & HAK_HAS_MASTER) && f->status & IPS_EXPECTED)
		here->have &= ~(uint32_t)HAK_HAS_MASTER;
	a->differs[i] = hak_flow_differs(here, f);
}

/* Send what is in `w`, whose messages bear base + index, and note each answer. */
static void transact(struct hak_apply *a, const struct hak_wr *w, uint32_t base)
{
	struct hak_nl *nl = &a->e->apply_nl;
	size_t n;

	if (!hak_wr_len(w))
		return;
	if (hak_nl_send(nl, w)) {
		int err = errno;

		for (unsigned i = 0; i < a->n; i++)
			a->result[i] = err;
		return;
	}
	for (;;) {
		struct hak_rd r;

		if (hak_nl_recv(nl, a->in, sizeof a->in, MSG_DONTWAIT, &n)) {
			/* answers were lost: each record is to be looked at alone */
			for (unsigned i = 0; i < a->n; i++)
				a->result[i] = ENOBUFS;
			continue;
		}
		if (!n)
			return;
		r = hak_rd_on(a->in, n);
		while (hak_rd_left(&r)) {
			struct hak_ctmsg *m = &a->msg;
			uint32_t i;

			if (hak_ct_next(&r, m))
				continue;
			i = m->seq - base;
			if (i >= a->n)
				continue;
			if (m->what == HAK_CT_ERROR)
				a->result[i] = m->error;
			else
				saw(a, i, &m->flow);
		}
	}
}

static struct hak_wr open_out(struct hak_apply *a, uint32_t *base)
{
	*base = a->e->apply_nl.seq + 1;
	a->e->apply_nl.seq += HAK_BATCH;
	return hak_wr_on(a->out, sizeof a->out);
}

/* One live record's message.  Expectations are few and go alone. */
static enum hak_err put_live(struct hak_apply *a, struct hak_wr *w, uint32_t seq,
			     const struct hak_record *rec)
{
	struct hak_ct_form form;

	switch (rec->type) {
	case HAK_REC_FLOW_NEW:
	case HAK_REC_FLOW_SYNC:
		form = larval(a);
		form.excl = true;
		return hak_ct_put_create(w, seq, &rec->flow, &form);
	case HAK_REC_FLOW_UPDATE:
		form = larval_update(a, &rec->flow);
		return hak_ct_put_update(w, seq, &rec->flow, &form);
	default:
		return hak_ct_put_delete(w, seq, &rec->flow, false);
	}
}

static void count_done(struct hak_apply *a, uint8_t type, uint64_t n)
{
	static const enum hak_stat by[] = {
		[HAK_REC_FLOW_NEW] = HAK_STAT_APPLY_CREATED,
		[HAK_REC_FLOW_SYNC] = HAK_STAT_APPLY_CREATED,
		[HAK_REC_FLOW_UPDATE] = HAK_STAT_APPLY_UPDATED,
		[HAK_REC_FLOW_DESTROY] = HAK_STAT_APPLY_DELETED,
	};

	hak_count_n(&a->e->stats, by[type], n);
}

static void flush_live(struct hak_apply *a)
{
	uint32_t base;
	struct hak_wr w = open_out(a, &base);

	for (unsigned i = 0; i < a->n; i++) {
		a->result[i] = 0;
		if (put_live(a, &w, base + i, &a->recs[i]))
			a->result[i] = EINVAL;
	}
	transact(a, &w, base);
	for (unsigned i = 0; i < a->n; i++) {
		const struct hak_record *rec = &a->recs[i];

		a->kept[i] = !a->result[i];
		if (a->kept[i]) {
			count_done(a, rec->type, 1);
			continue;
		}
		if (a->result[i] == ENOENT && rec->type == HAK_REC_FLOW_DESTROY) {
			hak_count(&a->e->stats, HAK_STAT_APPLY_GONE);
			continue;
		}
		a->kept[i] = cure(a, rec);
		for (unsigned k = i + 1; k < a->n; k++)
			if (!a->result[k] && hak_same_flow(&a->recs[k].flow, &rec->flow))
				a->result[k] = EAGAIN;	/* again, after the cure */
	}
}

/* What does our kernel say about these SYNC records' entries? */
static void look(struct hak_apply *a)
{
	uint32_t base;
	struct hak_wr w = open_out(a, &base);

	for (unsigned i = 0; i < a->n; i++) {
		a->result[i] = 0;
		a->seen[i] = 0;
		a->differs[i] = false;
		if (hak_ct_put_get(&w, base + i, &a->recs[i].flow))
			a->result[i] = EINVAL;
	}
	transact(a, &w, base);
	if (!hak_recon_counts(a))
		return;
	for (unsigned i = 0; i < a->n; i++) {
		const struct hak_flow *f = &a->recs[i].flow;

		/* not a master that was sent along */
		if (a->scoped && !hak_bit(a->e->rx_digest.marked, hak_digest_slot(&a->e->rx_digest, f)))
			continue;
		if (!a->seen[i])
			hak_recon_found(a, &a->found.missing, "missing", f);
		else if (a->differs[i])
			hak_recon_found(a, &a->found.different, "different", f);
		a->matched += a->seen[i] != 0;
	}
}

/* SYNC records whose entries are mostly here: look, then write. */
static void flush_copy(struct hak_apply *a)
{
	uint32_t base;
	struct hak_wr w;
	unsigned here = 0;

	look(a);
	w = open_out(a, &base);
	for (unsigned i = 0; i < a->n; i++) {
		const struct hak_flow *f = &a->recs[i].flow;
		struct hak_ct_form form = larval(a);

		here += a->seen[i] != 0;
		a->result[i] = 0;
		if (a->seen[i] == 2) {
			a->result[i] = EEXIST;
			continue;
		}
		form.excl = true;
		if (a->seen[i] ? hak_ct_put_update(&w, base + i, f, &form)
			       : hak_ct_put_create(&w, base + i, f, &form))
			a->result[i] = EINVAL;
	}
	transact(a, &w, base);
	for (unsigned i = 0; i < a->n; i++) {
		a->kept[i] = a->result[i] ? cure(a, &a->recs[i]) : true;
		if (!a->result[i])
			count_done(a, a->seen[i] ? HAK_REC_FLOW_UPDATE : HAK_REC_FLOW_NEW, 1);
	}
	a->exists = here * 2 >= a->n;
}

static void flush_new_copy(struct hak_apply *a)
{
	unsigned clashes = 0;

	flush_live(a);
	for (unsigned i = 0; i < a->n; i++) {
		clashes += a->result[i] == EEXIST;
		if (!a->result[i] && hak_recon_counts(a))
			hak_recon_found(a, &a->found.missing, "missing", &a->recs[i].flow);
	}
	a->exists = clashes * 2 > a->n;
}

static void flush(struct hak_apply *a)
{
	struct hak_digest *d = &a->e->rx_digest;

	if (!a->n)
		return;
	hak_count_n(&a->e->stats, HAK_STAT_APPLIED, a->n);
	if (!a->copying)
		flush_live(a);
	else if (a->phase == HAK_PHASE_RUNNING && !a->repair)
		look(a);
	else if (a->exists || (a->phase == HAK_PHASE_RUNNING && a->scoped))
		flush_copy(a);
	else
		flush_new_copy(a);
	/* Of a copy into nothing, what this kernel took is the proof. */
	for (unsigned i = 0; a->copying && d->open && d->copying && i < a->n; i++)
		if (a->kept[i])
			hak_digest_add_flow(d, &a->recs[i].flow);
	a->n = 0;
}

/* ---- records --------------------------------------------------------- */

/* Something did not reach us and never will: the tables are to be compared. */
static void stream_lost(struct hak_apply *a)
{
	struct hak_engine *e = a->e;

	hak_count(&e->stats, HAK_STAT_STREAM_LOST);
	atomic_store(&e->synced, false);
	atomic_store(&e->sync_needed, true);
	hak_emit(e, HAK_EV_STREAM_LOST, 0, 0, 0, NULL);
}

/* False: it is no K2K. */
static bool on_record(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	struct hak_record *rec = &a->recs[a->n];
	bool copying = rec->type == HAK_REC_FLOW_SYNC;

	hak_recon_touch(a, rec);
	switch (rec->type) {
	case HAK_REC_FLOW_NEW:
	case HAK_REC_FLOW_UPDATE:
	case HAK_REC_FLOW_DESTROY:
	case HAK_REC_FLOW_SYNC:
		if (a->n && copying != a->copying) {
			struct hak_record keep = *rec;

			flush(a);
			a->recs[0] = keep;
		}
		hak_tcp_settle(&a->recs[a->n].flow);
		a->copying = copying;
		a->copied += copying;
		if (copying)
			a->phase_ns = hak_now();	/* progress */
		if (++a->n == HAK_BATCH)
			flush(a);
		return true;
	}
	/* All others stand between what was before and what comes after. */
	struct hak_record r = *rec;
	int err;

	flush(a);
	switch (r.type) {
	case HAK_REC_EXP_NEW:
	case HAK_REC_EXP_DESTROY:
		err = put_expect(a, &r);
		if (err)
			complain(a, err, &r);
		break;
	case HAK_REC_SYNC_BEGIN:
		hak_sync_on_begin(a, r.sync.generation, r.sync.sums, r.sync.bits);
		break;
	case HAK_REC_SYNC_END:
		hak_sync_on_end(a, r.sync.generation, r.sync.entries);
		break;
	case HAK_REC_SYNC_LOST:
		stream_lost(a);
		break;
	case HAK_REC_HANDOVER:
		hak_emit(e, HAK_EV_HANDOVER, r.term, 0, 0, NULL);
		hak_ack_soon(e);
		break;
	case HAK_REC_RECON_BEGIN:
	case HAK_REC_RECON_LISTED:
	case HAK_REC_RECON_CLOSE:
	case HAK_REC_RECON_SUMS:
	case HAK_REC_RECON_BRIEF:
	case HAK_REC_RECON_MARKED:
		return !hak_recon_on_record(a, r.type, r.body);
	case HAK_REC_OFFERED:
		return !hak_offer_answered(a, r.body);
	default:
		hak_count(&e->stats, HAK_STAT_DROP_RECORD);	/* CONTROL in the stream */
	}
	return true;
}

static void on_payload(struct hak_apply *a, const struct hak_held *h)
{
	struct hak_engine *e = a->e;
	struct hak_rd r = hak_rd_on(h->bytes, h->len);
	unsigned fields = 0;

	while (hak_rd_left(&r)) {
		enum hak_err err = hak_wire_get(&r, &a->recs[a->n], &fields);

		if (err == HAK_ESKIP) {
			hak_count(&e->stats, HAK_STAT_DROP_RECORD);
			continue;
		}
		if (!err && !on_record(a))
			err = HAK_EFORMAT;
		if (!err) {
			hak_count(&e->stats, HAK_STAT_RX_RECORDS);
		} else {
			/* authentic and yet not K2K: the rest cannot be trusted, and
			 * what it said is lost */
			hak_count(&e->stats, HAK_STAT_DROP_MALFORMED);
			stream_lost(a);
			break;
		}
	}
	if (fields)
		hak_count_n(&e->stats, HAK_STAT_DROP_FIELD, fields);
}

/* True: some slots were dealt with. */
static bool take_stream(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	uint64_t from, to;
	bool lost = false, ours = atomic_load(&e->role) != HAK_ACTIVE;

	pthread_mutex_lock(&e->rx_lock);
	if (e->rx_reset) {
		hak_rx_reset(&e->rx);
		e->rx_reset = false;
	}
	if (e->rx_jump && e->rx.applied == e->rx.next) {
		lost = hak_rx_announce(&e->rx, e->jump_next, e->jump_base, hak_now());
		hak_rx_done(&e->rx, e->rx.next > e->jump_base ? e->jump_base : e->rx.next);
		e->rx_jump = false;
	}
	from = e->rx.applied;
	to = e->rx.next;
	pthread_mutex_unlock(&e->rx_lock);
	if (lost)
		stream_lost(a);
	if (from == to)
		return false;
	if (to - from > SLOTS_PER_TURN)
		to = from + SLOTS_PER_TURN;
	a->took = true;
	/* nobody fills a slot below applied + window: these are ours */
	for (uint64_t s = from; ours && s < to; s++) {
		a->seq = s;
		on_payload(a, hak_rx_slot(&e->rx, s));
	}
	flush(a);
	pthread_mutex_lock(&e->rx_lock);
	if (!e->rx_reset)
		hak_rx_done(&e->rx, to);
	pthread_mutex_unlock(&e->rx_lock);
	return true;
}

static bool waiting(struct hak_engine *e)
{
	bool w;

	pthread_mutex_lock(&e->rx_lock);
	w = e->rx.applied != e->rx.next || e->rx_reset || e->rx_jump;
	pthread_mutex_unlock(&e->rx_lock);
	return w;
}

/* The active node must know before it is full: some can wait, none can be refused. */
static void look_how_full(struct hak_apply *a)
{
	struct hak_engine *e = a->e;
	uint64_t now = hak_now();
	uint32_t max;
	int64_t n;

	if (now - a->fill_ns < FILL_NS)
		return;
	a->fill_ns = now;
	n = hak_nl_table_count(&e->apply_nl, &max);
	if (n > (int64_t)max)
		n = max;
	atomic_store(&e->table_max, max);
	atomic_store(&e->fill, n >= 0 && max ? (uint8_t)(1 + n * 100 / max) : 0);
}

void *hak_apply_main(void *engine)
{
	struct hak_engine *e = engine;
	struct hak_apply a;		/* 440 KB, mostly buffers */

	memset(&a, 0, sizeof a);
	a.e = e;
	a.buckets_fd = -1;
	a.expect_larval = HAK_EXPECT_LARVAL;
	while (!atomic_load(&e->stop)) {
		uint64_t wait;

		if (atomic_load(&e->role) == HAK_PASSIVE)
			look_how_full(&a);
		hak_tell_prepare(e);
		if (take_stream(&a)) {
			(void)hak_sync_step(&a);
			continue;
		}
		wait = hak_sync_step(&a);
		atomic_store(&e->apply_idle, true);
		if (waiting(e)) {
			atomic_store(&e->apply_idle, false);
			continue;
		}
		pthread_mutex_lock(&e->q_lock);
		pthread_cond_broadcast(&e->turned);
		pthread_mutex_unlock(&e->q_lock);
		hak_apply_wait(&a, wait);
	}
	if (a.buckets_fd >= 0)
		close(a.buckets_fd);
	return NULL;
}
