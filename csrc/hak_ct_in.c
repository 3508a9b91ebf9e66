/* hak_ct_in.c - ctnetlink messages -> struct hak_flow / hak_expect, see hak_ct.h.
 *
 * The counterpart of the kernel's ctnetlink_fill_info, ctnetlink_conntrack_event
 * and ctnetlink_exp_fill_info (net/netfilter/nf_conntrack_netlink.c).  Attributes
 * that are not wanted (counters, timestamps, ids, security contexts) are stepped
 * over like unknown ones; of a value longer than its type the beginning counts.
 *
 * What the kernel does not tell, this cannot give: expectations come without their
 * zone, labels that were all cleared are no attribute, a flow that is offloaded to
 * a flowtable is listed without timeout and protocol state.
 */
#include "hak_ct.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include "hak_nlmsg.h"

/* An event is decoded in some 40 ns only if the walk over its attributes is one loop
 * that keeps the cursor in registers; what is rare stays out of it. */
#define HOT __attribute__((flatten))
#define RARE __attribute__((noinline))

/* A walk over the attributes of `r`: `type` and `v` (a reader over the value) are set
 * for each.  A value too short for what the body takes from it ends the walk; after
 * it r->bad tells whether all was well. */
#define FOR_ATTR(r, type, v) \
	for (struct hak_rd v; hak_rd_left(r) && (v = hak_nla_next(r, &(type)), !(r)->bad); \
	     (r)->bad |= v.bad)

/* ---- tuples ---------------------------------------------------------- */

static bool get_ip(struct hak_rd r, uint8_t l3, struct hak_tuple *t)
{
	bool v6 = l3 == AF_INET6, src = false, dst = false;
	uint16_t type;

	FOR_ATTR(&r, type, v) {
		if (type == (v6 ? CTA_IP_V6_SRC : CTA_IP_V4_SRC)) {
			hak_rd_copy(&v, t->src, hak_addr_len(l3));
			src = true;
		} else if (type == (v6 ? CTA_IP_V6_DST : CTA_IP_V4_DST)) {
			hak_rd_copy(&v, t->dst, hak_addr_len(l3));
			dst = true;
		}
	}
	return src && dst && !r.bad;
}

/* The generic tracker gives the protocol number alone.  So does a kernel without a
 * tracker for a protocol that has ports (DCCP since 6.17): the words stay zero. */
static bool get_proto(struct hak_rd r, struct hak_tuple *t, uint8_t *l4proto)
{
	uint8_t icmp_type = 0, icmp_code = 0;
	bool num = false;
	uint16_t type;

	FOR_ATTR(&r, type, v)
		switch (type) {
		case CTA_PROTO_NUM:
			*l4proto = hak_rd_u8(&v);
			num = true;
			break;
		case CTA_PROTO_SRC_PORT:
		case CTA_PROTO_ICMP_ID:
		case CTA_PROTO_ICMPV6_ID:
			t->sport = hak_rd_u16(&v);
			break;
		case CTA_PROTO_DST_PORT:
			t->dport = hak_rd_u16(&v);
			break;
		case CTA_PROTO_ICMP_TYPE:
		case CTA_PROTO_ICMPV6_TYPE:
			icmp_type = hak_rd_u8(&v);
			break;
		case CTA_PROTO_ICMP_CODE:
		case CTA_PROTO_ICMPV6_CODE:
			icmp_code = hak_rd_u8(&v);
			break;
		}
	switch (hak_l4kind_of(*l4proto)) {
	case HAK_L4_ICMP:
		t->dport = (uint16_t)(icmp_type << 8 | icmp_code);
		break;
	case HAK_L4_NONE:
		t->sport = t->dport = 0;
		break;
	}
	return num && !r.bad;
}

