/* hak_roll.c - see hak_roll.h. */
#include "hak_roll.h"
#include "hak_pages.h"
#include "hak_wire.h"

#include <sys/mman.h>

enum { SEEN_SIZE = HAK_ROLL_SEEN * sizeof(uint64_t), SEEN_MAX = HAK_ROLL_SEEN / 4 * 3 };

enum hak_err hak_roll_init(struct hak_roll *r)
{
	void *p = mmap(NULL, HAK_ROLL_SIZE + (size_t)SEEN_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	memset(r, 0, sizeof *r);
	if (p == MAP_FAILED)
		return HAK_ESYS;
	r->seen = p;
	r->bytes = (uint8_t *)(r->seen + HAK_ROLL_SEEN);
	return HAK_OK;
}

void hak_roll_free(struct hak_roll *r)
{
	if (r->seen)
		munmap(r->seen, HAK_ROLL_SIZE + (size_t)SEEN_SIZE);
	memset(r, 0, sizeof *r);
}

void hak_roll_begin(struct hak_roll *r)
{
	r->len = r->at = r->end = 0;
	r->whole = true;
}

void hak_roll_rest(struct hak_roll *r)
{
	if (!r->len && !r->whole)
		return;
	r->len = r->at = r->end = 0;
	r->whole = false;
	hak_pages_back(r->seen, HAK_ROLL_SIZE + (size_t)SEEN_SIZE);
}

void hak_roll_add(struct hak_roll *r, const struct hak_flow *f)
{
	struct hak_wr w;

	if (!r->whole)
		return;
	w = hak_wr_on(r->bytes, HAK_ROLL_SIZE);
	(void)hak_wr_room(&w, r->len);
	if (hak_wire_put_flow(&w, HAK_REC_FLOW_DESTROY, f))
		r->whole = false;
	else
		r->len = hak_wr_len(&w);
}

void hak_roll_look(struct hak_roll *r)
{
	r->at = 0;
	r->end = r->len;
	r->n_seen = 0;
	memset(r->seen, 0, SEEN_SIZE);
}

/* True: it is new. */
static bool note(struct hak_roll *r, uint64_t hash)
{
	uint32_t i = (uint32_t)(hash % HAK_ROLL_SEEN);

	hash += !hash;				/* 0 is a free place */
	for (; r->seen[i]; i = (i + 1) % HAK_ROLL_SEEN)
		if (r->seen[i] == hash)
			return false;
	r->seen[i] = hash;
	r->n_seen++;
	return true;
}

enum hak_err hak_roll_next(struct hak_roll *r, const struct hak_digest *d, const uint64_t *map,
			   unsigned *scan, struct hak_flow *out, bool *found)
{
	struct hak_rd rd = hak_rd_on(r->bytes, r->end);
	struct hak_record rec;

	(void)hak_rd_take(&rd, r->at);
	*found = false;
	while (*scan && hak_rd_left(&rd)) {
		uint64_t hash;

		--*scan;
		if (!r->whole || r->n_seen > SEEN_MAX || hak_wire_get(&rd, &rec, NULL)) {
			r->whole = false;
			return HAK_ESPACE;
		}
		hash = hak_flow_hash(&rec.flow, d->key);
		if (!hak_bit(map, (uint32_t)(hash >> (64 - d->bits))) || !note(r, hash))
			continue;
		*out = rec.flow;
		*found = true;
		break;
	}
	r->at = r->end - hak_rd_left(&rd);
	return HAK_OK;
}
