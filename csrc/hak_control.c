/* hak_control.c - see hak_control.h. */
#include "hak_control.h"
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
	if (!r.bad && (!h->session || !h->serial[0] || h->wire_min > h->wire_max))
		return HAK_EFORMAT;
	return done(&r);
}
