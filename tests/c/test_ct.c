/* ctnetlink messages without a kernel: what is refused, what is tolerated, and the
 * bytes of the requests.  What a kernel makes of them is test_ct_kernel.c's. */
#include "hak_ct.h"
#include "hak_nlmsg.h"
#include "flows.h"
#include <errno.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

enum {
	MAX = 4096,
	CT_NEW = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW,
	CT_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE,
	ALL = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_MARK | HAK_HAS_TCP | HAK_HAS_TCP_FLAGS |
	      HAK_HAS_TCP_WSCALE | HAK_HAS_SCTP | HAK_HAS_SCTP_VTAG | HAK_HAS_DCCP |
	      HAK_HAS_LABELS | HAK_HAS_HELPER | HAK_HAS_MASTER | HAK_HAS_SEQADJ |
	      HAK_HAS_SYNPROXY | HAK_HAS_TIMEOUT,
};

static uint8_t buf[MAX];
static const struct hak_ct_form plain = { .timeout = 100, .excl = true };

static struct hak_wr wr(void)
{
	memset(buf, 0xa5, sizeof buf);
	return hak_wr_on(buf, sizeof buf);
}

static enum hak_err next(const void *p, size_t n, struct hak_ctmsg *m)
{
	struct hak_rd r = hak_rd_on(p, n);
	enum hak_err e = hak_ct_next(&r, m);

	EQUAL(hak_rd_left(&r), 0);
	return e;
}

/* A request to create has the form of the event that creation makes, so that without
 * NAT our encoder and decoder must be each other's inverse. */
static void test_inverse(void)
{
	static const uint8_t protos[] = { 6, 17, 132, 33, 136, 1, 58, 47, 50, 51, 89, 255 };

	for (unsigned p = 0; p < sizeof protos; p++)
		for (int v6 = 0; v6 < 2; v6++)
			for (enum hak_zone_dir z = 0; z <= HAK_ZONE_REPLY; z++) {
				struct hak_flow f = make_flow(v6 ? AF_INET6 : AF_INET, protos[p]);
				struct hak_wr w = wr();
				struct hak_ctmsg m;

				CASE("proto %u v%c zone %d", protos[p], v6 ? '6' : '4', z);
				give_zone(&f, z);
				f.have |= HAK_HAS_LABELS | HAK_HAS_HELPER | HAK_HAS_MASTER |
					  HAK_HAS_SEQADJ | HAK_HAS_SYNPROXY;
				t_bytes(f.labels, sizeof f.labels);
				t_bytes(f.seqadj, sizeof f.seqadj);
				f.synproxy[2] = 5;
				snprintf(f.helper, sizeof f.helper, "123456789012345");
				f.master = f.orig;
				f.master_l4proto = f.l4proto;
				f.master_l4kind = f.l4kind;
				EQUAL(hak_ct_put_create(&w, 77, &f, &plain), HAK_OK);
				EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
				EQUAL(m.what, HAK_CT_NEW);
				EQUAL(m.seq, 77);
				EQUAL(m.flow.timeout, 100);
				f.have |= HAK_HAS_TIMEOUT;
				SAME(flow_diff(&m.flow, &f, ALL, ~0u));
			}
}

static void test_expect_inverse(void)
{
	for (int v6 = 0; v6 < 2; v6++) {
		struct hak_expect e = make_expect(v6 ? AF_INET6 : AF_INET);
		struct hak_wr w = wr();
		struct hak_ctmsg m;

		CASE("expectation v%c", v6 ? '6' : '4');
		e.class_ = 1;
		e.zone = 7;
		e.zone_dir = HAK_ZONE_BOTH;
		e.flags = NF_CT_EXPECT_PERMANENT | NF_CT_EXPECT_USERSPACE;
		EQUAL(hak_exp_put_create(&w, 1, &e, false), HAK_OK);
		EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
		EQUAL(m.what, HAK_CT_EXP_NEW);
		e.flags = NF_CT_EXPECT_PERMANENT;
		SAME(expect_diff(&m.expect, &e));
		w = wr();
		EQUAL(hak_exp_put_timeout(&w, 1, &e, 99), HAK_OK);
		EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
		EQUAL(m.expect.timeout, 99);
	}
}

