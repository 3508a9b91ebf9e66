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

enum hak_err hak_nl_ignore(struct hak_nl *nl, uint32_t portid)
{
	/* nlmsg_pid is in host order, classic BPF loads big-endian. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 12),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(portid), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
	};
	struct sock_fprog prog = { .len = sizeof code / sizeof *code, .filter = code };

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

unsigned hak_nl_buckets(void)
{
	int fd = open("/proc/sys/net/netfilter/nf_conntrack_buckets", O_RDONLY | O_CLOEXEC);
	char text[24] = "";
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	if (fd >= 0)
		close(fd);
	return n > 0 ? (unsigned)strtoul(text, NULL, 10) : 0;
}

void hak_nl_drain(struct hak_nl *nl)
{
	uint8_t buf[64];

	while (recv(nl->fd, buf, sizeof buf, MSG_DONTWAIT) >= 0 || errno == ENOBUFS || errno == EINTR)
		;
}

int64_t hak_nl_table_count(struct hak_nl *nl)
{
	uint8_t buf[1024];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	uint32_t seq = ++nl->seq;
	struct nlmsghdr h;
	struct hak_rd r, body;
	uint16_t type;
	size_t at, n;

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
			return hak_rd_u32(&v);
	}
	errno = EPROTO;
	return -1;
}
