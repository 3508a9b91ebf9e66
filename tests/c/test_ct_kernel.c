/* The codec against the kernel: what is written is what is read back, through a record,
 * in a second network namespace too.  Needs root, ip(8), nft(8) and sysctl(8). */
#include "hak_tcp.h"
#include "hak_wire.h"
#include "flows.h"
#include "kern.h"

enum {
	BITS = IPS_EXPECTED | IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED | IPS_HELPER,
	NAT_BITS = IPS_SRC_NAT | IPS_DST_NAT,
	PARTS = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_MARK | HAK_HAS_TCP | HAK_HAS_TCP_FLAGS |
		HAK_HAS_TCP_WSCALE | HAK_HAS_SCTP | HAK_HAS_SCTP_VTAG | HAK_HAS_LABELS |
		HAK_HAS_HELPER | HAK_HAS_MASTER | HAK_HAS_SEQADJ | HAK_HAS_SYNPROXY,
	DAYS8 = 8 * 86400,
};

static struct ns a, b;			/* the active's and the passive's kernel */
static const struct hak_ct_form natural = { .timeout = 300, .excl = true };
static const struct hak_ct_form larval = { .timeout = DAYS8, .excl = true, .larval = true };

/* What hak_ct_put_create leaves in a kernel of *f. */
static struct hak_flow expected_of(const struct hak_flow *f, bool larva)
{
	struct hak_flow w = *f;

	if (w.l4proto == IPPROTO_DCCP)		/* without a tracker: no ports, no state */
		w.have &= ~(uint32_t)HAK_HAS_DCCP;
	if (larva && w.l4proto == IPPROTO_TCP) {
		w.tcp_flags[0] |= IP_CT_TCP_FLAG_BE_LIBERAL;
		w.tcp_flags[1] |= IP_CT_TCP_FLAG_BE_LIBERAL;
	}
	return w;
}

static struct hak_flow through_wire(uint8_t type, const struct hak_flow *f)
{
	uint8_t bytes[512];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_record rec;
	struct hak_rd r;

	memset(&rec, 0, sizeof rec);
	EQUAL(hak_wire_put_flow(&w, type, f), HAK_OK);
	r = hak_rd_on(bytes, hak_wr_len(&w));
	EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
	return rec.flow;
}

/* ---- every protocol, every form of NAT, every kind of zone ------------ */

static uint32_t nat_bits(const struct hak_flow *f)
{
	struct hak_tuple inv = hak_tuple_inverse(f, &f->orig);
	bool icmp = f->l4kind == HAK_L4_ICMP, ports = !icmp && f->l4proto != IPPROTO_GRE;
	bool src = memcmp(inv.dst, f->reply.dst, 16) ||
		   (icmp && inv.sport != f->reply.sport) || (ports && inv.dport != f->reply.dport);
	bool dst = memcmp(inv.src, f->reply.src, 16) || (ports && inv.sport != f->reply.sport);

	return (src ? IPS_SRC_NAT : 0) | (dst ? IPS_DST_NAT : 0);
}

static void check_entry(struct ns *n, const struct hak_flow *want, bool larva)
{
	struct hak_flow w = expected_of(want, larva), got;

	NEED(!ns_get(n, want, &got));
	SAME(flow_diff(&got, &w, PARTS, BITS));
	EQUAL(got.status & NAT_BITS, nat_bits(want));
	EQUAL((got.status & IPS_FIXED_TIMEOUT) != 0, larva && want->l4proto == IPPROTO_GRE);
	CHECK(larva ? got.timeout > DAYS8 - 10 && got.timeout <= DAYS8
		    : got.timeout > 290 && got.timeout <= 300);
	EQUAL(ns_get_reply(n, want, &got), 0);
	SAME(flow_diff(&got, &w, PARTS, BITS));
}