static RARE bool get_any_tuple(struct hak_rd r, uint8_t l3, struct hak_tuple *t,
			       uint8_t *l4proto, uint16_t *zone)
{
	bool ip = false, proto = false;
	uint16_t type;

	FOR_ATTR(&r, type, v)
		switch (type) {
		case CTA_TUPLE_IP:
			ip = get_ip(v, l3, t);
			if (!ip)
				return false;
			break;
		case CTA_TUPLE_PROTO:
			proto = get_proto(v, t, l4proto);
			if (!proto)
				return false;
			break;
		case CTA_TUPLE_ZONE:
			*zone = hak_rd_u16(&v);
			break;
		}
	return ip && proto && !r.bad;
}

static bool is(const struct nlattr *a, size_t size, unsigned type)
{
	return a->nla_len == sizeof *a + size && (a->nla_type & HAK_NLA_TYPE) == type;
}

/* The tuple of a protocol with ports exactly as all kernels have written it so far: in
 * fixed places, which takes a third of the time that looking at each attribute takes.
 * False, with *t half written, if anything is otherwise: then it goes the long way. */
static inline bool get_usual_tuple(struct hak_rd r, size_t alen, unsigned src, unsigned dst,
				   struct hak_tuple *t, uint8_t *l4proto)
{
	struct {
		struct nlattr nest, a;
	} head;
	struct nlattr mid;
	struct {
		struct nlattr nest, num;
		uint8_t l4proto, pad[3];
		struct nlattr src;
		uint16_t sport, pad1;
		struct nlattr dst;
		uint16_t dport, pad2;
	} proto;

	static_assert(sizeof head == 8 && sizeof proto == 28, "no gaps");
	if (hak_rd_left(&r) != sizeof head + sizeof mid + 2 * alen + sizeof proto)
		return false;
	hak_rd_copy(&r, &head, sizeof head);
	hak_rd_copy(&r, t->src, alen);
	hak_rd_copy(&r, &mid, sizeof mid);
	hak_rd_copy(&r, t->dst, alen);
	hak_rd_copy(&r, &proto, sizeof proto);
	if (!is(&head.nest, 8 + 2 * alen, CTA_TUPLE_IP) || !is(&head.a, alen, src) ||
	    !is(&mid, alen, dst) || !is(&proto.nest, 24, CTA_TUPLE_PROTO) ||
	    !is(&proto.num, 1, CTA_PROTO_NUM) || !is(&proto.src, 2, CTA_PROTO_SRC_PORT) ||
	    !is(&proto.dst, 2, CTA_PROTO_DST_PORT) ||
	    hak_l4kind_of(proto.l4proto) != HAK_L4_PORTS)
		return false;
	*l4proto = proto.l4proto;
	t->sport = ntohs(proto.sport);
	t->dport = ntohs(proto.dport);
	return true;
}

static bool get_tuple(struct hak_rd r, uint8_t l3, struct hak_tuple *t, uint8_t *l4proto,
		      uint16_t *zone)
{
	*zone = 0;
	if (l3 == AF_INET ? get_usual_tuple(r, 4, CTA_IP_V4_SRC, CTA_IP_V4_DST, t, l4proto)
			  : get_usual_tuple(r, 16, CTA_IP_V6_SRC, CTA_IP_V6_DST, t, l4proto))
		return true;
	return get_any_tuple(r, l3, t, l4proto, zone);
}

static void set_zone(uint8_t *dir, uint16_t *to, uint16_t zone, enum hak_zone_dir d)
{
	if (zone) {
		*dir = (uint8_t)d;
		*to = zone;
	}
}

/* ---- parts of a connection ------------------------------------------- */

static bool get_tcp(struct hak_rd r, struct hak_flow *f)
{
	uint16_t type;

	FOR_ATTR(&r, type, v)
		switch (type) {
		case CTA_PROTOINFO_TCP_STATE:
			f->tcp_state = hak_rd_u8(&v);
			f->have |= HAK_HAS_TCP;
			break;
		case CTA_PROTOINFO_TCP_WSCALE_ORIGINAL:
		case CTA_PROTOINFO_TCP_WSCALE_REPLY:
			f->tcp_wscale[type - CTA_PROTOINFO_TCP_WSCALE_ORIGINAL] = hak_rd_u8(&v);
			f->have |= HAK_HAS_TCP_WSCALE;
			break;
		case CTA_PROTOINFO_TCP_FLAGS_ORIGINAL:
		case CTA_PROTOINFO_TCP_FLAGS_REPLY:	/* struct nf_ct_tcp_flags */
			f->tcp_flags[type - CTA_PROTOINFO_TCP_FLAGS_ORIGINAL] = hak_rd_u8(&v);
			f->have |= HAK_HAS_TCP_FLAGS;
			break;
		}
	/* A state that is none of today's could not be written to any kernel. */
	if (f->tcp_state >= TCP_CONNTRACK_MAX) {
		f->tcp_state = 0;
		f->have &= ~(uint32_t)HAK_HAS_TCP;
	}
	return !r.bad;
}

