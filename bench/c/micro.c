/* micro.c - single steps of the core, as a library for bench/steps.py.
 *
 *   decode        a TCP event of ctnetlink -> struct hak_flow
 *   encode        -> a record (UPDATE; and NEW with NAT)
 *   decode_wire   a record -> struct hak_flow
 *   build         -> a ctnetlink request (update; and create with NAT)
 *   hash, digest  the keyed identity; an entry into the sums of a comparison
 *   seal, open    a full datagram; the copy into place counts in both
 *   ring          a datagram into the sender's ring, and acknowledged
 *   hold          a datagram into the receiver's ring, and done with
 *
 * A call runs a step many times, so that what the caller's language takes for a call
 * does not count.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include "hak_ct.h"
#include "hak_crypto.h"
#include "hak_ct_tuple.h"
#include "hak_digest.h"
#include "hak_siphash.h"
#include "hak_stream.h"
#include "hak_wire.h"

enum { MAX = 1024, TEXT = HAK_PAYLOAD_MAX };

/* The compiler must not know what `p` points to before or after. */
static inline void opaque(void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}

struct bench {
	struct hak_flow flow, nat;
	struct hak_ctmsg msg;
	struct hak_record rec;
	uint8_t event[MAX], update[MAX], birth[MAX], out[MAX];
	size_t event_len, update_len, birth_len;
	struct hak_aead sealing, opening;
	struct hak_digest digest;
	struct hak_tx tx;
	struct hak_rx rx;
	uint8_t text[TEXT], sealed[TEXT], work[TEXT], tag[HAK_TAG_LEN];
};

int micro_count(void);
const char *micro_name(int step);
struct bench *micro_open(void);
void micro_close(struct bench *b);
void micro_run(struct bench *b, int step, unsigned turns);

static void check(enum hak_err e, const char *what)
{
	if (e) {
		fprintf(stderr, "micro: %s: %s\n", what, hak_strerror(e));
		__builtin_trap();
	}
}

static void decode(struct bench *b)
{
	struct hak_rd r = hak_rd_on(b->event, b->event_len);

	check(hak_ct_next(&r, &b->msg), "decode");
}

static void encode(struct bench *b, uint8_t type, const struct hak_flow *f)
{
	struct hak_wr w = hak_wr_on(b->out, sizeof b->out);

	check(hak_wire_put_flow(&w, type, f), "encode");
}

static void encode_update(struct bench *b)
{
	encode(b, HAK_REC_FLOW_UPDATE, &b->flow);
}

static void encode_new(struct bench *b)
{
	encode(b, HAK_REC_FLOW_NEW, &b->nat);
}

static void decode_wire(struct bench *b, const void *p, size_t n)
{
	struct hak_rd r = hak_rd_on(p, n);

	check(hak_wire_get(&r, &b->rec, NULL), "decode record");
}

static void decode_update(struct bench *b)
{
	decode_wire(b, b->update, b->update_len);
}

static void decode_new(struct bench *b)
{
	decode_wire(b, b->birth, b->birth_len);
}

static const struct hak_ct_form larval = { .timeout = 8 * 86400, .larval = true };

static void build_update(struct bench *b)
{
	struct hak_wr w = hak_wr_on(b->out, sizeof b->out);

	check(hak_ct_put_update(&w, 1, &b->flow, &larval), "build");
}

static void build_create(struct bench *b)
{
	struct hak_wr w = hak_wr_on(b->out, sizeof b->out);

	check(hak_ct_put_create(&w, 1, &b->nat, &larval), "build");
}

static void hash(struct bench *b)
{
	static const uint8_t key[HAK_SIPHASH_KEY] = { 1 };
	uint64_t h = hak_flow_hash(&b->flow, key);

	opaque(&h);
}

static void digest(struct bench *b)
{
	hak_digest_add_flow(&b->digest, &b->flow);
}

static void seal(struct bench *b)
{
	memcpy(b->work, b->text, TEXT);
	check(hak_aead_seal(&b->sealing, HAK_KIND_DATA, 1, b->event, HAK_HDR_LEN, b->work, TEXT,
			    b->out, false), "seal");
}

static void open_sealed(struct bench *b)
{
	memcpy(b->work, b->sealed, TEXT);
	check(hak_aead_open(&b->opening, HAK_KIND_DATA, 1, b->event, HAK_HDR_LEN, b->work, TEXT,
			    b->tag, false), "open");
}

static void ring(struct bench *b)
{
	struct hak_sent *d = hak_tx_slot(&b->tx);
	struct hak_ack a = { .next = b->tx.next + 1, .applied = b->tx.next + 1 };

	memcpy(d->bytes, b->sealed, TEXT);
	d->len = TEXT;
	d->records = 1;
	hak_tx_commit(&b->tx, 1);
	check(hak_tx_ack(&b->tx, &a), "acknowledge");
}

static void hold(struct bench *b)
{
	check(hak_rx_wanted(&b->rx, b->rx.next), "receive");
	hak_rx_put(&b->rx, b->rx.next, b->text, TEXT, 1);
	hak_rx_done(&b->rx, b->rx.next);
}

