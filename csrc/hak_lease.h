/* hak_lease.h - forwarding that the kernel itself ends when this process hangs.
 *
 * A BPF program at ingress and egress of each data interface lets frames pass until
 * a moment that stands in memory shared with us.  Renewing the lease is one store: no
 * system call, no lock, so neither a busy interpreter nor a long nftables transaction
 * keeps it from being renewed; only a process that does not run does.
 *
 * The gate (hak_gate.h) says whether this node may forward, the lease for how long
 * without hearing from us.  A frame needs both.
 *
 * Filters stay when the process dies, which is what they are for; the next start
 * replaces them.
 *
 * Not handled: kernels without cls_bpf, user namespaces (loading needs the host's
 * capabilities), a foreign filter before ours that accepts frames for good.
 */
#ifndef HAK_LEASE_H
#define HAK_LEASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "hak_err.h"

#define HAK_LEASE_FOREVER UINT64_MAX

struct hak_lease {
	int map, prog;
	/* CLOCK_MONOTONIC in ns, which is what the program reads */
	_Atomic uint64_t *until;
	_Atomic uint64_t *refused;	/* frames, since the program was loaded */
};

/* Load the program, open for ever.  HAK_ESYS: errno (EPERM: CAP_BPF and CAP_NET_ADMIN
 * are needed).  Afterwards attaching needs CAP_NET_ADMIN alone. */
enum hak_err hak_lease_init(struct hak_lease *l);
void hak_lease_free(struct hak_lease *l);	/* filters stay, as they last stood */
/* Put the filters before an interface of this thread's network namespace, in the place
 * of those of an earlier process.  HAK_ESYS: errno. */
enum hak_err hak_lease_attach(const struct hak_lease *l, const char *ifname);
/* Remove them; none there is no error. */
enum hak_err hak_lease_detach(const char *ifname);

/* ---- when: pure ------------------------------------------------------- */

enum hak_lease_state { HAK_LEASE_OFF, HAK_LEASE_ON, HAK_LEASE_LAPSED };

struct hak_lessee {
	enum hak_lease_state state;
	uint64_t until;			/* what the kernel shall hold to */
	uint64_t lapsed_ns;		/* when that was noticed */
};

struct hak_lease_facts {
	uint64_t now, length;		/* ns */
	bool active;			/* this node forwards */
	bool armed;			/* passive, its gate is open for a hand-over */
	bool prepared;			/* the peer says that it goes on */
	bool heard;			/* the peer is alive */
	bool peer_active;
	uint64_t echoed_ns;		/* when we sent what the peer has answered last */
};

/* To be called right after each heartbeat, with a time from before it: a stop between
 * the two then leaves no lease for what was not sent.  True if the state changed.
 *
 *   off      alone, or passive: nobody would take over
 *   on       a standby listens: whoever stops sending heartbeats stops forwarding
 *            before the standby has waited long enough to promote itself
 *   lapsed   we were late.  The standby may have taken over meanwhile, so the gate
 *            stays closed until it has answered a heartbeat sent since and says that
 *            it did not, or is gone.
 *
 * A passive node whose gate is open for a hand-over holds a lease as well, for as long
 * as the peer says that the hand-over goes on: one that hangs then must not forward
 * beside a peer that gave up.  Lapsed, it stays so until the gate is closed, or this
 * node is active.
 */
bool hak_lease_step(struct hak_lessee *l, const struct hak_lease_facts *f);

#endif
