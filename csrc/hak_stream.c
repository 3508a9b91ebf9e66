/* hak_stream.c - see hak_stream.h. */
#include "hak_stream.h"

#include <sys/mman.h>

/* Both rings are some megabytes that fill only under load: mmap, so that pages
 * never touched cost nothing, and no allocator lock anywhere near the threads. */
static void *ring_alloc(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* A slot of a ring, and what it has in the pool. */
#define EACH(slot) (sizeof(slot) + sizeof(uint16_t) + HAK_DGRAM_MAX)

/* In the memory behind a ring's n slots. */
static void pool_reset(struct hak_pool *p, void *slots_end, unsigned n)
{
	p->spare = slots_end;
	p->places = (uint8_t(*)[HAK_DGRAM_MAX])(p->spare + n);
	p->n = n;
	for (p->n_spare = 0; p->n_spare < n; p->n_spare++)
		p->spare[p->n_spare] = (uint16_t)(n - 1 - p->n_spare);
}

static void pool_give(struct hak_pool *p, uint16_t place)
{
	if (p->n_spare < p->n)
		p->spare[p->n_spare++] = place;
}

/* ---- sending side ---------------------------------------------------- */

#define TX_SIZE (HAK_RING * EACH(struct hak_sent))

enum hak_err hak_tx_init(struct hak_tx *t)
{
	memset(t, 0, sizeof *t);
	t->ring = ring_alloc(TX_SIZE);
	if (!t->ring)
		return HAK_ESYS;
	hak_tx_reset(t);
	return HAK_OK;
}

void hak_tx_free(struct hak_tx *t)
{
	if (t->ring)
		munmap(t->ring, TX_SIZE);
	t->ring = NULL;
}

void hak_tx_reset(struct hak_tx *t)
{
	struct hak_sent *ring = t->ring;

	memset(t, 0, sizeof *t);
	t->ring = ring;
	pool_reset(&t->pool, ring + HAK_RING, HAK_RING);
}

/* Nobody can ask for those below `upto` any more. */
static void give_up(struct hak_tx *t, uint64_t upto)
{
	for (; t->base < upto; t->base++)
		pool_give(&t->pool, t->ring[t->base % HAK_RING].place);
}

struct hak_sent *hak_tx_slot(struct hak_tx *t)
{
	struct hak_sent *s = &t->ring[t->next % HAK_RING];

	if (t->next - t->base == HAK_RING)
		give_up(t, t->base + 1);
	s->place = t->pool.spare[t->pool.n_spare - 1];
	s->bytes = t->pool.places[s->place];
	return s;
}

void hak_tx_commit(struct hak_tx *t, uint64_t now)
{
	struct hak_sent *s = &t->ring[t->next % HAK_RING];

	t->pool.n_spare--;
	s->ns = now;
	t->records += s->records;
	t->last_ns = now;
	t->next++;
}

const struct hak_sent *hak_tx_find(const struct hak_tx *t, uint64_t seq)
{
	if (seq < t->base || seq >= t->next)
		return NULL;
	return &t->ring[seq % HAK_RING];
}

enum hak_err hak_tx_ack(struct hak_tx *t, const struct hak_ack *a)
{
	if (a->next > t->next || a->applied > a->next)
		return HAK_EFORMAT;
	/* Acknowledgements may overtake each other: never go backwards. */
	if (a->next > t->acked)
		t->acked = a->next;
	/* But for its bytes a slot outlives its acknowledgement until the ring wraps over it.
	 * Of a peer that was away for days only the last ring is looked at. */
	if (t->applied < a->applied) {
		uint64_t s = t->next - t->applied > HAK_RING ? t->next - HAK_RING : t->applied;

		for (; s < a->applied; s++)
			t->records_applied += t->ring[s % HAK_RING].records;
		t->applied = a->applied;
	}
	give_up(t, t->acked);
	if (t->applied == t->next)
		t->records_applied = t->records;
	return HAK_OK;
}

void hak_tx_forget(struct hak_tx *t)
{
	give_up(t, t->next);
	t->acked = t->applied = t->next;
	t->records_applied = t->records;
}

uint64_t hak_tx_lag(const struct hak_tx *t, uint64_t now)
{
	const struct hak_sent *s;

	if (t->applied == t->next)
		return 0;
	/* The slot may have been acknowledged as received; its time still stands
	 * unless the ring has wrapped over it. */
	s = &t->ring[(t->next - t->applied > HAK_RING ? t->base : t->applied) % HAK_RING];
	return now > s->ns ? now - s->ns : 0;
}

/* ---- receiving side -------------------------------------------------- */

#define RX_SIZE (HAK_WINDOW * EACH(struct hak_held))

enum hak_err hak_rx_init(struct hak_rx *r)
{
	memset(r, 0, sizeof *r);
	r->slots = ring_alloc(RX_SIZE);
	if (!r->slots)
		return HAK_ESYS;
	hak_rx_reset(r);
	return HAK_OK;
}

void hak_rx_free(struct hak_rx *r)
{
	if (r->slots)
		munmap(r->slots, RX_SIZE);
	r->slots = NULL;
}

void hak_rx_reset(struct hak_rx *r)
{
	struct hak_held *slots = r->slots;

	memset(r, 0, sizeof *r);
	r->slots = slots;
	pool_reset(&r->pool, slots + HAK_WINDOW, HAK_WINDOW);
	for (unsigned i = 0; i < HAK_WINDOW; i++)
		if (slots[i].len)	/* do not touch pages never used */
			slots[i].len = 0;
}

/* Done with what stands there, if anything does. */
static void drop(struct hak_rx *r, uint64_t seq)
{
	struct hak_held *h = &r->slots[seq % HAK_WINDOW];

	if (h->len)
		pool_give(&r->pool, h->place);
	h->len = 0;
}

enum hak_err hak_rx_wanted(const struct hak_rx *r, uint64_t seq)
{
	if (seq < r->next)
		return HAK_EREPLAY;
	if (seq - r->applied >= HAK_WINDOW)
		return HAK_ESPACE;
	return r->slots[seq % HAK_WINDOW].len ? HAK_EREPLAY : HAK_OK;
}

static void note_gap(struct hak_rx *r, uint64_t now)
{
	if (r->next == r->top)
		r->gap_ns = 0;
	else if (!r->gap_ns)
		r->gap_ns = now;
}

static void advance(struct hak_rx *r)
{
	uint64_t limit = r->applied + HAK_WINDOW;

	while (r->next < r->top && r->next < limit && r->slots[r->next % HAK_WINDOW].len)
		r->next++;
}

void hak_rx_put(struct hak_rx *r, uint64_t seq, const uint8_t *payload, size_t n, uint64_t now)
{
	struct hak_held *h = &r->slots[seq % HAK_WINDOW];
	uint64_t before = r->next;

	if (!n || n > HAK_PAYLOAD_MAX || h->len)
		return;
	h->place = r->pool.spare[--r->pool.n_spare];	/* a free slot has one */
	h->bytes = r->pool.places[h->place];
	memcpy(h->bytes, payload, n);
	h->len = (uint16_t)n;
	if (seq >= r->top)
		r->top = seq + 1;
	advance(r);
	/* Progress restarts the wait: a resend that is under way needs no nagging. */
	if (r->next != before)
		r->gap_ns = 0;
	note_gap(r, now);
}

bool hak_rx_announce(struct hak_rx *r, uint64_t next, uint64_t base, uint64_t now)
{
	bool lost = false;

	if (next > r->top)
		r->top = next;
	if (base > r->next) {
		/* What is held below base is unconnected with what follows: with a
		 * gap before it, it may not be applied.  Slots in use by the apply
		 * thread (below the old next) are not touched. */
		for (uint64_t s = r->next; s < base && s < r->applied + HAK_WINDOW; s++)
			drop(r, s);
		lost = true;
		r->next = base;
		if (r->applied + HAK_WINDOW < r->next) {
			/* even the window must jump; only when nothing is being
			 * applied, which the engine sees to */
			for (uint64_t s = r->applied; s < r->applied + HAK_WINDOW; s++)
				drop(r, s);
			r->applied = r->next;
		}
		if (r->top < base)
			r->top = base;
		advance(r);
		r->gap_ns = 0;
	}
	note_gap(r, now);
	return lost;
}

uint64_t hak_rx_due(const struct hak_rx *r, uint64_t wait, uint64_t again)
{
	uint64_t due;

	/* A full window is no gap: the apply thread has to catch up first. */
	if (!r->gap_ns || r->next - r->applied >= HAK_WINDOW)
		return UINT64_MAX;
	due = r->gap_ns + wait;
	if (r->nack_ns >= r->gap_ns && r->nack_ns + again > due)
		due = r->nack_ns + again;
	return due;
}

unsigned hak_rx_missing(struct hak_rx *r, struct hak_range *out, unsigned max, uint64_t now,
			uint64_t wait, uint64_t again)
{
	uint64_t end = r->top, limit = r->applied + HAK_WINDOW;
	unsigned n = 0;

	if (now < hak_rx_due(r, wait, again))
		return 0;
	if (end > limit)
		end = limit;
	for (uint64_t s = r->next; s < end; s++) {
		if (r->slots[s % HAK_WINDOW].len)
			continue;
		if (n && out[n - 1].first + out[n - 1].count == s && out[n - 1].count < UINT16_MAX) {
			out[n - 1].count++;
			continue;
		}
		if (n == max)
			break;
		out[n++] = (struct hak_range){ .first = s, .count = 1 };
	}
	r->nack_ns = now;
	return n;
}

void hak_rx_done(struct hak_rx *r, uint64_t upto)
{
	for (; r->applied < upto; r->applied++)
		drop(r, r->applied);
	advance(r);
}
