/* hak_nl.c - see hak_nl.h. */
#include "hak_nl.h"
#include "hak_nlmsg.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

static void option(int fd, int level, int name, int value)
{
	/* Best effort throughout: each only makes things faster or losses rarer. */
	(void)setsockopt(fd, level, name, &value, sizeof value);
}

enum hak_err hak_nl_open(struct hak_nl *nl, int rcvbuf)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	socklen_t len = sizeof a;

	*nl = (struct hak_nl){ .fd = -1 };
	nl->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (nl->fd < 0)
		return HAK_ESYS;
	if (bind(nl->fd, (void *)&a, sizeof a) || getsockname(nl->fd, (void *)&a, &len)) {
		hak_nl_close(nl);
		return HAK_ESYS;
	}
	nl->portid = a.nl_pid;
	/* FORCE needs CAP_NET_ADMIN in the first user namespace; without it the
	 * plain option gives what net.core.rmem_max allows. */
	if (setsockopt(nl->fd, SOL_SOCKET, SO_RCVBUFFORCE, &rcvbuf, sizeof rcvbuf))
		option(nl->fd, SOL_SOCKET, SO_RCVBUF, rcvbuf);
	option(nl->fd, SOL_SOCKET, SO_SNDBUFFORCE, HAK_NL_CALL_BUF);
	/* errors come without a copy of the request */
	option(nl->fd, SOL_NETLINK, NETLINK_CAP_ACK, 1);
	/* An overrun makes the kernel keep DESTROYs until they fit; NEW and UPDATE
	 * can still be lost, which ENOBUFS then tells. */
	option(nl->fd, SOL_NETLINK, NETLINK_BROADCAST_ERROR, 1);
	return HAK_OK;
}

void hak_nl_close(struct hak_nl *nl)
{
	if (nl->fd >= 0)
		close(nl->fd);
	nl->fd = -1;
}

enum hak_err hak_nl_join(struct hak_nl *nl, int join)
{
	static const int groups[] = {
		NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE, NFNLGRP_CONNTRACK_DESTROY,
		NFNLGRP_CONNTRACK_EXP_NEW, NFNLGRP_CONNTRACK_EXP_DESTROY,
	};
	int what = join ? NETLINK_ADD_MEMBERSHIP : NETLINK_DROP_MEMBERSHIP;

	for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
		if (setsockopt(nl->fd, SOL_NETLINK, what, &groups[i], sizeof groups[i]))
			return HAK_ESYS;
	return HAK_OK;
}

/* Classic BPF loads big-endian; these are in host order. */
#define TYPE(subsys, msg) htons((uint16_t)((subsys) << 8 | (msg)))

enum hak_err hak_nl_filter(struct hak_nl *nl, uint32_t portid, const struct hak_policy *p)
{
	enum { ATTRS = 20, VALUE = 4, CODE_MAX = 96 };	/* behind two headers; behind its own */
	struct sock_filter code[CODE_MAX];
	struct sock_fprog prog = { .filter = code };
	unsigned n = 0;
	bool all = true;

/* Counted even where it does not fit, which is refused at the end. */
#define ADD(...) do { \
		if (n < CODE_MAX) \
			code[n] = (struct sock_filter)__VA_ARGS__; \
		n++; \
	} while (0)
#define LOAD(size, at) ADD(BPF_STMT(BPF_LD | (size) | BPF_ABS, (uint32_t)(at)))
/* A: the offset of attribute `type` from offset A on, or inside the one at A; 0: none */
#define FIND(type, where) do { \
		ADD(BPF_STMT(BPF_LDX | BPF_IMM, (type))); \
		LOAD(BPF_W, SKF_AD_OFF + (where)); \
	} while (0)
