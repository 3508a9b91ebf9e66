/* hak_siphash.h - SipHash-2-4, and with it the canonical identity of a connection.
 *
 * SipHash: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).  A keyed
 * hash, so that who can make connections cannot make collisions.  The words it hashes
 * are put together here from bytes; tests/c/test_flow.c holds it to the paper's vectors.
 */
#ifndef HAK_SIPHASH_H
#define HAK_SIPHASH_H

#include "hak_buf.h"
#include "hak_flow.h"

enum { HAK_SIPHASH_KEY = 16 };

struct hak_sip {
	uint64_t v0, v1, v2, v3;
};

static inline uint64_t hak_rotl64(uint64_t x, unsigned n)
{
	return x << n | x >> (64 - n);
}

static inline void hak_sip_round(struct hak_sip *s)
{
	s->v0 += s->v1;
	s->v2 += s->v3;
	s->v1 = hak_rotl64(s->v1, 13) ^ s->v0;
	s->v3 = hak_rotl64(s->v3, 16) ^ s->v2;
	s->v0 = hak_rotl64(s->v0, 32);
	s->v2 += s->v1;
	s->v0 += s->v3;
	s->v1 = hak_rotl64(s->v1, 17) ^ s->v2;
	s->v3 = hak_rotl64(s->v3, 21) ^ s->v0;
	s->v2 = hak_rotl64(s->v2, 32);
}

/* The next n <= 8 bytes as a little-endian word, as the paper reads them. */
static inline uint64_t hak_rd_le(struct hak_rd *r, size_t n)
{
	uint64_t m = 0;

	if (n == 8)
		return __builtin_bswap64(hak_rd_u64(r));
	for (unsigned i = 0; i < n; i++)
		m |= (uint64_t)hak_rd_u8(r) << 8 * i;
	return m;
}

static inline struct hak_sip hak_sip_init(const uint8_t key[HAK_SIPHASH_KEY])
{
	struct hak_rd r = hak_rd_on(key, HAK_SIPHASH_KEY);
	uint64_t k0 = hak_rd_le(&r, 8), k1 = hak_rd_le(&r, 8);

	return (struct hak_sip){
		k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d,
		k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573,
	};
}

static inline void hak_sip_word(struct hak_sip *s, uint64_t m)
{
	s->v3 ^= m;
	hak_sip_round(s);
	hak_sip_round(s);
	s->v0 ^= m;
}

/* `last` holds the bytes that made no whole word, `n` is the length of it all. */
static inline uint64_t hak_sip_end(struct hak_sip *s, uint64_t last, size_t n)
{
	hak_sip_word(s, last | (uint64_t)n << 56);
	s->v2 ^= 0xff;
	for (int i = 0; i < 4; i++)
		hak_sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

static inline uint64_t hak_siphash(const void *data, size_t n, const uint8_t key[HAK_SIPHASH_KEY])
{
	struct hak_rd r = hak_rd_on(data, n);
	struct hak_sip s = hak_sip_init(key);

	while (hak_rd_left(&r) >= 8)
		hak_sip_word(&s, hak_rd_le(&r, 8));
	return hak_sip_end(&s, hak_rd_le(&r, hak_rd_left(&r)), n);
}

/* The canonical identity, in bytes, is
 *
 *	family (4 or 6), zone_dir, l4proto, 0, zone, sport, dport, src, dst
 *
 * with numbers big-endian, addresses of 4 or 16 bytes and the port words zero where the
 * protocol has none: 18 or 42 bytes.  Both nodes compute the same for the same
 * connection and key, whatever NAT does to its replies. */
static inline uint64_t hak_flow_hash(const struct hak_flow *f, const uint8_t key[HAK_SIPHASH_KEY])
{
	uint8_t id[10 + 32];
	struct hak_wr w = hak_wr_on(id, sizeof id);

	hak_wr_u8(&w, f->l3 == 10 ? 6 : 4);	/* the number of AF_INET6 is Linux's own */
	hak_wr_u8(&w, f->zone_dir);
	hak_wr_u8(&w, f->l4proto);
	hak_wr_u8(&w, 0);
	hak_wr_u16(&w, f->zone);
	hak_wr_u16(&w, f->orig.sport);
	hak_wr_u16(&w, f->orig.dport);
	hak_wr_copy(&w, f->orig.src, hak_addr_len(f->l3));
	hak_wr_copy(&w, f->orig.dst, hak_addr_len(f->l3));
	return hak_siphash(id, hak_wr_len(&w), key);
}

#endif
