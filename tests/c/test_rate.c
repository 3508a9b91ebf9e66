/* So many a second and so many at once: the clock is a number here. */
#include "hak_rate.h"
#include "t.h"

enum { EACH = 1000, BURST = 8, SECOND = 1000000 };

static unsigned take(struct hak_rate *r, uint64_t now, unsigned times)
{
	unsigned got = 0;

	while (times--)
		got += hak_rate_take(r, now, EACH, BURST);
	return got;
}

static void test_burst(void)
{
	struct hak_rate r = { 0 };

	EQUAL(take(&r, SECOND, 100), BURST);
	EQUAL(take(&r, SECOND + EACH - 1, 100), 0);
	EQUAL(take(&r, SECOND + EACH, 100), 1);
	EQUAL(take(&r, SECOND + 4 * EACH, 100), 3);
	/* rest is not saved up beyond a burst */
	EQUAL(take(&r, 3600ull * SECOND, 100), BURST);
}

static void test_one_at_once(void)
{
	struct hak_rate r = { 0 };

	EQUAL(hak_rate_take(&r, EACH, EACH, 1), true);
	EQUAL(hak_rate_take(&r, 2 * EACH - 1, EACH, 1), false);
	EQUAL(hak_rate_take(&r, 2 * EACH, EACH, 1), true);
}

/* Whatever is asked and when: in no span more than the rate and a burst, and who keeps
 * below the rate is never refused, however long a flood before it was. */
static void test_any(void)
{
	struct hak_rate r = { 0 };
	uint64_t began = SECOND, now = began;
	unsigned got = 0;

	for (unsigned n = 0; n < 100000; n++) {
		now += t_below(EACH / 4);
		got += take(&r, now, 1 + t_below(20));
		if (got > BURST + (now - began) / EACH)
			break;
	}
	CHECK(got <= BURST + (now - began) / EACH);
	CHECK(got >= (now - began) / EACH);		/* the flood uses it up */
	for (unsigned n = 0; n < 1000; n++) {
		now += EACH;
		EQUAL(take(&r, now, 1), 1);
	}
}

int main(void)
{
	test_burst();
	test_one_at_once();
	test_any();
	return t_end();
}
