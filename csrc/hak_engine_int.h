/* hak_engine_int.h - the engine's inside, shared by its files.
 *
 *   hak_engine.c   birth, death, roles: the controlling thread
 *   hak_io.c       the io thread; hak_lent.c: what of it the apply thread does;
 *                  hak_session.c: handshake and sessions;
 *                  hak_beat.c: heartbeats and the lease; hak_judge.c: silences
 *   hak_capture.c  the capture thread; hak_list.c: its listings
 *   hak_apply.c    the apply thread; hak_sync.c: its passes over the whole table;
 *                  hak_recon.c: the comparison of the two tables
 *
 * Locks, never held across a wait for another thread or a system call that can
 * block (UDP sends do not block: the sockets are non-blocking):
 *   io_lock   all that is the io thread's ("io" below), while it does not wait
 *   tx_lock   sessions' sealing side, the sent ring, control sequence
 *   rx_lock   the held ring
 *   q_lock    small queues between threads, events to Python, peer and link facts
 * Order where several are needed: io_lock, tx_lock, rx_lock, q_lock.
 *
 * The sessions' opening side belongs to whoever holds io_lock.
 */
#ifndef HAK_ENGINE_INT_H
#define HAK_ENGINE_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include "hak_announce.h"
#include "hak_born.h"
#include "hak_clock.h"
#include "hak_closing.h"
#include "hak_crypto.h"
#include "hak_ct.h"
#include "hak_digest.h"
#include "hak_engine.h"
#include "hak_gate.h"
#include "hak_hold.h"
#include "hak_nl.h"
#include "hak_replay.h"
#include "hak_roll.h"
#include "hak_stream.h"
#include "hak_suspect.h"
#include "hak_trap.h"
#include "hak_wire.h"

enum {
	HAK_ASK_HELD = 256,		/* FLOW_WANTs waiting, either way */
	HAK_HELLO_PER_S = 50,		/* handshakes we are willing to compute */
	HAK_TOUCHED_BITS = 1 << 16,
	HAK_OUT_SLOTS = 1 << 14,
};

/* How long after a conflict offers are made, and taken. */
#define HAK_OFFER_WINDOW_NS (60000 * (uint64_t)HAK_MS)
#define HAK_OFFER_ALL ((uint64_t)1)	/* alone_ns, offer_from_ns: whatever its age */

struct hak_link {
	int fd;
	uint64_t heard_ns;		/* io: last fresh heartbeat; 0 = never */
	uint64_t echo_ns, echo_at;	/* tx_lock: peer's last stamp, and when it came */
	uint64_t last_seq;		/* io: last control sequence heard here */
	struct hak_suspect suspect;	/* io */
	struct hak_link_info info;	/* q_lock */
	_Atomic bool up;
	_Atomic uint8_t interface;	/* enum hak_link_why, as the daemon sees it */
	uint8_t seen;			/* io: of that, what was acted upon */
};

struct hak_session {
	bool live;
	bool heard;			/* io: something came under its keys */
	uint64_t began_ns;		/* io */
	bool keep;			/* new keys for the session in use */
	uint32_t key;			/* print of the pre-shared key */
	uint32_t local_id, peer_id;
	struct hak_aead seal, open;
	uint64_t control_seq;		/* tx_lock */
	struct hak_replay control_seen;	/* io */
	struct hak_hello peer;
	uint8_t digest_key[HAK_SIPHASH_KEY];	/* tx_lock */
};

/* One CONTROL record that waits: for the capture thread to read it, or, as a wish of
 * ours, to be sent again and again until it is granted. */
struct hak_mail {
	uint8_t type;			/* 0: none */
	uint16_t len;
	uint64_t due_ns;		/* a wish: when it goes out next */
	uint8_t body[HAK_PAYLOAD_MAX - 16];
};

/* A handshake that we began. */
struct hak_offer {
	bool live, keep;
	unsigned key, turn;		/* which of the keys; without a session all take turns */
	uint32_t local_id;
	uint64_t made_ns;
	struct hak_noise noise;
	uint16_t len;
	uint8_t bytes[HAK_HDR_LEN + HAK_NOISE_OVERHEAD + HAK_HELLO_MAX];
};

