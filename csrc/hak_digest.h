/* hak_digest.h - two tables compared without sending either.
 *
 * Every replicated entry falls into one of 2^bits slots by a keyed hash of its
 * identity; a slot's sum is the sum, modulo 2^64, of keyed hashes of all that its
 * entries are.  Equal sums of all slots are equal tables.  Sums of 16, 256 and 4096
 * slots (a node is a slot number shifted right) are sums of sums, so unequal slots
 * are found in three steps of 16 from the 4096s.
 *
 * A slot is dirty if a record about one of its entries was in the stream while it
 * was being summed up: its sum belongs to no single moment.  Both nodes see the same
 * records between the same marks, so both hold the same slots for dirty, and leave
 * them out of every sum; they are summed up again, alone, in a further round.
 *
 * Identity: zone, its direction, family, protocol, original tuple, and (since NAT is
 * what kills connections) the reply tuple.  State: status bits that travel, mark,
 * labels, TCP state and window scales, SCTP and DCCP state, helper, master, sequence
 * adjustments, SYNPROXY.  Neither: timeouts, counters, windows, TCP's other flags.
 *
 * Brief sums are what is told of nodes below the top: as many bytes as make it rare that
 * one of those that differ looks equal, which costs a further copy and round; where there
 * are very many slots these cost less than the bytes.  (If all children of an unequal node
 * look equal, all are taken for unequal.)  So in a comparison by brief sums a further
 * round's top has the sums of all slots, as they were when they were last summed up, and
 * other bytes are told in it.
 *
 * The keys come from the session, so that strangers, who choose the tuples, cannot
 * choose slots.  Memory is taken once and touched only as far as the bits reach.
 */
#ifndef HAK_DIGEST_H
#define HAK_DIGEST_H

#include <stdbool.h>
#include <stdint.h>
#include "hak_err.h"
#include "hak_flow.h"
#include "hak_siphash.h"

enum {
	HAK_DIGEST_FAN = 4,		/* bits a level: 16 children */
	HAK_DIGEST_TOP = 3 * HAK_DIGEST_FAN,
	HAK_DIGEST_BITS_MIN = HAK_DIGEST_TOP,
	HAK_DIGEST_BITS_MAX = 20,
	HAK_DIGEST_MAP = (1 << HAK_DIGEST_BITS_MAX) / 64,
};

struct hak_digest {
	uint64_t *sums;			/* 2^HAK_DIGEST_BITS_MAX of them, owned */
	uint64_t *dirty, *scope, *marked;	/* bitmaps over the slots, owned */
	uint64_t *known;		/* brief: summed up in an earlier round, found clean */
	bool brief;
	unsigned bits;
	bool open;			/* records make slots dirty, */
	bool copying;			/* but for those of a copy, which are summed up */
	uint8_t key[HAK_SIPHASH_KEY];
};

enum hak_err hak_digest_init(struct hak_digest *d);	/* HAK_ESYS: no memory */
void hak_digest_free(struct hak_digest *d);
/* The memory goes back to the kernel until the next begin. */
void hak_digest_rest(struct hak_digest *d);

/* How many bits suit a table of n entries. */
unsigned hak_digest_bits(uint64_t entries);
/* A round over all slots.  `round` makes the keys of this and of the rounds after it. */
void hak_digest_begin(struct hak_digest *d, unsigned bits, const uint8_t session_key[16],
		      uint32_t round);
/* A further round, over what the last one left dirty or found unequal. */
void hak_digest_again(struct hak_digest *d);
/* The same round once more: the listing was of no use. */
void hak_digest_restart(struct hak_digest *d);

uint32_t hak_digest_slot(const struct hak_digest *d, const struct hak_flow *f);
uint32_t hak_digest_expect_slot(const struct hak_digest *d, const struct hak_expect *x);
/* *f as listed; a master that is gone is taken out of it by the caller. */
void hak_digest_add_flow(struct hak_digest *d, const struct hak_flow *f);
void hak_digest_add_expect(struct hak_digest *d, const struct hak_expect *x);
/* Do two descriptions of one connection differ in what is replicated? */
bool hak_flow_differs(const struct hak_flow *a, const struct hak_flow *b);

/* Sum of a node's slots that are in scope and not dirty. */
uint64_t hak_digest_sum(const struct hak_digest *d, unsigned shift, uint32_t node);

/* How many bytes are told of the sums of nodes of that shift: 1, 2 or 4; and which. */
unsigned hak_digest_brief_size(const struct hak_digest *d, unsigned shift);
uint32_t hak_digest_brief(uint64_t sum, unsigned size, uint32_t round);

static inline bool hak_bit(const uint64_t *map, uint32_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static inline void hak_bit_set(uint64_t *map, uint32_t i)
{
	map[i / 64] |= (uint64_t)1 << (i % 64);
}

static inline uint32_t hak_digest_nodes(const struct hak_digest *d, unsigned shift)
{
	return (uint32_t)1 << (d->bits - shift);
}

/* How many bits are set in marked. */
uint64_t hak_digest_marks(const struct hak_digest *d);
/* The next round forgets which slots were marked: into a map of HAK_DIGEST_MAP words. */
void hak_digest_keep_marks(const struct hak_digest *d, uint64_t *map);
/* The same, added to what the map has.  True: it had some of them before. */
bool hak_digest_join_marks(const struct hak_digest *d, uint64_t *map);
/* How many slots a round looks at. */
uint64_t hak_digest_scope(const struct hak_digest *d);
/* Mark what is still dirty.  How many are. */
uint64_t hak_digest_dirty(const struct hak_digest *d);
void hak_digest_mark_dirty(struct hak_digest *d);

#endif
