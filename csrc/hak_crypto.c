/* hak_crypto.c - see hak_crypto.h.  OpenSSL's EVP does the arithmetic; what is
 * written here is only the order of Noise's steps (noise.html, sections 5 and 9). */
#include "hak_crypto.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

enum { NONCE_LEN = 12, TAG_LEN = 16 };

void hak_wipe(void *p, size_t n)
{
	OPENSSL_cleanse(p, n);
}

enum hak_err hak_random(void *p, size_t n)
{
	ssize_t got;

	do
		got = getrandom(p, n, 0);
	while (got < 0 && errno == EINTR);
	return got == (ssize_t)n ? HAK_OK : HAK_ESYS;
}

uint32_t hak_key_print(const uint8_t key[HAK_KEY_LEN])
{
	static const char domain[] = "hak2k key fingerprint";
	uint8_t out[HAK_HASH_LEN];
	uint32_t v = 0;
	unsigned len;

	if (HMAC(EVP_sha256(), domain, sizeof domain - 1, key, HAK_KEY_LEN, out, &len))
		for (int i = 0; i < 4; i++)
			v = v << 8 | out[i];
	return v ? v : 1;
}

/* ---- AEAD ------------------------------------------------------------ */

enum hak_err hak_aead_init(struct hak_aead *a, const uint8_t key[HAK_KEY_LEN], bool sealing)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();

	a->ctx = c;
	a->sealing = sealing;
	if (!c || EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, key, NULL, sealing) != 1) {
		hak_aead_free(a);
		return HAK_ECRYPTO;
	}
	return HAK_OK;
}

void hak_aead_free(struct hak_aead *a)
{
	EVP_CIPHER_CTX_free(a->ctx);	/* takes NULL; cleanses the key schedule */
	a->ctx = NULL;
}

static void nonce(uint8_t iv[NONCE_LEN], uint32_t kind, uint64_t seq)
{
	for (int i = 0; i < 4; i++)
		iv[i] = (uint8_t)(kind >> (24 - 8 * i));
	for (int i = 0; i < 8; i++)
		iv[4 + i] = (uint8_t)(seq >> (56 - 8 * i));
}

/* The part that sealing and opening share: nonce, associated data, text. */
static bool run(EVP_CIPHER_CTX *c, uint32_t kind, uint64_t seq, const void *ad, size_t ad_len,
		uint8_t *text, size_t n, bool clear)
{
	uint8_t iv[NONCE_LEN];
	int len;

	nonce(iv, kind, seq);
	if (EVP_CipherInit_ex(c, NULL, NULL, NULL, iv, -1) != 1)
		return false;
	if (ad_len && EVP_CipherUpdate(c, NULL, &len, ad, (int)ad_len) != 1)
		return false;
	/* out == NULL makes the bytes associated data: authenticated, readable */
	return !n || EVP_CipherUpdate(c, clear ? NULL : text, &len, text, (int)n) == 1;
}

enum hak_err hak_aead_seal(struct hak_aead *a, uint32_t kind, uint64_t seq, const void *ad,
			   size_t ad_len, uint8_t *text, size_t n, uint8_t *tag, bool clear)
{
	uint8_t none[16];
	int len;

	if (!a->ctx || !a->sealing)
		return HAK_ESTATE;
	if (!run(a->ctx, kind, seq, ad, ad_len, text, n, clear) ||
	    EVP_CipherFinal_ex(a->ctx, none, &len) != 1 ||
	    EVP_CIPHER_CTX_ctrl(a->ctx, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, tag) != 1)
		return HAK_ECRYPTO;
	return HAK_OK;
}

enum hak_err hak_aead_open(struct hak_aead *a, uint32_t kind, uint64_t seq, const void *ad,
			   size_t ad_len, uint8_t *text, size_t n, const uint8_t *tag, bool clear)
{
	uint8_t none[16], t[TAG_LEN];
	int len;

	if (!a->ctx || a->sealing)
		return HAK_ESTATE;
	memcpy(t, tag, TAG_LEN);	/* OpenSSL's argument is not const */
	if (!run(a->ctx, kind, seq, ad, ad_len, text, n, clear) ||
	    EVP_CIPHER_CTX_ctrl(a->ctx, EVP_CTRL_AEAD_SET_TAG, TAG_LEN, t) != 1)
		return HAK_ECRYPTO;
	return EVP_CipherFinal_ex(a->ctx, none, &len) == 1 ? HAK_OK : HAK_EAUTH;
}

/* ---- Noise NNpsk0 ---------------------------------------------------- */

/* Exactly HASHLEN bytes long, so it is the first hash as it stands (section 5.2). */
static const char protocol[] = "Noise_NNpsk0_25519_AESGCM_SHA256";
_Static_assert(sizeof protocol - 1 == HAK_HASH_LEN, "the name is the first hash");

