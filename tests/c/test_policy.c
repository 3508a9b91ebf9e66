/* Which connections are replicated. */
#include "hak_policy.h"
#include "flows.h"

static struct hak_locals locals;

static void add(const char *text)
{
	uint8_t a[16] = { 0 };
	int af = strchr(text, ':') ? AF_INET6 : AF_INET;

	NEED(inet_pton(af, text, a) == 1);
	CHECK(hak_locals_add(&locals, (uint8_t)af, a));
}

static bool has(const char *text)
{
	uint8_t a[16] = { 0 };
	int af = strchr(text, ':') ? AF_INET6 : AF_INET;

	NEED(inet_pton(af, text, a) == 1);
	return hak_locals_has(&locals, (uint8_t)af, a);
}

static struct hak_flow flow(const char *src, const char *dst, uint8_t proto)
{
	struct hak_flow f;

	memset(&f, 0, sizeof f);
	f.l3 = strchr(src, ':') ? AF_INET6 : AF_INET;
	f.l4proto = proto;
	f.l4kind = hak_l4kind_of(proto);
	f.orig = tuple(src, 4711, dst, 80);
	f.reply = hak_tuple_inverse(&f, &f.orig);
	f.have = HAK_HAS_REPLY;
	return f;
}

static struct hak_policy everything(void)
{
	struct hak_policy p;

	memset(&p, 0, sizeof p);
	memset(p.protocols, 0xff, sizeof p.protocols);
	return p;
}

static void test_locals(void)
{
	memset(&locals, 0, sizeof locals);
	CHECK(!has("10.0.0.1"));
	add("10.0.0.1");
	add("10.0.0.1");
	EQUAL(locals.n, 1);
	CHECK(has("10.0.0.1"));
	CHECK(!has("10.0.0.2"));
	/* the same bytes in the other family are another address */
	CHECK(!has("a00:1::"));
	add("a00:1::");
	EQUAL(locals.n, 2);
	CHECK(has("a00:1::"));
	CHECK(!has("a00:1::1"));
}

/* An address of the other family in the very slot, with the same first bytes. */
static void test_families_do_not_meet(void)
{
	uint8_t v4[16] = { 10, 0, 0, 1 }, v6[16] = { 10, 0, 0, 1 };
	unsigned i = 0;

	memset(&locals, 0, sizeof locals);
	do {
		v6[14] = (uint8_t)(++i >> 8);
		v6[15] = (uint8_t)i;
	} while (hak_local_hash(AF_INET6, v6) != hak_local_hash(AF_INET, v4) && i < 65535);
	NEED(i < 65535);
	CHECK(hak_locals_add(&locals, AF_INET6, v6));
	CHECK(!hak_locals_has(&locals, AF_INET, v4));
	CHECK(hak_locals_add(&locals, AF_INET, v4));
	EQUAL(locals.n, 2);
	CHECK(hak_locals_has(&locals, AF_INET, v4));
	CHECK(hak_locals_has(&locals, AF_INET6, v6));
}

/* As many as it takes, with all the collisions that brings; not one more. */
static void test_locals_full(void)
{
	uint8_t a[16] = { 10 };

	memset(&locals, 0, sizeof locals);
	for (unsigned i = 0; i < HAK_LOCAL_MAX; i++) {
		a[2] = (uint8_t)(i >> 8);
		a[3] = (uint8_t)i;
		CHECK(hak_locals_add(&locals, AF_INET, a));
	}
	for (unsigned i = 0; i < 2 * HAK_LOCAL_MAX; i++) {
		a[2] = (uint8_t)(i >> 8);
		a[3] = (uint8_t)i;
		CHECK(hak_locals_has(&locals, AF_INET, a) == (i < HAK_LOCAL_MAX));
	}
	CHECK(!hak_locals_add(&locals, AF_INET, a));
	EQUAL(locals.n, HAK_LOCAL_MAX);
	a[2] = a[3] = 0;
	CHECK(hak_locals_add(&locals, AF_INET, a));	/* there already */
}

