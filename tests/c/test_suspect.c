/* How long a silence has to be before it means death. */
#include "hak_suspect.h"
#include "t.h"

enum { LEAST = 200, MOST = 1000 };

static void hear(struct hak_suspect *s, unsigned times, uint64_t silence)
{
	while (times--)
		hak_suspect_heard(s, silence);
}

static void test_bounds(void)
{
	struct hak_suspect s = { 0 };

	EQUAL(hak_suspect_limit(&s, LEAST, MOST), MOST);	/* nothing is known */
	hear(&s, HAK_SUSPECT_FIRST - 1, 50);
	EQUAL(hak_suspect_limit(&s, LEAST, MOST), MOST);
	hear(&s, 1, 50);
	EQUAL(hak_suspect_limit(&s, LEAST, MOST), LEAST);	/* a good network */
	hear(&s, 1, 150);
	EQUAL(hak_suspect_limit(&s, LEAST, MOST), 300);
	hear(&s, 1, 290);
	EQUAL(hak_suspect_limit(&s, LEAST, MOST), 580);
	hear(&s, 1, 570);
	EQUAL(hak_suspect_limit(&s, LEAST, MOST), MOST);
	EQUAL(s.longest, 570);
	/* not wanted: one limit, from the first heartbeat on */
	EQUAL(hak_suspect_limit(&s, LEAST, 0), LEAST);
	EQUAL(hak_suspect_limit(&(struct hak_suspect){ 0 }, LEAST, 0), LEAST);
}

static void test_forgets(void)
{
	struct hak_suspect s = { 0 };

	hear(&s, 100, 10);
	hear(&s, 1, 150);
	for (unsigned n = 0; n < 7 * HAK_SUSPECT_EACH; n++) {
		hear(&s, 1, 10);
		EQUAL(hak_suspect_limit(&s, LEAST, MOST), 300);
	}
	hear(&s, HAK_SUSPECT_EACH, 10);
	EQUAL(hak_suspect_limit(&s, LEAST, MOST), LEAST);
	EQUAL(s.longest, 150);
}

/* Two links, a fifth of all lost, 0 to 50 ms on the way, 10 ms between heartbeats: what
 * docs/performance.md measures, here over ten million heartbeats without a clock. */
static void test_bad_network(void)
{
	enum { ROUNDS = 5000000, LEAD = 16 };
	struct hak_suspect s = { 0 };
	uint64_t heard = 0, newest = 0, due[LEAD] = { 0 }, seq[LEAD] = { 0 };
	unsigned accused = 0;
	uint64_t longest = 0;

	/* a ring of the next 16 slots of 10 ms, in each of which the newest counts */
	for (uint64_t round = 1; round <= ROUNDS; round++) {
		for (unsigned link = 0; link < 2; link++) {
			unsigned late = t_below(51);
			unsigned slot = (unsigned)((round + late / 10) % LEAD);

			if (t_below(5) && seq[slot] < round) {
				seq[slot] = round;
				due[slot] = round * 10 + late;
			}
		}
		unsigned now = (unsigned)(round % LEAD);
		if (seq[now] > newest) {
			uint64_t silence = due[now] > heard ? due[now] - heard : 0;
			uint64_t limit = hak_suspect_limit(&s, 30, 300);

			if (heard && silence >= limit)
				accused++;
			else if (heard)
				hak_suspect_heard(&s, silence);
			if (heard && silence > longest)
				longest = silence;
			newest = seq[now];
			heard = due[now];
		}
		seq[now] = 0;
	}
	EQUAL(accused, 0);
	CHECK(longest > 60);		/* the floor alone would have accused */
}

int main(void)
{
	test_bounds();
	test_forgets();
	test_bad_network();
	return t_end();
}
