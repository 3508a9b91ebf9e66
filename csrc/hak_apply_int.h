/* hak_apply_int.h - the apply thread's state, shared by hak_apply.c (records into
 * the kernel) and hak_sync.c (passes over this kernel's whole table). */
#ifndef HAK_APPLY_INT_H
#define HAK_APPLY_INT_H

#include "hak_engine_int.h"

enum {
	HAK_BATCH = 64,
	HAK_OUT = 65536,
	HAK_EXPECT_LARVAL = 86400,	/* seconds: above what any helper gives */
};

enum hak_phase {		/* of a full copy, on the passive side */
	HAK_COPY_OFF,		/* nothing to do, or nobody to ask */
	HAK_COPY_SURVEY,	/* looking at our own table first */
	HAK_COPY_ASKED,		/* SYNC_WANT sent, SYNC_BEGIN awaited */
	HAK_COPY_RUNNING,	/* between BEGIN and END */
	HAK_COPY_PURGE,		/* removing what the copy did not touch */
};

enum hak_pass { HAK_PASS_NONE, HAK_PASS_SURVEY, HAK_PASS_PURGE, HAK_PASS_SWEEP,
		HAK_PASS_SWEEP_EXPECTS };

struct hak_apply {
	struct hak_engine *e;

	/* the batch */
	struct hak_record recs[HAK_BATCH];
	unsigned n;
	bool copying;			/* recs are SYNC records only */
	bool exists;			/* SYNC entries tend to be here already */
	int result[HAK_BATCH];		/* errno of each, 0 = done */
	uint8_t seen[HAK_BATCH];	/* SYNC: 0 absent, 1 to be updated, 2 replaced */
	uint64_t complained_ns;		/* last apply.error event */
	uint64_t full_ns;		/* last table.full event */

	/* the copy */
	enum hak_phase phase;
	uint32_t generation;
	uint64_t mark_ns;		/* when the larval timeout in use was chosen */
	uint64_t copy_began;
	uint64_t copied;

	/* the pass */
	enum hak_pass pass;
	bool purge_all;
	uint64_t pass_began, pass_next, pass_done;
	unsigned pass_buckets;
	bool pass_disturbed;		/* the hash table was resized under it */
	uint32_t longest;		/* survey: largest timeout seen, seconds */
	uint32_t natural[256][16];

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

/* hak_sync.c */
void hak_sync_on_begin(struct hak_apply *a, uint32_t generation);
void hak_sync_on_end(struct hak_apply *a, uint32_t generation, uint64_t entries);
/* Do a little; returns how many ns until there is more to do (UINT64_MAX: wait). */
uint64_t hak_sync_step(struct hak_apply *a);

#endif