static bool hmac(const uint8_t key[HAK_HASH_LEN], const void *a, size_t na, uint8_t b,
		 uint8_t out[HAK_HASH_LEN])
{
	uint8_t buf[HAK_HASH_LEN + 1];
	unsigned len;
	bool ok;

	/* HKDF's inputs are at most one hash and one counter byte */
	if (na > HAK_HASH_LEN)
		return false;
	if (na)
		memcpy(buf, a, na);
	buf[na] = b;
	ok = HMAC(EVP_sha256(), key, HAK_HASH_LEN, buf, na + (b ? 1 : 0), out, &len) != NULL;
	hak_wipe(buf, sizeof buf);
	return ok;
}

/* HKDF (section 4.3) with two or three outputs (o3 may be NULL). */
static bool hkdf(const uint8_t ck[HAK_HASH_LEN], const void *ikm, size_t n,
		 uint8_t *o1, uint8_t *o2, uint8_t *o3)
{
	uint8_t temp[HAK_HASH_LEN], t1[HAK_HASH_LEN], t2[HAK_HASH_LEN], t3[HAK_HASH_LEN];
	bool ok = hmac(ck, ikm, n, 0, temp) && hmac(temp, NULL, 0, 1, t1) &&
		  hmac(temp, t1, sizeof t1, 2, t2) && hmac(temp, t2, sizeof t2, 3, t3);

	if (ok) {
		memcpy(o1, t1, sizeof t1);
		memcpy(o2, t2, sizeof t2);
		if (o3)
			memcpy(o3, t3, sizeof t3);
	}
	hak_wipe(temp, sizeof temp);
	hak_wipe(t1, sizeof t1);
	hak_wipe(t2, sizeof t2);
	hak_wipe(t3, sizeof t3);
	return ok;
}

static bool mix_hash(struct hak_noise *s, const void *d, size_t n)
{
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 &&
		  EVP_DigestUpdate(c, s->h, sizeof s->h) == 1 &&
		  EVP_DigestUpdate(c, d, n) == 1 && EVP_DigestFinal_ex(c, s->h, NULL) == 1;

	EVP_MD_CTX_free(c);
	return ok;
}

static bool mix_key(struct hak_noise *s, const uint8_t *ikm)
{
	s->n = 0;
	return hkdf(s->ck, ikm, HAK_DH_LEN, s->ck, s->k, NULL);
}

static bool mix_key_and_hash(struct hak_noise *s, const uint8_t *psk)
{
	uint8_t t[HAK_HASH_LEN];
	bool ok = hkdf(s->ck, psk, HAK_KEY_LEN, s->ck, t, s->k) && mix_hash(s, t, sizeof t);

	s->n = 0;
	hak_wipe(t, sizeof t);
	return ok;
}

/* The "e" token in a pattern with a psk (section 9.2): hashed and mixed as a key. */
static bool mix_e(struct hak_noise *s, const uint8_t *pub)
{
	return mix_hash(s, pub, HAK_DH_LEN) && mix_key(s, pub);
}

static enum hak_err crypt(struct hak_noise *s, bool sealing, uint8_t *text, size_t n,
			  const uint8_t *tag_in, uint8_t *tag_out)
{
	struct hak_aead a;
	enum hak_err e = hak_aead_init(&a, s->k, sealing);

	if (!e)
		e = sealing ? hak_aead_seal(&a, 0, s->n, s->h, sizeof s->h, text, n, tag_out, false)
			    : hak_aead_open(&a, 0, s->n, s->h, sizeof s->h, text, n, tag_in, false);
	hak_aead_free(&a);
	s->n++;
	return e;
}

/* EncryptAndHash: ciphertext and tag, n + 16 bytes, to `out`. */
static enum hak_err seal_payload(struct hak_noise *s, const void *p, size_t n, uint8_t *out)
{
	enum hak_err e;

	if (n)
		memcpy(out, p, n);
	e = crypt(s, true, out, n, NULL, out + n);
	if (!e && !mix_hash(s, out, n + TAG_LEN))
		e = HAK_ECRYPTO;
	return e;
}

/* DecryptAndHash of `len` bytes (tag included); the text goes to `out`. */
static enum hak_err open_payload(struct hak_noise *s, const uint8_t *c, size_t len, uint8_t *out)
{
	struct hak_noise after = *s;
	enum hak_err e;

	if (!mix_hash(&after, c, len))
		return HAK_ECRYPTO;
	if (len > TAG_LEN)
		memcpy(out, c, len - TAG_LEN);
	e = crypt(s, false, out, len - TAG_LEN, c + len - TAG_LEN, NULL);
	memcpy(s->h, after.h, sizeof s->h);
	hak_wipe(&after, sizeof after);
	return e;
}

static bool dh(const uint8_t *priv, const uint8_t *pub, uint8_t out[HAK_DH_LEN])
{
	EVP_PKEY *a = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, priv, HAK_DH_LEN);
	EVP_PKEY *b = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, pub, HAK_DH_LEN);
	EVP_PKEY_CTX *c = a ? EVP_PKEY_CTX_new(a, NULL) : NULL;
	size_t n = HAK_DH_LEN;
	/* OpenSSL refuses the all-zero result, that is low-order points */
	bool ok = c && b && EVP_PKEY_derive_init(c) == 1 && EVP_PKEY_derive_set_peer(c, b) == 1 &&
		  EVP_PKEY_derive(c, out, &n) == 1 && n == HAK_DH_LEN;

	EVP_PKEY_CTX_free(c);
	EVP_PKEY_free(a);
	EVP_PKEY_free(b);
	return ok;
}

