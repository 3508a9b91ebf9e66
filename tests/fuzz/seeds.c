/* seeds.c DIR - write the seed corpus: DIR/record and DIR/ct, one small file a case.
 *
 * DIR/ct/kernel-* are not made here: they were received from a Linux 6.18. */
#include <sys/stat.h>
#include "hak_ct.h"
#include "hak_wire.h"
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
	return t_end();
}