static void one_flow(const struct hak_flow *f)
{
	struct hak_flow got, rec, none;
	struct hak_ctmsg m;
	unsigned events = 0;

	EQUAL(ns_create(&a, f, natural), 0);
	check_entry(&a, f, false);
	EQUAL(ns_create(&a, f, natural), EEXIST);
	/* the event tells the same as the entry */
	while (ns_event(&a, &m)) {
		struct hak_flow w = expected_of(f, false);

		EQUAL(m.what, HAK_CT_NEW);
		SAME(flow_diff(&m.flow, &w, PARTS, BITS));
		events++;
	}
	EQUAL(events, 1);
	/* listed, sent, made anew elsewhere */
	NEED(!ns_get(&a, f, &got));
	rec = through_wire(HAK_REC_FLOW_SYNC, &got);
	SAME(flow_diff(&rec, &got, PARTS, BITS));
	EQUAL(ns_create(&b, &rec, larval), 0);
	check_entry(&b, f, true);
	/* ended */
	EQUAL(ns_delete(&a, f), 0);
	NEED(ns_event(&a, &m));
	EQUAL(m.what, HAK_CT_DESTROY);
	rec = through_wire(HAK_REC_FLOW_DESTROY, &m.flow);
	EQUAL(ns_delete(&b, &rec), 0);
	EQUAL(ns_get(&a, f, &none), ENOENT);
	EQUAL(ns_get(&b, f, &none), ENOENT);
	EQUAL(ns_delete(&b, f), ENOENT);
	EQUAL(ns_get_reply(&b, f, &none), ENOENT);
	ns_forget_events(&a);
}

static void test_every_form(void)
{
	static const struct { uint8_t l3, proto; } v[] = {
		{ AF_INET, 6 }, { AF_INET, 17 }, { AF_INET, 136 }, { AF_INET, 132 },
		{ AF_INET, 1 }, { AF_INET, 47 }, { AF_INET, 50 }, { AF_INET, 51 }, { AF_INET, 89 },
		{ AF_INET6, 6 }, { AF_INET6, 17 }, { AF_INET6, 136 }, { AF_INET6, 132 },
		{ AF_INET6, 58 }, { AF_INET6, 47 }, { AF_INET6, 50 }, { AF_INET6, 51 },
		{ AF_INET6, 89 },
	};
	unsigned n = 0;

	for (unsigned i = 0; i < sizeof v / sizeof *v; i++)
		for (enum nat form = 0; form < NAT_FORMS; form++)
			for (enum hak_zone_dir z = 0; z <= HAK_ZONE_REPLY; z++) {
				struct hak_flow f = make_flow(v[i].l3, v[i].proto);

				if (!nat_applies(&f, form))
					continue;
				CASE("proto %u v%c %s zone %d", v[i].proto,
				     v[i].l3 == AF_INET6 ? '6' : '4', nat_names[form], z);
				give_nat(&f, form);
				give_zone(&f, z);
				one_flow(&f);
				n++;
			}
	printf("%u forms of protocol, NAT and zone\n", n);
}

/* Whether or not this kernel tracks DCCP, such a flow can be kept; which of the two it
 * is, is worth a line. */
static void test_dccp(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_DCCP), got, rec;

	CASE("dccp");
	EQUAL(ns_create(&a, &f, natural), 0);
	NEED(!ns_get(&a, &f, &got));
	printf("DCCP: %s\n", got.have & HAK_HAS_DCCP ? "tracked" : "no tracker, generic entry");
	if (got.have & HAK_HAS_DCCP) {
		EQUAL(got.dccp_state, f.dccp_state);
		EQUAL(got.dccp_seq, f.dccp_seq);
		EQUAL(got.orig.sport, f.orig.sport);
	} else {
		EQUAL(got.orig.sport, 0);
	}
	rec = through_wire(HAK_REC_FLOW_SYNC, &got);
	EQUAL(ns_create(&b, &rec, larval), 0);
	EQUAL(ns_delete(&a, &f), 0);
	EQUAL(ns_delete(&b, &rec), 0);
	ns_forget_events(&a);
}

/* Keys that are not each other's inverse, as PPTP's are. */
static void test_gre_keys(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_GRE);

	CASE("gre keys");
	f.reply.sport = 0;
	f.reply.dport = 99;
	one_flow(&f);
	give_nat(&f, NAT_BOTH);
	one_flow(&f);
}

/* ---- clashes ---------------------------------------------------------- */

/* A mapping that another connection has already: refused, not silently changed; and
 * who has it can be found and removed. */