/* The handshake that we answered last: a repeated HELLO gets the same WELCOME. */
struct hak_answer {
	uint8_t peer_e[HAK_DH_LEN];
	uint64_t boot_id, stamp;
	uint16_t len;
	uint8_t bytes[HAK_HDR_LEN + HAK_NOISE_OVERHEAD + HAK_HELLO_MAX];
};

struct hak_ask {			/* an entry to read anew */
	struct hak_flow flow;		/* identity */
	uint64_t due_ns;
	bool seqadj_only;		/* send only its sequence adjustments */
	uint8_t looks;			/* or those expectations of it that wait: so often */
};

struct hak_asks {			/* bounded FIFO, q_lock */
	unsigned head, n;
	struct hak_ask v[HAK_ASK_HELD];
};

struct hak_engine {
	struct hak_engine_cfg cfg;
	struct hak_stats stats;
	uint64_t boot_id, boot_ms, stamp;
	uint8_t hash_key[16];

	pthread_mutex_t io_lock, tx_lock, rx_lock, q_lock;
	pthread_cond_t turned;		/* with q_lock: a thread did what a role change asked */
	pthread_t io, capture, apply;
	unsigned running;		/* how many of the three run */
	_Atomic bool stop;
	_Atomic int role;		/* enum hak_role */
	int wake_io, wake_capture, wake_apply, event_fd;

	struct hak_io *io_self;		/* io_lock; NULL: the thread does not run */
	_Atomic bool links_lent;	/* the apply thread reads them; hak_lent.c */
	_Atomic bool links_deep;	/* until it has noticed: too much waits there for that */

	/* links and sessions */
	struct hak_link links[HAK_LINKS_MAX];
	bool initiator;			/* this side begins handshakes */
	struct hak_session now, next;	/* next: answered, not yet confirmed */
	struct hak_session old;		/* io: opens what is under way or resent */
	uint32_t prints[HAK_KEYS_MAX];	/* io: of cfg.psk */
	struct hak_offer offer;
	struct hak_answer answer;
	uint64_t hello_tokens_ns;	/* io: token bucket */
	struct hak_tx tx;
	bool said_bye;			/* tx_lock */
	struct hak_rx rx;
	bool rx_reset;			/* rx_lock: a new session waits for apply */
	bool rx_jump;			/* rx_lock: so does a gap that stays */
	uint64_t jump_next, jump_base;
	_Atomic uint64_t peer_heard_ns;
	struct hak_suspect suspect;	/* io: of all links together */
	_Atomic uint64_t limit_ns, longest_ns;	/* what it says */
	bool accused;			/* io: peer.dead was emitted */
	uint64_t slipped_ns;		/* io: when we were late ourselves */
	bool deaf;			/* io: passive, and its own links are all down */
	uint64_t deaf_ns;		/* io: when that was last so */
	_Atomic bool peer_alive;
	_Atomic bool session_up;
	_Atomic bool window_awaited;	/* capture: an acknowledgement lets it go on */
	_Atomic uint64_t sessions;	/* how many there were */
	_Atomic uint32_t scrub_ms;	/* from one comparison to the next, 0: none */
	_Atomic uint32_t peer_mode;	/* from its STATUS */
	uint64_t echoed_ns;		/* io: when we sent what the peer answered last */
	uint64_t lost_ns;		/* io: when the peer was last lost */
	struct hak_lessee lessee;	/* q_lock */
	bool arming;			/* q_lock: passive, the gate is open or about to be */
	_Atomic int lease_state;

