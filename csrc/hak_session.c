/* hak_session.c - who talks to whom with which keys.
 *
 * The side with the lower address on the first link begins.  It offers (HELLO)
 * as long as it does not hear its peer; the other side answers (WELCOME) and holds
 * the new session as `next` until the first datagram under its keys proves that
 * the offer was no replay.  So nothing an outsider can send, recorded or made up,
 * ends a session in use.
 *
 * A session lives as long as both processes: a mere silence is no reason for new
 * keys, because the stream's numbers, and with them what can be resent, belong to
 * the session.  A WELCOME from the boot we already share a session with is ignored.
 *
 * Another pre-shared key is no reason either: when the one that is preferred here is
 * not the session's, an offer under it asks to keep the streams.  If the peer knows the
 * key, the session goes on with all its numbers, and only what seals changes; the keys
 * before still open what is under way and what is resent as it was sealed.  If it does
 * not, nothing has happened.
 *
 * Not handled: a third node with the same key and address (refused by boot only
 * as far as its hello contradicts ours).
 */
#include "hak_engine_int.h"
#include "hak_siphash.h"

#include <stdio.h>

enum { OFFER_LIFE_MS = 1000, RETIRE_MS = 2000 };

static void prologue(const struct hak_engine *e, uint8_t out[6])
{
	struct hak_wr w = hak_wr_on(out, 6);

	hak_wr_copy(&w, "K2K", 3);
	hak_wr_u8(&w, HAK_WIRE_VERSION);
	hak_wr_u16(&w, e->cfg.cluster);
}

static uint32_t fresh_id(const struct hak_engine *e)
{
	uint32_t id = 0;

	while (!id || (e->now.live && id == e->now.local_id) ||
	       (e->next.live && id == e->next.local_id) ||
	       (e->old.live && id == e->old.local_id))
		if (hak_random(&id, sizeof id))
			return 0;
	return id;
}

static size_t own_hello(struct hak_engine *e, uint32_t id, bool keep, uint8_t out[HAK_HELLO_MAX])
{
	struct hak_hello h = {
		.wire_min = HAK_WIRE_VERSION, .wire_max = HAK_WIRE_VERSION,
		.encrypt = e->cfg.encrypt, .keep = keep, .session = id,
		.boot_id = e->boot_id, .boot_ms = e->boot_ms,
		.stamp = ++e->stamp, .priority = atomic_load(&e->priority),
		.policy = hak_policy_hash(&e->cfg.policy),
	};
	struct hak_wr w = hak_wr_on(out, HAK_HELLO_MAX);

	snprintf(h.serial, sizeof h.serial, "%s", e->cfg.serial);
	snprintf(h.model, sizeof h.model, "%s", e->cfg.model);
	snprintf(h.version, sizeof h.version, "%s", e->cfg.version);
	hak_put_hello(&w, &h);
	return hak_wr_len(&w);
}

/* Why this peer cannot be ours, or NULL. */
static const char *objection(const struct hak_engine *e, const struct hak_hello *h)
{
	if (h->wire_min > HAK_WIRE_VERSION || h->wire_max < HAK_WIRE_VERSION)
		return "no common protocol version; upgrade the older node";
	if (!strcmp(h->serial, e->cfg.serial))
		return "it has our own serial; node.serial must differ";
	if (h->boot_id == e->boot_id)
		return "it is our own echo; check link.local and link.peer";
	return NULL;
}

static bool agreeable(struct hak_engine *e, const struct hak_hello *h)
{
	const char *why = objection(e, h);

	if (!why)
		return true;
	hak_count(&e->stats, HAK_STAT_DROP_HELLO);
	hak_emit(e, HAK_EV_HELLO_REFUSED, 0, 0, 0, why);
	return false;
}

/* A handshake costs scalar multiplications, once the offer was found right: no more of
 * them than a peer that is in trouble could need.  What is refused for less must not
 * use this up. */
