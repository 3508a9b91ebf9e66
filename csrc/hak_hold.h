/* hak_hold.h - connections that are too young to be told of: all of them by policy
 * (min_duration_s), or some while the stream cannot keep up (hak_pressure.h).
 *
 * Identities in the order in which they become due, in a ring of fixed size, with an
 * index of fixed size over it.  What has ended is struck out; what is due is handed
 * back, for the caller to read anew and to send.  All memory is taken at birth; no
 * operation costs more than a few looks.  Pure: no clock but the `now` passed in.
 *
 * One delay for all: so the ring's order is that of the times at which they are due.
 */
#ifndef HAK_HOLD_H
#define HAK_HOLD_H

#include "hak_err.h"
#include "hak_flow.h"

/* Some 22 MB, of which pages never used cost nothing. */
enum { HAK_HOLD_MAX = 1 << 18, HAK_HOLD_SLOTS = 2 * HAK_HOLD_MAX };

struct hak_young {
	uint64_t hash, due;
	uint16_t zone;
	uint8_t l3, l4proto, zone_dir;
	bool dead;			/* struck out */
	struct hak_tuple orig;
};

struct hak_hold {
	uint64_t head, tail;		/* of the ring: [head, tail), dead ones too */
	uint32_t live;
	struct hak_young ring[HAK_HOLD_MAX];
	uint32_t index[HAK_HOLD_SLOTS];	/* 1 + place in the ring; 0: free */
};

enum hak_err hak_hold_new(struct hak_hold **out);	/* HAK_ESYS: no memory */
void hak_hold_free(struct hak_hold *h);			/* takes NULL */
void hak_hold_clear(struct hak_hold *h);
/* hash: of the flow's identity, keyed.  Not held yet, and the ring not full: take. */
void hak_hold_put(struct hak_hold *h, const struct hak_flow *f, uint64_t hash, uint64_t due);
bool hak_hold_has(const struct hak_hold *h, const struct hak_flow *f, uint64_t hash);
/* Strike out.  False: it was not held. */
bool hak_hold_drop(struct hak_hold *h, const struct hak_flow *f, uint64_t hash);
/* The identity of the oldest one if it is due by `now`. */
bool hak_hold_take(struct hak_hold *h, uint64_t now, struct hak_flow *out);
/* When the oldest one is due; UINT64_MAX: none is held. */
uint64_t hak_hold_due(struct hak_hold *h);
/* No place before the oldest one is taken or struck out. */
bool hak_hold_full(struct hak_hold *h);

#endif
