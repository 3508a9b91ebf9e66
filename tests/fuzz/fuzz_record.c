/* fuzz_record.c - a payload of records, as if the peer had sent it.
 *
 * Whatever the bytes: no crash, every turn makes progress, and what is accepted is
 * within the ranges that the rest relies on, can be written as a record again and read
 * back the same, and can be put into a request that our own reader understands.
 */
#include <linux/netfilter/nf_conntrack_tcp.h>
#include "hak_ct.h"
#include "hak_siphash.h"
#include "hak_wire.h"
#include "fuzz.h"

static bool same_flow(const struct hak_flow *a, const struct hak_flow *b)
{
	struct hak_flow x = *a, y = *b;

	/* In these an absent field and one that says nothing are the same. */
	x.have &= ~(uint32_t)HAK_HAS_STATUS;
	y.have &= ~(uint32_t)HAK_HAS_STATUS;
	return !memcmp(&x, &y, sizeof x);
}

static void check_request(const struct hak_flow *f)
{
	static const struct hak_ct_form form = { .timeout = 60, .larval = true };
	uint8_t req[2048];
	struct hak_wr w = hak_wr_on(req, sizeof req);
	struct hak_ctmsg m;
	struct hak_rd r;

	if (f->have & HAK_HAS_REPLY)
		PROMISE(hak_ct_put_create(&w, 1, f, &form) == HAK_OK);
	PROMISE(hak_ct_put_update(&w, 2, f, &form) == HAK_OK);
	PROMISE(hak_ct_put_delete(&w, 3, f, true) == HAK_OK);
	r = hak_rd_on(req, hak_wr_len(&w));
	while (hak_rd_left(&r)) {
		PROMISE(hak_ct_next(&r, &m) == HAK_OK);
		PROMISE(!memcmp(&m.flow.orig, &f->orig, sizeof f->orig));
		PROMISE(m.flow.zone == f->zone || f->zone_dir == HAK_ZONE_REPLY);
	}
}

static void check_flow(const struct hak_record *rec)
{
	static const uint8_t key[HAK_SIPHASH_KEY];
	const struct hak_flow *f = &rec->flow;
	uint8_t bytes[512], again[512];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes), v = hak_wr_on(again, sizeof again);
	struct hak_record back;
	struct hak_rd r;
	char text[300];

	PROMISE(f->tcp_state < TCP_CONNTRACK_MAX);
	PROMISE(f->tcp_wscale[0] <= 14 && f->tcp_wscale[1] <= 14);
	PROMISE(strnlen(f->helper, sizeof f->helper) < sizeof f->helper);
	PROMISE((f->zone_dir == HAK_ZONE_NONE) == (f->zone == 0));
	PROMISE(f->l4kind == hak_l4kind_of(f->l4proto));
	(void)hak_flow_text(f, text, sizeof text);
	(void)hak_flow_hash(f, key);
	check_request(f);
	/* Written again it is the canonical form; from there on nothing changes. */
	PROMISE(hak_wire_put_flow(&w, rec->type, f) == HAK_OK);
	r = hak_rd_on(bytes, hak_wr_len(&w));
	PROMISE(hak_wire_get(&r, &back, NULL) == HAK_OK);
	PROMISE(hak_rd_left(&r) == 0);
	PROMISE(hak_wire_put_flow(&v, rec->type, &back.flow) == HAK_OK);
	PROMISE(hak_wr_len(&v) == hak_wr_len(&w));
	PROMISE(!memcmp(bytes, again, hak_wr_len(&v)));
	if (rec->type == HAK_REC_FLOW_NEW || rec->type == HAK_REC_FLOW_SYNC) {
		struct hak_flow g = *f;

		/* labels that are all zero, and a scale without flags, are not sent */
		g.have &= back.flow.have;
		PROMISE(same_flow(&g, &back.flow));
	}
}

static void check_expect(const struct hak_record *rec)
{
	const struct hak_expect *e = &rec->expect;
	uint8_t bytes[1024];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_record back;
	struct hak_rd r;

	PROMISE(strnlen(e->fn, sizeof e->fn) < sizeof e->fn);
	PROMISE(strnlen(e->helper, sizeof e->helper) < sizeof e->helper);
	PROMISE(hak_wire_put_expect(&w, rec->type, e) == HAK_OK);
	r = hak_rd_on(bytes, hak_wr_len(&w));
	PROMISE(hak_wire_get(&r, &back, NULL) == HAK_OK);
	if (rec->type == HAK_REC_EXP_NEW)
		PROMISE(!memcmp(e, &back.expect, sizeof *e));
	w = hak_wr_on(bytes, sizeof bytes);
	PROMISE(hak_exp_put_create(&w, 1, e, true) == HAK_OK);
	PROMISE(hak_exp_put_delete(&w, 1, e, true) == HAK_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hak_rd r = hak_rd_on(data, size);
	struct hak_record rec;
	unsigned skipped = 0;

	while (hak_rd_left(&r)) {
		size_t left = hak_rd_left(&r);
		enum hak_err e = hak_wire_get(&r, &rec, &skipped);

		if (e != HAK_OK && e != HAK_ESKIP)
			break;
		PROMISE(hak_rd_left(&r) < left);
		if (e == HAK_ESKIP)
			continue;
		switch (rec.type) {
		case HAK_REC_FLOW_NEW: case HAK_REC_FLOW_UPDATE: case HAK_REC_FLOW_DESTROY:
		case HAK_REC_FLOW_SYNC: case HAK_REC_FLOW_WANT:
			check_flow(&rec);
			break;
		case HAK_REC_EXP_NEW: case HAK_REC_EXP_DESTROY:
			check_expect(&rec);
			break;
		}
	}
	return 0;
}