/* The same attributes with one more at the end of each nest, or first in each. */
static void expand(struct hak_rd r, struct hak_wr *w, bool first)
{
	if (first)
		hak_nla_put(w, 0x3ffe, "later", 5);
	while (hak_rd_left(&r)) {
		struct hak_rd peek = r;
		uint16_t type, raw;
		uint8_t copy[64];
		size_t n, at;

		(void)hak_rd_h16(&peek);
		raw = hak_rd_h16(&peek);
		struct hak_rd v = hak_nla_next(&r, &type);
		NEED(!r.bad);
		n = hak_rd_left(&v);
		if (raw & NLA_F_NESTED) {
			at = hak_nla_begin(w, type);
			expand(v, w, first);
			hak_nla_end(w, at);
		} else {
			NEED(n <= sizeof copy);
			hak_rd_copy(&v, copy, n);
			hak_nla_put(w, raw, copy, n);
		}
	}
	if (!first)
		hak_nla_put(w, 0x3ffe, "later", 5);
}

/* What is decoded from fixed places must be what the long way decodes, and a message
 * that a later kernel writes otherwise must take the long way. */
static void test_two_ways(void)
{
	static const uint8_t protos[] = { 6, 17, 132, 47, 1 };
	static uint8_t longer[MAX];

	for (unsigned i = 0; i < sizeof protos * 4; i++) {
		struct hak_flow f = make_flow(i & 1 ? AF_INET6 : AF_INET, protos[i / 4]);
		struct hak_wr w = wr(), l = hak_wr_on(longer, sizeof longer);
		struct hak_ctmsg m, n;
		struct hak_rd r;

		CASE("two ways, proto %u v%c %s", f.l4proto, i & 1 ? '6' : '4',
		     i & 2 ? "front" : "end");
		NEED(!hak_ct_put_create(&w, 5, &f, &plain));
		r = hak_rd_on(buf, hak_wr_len(&w));
		hak_wr_copy(&l, hak_rd_take(&r, 20), 20);
		expand(r, &l, i & 2);
		hak_nlmsg_end(&l, 0);
		EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
		EQUAL(next(longer, hak_wr_len(&l), &n), HAK_OK);
		SAME(flow_diff(&m.flow, &n.flow, ALL, ~0u));
		SAME(flow_diff(&m.flow, &f, ALL & ~HAK_HAS_TIMEOUT, ~0u));
	}
}

/* A usual tuple in which one header is not the usual one: never taken for one. */
static void test_unusual(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_wr w = wr();
	static uint8_t hurt[MAX];
	struct hak_ctmsg m;
	size_t n;

	CASE("unusual");
	NEED(!hak_ct_put_create(&w, 1, &f, &plain));
	n = hak_wr_len(&w);
	/* 20: CTA_TUPLE_ORIG; 24: its IP; 28, 36: addresses; 44: proto; 48, 56, 64 */
	static const uint8_t heads[] = { 24, 28, 36, 44, 48, 56, 64 };
	for (unsigned i = 0; i < sizeof heads; i++)
		for (int k = 0; k < 4; k++) {
			memcpy(hurt, buf, n);
			hurt[heads[i] + k] ^= k == 3 ? 1 : 0x10;
			enum hak_err e = next(hurt, n, &m);
			/* ports that are missing are zero, all else is refused */
			bool port = heads[i] >= 56 && k >= 2;
			/* and a longer protocol number may well swallow the ports */
			bool swallow = heads[i] == 48 && k == 0;
			EQUAL(e, port || swallow ? HAK_OK : HAK_EFORMAT);
			if (port)
				EQUAL(heads[i] == 56 ? m.flow.orig.sport : m.flow.orig.dport, 0);
		}
}

/* ---- messages --------------------------------------------------------- */

static struct hak_wr message(uint16_t type, uint16_t flags, const void *body, size_t n)
{
	struct hak_wr w = wr();
	uint32_t len = (uint32_t)(16 + n);

	hak_wr_h32(&w, len);
	hak_wr_h16(&w, type);
	hak_wr_h16(&w, flags);
	hak_wr_h32(&w, 42);
	hak_wr_h32(&w, 4711);
	hak_wr_copy(&w, body, n);
	return w;
}

