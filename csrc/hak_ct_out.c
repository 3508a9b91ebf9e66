/* hak_ct_out.c - struct hak_flow -> ctnetlink requests, see hak_ct.h.
 *
 * The kernel's side is ctnetlink_create_conntrack and ctnetlink_change_conntrack
 * (net/netfilter/nf_conntrack_netlink.c).  They take different attributes: NAT,
 * helper and master exist at creation only, and an update that bears them fails.
 *
 * Not sent, because the kernel would not take it or because it is its own business:
 * counters, timestamps, ids, TCP window edges, timeout policies, secmarks.
 */
#include "hak_ct.h"

#include "hak_ct_tuple.h"
#include "hak_tcp.h"

enum {
	CT_NEW = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW,
	CT_GET = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET,
	CT_DELETE = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE,

	/* What of the peer's status may be told to a kernel.  EXPECTED it sets itself
	 * where a master is named; at creation the bit alone is EBUSY. */
	SETTABLE = IPS_SEEN_REPLY | IPS_ASSURED | IPS_HELPER,

	/* TCP flags that describe the connection, and those that describe what this
	 * node's tracker has seen of it, which a larva has not. */
	TCP_TOLD = IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM |
		   IP_CT_TCP_FLAG_CLOSE_INIT,
	TCP_SEEN = IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED | IP_CT_TCP_FLAG_MAXACK_SET,
};

/* With all that it calls in one piece. */
#define HOT __attribute__((flatten))

static bool bad_flow(const struct hak_flow *f)
{
	return f->l3 != AF_INET && f->l3 != AF_INET6;
}

static uint16_t zone_if(const struct hak_flow *f, enum hak_zone_dir d)
{
	return f->zone_dir == d ? f->zone : 0;
}

/* The lookup key.  A zone that only replies bear is no part of the original tuple's,
 * and the other way round. */
static void put_orig(struct hak_wr *w, const struct hak_flow *f)
{
	hak_ct_put_tuple(w, CTA_TUPLE_ORIG, f->l3, f->l4proto, &f->orig,
			 zone_if(f, HAK_ZONE_ORIG));
}

static void put_reply(struct hak_wr *w, const struct hak_flow *f, const struct hak_tuple *t)
{
	hak_ct_put_tuple(w, CTA_TUPLE_REPLY, f->l3, f->l4proto, t, zone_if(f, HAK_ZONE_REPLY));
}

static void put_zone(struct hak_wr *w, const struct hak_flow *f)
{
	if (f->zone_dir == HAK_ZONE_BOTH)
		hak_nla_u16(w, CTA_ZONE, f->zone);
}

/* ---- protocol state --------------------------------------------------- */

static void put_tcp_flags(struct hak_wr *w, uint16_t type, unsigned flags, unsigned mask)
{
	/* struct nf_ct_tcp_flags */
	hak_nla_u16(w, type, (uint16_t)((flags & 0xff) << 8 | (mask & 0xff)));
}

static void put_tcp(struct hak_wr *w, const struct hak_flow *f, bool larval)
{
	size_t outer = hak_nla_begin(w, CTA_PROTOINFO), inner = hak_nla_begin(w, CTA_PROTOINFO_TCP);
	bool known = f->have & HAK_HAS_TCP_FLAGS;
	unsigned mask = known ? TCP_TOLD : 0, extra = 0;

	/* Liberal both ways in every state, for the window edges of the peer are not
	 * known here; and without MAXACK_SET, which without its td_maxack would make the
	 * kernel refuse RSTs. */
	if (larval) {
		mask |= IP_CT_TCP_FLAG_BE_LIBERAL | TCP_SEEN;
		extra = IP_CT_TCP_FLAG_BE_LIBERAL;
	} else if (known) {
		mask |= IP_CT_TCP_FLAG_BE_LIBERAL;
	}
	if (f->have & HAK_HAS_TCP)
		hak_nla_u8(w, CTA_PROTOINFO_TCP_STATE, f->tcp_state);
	for (int d = 0; d < 2 && mask; d++)
		put_tcp_flags(w, (uint16_t)(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL + d),
			      ((known ? f->tcp_flags[d] : 0u) | extra) & mask & ~(unsigned)TCP_SEEN,
			      mask);
	if (f->have & HAK_HAS_TCP_WSCALE) {
		hak_nla_u8(w, CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, f->tcp_wscale[0]);
		hak_nla_u8(w, CTA_PROTOINFO_TCP_WSCALE_REPLY, f->tcp_wscale[1]);
	}
	hak_nla_end(w, inner);
	hak_nla_end(w, outer);
}

