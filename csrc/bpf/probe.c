/* probe.c - conntrack's events, taken where they arise.  Runs in the kernel (eBPF).
 *
 * To make a netlink message of an event, copy it to a listener and wake that costs the
 * firewall more than all of hak2kd.  `packet` runs for each packet behind everything but
 * the hook that would make the message (nf_confirm), looks for events that are due and
 * for which no message will be made, and notes the entry's state in a ring that the
 * capture thread reads without any system call.  Which messages are made the entry's
 * event mask says, and hak2k's ruleset sets it (gate.py): none for the beginning and the
 * common changes of a connection.  So each event is told once, whatever the mask is.
 *
 * The rest still are messages: ends, expectations, helpers, masters, sequence
 * adjustments, what others do through ctnetlink.  `message`, the filter of their socket,
 * puts them into the same ring, in their order, and nothing into the socket's queue.
 *
 * A place in the ring is taken first and the entry is read then, so that what stands last
 * for a connection has seen its last change.
 *
 * Not handled: an entry is told before it is confirmed, so one that is refused then (a
 * clash between two processors) is told in vain, which the next comparison finds.  Two
 * processors that handle packets of one connection in the same fraction of a microsecond
 * may take an event from each other; the next event tells it, for each tells all.  A
 * connection's end by FIN or RST is told even so.
 *
 * Offsets come from the running kernel's BTF when this is loaded.
 *
 * SPDX-License-Identifier: ISC OR GPL-2.0-only (the kernel lets no other program read)
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/types.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "../hak_seen.h"

enum { ACCEPT = 1, AF_INET = 2, TCP = 6, SCTP = 132 };
enum { TCP_FLAGS_AT = 13, TCP_FIN = 1, TCP_RST = 4 };
/* Of a message: struct nlmsghdr, struct nfgenmsg, then attributes, of which the first is
 * CTA_TUPLE_ORIG with two addresses and then CTA_PROTO_NUM. */
enum { NLMSG_TYPE_AT = 4, NLMSG_PID_AT = 12, FAMILY_AT = 16, PROTO_AT = 48, MORE_IPV6 = 24 };
enum { CTNETLINK = 1 /* NFNL_SUBSYS_CTNETLINK */, PROTO_NUM = 1 };

/* Those parts of the kernel's structs that are read; where they are, BTF tells. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
union nf_inet_addr {
	__u32 all[4];
};
struct nf_conntrack_man {
	union nf_inet_addr u3;
	union {
		__u16 all;
	} u;
	__u16 l3num;
};
struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__u16 all;
		} u;
		__u8 protonum;
	} dst;
};
struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
};
struct nf_conntrack_zone {
	__u16 id;
	__u8 dir;
};
struct ip_ct_tcp_state {
	__u8 td_scale, flags;
};
struct ip_ct_tcp {
	struct ip_ct_tcp_state seen[2];
	__u8 state;
};
enum sctp_conntrack { SCTP_CONNTRACK_NONE };
struct ip_ct_sctp {
	enum sctp_conntrack state;
	__u32 vtag[2];
};
union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
	struct ip_ct_sctp sctp;
};
struct nf_ct_ext {
	__u8 offset[1];
};
struct nf_conn {
	struct nf_conntrack_zone zone;
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	struct nf_conn *master;
	struct nf_ct_ext *ext;
	__u32 mark;
	union nf_conntrack_proto proto;
};
struct nf_conntrack_ecache {
	unsigned long cache;
	__u16 ctmask;
};
struct sk_buff {
	unsigned long _nfct;
	unsigned char *head;
	__u16 transport_header;
};
struct bpf_nf_ctx {
	struct sk_buff *skb;
};
#pragma clang attribute pop

enum nf_ct_ext_id { NF_CT_EXT_HELPER, NF_CT_EXT_ECACHE, NF_CT_EXT_LABELS };

#define EVENT(name) (1u << IPCT_##name)
#define EXT(name) (bpf_core_enum_value(enum nf_ct_ext_id, NF_CT_EXT_##name) & 31)
#define CONN_TAIL 7ul		/* of skb->_nfct: enum ip_conntrack_info */

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym;
/* Types by their number in the kernel's BTF; written before this is loaded.  libbpf would
 * not choose between struct nf_conn and struct nf_conn___init. */
const volatile __u32 id_conn, id_ecache;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HAK_PROBE_RING);	/* or what the loader says */
} ring SEC(".maps");

struct hak_probe_shared shared;

char _license[] SEC("license") = "Dual BSD/GPL";	/* the words that the kernel knows */

static __always_inline void lose(void)
{
	__sync_fetch_and_add(&shared.lost, 1);
}

static __always_inline __u64 wake(void)
{
	return shared.quiet ? BPF_RB_NO_WAKEUP : 0;
}

