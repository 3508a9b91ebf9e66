/* fuzz_control.c - a CONTROL payload, as if the peer had sent it.
 *
 * Whatever the bytes: what is accepted is within the ranges that the rest relies on and
 * can be written again and read back the same; and what it says about the stream leaves
 * both rings in order.
 */
#include <string.h>
#include "hak_control.h"
#include "hak_stream.h"
#include "hak_wire.h"
#include "fuzz.h"

static uint8_t bytes[2048];

static struct hak_rd again(const struct hak_wr *w)
{
	struct hak_rd r = hak_rd_on(w->base, hak_wr_len(w));
	struct hak_record rec;

	PROMISE(hak_wire_get(&r, &rec, NULL) == HAK_OK);
	PROMISE(hak_rd_left(&r) == 0);
	return rec.body;
}

static void check_numbers(const struct hak_tx *t, const struct hak_rx *r)
{
	PROMISE(t->base <= t->next && t->next - t->base <= HAK_RING);
	PROMISE(t->applied <= t->acked && t->acked <= t->next && t->acked <= t->base);
	PROMISE(r->applied <= r->next && r->next - r->applied <= HAK_WINDOW && r->next <= r->top);
}

static void on_heartbeat(struct hak_rd body, struct hak_rx *rx)
{
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_range out[HAK_NACK_MAX];
	struct hak_heartbeat h, b;

	memset(&h, 0, sizeof h);
	memset(&b, 0, sizeof b);
	if (hak_get_heartbeat(body, &h))
		return;
	hak_put_heartbeat(&w, &h);
	PROMISE(hak_get_heartbeat(again(&w), &b) == HAK_OK);
	PROMISE(!memcmp(&h, &b, sizeof h));
	PROMISE(h.stream_base <= h.stream_next);
	(void)hak_rx_announce(rx, h.stream_next, h.stream_base, 1);
	hak_rx_done(rx, rx->next);
	PROMISE(hak_rx_missing(rx, out, HAK_NACK_MAX, UINT64_MAX / 2, 1, 1) <= HAK_NACK_MAX);
	(void)hak_rx_wanted(rx, h.stream_next);
}

static void on_status(struct hak_rd body)
{
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_status s, b;

	if (hak_get_status(body, &s))
		return;
	PROMISE(s.mode <= 3 && s.forced <= 2 && s.quality <= 100 && s.state <= 4);
	hak_put_status(&w, &s);
	PROMISE(hak_get_status(again(&w), &b) == HAK_OK);
	PROMISE(!memcmp(&s, &b, sizeof s));
}

static void on_ack(struct hak_rd body, struct hak_tx *tx)
{
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_ack a, b;
	enum hak_err e;

	if (hak_get_ack(body, &a))
		return;
	PROMISE(a.applied <= a.next);
	hak_put_ack(&w, &a);
	PROMISE(hak_get_ack(again(&w), &b) == HAK_OK);
	PROMISE(!memcmp(&a, &b, sizeof a));
	e = hak_tx_ack(tx, &a);
	PROMISE(!e == (a.next <= tx->next));
}

static void on_nack(struct hak_rd body, const struct hak_tx *tx)
{
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_range r[HAK_NACK_MAX], b[HAK_NACK_MAX];
	int n = hak_get_nack(body, r);

	if (n < 0)
		return;
	PROMISE(n > 0 && n <= HAK_NACK_MAX);
	for (int i = 0; i < n; i++) {
		const struct hak_sent *s = hak_tx_find(tx, r[i].first + r[i].count - 1);

		PROMISE(r[i].count && r[i].first + r[i].count > r[i].first);
		PROMISE(!s || s->len <= HAK_DGRAM_MAX);
	}
	hak_put_nack(&w, r, (unsigned)n);
	PROMISE(hak_get_nack(again(&w), b) == n);
	for (int i = 0; i < n; i++)
		PROMISE(r[i].first == b[i].first && r[i].count == b[i].count);
}

static void on_brief(struct hak_rd body)
{
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_brief s, b;

	if (hak_get_brief(body, &s))
		return;
	PROMISE(s.n && s.n % 16 == 0 && s.n * s.size <= HAK_RECON_BRIEF);
	PROMISE(!hak_put_brief(&w, &s));
	PROMISE(hak_get_brief(again(&w), &b) == HAK_OK);
	PROMISE(s.n == b.n && s.first == b.first && !memcmp(s.sum, b.sum, s.n * sizeof *s.sum));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct hak_tx tx;
	static struct hak_rx rx;
	struct hak_rd r = hak_rd_on(data, size);
	struct hak_record rec;

	if (!tx.ring)
		PROMISE(!hak_tx_init(&tx) && !hak_rx_init(&rx));
	hak_tx_reset(&tx);
	hak_rx_reset(&rx);
	for (int i = 0; i < 40; i++) {
		hak_tx_slot(&tx)->len = 40;
		hak_tx_commit(&tx, 1);
	}
	while (hak_rd_left(&r)) {
		enum hak_err e = hak_wire_get(&r, &rec, NULL);

		if (e == HAK_ESKIP)
			continue;
		if (e)
			break;
		switch (rec.type) {
		case HAK_REC_HEARTBEAT:
			on_heartbeat(rec.body, &rx);
			break;
		case HAK_REC_STATUS:
			on_status(rec.body);
			break;
		case HAK_REC_ACK:
			on_ack(rec.body, &tx);
			break;
		case HAK_REC_NACK:
			on_nack(rec.body, &tx);
			break;
		case HAK_REC_RECON_BRIEF:
			on_brief(rec.body);
			break;
		}
		check_numbers(&tx, &rx);
	}
	return 0;
}
