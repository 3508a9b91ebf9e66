/* Who is in the table while a comparison lasts: each once, in these slots, or nothing. */
#include "flows.h"
#include "hak_roll.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MANY = 3000, PAGE = 4096, PAGES = 160 };

static const uint8_t session_key[16] = "of this session";
static struct hak_digest d;
static struct hak_roll r;
static uint64_t map[HAK_DIGEST_MAP];

static struct hak_flow nth(unsigned n)
{
	struct hak_flow f = make_flow(n % 5 ? AF_INET : AF_INET6, n % 3 ? IPPROTO_TCP : IPPROTO_ESP);

	f.orig.src[3] = (uint8_t)n;
	f.orig.src[2] = (uint8_t)(n >> 8);
	return f;
}

/* How many are handed out; -1: too many. */
static int look(unsigned scan)
{
	struct hak_flow f;
	bool found;
	int n = 0;

	hak_roll_look(&r);
	while (!hak_roll_looked(&r)) {
		unsigned left = scan;

		do {
			if (hak_roll_next(&r, &d, map, &left, &f, &found))
				return -1;
			if (!found)
				continue;
			CHECK(hak_bit(map, hak_digest_slot(&d, &f)));
			n++;
		} while (found);
	}
	return n;
}

static void test_some(void)
{
	unsigned want = 0;

	CASE("some");
	hak_digest_begin(&d, 12, session_key, 16);
	hak_roll_begin(&r);
	for (unsigned i = 0; i < MANY; i++) {
		struct hak_flow f = nth(i);

		hak_roll_add(&r, &f);
		if (i % 7 == 0)
			hak_roll_add(&r, &f);		/* it ended and began anew */
		if (i % 50 == 0)
			hak_bit_set(map, hak_digest_slot(&d, &f));
	}
	for (unsigned i = 0; i < MANY; i++) {
		struct hak_flow f = nth(i);

		want += hak_bit(map, hak_digest_slot(&d, &f));
	}
	CHECK(want >= MANY / 50);
	for (unsigned scan = 1; scan < 5000; scan = scan * 3 + 1)
		EQUAL(look(scan), (int)want);
	memset(map, 0, sizeof map);
	EQUAL(look(100), 0);
	CHECK(r.whole);
	hak_roll_rest(&r);
	CHECK(!r.whole);
}

/* What an identity is, comes back as it was. */
static void test_identity(void)
{
	CASE("identity");
	for (unsigned i = 0; i < 60; i++) {
		struct hak_flow f = nth(i), got;
		unsigned scan = 1;
		bool found;

		f.zone = i % 4 ? (uint16_t)(i + 1) : 0;
		f.zone_dir = (uint8_t)(i % 4);
		memset(map, 0xff, sizeof map);
		hak_roll_begin(&r);
		hak_roll_add(&r, &f);
		hak_roll_look(&r);
		EQUAL(hak_roll_next(&r, &d, map, &scan, &got, &found), HAK_OK);
		CHECK(found);
		CHECK(hak_same_flow(&f, &got));
		EQUAL(hak_flow_hash(&f, d.key), hak_flow_hash(&got, d.key));
		CHECK(hak_roll_looked(&r));
	}
}

static unsigned resident(void *p)
{
	unsigned char in[PAGES];
	unsigned n = 0;

	NEED(!mincore(p, PAGES * PAGE, in));
	for (unsigned i = 0; i < PAGES; i++)
		n += in[i] & 1;
	return n;
}

/* The daemon locks all that it touches, and what is locked is not given up so easily. */
static void test_memory(void)
{
	CASE("memory");
	hak_roll_begin(&r);
	/* AddressSanitizer's mlock() does nothing */
	NEED(!syscall(SYS_mlock, r.seen, PAGES * PAGE) &&
	     !syscall(SYS_mlock, d.sums, PAGES * PAGE));
	for (unsigned i = 0; i < MANY; i++) {
		struct hak_flow f = nth(i);

		hak_roll_add(&r, &f);
		hak_digest_add_flow(&d, &f);
	}
	EQUAL(resident(r.seen), PAGES);
	EQUAL(resident(d.sums), PAGES);
	hak_roll_rest(&r);
	hak_digest_rest(&d);
	EQUAL(resident(r.seen), 0);
	EQUAL(resident(d.sums), 0);
	hak_roll_begin(&r);		/* and with nothing in it */
	memset(r.seen, 1, PAGES * PAGE);
	hak_roll_rest(&r);
	EQUAL(resident(r.seen), 0);
}

/* A roll that is not whole says nothing. */
static void test_too_many(void)
{
	unsigned i = 0;

	CASE("too many");
	memset(map, 0xff, sizeof map);
	hak_roll_begin(&r);
	for (; i < HAK_ROLL_SEEN; i++) {
		struct hak_flow f = nth(i);

		hak_roll_add(&r, &f);
	}
	CHECK(r.whole);
	EQUAL(look(1000), -1);
	CHECK(!r.whole);
	EQUAL(look(1000), -1);
	hak_roll_begin(&r);
	for (i = 0; r.whole; i++) {
		struct hak_flow f = nth(i);

		hak_roll_add(&r, &f);
		CHECK(r.len <= HAK_ROLL_SIZE);
	}
	CHECK(i > HAK_ROLL_SIZE / 60);
	EQUAL(look(1000), -1);
}

int main(void)
{
	EQUAL(hak_digest_init(&d), HAK_OK);
	EQUAL(hak_roll_init(&r), HAK_OK);
	test_some();
	test_identity();
	test_memory();
	test_too_many();
	hak_roll_free(&r);
	hak_digest_free(&d);
	return t_end();
}
