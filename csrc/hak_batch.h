/* hak_batch.h - what waited in the probe's ring together: a change of a connection takes
 * the place of what was noted of it before.
 *
 * Each note tells all of a connection's state, so of several the last one is enough, at
 * the place of the first, and of its kind: what began and changed meanwhile began.  A
 * message of netlink may tell of any connection, so it ends what was begun before it; not
 * that of an end, behind which only another beginning can be.
 *
 * Two beginnings of one tuple are a clash of two processors, one of which the kernel
 * refused after the probe had told of it; which one, only the kernel knows.
 *
 * A fixed number of places, found by a hash, and the last one wins: what was forgotten is
 * told twice.
 */
#ifndef HAK_BATCH_H
#define HAK_BATCH_H

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include "hak_probe.h"

enum { HAK_BATCH_MAX = 256, HAK_BATCH_PLACES = 1024 };

struct hak_batch {
	unsigned n;
	struct hak_told {
		struct hak_sight first;
		const struct hak_seen *last;	/* the same, or what it changed into */
		bool doubtful;			/* it began twice */
		bool marked;			/* its mark was news on the way */
	} v[HAK_BATCH_MAX];
	uint16_t place[HAK_BATCH_PLACES];	/* of v, plus 1; by a hash of the tuple */
};

static inline void hak_batch_begin(struct hak_batch *b)
{
	b->n = 0;
	memset(b->place, 0, sizeof b->place);
}

static inline unsigned hak_batch_place(const struct hak_seen *s)
{
	const struct hak_seen_long *l = (const void *)s;
	uint64_t h = (uint64_t)s->ports[0] << 16 | s->ports[1];

	if (s->flags & HAK_SEEN_LONG) {
		unsigned i = hak_addr_len(s->l3) == 16 ? 3 : 0;

		h ^= (uint64_t)l->addrs[0][i] << 32 ^ l->addrs[1][i];
	} else {
		h ^= (uint64_t)s->addrs[0] << 32 ^ s->addrs[1];
	}
	h = (h + s->l4proto) * 0x9e3779b97f4a7c15u;
	return (unsigned)(h >> 54) % HAK_BATCH_PLACES;
}

static inline bool hak_batch_is_end(const struct hak_sight *s)
{
	struct hak_rd r = hak_rd_on(s->message, s->len);

	(void)hak_rd_h32(&r);		/* struct nlmsghdr: length, type */
	return hak_rd_h16(&r) == (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE);
}

/* There must be room.  False: it is part of another one now. */
static inline bool hak_batch_add(struct hak_batch *b, const struct hak_sight *s)
{
	struct hak_told *t = &b->v[b->n], *before = NULL;
	uint16_t *place;

	*t = (struct hak_told){ .first = *s, .last = s->seen };
	if (!s->seen) {
		if (!hak_batch_is_end(s))
			memset(b->place, 0, sizeof b->place);
		b->n++;
		return true;
	}
	t->marked = s->seen->flags & HAK_SEEN_MARK;
	place = &b->place[hak_batch_place(s->seen)];
	if (*place && hak_probe_same(b->v[*place - 1].first.seen, s->seen))
		before = &b->v[*place - 1];
	if (s->seen->what != HAK_SEEN_NEW && before) {
		before->last = s->seen;
		before->marked |= t->marked;
		return false;
	}
	t->doubtful = before && before->first.seen->what == HAK_SEEN_NEW;
	*place = (uint16_t)++b->n;
	return true;
}

#endif
