/* Records: round trips, what is refused, what is stepped over, and how many bytes. */
#include "hak_wire.h"
#include "flows.h"

enum {
	BIRTH = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_MARK | HAK_HAS_HELPER | HAK_HAS_MASTER |
		HAK_HAS_TCP | HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE | HAK_HAS_SCTP |
		HAK_HAS_SCTP_VTAG | HAK_HAS_DCCP | HAK_HAS_LABELS | HAK_HAS_SEQADJ |
		HAK_HAS_SYNPROXY,
	CHANGES = BIRTH & ~(HAK_HAS_REPLY | HAK_HAS_HELPER | HAK_HAS_MASTER),
	STATUS = IPS_EXPECTED | IPS_SEEN_REPLY | IPS_ASSURED | IPS_HELPER | IPS_CONFIRMED,
	MAX = 4096,
};

static const uint8_t protos[] = {
	IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_SCTP, IPPROTO_DCCP, IPPROTO_ICMP,
	IPPROTO_ICMPV6, IPPROTO_GRE, IPPROTO_ESP, IPPROTO_AH, 89,
};
enum { PROTOS = sizeof protos };

static uint8_t buf[MAX];

static struct hak_wr wr(void)
{
	memset(buf, 0xa5, sizeof buf);
	return hak_wr_on(buf, sizeof buf);
}

static struct hak_rd rd(const struct hak_wr *w)
{
	return hak_rd_on(w->base, hak_wr_len(w));
}

/* put, get, compare; put again, the same bytes.  Returns the length. */
static size_t round_trip(uint8_t type, const struct hak_flow *f)
{
	uint32_t parts = type == HAK_REC_FLOW_UPDATE ? CHANGES : BIRTH;
	uint8_t again[512];
	struct hak_wr w = wr(), w2 = hak_wr_on(again, sizeof again);
	struct hak_record rec;
	unsigned skipped = 0;
	struct hak_rd r;

	EQUAL(hak_wire_put_flow(&w, type, f), HAK_OK);
	r = rd(&w);
	EQUAL(hak_wire_get(&r, &rec, &skipped), HAK_OK);
	EQUAL(rec.type, type);
	EQUAL(skipped, 0);
	EQUAL(hak_rd_left(&r), 0);
	if (type == HAK_REC_FLOW_DESTROY || type == HAK_REC_FLOW_WANT)
		parts = 0;
	SAME(flow_diff(&rec.flow, f, parts, STATUS));
	EQUAL(hak_wire_put_flow(&w2, type, &rec.flow), HAK_OK);
	EQUAL(hak_wr_len(&w2), hak_wr_len(&w));
	CHECK(!memcmp(again, buf, hak_wr_len(&w2)));
	return hak_wr_len(&w);
}

static void test_every_shape(void)
{
	static const uint8_t types[] = {
		HAK_REC_FLOW_NEW, HAK_REC_FLOW_SYNC, HAK_REC_FLOW_UPDATE, HAK_REC_FLOW_DESTROY,
		HAK_REC_FLOW_WANT,
	};

	for (unsigned p = 0; p < PROTOS; p++)
		for (int v6 = 0; v6 < 2; v6++)
			for (enum nat n = 0; n < NAT_FORMS; n++)
				for (enum hak_zone_dir z = 0; z <= HAK_ZONE_REPLY; z++) {
					struct hak_flow f = make_flow(v6 ? AF_INET6 : AF_INET,
								      protos[p]);

					if (!nat_applies(&f, n))
						continue;
					give_nat(&f, n);
					give_zone(&f, z);
					CASE("proto %u v%c %s zone %d", protos[p], v6 ? '6' : '4',
					     nat_names[n], z);
					for (unsigned t = 0; t < sizeof types; t++) {
						if (types[t] == HAK_REC_FLOW_UPDATE &&
						    f.l4proto == IPPROTO_TCP)
							f.tcp_state = TCP_CONNTRACK_ESTABLISHED;
						round_trip(types[t], &f);
					}
				}
}

/* All there is, in random values and combinations. */
static struct hak_flow random_flow(void)
{
	struct hak_flow f = make_flow(t_below(2) ? AF_INET : AF_INET6, protos[t_below(PROTOS)]);