static void test_clash(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_UDP), g = f, h, got;

	CASE("clash of replies");
	give_nat(&f, NAT_SRC_PORT);
	g.orig.src[3]++;
	g.reply = f.reply;
	EQUAL(ns_create(&b, &f, larval), 0);
	EQUAL(ns_create(&b, &g, larval), EEXIST);
	NEED(!ns_get_reply(&b, &g, &got));
	CHECK(hak_tuple_equal(&got.orig, &f.orig));
	EQUAL(ns_delete_reply(&b, &g), 0);
	EQUAL(ns_create(&b, &g, larval), 0);
	CASE("a reply that exists before the mapping only");
	/* g's replies go to 10.72.0.1:61000.  h comes from that very address and port and is
	 * mapped elsewhere. */
	h = make_flow(AF_INET, IPPROTO_UDP);
	h.orig = tuple("10.72.0.1", 61000, "10.72.0.10", 80);
	h.reply = tuple("10.72.0.10", 80, "10.72.0.1", 61001);
	EQUAL(ns_create(&b, &h, larval), 0);
	NEED(!ns_get(&b, &h, &got));
	CHECK(hak_tuple_equal(&got.reply, &h.reply));
	EQUAL(ns_delete(&b, &h), 0);
	CASE("clash of replies where the source is not translated");
	/* Left to itself, the kernel would give h another source port. */
	h.reply = tuple("10.73.0.99", 80, "10.72.0.1", 61000);
	EQUAL(ns_create(&b, &h, larval), 0);
	EQUAL(ns_delete(&b, &g), 0);
	g.reply = h.reply;
	EQUAL(ns_create(&b, &g, larval), EEXIST);
	EQUAL(ns_delete(&b, &h), 0);
	EQUAL(ns_create(&b, &g, larval), 0);
	EQUAL(ns_create(&b, &h, larval), EEXIST);
	EQUAL(ns_delete(&b, &g), 0);
}

/* ---- updates ---------------------------------------------------------- */

/* A TCP life: made on A, told to B by one update after the other. */
static void test_updates(void)
{
	static const struct { uint8_t state, flags[2], scale[2]; uint32_t status; } steps[] = {
		{ TCP_CONNTRACK_SYN_RECV, { 3, 3 }, { 7, 9 }, IPS_SEEN_REPLY },
		{ TCP_CONNTRACK_ESTABLISHED, { 0x23, 0x33 }, { 7, 9 }, IPS_SEEN_REPLY | IPS_ASSURED },
		{ TCP_CONNTRACK_FIN_WAIT, { 0x27, 0x23 }, { 7, 9 }, IPS_SEEN_REPLY | IPS_ASSURED },
		{ TCP_CONNTRACK_TIME_WAIT, { 0x27, 0x27 }, { 7, 9 }, IPS_SEEN_REPLY | IPS_ASSURED },
	};
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP), rec, got;

	CASE("tcp, born");
	give_nat(&f, NAT_SRC_PORT);
	f.tcp_state = TCP_CONNTRACK_SYN_SENT;
	f.tcp_flags[1] = f.tcp_wscale[1] = 0;
	f.status = IPS_CONFIRMED;
	rec = through_wire(HAK_REC_FLOW_NEW, &f);
	hak_tcp_settle(&rec);
	EQUAL(ns_create(&b, &rec, larval), 0);
	NEED(!ns_get(&b, &f, &got));
	EQUAL(got.tcp_state, TCP_CONNTRACK_SYN_RECV);
	EQUAL(got.status & BITS, IPS_CONFIRMED | IPS_SEEN_REPLY);
	EQUAL(got.tcp_flags[0], 0x0b);
	EQUAL(got.tcp_flags[1], 0x08);
	for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) {
		struct hak_ct_form form = { .larval = true };

		CASE("tcp, step %u", i);
		f.tcp_state = steps[i].state;
		f.status = IPS_CONFIRMED | steps[i].status;
		f.mark = i;
		memcpy(f.tcp_flags, steps[i].flags, 2);
		memcpy(f.tcp_wscale, steps[i].scale, 2);
		rec = through_wire(HAK_REC_FLOW_UPDATE, &f);
		EQUAL(ns_update(&b, &rec, form), 0);
		NEED(!ns_get(&b, &f, &got));
		EQUAL(got.tcp_state, steps[i].state);
		EQUAL(got.status & BITS, f.status);
		EQUAL(got.mark, i);
		for (int d = 0; d < 2; d++) {
			EQUAL(got.tcp_flags[d], (steps[i].flags[d] & 7) | 8);
			/* told from ESTABLISHED on */
			EQUAL(got.tcp_wscale[d], i ? steps[i].scale[d] : 0);
		}
		CHECK(hak_tuple_equal(&got.reply, &f.reply));
		CHECK(got.timeout > DAYS8 - 10);
	}
	CASE("tcp, timeouts");
	EQUAL(ns_timeout(&b, &f, 77, false), 0);
	NEED(!ns_get(&b, &f, &got));
	EQUAL(got.tcp_flags[0] & 8, 8);
	CHECK(got.timeout > 70 && got.timeout <= 77);
	EQUAL(ns_timeout(&b, &f, 55, true), 0);
	NEED(!ns_get(&b, &f, &got));
	EQUAL(got.tcp_flags[0], 7);
	EQUAL(got.tcp_flags[1], 7);
	CHECK(got.timeout > 50 && got.timeout <= 55);
	CASE("as the peer told, not as a larva");
	f.tcp_flags[0] = 0x0b;
	f.tcp_flags[1] = 0x23;
	EQUAL(ns_update(&b, &f, (struct hak_ct_form){ .timeout = 99 }), 0);
	NEED(!ns_get(&b, &f, &got));
	EQUAL(got.tcp_flags[0], 0x0b);
	EQUAL(got.tcp_flags[1], 0x03);
	CASE("bits never clear, and absent ones are not cleared");
	f.have &= ~(uint32_t)HAK_HAS_STATUS;
	EQUAL(ns_update(&b, &f, (struct hak_ct_form){ .larval = true }), 0);
	f.have |= HAK_HAS_STATUS;
	f.status = IPS_CONFIRMED;
	EQUAL(ns_update(&b, &f, (struct hak_ct_form){ .larval = true }), EBUSY);
	CASE("gone");
	EQUAL(ns_delete(&b, &f), 0);
	EQUAL(ns_update(&b, &f, (struct hak_ct_form){ .larval = true }), ENOENT);
	EQUAL(ns_timeout(&b, &f, 5, false), ENOENT);
}

