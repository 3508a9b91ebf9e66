/* The lease: when it is on, when it lapses, what gives it back. */
#include "hak_lease.h"
#include "t.h"

enum { MS = 1000000 };

static struct hak_lease_facts at(unsigned ms, bool heard, bool peer_active)
{
	return (struct hak_lease_facts){
		.now = (uint64_t)ms * MS, .length = 187 * MS, .active = true,
		.heard = heard, .peer_active = peer_active, .echoed_ns = 0,
	};
}

static void test_off(void)
{
	struct hak_lessee l = { 0 };
	struct hak_lease_facts f = at(1000, true, false);

	f.active = false;
	CHECK(!hak_lease_step(&l, &f));
	EQUAL(l.state, HAK_LEASE_OFF);
	CHECK(l.until == HAK_LEASE_FOREVER);
	f = at(1050, false, false);	/* alone */
	CHECK(!hak_lease_step(&l, &f));
	f = at(1100, true, true);	/* two actives: the election's business */
	CHECK(!hak_lease_step(&l, &f));
	CHECK(l.until == HAK_LEASE_FOREVER);
}

static void test_renewed(void)
{
	struct hak_lessee l = { 0 };

	for (unsigned ms = 0; ms < 5000; ms += 50) {
		struct hak_lease_facts f = at(ms, true, false);

		EQUAL(hak_lease_step(&l, &f), ms == 0);
		EQUAL(l.state, HAK_LEASE_ON);
		EQUAL(l.until, f.now + f.length);
	}
	/* just in time, then one too late */
	struct hak_lease_facts f = at(4950 + 186, true, false);
	CHECK(!hak_lease_step(&l, &f));
	f = at(4950 + 186 + 187, true, false);
	CHECK(hak_lease_step(&l, &f));
	EQUAL(l.state, HAK_LEASE_LAPSED);
	EQUAL(l.until, 0);
}

static struct hak_lessee lapsed(void)
{
	struct hak_lessee l = { 0 };
	struct hak_lease_facts f = at(0, true, false);

	(void)hak_lease_step(&l, &f);
	f = at(1000, true, false);
	CHECK(hak_lease_step(&l, &f));
	EQUAL(l.state, HAK_LEASE_LAPSED);
	return l;
}

static void test_lapsed(void)
{
	struct hak_lessee l = lapsed();
	struct hak_lease_facts f = at(1001, true, false);

	/* what waited in our socket says nothing of now */
	f.echoed_ns = 999 * MS;
	CHECK(!hak_lease_step(&l, &f));
	EQUAL(l.until, 0);
	f = at(1050, true, false);
	f.echoed_ns = 1000ull * MS;
	CHECK(hak_lease_step(&l, &f));
	EQUAL(l.state, HAK_LEASE_ON);
	EQUAL(l.until, f.now + f.length);

	/* it took over: closed until this node is passive */
	l = lapsed();
	for (unsigned ms = 1050; ms < 9000; ms += 50) {
		f = at(ms, true, true);
		f.echoed_ns = f.now;
		CHECK(!hak_lease_step(&l, &f));
		EQUAL(l.until, 0);
	}
	f.active = false;
	CHECK(hak_lease_step(&l, &f));
	EQUAL(l.state, HAK_LEASE_OFF);

	/* it is gone: alone again */
	l = lapsed();
	f = at(1200, false, false);
	CHECK(hak_lease_step(&l, &f));
	EQUAL(l.state, HAK_LEASE_OFF);
	CHECK(l.until == HAK_LEASE_FOREVER);
}

/* The gate of a passive node, open for a hand-over. */
static void test_armed(void)
{
	struct hak_lessee l = { .state = HAK_LEASE_ON, .until = 187 * MS };
	struct hak_lease_facts f = at(50, true, true);

	f.active = false;
	f.armed = f.prepared = true;
	CHECK(!hak_lease_step(&l, &f));
	EQUAL(l.until, f.now + f.length);
	/* the peer says no more that it goes on: nothing is renewed */
	f.now = 100 * MS;
	f.prepared = false;
	CHECK(!hak_lease_step(&l, &f));
	EQUAL(l.until, (50 + 187) * MS);
	/* stopped, and running on: closed, though the peer's old word is read first */
	f.now = 900 * MS;
	f.prepared = true;
	CHECK(hak_lease_step(&l, &f));
	EQUAL(l.state, HAK_LEASE_LAPSED);
	EQUAL(l.until, 0);
	f.now = 950 * MS;
	CHECK(!hak_lease_step(&l, &f));
	EQUAL(l.until, 0);
	/* the gate was closed */
	f.armed = false;
	CHECK(hak_lease_step(&l, &f));
	EQUAL(l.state, HAK_LEASE_OFF);
	CHECK(l.until == HAK_LEASE_FOREVER);
}

int main(void)
{
	test_armed();
	test_off();
	test_renewed();
	test_lapsed();
	return t_end();
}
