/* What the probe noted as events, without a kernel: every kind of record, every field. */
#include "hak_batch.h"
#include "flows.h"

#include <linux/bpf.h>

static struct hak_ctmsg m;

static struct hak_seen note(void)
{
	struct hak_seen s;

	memset(&s, 0, sizeof s);
	s.what = HAK_SEEN_NEW;
	s.l3 = AF_INET;
	s.l4proto = IPPROTO_TCP;
	s.state = TCP_CONNTRACK_ESTABLISHED;
	s.status = IPS_CONFIRMED | IPS_ASSURED;
	s.tcp_wscale[0] = 7;
	s.tcp_wscale[1] = 9;
	s.tcp_flags[0] = IP_CT_TCP_FLAG_SACK_PERM;
	s.tcp_flags[1] = IP_CT_TCP_FLAG_WINDOW_SCALE;
	for (unsigned i = 0; i < 4; i++) {
		s.ports[i] = htons((uint16_t)(1000 + i));
		s.addrs[i] = htonl(0x0a470001 + i);
	}
	return s;
}

static void test_ipv4(void)
{
	static const uint8_t first[16] = { 10, 71, 0, 1 }, last[16] = { 10, 71, 0, 4 };
	struct hak_seen s = note();

	CHECK(hak_probe_event(&s, &m));
	EQUAL(m.what, HAK_CT_NEW);
	EQUAL(m.flow.l3, AF_INET);
	EQUAL(m.flow.l4kind, HAK_L4_PORTS);
	CHECK(!memcmp(m.flow.orig.src, first, 16));
	CHECK(!memcmp(m.flow.reply.dst, last, 16));
	EQUAL(m.flow.orig.sport, 1000);
	EQUAL(m.flow.orig.dport, 1001);
	EQUAL(m.flow.reply.sport, 1002);
	EQUAL(m.flow.reply.dport, 1003);
	EQUAL(m.flow.status, s.status);
	EQUAL(m.flow.tcp_state, s.state);
	EQUAL(m.flow.tcp_wscale[1], 9);
	EQUAL(m.flow.tcp_flags[0], IP_CT_TCP_FLAG_SACK_PERM);
	EQUAL(m.flow.have, HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_TCP | HAK_HAS_TCP_WSCALE |
			   HAK_HAS_TCP_FLAGS);
	s.state = TCP_CONNTRACK_MAX;	/* a newer kernel's */
	CHECK(hak_probe_event(&s, &m));
	CHECK(!(m.flow.have & HAK_HAS_TCP));
	s.l3 = AF_BRIDGE;
	CHECK(!hak_probe_event(&s, &m));
}

/* No mark is told as "no mark" only where that is news. */
static void test_mark(void)
{
	struct hak_seen s = note();

	s.what = HAK_SEEN_UPDATE;
	CHECK(hak_probe_event(&s, &m));
	CHECK(!(m.flow.have & HAK_HAS_MARK));
	s.flags = HAK_SEEN_MARK;
	CHECK(hak_probe_event(&s, &m));
	CHECK(m.flow.have & HAK_HAS_MARK);
	EQUAL(m.flow.mark, 0);
	s.flags = 0;
	s.mark = 5;
	CHECK(hak_probe_event(&s, &m));
	CHECK(m.flow.have & HAK_HAS_MARK);
	EQUAL(m.flow.mark, 5);
}

static void test_zones_and_protocols(void)
{
	static const struct { uint8_t dir, zone_dir; } zones[] = {
		{ 1, HAK_ZONE_ORIG }, { 2, HAK_ZONE_REPLY }, { 3, HAK_ZONE_BOTH },
	};
	struct hak_seen s = note();

	for (unsigned i = 0; i < 3; i++) {
		s.zone = 9;
		s.zone_dir = zones[i].dir;
		CHECK(hak_probe_event(&s, &m));
		EQUAL(m.flow.zone, 9);
		EQUAL(m.flow.zone_dir, zones[i].zone_dir);
	}
	s.zone = 0;
	s.l4proto = IPPROTO_ESP;	/* no words, whatever stands there */
	CHECK(hak_probe_event(&s, &m));
	EQUAL(m.flow.zone_dir, HAK_ZONE_NONE);
	EQUAL(m.flow.orig.sport | m.flow.reply.dport, 0);
	EQUAL(m.flow.have, HAK_HAS_REPLY | HAK_HAS_STATUS);
	s.l4proto = IPPROTO_ICMP;
	s.ports[1] = htons(8 << 8);
	CHECK(hak_probe_event(&s, &m));
	EQUAL(m.flow.l4kind, HAK_L4_ICMP);
	EQUAL(m.flow.orig.dport, 8 << 8);
}

