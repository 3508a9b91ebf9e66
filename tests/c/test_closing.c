/* Closing connections that the peer was told of: which update is news. */
#include "hak_closing.h"
#include "flows.h"

enum { MIX = 1 << 20, CROWD = 256, SETS = HAK_CLOSING_SETS };

static struct hak_closing c;

static struct hak_flow closing(uint8_t state)
{
	struct hak_flow f;

	memset(&f, 0, sizeof f);
	f.l3 = AF_INET;
	f.l4proto = IPPROTO_TCP;
	f.have = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_TIMEOUT | HAK_HAS_TCP |
		 HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE;
	f.status = IPS_SEEN_REPLY | IPS_ASSURED;
	f.tcp_state = state;
	f.tcp_flags[0] = IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_CLOSE_INIT;
	f.tcp_wscale[0] = 7;
	return f;
}

static bool told(const struct hak_flow *f, uint64_t hash)
{
	return hak_closing_told(&c, f, hash);
}

static void test_states(void)
{
	static const uint8_t later[] = {
		TCP_CONNTRACK_CLOSE_WAIT, TCP_CONNTRACK_LAST_ACK, TCP_CONNTRACK_TIME_WAIT,
	};
	struct hak_flow f = closing(TCP_CONNTRACK_FIN_WAIT);

	for (unsigned state = 0; state < TCP_CONNTRACK_MAX; state++) {
		f.tcp_state = (uint8_t)state;
		EQUAL(hak_closing_is(&f), state >= TCP_CONNTRACK_FIN_WAIT &&
					  state <= TCP_CONNTRACK_TIME_WAIT);
	}
	f.have &= ~(uint32_t)HAK_HAS_TCP;
	CHECK(!hak_closing_is(&f));
	for (unsigned i = 0; i < sizeof later; i++) {
		CASE("state %u", later[i]);
		f = closing(later[i]);
		CHECK(!told(&f, 100 + i));	/* the first FIN was not told */
		CHECK(told(&f, 100 + i));
		f = closing(TCP_CONNTRACK_FIN_WAIT);
		CHECK(!told(&f, 100 + i));	/* perhaps another life's */
		f = closing(later[i]);
		CHECK(told(&f, 100 + i));
		hak_closing_forget(&c, 100 + i + SETS);	/* another one's place */
		CHECK(told(&f, 100 + i));
		hak_closing_forget(&c, 100 + i);
		CHECK(!told(&f, 100 + i));
	}
}

static void test_news(void)
{
	struct hak_flow first = closing(TCP_CONNTRACK_FIN_WAIT), f;

#define NEWS(change) do { \
		CASE("%s", #change); \
		hak_closing_forget(&c, 7); \
		CHECK(!told(&first, 7)); \
		f = closing(TCP_CONNTRACK_LAST_ACK); \
		CHECK(told(&f, 7)); \
		change; \
		CHECK(!told(&f, 7)); \
	} while (0)
	NEWS(f.mark = 1);
	NEWS(f.status = IPS_SEEN_REPLY);
	NEWS(f.tcp_flags[1] |= IP_CT_TCP_FLAG_CLOSE_INIT);
	NEWS(f.tcp_wscale[1] = 3);
	NEWS(f.have |= HAK_HAS_LABELS);
	NEWS(f.have |= HAK_HAS_SEQADJ);
	NEWS(f.have |= HAK_HAS_HELPER);
	NEWS(f.have |= HAK_HAS_MASTER);
	NEWS(f.have |= HAK_HAS_SYNPROXY);
#undef NEWS
	CASE("what the tracker has seen is its own business");
	CHECK(!told(&first, 7));
	f = closing(TCP_CONNTRACK_LAST_ACK);
	f.tcp_flags[1] |= IP_CT_TCP_FLAG_MAXACK_SET | IP_CT_TCP_FLAG_BE_LIBERAL;
	CHECK(told(&f, 7));
}

/* A place that several want is not taken from one another at every turn. */
static void test_crowd(void)
{
	struct hak_flow f = closing(TCP_CONNTRACK_FIN_WAIT), g = closing(TCP_CONNTRACK_LAST_ACK);
	unsigned twice = 0;

	CASE("one set");
	memset(&c, 0, sizeof c);
	for (unsigned i = 0; i <= HAK_CLOSING_WAYS; i++)
		CHECK(!told(&f, 5 + i * (uint64_t)SETS));
	for (unsigned i = HAK_CLOSING_WAYS; i > 0; i--)
		CHECK(told(&g, 5 + i * (uint64_t)SETS));
	CHECK(!told(&g, 5));			/* the oldest one went */

	CASE("a crowd");
	memset(&c, 0, sizeof c);
	for (unsigned i = 0; i < 64 * CROWD; i++) {
		static uint64_t hash[CROWD];

		if (i >= CROWD)
			twice += !told(&g, hash[i % CROWD]);
		hash[i % CROWD] = t_random();
		CHECK(!told(&f, hash[i % CROWD]));
	}
	CASE("a crowd: %u of %u told twice", twice, 63 * CROWD);
	CHECK(twice < CROWD);			/* some 15; 1,800 with sets of one */
}

/* Lives of a few tuples that share places, their updates in any order and repeated: that
 * a life closes is always told. */
static void test_lives(void)
{
	enum { TUPLES = 40, LIVES = 1, KNOWN = 2 };
	static unsigned state[TUPLES];

	CASE("lives");
	memset(&c, 0, sizeof c);
	for (unsigned i = 0; i < MIX; i++) {
		unsigned n = (unsigned)(t_random() % TUPLES);
		uint64_t hash = 1 + n % 10 + (uint64_t)(n / 10) * SETS;
		uint8_t as = (uint8_t)(TCP_CONNTRACK_FIN_WAIT + t_random() % 4);
		struct hak_flow f = closing(as);

		if (t_random() % 5 == 0) {		/* NEW */
			hak_closing_forget(&c, hash);
			state[n] = LIVES;
			continue;
		}
		if (!state[n])
			continue;
		if (!told(&f, hash))
			state[n] = KNOWN;
		else if (state[n] != KNOWN)
			FAIL("not told that it closes");
	}
}

int main(void)
{
	test_states();
	test_news();
	test_crowd();
	test_lives();
	return t_end();
}
