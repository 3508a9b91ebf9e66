/* The stream's two rings: fixed cases, then both ends over a bad line, step by step
 * against models that keep everything and compute the long way round. */
#include "hak_stream.h"
#include "t.h"

enum { MS = 1000000, MANY = 1 << 16 };

static struct hak_tx tx;
static struct hak_rx rx;

/* What sequence n carries; its length too follows from n. */
static size_t content(uint64_t n, uint8_t *out)
{
	size_t len = 9 + n % 50;

	for (size_t i = 0; i < len; i++)
		out[i] = (uint8_t)(n >> (i % 8 * 8)) ^ (uint8_t)i;
	return len;
}

static bool is_content(uint64_t n, const uint8_t *p, size_t len)
{
	uint8_t want[64];

	return content(n, want) == len && !memcmp(p, want, len);
}

static unsigned records_of(uint64_t n)
{
	return 1 + (unsigned)(n * 7 % 13);
}

static uint64_t send_one(uint64_t now)
{
	struct hak_sent *s = hak_tx_slot(&tx);
	uint64_t n = tx.next;

	s->len = (uint16_t)content(n, s->bytes);
	s->records = (uint16_t)records_of(n);
	hak_tx_commit(&tx, now);
	return n;
}

static enum hak_err ack(uint64_t next, uint64_t applied)
{
	return hak_tx_ack(&tx, &(struct hak_ack){ .next = next, .applied = applied });
}

static enum hak_err receive(uint64_t n, uint64_t now)
{
	uint8_t bytes[64];
	size_t len = content(n, bytes);
	enum hak_err e = hak_rx_wanted(&rx, n);

	if (!e)
		hak_rx_put(&rx, n, bytes, len, now);
	return e;
}

/* ---- sending side ---------------------------------------------------- */

static void test_tx_ring(void)
{
	hak_tx_reset(&tx);
	CHECK(!hak_tx_find(&tx, 0));
	for (uint64_t i = 0; i < 3 * HAK_RING; i++) {
		EQUAL(send_one(i), i);
		EQUAL(tx.base, i < HAK_RING ? 0 : i + 1 - HAK_RING);
		CHECK(!hak_tx_find(&tx, i + 1));
		CHECK(!tx.base || !hak_tx_find(&tx, tx.base - 1));
	}
	for (uint64_t i = 0; i < tx.next; i++) {
		const struct hak_sent *s = hak_tx_find(&tx, i);

		CHECK((s != NULL) == (i >= tx.base));
		if (s) {
			CHECK(is_content(i, s->bytes, s->len));
			EQUAL(s->ns, i);
		}
	}
	CHECK(!hak_tx_find(&tx, UINT64_MAX));

	/* a slot taken and not committed (sealing failed) changes no number */
	uint64_t next = tx.next;

	(void)hak_tx_slot(&tx);
	EQUAL(send_one(0), next);
	hak_tx_reset(&tx);
	EQUAL(tx.next, 0);
	EQUAL(tx.records, 0);
	CHECK(!hak_tx_find(&tx, 0));
}

static void test_tx_acks(void)
{
	hak_tx_reset(&tx);
	EQUAL(ack(0, 0), HAK_OK);
	EQUAL(ack(1, 0), HAK_EFORMAT);		/* never sent */
	for (int i = 0; i < 10; i++)
		send_one(1000);
	EQUAL(ack(11, 0), HAK_EFORMAT);
	EQUAL(ack(4, 5), HAK_EFORMAT);
	EQUAL(ack(UINT64_MAX, 0), HAK_EFORMAT);
	EQUAL(tx.acked, 0);
	EQUAL(ack(7, 3), HAK_OK);
	EQUAL(tx.base, 7);
	EQUAL(ack(5, 2), HAK_OK);		/* overtaken: nothing goes back */
	EQUAL(tx.acked, 7);
	EQUAL(tx.applied, 3);
	EQUAL(tx.base, 7);
	EQUAL(ack(7, 5), HAK_OK);
	EQUAL(tx.applied, 5);
	CHECK(!hak_tx_find(&tx, 6));
	CHECK(hak_tx_find(&tx, 7) != NULL);
	EQUAL(ack(10, 10), HAK_OK);
	EQUAL(tx.records_applied, tx.records);
	EQUAL(hak_tx_lag(&tx, 5000), 0);
}