static bool get_sctp(struct hak_rd r, struct hak_flow *f)
{
	unsigned tags = 0;
	uint16_t type;

	FOR_ATTR(&r, type, v)
		switch (type) {
		case CTA_PROTOINFO_SCTP_STATE:
			f->sctp_state = hak_rd_u8(&v);
			f->have |= HAK_HAS_SCTP;
			break;
		case CTA_PROTOINFO_SCTP_VTAG_ORIGINAL:
		case CTA_PROTOINFO_SCTP_VTAG_REPLY:
			f->sctp_vtag[type - CTA_PROTOINFO_SCTP_VTAG_ORIGINAL] = hak_rd_u32(&v);
			tags |= 1u << (type - CTA_PROTOINFO_SCTP_VTAG_ORIGINAL);
			break;
		}
	if (tags == 3)
		f->have |= HAK_HAS_SCTP_VTAG;
	return !r.bad;
}

static bool get_dccp(struct hak_rd r, struct hak_flow *f)
{
	uint16_t type;

	FOR_ATTR(&r, type, v)
		switch (type) {
		case CTA_PROTOINFO_DCCP_STATE:
			f->dccp_state = hak_rd_u8(&v);
			f->have |= HAK_HAS_DCCP;
			break;
		case CTA_PROTOINFO_DCCP_ROLE:
			f->dccp_role = hak_rd_u8(&v);
			break;
		case CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ:
			f->dccp_seq = hak_rd_u64(&v);
			break;
		}
	return !r.bad;
}

static RARE bool get_any_protoinfo(struct hak_rd r, struct hak_flow *f)
{
	uint16_t type;
	bool ok = true;

	FOR_ATTR(&r, type, v) {
		switch (type) {
		case CTA_PROTOINFO_TCP:
			ok = get_tcp(v, f);
			break;
		case CTA_PROTOINFO_SCTP:
			ok = get_sctp(v, f);
			break;
		case CTA_PROTOINFO_DCCP:
			ok = get_dccp(v, f);
			break;
		}
		if (!ok)
			return false;
	}
	return !r.bad;
}

/* TCP's nest as all kernels have written it so far, see get_usual_tuple. */
static bool get_usual_tcp(struct hak_rd r, struct hak_flow *f)
{
	struct {
		struct nlattr nest;
		struct {
			struct nlattr a;
			uint8_t v, pad[3];
		} state, wscale[2], flags[2];
	} i;

	static_assert(sizeof i == 44, "no gaps");
	if (hak_rd_left(&r) != sizeof i)
		return false;
	hak_rd_copy(&r, &i, sizeof i);
	if (!is(&i.nest, 40, CTA_PROTOINFO_TCP) || !is(&i.state.a, 1, CTA_PROTOINFO_TCP_STATE) ||
	    !is(&i.wscale[0].a, 1, CTA_PROTOINFO_TCP_WSCALE_ORIGINAL) ||
	    !is(&i.wscale[1].a, 1, CTA_PROTOINFO_TCP_WSCALE_REPLY) ||
	    !is(&i.flags[0].a, 2, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL) ||
	    !is(&i.flags[1].a, 2, CTA_PROTOINFO_TCP_FLAGS_REPLY) ||
	    i.state.v >= TCP_CONNTRACK_MAX)
		return false;
	f->tcp_state = i.state.v;
	for (int d = 0; d < 2; d++) {
		f->tcp_wscale[d] = i.wscale[d].v;
		f->tcp_flags[d] = i.flags[d].v;
	}
	f->have |= HAK_HAS_TCP | HAK_HAS_TCP_WSCALE | HAK_HAS_TCP_FLAGS;
	return true;
}

