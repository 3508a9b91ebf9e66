/* hak_seen.h - what the probe in the kernel writes into its ring.
 *
 * Shared by csrc/bpf/probe.c, which writes it, and hak_probe.c, which reads it: both are
 * built from one tree and loaded together, so this is no format that must last.
 * Addresses, ports and tags are as in the kernel's tuples, all else in host order.
 */
#ifndef HAK_SEEN_H
#define HAK_SEEN_H

#include <linux/types.h>

enum { HAK_PROBE_RING = 4 << 20 };	/* bytes: 75,000 changes or 15,000 ends, IPv4 */

enum hak_seen_what {
	HAK_SEEN_NEW = 1, HAK_SEEN_UPDATE,	/* as enum hak_ct_what */
	HAK_SEEN_MESSAGE = 16,			/* of netlink: struct hak_seen_message */
};

enum {
	HAK_SEEN_LONG = 1 << 0,		/* it is a struct hak_seen_long */
	HAK_SEEN_MARK = 1 << 1,		/* the mark is news, even if it is 0 */
};

struct hak_seen {
	__u8 what, l3, l4proto;
	__u8 state;			/* of TCP or SCTP */
	__u16 zone;			/* 0: none */
	__u8 zone_dir;			/* NF_CT_ZONE_DIR_*, a bit for each direction */
	__u8 flags;			/* HAK_SEEN_* */
	__u32 status, mark;
	__u8 tcp_wscale[2], tcp_flags[2];
	__u16 ports[4];			/* original source and destination, reply's */
	__u32 addrs[4];			/* the same four, of IPv4 */
};

/* For what does not fit there: IPv6, SCTP, labels. */
struct hak_seen_long {
	struct hak_seen head;		/* its addrs are not used */
	__u32 addrs[4][4];
	__u32 vtag[2];
	__u32 pad;
	__u64 labels[2];
};

enum { HAK_SEEN_SMALL = 252, HAK_SEEN_MIDDLE = 1020, HAK_SEEN_LARGE = 2044 };

struct hak_seen_message {
	__u8 what, pad;
	__u16 len;			/* of the message; the place may be longer */
	__u8 bytes[];
};

/* What the two share beside the ring.  Mapped: a change counts from the next event on. */
struct hak_probe_shared {
	__u32 on;			/* else nothing is told */
	__u32 quiet;			/* the reader naps: do not wake it */
	__u32 portid;			/* what this socket does is no news */
	__u32 some;			/* not all protocols are told */
	__u32 protocols[8];		/* a bit for each one that is told */
	__u64 lost;			/* events that the ring had no room for */
};

#endif
