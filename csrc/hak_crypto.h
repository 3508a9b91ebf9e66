/* hak_crypto.h - the AEAD that seals every datagram, and the handshake.
 *
 * Handshake: Noise_NNpsk0_25519_AESGCM_SHA256 (noiseprotocol.org, revision 34),
 * because both ends hold one pre-shared key and nothing else: fresh ephemeral
 * keys give forward secrecy, the key authenticates both messages, and public test
 * vectors exist.  All primitives are OpenSSL's.
 *
 * Transport: AES-256-GCM with one key per direction.  Nonce = kind (4 bytes) |
 * sequence (8 bytes): each kind of datagram has its own counter, so a nonce is
 * used once as long as a (kind, sequence) pair never seals two different texts.
 * The stream's datagrams are resent byte for byte, never sealed again.
 */
#ifndef HAK_CRYPTO_H
#define HAK_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "hak_err.h"

enum { HAK_KEY_LEN = 32, HAK_DH_LEN = 32, HAK_HASH_LEN = 32 };

/* An EVP context made once per key: making one per datagram costs ten times the
 * sealing itself.  Not for two threads at once. */
struct hak_aead {
	void *ctx;		/* EVP_CIPHER_CTX, owned; NULL = not keyed */
	bool sealing;
};

enum hak_err hak_aead_init(struct hak_aead *a, const uint8_t key[HAK_KEY_LEN], bool sealing);
void hak_aead_free(struct hak_aead *a);		/* idempotent; wipes the key */

/* Seal n bytes at `text` in place; the tag goes to `tag` (HAK_TAG_LEN).  With
 * `clear` the text stays readable and is authenticated only. */
enum hak_err hak_aead_seal(struct hak_aead *a, uint32_t kind, uint64_t seq, const void *ad,
			   size_t ad_len, uint8_t *text, size_t n, uint8_t *tag, bool clear);
/* HAK_EAUTH: the tag does not fit, and what is at `text` must not be read. */
enum hak_err hak_aead_open(struct hak_aead *a, uint32_t kind, uint64_t seq, const void *ad,
			   size_t ad_len, uint8_t *text, size_t n, const uint8_t *tag, bool clear);

struct hak_noise {
	uint8_t h[HAK_HASH_LEN], ck[HAK_HASH_LEN], k[HAK_KEY_LEN];
	uint8_t e_priv[HAK_DH_LEN], e_pub[HAK_DH_LEN];
	uint64_t n;		/* nonce counter of k; reset whenever k changes */
};

/* Symmetric only, so that a message can be tried under several keys for the cost of
 * some hashes; hak_noise_ephemeral() has to follow before anything is written. */
enum hak_err hak_noise_begin(struct hak_noise *s, const uint8_t psk[HAK_KEY_LEN],
			     const void *prologue, size_t prologue_len);
/* e_priv: NULL for a fresh ephemeral key; a given one is for test vectors only. */
enum hak_err hak_noise_ephemeral(struct hak_noise *s, const uint8_t *e_priv);
/* Both. */
enum hak_err hak_noise_start(struct hak_noise *s, const uint8_t psk[HAK_KEY_LEN],
			     const void *prologue, size_t prologue_len,
			     const uint8_t *e_priv);
/* Initiator: message 1 = 32 + n + 16 bytes to `out`. */
enum hak_err hak_noise_write1(struct hak_noise *s, const void *payload, size_t n, uint8_t *out);
/* Responder: check message 1; its payload (len - 48 bytes) goes to `payload`. */
enum hak_err hak_noise_read1(struct hak_noise *s, const uint8_t *msg, size_t len,
			     uint8_t *payload, uint8_t peer_e[HAK_DH_LEN]);
/* Responder: message 2 = 32 + n + 16 bytes; keys: [0] initiator to responder,
 * [1] responder to initiator. */
enum hak_err hak_noise_write2(struct hak_noise *s, const uint8_t peer_e[HAK_DH_LEN],
			      const void *payload, size_t n, uint8_t *out,
			      uint8_t keys[2][HAK_KEY_LEN]);
enum hak_err hak_noise_read2(struct hak_noise *s, const uint8_t *msg, size_t len,
			     uint8_t *payload, uint8_t keys[2][HAK_KEY_LEN]);

enum { HAK_NOISE_OVERHEAD = HAK_DH_LEN + 16 };

/* What people compare keys by: 32 bits of a hash that is used for nothing else; never 0,
 * which stands for no key. */
uint32_t hak_key_print(const uint8_t key[HAK_KEY_LEN]);

void hak_wipe(void *p, size_t n);		/* memset that is never optimised away */
enum hak_err hak_random(void *p, size_t n);	/* from the kernel; HAK_ESYS */

#endif
