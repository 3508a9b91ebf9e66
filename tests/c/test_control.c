/* Bodies of CONTROL records and of the handshake: round trips, every prefix refused,
 * longer ones accepted, and what may not be said at all. */
#include "hak_control.h"
#include "hak_wire.h"
#include "t.h"

enum { MAX = 2048 };

static uint8_t buf[MAX];

static struct hak_wr wr(void)
{
	memset(buf, 0xa5, sizeof buf);
	return hak_wr_on(buf, sizeof buf);
}

/* The body of the one record in *w. */
static struct hak_rd body_of(const struct hak_wr *w, uint8_t type)
{
	struct hak_rd r = hak_rd_on(w->base, hak_wr_len(w));
	struct hak_record rec = { 0 };

	EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
	EQUAL(rec.type, type);
	EQUAL(hak_rd_left(&r), 0);
	return rec.body;
}

typedef enum hak_err (*reader)(struct hak_rd r, void *out);

static enum hak_err read_heartbeat(struct hak_rd r, void *out) { return hak_get_heartbeat(r, out); }
static enum hak_err read_status(struct hak_rd r, void *out) { return hak_get_status(r, out); }
static enum hak_err read_ack(struct hak_rd r, void *out) { return hak_get_ack(r, out); }
static enum hak_err read_hello(struct hak_rd r, void *out) { return hak_get_hello(r, out); }

/* Every strict prefix is refused; whatever follows is for later versions. */
static void test_lengths(struct hak_rd body, reader get, void *out)
{
	size_t n = hak_rd_left(&body);
	uint8_t longer[MAX];

	for (size_t cut = 0; cut < n; cut++) {
		CASE("%zu of %zu bytes", cut, n);
		EQUAL(get(hak_rd_on(body.pos, cut), out), HAK_ETRUNC);
	}
	memcpy(longer, body.pos, n);
	for (size_t more = 0; more < 300; more++) {
		CASE("%zu bytes more", more);
		t_bytes(longer + n, more);
		EQUAL(get(hak_rd_on(longer, n + more), out), HAK_OK);
	}
	CASE("%s", "");
}

/* Its last two fields came later: a body without them is an older version's. */
static void test_table(void)
{
	struct hak_table t = {
		.equal = 1, .verified = 0x01020304, .as_of = t_random(), .age_ms = 5, .entries = 6,
		.missing = 7, .extra = 8, .different = 9, .repaired = 10, .fill = 101,
		.max = 0x0a0b0c0d,
	}, back;
	struct hak_wr w = wr();
	struct hak_rd body, old;
	uint8_t bytes[64] = { 0 };

	hak_put_table(&w, &t);
	body = body_of(&w, HAK_REC_TABLE);
	EQUAL(hak_rd_left(&body), 42);
	memset(&back, 0, sizeof back);
	EQUAL(hak_get_table(body, &back), HAK_OK);
	EQUAL(back.fill, 101);
	EQUAL(back.max, t.max);
	EQUAL(back.repaired, 10);
	EQUAL(back.as_of, t.as_of);
	old = hak_rd_on(body.pos, 37);
	for (size_t cut = 0; cut < 37; cut++)
		EQUAL(hak_get_table(hak_rd_on(body.pos, cut), &back), HAK_ETRUNC);
	EQUAL(hak_get_table(old, &back), HAK_OK);
	EQUAL(back.fill, 0);
	EQUAL(back.max, 0);
	EQUAL(hak_get_table(hak_rd_on(body.pos, 38), &back), HAK_OK);
	EQUAL(back.fill, 101);
	EQUAL(back.max, 0);
	for (size_t cut = 39; cut < 42; cut++)
		EQUAL(hak_get_table(hak_rd_on(body.pos, cut), &back), HAK_ETRUNC);
	EQUAL(hak_get_table(hak_rd_on(bytes, sizeof bytes), &back), HAK_OK);
	bytes[37] = 102;
	EQUAL(hak_get_table(hak_rd_on(bytes, 38), &back), HAK_EFORMAT);
	bytes[37] = 0;
	bytes[0] = 3;
	EQUAL(hak_get_table(hak_rd_on(bytes, 38), &back), HAK_EFORMAT);
}

