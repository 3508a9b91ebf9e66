/* When the stream cannot keep up: levels, hysteresis, and who waits. */
#include "hak_pressure.h"
#include "flows.h"

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>

enum { MS = 1000000 };

static uint64_t now = 1;

static bool step(struct hak_pressure *p, struct hak_load l, unsigned after_ms)
{
	now += (uint64_t)after_ms * MS;
	return hak_pressure_step(p, &l, now);
}

#define LOAD(...) ((struct hak_load){ __VA_ARGS__ })

/* Each sign, at its thresholds and just below them. */
static void test_signs(void)
{
	static const struct {
		struct hak_load load;
		unsigned level;
		enum hak_cause cause;
	} rows[] = {
		{ { 0 }, 0, HAK_CAUSE_NONE },
		{ { .lag_ms = 499, .window = 49, .events = 49, .table = 89 }, 0, HAK_CAUSE_NONE },
		{ { .lag_ms = 500 }, 1, HAK_CAUSE_STREAM },
		{ { .lag_ms = 1999 }, 1, HAK_CAUSE_STREAM },
		{ { .lag_ms = 2000 }, 2, HAK_CAUSE_STREAM },
		{ { .window = 50 }, 1, HAK_CAUSE_STREAM },
		{ { .window = 84 }, 1, HAK_CAUSE_STREAM },
		{ { .window = 85 }, 2, HAK_CAUSE_STREAM },
		{ { .events = 50 }, 1, HAK_CAUSE_EVENTS },
		{ { .events = 85 }, 2, HAK_CAUSE_EVENTS },
		{ { .table = 90 }, 1, HAK_CAUSE_TABLE },
		{ { .table = 96 }, 1, HAK_CAUSE_TABLE },
		{ { .table = 97 }, 2, HAK_CAUSE_TABLE },
		{ { .overrun = true }, 2, HAK_CAUSE_EVENTS },
		/* the worst one decides, and gives the name */
		{ { .lag_ms = 600, .table = 100 }, 2, HAK_CAUSE_TABLE },
	};

	for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct hak_pressure p = { 0 };

		EQUAL(step(&p, rows[i].load, 10), rows[i].level != 0);
		EQUAL(p.level, rows[i].level);
		EQUAL(p.cause, rows[i].cause);
	}
}

static void test_hysteresis(void)
{
	struct hak_pressure p = { 0 };

	CHECK(step(&p, LOAD(.lag_ms = 700), 10));
	EQUAL(p.level, 1);
	CHECK(!step(&p, LOAD(.lag_ms = 700), 10));
	CHECK(step(&p, LOAD(.lag_ms = 2500), 10));	/* up, at once */
	EQUAL(p.level, 2);
	/* less than what took it there, more than what lets it go: it stays, for ever */
	for (unsigned i = 0; i < 100; i++)
		CHECK(!step(&p, LOAD(.lag_ms = 1100), 100));
	EQUAL(p.level, 2);
	/* calm, but not for long enough, and again */
	CHECK(!step(&p, LOAD(0), 1990));
	CHECK(!step(&p, LOAD(.window = 50), 5));
	CHECK(!step(&p, LOAD(0), 1990));
	EQUAL(p.level, 2);
	/* down by one, though all is calm; the second one takes as long */
	CHECK(step(&p, LOAD(0), 20));
	EQUAL(p.level, 1);
	EQUAL(p.cause, HAK_CAUSE_STREAM);
	CHECK(!step(&p, LOAD(0), 1990));
	CHECK(step(&p, LOAD(0), 20));
	EQUAL(p.level, 0);
	EQUAL(p.cause, HAK_CAUSE_NONE);
	CHECK(!step(&p, LOAD(0), 100000));
	/* at 1 what would keep 1 keeps it, and 2 is reached from there at once */
	CHECK(step(&p, LOAD(.table = 91), 10));
	CHECK(!step(&p, LOAD(.table = 85), 100000));
	EQUAL(p.level, 1);
	CHECK(step(&p, LOAD(.overrun = true), 10));
	EQUAL(p.level, 2);
	EQUAL(p.cause, HAK_CAUSE_EVENTS);
	/* what it lasts for now is told: the table again */
	CHECK(!step(&p, LOAD(.table = 94), 100000));
	EQUAL(p.cause, HAK_CAUSE_TABLE);
	CHECK(!strcmp(hak_cause_name(p.cause), "table"));
}

static struct hak_flow born(uint8_t proto, uint16_t dport)
{
	struct hak_flow f;

	memset(&f, 0, sizeof f);
	f.l3 = AF_INET;
	f.l4proto = proto;
	f.l4kind = hak_l4kind_of(proto);
	f.orig = tuple("10.0.0.1", 4711, "10.0.0.2", dport);
	f.reply = hak_tuple_inverse(&f, &f.orig);
	f.have = HAK_HAS_REPLY | HAK_HAS_STATUS;
	f.status = IPS_CONFIRMED;
	return f;
}

/* From which level on does it wait?  3: never. */
static unsigned since(struct hak_flow f)
{
	unsigned level = 0;

	while (level <= HAK_PRESSURE_MAX && !hak_pressure_waits(level, &f))
		level++;
	return level;
}

static void test_who(void)
{
	static const uint32_t belongs[] = { HAK_HAS_MASTER, HAK_HAS_HELPER, HAK_HAS_SEQADJ };
	struct hak_flow f;

	EQUAL(since(born(17, 53)), 1);
	EQUAL(since(born(17, 123)), 1);
	EQUAL(since(born(1, 0x800)), 1);
	EQUAL(since(born(58, 0x8000)), 1);
	EQUAL(since(born(17, 443)), 2);
	EQUAL(since(born(6, 53)), 2);
	EQUAL(since(born(6, 443)), 2);
	EQUAL(since(born(47, 0)), 2);
	/* NATed: never */
	f = born(17, 53);
	f.status |= IPS_SRC_NAT;
	EQUAL(since(f), 3);
	f = born(6, 443);
	f.status |= IPS_DST_NAT;
	EQUAL(since(f), 3);
	/* UDP that goes to and fro: long-lived; of TCP it only says that it is open */
	f = born(17, 53);
	f.status |= IPS_SEEN_REPLY;
	EQUAL(since(f), 1);
	f.status |= IPS_ASSURED;
	EQUAL(since(f), 3);
	f = born(6, 443);
	f.status |= IPS_SEEN_REPLY | IPS_ASSURED;
	EQUAL(since(f), 2);
	/* helpers and their children */
	for (unsigned i = 0; i < 3; i++) {
		f = born(6, 21);
		f.have |= belongs[i];
		EQUAL(since(f), 3);
	}
	/* not known to be without NAT */
	f = born(17, 53);
	f.have = HAK_HAS_REPLY;
	EQUAL(since(f), 3);
}

static void test_over(void)
{
	static const uint8_t near[] = {
		TCP_CONNTRACK_LAST_ACK, TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE,
	};
	struct hak_flow f = born(6, 443);

	CHECK(!hak_pressure_over(&f));
	f.have |= HAK_HAS_TCP;
	for (uint8_t state = 0; state < TCP_CONNTRACK_MAX; state++) {
		bool one = state == near[0] || state == near[1] || state == near[2];

		f.tcp_state = state;
		EQUAL(hak_pressure_over(&f), one);
	}
}

int main(void)
{
	test_signs();
	test_hysteresis();
	test_who();
	test_over();
	return t_end();
}
