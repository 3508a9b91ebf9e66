/* hak_apply_int.h - the apply thread's state, shared by hak_apply.c (records into
 * the kernel), hak_sync.c (passes over this kernel's whole table), hak_recon.c (the
 * comparison) and hak_gre.c (larvae that no timeout ends). */
#ifndef HAK_APPLY_INT_H
#define HAK_APPLY_INT_H

#include "hak_engine_int.h"

enum {
	HAK_BATCH = 64,
	HAK_OUT = 65536,
	HAK_EXPECT_LARVAL = 86400,	/* seconds: above what any helper gives */
	HAK_GRE_PLACES = 1024,
};

/* What the passive side is at, towards two equal tables (hak_recon.c, hak_sync.c). */
enum hak_phase {
	HAK_PHASE_OFF,		/* nothing to do, or nobody to ask */
	HAK_PHASE_OFFER,	/* after a split: what began here, to the peer (hak_offer.c) */
	/* a round of comparison */
	HAK_PHASE_WANT,		/* RECON_WANT sent, RECON_BEGIN awaited */
	HAK_PHASE_LISTING,	/* both nodes sum up their tables */
	HAK_PHASE_CLOSING,	/* both have; RECON_CLOSE awaited */
	HAK_PHASE_NARROW,	/* asking for sums, from the top down */
	HAK_PHASE_MARKING,	/* telling which slots are unequal */
	/* a copy, of these slots or of all */
	HAK_PHASE_SURVEY,	/* looking at our own table first */
	HAK_PHASE_ASKED,	/* SYNC_WANT sent, SYNC_BEGIN awaited */
	HAK_PHASE_RUNNING,	/* between BEGIN and END */
	HAK_PHASE_PURGE,	/* removing what the copy did not touch */
};

enum hak_pass {
	HAK_PASS_NONE,
	HAK_PASS_DIGEST, HAK_PASS_DIGEST_EXPECTS,	/* sum up; make larvae of what is none */
	HAK_PASS_SURVEY,				/* the longest timeout */
	HAK_PASS_COUNT,					/* how many are in marked slots */
	HAK_PASS_PURGE, HAK_PASS_PURGE_EXPECTS,
	HAK_PASS_SWEEP, HAK_PASS_SWEEP_EXPECTS,
	HAK_PASS_REAP,					/* larvae of GRE without packets */
	HAK_PASS_OFFER,					/* what the peer may want */
	HAK_PASS_LOOSEN,				/* TCP whose windows may be stale */
};

struct hak_gre {		/* hak_gre.c */
	uint64_t id;			/* hash of its identity, 0: unused */
	uint64_t packets, since_ns;	/* how many there were, unchanged since when */
	bool seen;			/* in the present pass */
};

enum {	/* maps of unequal nodes, for shifts of 4, 8 and 12 */
	HAK_NODE_LEVELS = 3,
	HAK_NODE_WORDS = 1 << (HAK_DIGEST_BITS_MAX - HAK_DIGEST_FAN - 6),
};

struct hak_offering {		/* hak_offer.c */
	uint64_t from_ns, until_ns;	/* how young; when it ends in any case */
	uint32_t number;		/* of the last OFFER */
	bool waits;			/* for its answer */
	uint64_t made, taken, refused;
	size_t at, next;		/* in bytes: under way from, to */
	struct hak_wr w;		/* over bytes */
	uint8_t bytes[HAK_NL_BUF];	/* FLOW_SYNC records of one chunk of the listing */
};

struct hak_apply {
	struct hak_engine *e;

	/* the batch */
	struct hak_record recs[HAK_BATCH];
	unsigned n;
	bool copying;			/* recs are SYNC records only */
	bool exists;			/* SYNC entries tend to be here already */
	int result[HAK_BATCH];		/* errno of each, 0 = done */
	uint8_t seen[HAK_BATCH];	/* SYNC: 0 absent, 1 to be updated, 2 replaced */
	bool differs[HAK_BATCH];	/* SYNC: present, but not as it should be */
	bool kept[HAK_BATCH];		/* the kernel has it as it was told */
	bool reduced;			/* the last cure left something out */
	uint64_t seq;			/* of the datagram that is being applied */
	uint64_t complained_ns;		/* last apply.error event */
	uint64_t full_ns;		/* last table.full event */
	uint64_t fill_ns;		/* when we last looked how full our table is */
	bool took, lent;		/* hak_lent.c: from the stream, lately; the links */
	uint64_t took_ns, deep_ns, rate_ns, rate_records;
	bool pours, preferred;

	enum hak_phase phase;
	uint64_t phase_ns;		/* since when; of a copy: since its last entry */

	/* the comparison */
	uint32_t round;
	bool joining;			/* the node is not ready before it is over */
	bool told;			/* SYNC_BEGIN was emitted */
	bool repair;			/* else: only look */
	bool residue;			/* only slots that were dirty each time are marked */
	uint32_t verify_id;		/* who waits for it, 0: nobody */
	unsigned verify_of;		/* which of the engine's two questions that is */
	bool own_done, peer_done;
	uint64_t own_ns;		/* what summing up our own table took */
	uint32_t peer_entries;
	unsigned shift;			/* level whose nodes' children are asked for */
	uint32_t node_at, node_last;	/* on that level: next to look at, last asked for, */
	uint32_t node_due;		/* whose children's sums come next */
	uint32_t marks_at, group_at;	/* chunks acknowledged, next group */
	unsigned vain;			/* times that repaired slots were unequal again */
	uint64_t repaired[HAK_DIGEST_MAP];	/* slots, under the present keys */
	uint64_t began_ns, scrub_ns, retry_ns;
	struct hak_table found;
	uint64_t matched;		/* looked at: in both tables */
	char example[HAK_TEXT];
	uint64_t unequal[HAK_NODE_LEVELS][HAK_NODE_WORDS];

