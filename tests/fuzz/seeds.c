/* seeds.c DIR - write the seed corpus: DIR/NAME for fuzz_NAME, one small file a case.
 *
 * DIR/ct/kernel-* are not made here: they were received from a Linux 6.18. */
#include <sys/stat.h>
#include "hak_ct.h"
#include "hak_wire.h"
#include "hak_control.h"
#include "hak_engine.h"
#include "fuzz_hello.h"
#include "../c/flows.h"

static const char *dir;
static uint8_t buf[4096];

static void save(const char *kind, const char *name, const struct hak_wr *w)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, kind);
	(void)mkdir(path, 0777);
	snprintf(path, sizeof path, "%s/%s/%s", dir, kind, name);
	f = fopen(path, "wb");
	if (!f || fwrite(w->base, 1, hak_wr_len(w), f) != hak_wr_len(w) || fclose(f)) {
		perror(path);
		exit(1);
	}
}

static void give_all(struct hak_flow *f)
{
	f->have |= HAK_HAS_LABELS | HAK_HAS_HELPER | HAK_HAS_MASTER | HAK_HAS_SEQADJ |
		   HAK_HAS_SYNPROXY;
	memset(f->labels, 0x5a, sizeof f->labels);
	snprintf(f->helper, sizeof f->helper, "ftp");
	f->master = f->orig;
	f->master_l4proto = f->l4proto;
	f->master_l4kind = f->l4kind;
	f->seqadj[0] = (struct hak_seqadj){ 1, 2, 3 };
	f->synproxy[0] = 9;
}

static void flow_seeds(uint8_t l3, uint8_t proto, const char *name, enum nat nat,
		       enum hak_zone_dir zone, bool all)
{
	static const struct hak_ct_form form = { .timeout = 60, .excl = true };
	struct hak_flow f = make_flow(l3, proto);
	struct hak_wr w = hak_wr_on(buf, sizeof buf);

	give_nat(&f, nat);
	give_zone(&f, zone);
	if (all)
		give_all(&f);
	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_NEW, &f));
	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_UPDATE, &f));
	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_DESTROY, &f));
	save("record", name, &w);
	w = hak_wr_on(buf, sizeof buf);
	NEED(!hak_ct_put_create(&w, 1, &f, &form));
	NEED(!hak_ct_put_update(&w, 2, &f, &form));
	NEED(!hak_ct_put_delete(&w, 3, &f, true));
	save("ct", name, &w);
}

static void expect_seeds(uint8_t l3, const char *name)
{
	struct hak_expect e = make_expect(l3);
	struct hak_wr w = hak_wr_on(buf, sizeof buf);

	e.class_ = e.flags = 1;
	NEED(!hak_wire_put_expect(&w, HAK_REC_EXP_NEW, &e));
	NEED(!hak_wire_put_expect(&w, HAK_REC_EXP_DESTROY, &e));
	save("record", name, &w);
	w = hak_wr_on(buf, sizeof buf);
	NEED(!hak_exp_put_create(&w, 1, &e, false));
	NEED(!hak_exp_put_delete(&w, 1, &e, false));
	save("ct", name, &w);
}

static void other_seeds(void)
{
	static const uint8_t body[300] = { 1, 2, 3 };
	struct hak_wr w = hak_wr_on(buf, sizeof buf);

	NEED(!hak_wire_put_raw(&w, HAK_REC_SYNC_BEGIN, body, 4));
	NEED(!hak_wire_put_raw(&w, HAK_REC_SYNC_END, body, 12));
	NEED(!hak_wire_put_raw(&w, HAK_REC_HANDOVER, body, 4));
	NEED(!hak_wire_put_raw(&w, HAK_REC_NACK, body, 20));
	NEED(!hak_wire_put_raw(&w, HAK_REC_BYE, body, 0));
	NEED(!hak_wire_put_raw(&w, 200, body, 300));
	save("record", "others", &w);
	/* fields and a shape of later versions */
	w = hak_wr_on(buf, sizeof buf);
	hak_wr_copy(&w, "\3\x14\x08" "aaaabbbbppqq\xd2xy\xf1\x01\3\2\x80z", 26);
	save("record", "later", &w);
	w = hak_wr_on(buf, sizeof buf);
	NEED(!hak_ct_put_list(&w, 1));
	hak_wr_h32(&w, 20);		/* NLMSG_ERROR with no more than the number */
	hak_wr_h32(&w, 2);
	hak_wr_zero(&w, 12);
	hak_wr_h32(&w, 20);		/* NLMSG_DONE */
	hak_wr_h32(&w, 3);
	hak_wr_zero(&w, 12);
	save("ct", "control", &w);
}