/* All three or EINVAL, so that the bare state of a DESTROY is of no use. */
static void put_sctp(struct hak_wr *w, const struct hak_flow *f)
{
	size_t outer, inner;

	if (!(f->have & HAK_HAS_SCTP_VTAG))
		return;
	outer = hak_nla_begin(w, CTA_PROTOINFO);
	inner = hak_nla_begin(w, CTA_PROTOINFO_SCTP);
	hak_nla_u8(w, CTA_PROTOINFO_SCTP_STATE, f->sctp_state);
	hak_nla_u32(w, CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, f->sctp_vtag[0]);
	hak_nla_u32(w, CTA_PROTOINFO_SCTP_VTAG_REPLY, f->sctp_vtag[1]);
	hak_nla_end(w, inner);
	hak_nla_end(w, outer);
}

/* Kernels up to 6.16; later ones have no tracker for DCCP and ignore this. */
static void put_dccp(struct hak_wr *w, const struct hak_flow *f)
{
	size_t outer = hak_nla_begin(w, CTA_PROTOINFO);
	size_t inner = hak_nla_begin(w, CTA_PROTOINFO_DCCP);

	hak_nla_u8(w, CTA_PROTOINFO_DCCP_STATE, f->dccp_state);
	hak_nla_u8(w, CTA_PROTOINFO_DCCP_ROLE, f->dccp_role);
	hak_wr_h16(w, HAK_NLA_HDR + 8);
	hak_wr_h16(w, CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ);
	hak_wr_u64(w, f->dccp_seq);
	hak_nla_end(w, inner);
	hak_nla_end(w, outer);
}

static void put_seqadj(struct hak_wr *w, uint16_t type, const struct hak_seqadj *s)
{
	size_t nest = hak_nla_begin(w, type);

	hak_nla_u32(w, CTA_SEQADJ_CORRECTION_POS, s->pos);
	hak_nla_u32(w, CTA_SEQADJ_OFFSET_BEFORE, s->before);
	hak_nla_u32(w, CTA_SEQADJ_OFFSET_AFTER, s->after);
	hak_nla_end(w, nest);
}

static void put_synproxy(struct hak_wr *w, const struct hak_flow *f)
{
	size_t nest = hak_nla_begin(w, CTA_SYNPROXY);

	hak_nla_u32(w, CTA_SYNPROXY_ISN, f->synproxy[0]);
	hak_nla_u32(w, CTA_SYNPROXY_ITS, f->synproxy[1]);
	hak_nla_u32(w, CTA_SYNPROXY_TSOFF, f->synproxy[2]);
	hak_nla_end(w, nest);
}

/* What the two forms have in common. */
static void put_state(struct hak_wr *w, const struct hak_flow *f, const struct hak_ct_form *form)
{
	if (f->l4proto == IPPROTO_TCP && (f->have & HAK_HAS_TCP))
		put_tcp(w, f, form->larval);
	else if (f->l4proto == IPPROTO_SCTP && (f->have & HAK_HAS_SCTP))
		put_sctp(w, f);
	else if (f->l4proto == IPPROTO_DCCP && (f->have & HAK_HAS_DCCP))
		put_dccp(w, f);
	if (f->have & HAK_HAS_MARK)
		hak_nla_u32(w, CTA_MARK, f->mark);
	/* Without a mask the whole set is replaced, which is what is meant. */
	if ((f->have & HAK_HAS_LABELS) && !form->no_labels)
		hak_nla_put(w, CTA_LABELS, f->labels, sizeof f->labels);
	if (f->have & HAK_HAS_SEQADJ) {
		put_seqadj(w, CTA_SEQ_ADJ_ORIG, &f->seqadj[0]);
		put_seqadj(w, CTA_SEQ_ADJ_REPLY, &f->seqadj[1]);
	}
	if (f->have & HAK_HAS_SYNPROXY)
		put_synproxy(w, f);
}