static void test_heartbeat(void)
{
	for (int i = 0; i < 200; i++) {
		struct hak_heartbeat h = {
			.link = (uint8_t)t_random(), .sent_ns = t_random(), .echo_ns = t_random(),
			.hold_us = (uint32_t)t_random(), .stream_next = t_random(),
		}, got;
		struct hak_wr w = wr();
		struct hak_rd body;

		h.stream_base = i % 2 ? h.stream_next : h.stream_next / 3;
		hak_put_heartbeat(&w, &h);
		EQUAL(hak_wr_len(&w), 2 + 37);
		body = body_of(&w, HAK_REC_HEARTBEAT);
		EQUAL(hak_get_heartbeat(body, &got), HAK_OK);
		EQUAL(got.link, h.link);
		EQUAL(got.sent_ns, h.sent_ns);
		EQUAL(got.echo_ns, h.echo_ns);
		EQUAL(got.hold_us, h.hold_us);
		EQUAL(got.stream_next, h.stream_next);
		EQUAL(got.stream_base, h.stream_base);
		if (i < 2)
			test_lengths(body, read_heartbeat, &got);
		h.stream_base = h.stream_next + 1;
		w = wr();
		hak_put_heartbeat(&w, &h);
		if (h.stream_base)
			EQUAL(hak_get_heartbeat(body_of(&w, HAK_REC_HEARTBEAT), &got), HAK_EFORMAT);
	}
}

/* What was heard so long ago that its age does not fit tells nothing: an age that
 * wrapped round would make the peer believe in a round trip of hours. */
static void test_echo(void)
{
	const uint64_t heard = 5000000000u, us = 1000, longest = UINT32_MAX * us;
	struct hak_heartbeat h = { 0 };

	hak_heartbeat_echo(&h, 77, heard, heard);
	EQUAL(h.echo_ns, 77);
	EQUAL(h.hold_us, 0);
	hak_heartbeat_echo(&h, 77, heard, heard + 1234 * us);
	EQUAL(h.echo_ns, 77);
	EQUAL(h.hold_us, 1234);
	hak_heartbeat_echo(&h, 77, heard, heard + longest);
	EQUAL(h.echo_ns, 77);
	EQUAL(h.hold_us, UINT32_MAX);
	hak_heartbeat_echo(&h, 77, heard, heard + longest + us);
	EQUAL(h.echo_ns, 0);
	EQUAL(h.hold_us, 0);
	hak_heartbeat_echo(&h, 0, 0, heard);	/* never heard anything */
	EQUAL(h.echo_ns, 0);
	EQUAL(h.hold_us, 0);
}

static struct hak_status status(unsigned mode, unsigned forced, unsigned quality, unsigned state)
{
	return (struct hak_status){
		.mode = (uint8_t)mode, .forced = (uint8_t)forced, .quality = (uint8_t)quality,
		.state = (uint8_t)state, .term = 0xfedcba98, .since_ms = 0x0123456789abcdef,
	};
}

static enum hak_err status_trip(const struct hak_status *s, struct hak_status *got)
{
	struct hak_wr w = wr();

	hak_put_status(&w, s);
	EQUAL(hak_wr_len(&w), 2 + 16);
	return hak_get_status(body_of(&w, HAK_REC_STATUS), got);
}