static void test_control(void)
{
	struct { int32_t err; struct nlmsghdr h; uint8_t rest[40]; } e;
	struct hak_ctmsg m;
	struct hak_wr w;

	memset(&e, 0, sizeof e);
	e.err = -ENOENT;
	CASE("error with NETLINK_CAP_ACK, without it, and with attributes behind");
	for (size_t n = 20; n <= 60; n += 4) {
		w = message(NLMSG_ERROR, n == 20 ? NLM_F_CAPPED : 0, &e, n);
		EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
		EQUAL(m.what, HAK_CT_ERROR);
		EQUAL(m.error, ENOENT);
		EQUAL(m.seq, 42);
		EQUAL(m.portid, 4711);
	}
	CASE("ack");
	e.err = 0;
	w = message(NLMSG_ERROR, 0, &e, 20);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
	EQUAL(m.error, 0);
	CASE("error, malformed");
	w = message(NLMSG_ERROR, 0, &e, 3);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_EFORMAT);
	e.err = 5;
	w = message(NLMSG_ERROR, 0, &e, 20);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_EFORMAT);
	e.err = INT32_MIN;
	w = message(NLMSG_ERROR, 0, &e, 20);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_EFORMAT);
	CASE("done");
	e.err = -EINTR;
	w = message(NLMSG_DONE, NLM_F_MULTI | NLM_F_DUMP_INTR, &e, 4);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
	EQUAL(m.what, HAK_CT_DONE);
	EQUAL(m.error, EINTR);
	CHECK(m.dump_intr);
	w = message(NLMSG_DONE, NLM_F_MULTI, &e, 0);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
	EQUAL(m.error, 0);
	CHECK(!m.dump_intr);
	e.err = INT32_MIN;
	w = message(NLMSG_DONE, NLM_F_MULTI, &e, 4);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_EFORMAT);
	CASE("of no interest");
	w = message(NLMSG_NOOP, 0, &e, 0);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_ESKIP);
	w = message(NFNL_SUBSYS_NFTABLES << 8, 0, &e, 20);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_ESKIP);
	w = message(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS, 0, "\2\0\0", 4);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_ESKIP);
	w = message(CT_NEW, 0, "\7\0\0", 4);		/* AF_BRIDGE */
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_ESKIP);
	w = message(CT_NEW, 0, "\2\0", 3);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_EFORMAT);
}

/* Where the reader stands after each kind of trouble: a loop over a buffer ends. */
static void test_reader(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_UDP);
	struct hak_wr w = wr();
	struct hak_ctmsg m;
	struct hak_rd r;
	uint32_t lie;

	CASE("reader");
	NEED(!hak_ct_put_create(&w, 1, &f, &plain));
	hak_wr_u32(&w, 0);			/* a length of nothing */
	r = hak_rd_on(buf, hak_wr_len(&w));
	EQUAL(hak_ct_next(&r, &m), HAK_OK);
	EQUAL(hak_ct_next(&r, &m), HAK_ETRUNC);
	EQUAL(hak_rd_left(&r), 0);
	for (lie = 0; lie < 16; lie++) {	/* shorter than its header */
		w = message(NLMSG_NOOP, 0, "", 0);
		hak_wr_patch(&w, 0, &lie, 4);
		EQUAL(next(buf, hak_wr_len(&w), &m), HAK_ETRUNC);
	}
	lie = 17;				/* one byte more than there is */
	hak_wr_patch(&w, 0, &lie, 4);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_ETRUNC);
	lie = UINT32_MAX;
	hak_wr_patch(&w, 0, &lie, 4);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_ETRUNC);
	CASE("a bad message before a good one");
	w = message(CT_NEW, 0, "\2\0\0", 4);	/* no tuple */
	NEED(!hak_ct_put_create(&w, 2, &f, &plain));
	r = hak_rd_on(buf, hak_wr_len(&w));
	EQUAL(hak_ct_next(&r, &m), HAK_EFORMAT);
	EQUAL(hak_ct_next(&r, &m), HAK_OK);
	EQUAL(m.seq, 2);
	CASE("a length that is no multiple of four");
	w = message(NLMSG_DONE, 0, "\0\0\0\0\0", 5);
	hak_wr_zero(&w, 3);
	NEED(!hak_ct_put_create(&w, 3, &f, &plain));
	r = hak_rd_on(buf, hak_wr_len(&w));
	EQUAL(hak_ct_next(&r, &m), HAK_OK);
	EQUAL(hak_ct_next(&r, &m), HAK_OK);
	EQUAL(m.seq, 3);
}

