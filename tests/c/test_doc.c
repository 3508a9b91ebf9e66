/* The example of docs/wire.md: every byte of it is opened, understood and written anew
 * by the code that the nodes run. */
#include <ctype.h>
#include "hak_crypto.h"
#include "hak_engine_int.h"
#include "t.h"

enum { MAX = 512 };

static const char *const document = "../../docs/wire.md";

struct bytes {
	size_t n;
	uint8_t v[MAX];
};

/* What stands, indented, below the line `name` in the block of hexadecimal numbers. */
static struct bytes example(const char *name)
{
	FILE *f = fopen(document, "r");
	struct bytes b = { 0 };
	bool block = false, here = false;
	char line[256];

	CASE("%s", name);
	NEED(f != NULL);
	while (fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "```hex"))
			block = true;
		else if (!strncmp(line, "```", 3))
			block = false;
		else if (block && line[0] != ' ')
			here = !strcmp(line, name);
		else if (block && here)
			for (const char *c = line; *c; c++) {
				unsigned v;

				if (*c == ' ')
					continue;
				NEED(b.n < MAX && isxdigit((unsigned char)c[1]));
				NEED(sscanf(c++, "%2x", &v) == 1);
				b.v[b.n++] = (uint8_t)v;
			}
	}
	fclose(f);
	NEED(b.n > 0);
	return b;
}

static void same(const char *name, const uint8_t *got, size_t n)
{
	struct bytes want = example(name);

	EQUAL(n, want.n);
	CHECK(n == want.n && !memcmp(got, want.v, n));
}

static void put_header(uint8_t *out, uint8_t kind, uint32_t session, uint64_t seq)
{
	static struct hak_engine e;

	e.cfg.cluster = 7;
	hak_put_header(out, &e, kind, session, seq);
}

static const struct hak_hello offer = {
	.wire_min = 1, .wire_max = 1, .encrypt = true, .session = 0x11111111,
	.boot_id = 0x0101010101010101, .boot_ms = 1700000000000, .stamp = 1,
	.serial = "FW-1", .model = "lab", .version = "1.0",
};
static const struct hak_hello answer = {
	.wire_min = 1, .wire_max = 1, .encrypt = true, .session = 0x22222222,
	.boot_id = 0x0202020202020202, .boot_ms = 1700000001000, .stamp = 1,
	.serial = "FW-2", .model = "lab", .version = "1.0",
};

static size_t put_hello(uint8_t *out, const struct hak_hello *h, const char *name)
{
	struct hak_wr w = hak_wr_on(out, HAK_HELLO_MAX);
	struct hak_hello back;

	hak_put_hello(&w, h);
	same(name, out, hak_wr_len(&w));
	EQUAL(hak_get_hello(hak_rd_on(out, hak_wr_len(&w)), &back), HAK_OK);
	CHECK(!memcmp(&back, h, sizeof back));
	return hak_wr_len(&w);
}

static void test_handshake(uint8_t keys[2][HAK_KEY_LEN])
{
	struct bytes psk = example("pre-shared key");
	struct bytes ie = example("ephemeral private key of the initiator");
	struct bytes re = example("ephemeral private key of the responder");
	uint8_t text[HAK_HELLO_MAX], dg[MAX], got[MAX], peer_e[HAK_DH_LEN];
	uint8_t rkeys[2][HAK_KEY_LEN];
	static const uint8_t prologue[] = { 'K', '2', 'K', 1, 0, 7 };
	struct hak_noise i, r;
	size_t n;

	NEED(psk.n == HAK_KEY_LEN && ie.n == HAK_DH_LEN && re.n == HAK_DH_LEN);
	NEED(!hak_noise_start(&i, psk.v, prologue, sizeof prologue, ie.v));
	NEED(!hak_noise_start(&r, psk.v, prologue, sizeof prologue, re.v));

	n = put_hello(text, &offer, "payload of HELLO");
	put_header(dg, HAK_KIND_HELLO, 0, 0);
	NEED(!hak_noise_write1(&i, text, n, dg + HAK_HDR_LEN));
	same("HELLO", dg, HAK_HDR_LEN + HAK_NOISE_OVERHEAD + n);
	NEED(!hak_noise_read1(&r, dg + HAK_HDR_LEN, HAK_NOISE_OVERHEAD + n, got, peer_e));
	CHECK(!memcmp(got, text, n));

	n = put_hello(text, &answer, "payload of WELCOME");
	put_header(dg, HAK_KIND_WELCOME, offer.session, 0);
	NEED(!hak_noise_write2(&r, peer_e, text, n, dg + HAK_HDR_LEN, rkeys));
	same("WELCOME", dg, HAK_HDR_LEN + HAK_NOISE_OVERHEAD + n);
	NEED(!hak_noise_read2(&i, dg + HAK_HDR_LEN, HAK_NOISE_OVERHEAD + n, got, keys));
	CHECK(!memcmp(got, text, n));

	same("key from initiator to responder", keys[0], HAK_KEY_LEN);
	same("key from responder to initiator", keys[1], HAK_KEY_LEN);
	CHECK(!memcmp(keys, rkeys, sizeof rkeys));
}

