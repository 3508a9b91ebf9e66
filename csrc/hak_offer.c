/* hak_offer.c - after a split: what began on the node that gives way is offered to the
 * one that stays, before the comparison removes it.
 *
 *   gives way (apply thread)                  stays active (capture thread)
 *     OFFER: number, connections ------------>  makes those it can
 *           <------- OFFERED: number, taken, refused, in the stream
 *     the next ones ...
 *     the comparison
 *
 * Offered is what is answered (what is not, begins anew by itself) and was made here
 * after the last datagram that reached the peer (hak_born.h), or while there never was a
 * session.  What is older, the peer knew, and has ended if it has it no more.
 *
 * The peer makes an ordinary entry of its own of each, if nothing of its own is in the
 * way: nothing there is changed, replaced or ended.  TCP is liberal there, as a packet
 * may come at once and nobody knows the windows; the timeout is the natural one.  Its
 * kernel tells of the new entry, and the stream tells it here, where it becomes a larva
 * like any other.  So an offer that is lost, repeated or refused needs no undoing.
 *
 * One OFFER is under way at a time.  A peer that does not answer (an older version) is
 * compared with at once; so is one that takes too long for all of them.
 *
 * Not handled: GRE, whose timeouts are in the entry; expectations; what is younger than
 * the youngest some 60,000.
 */
#include "hak_apply_int.h"
#include "hak_capture_int.h"
#include "hak_tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum {
	OFFER_BODY = 1300,		/* of one OFFER */
	OFFER_FLOWS = 32,		/* in it */
	TIMEOUT_S = 60,			/* where no natural one is known */
};

#define BATCH_NS (10 * (uint64_t)HAK_MS)	/* in which a datagram is filled */
#define SILENT_NS (1000 * (uint64_t)HAK_MS)	/* without an answer */
#define AGAIN_NS (1000 * (uint64_t)HAK_MS)	/* without one: the next conflict is another one */
#define ALL_NS (10000 * (uint64_t)HAK_MS)	/* for all of them: this node is not ready */

/* ---- what the peer cannot know --------------------------------------- */

uint64_t hak_untold_since(struct hak_engine *e)
{
	uint64_t since = atomic_load(&e->active_ns);
	const struct hak_sent *d;
	uint64_t ns;

	pthread_mutex_lock(&e->tx_lock);
	d = hak_tx_find(&e->tx, e->tx.applied);		/* the first that is not there */
	ns = d ? d->ns - BATCH_NS : e->tx.last_ns + 1;
	pthread_mutex_unlock(&e->tx_lock);
	return ns > since ? ns : since;
}

/* ---- the node that gives way ----------------------------------------- */

bool hak_offer_begin(struct hak_apply *a)
{
	struct hak_offering *o = &a->offer;
	uint64_t now = hak_now();

	o->from_ns = atomic_load(&a->e->offer_from_ns);
	if (!o->from_ns)
		return false;
	if (now >= atomic_load(&a->e->offer_until_ns) || !hak_pass_begin(a, HAK_PASS_OFFER)) {
		atomic_store(&a->e->offer_from_ns, 0);
		return false;
	}
	o->until_ns = now + ALL_NS;
	o->w = hak_wr_on(o->bytes, sizeof o->bytes);
	o->at = 0;
	o->waits = false;
	o->taken = o->refused = o->made = 0;
	a->joining = true;
	hak_apply_phase(a, HAK_PHASE_OFFER);
	return true;
}

static bool young(const struct hak_apply *a, const struct hak_flow *f)
{
	const struct hak_engine *e = a->e;

	return a->offer.from_ns == HAK_OFFER_ALL ||
	       hak_born_since(&e->born, hak_flow_hash(f, e->hash_key), a->offer.from_ns);
}

static bool answered(const struct hak_flow *f)
{
	/* of a larva that opens it is not known (hak_tcp.h): the handshake is repeated */
	return f->status & IPS_SEEN_REPLY &&
	       !(f->have & HAK_HAS_TCP && (hak_tcp_opens(f->tcp_state) ||
					   f->tcp_state == TCP_CONNTRACK_TIME_WAIT ||
					   f->tcp_state == TCP_CONNTRACK_CLOSE));
}

