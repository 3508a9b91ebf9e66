/* Two tables compared without sending either: sums, dirt, scope, identity and state. */
#include "flows.h"
#include "hak_digest.h"

enum { MANY = 5000 };

static const uint8_t session_key[16] = "of this session";
static struct hak_digest a, b;

static struct hak_flow nth(unsigned n)
{
	struct hak_flow f = make_flow(AF_INET, n % 3 ? IPPROTO_TCP : IPPROTO_UDP);

	f.orig = tuple("10.71.0.10", 1024 + n % 50000, "10.72.0.10", 80 + n / 50000);
	f.reply = hak_tuple_inverse(&f, &f.orig);
	f.mark = n;
	return f;
}

static void both(unsigned bits, uint32_t round)
{
	hak_digest_begin(&a, bits, session_key, round);
	hak_digest_begin(&b, bits, session_key, round);
}

static uint64_t total(const struct hak_digest *d)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < hak_digest_nodes(d, HAK_DIGEST_TOP); i++)
		sum += hak_digest_sum(d, HAK_DIGEST_TOP, i);
	return sum;
}

static void test_bits(void)
{
	CASE("bits");
	EQUAL(hak_digest_bits(0), HAK_DIGEST_BITS_MIN);
	EQUAL(hak_digest_bits(4096), 12);
	EQUAL(hak_digest_bits(4097), 13);
	EQUAL(hak_digest_bits(1000000), 20);
	EQUAL(hak_digest_bits(UINT64_MAX), HAK_DIGEST_BITS_MAX);
}

/* Any order is the same sum; a node's is its children's; one change is in one slot. */
static void test_sums(void)
{
	struct hak_flow f;
	uint32_t slot;

	for (unsigned bits = HAK_DIGEST_BITS_MIN; bits <= HAK_DIGEST_BITS_MAX; bits += 4) {
		CASE("sums of %u bits", bits);
		both(bits, 16);
		for (unsigned i = 0; i < MANY; i++) {
			f = nth(i);
			hak_digest_add_flow(&a, &f);
			f = nth(MANY - 1 - i);
			hak_digest_add_flow(&b, &f);
		}
		for (uint32_t i = 0; i < hak_digest_nodes(&a, 0); i++)
			if (!CHECK(hak_digest_sum(&a, 0, i) == hak_digest_sum(&b, 0, i)))
				break;
		for (unsigned shift = HAK_DIGEST_FAN; shift <= HAK_DIGEST_TOP; shift += HAK_DIGEST_FAN)
			for (uint32_t i = 0; i < hak_digest_nodes(&a, shift); i++) {
				uint64_t sum = 0;

				for (uint32_t k = 0; k < 16; k++)
					sum += hak_digest_sum(&a, shift - HAK_DIGEST_FAN, i * 16 + k);
				if (!CHECK(sum == hak_digest_sum(&a, shift, i)))
					break;
			}
		f = nth(MANY);
		slot = hak_digest_slot(&a, &f);
		CHECK(slot < hak_digest_nodes(&a, 0));
		hak_digest_add_flow(&a, &f);
		for (unsigned shift = 0; shift <= HAK_DIGEST_TOP; shift += HAK_DIGEST_FAN)
			for (uint32_t i = 0; i < hak_digest_nodes(&a, shift); i++)
				if (!CHECK((hak_digest_sum(&a, shift, i) != hak_digest_sum(&b, shift, i)) ==
					   (i == slot >> shift)))
					break;
	}
}

/* Tables of which a third differs: in what is told of their sums, whole nodes may look equal
 * (then all children are looked into), but a slot beside one that shows, which would go
 * unnoticed until the next round, must be rare where a copy is dear beside the sums. */
static void test_brief(void)
{
	static const struct { unsigned bits, size, of_slots; } t[] = {
		{ 12, 4, 4 }, { 14, 4, 4 }, { 15, 2, 2 }, { 17, 2, 2 }, { 18, 2, 1 }, { 20, 2, 1 },
	};
	const uint64_t sum = 0x0123456789abcdefu;

	CASE("brief sums");
	for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
		both(t[i].bits, 16);
		EQUAL(hak_digest_brief_size(&a, 8), t[i].size);
		EQUAL(hak_digest_brief_size(&a, 4), t[i].size);
		EQUAL(hak_digest_brief_size(&a, 0), t[i].of_slots);
	}
	EQUAL(hak_digest_brief(sum, 1, 0), 0xef);
	EQUAL(hak_digest_brief(sum, 2, 16), 0xcdef);
	EQUAL(hak_digest_brief(sum, 2, 17), 0x89ab);
	EQUAL(hak_digest_brief(sum, 4, 18), 0x01234567);
	EQUAL(hak_digest_brief(sum, 4, 19), 0xcdef0123);
	EQUAL(hak_digest_brief(sum, 1, 35), 0x23);
	for (unsigned bits = 12, hidden = 0; bits <= 16; bits += 4, hidden = 0) {
		both(bits, 16);
		for (unsigned n = 0; n < MANY; n++) {
			struct hak_flow f = nth(n);

			hak_digest_add_flow(&a, &f);
			if (n % 3)
				hak_digest_add_flow(&b, &f);
		}
		for (uint32_t s = 0; s < hak_digest_nodes(&a, 0); s++) {
			unsigned size = hak_digest_brief_size(&a, 0);
			uint64_t x = hak_digest_sum(&a, 0, s), y = hak_digest_sum(&b, 0, s);

			hidden += x != y && hak_digest_brief(x, size, 0) == hak_digest_brief(y, size, 0);
		}
		EQUAL(hidden, 0);
	}
}