/* How far the peer is behind, in records and in time, while the stream never rests:
 * what was received but not applied is still to be counted when it is. */
static void test_tx_lag(void)
{
	uint64_t records = 0;

	hak_tx_reset(&tx);
	for (uint64_t i = 0; i < 5000; i++) {
		send_one(i * MS);
		if (i < 20)
			continue;
		/* received up to the last one, applied up to ten before it */
		EQUAL(ack(i, i - 10), HAK_OK);
		records = 0;
		for (uint64_t k = i - 10; k <= i; k++)
			records += records_of(k);
		if (!EQUAL(tx.records - tx.records_applied, records))
			return;
		EQUAL(hak_tx_lag(&tx, (i + 1) * MS), 11 * MS);
	}
}

static void test_tx_window(void)
{
	hak_tx_reset(&tx);
	for (unsigned i = 0; i < HAK_WINDOW; i++) {
		CHECK(hak_tx_open(&tx));
		send_one(0);
	}
	CHECK(!hak_tx_open(&tx));
	ack(HAK_WINDOW, 0);			/* received is not applied */
	CHECK(!hak_tx_open(&tx));
	ack(HAK_WINDOW, 1);
	CHECK(hak_tx_open(&tx));
}

/* A node that steps down: what is not delivered by then never will be, and the peer
 * is told so by the base. */
static void test_tx_forget(void)
{
	hak_tx_reset(&tx);
	for (int i = 0; i < 20; i++)
		send_one(1000);
	EQUAL(ack(7, 3), HAK_OK);
	hak_tx_forget(&tx);
	EQUAL(tx.base, 20);
	for (uint64_t i = 0; i < 21; i++)
		CHECK(!hak_tx_find(&tx, i));
	EQUAL(tx.records, tx.records_applied);
	EQUAL(hak_tx_lag(&tx, 5000), 0);
	CHECK(hak_tx_open(&tx));
	EQUAL(ack(9, 5), HAK_OK);		/* on its way meanwhile */
	EQUAL(tx.applied, 20);
	EQUAL(send_one(2000), 20);
	CHECK(hak_tx_find(&tx, 20) != NULL);
}

/* As much memory is touched as there is under way: what was given back is used first. */
static void test_tx_places(void)
{
	unsigned most = 0;

	hak_tx_reset(&tx);
	for (uint64_t i = 0; i < 3 * HAK_RING; i++) {
		send_one(i);
		if (tx.ring[i % HAK_RING].place > most)
			most = tx.ring[i % HAK_RING].place;
		if (i >= 99)
			EQUAL(ack(i - 98, (i - 99) / 7), HAK_OK);	/* applied much later */
	}
	CHECK(most < 100);
	for (uint64_t i = tx.base; i < tx.next; i++)
		CHECK(is_content(i, hak_tx_find(&tx, i)->bytes, hak_tx_find(&tx, i)->len));
	hak_tx_forget(&tx);
	EQUAL(tx.pool.n_spare, HAK_RING);
}

/* Sent into the void, further than the ring: the lag is that of the oldest held. */
static void test_tx_overrun(void)
{
	hak_tx_reset(&tx);
	for (uint64_t i = 0; i < HAK_RING + 100; i++)
		send_one(i);
	EQUAL(tx.base, 100);
	EQUAL(hak_tx_lag(&tx, HAK_RING + 100), HAK_RING);
	EQUAL(ack(50, 50), HAK_OK);		/* behind the ring: allowed, late */
	EQUAL(tx.base, 100);
	EQUAL(ack(HAK_RING + 100, HAK_RING + 100), HAK_OK);
	EQUAL(tx.records_applied, tx.records);

	/* a link that was cut for days: the one acknowledgement after it takes no longer
	 * than the ring is long (or this test takes minutes) */
	tx.next = UINT64_C(1) << 40;
	tx.base = tx.next - HAK_RING;
	EQUAL(ack(tx.next - 5, tx.next - 5), HAK_OK);
	EQUAL(tx.applied, tx.next - 5);
	EQUAL(ack(tx.next, tx.next), HAK_OK);
	EQUAL(tx.records_applied, tx.records);
}