static void test_sctp_updates(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_SCTP), rec, got;

	CASE("sctp");
	f.sctp_state = 1;
	f.sctp_vtag[1] = 0;
	EQUAL(ns_create(&b, &f, larval), 0);
	f.sctp_state = 4;
	f.sctp_vtag[1] = 0x55667788;
	rec = through_wire(HAK_REC_FLOW_UPDATE, &f);
	EQUAL(ns_update(&b, &rec, (struct hak_ct_form){ .larval = true }), 0);
	NEED(!ns_get(&b, &f, &got));
	EQUAL(got.sctp_state, 4);
	EQUAL(got.sctp_vtag[0], 0x01020304);
	EQUAL(got.sctp_vtag[1], 0x55667788);
	EQUAL(ns_delete(&b, &f), 0);
}

/* A larva of GRE lives by FIXED_TIMEOUT, which no later timeout may touch. */
static void test_gre_updates(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_GRE), got;

	CASE("gre");
	f.status = IPS_CONFIRMED;
	EQUAL(ns_create(&b, &f, larval), 0);
	f.status |= IPS_SEEN_REPLY;
	EQUAL(ns_update(&b, &f, larval), 0);		/* leaves the timeout out */
	EQUAL(ns_timeout(&b, &f, 5, false), EPERM);
	NEED(!ns_get(&b, &f, &got));
	CHECK(got.status & IPS_FIXED_TIMEOUT && got.status & IPS_SEEN_REPLY);
	EQUAL(ns_delete(&b, &f), 0);
}

/* Listed without protocol state while offloaded: made as established. */
static void test_stateless_tcp(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP), got;

	CASE("tcp without state");
	f.have &= ~(uint32_t)(HAK_HAS_TCP | HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE);
	EQUAL(ns_create(&b, &f, larval), 0);
	NEED(!ns_get(&b, &f, &got));
	EQUAL(got.tcp_state, TCP_CONNTRACK_ESTABLISHED);
	EQUAL(got.tcp_flags[0], 8);
	EQUAL(got.tcp_flags[1], 8);
	EQUAL(ns_delete(&b, &f), 0);
}