static void prefixes(size_t n)
{
	static uint8_t cut[MAX];
	struct hak_ctmsg m;
	unsigned whole = 0;

	for (size_t i = 1; i < n; i++)
		EQUAL(next(buf, i, &m), HAK_ETRUNC);
	/* with a length that admits the cut: the cut must fall between attributes */
	for (uint32_t i = 16; i < n; i++) {
		enum hak_err e;

		memcpy(cut, buf, n);
		memcpy(cut, &i, 4);
		e = next(cut, i, &m);
		whole += e == HAK_OK;
		CHECK(e == HAK_OK || e == HAK_EFORMAT);
	}
	/* Borders between attributes, and the bytes of padding that may be missing. */
	CHECK(whole > 0 && whole < 60);
}

static void test_prefixes(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_expect e = make_expect(AF_INET);
	struct hak_wr w = wr();

	CASE("prefixes of a connection");
	give_nat(&f, NAT_BOTH);
	give_zone(&f, HAK_ZONE_BOTH);
	f.have |= HAK_HAS_HELPER | HAK_HAS_SEQADJ;
	snprintf(f.helper, sizeof f.helper, "ftp");
	NEED(!hak_ct_put_create(&w, 1, &f, &plain));
	prefixes(hak_wr_len(&w));
	CASE("prefixes of an expectation");
	w = wr();
	NEED(!hak_exp_put_create(&w, 1, &e, false));
	prefixes(hak_wr_len(&w));
}

/* ---- attributes ------------------------------------------------------- */

static void put_orig(struct hak_wr *w, size_t addr, size_t port)
{
	size_t at = hak_nla_begin(w, CTA_TUPLE_ORIG), in = hak_nla_begin(w, CTA_TUPLE_IP);

	hak_nla_put(w, CTA_IP_V4_SRC, "\1\2\3\4\5\6\7\10", addr);
	hak_nla_put(w, CTA_IP_V4_DST, "\5\6\7\10\1\2\3\4", addr);
	hak_nla_end(w, in);
	in = hak_nla_begin(w, CTA_TUPLE_PROTO);
	hak_nla_put(w, CTA_PROTO_NUM, "\6\0\0\0", port - 1);
	hak_nla_put(w, CTA_PROTO_SRC_PORT, "\0\1\0\0", port);
	hak_nla_put(w, CTA_PROTO_DST_PORT, "\0\2\0\0", port);
	hak_nla_put(w, 99, "later", 5);
	hak_nla_end(w, in);
	hak_nla_end(w, at);
}

#define WITH(attrs) \
	do { \
		size_t at_; \
		w = wr(); \
		at_ = hak_nlmsg_begin(&w, CT_NEW, 0, 1, AF_INET, 0); \
		put_orig(&w, 4, 2); \
		attrs; \
		hak_nlmsg_end(&w, at_); \
	} while (0)
#define GIVES(err, attrs) \
	do { WITH(attrs); EQUAL(next(buf, hak_wr_len(&w), &m), err); } while (0)