/* ---- receiving side -------------------------------------------------- */

static unsigned missing(struct hak_range *out, uint64_t now)
{
	return hak_rx_missing(&rx, out, HAK_NACK_MAX, now, 2 * MS, 10 * MS);
}

static void test_rx_order(void)
{
	hak_rx_reset(&rx);
	EQUAL(receive(1, 0), HAK_OK);
	EQUAL(rx.next, 0);
	EQUAL(receive(1, 0), HAK_EREPLAY);
	EQUAL(receive(0, 0), HAK_OK);
	EQUAL(rx.next, 2);
	EQUAL(receive(0, 0), HAK_EREPLAY);
	EQUAL(receive(1, 0), HAK_EREPLAY);
	hak_rx_done(&rx, 2);
	EQUAL(receive(0, 0), HAK_EREPLAY);
	EQUAL(receive(UINT64_MAX, 0), HAK_ESPACE);
}

static void test_rx_window(void)
{
	hak_rx_reset(&rx);
	EQUAL(receive(HAK_WINDOW, 0), HAK_ESPACE);
	EQUAL(receive(HAK_WINDOW - 1, 0), HAK_OK);
	for (uint64_t i = 0; i < HAK_WINDOW - 1; i++)
		EQUAL(receive(i, 0), HAK_OK);
	EQUAL(rx.next, HAK_WINDOW);
	EQUAL(receive(HAK_WINDOW, 0), HAK_ESPACE);
	/* a full window is no gap: nobody is to be asked */
	(void)hak_rx_announce(&rx, HAK_WINDOW + 50, 0, 1);
	EQUAL(hak_rx_due(&rx, 0, 0), UINT64_MAX);
	hak_rx_done(&rx, 10);
	EQUAL(rx.next, HAK_WINDOW);		/* the freed slots are empty, not received */
	EQUAL(receive(HAK_WINDOW + 9, 0), HAK_OK);
	EQUAL(receive(HAK_WINDOW + 10, 0), HAK_ESPACE);
	EQUAL(receive(HAK_WINDOW, 0), HAK_OK);
	EQUAL(rx.next, HAK_WINDOW + 1);
	for (uint64_t i = 10; i < HAK_WINDOW; i++)
		CHECK(is_content(i, hak_rx_slot(&rx, i)->bytes, hak_rx_slot(&rx, i)->len));
}

/* As much memory is touched as there is under way, and each way out gives it back. */
static void test_rx_places(void)
{
	unsigned most = 0;

	hak_rx_reset(&rx);
	for (uint64_t i = 0; i < 3 * HAK_WINDOW; i++) {
		EQUAL(receive(i, 0), HAK_OK);
		if (hak_rx_slot(&rx, i)->place > most)
			most = hak_rx_slot(&rx, i)->place;
		if (i % 50 == 49)
			hak_rx_done(&rx, i - 20);
	}
	CHECK(most < 100);
	for (uint64_t i = rx.applied; i < rx.next; i++)
		CHECK(is_content(i, hak_rx_slot(&rx, i)->bytes, hak_rx_slot(&rx, i)->len));
	hak_rx_done(&rx, rx.next);
	EQUAL(rx.pool.n_spare, HAK_WINDOW);

	for (uint64_t far = 3; far < 3 * HAK_WINDOW; far += HAK_WINDOW - 1) {
		uint64_t at = rx.next;

		EQUAL(receive(at + 1, 0), HAK_OK);
		EQUAL(receive(at + 2, 0), HAK_OK);
		EQUAL(receive(at + 2, 0), HAK_EREPLAY);
		EQUAL(rx.pool.n_spare, HAK_WINDOW - 2);
		CHECK(hak_rx_announce(&rx, at + far, at + far, 0));
		hak_rx_done(&rx, rx.next);
		EQUAL(rx.pool.n_spare, HAK_WINDOW);
	}
	EQUAL(receive(rx.next, 0), HAK_OK);
	hak_rx_reset(&rx);
	EQUAL(rx.pool.n_spare, HAK_WINDOW);
}