/* ---- NAT -------------------------------------------------------------- */

/* The kernel mangles the reply tuple itself when it is given one without NAT and the
 * addresses and ports to map to, each range being of one value. */
struct nat {
	bool needed;
	struct hak_tuple plain;		/* the reply tuple to start from */
	uint16_t dst_word, src_word;	/* ports, GRE keys, ICMP id to pin */
};

static struct nat nat_of(const struct hak_flow *f)
{
	struct nat n = { .plain = hak_tuple_inverse(f, &f->orig) };
	const struct hak_tuple *r = &f->reply;

	n.dst_word = r->sport;
	n.src_word = r->dport;
	if (f->l4proto == IPPROTO_GRE) {
		/* Keys are not translated by the mapping (only PPTP's helper does that,
		 * and the directions' keys need not be inverse): give the final ones. */
		n.plain.sport = r->sport;
		n.plain.dport = r->dport;
	} else if (f->l4kind == HAK_L4_ICMP) {
		/* One id serves both directions; the mapping of the source translates
		 * it, after that of the destination left it alone. */
		n.plain.dport = r->dport;
		n.dst_word = f->orig.sport;
		n.src_word = r->sport;
	}
	n.needed = !hak_tuple_equal(&n.plain, r);
	return n;
}

/* What most are, in one piece. */
static void put_mapping_v4(struct hak_wr *w, uint16_t type, const uint8_t addr[16], uint16_t word)
{
	struct {
		struct nlattr outer;
		struct hak_nla_word ip[2];
		struct {
			struct nlattr nest;
			struct hak_nla_word port[2];
		} proto;
	} x;

	x.outer = hak_nest(type, sizeof x);
	x.ip[0] = hak_word_v4(CTA_NAT_V4_MINIP, addr);
	x.ip[1] = hak_word_v4(CTA_NAT_V4_MAXIP, addr);
	x.proto.nest = hak_nest(CTA_NAT_PROTO, sizeof x.proto);
	x.proto.port[0] = hak_word16(CTA_PROTONAT_PORT_MIN, word);
	x.proto.port[1] = hak_word16(CTA_PROTONAT_PORT_MAX, word);
	hak_wr_copy(w, &x, sizeof x);
}

static void put_mapping(struct hak_wr *w, uint16_t type, const struct hak_flow *f,
			const uint8_t addr[16], uint16_t word)
{
	bool v6 = f->l3 == AF_INET6;
	size_t nest, proto;

	if (!v6 && hak_l4kind_of(f->l4proto) != HAK_L4_NONE) {
		put_mapping_v4(w, type, addr, word);
		return;
	}
	nest = hak_nla_begin(w, type);
	hak_nla_addr(w, v6 ? CTA_NAT_V6_MINIP : CTA_NAT_V4_MINIP, addr, f->l3);
	hak_nla_addr(w, v6 ? CTA_NAT_V6_MAXIP : CTA_NAT_V4_MAXIP, addr, f->l3);
	if (hak_l4kind_of(f->l4proto) != HAK_L4_NONE) {
		proto = hak_nla_begin(w, CTA_NAT_PROTO);
		hak_nla_u16(w, CTA_PROTONAT_PORT_MIN, word);
		hak_nla_u16(w, CTA_PROTONAT_PORT_MAX, word);
		hak_nla_end(w, proto);
	}
	hak_nla_end(w, nest);
}

/* Both mappings are always given, the one that changes nothing too: left out, the
 * kernel would choose it ("null binding"), and where the reply tuple is taken it would
 * silently choose another source port.  Given, such a clash is EEXIST. */
static void put_nat(struct hak_wr *w, const struct hak_flow *f, const struct nat *n)
{
	put_mapping(w, CTA_NAT_DST, f, f->reply.src, n->dst_word);
	put_mapping(w, CTA_NAT_SRC, f, f->reply.dst, n->src_word);
}

