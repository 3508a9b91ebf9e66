/* fuzz_datagram.c - datagrams, as if anybody had sent them: the io thread's own way from
 * the first byte to the last record, without sockets and threads.
 *
 * The first byte is the engine's role, and whether it began the handshake.  After it
 * each turn is one byte that says how, two that say how long, and the bytes:
 *
 *   WHOLE    a datagram as it stands
 *   SEALED   kind, sequence (3 bytes) and a payload: sealed with the session's key, so
 *            that what lies behind the seal is reached
 *   OFFER    the payload of a HELLO: sealed with the pair's key
 *   AGAIN    the datagram before it once more
 *
 * What bears no seal of ours moves one counter and not one bit of the engine; what was
 * taken once is not taken twice; the rings stay in order.
 */
#include "../../csrc/hak_io.c"
#include <arpa/inet.h>
#include <string.h>
#include "fuzz.h"

enum { WHOLE, SEALED, OFFER, AGAIN, HOW = 3, NEXT = 4, ALTERED = 8, LINK = 16, STRANGER = 32 };
enum { CLUSTER = 7, NOW_ID = 0x11111111, NEXT_ID = 0x22222222 };

static struct hak_engine e, before;
static struct hak_io io;
static struct hak_aead keys[2];			/* the peer's sealing side: now, next */
static struct sockaddr_storage stranger;

static void address(struct sockaddr_storage *a, uint32_t ip)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(HAK_PORT),
				  .sin_addr.s_addr = htonl(ip) };

	memcpy(a, &in, sizeof in);
}

static void session(struct hak_session *s, uint32_t id, uint8_t byte, struct hak_aead *peer)
{
	uint8_t key[2][HAK_KEY_LEN];

	memset(key[0], byte, HAK_KEY_LEN);
	memset(key[1], byte + 1, HAK_KEY_LEN);
	if (!peer->ctx)
		PROMISE(!hak_aead_init(peer, key[0], true));
	PROMISE(!hak_aead_init(&s->open, key[0], false) && !hak_aead_init(&s->seal, key[1], true));
	s->live = s->heard = true;
	s->local_id = s->peer_id = id;
	s->peer.encrypt = true;
	s->peer.boot_id = byte;
}

static void begin(uint8_t how)
{
	struct hak_tx tx = e.tx;
	struct hak_rx rx = e.rx;

	hak_session_end(&e.now);
	hak_session_end(&e.next);
	memset(&e, 0, sizeof e);
	memset(&io, 0, sizeof io);
	e.tx = tx;
	e.rx = rx;
	if (!tx.ring)
		PROMISE(!hak_tx_init(&e.tx) && !hak_rx_init(&e.rx));
	hak_tx_reset(&e.tx);
	hak_rx_reset(&e.rx);
	io.e = &e;
	pthread_mutex_init(&e.io_lock, NULL);
	pthread_mutex_init(&e.tx_lock, NULL);
	pthread_mutex_init(&e.rx_lock, NULL);
	pthread_mutex_init(&e.q_lock, NULL);
	e.wake_io = e.wake_capture = e.wake_apply = e.event_fd = -1;
	e.cfg.n_links = 2;
	e.cfg.cluster = CLUSTER;
	e.cfg.encrypt = true;
	e.cfg.heartbeat_ms = 50;
	e.cfg.dead_after_ms = 200;
	memset(e.cfg.psk, 3, sizeof e.cfg.psk);
	e.cfg.n_psk = 1;
	snprintf(e.cfg.serial, sizeof e.cfg.serial, "FW-2");
	for (unsigned i = 0; i < 2; i++) {
		e.links[i].fd = -1;
		address(&e.cfg.links[i].peer, 0xc0a84501 + (i << 8));
	}
	address(&stranger, 0xc0a8454d);
	e.role = how % 4 == 3 ? HAK_PASSIVE : how % 4;
	e.initiator = how & 4;
	session(&e.now, NOW_ID, 5, &keys[0]);
	session(&e.next, NEXT_ID, 9, &keys[1]);
	for (int i = 0; i < 40; i++) {
		hak_tx_slot(&e.tx)->len = 40;
		hak_tx_commit(&e.tx, 1);
	}
}

/* What the apply thread does with it: all that is in order is read, then done with. */
static void apply(void)
{
	for (uint64_t s = e.rx.applied; !e.rx_reset && s < e.rx.next; s++) {
		const struct hak_held *h = hak_rx_slot(&e.rx, s);
		struct hak_rd r = hak_rd_on(h->bytes, h->len);
		struct hak_record rec;
		enum hak_err err = HAK_OK;

		PROMISE(h->len && h->len <= HAK_PAYLOAD_MAX);
		while (hak_rd_left(&r) && (!err || err == HAK_ESKIP))
			err = hak_wire_get(&r, &rec, NULL);
	}
	if (e.rx_reset) {
		hak_rx_reset(&e.rx);
		e.rx_reset = false;
	} else if (e.rx_jump) {
		(void)hak_rx_announce(&e.rx, e.jump_next, e.jump_base, 1);
		e.rx_jump = false;
	}
	hak_rx_done(&e.rx, e.rx.next);
}

static uint64_t drops(const struct hak_engine *of)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < HAK_STAT_COUNT; i++)
		if (!strncmp(hak_stat_name(i), "drop.", 5))
			n += of->stats.v[i];
	return n;
}

static uint64_t moved(enum hak_stat which)
{
	return e.stats.v[which] - before.stats.v[which];
}

