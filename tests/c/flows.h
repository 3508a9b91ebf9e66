/* flows.h - connections and expectations to test with, and a comparison that names
 * the first member that differs. */
#ifndef FLOWS_H
#define FLOWS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include "hak_flow.h"
#include "t.h"

static inline struct hak_tuple tuple(const char *src, unsigned sport, const char *dst,
				      unsigned dport)
{
	struct hak_tuple t;
	int af = strchr(src, ':') ? AF_INET6 : AF_INET;

	memset(&t, 0, sizeof t);
	if (inet_pton(af, src, t.src) != 1 || inet_pton(af, dst, t.dst) != 1)
		abort();
	t.sport = (uint16_t)sport;
	t.dport = (uint16_t)dport;
	return t;
}

/* Everything that records carry about a protocol's state. */
static inline void give_state(struct hak_flow *f)
{
	switch (f->l4proto) {
	case IPPROTO_TCP:
		f->tcp_state = TCP_CONNTRACK_ESTABLISHED;
		f->tcp_flags[0] = IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM;
		f->tcp_flags[1] = IP_CT_TCP_FLAG_WINDOW_SCALE;
		f->tcp_wscale[0] = 7;
		f->tcp_wscale[1] = 9;
		f->have |= HAK_HAS_TCP | HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE;
		break;
	case IPPROTO_SCTP:
		f->sctp_state = 4;	/* SCTP_CONNTRACK_ESTABLISHED */
		f->sctp_vtag[0] = 0x01020304;
		f->sctp_vtag[1] = 0xa0b0c0d0;
		f->have |= HAK_HAS_SCTP | HAK_HAS_SCTP_VTAG;
		break;
	case IPPROTO_DCCP:
		f->dccp_state = 3;
		f->dccp_role = 1;
		f->dccp_seq = 0x0000123456789abc;
		f->have |= HAK_HAS_DCCP;
		break;
	}
}

/* A connection without NAT: client 4711 to server 80, or what the protocol has. */
static inline struct hak_flow make_flow(uint8_t l3, uint8_t l4proto)
{
	struct hak_flow f;

	memset(&f, 0, sizeof f);
	f.l3 = l3;
	f.l4proto = l4proto;
	f.l4kind = hak_l4kind_of(l4proto);
	f.orig = l3 == AF_INET6 ? tuple("2001:db8:71::10", 4711, "2001:db8:72::10", 80)
				: tuple("10.71.0.10", 4711, "10.72.0.10", 80);
	if (f.l4kind == HAK_L4_NONE)
		f.orig.sport = f.orig.dport = 0;
	if (f.l4kind == HAK_L4_ICMP)	/* echo request */
		f.orig.dport = l4proto == IPPROTO_ICMPV6 ? 128 << 8 : 8 << 8;
	f.reply = hak_tuple_inverse(&f, &f.orig);
	f.have = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_MARK;
	f.status = IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED;
	f.mark = 0x0a0b0c0d;
	give_state(&f);
	return f;
}

enum nat {
	NAT_NONE, NAT_SRC, NAT_SRC_PORT, NAT_DST, NAT_DST_PORT, NAT_BOTH, NAT_SRC_PORT_ONLY,
	NAT_DST_PORT_ONLY, NAT_FORMS,
};

static const char *const nat_names[] = {
	"plain", "snat", "snat+port", "dnat", "dnat+port", "both", "sport alone", "dport alone",
};

/* Ports are translated only where there are any; for ICMP the id is, by source NAT.
 * GRE's keys stay (the kernel changes them for PPTP's children only). */
static inline bool nat_applies(const struct hak_flow *f, enum nat n)
{
	if (f->l4kind == HAK_L4_NONE || f->l4proto == IPPROTO_GRE)
		return n == NAT_NONE || n == NAT_SRC || n == NAT_DST || n == NAT_BOTH;
	if (f->l4kind == HAK_L4_ICMP)
		return n != NAT_DST_PORT && n != NAT_DST_PORT_ONLY;
	return true;
}

static inline void give_nat(struct hak_flow *f, enum nat n)
{
	bool v6 = f->l3 == AF_INET6, ports = f->l4kind != HAK_L4_NONE && f->l4proto != IPPROTO_GRE;
	const char *vip = v6 ? "2001:db8:72::1" : "10.72.0.1";
	const char *srv = v6 ? "2001:db8:73::99" : "10.73.0.99";

	if (n == NAT_SRC || n == NAT_SRC_PORT || n == NAT_BOTH)
		NEED(inet_pton(f->l3, vip, f->reply.dst) == 1);
	if (n == NAT_DST || n == NAT_DST_PORT || n == NAT_BOTH)
		NEED(inet_pton(f->l3, srv, f->reply.src) == 1);
	if (ports && (n == NAT_SRC_PORT || n == NAT_BOTH || n == NAT_SRC_PORT_ONLY)) {
		if (f->l4kind == HAK_L4_ICMP)
			f->reply.sport = 61000;
		else
			f->reply.dport = 61000;
	}
	if (f->l4kind == HAK_L4_PORTS && ports &&
	    (n == NAT_DST_PORT || n == NAT_BOTH || n == NAT_DST_PORT_ONLY))
		f->reply.sport = 8080;
}

