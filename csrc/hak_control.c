/* hak_control.c - see hak_control.h. */
#include "hak_control.h"
#include "hak_digest.h"
#include "hak_wire.h"

#define BODY(name, size) \
	uint8_t body_[size]; \
	struct hak_wr b = hak_wr_on(body_, sizeof body_)
#define EMIT(type) (void)hak_wire_put_raw(w, type, body_, hak_wr_len(&b))

static enum hak_err done(const struct hak_rd *r)
{
	return r->bad ? HAK_ETRUNC : HAK_OK;
}

void hak_heartbeat_echo(struct hak_heartbeat *h, uint64_t echo_ns, uint64_t heard_ns, uint64_t now)
{
	uint64_t hold_us = (now - heard_ns) / 1000;

	if (!echo_ns || hold_us > UINT32_MAX)
		echo_ns = hold_us = 0;
	h->echo_ns = echo_ns;
	h->hold_us = (uint32_t)hold_us;
}

void hak_put_heartbeat(struct hak_wr *w, const struct hak_heartbeat *h)
{
	BODY(hb, 37);
	hak_wr_u8(&b, h->link);
	hak_wr_u64(&b, h->sent_ns);
	hak_wr_u64(&b, h->echo_ns);
	hak_wr_u32(&b, h->hold_us);
	hak_wr_u64(&b, h->stream_next);
	hak_wr_u64(&b, h->stream_base);
	EMIT(HAK_REC_HEARTBEAT);
}

enum hak_err hak_get_heartbeat(struct hak_rd r, struct hak_heartbeat *h)
{
	h->link = hak_rd_u8(&r);
	h->sent_ns = hak_rd_u64(&r);
	h->echo_ns = hak_rd_u64(&r);
	h->hold_us = hak_rd_u32(&r);
	h->stream_next = hak_rd_u64(&r);
	h->stream_base = hak_rd_u64(&r);
	if (!r.bad && h->stream_base > h->stream_next)
		return HAK_EFORMAT;
	return done(&r);
}

void hak_put_status(struct hak_wr *w, const struct hak_status *s)
{
	BODY(st, 18);
	hak_wr_u8(&b, s->mode);
	hak_wr_u8(&b, s->forced);
	hak_wr_u8(&b, s->quality);
	hak_wr_u8(&b, s->state);
	hak_wr_u32(&b, s->term);
	hak_wr_u64(&b, s->since_ms);
	if (s->priority)
		hak_wr_u16(&b, (uint16_t)(s->priority - 1));
	EMIT(HAK_REC_STATUS);
}

enum hak_err hak_get_status(struct hak_rd r, struct hak_status *s)
{
	s->mode = hak_rd_u8(&r);
	s->forced = hak_rd_u8(&r);
	s->quality = hak_rd_u8(&r);
	s->state = hak_rd_u8(&r);
	s->term = hak_rd_u32(&r);
	s->since_ms = hak_rd_u64(&r);
	s->priority = hak_rd_left(&r) >= 2 ? hak_rd_u16(&r) + 1u : 0;
	if (!r.bad && (s->mode > 3 || s->forced > 2 || s->quality > 100 || s->state > 4))
		return HAK_EFORMAT;
	return done(&r);
}

void hak_put_ack(struct hak_wr *w, const struct hak_ack *a)
{
	BODY(ack, 16);
	hak_wr_u64(&b, a->next);
	hak_wr_u64(&b, a->applied);
	EMIT(HAK_REC_ACK);
}

enum hak_err hak_get_ack(struct hak_rd r, struct hak_ack *a)
{
	a->next = hak_rd_u64(&r);
	a->applied = hak_rd_u64(&r);
	if (!r.bad && a->applied > a->next)
		return HAK_EFORMAT;
	return done(&r);
}

void hak_put_nack(struct hak_wr *w, const struct hak_range *ranges, unsigned n)
{
	BODY(nack, HAK_NACK_MAX * 10);
	for (unsigned i = 0; i < n && i < HAK_NACK_MAX; i++) {
		hak_wr_u64(&b, ranges[i].first);
		hak_wr_u16(&b, ranges[i].count);
	}
	EMIT(HAK_REC_NACK);
}