static void sealed(const char *name, uint8_t key[HAK_KEY_LEN], uint8_t kind, uint64_t seq,
		   const uint8_t *payload, size_t n, bool clear)
{
	uint8_t dg[MAX];
	struct hak_aead a;

	NEED(n + HAK_HDR_LEN + HAK_TAG_LEN <= MAX);
	put_header(dg, kind, answer.session, seq);
	memcpy(dg + HAK_HDR_LEN, payload, n);
	NEED(!hak_aead_init(&a, key, true));
	EQUAL(hak_aead_seal(&a, kind, seq, dg, HAK_HDR_LEN, dg + HAK_HDR_LEN, n,
			    dg + HAK_HDR_LEN + n, clear), HAK_OK);
	same(name, dg, HAK_HDR_LEN + n + HAK_TAG_LEN);
	hak_aead_free(&a);
	NEED(!hak_aead_init(&a, key, false));
	EQUAL(hak_aead_open(&a, kind, seq, dg, HAK_HDR_LEN, dg + HAK_HDR_LEN, n,
			    dg + HAK_HDR_LEN + n, clear), HAK_OK);
	CHECK(!memcmp(dg + HAK_HDR_LEN, payload, n));
	hak_aead_free(&a);
}

static void test_control(uint8_t keys[2][HAK_KEY_LEN])
{
	static const struct hak_heartbeat beat = {
		.sent_ns = 5000000000, .echo_ns = 4990000000, .hold_us = 1500,
		.stream_next = 10, .stream_base = 4,
	};
	static const struct hak_status status = {
		.mode = 2, .quality = 100, .state = 3, .term = 3, .since_ms = 1,
	};
	static const struct hak_range missing[] = { { 2, 1 }, { 5, 300 } };
	uint8_t payload[MAX];
	struct hak_wr w = hak_wr_on(payload, sizeof payload);

	hak_put_heartbeat(&w, &beat);
	hak_put_status(&w, &status);
	hak_put_ack(&w, &(struct hak_ack){ 0, 0 });
	hak_put_nack(&w, missing, 2);
	same("payload of CONTROL", payload, hak_wr_len(&w));
	sealed("CONTROL", keys[0], HAK_KIND_CONTROL, 0, payload, hak_wr_len(&w), false);
}

static void test_data(uint8_t keys[2][HAK_KEY_LEN])
{
	struct hak_flow f = {
		.l3 = AF_INET, .l4proto = IPPROTO_UDP, .l4kind = HAK_L4_PORTS,
		.have = HAK_HAS_REPLY,
		.orig = { .src = { 10, 71, 0, 10 }, .dst = { 10, 72, 0, 10 },
			  .sport = 10000, .dport = 53 },
	};
	uint8_t payload[MAX];
	struct hak_wr w = hak_wr_on(payload, sizeof payload);

	f.reply = hak_tuple_inverse(&f, &f.orig);
	EQUAL(hak_wire_put_flow(&w, HAK_REC_FLOW_NEW, &f), HAK_OK);
	same("payload of DATA", payload, hak_wr_len(&w));
	sealed("DATA", keys[0], HAK_KIND_DATA, 10, payload, hak_wr_len(&w), false);
	sealed("DATA, if neither node encrypts", keys[0], HAK_KIND_DATA, 10, payload,
	       hak_wr_len(&w), true);
}

int main(void)
{
	uint8_t keys[2][HAK_KEY_LEN];

	test_handshake(keys);
	test_control(keys);
	test_data(keys);
	return t_end();
}