/* ---- the less common parts -------------------------------------------- */

static void test_extras(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP), got, rec;
	struct hak_ct_form form = larval;

	CASE("sequence adjustment and synproxy");
	give_nat(&f, NAT_SRC_PORT);
	f.have |= HAK_HAS_SEQADJ | HAK_HAS_SYNPROXY;
	t_bytes(f.seqadj, sizeof f.seqadj);
	t_bytes(f.synproxy, sizeof f.synproxy);
	EQUAL(ns_create(&a, &f, natural), 0);
	NEED(!ns_get(&a, &f, &got));
	SAME(flow_diff(&got, &f, PARTS, BITS));
	CHECK(got.status & IPS_SEQ_ADJUST);
	rec = through_wire(HAK_REC_FLOW_SYNC, &got);
	EQUAL(ns_create(&b, &rec, larval), 0);
	NEED(!ns_get(&b, &f, &got));
	SAME(flow_diff(&got, &rec, PARTS & ~HAK_HAS_TCP_FLAGS, BITS));
	t_bytes(f.seqadj, sizeof f.seqadj);
	t_bytes(f.synproxy, sizeof f.synproxy);
	rec = through_wire(HAK_REC_FLOW_UPDATE, &f);
	EQUAL(ns_update(&b, &rec, (struct hak_ct_form){ .larval = true }), 0);
	NEED(!ns_get(&b, &f, &got));
	SAME(flow_diff(&got, &f, HAK_HAS_SEQADJ | HAK_HAS_SYNPROXY, BITS));
	EQUAL(ns_delete(&a, &f), 0);
	EQUAL(ns_delete(&b, &f), 0);
	ns_forget_events(&a);

	CASE("labels, in a namespace where nobody uses any");
	f = make_flow(AF_INET, IPPROTO_UDP);
	f.have |= HAK_HAS_LABELS;
	f.labels[0] = 0x80;
	f.labels[15] = 1;
	EQUAL(ns_create(&b, &f, larval), 0);
	NEED(!ns_get(&b, &f, &got));
	EQUAL(got.have & HAK_HAS_LABELS, 0);
	EQUAL(ns_update(&b, &f, (struct hak_ct_form){ .larval = true }), ENOSPC);
	EQUAL(ns_update(&b, &f, (struct hak_ct_form){ .larval = true, .no_labels = true }), 0);
	EQUAL(ns_delete(&b, &f), 0);
	CASE("labels");
	for (struct ns *n = &a; n; n = n == &a ? &b : NULL) {
		ns_enter(n);
		sh("nft 'add table inet l; add chain inet l c; "
		   "add rule inet l c udp dport 1 ct label set 1'");
	}
	EQUAL(ns_create(&a, &f, natural), 0);
	NEED(!ns_get(&a, &f, &got));
	rec = through_wire(HAK_REC_FLOW_SYNC, &got);
	SAME(flow_diff(&rec, &f, PARTS, BITS));
	EQUAL(ns_create(&b, &rec, larval), 0);
	f.labels[15] = 0;
	f.labels[1] = 2;
	rec = through_wire(HAK_REC_FLOW_UPDATE, &f);
	EQUAL(ns_update(&b, &rec, (struct hak_ct_form){ .larval = true }), 0);
	NEED(!ns_get(&b, &f, &got));
	SAME(flow_diff(&got, &f, PARTS, BITS));		/* replaced, not added to */
	memset(f.labels, 0, sizeof f.labels);
	rec = through_wire(HAK_REC_FLOW_UPDATE, &f);
	EQUAL(rec.have & HAK_HAS_LABELS, HAK_HAS_LABELS);
	EQUAL(ns_update(&b, &rec, (struct hak_ct_form){ .larval = true }), 0);
	NEED(!ns_get(&b, &f, &got));
	EQUAL(got.have & HAK_HAS_LABELS, 0);		/* none left, none told */
	EQUAL(ns_delete(&a, &f), 0);
	EQUAL(ns_delete(&b, &f), 0);
	ns_forget_events(&a);

	CASE("a helper nobody knows");
	f = make_flow(AF_INET, IPPROTO_TCP);
	f.have |= HAK_HAS_HELPER;
	snprintf(f.helper, sizeof f.helper, "nosuchhelper");
	EQUAL(ns_create(&b, &f, form), EOPNOTSUPP);
	form.no_helper = true;
	EQUAL(ns_create(&b, &f, form), 0);
	EQUAL(ns_delete(&b, &f), 0);
}

