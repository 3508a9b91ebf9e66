/* What of an interface counts, as messages made here; tests/netns/test_netwatch.py has
 * real ones. */
#include "hak_watch.h"
#include "hak_nlmsg.h"
#include "t.h"

#include <linux/if_link.h>
#include <linux/rtnetlink.h>

struct made {
	uint8_t bytes[512];
	size_t n;
};

static void nest(struct hak_wr *w, uint16_t kind_type, const char *kind, uint16_t data_type,
		 uint8_t data)
{
	size_t at = hak_nla_begin(w, IFLA_LINKINFO);

	hak_nla_str(w, kind_type, kind);
	hak_nla_put(w, data_type, &data, sizeof data);
	hak_nla_end(w, at);
}

static struct made interface(uint8_t carrier, uint32_t counter, const char *kind,
			     const char *member_of, uint8_t data)
{
	struct made m;
	struct hak_wr w = hak_wr_on(m.bytes, sizeof m.bytes);
	struct ifinfomsg head = { .ifi_index = 7 };

	hak_wr_copy(&w, &head, sizeof head);
	hak_nla_str(&w, IFLA_IFNAME, "lan");
	hak_nla_put(&w, IFLA_CARRIER, &carrier, sizeof carrier);
	hak_nla_put(&w, IFLA_STATS, &counter, sizeof counter);
	if (kind)
		nest(&w, IFLA_INFO_KIND, kind, IFLA_INFO_DATA, data);
	if (member_of)
		nest(&w, IFLA_INFO_SLAVE_KIND, member_of, IFLA_INFO_SLAVE_DATA, data);
	m.n = hak_wr_len(&w);
	return m;
}

static uint64_t print(struct made m, bool bond)
{
	bool found = !bond;
	uint64_t v = hak_watch_print(m.bytes, m.n, &found);

	EQUAL(found, bond);
	CHECK(v != 0);
	return v;
}

static void test_what_counts(void)
{
	uint64_t before = print(interface(1, 5, NULL, NULL, 0), false);

	CHECK(print(interface(0, 5, NULL, NULL, 0), false) != before);
	EQUAL(print(interface(1, 6, NULL, NULL, 0), false), before);
	/* a bridge's details are timers */
	EQUAL(print(interface(1, 5, "bridge", NULL, 1), false),
	      print(interface(1, 5, "bridge", NULL, 2), false));
}

/* Of a bond nothing but the answer tells what its members agree on. */
static void test_bonds_are_known(void)
{
	CHECK(print(interface(1, 5, "bond", NULL, 1), true) !=
	      print(interface(1, 5, "bond", NULL, 2), true));
	CHECK(print(interface(1, 5, NULL, "bond", 1), true) !=
	      print(interface(1, 5, NULL, "bond", 2), true));
	print(interface(1, 5, NULL, "bridge", 1), false);
}

int main(void)
{
	test_what_counts();
	test_bonds_are_known();
	return t_end();
}
