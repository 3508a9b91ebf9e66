/* hak_suspect.c - see hak_suspect.h. */
#include "hak_suspect.h"

void hak_suspect_heard(struct hak_suspect *s, uint64_t silence)
{
	uint64_t *peak = &s->peak[s->n / HAK_SUSPECT_EACH % HAK_SUSPECT_PEAKS];

	if (s->n++ % HAK_SUSPECT_EACH == 0 || silence > *peak)
		*peak = silence;
	if (silence > s->longest)
		s->longest = silence;
}

uint64_t hak_suspect_limit(const struct hak_suspect *s, uint64_t least, uint64_t most)
{
	uint64_t longest = 0;

	if (most < least)
		return least;
	if (s->n < HAK_SUSPECT_FIRST)
		return most;
	for (unsigned i = 0; i < HAK_SUSPECT_PEAKS; i++)
		if (s->peak[i] > longest)
			longest = s->peak[i];
	return 2 * longest < least ? least : 2 * longest > most ? most : 2 * longest;
}
