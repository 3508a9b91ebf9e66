/* hak_trap.h - ends of connections that are no ends: the masquerade trap.
 *
 * When a device goes down or loses an address, the kernel ends every connection that
 * was masqueraded to it (net/netfilter/nf_nat_masquerade.c), and says so like of any
 * other end.  Told to the peer, whose device is well, it would kill there what lives.
 *
 * The kernel tells rtnetlink of the device or the address before it looks for the
 * connections: dev_change_flags and __dev_close_many before NETDEV_DOWN,
 * __inet_del_ifa and ipv6_del_addr before their notifiers.  So whoever has read a
 * DESTROY and then empties the rtnetlink socket knows why.
 *
 * Not handled: more than HAK_TRAP_ADDRS addresses (the rest is told as ended); a
 * message that the socket lost (ENOBUFS: the addresses are asked for anew).
 */
#ifndef HAK_TRAP_H
#define HAK_TRAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "hak_err.h"
#include "hak_flow.h"

enum { HAK_TRAP_ADDRS = 512 };

/* A table of a million entries is walked in about a second. */
#define HAK_TRAP_NS (5u * 1000000000ull)

struct hak_trap_addr {
	uint8_t l3, addr[16];
	uint32_t ifindex;
	bool removed;			/* lost by itself, not with its device */
	uint64_t lost_ns;		/* monotonic; 0: it is here */
};

struct hak_trap {
	int fd;				/* -1: closed */
	unsigned n;
	uint64_t lost_ns;		/* the latest loss, 0 = none */
	struct hak_trap_addr v[HAK_TRAP_ADDRS];
};

enum hak_err hak_trap_open(struct hak_trap *t);		/* HAK_ESYS: errno */
void hak_trap_close(struct hak_trap *t);
/* Read what rtnetlink has to say; never waits. */
void hak_trap_read(struct hak_trap *t, uint64_t now);
/* The same for bytes that were received: pure. */
void hak_trap_feed(struct hak_trap *t, const uint8_t *bytes, size_t n, uint64_t now);
/* Did this DESTROY come from such a loss, and not from the connection's own end? */
bool hak_trap_holds(const struct hak_trap *t, const struct hak_flow *f, uint64_t now);
/* Is any address missing that was here? */
bool hak_trap_missing(const struct hak_trap *t);

#endif
