/* hak_control.h - bodies of CONTROL records, of those of the stream that compare the
 * tables, and of the handshake's payload.
 *
 * Each get takes a cursor confined to one body and accepts longer ones: a later
 * version may append.  docs/wire.md has the diagrams.
 */
#ifndef HAK_CONTROL_H
#define HAK_CONTROL_H

#include "hak_buf.h"
#include "hak_err.h"

enum { HAK_NAME_MAX = 64, HAK_NACK_MAX = 64 };

/* HEARTBEAT: liveness and round-trip time of one link, and where the stream is. */
struct hak_heartbeat {
	uint8_t link;		/* sender's index of the link it went out on */
	uint64_t sent_ns;	/* sender's monotonic clock */
	uint64_t echo_ns;	/* the last sent_ns heard on this link, 0 = none */
	uint32_t hold_us;	/* how long ago that was heard */
	uint64_t stream_next;	/* sequence of the next stream datagram */
	uint64_t stream_base;	/* oldest one that can still be resent */
};

/* STATUS: all that the peer's election needs; the daemon gives its meaning. */
struct hak_status {
	uint8_t mode, forced, quality, state;
	uint32_t term;
	uint64_t since_ms;	/* Unix time of the last role change */
	uint64_t priority;	/* plus 1; 0: as the handshake said */
};

struct hak_ack {
	uint64_t next;		/* first sequence not received in order */
	uint64_t applied;	/* first sequence not yet in the kernel */
};

struct hak_range {
	uint64_t first;
	uint16_t count;		/* > 0 */
};

/* ---- comparison of the tables (hak_digest.h, docs/wire.md) ---- */

enum { HAK_RECON_NODES = 256, HAK_RECON_SUMS = 128, HAK_RECON_GROUPS = 200, HAK_RECON_BRIEF = 1280 };

/* All of these name the round they belong to; its low HAK_ROUND_STEPS say which step
 * of one comparison it is. */
enum { HAK_ROUND_STEPS = 16 };

/* RECON_WANT, BEGIN, LISTED, CLOSE_WANT, CLOSE, MARKED */
struct hak_round {
	uint32_t round;
	uint32_t entries;	/* WANT, LISTED: of the sender's table.  MARKED: chunks */
	uint8_t bits;		/* BEGIN: of a slot's number; 0: too different, copy all */
	bool brief;		/* WANT, BEGIN: by brief sums (hak_digest.h) */
};

struct hak_nodes {		/* RECON_ASK, RECON_ASK_BRIEF */
	uint32_t round;
	bool brief;
	uint8_t shift;		/* a node is 2^shift slots */
	unsigned n;
	uint32_t node[HAK_RECON_NODES];
};

struct hak_sums {		/* RECON_SUMS */
	uint32_t round;
	uint8_t shift;
	uint32_t first;
	unsigned n;
	uint64_t sum[HAK_RECON_SUMS];	/* only the low half, but for the top's */
};

struct hak_brief {		/* RECON_BRIEF: of the children of some nodes, as asked for */
	uint32_t round;
	uint8_t shift;			/* of the children */
	uint32_t first;			/* of these nodes */
	uint8_t size;			/* bytes of a sum: 1, 2, 4 */
	unsigned n;			/* sums, 16 for each node; HAK_RECON_BRIEF bytes at most */
	uint32_t sum[HAK_RECON_BRIEF];
};

struct hak_marks {		/* RECON_MARK */
	uint32_t round, chunk;
	unsigned n;
	struct { uint32_t group; uint16_t slots; } v[HAK_RECON_GROUPS];
};

struct hak_verify { uint32_t id; bool repair; };	/* VERIFY */

/* TABLE: what the last comparison found.  `equal`: 2 = not known. */
struct hak_table {
	uint8_t equal;
	uint32_t verified;	/* id of the last VERIFY that was carried out */
	uint64_t as_of;		/* the stream's sequence */
	uint32_t age_ms;
	uint32_t entries, missing, extra, different, repaired;
	uint8_t fill;		/* 1 + per cent of nf_conntrack_max in use; 0: not known */
	uint32_t max;		/* nf_conntrack_max; 0: not known */
};

void hak_put_round(struct hak_wr *w, uint8_t type, const struct hak_round *r);
void hak_put_nodes(struct hak_wr *w, const struct hak_nodes *n);
void hak_put_marks(struct hak_wr *w, const struct hak_marks *m);
void hak_put_verify(struct hak_wr *w, const struct hak_verify *v);
void hak_put_table(struct hak_wr *w, const struct hak_table *t);
/* HAK_ESPACE leaves the writer as it was. */
enum hak_err hak_put_sums(struct hak_wr *w, const struct hak_sums *s);
enum hak_err hak_put_brief(struct hak_wr *w, const struct hak_brief *s);

enum hak_err hak_get_round(struct hak_rd r, struct hak_round *out);
enum hak_err hak_get_nodes(struct hak_rd r, struct hak_nodes *out);
enum hak_err hak_get_sums(struct hak_rd r, struct hak_sums *out);
enum hak_err hak_get_brief(struct hak_rd r, struct hak_brief *out);
enum hak_err hak_get_marks(struct hak_rd r, struct hak_marks *out);
enum hak_err hak_get_verify(struct hak_rd r, struct hak_verify *out);
enum hak_err hak_get_table(struct hak_rd r, struct hak_table *out);

/* Payload of HELLO and WELCOME: who is there. */
struct hak_hello {
	uint8_t wire_min, wire_max;
	bool encrypt;
	bool keep;		/* the session changes its keys, the streams go on */
	uint32_t session;	/* what datagrams to the sender shall bear */
	uint64_t boot_id;	/* random, one per start of the process */
	uint64_t boot_ms;	/* Unix time of that start */
	uint64_t stamp;		/* grows with every handshake of one boot */
	uint16_t priority;
	char serial[HAK_NAME_MAX], model[HAK_NAME_MAX], version[HAK_NAME_MAX];
	uint64_t policy;	/* what is replicated, as a hash; 0: not told */
};

enum { HAK_HELLO_MAX = 35 + 3 * HAK_NAME_MAX + 8 };

/* Fill in what was heard last, `echo_ns`, and when, unless that is too long ago for
 * hold_us: then nothing is echoed. */
void hak_heartbeat_echo(struct hak_heartbeat *h, uint64_t echo_ns, uint64_t heard_ns,
			uint64_t now);

void hak_put_heartbeat(struct hak_wr *w, const struct hak_heartbeat *h);
void hak_put_status(struct hak_wr *w, const struct hak_status *s);
void hak_put_ack(struct hak_wr *w, const struct hak_ack *a);
void hak_put_nack(struct hak_wr *w, const struct hak_range *r, unsigned n);
void hak_put_hello(struct hak_wr *w, const struct hak_hello *h);	/* no record header */

enum hak_err hak_get_heartbeat(struct hak_rd r, struct hak_heartbeat *h);
enum hak_err hak_get_status(struct hak_rd r, struct hak_status *s);
enum hak_err hak_get_ack(struct hak_rd r, struct hak_ack *a);
/* At most HAK_NACK_MAX ranges; returns how many, -1 if malformed. */
int hak_get_nack(struct hak_rd r, struct hak_range *out);
enum hak_err hak_get_hello(struct hak_rd r, struct hak_hello *h);

#endif