	/* the copy */
	bool scoped;			/* of marked slots only */
	bool empty;			/* there was nothing of ours before it */
	bool unread;			/* proved by what our kernel took, not by what it lists */
	uint32_t generation;
	uint64_t mark_ns;		/* when the larval timeout in use was chosen */
	uint32_t expect_larval;		/* the same for expectations, seconds */
	uint64_t copied;
	bool purging;			/* the next sums are to purge what it left */
	uint64_t purge[HAK_DIGEST_MAP];	/* in these slots */

	/* the pass */
	enum hak_pass pass;
	bool purge_all;
	uint64_t pass_began, pass_next, pass_done;
	const uint64_t *some;		/* no listing, but a look at those in these slots */
	int buckets_fd;
	unsigned pass_buckets;
	bool pass_disturbed;		/* the hash table was resized under it */
	uint32_t longest;		/* of a survey, or of the sums: seconds */
	uint32_t natural[256][16];

	/* larvae of GRE, after a swap */
	uint64_t gre_period_ns, gre_due_ns;	/* shortest natural timeout; 0: none */
	struct hak_gre gre[HAK_GRE_PLACES];

	struct hak_offering offer;

	struct hak_ctmsg msg;
	uint8_t out[HAK_OUT];
	uint8_t in[HAK_NL_BUF];
	uint8_t chunk[HAK_NL_BUF];
};

/* hak_apply.c: one message with an acknowledgement, or a GET; positive errno.
 * `reply` (may be NULL) is what came back. */
int hak_apply_call(struct hak_apply *a, const struct hak_wr *w, uint32_t seq,
		   struct hak_ctmsg *reply);
int hak_apply_get(struct hak_apply *a, const struct hak_flow *f, struct hak_ctmsg *reply);
int hak_apply_delete(struct hak_apply *a, const struct hak_flow *f);
/* A new larva in the place of what is here. */
int hak_apply_replace(struct hak_apply *a, const struct hak_flow *f);

/* hak_lent.c: until there is something to do, or for `wait` ns.  Borrows the links, reads
 * them, acknowledges. */
void hak_apply_wait(struct hak_apply *a, uint64_t wait);
/* Once what is being applied is done with: somebody waits for it. */
void hak_ack_soon(struct hak_engine *e);

/* hak_sync.c */
bool hak_pass_begin(struct hak_apply *a, enum hak_pass pass);
bool hak_apply_ours(const struct hak_engine *e, const struct hak_flow *f);
void hak_apply_phase(struct hak_apply *a, enum hak_phase phase);
void hak_copy_begin(struct hak_apply *a, bool scoped);
void hak_copy_ask(struct hak_apply *a);
/* sums, bits: what is sent is summed up as that round; 0: it is not */
void hak_sync_on_begin(struct hak_apply *a, uint32_t generation, uint32_t sums, uint8_t bits);
void hak_sync_on_end(struct hak_apply *a, uint32_t generation, uint64_t entries);
/* Do a little; returns how many ns until there is more to do (UINT64_MAX: wait). */
uint64_t hak_sync_step(struct hak_apply *a);

/* The timeout of its protocol and state in such a table; 0: not known. */
uint32_t hak_natural(const uint32_t table[256][16], const struct hak_flow *f);

/* hak_offer.c.  False: there is nothing to offer. */
bool hak_offer_begin(struct hak_apply *a);
void hak_offer_see(struct hak_apply *a, const struct hak_flow *f);
bool hak_offer_waits(const struct hak_apply *a);	/* read no further chunk yet */
uint64_t hak_offer_step(struct hak_apply *a);
enum hak_err hak_offer_answered(struct hak_apply *a, struct hak_rd body);

/* hak_gre.c */
bool hak_gre_fixed(const struct hak_flow *f);
/* Replace it if it has used up a day; a pass must have sent its messages before. */
void hak_gre_renew(struct hak_apply *a, const struct hak_flow *f, uint32_t larval);
/* Active: once for each in a pass, then once after the pass. */
void hak_gre_look(struct hak_apply *a, const struct hak_flow *f, uint32_t natural);
void hak_gre_looked(struct hak_apply *a);
void hak_gre_forget(struct hak_apply *a);

/* hak_recon.c */
void hak_recon_start(struct hak_apply *a, const struct hak_verify *v);
void hak_recon_off(struct hak_apply *a);
/* A record of the comparison.  HAK_EFORMAT: it is none. */
enum hak_err hak_recon_on_record(struct hak_apply *a, uint8_t type, struct hak_rd body);
void hak_recon_sums(struct hak_apply *a, uint8_t bits);	/* as the present round */
void hak_recon_touch(struct hak_apply *a, const struct hak_record *rec);
void hak_recon_sum(struct hak_apply *a, const struct hak_flow *f);
void hak_recon_sum_expect(struct hak_apply *a, const struct hak_expect *x);
void hak_recon_listed(struct hak_apply *a);		/* our own table is summed up */
void hak_recon_counted(struct hak_apply *a);
void hak_recon_copied(struct hak_apply *a);
bool hak_recon_counts(const struct hak_apply *a);
void hak_recon_found(struct hak_apply *a, uint32_t *counter, const char *what,
		     const struct hak_flow *f);
/* ns until it has something to do */
uint64_t hak_recon_step(struct hak_apply *a);

#endif