/* Is this packet a FIN or an RST? */
static __always_inline bool ends(const struct sk_buff *skb)
{
	__u8 flags;

	return !bpf_probe_read_kernel(&flags, 1, skb->head + skb->transport_header + TCP_FLAGS_AT) &&
	       flags & (TCP_FIN | TCP_RST);
}

/* Which events of this packet are ours to tell: none, or all. */
static __always_inline __u32 due(const struct sk_buff *skb, const struct nf_conn *ct,
				 const struct nf_ct_ext *ext, __u8 proto)
{
	const struct nf_conntrack_ecache *cache =
		bpf_rdonly_cast((const char *)ext + ext->offset[EXT(ECACHE)], id_ecache);
	bool confirmed = ct->status & IPS_CONFIRMED;
	__u32 events = (__u32)cache->cache;

	if (ct->status & IPS_DYING)
		return 0;
	/* An ICMP error or a reset of our own bears the connection of the packet that it
	 * answers, which is never confirmed if that one was refused. */
	if (!confirmed && (skb->_nfct & CONN_TAIL) >= IP_CT_IS_REPLY)
		return 0;
	if (!confirmed)
		events |= ct->master ? EVENT(RELATED) : EVENT(NEW);
	if (!confirmed && ext->offset[EXT(HELPER)])
		events |= EVENT(HELPER);
	/* Of one that closes, each FIN and RST is told even if another processor took the
	 * event away; so the ACKs between them, which change the state too, need not be. */
	if (!(events & ~EVENT(PROTOINFO)) && proto == TCP &&
	    ct->proto.tcp.state >= TCP_CONNTRACK_FIN_WAIT &&
	    ct->proto.tcp.state <= TCP_CONNTRACK_CLOSE)
		events = ends(skb) ? EVENT(PROTOINFO) : 0;
	if (!events || events & cache->ctmask)
		return 0;
	/* the second packet of a handshake: the third one tells all of it */
	if (proto == TCP && !(events & ~(EVENT(REPLY) | EVENT(PROTOINFO))) &&
	    ct->proto.tcp.state == TCP_CONNTRACK_SYN_RECV)
		return 0;
	return events;
}

/* Room for labels is in each entry; seldom is there one. */
static __always_inline bool get_labels(const struct nf_ct_ext *ext, __u64 to[2])
{
	__u8 at;

	to[0] = to[1] = 0;
	if (!bpf_core_enum_value_exists(enum nf_ct_ext_id, NF_CT_EXT_LABELS))
		return false;
	at = ext->offset[EXT(LABELS)];
	return at && !bpf_probe_read_kernel(to, 16, (const char *)ext + at) && to[0] | to[1];
}

static __always_inline void put_head(struct hak_seen *s, const struct nf_conn *ct, __u32 events)
{
	const struct nf_conntrack_tuple *o = &ct->tuplehash[0].tuple, *r = &ct->tuplehash[1].tuple;

	s->what = events & EVENT(NEW) ? HAK_SEEN_NEW : HAK_SEEN_UPDATE;
	s->l3 = (__u8)o->src.l3num;
	s->l4proto = o->dst.protonum;
	s->zone = ct->zone.id;
	s->zone_dir = ct->zone.dir;
	s->flags = events & (EVENT(NEW) | EVENT(MARK)) ? HAK_SEEN_MARK : 0;
	s->status = (__u32)ct->status | IPS_CONFIRMED;
	s->mark = ct->mark;
	s->ports[0] = o->src.u.all;
	s->ports[1] = o->dst.u.all;
	s->ports[2] = r->src.u.all;
	s->ports[3] = r->dst.u.all;
	if (s->l4proto == TCP) {
		s->state = ct->proto.tcp.state;
		s->tcp_wscale[0] = ct->proto.tcp.seen[0].td_scale;
		s->tcp_wscale[1] = ct->proto.tcp.seen[1].td_scale;
		s->tcp_flags[0] = ct->proto.tcp.seen[0].flags;
		s->tcp_flags[1] = ct->proto.tcp.seen[1].flags;
	} else {
		s->state = 0;
		s->tcp_wscale[0] = s->tcp_wscale[1] = 0;
		s->tcp_flags[0] = s->tcp_flags[1] = 0;
	}
}