static void control_seeds(void)
{
	static const struct hak_range ranges[] = { { 0, 1 }, { 5, 3 }, { 39, 65535 } };
	const struct hak_heartbeat h = { 1, 1000, 900, 50, 60, 20 };
	const struct hak_status st = { 2, 1, 100, 3, 7, 1700000000000, 0 };
	struct hak_wr w = hak_wr_on(buf, sizeof buf);

	hak_put_heartbeat(&w, &h);
	hak_put_status(&w, &st);
	save("control", "beat", &w);
	w = hak_wr_on(buf, sizeof buf);
	hak_put_ack(&w, &(struct hak_ack){ .next = 20, .applied = 10 });
	hak_put_nack(&w, ranges, 3);
	hak_put_ack(&w, &(struct hak_ack){ .next = 40, .applied = 40 });
	save("control", "ack-nack", &w);
	w = hak_wr_on(buf, sizeof buf);
	hak_put_heartbeat(&w, &(struct hak_heartbeat){ .stream_next = 1u << 20,
						       .stream_base = 1u << 19 });
	hak_put_heartbeat(&w, &(struct hak_heartbeat){ .stream_next = UINT64_MAX,
						       .stream_base = UINT64_MAX });
	save("control", "jump", &w);
	w = hak_wr_on(buf, sizeof buf);
	for (uint8_t size = 1; size <= 4; size *= 2) {
		const struct hak_brief s = { .round = 16, .shift = 4, .size = size, .n = 32 };

		NEED(!hak_put_brief(&w, &s));
	}
	save("control", "brief", &w);
}

static void hello_seeds(void)
{
	struct hello_pair p = hello_pair();
	struct hak_hello h = { .wire_min = 1, .wire_max = 1, .encrypt = true, .session = 77,
			       .boot_id = 1, .boot_ms = 2, .stamp = 3, .serial = "FW-1",
			       .model = "lab", .version = "1.0" };
	struct hak_wr w = hak_wr_on(buf, sizeof buf);

	hak_wr_u8(&w, 0);
	hak_put_hello(&w, &h);
	save("hello", "payload", &w);
	memset(h.serial, 's', sizeof h.serial - 1);
	w = hak_wr_on(buf, sizeof buf);
	hak_wr_u8(&w, 0);
	hak_put_hello(&w, &h);
	hak_wr_u32(&w, 0);		/* of a later version */
	save("hello", "payload-long", &w);
	w = hak_wr_on(buf, sizeof buf);
	hak_wr_u8(&w, 1);
	hak_wr_copy(&w, p.first, sizeof p.first);
	save("hello", "first", &w);
	w = hak_wr_on(buf, sizeof buf);
	hak_wr_u8(&w, 2);
	hak_wr_copy(&w, p.second, sizeof p.second);
	save("hello", "second", &w);
	w.base[33] ^= 1;
	save("hello", "second-forged", &w);
}

/* See fuzz_datagram.c for the form: a turn is how, length, bytes. */
static void turn(struct hak_wr *w, uint8_t how, const void *bytes, size_t n)
{
	hak_wr_u8(w, how);
	hak_wr_u16(w, (uint16_t)n);
	hak_wr_copy(w, bytes, n);
}

static void sealed_turn(struct hak_wr *w, uint8_t how, uint8_t kind, uint16_t seq,
			const struct hak_wr *payload)
{
	hak_wr_u8(w, how);
	hak_wr_u16(w, (uint16_t)(hak_wr_len(payload) + 4));
	hak_wr_u8(w, kind);
	hak_wr_u8(w, 0);
	hak_wr_u16(w, seq);
	hak_wr_copy(w, payload->base, hak_wr_len(payload));
}

