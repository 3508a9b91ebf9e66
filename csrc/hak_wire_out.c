/* hak_wire.c - records of K2K: struct hak_flow / hak_expect <-> bytes.
 *
 * docs/wire-records.md is the normative text.  Everything here goes through the
 * cursor, whose error is sticky: a put_ or get_ is a straight line, tested once.
 *
 * Encoding is canonical: equal flows give equal bytes.  Decoding is strict about
 * what this version knows (a length that cannot be, a field twice, a state that
 * does not exist are HAK_EFORMAT) and blind to what it does not know (types,
 * shapes and fields of later versions are stepped over by their length).
 *
 * Not handled here: what a record does.  In particular nothing checks that NEW
 * comes before UPDATE, nor that a master exists; that is the appliers' matter.
 */
#include "hak_wire.h"

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum {
	LONG_LEN = 255,		/* a record's length byte: two more bytes follow */
	LONG_FIELD = 15,	/* a field's length nibble: a byte follows */
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

/* Everything up to the fields.  Returns where the record begins. */
static size_t put_begin(struct hak_wr *w, uint8_t type, uint8_t l3, uint8_t l4proto,
			uint8_t zone_dir, uint16_t zone, const struct hak_tuple *t)
{
	size_t at = hak_wr_len(w);
	bool v6 = l3 == AF_INET6;

	hak_wr_u8(w, type);
	hak_wr_u8(w, 0);
	hak_wr_u8(w, (uint8_t)((v6 ? HAK_SHAPE_V6 : 0) | zone_dir << HAK_SHAPE_ZONE_SHIFT));
	hak_wr_u8(w, l4proto);
	if (zone_dir != HAK_ZONE_NONE)
		hak_wr_u16(w, zone);
	put_tuple(w, t, v6, l4proto);
	return at;
}

/* Fill in the length.  One byte always does: the longest flow record has a body of
 * 212 bytes and the longest expectation one of 186 (tests/c/test_wire.c). */
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
	hak_wr_u8(w, (uint8_t)(id << 4 | (int)(len < LONG_FIELD ? len : LONG_FIELD)));
	if (len >= LONG_FIELD)
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

/* The parts of the reply tuple that are not the original one's inverse. */
static void put_reply(struct hak_wr *w, const struct hak_flow *f, bool v6)
{
	struct hak_tuple inv = hak_tuple_inverse(f, &f->orig);
	unsigned alen = hak_addr_len(f->l3);

	if (hak_tuple_equal(&f->reply, &inv))
		return;
	if (memcmp(f->reply.src, inv.src, alen)) {
		put_field(w, HAK_FIELD_REPLY_SRC, alen);
		put_addr(w, f->reply.src, v6);
	}
	if (memcmp(f->reply.dst, inv.dst, alen)) {
		put_field(w, HAK_FIELD_REPLY_DST, alen);
		put_addr(w, f->reply.dst, v6);
	}
	if (hak_l4kind_of(f->l4proto) != HAK_L4_NONE &&
	    (f->reply.sport != inv.sport || f->reply.dport != inv.dport)) {
		put_field(w, HAK_FIELD_REPLY_PORTS, 4);
		hak_wr_u16(w, f->reply.sport);
		hak_wr_u16(w, f->reply.dport);
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

/* Window scaling is agreed with SYN and SYN/ACK, so that an UPDATE to a later state
 * need not repeat it.  SYN_SENT2 (simultaneous open) is an early state, though its
 * number is the highest. */
static bool wscale_settled(uint8_t state)
{
	return state > TCP_CONNTRACK_ESTABLISHED && state != TCP_CONNTRACK_SYN_SENT2;
}

static void put_tcp(struct hak_wr *w, const struct hak_flow *f, bool update, uint32_t status)
{
	bool flags = f->have & HAK_HAS_TCP_FLAGS;
	bool ws = flags && (f->have & HAK_HAS_TCP_WSCALE) &&
		  !(update && wscale_settled(f->tcp_state));

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
		put_u32_field(w, HAK_FIELD_MARK, f->mark);
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
	hak_wr_u8(w, (uint8_t)(n < LONG_LEN ? n : LONG_LEN));
	if (n >= LONG_LEN)
		hak_wr_u16(w, (uint16_t)n);
	hak_wr_copy(w, body, n);
	if (w->bad) {
		hak_wr_rewind(w, at);
		return HAK_ESPACE;
	}
	return HAK_OK;
}

/* ---- reading --------------------------------------------------------- */

static void get_addr(struct hak_rd *r, uint8_t addr[16], bool v6)
{
	if (v6)
		hak_rd_copy(r, addr, 16);
	else
		hak_rd_copy(r, addr, 4);
}

static void get_tuple(struct hak_rd *r, struct hak_tuple *t, bool v6, uint8_t l4proto)
{
	get_addr(r, t->src, v6);
	get_addr(r, t->dst, v6);
	if (hak_l4kind_of(l4proto) != HAK_L4_NONE) {
		t->sport = hak_rd_u16(r);
		t->dport = hak_rd_u16(r);
	}
}

/* A field's decoder gets a reader over exactly its value and what it belongs to.
 * It may leave bytes of a later version unread.  False, or a reader gone bad, is
 * HAK_EFORMAT; so is a value shorter than `min`. */
struct field {
	uint8_t min;
	bool (*get)(struct hak_rd *v, void *of);
};

static enum hak_err get_fields(struct hak_rd *r, const struct field *table, size_t n,
			       void *of, uint32_t *seen, unsigned *skipped)
{
	*seen = 0;
	while (hak_rd_left(r)) {
		uint8_t head = hak_rd_u8(r);
		uint8_t id = head >> 4;
		size_t len = head & 15;
		struct hak_rd v;

		if (len == LONG_FIELD) {
			len = hak_rd_u8(r);
			if (len < LONG_FIELD)		/* one way to write it */
				return HAK_EFORMAT;
		}
		v = hak_rd_sub(r, len);
		if (r->bad)
			return HAK_EFORMAT;
		if (id >= n) {
			if (skipped)
				++*skipped;
			continue;
		}
		if ((*seen >> id & 1) || len < table[id].min ||
		    !table[id].get(&v, of) || v.bad)
			return HAK_EFORMAT;
		*seen |= 1u << id;
	}
	return r->bad ? HAK_EFORMAT : HAK_OK;
}

static bool get_name(struct hak_rd *v, char *to, size_t size)
{
	size_t n = hak_rd_left(v);

	if (n >= size)
		return false;
	hak_rd_copy(v, to, n);
	return strnlen(to, n) == n;	/* the rest of *to is zero already */
}

static void need_reply(struct hak_flow *f)
{
	if (!(f->have & HAK_HAS_REPLY)) {
		f->reply = hak_tuple_inverse(f, &f->orig);
		f->have |= HAK_HAS_REPLY;
	}
}

static bool get_reply_addr(struct hak_rd *v, struct hak_flow *f, uint8_t addr[16])
{
	if (hak_rd_left(v) != hak_addr_len(f->l3))
		return false;
	get_addr(v, addr, f->l3 == AF_INET6);
	return true;
}

static bool get_reply_src(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	need_reply(f);
	return get_reply_addr(v, f, f->reply.src);
}

static bool get_reply_dst(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	need_reply(f);
	return get_reply_addr(v, f, f->reply.dst);
}

static bool get_reply_ports(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	if (hak_rd_left(v) != 4 || f->l4kind == HAK_L4_NONE)
		return false;
	need_reply(f);
	f->reply.sport = hak_rd_u16(v);
	f->reply.dport = hak_rd_u16(v);
	return true;
}

static void add_status(struct hak_flow *f, uint32_t wire)
{
	if (wire & HAK_WS_NIBBLE) {
		f->status |= hak_ips_status(wire);
		f->have |= HAK_HAS_STATUS;
	}
}

static bool get_status(struct hak_rd *v, void *of)
{
	add_status(of, hak_rd_u8(v));
	return true;
}

static bool get_tcp(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;
	uint8_t b = hak_rd_u8(v);

	if (f->l4proto != IPPROTO_TCP || (b & 15) >= TCP_STATES)
		return false;
	f->tcp_state = b & 15;
	f->have |= HAK_HAS_TCP;
	add_status(f, b >> 4);
	if (hak_rd_left(v)) {
		b = hak_rd_u8(v);
		f->tcp_flags[0] = b >> 4;
		f->tcp_flags[1] = b & 15;
		f->have |= HAK_HAS_TCP_FLAGS;
	}
	if (hak_rd_left(v)) {
		b = hak_rd_u8(v);
		f->tcp_wscale[0] = b >> 4;
		f->tcp_wscale[1] = b & 15;
		f->have |= HAK_HAS_TCP_WSCALE;
	}
	return f->tcp_wscale[0] <= WSCALE_MAX && f->tcp_wscale[1] <= WSCALE_MAX;
}

static bool get_sctp(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	if (f->l4proto != IPPROTO_SCTP)
		return false;
	f->sctp_state = hak_rd_u8(v);
	f->have |= HAK_HAS_SCTP;
	if (hak_rd_left(v)) {		/* both tags or none */
		f->sctp_vtag[0] = hak_rd_u32(v);
		f->sctp_vtag[1] = hak_rd_u32(v);
		f->have |= HAK_HAS_SCTP_VTAG;
	}
	return true;
}

static bool get_dccp(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	if (f->l4proto != IPPROTO_DCCP)
		return false;
	f->dccp_state = hak_rd_u8(v);
	f->dccp_role = hak_rd_u8(v);
	f->dccp_seq = hak_rd_u64(v);
	f->have |= HAK_HAS_DCCP;
	return true;
}

static bool get_mark(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	f->mark = hak_rd_u32(v);
	f->have |= HAK_HAS_MARK;
	return true;
}

static bool get_labels(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;
	size_t n = hak_rd_left(v);

	hak_rd_copy(v, f->labels, n < HAK_LABELS_LEN ? n : HAK_LABELS_LEN);
	f->have |= HAK_HAS_LABELS;
	return true;
}

static bool get_helper(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	f->have |= HAK_HAS_HELPER;
	return get_name(v, f->helper, sizeof f->helper);
}

static bool get_master(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	f->master_l4proto = hak_rd_u8(v);
	f->master_l4kind = hak_l4kind_of(f->master_l4proto);
	get_tuple(v, &f->master, f->l3 == AF_INET6, f->master_l4proto);
	f->have |= HAK_HAS_MASTER;
	return true;
}

static bool get_seqadj(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	for (int d = 0; d < 2; d++) {
		f->seqadj[d].pos = hak_rd_u32(v);
		f->seqadj[d].before = hak_rd_u32(v);
		f->seqadj[d].after = hak_rd_u32(v);
	}
	f->have |= HAK_HAS_SEQADJ;
	return true;
}

static bool get_synproxy(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	for (int i = 0; i < 3; i++)
		f->synproxy[i] = hak_rd_u32(v);
	f->have |= HAK_HAS_SYNPROXY;
	return true;
}

static const struct field flow_fields[] = {
	[HAK_FIELD_REPLY_SRC] = { 4, get_reply_src },
	[HAK_FIELD_REPLY_DST] = { 4, get_reply_dst },
	[HAK_FIELD_REPLY_PORTS] = { 4, get_reply_ports },
	[HAK_FIELD_STATUS] = { 1, get_status },
	[HAK_FIELD_TCP] = { 1, get_tcp },
	[HAK_FIELD_SCTP] = { 1, get_sctp },
	[HAK_FIELD_DCCP] = { 10, get_dccp },
	[HAK_FIELD_MARK] = { 4, get_mark },
	[HAK_FIELD_LABELS] = { 1, get_labels },
	[HAK_FIELD_HELPER] = { 1, get_helper },
	[HAK_FIELD_MASTER] = { 9, get_master },
	[HAK_FIELD_SEQADJ] = { 24, get_seqadj },
	[HAK_FIELD_SYNPROXY] = { 12, get_synproxy },
};

static bool get_exp_master(struct hak_rd *v, void *of)
{
	struct hak_expect *e = of;

	e->master_l4proto = hak_rd_u8(v);
	e->master_l4kind = hak_l4kind_of(e->master_l4proto);
	get_tuple(v, &e->master, e->l3 == AF_INET6, e->master_l4proto);
	return true;
}

static bool get_exp_mask(struct hak_rd *v, void *of)
{
	struct hak_expect *e = of;

	get_addr(v, e->mask.src, e->l3 == AF_INET6);
	memset(e->mask.dst, 0xff, hak_addr_len(e->l3));
	if (e->l4kind != HAK_L4_NONE) {
		e->mask.sport = hak_rd_u16(v);
		e->mask.dport = 0xffff;
	}
	return true;
}

static bool get_exp_flags(struct hak_rd *v, void *of)
{
	((struct hak_expect *)of)->flags = hak_rd_u32(v) & ~(uint32_t)NF_CT_EXPECT_USERSPACE;
	return true;
}

static bool get_exp_class(struct hak_rd *v, void *of)
{
	((struct hak_expect *)of)->class_ = hak_rd_u32(v);
	return true;
}

static bool get_exp_timeout(struct hak_rd *v, void *of)
{
	((struct hak_expect *)of)->timeout = hak_rd_u32(v);
	return true;
}

static bool get_exp_nat(struct hak_rd *v, void *of)
{
	struct hak_expect *e = of;

	e->has_nat = true;
	e->nat_dir = hak_rd_u8(v);
	e->nat_l4proto = hak_rd_u8(v);
	e->nat_l4kind = hak_l4kind_of(e->nat_l4proto);
	get_addr(v, e->nat.src, e->l3 == AF_INET6);
	if (e->nat_l4kind != HAK_L4_NONE)
		e->nat.sport = hak_rd_u16(v);
	return e->nat_dir <= 1;
}

static bool get_exp_fn(struct hak_rd *v, void *of)
{
	struct hak_expect *e = of;

	return get_name(v, e->fn, sizeof e->fn);
}

static bool get_exp_helper(struct hak_rd *v, void *of)
{
	struct hak_expect *e = of;

	return get_name(v, e->helper, sizeof e->helper);
}

static const struct field expect_fields[] = {
	[HAK_EXP_FIELD_MASTER] = { 9, get_exp_master },
	[HAK_EXP_FIELD_MASK] = { 4, get_exp_mask },
	[HAK_EXP_FIELD_FLAGS] = { 4, get_exp_flags },
	[HAK_EXP_FIELD_CLASS] = { 4, get_exp_class },
	[HAK_EXP_FIELD_TIMEOUT] = { 4, get_exp_timeout },
	[HAK_EXP_FIELD_NAT] = { 6, get_exp_nat },
	[HAK_EXP_FIELD_FN] = { 1, get_exp_fn },
	[HAK_EXP_FIELD_HELPER] = { 1, get_exp_helper },
};

/* What both kinds of record begin with. */
struct identity {
	uint8_t l3, l4proto, zone_dir;
	uint16_t zone;
};

static enum hak_err get_identity(struct hak_rd *b, struct identity *id, struct hak_tuple *t)
{
	uint8_t shape = hak_rd_u8(b);

	if (shape & ~HAK_SHAPE_KNOWN)
		return HAK_ESKIP;
	id->l3 = shape & HAK_SHAPE_V6 ? AF_INET6 : AF_INET;
	id->zone_dir = (shape & HAK_SHAPE_ZONE) >> HAK_SHAPE_ZONE_SHIFT;
	id->l4proto = hak_rd_u8(b);
	id->zone = 0;
	if (id->zone_dir != HAK_ZONE_NONE) {
		id->zone = hak_rd_u16(b);
		if (!id->zone)		/* a second name for zone 0 */
			return HAK_EFORMAT;
	}
	get_tuple(b, t, id->l3 == AF_INET6, id->l4proto);
	return b->bad ? HAK_EFORMAT : HAK_OK;
}

typedef enum hak_err get_record(struct hak_rd *b, struct hak_record *out, unsigned *skipped);

static enum hak_err get_flow(struct hak_rd *b, struct hak_record *out, unsigned *skipped)
{
	struct hak_flow *f = &out->flow;
	struct identity id;
	uint32_t seen;
	enum hak_err e;

	memset(f, 0, sizeof *f);
	e = get_identity(b, &id, &f->orig);
	if (e)
		return e;
	f->l3 = id.l3;
	f->l4proto = id.l4proto;
	f->l4kind = hak_l4kind_of(id.l4proto);
	f->zone_dir = id.zone_dir;
	f->zone = id.zone;
	if (out->type == HAK_REC_FLOW_NEW || out->type == HAK_REC_FLOW_SYNC) {
		need_reply(f);
		f->status = hak_ips_status(0);
		f->have |= HAK_HAS_STATUS | HAK_HAS_MARK;
	}
	return get_fields(b, flow_fields, sizeof flow_fields / sizeof *flow_fields,
			  f, &seen, skipped);
}

static enum hak_err get_expect(struct hak_rd *b, struct hak_record *out, unsigned *skipped)
{
	const uint32_t must = 1u << HAK_EXP_FIELD_MASTER | 1u << HAK_EXP_FIELD_MASK;
	struct hak_expect *x = &out->expect;
	struct identity id;
	uint32_t seen;
	enum hak_err e;

	memset(x, 0, sizeof *x);
	e = get_identity(b, &id, &x->tuple);
	if (e)
		return e;
	x->l3 = id.l3;
	x->l4proto = id.l4proto;
	x->l4kind = hak_l4kind_of(id.l4proto);
	x->zone_dir = id.zone_dir;
	x->zone = id.zone;
	e = get_fields(b, expect_fields, sizeof expect_fields / sizeof *expect_fields,
		       x, &seen, skipped);
	if (!e && out->type == HAK_REC_EXP_NEW && (seen & must) != must)
		return HAK_EFORMAT;
	return e;
}

static enum hak_err get_generation(struct hak_rd *b, struct hak_record *out, unsigned *skipped)
{
	(void)skipped;
	out->sync.generation = hak_rd_u32(b);
	out->sync.entries = out->type == HAK_REC_SYNC_END ? hak_rd_u64(b) : 0;
	return b->bad ? HAK_EFORMAT : HAK_OK;
}

static enum hak_err get_term(struct hak_rd *b, struct hak_record *out, unsigned *skipped)
{
	(void)skipped;
	out->term = hak_rd_u32(b);
	return b->bad ? HAK_EFORMAT : HAK_OK;
}

static enum hak_err get_body(struct hak_rd *b, struct hak_record *out, unsigned *skipped)
{
	(void)skipped;
	out->body = *b;
	return HAK_OK;
}

static const struct {
	const char *name;
	get_record *get;
} records[] = {
	[HAK_REC_FLOW_NEW] = { "FLOW_NEW", get_flow },
	[HAK_REC_FLOW_UPDATE] = { "FLOW_UPDATE", get_flow },
	[HAK_REC_FLOW_DESTROY] = { "FLOW_DESTROY", get_flow },
	[HAK_REC_FLOW_SYNC] = { "FLOW_SYNC", get_flow },
	[HAK_REC_EXP_NEW] = { "EXP_NEW", get_expect },
	[HAK_REC_EXP_DESTROY] = { "EXP_DESTROY", get_expect },
	[HAK_REC_SYNC_BEGIN] = { "SYNC_BEGIN", get_generation },
	[HAK_REC_SYNC_END] = { "SYNC_END", get_generation },
	[HAK_REC_HANDOVER] = { "HANDOVER", get_term },
	[HAK_REC_SYNC_LOST] = { "SYNC_LOST", get_generation },
	[HAK_REC_HEARTBEAT] = { "HEARTBEAT", get_body },
	[HAK_REC_STATUS] = { "STATUS", get_body },
	[HAK_REC_ACK] = { "ACK", get_body },
	[HAK_REC_NACK] = { "NACK", get_body },
	[HAK_REC_SYNC_WANT] = { "SYNC_WANT", get_generation },
	[HAK_REC_FLOW_WANT] = { "FLOW_WANT", get_flow },
	[HAK_REC_BYE] = { "BYE", get_body },
};

static bool known(uint8_t type)
{
	return type < sizeof records / sizeof *records && records[type].get;
}

enum hak_err hak_wire_get(struct hak_rd *r, struct hak_record *out, unsigned *skipped_fields)
{
	uint8_t type = hak_rd_u8(r);
	size_t len = hak_rd_u8(r);
	struct hak_rd body;

	if (len == LONG_LEN) {
		len = hak_rd_u16(r);
		if (!r->bad && len < LONG_LEN)		/* one way to write it */
			return HAK_EFORMAT;
	}
	body = hak_rd_sub(r, len);
	if (r->bad)
		return HAK_ETRUNC;
	out->type = type;
	if (!known(type))
		return HAK_ESKIP;
	return records[type].get(&body, out, skipped_fields);
}

const char *hak_rec_name(uint8_t type)
{
	return known(type) ? records[type].name : "?";
}
