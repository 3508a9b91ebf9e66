/* kern.h - network namespaces of our own and blocking talks with their ctnetlink. */
#ifndef KERN_H
#define KERN_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include "hak_ct.h"
#include "t.h"

enum { KERN_BUF = 1 << 16 };

struct ns {
	int fd;				/* of the namespace */
	int nl, events;			/* requests; what happens */
	uint32_t seq;
	uint8_t buf[KERN_BUF];
	struct hak_rd rest;		/* of the datagram last received on `nl` */
	uint8_t ebuf[KERN_BUF];
	struct hak_rd erest;
};

static inline void ns_enter(const struct ns *n)
{
	NEED(!setns(n->fd, CLONE_NEWNET));
}

/* A shell command in the present namespace; it must succeed. */
static inline void sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline void sh(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof cmd, fmt, ap);
	va_end(ap);
	fflush(NULL);
	if (system(cmd)) {
		fprintf(stderr, "failed: %s\n", cmd);
		FAIL(cmd);
		exit(t_end());
	}
}

static inline int nl_socket(bool cap_ack)
{
	int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	struct timeval patience = { .tv_sec = 5 };
	int on = cap_ack, big = 1 << 22;

	NEED(s >= 0);
	NEED(!bind(s, (struct sockaddr *)&a, sizeof a));
	NEED(!setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
	NEED(!setsockopt(s, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on));
	(void)setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big);
	return s;
}

/* Make a namespace and be in it.  Every event of it is kept on n->events. */
static inline void ns_make(struct ns *n)
{
	if (unshare(CLONE_NEWNET)) {
		perror("unshare(CLONE_NEWNET): these tests need root");
		FAIL("no network namespace");
		exit(t_end());
	}
	memset(n, 0, sizeof *n);
	n->fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	NEED(n->fd >= 0);
	sh("ip link set lo up");
	/* before anything is tracked: entries made with 0 or 2 may never tell of themselves */
	sh("sysctl -qw net.netfilter.nf_conntrack_events=1");
	n->nl = nl_socket(true);
	n->events = nl_socket(true);
	for (int g = NFNLGRP_CONNTRACK_NEW; g <= NFNLGRP_CONNTRACK_EXP_DESTROY; g++)
		NEED(!setsockopt(n->events, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &g, sizeof g));
	NEED(!fcntl(n->events, F_SETFL, O_NONBLOCK));
}

static inline void ns_close(struct ns *n)
{
	close(n->nl);
	close(n->events);
	close(n->fd);
}

/* One message's bytes in, to be filled by a hak_ct_put_ function. */
#define ASK(n, w) \
	uint8_t ask_[4096]; \
	struct hak_wr w = hak_wr_on(ask_, sizeof ask_); \
	(n)->seq++

static inline void ns_send(struct ns *n, const struct hak_wr *w)
{
	NEED(send(n->nl, w->base, hak_wr_len(w), 0) == (ssize_t)hak_wr_len(w));
	n->rest = hak_rd_on(n->buf, 0);
}

/* The next message with the sequence of the last request. */
static inline void ns_next(struct ns *n, struct hak_ctmsg *m)
{
	for (;;) {
		if (!hak_rd_left(&n->rest)) {
			ssize_t got = recv(n->nl, n->buf, sizeof n->buf, 0);

			if (got < 0)
				perror("recv");
			NEED(got > 0);
			n->rest = hak_rd_on(n->buf, (size_t)got);
		}
		enum hak_err e = hak_ct_next(&n->rest, m);
		EQUAL(e, HAK_OK);		/* whatever this kernel sends is understood */
		if (!e && m->seq == n->seq)
			return;
	}
}

/* Send, and return the errno of the answer. */
static inline int ns_call(struct ns *n, enum hak_err put, const struct hak_wr *w)
{
	struct hak_ctmsg m;

	EQUAL(put, HAK_OK);
	if (put)
		return EINVAL;
	ns_send(n, w);
	do
		ns_next(n, &m);
	while (m.what != HAK_CT_ERROR);
	return m.error;
}