int hak_get_nack(struct hak_rd r, struct hak_range *out)
{
	int n = 0;

	if (!hak_rd_left(&r) || hak_rd_left(&r) % 10)
		return -1;
	for (; hak_rd_left(&r) && n < HAK_NACK_MAX; n++) {
		out[n].first = hak_rd_u64(&r);
		out[n].count = hak_rd_u16(&r);
		if (!out[n].count || out[n].first > UINT64_MAX - out[n].count)
			return -1;
	}
	return n;
}

static void put_name(struct hak_wr *w, const char *s)
{
	size_t n = strnlen(s, HAK_NAME_MAX - 1);

	hak_wr_u8(w, (uint8_t)n);
	hak_wr_copy(w, s, n);
}

/* Names reach logs and terminals: printable ASCII only, whoever sent them. */
static bool get_name(struct hak_rd *r, char *out)
{
	size_t n = hak_rd_u8(r);

	if (n >= HAK_NAME_MAX)
		return false;
	hak_rd_copy(r, out, n);
	out[n] = 0;
	for (size_t i = 0; i < n; i++)
		if (out[i] < 0x20 || out[i] > 0x7e)
			return false;
	return true;
}

void hak_put_hello(struct hak_wr *w, const struct hak_hello *h)
{
	hak_wr_u8(w, h->wire_min);
	hak_wr_u8(w, h->wire_max);
	hak_wr_u8(w, (uint8_t)((h->encrypt ? 1 : 0) | (h->keep ? 2 : 0)));
	hak_wr_u32(w, h->session);
	hak_wr_u64(w, h->boot_id);
	hak_wr_u64(w, h->boot_ms);
	hak_wr_u64(w, h->stamp);
	hak_wr_u16(w, h->priority);
	put_name(w, h->serial);
	put_name(w, h->model);
	put_name(w, h->version);
	if (h->policy)
		hak_wr_u64(w, h->policy);
}

enum hak_err hak_get_hello(struct hak_rd r, struct hak_hello *h)
{
	uint8_t flags;

	memset(h, 0, sizeof *h);
	h->wire_min = hak_rd_u8(&r);
	h->wire_max = hak_rd_u8(&r);
	flags = hak_rd_u8(&r);		/* further bits: for later versions */
	h->encrypt = flags & 1;
	h->keep = flags & 2;
	h->session = hak_rd_u32(&r);
	h->boot_id = hak_rd_u64(&r);
	h->boot_ms = hak_rd_u64(&r);
	h->stamp = hak_rd_u64(&r);
	h->priority = hak_rd_u16(&r);
	if (!get_name(&r, h->serial) || !get_name(&r, h->model) || !get_name(&r, h->version))
		return r.bad ? HAK_ETRUNC : HAK_EFORMAT;
	if (hak_rd_left(&r) >= 8)	/* older nodes end here */
		h->policy = hak_rd_u64(&r);
	if (!r.bad && (!h->session || !h->serial[0] || h->wire_min > h->wire_max))
		return HAK_EFORMAT;
	return done(&r);
}

/* ---- comparison of the tables ---------------------------------------- */

/* One form for all that say little more than their round. */
void hak_put_round(struct hak_wr *w, uint8_t type, const struct hak_round *r)
{
	BODY(round, 10);
	hak_wr_u32(&b, r->round);
	hak_wr_u32(&b, r->entries);
	hak_wr_u8(&b, r->bits);
	if (r->brief)
		hak_wr_u8(&b, 1);
	EMIT(type);
}

enum hak_err hak_get_round(struct hak_rd r, struct hak_round *out)
{
	out->round = hak_rd_u32(&r);
	out->entries = hak_rd_u32(&r);
	out->bits = hak_rd_u8(&r);
	out->brief = hak_rd_left(&r) && hak_rd_u8(&r) & 1;
	if (!r.bad && out->bits &&
	    (out->bits < HAK_DIGEST_BITS_MIN || out->bits > HAK_DIGEST_BITS_MAX))
		return HAK_EFORMAT;
	return done(&r);
}