static bool allowed(struct hak_engine *e, uint64_t now)
{
	const uint64_t each = 1000000000u / HAK_HELLO_PER_S, depth = 10 * each;

	if (e->hello_tokens_ns < now - depth)
		e->hello_tokens_ns = now - depth;
	if (e->hello_tokens_ns + each > now) {
		hak_count(&e->stats, HAK_STAT_DROP_RATE);
		return false;
	}
	e->hello_tokens_ns += each;
	return true;
}

/* An offer that is older than what we know.  While we hear the peer, that includes all
 * of its earlier boots; once it is silent its clock may have been set back meanwhile. */
static bool recorded(struct hak_engine *e, const struct hak_hello *h)
{
	const struct hak_answer *a = &e->answer;
	const struct hak_hello *p = &e->now.peer;

	if (h->boot_id == a->boot_id && h->stamp <= a->stamp)
		return true;
	if (!e->now.live)
		return false;
	if (h->boot_id == p->boot_id)
		return h->stamp <= p->stamp;
	return atomic_load(&e->peer_alive) && h->boot_ms < p->boot_ms;
}

/* Both handshake messages' payloads: open() gave n bytes of text. */
static enum hak_err read_hello(struct hak_engine *e, const uint8_t *text, size_t n,
			       struct hak_hello *h)
{
	enum hak_err err = hak_get_hello(hak_rd_on(text, n), h);

	if (err)
		hak_count(&e->stats, HAK_STAT_DROP_MALFORMED);
	return err;
}

void hak_session_end(struct hak_session *s)
{
	hak_aead_free(&s->seal);
	hak_aead_free(&s->open);
	memset(s, 0, sizeof *s);
}

/* Was the offer, or its answer, made for the session in use?  Not if it was lost here, or
 * nothing has come under it: then the two ends may count from different places. */
static bool goes_on(const struct hak_engine *e, const struct hak_hello *h)
{
	return h->keep && e->now.live && e->now.heard && e->now.peer.boot_id == h->boot_id;
}

/* What the tables are hashed with: known to both, to nobody else, and of no use to find
 * the keys by. */
static void derive_digest_key(struct hak_session *s, uint8_t keys[2][HAK_KEY_LEN])
{
	struct hak_wr w = hak_wr_on(s->digest_key, sizeof s->digest_key);

	for (int i = 0; i < 2; i++)
		hak_wr_u64(&w, hak_siphash(keys[!i], HAK_KEY_LEN, keys[i]));
}

static bool session_begin(struct hak_session *s, uint32_t local_id, const struct hak_hello *peer,
			  uint32_t key, uint8_t keys[2][HAK_KEY_LEN], bool initiator)
{
	bool ok;

	hak_session_end(s);
	ok = !hak_aead_init(&s->seal, keys[initiator ? 0 : 1], true) &&
	     !hak_aead_init(&s->open, keys[initiator ? 1 : 0], false);
	if (!ok) {
		hak_wipe(keys, 2 * HAK_KEY_LEN);
		hak_session_end(s);
		return false;
	}
	derive_digest_key(s, keys);
	hak_wipe(keys, 2 * HAK_KEY_LEN);
	s->live = true;
	s->began_ns = hak_now();
	s->key = key;
	s->local_id = local_id;
	s->peer_id = peer->session;
	s->peer = *peer;
	hak_replay_init(&s->control_seen);
	return true;
}

/* `next` becomes `now` and all numbers go on.  tx_lock makes it one step for whoever
 * seals. */
static void confirm_keys(struct hak_engine *e)
{
	struct hak_wr digest = hak_wr_on(e->now.digest_key, sizeof e->now.digest_key);

	pthread_mutex_lock(&e->tx_lock);
	hak_session_end(&e->old);
	e->old = e->now;
	e->now = e->next;
	memset(&e->next, 0, sizeof e->next);	/* its contexts moved, not freed */
	e->now.control_seq = e->old.control_seq;
	e->now.control_seen = e->old.control_seen;
	/* a comparison of the tables may be under way */
	hak_wr_copy(&digest, e->old.digest_key, sizeof e->old.digest_key);
	pthread_mutex_unlock(&e->tx_lock);

	pthread_mutex_lock(&e->q_lock);
	e->peer.hello = e->now.peer;
	pthread_mutex_unlock(&e->q_lock);
	hak_count(&e->stats, HAK_STAT_REKEYS);
	hak_emit(e, HAK_EV_SESSION_REKEYED, e->now.key, 0, 0, NULL);
}