static bool public_of(const uint8_t *priv, uint8_t *pub)
{
	EVP_PKEY *a = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, priv, HAK_DH_LEN);
	size_t n = HAK_DH_LEN;
	bool ok = a && EVP_PKEY_get_raw_public_key(a, pub, &n) == 1 && n == HAK_DH_LEN;

	EVP_PKEY_free(a);
	return ok;
}

enum hak_err hak_noise_begin(struct hak_noise *s, const uint8_t psk[HAK_KEY_LEN],
			     const void *prologue, size_t prologue_len)
{
	memset(s, 0, sizeof *s);
	memcpy(s->h, protocol, HAK_HASH_LEN);
	memcpy(s->ck, protocol, HAK_HASH_LEN);
	if (!mix_hash(s, prologue, prologue_len) || !mix_key_and_hash(s, psk))
		return HAK_ECRYPTO;
	return HAK_OK;
}

enum hak_err hak_noise_ephemeral(struct hak_noise *s, const uint8_t *e_priv)
{
	if (e_priv)
		memcpy(s->e_priv, e_priv, HAK_DH_LEN);
	else if (hak_random(s->e_priv, HAK_DH_LEN))
		return HAK_ESYS;
	return public_of(s->e_priv, s->e_pub) ? HAK_OK : HAK_ECRYPTO;
}

enum hak_err hak_noise_start(struct hak_noise *s, const uint8_t psk[HAK_KEY_LEN],
			     const void *prologue, size_t prologue_len, const uint8_t *e_priv)
{
	enum hak_err e = hak_noise_begin(s, psk, prologue, prologue_len);

	return e ? e : hak_noise_ephemeral(s, e_priv);
}

enum hak_err hak_noise_write1(struct hak_noise *s, const void *payload, size_t n, uint8_t *out)
{
	memcpy(out, s->e_pub, HAK_DH_LEN);
	if (!mix_e(s, s->e_pub))
		return HAK_ECRYPTO;
	return seal_payload(s, payload, n, out + HAK_DH_LEN);
}

enum hak_err hak_noise_read1(struct hak_noise *s, const uint8_t *msg, size_t len,
			     uint8_t *payload, uint8_t peer_e[HAK_DH_LEN])
{
	if (len < HAK_NOISE_OVERHEAD)
		return HAK_ETRUNC;
	memcpy(peer_e, msg, HAK_DH_LEN);
	if (!mix_e(s, peer_e))
		return HAK_ECRYPTO;
	return open_payload(s, msg + HAK_DH_LEN, len - HAK_DH_LEN, payload);
}

static enum hak_err split(struct hak_noise *s, uint8_t keys[2][HAK_KEY_LEN])
{
	bool ok = hkdf(s->ck, NULL, 0, keys[0], keys[1], NULL);

	hak_wipe(s, sizeof *s);
	return ok ? HAK_OK : HAK_ECRYPTO;
}

static bool mix_ee(struct hak_noise *s, const uint8_t *peer_e)
{
	uint8_t ss[HAK_DH_LEN];
	bool ok = dh(s->e_priv, peer_e, ss) && mix_key(s, ss);

	hak_wipe(ss, sizeof ss);
	return ok;
}

enum hak_err hak_noise_write2(struct hak_noise *s, const uint8_t peer_e[HAK_DH_LEN],
			      const void *payload, size_t n, uint8_t *out,
			      uint8_t keys[2][HAK_KEY_LEN])
{
	enum hak_err e;

	memcpy(out, s->e_pub, HAK_DH_LEN);
	if (!mix_e(s, s->e_pub) || !mix_ee(s, peer_e))
		return HAK_ECRYPTO;
	e = seal_payload(s, payload, n, out + HAK_DH_LEN);
	return e ? e : split(s, keys);
}

/* A message that fails leaves *s as it was: a forged WELCOME must not spoil the
 * handshake that the true one would complete. */
enum hak_err hak_noise_read2(struct hak_noise *s, const uint8_t *msg, size_t len,
			     uint8_t *payload, uint8_t keys[2][HAK_KEY_LEN])
{
	struct hak_noise t = *s;
	enum hak_err e = HAK_OK;

	if (len < HAK_NOISE_OVERHEAD)
		e = HAK_ETRUNC;
	else if (!mix_e(&t, msg) || !mix_ee(&t, msg))
		e = HAK_EAUTH;	/* a low-order point: nobody honest sends one */
	else
		e = open_payload(&t, msg + HAK_DH_LEN, len - HAK_DH_LEN, payload);
	if (!e) {
		e = split(&t, keys);
		hak_wipe(s, sizeof *s);
	}
	hak_wipe(&t, sizeof t);
	return e;
}