static bool get_protoinfo(struct hak_rd r, struct hak_flow *f)
{
	return get_usual_tcp(r, f) || get_any_protoinfo(r, f);
}

/* A NUL-terminated string into a zeroed array; one that does not fit is refused,
 * for its beginning would be another name. */
static void get_name(struct hak_rd *v, char *to, size_t size)
{
	size_t n = hak_rd_left(v);

	if (n > size) {
		v->bad = true;
		return;
	}
	hak_rd_copy(v, to, n);
	if (strnlen(to, size) == size) {
		to[size - 1] = '\0';
		v->bad = true;
	}
}

static RARE bool get_help(struct hak_rd r, struct hak_flow *f)
{
	uint16_t type;

	FOR_ATTR(&r, type, v)
		if (type == CTA_HELP_NAME) {
			get_name(&v, f->helper, sizeof f->helper);
			if (f->helper[0])
				f->have |= HAK_HAS_HELPER;
		}
	return !r.bad;
}

static RARE bool get_seqadj(struct hak_rd r, struct hak_flow *f, int dir)
{
	struct hak_seqadj *s = &f->seqadj[dir];
	uint16_t type;

	f->have |= HAK_HAS_SEQADJ;
	FOR_ATTR(&r, type, v)
		switch (type) {
		case CTA_SEQADJ_CORRECTION_POS:
			s->pos = hak_rd_u32(&v);
			break;
		case CTA_SEQADJ_OFFSET_BEFORE:
			s->before = hak_rd_u32(&v);
			break;
		case CTA_SEQADJ_OFFSET_AFTER:
			s->after = hak_rd_u32(&v);
			break;
		}
	return !r.bad;
}

/* Entries made through ctnetlink bear the extension whether or not a synproxy had
 * to do with them: all zeroes are as good as none. */
static RARE bool get_synproxy(struct hak_rd r, struct hak_flow *f)
{
	uint16_t type;

	FOR_ATTR(&r, type, v)
		if (type >= CTA_SYNPROXY_ISN && type <= CTA_SYNPROXY_TSOFF)
			f->synproxy[type - CTA_SYNPROXY_ISN] = hak_rd_u32(&v);
	if (f->synproxy[0] | f->synproxy[1] | f->synproxy[2])
		f->have |= HAK_HAS_SYNPROXY;
	return !r.bad;
}

/* How many packets it saw: of interest only where nothing else tells (hak_gre.c). */
static RARE bool get_packets(struct hak_rd r, struct hak_flow *f)
{
	uint16_t type;

	f->have |= HAK_HAS_PACKETS;
	FOR_ATTR(&r, type, v)
		if (type == CTA_COUNTERS_PACKETS)
			f->packets += hak_rd_u64(&v);
	return !r.bad;
}

/* ---- a connection ---------------------------------------------------- */

static bool get_orig(struct hak_rd v, struct hak_flow *f)
{
	uint16_t zone;
	bool ok = get_tuple(v, f->l3, &f->orig, &f->l4proto, &zone);

	f->l4kind = hak_l4kind_of(f->l4proto);
	set_zone(&f->zone_dir, &f->zone, zone, HAK_ZONE_ORIG);
	return ok;
}

static bool get_reply(struct hak_rd v, struct hak_flow *f, uint8_t *proto)
{
	uint16_t zone;
	bool ok = get_tuple(v, f->l3, &f->reply, proto, &zone);

	set_zone(&f->zone_dir, &f->zone, zone, HAK_ZONE_REPLY);
	f->have |= HAK_HAS_REPLY;
	return ok;
}

static RARE bool get_master(struct hak_rd v, struct hak_flow *f)
{
	uint16_t zone;
	bool ok = get_tuple(v, f->l3, &f->master, &f->master_l4proto, &zone);

	f->master_l4kind = hak_l4kind_of(f->master_l4proto);
	f->have |= HAK_HAS_MASTER;
	return ok;
}