/* `next` becomes `now`: both streams begin anew, unless only the keys are new. */
void hak_confirm_session(struct hak_engine *e)
{
	bool new_boot = !e->now.live || e->now.peer.boot_id != e->next.peer.boot_id;

	if (e->next.keep && !new_boot) {
		confirm_keys(e);
		return;
	}
	pthread_mutex_lock(&e->tx_lock);
	hak_session_end(&e->old);
	hak_session_end(&e->now);
	e->now = e->next;
	memset(&e->next, 0, sizeof e->next);	/* its contexts moved, not freed */
	hak_tx_reset(&e->tx);
	/* At once: no heartbeat may acknowledge in this session what came in the last. */
	pthread_mutex_lock(&e->rx_lock);
	e->rx_reset = true;			/* the apply thread may hold slots */
	e->rx_jump = false;
	pthread_mutex_unlock(&e->rx_lock);
	pthread_mutex_unlock(&e->tx_lock);

	pthread_mutex_lock(&e->q_lock);
	e->peer.known = true;
	e->peer.hello = e->now.peer;
	if (new_boot)
		memset(&e->peer.status, 0, sizeof e->peer.status);
	e->sync_asked = 0;
	e->mail.type = 0;
	e->wish.type = 0;
	e->table = (struct hak_table){ .equal = 2, .verified = e->table.verified };
	pthread_mutex_unlock(&e->q_lock);
	if (new_boot)
		atomic_store(&e->peer_mode, 0);
	for (unsigned i = 0; i < e->cfg.n_links; i++)
		e->links[i].last_seq = 0;

	atomic_fetch_add(&e->sessions, 1);
	atomic_store(&e->session_up, true);
	atomic_store(&e->synced, false);
	atomic_store(&e->sync_needed, true);
	hak_count(&e->stats, HAK_STAT_HANDSHAKES);
	if (e->now.peer.policy && e->now.peer.policy != hak_policy_hash(&e->cfg.policy))
		hak_emit(e, HAK_EV_POLICY_DIFFERS, 0, 0, 0, NULL);
	hak_emit(e, HAK_EV_SESSION_UP, e->now.peer.boot_id, new_boot, 0, NULL);
	hak_wake(e->wake_apply);
	hak_wake(e->wake_capture);
}

/* ---- pre-shared keys ------------------------------------------------- */

void hak_take_keys(struct hak_engine *e)
{
	bool known = false;

	pthread_mutex_lock(&e->q_lock);
	if (e->new_n_psk) {
		e->cfg.n_psk = e->new_n_psk;
		memcpy(e->cfg.psk, e->new_psk, sizeof e->cfg.psk);
		hak_wipe(e->new_psk, sizeof e->new_psk);
		e->new_n_psk = 0;
		for (unsigned i = 0; i < e->cfg.n_psk; i++) {
			e->prints[i] = hak_key_print(e->cfg.psk[i]);
			known |= e->prints[i] == e->next.key;
		}
		/* what was made under the old ones and is not in use */
		hak_wipe(&e->offer.noise, sizeof e->offer.noise);
		e->offer.live = false;
		e->offer.turn = 0;
		e->answer.len = 0;
		if (!known)
			hak_session_end(&e->next);
	}
	pthread_mutex_unlock(&e->q_lock);
}

bool hak_rekey_due(const struct hak_engine *e)
{
	return e->initiator && e->now.live && e->now.heard && e->now.key != e->prints[0];
}