/* One byte short of its type each, nested ones in their nests. */
static void test_short(void)
{
	static const struct { uint16_t outer, inner, type; uint8_t len; } v[] = {
		{ 0, 0, CTA_STATUS, 4 }, { 0, 0, CTA_TIMEOUT, 4 }, { 0, 0, CTA_MARK, 4 },
		{ 0, 0, CTA_ZONE, 2 },
		{ CTA_TUPLE_REPLY, 0, CTA_TUPLE_ZONE, 2 },
		{ CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE, 1 },
		{ CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_WSCALE_REPLY, 1 },
		{ CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_FLAGS_REPLY, 1 },
		{ CTA_PROTOINFO, CTA_PROTOINFO_SCTP, CTA_PROTOINFO_SCTP_STATE, 1 },
		{ CTA_PROTOINFO, CTA_PROTOINFO_SCTP, CTA_PROTOINFO_SCTP_VTAG_REPLY, 4 },
		{ CTA_PROTOINFO, CTA_PROTOINFO_DCCP, CTA_PROTOINFO_DCCP_ROLE, 1 },
		{ CTA_PROTOINFO, CTA_PROTOINFO_DCCP, CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ, 8 },
		{ CTA_SEQ_ADJ_ORIG, 0, CTA_SEQADJ_OFFSET_AFTER, 4 },
		{ CTA_SYNPROXY, 0, CTA_SYNPROXY_TSOFF, 4 },
		{ CTA_TUPLE_MASTER, CTA_TUPLE_IP, CTA_IP_V4_SRC, 4 },
		{ CTA_TUPLE_MASTER, CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT, 2 },
	};
	static const uint8_t zeroes[32];
	struct hak_ctmsg m;
	struct hak_wr w;

	for (unsigned i = 0; i < sizeof v / sizeof *v; i++)
		for (int more = -1; more < 8; more++) {
			bool tuple = v[i].outer == CTA_TUPLE_MASTER || v[i].outer == CTA_TUPLE_REPLY;
			size_t o = 0, n = 0;

			CASE("attribute %u of %u of %u, length %d", v[i].type, v[i].inner,
			     v[i].outer, v[i].len + more);
			w = wr();
			size_t at = hak_nlmsg_begin(&w, CT_NEW, 0, 1, AF_INET, 0);
			put_orig(&w, 4, 2);
			if (v[i].outer)
				o = hak_nla_begin(&w, v[i].outer);
			if (v[i].inner)
				n = hak_nla_begin(&w, v[i].inner);
			hak_nla_put(&w, v[i].type, zeroes, (size_t)(v[i].len + more));
			if (v[i].inner)
				hak_nla_end(&w, n);
			if (v[i].outer)
				hak_nla_end(&w, o);
			hak_nlmsg_end(&w, at);
			EQUAL(next(buf, hak_wr_len(&w), &m),
			      more < 0 || tuple ? HAK_EFORMAT : HAK_OK);
		}
}

static void put_help(struct hak_wr *w, const char *name, size_t n)
{
	size_t at = hak_nla_begin(w, CTA_HELP);

	hak_nla_put(w, CTA_HELP_NAME, name, n);
	hak_nla_end(w, at);
}

static void put_tcp(struct hak_wr *w, uint8_t state)
{
	size_t at = hak_nla_begin(w, CTA_PROTOINFO), in = hak_nla_begin(w, CTA_PROTOINFO_TCP);

	hak_nla_put(w, CTA_PROTOINFO_TCP_STATE, &state, 1);
	hak_nla_end(w, in);
	hak_nla_end(w, at);
}

