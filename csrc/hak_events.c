/* hak_events.c - where the capture thread's events come from: the probe's ring, or netlink.
 *
 * What waits in the ring is read as a batch.  Each note in it tells all of a connection's
 * state, so of several of one connection the last one is enough: it takes the place of the
 * first, and the peer hears once of what began and changed meanwhile.  A message of
 * netlink may tell of any connection, so it ends what was begun before it; not that of an
 * end, behind which only another beginning can be.
 *
 * Two beginnings of one tuple in a batch are a clash of two processors, one of which the
 * kernel refused after the probe had told of it: then the kernel is asked.
 */
#include "hak_capture_int.h"

#include <errno.h>
#include <sys/socket.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include "hak_nlmsg.h"

static void on_event_bytes(struct hak_capture *c, const uint8_t *bytes, size_t n)
{
	struct hak_engine *e = c->e;
	struct hak_rd r = hak_rd_on(bytes, n);

	while (hak_rd_left(&r)) {
		enum hak_err err = hak_ct_next(&r, &c->msg);

		if (err == HAK_ESKIP)
			continue;
		hak_count(&e->stats, HAK_STAT_EVENTS);
		if (err) {
			hak_count(&e->stats, HAK_STAT_EVENTS_BAD);
			continue;
		}
		switch (c->msg.what) {
		case HAK_CT_NEW:
		case HAK_CT_UPDATE:
		case HAK_CT_DESTROY:
			hak_on_flow(c, &c->msg);
			break;
		case HAK_CT_EXP_NEW:
		case HAK_CT_EXP_DESTROY:
			hak_on_expect(c, &c->msg);
			break;
		}
	}
}

/* Events were lost; only a comparison makes the tables equal again.  At once: more loss
 * must not push it back. */
static void overrun(struct hak_engine *e)
{
	hak_count(&e->stats, HAK_STAT_OVERRUNS);
	hak_emit(e, HAK_EV_OVERRUN, 0, 0, 0, NULL);
	hak_say_numbers(e, HAK_REC_SYNC_LOST, 0, false, 0);
}

/* ---- the ring -------------------------------------------------------- */

static unsigned place_of(const struct hak_seen *s)
{
	const struct hak_seen_long *l = (const void *)s;
	uint64_t h = (uint64_t)s->ports[0] << 16 | s->ports[1];

	if (s->l3 == AF_INET6)
		h ^= (uint64_t)l->addrs[0][3] << 32 ^ l->addrs[1][3];
	else if (s->flags & HAK_SEEN_LONG)
		h ^= (uint64_t)l->addrs[0][0] << 32 ^ l->addrs[1][0];
	else
		h ^= (uint64_t)s->addrs[0] << 32 ^ s->addrs[1];
	h = (h + s->l4proto) * 0x9e3779b97f4a7c15u;
	return (unsigned)(h >> 54) % HAK_SIGHT_PLACES;
}

static bool is_end(const struct hak_sight *s)
{
	struct hak_rd r = hak_rd_on(s->message, s->len);

	(void)hak_rd_h32(&r);
	return hak_rd_h16(&r) == (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE);
}

/* Into c->told; returns how many are there then. */
static unsigned note(struct hak_capture *c, unsigned n, const struct hak_sight *s)
{
	struct hak_told *t = &c->told[n], *before = NULL;
	uint16_t *place;

	*t = (struct hak_told){ .first = *s, .last = s->seen };
	t->marked = s->seen && s->seen->flags & HAK_SEEN_MARK;
	if (!s->seen) {
		if (!is_end(s))
			memset(c->place, 0, sizeof c->place);
		return n + 1;
	}
	place = &c->place[place_of(s->seen)];
	if (*place && hak_probe_same(c->told[*place - 1].first.seen, s->seen))
		before = &c->told[*place - 1];
	if (s->seen->what != HAK_SEEN_NEW && before) {
		before->last = s->seen;
		before->marked |= s->seen->flags & HAK_SEEN_MARK;
		hak_count(&c->e->stats, HAK_STAT_EVENTS_NO_NEWS);
		return n;
	}
	t->doubtful = before && before->first.seen->what == HAK_SEEN_NEW;
	*place = (uint16_t)(n + 1);
	return n + 1;
}

static void tell(struct hak_capture *c, const struct hak_told *t)
{
	struct hak_flow now;

	if (!t->last) {
		on_event_bytes(c, t->first.message, t->first.len);
		return;
	}
	if (!hak_probe_event(t->last, &c->msg)) {
		hak_count(&c->e->stats, HAK_STAT_EVENTS_BAD);
		return;
	}
	c->msg.what = t->first.seen->what;
	if (t->marked)
		c->msg.flow.have |= HAK_HAS_MARK;
	if (t->doubtful) {
		if (!hak_fetch(c->e, &c->msg.flow, &now))
			return;
		c->msg.flow = now;
	}
	hak_on_flow(c, &c->msg);
}

static bool read_ring(struct hak_capture *c, unsigned rounds)
{
	struct hak_engine *e = c->e;
	bool idle = !atomic_load(&e->session_up), more = true;
	struct hak_sight s;

	while (more && rounds--) {
		unsigned n = 0, seen = 0, notes = 0;

		if (hak_probe_lost(e->cfg.probe))
			overrun(e);
		memset(c->place, 0, sizeof c->place);
		while (n < HAK_SIGHTS && seen < HAK_SIGHTS_READ &&
		       (more = hak_probe_next(e->cfg.probe, &s))) {
			seen++;
			notes += !!s.seen;
			n = note(c, n, &s);
		}
		c->rate_events += seen;
		if (idle) {
			hak_count_n(&e->stats, HAK_STAT_EVENTS, seen);
			hak_count_n(&e->stats, HAK_STAT_EVENTS_UNSENT, seen);
		} else {
			hak_count_n(&e->stats, HAK_STAT_EVENTS, notes);
			c->trap_read = false;
			for (unsigned i = 0; i < n; i++)
				tell(c, &c->told[i]);
		}
		hak_probe_done(e->cfg.probe);
	}
	return more;
}

/* ---- netlink --------------------------------------------------------- */

static bool read_netlink(struct hak_capture *c, unsigned rounds)
{
	struct hak_engine *e = c->e;
	bool idle = !atomic_load(&e->session_up);

	while (rounds--) {
		int n;

		n = recvmmsg(e->events_nl.fd, c->mm, HAK_READ_BATCH, MSG_DONTWAIT, NULL);
		if (n < 0 && errno == ENOBUFS) {
			overrun(e);
			continue;
		}
		if (n <= 0)
			return false;
		c->rate_events += (unsigned)n;
		if (idle) {
			hak_count_n(&e->stats, HAK_STAT_EVENTS, (unsigned)n);
			hak_count_n(&e->stats, HAK_STAT_EVENTS_UNSENT, (unsigned)n);
			continue;
		}
		c->trap_read = false;
		for (int i = 0; i < n; i++)
			on_event_bytes(c, c->bytes[i], c->mm[i].msg_len);
		if (n < HAK_READ_BATCH)
			return false;
	}
	return true;
}

bool hak_read_events(struct hak_capture *c, unsigned rounds)
{
	return c->e->cfg.probe ? read_ring(c, rounds) : read_netlink(c, rounds);
}