static struct hak_flow make_master(uint8_t l3)
{
	struct hak_flow f = make_flow(l3, IPPROTO_TCP);

	f.orig.dport = 21;
	f.reply = hak_tuple_inverse(&f, &f.orig);
	give_nat(&f, NAT_SRC);
	f.have |= HAK_HAS_HELPER;
	snprintf(f.helper, sizeof f.helper, "ftp");
	f.status |= IPS_HELPER;
	return f;
}

static void test_master(uint8_t l3, enum hak_zone_dir z)
{
	struct hak_flow m = make_master(l3), c = make_flow(l3, IPPROTO_UDP), got, rec;
	struct hak_ct_form form = larval;
	struct hak_ctmsg ev;

	CASE("master and child v%c zone %d", l3 == AF_INET6 ? '6' : '4', z);
	give_zone(&m, z);
	give_zone(&c, z);
	c.have |= HAK_HAS_MASTER;
	c.master = m.orig;
	c.master_l4proto = m.l4proto;
	c.master_l4kind = m.l4kind;
	c.status |= IPS_EXPECTED;		/* which creation must not contain */
	EQUAL(ns_create(&a, &c, natural), ENOENT);
	EQUAL(ns_create(&a, &m, natural), 0);
	ns_forget_events(&a);
	EQUAL(ns_create(&a, &c, natural), 0);
	NEED(!ns_get(&a, &c, &got));
	SAME(flow_diff(&got, &c, PARTS, BITS));
	NEED(ns_event(&a, &ev));
	EQUAL(ev.what, HAK_CT_NEW);
	SAME(flow_diff(&ev.flow, &c, PARTS, BITS));
	rec = through_wire(HAK_REC_FLOW_NEW, &ev.flow);
	/* without its master, and later told of EXPECTED */
	EQUAL(ns_create(&b, &rec, larval), ENOENT);
	form.no_master = true;
	EQUAL(ns_create(&b, &rec, form), 0);
	NEED(!ns_get(&b, &c, &got));
	EQUAL(got.status & IPS_EXPECTED, 0);
	rec = through_wire(HAK_REC_FLOW_UPDATE, &c);
	form = (struct hak_ct_form){ .larval = true };
	EQUAL(ns_update(&b, &rec, form), EBUSY);
	form.flip_expected = true;
	EQUAL(ns_update(&b, &rec, form), 0);
	EQUAL(ns_delete(&b, &c), 0);
	/* with it */
	NEED(!ns_get(&a, &m, &got));
	EQUAL(strcmp(got.helper, "ftp"), 0);
	rec = through_wire(HAK_REC_FLOW_SYNC, &got);
	EQUAL(ns_create(&b, &rec, larval), 0);
	rec = through_wire(HAK_REC_FLOW_SYNC, &c);
	EQUAL(ns_create(&b, &rec, larval), 0);
	NEED(!ns_get(&b, &c, &got));
	SAME(flow_diff(&got, &c, PARTS, BITS));
	rec = through_wire(HAK_REC_FLOW_UPDATE, &c);
	EQUAL(ns_update(&b, &rec, (struct hak_ct_form){ .larval = true }), 0);
	for (struct ns *n = &a; n; n = n == &a ? &b : NULL) {
		EQUAL(ns_delete(n, &m), 0);
		EQUAL(ns_delete(n, &c), 0);
	}
	ns_forget_events(&a);
}

/* ---- expectations ------------------------------------------------------ */

static int exp_create(struct ns *n, const struct hak_expect *e)
{
	ASK(n, w);
	return ns_call(n, hak_exp_put_create(&w, n->seq, e, true), &w);
}

static int exp_delete(struct ns *n, const struct hak_expect *e)
{
	ASK(n, w);
	return ns_call(n, hak_exp_put_delete(&w, n->seq, e, true), &w);
}