	/* q_lock */
	struct hak_event events[HAK_EVENTS_HELD];
	unsigned ev_head, ev_n;
	struct hak_peer peer;
	struct hak_status status;
	_Atomic uint16_t priority;
	uint8_t new_psk[HAK_KEYS_MAX][32];	/* control -> io */
	unsigned new_n_psk;		/* 0: none */
	struct hak_asks wants;		/* apply -> io: ask the peer for these */
	struct hak_asks fetches;	/* io, capture -> capture: read these and send */
	uint32_t sync_asked, sync_round, sync_sums;	/* io -> capture: generation to list, 0 none */
	struct hak_mail mail;		/* io -> capture: the peer's latest question */
	struct hak_mail wish;		/* apply, control -> io */
	struct hak_table table;		/* how equal the tables are */
	uint64_t table_ns;		/* when that was found */
	struct hak_question {		/* a comparison asked for */
		struct hak_verify v;	/* the last one */
		enum { HAK_ANSWERED, HAK_ASKED, HAK_COMPARING } state;
	} verify[2];			/* by this node's operator, by the peer's */
	uint8_t drain_asked;		/* control -> capture: all, for PREPARE or HANDOVER */
	bool drained;
	uint32_t drain_term;
	uint32_t peer_armed;		/* io: the term for which the peer's gate is open */
	uint64_t drained_seq;
	uint32_t prepare;		/* control -> heartbeats: a term */
	uint64_t prepare_seq;		/* io -> apply: when the peer's PREPARE holds */
	bool prepare_told;
	bool sweep_asked;
	uint32_t natural[256][16];

	/* policy: the set in use is locals[locals_now]; the other one is being made */
	struct hak_locals locals[2];
	_Atomic int locals_now;

	/* capture */
	struct hak_nl events_nl, fetch_nl, list_nl;
	struct hak_trap trap;
	/* Until then (monotonic) the peer has, on purpose, connections that are gone
	 * here: nothing may be deleted there for being absent here. */
	_Atomic uint64_t trapped_until_ns;
	struct hak_wr batch;		/* over batch_bytes */
	uint16_t batch_records;
	uint8_t batch_bytes[HAK_PAYLOAD_MAX];
	uint8_t touched[HAK_TOUCHED_BITS / 8];
	struct hak_digest tx_digest;
	struct hak_roll tx_roll;
	struct hak_hold *hold;		/* NULL: none are ever held back */
	_Atomic uint32_t held;
	_Atomic uint32_t pressure;	/* level, and its cause << 8 */
	_Atomic uint8_t peer_fill;	/* as the peer's TABLE says */
	_Atomic uint32_t peer_max;
	struct hak_born born;
	struct hak_closing closing;
	_Atomic uint64_t active_ns;	/* since when */
	/* The peer has not what began here since then; 0: it has, or will have, all. */
	_Atomic uint64_t alone_ns;
	_Atomic uint64_t conflict_ns;	/* when both were last seen to be active */
	_Atomic bool loosen_asked;	/* io -> apply */
	uint64_t out[HAK_OUT_SLOTS];	/* hashes of what the peer lacks for its mark */

	/* apply */
	_Atomic uint64_t offer_from_ns, offer_until_ns;	/* what is younger than; until when */
	struct hak_nl apply_nl, survey_nl;
	struct hak_nl reap_nl;		/* what it does is published, unlike apply_nl's */
	struct hak_digest rx_digest;
	struct hak_roll rx_roll;
	_Atomic uint32_t larval_timeout;
	_Atomic bool synced;
	_Atomic bool sync_needed;
	_Atomic bool apply_idle;
	_Atomic uint32_t generation;
	_Atomic uint8_t fill;		/* of our table; see struct hak_table */
	_Atomic uint32_t table_max;

	/* control */
	_Atomic uint32_t peer_prepares;	/* io: the term, as its last heartbeat said; 0 */
	_Atomic uint32_t armed;		/* term: passive, but the gate is open */
	struct hak_nl count_nl;
	struct hak_gate gate;
	struct hak_announcer announcer;
};

/* hak_engine.c */
/* What the peer's last heartbeat said of a hand-over; 0: nothing.  hak_handover.c */
void hak_peer_prepares(struct hak_engine *e, uint32_t term, uint64_t seq);
void hak_tell_prepare(struct hak_engine *e);		/* apply: after each turn */
enum hak_err hak_listen(struct hak_engine *e, bool on);	/* to events; HAK_ESYS */
enum hak_err hak_open_gate(struct hak_engine *e);	/* and listen; HAK_ESYS */
void hak_become_passive(struct hak_engine *e);		/* the gate is closed already */
/* Wait, with q_lock held, until a thread signals or the monotonic time is up. */
bool hak_await_turn(struct hak_engine *e, uint64_t until);
void hak_emit(struct hak_engine *e, enum hak_event_type t, uint64_t a, uint64_t b, uint64_t c,
	      const char *text);