static __always_inline void put_long(struct hak_seen_long *s, const struct nf_conn *ct,
				     const __u64 labels[2])
{
	const struct nf_conntrack_tuple *o = &ct->tuplehash[0].tuple, *r = &ct->tuplehash[1].tuple;

	s->head.flags |= HAK_SEEN_LONG;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		s->addrs[0][i] = o->src.u3.all[i];
		s->addrs[1][i] = o->dst.u3.all[i];
		s->addrs[2][i] = r->src.u3.all[i];
		s->addrs[3][i] = r->dst.u3.all[i];
	}
	s->vtag[0] = s->vtag[1] = 0;
	if (s->head.l4proto == SCTP) {
		s->head.state = (__u8)ct->proto.sctp.state;
		s->vtag[0] = ct->proto.sctp.vtag[0];
		s->vtag[1] = ct->proto.sctp.vtag[1];
	}
	s->labels[0] = labels[0];
	s->labels[1] = labels[1];
}

SEC("netfilter")
int packet(struct bpf_nf_ctx *ctx)
{
	const struct sk_buff *skb = ctx->skb;
	unsigned long at = skb->_nfct & ~CONN_TAIL;
	const struct nf_conntrack_tuple *o, *r;
	const struct nf_ct_ext *ext;
	const struct nf_conn *ct;
	struct hak_seen_long *l;
	struct hak_seen *s;
	__u64 labels[2];
	__u32 events;
	__u8 proto;

	if (!at || !shared.on)
		return ACCEPT;
	ct = bpf_rdonly_cast((const void *)at, id_conn);
	ext = ct->ext;
	if (!ext || !ext->offset[EXT(ECACHE)])
		return ACCEPT;
	o = &ct->tuplehash[0].tuple;
	r = &ct->tuplehash[1].tuple;
	proto = o->dst.protonum;
	events = due(skb, ct, ext, proto);
	if (!events || !(shared.protocols[proto >> 5] >> (proto & 31) & 1))
		return ACCEPT;
	if (!get_labels(ext, labels) && proto != SCTP && o->src.l3num == AF_INET) {
		s = bpf_ringbuf_reserve(&ring, sizeof *s, 0);
		if (!s)
			goto lost;
		put_head(s, ct, events);
		s->addrs[0] = o->src.u3.all[0];
		s->addrs[1] = o->dst.u3.all[0];
		s->addrs[2] = r->src.u3.all[0];
		s->addrs[3] = r->dst.u3.all[0];
		bpf_ringbuf_submit(s, wake());
		return ACCEPT;
	}
	l = bpf_ringbuf_reserve(&ring, sizeof *l, 0);
	if (!l)
		goto lost;
	put_head(&l->head, ct, events);
	put_long(l, ct, labels);
	bpf_ringbuf_submit(l, wake());
	return ACCEPT;
lost:
	lose();
	return ACCEPT;
}

/* The policy's choice of protocols; what looks otherwise is left to user space. */
static __always_inline bool wanted(const struct __sk_buff *skb)
{
	struct { __u16 len, type; __u8 proto; } num;
	__u16 type;
	__u8 family;

	if (bpf_skb_load_bytes(skb, NLMSG_TYPE_AT, &type, sizeof type) || type >> 8 != CTNETLINK ||
	    bpf_skb_load_bytes(skb, FAMILY_AT, &family, sizeof family) ||
	    bpf_skb_load_bytes(skb, PROTO_AT + (family == AF_INET ? 0 : MORE_IPV6), &num, 5) ||
	    num.len != 5 || num.type != PROTO_NUM)
		return true;
	return shared.protocols[num.proto >> 5] >> (num.proto & 31) & 1;
}

/* A place must be of a size that is known before: one of three. */
#define PUT(skb, n, size) do { \
	struct hak_seen_message *m = \
		bpf_ringbuf_reserve(&ring, sizeof(struct hak_seen_message) + (size), 0); \
	if (!m) \
		goto lost; \
	m->what = HAK_SEEN_MESSAGE; \
	m->len = (__u16)(n); \
	if (bpf_skb_load_bytes(skb, 0, m->bytes, n)) { \
		bpf_ringbuf_discard(m, 0); \
		goto lost; \
	} \
	bpf_ringbuf_submit(m, wake()); \
	} while (0)

SEC("socket")
int message(struct __sk_buff *skb)
{
	__u64 n = skb->len;
	__u32 pid = 0;

	asm volatile("" : "+r"(n));	/* looked at once: what is checked is what is used */
	if (!shared.on || n <= FAMILY_AT ||
	    bpf_skb_load_bytes(skb, NLMSG_PID_AT, &pid, sizeof pid) || pid == shared.portid ||
	    (shared.some && !wanted(skb)))
		return 0;
	if (n <= HAK_SEEN_SMALL)
		PUT(skb, n, HAK_SEEN_SMALL);
	else if (n <= HAK_SEEN_MIDDLE)
		PUT(skb, n, HAK_SEEN_MIDDLE);
	else if (n <= HAK_SEEN_LARGE)
		PUT(skb, n, HAK_SEEN_LARGE);
	else
		goto lost;
	return 0;
lost:
	lose();
	return 0;
}