	t_bytes(f.orig.src, hak_addr_len(f.l3));
	t_bytes(f.orig.dst, hak_addr_len(f.l3));
	if (f.l4kind != HAK_L4_NONE) {
		f.orig.sport = (uint16_t)t_random();
		f.orig.dport = (uint16_t)t_random();
	}
	f.reply = hak_tuple_inverse(&f, &f.orig);
	if (t_below(2))
		t_bytes(f.reply.src, hak_addr_len(f.l3));
	if (t_below(2))
		t_bytes(f.reply.dst, hak_addr_len(f.l3));
	if (t_below(2) && f.l4kind != HAK_L4_NONE)
		f.reply.dport = (uint16_t)t_random();
	if (t_below(2)) {
		f.zone = (uint16_t)(1 + t_below(65535));
		f.zone_dir = (uint8_t)(1 + t_below(3));
	}
	f.status = IPS_CONFIRMED | ((uint32_t)t_random() & STATUS);
	f.mark = t_below(2) ? 0 : (uint32_t)t_random();
	if (f.l4proto == IPPROTO_TCP) {
		f.tcp_state = (uint8_t)t_below(10);
		t_bytes(f.tcp_flags, 2);
		f.tcp_flags[0] &= 15;
		f.tcp_flags[1] &= 15;
		f.tcp_wscale[0] = (uint8_t)t_below(15);
		f.tcp_wscale[1] = (uint8_t)t_below(15);
	}
	if (t_below(2)) {
		f.have |= HAK_HAS_LABELS;
		t_bytes(f.labels, 1 + t_below(HAK_LABELS_LEN));
		f.labels[0] |= 1;
	}
	if (t_below(2)) {
		f.have |= HAK_HAS_HELPER;
		memset(f.helper, 'a' + (int)t_below(26), 1 + t_below(HAK_HELPER_LEN - 1));
	}
	if (t_below(2)) {
		f.have |= HAK_HAS_MASTER;
		f.master_l4proto = protos[t_below(PROTOS)];
		f.master_l4kind = hak_l4kind_of(f.master_l4proto);
		t_bytes(f.master.src, hak_addr_len(f.l3));
		t_bytes(f.master.dst, hak_addr_len(f.l3));
		if (f.master_l4kind != HAK_L4_NONE)
			f.master.sport = (uint16_t)t_random();
	}
	if (t_below(2)) {
		f.have |= HAK_HAS_SEQADJ;
		t_bytes(f.seqadj, sizeof f.seqadj);
	}
	if (t_below(2)) {
		f.have |= HAK_HAS_SYNPROXY;
		t_bytes(f.synproxy, sizeof f.synproxy);
	}
	return f;
}

static void test_random(void)
{
	for (int i = 0; i < 20000; i++) {
		struct hak_flow f = random_flow();

		CASE("random flow %d", i);
		round_trip(HAK_REC_FLOW_SYNC, &f);
		/* an update bears the scales with ESTABLISHED alone */
		if (f.l4proto == IPPROTO_TCP && f.tcp_state != TCP_CONNTRACK_ESTABLISHED) {
			f.have &= ~(uint32_t)HAK_HAS_TCP_WSCALE;
			memset(f.tcp_wscale, 0, sizeof f.tcp_wscale);
		}
		if (!(f.status & ~(uint32_t)IPS_CONFIRMED))
			f.have &= ~(uint32_t)HAK_HAS_STATUS;
		round_trip(HAK_REC_FLOW_UPDATE, &f);
		round_trip(HAK_REC_FLOW_DESTROY, &f);
	}
}

/* The longest record there can be still has a length of one byte. */
static void test_longest(void)
{
	struct hak_flow f = make_flow(AF_INET6, IPPROTO_DCCP);
	struct hak_expect e = make_expect(AF_INET6);
	struct hak_wr w = wr();

	CASE("longest");
	give_nat(&f, NAT_BOTH);
	give_zone(&f, HAK_ZONE_REPLY);
	f.have = BIRTH & ~(HAK_HAS_TCP | HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE | HAK_HAS_SCTP |
			   HAK_HAS_SCTP_VTAG);
	f.status |= IPS_HELPER | IPS_EXPECTED;
	f.master_l4proto = IPPROTO_TCP;
	f.master_l4kind = HAK_L4_PORTS;
	memset(f.labels, 0xff, sizeof f.labels);
	memset(f.helper, 'h', sizeof f.helper - 1);
	EQUAL(round_trip(HAK_REC_FLOW_SYNC, &f), 2 + 211);
	e.zone = 7;
	e.zone_dir = HAK_ZONE_BOTH;
	e.flags = e.class_ = 1;
	memset(e.fn, 'f', sizeof e.fn - 1);
	memset(e.helper, 'h', sizeof e.helper - 1);
	EQUAL(hak_wire_put_expect(&w, HAK_REC_EXP_NEW, &e), HAK_OK);
	EQUAL(hak_wr_len(&w), 2 + 185);
}

