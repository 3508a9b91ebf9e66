/* fuzz_ct.c - a buffer of netlink messages, as if the kernel had sent it.
 *
 * Whatever the bytes: no crash, every turn makes progress, and what is accepted can be
 * written as a record, read back and put into a request.
 */
#include <linux/netfilter/nf_conntrack_tcp.h>
#include "hak_ct.h"
#include "hak_wire.h"
#include "fuzz.h"

static void check_flow(uint8_t what, const struct hak_flow *f)
{
	static const struct hak_ct_form form = { .timeout = 60, .larval = true };
	uint8_t type = what == HAK_CT_DESTROY ? HAK_REC_FLOW_DESTROY :
		       f->have & HAK_HAS_REPLY ? HAK_REC_FLOW_SYNC : HAK_REC_FLOW_UPDATE;
	uint8_t bytes[512], req[2048];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_record rec;
	struct hak_rd r;
	char text[64];

	PROMISE(f->tcp_state < TCP_CONNTRACK_MAX);
	PROMISE(strnlen(f->helper, sizeof f->helper) < sizeof f->helper);
	(void)hak_flow_text(f, text, sizeof text);
	PROMISE(hak_wire_put_flow(&w, type, f) == HAK_OK);
	r = hak_rd_on(bytes, hak_wr_len(&w));
	PROMISE(hak_wire_get(&r, &rec, NULL) == HAK_OK);
	PROMISE(!memcmp(&rec.flow.orig, &f->orig, sizeof f->orig));
	if (type == HAK_REC_FLOW_SYNC) {
		PROMISE(!memcmp(&rec.flow.reply, &f->reply, sizeof f->reply));
		w = hak_wr_on(req, sizeof req);
		PROMISE(hak_ct_put_create(&w, 1, &rec.flow, &form) == HAK_OK);
	}
}

static void check_expect(uint8_t what, const struct hak_expect *e)
{
	uint8_t type = what == HAK_CT_EXP_NEW ? HAK_REC_EXP_NEW : HAK_REC_EXP_DESTROY;
	uint8_t bytes[512];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_record rec;
	struct hak_rd r;

	PROMISE(hak_wire_put_expect(&w, type, e) == HAK_OK);
	r = hak_rd_on(bytes, hak_wr_len(&w));
	PROMISE(hak_wire_get(&r, &rec, NULL) == HAK_OK);
	PROMISE(!memcmp(&rec.expect.tuple, &e->tuple, sizeof e->tuple));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hak_rd r = hak_rd_on(data, size);
	struct hak_ctmsg m;

	while (hak_rd_left(&r)) {
		size_t left = hak_rd_left(&r);
		enum hak_err e = hak_ct_next(&r, &m);

		PROMISE(hak_rd_left(&r) < left);
		PROMISE(e == HAK_OK || e == HAK_ESKIP || e == HAK_ETRUNC || e == HAK_EFORMAT);
		if (e)
			continue;
		switch (m.what) {
		case HAK_CT_NEW: case HAK_CT_UPDATE: case HAK_CT_DESTROY:
			check_flow(m.what, &m.flow);
			break;
		case HAK_CT_EXP_NEW: case HAK_CT_EXP_DESTROY:
			check_expect(m.what, &m.expect);
			break;
		case HAK_CT_ERROR: case HAK_CT_DONE:
			PROMISE(m.error >= 0);
			break;
		default:
			PROMISE(!"a kind of message");
		}
	}
	return 0;
}