static void test_status(void)
{
	static const struct { unsigned mode, forced, quality, state; } bad[] = {
		{ 4, 0, 0, 0 }, { 255, 0, 0, 0 }, { 0, 3, 0, 0 }, { 0, 255, 0, 0 },
		{ 0, 0, 101, 0 }, { 0, 0, 255, 0 }, { 0, 0, 0, 5 }, { 0, 0, 0, 255 },
	};
	struct hak_status s, got;
	struct hak_wr w = wr();

	for (unsigned mode = 0; mode <= 3; mode++)
		for (unsigned forced = 0; forced <= 2; forced++)
			for (unsigned state = 0; state <= 4; state++)
				for (unsigned quality = 0; quality <= 100; quality += 50) {
					s = status(mode, forced, quality, state);
					EQUAL(status_trip(&s, &got), HAK_OK);
					CHECK(!memcmp(&s, &got, sizeof s));
				}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		s = status(bad[i].mode, bad[i].forced, bad[i].quality, bad[i].state);
		EQUAL(status_trip(&s, &got), HAK_EFORMAT);
	}
	s = status(2, 1, 100, 3);
	hak_put_status(&w, &s);
	test_lengths(body_of(&w, HAK_REC_STATUS), read_status, &got);
}

static void test_ack(void)
{
	static const struct hak_ack good[] = {
		{ 0, 0 }, { 1, 0 }, { 1, 1 }, { UINT64_MAX, 0 }, { UINT64_MAX, UINT64_MAX },
		{ UINT64_C(1) << 32, UINT32_MAX },
	};
	struct hak_ack got;
	struct hak_wr w;

	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		w = wr();
		hak_put_ack(&w, &good[i]);
		EQUAL(hak_wr_len(&w), 2 + 16);
		EQUAL(hak_get_ack(body_of(&w, HAK_REC_ACK), &got), HAK_OK);
		EQUAL(got.next, good[i].next);
		EQUAL(got.applied, good[i].applied);
	}
	test_lengths(body_of(&w, HAK_REC_ACK), read_ack, &got);
	/* nothing is applied that was not received */
	w = wr();
	hak_put_ack(&w, &(struct hak_ack){ .next = 4, .applied = 5 });
	EQUAL(hak_get_ack(body_of(&w, HAK_REC_ACK), &got), HAK_EFORMAT);
}

static void test_nack(void)
{
	struct hak_range in[HAK_NACK_MAX + 8], out[HAK_NACK_MAX];
	struct hak_rd body;
	struct hak_wr w;

	for (unsigned n = 1; n <= HAK_NACK_MAX + 8; n++) {
		unsigned want = n < HAK_NACK_MAX ? n : HAK_NACK_MAX;

		for (unsigned i = 0; i < n; i++)
			in[i] = (struct hak_range){
				.first = t_random() >> 1, .count = (uint16_t)(1 + t_below(65535)),
			};
		w = wr();
		hak_put_nack(&w, in, n);
		body = body_of(&w, HAK_REC_NACK);
		EQUAL(hak_rd_left(&body), want * 10);
		EQUAL(hak_get_nack(body, out), want);
		for (unsigned i = 0; i < want; i++) {
			EQUAL(out[i].first, in[i].first);
			EQUAL(out[i].count, in[i].count);
		}
	}
	/* a list: a prefix that ends between two ranges is one as well */
	for (size_t cut = 0; cut <= HAK_NACK_MAX * 10; cut++) {
		int want = cut && cut % 10 == 0 ? (int)cut / 10 : -1;

		CASE("%zu bytes", cut);
		EQUAL(hak_get_nack(hak_rd_on(body.pos, cut), out), want);
	}
	CASE("%s", "");
	/* more ranges than we make: the first ones count */
	uint8_t many[(HAK_NACK_MAX + 5) * 10];

	w = hak_wr_on(many, sizeof many);
	for (unsigned i = 0; i < HAK_NACK_MAX + 5; i++) {
		hak_wr_u64(&w, i);
		hak_wr_u16(&w, 1);
	}
	EQUAL(hak_get_nack(hak_rd_on(many, sizeof many), out), HAK_NACK_MAX);
	EQUAL(out[HAK_NACK_MAX - 1].first, HAK_NACK_MAX - 1);
}

