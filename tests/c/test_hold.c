/* Connections too young to be told of: the ring and its index. */
#include "hak_hold.h"
#include "flows.h"

static struct hak_flow nth(unsigned n)
{
	struct hak_flow f;

	memset(&f, 0, sizeof f);
	f.l3 = AF_INET;
	f.l4proto = 17;
	f.l4kind = HAK_L4_PORTS;
	f.orig = tuple("10.0.0.1", n & 0xffff, "10.0.0.2", n >> 16);
	return f;
}

/* Few hashes for many, so that searches run into each other, round the end too. */
static uint64_t hash(unsigned n)
{
	return HAK_HOLD_SLOTS - 8 + n % 13;
}

static void test_order(struct hak_hold *h)
{
	struct hak_flow f, got;

	for (unsigned i = 0; i < 100; i++) {
		f = nth(i);
		hak_hold_put(h, &f, hash(i), 1000 + i);
		hak_hold_put(h, &f, hash(i), 5000);	/* twice is once */
	}
	EQUAL(h->live, 100);
	EQUAL(hak_hold_due(h), 1000);
	for (unsigned i = 0; i < 100; i += 3) {
		f = nth(i);
		CHECK(hak_hold_drop(h, &f, hash(i)));
		CHECK(!hak_hold_drop(h, &f, hash(i)));
	}
	for (unsigned i = 0; i < 100; i++) {
		f = nth(i);
		EQUAL(hak_hold_has(h, &f, hash(i)), i % 3 != 0);
	}
	EQUAL(hak_hold_due(h), 1001);
	CHECK(!hak_hold_take(h, 1000, &got));
	for (unsigned i = 0; i < 100; i++) {
		if (i % 3 == 0)
			continue;
		f = nth(i);
		CHECK(hak_hold_take(h, 1000 + i, &got));
		CHECK(!memcmp(&got, &f, sizeof f));
	}
	EQUAL(h->live, 0);
	EQUAL(hak_hold_due(h), UINT64_MAX);
	CHECK(!hak_hold_take(h, UINT64_MAX, &got));
}

static void test_full(struct hak_hold *h)
{
	struct hak_flow f, got;

	for (unsigned i = 0; i < HAK_HOLD_MAX; i++) {
		f = nth(i);
		CHECK(!hak_hold_full(h));
		hak_hold_put(h, &f, (uint64_t)i * 2654435761u, i);
	}
	CHECK(hak_hold_full(h));
	f = nth(HAK_HOLD_MAX);
	hak_hold_put(h, &f, 1, 1);
	EQUAL(h->live, HAK_HOLD_MAX);
	CHECK(!hak_hold_has(h, &f, 1));
	/* one struck out in the middle makes no place, the oldest one does */
	f = nth(5);
	CHECK(hak_hold_drop(h, &f, 5ull * 2654435761u));
	CHECK(hak_hold_full(h));
	f = nth(0);
	CHECK(hak_hold_drop(h, &f, 0));
	CHECK(!hak_hold_full(h));
	for (unsigned n = 0; hak_hold_take(h, UINT64_MAX, &got); n++)
		CHECK(n < HAK_HOLD_MAX);
	EQUAL(h->live, 0);
	for (unsigned i = 0; i < HAK_HOLD_SLOTS; i++)
		if (h->index[i])
			CHECK(!"a slot that was left behind");
	hak_hold_clear(h);
}

int main(void)
{
	struct hak_hold *h;

	NEED(hak_hold_new(&h) == HAK_OK);
	test_order(h);
	test_order(h);
	test_full(h);
	test_order(h);
	hak_hold_free(h);
	return t_end();
}
