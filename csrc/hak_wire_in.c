/* hak_wire_in.c - records of K2K -> struct hak_flow / hak_expect.
 *
 * docs/wire-records.md is the normative text.  Everything goes through the cursor,
 * whose error is sticky: a get_ is a straight line, tested once.
 *
 * Strict about what this version knows: a length that cannot be, a field twice, a
 * state that does not exist, a second way to write the same identity are HAK_EFORMAT.
 * Blind to what it does not know: types, shapes and fields of later versions are
 * stepped over by their length.
 *
 * Not handled here: what a record does.  In particular nothing checks that NEW comes
 * before UPDATE, nor that a master exists; that is the appliers' matter.
 */
#include "hak_digest.h"
#include "hak_wire.h"

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum {
	TCP_STATES = TCP_CONNTRACK_MAX,
	WSCALE_MAX = 14,	/* RFC 7323; the kernel refuses more */
};

/* With all that it calls in one piece: two thirds of the time. */
#define HOT __attribute__((flatten))

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

		if (len == HAK_LONG_FIELD) {
			len = hak_rd_u8(r);
			if (len < HAK_LONG_FIELD)		/* one way to write it */
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

/* The length says whether the port is there too. */
static bool get_reply_end(struct hak_rd *v, struct hak_flow *f, uint8_t addr[16], uint16_t *port)
{
	size_t more = hak_rd_left(v) - hak_addr_len(f->l3);

	if (hak_rd_left(v) < hak_addr_len(f->l3) ||
	    (more && (more != 2 || f->l4kind == HAK_L4_NONE)))
		return false;
	get_addr(v, addr, f->l3 == AF_INET6);
	if (more)
		*port = hak_rd_u16(v);
	return true;
}

static bool get_reply_src(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	need_reply(f);
	return get_reply_end(v, f, f->reply.src, &f->reply.sport);
}

static bool get_reply_dst(struct hak_rd *v, void *of)
{
	struct hak_flow *f = of;

	need_reply(f);
	return get_reply_end(v, f, f->reply.dst, &f->reply.dport);
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

	size_t n = hak_rd_left(v);

	while (hak_rd_left(v))
		f->mark = f->mark << 8 | hak_rd_u8(v);
	f->have |= HAK_HAS_MARK;
	return n <= sizeof f->mark;
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
	[HAK_FIELD_MARK] = { 1, get_mark },
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

static bool get_l4proto(struct hak_rd *b, uint8_t shape, uint8_t *l4proto)
{
	bool v6 = shape & HAK_SHAPE_V6;
	uint8_t icmp = v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;

	switch ((shape & HAK_SHAPE_PROTO) >> HAK_SHAPE_PROTO_SHIFT) {
	case HAK_SHAPE_TCP:
		*l4proto = IPPROTO_TCP;
		return true;
	case HAK_SHAPE_UDP:
		*l4proto = IPPROTO_UDP;
		return true;
	case HAK_SHAPE_ICMP:
		*l4proto = icmp;
		return true;
	}
	*l4proto = hak_rd_u8(b);	/* not what the shape can say */
	return *l4proto != IPPROTO_TCP && *l4proto != IPPROTO_UDP && *l4proto != icmp;
}

static enum hak_err get_identity(struct hak_rd *b, struct identity *id, struct hak_tuple *t)
{
	uint8_t shape = hak_rd_u8(b);

	if (shape & ~HAK_SHAPE_KNOWN)
		return HAK_ESKIP;
	id->l3 = shape & HAK_SHAPE_V6 ? AF_INET6 : AF_INET;
	id->zone_dir = (shape & HAK_SHAPE_ZONE) >> HAK_SHAPE_ZONE_SHIFT;
	if (!get_l4proto(b, shape, &id->l4proto))
		return HAK_EFORMAT;
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

static HOT enum hak_err get_flow(struct hak_rd *b, struct hak_record *out, unsigned *skipped)
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
	out->sync.round = out->type == HAK_REC_SYNC_WANT && hak_rd_left(b) ? hak_rd_u32(b) : 0;
	out->sync.sums = out->type != HAK_REC_SYNC_END && hak_rd_left(b) ? hak_rd_u32(b) : 0;
	out->sync.bits = out->type == HAK_REC_SYNC_BEGIN && out->sync.sums ? hak_rd_u8(b) : 0;
	if (out->type == HAK_REC_SYNC_BEGIN && out->sync.sums &&
	    (out->sync.bits < HAK_DIGEST_BITS_MIN || out->sync.bits > HAK_DIGEST_BITS_MAX))
		return HAK_EFORMAT;
	return b->bad ? HAK_EFORMAT : HAK_OK;
}

static enum hak_err get_term(struct hak_rd *b, struct hak_record *out, unsigned *skipped)
{
	(void)skipped;
	out->term = hak_rd_u32(b);
	return b->bad ? HAK_EFORMAT : HAK_OK;
}

static enum hak_err get_prepare(struct hak_rd *b, struct hak_record *out, unsigned *skipped)
{
	(void)skipped;
	out->prepare.term = hak_rd_u32(b);
	out->prepare.seq = hak_rd_u64(b);
	return b->bad || !out->prepare.term ? HAK_EFORMAT : HAK_OK;
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
	[HAK_REC_RECON_BEGIN] = { "RECON_BEGIN", get_body },
	[HAK_REC_RECON_LISTED] = { "RECON_LISTED", get_body },
	[HAK_REC_RECON_CLOSE] = { "RECON_CLOSE", get_body },
	[HAK_REC_RECON_SUMS] = { "RECON_SUMS", get_body },
	[HAK_REC_RECON_BRIEF] = { "RECON_BRIEF", get_body },
	[HAK_REC_RECON_MARKED] = { "RECON_MARKED", get_body },
	[HAK_REC_OFFERED] = { "OFFERED", get_body },
	[HAK_REC_HEARTBEAT] = { "HEARTBEAT", get_body },
	[HAK_REC_STATUS] = { "STATUS", get_body },
	[HAK_REC_ACK] = { "ACK", get_body },
	[HAK_REC_NACK] = { "NACK", get_body },
	[HAK_REC_SYNC_WANT] = { "SYNC_WANT", get_generation },
	[HAK_REC_FLOW_WANT] = { "FLOW_WANT", get_flow },
	[HAK_REC_BYE] = { "BYE", get_body },
	[HAK_REC_RECON_WANT] = { "RECON_WANT", get_body },
	[HAK_REC_RECON_CLOSE_WANT] = { "RECON_CLOSE_WANT", get_body },
	[HAK_REC_RECON_ASK] = { "RECON_ASK", get_body },
	[HAK_REC_RECON_ASK_BRIEF] = { "RECON_ASK_BRIEF", get_body },
	[HAK_REC_RECON_MARK] = { "RECON_MARK", get_body },
	[HAK_REC_VERIFY] = { "VERIFY", get_body },
	[HAK_REC_TABLE] = { "TABLE", get_body },
	[HAK_REC_PREPARE] = { "PREPARE", get_prepare },
	[HAK_REC_ARMED] = { "ARMED", get_term },
	[HAK_REC_OFFER] = { "OFFER", get_body },
	[HAK_REC_LINKS] = { "LINKS", get_body },
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

	if (len == HAK_LONG_RECORD) {
		len = hak_rd_u16(r);
		if (!r->bad && len < HAK_LONG_RECORD)		/* one way to write it */
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
