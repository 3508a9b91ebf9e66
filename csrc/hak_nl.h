/* hak_nl.h - NETLINK_NETFILTER sockets: opening, tuning, one synchronous call. */
#ifndef HAK_NL_H
#define HAK_NL_H

#include <stddef.h>
#include <stdint.h>
#include "hak_buf.h"
#include "hak_err.h"
#include "hak_policy.h"

enum {
	/* The kernel caps a listing's message at 32 KiB (net/netlink/af_netlink.c,
	 * netlink_dump); one event is some 300 bytes. */
	HAK_NL_BUF = 32768,
	/* SO_RCVBUFFORCE; the kernel doubles it.  Each queued event is charged
	 * 1,280 bytes, so 64 MiB hold some 100,000. */
	HAK_NL_EVENT_BUF = 64 << 20,
	HAK_NL_CALL_BUF = 4 << 20,
};

struct hak_nl {
	int fd;			/* -1: closed */
	uint32_t portid;	/* the kernel's name of this socket */
	uint32_t seq;		/* last used */
};

/* In the network namespace of the calling thread.  HAK_ESYS: errno. */
enum hak_err hak_nl_open(struct hak_nl *nl, int rcvbuf);
void hak_nl_close(struct hak_nl *nl);
/* Join or leave the connection tracking groups (new, update, destroy, and the
 * expectations' new and destroy). */
enum hak_err hak_nl_join(struct hak_nl *nl, int join);
/* Drop, before they take up buffer, messages caused by the socket `portid`, events of
 * protocols that the policy leaves out, and the end of what it leaves out by mark.
 * Not the beginning of the latter, nor its changes: they may bring it into the policy
 * or out of it. */
enum hak_err hak_nl_filter(struct hak_nl *nl, uint32_t portid, const struct hak_policy *p);
/* Send what the writer holds. */
enum hak_err hak_nl_send(struct hak_nl *nl, const struct hak_wr *w);
/* Receive one datagram into buf; 0 bytes if none is there (MSG_DONTWAIT only). */
enum hak_err hak_nl_recv(struct hak_nl *nl, void *buf, size_t size, int flags, size_t *got);
/* Size of the conntrack hash table, 0 if unknown.  One for all namespaces.  A resize
 * during a listing makes the kernel leave entries out and repeat others without a
 * word (no NLM_F_DUMP_INTR), so whoever draws conclusions from what a listing did not
 * show compares this before and after it.  *fd: -1 before the first call; the caller
 * closes it. */
unsigned hak_nl_buckets(int *fd);
/* Entries in this namespace's table; -1 and errno on failure.  *max (may be NULL): how
 * many it may hold, nf_conntrack_max; 0 if the kernel does not say. */
int64_t hak_nl_table_count(struct hak_nl *nl, uint32_t *max);
/* Bytes that wait in its receive buffer, in per cent; 0 if unknown. */
unsigned hak_nl_backlog(const struct hak_nl *nl);
/* Throw away all that is queued. */
void hak_nl_drain(struct hak_nl *nl);

#endif