static int exp_timeout(struct ns *n, const struct hak_expect *e, uint32_t t)
{
	ASK(n, w);
	enum hak_err err = hak_exp_put_timeout(&w, n->seq, e, t);
	uint16_t flags = NLM_F_REQUEST | NLM_F_ACK;

	hak_wr_patch(&w, 6, &flags, sizeof flags);
	return ns_call(n, err, &w);
}

static int exp_flush(struct ns *n)
{
	ASK(n, w);
	return ns_call(n, hak_exp_put_flush(&w, n->seq, true), &w);
}

static struct hak_expect expect_through_wire(uint8_t type, const struct hak_expect *e)
{
	uint8_t bytes[512];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_record rec;
	struct hak_rd r;

	memset(&rec, 0, sizeof rec);
	EQUAL(hak_wire_put_expect(&w, type, e), HAK_OK);
	r = hak_rd_on(bytes, hak_wr_len(&w));
	EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
	return rec.expect;
}

static void test_expect(uint8_t l3, enum hak_zone_dir z, bool nat)
{
	struct hak_flow m = make_master(l3);
	struct hak_expect e = make_expect(l3), got[4], rec;
	struct hak_ctmsg ev;

	CASE("expectation v%c zone %d%s", l3 == AF_INET6 ? '6' : '4', z, nat ? " nat" : "");
	give_zone(&m, z);
	e.zone = m.zone;
	e.zone_dir = m.zone ? HAK_ZONE_BOTH : HAK_ZONE_NONE;
	e.flags = NF_CT_EXPECT_PERMANENT;
	if (!nat) {
		e.has_nat = false;
		memset(&e.nat, 0, sizeof e.nat);
		e.nat_dir = 0;
		e.nat_l4proto = e.nat_l4kind = 0;
		memset(e.fn, 0, sizeof e.fn);
	}
	EQUAL(exp_create(&a, &e), ENOENT);		/* no master */
	EQUAL(ns_create(&a, &m, natural), 0);
	EQUAL(ns_create(&b, &m, larval), 0);
	ns_forget_events(&a);
	EQUAL(exp_create(&a, &e), 0);
	NEED(ns_event(&a, &ev));
	EQUAL(ev.what, HAK_CT_EXP_NEW);
	ev.expect.zone = e.zone;			/* which the kernel does not tell */
	ev.expect.zone_dir = e.zone_dir;
	SAME(expect_diff(&ev.expect, &e));
	rec = expect_through_wire(HAK_REC_EXP_NEW, &ev.expect);
	EQUAL(exp_create(&b, &rec), 0);
	EQUAL(exp_timeout(&b, &rec, 8000), 0);
	EQUAL(ns_list_expects(&b, got, 4), 1);
	got[0].zone = e.zone;
	got[0].zone_dir = e.zone_dir;
	SAME(expect_diff(&got[0], &e));
	CHECK(got[0].timeout > 7990 && got[0].timeout <= 8000);
	EQUAL(exp_delete(&a, &e), 0);
	NEED(ns_event(&a, &ev));
	EQUAL(ev.what, HAK_CT_EXP_DESTROY);
	ev.expect.zone = e.zone;
	ev.expect.zone_dir = e.zone_dir;
	rec = expect_through_wire(HAK_REC_EXP_DESTROY, &ev.expect);
	EQUAL(exp_delete(&b, &rec), 0);
	EQUAL(exp_delete(&b, &rec), ENOENT);
	EQUAL(ns_list_expects(&b, got, 4), 0);
	EQUAL(exp_create(&b, &e), 0);
	EQUAL(exp_flush(&b), 0);
	EQUAL(ns_list_expects(&b, got, 4), 0);
	/* they die with their master */
	EQUAL(exp_create(&b, &e), 0);
	EQUAL(ns_delete(&b, &m), 0);
	EQUAL(ns_list_expects(&b, got, 4), 0);
	EQUAL(ns_delete(&a, &m), 0);
	ns_forget_events(&a);
}

