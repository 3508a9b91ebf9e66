/* hak_flow.h - a connection as hak2k sees it: neutral, flat, fixed in size.
 *
 * Between the kernel's ctnetlink attributes (hak_ct.c) and K2K's records
 * (hak_wire.c) stands this one struct.  It has no pointers, so it may be copied,
 * queued and compared freely; whoever declares one owns it.  Zero-initialise it:
 * both codecs rely on unused bytes being zero.
 *
 * Identity is (zone, zone_dir, l3, l4proto, orig, reply).  All the rest is state.
 * Timeouts, counters and TCP windows are deliberately no part of replication:
 * a larval entry gets its natural timeout back from the kernel at its first
 * packet after a swap.
 */
#ifndef HAK_FLOW_H
#define HAK_FLOW_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* What the two 16-bit words of a tuple mean (struct nf_conntrack_tuple's unions). */
enum hak_l4kind {
	HAK_L4_NONE = 0,	/* ESP, AH, OSPF, ...: no words */
	HAK_L4_PORTS,		/* TCP, UDP, UDP-Lite, DCCP, SCTP ports; GRE keys */
	HAK_L4_ICMP,		/* sport = identifier; dport = type << 8 | code */
};

enum hak_zone_dir {		/* which direction's lookup the zone is part of */
	HAK_ZONE_NONE = 0,	/* zone 0 */
	HAK_ZONE_BOTH,
	HAK_ZONE_ORIG,
	HAK_ZONE_REPLY,
};

/* Addresses are as on the wire, IPv4 in the first four bytes and the rest zero.
 * Port words are in *host* order here. */
struct hak_tuple {
	uint8_t src[16], dst[16];
	uint16_t sport, dport;
};

/* Which parts of a flow are present (struct hak_flow.have). */
enum hak_have {
	HAK_HAS_REPLY = 1 << 0,
	HAK_HAS_STATUS = 1 << 1,
	HAK_HAS_MARK = 1 << 2,
	HAK_HAS_TCP = 1 << 3,
	HAK_HAS_SCTP = 1 << 4,
	HAK_HAS_SCTP_VTAG = 1 << 5,	/* DESTROY events carry the state alone */
	HAK_HAS_DCCP = 1 << 6,
	HAK_HAS_LABELS = 1 << 7,
	HAK_HAS_HELPER = 1 << 8,
	HAK_HAS_MASTER = 1 << 9,
	HAK_HAS_SEQADJ = 1 << 10,	/* both directions */
	HAK_HAS_SYNPROXY = 1 << 11,
	HAK_HAS_TIMEOUT = 1 << 12,	/* kernel side only, never on the wire */
	HAK_HAS_TCP_WSCALE = 1 << 13,
	HAK_HAS_TCP_FLAGS = 1 << 14,
	HAK_HAS_PACKETS = 1 << 15,	/* kernel side only; of GRE */
};

struct hak_seqadj {		/* struct nf_ct_seqadj */
	uint32_t pos, before, after;
};

enum { HAK_HELPER_LEN = 16, HAK_LABELS_LEN = 16, HAK_EXP_FN_LEN = 32 };

struct hak_flow {
	uint8_t l3;			/* AF_INET or AF_INET6 */
	uint8_t l4proto;		/* IP protocol number */
	uint8_t l4kind;			/* enum hak_l4kind, follows from l4proto */
	uint8_t zone_dir;		/* enum hak_zone_dir */
	uint16_t zone;
	uint32_t have;			/* enum hak_have */
	struct hak_tuple orig, reply;

