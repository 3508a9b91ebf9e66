/* hak_suspect.h - how long a silence has to be before it means death.  Pure.
 *
 * A limit that fits a good network accuses a living peer in a bad one, and one that fits
 * the bad one is slow in the good one.  So the limit is twice the longest silence that a
 * heartbeat has ended lately, within two bounds: `least`, which a good network gets, and
 * `most`.  Lately: within the last 7,000 to 8,000 heartbeats.
 *
 * Why twice the longest and no deviation from a mean: losses make silences whose tail is
 * long.  If each heartbeat is lost with probability p, the longest silence of n of them
 * is about log(n)/log(1/p) intervals, and one that is twice as long comes once in n * n:
 * with 2,000 instead of 8,000, once in a million was measured.
 *
 * Not handled: a network that turns bad from one moment to the next, by more than twice;
 * until that is learnt the old limit holds.
 */
#ifndef HAK_SUSPECT_H
#define HAK_SUSPECT_H

#include <stdint.h>

enum {
	HAK_SUSPECT_PEAKS = 8,
	HAK_SUSPECT_EACH = 1024,	/* heartbeats */
	HAK_SUSPECT_FIRST = 32,		/* before that nothing is known: `most` */
};

struct hak_suspect {
	uint64_t peak[HAK_SUSPECT_PEAKS];	/* ns; the longest of each 1,024 */
	uint64_t longest;			/* of all, since the start */
	uint64_t n;
};

/* A heartbeat has ended a silence of so many ns. */
void hak_suspect_heard(struct hak_suspect *s, uint64_t silence);
/* In ns; `most` below `least` means no more than that. */
uint64_t hak_suspect_limit(const struct hak_suspect *s, uint64_t least, uint64_t most);

#endif
