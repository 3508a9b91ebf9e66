/* AEAD and handshake: published vectors, and that nothing forged gets through. */
#include "hak_crypto.h"
#include "t.h"

enum { TAG = 16, MAX = 2048 };

static size_t unhex(const char *s, uint8_t *out)
{
	size_t n = strlen(s) / 2;

	for (size_t i = 0; i < n; i++) {
		unsigned v;

		NEED(sscanf(s + 2 * i, "%2x", &v) == 1);
		out[i] = (uint8_t)v;
	}
	return n;
}

static bool is(const uint8_t *p, const char *hex)
{
	uint8_t want[MAX];
	size_t n = unhex(hex, want);

	return !memcmp(p, want, n);
}

static void keyed(struct hak_aead *a, const char *key, bool sealing)
{
	uint8_t k[HAK_KEY_LEN];

	NEED(unhex(key, k) == sizeof k);
	NEED(hak_aead_init(a, k, sealing) == HAK_OK);
}

/* ---- AEAD ------------------------------------------------------------ */

#define ZERO32 "0000000000000000000000000000000000000000000000000000000000000000"
#define FE32 "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
#define PLAIN60 \
	"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" \
	"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
#define CIPHER60 \
	"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa" \
	"8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"

/* McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, the cases with
 * 256-bit keys and 96-bit nonces.  The nonce is split as ours is: kind, then sequence. */
