/* hak_born.h - which connections were made here lately: a fixed number of places.
 *
 * An active node that must give way after a split offers its peer what began here while
 * they did not hear each other (hak_offer.c).  Nothing in an entry of the kernel's tells
 * when it was made, so the capture thread notes each NEW: a hash of its identity, and
 * when.  The youngest stay.
 *
 * Written by the capture thread while this node is active, read by the apply thread once
 * it is not; a pair that is torn between the two costs one offer.
 */
#ifndef HAK_BORN_H
#define HAK_BORN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { HAK_BORN_SETS = 1 << 14, HAK_BORN_WAYS = 4 };

struct hak_born {			/* zeroed: nothing */
	struct { _Atomic uint64_t hash, at; } v[HAK_BORN_SETS][HAK_BORN_WAYS];
};

/* A note of it will follow: its place is as good as never in a cache. */
static inline void hak_born_expect(const struct hak_born *b, uint64_t hash)
{
	__builtin_prefetch(&b->v[hash % HAK_BORN_SETS], 1);
}

/* now: not 0. */
static inline void hak_born_note(struct hak_born *b, uint64_t hash, uint64_t now)
{
	unsigned set = (unsigned)(hash % HAK_BORN_SETS), place = 0;
	uint64_t oldest = UINT64_MAX;

	for (unsigned i = 0; i < HAK_BORN_WAYS; i++) {
		uint64_t at = atomic_load_explicit(&b->v[set][i].at, memory_order_relaxed);

		if (atomic_load_explicit(&b->v[set][i].hash, memory_order_relaxed) == hash)
			at = 0;		/* the tuple's life before this one */
		if (at < oldest) {
			oldest = at;
			place = i;
		}
	}
	atomic_store_explicit(&b->v[set][place].hash, hash, memory_order_relaxed);
	atomic_store_explicit(&b->v[set][place].at, now, memory_order_relaxed);
}

static inline bool hak_born_since(const struct hak_born *b, uint64_t hash, uint64_t from)
{
	unsigned set = (unsigned)(hash % HAK_BORN_SETS);

	for (unsigned i = 0; i < HAK_BORN_WAYS; i++)
		if (atomic_load_explicit(&b->v[set][i].hash, memory_order_relaxed) == hash)
			return atomic_load_explicit(&b->v[set][i].at, memory_order_relaxed) >=
			       from;
	return false;
}

#endif
