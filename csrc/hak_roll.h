/* hak_roll.h - who is in the table, for as long as a comparison lasts.
 *
 * The first listing of a comparison notes the identity of every entry, and so does
 * every record that brings another one.  What a later round or a copy of some slots
 * needs is then found by looking at these entries one by one, each as it is at that
 * moment, instead of by listing all of the table once more.
 *
 * It is a text of bounded length, taken once and given back after each comparison.
 * Longer tables have none, and are listed.  It says who may be there, nothing else:
 * what an entry is, and whether it still is, only the kernel tells.
 */
#ifndef HAK_ROLL_H
#define HAK_ROLL_H

#include "hak_digest.h"

enum {
	HAK_ROLL_SIZE = 20 << 20,	/* 1.3 million connections of IPv4, half of IPv6 */
	HAK_ROLL_SEEN = 1 << 16,
	HAK_ROLL_SLOTS = HAK_ROLL_SEEN / 2,	/* look at no more slots than that */
};

struct hak_roll {
	uint8_t *bytes;			/* HAK_ROLL_SIZE, owned; records FLOW_DESTROY */
	uint64_t *seen;			/* hashes of those that were handed out, owned */
	size_t len;
	bool whole;			/* all are in it */
	size_t at, end;			/* of the look at some */
	unsigned n_seen;
};

enum hak_err hak_roll_init(struct hak_roll *r);		/* HAK_ESYS: no memory */
void hak_roll_free(struct hak_roll *r);
/* A listing begins, and all that it shows will be added. */
void hak_roll_begin(struct hak_roll *r);
/* No longer needed: the memory goes back. */
void hak_roll_rest(struct hak_roll *r);
void hak_roll_add(struct hak_roll *r, const struct hak_flow *f);

/* Look at those in the slots of `map`: hak_roll_look, then hak_roll_next until it says
 * false, at most `scan` entries looked through a time (`*out` is one of them if `found`).
 * Each is handed out once.  What is added meanwhile is not.  HAK_ESPACE: too many; the
 * roll is of no use. */
void hak_roll_look(struct hak_roll *r);
static inline bool hak_roll_looked(const struct hak_roll *r)
{
	return r->at == r->end;
}

enum hak_err hak_roll_next(struct hak_roll *r, const struct hak_digest *d, const uint64_t *map,
			   unsigned *scan, struct hak_flow *out, bool *found);

#endif