static const struct {
	int number;
	const char *key, *text, *ad, *sealed, *tag;
	uint32_t kind;
	uint64_t seq;
} gcm[] = {
	{ 13, ZERO32, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b", 0, 0 },
	{ 14, ZERO32, "00000000000000000000000000000000", "",
	  "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919", 0, 0 },
	{ 15, FE32, PLAIN60 "1aafd255", "", CIPHER60 "898015ad",
	  "b094dac5d93471bdec1a502270e3cc6c", 0xcafebabe, 0xfacedbaddecaf888 },
	{ 16, FE32, PLAIN60, "feedfacedeadbeeffeedfacedeadbeefabaddad2", CIPHER60,
	  "76fc6ece0f4e1768cddf8853bb2d551b", 0xcafebabe, 0xfacedbaddecaf888 },
};

static void test_gcm_vectors(void)
{
	uint8_t text[MAX], ad[MAX], tag[TAG];
	struct hak_aead a;

	for (size_t i = 0; i < sizeof gcm / sizeof *gcm; i++) {
		size_t n = unhex(gcm[i].text, text), m = unhex(gcm[i].ad, ad);

		CASE("gcm test case %d", gcm[i].number);
		keyed(&a, gcm[i].key, true);
		EQUAL(hak_aead_seal(&a, gcm[i].kind, gcm[i].seq, ad, m, text, n, tag, false), HAK_OK);
		CHECK(is(text, gcm[i].sealed));
		CHECK(is(tag, gcm[i].tag));
		hak_aead_free(&a);

		keyed(&a, gcm[i].key, false);
		EQUAL(hak_aead_open(&a, gcm[i].kind, gcm[i].seq, ad, m, text, n, tag, false), HAK_OK);
		CHECK(is(text, gcm[i].text));
		hak_aead_free(&a);
	}
	CASE("%s", "");
}

/* NIST CAVS, gcmEncryptExtIV256.rsp: no plaintext, 128 bits of associated data. */
#define GMAC_KEY "78dc4e0aaf52d935c3c01eea57428f00ca1fd475f5da86a49c8dd73d68c8e223"
#define GMAC_AD "b96baa8c1c75a671bfb2d08d06be5f36"
#define GMAC_TAG "3e5d486aa2e30b22e040b85723a06e76"

/* Without encryption the text is more associated data, wherever the two are cut. */
static void test_clear_is_gmac(void)
{
	uint8_t all[16], tag[TAG];
	struct hak_aead seal, open;

	keyed(&seal, GMAC_KEY, true);
	keyed(&open, GMAC_KEY, false);
	for (size_t cut = 0; cut <= sizeof all; cut++) {
		CASE("cut at %zu", cut);
		unhex(GMAC_AD, all);
		EQUAL(hak_aead_seal(&seal, 0xd79cf22d, 0x504cc793c3fb6c8a, all, cut, all + cut,
				    sizeof all - cut, tag, true), HAK_OK);
		CHECK(is(all, GMAC_AD));
		CHECK(is(tag, GMAC_TAG));
		EQUAL(hak_aead_open(&open, 0xd79cf22d, 0x504cc793c3fb6c8a, all, cut, all + cut,
				    sizeof all - cut, tag, true), HAK_OK);
		CHECK(is(all, GMAC_AD));
	}
	CASE("%s", "");
	hak_aead_free(&seal);
	hak_aead_free(&open);
}

struct sealed {
	struct hak_aead seal, open;
	uint8_t plain[MAX], bytes[MAX];		/* associated data | text | tag */
	size_t ad, n;
	bool clear;
};

static void make_sealed(struct sealed *s, size_t ad, size_t n, bool clear)
{
	uint8_t key[HAK_KEY_LEN];

	t_bytes(key, sizeof key);
	t_bytes(s->plain, ad + n);
	memcpy(s->bytes, s->plain, ad + n);
	s->ad = ad;
	s->n = n;
	s->clear = clear;
	NEED(hak_aead_init(&s->seal, key, true) == HAK_OK);
	NEED(hak_aead_init(&s->open, key, false) == HAK_OK);
	NEED(hak_aead_seal(&s->seal, 3, 77, s->bytes, ad, s->bytes + ad, n, s->bytes + ad + n,
			   clear) == HAK_OK);
	if (n >= 8)
		CHECK((memcmp(s->plain + ad, s->bytes + ad, n) == 0) == clear);
}

static void free_sealed(struct sealed *s)
{
	hak_aead_free(&s->seal);
	hak_aead_free(&s->open);
}

static enum hak_err try_open(struct sealed *s, const uint8_t *from, uint32_t kind, uint64_t seq,
			     size_t n, uint8_t *out)
{
	memcpy(out, from, s->ad + s->n + TAG);
	return hak_aead_open(&s->open, kind, seq, out, s->ad, out + s->ad, n, out + s->ad + n,
			     s->clear);
}

static void test_no_altered_bit_opens(void)
{
	static const size_t lengths[] = { 0, 1, 15, 16, 17, 64, 300 };
	static struct sealed s;
	static uint8_t bad[MAX], out[MAX];

	for (size_t k = 0; k < 2 * sizeof lengths / sizeof *lengths; k++) {
		make_sealed(&s, 16, lengths[k / 2], k % 2);
		size_t all = s.ad + s.n + TAG;

		CASE("%zu bytes%s", s.n, s.clear ? ", clear" : "");
		memcpy(bad, s.bytes, all);
		for (size_t bit = 0; bit < all * 8; bit++) {
			bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
			EQUAL(try_open(&s, bad, 3, 77, s.n, out), HAK_EAUTH);
			bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		for (int bit = 0; bit < 32; bit++)
			EQUAL(try_open(&s, bad, 3 ^ UINT32_C(1) << bit, 77, s.n, out), HAK_EAUTH);
		for (int bit = 0; bit < 64; bit++)
			EQUAL(try_open(&s, bad, 3, 77 ^ UINT64_C(1) << bit, s.n, out), HAK_EAUTH);
		for (size_t cut = 0; cut < s.n; cut++)
			EQUAL(try_open(&s, bad, 3, 77, cut, out), HAK_EAUTH);
		s.clear = !s.clear;
		if (s.n)	/* without text the two modes are one */
			EQUAL(try_open(&s, bad, 3, 77, s.n, out), HAK_EAUTH);
		s.clear = !s.clear;

		/* and after all that the context still opens what is true */
		EQUAL(try_open(&s, s.bytes, 3, 77, s.n, out), HAK_OK);
		CHECK(!memcmp(out, s.plain, s.ad + s.n));
		free_sealed(&s);
	}
	CASE("%s", "");
}

/* Same key, same text: another kind or sequence must give another key stream. */
static void test_lanes_do_not_meet(void)
{
	static const struct { uint32_t kind; uint64_t seq; } lane[] = {
		{ 3, 0 }, { 4, 0 }, { 3, 1 }, { 4, 1 }, { 0, 3 }, { 3, UINT64_C(1) << 32 },
		{ 3, UINT64_C(4) << 32 }, { 0, UINT64_MAX }, { UINT32_MAX, 0 },
	};
	enum { LANES = sizeof lane / sizeof *lane };
	uint8_t text[LANES][32], tag[LANES][TAG];
	struct hak_aead a;

	keyed(&a, FE32, true);
	for (int i = 0; i < LANES; i++) {
		memset(text[i], 0, sizeof text[i]);
		EQUAL(hak_aead_seal(&a, lane[i].kind, lane[i].seq, NULL, 0, text[i],
				    sizeof text[i], tag[i], false), HAK_OK);
		for (int k = 0; k < i; k++) {
			CHECK(memcmp(text[i], text[k], sizeof text[i]) != 0);
			CHECK(memcmp(tag[i], tag[k], TAG) != 0);
		}
	}
	hak_aead_free(&a);
}

static void test_misuse(void)
{
	struct hak_aead none = { 0 }, a;
	uint8_t text[4] = { 0 }, tag[TAG] = { 0 };

	EQUAL(hak_aead_seal(&none, 3, 0, NULL, 0, text, 4, tag, false), HAK_ESTATE);
	EQUAL(hak_aead_open(&none, 3, 0, NULL, 0, text, 4, tag, false), HAK_ESTATE);
	keyed(&a, ZERO32, true);
	EQUAL(hak_aead_open(&a, 3, 0, NULL, 0, text, 4, tag, false), HAK_ESTATE);
	hak_aead_free(&a);
	hak_aead_free(&a);
	EQUAL(hak_aead_seal(&a, 3, 0, NULL, 0, text, 4, tag, false), HAK_ESTATE);
	keyed(&a, ZERO32, false);
	EQUAL(hak_aead_seal(&a, 3, 0, NULL, 0, text, 4, tag, false), HAK_ESTATE);
	hak_aead_free(&a);
}

/* ---- Noise ----------------------------------------------------------- */

/* Cacophony's vector for Noise_NNpsk0_25519_AESGCM_SHA256, as carried by mcginty/snow,
 * tests/vectors/cacophony.txt, and plizonczyk/noiseprotocol. */
#define PROLOGUE "4a6f686e2047616c74"
#define PSK "54686973206973206d7920417573747269616e20706572737065637469766521"
#define INIT_E "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"
#define RESP_E "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"
static const struct {
	const char *text, *sealed;
} cacophony[] = {
	{ "4c756477696720766f6e204d69736573",
	  "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
	  "7c37a89fc17813788d30df2d59501d6066f5f8aecc3406bbd9829f2d24a531b1" },
	{ "4d757272617920526f746862617264",
	  "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
	  "2f29d79368ef9de4e1ae7a362fb05bf0ad668e026bf5714554497b3a720461" },
	{ "462e20412e20486179656b",
	  "7c01e898a6201f36aecee532e29cd0b7f8ffa29d3366ad0dce39a6" },
	{ "4361726c204d656e676572",
	  "a9ff535aace3db6a1da1a7fb00fe2de2622bb373abad9fb42c00e0" },
	{ "4a65616e2d426170746973746520536179",
	  "6cfc49a3e65472edc2d0152abe5ce950170a8a47c959f30bd48b5f0aacf29adbfd" },
	{ "457567656e2042f6686d20766f6e2042617765726b",
	  "9bc86e6d974ed21ba04604a94aa68de21677eb409ead070c0cd569b069ee19ba142aa4c1a9" },
};

static struct hak_noise begin(const char *prologue, const char *psk, const char *e)
{
	uint8_t p[64], k[HAK_KEY_LEN], priv[HAK_DH_LEN];
	size_t n = unhex(prologue, p);
	struct hak_noise s;

	unhex(psk, k);
	if (e)
		unhex(e, priv);
	NEED(hak_noise_start(&s, k, p, n, e ? priv : NULL) == HAK_OK);
	return s;
}

static void test_cacophony(void)
{
	struct hak_noise i = begin(PROLOGUE, PSK, INIT_E), r = begin(PROLOGUE, PSK, RESP_E);
	uint8_t text[MAX], msg[MAX], got[MAX], peer_e[HAK_DH_LEN];
	uint8_t ikeys[2][HAK_KEY_LEN], rkeys[2][HAK_KEY_LEN];
	static const struct hak_noise wiped;
	size_t n = unhex(cacophony[0].text, text);

	EQUAL(hak_noise_write1(&i, text, n, msg), HAK_OK);
	CHECK(is(msg, cacophony[0].sealed));
	EQUAL(hak_noise_read1(&r, msg, n + HAK_NOISE_OVERHEAD, got, peer_e), HAK_OK);
	CHECK(is(got, cacophony[0].text));

	n = unhex(cacophony[1].text, text);
	EQUAL(hak_noise_write2(&r, peer_e, text, n, msg, rkeys), HAK_OK);
	CHECK(is(msg, cacophony[1].sealed));
	EQUAL(hak_noise_read2(&i, msg, n + HAK_NOISE_OVERHEAD, got, ikeys), HAK_OK);
	CHECK(is(got, cacophony[1].text));
	CHECK(!memcmp(ikeys, rkeys, sizeof ikeys));
	/* no secret of the handshake outlives it */
	CHECK(!memcmp(&i, &wiped, sizeof i));
	CHECK(!memcmp(&r, &wiped, sizeof r));

	/* transport: Noise's nonce is ours with kind 0 */
	for (unsigned m = 2; m < sizeof cacophony / sizeof *cacophony; m++) {
		struct hak_aead a;

		CASE("message %u", m);
		n = unhex(cacophony[m].text, text);
		NEED(hak_aead_init(&a, ikeys[m % 2], true) == HAK_OK);
		EQUAL(hak_aead_seal(&a, 0, (m - 2) / 2, NULL, 0, text, n, text + n, false), HAK_OK);
		CHECK(is(text, cacophony[m].sealed));
		hak_aead_free(&a);
	}
	CASE("%s", "");
}

static void test_wrong_secrets(void)
{
	static const char *const prologues[] = { PROLOGUE, "", "4a6f686e2047616c7400" };
	static const char *const psks[] = { PSK, ZERO32 };
	uint8_t msg[MAX], got[MAX], peer_e[HAK_DH_LEN];

	for (int k = 0; k < 6; k++) {
		struct hak_noise i = begin(PROLOGUE, PSK, NULL);
		struct hak_noise r = begin(prologues[k % 3], psks[k / 3], NULL);

		CASE("prologue %d, key %d", k % 3, k / 3);
		EQUAL(hak_noise_write1(&i, "hello", 5, msg), HAK_OK);
		EQUAL(hak_noise_read1(&r, msg, 5 + HAK_NOISE_OVERHEAD, got, peer_e),
		      k ? HAK_EAUTH : HAK_OK);
	}
	CASE("%s", "");
}

static void test_fresh_keys(void)
{
	struct hak_noise a = begin(PROLOGUE, PSK, NULL), b = begin(PROLOGUE, PSK, NULL);
	uint8_t x[32], y[32];

	CHECK(memcmp(a.e_priv, b.e_priv, sizeof a.e_priv) != 0);
	CHECK(memcmp(a.e_pub, b.e_pub, sizeof a.e_pub) != 0);
	EQUAL(hak_random(x, sizeof x), HAK_OK);
	EQUAL(hak_random(y, sizeof y), HAK_OK);
	CHECK(memcmp(x, y, sizeof x) != 0);
}

static void test_forged_first_message(void)
{
	enum { N = 40, LEN = N + HAK_NOISE_OVERHEAD };
	struct hak_noise i = begin(PROLOGUE, PSK, NULL), r;
	uint8_t text[N], msg[LEN + 8], got[MAX], peer_e[HAK_DH_LEN];

	t_bytes(text, N);
	EQUAL(hak_noise_write1(&i, text, N, msg), HAK_OK);
	for (size_t bit = 0; bit < LEN * 8; bit++) {
		r = begin(PROLOGUE, PSK, RESP_E);
		msg[bit / 8] ^= (uint8_t)(1 << bit % 8);
		EQUAL(hak_noise_read1(&r, msg, LEN, got, peer_e), HAK_EAUTH);
		msg[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t n = 0; n <= sizeof msg; n++) {
		r = begin(PROLOGUE, PSK, RESP_E);
		EQUAL(hak_noise_read1(&r, msg, n, got, peer_e),
		      n < HAK_NOISE_OVERHEAD ? HAK_ETRUNC : n == LEN ? HAK_OK : HAK_EAUTH);
	}
}

/* Whoever is on the link may send answers of his own: the true one must still do. */
static void test_forged_second_message(void)
{
	enum { N = 40, LEN = N + HAK_NOISE_OVERHEAD };
	struct hak_noise i = begin(PROLOGUE, PSK, NULL), r = begin(PROLOGUE, PSK, NULL), before;
	uint8_t text[N], msg[LEN + 8], got[MAX], peer_e[HAK_DH_LEN];
	uint8_t ikeys[2][HAK_KEY_LEN], rkeys[2][HAK_KEY_LEN];

	t_bytes(text, N);
	EQUAL(hak_noise_write1(&i, "", 0, msg), HAK_OK);
	EQUAL(hak_noise_read1(&r, msg, HAK_NOISE_OVERHEAD, got, peer_e), HAK_OK);
	EQUAL(hak_noise_write2(&r, peer_e, text, N, msg, rkeys), HAK_OK);
	before = i;
	/* X25519 ignores the top bit of a point, but the point is hashed as it came */
	for (size_t bit = 0; bit < LEN * 8; bit++) {
		uint8_t bad[LEN];

		memcpy(bad, msg, LEN);
		bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
		EQUAL(hak_noise_read2(&i, bad, LEN, got, ikeys), HAK_EAUTH);
		CHECK(!memcmp(&i, &before, sizeof i));
	}
	for (size_t n = 0; n < sizeof msg; n++)
		if (n != LEN)
			EQUAL(hak_noise_read2(&i, msg, n, got, ikeys),
			      n < HAK_NOISE_OVERHEAD ? HAK_ETRUNC : HAK_EAUTH);
	CHECK(!memcmp(&i, &before, sizeof i));
	EQUAL(hak_noise_read2(&i, msg, LEN, got, ikeys), HAK_OK);
	CHECK(!memcmp(got, text, N));
	CHECK(!memcmp(ikeys, rkeys, sizeof ikeys));
}

/* Points of small order would make the shared secret a constant (RFC 7748, 6.1). */
static void test_low_order_points(void)
{
	static const char *const points[] = {
		ZERO32,
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	};
	uint8_t msg[MAX], got[MAX], peer_e[HAK_DH_LEN], keys[2][HAK_KEY_LEN];

	for (size_t k = 0; k < sizeof points / sizeof *points; k++) {
		struct hak_noise i = begin(PROLOGUE, PSK, NULL), r = begin(PROLOGUE, PSK, NULL);
		struct hak_noise before;

		CASE("point %zu", k);
		unhex(points[k], i.e_pub);
		EQUAL(hak_noise_write1(&i, "", 0, msg), HAK_OK);
		EQUAL(hak_noise_read1(&r, msg, HAK_NOISE_OVERHEAD, got, peer_e), HAK_OK);
		CHECK(hak_noise_write2(&r, peer_e, "", 0, msg, keys) != HAK_OK);

		i = begin(PROLOGUE, PSK, NULL);
		EQUAL(hak_noise_write1(&i, "", 0, msg), HAK_OK);
		before = i;
		unhex(points[k], msg);
		EQUAL(hak_noise_read2(&i, msg, HAK_NOISE_OVERHEAD, got, keys), HAK_EAUTH);
		CHECK(!memcmp(&i, &before, sizeof i));
	}
	CASE("%s", "");
}

int main(void)
{
	test_gcm_vectors();
	test_clear_is_gmac();
	test_no_altered_bit_opens();
	test_lanes_do_not_meet();
	test_misuse();
	test_cacophony();
	test_wrong_secrets();
	test_fresh_keys();
	test_forged_first_message();
	test_forged_second_message();
	test_low_order_points();
	return t_end();
}
