/* hak_buf.h - the bounded cursor: the only place where bytes are indexed.
 *
 * A reader (`struct hak_rd`) and a writer (`struct hak_wr`) over memory that the
 * caller owns.  Both carry a sticky error: after the first access that does not
 * fit, every further one does nothing (reads give zeroes), so that a parser may
 * be a straight line of gets with one test at its end.  Lengths are size_t and
 * are always compared as `n <= end - pos`, never by adding to a pointer first.
 *
 * Numbers travel big-endian ("network order") in K2K and in ctnetlink payloads;
 * the h-variants are for netlink headers, which are in host order.
 */
#ifndef HAK_BUF_H
#define HAK_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct hak_rd {
	const uint8_t *pos, *end;
	bool bad;		/* sticky: something did not fit */
};

struct hak_wr {
	uint8_t *base, *pos, *end;
	bool bad;
};

/* ---- reader ---------------------------------------------------------- */

static inline struct hak_rd hak_rd_on(const void *p, size_t n)
{
	const uint8_t *b = p;
	return (struct hak_rd){ .pos = b, .end = b + n };
}

static inline size_t hak_rd_left(const struct hak_rd *r)
{
	return (size_t)(r->end - r->pos);
}

/* The next n bytes, or NULL (and the reader is bad from then on). */
static inline const uint8_t *hak_rd_take(struct hak_rd *r, size_t n)
{
	const uint8_t *p = r->pos;

	if (r->bad || n > hak_rd_left(r)) {
		r->bad = true;
		return NULL;
	}
	r->pos += n;
	return p;
}

/* A reader confined to the next n bytes; empty and bad if they are not there. */
static inline struct hak_rd hak_rd_sub(struct hak_rd *r, size_t n)
{
	const uint8_t *p = hak_rd_take(r, n);

	if (!p)
		return (struct hak_rd){ .pos = r->end, .end = r->end, .bad = true };
	return hak_rd_on(p, n);
}

static inline void hak_rd_copy(struct hak_rd *r, void *to, size_t n)
{
	const uint8_t *p = hak_rd_take(r, n);

	if (p)
		memcpy(to, p, n);
	else
		memset(to, 0, n);
}

static inline uint8_t hak_rd_u8(struct hak_rd *r)
{
	const uint8_t *p = hak_rd_take(r, 1);
	return p ? *p : 0;
}

static inline uint16_t hak_rd_u16(struct hak_rd *r)
{
	const uint8_t *p = hak_rd_take(r, 2);
	return p ? (uint16_t)(p[0] << 8 | p[1]) : 0;
}

static inline uint32_t hak_rd_u32(struct hak_rd *r)
{
	const uint8_t *p = hak_rd_take(r, 4);
	return p ? (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 |
		   (uint32_t)p[2] << 8 | p[3] : 0;
}

static inline uint64_t hak_rd_u64(struct hak_rd *r)
{
	uint64_t hi = hak_rd_u32(r);
	return hi << 32 | hak_rd_u32(r);
}

static inline uint16_t hak_rd_h16(struct hak_rd *r)
{
	uint16_t v;
	hak_rd_copy(r, &v, sizeof v);
	return v;
}

static inline uint32_t hak_rd_h32(struct hak_rd *r)
{
	uint32_t v;
	hak_rd_copy(r, &v, sizeof v);
	return v;
}

/* ---- writer ---------------------------------------------------------- */

static inline struct hak_wr hak_wr_on(void *p, size_t n)
{
	uint8_t *b = p;
	return (struct hak_wr){ .base = b, .pos = b, .end = b + n };
}

static inline size_t hak_wr_len(const struct hak_wr *w)
{
	return (size_t)(w->pos - w->base);
}

static inline size_t hak_wr_left(const struct hak_wr *w)
{
	return (size_t)(w->end - w->pos);
}

/* Room for n bytes, which the caller fills; NULL if there is none. */
static inline uint8_t *hak_wr_room(struct hak_wr *w, size_t n)
{
	uint8_t *p = w->pos;

	if (w->bad || n > hak_wr_left(w)) {
		w->bad = true;
		return NULL;
	}
	w->pos += n;
	return p;
}

/* Forget all that was written after `mark` (a value of hak_wr_len), error too. */
static inline void hak_wr_rewind(struct hak_wr *w, size_t mark)
{
	if (mark <= hak_wr_len(w))
		w->pos = w->base + mark;
	w->bad = false;
}

static inline void hak_wr_copy(struct hak_wr *w, const void *from, size_t n)
{
	uint8_t *p = hak_wr_room(w, n);
	if (p && n)
		memcpy(p, from, n);
}

static inline void hak_wr_zero(struct hak_wr *w, size_t n)
{
	uint8_t *p = hak_wr_room(w, n);
	if (p && n)
		memset(p, 0, n);
}

static inline void hak_wr_u8(struct hak_wr *w, uint8_t v)
{
	uint8_t *p = hak_wr_room(w, 1);
	if (p)
		*p = v;
}

static inline void hak_wr_u16(struct hak_wr *w, uint16_t v)
{
	uint8_t *p = hak_wr_room(w, 2);
	if (p) {
		p[0] = (uint8_t)(v >> 8);
		p[1] = (uint8_t)v;
	}
}

static inline void hak_wr_u32(struct hak_wr *w, uint32_t v)
{
	uint8_t *p = hak_wr_room(w, 4);
	if (p) {
		p[0] = (uint8_t)(v >> 24);
		p[1] = (uint8_t)(v >> 16);
		p[2] = (uint8_t)(v >> 8);
		p[3] = (uint8_t)v;
	}
}

static inline void hak_wr_u64(struct hak_wr *w, uint64_t v)
{
	hak_wr_u32(w, (uint32_t)(v >> 32));
	hak_wr_u32(w, (uint32_t)v);
}

static inline void hak_wr_h16(struct hak_wr *w, uint16_t v)
{
	hak_wr_copy(w, &v, sizeof v);
}

static inline void hak_wr_h32(struct hak_wr *w, uint32_t v)
{
	hak_wr_copy(w, &v, sizeof v);
}

/* Overwrite bytes written earlier, at offset `at` from the writer's base. */
static inline void hak_wr_patch(struct hak_wr *w, size_t at, const void *from, size_t n)
{
	size_t len = hak_wr_len(w);

	if (at > len || n > len - at)
		w->bad = true;
	else
		memcpy(w->base + at, from, n);
}

#endif