static void test_long(void)
{
	struct hak_seen_long l;

	memset(&l, 0, sizeof l);
	l.head = note();
	l.head.flags = HAK_SEEN_LONG;
	for (unsigned i = 0; i < 4; i++)
		l.addrs[i][0] = htonl(0xc0000201 + i);
	CHECK(hak_probe_event(&l.head, &m));
	EQUAL(m.flow.orig.src[0], 192);		/* not those of the short record */
	CHECK(!(m.flow.have & HAK_HAS_LABELS));
	l.labels[1] = 1;
	CHECK(hak_probe_event(&l.head, &m));
	CHECK(m.flow.have & HAK_HAS_LABELS);
	CHECK(!memcmp(m.flow.labels, l.labels, 16));
	l.head.l3 = AF_INET6;
	l.addrs[3][3] = htonl(77);
	CHECK(hak_probe_event(&l.head, &m));
	EQUAL(m.flow.reply.dst[15], 77);
	l.head.l4proto = IPPROTO_SCTP;
	l.head.state = 4;
	l.vtag[1] = htonl(0x01020304);
	CHECK(hak_probe_event(&l.head, &m));
	EQUAL(m.flow.sctp_state, 4);
	EQUAL(m.flow.sctp_vtag[1], 0x01020304);
	CHECK(m.flow.have & HAK_HAS_SCTP_VTAG && !(m.flow.have & HAK_HAS_TCP));
}

static void test_same(void)
{
	struct hak_seen a = note(), b = note();
	struct hak_seen_long x, y;

	b.what = HAK_SEEN_UPDATE;
	b.state = TCP_CONNTRACK_FIN_WAIT;
	b.mark = 7;
	CHECK(hak_probe_same(&a, &b));
	b.ports[3]++;		/* translated otherwise, by another processor */
	CHECK(hak_probe_same(&a, &b));
	b.ports[1]++;
	CHECK(!hak_probe_same(&a, &b));
	b = note();
	b.addrs[0]++;
	CHECK(!hak_probe_same(&a, &b));
	b = note();
	b.zone = 1;
	CHECK(!hak_probe_same(&a, &b));
	memset(&x, 0, sizeof x);
	x.head = note();
	x.head.flags = HAK_SEEN_LONG;
	y = x;
	CHECK(hak_probe_same(&x.head, &y.head));
	y.head.flags |= HAK_SEEN_MARK;
	CHECK(hak_probe_same(&x.head, &y.head));
	CHECK(!hak_probe_same(&x.head, &a));
	y.addrs[2][3]++;
	CHECK(hak_probe_same(&x.head, &y.head));
	y.addrs[1][3]++;
	CHECK(!hak_probe_same(&x.head, &y.head));
}

/* ---- the ring: as the kernel writes it ------------------------------- */

enum { RING = 4096 };

static struct {
	_Atomic uint64_t consumer, producer;
	/* and its beginning once more, so that what crosses its end is in one piece */
	_Alignas(8) uint8_t bytes[2 * RING];
} ring;

static struct hak_probe_shared shared;

static struct hak_probe reader(void)
{
	struct hak_probe p;

	memset(&ring, 0, sizeof ring);
	memset(&shared, 0, sizeof shared);
	memset(&p, 0, sizeof p);
	p.size = RING;
	p.shared = &shared;
	p.consumer = &ring.consumer;
	p.producer = &ring.producer;
	p.data = ring.bytes;
	return p;
}

static void put(const void *what, uint32_t n, uint32_t bits)
{
	uint64_t at = ring.producer % RING;
	uint32_t header = n | bits;

	memcpy(&ring.bytes[at], &header, sizeof header);
	memcpy(&ring.bytes[at + 8], what, n);
	for (unsigned i = 0; i < 8 + n; i++)
		ring.bytes[(at + i + RING) % (2 * RING)] = ring.bytes[at + i];
	ring.producer += (8 + n + 7) & ~7u;
}