static void test_nack_ranges(void)
{
	static const struct { uint64_t first; uint16_t count; int want; } v[] = {
		{ 0, 1, 1 }, { 0, UINT16_MAX, 1 }, { 7, 0, -1 },
		{ UINT64_MAX - 1, 1, 1 }, { UINT64_MAX, 1, -1 }, { UINT64_MAX - 9, 9, 1 },
		{ UINT64_MAX - 9, 10, -1 }, { UINT64_MAX - 65535, UINT16_MAX, 1 },
		{ UINT64_MAX - 65534, UINT16_MAX, -1 },
	};
	struct hak_range out[HAK_NACK_MAX];

	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		struct hak_wr w = wr();

		hak_put_nack(&w, &(struct hak_range){ v[i].first, v[i].count }, 1);
		CASE("range %zu", i);
		EQUAL(hak_get_nack(body_of(&w, HAK_REC_NACK), out), v[i].want);
	}
	CASE("%s", "");
}

/* ---- the handshake's payload ----------------------------------------- */

static struct hak_hello some_hello(void)
{
	struct hak_hello h = {
		.wire_min = 1, .wire_max = 3, .encrypt = true, .session = 0x01020304,
		.boot_id = 0x1112131415161718, .boot_ms = 0x2122232425262728,
		.stamp = 0x3132333435363738, .priority = 0x4142,
	};

	snprintf(h.serial, sizeof h.serial, "FW-1");
	snprintf(h.model, sizeof h.model, "~ !box");	/* both ends of what is printable */
	snprintf(h.version, sizeof h.version, "1.2.3");
	return h;
}

static enum hak_err hello_trip(const struct hak_hello *h, struct hak_hello *got)
{
	struct hak_wr w = wr();

	hak_put_hello(&w, h);
	CHECK(!w.bad);
	CHECK(hak_wr_len(&w) <= HAK_HELLO_MAX);
	return hak_get_hello(hak_rd_on(w.base, hak_wr_len(&w)), got);
}

/* Sums of each size, as many as a record may have; one more or less is malformed. */
static void test_brief(void)
{
	for (unsigned size = 1; size <= 4; size *= 2)
		for (unsigned n = 16; n <= HAK_RECON_BRIEF / size; n += 16) {
			struct hak_brief s = { .round = 0xfedcba98, .shift = n % 32 ? 4 : 0,
					       .first = n, .size = (uint8_t)size, .n = n }, got;
			struct hak_wr w = wr();
			struct hak_rd body;
			uint8_t longer[MAX] = { 0 };

			CASE("%u sums of %u bytes", n, size);
			for (unsigned i = 0; i < n; i++)
				s.sum[i] = 0xfedcba98u + i * 0x01010101u;
			NEED(!hak_put_brief(&w, &s));
			body = body_of(&w, HAK_REC_RECON_BRIEF);
			EQUAL(hak_rd_left(&body), 10 + n * size);
			EQUAL(hak_get_brief(body, &got), HAK_OK);
			EQUAL(got.round, s.round);
			EQUAL(got.shift, s.shift);
			EQUAL(got.first, s.first);
			EQUAL(got.size, size);
			EQUAL(got.n, n);
			for (unsigned i = 0; i < n; i++)
				EQUAL(got.sum[i], s.sum[i] & (UINT32_MAX >> (32 - 8 * size)));
			memcpy(longer, body.pos, 10 + n * size);
			CHECK(hak_get_brief(hak_rd_on(longer, 9 + n * size), &got) != HAK_OK);
			CHECK(hak_get_brief(hak_rd_on(longer, 11 + n * size), &got) != HAK_OK);
			EQUAL(hak_get_brief(hak_rd_on(longer, 10 + (n + 16) * size), &got),
			      (n + 16) * size > HAK_RECON_BRIEF ? HAK_EFORMAT : HAK_OK);
		}
	CASE("%s", "");
}

