/* hak_watch.c - see hak_watch.h.  Formats: linux/rtnetlink.h, linux/if_link.h. */
#include "hak_watch.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include "hak_clock.h"
#include "hak_nlmsg.h"
#include "hak_siphash.h"

enum {
	RULES_MS = 200,			/* with every question about interfaces, or every second one */
	ALL_MS = 1000,			/* what nothing but the kernel's answer tells */
	RESTLESS_MS = 1500,		/* while the kernel may keep an event of a carrier back */
	BATCH = 16,			/* whose answers a socket's buffer holds */
	QUESTION = 64,
	ANSWER = 8192,			/* what is longer is hashed as far as that */
	EVENTS_MAX = 100,		/* a flood must not keep anybody from looking */
};

static const uint8_t no_key[HAK_SIPHASH_KEY];	/* nobody gains by a collision */

/* ---- what counts of an interface ------------------------------------- */

static void keep(struct hak_wr *w, uint16_t type, struct hak_rd v)
{
	hak_nla_put(w, type, v.pos, hak_rd_left(&v));
}

/* Of most kinds the details count time, or packets; of a bond they tell which of its
 * members are in use.  True: it is one, or a member. */
static bool keep_info(struct hak_wr *w, struct hak_rd r)
{
	bool bond = false, member = false;

	while (hak_rd_left(&r)) {
		uint16_t type;
		struct hak_rd v = hak_nla_next(&r, &type);

		if (r.bad)
			break;
		if (type == IFLA_INFO_KIND)
			bond = hak_rd_left(&v) >= 4 && !memcmp(v.pos, "bond", 4);
		else if (type == IFLA_INFO_SLAVE_KIND)
			member = hak_rd_left(&v) >= 4 && !memcmp(v.pos, "bond", 4);
		if (type == IFLA_INFO_KIND || (type == IFLA_INFO_DATA && bond) ||
		    (type == IFLA_INFO_SLAVE_DATA && member))
			keep(w, type, v);
	}
	return bond || member;
}

uint64_t hak_watch_print(const uint8_t *bytes, size_t n, bool *bond)
{
	struct hak_rd r = hak_rd_on(bytes, n), head = hak_rd_sub(&r, sizeof(struct ifinfomsg));
	uint8_t kept[2048];
	struct hak_wr w = hak_wr_on(kept, sizeof kept);

	*bond = false;
	keep(&w, 0, head);
	while (hak_rd_left(&r)) {
		uint16_t type;
		struct hak_rd v = hak_nla_next(&r, &type);

		if (r.bad)
			break;
		switch (type) {
		case IFLA_ADDRESS:
		case IFLA_IFNAME:
		case IFLA_OPERSTATE:
		case IFLA_MASTER:
		case IFLA_CARRIER:
			keep(&w, type, v);
			break;
		case IFLA_LINKINFO:
			*bond = keep_info(&w, v);
			break;
		}
	}
	if (r.bad || w.bad)		/* all of it, then */
		return hak_siphash(bytes, n, no_key) | 1;
	return hak_siphash(kept, hak_wr_len(&w), no_key) | 1;
}

/* ---- questions ------------------------------------------------------- */

static void put_question(struct hak_wr *w, uint32_t seq, const char *name)
{
	static const uint32_t filter = RTEXT_FILTER_SKIP_STATS;
	struct ifinfomsg m = { 0 };
	size_t at = hak_wr_len(w);

	hak_wr_h32(w, 0);
	hak_wr_h16(w, RTM_GETLINK);
	hak_wr_h16(w, NLM_F_REQUEST);
	hak_wr_h32(w, seq);
	hak_wr_h32(w, 0);
	hak_wr_copy(w, &m, sizeof m);
	hak_nla_str(w, IFLA_IFNAME, name);
	hak_nla_put(w, IFLA_EXT_MASK, &filter, sizeof filter);
	hak_nlmsg_end(w, at);
}