static void test_ring(void)
{
	struct { struct hak_seen_message m; uint8_t bytes[20]; } message = {
		.m = { .what = HAK_SEEN_MESSAGE, .len = 17 }, .bytes = "a message of 17 b",
	};
	struct hak_probe p = reader();
	struct hak_seen s = note();
	struct hak_sight sight;
	uint64_t at;

	CHECK(!hak_probe_next(&p, &sight));
	CHECK(!hak_probe_busy(&p));
	/* often enough to go round several times, with a size that does not divide it */
	for (unsigned i = 0; i < 500; i++) {
		CASE("turn %u", i);
		s.mark = i;
		put(&s, sizeof s, 0);
		put(&message, sizeof message, 0);
		put(&s, sizeof s, BPF_RINGBUF_DISCARD_BIT);
		CHECK(hak_probe_next(&p, &sight));
		CHECK(sight.seen && sight.seen->mark == i);
		CHECK(hak_probe_next(&p, &sight));
		CHECK(!sight.seen && sight.len == 17 && !memcmp(sight.message, message.bytes, 17));
		CHECK(!hak_probe_next(&p, &sight));
		CHECK(ring.consumer < ring.producer);
		CHECK(hak_probe_backlog(&p) > 0);
		hak_probe_done(&p);
		EQUAL(ring.consumer, ring.producer);
	}
	/* one that is being written holds up those behind it */
	at = ring.producer % RING;
	put(&s, sizeof s, BPF_RINGBUF_BUSY_BIT);
	put(&s, sizeof s, 0);
	CHECK(!hak_probe_next(&p, &sight));
	CHECK(hak_probe_busy(&p));
	ring.bytes[at + 3] &= 0x7f;	/* little-endian: the bit is done */
	ring.bytes[(at + 3 + RING) % (2 * RING)] &= 0x7f;
	CHECK(!hak_probe_busy(&p));
	CHECK(hak_probe_next(&p, &sight) && hak_probe_next(&p, &sight));
	CHECK(!hak_probe_next(&p, &sight));
	/* what was noted before is not read by whoever begins now */
	put(&s, sizeof s, 0);
	hak_probe_tell(&p, true);
	CHECK(!hak_probe_next(&p, &sight));
	put(&message, sizeof message, 0);
	CHECK(hak_probe_next(&p, &sight) && !sight.seen);
	CHECK(!hak_probe_lost(&p));
	shared.lost = 3;
	CHECK(hak_probe_lost(&p));
	CHECK(!hak_probe_lost(&p));
}

/* ---- what waits together ---------------------------------------------- */

static struct hak_batch batch;

static bool add(const struct hak_seen *s)
{
	struct hak_sight sight = { .seen = s };

	return hak_batch_add(&batch, &sight);
}

static void add_message(uint8_t subsystem, uint8_t type)
{
	/* struct nlmsghdr in host order: here the low byte is first */
	static uint8_t bytes[4][16];
	static unsigned turn;
	uint8_t *b = bytes[turn++ % 4];
	struct hak_sight sight = { .message = b, .len = 16 };

	b[0] = 16;
	b[4] = type;
	b[5] = subsystem;
	CHECK(hak_batch_add(&batch, &sight));
}

static void test_batch(void)
{
	struct hak_seen first = note(), update = note(), last = note(), other = note();
	struct hak_seen born = note();

	update.what = last.what = HAK_SEEN_UPDATE;
	update.flags = HAK_SEEN_MARK;
	last.state = TCP_CONNTRACK_FIN_WAIT;
	other.ports[0]++;
	hak_batch_begin(&batch);
	CHECK(add(&first) && add(&other) && !add(&update) && !add(&last));
	EQUAL(batch.n, 2);
	CHECK(batch.v[0].first.seen == &first && batch.v[0].last == &last);
	CHECK(batch.v[0].marked && !batch.v[0].doubtful);
	CHECK(batch.v[1].last == &other && !batch.v[1].marked);
	/* an end, then another life: nothing of it belongs to the one before */
	add_message(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE);
	CHECK(!add(&last));		/* of the life before, which the kernel does not do */
	CHECK(add(&born) && !add(&update));
	EQUAL(batch.n, 4);
	CHECK(batch.v[3].first.seen == &born && batch.v[3].last == &update);
	CHECK(batch.v[3].doubtful);	/* it began twice, for all that is known */
	/* whatever else a message says, it is not overtaken */
	add_message(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW);
	CHECK(add(&last));
	EQUAL(batch.n, 6);
	add_message(NFNL_SUBSYS_CTNETLINK_EXP, IPCTNL_MSG_EXP_DELETE);
	CHECK(add(&update));
	CHECK(batch.v[5].last == &last);
	/* and a new batch knows nothing */
	hak_batch_begin(&batch);
	CHECK(add(&last) && !add(&update));
	EQUAL(batch.n, 1);
	EQUAL(batch.v[0].first.seen->what, HAK_SEEN_UPDATE);
}

/* As many connections as it holds: whatever shares a place, none becomes another one. */
static void test_full_batch(void)
{
	static struct hak_seen s[HAK_BATCH_MAX];
	static struct hak_seen u[HAK_BATCH_MAX];
	unsigned merged = 0;

	hak_batch_begin(&batch);
	for (unsigned i = 0; i < HAK_BATCH_MAX / 2; i++) {
		s[i] = note();
		s[i].addrs[1] = htonl(0x0a480001 + i);
		u[i] = s[i];
		u[i].what = HAK_SEEN_UPDATE;
		CHECK(add(&s[i]));
	}
	for (unsigned i = 0; i < HAK_BATCH_MAX / 2; i++)
		merged += !add(&u[i]);
	CHECK(merged > HAK_BATCH_MAX / 4);
	for (unsigned i = 0; i < batch.n; i++)
		CHECK(hak_probe_same(batch.v[i].first.seen, batch.v[i].last));
}

int main(void)
{
	test_batch();
	test_full_batch();
	test_ring();
	test_ipv4();
	test_mark();
	test_zones_and_protocols();
	test_long();
	test_same();
	return t_end();
}