/* One entry of this kernel's table. */
void hak_offer_see(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_offering *o = &a->offer;

	if (f->l4proto == IPPROTO_GRE || !answered(f) ||
	    hak_flow_is_local(hak_engine_locals(a->e), f) || !young(a, f))
		return;
	if (!hak_wire_put_flow(&o->w, HAK_REC_FLOW_SYNC, f))
		o->made++;
}

bool hak_offer_waits(const struct hak_apply *a)
{
	return a->phase == HAK_PHASE_OFFER && a->offer.at < hak_wr_len(&a->offer.w);
}

static void say_offer(struct hak_apply *a)
{
	struct hak_offering *o = &a->offer;
	uint8_t body[OFFER_BODY], bytes[OFFER_BODY + 8];
	struct hak_wr b = hak_wr_on(body, sizeof body), w = hak_wr_on(bytes, sizeof bytes);
	struct hak_rd r = hak_rd_on(o->bytes, hak_wr_len(&o->w)), from;
	size_t fits = 0, all;

	(void)hak_rd_sub(&r, o->at);
	from = r;
	all = hak_rd_left(&r);
	hak_wr_u32(&b, ++o->number);
	for (unsigned n = 0; n < OFFER_FLOWS && hak_rd_left(&r); n++) {
		struct hak_record rec;
		size_t end;

		if (hak_wire_get(&r, &rec, NULL))
			break;
		end = all - hak_rd_left(&r);
		if (end > hak_wr_left(&b))
			break;
		fits = end;
	}
	if (!fits)			/* none of ours is that long */
		fits = all;
	hak_wr_copy(&b, from.pos, fits);
	o->next = o->at + fits;
	o->waits = true;
	(void)hak_wire_put_raw(&w, HAK_REC_OFFER, body, hak_wr_len(&b));
	hak_wish(a->e, &w);
}

static void offered(struct hak_apply *a)
{
	struct hak_offering *o = &a->offer;
	struct hak_engine *e = a->e;

	hak_count_n(&e->stats, HAK_STAT_OFFERS_MADE, o->made);
	if (o->made)
		hak_emit(e, HAK_EV_OFFERED, o->taken, o->refused, o->made, NULL);
	atomic_store(&e->offer_from_ns, 0);
	hak_recon_off(a);
	hak_recon_start(a, NULL);
}

uint64_t hak_offer_step(struct hak_apply *a)
{
	struct hak_offering *o = &a->offer;
	uint64_t now = hak_now(), due = a->phase_ns + SILENT_NS;

	if (!o->waits) {
		if (o->at < hak_wr_len(&o->w))
			say_offer(a);
		else if (a->pass == HAK_PASS_NONE)
			goto over;
		else
			return 0;
	}
	if (now < due && now < o->until_ns)
		return (due < o->until_ns ? due : o->until_ns) - now;
over:
	offered(a);
	return 0;
}

enum hak_err hak_offer_answered(struct hak_apply *a, struct hak_rd body)
{
	struct hak_offering *o = &a->offer;
	uint32_t number = hak_rd_u32(&body), taken = hak_rd_u32(&body);
	uint32_t refused = hak_rd_u32(&body);

	if (body.bad)
		return HAK_EFORMAT;
	if (a->phase != HAK_PHASE_OFFER || !o->waits || number != o->number)
		return HAK_OK;
	hak_wish(a->e, NULL);
	hak_apply_phase(a, HAK_PHASE_OFFER);		/* progress */
	o->taken += taken;
	o->refused += refused;
	o->waits = false;
	o->at = o->next;
	if (o->at == hak_wr_len(&o->w)) {
		hak_wr_rewind(&o->w, 0);
		o->at = 0;
	}
	return HAK_OK;
}

/* ---- the node that stays --------------------------------------------- */