/* Payloads that cannot be are not held. */
static void test_rx_lengths(void)
{
	static uint8_t big[HAK_PAYLOAD_MAX + 1];

	hak_rx_reset(&rx);
	hak_rx_put(&rx, 0, big, 0, 0);
	EQUAL(rx.next, 0);
	hak_rx_put(&rx, 0, big, sizeof big, 0);
	EQUAL(rx.next, 0);
	EQUAL(rx.top, 0);
	hak_rx_put(&rx, 0, big, HAK_PAYLOAD_MAX, 0);
	EQUAL(rx.next, 1);
}

static void test_rx_nack_times(void)
{
	struct hak_range r[HAK_NACK_MAX];

	hak_rx_reset(&rx);
	EQUAL(hak_rx_due(&rx, 2 * MS, 10 * MS), UINT64_MAX);
	receive(1, 100 * MS);
	EQUAL(hak_rx_due(&rx, 2 * MS, 10 * MS), 102 * MS);
	EQUAL(missing(r, 102 * MS - 1), 0);
	EQUAL(missing(r, 102 * MS), 1);
	EQUAL(r[0].first, 0);
	EQUAL(r[0].count, 1);
	/* asked: a round trip's time for the answer */
	EQUAL(hak_rx_due(&rx, 2 * MS, 10 * MS), 112 * MS);
	EQUAL(missing(r, 112 * MS - 1), 0);
	EQUAL(missing(r, 112 * MS), 1);
	/* progress, and another gap behind it, begin a new wait */
	receive(3, 113 * MS);
	receive(0, 114 * MS);
	EQUAL(rx.next, 2);
	EQUAL(hak_rx_due(&rx, 2 * MS, 10 * MS), 116 * MS);
	EQUAL(missing(r, 116 * MS), 1);
	EQUAL(r[0].first, 2);
	receive(2, 117 * MS);
	EQUAL(hak_rx_due(&rx, 2 * MS, 10 * MS), UINT64_MAX);
	/* the last one of a burst has no successor: the heartbeat tells */
	CHECK(!hak_rx_announce(&rx, 6, 0, 200 * MS));
	EQUAL(missing(r, 202 * MS), 1);
	EQUAL(r[0].first, 4);
	EQUAL(r[0].count, 2);
}

static void test_rx_nack_is_bounded(void)
{
	struct hak_range r[HAK_NACK_MAX];

	hak_rx_reset(&rx);
	for (uint64_t i = 1; i < 400; i += 2)	/* every other one is missing */
		receive(i, 1);
	EQUAL(missing(r, 10 * MS), HAK_NACK_MAX);
	for (unsigned i = 0; i < HAK_NACK_MAX; i++) {
		EQUAL(r[i].first, 2 * i);
		EQUAL(r[i].count, 1);
	}
	/* announced far beyond what may be held: only the window is asked for */
	hak_rx_reset(&rx);
	(void)hak_rx_announce(&rx, UINT64_MAX, 0, 1);
	EQUAL(missing(r, 10 * MS), 1);
	EQUAL(r[0].first, 0);
	EQUAL(r[0].count, HAK_WINDOW);
}

static void test_rx_jumps(void)
{
	hak_rx_reset(&rx);
	receive(0, 0);
	receive(2, 0);
	receive(5, 0);
	hak_rx_done(&rx, 1);
	CHECK(!hak_rx_announce(&rx, 8, 1, 0));
	CHECK(hak_rx_announce(&rx, 8, 4, 0));	/* 1 and 3 are lost, 2 is no use */
	EQUAL(rx.next, 4);
	EQUAL(hak_rx_slot(&rx, 2)->len, 0);
	hak_rx_done(&rx, 4);
	receive(4, 0);
	EQUAL(rx.next, 6);			/* 5 was kept */
	CHECK(is_content(5, hak_rx_slot(&rx, 5)->bytes, hak_rx_slot(&rx, 5)->len));

	/* what is held just below the base goes too, at once */
	hak_rx_reset(&rx);
	receive(2, 0);
	CHECK(hak_rx_announce(&rx, 5, 3, 0));
	EQUAL(hak_rx_slot(&rx, 2)->len, 0);
	/* a base that is above all that was announced announces itself */
	hak_rx_reset(&rx);
	CHECK(hak_rx_announce(&rx, 3, 9, 0));
	EQUAL(rx.top, 9);
	EQUAL(rx.next, 9);

	/* onto something held */
	hak_rx_reset(&rx);
	receive(7, 0);
	CHECK(hak_rx_announce(&rx, 9, 7, 0));
	EQUAL(rx.next, 8);

	/* by more than the window */
	for (uint64_t far = HAK_WINDOW - 1; far < HAK_WINDOW + 3; far++) {
		hak_rx_reset(&rx);
		receive(3, 0);
		CHECK(hak_rx_announce(&rx, far, far, 0));
		EQUAL(rx.next, far);
		hak_rx_done(&rx, far);
		for (uint64_t i = 0; i < HAK_WINDOW; i++)
			EQUAL(hak_rx_slot(&rx, i)->len, 0);
		EQUAL(receive(far + HAK_WINDOW - 1, 0), HAK_OK);
		EQUAL(receive(far + HAK_WINDOW, 0), HAK_ESPACE);
	}
	/* to the very end of the numbers, as only a broken peer would */
	hak_rx_reset(&rx);
	CHECK(hak_rx_announce(&rx, UINT64_MAX, UINT64_MAX, 0));
	EQUAL(receive(5, 0), HAK_EREPLAY);
	hak_rx_reset(&rx);
	EQUAL(receive(0, 0), HAK_OK);
	EQUAL(rx.next, 1);
}

