/* hak_events.c - where the capture thread's events come from: the probe's ring, or netlink.
 *
 * What waits in the ring is read as a batch (hak_batch.h); of what began twice in it the
 * kernel is asked.
 */
#include "hak_capture_int.h"

#include <errno.h>
#include <sys/socket.h>

enum { READ_MAX = 4 * HAK_BATCH_MAX };	/* notes of a batch, however few are left of them */

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
	struct hak_batch *b = &c->batch;
	struct hak_sight s;

	while (more && rounds--) {
		unsigned seen = 0, notes = 0, merged = 0;

		if (hak_probe_lost(e->cfg.probe))
			overrun(e);
		hak_batch_begin(b);
		while (b->n < HAK_BATCH_MAX && seen < READ_MAX &&
		       (more = hak_probe_next(e->cfg.probe, &s))) {
			seen++;
			notes += !!s.seen;
			merged += !hak_batch_add(b, &s);
		}
		c->rate_events += seen;
		if (idle) {
			hak_count_n(&e->stats, HAK_STAT_EVENTS, seen);
			hak_count_n(&e->stats, HAK_STAT_EVENTS_UNSENT, seen);
		} else {
			hak_count_n(&e->stats, HAK_STAT_EVENTS, notes);
			hak_count_n(&e->stats, HAK_STAT_EVENTS_NO_NEWS, merged);
			c->trap_read = false;
			for (unsigned i = 0; i < b->n; i++)
				tell(c, &b->v[i]);
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