static void test_special(void)
{
	static const struct { const char *text; bool special; } v[] = {
		{ "0.0.0.0", true }, { "0.255.255.255", true }, { "1.0.0.0", false },
		{ "126.255.255.255", false }, { "127.0.0.1", true }, { "127.255.255.255", true },
		{ "128.0.0.0", false }, { "223.255.255.255", false }, { "224.0.0.1", true },
		{ "239.1.2.3", true }, { "255.255.255.255", true }, { "10.1.2.3", false },
		{ "169.254.1.1", false },
		{ "::", true }, { "::1", true }, { "::2", false }, { "::1:0", false },
		{ "fe80::1", true }, { "febf:ffff::1", true }, { "fec0::1", false },
		{ "fe7f::1", false }, { "ff02::1", true }, { "ff00::", true },
		{ "feff::1", false }, { "fd00::1", false }, { "2001:db8::1", false },
	};

	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		uint8_t a[16] = { 0 };
		int af = strchr(v[i].text, ':') ? AF_INET6 : AF_INET;

		CASE("%s", v[i].text);
		NEED(inet_pton(af, v[i].text, a) == 1);
		CHECK(hak_addr_special((uint8_t)af, a) == v[i].special);
	}
	CASE("%s", "");
}

static void test_local_flows(void)
{
	struct hak_flow f;

	memset(&locals, 0, sizeof locals);
	add("10.71.0.1");
	add("fd71::1");

	f = flow("10.71.0.10", "10.72.0.10", 6);
	CHECK(!hak_flow_is_local(&locals, &f));
	f = flow("10.71.0.1", "10.72.0.10", 6);
	CHECK(hak_flow_is_local(&locals, &f));
	f = flow("10.72.0.10", "10.71.0.1", 6);
	CHECK(hak_flow_is_local(&locals, &f));
	f = flow("fd72::10", "fd71::1", 17);
	CHECK(hak_flow_is_local(&locals, &f));
	f = flow("fe80::1", "fd72::10", 17);
	CHECK(hak_flow_is_local(&locals, &f));

	/* to our address, but DNAT takes it behind us: it is transit */
	f = flow("10.72.0.10", "10.71.0.1", 6);
	f.reply = tuple("10.71.0.10", 80, "10.72.0.10", 4711);
	CHECK(!hak_flow_is_local(&locals, &f));
	/* REDIRECT: to somebody else, but it ends here */
	f = flow("10.71.0.10", "10.72.0.10", 6);
	f.reply = tuple("10.71.0.1", 80, "10.71.0.10", 4711);
	CHECK(hak_flow_is_local(&locals, &f));
	/* without the reply (DESTROY may lack it) the destination has to do */
	f.have = 0;
	CHECK(!hak_flow_is_local(&locals, &f));
	/* masquerading makes our address the reply's destination: transit */
	f = flow("10.71.0.10", "10.72.0.10", 6);
	f.reply = tuple("10.72.0.10", 80, "10.71.0.1", 4711);
	CHECK(!hak_flow_is_local(&locals, &f));
}

static void test_protocols(void)
{
	struct hak_policy p;

	memset(&locals, 0, sizeof locals);
	for (unsigned only = 0; only < 256; only++) {
		memset(&p, 0, sizeof p);
		p.protocols[only / 32] = UINT32_C(1) << (only % 32);
		for (unsigned proto = 0; proto < 256; proto++) {
			struct hak_flow f = flow("10.71.0.10", "10.72.0.10", (uint8_t)proto);

			CHECK(hak_policy_wants(&p, &locals, &f) == (proto == only));
		}
	}
}

static void test_marks(void)
{
	struct hak_policy p = everything();
	struct hak_flow f = flow("10.71.0.10", "10.72.0.10", 6);

	memset(&locals, 0, sizeof locals);
	CHECK(hak_policy_wants(&p, &locals, &f));	/* mask 0: no exclusion */
	f.have |= HAK_HAS_MARK;
	for (uint32_t mark = 0; mark < 0x400; mark++) {
		f.mark = mark;
		p.mark_mask = 0;
		CHECK(hak_policy_wants(&p, &locals, &f));
		p.mark = 0x100;
		p.mark_mask = 0x100;
		CHECK(hak_policy_wants(&p, &locals, &f) == !(mark & 0x100));
		p.mark = 0x1ff;		/* bits outside the mask do not count */
		CHECK(hak_policy_wants(&p, &locals, &f) == !(mark & 0x100));
		p.mark = 0x201;
		p.mark_mask = UINT32_MAX;
		CHECK(hak_policy_wants(&p, &locals, &f) == (mark != 0x201));
	}
	/* no mark is mark 0, and what stands in the field is not looked at */
	f.have &= ~(uint32_t)HAK_HAS_MARK;
	f.mark = 0x100;
	p.mark = 0;
	p.mark_mask = 0x100;
	CHECK(!hak_policy_wants(&p, &locals, &f));
	p.mark = 0x100;
	CHECK(hak_policy_wants(&p, &locals, &f));
}

