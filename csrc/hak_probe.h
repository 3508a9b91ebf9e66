/* hak_probe.h - conntrack's events by way of a ring that the kernel fills (eBPF).
 *
 * The faster of two ways to hear of them; the other one is netlink (hak_nl.h), for
 * kernels that do not take the programs.  csrc/bpf/probe.c says what is told how.
 *
 * Loading needs privileges that nothing later needs, so it comes first and apart from
 * the engine, which is given the probe, and only one engine at a time.
 *
 * One thread reads: hak_probe_next, hak_probe_done.  All else may be called by any.
 *
 * Not handled: kernels before 6.4 (no netfilter programs), conntrack as a module whose
 * structs the kernel's own BTF does not have, bridges that track (a hook of their own:
 * their entries' events are messages, since no rule has set their mask).
 */
#ifndef HAK_PROBE_H
#define HAK_PROBE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "hak_ct.h"
#include "hak_policy.h"
#include "hak_seen.h"

enum { HAK_PROBE_HOOKS = 4 };	/* two families, forwarded and to ourselves */

struct hak_probe {
	int packet, message;		/* programs; -1: not loaded */
	int ring, memory;		/* maps */
	int hooks[HAK_PROBE_HOOKS];	/* -1: not attached */
	struct hak_probe_shared *shared;
	/* the ring: see kernel/bpf/ringbuf.c */
	_Atomic uint64_t *consumer;
	const _Atomic uint64_t *producer;
	const uint8_t *data;
	uint64_t size;			/* bytes */
	uint64_t at;			/* where the reader is */
	uint64_t lost;			/* of shared->lost, told */
	_Atomic uint64_t from;		/* what is before this is not to be read */
};

/* One thing that was noted; valid until hak_probe_done. */
struct hak_sight {
	const struct hak_seen *seen;	/* NULL: a message, */
	const uint8_t *message;
	size_t len;			/* of that */
};

/* size: of the ring, bytes, HAK_PROBE_RING; rounded up to a power of two of pages.
 * Load the programs, and put the one for packets into their way in the network namespace
 * of the calling thread, where it tells nothing yet.  HAK_ESYS: errno; *what says what failed (a constant string).
 * CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed. */
enum hak_err hak_probe_init(struct hak_probe *p, uint32_t size, const char **what);
void hak_probe_free(struct hak_probe *p);
/* In the place of the queue of the netlink socket `fd`, as its filter.  `portid`: a socket
 * whose doings are no news.  HAK_ESYS: errno. */
enum hak_err hak_probe_attach(struct hak_probe *p, int fd, uint32_t portid,
			      const struct hak_policy *policy);
/* Tell, or do not.  To begin means: from here on; what was told before is not read. */
void hak_probe_tell(struct hak_probe *p, bool on);
/* The reader is about to nap: nobody wakes it for what comes; or no more, before it sleeps
 * in poll(p->ring). */
void hak_probe_quiet(struct hak_probe *p, bool quiet);
/* The next one, oldest first.  False: none. */
bool hak_probe_next(struct hak_probe *p, struct hak_sight *s);
/* None was, but one is being written.  Whoever writes may have been interrupted by us: to
 * wait in poll, which sees that something is there, would be to wait for ever. */
bool hak_probe_busy(const struct hak_probe *p);
/* All that were taken have been used. */
void hak_probe_done(struct hak_probe *p);
/* Have events been lost since this was last asked? */
bool hak_probe_lost(struct hak_probe *p);
/* How full the ring is, in per cent. */
unsigned hak_probe_backlog(const struct hak_probe *p);
/* A note as the event that netlink would have brought.  False: it cannot be one. */
bool hak_probe_event(const struct hak_seen *s, struct hak_ctmsg *out);
/* Do both tell of the same connection?  By its original tuple: the reply's may differ, if
 * two processors translated its first packets and one of them was refused. */
bool hak_probe_same(const struct hak_seen *x, const struct hak_seen *y);

#endif
