/* hak_wire_out.c - struct hak_flow / hak_expect -> records of K2K.
 *
 * docs/wire-records.md is the normative text.  Everything goes through the cursor,
 * whose error is sticky: a put_ is a straight line, and put_end tests once.
 *
 * The encoding is canonical: equal flows give equal bytes.
 */
#include "hak_wire.h"

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum {
	TCP_STATES = TCP_CONNTRACK_MAX,
	WSCALE_MAX = 14,	/* RFC 7323; the kernel refuses more */
};

/* ---- status ---------------------------------------------------------- */

/* The first three bits are the same in both worlds. */
enum {
	SAME_BITS = HAK_WS_EXPECTED | HAK_WS_SEEN_REPLY | HAK_WS_ASSURED,
	SAME_IPS = IPS_EXPECTED | IPS_SEEN_REPLY | IPS_ASSURED,
};
static_assert((int)SAME_BITS == (int)SAME_IPS, "K2K status is IPS's low bits and HELPER");

uint32_t hak_wire_status(uint32_t ips)
{
	return (ips & SAME_BITS) | (ips & IPS_HELPER ? HAK_WS_HELPER : 0);
}

uint32_t hak_ips_status(uint32_t wire)
{
	return (wire & SAME_BITS) | (wire & HAK_WS_HELPER ? IPS_HELPER : 0) | IPS_CONFIRMED;
}

/* ---- writing --------------------------------------------------------- */

static bool bad_identity(uint8_t l3, uint8_t zone_dir, uint16_t zone)
{
	return (l3 != AF_INET && l3 != AF_INET6) || zone_dir > HAK_ZONE_REPLY ||
	       (zone_dir == HAK_ZONE_NONE) != (zone == 0);
}

static void put_addr(struct hak_wr *w, const uint8_t addr[16], bool v6)
{
	if (v6)				/* two constant sizes: no call to memcpy */
		hak_wr_copy(w, addr, 16);
	else
		hak_wr_copy(w, addr, 4);
}

static void put_tuple(struct hak_wr *w, const struct hak_tuple *t, bool v6, uint8_t l4proto)
{
	put_addr(w, t->src, v6);
	put_addr(w, t->dst, v6);
	if (hak_l4kind_of(l4proto) != HAK_L4_NONE) {
		hak_wr_u16(w, t->sport);
		hak_wr_u16(w, t->dport);
	}
}

static size_t tuple_len(bool v6, uint8_t l4proto)
{
	return (v6 ? 32u : 8u) + (hak_l4kind_of(l4proto) != HAK_L4_NONE ? 4u : 0u);
}

static enum hak_shape_proto shape_proto(uint8_t l4proto, bool v6)
{
	switch (l4proto) {
	case IPPROTO_TCP: return HAK_SHAPE_TCP;
	case IPPROTO_UDP: return HAK_SHAPE_UDP;
	case IPPROTO_ICMP: return v6 ? HAK_SHAPE_OTHER : HAK_SHAPE_ICMP;
	case IPPROTO_ICMPV6: return v6 ? HAK_SHAPE_ICMP : HAK_SHAPE_OTHER;
	default: return HAK_SHAPE_OTHER;
	}
}

/* Everything up to the fields.  Returns where the record begins. */
static size_t put_begin(struct hak_wr *w, uint8_t type, uint8_t l3, uint8_t l4proto,
			uint8_t zone_dir, uint16_t zone, const struct hak_tuple *t)
{
	size_t at = hak_wr_len(w);
	bool v6 = l3 == AF_INET6;
	enum hak_shape_proto p = shape_proto(l4proto, v6);

	hak_wr_u8(w, type);
	hak_wr_u8(w, 0);
	hak_wr_u8(w, (uint8_t)((v6 ? HAK_SHAPE_V6 : 0) | zone_dir << HAK_SHAPE_ZONE_SHIFT |
			       (int)p << HAK_SHAPE_PROTO_SHIFT));
	if (p == HAK_SHAPE_OTHER)
		hak_wr_u8(w, l4proto);
	if (zone_dir != HAK_ZONE_NONE)
		hak_wr_u16(w, zone);
	put_tuple(w, t, v6, l4proto);
	return at;
}

