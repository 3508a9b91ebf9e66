/* hak_announce.h - telling the neighbours who has the addresses now.
 *
 * IPv4: gratuitous ARP (RFC 5227 section 3, RFC 826), as request and as reply,
 * since hosts differ in which one they heed.  IPv6: unsolicited neighbour
 * advertisement with the override flag (RFC 4861 section 7.2.6).  Switches learn
 * the port from either.  Frames go out through AF_PACKET sockets, so they are
 * made ready before a swap and cost one system call each during it.
 *
 * Not handled: media other than Ethernet (no frame is made for them).
 */
#ifndef HAK_ANNOUNCE_H
#define HAK_ANNOUNCE_H

#include <stdint.h>
#include "hak_err.h"

enum { HAK_ANNOUNCE_MAX = 256, HAK_FRAME_MAX = 86 };

struct hak_frame {
	int ifindex;
	uint8_t len;
	uint8_t bytes[HAK_FRAME_MAX];
};

struct hak_announcer {
	int fd;				/* AF_PACKET, no protocol: never receives */
	unsigned n;
	struct hak_frame frames[HAK_ANNOUNCE_MAX];
};

enum hak_err hak_announcer_init(struct hak_announcer *a);
void hak_announcer_free(struct hak_announcer *a);
void hak_announcer_clear(struct hak_announcer *a);
/* Add an address ("10.71.0.1" or "fd71::1") of an interface.  HAK_ESYS: no such
 * interface (errno); HAK_EINVAL: not an address; HAK_ESPACE: too many;
 * HAK_ESKIP: not Ethernet. */
enum hak_err hak_announcer_add(struct hak_announcer *a, const char *ifname, const char *addr);
/* Send all; returns how many frames the kernel took. */
unsigned hak_announcer_send(struct hak_announcer *a);

#endif