static bool known_shift(uint8_t shift)
{
	return shift <= HAK_DIGEST_TOP && shift % HAK_DIGEST_FAN == 0;
}

static bool node_exists(uint8_t shift, uint32_t node)
{
	return node < (uint32_t)1 << (HAK_DIGEST_BITS_MAX - shift);
}

void hak_put_nodes(struct hak_wr *w, const struct hak_nodes *n)
{
	BODY(nodes, 5 + 4 * HAK_RECON_NODES);
	hak_wr_u32(&b, n->round);
	hak_wr_u8(&b, n->shift);
	for (unsigned i = 0; i < n->n; i++)
		hak_wr_u32(&b, n->node[i]);
	EMIT(n->brief ? HAK_REC_RECON_ASK_BRIEF : HAK_REC_RECON_ASK);
}

enum hak_err hak_get_nodes(struct hak_rd r, struct hak_nodes *out)
{
	out->round = hak_rd_u32(&r);
	out->shift = hak_rd_u8(&r);
	if (r.bad || !known_shift(out->shift) || !out->shift || !hak_rd_left(&r))
		return HAK_EFORMAT;
	for (out->n = 0; hak_rd_left(&r); out->n++) {
		if (out->n == HAK_RECON_NODES)
			return HAK_EFORMAT;
		out->node[out->n] = hak_rd_u32(&r);
		if (r.bad || !node_exists(out->shift, out->node[out->n]))
			return HAK_EFORMAT;
	}
	return done(&r);
}

enum hak_err hak_put_sums(struct hak_wr *w, const struct hak_sums *s)
{
	BODY(sums, 9 + 8 * HAK_RECON_SUMS);
	hak_wr_u32(&b, s->round);
	hak_wr_u8(&b, s->shift);
	hak_wr_u32(&b, s->first);
	for (unsigned i = 0; i < s->n; i++)
		if (s->shift == HAK_DIGEST_TOP)
			hak_wr_u64(&b, s->sum[i]);
		else
			hak_wr_u32(&b, (uint32_t)s->sum[i]);
	return hak_wire_put_raw(w, HAK_REC_RECON_SUMS, body_, hak_wr_len(&b));
}

enum hak_err hak_get_sums(struct hak_rd r, struct hak_sums *out)
{
	out->round = hak_rd_u32(&r);
	out->shift = hak_rd_u8(&r);
	out->first = hak_rd_u32(&r);
	if (r.bad || !known_shift(out->shift) || !hak_rd_left(&r))
		return HAK_EFORMAT;
	for (out->n = 0; hak_rd_left(&r); out->n++) {
		if (out->n == HAK_RECON_SUMS || !node_exists(out->shift, out->first + out->n))
			return HAK_EFORMAT;
		out->sum[out->n] = out->shift == HAK_DIGEST_TOP ? hak_rd_u64(&r)
								  : hak_rd_u32(&r);
	}
	return done(&r);
}

enum hak_err hak_put_brief(struct hak_wr *w, const struct hak_brief *s)
{
	BODY(brief, 10 + HAK_RECON_BRIEF);
	hak_wr_u32(&b, s->round);
	hak_wr_u8(&b, s->shift);
	hak_wr_u32(&b, s->first);
	hak_wr_u8(&b, s->size);
	for (unsigned i = 0; i < s->n; i++)
		if (s->size == 4)
			hak_wr_u32(&b, s->sum[i]);
		else if (s->size == 2)
			hak_wr_u16(&b, (uint16_t)s->sum[i]);
		else
			hak_wr_u8(&b, (uint8_t)s->sum[i]);
	return hak_wire_put_raw(w, HAK_REC_RECON_BRIEF, body_, hak_wr_len(&b));
}

