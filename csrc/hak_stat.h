/* hak_stat.h - every counter of the core, in one list.
 *
 * The list makes the enum, the names that `hak2kctl stats` prints and the rows
 * that docs must have.  "drop." counters: one per reason why a datagram or a
 * record was refused, so that each refusal can be told from every other.
 * Counters are relaxed atomics: read at any time, exact one by one.
 */
#ifndef HAK_STAT_H
#define HAK_STAT_H

#include <stdatomic.h>
#include <stdint.h>

#define HAK_STATS(X) \
	/* datagrams refused, in the order in which they are tested */ \
	X(DROP_SHORT, "drop.short")		/* below header and tag */ \
	X(DROP_LONG, "drop.long")		/* above the largest datagram */ \
	X(DROP_ADDRESS, "drop.address")		/* not from the peer's address and port */ \
	X(DROP_VERSION, "drop.version") \
	X(DROP_KIND, "drop.kind") \
	X(DROP_CLUSTER, "drop.cluster") \
	X(DROP_RATE, "drop.rate")		/* handshakes faster than any honest peer's */ \
	X(DROP_SESSION, "drop.session")		/* of no session we know */ \
	X(DROP_AUTH, "drop.auth")		/* wrong key or altered */ \
	X(DROP_REPLAY, "drop.replay")		/* authentic, seen before or too old */ \
	X(DROP_DUPLICATE, "drop.duplicate")	/* stream datagram we have already */ \
	X(DROP_WINDOW, "drop.window")		/* stream datagram further ahead than we hold */ \
	X(DROP_ROLE, "drop.role")		/* stream while we are not passive */ \
	X(DROP_HELLO, "drop.hello")		/* handshake that says what we cannot accept */ \
	X(DROP_MALFORMED, "drop.malformed")	/* authentic, but not K2K: peer's bug */ \
	/* records stepped over */ \
	X(DROP_RECORD, "drop.record")		/* unknown type or shape */ \
	X(DROP_FIELD, "drop.field")		/* unknown field of a known record */ \
	/* link */ \
	X(RX_DATAGRAMS, "rx.datagrams") \
	X(RX_DIRECT, "rx.direct")		/* of these read by the apply thread itself */ \
	X(RX_BYTES, "rx.bytes") \
	X(RX_RECORDS, "rx.records") \
	X(TX_DATAGRAMS, "tx.datagrams") \
	X(TX_BYTES, "tx.bytes")			/* UDP payload of stream datagrams, sealed */ \
	X(TX_RECORDS, "tx.records") \
	X(TX_RECORD_BYTES, "tx.record_bytes")	/* before sealing */ \
	X(TX_CONTROL, "tx.control") \
	X(TX_RESENT, "tx.resent") \
	X(TX_ERRORS, "tx.errors")		/* the kernel refused a datagram */ \
	X(TX_STALLS, "tx.stalls")		/* capture waited for the peer's window */ \
	X(NACK_SENT, "nack.sent") \
	X(NACK_RECEIVED, "nack.received") \
	X(NACK_LIMITED, "nack.limited")		/* cut short: resends above the rate */ \
	X(STREAM_LOST, "stream.lost")		/* gaps that the ring could not fill */ \
	X(HANDSHAKES, "handshakes") \
	X(KEYS_TRIED, "keys.tried")		/* offers, times the keys tried on them */ \
	X(REKEYS, "keys.changed")		/* new keys for a session in use */ \
	X(HEARTBEATS_SENT, "heartbeats.sent") \
	X(HEARTBEATS_RECEIVED, "heartbeats.received") \
	X(SLIPS, "slips")			/* our own timer was late */ \
	/* capture */ \
	X(EVENTS, "capture.events") \
	X(EVENTS_EXCLUDED, "capture.excluded")	/* by policy */ \
	X(EVENTS_BAD, "capture.malformed")	/* netlink we could not decode */ \
	X(EVENTS_UNSENT, "capture.no_peer")	/* nobody to send to */ \
	X(EVENTS_NO_NEWS, "capture.no_news")	/* another state of one that closes */ \
	X(OVERRUNS, "capture.overruns")		/* ENOBUFS: the kernel dropped events */ \
	X(TRAPPED, "capture.trapped")		/* ends not told: see hak_trap.h */ \
	X(HOLD_SENT, "hold.sent")		/* held back, and sent in the end */ \
	X(HOLD_DIED, "hold.died_young")		/* never sent */ \
	X(HOLD_FULL, "hold.full")		/* sent at once for want of room */ \
	X(PRESSURES, "pressure.rises")		/* how often adaptive mode set in or up */ \
	X(FETCHES, "capture.fetches")		/* entries read anew */ \
	X(SYNCS_SENT, "sync.sent") \
	X(SYNC_ENTRIES_SENT, "sync.entries_sent") \
	/* apply */ \
	X(APPLIED, "apply.records") \
	X(APPLY_CREATED, "apply.created") \
	X(APPLY_UPDATED, "apply.updated") \
	X(APPLY_DELETED, "apply.deleted") \
	X(APPLY_GONE, "apply.gone")		/* DESTROY of what was not there */ \
	X(APPLY_EXISTED, "apply.existed")	/* NEW of what was there: updated */ \
	X(APPLY_REPLACED, "apply.replaced")	/* same original, other reply tuple */ \
	X(APPLY_EVICTED, "apply.evicted")	/* owner of a clashing reply tuple removed */ \
	X(APPLY_WANTED, "apply.wanted")		/* UPDATE of what was not there: asked for */ \
	X(APPLY_NO_HELPER, "apply.no_helper")	/* created without its helper */ \
	X(APPLY_NO_MASTER, "apply.no_master")	/* created without its master */ \
	X(APPLY_NO_LABELS, "apply.no_labels") \
	X(APPLY_FULL, "apply.full")		/* table full or chain too long */ \
	X(APPLY_FAILED, "apply.failed")		/* anything else; see apply.error events */ \
	X(APPLY_EXPECTS, "apply.expectations") \
	X(SYNCS_DONE, "sync.done") \
	X(SYNC_REMOVED, "sync.removed")		/* entries the active no longer had */ \
	X(RECON_STARTED, "recon.started")	/* comparisons of the tables */ \
	X(RECON_DONE, "recon.done") \
	X(RECON_ROUNDS, "recon.rounds") \
	X(RECON_REPAIRED, "recon.repaired")	/* entries */ \
	X(RECON_STALLED, "recon.stalled")	/* the peer went on no further: begun anew */ \
	X(OFFERS_MADE, "offers.made")		/* after a split, to the node that stayed active */ \
	X(OFFERS_TAKEN, "offers.taken")		/* of the peer's: entries made here */ \
	X(OFFERS_REFUSED, "offers.refused")	/* in the way of ours, or not wanted */ \
	X(ASKS_LIMITED, "asks.limited")		/* questions of the peer above the rate */ \
	X(SWEPT, "sweep.entries") \
	X(REAPED, "sweep.reaped")		/* larvae of GRE without packets */ \
	X(EVENTS_LOST, "events.lost")		/* the daemon did not read them in time */ \
	X(ANNOUNCED, "swap.announcements") \
	X(ANNOUNCE_FAILED, "swap.announce_failed")	/* a link is down, its queue full */

enum hak_stat {
#define X(id, name) HAK_STAT_##id,
	HAK_STATS(X)
#undef X
	HAK_STAT_COUNT
};

struct hak_stats {
	_Atomic uint64_t v[HAK_STAT_COUNT];
};

static inline void hak_count_n(struct hak_stats *s, enum hak_stat i, uint64_t n)
{
	atomic_fetch_add_explicit(&s->v[i], n, memory_order_relaxed);
}

static inline void hak_count(struct hak_stats *s, enum hak_stat i)
{
	hak_count_n(s, i, 1);
}

const char *hak_stat_name(unsigned i);		/* NULL past the last */

#endif