/* ---- both ends and a bad line between -------------------------------- */

enum { LINE = 4096 };

enum what { DATA, ACK, NACK, BEAT };

struct frame {
	enum what what;
	uint64_t due, a, b;
	struct hak_range r[HAK_NACK_MAX];
	unsigned n;
};

static struct {
	unsigned loss, dup, jitter;	/* percent, percent, ns */
	struct frame f[LINE];
	unsigned n;
	uint64_t now;

	/* the model of the receiver */
	uint8_t got[MANY];		/* 1: received and not given up */
	uint64_t top;
	uint64_t applied;		/* all below were applied or lost */
	uint64_t next;
	bool jump;
	uint64_t jump_next, jump_base;
	uint64_t lost, jumps;
	/* what the sender's model says the peer has applied */
	uint64_t told;
} sim;

static void post(struct frame f)
{
	for (unsigned k = t_below(100) < sim.dup ? 2 : 1; k; k--) {
		if (t_below(100) < sim.loss || sim.n == LINE)
			continue;
		f.due = sim.now + 50000 + (sim.jitter ? t_below(sim.jitter) : 0);
		sim.f[sim.n++] = f;
	}
}

/* Any of those that are due: the line reorders. */
static bool pick(struct frame *out)
{
	unsigned start = sim.n ? t_below(sim.n) : 0;

	for (unsigned i = 0; i < sim.n; i++) {
		unsigned at = (start + i) % sim.n;

		if (sim.f[at].due <= sim.now) {
			*out = sim.f[at];
			sim.f[at] = sim.f[--sim.n];
			return true;
		}
	}
	return false;
}

/* The ranges that ought to be asked for, found one by one. */
static unsigned model_missing(struct hak_range *r)
{
	uint64_t end = sim.top < sim.applied + HAK_WINDOW ? sim.top : sim.applied + HAK_WINDOW;
	unsigned n = 0;
	bool open = false;

	for (uint64_t s = sim.next; s < end; s++) {
		if (sim.got[s]) {
			open = false;
			continue;
		}
		if (!open && n == HAK_NACK_MAX)
			break;
		if (!open)
			r[n++] = (struct hak_range){ .first = s };
		r[n - 1].count++;
		open = true;
	}
	return n;
}

static void model_advance(void)
{
	while (sim.next < MANY && sim.got[sim.next] && sim.next < sim.applied + HAK_WINDOW)
		sim.next++;
}

static void on_data(uint64_t seq)
{
	enum hak_err want = seq < sim.next || (seq < MANY && sim.got[seq]) ? HAK_EREPLAY :
			    seq - sim.applied >= HAK_WINDOW ? HAK_ESPACE : HAK_OK;
	const struct hak_held *slot = hak_rx_slot(&rx, seq);

	if (sim.jump)
		return;			/* the engine refuses until the jump is done */
	EQUAL(hak_rx_wanted(&rx, seq), want);
	if (want)
		return;
	CHECK(!slot->len);		/* nothing that waits is overwritten */
	EQUAL(receive(seq, sim.now), HAK_OK);
	CHECK(is_content(seq, slot->bytes, slot->len));
	sim.got[seq] = 1;
	if (seq >= sim.top)
		sim.top = seq + 1;
	model_advance();
}