/* What ctnetlink_conntrack_event writes for a state change of TCP. */
static void make_event(struct bench *b)
{
	struct hak_wr w = hak_wr_on(b->event, sizeof b->event);
	const struct hak_flow *f = &b->flow;
	size_t at = hak_nlmsg_begin(&w, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW, 0, 0,
				    AF_INET, 0), outer, inner;

	hak_ct_put_tuple(&w, CTA_TUPLE_ORIG, AF_INET, f->l4proto, &f->orig, 0);
	hak_ct_put_tuple(&w, CTA_TUPLE_REPLY, AF_INET, f->l4proto, &f->reply, 0);
	hak_nla_u32(&w, CTA_ID, 12345);
	hak_nla_u32(&w, CTA_STATUS, f->status);
	hak_nla_u32(&w, CTA_TIMEOUT, 432000);
	outer = hak_nla_begin(&w, CTA_PROTOINFO);
	inner = hak_nla_begin(&w, CTA_PROTOINFO_TCP);
	hak_nla_u8(&w, CTA_PROTOINFO_TCP_STATE, f->tcp_state);
	hak_nla_u8(&w, CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, f->tcp_wscale[0]);
	hak_nla_u8(&w, CTA_PROTOINFO_TCP_WSCALE_REPLY, f->tcp_wscale[1]);
	hak_nla_u16(&w, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, 0x2300);
	hak_nla_u16(&w, CTA_PROTOINFO_TCP_FLAGS_REPLY, 0x2300);
	hak_nla_end(&w, inner);
	hak_nla_end(&w, outer);
	check(hak_ct_end(&w, at), "event");
	b->event_len = hak_wr_len(&w);
}

static size_t make_record(uint8_t *buf, uint8_t type, const struct hak_flow *f)
{
	struct hak_wr w = hak_wr_on(buf, MAX);

	check(hak_wire_put_flow(&w, type, f), "record");
	return hak_wr_len(&w);
}

static struct hak_flow make_flow(void)
{
	struct hak_flow f;

	memset(&f, 0, sizeof f);
	f.l3 = AF_INET;
	f.l4proto = IPPROTO_TCP;
	f.l4kind = HAK_L4_PORTS;
	f.orig = (struct hak_tuple){ { 10, 71, 0, 10 }, { 10, 72, 0, 10 }, 4711, 80 };
	f.reply = hak_tuple_inverse(&f, &f.orig);
	f.have = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_TCP | HAK_HAS_TCP_FLAGS |
		 HAK_HAS_TCP_WSCALE;
	f.status = IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED;
	f.tcp_state = TCP_CONNTRACK_ESTABLISHED;
	f.tcp_flags[0] = f.tcp_flags[1] = IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM;
	f.tcp_wscale[0] = f.tcp_wscale[1] = 7;
	return f;
}

static const struct {
	const char *name;
	void (*step)(struct bench *);
} steps[] = {
	{ "decode", decode },
	{ "encode_update", encode_update },
	{ "encode_new_nat", encode_new },
	{ "decode_wire_update", decode_update },
	{ "decode_wire_new_nat", decode_new },
	{ "build_update", build_update },
	{ "build_create_nat", build_create },
	{ "hash", hash },
	{ "digest", digest },
	{ "seal", seal },
	{ "open", open_sealed },
	{ "ring", ring },
	{ "hold", hold },
};

int micro_count(void)
{
	return (int)(sizeof steps / sizeof *steps);
}

const char *micro_name(int step)
{
	return steps[step].name;
}

void micro_run(struct bench *b, int step, unsigned turns)
{
	for (unsigned i = 0; i < turns; i++) {
		opaque(b);
		steps[step].step(b);
	}
}

struct bench *micro_open(void)
{
	static const uint8_t key[HAK_KEY_LEN] = { 1 };
	struct bench *b = calloc(1, sizeof *b);

	if (!b)
		return NULL;
	b->flow = b->nat = make_flow();
	b->nat.reply.dst[3] = 1;
	b->nat.reply.dport = 61000;
	b->nat.have |= HAK_HAS_MARK;
	make_event(b);
	b->update_len = make_record(b->update, HAK_REC_FLOW_UPDATE, &b->flow);
	b->birth_len = make_record(b->birth, HAK_REC_FLOW_NEW, &b->nat);
	check(hak_aead_init(&b->sealing, key, true), "key");
	check(hak_aead_init(&b->opening, key, false), "key");
	check(hak_digest_init(&b->digest), "digest");
	hak_digest_begin(&b->digest, HAK_DIGEST_BITS_MAX, key, 1);
	check(hak_tx_init(&b->tx), "ring");
	check(hak_rx_init(&b->rx), "ring");
	hak_tx_reset(&b->tx);
	hak_rx_reset(&b->rx);
	for (unsigned i = 0; i < TEXT; i++)
		b->text[i] = (uint8_t)i;
	memcpy(b->sealed, b->text, TEXT);
	check(hak_aead_seal(&b->sealing, HAK_KIND_DATA, 1, b->event, HAK_HDR_LEN, b->sealed, TEXT,
			    b->tag, false), "seal");
	return b;
}

void micro_close(struct bench *b)
{
	hak_aead_free(&b->sealing);
	hak_aead_free(&b->opening);
	hak_digest_free(&b->digest);
	hak_tx_free(&b->tx);
	hak_rx_free(&b->rx);
	free(b);
}
