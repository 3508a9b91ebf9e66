/* hak_pressure.h - when the stream cannot keep up, who waits?
 *
 * The capture thread measures, this judges: a level, and of a young connection whether
 * it waits at that level (in hak_hold.h's ring).  Those wait first whose loss in a
 * crash costs least: a question is asked again, and an established connection without
 * NAT is picked up by the other kernel from its next packet, if the ruleset lets it.
 * One with NAT cannot be, so it never waits; nor does one that has grown old, one with
 * a helper, or a helper's child.
 *
 * A level rises at once and falls by one when all was calm for a while.  Pure.
 */
#ifndef HAK_PRESSURE_H
#define HAK_PRESSURE_H

#include "hak_flow.h"

enum { HAK_PRESSURE_MAX = 2 };

enum hak_cause {
	HAK_CAUSE_NONE,
	HAK_CAUSE_STREAM,	/* a link, or the peer's apply thread */
	HAK_CAUSE_EVENTS,	/* this node's kernel has more than we read */
	HAK_CAUSE_TABLE,	/* the peer's conntrack table is nearly full */
	HAK_CAUSES,
};

struct hak_load {
	uint64_t lag_ms;	/* age of the oldest datagram that the peer has not applied */
	unsigned window;	/* per cent of the datagrams that may be under way */
	unsigned events;	/* per cent of the event socket's buffer */
	unsigned table;		/* per cent of the peer's nf_conntrack_max */
	bool overrun;		/* events were lost since the last look */
};

struct hak_pressure {
	unsigned level;			/* 0: nobody waits */
	enum hak_cause cause;		/* of the present level */
	uint64_t calm_ns;		/* since when the level is higher than need be */
};

/* True: the level is another one now. */
bool hak_pressure_step(struct hak_pressure *p, const struct hak_load *l, uint64_t now);
/* A young one of the policy, as its NEW or an UPDATE tells it. */
bool hak_pressure_waits(unsigned level, const struct hak_flow *f);
/* Its end is near: nobody will miss it. */
bool hak_pressure_over(const struct hak_flow *f);
const char *hak_cause_name(enum hak_cause c);	/* "" for none */

#endif