/* As the io thread does it: a jump waits for the apply thread. */
static void on_beat(uint64_t next, uint64_t base)
{
	if (base > rx.next) {
		sim.jump = true;
		sim.jump_next = next;
		sim.jump_base = base;
	} else if (!sim.jump) {
		CHECK(!hak_rx_announce(&rx, next, base, sim.now));
		if (next > sim.top)
			sim.top = next;
	}
}

static void do_jump(void)
{
	uint64_t base = sim.jump_base;

	sim.jump = false;
	EQUAL(hak_rx_announce(&rx, sim.jump_next, base, sim.now), base > sim.next);
	hak_rx_done(&rx, rx.next > base ? base : rx.next);
	if (sim.jump_next > sim.top)
		sim.top = sim.jump_next;
	if (base > sim.next) {
		for (uint64_t s = sim.next; s < base; s++) {
			sim.lost++;
			sim.got[s] = 0;
		}
		sim.jumps++;
		sim.next = sim.applied = base;
		model_advance();
	}
}

/* As the apply thread does it: some of what is in order, then the slots are free. */
static void apply_some(unsigned most)
{
	uint64_t to;

	if (sim.jump && rx.applied == rx.next)
		do_jump();
	to = rx.next - rx.applied > most ? rx.applied + most : rx.next;
	for (uint64_t s = rx.applied; s < to; s++) {
		const struct hak_held *h = hak_rx_slot(&rx, s);

		EQUAL(s, sim.applied);
		CHECK(is_content(s, h->bytes, h->len));
		sim.applied++;
	}
	hak_rx_done(&rx, to);
	model_advance();
}

static void ask(void)
{
	struct frame f = { .what = NACK };
	struct hak_range want[HAK_NACK_MAX];
	uint64_t due = hak_rx_due(&rx, 2 * MS / 10, 2 * MS);

	if (sim.jump)
		return;
	f.n = hak_rx_missing(&rx, f.r, HAK_NACK_MAX, sim.now, 2 * MS / 10, 2 * MS);
	if (sim.now < due) {
		EQUAL(f.n, 0);
		return;
	}
	EQUAL(f.n, model_missing(want));
	for (unsigned i = 0; i < f.n; i++) {
		EQUAL(f.r[i].first, want[i].first);
		EQUAL(f.r[i].count, want[i].count);
	}
	post(f);
}

static void resend(const struct frame *f)
{
	for (unsigned i = 0; i < f->n; i++)
		for (unsigned k = 0; k < f->r[i].count; k++) {
			uint64_t s = f->r[i].first + k;
			const struct hak_sent *d = hak_tx_find(&tx, s);

			CHECK((d != NULL) == (s >= tx.base && s < tx.next));
			if (!d)
				continue;
			CHECK(is_content(s, d->bytes, d->len));
			post((struct frame){ .what = DATA, .a = s });
		}
}

static void deliver(const struct frame *f)
{
	switch (f->what) {
	case DATA:
		on_data(f->a);
		break;
	case ACK:
		EQUAL(ack(f->a, f->b), HAK_OK);
		if (f->b > sim.told)
			sim.told = f->b;
		EQUAL(tx.applied, sim.told);
		break;
	case NACK:
		resend(f);
		break;
	case BEAT:
		on_beat(f->a, f->b);
		break;
	}
}

static void check_numbers(void)
{
	EQUAL(rx.next, sim.next);
	EQUAL(rx.applied, sim.applied);
	EQUAL(rx.top, sim.top > sim.next ? sim.top : sim.next);
	CHECK(tx.base <= tx.next && tx.next - tx.base <= HAK_RING);
	CHECK(tx.applied <= tx.acked && tx.acked <= tx.next);
	CHECK(tx.base >= tx.acked);
	CHECK(rx.applied <= rx.next && rx.next <= rx.applied + HAK_WINDOW);
}

static void check_records(void)
{
	uint64_t sum = 0;

	if (sim.lost || tx.next > HAK_RING)
		return;
	for (uint64_t s = 0; s < tx.applied; s++)
		sum += records_of(s);
	EQUAL(tx.records_applied, sum);
}