enum hak_err hak_get_brief(struct hak_rd r, struct hak_brief *out)
{
	out->round = hak_rd_u32(&r);
	out->shift = hak_rd_u8(&r);
	out->first = hak_rd_u32(&r);
	out->size = hak_rd_u8(&r);
	if (r.bad || !known_shift(out->shift) || out->shift == HAK_DIGEST_TOP ||
	    !node_exists(out->shift + HAK_DIGEST_FAN, out->first) ||
	    (out->size != 1 && out->size != 2 && out->size != 4) || !hak_rd_left(&r) ||
	    hak_rd_left(&r) > HAK_RECON_BRIEF ||
	    hak_rd_left(&r) % ((size_t)out->size << HAK_DIGEST_FAN))
		return HAK_EFORMAT;
	for (out->n = 0; hak_rd_left(&r); out->n++)
		out->sum[out->n] = out->size == 4 ? hak_rd_u32(&r) :
				   out->size == 2 ? hak_rd_u16(&r) : hak_rd_u8(&r);
	return done(&r);
}

void hak_put_marks(struct hak_wr *w, const struct hak_marks *m)
{
	BODY(marks, 8 + 6 * HAK_RECON_GROUPS);
	hak_wr_u32(&b, m->round);
	hak_wr_u32(&b, m->chunk);
	for (unsigned i = 0; i < m->n; i++) {
		hak_wr_u32(&b, m->v[i].group);
		hak_wr_u16(&b, m->v[i].slots);
	}
	EMIT(HAK_REC_RECON_MARK);
}

enum hak_err hak_get_marks(struct hak_rd r, struct hak_marks *out)
{
	out->round = hak_rd_u32(&r);
	out->chunk = hak_rd_u32(&r);
	if (r.bad || !hak_rd_left(&r))
		return HAK_EFORMAT;
	for (out->n = 0; hak_rd_left(&r); out->n++) {
		if (out->n == HAK_RECON_GROUPS)
			return HAK_EFORMAT;
		out->v[out->n].group = hak_rd_u32(&r);
		out->v[out->n].slots = hak_rd_u16(&r);
		if (r.bad || !node_exists(HAK_DIGEST_FAN, out->v[out->n].group))
			return HAK_EFORMAT;
	}
	return done(&r);
}

void hak_put_verify(struct hak_wr *w, const struct hak_verify *v)
{
	BODY(verify, 5);
	hak_wr_u32(&b, v->id);
	hak_wr_u8(&b, v->repair);
	EMIT(HAK_REC_VERIFY);
}

enum hak_err hak_get_verify(struct hak_rd r, struct hak_verify *out)
{
	out->id = hak_rd_u32(&r);
	out->repair = hak_rd_u8(&r) & 1;
	return done(&r);
}

void hak_put_table(struct hak_wr *w, const struct hak_table *t)
{
	BODY(table, 42);
	hak_wr_u8(&b, t->equal);
	hak_wr_u32(&b, t->verified);
	hak_wr_u64(&b, t->as_of);
	hak_wr_u32(&b, t->age_ms);
	hak_wr_u32(&b, t->entries);
	hak_wr_u32(&b, t->missing);
	hak_wr_u32(&b, t->extra);
	hak_wr_u32(&b, t->different);
	hak_wr_u32(&b, t->repaired);
	hak_wr_u8(&b, t->fill);
	hak_wr_u32(&b, t->max);
	EMIT(HAK_REC_TABLE);
}

enum hak_err hak_get_table(struct hak_rd r, struct hak_table *t)
{
	t->equal = hak_rd_u8(&r);
	t->verified = hak_rd_u32(&r);
	t->as_of = hak_rd_u64(&r);
	t->age_ms = hak_rd_u32(&r);
	t->entries = hak_rd_u32(&r);
	t->missing = hak_rd_u32(&r);
	t->extra = hak_rd_u32(&r);
	t->different = hak_rd_u32(&r);
	t->repaired = hak_rd_u32(&r);
	t->fill = hak_rd_left(&r) ? hak_rd_u8(&r) : 0;
	t->max = hak_rd_left(&r) ? hak_rd_u32(&r) : 0;
	if (!r.bad && (t->equal > 2 || t->fill > 101))
		return HAK_EFORMAT;
	return done(&r);
}
