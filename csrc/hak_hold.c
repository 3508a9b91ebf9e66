/* hak_hold.c - see hak_hold.h. */
#include "hak_hold.h"

#include <stdlib.h>

enum hak_err hak_hold_new(struct hak_hold **out)
{
	*out = calloc(1, sizeof **out);
	return *out ? HAK_OK : HAK_ESYS;
}

void hak_hold_free(struct hak_hold *h)
{
	free(h);
}

void hak_hold_clear(struct hak_hold *h)
{
	if (h->head == h->tail)
		return;
	h->head = h->tail = 0;
	h->live = 0;
	memset(h->index, 0, sizeof h->index);
}

static bool same(const struct hak_young *y, const struct hak_flow *f, uint64_t hash)
{
	return y->hash == hash && y->l3 == f->l3 && y->l4proto == f->l4proto &&
	       y->zone == f->zone && y->zone_dir == f->zone_dir &&
	       hak_tuple_equal(&y->orig, &f->orig);
}

/* Its slot in the index, or the free one at which the search ended.  The index is
 * never more than half full. */
static uint32_t find(const struct hak_hold *h, const struct hak_flow *f, uint64_t hash)
{
	uint32_t i = (uint32_t)(hash % HAK_HOLD_SLOTS);

	while (h->index[i] && !same(&h->ring[h->index[i] - 1], f, hash))
		i = (i + 1) % HAK_HOLD_SLOTS;
	return i;
}

/* Free a slot and close the gap, so that every search still ends where it should. */
static void unindex(struct hak_hold *h, uint32_t gap)
{
	for (uint32_t i = (gap + 1) % HAK_HOLD_SLOTS; h->index[i]; i = (i + 1) % HAK_HOLD_SLOTS) {
		uint32_t home = (uint32_t)(h->ring[h->index[i] - 1].hash % HAK_HOLD_SLOTS);

		/* stays if its home lies in (gap, i], round the end */
		if ((i - home) % HAK_HOLD_SLOTS < (i - gap) % HAK_HOLD_SLOTS)
			continue;
		h->index[gap] = h->index[i];
		gap = i;
	}
	h->index[gap] = 0;
	h->live--;
}

static void skip_dead(struct hak_hold *h)
{
	while (h->head != h->tail && h->ring[h->head % HAK_HOLD_MAX].dead)
		h->head++;
}

bool hak_hold_full(struct hak_hold *h)
{
	skip_dead(h);
	return h->tail - h->head == HAK_HOLD_MAX;
}

void hak_hold_put(struct hak_hold *h, const struct hak_flow *f, uint64_t hash, uint64_t due)
{
	uint32_t at = find(h, f, hash), place = (uint32_t)(h->tail % HAK_HOLD_MAX);

	if (h->index[at] || hak_hold_full(h))
		return;
	h->ring[place] = (struct hak_young){
		.hash = hash, .due = due, .zone = f->zone, .l3 = f->l3, .l4proto = f->l4proto,
		.zone_dir = f->zone_dir, .orig = f->orig,
	};
	h->index[at] = place + 1;
	h->tail++;
	h->live++;
}

bool hak_hold_has(const struct hak_hold *h, const struct hak_flow *f, uint64_t hash)
{
	return h->index[find(h, f, hash)] != 0;
}

bool hak_hold_drop(struct hak_hold *h, const struct hak_flow *f, uint64_t hash)
{
	uint32_t at = find(h, f, hash);
	struct hak_young *y;

	if (!h->index[at])
		return false;
	y = &h->ring[h->index[at] - 1];
	y->dead = true;
	unindex(h, at);
	return true;
}

bool hak_hold_take(struct hak_hold *h, uint64_t now, struct hak_flow *out)
{
	const struct hak_young *y;

	skip_dead(h);
	y = &h->ring[h->head % HAK_HOLD_MAX];
	if (h->head == h->tail || y->due > now)
		return false;
	memset(out, 0, sizeof *out);
	out->l3 = y->l3;
	out->l4proto = y->l4proto;
	out->l4kind = hak_l4kind_of(y->l4proto);
	out->zone = y->zone;
	out->zone_dir = y->zone_dir;
	out->orig = y->orig;
	unindex(h, find(h, out, y->hash));
	h->head++;
	return true;
}

uint64_t hak_hold_due(struct hak_hold *h)
{
	skip_dead(h);
	return h->head == h->tail ? UINT64_MAX : h->ring[h->head % HAK_HOLD_MAX].due;
}