static void test_attributes(void)
{
	struct hak_ctmsg m;
	struct hak_wr w;
	size_t at;

	CASE("tuple");
	for (size_t addr = 0; addr <= 8; addr++)
		for (size_t port = 1; port <= 4; port++) {
			w = wr();
			at = hak_nlmsg_begin(&w, CT_NEW, 0, 1, AF_INET, 0);
			put_orig(&w, addr, port);
			hak_nlmsg_end(&w, at);
			EQUAL(next(buf, hak_wr_len(&w), &m),
			      addr < 4 || port < 2 ? HAK_EFORMAT : HAK_OK);
			if (addr >= 4 && port >= 2)
				EQUAL(m.flow.orig.dport, 2);
		}
	CASE("attributes");
	GIVES(HAK_OK, );
	EQUAL(m.what, HAK_CT_UPDATE);
	EQUAL(m.flow.have, 0);		/* an update without a mark tells nothing of it */
	GIVES(HAK_OK, hak_nla_put(&w, 200, "anything", 8));
	GIVES(HAK_OK, hak_nla_put(&w, CTA_MARK | NLA_F_NESTED, "\0\0\0\5", 4));
	EQUAL(m.flow.mark, 5);
	GIVES(HAK_EFORMAT, hak_wr_h16(&w, 3); hak_wr_h16(&w, CTA_MARK));	/* lying lengths */
	GIVES(HAK_EFORMAT, hak_wr_h16(&w, 9); hak_wr_h16(&w, CTA_MARK); hak_wr_u32(&w, 0));
	GIVES(HAK_EFORMAT, hak_wr_h16(&w, 65535); hak_wr_h16(&w, 200));
	GIVES(HAK_EFORMAT, hak_wr_u16(&w, 0));			/* not even a header */
	GIVES(HAK_OK, hak_nla_put(&w, CTA_LABELS, "\1\2\3\4", 4));
	EQUAL(m.flow.labels[3], 4);
	GIVES(HAK_OK, hak_nla_put(&w, CTA_LABELS, "0123456789abcdef0123", 20));
	EQUAL(m.flow.labels[15], 'f');
	GIVES(HAK_OK, put_help(&w, "ftp", 4));
	CHECK(m.flow.have == HAK_HAS_HELPER && !strcmp(m.flow.helper, "ftp"));
	GIVES(HAK_OK, put_help(&w, "ftp", 3));			/* not terminated but fits */
	CHECK(!strcmp(m.flow.helper, "ftp"));
	GIVES(HAK_OK, put_help(&w, "", 1));
	EQUAL(m.flow.have, 0);
	GIVES(HAK_EFORMAT, put_help(&w, "1234567890123456", 16));
	GIVES(HAK_EFORMAT, put_help(&w, "1234567890123456", 17));
	GIVES(HAK_OK, put_tcp(&w, 9));
	EQUAL(m.flow.have, HAK_HAS_TCP);
	GIVES(HAK_OK, put_tcp(&w, 10));				/* a later kernel's state */
	EQUAL(m.flow.have, 0);
	GIVES(HAK_OK, hak_nla_put(&w, CTA_ZONE, "\0\0", 2));
	EQUAL(m.flow.zone_dir, HAK_ZONE_NONE);
	CASE("the reply is of another protocol");
	{
		struct hak_flow f = make_flow(AF_INET, IPPROTO_UDP);
		struct hak_rd r;

		w = wr();
		NEED(!hak_ct_put_get_reply(&w, 1, &f));
		r = hak_rd_on(buf, hak_wr_len(&w));
		(void)hak_rd_take(&r, 20);
		uint8_t reply[128];
		size_t n = hak_rd_left(&r);
		hak_rd_copy(&r, reply, n);
		GIVES(HAK_EFORMAT, hak_wr_copy(&w, reply, n));	/* the original one is TCP */
	}
	CASE("no tuple");
	w = message(CT_DELETE, 0, "\2\0\0", 4);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_EFORMAT);
	CASE("no mark in a NEW event: it is zero");
	WITH();
	hak_wr_patch(&w, 6, &(uint16_t){ NLM_F_CREATE | NLM_F_EXCL }, 2);
	EQUAL(next(buf, hak_wr_len(&w), &m), HAK_OK);
	EQUAL(m.what, HAK_CT_NEW);
	EQUAL(m.flow.have, HAK_HAS_MARK);
}

/* ---- requests --------------------------------------------------------- */

/* Is there an attribute `type` in the message at buf, and where is its value? */
static bool has(size_t n, uint16_t want, struct hak_rd *v)
{
	struct hak_rd r = hak_rd_on(buf, n);
	uint16_t type;

	(void)hak_rd_take(&r, 20);
	while (hak_rd_left(&r)) {
		struct hak_rd a = hak_nla_next(&r, &type);

		if (type == want) {
			if (v)
				*v = a;
			return true;
		}
	}
	return false;
}

static uint32_t status_of(size_t n)
{
	struct hak_rd v;

	NEED(has(n, CTA_STATUS, &v));
	return hak_rd_u32(&v);
}

/* Every nest must say that it is one: later kernels insist. */
static void nested(struct hak_rd r, const uint16_t *nests, size_t n)
{
	while (hak_rd_left(&r)) {
		struct hak_rd peek = r;
		uint16_t type, raw;

		(void)hak_rd_u16(&peek);
		raw = hak_rd_h16(&peek);
		(void)hak_nla_next(&r, &type);
		for (size_t i = 0; i < n; i++)
			if (nests[i] == type)
				CHECK(raw & NLA_F_NESTED);
	}
	CHECK(!r.bad);
}