/* One answer; its interface is the one whose number the question bore. */
static bool take_answer(struct hak_watch *w, const uint8_t *bytes, size_t n, uint32_t first)
{
	struct hak_rd r = hak_rd_on(bytes, n);
	struct nlmsghdr h;
	struct hak_rd body = hak_nlmsg_next(&r, &h);
	struct hak_watched *one;
	uint64_t print;

	if (body.bad || h.nlmsg_seq - first >= w->n)
		return false;		/* of a question that is over */
	one = &w->v[h.nlmsg_seq - first];
	if (h.nlmsg_type == RTM_NEWLINK)
		print = hak_watch_print(body.pos, hak_rd_left(&body), &one->bond);
	else if (h.nlmsg_type == NLMSG_ERROR)
		print = (uint64_t)hak_rd_h32(&body) << 1 | 1;
	else
		return false;
	if (print == one->print)
		return false;
	one->print = print;
	return true;
}

/* The kernel answers each question while it is being sent. */
static bool ask(struct hak_watch *w)
{
	uint32_t first = w->seq + 1;
	bool changed = false;

	for (unsigned i = 0; i < w->n; i += BATCH) {
		uint8_t ask[BATCH * QUESTION], answer[ANSWER];
		struct hak_wr q = hak_wr_on(ask, sizeof ask);
		ssize_t n;

		for (unsigned k = i; k < w->n && k < i + BATCH; k++)
			put_question(&q, ++w->seq, w->v[k].name);
		if (send(w->links, q.base, hak_wr_len(&q), 0) < 0)
			continue;
		while ((n = recv(w->links, answer, sizeof answer, MSG_DONTWAIT)) > 0 ||
		       (n < 0 && (errno == EINTR || errno == ENOBUFS)))
			if (n > 0)
				changed |= take_answer(w, answer, (size_t)n, first);
	}
	return changed;
}

/* What an event tells late is the carrier, and this is a tenth of a question: the kernel
 * copies one number instead of all it knows of the interface.  Like a question it brings
 * the delayed state (linkwatch) up to date.  -1: this driver does not tell. */
static int carrier(const struct hak_watch *w, const struct hak_watched *one)
{
	struct ethtool_value v = { .cmd = ETHTOOL_GLINK };
	struct ifreq r = { .ifr_data = (void *)&v };

	for (unsigned i = 0; i < sizeof r.ifr_name; i++)
		r.ifr_name[i] = one->name[i];
	if (!ioctl(w->links, SIOCETHTOOL, &r))
		return v.data != 0;
	return errno == ENODEV ? 2 : -1;
}

/* The kernel tells of a carrier at once, unless it told of one within the last second (in
 * this namespace or elsewhere): then it waits until that second is over.  So ask often
 * while one may be waiting, and half as often else, which bounds what can come of events
 * that are not seen from here.  Of some nothing tells: those are asked often all the time. */
static uint64_t interval(const struct hak_watch *w, uint64_t now)
{
	return w->untold || now < w->restless_until ? w->each_ns : 2 * w->each_ns;
}

static void restless(struct hak_watch *w, uint64_t now)
{
	w->restless_until = now + RESTLESS_MS * (uint64_t)HAK_MS;
}

static bool links_changed(struct hak_watch *w, uint64_t now)
{
	bool changed = false;

	w->untold = false;

	for (unsigned i = 0; i < w->n; i++) {
		struct hak_watched *one = &w->v[i];
		int is = carrier(w, one);

		if (is < 0 || one->bond) {
			w->untold = true;
			w->all_due = 0;
		}
		changed |= is != one->carrier;
		one->carrier = is;
	}
	if (changed)
		restless(w, now);
	else if (now < w->all_due)
		return false;
	w->all_due = now + ALL_MS * (uint64_t)HAK_MS;
	return ask(w) || changed;
}

/* Each transaction, whatever it changes, makes a new generation. */
static bool rules_changed(struct hak_watch *w)
{
	uint8_t buf[512];
	struct hak_wr q = hak_wr_on(buf, sizeof buf);
	size_t n, at = hak_nlmsg_begin(&q, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN,
				       NLM_F_REQUEST, ++w->rules.seq, AF_UNSPEC, 0);
	uint32_t before = w->generation;
	struct nlmsghdr h;
	struct hak_rd r, body;

	hak_nlmsg_end(&q, at);
	if (hak_nl_send(&w->rules, &q) ||
	    hak_nl_recv(&w->rules, buf, sizeof buf, MSG_DONTWAIT, &n))
		return false;
	r = hak_rd_on(buf, n);
	body = hak_nlmsg_next(&r, &h);
	(void)hak_rd_take(&body, sizeof(struct nfgenmsg));
	while (hak_rd_left(&body) && h.nlmsg_type != NLMSG_ERROR) {
		uint16_t type;
		struct hak_rd v = hak_nla_next(&body, &type);

		if (v.bad)
			break;
		if (type == NFTA_GEN_ID)
			w->generation = hak_rd_u32(&v);
	}
	return w->generation != before;
}

