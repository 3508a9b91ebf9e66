/* hak_announce.c - see hak_announce.h. */
#include "hak_announce.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include "hak_buf.h"

enum hak_err hak_announcer_init(struct hak_announcer *a)
{
	a->n = 0;
	a->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	return a->fd < 0 ? HAK_ESYS : HAK_OK;
}

void hak_announcer_free(struct hak_announcer *a)
{
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
}

void hak_announcer_clear(struct hak_announcer *a)
{
	a->n = 0;
}

static void arp(struct hak_frame *f, const uint8_t mac[6], const uint8_t ip[4], uint16_t op)
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct hak_wr w = hak_wr_on(f->bytes, sizeof f->bytes);

	hak_wr_copy(&w, all, 6);
	hak_wr_copy(&w, mac, 6);
	hak_wr_u16(&w, ETH_P_ARP);
	hak_wr_u16(&w, ARPHRD_ETHER);
	hak_wr_u16(&w, ETH_P_IP);
	hak_wr_u8(&w, 6);
	hak_wr_u8(&w, 4);
	hak_wr_u16(&w, op);
	hak_wr_copy(&w, mac, 6);
	hak_wr_copy(&w, ip, 4);
	if (op == ARPOP_REPLY)
		hak_wr_copy(&w, mac, 6);
	else
		hak_wr_zero(&w, 6);
	hak_wr_copy(&w, ip, 4);
	f->len = (uint8_t)hak_wr_len(&w);
}

/* RFC 1071 over the pseudo-header (RFC 8200 section 8.1) and the message. */
static uint16_t icmp6_sum(const uint8_t *addrs, const uint8_t *msg, size_t n)
{
	uint32_t s = (uint32_t)n + 58;
	struct hak_rd a = hak_rd_on(addrs, 32), m = hak_rd_on(msg, n);

	while (hak_rd_left(&a))
		s += hak_rd_u16(&a);
	while (hak_rd_left(&m))
		s += hak_rd_u16(&m);
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~s;
}

static void na(struct hak_frame *f, const uint8_t mac[6], const uint8_t ip[16])
{
	static const uint8_t group_mac[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	static const uint8_t group[16] = { 0xff, 2, [15] = 1 };		/* ff02::1 */
	struct hak_wr w = hak_wr_on(f->bytes, sizeof f->bytes);
	size_t addrs, msg;
	uint8_t sum[2];
	uint16_t s;

	hak_wr_copy(&w, group_mac, 6);
	hak_wr_copy(&w, mac, 6);
	hak_wr_u16(&w, ETH_P_IPV6);
	hak_wr_u32(&w, 0x60000000);
	hak_wr_u16(&w, 32);
	hak_wr_u8(&w, 58);
	hak_wr_u8(&w, 255);		/* or the receiver must ignore it */
	addrs = hak_wr_len(&w);
	hak_wr_copy(&w, ip, 16);
	hak_wr_copy(&w, group, 16);
	msg = hak_wr_len(&w);
	hak_wr_u8(&w, 136);
	hak_wr_u8(&w, 0);
	hak_wr_u16(&w, 0);
	hak_wr_u32(&w, 0xa0000000);	/* router, override */
	hak_wr_copy(&w, ip, 16);
	hak_wr_u8(&w, 2);		/* target link-layer address, 8 bytes */
	hak_wr_u8(&w, 1);
	hak_wr_copy(&w, mac, 6);
	f->len = (uint8_t)hak_wr_len(&w);
	s = icmp6_sum(&f->bytes[addrs], &f->bytes[msg], f->len - msg);
	sum[0] = (uint8_t)(s >> 8);
	sum[1] = (uint8_t)s;
	hak_wr_patch(&w, msg + 2, sum, 2);
}

enum hak_err hak_announcer_add(struct hak_announcer *a, const char *ifname, const char *addr)
{
	struct ifreq q = { 0 };
	uint8_t ip[16];
	int ifindex, v6 = strchr(addr, ':') != NULL;

	if (inet_pton(v6 ? AF_INET6 : AF_INET, addr, ip) != 1)
		return HAK_EINVAL;
	if (a->n + 2 > HAK_ANNOUNCE_MAX)
		return HAK_ESPACE;
	snprintf(q.ifr_name, sizeof q.ifr_name, "%s", ifname);
	if (ioctl(a->fd, SIOCGIFINDEX, &q))
		return HAK_ESYS;
	ifindex = q.ifr_ifindex;
	if (ioctl(a->fd, SIOCGIFHWADDR, &q))
		return HAK_ESYS;
	if (q.ifr_hwaddr.sa_family != ARPHRD_ETHER)
		return HAK_ESKIP;
	if (v6) {
		na(&a->frames[a->n], (uint8_t *)q.ifr_hwaddr.sa_data, ip);
		a->frames[a->n++].ifindex = ifindex;
		return HAK_OK;
	}
	for (uint16_t op = ARPOP_REQUEST; op <= ARPOP_REPLY; op++) {
		arp(&a->frames[a->n], (uint8_t *)q.ifr_hwaddr.sa_data, ip, op);
		a->frames[a->n++].ifindex = ifindex;
	}
	return HAK_OK;
}

unsigned hak_announcer_send(struct hak_announcer *a)
{
	unsigned sent = 0;

	for (unsigned i = 0; i < a->n; i++) {
		const struct hak_frame *f = &a->frames[i];
		struct sockaddr_ll to = {
			.sll_family = AF_PACKET,
			.sll_ifindex = f->ifindex,
			.sll_halen = 6,
		};

		sent += sendto(a->fd, f->bytes, f->len, MSG_DONTWAIT, (void *)&to, sizeof to) == f->len;
	}
	return sent;
}