/* Fill in the length.  One byte always does: the longest flow record has a body of
 * 211 bytes and the longest expectation one of 185 (tests/c/test_wire.c). */
static enum hak_err put_end(struct hak_wr *w, size_t at)
{
	uint8_t len = (uint8_t)(hak_wr_len(w) - at - 2);

	if (w->bad) {
		hak_wr_rewind(w, at);
		return HAK_ESPACE;
	}
	hak_wr_patch(w, at + 1, &len, 1);
	return HAK_OK;
}

static void put_field(struct hak_wr *w, uint8_t id, size_t len)
{
	hak_wr_u8(w, (uint8_t)(id << 4 | (int)(len < HAK_LONG_FIELD ? len : HAK_LONG_FIELD)));
	if (len >= HAK_LONG_FIELD)
		hak_wr_u8(w, (uint8_t)len);
}

static void put_u32_field(struct hak_wr *w, uint8_t id, uint32_t v)
{
	put_field(w, id, 4);
	hak_wr_u32(w, v);
}

static void put_name(struct hak_wr *w, uint8_t id, const char *name, size_t size)
{
	size_t n = strnlen(name, size - 1);

	if (n) {
		put_field(w, id, n);
		hak_wr_copy(w, name, n);
	}
}

static void put_master(struct hak_wr *w, uint8_t id, const struct hak_tuple *t, bool v6,
		       uint8_t l4proto)
{
	put_field(w, id, 1 + tuple_len(v6, l4proto));
	hak_wr_u8(w, l4proto);
	put_tuple(w, t, v6, l4proto);
}

static void put_reply_end(struct hak_wr *w, uint8_t id, const uint8_t addr[16], bool v6,
			  bool with_port, uint16_t port)
{
	put_field(w, id, (v6 ? 16u : 4u) + (with_port ? 2u : 0u));
	put_addr(w, addr, v6);
	if (with_port)
		hak_wr_u16(w, port);
}

/* The parts of the reply tuple that are not the original one's inverse.  A port goes
 * with its address if that differs too. */
static void put_reply(struct hak_wr *w, const struct hak_flow *f, bool v6)
{
	struct hak_tuple inv = hak_tuple_inverse(f, &f->orig);
	const struct hak_tuple *r = &f->reply;
	bool words, sport, dport;

	if (hak_tuple_equal(r, &inv))
		return;
	words = hak_l4kind_of(f->l4proto) != HAK_L4_NONE;
	sport = words && r->sport != inv.sport;
	dport = words && r->dport != inv.dport;
	if (memcmp(r->src, inv.src, hak_addr_len(f->l3))) {
		put_reply_end(w, HAK_FIELD_REPLY_SRC, r->src, v6, sport, r->sport);
		sport = false;
	}
	if (memcmp(r->dst, inv.dst, hak_addr_len(f->l3))) {
		put_reply_end(w, HAK_FIELD_REPLY_DST, r->dst, v6, dport, r->dport);
		dport = false;
	}
	if (sport || dport) {
		put_field(w, HAK_FIELD_REPLY_PORTS, 4);
		hak_wr_u16(w, r->sport);
		hak_wr_u16(w, r->dport);
	}
}

static uint8_t nibbles(unsigned orig, unsigned reply)
{
	return (uint8_t)((orig & 15) << 4 | (reply & 15));
}

static unsigned wscale(uint8_t v)
{
	return v < WSCALE_MAX ? v : WSCALE_MAX;
}

/* Window scales are told with ESTABLISHED: whether SYN_RECV is told at all is the event
 * policy's affair, and to a later state an UPDATE need not repeat them. */
