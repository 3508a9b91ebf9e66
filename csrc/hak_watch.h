/* hak_watch.h - has anything changed that a daemon has to look at?
 *
 * Waits for rtnetlink's events, and asks by itself as well: for carriers often, since an
 * event of one may come most of a second late (linkwatch) if there was another one shortly
 * before, of bonds all, since nothing tells what a member agrees with its partner, and
 * whether anybody has changed nftables.
 * All else of an interface is told by events, and asked for once a second.  It tells that
 * something is new, not what: whoever waits looks then, with means of its own.  So what
 * is told for nothing costs a look, and nothing has to be kept here but a hash for each
 * interface.
 *
 * For one thread.  Not handled: what the kernel does not answer (a socket's buffer that
 * is full, no memory) is no change; whoever waits looks once in a while without any.
 */
#ifndef HAK_WATCH_H
#define HAK_WATCH_H

#include "hak_nl.h"

enum { HAK_WATCH_MAX = 1024, HAK_WATCH_NAME = 16 };

enum hak_watch_seen {			/* bits */
	HAK_WATCH_LINKS = 1,		/* an interface, or addresses */
	HAK_WATCH_RULES = 2,		/* nftables: anything of it */
	HAK_WATCH_STOP = 4,
};

struct hak_watch {
	int events, links;		/* rtnetlink; -1: closed */
	int stop;			/* the caller's: readable, or hung up, to end the wait */
	struct hak_nl rules;
	uint64_t each_ns, links_due, all_due, rules_due;
	uint64_t restless_until;	/* events of carriers may come late until then */
	bool untold;			/* or of some interface never come */
	uint32_t seq, generation;	/* of nftables */
	unsigned n;
	struct hak_watched {
		char name[HAK_WATCH_NAME];
		uint64_t print;		/* 0: not known yet */
		int carrier;
		bool bond;		/* or a member: what it is about is asked for */
	} v[HAK_WATCH_MAX];
};

/* each_ms: between two questions about interfaces; twice that after a second and a half
 * without any event.  HAK_ESYS: errno. */
enum hak_err hak_watch_open(struct hak_watch *w, int stop, uint32_t each_ms);
void hak_watch_close(struct hak_watch *w);
/* Forget all interfaces; add one, which need not exist.  HAK_EINVAL: no name of one;
 * HAK_ESPACE: there are HAK_WATCH_MAX, and of this one events alone will tell. */
void hak_watch_clear(struct hak_watch *w);
enum hak_err hak_watch_add(struct hak_watch *w, const char *name);
/* Returns when something was seen; 0: the monotonic time `until` has come. */
unsigned hak_watch_wait(struct hak_watch *w, uint64_t until);
/* Of an RTM_NEWLINK's payload, what `hak2k._rtnl` reads of it, as a hash; is it a bond, or
 * a member of one?  Pure. */
uint64_t hak_watch_print(const uint8_t *bytes, size_t n, bool *bond);

#endif