static void test_hello(void)
{
	struct hak_hello h = some_hello(), got;
	struct hak_wr w = wr();

	hak_put_hello(&w, &h);
	EQUAL(hak_wr_len(&w), 33 + 1 + 4 + 1 + 6 + 1 + 5);
	test_lengths(hak_rd_on(w.base, hak_wr_len(&w)), read_hello, &got);
	EQUAL(hello_trip(&h, &got), HAK_OK);
	CHECK(!memcmp(&h, &got, sizeof h));

	/* as long as names can be */
	memset(h.serial, 's', sizeof h.serial - 1);
	memset(h.model, 'm', sizeof h.model - 1);
	memset(h.version, 'v', sizeof h.version - 1);
	EQUAL(hello_trip(&h, &got), HAK_OK);
	CHECK(!memcmp(&h, &got, sizeof h));
	w = wr();
	hak_put_hello(&w, &h);
	CHECK(hak_wr_len(&w) + HAK_HDR_LEN + 48 <= HAK_DGRAM_MIN);

	/* model and version may be empty, the serial names the node */
	h = some_hello();
	memset(h.model, 0, sizeof h.model);
	memset(h.version, 0, sizeof h.version);
	EQUAL(hello_trip(&h, &got), HAK_OK);
	memset(h.serial, 0, sizeof h.serial);
	EQUAL(hello_trip(&h, &got), HAK_EFORMAT);
}

static void test_hello_numbers(void)
{
	struct hak_hello h = some_hello(), got;

	h.session = 0;
	EQUAL(hello_trip(&h, &got), HAK_EFORMAT);
	h = some_hello();
	h.wire_min = 4;
	EQUAL(hello_trip(&h, &got), HAK_EFORMAT);
	h.wire_max = 4;
	EQUAL(hello_trip(&h, &got), HAK_OK);

	/* flag bits of later versions are not ours to judge */
	for (unsigned flags = 0; flags < 256; flags++) {
		struct hak_wr w = wr();

		h = some_hello();
		hak_put_hello(&w, &h);
		buf[2] = (uint8_t)flags;
		EQUAL(hak_get_hello(hak_rd_on(buf, hak_wr_len(&w)), &got), HAK_OK);
		EQUAL(got.encrypt, flags & 1);
	}
}

/* Names reach logs and terminals. */
static void test_hello_names(void)
{
	struct hak_hello got;

	for (int name = 0; name < 3; name++) {
		static const size_t starts[] = { 34, 34 + 4 + 1, 34 + 4 + 1 + 6 + 1 };
		struct hak_hello h = some_hello();
		struct hak_wr w = wr();

		hak_put_hello(&w, &h);
		size_t n = hak_wr_len(&w), at = starts[name] + 2;

		for (unsigned c = 0; c < 256; c++) {
			CASE("name %d, character %u", name, c);
			buf[at] = (uint8_t)c;
			EQUAL(hak_get_hello(hak_rd_on(buf, n), &got),
			      c >= 0x20 && c <= 0x7e ? HAK_OK : HAK_EFORMAT);
		}
	}
	/* lengths that a name cannot have, however many bytes follow */
	for (unsigned len = 0; len < 256; len++) {
		struct hak_hello h = some_hello();
		struct hak_wr w = wr();

		CASE("serial of %u", len);
		hak_put_hello(&w, &h);
		w.pos = w.base + 33;
		hak_wr_u8(&w, (uint8_t)len);
		for (unsigned i = 0; i < len; i++)
			hak_wr_u8(&w, 'x');
		hak_wr_u8(&w, 0);
		hak_wr_u8(&w, 0);
		EQUAL(hak_get_hello(hak_rd_on(w.base, hak_wr_len(&w)), &got),
		      len && len < HAK_NAME_MAX ? HAK_OK : HAK_EFORMAT);
	}
	CASE("%s", "");
}

int main(void)
{
	test_heartbeat();
	test_table();
	test_echo();
	test_status();
	test_ack();
	test_nack();
	test_nack_ranges();
	test_brief();
	test_hello();
	test_hello_numbers();
	test_hello_names();
	return t_end();
}