static void put_tcp(struct hak_wr *w, const struct hak_flow *f, bool update, uint32_t status)
{
	bool flags = f->have & HAK_HAS_TCP_FLAGS;
	bool ws = flags && (f->have & HAK_HAS_TCP_WSCALE) &&
		  !(update && f->tcp_state != TCP_CONNTRACK_ESTABLISHED);

	put_field(w, HAK_FIELD_TCP, 1u + flags + ws);
	hak_wr_u8(w, nibbles(status, f->tcp_state));
	if (flags)
		hak_wr_u8(w, nibbles(f->tcp_flags[0], f->tcp_flags[1]));
	if (ws)
		hak_wr_u8(w, nibbles(wscale(f->tcp_wscale[0]), wscale(f->tcp_wscale[1])));
}

static void put_protocol(struct hak_wr *w, const struct hak_flow *f, bool update,
			 uint32_t status)
{
	bool vtag = f->have & HAK_HAS_SCTP_VTAG;

	if (f->l4proto == IPPROTO_TCP && (f->have & HAK_HAS_TCP)) {
		put_tcp(w, f, update, status);
		status &= ~(uint32_t)HAK_WS_NIBBLE;
	}
	if (status) {
		put_field(w, HAK_FIELD_STATUS, 1);
		hak_wr_u8(w, (uint8_t)status);
	}
	if (f->l4proto == IPPROTO_SCTP && (f->have & HAK_HAS_SCTP)) {
		put_field(w, HAK_FIELD_SCTP, vtag ? 9 : 1);
		hak_wr_u8(w, f->sctp_state);
		if (vtag) {
			hak_wr_u32(w, f->sctp_vtag[0]);
			hak_wr_u32(w, f->sctp_vtag[1]);
		}
	}
	if (f->l4proto == IPPROTO_DCCP && (f->have & HAK_HAS_DCCP)) {
		put_field(w, HAK_FIELD_DCCP, 10);
		hak_wr_u8(w, f->dccp_state);
		hak_wr_u8(w, f->dccp_role);
		hak_wr_u64(w, f->dccp_seq);
	}
}

static void put_mark(struct hak_wr *w, uint32_t mark)
{
	unsigned n = mark >> 24 ? 4 : mark >> 16 ? 3 : mark >> 8 ? 2 : 1;

	put_field(w, HAK_FIELD_MARK, n);
	while (n)
		hak_wr_u8(w, (uint8_t)(mark >> 8 * --n));
}

/* In an UPDATE one zero byte says that no label is left. */
static void put_labels(struct hak_wr *w, const struct hak_flow *f, bool update)
{
	size_t n = HAK_LABELS_LEN;

	while (n && !f->labels[n - 1])
		n--;
	if (!n && update)
		n = 1;
	if (n) {
		put_field(w, HAK_FIELD_LABELS, n);
		hak_wr_copy(w, f->labels, n);
	}
}

static void put_state(struct hak_wr *w, const struct hak_flow *f, bool update)
{
	put_protocol(w, f, update,
		     f->have & HAK_HAS_STATUS ? hak_wire_status(f->status) : 0);
	if ((f->have & HAK_HAS_MARK) && (f->mark || update))
		put_mark(w, f->mark);
	if (f->have & HAK_HAS_LABELS)
		put_labels(w, f, update);
	if (f->have & HAK_HAS_SEQADJ) {
		put_field(w, HAK_FIELD_SEQADJ, 24);
		for (int d = 0; d < 2; d++) {
			hak_wr_u32(w, f->seqadj[d].pos);
			hak_wr_u32(w, f->seqadj[d].before);
			hak_wr_u32(w, f->seqadj[d].after);
		}
	}
	if (f->have & HAK_HAS_SYNPROXY) {
		put_field(w, HAK_FIELD_SYNPROXY, 12);
		for (int i = 0; i < 3; i++)
			hak_wr_u32(w, f->synproxy[i]);
	}
}

enum hak_err hak_wire_put_flow(struct hak_wr *w, uint8_t type, const struct hak_flow *f)
{
	bool birth = type == HAK_REC_FLOW_NEW || type == HAK_REC_FLOW_SYNC;
	bool v6 = f->l3 == AF_INET6;
	size_t at;