void hak_wake(int fd);
void hak_unwake(int fd);
/* Replace our wish; `w` holds one whole record; NULL: it was granted. */
void hak_wish(struct hak_engine *e, const struct hak_wr *w);
bool hak_asks_put(struct hak_asks *q, const struct hak_ask *a);
bool hak_asks_take(struct hak_asks *q, uint64_t now, struct hak_ask *out, uint64_t *next_due);
static inline const struct hak_locals *hak_engine_locals(const struct hak_engine *e)
{
	return &e->locals[atomic_load_explicit(&e->locals_now, memory_order_acquire)];
}

/* hak_io.c */
void *hak_io_main(void *engine);
/* Seal and send one CONTROL payload over link i; the caller holds tx_lock. */
void hak_send_control(struct hak_engine *e, unsigned i, const uint8_t *payload, size_t n);
void hak_put_header(uint8_t *out, const struct hak_engine *e, uint8_t kind,
		    uint32_t session, uint64_t seq);
void hak_send_bytes(struct hak_engine *e, unsigned i, const uint8_t *bytes, size_t n);
unsigned hak_best_link(struct hak_engine *e, bool other);

/* hak_lent.c: the calling thread runs ahead of ordinary processes; as it was before. */
void hak_prefer(bool *preferred, bool now);
/* What has come over lent links and was not read yet; control thread */
void hak_lent_drain(struct hak_engine *e);

/* hak_beat.c: a heartbeat on every link; the caller holds tx_lock */
void hak_send_heartbeats(struct hak_engine *e);
/* Before the gate of a passive node opens, and after it was closed or the role came. */
void hak_lease_arm(struct hak_engine *e, bool arming);
/* Right after heartbeats, with a time from before them; io thread. */
void hak_renew_lease(struct hak_engine *e, uint64_t now);

/* hak_judge.c; io thread.  A fresh heartbeat came over link i. */
void hak_heard(struct hak_engine *e, unsigned i, uint64_t now);
/* Links and peer that were silent for too long; when to look again. */
uint64_t hak_judge(struct hak_engine *e, uint64_t now);
/* What the peer says in a heartbeat: a bit for each link that is down over there. */
void hak_peer_links(struct hak_engine *e, uint8_t down, uint64_t seq);
/* The loop that should have come round at `meant` did so now. */
void hak_note_slip(struct hak_engine *e, uint64_t meant, uint64_t now);

/* hak_session.c: called by the io thread alone */
void hak_on_hello(struct hak_engine *e, unsigned link, const uint8_t *body, size_t n,
		  uint64_t now);
void hak_on_welcome(struct hak_engine *e, uint32_t session, const uint8_t *body, size_t n,
		    uint64_t now);
void hak_offer_session(struct hak_engine *e, bool keep, uint64_t now);
void hak_confirm_session(struct hak_engine *e);	/* next becomes now */
/* Sums begin, under keys of this session and round. */
void hak_session_sums(struct hak_engine *e, struct hak_digest *d, unsigned bits, uint32_t round);
void hak_session_end(struct hak_session *s);
/* Take up other pre-shared keys, if there are any. */
void hak_take_keys(struct hak_engine *e);
/* The session in use was made under another key than the one we prefer. */
bool hak_rekey_due(const struct hak_engine *e);
/* An offer to change the keys is under way. */
bool hak_keys_offered(const struct hak_engine *e, uint64_t now);
/* Forget the keys before these, once nothing can come under them. */
void hak_retire_keys(struct hak_engine *e, uint64_t now);

/* hak_offer.c; io thread.  The body of an OFFER. */
bool hak_offer_valid(struct hak_rd body);
/* What began here before then, the peer has; it is not heard any more. */
uint64_t hak_untold_since(struct hak_engine *e);
/* Both say that they are active. */
void hak_note_conflict(struct hak_engine *e);

/* hak_capture.c, hak_apply.c */
void *hak_capture_main(void *engine);
void *hak_apply_main(void *engine);

#endif
