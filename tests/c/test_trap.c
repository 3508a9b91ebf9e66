/* The masquerade trap: which ends are kept from the peer, and which are not. */
#include <errno.h>
#include <net/if.h>
#include <linux/rtnetlink.h>
#include "flows.h"
#include "hak_nlmsg.h"
#include "hak_trap.h"

enum { WAN = 3, LAN = 2 };

#define S 1000000000ull

static struct hak_trap trap;
static uint8_t bytes[256];

static void begin(struct hak_wr *w, uint16_t type)
{
	*w = hak_wr_on(bytes, sizeof bytes);
	hak_wr_h32(w, 0);
	hak_wr_h16(w, type);
	hak_wr_h16(w, 0);
	hak_wr_h32(w, 0);
	hak_wr_h32(w, 0);
}

static size_t put_addr(bool gone, int ifindex, uint8_t l3, const char *local, const char *other)
{
	struct ifaddrmsg m = { .ifa_family = l3, .ifa_index = (uint32_t)ifindex };
	struct hak_tuple t = tuple(local, 0, other ? other : local, 0);
	struct hak_wr w;

	begin(&w, gone ? RTM_DELADDR : RTM_NEWADDR);
	hak_wr_copy(&w, &m, sizeof m);
	if (l3 == AF_INET)
		hak_nla_put(&w, IFA_LOCAL, t.src, 4);
	hak_nla_put(&w, IFA_ADDRESS, t.dst, hak_addr_len(l3));
	hak_nlmsg_end(&w, 0);
	return hak_wr_len(&w);
}

static void addr(bool gone, int ifindex, uint8_t l3, const char *a, uint64_t now)
{
	hak_trap_feed(&trap, bytes, put_addr(gone, ifindex, l3, a, NULL), now);
}

static void link_is(uint16_t type, int ifindex, unsigned flags, uint64_t now)
{
	struct ifinfomsg m = { .ifi_index = ifindex, .ifi_flags = flags };
	struct hak_wr w;

	begin(&w, type);
	hak_wr_copy(&w, &m, sizeof m);
	hak_nlmsg_end(&w, 0);
	hak_trap_feed(&trap, bytes, hak_wr_len(&w), now);
}

/* Translated to the address of the wan. */
static struct hak_flow masqueraded(uint8_t l3)
{
	struct hak_flow f = make_flow(l3, IPPROTO_UDP);

	f.reply = l3 == AF_INET ? tuple("10.72.0.10", 80, "10.72.0.1", 4711)
				: tuple("2001:db8:72::10", 80, "2001:db8:72::1", 4711);
	return f;
}

static void fresh(void)
{
	memset(&trap, 0, sizeof trap);
	trap.fd = -1;
	addr(false, LAN, AF_INET, "10.71.0.1", S);
	addr(false, WAN, AF_INET, "10.72.0.1", S);
	addr(false, WAN, AF_INET6, "2001:db8:72::1", S);
	EQUAL(trap.n, 3);
	CHECK(!hak_trap_missing(&trap));
}

static void test_address(void)
{
	struct hak_flow f = masqueraded(AF_INET), v6 = masqueraded(AF_INET6), g;

	CASE("address");
	fresh();
	CHECK(!hak_trap_holds(&trap, &f, S));		/* nothing is lost */
	addr(true, LAN, AF_INET, "10.71.0.1", 10 * S);
	CHECK(hak_trap_missing(&trap));
	CHECK(!hak_trap_holds(&trap, &f, 10 * S));	/* another one is */
	addr(true, WAN, AF_INET, "10.72.0.1", 20 * S);
	CHECK(hak_trap_holds(&trap, &f, 20 * S));
	CHECK(!hak_trap_holds(&trap, &v6, 20 * S));
	CHECK(hak_trap_holds(&trap, &f, 20 * S + HAK_TRAP_NS));
	CHECK(!hak_trap_holds(&trap, &f, 20 * S + HAK_TRAP_NS + 1));

	/* what was not translated, and what cannot be known to be, ends */
	g = make_flow(AF_INET, IPPROTO_UDP);
	CHECK(!hak_trap_holds(&trap, &g, 20 * S));
	g = f;
	memcpy(g.orig.src, f.reply.dst, 4);		/* begun by the firewall itself */
	CHECK(!hak_trap_holds(&trap, &g, 20 * S));
	g = f;
	g.have &= ~(uint32_t)HAK_HAS_REPLY;
	CHECK(!hak_trap_holds(&trap, &g, 20 * S));

	/* its own end */
	g = f;
	g.l4proto = IPPROTO_TCP;
	give_state(&g);
	CHECK(hak_trap_holds(&trap, &g, 20 * S));
	g.tcp_state = TCP_CONNTRACK_TIME_WAIT;
	CHECK(!hak_trap_holds(&trap, &g, 20 * S));
	g.tcp_state = TCP_CONNTRACK_CLOSE;
	CHECK(!hak_trap_holds(&trap, &g, 20 * S));

	/* it comes back: what ends from now on, ends */
	addr(false, WAN, AF_INET, "10.72.0.1", 21 * S);
	CHECK(!hak_trap_holds(&trap, &f, 21 * S));
	EQUAL(trap.n, 3);
}

