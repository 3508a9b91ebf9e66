/* hak_rhythm.h - when heartbeats go out: both nodes' in one rhythm.  Pure.
 *
 * To be woken costs more than a heartbeat costs, and the caches are cold then: two nodes
 * with two timers wake up for their own and for the other's.  So one leads by its timer,
 * and the other one answers each heartbeat with its own, if that is about due.  If it is
 * not, it sends a little earlier each time, until it is.
 *
 * Never later than `each` after the last one, never earlier than 3/4 of it: a silence
 * tells what it always told, and who makes heartbeats arrive at will does not make many.
 * The leader is a little faster, or both timers would fight for the lead.
 */
#ifndef HAK_RHYTHM_H
#define HAK_RHYTHM_H

#include <stdbool.h>
#include <stdint.h>

struct hak_rhythm {
	uint64_t each;			/* ns, at most, from one to the next */
	uint64_t due;
	uint64_t heard;			/* the other one's clock: when it sent the one before */
	bool follows;
	bool hurried;			/* the next one is due earlier already */
};

static inline void hak_rhythm_begin(struct hak_rhythm *r, uint64_t each, bool follows, uint64_t now)
{
	*r = (struct hak_rhythm){
		.each = follows ? each : each - each / 64, .due = now, .follows = follows,
	};
}

/* A heartbeat of the peer came, which by its own clock it sent at `sent`. */
static inline void hak_rhythm_heard(struct hak_rhythm *r, uint64_t sent, uint64_t now)
{
	uint64_t left = r->due > now ? r->due - now : 0;
	uint64_t apart = sent > r->heard ? sent - r->heard : r->heard - sent;

	if (!r->follows || apart < r->each / 2)
		return;			/* the same one, over another link */
	r->heard = sent;
	if (r->hurried)
		return;
	if (left <= r->each / 4) {
		r->due = now;
		r->hurried = true;
	} else if (left <= r->each - r->each / 8) {	/* else nearly met: that is mended */
		r->due -= r->each / 8;			/* by the leader's haste */
		r->hurried = true;
	}
}

/* One's own was sent. */
static inline void hak_rhythm_sent(struct hak_rhythm *r, uint64_t now)
{
	r->due += r->each;
	if (r->due <= now)
		r->due = now + r->each;
	r->hurried = false;
}

#endif
