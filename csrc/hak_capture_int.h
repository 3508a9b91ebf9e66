/* hak_capture_int.h - the capture thread's state, shared by hak_capture.c (events
 * into records), hak_events.c (where they come from), hak_young.c (who waits) and hak_list.c (what is found by listing this
 * kernel's table). */
#ifndef HAK_CAPTURE_INT_H
#define HAK_CAPTURE_INT_H

#include "hak_batch.h"
#include "hak_engine_int.h"

enum {
	HAK_READ_BATCH = 64,
	/* Above any event; no power of two, or all would fall upon the same cache lines. */
	HAK_READ_BUF = 2048 + 64,
	HAK_EARLY = 16,			/* the youngest win */
	HAK_MASTERS = 8,		/* generations of them; H.323 has four */
	/* of a listing: some 35 entries, 60 us for which the kernel looks at no packet */
	HAK_LIST_CHUNK = 8192,
};

enum hak_listing {
	HAK_LIST_NONE,
	HAK_LIST_DIGEST, HAK_LIST_DIGEST_EXPECTS,	/* to sum up */
	HAK_LIST_FLOWS, HAK_LIST_EXPECTS,		/* to send */
};

struct hak_capture {
	struct hak_engine *e;
	uint64_t rate_from, rate_events;
	uint64_t nap_ns;		/* events come so fast that we let them queue */
	bool preferred;			/* runs ahead of ordinary processes */
	bool kept;			/* what the last round had to say was not sent */
	uint64_t poked;			/* stream sequence we last poked for */
	bool trap_read, trap_waits;	/* since these events were read; it has news */
	uint64_t trapped, trapped_ns;	/* of this incident: how many, the last */

	struct hak_pressure pressure;
	uint64_t load_ns, overruns;	/* when it was measured, overruns until then */

	enum hak_listing listing;
	uint32_t generation;		/* of the copy */
	bool scoped;			/* only the marked slots */
	uint64_t list_began, list_sent, list_last;	/* ns, entries, ns */
	int buckets_fd;
	unsigned list_buckets;
	const uint64_t *some;		/* no listing, but a look at those in these slots */
	bool list_echo;			/* of a copy: events from before its end may still come */
	bool list_disturbed;		/* the hash table was resized under it */

	uint64_t session;		/* which one the round belongs to */
	uint32_t round;			/* 0: none */
	bool closed;
	uint32_t chunks;		/* of marks, noted */
	struct hak_mail mail;
	uint32_t offer, offer_taken, offer_refused;	/* the last OFFER, and its answer */

	struct hak_ctmsg msg;
	struct hak_batch batch;			/* of what the probe noted */
	struct hak_ctmsg early[HAK_EARLY];	/* expectations told before their masters */
	unsigned early_at;
	struct mmsghdr mm[HAK_READ_BATCH];
	struct iovec iov[HAK_READ_BATCH];
	uint8_t bytes[HAK_READ_BATCH][HAK_READ_BUF];
	uint8_t chunk[HAK_LIST_CHUNK];
};

/* hak_capture.c: append a record to the open payload, send what is in it. */
void hak_say_flow(struct hak_engine *e, uint8_t type, const struct hak_flow *f);
void hak_say_expect(struct hak_engine *e, uint8_t type, const struct hak_expect *x);
void hak_say_raw(struct hak_engine *e, uint8_t type, const struct hak_wr *body);
void hak_say_numbers(struct hak_engine *e, uint8_t type, uint32_t a, bool has_b, uint64_t b);
void hak_say_flush(struct hak_engine *e);
bool hak_room(struct hak_engine *e);
bool hak_wanted(const struct hak_engine *e, const struct hak_flow *f);
/* False: the kernel has no such entry (any more). */
bool hak_fetch(struct hak_engine *e, const struct hak_flow *id, struct hak_flow *out);
void hak_master_id(const struct hak_flow *child, struct hak_flow *id);
struct hak_flow hak_expect_master(const struct hak_expect *x);
bool hak_send_master_of(struct hak_engine *e, const struct hak_flow *id);
void hak_send_whole(struct hak_engine *e, struct hak_flow *f, unsigned generations);
void hak_on_flow(struct hak_capture *c, struct hak_ctmsg *m);
void hak_on_expect(struct hak_capture *c, struct hak_ctmsg *m);

/* hak_events.c: read what waits, at most `rounds` times a batch.  True: there may be
 * more. */
bool hak_read_events(struct hak_capture *c, unsigned rounds);

/* hak_young.c */
static inline bool hak_holding(const struct hak_engine *e)
{
	return e->hold && e->hold->live;
}

/* Is anything held back, or to be? */
static inline bool hak_holds_back(const struct hak_capture *c)
{
	return hak_holding(c->e) || c->pressure.level || c->e->cfg.policy.min_ms;
}

/* Not told of yet, for its age. */
bool hak_held(const struct hak_engine *e, const struct hak_flow *f);
/* True: nothing is to be said of this event, now or ever. */
bool hak_hold_back(struct hak_capture *c, const struct hak_ctmsg *m);
void hak_release(struct hak_engine *e, const struct hak_flow *id);
uint64_t hak_serve_held(struct hak_capture *c, uint64_t now);
uint64_t hak_adapt(struct hak_capture *c, uint64_t now);

/* hak_list.c */
void hak_list_touch(struct hak_engine *e, const struct hak_flow *f);
/* round: of the marked slots, 0: of all; sums: 0, or the round that it is summed up as */
void hak_list_begin(struct hak_capture *c, uint32_t generation, uint32_t round, uint32_t sums);
/* A chunk, and more for so many ns while there is room; events come first, so it is
 * called when none wait. */
void hak_list_some(struct hak_capture *c, uint64_t ns);
/* Forget who is in the table, if nobody asked for long. */
void hak_list_rest(struct hak_capture *c, uint64_t now);
/* What the peer asked about the comparison; c->mail holds it. */
void hak_list_mail(struct hak_capture *c);
void hak_list_off(struct hak_capture *c);

/* hak_offer.c: connections that the peer had alone; the body of an OFFER. */
void hak_offer_take(struct hak_capture *c, struct hak_rd body);

#endif