/* ---- the messages ----------------------------------------------------- */

static uint16_t flags(unsigned more, bool ack)
{
	return (uint16_t)(NLM_F_REQUEST | more | (ack ? NLM_F_ACK : 0));
}

static void put_birth(struct hak_wr *w, const struct hak_flow *f, const struct hak_ct_form *form)
{
	if ((f->have & HAK_HAS_HELPER) && !form->no_helper) {
		size_t nest = hak_nla_begin(w, CTA_HELP);

		hak_nla_str(w, CTA_HELP_NAME, f->helper);
		hak_nla_end(w, nest);
	}
	/* Looked up in the child's own zone; a zone here would be refused. */
	if ((f->have & HAK_HAS_MASTER) && !form->no_master)
		hak_ct_put_tuple(w, CTA_TUPLE_MASTER, f->l3, f->master_l4proto, &f->master, 0);
}

static uint32_t birth_status(const struct hak_flow *f, const struct hak_ct_form *form)
{
	uint32_t s = IPS_CONFIRMED;

	if (f->have & HAK_HAS_STATUS)
		s |= f->status & SETTABLE;
	if (form->no_helper)
		s &= ~(uint32_t)IPS_HELPER;
	/* GRE's timeouts live in the entry and are zero in one made here, so that its
	 * first packet would expire it at once. */
	if (form->larval && f->l4proto == IPPROTO_GRE)
		s |= IPS_FIXED_TIMEOUT;
	return s;
}

HOT enum hak_err hak_ct_put_create(struct hak_wr *w, uint32_t seq, const struct hak_flow *f,
			       const struct hak_ct_form *form)
{
	struct nat n;
	size_t at;

	if (bad_flow(f) || !(f->have & HAK_HAS_REPLY) || !form->timeout)
		return HAK_EINVAL;
	n = nat_of(f);
	at = hak_nlmsg_begin(w, CT_NEW, flags(NLM_F_CREATE | (form->excl ? NLM_F_EXCL : 0),
					      form->ack), seq, f->l3, 0);
	put_orig(w, f);
	put_reply(w, f, n.needed ? &n.plain : &f->reply);
	put_zone(w, f);
	if (n.needed)
		put_nat(w, f, &n);
	hak_nla_u32(w, CTA_TIMEOUT, form->timeout);
	hak_nla_u32(w, CTA_STATUS, birth_status(f, form));
	put_birth(w, f, form);
	if (f->l4proto == IPPROTO_TCP && !(f->have & HAK_HAS_TCP)) {
		struct hak_flow g = *f;		/* rare: the copy costs nobody */

		/* Listed while offloaded to a flowtable, hence without protocol state;
		 * only established connections are. */
		g.have |= HAK_HAS_TCP;
		g.tcp_state = birth_status(f, form) & IPS_SEEN_REPLY ?
			      TCP_CONNTRACK_ESTABLISHED : TCP_CONNTRACK_NONE;
		put_state(w, &g, form);
	} else {
		put_state(w, f, form);
	}
	return hak_ct_end(w, at);
}

static uint32_t told_status(const struct hak_flow *f)
{
	return (f->status & (SETTABLE | IPS_EXPECTED)) | IPS_CONFIRMED;
}

HOT enum hak_err hak_ct_put_update(struct hak_wr *w, uint32_t seq, const struct hak_flow *f,
			       const struct hak_ct_form *form)
{
	uint32_t status = told_status(f);
	size_t at;

	if (bad_flow(f))
		return HAK_EINVAL;
	at = hak_nlmsg_begin(w, CT_NEW, flags(0, form->ack), seq, f->l3, 0);
	put_orig(w, f);
	put_zone(w, f);
	/* A larva of GRE has a fixed timeout: EPERM, and it needs none. */
	if (form->timeout && !(form->larval && f->l4proto == IPPROTO_GRE))
		hak_nla_u32(w, CTA_TIMEOUT, form->timeout);
	if (f->have & HAK_HAS_STATUS) {
		if (form->no_master)
			status &= ~(uint32_t)IPS_EXPECTED;
		if (form->flip_expected)
			status ^= IPS_EXPECTED;
		hak_nla_u32(w, CTA_STATUS, status);
	}
	put_state(w, f, form);
	return hak_ct_end(w, at);
}

