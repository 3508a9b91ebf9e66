/* hak_closing.h - of which closing connections the peer has been told already.
 *
 * A TCP connection closes in several states, which are one for the peer (hak_tcp.h): once
 * it knows of the first FIN, another one is no news, unless something else has changed.
 * Of two FINs so one record is left.
 *
 * A fixed number of places, in sets of which the oldest one goes first: what was
 * forgotten is told twice.  With sets of one, connections that close at the same time
 * would push each other out again and again.  A life that begins on the same tuple is to
 * be forgotten, and is before it is told.
 */
#ifndef HAK_CLOSING_H
#define HAK_CLOSING_H

#include <linux/netfilter/nf_conntrack_tcp.h>
#include "hak_flow.h"

enum { HAK_CLOSING_WAYS = 4, HAK_CLOSING_SETS = 1 << 10 };

struct hak_closing {			/* zeroed: nothing */
	struct hak_closing_one {
		uint64_t hash;			/* 0: unused */
		uint32_t mark, status;
		uint8_t flags[2], wscale[2];	/* of those flags, what is told */
		uint32_t none;			/* 0: compared as bytes */
	} v[HAK_CLOSING_SETS][HAK_CLOSING_WAYS];	/* the youngest is the first */
};

static inline bool hak_closing_is(const struct hak_flow *f)
{
	return f->have & HAK_HAS_TCP && f->tcp_state >= TCP_CONNTRACK_FIN_WAIT &&
	       f->tcp_state <= TCP_CONNTRACK_TIME_WAIT;
}

static inline void hak_closing_forget(struct hak_closing *c, uint64_t hash)
{
	struct hak_closing_one *set = c->v[hash % HAK_CLOSING_SETS];

	for (unsigned i = 0; i < HAK_CLOSING_WAYS; i++)
		if (set[i].hash == hash)
			set[i].hash = 0;
}

/* An update of one that closes; hash: of its identity, keyed.  True: no news.  The first
 * of the states is always told: it may be that of another life. */
static inline bool hak_closing_told(struct hak_closing *c, const struct hak_flow *f, uint64_t hash)
{
	const uint32_t plain = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_MARK | HAK_HAS_TIMEOUT |
			       HAK_HAS_TCP | HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE;
	const uint8_t told = IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM |
			     IP_CT_TCP_FLAG_CLOSE_INIT;
	struct hak_closing_one *set = c->v[hash % HAK_CLOSING_SETS];
	struct hak_closing_one now = {
		.hash = hash, .mark = f->mark, .status = f->status,
		.flags = { f->tcp_flags[0] & told, f->tcp_flags[1] & told },
		.wscale = { f->tcp_wscale[0], f->tcp_wscale[1] },
	};
	unsigned i = 0;

	if (f->have & ~plain)
		return false;
	while (i < HAK_CLOSING_WAYS - 1 && set[i].hash != hash)
		i++;
	if (f->tcp_state != TCP_CONNTRACK_FIN_WAIT && !memcmp(&set[i], &now, sizeof now))
		return true;
	for (; i; i--)
		set[i] = set[i - 1];
	set[0] = now;
	return false;
}

#endif
