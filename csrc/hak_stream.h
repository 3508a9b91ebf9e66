/* hak_stream.h - the ordered stream: what was sent and may be asked for again,
 * and what was received and waits for its turn.  Pure data structures with fixed
 * bounds; no sockets, no locks (the engine holds one around each), no clock but
 * the `now` that is passed in.
 *
 * Sequences count datagrams from 0 in each session and direction.
 */
#ifndef HAK_STREAM_H
#define HAK_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "hak_control.h"
#include "hak_err.h"
#include "hak_wire.h"

enum {
	/* How far a sender may run ahead of what the peer has applied.  Both
	 * sides know it: the receiver holds as many, the sender's ring more. */
	HAK_WINDOW = 4096,
	HAK_RING = 8192,
};

/* Room for datagrams, as many as a ring has slots.  What was given back last is taken
 * first, so that few are ever touched if little is under way. */
struct hak_pool {
	uint8_t (*places)[HAK_DGRAM_MAX];
	uint16_t *spare;		/* those not in use, a stack */
	unsigned n_spare, n;
};

/* ---- sending side ---------------------------------------------------- */

struct hak_sent {
	uint64_t ns;			/* when it was first sent */
	uint16_t len, records;
	uint16_t place;			/* of its bytes; someone else's once it is acknowledged */
	uint8_t *bytes;			/* HAK_DGRAM_MAX: sealed, as it went out */
};

struct hak_tx {
	struct hak_sent *ring;		/* HAK_RING slots, owned, */
	struct hak_pool pool;		/* and what this is for */
	uint64_t base;			/* oldest sequence still held */
	uint64_t next;			/* sequence of the next datagram */
	uint64_t acked;			/* peer received all below in order */
	uint64_t applied;		/* peer's kernel has all below */
	uint64_t records, records_applied;	/* for the lag: totals */
	uint64_t last_ns;		/* when the last one was sent */
};

enum hak_err hak_tx_init(struct hak_tx *t);	/* HAK_ESYS: no memory */
void hak_tx_free(struct hak_tx *t);
void hak_tx_reset(struct hak_tx *t);		/* a new session begins */
/* The slot of the next datagram; the caller fills bytes and len, then commits.
 * The oldest one is given up when the ring is full. */
struct hak_sent *hak_tx_slot(struct hak_tx *t);
void hak_tx_commit(struct hak_tx *t, uint64_t now);
/* May another one be sent without overrunning a living peer? */
static inline bool hak_tx_open(const struct hak_tx *t)
{
	return t->next - t->applied < HAK_WINDOW;
}
/* NULL: given up, acknowledged, or never sent. */
const struct hak_sent *hak_tx_find(const struct hak_tx *t, uint64_t seq);
/* HAK_EFORMAT: acknowledges what was never sent. */
enum hak_err hak_tx_ack(struct hak_tx *t, const struct hak_ack *a);
/* Nothing sent so far will be resent: this node ceases to be the one that is heard. */
void hak_tx_forget(struct hak_tx *t);
/* Age in ns of the oldest datagram the peer has not applied, 0 if none. */
uint64_t hak_tx_lag(const struct hak_tx *t, uint64_t now);

/* ---- receiving side -------------------------------------------------- */

struct hak_held {
	uint16_t len;			/* 0: not here yet (payloads are never empty) */
	uint16_t place;			/* of its bytes */
	uint8_t *bytes;			/* HAK_PAYLOAD_MAX: opened */
};

struct hak_rx {
	struct hak_held *slots;		/* HAK_WINDOW of them, owned, */
	struct hak_pool pool;		/* with this */
	uint64_t applied;		/* all below are done with, slots free */
	uint64_t next;			/* first one not received */
	uint64_t top;			/* one past the highest received or announced */
	uint64_t gap_ns;		/* since when something below top is missing, 0 */
	uint64_t nack_ns;		/* when we last asked */
};

enum hak_err hak_rx_init(struct hak_rx *r);
void hak_rx_free(struct hak_rx *r);
void hak_rx_reset(struct hak_rx *r);
/* Is this sequence wanted?  HAK_EREPLAY: have it; HAK_ESPACE: too far ahead. */
enum hak_err hak_rx_wanted(const struct hak_rx *r, uint64_t seq);
/* Hold a wanted payload and advance over all that is now in order. */
void hak_rx_put(struct hak_rx *r, uint64_t seq, const uint8_t *payload, size_t n,
		uint64_t now);
/* The peer says that its next datagram is `next` and that it holds none below
 * `base`.  True: datagrams are lost for good, the stream goes on at `base`. */
bool hak_rx_announce(struct hak_rx *r, uint64_t next, uint64_t base, uint64_t now);
/* Ranges to ask for, when `now` is late enough: a first time `wait` ns after the
 * gap appeared, again every `again` ns.  Returns how many (0: nothing to ask). */
unsigned hak_rx_missing(struct hak_rx *r, struct hak_range *out, unsigned max,
			uint64_t now, uint64_t wait, uint64_t again);
/* When hak_rx_missing() would next have something to say; UINT64_MAX: never. */
uint64_t hak_rx_due(const struct hak_rx *r, uint64_t wait, uint64_t again);

static inline const struct hak_held *hak_rx_slot(const struct hak_rx *r, uint64_t seq)
{
	return &r->slots[seq % HAK_WINDOW];
}

/* All below `upto` (<= next) were applied: their slots may be filled again. */
void hak_rx_done(struct hak_rx *r, uint64_t upto);

#endif