static void test_exclude_local(void)
{
	struct hak_policy p = everything();
	struct hak_flow f = flow("10.71.0.1", "10.72.0.10", 6);

	memset(&locals, 0, sizeof locals);
	add("10.71.0.1");
	CHECK(hak_policy_wants(&p, &locals, &f));
	p.exclude_local = true;
	CHECK(!hak_policy_wants(&p, &locals, &f));
	f = flow("10.71.0.10", "10.72.0.10", 6);
	CHECK(hak_policy_wants(&p, &locals, &f));
}

static void exclude(struct hak_policy *p, const char *text, uint8_t bits)
{
	struct hak_net *n = &p->nets[p->n_nets++];

	n->l3 = strchr(text, ':') ? AF_INET6 : AF_INET;
	n->bits = bits;
	NEED(inet_pton(n->l3, text, n->addr) == 1);
}

static void test_networks(void)
{
	struct hak_policy p = everything();
	struct hak_flow f;

	memset(&locals, 0, sizeof locals);
	exclude(&p, "10.9.128.0", 17);
	exclude(&p, "fd00::", 8);
	exclude(&p, "192.0.2.7", 32);
#define WANTS(src, dst) (f = flow(src, dst, 6), hak_policy_wants(&p, &locals, &f))
	CHECK(WANTS("10.9.127.255", "10.8.0.1"));
	CHECK(!WANTS("10.9.128.0", "10.8.0.1"));
	CHECK(!WANTS("10.8.0.1", "10.9.255.255"));
	CHECK(WANTS("10.10.0.0", "192.0.2.6"));
	CHECK(!WANTS("10.10.0.0", "192.0.2.7"));
	CHECK(!WANTS("2001:db8::1", "fdff::1"));
	CHECK(WANTS("2001:db8::1", "fc00::1"));
	/* the bytes of an IPv6 address are no IPv4 one */
	CHECK(WANTS("a09:8000::1", "2001:db8::1"));
	/* the server behind a DNAT, and not the address lent by SNAT */
	f = flow("10.8.0.1", "203.0.113.1", 6);
	f.reply = tuple("10.9.200.1", 80, "10.8.0.1", 4711);
	CHECK(!hak_policy_wants(&p, &locals, &f));
	f.reply = tuple("203.0.113.1", 80, "10.9.200.1", 4711);
	CHECK(hak_policy_wants(&p, &locals, &f));
	p.nets[0].bits = 0;
	CHECK(!WANTS("1.2.3.4", "5.6.7.8"));
#undef WANTS
}

static void test_hash(void)
{
	struct hak_policy p = everything(), q = p;
	uint64_t was = hak_policy_hash(&p);

	EQUAL(hak_policy_hash(&q), was);
	q.mark = 0x100;			/* without a mask it says nothing */
	EQUAL(hak_policy_hash(&q), was);
#define DIFFERS do { \
		CHECK(hak_policy_hash(&q) != was); \
		was = hak_policy_hash(&q); \
	} while (0)
	q.mark_mask = 0x300;
	DIFFERS;
	q.protocols[7] &= 0x7fffffff;
	DIFFERS;
	q.exclude_local = true;
	DIFFERS;
	q.min_ms = 1;
	DIFFERS;
	exclude(&q, "10.0.0.0", 8);
	DIFFERS;
	exclude(&q, "fd00::", 8);
	DIFFERS;
	q.nets[1].bits = 16;
	DIFFERS;
	q.nets[1].addr[15] = 1;
	DIFFERS;
#undef DIFFERS
}

int main(void)
{
	test_locals();
	test_families_do_not_meet();
	test_locals_full();
	test_special();
	test_local_flows();
	test_protocols();
	test_marks();
	test_exclude_local();
	test_networks();
	test_hash();
	return t_end();
}
