/* hak_replay.h - the anti-replay window of one lane (RFC 6479).
 *
 * Consulted only after the tag was verified, or anybody could move it.  A bitmap
 * of words used as a ring: sliding it clears whole words, and one word is always
 * sacrificed, so the usable window is HAK_REPLAY_BITS - 64.
 */
#ifndef HAK_REPLAY_H
#define HAK_REPLAY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
	HAK_REPLAY_BITS = 2048,
	HAK_REPLAY_WORDS = HAK_REPLAY_BITS / 64,
	HAK_REPLAY_WINDOW = HAK_REPLAY_BITS - 64,
};

struct hak_replay {
	uint64_t top;		/* one more than the highest sequence taken */
	uint64_t bits[HAK_REPLAY_WORDS];
};

static inline void hak_replay_init(struct hak_replay *r)
{
	memset(r, 0, sizeof *r);
}

/* True: seq is new and now taken.  False: taken before, or too old to know. */
static inline bool hak_replay_take(struct hak_replay *r, uint64_t seq)
{
	uint64_t bit, word;

	if (seq == UINT64_MAX)	/* top could not move past it */
		return false;
	if (seq >= r->top) {
		uint64_t from = r->top ? (r->top - 1) / 64 : 0, to = seq / 64;

		/* clear the words entered since; all of them after a long jump */
		if (to - from >= HAK_REPLAY_WORDS)
			memset(r->bits, 0, sizeof r->bits);
		else
			for (uint64_t w = from + 1; w <= to; w++)
				r->bits[w % HAK_REPLAY_WORDS] = 0;
		r->top = seq + 1;
	} else if (r->top - 1 - seq >= HAK_REPLAY_WINDOW) {
		return false;
	}
	word = seq / 64 % HAK_REPLAY_WORDS;
	bit = UINT64_C(1) << (seq % 64);
	if (r->bits[word] & bit)
		return false;
	r->bits[word] |= bit;
	return true;
}

#endif