static void datagram_seeds(void)
{
	static const char noise[60] = "\1\4\0\7\x11\x11\x11\x11";
	static uint8_t payload[1024];
	const struct hak_heartbeat beat = { 1, 1000, 900, 50, 60, 20 };
	const struct hak_hello hello = { .wire_min = 1, .wire_max = 1, .encrypt = true,
					 .session = 77, .boot_id = 1, .boot_ms = 2, .stamp = 3,
					 .serial = "FW-1", .model = "lab", .version = "1.0" };
	const struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_wr w = hak_wr_on(buf, sizeof buf), p = hak_wr_on(payload, sizeof payload);

	hak_wr_u8(&w, HAK_PASSIVE);
	for (size_t n = 0; n <= sizeof noise; n += 15)
		turn(&w, (uint8_t)(n & 32), noise, n);
	save("datagram", "noise", &w);
	for (uint8_t role = 0; role < 8; role++) {	/* and beginning or not */
		char name[16];

		snprintf(name, sizeof name, "role-%u", role);
		w = hak_wr_on(buf, sizeof buf);
		hak_wr_u8(&w, role);
		for (uint16_t seq = 0; seq < 6; seq++) {
			p = hak_wr_on(payload, sizeof payload);
			NEED(!hak_wire_put_flow(&p, HAK_REC_FLOW_NEW, &f));
			sealed_turn(&w, 1, 1, seq ^ 1, &p);
			p = hak_wr_on(payload, sizeof payload);
			hak_put_heartbeat(&p, &beat);
			hak_put_ack(&p, &(struct hak_ack){ .next = 20, .applied = seq });
			hak_put_nack(&p, &(struct hak_range){ 25, 3 }, 1);
			NEED(!hak_wire_put_flow(&p, HAK_REC_FLOW_WANT, &f));
			sealed_turn(&w, seq == 4 ? 5 : 1, 0, seq, &p);
			turn(&w, 3, "", 1);
		}
		save("datagram", name, &w);
	}
	w = hak_wr_on(buf, sizeof buf);
	p = hak_wr_on(payload, sizeof payload);
	hak_put_hello(&p, &hello);
	hak_wr_u8(&w, HAK_PASSIVE);
	turn(&w, 2, payload, hak_wr_len(&p));
	turn(&w, 3, "", 1);
	turn(&w, 2 | 8, payload, hak_wr_len(&p));
	turn(&w, 2 | 32, payload, hak_wr_len(&p));
	save("datagram", "offer", &w);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: seeds DIR\n", stderr);
		return 2;
	}
	dir = argv[1];
	flow_seeds(AF_INET, IPPROTO_TCP, "tcp4", NAT_NONE, HAK_ZONE_NONE, false);
	flow_seeds(AF_INET, IPPROTO_TCP, "tcp4-masq", NAT_SRC_PORT, HAK_ZONE_NONE, false);
	flow_seeds(AF_INET, IPPROTO_TCP, "tcp4-both-all", NAT_BOTH, HAK_ZONE_BOTH, true);
	flow_seeds(AF_INET6, IPPROTO_TCP, "tcp6-all", NAT_SRC, HAK_ZONE_REPLY, true);
	flow_seeds(AF_INET, IPPROTO_UDP, "udp4", NAT_DST_PORT_ONLY, HAK_ZONE_ORIG, false);
	flow_seeds(AF_INET6, IPPROTO_UDP, "udp6", NAT_NONE, HAK_ZONE_NONE, false);
	flow_seeds(AF_INET, IPPROTO_ICMP, "icmp", NAT_SRC_PORT, HAK_ZONE_NONE, false);
	flow_seeds(AF_INET6, IPPROTO_ICMPV6, "icmpv6", NAT_NONE, HAK_ZONE_NONE, false);
	flow_seeds(AF_INET, IPPROTO_SCTP, "sctp", NAT_SRC, HAK_ZONE_NONE, false);
	flow_seeds(AF_INET, IPPROTO_DCCP, "dccp", NAT_NONE, HAK_ZONE_NONE, false);
	flow_seeds(AF_INET, IPPROTO_GRE, "gre", NAT_SRC, HAK_ZONE_NONE, false);
	flow_seeds(AF_INET, IPPROTO_ESP, "esp", NAT_SRC, HAK_ZONE_NONE, false);
	expect_seeds(AF_INET, "expect4");
	expect_seeds(AF_INET6, "expect6");
	other_seeds();
	control_seeds();
	hello_seeds();
	datagram_seeds();
	return t_end();
}