static inline int ns_create(struct ns *n, const struct hak_flow *f, struct hak_ct_form form)
{
	ASK(n, w);
	form.ack = true;
	return ns_call(n, hak_ct_put_create(&w, n->seq, f, &form), &w);
}

static inline int ns_update(struct ns *n, const struct hak_flow *f, struct hak_ct_form form)
{
	ASK(n, w);
	form.ack = true;
	return ns_call(n, hak_ct_put_update(&w, n->seq, f, &form), &w);
}

static inline int ns_delete(struct ns *n, const struct hak_flow *f)
{
	ASK(n, w);
	return ns_call(n, hak_ct_put_delete(&w, n->seq, f, true), &w);
}

static inline int ns_delete_reply(struct ns *n, const struct hak_flow *f)
{
	ASK(n, w);
	return ns_call(n, hak_ct_put_delete_reply(&w, n->seq, f, true), &w);
}

/* put_timeout asks for no acknowledgement: ask ourselves. */
static inline int ns_timeout(struct ns *n, const struct hak_flow *f, uint32_t timeout, bool clear)
{
	ASK(n, w);
	enum hak_err e = hak_ct_put_timeout(&w, n->seq, f, timeout, clear);
	uint16_t flags = NLM_F_REQUEST | NLM_F_ACK;

	hak_wr_patch(&w, 6, &flags, sizeof flags);
	return ns_call(n, e, &w);
}

static inline int ns_answer(struct ns *n, const struct hak_wr *w, struct hak_flow *out)
{
	struct hak_ctmsg m;

	ns_send(n, w);
	ns_next(n, &m);
	if (m.what == HAK_CT_ERROR)
		return m.error ? m.error : EPROTO;
	EQUAL(m.what, HAK_CT_UPDATE);
	*out = m.flow;
	return 0;
}

static inline int ns_get(struct ns *n, const struct hak_flow *id, struct hak_flow *out)
{
	ASK(n, w);
	EQUAL(hak_ct_put_get(&w, n->seq, id), HAK_OK);
	return ns_answer(n, &w, out);
}

static inline int ns_get_reply(struct ns *n, const struct hak_flow *id, struct hak_flow *out)
{
	ASK(n, w);
	EQUAL(hak_ct_put_get_reply(&w, n->seq, id), HAK_OK);
	return ns_answer(n, &w, out);
}

/* List into out[]; the number there were. */
static inline unsigned ns_list(struct ns *n, struct hak_flow *out, unsigned room)
{
	struct hak_ctmsg m;
	unsigned k = 0;

	ASK(n, w);
	EQUAL(hak_ct_put_list(&w, n->seq), HAK_OK);
	ns_send(n, &w);
	for (ns_next(n, &m); m.what == HAK_CT_UPDATE; ns_next(n, &m))
		if (k++ < room)
			out[k - 1] = m.flow;
	EQUAL(m.what, HAK_CT_DONE);
	EQUAL(m.error, 0);
	return k;
}

static inline unsigned ns_list_expects(struct ns *n, struct hak_expect *out, unsigned room)
{
	struct hak_ctmsg m;
	unsigned k = 0;

	ASK(n, w);
	EQUAL(hak_exp_put_list(&w, n->seq), HAK_OK);
	ns_send(n, &w);
	for (ns_next(n, &m); m.what == HAK_CT_EXP_NEW; ns_next(n, &m))
		if (k++ < room)
			out[k - 1] = m.expect;
	EQUAL(m.what, HAK_CT_DONE);
	return k;
}

/* The next event, or false if none is there. */
static inline bool ns_event(struct ns *n, struct hak_ctmsg *m)
{
	if (!hak_rd_left(&n->erest)) {
		ssize_t got = recv(n->events, n->ebuf, sizeof n->ebuf, 0);

		if (got < 0) {
			EQUAL(errno, EAGAIN);
			return false;
		}
		n->erest = hak_rd_on(n->ebuf, (size_t)got);
	}
	EQUAL(hak_ct_next(&n->erest, m), HAK_OK);
	return true;
}

static inline void ns_forget_events(struct ns *n)
{
	struct hak_ctmsg m;

	while (ns_event(n, &m))
		;
}

#endif