/* Twice is not nothing, and two that swapped their states do not cancel out. */
static void test_no_cancelling(void)
{
	struct hak_flow f = nth(1), g = nth(2);

	CASE("cancelling");
	both(12, 16);
	hak_digest_add_flow(&a, &f);
	hak_digest_add_flow(&a, &f);
	CHECK(total(&a) != 0);
	hak_digest_restart(&a);
	EQUAL(total(&a), 0);
	hak_digest_add_flow(&a, &f);
	hak_digest_add_flow(&a, &g);
	f.mark = 2;
	g.mark = 1;
	hak_digest_add_flow(&b, &f);
	hak_digest_add_flow(&b, &g);
	CHECK(total(&a) != total(&b));
}

/* Other rounds and sessions, other slots: strangers cannot aim at one. */
static void test_keys(void)
{
	uint8_t other_key[16] = "of another";
	unsigned same = 0, same_session = 0;

	CASE("keys");
	for (unsigned i = 0; i < 1000; i++) {
		struct hak_flow f = nth(i);
		uint32_t slot;

		hak_digest_begin(&a, 20, session_key, 16);
		slot = hak_digest_slot(&a, &f);
		hak_digest_begin(&b, 20, session_key, 32);
		same += hak_digest_slot(&b, &f) == slot;
		hak_digest_begin(&b, 20, other_key, 16);
		same_session += hak_digest_slot(&b, &f) == slot;
	}
	CHECK(same < 5 && same_session < 5);
}

/* What is state is seen; what is not, is not. */
static void test_content(void)
{
	const struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_flow g;

#define DIFFERS(want, ...) \
	do { g = f; __VA_ARGS__; CHECK(hak_flow_differs(&f, &g) == (want)); } while (0)
	CASE("content");
	DIFFERS(false, (void)0);
	DIFFERS(true, g.mark ^= 1);
	DIFFERS(true, g.reply.dport++);
	DIFFERS(true, g.reply.dst[3]++);
	DIFFERS(true, g.tcp_state = TCP_CONNTRACK_FIN_WAIT);
	DIFFERS(true, g.tcp_state = TCP_CONNTRACK_SYN_RECV);
	DIFFERS(true, g.tcp_wscale[1]++);
	DIFFERS(true, g.status &= ~(uint32_t)IPS_ASSURED);
	DIFFERS(true, g.labels[3] = 1);
	DIFFERS(true, strcpy(g.helper, "ftp"));
	DIFFERS(true, g.have |= HAK_HAS_MASTER; g.master.sport = 1);
	DIFFERS(true, g.have |= HAK_HAS_SEQADJ; g.seqadj[1].after = 1);
	DIFFERS(true, g.have |= HAK_HAS_SYNPROXY; g.synproxy[0] = 1);
	DIFFERS(false, g.have |= HAK_HAS_SEQADJ);	/* all zero is none */
	DIFFERS(false, g.have |= HAK_HAS_SYNPROXY);
	/* states that need not be told are one: hak_tcp.h */
#define SAME_CLASS(of, other, bits) DIFFERS(false, g = f; g.tcp_state = (of); \
	struct hak_flow h = g; h.tcp_state = (other); h.status ^= (bits); \
	CHECK(!hak_flow_differs(&g, &h)); h.mark ^= 1; CHECK(hak_flow_differs(&g, &h)); g = f)
	SAME_CLASS(TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK_SYN_RECV, IPS_SEEN_REPLY);
	SAME_CLASS(TCP_CONNTRACK_SYN_SENT2, TCP_CONNTRACK_SYN_RECV, IPS_SEEN_REPLY);
	SAME_CLASS(TCP_CONNTRACK_FIN_WAIT, TCP_CONNTRACK_CLOSE_WAIT, 0);
	SAME_CLASS(TCP_CONNTRACK_FIN_WAIT, TCP_CONNTRACK_LAST_ACK, 0);
	SAME_CLASS(TCP_CONNTRACK_FIN_WAIT, TCP_CONNTRACK_TIME_WAIT, 0);
	SAME_CLASS(TCP_CONNTRACK_FIN_WAIT, TCP_CONNTRACK_CLOSE, 0);
