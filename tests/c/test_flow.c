/* Identity: inverse tuples, SipHash, the canonical hash, the one-line text. */
#include "hak_ct.h"
#include "hak_siphash.h"
#include "flows.h"

/* vectors_sip64 of the reference implementation: key 00..0f, message 00..n-1; the
 * one of 15 bytes is the paper's appendix A. */
static void test_siphash(void)
{
	static const struct { unsigned n; uint64_t hash; } v[] = {
		{ 0, 0x726fdb47dd0e0e31 }, { 1, 0x74f839c593dc67fd }, { 2, 0x0d6c8009d9a94f5a },
		{ 3, 0x85676696d7fb7e2d }, { 7, 0xab0200f58b01d137 }, { 8, 0x93f5f5799a932462 },
		{ 15, 0xa129ca6149be45e5 }, { 16, 0x3f2acc7f57c29bdb }, { 63, 0x958a324ceb064572 },
	};
	uint8_t key[16], m[64];

	for (unsigned i = 0; i < 64; i++)
		m[i] = (uint8_t)i;
	memcpy(key, m, sizeof key);
	for (unsigned i = 0; i < sizeof v / sizeof *v; i++) {
		CASE("siphash of %u bytes", v[i].n);
		EQUAL(hak_siphash(m, v[i].n, key), v[i].hash);
	}
}

static void test_hash_tells_apart(void)
{
	static const uint8_t key[16] = { 1, 2, 3 }, other[16] = { 1, 2, 4 };
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP), g = f;
	uint64_t h = hak_flow_hash(&f, key);

	CASE("hash");
	CHECK(h != hak_flow_hash(&f, other));
	give_nat(&g, NAT_BOTH);
	g.mark = 0;
	g.have = 0;
	EQUAL(hak_flow_hash(&g, key), h);	/* neither NAT nor state is identity */
#define OTHER(change) \
	do { g = f; g.change; CHECK(hak_flow_hash(&g, key) != h); } while (0)
	OTHER(l4proto = IPPROTO_UDP);
	OTHER(l3 = AF_INET6);
	OTHER(zone = 1);
	OTHER(zone_dir = HAK_ZONE_BOTH);
	OTHER(orig.sport++);
	OTHER(orig.dport++);
	OTHER(orig.src[3]++);
	OTHER(orig.dst[3]++);
	CASE("hashes of docs/wire-records.md");
	{
		uint8_t k[16];

		for (unsigned i = 0; i < sizeof k; i++)
			k[i] = (uint8_t)i;
		EQUAL(hak_flow_hash(&f, k), 0xcbd8fa3315b3fa24);
		g = make_flow(AF_INET6, IPPROTO_UDP);
		give_zone(&g, HAK_ZONE_BOTH);
		EQUAL(hak_flow_hash(&g, k), 0xebb0dc268786dc9c);
	}
	f = make_flow(AF_INET6, IPPROTO_TCP);
	h = hak_flow_hash(&f, key);
	OTHER(orig.src[15]++);
	OTHER(orig.dst[15]++);
}

static void test_inverse(void)
{
	static const struct { uint8_t proto, type, answer; } v[] = {
		{ 1, 8, 0 }, { 1, 0, 8 }, { 1, 13, 14 }, { 1, 14, 13 }, { 1, 15, 16 }, { 1, 16, 15 },
		{ 1, 17, 18 }, { 1, 18, 17 }, { 1, 3, 3 }, { 58, 128, 129 }, { 58, 129, 128 },
		{ 58, 139, 140 }, { 58, 140, 139 }, { 58, 8, 8 }, { 1, 128, 128 },
	};
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);
	struct hak_tuple t;

	CASE("inverse");
	t = hak_tuple_inverse(&f, &f.reply);
	CHECK(hak_tuple_equal(&t, &f.orig));
	for (unsigned i = 0; i < sizeof v / sizeof *v; i++) {
		EQUAL(hak_icmp_inverse(v[i].proto, v[i].type), v[i].answer);
		f = make_flow(AF_INET, v[i].proto);
		f.orig.dport = (uint16_t)(v[i].type << 8 | 5);
		t = hak_tuple_inverse(&f, &f.orig);
		EQUAL(t.sport, f.orig.sport);	/* the id is the same both ways */
		EQUAL(t.dport, v[i].answer << 8 | 5);
	}
}

static void test_text(void)
{
	char s[256], small[12];
	struct hak_flow f = make_flow(AF_INET, IPPROTO_TCP);

	CASE("text");
#define TEXT(want) CHECK(!strcmp(hak_flow_text(&f, s, sizeof s), want))
	TEXT("tcp 10.71.0.10:4711>10.72.0.10:80 ESTABLISHED");
	CHECK(!strcmp(hak_flow_text(&f, small, sizeof small), "tcp 10.71.0"));
	CHECK(hak_flow_text(&f, small, 0) == small);
	give_nat(&f, NAT_SRC_PORT);
	give_zone(&f, HAK_ZONE_ORIG);
	TEXT("tcp 10.71.0.10:4711>10.72.0.10:80 reply 10.72.0.10:80>10.72.0.1:61000 "
	     "orig-zone 7 ESTABLISHED");
	f = make_flow(AF_INET6, IPPROTO_UDP);
	TEXT("udp [2001:db8:71::10]:4711>[2001:db8:72::10]:80");
	f = make_flow(AF_INET, IPPROTO_ICMP);
	TEXT("icmp 10.71.0.10>10.72.0.10 type 8 code 0 id 4711");
	f = make_flow(AF_INET, 89);
	TEXT("proto-89 10.71.0.10>10.72.0.10");
	f.l3 = 0;
	TEXT("proto-89 ?>?");
}

int main(void)
{
	test_siphash();
	test_hash_tells_apart();
	test_inverse();
	test_text();
	return t_end();
}