static inline void give_zone(struct hak_flow *f, enum hak_zone_dir d)
{
	f->zone_dir = (uint8_t)d;
	f->zone = d == HAK_ZONE_NONE ? 0 : 7;
}

/* An FTP server's data connection to come, its client behind NAT. */
static inline struct hak_expect make_expect(uint8_t l3)
{
	bool v6 = l3 == AF_INET6;
	struct hak_expect e;

	memset(&e, 0, sizeof e);
	e.l3 = l3;
	e.l4proto = e.master_l4proto = IPPROTO_TCP;
	e.l4kind = e.master_l4kind = HAK_L4_PORTS;
	e.master = v6 ? tuple("2001:db8:71::10", 4711, "2001:db8:72::10", 21)
		      : tuple("10.71.0.10", 4711, "10.72.0.10", 21);
	e.tuple = v6 ? tuple("2001:db8:72::10", 0, "2001:db8:72::1", 40001)
		     : tuple("10.72.0.10", 0, "10.72.0.1", 40001);
	e.mask = v6 ? tuple("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0,
			     "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0xffff)
		    : tuple("255.255.255.255", 0, "255.255.255.255", 0xffff);
	e.timeout = 120;
	e.has_nat = true;
	e.nat_dir = 1;
	e.nat = v6 ? tuple("2001:db8:71::10", 40001, "::", 0)
		   : tuple("10.71.0.10", 40001, "0.0.0.0", 0);
	e.nat_l4proto = IPPROTO_TCP;
	e.nat_l4kind = HAK_L4_PORTS;
	snprintf(e.fn, sizeof e.fn, "nat-follow-master");
	snprintf(e.helper, sizeof e.helper, "ftp");
	return e;
}

#define DIFF(m) if (memcmp(&a->m, &b->m, sizeof a->m)) return #m

/* Compare all that `parts` (enum hak_have) names, and the identity. */
static inline const char *flow_diff(const struct hak_flow *a, const struct hak_flow *b,
				    uint32_t parts, uint32_t status_mask)
{
	DIFF(l3);
	DIFF(l4proto);
	DIFF(l4kind);
	DIFF(zone_dir);
	DIFF(zone);
	DIFF(orig);
	if ((a->have ^ b->have) & parts)
		return "have";
	parts &= a->have;
	if (parts & HAK_HAS_REPLY)
		DIFF(reply);
	if (parts & HAK_HAS_STATUS && (a->status ^ b->status) & status_mask)
		return "status";
	if (parts & HAK_HAS_MARK)
		DIFF(mark);
	if (parts & HAK_HAS_TCP)
		DIFF(tcp_state);
	if (parts & HAK_HAS_TCP_FLAGS)
		DIFF(tcp_flags);
	if (parts & HAK_HAS_TCP_WSCALE)
		DIFF(tcp_wscale);
	if (parts & HAK_HAS_SCTP)
		DIFF(sctp_state);
	if (parts & HAK_HAS_SCTP_VTAG)
		DIFF(sctp_vtag);
	if (parts & HAK_HAS_DCCP) {
		DIFF(dccp_state);
		DIFF(dccp_role);
		DIFF(dccp_seq);
	}
	if (parts & HAK_HAS_LABELS)
		DIFF(labels);
	if (parts & HAK_HAS_HELPER)
		DIFF(helper);
	if (parts & HAK_HAS_MASTER) {
		DIFF(master);
		DIFF(master_l4proto);
		DIFF(master_l4kind);
	}
	if (parts & HAK_HAS_SEQADJ)
		DIFF(seqadj);
	if (parts & HAK_HAS_SYNPROXY)
		DIFF(synproxy);
	return NULL;
}

static inline const char *expect_diff(const struct hak_expect *a, const struct hak_expect *b)
{
	DIFF(l3);
	DIFF(l4proto);
	DIFF(l4kind);
	DIFF(zone_dir);
	DIFF(zone);
	DIFF(master_l4proto);
	DIFF(master_l4kind);
	DIFF(master);
	DIFF(tuple);
	DIFF(mask);
	DIFF(flags);
	DIFF(class_);
	DIFF(has_nat);
	DIFF(nat_dir);
	DIFF(nat);
	DIFF(nat_l4proto);
	DIFF(nat_l4kind);
	DIFF(fn);
	DIFF(helper);
	return NULL;
}

#undef DIFF

/* A check that says what differs. */
#define SAME(diff) \
	do { \
		const char *d_ = (diff); \
		char s_[64]; \
		snprintf(s_, sizeof s_, "differs: %s", d_ ? d_ : ""); \
		t_check(!d_, __FILE__, __LINE__, s_); \
	} while (0)

#endif