static void test_expect(void)
{
	for (int v6 = 0; v6 < 2; v6++)
		for (int i = 0; i < 8; i++) {
			struct hak_expect e = make_expect(v6 ? AF_INET6 : AF_INET);
			struct hak_wr w = wr();
			struct hak_record rec;
			struct hak_rd r;

			CASE("expectation %d v%c", i, v6 ? '6' : '4');
			if (i & 1) {
				e.has_nat = false;
				memset(&e.nat, 0, sizeof e.nat);
				e.nat_dir = 0;
				e.nat_l4proto = e.nat_l4kind = 0;
				e.zone = 5;
				e.zone_dir = HAK_ZONE_BOTH;
			}
			if (i & 2) {
				memset(e.fn, 0, sizeof e.fn);
				memset(e.helper, 0, sizeof e.helper);
				e.flags = NF_CT_EXPECT_PERMANENT | NF_CT_EXPECT_USERSPACE;
				e.class_ = 3;
			}
			if (i & 4) {	/* a protocol without ports */
				e.l4proto = IPPROTO_ESP;
				e.l4kind = HAK_L4_NONE;
				e.tuple.sport = e.tuple.dport = e.mask.sport = e.mask.dport = 0;
			}
			EQUAL(hak_wire_put_expect(&w, HAK_REC_EXP_NEW, &e), HAK_OK);
			r = rd(&w);
			EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
			e.flags &= ~(uint32_t)NF_CT_EXPECT_USERSPACE;
			SAME(expect_diff(&rec.expect, &e));
			EQUAL(rec.expect.timeout, e.timeout);
			w = wr();
			EQUAL(hak_wire_put_expect(&w, HAK_REC_EXP_DESTROY, &e), HAK_OK);
			r = rd(&w);
			EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
			EQUAL(rec.type, HAK_REC_EXP_DESTROY);
			CHECK(hak_tuple_equal(&rec.expect.tuple, &e.tuple));
			EQUAL(rec.expect.zone, e.zone);
		}
}

/* ---- what is refused -------------------------------------------------- */

static enum hak_err get(const void *p, size_t n, struct hak_record *rec, unsigned *skipped)
{
	struct hak_rd r = hak_rd_on(p, n);
	enum hak_err e = hak_wire_get(&r, rec, skipped);

	if (e == HAK_OK || e == HAK_ESKIP)
		EQUAL(hak_rd_left(&r), 0);
	return e;
}

/* Prefixes as they would come from a datagram cut short: never a record.  And bodies
 * cut short with a length that says so: a record where the cut is between two fields,
 * else malformed. */
static void prefixes(const uint8_t *p, size_t n, unsigned borders)
{
	uint8_t cut[MAX];
	struct hak_record rec;
	unsigned whole = 0;

	for (size_t i = 0; i < n; i++)
		EQUAL(get(p, i, &rec, NULL), HAK_ETRUNC);
	memcpy(cut, p, n);
	for (size_t i = 0; i + 2 < n; i++) {
		enum hak_err e;

		cut[1] = (uint8_t)i;
		e = get(cut, i + 2, &rec, NULL);
		whole += e == HAK_OK;
		CHECK(e == HAK_OK || e == HAK_EFORMAT);
	}
	EQUAL(whole, borders);
}

static void test_prefixes(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_expect e = make_expect(AF_INET6);
	struct hak_wr w = wr();

	CASE("prefixes of a flow");
	give_nat(&f, NAT_BOTH);
	f.have |= HAK_HAS_HELPER | HAK_HAS_SEQADJ;
	snprintf(f.helper, sizeof f.helper, "ftp");
	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_NEW, &f));
	/* fields: src, dst, helper, tcp, mark, seqadj; borders before each, and TCP's two
	 * optional bytes are no borders, for the length nibble counts them */
	prefixes(buf, hak_wr_len(&w), 6);
	w = wr();
	CASE("prefixes of an identity");
	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_DESTROY, &f));
	prefixes(buf, hak_wr_len(&w), 0);
	w = wr();
	CASE("prefixes of an expectation");
	NEED(!hak_wire_put_expect(&w, HAK_REC_EXP_NEW, &e));
	/* master and mask are mandatory; then timeout, nat, fn, helper */
	prefixes(buf, hak_wr_len(&w), 4);
}

/* A TCP record over IPv4 with `fields` behind the identity. */
static enum hak_err with_fields(uint8_t proto, const char *fields, size_t n,
				struct hak_record *rec, unsigned *skipped)
{
	struct hak_flow f = make_flow(AF_INET, proto);
	struct hak_wr w = wr();
	uint8_t len;

	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_DESTROY, &f));
	hak_wr_copy(&w, fields, n);
	len = (uint8_t)(hak_wr_len(&w) - 2);
	hak_wr_patch(&w, 0, &(uint8_t){ HAK_REC_FLOW_UPDATE }, 1);
	hak_wr_patch(&w, 1, &len, 1);
	return get(buf, hak_wr_len(&w), rec, skipped);
}