void hak_retire_keys(struct hak_engine *e, uint64_t now)
{
	bool complete;

	if (!e->old.live || !e->now.heard || now - e->now.began_ns < (uint64_t)RETIRE_MS * HAK_MS)
		return;
	/* The peer's heartbeats under the new keys have told where its stream was when
	 * they changed: if nothing is missing below, nothing sealed before can come. */
	pthread_mutex_lock(&e->rx_lock);
	complete = atomic_load(&e->role) != HAK_PASSIVE ||
		   (!e->rx_reset && !e->rx_jump && e->rx.next == e->rx.top);
	pthread_mutex_unlock(&e->rx_lock);
	if (complete)
		hak_session_end(&e->old);
}

/* ---- beginning ------------------------------------------------------- */

static enum hak_err make_offer(struct hak_engine *e, bool keep, uint64_t now)
{
	struct hak_offer *o = &e->offer;
	uint8_t pro[6], hello[HAK_HELLO_MAX];
	size_t n;
	enum hak_err err;

	hak_wipe(&o->noise, sizeof o->noise);
	o->live = false;
	o->keep = keep;
	/* Without a session any key will do, and the peer may have another one only. */
	o->key = keep ? 0 : o->turn++ % e->cfg.n_psk;
	o->local_id = fresh_id(e);
	prologue(e, pro);
	if (!o->local_id)
		return HAK_ESYS;
	n = own_hello(e, o->local_id, keep, hello);
	err = hak_noise_start(&o->noise, e->cfg.psk[o->key], pro, sizeof pro, NULL);
	if (!err)
		err = hak_noise_write1(&o->noise, hello, n, o->bytes + HAK_HDR_LEN);
	if (err)
		return err;
	hak_put_header(o->bytes, e, HAK_KIND_HELLO, 0, 0);
	o->len = (uint16_t)(HAK_HDR_LEN + HAK_NOISE_OVERHEAD + n);
	o->made_ns = now;
	o->live = true;
	return HAK_OK;
}

/* Several keys share the time in which an answer may come. */
static bool offer_is_young(const struct hak_engine *e, uint64_t now)
{
	uint64_t life = (uint64_t)OFFER_LIFE_MS * HAK_MS / e->cfg.n_psk;

	return e->offer.live && now - e->offer.made_ns <= life;
}

/* A peer that falls silent may be answering: an offer of another session would take the
 * place of the keys that it answers with, and the two ends would have different ones.
 * One that has begun anew understands this offer as well. */
bool hak_keys_offered(const struct hak_engine *e, uint64_t now)
{
	return e->offer.keep && offer_is_young(e, now);
}

/* The same offer goes out again until it is a second old: its answer may be on
 * the way, and a fresh one would make that answer worthless. */
void hak_offer_session(struct hak_engine *e, bool keep, uint64_t now)
{
	if (e->offer.keep != keep || !offer_is_young(e, now))
		if (make_offer(e, keep, now))
			return;
	for (unsigned i = 0; i < e->cfg.n_links; i++)
		hak_send_bytes(e, i, e->offer.bytes, e->offer.len);
}

void hak_on_welcome(struct hak_engine *e, uint32_t session, const uint8_t *body, size_t n,
		    uint64_t now)
{
	struct hak_offer *o = &e->offer;
	uint8_t text[HAK_DGRAM_MAX], keys[2][HAK_KEY_LEN];
	struct hak_hello h;
	bool keep;

	/* The offer went out on every link, so its answer comes on every link. */
	if (e->initiator && e->now.live && session == e->now.local_id)
		return;
	if (!e->initiator || !o->live || session != o->local_id) {
		hak_count(&e->stats, HAK_STAT_DROP_SESSION);
		return;
	}
	if (!allowed(e, now))
		return;
	if (hak_noise_read2(&o->noise, body, n, text, keys)) {
		hak_count(&e->stats, HAK_STAT_DROP_AUTH);
		return;
	}
	o->live = false;	/* the handshake is spent, whatever follows */
	if (read_hello(e, text, n - HAK_NOISE_OVERHEAD, &h) || !agreeable(e, &h)) {
		hak_wipe(keys, sizeof keys);
		return;
	}
	keep = o->keep && goes_on(e, &h);
	if (!keep && e->now.heard && e->now.peer.boot_id == h.boot_id) {
		/* The session stands, see top: having heard it, we know that the
		 * peer confirmed it and cannot have lost it within one boot. */
		hak_wipe(keys, sizeof keys);
		return;
	}
	if (!session_begin(&e->next, o->local_id, &h, e->prints[o->key], keys, true))
		return;
	e->next.keep = keep;
	/* The answer proves the peer knows the key and is alive now: no need to
	 * wait.  Our first heartbeat confirms to the other side. */
	hak_confirm_session(e);
	pthread_mutex_lock(&e->tx_lock);
	hak_send_heartbeats(e);
	pthread_mutex_unlock(&e->tx_lock);
}