	if (bad_identity(f->l3, f->zone_dir, f->zone) ||
	    (birth && !(f->have & HAK_HAS_REPLY)) ||
	    ((f->have & HAK_HAS_TCP) && f->tcp_state >= TCP_STATES))
		return HAK_EINVAL;
	switch (type) {
	case HAK_REC_FLOW_NEW: case HAK_REC_FLOW_SYNC: case HAK_REC_FLOW_UPDATE:
	case HAK_REC_FLOW_DESTROY: case HAK_REC_FLOW_WANT:
		break;
	default:
		return HAK_EINVAL;
	}
	at = put_begin(w, type, f->l3, f->l4proto, f->zone_dir, f->zone, &f->orig);
	if (birth) {
		put_reply(w, f, v6);
		if (f->have & HAK_HAS_HELPER)
			put_name(w, HAK_FIELD_HELPER, f->helper, sizeof f->helper);
		if (f->have & HAK_HAS_MASTER)
			put_master(w, HAK_FIELD_MASTER, &f->master, v6, f->master_l4proto);
	}
	if (birth || type == HAK_REC_FLOW_UPDATE)
		put_state(w, f, !birth);
	return put_end(w, at);
}

static void put_nonzero(struct hak_wr *w, uint8_t id, uint32_t v)
{
	if (v)
		put_u32_field(w, id, v);
}

static void put_expected(struct hak_wr *w, const struct hak_expect *e)
{
	bool v6 = e->l3 == AF_INET6;
	bool words = hak_l4kind_of(e->l4proto) != HAK_L4_NONE;
	bool nat_words = hak_l4kind_of(e->nat_l4proto) != HAK_L4_NONE;
	size_t alen = hak_addr_len(e->l3);

	put_master(w, HAK_EXP_FIELD_MASTER, &e->master, v6, e->master_l4proto);
	put_field(w, HAK_EXP_FIELD_MASK, alen + (words ? 2 : 0));
	put_addr(w, e->mask.src, v6);
	if (words)
		hak_wr_u16(w, e->mask.sport);
	put_nonzero(w, HAK_EXP_FIELD_FLAGS, e->flags & ~(uint32_t)NF_CT_EXPECT_USERSPACE);
	put_nonzero(w, HAK_EXP_FIELD_CLASS, e->class_);
	put_nonzero(w, HAK_EXP_FIELD_TIMEOUT, e->timeout);
	if (e->has_nat) {
		put_field(w, HAK_EXP_FIELD_NAT, 2 + alen + (nat_words ? 2 : 0));
		hak_wr_u8(w, e->nat_dir != 0);
		hak_wr_u8(w, e->nat_l4proto);
		put_addr(w, e->nat.src, v6);
		if (nat_words)
			hak_wr_u16(w, e->nat.sport);
	}
	put_name(w, HAK_EXP_FIELD_FN, e->fn, sizeof e->fn);
	put_name(w, HAK_EXP_FIELD_HELPER, e->helper, sizeof e->helper);
}

enum hak_err hak_wire_put_expect(struct hak_wr *w, uint8_t type, const struct hak_expect *e)
{
	size_t at;

	if (bad_identity(e->l3, e->zone_dir, e->zone) ||
	    (type != HAK_REC_EXP_NEW && type != HAK_REC_EXP_DESTROY))
		return HAK_EINVAL;
	at = put_begin(w, type, e->l3, e->l4proto, e->zone_dir, e->zone, &e->tuple);
	if (type == HAK_REC_EXP_NEW)
		put_expected(w, e);
	return put_end(w, at);
}

enum hak_err hak_wire_put_raw(struct hak_wr *w, uint8_t type, const void *body, size_t n)
{
	size_t at = hak_wr_len(w);

	if (n > UINT16_MAX)
		return HAK_EINVAL;
	hak_wr_u8(w, type);
	hak_wr_u8(w, (uint8_t)(n < HAK_LONG_RECORD ? n : HAK_LONG_RECORD));
	if (n >= HAK_LONG_RECORD)
		hak_wr_u16(w, (uint16_t)n);
	hak_wr_copy(w, body, n);
	if (w->bad) {
		hak_wr_rewind(w, at);
		return HAK_ESPACE;
	}
	return HAK_OK;
}