static RARE void get_labels(struct hak_rd *v, struct hak_flow *f)
{
	size_t n = hak_rd_left(v);

	hak_rd_copy(v, f->labels, n < sizeof f->labels ? n : sizeof f->labels);
	f->have |= HAK_HAS_LABELS;
}

static HOT enum hak_err get_flow(struct hak_rd *r, uint8_t l3, struct hak_ctmsg *out)
{
	struct hak_flow *f = &out->flow;
	bool orig = false, ok = true;
	uint8_t reply_proto = 0;
	uint16_t type;

	memset(f, 0, sizeof *f);
	f->l3 = l3;
	FOR_ATTR(r, type, v) {
		switch (type) {
		case CTA_TUPLE_ORIG:
			ok = orig = get_orig(v, f);
			break;
		case CTA_TUPLE_REPLY:
			ok = get_reply(v, f, &reply_proto);
			break;
		case CTA_TUPLE_MASTER:
			ok = get_master(v, f);
			break;
		case CTA_STATUS:
			f->status = hak_rd_u32(&v);
			f->have |= HAK_HAS_STATUS;
			break;
		case CTA_TIMEOUT:
			f->timeout = hak_rd_u32(&v);
			f->have |= HAK_HAS_TIMEOUT;
			break;
		case CTA_COUNTERS_ORIG:
		case CTA_COUNTERS_REPLY:
			if (f->l4proto == IPPROTO_GRE)
				ok = get_packets(v, f);
			break;
		case CTA_MARK:
			f->mark = hak_rd_u32(&v);
			f->have |= HAK_HAS_MARK;
			break;
		case CTA_ZONE:
			set_zone(&f->zone_dir, &f->zone, hak_rd_u16(&v), HAK_ZONE_BOTH);
			break;
		case CTA_PROTOINFO:
			ok = get_protoinfo(v, f);
			break;
		case CTA_LABELS:
			get_labels(&v, f);
			break;
		case CTA_HELP:
			ok = get_help(v, f);
			break;
		case CTA_SEQ_ADJ_ORIG:
		case CTA_SEQ_ADJ_REPLY:
			ok = get_seqadj(v, f, type == CTA_SEQ_ADJ_REPLY);
			break;
		case CTA_SYNPROXY:
			ok = get_synproxy(v, f);
			break;
		}
		if (!ok)
			return HAK_EFORMAT;
	}
	if (r->bad || !orig || ((f->have & HAK_HAS_REPLY) && reply_proto != f->l4proto))
		return HAK_EFORMAT;
	/* A NEW event leaves out a mark of zero; in an update that may also mean that
	 * the mark was always zero, so there absence says nothing. */
	if (out->what == HAK_CT_NEW)
		f->have |= HAK_HAS_MARK;
	return HAK_OK;
}

/* ---- an expectation -------------------------------------------------- */

static bool get_exp_nat(struct hak_rd r, struct hak_expect *e)
{
	bool tuple = false, dir = false;
	uint16_t type, zone;

	FOR_ATTR(&r, type, v)
		switch (type) {
		case CTA_EXPECT_NAT_DIR:
			e->nat_dir = hak_rd_u32(&v);
			dir = true;
			break;
		case CTA_EXPECT_NAT_TUPLE:
			tuple = get_tuple(v, e->l3, &e->nat, &e->nat_l4proto, &zone);
			if (!tuple)
				return false;
			e->nat_l4kind = hak_l4kind_of(e->nat_l4proto);
			break;
		}
	e->has_nat = true;
	return tuple && dir && !r.bad;
}

static enum hak_err get_expect(struct hak_rd *r, uint8_t l3, struct hak_ctmsg *out)
{
	struct hak_expect *e = &out->expect;
	bool tuple = false, mask = false, master = false, ok = true;
	uint8_t mask_proto = 0;
	uint16_t type, zone;

