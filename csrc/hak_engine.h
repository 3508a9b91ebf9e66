/* hak_engine.h - one node's replication engine: three threads and their doors.
 *
 *   io       datagrams of both links, heartbeats, failure detection, handshake,
 *            acknowledgements, resends.  Never waits for netlink or for Python.
 *   capture  active: conntrack events -> records -> sealed datagrams.
 *   apply    passive: ordered payloads -> batches of ctnetlink; after a swap the
 *            sweep that gives larvae their natural timeouts.
 *
 * The functions below are called by one controlling thread (the daemon's event
 * loop).  The engine decides nothing: who is active is told to it.  All memory
 * is taken in hak_engine_new(); nothing is allocated per event.
 */
#ifndef HAK_ENGINE_H
#define HAK_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <netinet/in.h>
#include "hak_control.h"
#include "hak_err.h"
#include "hak_lease.h"
#include "hak_probe.h"
#include "hak_policy.h"
#include "hak_pressure.h"
#include "hak_stat.h"

enum {
	HAK_LINKS_MAX = 4,
	HAK_IFACES_MAX = 64,
	HAK_KEYS_MAX = 3,
	HAK_TEXT = 160,
	HAK_EVENTS_HELD = 1024,
};

enum hak_role { HAK_IDLE = 0, HAK_PASSIVE = 1, HAK_ACTIVE = 2, HAK_TURNING = 3 };

struct hak_link_cfg {
	char ifname[16];
	struct sockaddr_storage local, peer;	/* same family, port filled in */
};

struct hak_engine_cfg {
	uint16_t cluster, priority;
	uint8_t psk[HAK_KEYS_MAX][32];	/* accepted; the first one is preferred */
	unsigned n_psk;
	char serial[HAK_NAME_MAX], model[HAK_NAME_MAX], version[HAK_NAME_MAX];
	struct hak_link_cfg links[HAK_LINKS_MAX];
	unsigned n_links;
	uint32_t heartbeat_ms, dead_after_ms;
	uint32_t dead_after_max_ms;	/* in a bad network, see hak_suspect.h; 0: no more */
	bool encrypt;
	char interfaces[HAK_IFACES_MAX][16];
	unsigned n_interfaces;
	char gate_table[32];
	struct hak_policy policy;
	uint32_t larval_timeout;	/* seconds, above any natural timeout */
	uint32_t scrub_ms;		/* from one comparison of the tables to the next, 0: none */
	uint32_t patience_ms;		/* for a listing of the peer that makes no progress, 0:
					 * two minutes */
	struct hak_lease *lease;	/* NULL: none; the caller's, outlives the engine */
	struct hak_probe *probe;	/* the same; NULL: events come by netlink */
	bool adaptive;			/* see hak_pressure.h */
};

/* What is known of a link's interface, and why a link does not work. */
enum hak_link_why {
	HAK_LINK_WORKS = 0,		/* of one that is down: it is silent */
	HAK_LINK_NO_CARRIER = 1,
	HAK_LINK_DOWN = 2,		/* administratively, or it is gone */
	HAK_LINK_PEER = 3,		/* one of the two, on the peer */
};

#define HAK_EVENTS(X) \
	X(SESSION_UP, "session.up")	/* a: peer's boot id, b: 1 = a new boot */ \
	X(SESSION_REKEYED, "session.rekeyed") /* a: the key's print */ \
	X(PEER_STATUS, "peer.status") \
	X(PEER_ALIVE, "peer.alive") \
	X(PEER_DEAD, "peer.dead")	/* a: ns of silence, b: datagrams missing */ \
	X(PEER_BYE, "peer.bye") \
	X(LINK_UP, "link.up")		/* a: link */ \
	X(LINK_DOWN, "link.down")	/* a: link, b: enum hak_link_why */ \
	X(PREPARE, "handover.prepare")	/* a: term; see hak_engine_arm() */ \
	X(UNPREPARED, "handover.off")	/* a: term; nothing comes of it */ \
	X(HANDOVER, "handover")		/* a: term */ \
	X(SYNC_BEGIN, "sync.begin") \
	X(SYNC_DONE, "sync.done")	/* a: entries, b: removed, c: ns */ \
	X(SYNC_SENT, "sync.sent")	/* a: entries, c: ns */ \
	X(OVERRUN, "overrun") \
	X(STREAM_LOST, "stream.lost") \
	X(TABLE_FULL, "table.full") \
	X(APPLY_ERROR, "apply.error")	/* a: errno, text */ \
	X(SLIP, "slip")			/* a: ns */ \
	X(HELLO_REFUSED, "hello.refused") /* text */ \
	X(OFFERED, "split.offered")	/* a: taken, b: refused, c: offered */ \
	X(SWEEP_DONE, "sweep.done")	/* a: entries, c: ns */ \
	X(RECON_REPAIRED, "recon.repaired") /* a: missing, b: extra, c: different, text */ \
	X(RECON_STUCK, "recon.stuck")	/* the same: repairing them does not help */ \
	X(VERIFIED, "verify.done")	/* a: id */ \
	X(TRAPPED, "masquerade.trapped") /* a: connections */ \
	X(POLICY_DIFFERS, "policy.differs") \
	X(LEASE_LAPSED, "lease.lapsed")	/* a: ns too late */ \
	X(LEASE_REGAINED, "lease.regained") /* a: ns closed */ \
	X(PRESSURE, "stream.pressure")	/* a: level, b: before, c: connections held, text: cause */

enum hak_event_type {
#define X(id, name) HAK_EV_##id,
	HAK_EVENTS(X)
#undef X
	HAK_EV_COUNT
};

struct hak_event {
	uint8_t type;
	uint64_t mono_ns, a, b, c;
	char text[HAK_TEXT];
};