static void test_requests(void)
{
	static const uint16_t nests[] = {
		CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_PROTOINFO, CTA_HELP, CTA_NAT_SRC, CTA_NAT_DST,
		CTA_TUPLE_MASTER, CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY, CTA_SYNPROXY,
	};
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_ct_form form = plain;
	struct hak_wr w = wr();
	struct hak_rd r;
	size_t n;

	f.have |= HAK_HAS_HELPER | HAK_HAS_MASTER | HAK_HAS_LABELS | HAK_HAS_SEQADJ |
		  HAK_HAS_SYNPROXY;
	snprintf(f.helper, sizeof f.helper, "ftp");
	f.master = f.orig;
	f.master_l4proto = IPPROTO_TCP;
	f.status = ~0u;
	give_nat(&f, NAT_BOTH);
	CASE("create");
	NEED(!hak_ct_put_create(&w, 1, &f, &form));
	n = hak_wr_len(&w);
	EQUAL(n % 4, 0);
	EQUAL(buf[16], AF_INET);
	EQUAL(status_of(n), IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED | IPS_HELPER);
	CHECK(has(n, CTA_HELP, NULL) && has(n, CTA_TUPLE_MASTER, NULL) &&
	      has(n, CTA_NAT_SRC, NULL) && has(n, CTA_NAT_DST, NULL) && has(n, CTA_TIMEOUT, NULL) &&
	      has(n, CTA_LABELS, NULL) && has(n, CTA_SYNPROXY, NULL));
	r = hak_rd_on(buf, n);
	(void)hak_rd_take(&r, 20);
	nested(r, nests, sizeof nests / sizeof *nests);
	CASE("create, second tries");
	form.no_helper = form.no_master = form.no_labels = true;
	w = wr();
	NEED(!hak_ct_put_create(&w, 1, &f, &form));
	n = hak_wr_len(&w);
	CHECK(!has(n, CTA_HELP, NULL) && !has(n, CTA_TUPLE_MASTER, NULL) && !has(n, CTA_LABELS, NULL));
	EQUAL(status_of(n), IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED);
	CASE("update");
	form = (struct hak_ct_form){ .timeout = 5 };
	w = wr();
	NEED(!hak_ct_put_update(&w, 1, &f, &form));
	n = hak_wr_len(&w);
	CHECK(!has(n, CTA_HELP, NULL) && !has(n, CTA_TUPLE_MASTER, NULL) && has(n, CTA_LABELS, NULL) &&
	      !has(n, CTA_NAT_SRC, NULL) && !has(n, CTA_NAT_DST, NULL) &&
	      !has(n, CTA_TUPLE_REPLY, NULL) && has(n, CTA_TIMEOUT, NULL));
	EQUAL(status_of(n),
	      IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED | IPS_HELPER | IPS_EXPECTED);
	form = (struct hak_ct_form){ .flip_expected = true };
	w = wr();
	NEED(!hak_ct_put_update(&w, 1, &f, &form));
	CHECK(!has(hak_wr_len(&w), CTA_TIMEOUT, NULL));
	EQUAL(status_of(hak_wr_len(&w)) & IPS_EXPECTED, 0);
	form = (struct hak_ct_form){ .no_master = true };
	w = wr();
	NEED(!hak_ct_put_update(&w, 1, &f, &form));
	EQUAL(status_of(hak_wr_len(&w)) & IPS_EXPECTED, 0);
	f.have &= ~(uint32_t)HAK_HAS_STATUS;
	w = wr();
	NEED(!hak_ct_put_update(&w, 1, &f, &form));
	CHECK(!has(hak_wr_len(&w), CTA_STATUS, NULL));
	CASE("larval GRE");
	f = make_flow(AF_INET, IPPROTO_GRE);
	form = (struct hak_ct_form){ .timeout = 5, .larval = true };
	w = wr();
	NEED(!hak_ct_put_create(&w, 1, &f, &form));
	CHECK(status_of(hak_wr_len(&w)) & IPS_FIXED_TIMEOUT);
	w = wr();
	NEED(!hak_ct_put_update(&w, 1, &f, &form));
	CHECK(!has(hak_wr_len(&w), CTA_TIMEOUT, NULL));
	CASE("a bare SCTP state is no protocol information");
	f = make_flow(AF_INET, IPPROTO_SCTP);
	f.have &= ~(uint32_t)HAK_HAS_SCTP_VTAG;
	w = wr();
	NEED(!hak_ct_put_update(&w, 1, &f, &form));
	CHECK(!has(hak_wr_len(&w), CTA_PROTOINFO, NULL));
}