	memset(e, 0, sizeof *e);
	e->l3 = l3;
	FOR_ATTR(r, type, v) {
		switch (type) {
		case CTA_EXPECT_TUPLE:
			ok = tuple = get_tuple(v, l3, &e->tuple, &e->l4proto, &zone);
			e->l4kind = hak_l4kind_of(e->l4proto);
			break;
		case CTA_EXPECT_MASK:
			ok = mask = get_tuple(v, l3, &e->mask, &mask_proto, &zone);
			break;
		case CTA_EXPECT_MASTER:
			ok = master = get_tuple(v, l3, &e->master, &e->master_l4proto, &zone);
			e->master_l4kind = hak_l4kind_of(e->master_l4proto);
			break;
		case CTA_EXPECT_TIMEOUT:
			e->timeout = hak_rd_u32(&v);
			break;
		case CTA_EXPECT_HELP_NAME:
			get_name(&v, e->helper, sizeof e->helper);
			break;
		case CTA_EXPECT_ZONE:
			set_zone(&e->zone_dir, &e->zone, hak_rd_u16(&v), HAK_ZONE_BOTH);
			break;
		case CTA_EXPECT_FLAGS:
			e->flags = hak_rd_u32(&v);
			break;
		case CTA_EXPECT_CLASS:
			e->class_ = hak_rd_u32(&v);
			break;
		case CTA_EXPECT_NAT:
			ok = get_exp_nat(v, e);
			break;
		case CTA_EXPECT_FN:
			get_name(&v, e->fn, sizeof e->fn);
			break;
		}
		if (!ok)
			return HAK_EFORMAT;
	}
	if (r->bad || !tuple || !mask || !master || mask_proto != e->l4proto)
		return HAK_EFORMAT;
	return HAK_OK;
}

/* ---- messages -------------------------------------------------------- */

/* NLMSG_ERROR repeats the request: with NETLINK_CAP_ACK its header alone, without it
 * all of it, and perhaps attributes behind.  Only the number in front matters; the
 * sequence is in the outer header too. */
static enum hak_err get_error(struct hak_rd *r, struct hak_ctmsg *out)
{
	int32_t err = (int32_t)hak_rd_h32(r);

	if (r->bad || err > 0 || err == INT32_MIN)
		return HAK_EFORMAT;
	out->what = HAK_CT_ERROR;
	out->error = -err;
	return HAK_OK;
}

/* Old kernels close a listing without any number. */
static enum hak_err get_done(struct hak_rd *r, struct hak_ctmsg *out)
{
	int32_t err = hak_rd_left(r) ? (int32_t)hak_rd_h32(r) : 0;

	if (r->bad || err == INT32_MIN)
		return HAK_EFORMAT;
	out->what = HAK_CT_DONE;
	out->error = err < 0 ? -err : 0;
	return HAK_OK;
}

static enum hak_err get_message(const struct nlmsghdr *h, struct hak_rd *r,
				struct hak_ctmsg *out)
{
	bool expect = h->nlmsg_type >> 8 == NFNL_SUBSYS_CTNETLINK_EXP;
	uint8_t family = hak_rd_u8(r);		/* struct nfgenmsg: family, version, */

	(void)hak_rd_take(r, 3);		/* resource id */
	if (r->bad)
		return HAK_EFORMAT;
	if (family != AF_INET && family != AF_INET6)
		return HAK_ESKIP;
	switch (h->nlmsg_type & 0xff) {
	case IPCTNL_MSG_CT_NEW:			/* of an expectation the same numbers */
		if (expect)
			out->what = HAK_CT_EXP_NEW;
		else
			out->what = h->nlmsg_flags & NLM_F_CREATE ? HAK_CT_NEW : HAK_CT_UPDATE;
		break;
	case IPCTNL_MSG_CT_DELETE:
		out->what = expect ? HAK_CT_EXP_DESTROY : HAK_CT_DESTROY;
		break;
	default:
		return HAK_ESKIP;
	}
	return expect ? get_expect(r, family, out) : get_flow(r, family, out);
}

enum hak_err hak_ct_next(struct hak_rd *r, struct hak_ctmsg *out)
{
	struct nlmsghdr h;
	struct hak_rd body = hak_nlmsg_next(r, &h);