/* ---- waiting --------------------------------------------------------- */

static int route_socket(uint32_t groups)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_groups = groups };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), kept;

	if (fd < 0 || !bind(fd, (void *)&a, sizeof a))
		return fd;
	kept = errno;
	close(fd);
	errno = kept;
	return -1;
}

enum hak_err hak_watch_open(struct hak_watch *w, int stop, uint32_t each_ms)
{
	memset(w, 0, sizeof *w);
	w->stop = stop;
	w->each_ns = (uint64_t)each_ms * HAK_MS;
	w->rules.fd = -1;
	w->events = route_socket(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR);
	w->links = w->events < 0 ? -1 : route_socket(0);
	if (w->links < 0 || hak_nl_open(&w->rules, 1 << 16)) {
		int kept = errno;

		hak_watch_close(w);
		errno = kept;
		return HAK_ESYS;
	}
	return HAK_OK;
}

void hak_watch_close(struct hak_watch *w)
{
	if (w->events >= 0)
		close(w->events);
	if (w->links >= 0)
		close(w->links);
	w->events = w->links = -1;
	hak_nl_close(&w->rules);
}

void hak_watch_clear(struct hak_watch *w)
{
	w->n = 0;
}

enum hak_err hak_watch_add(struct hak_watch *w, const char *name)
{
	size_t n = strlen(name);

	if (!n || n >= HAK_WATCH_NAME)
		return HAK_EINVAL;
	for (unsigned i = 0; i < w->n; i++)
		if (!strcmp(w->v[i].name, name))
			return HAK_OK;
	if (w->n == HAK_WATCH_MAX)
		return HAK_ESPACE;
	snprintf(w->v[w->n].name, sizeof w->v[w->n].name, "%s", name);
	w->v[w->n].print = 0;
	w->v[w->n].bond = false;
	w->v[w->n++].carrier = -1;
	w->all_due = 0;
	return HAK_OK;
}

static void drain(int fd)
{
	uint8_t byte;

	for (unsigned i = 0; i < EVENTS_MAX; i++)
		/* ENOBUFS: some were lost, and a look follows anyway */
		if (recv(fd, &byte, sizeof byte, MSG_DONTWAIT) < 0 && errno == EAGAIN)
			return;
}

unsigned hak_watch_wait(struct hak_watch *w, uint64_t until)
{
	for (;;) {
		struct pollfd p[] = {
			{ .fd = w->events, .events = POLLIN },
			{ .fd = w->stop, .events = POLLIN },
		};
		uint64_t now = hak_now(), due;
		struct timespec t;
		unsigned seen = 0;

		if (now >= w->links_due) {
			if (links_changed(w, now))
				seen |= HAK_WATCH_LINKS;
			w->links_due = now + interval(w, now);
		}
		if (now >= w->rules_due) {
			if (rules_changed(w))
				seen |= HAK_WATCH_RULES;
			w->rules_due = now + RULES_MS * (uint64_t)HAK_MS;
		}
		if (seen || now >= until)
			return seen;
		/* not for the rules alone: they are asked for with the next interfaces */
		due = w->links_due < until ? w->links_due : until;
		due = due > now ? due - now : 0;
		t = (struct timespec){ .tv_sec = (time_t)(due / 1000000000u),
				       .tv_nsec = (long)(due % 1000000000u) };
		if (ppoll(p, 2, &t, NULL) <= 0)
			continue;
		if (p[1].revents)
			return HAK_WATCH_STOP;
		drain(w->events);
		now = hak_now();
		restless(w, now);
		/* What is told with this is not told again; asked before anybody looks, so
		 * that what changes meanwhile is. */
		w->all_due = 0;
		(void)links_changed(w, now);
		w->links_due = now + interval(w, now);
		return HAK_WATCH_LINKS;
	}
}
