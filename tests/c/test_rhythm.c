/* Two nodes' heartbeats in one rhythm: clocks and the network are numbers here. */
#include "hak_rhythm.h"
#include "t.h"

enum { EACH = 50000, NODES = 2, LINKS = 2, FLYING = 64 };	/* us */

struct world {
	struct hak_rhythm node[NODES];
	uint64_t now, last[NODES], shortest, longest;
	unsigned sent[NODES], wakes;
	struct frame { uint64_t at, sent; unsigned to; } flying[FLYING];
	unsigned n;
	/* of a frame; jitter is one more for each, at most */
	unsigned delay[LINKS], jitter;
	unsigned lost;			/* of 100 */
	bool dead;			/* the leader */
};

static void begin(struct world *w, uint64_t phase)
{
	memset(w, 0, sizeof *w);
	w->now = 1000000;
	hak_rhythm_begin(&w->node[0], EACH, false, w->now);
	hak_rhythm_begin(&w->node[1], EACH, true, w->now + phase);
	w->delay[0] = w->delay[1] = 100;
}

static void beat(struct world *w, unsigned i)
{
	uint64_t since = w->now - w->last[i];

	if (w->last[i] && since < w->shortest)
		w->shortest = since;
	if (w->last[i] && since > w->longest)
		w->longest = since;
	w->last[i] = w->now;
	w->sent[i]++;
	for (unsigned k = 0; k < LINKS && w->n < FLYING; k++)
		if (t_below(100) >= w->lost)
			w->flying[w->n++] = (struct frame){
				.at = w->now + w->delay[k] + (w->jitter ? t_below(w->jitter) : 0),
				.sent = w->now + k, .to = !i,
			};
	hak_rhythm_sent(&w->node[i], w->now);
}

static void run(struct world *w, unsigned periods)
{
	uint64_t end = w->now + (uint64_t)periods * EACH;

	w->shortest = UINT64_MAX;
	w->longest = w->wakes = w->sent[0] = w->sent[1] = 0;
	for (;;) {
		uint64_t next = UINT64_MAX;
		bool woken[NODES] = { false };

		for (unsigned i = w->dead; i < NODES; i++)
			if (w->node[i].due < next)
				next = w->node[i].due;
		for (unsigned i = 0; i < w->n; i++)
			if (w->flying[i].at < next)
				next = w->flying[i].at;
		if (next >= end)
			break;
		w->now = next;
		for (unsigned i = 0; i < w->n;)
			if (w->flying[i].at <= w->now) {
				struct frame f = w->flying[i];

				woken[f.to] = true;
				hak_rhythm_heard(&w->node[f.to], f.sent, w->now);
				w->flying[i] = w->flying[--w->n];
			} else {
				i++;
			}
		for (unsigned i = w->dead; i < NODES; i++)
			if (w->now >= w->node[i].due) {
				woken[i] = true;
				beat(w, i);
			}
		w->wakes += woken[0] + woken[1];
	}
	w->now = end;
}

/* Whenever the one begins: soon it sends when it hears the other one, and so does not
 * wake up for that alone. */
static void test_it_follows(void)
{
	for (unsigned phase = 0; phase < EACH; phase += 500) {
		struct world w;

		begin(&w, phase);
		run(&w, 80);
		run(&w, 100);
		CHECK(w.sent[0] >= 100 && w.sent[0] <= 103);
		CHECK(w.sent[1] >= 100 && w.sent[1] <= 103);
		EQUAL(w.wakes, 3 * w.sent[0]);	/* one's timer, the other, the answer */
		CHECK(w.longest <= EACH);
		if (t_failures)
			break;
	}
}

/* Links that take 20 ms and 35 ms: the second of two is not answered. */
static void test_links_that_differ(void)
{
	struct world w;

	begin(&w, 10000);
	w.delay[0] = 20000;
	w.delay[1] = 35000;
	run(&w, 80);
	run(&w, 100);
	CHECK(w.longest <= EACH);
	CHECK(w.shortest >= EACH * 3 / 4);
	CHECK(w.sent[1] <= 103);
}

static void test_alone(void)
{
	struct world w;

	begin(&w, 3000);
	run(&w, 50);
	w.dead = true;
	run(&w, 2);			/* what was under way */
	run(&w, 100);
	EQUAL(w.sent[1], 100);
	EQUAL(w.longest, EACH);
	EQUAL(w.shortest, EACH);
}

/* Whatever the network does: never later than agreed, never much more often. */
static void test_any_network(void)
{
	for (unsigned k = 0; k < 200 && !t_failures; k++) {
		struct world w;

		begin(&w, t_below(EACH));
		w.delay[0] = t_below(2 * EACH);
		w.delay[1] = t_below(2 * EACH);
		w.jitter = t_below(EACH);
		w.lost = t_below(90);
		run(&w, 500);
		CHECK(w.longest <= EACH);
		CHECK(w.shortest >= EACH * 3 / 4);
	}
}

/* Who floods a follower with what it takes for heartbeats does not make it flood. */
static void test_flood(void)
{
	struct hak_rhythm r;
	unsigned sent = 0;

	hak_rhythm_begin(&r, EACH, true, 0);
	for (uint64_t now = 0; now < 100 * EACH; now += 10) {
		hak_rhythm_heard(&r, t_random(), now);
		if (now >= r.due) {
			hak_rhythm_sent(&r, now);
			sent++;
		}
	}
	CHECK(sent <= 100 * 4 / 3 + 1);
}

int main(void)
{
	test_it_follows();
	test_links_that_differ();
	test_alone();
	test_any_network();
	test_flood();
	return t_end();
}