	uint32_t status;		/* IPS_* bits of nf_conntrack_common.h */
	uint32_t timeout;		/* seconds */
	uint64_t packets;		/* both directions */
	uint32_t mark;
	uint8_t tcp_state;		/* enum tcp_conntrack */
	uint8_t tcp_wscale[2];		/* original, reply */
	uint8_t tcp_flags[2];		/* IP_CT_TCP_FLAG_* */
	uint8_t sctp_state;
	uint32_t sctp_vtag[2];
	uint8_t dccp_state, dccp_role;
	uint64_t dccp_seq;		/* handshake sequence */
	uint8_t labels[HAK_LABELS_LEN];
	char helper[HAK_HELPER_LEN];	/* NUL-terminated */
	struct hak_tuple master;	/* original tuple of the master connection */
	uint8_t master_l4proto, master_l4kind;
	struct hak_seqadj seqadj[2];
	uint32_t synproxy[3];		/* isn, its, tsoff */
};

/* An expectation: which connection may come, and whose child it will be. */
struct hak_expect {
	uint8_t l3;
	uint8_t l4proto, l4kind;	/* of tuple and mask */
	uint8_t zone_dir;
	uint16_t zone;
	uint8_t master_l4proto, master_l4kind;
	struct hak_tuple master, tuple, mask;
	uint32_t timeout;		/* seconds left; 0 = unknown */
	uint32_t flags;			/* NF_CT_EXPECT_* */
	uint32_t class_;
	bool has_nat;
	uint32_t nat_dir;
	struct hak_tuple nat;		/* saved address and port */
	uint8_t nat_l4proto, nat_l4kind;
	char fn[HAK_EXP_FN_LEN];	/* "nat-follow-master" and the like */
	char helper[HAK_HELPER_LEN];
};

static inline uint8_t hak_l4kind_of(uint8_t proto)
{
	switch (proto) {
	case 6: case 17: case 33: case 47: case 132: case 136:
		return HAK_L4_PORTS;	/* tcp udp dccp gre sctp udplite */
	case 1: case 58:
		return HAK_L4_ICMP;
	default:
		return HAK_L4_NONE;
	}
}

static inline unsigned hak_addr_len(uint8_t l3)
{
	return l3 == 10 /* AF_INET6 */ ? 16 : 4;
}

/* The ICMP type that answers `type`; types without a pair answer themselves.  The
 * kernel too goes by the protocol number and not by the address family.
 * net/netfilter/nf_conntrack_proto_icmp{,v6}.c: invmap. */
static inline uint8_t hak_icmp_inverse(uint8_t l4proto, uint8_t type)
{
	if (l4proto == 58)
		switch (type) {
		case 128: return 129;	/* echo */
		case 129: return 128;
		case 139: return 140;	/* node information */
		case 140: return 139;
		}
	else
		switch (type) {
		case 8: return 0;	/* echo */
		case 0: return 8;
		case 13: return 14;	/* timestamp */
		case 14: return 13;
		case 15: return 16;	/* information */
		case 16: return 15;
		case 17: return 18;	/* address mask */
		case 18: return 17;
		}
	return type;
}

/* The reply tuple of an un-NATed connection whose original tuple is *t. */
static inline struct hak_tuple hak_tuple_inverse(const struct hak_flow *f,
						 const struct hak_tuple *t)
{
	struct hak_tuple r;

	memset(&r, 0, sizeof r);
	memcpy(r.src, t->dst, 16);
	memcpy(r.dst, t->src, 16);
	if (f->l4kind == HAK_L4_ICMP) {
		r.sport = t->sport;
		r.dport = (uint16_t)(hak_icmp_inverse(f->l4proto, (uint8_t)(t->dport >> 8)) << 8 |
				     (t->dport & 0xff));
	} else {
		r.sport = t->dport;
		r.dport = t->sport;
	}
	return r;
}

static inline bool hak_tuple_equal(const struct hak_tuple *a, const struct hak_tuple *b)
{
	return !memcmp(a, b, sizeof *a);
}

/* The same identity, but for the reply tuple. */
static inline bool hak_same_flow(const struct hak_flow *x, const struct hak_flow *y)
{
	return x->l3 == y->l3 && x->l4proto == y->l4proto && x->zone == y->zone &&
	       x->zone_dir == y->zone_dir && hak_tuple_equal(&x->orig, &y->orig);
}

#endif
