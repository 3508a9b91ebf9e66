/* hak_rate.h - so many a second and so many at once, no more.  The generic cell rate
 * algorithm (ITU-T I.371, annex A): all its state is one time. */
#ifndef HAK_RATE_H
#define HAK_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct hak_rate {
	uint64_t next_ns;		/* when the next one would be due, if evenly spaced */
};

/* One more now: may it be?  `each_ns` apart in the long run, `burst` of them at once. */
static inline bool hak_rate_take(struct hak_rate *r, uint64_t now, uint64_t each_ns,
				 uint64_t burst)
{
	uint64_t due = r->next_ns > now ? r->next_ns : now;

	if (due - now > (burst - 1) * each_ns)
		return false;
	r->next_ns = due + each_ns;
	return true;
}

#endif