static void test_arguments(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_expect e = make_expect(AF_INET);
	struct hak_ct_form form = plain;
	struct hak_wr w = wr();

	CASE("arguments");
	form.timeout = 0;
	EQUAL(hak_ct_put_create(&w, 1, &f, &form), HAK_EINVAL);
	f.have = 0;
	EQUAL(hak_ct_put_create(&w, 1, &f, &plain), HAK_EINVAL);
	EQUAL(hak_ct_put_get_reply(&w, 1, &f), HAK_EINVAL);
	EQUAL(hak_ct_put_delete_reply(&w, 1, &f, false), HAK_EINVAL);
	f.l3 = 0;
	EQUAL(hak_ct_put_update(&w, 1, &f, &plain), HAK_EINVAL);
	EQUAL(hak_ct_put_delete(&w, 1, &f, false), HAK_EINVAL);
	EQUAL(hak_ct_put_get(&w, 1, &f), HAK_EINVAL);
	EQUAL(hak_ct_put_timeout(&w, 1, &f, 5, false), HAK_EINVAL);
	e.l3 = 0;
	EQUAL(hak_exp_put_create(&w, 1, &e, false), HAK_EINVAL);
	EQUAL(hak_exp_put_timeout(&w, 1, &e, 5), HAK_EINVAL);
	EQUAL(hak_exp_put_delete(&w, 1, &e, false), HAK_EINVAL);
	EQUAL(hak_wr_len(&w), 0);
}

static void test_space(void)
{
	struct hak_flow f = make_flow(AF_INET6, IPPROTO_TCP);
	struct hak_expect e = make_expect(AF_INET6);

	CASE("space");
	give_nat(&f, NAT_BOTH);
#define TIGHT(call) \
	for (size_t room = 0; room < 700; room++) { \
		struct hak_wr w = hak_wr_on(buf, room); \
		enum hak_err e_ = call; \
		CHECK(e_ == HAK_OK || (e_ == HAK_ESPACE && !hak_wr_len(&w) && !w.bad)); \
	}
	TIGHT(hak_ct_put_create(&w, 1, &f, &plain));
	TIGHT(hak_ct_put_update(&w, 1, &f, &plain));
	TIGHT(hak_ct_put_delete(&w, 1, &f, true));
	TIGHT(hak_ct_put_get_reply(&w, 1, &f));
	TIGHT(hak_ct_put_timeout(&w, 1, &f, 5, true));
	TIGHT(hak_ct_put_list(&w, 1));
	TIGHT(hak_exp_put_create(&w, 1, &e, true));
	TIGHT(hak_exp_put_timeout(&w, 1, &e, 5));
	TIGHT(hak_exp_put_delete(&w, 1, &e, true));
	TIGHT(hak_exp_put_list(&w, 1));
	TIGHT(hak_exp_put_flush(&w, 1, true));
}

/* Damage: good messages with some bytes changed. */
static void test_noise(void)
{
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_wr w = wr();
	static uint8_t hurt[MAX];
	struct hak_ctmsg m;
	size_t n;

	CASE("noise");
	give_nat(&f, NAT_BOTH);
	f.have |= HAK_HAS_HELPER | HAK_HAS_LABELS | HAK_HAS_SEQADJ;
	NEED(!hak_ct_put_create(&w, 1, &f, &plain));
	n = hak_wr_len(&w);
	for (int i = 0; i < 100000; i++) {
		struct hak_rd r = hak_rd_on(hurt, n);
		unsigned turns = 0;

		memcpy(hurt, buf, n);
		for (unsigned k = 1 + t_below(4); k; k--)
			hurt[t_below((unsigned)n)] = (uint8_t)t_random();
		while (hak_rd_left(&r)) {
			(void)hak_ct_next(&r, &m);
			turns++;
		}
		CHECK(turns <= n / 16);
	}
}

int main(void)
{
	test_inverse();
	test_expect_inverse();
	test_two_ways();
	test_unusual();
	test_control();
	test_reader();
	test_prefixes();
	test_short();
	test_attributes();
	test_requests();
	test_arguments();
	test_space();
	test_noise();
	return t_end();
}
