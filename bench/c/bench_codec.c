/* bench_codec.c - nanoseconds per step of the codec, as one line of JSON.
 *
 *   decode        a TCP event of ctnetlink -> struct hak_flow
 *   encode        -> a record (UPDATE; and NEW with NAT)
 *   decode_wire   a record -> struct hak_flow
 *   build         -> a ctnetlink request (update; and create with NAT)
 *   hash          the keyed identity
 *
 * Best of several rounds, since whatever disturbs a round makes it longer.
 * `make -C tests/c bench_codec` builds and runs it.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <time.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include "hak_ct.h"
#include "hak_ct_tuple.h"
#include "hak_siphash.h"
#include "hak_wire.h"

enum { TURNS = 200000, ROUNDS = 15, MAX = 1024 };

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

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
};

static void check(enum hak_err e, const char *what)
{
	if (e) {
		fprintf(stderr, "bench_codec: %s: %s\n", what, hak_strerror(e));
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

static double measure(struct bench *b, void (*step)(struct bench *))
{
	uint64_t best = UINT64_MAX;

	for (int r = 0; r < ROUNDS; r++) {
		uint64_t t = now();

		for (int i = 0; i < TURNS; i++) {
			opaque(b);
			step(b);
		}
		t = now() - t;
		best = t < best ? t : best;
	}
	return (double)best / TURNS;
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

int main(void)
{
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
	};
	static struct bench b;

	b.flow = b.nat = make_flow();
	b.nat.reply.dst[3] = 1;
	b.nat.reply.dport = 61000;
	b.nat.have |= HAK_HAS_MARK;
	make_event(&b);
	b.update_len = make_record(b.update, HAK_REC_FLOW_UPDATE, &b.flow);
	b.birth_len = make_record(b.birth, HAK_REC_FLOW_NEW, &b.nat);
	printf("{\"bench\": \"codec\", \"flow_bytes\": %zu", sizeof(struct hak_flow));
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
		printf(", \"%s_ns\": %.1f", steps[i].name, measure(&b, steps[i].step));
	puts("}");
	return 0;
}
