/* hak_trap.c - see hak_trap.h. */
#include "hak_trap.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/rtnetlink.h>
#include "hak_nlmsg.h"

enum { TRAP_BUF = 1 << 20, READ_MAX = 1000 };

static void ask(const struct hak_trap *t)
{
	uint8_t buf[64];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);

	/* struct nlmsghdr and struct ifaddrmsg, all families and devices */
	hak_wr_h32(&w, NLMSG_LENGTH(sizeof(struct ifaddrmsg)));
	hak_wr_h16(&w, RTM_GETADDR);
	hak_wr_h16(&w, NLM_F_REQUEST | NLM_F_DUMP);
	hak_wr_zero(&w, 8 + sizeof(struct ifaddrmsg));
	/* fails while an earlier answer is being read, which serves as well */
	if (send(t->fd, w.base, hak_wr_len(&w), MSG_DONTWAIT) < 0)
		return;
}

enum hak_err hak_trap_open(struct hak_trap *t)
{
	struct sockaddr_nl a = {
		.nl_family = AF_NETLINK,
		.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR,
	};
	int size = TRAP_BUF;

	t->n = 0;
	t->lost_ns = 0;
	t->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (t->fd < 0)
		return HAK_ESYS;
	/* best effort: what is lost is asked for anew */
	(void)setsockopt(t->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	if (bind(t->fd, (void *)&a, sizeof a)) {
		hak_trap_close(t);
		return HAK_ESYS;
	}
	ask(t);
	return HAK_OK;
}

void hak_trap_close(struct hak_trap *t)
{
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
}

static struct hak_trap_addr *find(struct hak_trap *t, uint8_t l3, const uint8_t addr[16],
				  uint32_t ifindex)
{
	for (unsigned i = 0; i < t->n; i++)
		if (t->v[i].l3 == l3 && t->v[i].ifindex == ifindex &&
		    !memcmp(t->v[i].addr, addr, sizeof t->v[i].addr))
			return &t->v[i];
	return NULL;
}

/* A free place, or that of the address that was lost first. */
static struct hak_trap_addr *place(struct hak_trap *t)
{
	struct hak_trap_addr *oldest = NULL;

	if (t->n < HAK_TRAP_ADDRS)
		return &t->v[t->n++];
	for (unsigned i = 0; i < t->n; i++)
		if (t->v[i].lost_ns && (!oldest || t->v[i].lost_ns < oldest->lost_ns))
			oldest = &t->v[i];
	return oldest;
}

static void lose(struct hak_trap *t, struct hak_trap_addr *a, uint64_t now)
{
	if (!a->lost_ns)
		a->lost_ns = now;
	t->lost_ns = now;
}

static void on_link(struct hak_trap *t, struct hak_rd r, bool gone, uint64_t now)
{
	struct ifinfomsg m;

	hak_rd_copy(&r, &m, sizeof m);
	if (r.bad)
		return;
	for (unsigned i = 0; i < t->n; i++) {
		struct hak_trap_addr *a = &t->v[i];

		if (a->ifindex != (uint32_t)m.ifi_index)
			continue;
		if (gone || !(m.ifi_flags & IFF_UP))
			lose(t, a, now);
		else if (!a->removed)
			a->lost_ns = 0;
	}
}

static void on_addr(struct hak_trap *t, struct hak_rd r, bool gone, uint64_t now)
{
	struct hak_trap_addr key = { 0 }, *a;
	struct ifaddrmsg m;
	bool local = false;
	size_t len;

	hak_rd_copy(&r, &m, sizeof m);
	if (r.bad || (m.ifa_family != AF_INET && m.ifa_family != AF_INET6))
		return;
	len = hak_addr_len(m.ifa_family);
	while (hak_rd_left(&r)) {
		uint16_t type;
		struct hak_rd v = hak_nla_next(&r, &type);

		if (r.bad)
			return;
		/* of a point-to-point link IFA_ADDRESS is the other end's */
		if (type == IFA_LOCAL || (type == IFA_ADDRESS && !local))
			hak_rd_copy(&v, key.addr, len);
		local |= type == IFA_LOCAL;
	}
	a = find(t, m.ifa_family, key.addr, m.ifa_index);
	if (gone) {
		if (a) {
			a->removed = true;
			lose(t, a, now);
		}
		return;
	}
	if (!a)
		a = place(t);
	if (!a)
		return;
	key.l3 = m.ifa_family;
	key.ifindex = m.ifa_index;
	*a = key;
}

void hak_trap_feed(struct hak_trap *t, const uint8_t *bytes, size_t n, uint64_t now)
{
	struct hak_rd r = hak_rd_on(bytes, n);

	while (hak_rd_left(&r)) {
		struct nlmsghdr h;
		struct hak_rd body = hak_nlmsg_next(&r, &h);

		if (body.bad)
			return;
		if (h.nlmsg_type == RTM_NEWLINK || h.nlmsg_type == RTM_DELLINK)
			on_link(t, body, h.nlmsg_type == RTM_DELLINK, now);
		else if (h.nlmsg_type == RTM_NEWADDR || h.nlmsg_type == RTM_DELADDR)
			on_addr(t, body, h.nlmsg_type == RTM_DELADDR, now);
	}
}

void hak_trap_read(struct hak_trap *t, uint64_t now)
{
	uint8_t buf[32768];

	for (unsigned i = 0; i < READ_MAX; i++) {
		ssize_t n = recv(t->fd, buf, sizeof buf, MSG_DONTWAIT);

		if (n > 0)
			hak_trap_feed(t, buf, (size_t)n, now);
		else if (n < 0 && errno == ENOBUFS)
			ask(t);
		else if (n >= 0 || errno != EINTR)
			return;
	}
}

bool hak_trap_holds(const struct hak_trap *t, const struct hak_flow *f, uint64_t now)
{
	if (!t->lost_ns || now - t->lost_ns > HAK_TRAP_NS || !(f->have & HAK_HAS_REPLY) ||
	    !memcmp(f->orig.src, f->reply.dst, sizeof f->orig.src))
		return false;
	/* Its own end: the last of it has been said. */
	if (f->have & HAK_HAS_TCP &&
	    (f->tcp_state == TCP_CONNTRACK_TIME_WAIT || f->tcp_state == TCP_CONNTRACK_CLOSE))
		return false;
	for (unsigned i = 0; i < t->n; i++) {
		const struct hak_trap_addr *a = &t->v[i];

		if (a->lost_ns && now - a->lost_ns <= HAK_TRAP_NS && a->l3 == f->l3 &&
		    !memcmp(a->addr, f->reply.dst, sizeof a->addr))
			return true;
	}
	return false;
}

bool hak_trap_missing(const struct hak_trap *t)
{
	for (unsigned i = 0; i < t->n; i++)
		if (t->v[i].lost_ns)
			return true;
	return false;
}