static void step(bool sending, bool patient)
{
	struct frame f;

	sim.now += 1 + t_below(200000);
	for (unsigned i = t_below(12); sending && i; i--)
		if ((!patient || hak_tx_open(&tx)) && tx.next < MANY - HAK_WINDOW - 100)
			post((struct frame){ .what = DATA, .a = send_one(sim.now) });
	for (unsigned i = 0; i < 40 && pick(&f); i++)
		deliver(&f);
	if (t_below(3) == 0)
		apply_some(1 + t_below(64));
	if (t_below(4) == 0)
		post((struct frame){ .what = ACK, .a = rx.next, .b = rx.applied });
	if (t_below(10) == 0)
		post((struct frame){ .what = BEAT, .a = tx.next, .b = tx.base });
	ask();
	check_numbers();
}

static void begin(unsigned loss, unsigned dup, unsigned jitter)
{
	uint64_t now = sim.now;

	memset(&sim, 0, sizeof sim);
	sim.now = now + 1;
	sim.loss = loss;
	sim.dup = dup;
	sim.jitter = jitter;
	hak_tx_reset(&tx);
	hak_rx_reset(&rx);
}

/* From now on nothing is lost: all that was sent must arrive, in order. */
static void settle(void)
{
	sim.loss = 0;
	for (unsigned i = 0; i < 100000 && (tx.applied != tx.next || sim.n); i++)
		step(false, true);
	EQUAL(rx.applied, tx.next);
	EQUAL(tx.applied, tx.next);
	EQUAL(tx.records_applied, tx.records);
	EQUAL(hak_tx_lag(&tx, sim.now), 0);
}

static void test_bad_line(void)
{
	static const struct { unsigned loss, dup, jitter; } line[] = {
		{ 0, 0, 0 }, { 0, 0, 2 * MS }, { 0, 30, 0 }, { 5, 5, MS }, { 30, 30, 3 * MS },
		{ 60, 0, MS },
	};

	for (unsigned i = 0; i < 6 * sizeof line / sizeof *line; i++) {
		unsigned k = i % (sizeof line / sizeof *line);

		begin(line[k].loss, line[k].dup, line[k].jitter);
		for (unsigned s = 0; s < 1500; s++) {
			CASE("line %u, round %u, step %u", k, i, s);
			step(true, true);
			if (s % 50 == 0)
				check_records();
			if (t_failures)
				return;
		}
		settle();
		EQUAL(sim.lost, 0);
	}
	CASE("%s", "");
}

/* The peer is cut off and the sender goes on, further than the ring holds: after
 * that the stream goes on with a loss that is told, and in order. */
static void test_cut_line(void)
{
	for (unsigned i = 0; i < 12; i++) {
		begin(i % 3 * 5, 5, MS);
		for (unsigned s = 0; s < 300; s++)
			step(true, false);
		sim.loss = 100;
		for (unsigned s = 0; s < (i % 4 + 1) * 700; s++)
			step(true, false);
		sim.loss = 5;
		CASE("cut %u: %llu sent, %llu received", i, (unsigned long long)tx.next,
		     (unsigned long long)rx.next);
		for (unsigned s = 0; s < 300; s++) {
			step(true, true);
			if (t_failures)
				return;
		}
		settle();
		CHECK((sim.lost > 0) == (sim.jumps > 0));
		if (i % 4 == 3)
			CHECK(sim.lost > 0);
	}
	CASE("%s", "");
}

int main(void)
{
	NEED(hak_tx_init(&tx) == HAK_OK);
	NEED(hak_rx_init(&rx) == HAK_OK);
	test_tx_ring();
	test_tx_places();
	test_tx_acks();
	test_tx_lag();
	test_tx_window();
	test_tx_forget();
	test_tx_overrun();
	test_rx_order();
	test_rx_window();
	test_rx_lengths();
	test_rx_nack_times();
	test_rx_nack_is_bounded();
	test_rx_jumps();
	test_rx_places();
	test_bad_line();
	test_cut_line();
	hak_tx_free(&tx);
	hak_rx_free(&rx);
	hak_tx_free(&tx);
	hak_rx_free(&rx);
	return t_end();
}