static void test_fields(void)
{
#define F(proto, s, e) { proto, s, sizeof s - 1, e, 0, #s }
#define S(proto, s, n) { proto, s, sizeof s - 1, HAK_OK, n, #s }
	static const struct {
		uint8_t proto;
		const char *bytes;
		size_t n;
		enum hak_err err;
		unsigned skipped;
		const char *text;
	} v[] = {
		/* known fields, good */
		F(6, "\x04\1\2\3\4", HAK_OK), F(6, "\x14\1\2\3\4", HAK_OK),
		F(6, "\x24\1\2\3\4", HAK_OK), F(6, "\x31\x02", HAK_OK),
		F(6, "\x41\x03", HAK_OK), F(6, "\x42\x63\x11", HAK_OK),
		F(6, "\x43\x69\x11\xee", HAK_OK), F(132, "\x51\x03", HAK_OK),
		F(132, "\x59\3AAAABBBB", HAK_OK), F(33, "\x6a\3\1AAAABBBB", HAK_OK),
		F(6, "\x74\1\0\0\1", HAK_OK), F(6, "\x71\1", HAK_OK), F(6, "\x81\0", HAK_OK),
		F(6, "\x06\1\2\3\4\5\6", HAK_OK), F(6, "\x16\1\2\3\4\5\6", HAK_OK),
		F(6, "\x93" "ftp", HAK_OK), F(6, "\xad\x11" "aaaabbbbppqq", HAK_OK),
		F(6, "\xa9\x32" "aaaabbbb", HAK_OK), F(6, "\xbf\x18" "aaaabbbbccccddddeeeeffff", HAK_OK),
		F(6, "\xcc" "aaaabbbbcccc", HAK_OK),
		/* no value at all */
		F(6, "\x00", HAK_EFORMAT), F(6, "\x30", HAK_EFORMAT), F(6, "\x40", HAK_EFORMAT),
		F(6, "\x80", HAK_EFORMAT), F(6, "\x90", HAK_EFORMAT), F(6, "\xb0", HAK_EFORMAT),
		/* lengths that cannot be */
		F(6, "\x03\1\2\3", HAK_EFORMAT), F(6, "\x05\1\2\3\4\5", HAK_EFORMAT),
		F(6, "\x23\1\2\3", HAK_EFORMAT), F(6, "\x25\1\2\3\4\5", HAK_EFORMAT),
		F(6, "\x07\1\2\3\4\5\6\7", HAK_EFORMAT), F(6, "\x75\0\0\0\0\1", HAK_EFORMAT),
		F(50, "\x06\1\2\3\4\5\6", HAK_EFORMAT), F(6, "\x70", HAK_EFORMAT), F(132, "\x52\3A", HAK_EFORMAT),
		F(132, "\x55\3AAAA", HAK_EFORMAT), F(33, "\x69\3\1AAAABBB", HAK_EFORMAT),
		F(6, "\xac\x11" "aaaabbbbppq", HAK_EFORMAT), F(6, "\xa8\x32" "aaaabbb", HAK_EFORMAT),
		F(6, "\xbf\x17" "aaaabbbbccccddddeeeefff", HAK_EFORMAT),
		F(6, "\xcb" "aaaabbbbccc", HAK_EFORMAT),
		F(6, "\x9f\x10" "aaaabbbbccccdddd", HAK_EFORMAT),	/* another helper's name */
		F(50, "\x24\1\2\3\4", HAK_EFORMAT),	/* ESP has no ports */
		/* twice */
		F(6, "\x31\x02\x31\x02", HAK_EFORMAT), F(6, "\x74\0\0\0\1\x74\0\0\0\1", HAK_EFORMAT),
		/* values that cannot be */
		F(6, "\x41\x0a", HAK_EFORMAT), F(6, "\x43\x03\x11\xf0", HAK_EFORMAT),
		F(6, "\x43\x03\x11\x0f", HAK_EFORMAT), F(6, "\x93" "f\0p", HAK_EFORMAT),
		/* another protocol's */
		F(17, "\x41\x03", HAK_EFORMAT), F(6, "\x51\x03", HAK_EFORMAT),
		F(6, "\x6a\3\1AAAABBBB", HAK_EFORMAT),
		/* a long length for what is short */
		F(6, "\x7f\x04\0\0\0\1", HAK_EFORMAT), F(6, "\xff\x0e" "12345678901234", HAK_EFORMAT),
		/* later versions': longer values, other ids */
		F(6, "\x32\x02\xff", HAK_OK), F(6, "\x44\x63\x11\xee\xaa", HAK_OK),
		F(132, "\x5a\3AAAABBBBx", HAK_OK), F(33, "\x6b\3\1AAAABBBBx", HAK_OK),
		F(6, "\x8f\x11" "aaaabbbbccccddddx", HAK_OK),
		F(6, "\xbf\x19" "aaaabbbbccccddddeeeeffffx", HAK_OK),
		S(6, "\xd0", 1), S(6, "\xd2" "ab\xe1x\x74\0\0\0\1", 2),
		S(6, "\xf3\x01xy\xf3\x01xy", 2),	/* the escape, and even twice */
		S(6, "\xff\x12\x01" "12345678901234567", 1),
		F(6, "\xd2" "a", HAK_EFORMAT), F(6, "\xff", HAK_EFORMAT), F(6, "\xff\x12" "a", HAK_EFORMAT),
	};
	struct hak_record rec;

	for (unsigned i = 0; i < sizeof v / sizeof *v; i++) {
		unsigned skipped = 0;

		CASE("field %s", v[i].text);
		EQUAL(with_fields(v[i].proto, v[i].bytes, v[i].n, &rec, &skipped), v[i].err);
		EQUAL(skipped, v[i].skipped);
	}
	CASE("values");
	NEED(!with_fields(6, "\x43\x69\x1a\xe7", 4, &rec, NULL));
	EQUAL(rec.flow.tcp_state, 9);
	EQUAL(rec.flow.status, IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED);
	EQUAL(rec.flow.tcp_flags[0], 1);
	EQUAL(rec.flow.tcp_flags[1], 10);
	EQUAL(rec.flow.tcp_wscale[0], 14);
	EQUAL(rec.flow.tcp_wscale[1], 7);
	/* no status told is none known: an update must not lower anything */
	NEED(!with_fields(6, "\x41\x03", 2, &rec, NULL));
	EQUAL(rec.flow.have, HAK_HAS_TCP);
	NEED(!with_fields(17, "\x31\xf2", 2, &rec, NULL));
	EQUAL(rec.flow.status, IPS_CONFIRMED | IPS_SEEN_REPLY);	/* unknown bits ignored */
	NEED(!with_fields(6, "\x04\1\2\3\4", 5, &rec, NULL));
	CHECK(!memcmp(rec.flow.reply.src, "\1\2\3\4", 4));
	EQUAL(rec.flow.reply.sport, 80);
	EQUAL(rec.flow.reply.dport, 4711);
	NEED(!with_fields(6, "\x16\1\2\3\4\5\6", 7, &rec, NULL));
	CHECK(!memcmp(rec.flow.reply.dst, "\1\2\3\4", 4));
	EQUAL(rec.flow.reply.sport, 80);
	EQUAL(rec.flow.reply.dport, 0x506);
	NEED(!with_fields(6, "\x72\1\2", 3, &rec, NULL));
	EQUAL(rec.flow.mark, 0x102);
	NEED(!with_fields(6, "\x82\x03\x80", 3, &rec, NULL));
	EQUAL(rec.flow.labels[0], 3);
	EQUAL(rec.flow.labels[1], 0x80);
	EQUAL(rec.flow.labels[2], 0);
}