/* SIP's classes: one number per kind of media. */
static void test_expect_class(void)
{
	struct hak_flow m = make_master(AF_INET);
	struct hak_expect e = make_expect(AF_INET), got[2];

	CASE("expectation class");
	m.l4proto = e.master_l4proto = e.l4proto = IPPROTO_UDP;
	m.orig.dport = e.master.dport = 5060;
	m.have &= ~(uint32_t)(HAK_HAS_TCP | HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE);
	m.reply = hak_tuple_inverse(&m, &m.orig);
	snprintf(m.helper, sizeof m.helper, "sip");
	snprintf(e.helper, sizeof e.helper, "sip");
	e.has_nat = false;
	e.fn[0] = '\0';
	e.class_ = 1;
	EQUAL(ns_create(&b, &m, larval), 0);
	EQUAL(exp_create(&b, &e), 0);
	EQUAL(ns_list_expects(&b, got, 2), 1);
	EQUAL(got[0].class_, 1);
	EQUAL(ns_delete(&b, &m), 0);
}

/* ---- listings and acknowledgements ------------------------------------ */

enum { LISTED = 3000 };

static struct hak_flow listed(unsigned i)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_UDP);

	f.orig.sport = (uint16_t)(10000 + i);
	f.mark = i;
	f.reply = hak_tuple_inverse(&f, &f.orig);
	if (i % 3 == 0)
		give_nat(&f, NAT_SRC);
	return f;
}

static bool each_once(const struct hak_flow *got, unsigned n)
{
	static bool seen[LISTED];

	memset(seen, 0, sizeof seen);
	for (unsigned i = 0; i < n; i++) {
		unsigned k = got[i].mark;
		struct hak_flow want;

		if (k >= LISTED || seen[k])
			return false;
		want = listed(k);
		SAME(flow_diff(&got[i], &want, PARTS, BITS));
		seen[k] = true;
	}
	return n == LISTED;
}

static long buckets(void)
{
	FILE *f = fopen("/proc/sys/net/netfilter/nf_conntrack_buckets", "r");
	long n = 0;

	NEED(f && fscanf(f, "%ld", &n) == 1);
	fclose(f);
	return n;
}

/* A listing loses and repeats entries if the hash table is resized meanwhile, which all
 * namespaces share, and the kernel does not tell.  So try again if its size changed. */
static void test_list(void)
{
	static struct hak_flow got[LISTED + 1];
	struct hak_flow f;
	bool ok = false;
	long before = 0;

	CASE("list");
	for (unsigned i = 0; i < LISTED; i++) {
		f = listed(i);
		EQUAL(ns_create(&a, &f, natural), 0);
	}
	for (int i = 0; i < 10 && !ok && before != buckets(); i++) {
		before = buckets();
		unsigned n = ns_list(&a, got, LISTED + 1);
		ok = each_once(got, n);
	}
	CHECK(ok);
	for (unsigned i = 0; i < LISTED; i++) {
		f = listed(i);
		EQUAL(ns_delete(&a, &f), 0);
	}
	EQUAL(ns_list(&a, got, LISTED), 0);
	ns_forget_events(&a);
}

/* Without NETLINK_CAP_ACK an error repeats the whole request. */
static void test_whole_errors(void)
{
	struct hak_flow f = make_flow(AF_INET6, IPPROTO_TCP);
	int keep = b.nl;

	CASE("errors that repeat the request");
	ns_enter(&b);
	b.nl = nl_socket(false);
	EQUAL(ns_create(&b, &f, larval), 0);
	EQUAL(ns_create(&b, &f, larval), EEXIST);
	EQUAL(ns_delete(&b, &f), 0);
	EQUAL(ns_delete(&b, &f), ENOENT);
	close(b.nl);
	b.nl = keep;
}

int main(void)
{
	ns_make(&a);
	ns_make(&b);
	test_every_form();
	test_dccp();
	test_gre_keys();
	test_clash();
	test_updates();
	test_sctp_updates();
	test_gre_updates();
	test_stateless_tcp();
	test_extras();
	for (int v6 = 0; v6 < 2; v6++) {
		uint8_t l3 = v6 ? AF_INET6 : AF_INET;

		test_master(l3, HAK_ZONE_NONE);
		test_master(l3, HAK_ZONE_BOTH);
		test_expect(l3, HAK_ZONE_NONE, true);
		test_expect(l3, HAK_ZONE_NONE, false);
		test_expect(l3, HAK_ZONE_BOTH, true);
		test_expect(l3, HAK_ZONE_ORIG, false);
	}
	test_expect_class();
	test_list();
	test_whole_errors();
	ns_close(&a);
	ns_close(&b);
	return t_end();
}