/* Refused before it was believed: nothing but one counter may tell of it. */
static bool unbelieved(void)
{
	static const enum hak_stat early[] = {
		HAK_STAT_DROP_SHORT, HAK_STAT_DROP_LONG, HAK_STAT_DROP_ADDRESS,
		HAK_STAT_DROP_VERSION, HAK_STAT_DROP_KIND, HAK_STAT_DROP_CLUSTER,
		HAK_STAT_DROP_RATE, HAK_STAT_DROP_SESSION, HAK_STAT_DROP_AUTH,
	};
	unsigned n = 0;

	for (unsigned i = 0; i < sizeof early / sizeof *early; i++)
		n += moved(early[i]) != 0;
	return n;
}

static void check_numbers(void)
{
	const struct hak_tx *t = &e.tx;
	const struct hak_rx *r = &e.rx;

	PROMISE(t->base <= t->next && t->next - t->base <= HAK_RING);
	PROMISE(t->applied <= t->acked && t->acked <= t->next && t->acked <= t->base);
	PROMISE(r->applied <= r->next && r->next - r->applied <= HAK_WINDOW && r->next <= r->top);
}

static void throw_in(uint8_t how, const uint8_t *dg, size_t n, bool sealed, uint64_t now)
{
	unsigned link = how & LINK ? 1 : 0;
	uint8_t *bytes = malloc(n ? n : 1);	/* of this size, and opened in place */

	PROMISE(bytes != NULL);
	memcpy(bytes, dg, n);
	memcpy(&before, &e, sizeof e);
	on_datagram(&io, link, bytes, n, how & STRANGER ? &stranger : &e.cfg.links[link].peer, now);
	free(bytes);
	check_numbers();
	if (how & STRANGER)
		PROMISE(moved(HAK_STAT_DROP_SHORT) + moved(HAK_STAT_DROP_LONG) +
			moved(HAK_STAT_DROP_ADDRESS) == 1);
	if (sealed && !(how & STRANGER) && n <= HAK_DGRAM_MAX)
		PROMISE(!moved(HAK_STAT_DROP_AUTH));
	if (!unbelieved())
		return;
	PROMISE(drops(&e) - drops(&before) == 1);
	memcpy(&before.stats, &e.stats, sizeof e.stats);
	before.hello_tokens_ns = e.hello_tokens_ns;
	PROMISE(!memcmp(&before, &e, sizeof e));
}

static size_t make(uint8_t how, struct hak_rd r, uint8_t *out)
{
	uint8_t ephemeral[HAK_DH_LEN], pro[] = { 'K', '2', 'K', HAK_WIRE_VERSION, 0, CLUSTER };
	struct hak_noise noise;
	size_t n = hak_rd_left(&r);
	uint8_t kind;
	uint64_t seq;

	switch (how & HOW) {
	case SEALED:
		kind = hak_rd_u8(&r) & 1 ? HAK_KIND_DATA : HAK_KIND_CONTROL;
		seq = (uint64_t)hak_rd_u8(&r) << 16 | hak_rd_u16(&r);
		n = hak_rd_left(&r);
		if (r.bad || n > HAK_PAYLOAD_MAX)
			return 0;
		hak_put_header(out, &e, kind, how & NEXT ? NEXT_ID : NOW_ID, seq);
		memcpy(out + HAK_HDR_LEN, r.pos, n);
		PROMISE(!hak_aead_seal(&keys[!!(how & NEXT)], kind, seq, out, HAK_HDR_LEN,
				       out + HAK_HDR_LEN, n, out + HAK_HDR_LEN + n, false));
		n += HAK_HDR_LEN + HAK_TAG_LEN;
		break;
	case OFFER:
		if (n > 1024)
			return 0;
		memset(ephemeral, (int)n | 1, sizeof ephemeral);
		hak_put_header(out, &e, HAK_KIND_HELLO, 0, 0);
		PROMISE(!hak_noise_start(&noise, e.cfg.psk[0], pro, sizeof pro, ephemeral));
		PROMISE(!hak_noise_write1(&noise, r.pos, n, out + HAK_HDR_LEN));
		n += HAK_HDR_LEN + HAK_NOISE_OVERHEAD;
		break;
	default:
		memcpy(out, r.pos, n);
	}
	if (how & ALTERED && n)
		out[n - 1] ^= 1;
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hak_rd r = hak_rd_on(data, size);
	static uint8_t dg[65536];
	uint64_t now = 10 * 1000000000ull;
	size_t n = 0;
	bool sealed = false;

	begin(hak_rd_u8(&r));
	for (unsigned turn = 0; turn < 64 && hak_rd_left(&r) > 3; turn++, now += HAK_MS) {
		uint8_t how = hak_rd_u8(&r);
		size_t len = hak_rd_u16(&r);
		struct hak_rd part = hak_rd_sub(&r, len < hak_rd_left(&r) ? len : hak_rd_left(&r));
		bool again = (how & HOW) == AGAIN;

		if (!again) {
			n = make(how, part, dg);
			sealed = (how & HOW) == SEALED && !(how & ALTERED) &&
				 (how & NEXT ? e.next.live && e.next.local_id == NEXT_ID
					     : e.now.live && e.now.local_id == NOW_ID);
		}
		throw_in(how, dg, n, sealed && n, now);
		/* Whatever became of it, as the same datagram it is news to nobody. */
		if (sealed && n && !(how & STRANGER)) {
			throw_in(how, dg, n, false, now);
			PROMISE(drops(&e) != drops(&before));
			PROMISE(!moved(HAK_STAT_RX_DATAGRAMS) &&
				!moved(HAK_STAT_HEARTBEATS_RECEIVED));
		}
		if (turn % 3 == 2)
			apply();
	}
	apply();
	check_numbers();
	return 0;
}