/* ---- answering ------------------------------------------------------- */

void hak_on_hello(struct hak_engine *e, unsigned link, const uint8_t *body, size_t n,
		  uint64_t now)
{
	struct hak_answer *a = &e->answer;
	struct hak_noise noise;
	uint8_t pro[6], text[HAK_DGRAM_MAX], peer_e[HAK_DH_LEN], hello[HAK_HELLO_MAX];
	uint8_t keys[2][HAK_KEY_LEN];
	struct hak_hello h;
	unsigned k;
	uint32_t id;
	size_t m;
	bool keep;

	if (e->initiator) {
		/* both ends think they begin: addresses are configured wrongly,
		 * or it is our own datagram */
		hak_count(&e->stats, HAK_STAT_DROP_HELLO);
		return;
	}
	if (!allowed(e, now))
		return;
	if (a->len && n >= HAK_DH_LEN && !memcmp(a->peer_e, body, HAK_DH_LEN)) {
		hak_send_bytes(e, link, a->bytes, a->len);
		return;
	}
	prologue(e, pro);
	for (k = 0; k < e->cfg.n_psk; k++) {
		hak_count(&e->stats, HAK_STAT_KEYS_TRIED);
		if (!hak_noise_begin(&noise, e->cfg.psk[k], pro, sizeof pro) &&
		    !hak_noise_read1(&noise, body, n, text, peer_e))
			break;
	}
	if (k == e->cfg.n_psk) {
		hak_count(&e->stats, HAK_STAT_DROP_AUTH);
		goto out;
	}
	if (read_hello(e, text, n - HAK_NOISE_OVERHEAD, &h) || !agreeable(e, &h))
		goto out;
	if (recorded(e, &h)) {
		hak_count(&e->stats, HAK_STAT_DROP_REPLAY);
		goto out;
	}
	id = fresh_id(e);
	keep = goes_on(e, &h);
	if (!id || hak_noise_ephemeral(&noise, NULL))
		goto out;
	m = own_hello(e, id, keep, hello);
	if (hak_noise_write2(&noise, peer_e, hello, m, a->bytes + HAK_HDR_LEN, keys)) {
		a->len = 0;		/* its bytes are spoilt */
		hak_count(&e->stats, HAK_STAT_DROP_AUTH);
		goto out;
	}
	hak_put_header(a->bytes, e, HAK_KIND_WELCOME, h.session, 0);
	a->len = (uint16_t)(HAK_HDR_LEN + HAK_NOISE_OVERHEAD + m);
	memcpy(a->peer_e, peer_e, sizeof peer_e);
	a->boot_id = h.boot_id;
	a->stamp = h.stamp;
	if (session_begin(&e->next, id, &h, e->prints[k], keys, false)) {
		e->next.keep = keep;
		hak_send_bytes(e, link, a->bytes, a->len);
	}
out:
	hak_wipe(&noise, sizeof noise);
	hak_wipe(keys, sizeof keys);
}

void hak_session_sums(struct hak_engine *e, struct hak_digest *d, unsigned bits, uint32_t round)
{
	uint8_t key[HAK_SIPHASH_KEY];
	struct hak_wr k = hak_wr_on(key, sizeof key);

	pthread_mutex_lock(&e->tx_lock);
	hak_wr_copy(&k, e->now.digest_key, sizeof key);
	pthread_mutex_unlock(&e->tx_lock);
	hak_digest_begin(d, bits, key, round);
}
