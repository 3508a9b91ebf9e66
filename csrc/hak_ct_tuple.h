/* hak_ct_tuple.h - internal: the tuple attribute, which flows and expectations share. */
#ifndef HAK_CT_TUPLE_H
#define HAK_CT_TUPLE_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include "hak_err.h"
#include "hak_flow.h"
#include "hak_nlmsg.h"

/* A small number with its header and padding in one piece. */
struct hak_nla_word {
	struct nlattr a;
	uint32_t v;
};

static inline struct hak_nla_word hak_word(uint16_t type, uint16_t len, uint32_t v)
{
	return (struct hak_nla_word){ { (uint16_t)(HAK_NLA_HDR + len), type }, htonl(v) };
}

static inline void hak_nla_word(struct hak_wr *w, uint16_t type, uint16_t len, uint32_t v)
{
	const struct hak_nla_word x = hak_word(type, len, v);

	hak_wr_copy(w, &x, sizeof x);
}

static inline struct hak_nla_word hak_word8(uint16_t type, uint8_t v)
{
	return hak_word(type, 1, (uint32_t)v << 24);
}

static inline struct hak_nla_word hak_word16(uint16_t type, uint16_t v)
{
	return hak_word(type, 2, (uint32_t)v << 16);
}

static inline struct hak_nla_word hak_word_v4(uint16_t type, const uint8_t a[16])
{
	return hak_word(type, 4, (uint32_t)a[0] << 24 | (uint32_t)a[1] << 16 |
				 (uint32_t)a[2] << 8 | a[3]);
}

static inline struct nlattr hak_nest(uint16_t type, size_t len)
{
	return (struct nlattr){ (uint16_t)len, type | NLA_F_NESTED };
}

static inline void hak_nla_u8(struct hak_wr *w, uint16_t type, uint8_t v)
{
	hak_nla_word(w, type, 1, (uint32_t)v << 24);
}

static inline void hak_nla_u16(struct hak_wr *w, uint16_t type, uint16_t v)
{
	hak_nla_word(w, type, 2, (uint32_t)v << 16);
}

static inline void hak_nla_u32(struct hak_wr *w, uint16_t type, uint32_t v)
{
	hak_nla_word(w, type, 4, v);
}

static inline void hak_nla_addr(struct hak_wr *w, uint16_t type, const uint8_t a[16], uint8_t l3)
{
	if (l3 == AF_INET6)		/* constant sizes: no call to memcpy */
		hak_nla_put(w, type, a, 16);
	else
		hak_nla_put(w, type, a, 4);
}

/* What most are, in one piece: a quarter of the time. */
static inline void hak_ct_put_tuple_v4(struct hak_wr *w, uint16_t attr, uint8_t l4proto,
				       const struct hak_tuple *t)
{
	struct {
		struct nlattr outer;
		struct {
			struct nlattr nest;
			struct hak_nla_word src, dst;
		} ip;
		struct {
			struct nlattr nest;
			struct hak_nla_word num, src, dst;
		} proto;
	} x;

	x.outer = hak_nest(attr, sizeof x);
	x.ip.nest = hak_nest(CTA_TUPLE_IP, sizeof x.ip);
	x.ip.src = hak_word_v4(CTA_IP_V4_SRC, t->src);
	x.ip.dst = hak_word_v4(CTA_IP_V4_DST, t->dst);
	x.proto.nest = hak_nest(CTA_TUPLE_PROTO, sizeof x.proto);
	x.proto.num = hak_word8(CTA_PROTO_NUM, l4proto);
	x.proto.src = hak_word16(CTA_PROTO_SRC_PORT, t->sport);
	x.proto.dst = hak_word16(CTA_PROTO_DST_PORT, t->dport);
	hak_wr_copy(w, &x, sizeof x);
}

/* `zone` 0: none. */
static inline void hak_ct_put_tuple(struct hak_wr *w, uint16_t attr, uint8_t l3, uint8_t l4proto,
				    const struct hak_tuple *t, uint16_t zone)
{
	bool v6 = l3 == AF_INET6;
	size_t outer, inner;
	uint16_t icmp = l4proto == IPPROTO_ICMPV6 ? CTA_PROTO_ICMPV6_ID : CTA_PROTO_ICMP_ID;

	if (!v6 && !zone && hak_l4kind_of(l4proto) == HAK_L4_PORTS) {
		hak_ct_put_tuple_v4(w, attr, l4proto, t);
		return;
	}
	outer = hak_nla_begin(w, attr);
	inner = hak_nla_begin(w, CTA_TUPLE_IP);
	hak_nla_addr(w, v6 ? CTA_IP_V6_SRC : CTA_IP_V4_SRC, t->src, l3);
	hak_nla_addr(w, v6 ? CTA_IP_V6_DST : CTA_IP_V4_DST, t->dst, l3);
	hak_nla_end(w, inner);
	inner = hak_nla_begin(w, CTA_TUPLE_PROTO);
	hak_nla_u8(w, CTA_PROTO_NUM, l4proto);
	switch (hak_l4kind_of(l4proto)) {
	case HAK_L4_PORTS:
		hak_nla_u16(w, CTA_PROTO_SRC_PORT, t->sport);
		hak_nla_u16(w, CTA_PROTO_DST_PORT, t->dport);
		break;
	case HAK_L4_ICMP:		/* id, type, code follow one another */
		hak_nla_u16(w, icmp, t->sport);
		hak_nla_u8(w, icmp + 1, (uint8_t)(t->dport >> 8));
		hak_nla_u8(w, icmp + 2, (uint8_t)t->dport);
		break;
	}
	hak_nla_end(w, inner);
	if (zone)
		hak_nla_u16(w, CTA_TUPLE_ZONE, zone);
	hak_nla_end(w, outer);
}

/* A message is closed or, if it did not fit, undone. */
static inline enum hak_err hak_ct_end(struct hak_wr *w, size_t at)
{
	if (w->bad) {
		hak_wr_rewind(w, at);
		return HAK_ESPACE;
	}
	hak_nlmsg_end(w, at);
	return HAK_OK;
}

#endif