#define KEEP ADD(BPF_STMT(BPF_RET | BPF_K, 0xffffffff))
#define DROP ADD(BPF_STMT(BPF_RET | BPF_K, 0))
	LOAD(BPF_W, 12);
	ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(portid), 0, 1));
	DROP;
	/* expectations are their masters' affair */
	LOAD(BPF_H, 4);
	ADD(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, htons(0xff00)));
	ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TYPE(NFNL_SUBSYS_CTNETLINK, 0), 1, 0));
	KEEP;
	for (unsigned i = 0; i < 8; i++)
		all &= p->protocols[i] == 0xffffffff;
	if (!all) {
		ADD(BPF_STMT(BPF_LD | BPF_IMM, ATTRS));
		FIND(CTA_TUPLE_ORIG, SKF_AD_NLATTR);
		ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1));
		KEEP;			/* for user space to count as malformed */
		FIND(CTA_TUPLE_PROTO, SKF_AD_NLATTR_NEST);
		ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1));
		KEEP;
		FIND(CTA_PROTO_NUM, SKF_AD_NLATTR_NEST);
		ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1));
		KEEP;
		ADD(BPF_STMT(BPF_MISC | BPF_TAX, 0));
		ADD(BPF_STMT(BPF_LD | BPF_B | BPF_IND, VALUE));
		ADD(BPF_STMT(BPF_ST, 0));
		ADD(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 31));
		ADD(BPF_STMT(BPF_MISC | BPF_TAX, 0));
		ADD(BPF_STMT(BPF_LD | BPF_MEM, 0));
		ADD(BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 5));
		for (unsigned i = 0; i < 8; i++) {
			ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, i, 0, 2));
			ADD(BPF_STMT(BPF_LD | BPF_IMM, p->protocols[i]));
			ADD(BPF_STMT(BPF_JMP | BPF_JA, (7 - i) * 3));
		}
		ADD(BPF_STMT(BPF_ALU | BPF_RSH | BPF_X, 0));
		ADD(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 1, 0));
		DROP;
	}
	if (p->mark_mask && p->mark & p->mark_mask) {	/* absent is 0, which is kept */
		LOAD(BPF_H, 4);
		ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
			     TYPE(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE), 1, 0));
		KEEP;
		ADD(BPF_STMT(BPF_LD | BPF_IMM, ATTRS));
		FIND(CTA_MARK, SKF_AD_NLATTR);
		ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1));
		KEEP;
		ADD(BPF_STMT(BPF_MISC | BPF_TAX, 0));
		ADD(BPF_STMT(BPF_LD | BPF_W | BPF_IND, VALUE));
		ADD(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, p->mark_mask));
		ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, p->mark & p->mark_mask, 0, 1));
		DROP;
	}
	KEEP;
#undef ADD
#undef LOAD
#undef FIND
#undef KEEP
#undef DROP
	if (n > CODE_MAX)
		return HAK_ESPACE;
	prog.len = (unsigned short)n;
	return setsockopt(nl->fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog) ? HAK_ESYS : HAK_OK;
}

enum hak_err hak_nl_send(struct hak_nl *nl, const struct hak_wr *w)
{
	ssize_t n;

	do
		n = send(nl->fd, w->base, hak_wr_len(w), 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? HAK_ESYS : HAK_OK;
}

enum hak_err hak_nl_recv(struct hak_nl *nl, void *buf, size_t size, int flags, size_t *got)
{
	ssize_t n;

	do
		n = recv(nl->fd, buf, size, flags);
	while (n < 0 && errno == EINTR);
	*got = n > 0 ? (size_t)n : 0;
	if (n < 0 && !(errno == EAGAIN && (flags & MSG_DONTWAIT)))
		return HAK_ESYS;
	return HAK_OK;
}

unsigned hak_nl_buckets(int *fd)
{
	char text[24] = "";
	ssize_t n;

	if (*fd < 0)
		*fd = open("/proc/sys/net/netfilter/nf_conntrack_buckets", O_RDONLY | O_CLOEXEC);
	n = *fd < 0 ? -1 : pread(*fd, text, sizeof text - 1, 0);
	return n > 0 ? (unsigned)strtoul(text, NULL, 10) : 0;
}

void hak_nl_drain(struct hak_nl *nl)
{
	uint8_t buf[64];

	while (recv(nl->fd, buf, sizeof buf, MSG_DONTWAIT) >= 0 || errno == ENOBUFS || errno == EINTR)
		;
}

unsigned hak_nl_backlog(const struct hak_nl *nl)
{
	uint32_t v[SK_MEMINFO_VARS];
	socklen_t len = sizeof v;

	memset(v, 0, sizeof v);
	if (getsockopt(nl->fd, SOL_SOCKET, SO_MEMINFO, v, &len) || !v[SK_MEMINFO_RCVBUF])
		return 0;
	return (unsigned)((uint64_t)v[SK_MEMINFO_RMEM_ALLOC] * 100 / v[SK_MEMINFO_RCVBUF]);
}

int64_t hak_nl_table_count(struct hak_nl *nl, uint32_t *max)
{
	uint8_t buf[1024];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	uint32_t seq = ++nl->seq;
	struct nlmsghdr h;
	struct hak_rd r, body;
	int64_t entries = -1;
	uint16_t type;
	size_t at, n;

	if (max)
		*max = 0;
	hak_nl_drain(nl);
	at = hak_nlmsg_begin(&w, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS,
			     NLM_F_REQUEST, seq, AF_UNSPEC, 0);
	hak_nlmsg_end(&w, at);
	if (hak_nl_send(nl, &w) || hak_nl_recv(nl, buf, sizeof buf, 0, &n))
		return -1;
	r = hak_rd_on(buf, n);
	body = hak_nlmsg_next(&r, &h);
	if (h.nlmsg_type == NLMSG_ERROR) {
		errno = -(int)hak_rd_h32(&body);
		return -1;
	}
	(void)hak_rd_take(&body, 4);
	while (hak_rd_left(&body)) {
		struct hak_rd v = hak_nla_next(&body, &type);

		if (v.bad)
			break;
		if (type == CTA_STATS_GLOBAL_ENTRIES)
			entries = hak_rd_u32(&v);
		else if (type == CTA_STATS_GLOBAL_MAX_ENTRIES && max)
			*max = hak_rd_u32(&v);
	}
	if (entries < 0)
		errno = EPROTO;
	return entries;
}