void hak_note_conflict(struct hak_engine *e)
{
	uint64_t now = hak_now(), before = atomic_exchange(&e->conflict_ns, now);

	if (before && now - before < AGAIN_NS)
		return;
	atomic_store(&e->loosen_asked, true);
	hak_wake(e->wake_apply);
}

bool hak_offer_valid(struct hak_rd body)
{
	struct hak_record rec;
	unsigned n = 0;

	(void)hak_rd_u32(&body);
	if (body.bad)
		return false;
	while (hak_rd_left(&body)) {
		enum hak_err err = hak_wire_get(&body, &rec, NULL);

		/* a shape of a later version is stepped over */
		if ((err && err != HAK_ESKIP) || (!err && rec.type != HAK_REC_FLOW_SYNC) ||
		    ++n > OFFER_FLOWS)
			return false;
	}
	return n > 0;
}

static int create(struct hak_engine *e, const struct hak_flow *f, const struct hak_ct_form *form)
{
	uint8_t buf[4096];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	uint32_t seq = ++e->fetch_nl.seq;
	struct hak_ctmsg m;
	struct hak_rd r;
	size_t n;

	hak_nl_drain(&e->fetch_nl);
	if (hak_ct_put_create(&w, seq, f, form) || hak_nl_send(&e->fetch_nl, &w) ||
	    hak_nl_recv(&e->fetch_nl, buf, sizeof buf, MSG_DONTWAIT, &n))
		return EINVAL;
	r = hak_rd_on(buf, n);
	return hak_ct_next(&r, &m) || m.what != HAK_CT_ERROR ? EINVAL : m.error;
}

static uint32_t natural(struct hak_engine *e, const struct hak_flow *f)
{
	uint32_t s;

	pthread_mutex_lock(&e->q_lock);
	s = hak_natural((const uint32_t(*)[16])e->natural, f);
	pthread_mutex_unlock(&e->q_lock);
	return s ? s : TIMEOUT_S;
}

/* 0: made; EEXIST: it is here already, the very same; else it cannot be had. */
static int adopt(struct hak_engine *e, const struct hak_flow *f)
{
	struct hak_ct_form form = { .larval = true, .excl = true, .ack = true };
	struct hak_flow here;
	int err;

	if (!hak_wanted(e, f) || hak_flow_is_local(hak_engine_locals(e), f) ||
	    f->l4proto == IPPROTO_GRE)
		return EPERM;
	form.timeout = natural(e, f);
	err = create(e, f, &form);
	if (err == ENOENT && f->have & HAK_HAS_MASTER) {
		form.no_master = true;
		err = create(e, f, &form);
	}
	if (err == EOPNOTSUPP && f->have & HAK_HAS_HELPER) {
		form.no_helper = true;
		err = create(e, f, &form);
	}
	if (err == EEXIST && (!hak_fetch(e, f, &here) || !hak_tuple_equal(&here.reply, &f->reply)))
		return EBUSY;
	return err;
}

void hak_offer_take(struct hak_capture *c, struct hak_rd body)
{
	struct hak_engine *e = c->e;
	uint32_t number = hak_rd_u32(&body);
	uint64_t met = atomic_load(&e->conflict_ns);
	bool open = met && hak_now() - met < HAK_OFFER_WINDOW_NS;
	struct hak_record rec;

	/* the answer to an earlier one was lost, or this one was sent twice */
	if (number != c->offer) {
		c->offer = number;
		c->offer_taken = c->offer_refused = 0;
		while (hak_rd_left(&body)) {
			enum hak_err err = hak_wire_get(&body, &rec, NULL);
			int no = err ? EINVAL : open ? adopt(e, &rec.flow) : EPERM;

			c->offer_taken += !no;
			c->offer_refused += no && no != EEXIST;
		}
		hak_count_n(&e->stats, HAK_STAT_OFFERS_TAKEN, c->offer_taken);
		hak_count_n(&e->stats, HAK_STAT_OFFERS_REFUSED, c->offer_refused);
	}
	hak_say_numbers(e, HAK_REC_OFFERED, number, true,
			(uint64_t)c->offer_taken << 32 | c->offer_refused);
	hak_say_flush(e);
}