static void test_link(void)
{
	struct hak_flow f = masqueraded(AF_INET), v6 = masqueraded(AF_INET6);

	CASE("link");
	fresh();
	link_is(RTM_NEWLINK, LAN, 0, 10 * S);
	CHECK(!hak_trap_holds(&trap, &f, 10 * S));
	link_is(RTM_NEWLINK, WAN, IFF_UP, 10 * S);
	CHECK(!hak_trap_holds(&trap, &f, 10 * S));
	link_is(RTM_NEWLINK, WAN, 0, 10 * S);
	CHECK(hak_trap_holds(&trap, &f, 10 * S) && hak_trap_holds(&trap, &v6, 10 * S));
	/* an address that went by itself does not come back with its device */
	addr(true, WAN, AF_INET6, "2001:db8:72::1", 11 * S);
	link_is(RTM_NEWLINK, WAN, IFF_UP, 12 * S);
	CHECK(!hak_trap_holds(&trap, &f, 12 * S));
	CHECK(hak_trap_holds(&trap, &v6, 12 * S));
	fresh();
	link_is(RTM_DELLINK, WAN, IFF_UP, 30 * S);
	CHECK(hak_trap_holds(&trap, &f, 30 * S));
}

/* Of a point-to-point link IFA_ADDRESS is the other end. */
static void test_point_to_point(void)
{
	struct hak_flow f = masqueraded(AF_INET);

	CASE("point to point");
	memset(&trap, 0, sizeof trap);
	hak_trap_feed(&trap, bytes, put_addr(false, WAN, AF_INET, "10.72.0.1", "10.72.0.9"), S);
	hak_trap_feed(&trap, bytes, put_addr(true, WAN, AF_INET, "10.72.0.1", "10.72.0.9"), 2 * S);
	CHECK(hak_trap_holds(&trap, &f, 2 * S));
}

/* Full: the place of what was lost first is taken; without one, the new is left out. */
static void test_full(void)
{
	char text[32];

	CASE("full");
	memset(&trap, 0, sizeof trap);
	for (int i = 0; i < HAK_TRAP_ADDRS + 5; i++) {
		snprintf(text, sizeof text, "10.9.%d.%d", i / 250, i % 250 + 1);
		addr(false, WAN, AF_INET, text, S);
	}
	EQUAL(trap.n, HAK_TRAP_ADDRS);
	addr(true, WAN, AF_INET, "10.9.0.7", 2 * S);
	addr(true, WAN, AF_INET, "10.9.0.5", 3 * S);
	addr(false, WAN, AF_INET, "10.72.0.1", 4 * S);
	EQUAL(trap.n, HAK_TRAP_ADDRS);
	CHECK(!memcmp(trap.v[6].addr, tuple("10.72.0.1", 0, "0.0.0.0", 0).src, 4));
	CHECK(trap.v[4].lost_ns != 0);
}

/* Cut messages change nothing; cut attributes neither. */
static void test_prefixes(void)
{
	struct hak_trap before;

	CASE("prefixes");
	fresh();
	before = trap;
	for (size_t whole = put_addr(true, WAN, AF_INET, "10.72.0.1", NULL), n = 0; n < whole; n++) {
		hak_trap_feed(&trap, bytes, n, 2 * S);
		CHECK(!memcmp(&trap, &before, sizeof trap));
	}
}

int main(void)
{
	test_address();
	test_link();
	test_point_to_point();
	test_full();
	test_prefixes();
	return t_end();
}