	if (body.bad) {
		r->pos = r->end;		/* nothing behind a lying length is usable */
		return HAK_ETRUNC;
	}
	out->what = 0;
	out->seq = h.nlmsg_seq;
	out->portid = h.nlmsg_pid;
	out->error = 0;
	out->dump_intr = h.nlmsg_flags & NLM_F_DUMP_INTR;
	if (h.nlmsg_type == NLMSG_ERROR)
		return get_error(&body, out);
	if (h.nlmsg_type == NLMSG_DONE)
		return get_done(&body, out);
	if (h.nlmsg_type >> 8 != NFNL_SUBSYS_CTNETLINK &&
	    h.nlmsg_type >> 8 != NFNL_SUBSYS_CTNETLINK_EXP)
		return HAK_ESKIP;
	return get_message(&h, &body, out);
}

/* ---- text ------------------------------------------------------------ */

struct text {
	char *buf;
	size_t size, len;
};

/* Append; what does not fit is cut. */
static void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (t->len + 1 >= t->size)
		return;
	va_start(ap, fmt);
	n = vsnprintf(&t->buf[t->len], t->size - t->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->len += (size_t)n < t->size - t->len ? (size_t)n : t->size - t->len - 1;
}

static void say_end(struct text *t, const struct hak_flow *f, const uint8_t *addr, uint16_t port)
{
	bool words = hak_l4kind_of(f->l4proto) == HAK_L4_PORTS;
	char a[INET6_ADDRSTRLEN];

	if (!inet_ntop(f->l3, addr, a, sizeof a))
		a[0] = '?', a[1] = '\0';
	if (words && f->l3 == AF_INET6)
		say(t, "[%s]:%u", a, port);
	else if (words)
		say(t, "%s:%u", a, port);
	else
		say(t, "%s", a);
}

static void say_tuple(struct text *t, const struct hak_flow *f, const struct hak_tuple *u)
{
	say_end(t, f, u->src, u->sport);
	say(t, ">");
	say_end(t, f, u->dst, u->dport);
	if (hak_l4kind_of(f->l4proto) == HAK_L4_ICMP)
		say(t, " type %u code %u id %u", u->dport >> 8, u->dport & 0xffu, u->sport);
}

const char *hak_flow_text(const struct hak_flow *f, char *buf, size_t n)
{
	static const char *const states[] = {
		"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT",
		"LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
	};
	static const char *const zones[] = { "", "zone", "orig-zone", "reply-zone" };
	struct hak_tuple inv = hak_tuple_inverse(f, &f->orig);
	struct text t = { buf, n, 0 };

	if (n)
		buf[0] = '\0';
	switch (f->l4proto) {
	case IPPROTO_TCP: say(&t, "tcp "); break;
	case IPPROTO_UDP: say(&t, "udp "); break;
	case IPPROTO_ICMP: say(&t, "icmp "); break;
	case IPPROTO_ICMPV6: say(&t, "icmpv6 "); break;
	case IPPROTO_SCTP: say(&t, "sctp "); break;
	case IPPROTO_DCCP: say(&t, "dccp "); break;
	case IPPROTO_UDPLITE: say(&t, "udplite "); break;
	case IPPROTO_GRE: say(&t, "gre "); break;
	case IPPROTO_ESP: say(&t, "esp "); break;
	default: say(&t, "proto-%u ", f->l4proto);
	}
	say_tuple(&t, f, &f->orig);
	if ((f->have & HAK_HAS_REPLY) && !hak_tuple_equal(&f->reply, &inv)) {
		say(&t, " reply ");
		say_tuple(&t, f, &f->reply);
	}
	if (f->zone && f->zone_dir <= HAK_ZONE_REPLY)
		say(&t, " %s %u", zones[f->zone_dir], f->zone);
	if ((f->have & HAK_HAS_TCP) && f->tcp_state < TCP_CONNTRACK_MAX)
		say(&t, " %s", states[f->tcp_state]);
	return buf;
}
