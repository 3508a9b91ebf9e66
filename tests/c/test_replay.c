/* The replay window: a numbered table, and the same answers as a model that is too
 * simple to be wrong. */
#include <assert.h>
#include "hak_replay.h"
#include "t.h"

enum { W = HAK_REPLAY_WINDOW, BITS = HAK_REPLAY_BITS };

static struct hak_replay r;

static void take(int number, uint64_t seq, bool want)
{
	CASE("%d: %llu", number, (unsigned long long)seq);
	CHECK(hak_replay_take(&r, seq) == want);
	CASE("%s", "");
}

static void test_table(void)
{
	hak_replay_init(&r);
	take(1, 0, true);
	take(2, 1, true);
	take(3, 1, false);
	take(4, 9, true);
	take(5, 8, true);
	take(6, 7, true);
	take(7, 7, false);
	take(8, W, true);
	take(9, W - 1, true);
	take(10, W - 1, false);
	take(11, W - 2, true);
	take(12, 2, true);
	take(13, 2, false);
	take(14, W + 16, true);
	take(15, 3, false);			/* never seen, but too old by now */
	take(16, W + 16, false);
	take(17, W * 4, true);
	take(18, W * 4 - (W - 1), true);	/* the oldest that still counts */
	take(19, 10, false);
	take(20, W * 4 - W, false);		/* one older */
	take(21, W * 4 - (W + 1), false);
	take(22, W * 4 - (W - 2), true);
	take(23, W * 4 + 1 - W, false);		/* 18 again */
	take(24, 0, false);
	take(25, UINT64_MAX, false);		/* nothing could follow it */
	take(26, UINT64_MAX - 1, true);
	take(27, UINT64_MAX - 1, false);
	take(28, UINT64_MAX, false);
	take(29, UINT64_MAX - 2, true);
	take(30, UINT64_MAX - 1 - (W - 1), true);
	take(31, UINT64_MAX - 1 - W, false);
	take(32, W * 4 + 5, false);
	take(33, 0, false);
}

/* The first sequence ever may be any: a peer's counter need not begin at 0. */
static void test_first_is_huge(void)
{
	static const uint64_t first[] = {
		W, BITS, BITS + 1, UINT64_C(1) << 32, (UINT64_C(1) << 63) + 63, UINT64_MAX - 1,
	};

	for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
		hak_replay_init(&r);
		take(100, first[i], true);
		take(101, first[i], false);
		take(102, first[i] - (W - 1), true);
		take(103, first[i] - (W - 1), false);
		take(104, first[i] - W, false);
		take(105, first[i] - 1, true);
		take(106, 0, false);
	}
}

/* Everything below the window, once up and once down (after WireGuard's selftest). */
static void test_sweeps(void)
{
	hak_replay_init(&r);
	for (uint64_t i = 1; i < W; i++)
		take(200, i, true);
	take(201, 0, true);
	take(202, 0, false);

	hak_replay_init(&r);
	for (uint64_t i = 2; i <= W; i++)
		take(203, i, true);
	take(204, 1, true);
	take(205, 0, false);

	hak_replay_init(&r);
	for (uint64_t i = W; i-- > 0;)
		take(206, i, true);
	for (uint64_t i = W; i-- > 0;)
		take(207, i, false);

	hak_replay_init(&r);
	for (uint64_t i = W + 1; i-- > 1;)
		take(208, i, true);
	take(209, 0, false);
}

/* Jumps of every size leave exactly what is in the window behind them. */
static void test_jumps(void)
{
	for (uint64_t jump = 1; jump <= 3 * BITS; jump++)
		for (uint64_t start = 0; start < 130; start += 43) {
			uint64_t top = start + jump;

			hak_replay_init(&r);
			take(300, start, true);
			take(301, top, true);
			take(302, start, false);
			if (jump > 1)
				take(303, top - 1, true);
			if (top >= W - 1 && top - (W - 1) != start && jump != W)
				take(304, top - (W - 1), true);
			if (top >= W)
				take(305, top - W, false);
		}
}

/* ---- the model ------------------------------------------------------- */

/* Numbers less than 4096 apart have slots of their own; of two in one slot the older
 * one is out of any window. */
enum { MODEL = 4096 };
static_assert((int)MODEL > (int)BITS, "two numbers of one window never share a slot");

static struct {
	uint64_t top;			/* highest taken */
	bool any;
	uint64_t taken[MODEL];
	bool used[MODEL];
} m;

static bool model_take(uint64_t seq)
{
	if (seq == UINT64_MAX)
		return false;
	if (m.any && seq < m.top && m.top - seq >= W)
		return false;
	if (m.used[seq % MODEL] && m.taken[seq % MODEL] == seq)
		return false;
	m.used[seq % MODEL] = true;
	m.taken[seq % MODEL] = seq;
	if (!m.any || seq > m.top)
		m.top = seq;
	m.any = true;
	return true;
}

static uint64_t next_number(uint64_t near)
{
	static const uint64_t jumps[] = {
		1, 63, 64, 65, W - 1, W, W + 1, BITS - 1, BITS, BITS + 1, 2 * BITS, 1 << 20,
		UINT64_C(1) << 40, UINT64_C(1) << 62,
	};
	unsigned kind = t_below(1000);

	uint64_t back = t_below(kind < 800 ? 80 : W + 80);

	if (kind < 900)			/* around the top, mostly behind it */
		return near + 4 > back ? near + 4 - back : t_below(100);
	if (kind < 990)			/* ahead, by a little or to an edge */
		return near + 1 + t_below(200);
	if (kind < 998)
		return near + jumps[t_below(sizeof jumps / sizeof *jumps)];
	return t_random();
}

static void test_against_model(void)
{
	for (unsigned round = 0; round < 300; round++) {
		hak_replay_init(&r);
		memset(&m, 0, sizeof m);
		uint64_t start = round % 3 == 0 ? 0 : round % 3 == 1 ? t_random() : t_below(10000);

		for (unsigned i = 0; i < 5000; i++) {
			uint64_t seq = i ? next_number(m.top) : start;
			bool want = model_take(seq);

			CASE("round %u, step %u: %llu, top %llu", round, i,
			     (unsigned long long)seq, (unsigned long long)m.top);
			if (!CHECK(hak_replay_take(&r, seq) == want))
				return;
		}
	}
	CASE("%s", "");
}

int main(void)
{
	test_table();
	test_first_is_huge();
	test_sweeps();
	test_jumps();
	test_against_model();
	return t_end();
}