#undef SAME_CLASS
	DIFFERS(false, g.timeout = 5);
	DIFFERS(false, g.packets = 5);
	DIFFERS(false, g.tcp_flags[0] |= IP_CT_TCP_FLAG_BE_LIBERAL);
	DIFFERS(false, g.status |= IPS_FIXED_TIMEOUT | IPS_CONFIRMED);
#undef DIFFERS
	g = f;
	g.have &= ~(uint32_t)HAK_HAS_MARK;
	CHECK(hak_flow_differs(&f, &g));
}

/* Dirty slots count nowhere; the next round has them, and the marked ones, alone. */
static void test_rounds(void)
{
	struct hak_flow dirty = nth(1), marked = nth(2), quiet = nth(3);
	uint32_t ds, ms, qs;

	CASE("rounds");
	both(16, 16);
	ds = hak_digest_slot(&a, &dirty);
	ms = hak_digest_slot(&a, &marked);
	qs = hak_digest_slot(&a, &quiet);
	NEED(ds != ms && ms != qs && ds != qs);
	CHECK(a.open);
	hak_digest_add_flow(&a, &dirty);
	hak_digest_add_flow(&a, &marked);
	hak_digest_add_flow(&a, &quiet);
	CHECK(hak_digest_sum(&a, 0, ds) != 0);
	hak_bit_set(a.dirty, ds);
	EQUAL(hak_digest_sum(&a, 0, ds), 0);
	EQUAL(hak_digest_dirty(&a), 1);
	hak_bit_set(a.marked, ms);
	EQUAL(hak_digest_marks(&a), 1);

	hak_digest_again(&a);
	EQUAL(hak_digest_dirty(&a) + hak_digest_marks(&a), 0);
	hak_digest_add_flow(&a, &dirty);
	hak_digest_add_flow(&a, &marked);
	hak_digest_add_flow(&a, &quiet);
	CHECK(hak_digest_sum(&a, 0, ds) != 0 && hak_digest_sum(&a, 0, ms) != 0);
	EQUAL(hak_digest_sum(&a, 0, qs), 0);
	/* a slot that gets dirty and is not in scope is nobody's business */
	hak_bit_set(a.dirty, qs);
	EQUAL(hak_digest_dirty(&a), 0);
	hak_bit_set(a.dirty, ds);
	hak_digest_mark_dirty(&a);
	EQUAL(hak_digest_marks(&a), 1);
	CHECK(hak_bit(a.marked, ds) && !hak_bit(a.marked, qs));
}

static void test_expectations(void)
{
	struct hak_expect x = { .l3 = AF_INET, .l4proto = IPPROTO_TCP, .l4kind = HAK_L4_PORTS,
				.master_l4proto = IPPROTO_TCP, .master_l4kind = HAK_L4_PORTS };
	struct hak_expect y;

	CASE("expectations");
	x.tuple = tuple("10.72.0.10", 0, "10.71.0.10", 4000);
	x.mask = tuple("255.255.255.255", 0, "255.255.255.255", 0xffff);
	x.master = tuple("10.71.0.10", 4711, "10.72.0.10", 21);
	both(12, 16);
	hak_digest_add_expect(&a, &x);
	CHECK(total(&a) != 0);
	y = x;
	y.timeout = 99;
	strcpy(y.helper, "ftp");
	hak_digest_add_expect(&b, &y);
	CHECK(total(&a) == total(&b));
	/* its end is told without a zone */
	y.zone = 5;
	y.zone_dir = HAK_ZONE_BOTH;
	EQUAL(hak_digest_expect_slot(&a, &x), hak_digest_expect_slot(&a, &y));
	y = x;
	y.class_ = 1;
	hak_digest_restart(&b);
	hak_digest_add_expect(&b, &y);
	CHECK(total(&a) != total(&b));
}

/* The memory that rests is zero when it is used again. */
static void test_rest(void)
{
	struct hak_flow f = nth(1);

	CASE("rest");
	both(20, 16);
	hak_digest_add_flow(&a, &f);
	hak_digest_rest(&a);
	CHECK(!a.open);
	both(20, 32);
	EQUAL(total(&a), 0);
	hak_digest_add_flow(&a, &f);
	hak_digest_add_flow(&b, &f);
	CHECK(total(&a) == total(&b) && total(&a) != 0);
}

int main(void)
{
	NEED(!hak_digest_init(&a) && !hak_digest_init(&b));
	test_bits();
	test_sums();
	test_brief();
	test_no_cancelling();
	test_keys();
	test_content();
	test_rounds();
	test_expectations();
	test_rest();
	hak_digest_free(&a);
	hak_digest_free(&b);
	return t_end();
}