static enum hak_err put_by_orig(struct hak_wr *w, uint16_t type, uint32_t seq,
				const struct hak_flow *f, bool ack)
{
	size_t at;

	if (bad_flow(f))
		return HAK_EINVAL;
	at = hak_nlmsg_begin(w, type, flags(0, ack), seq, f->l3, 0);
	put_orig(w, f);
	put_zone(w, f);
	return hak_ct_end(w, at);
}

static enum hak_err put_by_reply(struct hak_wr *w, uint16_t type, uint32_t seq,
				 const struct hak_flow *f, bool ack)
{
	size_t at;

	if (bad_flow(f) || !(f->have & HAK_HAS_REPLY))
		return HAK_EINVAL;
	at = hak_nlmsg_begin(w, type, flags(0, ack), seq, f->l3, 0);
	put_reply(w, f, &f->reply);
	put_zone(w, f);
	return hak_ct_end(w, at);
}

HOT enum hak_err hak_ct_put_delete(struct hak_wr *w, uint32_t seq, const struct hak_flow *f, bool ack)
{
	return put_by_orig(w, CT_DELETE, seq, f, ack);
}

enum hak_err hak_ct_put_get(struct hak_wr *w, uint32_t seq, const struct hak_flow *f)
{
	return put_by_orig(w, CT_GET, seq, f, false);
}

enum hak_err hak_ct_put_get_reply(struct hak_wr *w, uint32_t seq, const struct hak_flow *f)
{
	return put_by_reply(w, CT_GET, seq, f, false);
}

enum hak_err hak_ct_put_delete_reply(struct hak_wr *w, uint32_t seq, const struct hak_flow *f,
				     bool ack)
{
	return put_by_reply(w, CT_DELETE, seq, f, ack);
}

enum hak_err hak_ct_put_timeout(struct hak_wr *w, uint32_t seq, const struct hak_flow *f,
				uint32_t timeout, enum hak_liberal liberal)
{
	size_t at, outer, inner;

	if (bad_flow(f))
		return HAK_EINVAL;
	at = hak_nlmsg_begin(w, CT_NEW, flags(0, false), seq, f->l3, 0);
	put_orig(w, f);
	put_zone(w, f);
	hak_nla_u32(w, CTA_TIMEOUT, timeout);
	if (liberal != HAK_LIBERAL_LEAVE && f->l4proto == IPPROTO_TCP) {
		unsigned set = liberal == HAK_LIBERAL_SET ? IP_CT_TCP_FLAG_BE_LIBERAL : 0;
		bool settle = set && f->have & HAK_HAS_TCP && hak_tcp_opens(f->tcp_state) &&
			      f->have & HAK_HAS_STATUS;
		struct hak_flow larva = *f;

		hak_tcp_settle(&larva);
		if (settle)
			hak_nla_u32(w, CTA_STATUS, told_status(&larva));
		unsigned mask = IP_CT_TCP_FLAG_BE_LIBERAL | (set ? TCP_SEEN : 0);

		outer = hak_nla_begin(w, CTA_PROTOINFO);
		inner = hak_nla_begin(w, CTA_PROTOINFO_TCP);
		if (settle)
			hak_nla_u8(w, CTA_PROTOINFO_TCP_STATE, larva.tcp_state);
		put_tcp_flags(w, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, set, mask);
		put_tcp_flags(w, CTA_PROTOINFO_TCP_FLAGS_REPLY, set, mask);
		hak_nla_end(w, inner);
		hak_nla_end(w, outer);
	}
	return hak_ct_end(w, at);
}

enum hak_err hak_ct_put_list(struct hak_wr *w, uint32_t seq)
{
	size_t at = hak_nlmsg_begin(w, CT_GET, flags(NLM_F_DUMP, false), seq, AF_UNSPEC, 0);

	return hak_ct_end(w, at);
}