struct hak_peer {
	bool known, alive;
	bool policy_differs;		/* false too if it did not tell its own */
	struct hak_hello hello;
	struct hak_status status;
	uint64_t heard_ns;		/* monotonic */
	uint64_t limit_ns;		/* the silence that would mean its death now */
	uint64_t longest_ns;		/* the longest one that did not, since our start */
};

struct hak_link_info {
	bool up;
	uint64_t since_ms;		/* Unix time */
	int64_t rtt_us;			/* -1: not measured */
};

struct hak_stream_info {
	int role;
	uint64_t sequence, acked, lag_records, lag_ns, published, applied;
	bool encrypted, synced;
	uint32_t generation;
	uint32_t held;			/* connections too young to be told of */
	unsigned pressure;		/* active: hak_pressure.h */
	enum hak_cause cause;
	int peer_fill;			/* active: per cent of its nf_conntrack_max; -1: not known */
	uint32_t peer_max;		/* active: that limit; 0: not known */
	uint32_t key;			/* print of the session's; 0: no session yet */
};

struct hak_lease_info {
	bool enforced;			/* there is one */
	int state;			/* enum hak_lease_state */
	int64_t left_ns;		/* while it is on; may be past */
	uint64_t refused;		/* frames */
};

struct hak_swap_times { uint64_t drain_ns, gate_ns, announce_ns, total_ns; };
/* Since the beginning; armed_ns: 0 if the peer's gate was not open before ours closed. */
struct hak_handover_times { uint64_t armed_ns, closed_ns, applied_ns; };

struct hak_engine;

/* On failure *out is NULL, and `why` (HAK_TEXT bytes) says what failed in words;
 * with HAK_ESYS errno is in *err. */
enum hak_err hak_engine_new(struct hak_engine **out, const struct hak_engine_cfg *cfg,
			    char *why, int *err);
enum hak_err hak_engine_start(struct hak_engine *e);	/* threads; HAK_ESYS */
void hak_engine_free(struct hak_engine *e);		/* joins the threads; takes NULL */
void hak_engine_bye(struct hak_engine *e);

enum hak_err hak_engine_activate(struct hak_engine *e, uint32_t term, struct hak_swap_times *t);
enum hak_err hak_engine_passivate(struct hak_engine *e, struct hak_swap_times *t);
/* Passive, upon PREPARE: open the gate and be heard, before the peer's gate closes.  This
 * node goes on applying what the peer sends, until hak_engine_activate(), or
 * hak_engine_passivate() if nothing comes of it (handover.off).  HAK_ESTATE: not
 * passive, or the peer does not say so any more. */
enum hak_err hak_engine_arm(struct hak_engine *e, uint32_t term, struct hak_swap_times *t);
/* Give the role away.  prepare_ms: how long to forward on, waiting for the peer to open
 * its gate; 0: close ours first.
 * HAK_OK: the peer has it all.  HAK_ESTATE: not active, or no answer in time and
 * this node is active again.  HAK_ESYS: the gate did not move. */
enum hak_err hak_engine_handover(struct hak_engine *e, uint32_t term, uint32_t timeout_ms,
				 uint32_t prepare_ms, struct hak_handover_times *t);
int hak_engine_gate(struct hak_engine *e);		/* as hak_gate_probe() */
void hak_engine_lease(struct hak_engine *e, struct hak_lease_info *out);
unsigned hak_engine_announce(struct hak_engine *e);
/* natural: [256][16] seconds by protocol and state, [0][0] the default; copied */
void hak_engine_sweep(struct hak_engine *e, const uint32_t natural[256][16]);
void hak_engine_want_sync(struct hak_engine *e);
/* Compare both nodes' tables now, on either node; VERIFIED with this id (not 0) comes
 * when it is done.  HAK_ESTATE: there is no peer. */
enum hak_err hak_engine_verify(struct hak_engine *e, uint32_t id, bool repair);
void hak_engine_table(struct hak_engine *e, struct hak_table *out);

/* The pre-shared keys from now on: those of cfg.  What of the old ones is not among them
 * is wiped; a session made under one goes on. */
enum hak_err hak_engine_set_keys(struct hak_engine *e, const uint8_t psk[][32], unsigned n);
void hak_engine_set_priority(struct hak_engine *e, uint16_t priority);
/* The state of link i's interface, an enum hak_link_why but PEER; told to the peer over
 * the others. */
void hak_engine_set_link(struct hak_engine *e, unsigned i, unsigned state);
void hak_engine_set_status(struct hak_engine *e, const struct hak_status *s);
enum hak_err hak_engine_set_locals(struct hak_engine *e, const struct hak_locals *l);
enum hak_err hak_engine_set_announcements(struct hak_engine *e, unsigned n,
					  const char *const *ifnames, const char *const *addrs,
					  unsigned *bad);

int hak_engine_event_fd(const struct hak_engine *e);
bool hak_engine_event(struct hak_engine *e, struct hak_event *out);
void hak_engine_peer(struct hak_engine *e, struct hak_peer *out);
void hak_engine_link(struct hak_engine *e, unsigned i, struct hak_link_info *out);
void hak_engine_stream(struct hak_engine *e, struct hak_stream_info *out);
const struct hak_stats *hak_engine_stats(const struct hak_engine *e);
/* Entries in the kernel's table and, unless NULL, how many it takes (nf_conntrack_max);
 * -1 and errno on failure. */
int64_t hak_engine_table_count(struct hak_engine *e, uint32_t *max);

uint64_t hak_stat_value(const struct hak_stats *s, unsigned i);
const char *hak_event_name(unsigned type);		/* NULL past the last */

#endif