static void test_identity(void)
{
	struct hak_record rec;
	struct hak_flow f = make_flow(AF_INET, IPPROTO_UDP);
	struct hak_wr w = wr();
	uint8_t r[32];

	CASE("identity");
	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_DESTROY, &f));
	for (unsigned shape = 0; shape < 256; shape++) {
		/* ICMP's identity is as long as UDP's; other shapes imply other lengths */
		bool fits = shape == 0x08 || shape == 0x10 || shape == 0x18;
		enum hak_err want = shape & ~0x1fu ? HAK_ESKIP : fits ? HAK_OK : HAK_EFORMAT;

		memcpy(r, buf, sizeof r);
		r[2] = (uint8_t)shape;
		EQUAL(get(r, hak_wr_len(&w), &rec, NULL), want);
	}
	CASE("zone 0 by another name");
	EQUAL(get("\x03\x0f\x12\0\0aaaabbbbppqq", 17, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x03\x0f\x12\0\1aaaabbbbppqq", 17, &rec, NULL), HAK_OK);
	EQUAL(rec.flow.zone, 1);
	EQUAL(rec.flow.zone_dir, HAK_ZONE_BOTH);
	CASE("protocols by another name");
	EQUAL(get("\x03\x0e\0\x06" "aaaabbbbppqq", 16, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x03\x0e\0\x11" "aaaabbbbppqq", 16, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x03\x0e\0\x01" "aaaabbbbppqq", 16, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x03\x0e\0\x3a" "aaaabbbbppqq", 16, &rec, NULL), HAK_OK);
	EQUAL(rec.flow.l4proto, IPPROTO_ICMPV6);	/* over IPv4: strange, but a name of its own */
	EQUAL(get("\x03\x0d\x18" "aaaabbbbppqq", 15, &rec, NULL), HAK_OK);
	EQUAL(rec.flow.l4proto, IPPROTO_ICMP);
}

static void test_arguments(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP), g;
	struct hak_expect e = make_expect(AF_INET), x;
	struct hak_wr w = wr();
	static uint8_t big[70000];

	CASE("arguments");
#define BAD(type, change) \
	do { g = f; g.change; EQUAL(hak_wire_put_flow(&w, type, &g), HAK_EINVAL); } while (0)
	BAD(HAK_REC_FLOW_NEW, l3 = 0);
	BAD(HAK_REC_FLOW_NEW, zone = 1);
	BAD(HAK_REC_FLOW_NEW, zone_dir = HAK_ZONE_BOTH);
	BAD(HAK_REC_FLOW_NEW, zone_dir = 4);
	BAD(HAK_REC_FLOW_NEW, have = 0);
	BAD(HAK_REC_FLOW_UPDATE, tcp_state = 10);
	BAD(HAK_REC_EXP_NEW, mark = 0);
	BAD(HAK_REC_HEARTBEAT, mark = 0);
	BAD(0, mark = 0);
	x = e;
	x.l3 = 7;
	EQUAL(hak_wire_put_expect(&w, HAK_REC_EXP_NEW, &x), HAK_EINVAL);
	EQUAL(hak_wire_put_expect(&w, HAK_REC_FLOW_NEW, &e), HAK_EINVAL);
	EQUAL(hak_wire_put_raw(&w, HAK_REC_ACK, big, 65536), HAK_EINVAL);
	EQUAL(hak_wr_len(&w), 0);
	CHECK(!w.bad);
}

/* No room: the writer is as before, whatever the room. */
static void test_space(void)
{
	static const uint8_t body[100];
	struct hak_flow f = make_flow(AF_INET6, IPPROTO_TCP);
	struct hak_expect e = make_expect(AF_INET);

	CASE("space");
	for (size_t room = 0; room < 200; room++) {
		uint8_t b[256];
		struct hak_wr w = hak_wr_on(b, room);
		enum hak_err err = hak_wire_put_flow(&w, HAK_REC_FLOW_SYNC, &f);

		hak_wr_u8(&w, 0);
		if (err) {
			EQUAL(err, HAK_ESPACE);
			EQUAL(hak_wr_len(&w), room > 0);
			EQUAL(w.bad, room == 0);
		}
		w = hak_wr_on(b, room);
		err = hak_wire_put_expect(&w, HAK_REC_EXP_NEW, &e);
		CHECK(!err || (err == HAK_ESPACE && !hak_wr_len(&w) && !w.bad));
		w = hak_wr_on(b, room);
		err = hak_wire_put_raw(&w, HAK_REC_ACK, body, sizeof body);
		EQUAL(err, room < 102 ? HAK_ESPACE : HAK_OK);
		CHECK(!err || (!hak_wr_len(&w) && !w.bad));
	}
}

static void test_other_records(void)
{
	static uint8_t big[2 + 2 + 65535];
	static const uint8_t body[65535];
	struct hak_record rec;
	struct hak_wr w;
	struct hak_rd r;

	CASE("other records");
	EQUAL(get("\x10\x04\0\0\1\2", 6, &rec, NULL), HAK_OK);
	EQUAL(rec.sync.generation, 0x102);
	EQUAL(rec.sync.sums, 0);
	for (size_t n = 5; n < 9; n++) {
		const char cut[] = { 0x10, (char)n, 0, 0, 1, 2, 0, 0, 0, 16, 20 };

		EQUAL(get(cut, 2 + n, &rec, NULL), HAK_EFORMAT);
	}
	EQUAL(get("\x10\x09\0\0\1\2\0\0\0\x10\x14", 11, &rec, NULL), HAK_OK);
	EQUAL(rec.sync.sums, 16);
	EQUAL(rec.sync.bits, 20);
	EQUAL(get("\x10\x0a\0\0\1\2\0\0\0\x10\x14x", 12, &rec, NULL), HAK_OK);	/* longer */
	EQUAL(get("\x10\x09\0\0\1\2\0\0\0\x10\x0b", 11, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x10\x09\0\0\1\2\0\0\0\x10\x15", 11, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x10\x03\0\0\1", 5, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x11\x0c\0\0\0\1\0\0\0\0\0\0\1\0", 14, &rec, NULL), HAK_OK);
	EQUAL(rec.sync.entries, 256);
	EQUAL(get("\x11\x04\0\0\0\1", 6, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x12\x04\0\0\0\7", 6, &rec, NULL), HAK_OK);
	EQUAL(rec.term, 7);
	EQUAL(get("\x44\x04\0\0\0\7", 6, &rec, NULL), HAK_OK);
	EQUAL(rec.sync.generation, 7);
	EQUAL(get("\x44\x0c\0\0\0\7\0\0\0\0\0\0\0\x20", 14, &rec, NULL), HAK_OK);
	EQUAL(rec.sync.round, 0);
	EQUAL(rec.sync.sums, 32);
	EQUAL(get("\x44\x0b\0\0\0\7\0\0\0\0\0\0\0", 13, &rec, NULL), HAK_EFORMAT);
	EQUAL(get("\x42\x02xy", 4, &rec, NULL), HAK_OK);
	EQUAL(hak_rd_left(&rec.body), 2);
	EQUAL(get("\x46\0", 2, &rec, NULL), HAK_OK);
	EQUAL(hak_rd_left(&rec.body), 0);
	EQUAL(get("\xfe\2ab", 4, &rec, NULL), HAK_ESKIP);
	EQUAL(get("\0\0", 2, &rec, NULL), HAK_ESKIP);
	CASE("long lengths");
	EQUAL(get("\x42\xff\0\xfe", 4, &rec, NULL), HAK_EFORMAT);	/* 254 has a short way */
	EQUAL(get("\x42\xff\0", 3, &rec, NULL), HAK_ETRUNC);
	for (size_t n = 253; n < 65536; n = n < 258 ? n + 1 : n * 2 + 1) {
		w = hak_wr_on(big, sizeof big);
		EQUAL(hak_wire_put_raw(&w, HAK_REC_STATUS, body, n), HAK_OK);
		EQUAL(hak_wr_len(&w), n + (n < 255 ? 2 : 4));
		r = rd(&w);
		EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
		EQUAL(hak_rd_left(&rec.body), n);
	}
	CASE("names");
	CHECK(!strcmp(hak_rec_name(HAK_REC_FLOW_NEW), "FLOW_NEW"));
	CHECK(!strcmp(hak_rec_name(HAK_REC_BYE), "BYE"));
	CHECK(!strcmp(hak_rec_name(0), "?"));
	CHECK(!strcmp(hak_rec_name(255), "?"));
}

/* A payload: what is unknown is stepped over, and the rest is read. */
static void test_payload(void)
{
	static const uint8_t body[300];
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_wr w = wr();
	struct hak_record rec;
	struct hak_rd r;

	CASE("payload");
	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_NEW, &f));
	NEED(!hak_wire_put_raw(&w, 200, body, sizeof body));
	NEED(!hak_wire_put_raw(&w, HAK_REC_FLOW_NEW, "\x80rest", 5));	/* a later shape */
	NEED(!hak_wire_put_flow(&w, HAK_REC_FLOW_DESTROY, &f));
	r = rd(&w);
	EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
	EQUAL(hak_wire_get(&r, &rec, NULL), HAK_ESKIP);
	EQUAL(hak_wire_get(&r, &rec, NULL), HAK_ESKIP);
	EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
	EQUAL(rec.type, HAK_REC_FLOW_DESTROY);
	EQUAL(hak_wire_get(&r, &rec, NULL), HAK_ETRUNC);	/* nothing is no record */
}

/* Noise: no crash, no endless loop (and under the sanitizers nothing else either). */
static void test_noise(void)
{
	CASE("noise");
	for (int i = 0; i < 200000; i++) {
		uint8_t b[64];
		struct hak_record rec;
		struct hak_rd r = hak_rd_on(b, t_below(sizeof b));
		unsigned turns = 0;

		t_bytes(b, sizeof b);
		b[0] = (uint8_t)(1 + t_below(9));
		b[1] = (uint8_t)t_below(64);
		b[2] &= 7;
		while (hak_rd_left(&r)) {
			enum hak_err e = hak_wire_get(&r, &rec, NULL);

			if (e != HAK_OK && e != HAK_ESKIP)
				break;
			turns++;
		}
		CHECK(turns <= 32);
	}
}

/* ---- bytes ------------------------------------------------------------ */

/* A TCP connection's life as the kernel tells it, in order; CLOSE_WAIT is not told if
 * the server acknowledges the FIN with its own. */
static size_t life(uint8_t l3, enum nat nat, bool close_wait, const char *name)
{
	static const struct {
		uint8_t type, state;
		uint32_t status;
	} steps[] = {
		{ HAK_REC_FLOW_NEW, TCP_CONNTRACK_SYN_SENT, 0 },
		{ HAK_REC_FLOW_UPDATE, TCP_CONNTRACK_SYN_RECV, IPS_SEEN_REPLY },
		{ HAK_REC_FLOW_UPDATE, TCP_CONNTRACK_ESTABLISHED, IPS_SEEN_REPLY | IPS_ASSURED },
		{ HAK_REC_FLOW_UPDATE, TCP_CONNTRACK_FIN_WAIT, IPS_SEEN_REPLY | IPS_ASSURED },
		{ HAK_REC_FLOW_UPDATE, TCP_CONNTRACK_CLOSE_WAIT, IPS_SEEN_REPLY | IPS_ASSURED },
		{ HAK_REC_FLOW_UPDATE, TCP_CONNTRACK_LAST_ACK, IPS_SEEN_REPLY | IPS_ASSURED },
		{ HAK_REC_FLOW_UPDATE, TCP_CONNTRACK_TIME_WAIT, IPS_SEEN_REPLY | IPS_ASSURED },
		{ HAK_REC_FLOW_DESTROY, TCP_CONNTRACK_TIME_WAIT, IPS_SEEN_REPLY | IPS_ASSURED },
	};
	struct hak_flow f = make_flow(l3, IPPROTO_TCP);
	size_t total = 0;

	give_nat(&f, nat);
	f.mark = 0;
	printf("  %-26s", name);
	for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) {
		struct hak_wr w = wr();

		f.tcp_state = steps[i].state;
		if (f.tcp_state == TCP_CONNTRACK_CLOSE_WAIT && !close_wait) {
			printf("    ");
			continue;
		}
		f.status = steps[i].status | IPS_CONFIRMED;
		f.have = steps[i].type == HAK_REC_FLOW_NEW ? f.have | HAK_HAS_MARK
							   : f.have & ~(uint32_t)HAK_HAS_MARK;
		NEED(!hak_wire_put_flow(&w, steps[i].type, &f));
		printf(" %3zu", hak_wr_len(&w));
		total += hak_wr_len(&w);
	}
	printf(" = %zu\n", total);
	return total;
}

static void test_budget(void)
{
	CASE("budget");
	printf("bytes of records: NEW, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, "
	       "TIME_WAIT, DESTROY\n");
	EQUAL(life(AF_INET, NAT_NONE, false, "v4"), 125);
	EQUAL(life(AF_INET, NAT_NONE, true, "v4"), 143);
	EQUAL(life(AF_INET, NAT_SRC, false, "v4 snat"), 130);
	EQUAL(life(AF_INET, NAT_SRC_PORT, false, "v4 masquerade, port too"), 132);
	EQUAL(life(AF_INET, NAT_SRC_PORT, true, "v4 masquerade, port too"), 150);
	EQUAL(life(AF_INET, NAT_BOTH, false, "v4 snat + dnat, ports too"), 139);
	EQUAL(life(AF_INET6, NAT_NONE, false, "v6"), 293);
	EQUAL(life(AF_INET6, NAT_NONE, true, "v6"), 335);
}

/* The examples of docs/wire-records.md, which are the blocks marked hex: each is one
 * record, and in canonical form. */
static unsigned from_hex(const char *line, uint8_t *to, unsigned room)
{
	unsigned n = 0, v;
	int used;

	while (*line != '#' && sscanf(line, " %2x%n", &v, &used) == 1) {
		NEED(n < room);
		to[n++] = (uint8_t)v;
		line += used;
	}
	return n;
}

static void check_example(const uint8_t *p, size_t n)
{
	struct hak_wr w = wr();
	struct hak_record rec;
	bool exp = p[0] == HAK_REC_EXP_NEW || p[0] == HAK_REC_EXP_DESTROY;

	EQUAL(get(p, n, &rec, NULL), HAK_OK);
	EQUAL(exp ? hak_wire_put_expect(&w, rec.type, &rec.expect)
		  : hak_wire_put_flow(&w, rec.type, &rec.flow), HAK_OK);
	EQUAL(hak_wr_len(&w), n);
	CHECK(!memcmp(buf, p, n));
}

static void test_examples(void)
{
	static const char path[] = "../../docs/wire-records.md";
	FILE *f = fopen(path, "r");
	uint8_t bytes[512];
	unsigned n = 0, examples = 0;
	bool in = false;
	char line[256];

	CASE("%s", path);
	NEED(f != NULL);
	while (fgets(line, sizeof line, f)) {
		if (!strncmp(line, "```", 3)) {
			if (in) {
				CASE("%s, example %u", path, ++examples);
				check_example(bytes, n);
			}
			in = !strncmp(line, "```hex", 6);
			n = 0;
		} else if (in) {
			n += from_hex(line, &bytes[n], (unsigned)sizeof bytes - n);
		}
	}
	fclose(f);
	EQUAL(examples, 9);
}

static void test_status(void)
{
	CASE("status");
	for (uint32_t i = 0; i < 1u << 16; i++) {
		uint32_t kept = i & (IPS_EXPECTED | IPS_SEEN_REPLY | IPS_ASSURED | IPS_HELPER);

		EQUAL(hak_ips_status(hak_wire_status(i)), kept | IPS_CONFIRMED);
	}
}

int main(void)
{
	test_status();
	test_every_shape();
	test_random();
	test_longest();
	test_expect();
	test_prefixes();
	test_fields();
	test_identity();
	test_arguments();
	test_space();
	test_other_records();
	test_payload();
	test_noise();
	test_examples();
	test_budget();
	return t_end();
}
