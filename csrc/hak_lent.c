/* hak_lent.c - while a stream comes, the apply thread reads the links itself; and what is
 * told of it to the sender.
 *
 * To be woken costs more than a datagram costs: two threads in a row would wait for that
 * twice.  So the io thread lends the links to the apply thread for as long as datagrams
 * follow one another quickly on a passive node, and keeps the timers.  It still looks
 * into the sockets whenever a timer is due, so a heartbeat is heard in time, and nobody
 * accused, even if a call into the kernel holds up the apply thread for seconds.
 *
 * All that the io thread works on is under io_lock, which it gives up only to wait.  The
 * apply thread holds it to read, never while it writes to the kernel.
 *
 * While records trickle it runs ahead of ordinary processes, for a wake-up waits for
 * whoever runs; when they pour it does not, or forwarding would wait for it.
 *
 * Not lent: while a copy comes, where opening datagrams and writing entries go on side by
 * side; and when more waits than is read at once, or a heartbeat would wait behind it for
 * as long as that takes to apply.
 */
#include "hak_apply_int.h"
#include "hak_io_int.h"

#include <poll.h>
#include <sched.h>

enum {
	ACK_DELAY_MS = 2,		/* and while datagrams come faster than that: */
	ACK_BUSY_MS = 20,
	SOON_NS = 20 * HAK_MS,		/* datagrams that far apart are a stream, */
	QUIET_NS = 100 * HAK_MS,	/* which is over when none came for so long */
	DEEP_NS = 1000 * HAK_MS,	/* not lent again so soon after a backlog */
	RATE_NS = 10 * HAK_MS,		/* how often it is measured */
	POURS = 20000,			/* records a second */
};

/* Where allowed.  Below the io thread, whose timers must not wait for anything. */
void hak_prefer(bool *preferred, bool now)
{
	struct sched_param p = { .sched_priority = now ? 5 : 0 };

	if (*preferred == now)
		return;
	*preferred = now;
	(void)pthread_setschedparam(pthread_self(), now ? SCHED_RR : SCHED_OTHER, &p);
}

/* An acknowledgement costs about as much as a datagram, and the peer waits for one only
 * when its window is full, or when it hands over. */
void hak_owe_ack(struct hak_io *io, uint64_t now)
{
	bool busy = io->ack_busy && !atomic_load(&io->e->peer_prepares);
	uint64_t due = now + (uint64_t)(busy ? ACK_BUSY_MS : ACK_DELAY_MS) * HAK_MS;

	if (!io->ack_due || due < io->ack_due)
		io->ack_due = due;
}

void hak_acknowledge(struct hak_io *io, uint64_t now)
{
	struct hak_engine *e = io->e;
	uint8_t body[32];
	struct hak_wr w = hak_wr_on(body, sizeof body);
	struct hak_ack a;
	bool behind;

	pthread_mutex_lock(&e->rx_lock);
	a = (struct hak_ack){ .next = e->rx.next, .applied = e->rx.applied };
	behind = e->rx_reset || a.applied != a.next;
	if (e->rx_reset)
		a = (struct hak_ack){ 0 };
	pthread_mutex_unlock(&e->rx_lock);
	hak_put_ack(&w, &a);
	hak_io_send(e, body, &w, false);
	io->acked = a;
	io->ack_busy = io->unacked * ACK_DELAY_MS >= (io->ack_busy ? ACK_BUSY_MS : ACK_DELAY_MS);
	io->unacked = 0;
	io->ack_due = 0;
	if (behind)
		hak_owe_ack(io, now);
}

void hak_ack_soon(struct hak_engine *e)
{
	pthread_mutex_lock(&e->io_lock);
	if (e->io_self)
		e->io_self->ack_due = 1;
	pthread_mutex_unlock(&e->io_lock);
	if (!atomic_load(&e->links_lent))
		hak_wake(e->wake_io);
}

/* What is there on these links, a bit for each. */
static void read_links(struct hak_engine *e, unsigned which)
{
	bool more;

	pthread_mutex_lock(&e->io_lock);
	if (e->io_self) {
		struct hak_io *io = e->io_self;
		uint64_t before = atomic_load(&e->stats.v[HAK_STAT_RX_DATAGRAMS]);

		io->control = false;
		for (unsigned i = 0; i < e->cfg.n_links; i++)
			if (which >> i & 1 && hak_io_read_some(io, i))
				atomic_store(&e->links_deep, true);
		hak_count_n(&e->stats, HAK_STAT_RX_DIRECT,
			    atomic_load(&e->stats.v[HAK_STAT_RX_DATAGRAMS]) - before);
		/* timers may depend on what was said, and on what is missing */
		pthread_mutex_lock(&e->rx_lock);
		more = io->control || e->rx.gap_ns;
		pthread_mutex_unlock(&e->rx_lock);
		if (more)
			hak_wake(e->wake_io);
	}
	pthread_mutex_unlock(&e->io_lock);
}

void hak_lent_drain(struct hak_engine *e)
{
	if (atomic_load(&e->links_lent))
		read_links(e, ~0u);
}

/* Borrow the links, or give them back. */
static void decide(struct hak_apply *a, uint64_t now)
{
	struct hak_engine *e = a->e;
	bool may = atomic_load(&e->role) == HAK_PASSIVE && a->phase < HAK_PHASE_SURVEY;

	if (atomic_exchange(&e->links_deep, false))
		a->deep_ns = now;
	may &= !a->deep_ns || now - a->deep_ns >= DEEP_NS;

	if (a->took) {
		a->lent |= may && now - a->took_ns < SOON_NS;
		a->took_ns = now;
		a->took = false;
	}
	if (a->lent && (!may || now - a->took_ns >= QUIET_NS))
		a->lent = false;
	if (atomic_exchange(&e->links_lent, a->lent) && !a->lent)
		hak_wake(e->wake_io);
	if (now - a->rate_ns >= RATE_NS) {
		uint64_t records = atomic_load(&e->stats.v[HAK_STAT_RX_RECORDS]);

		a->pours = (records - a->rate_records) * 1000 > (now - a->rate_ns) / HAK_MS * POURS;
		a->rate_records = records;
		a->rate_ns = now;
	}
	hak_prefer(&a->preferred, a->lent && !a->pours);
}

/* Tell how far we are if it is time to; in how many ns it will be. */
static uint64_t ack_wait(struct hak_engine *e, uint64_t now)
{
	uint64_t wait = UINT64_MAX;

	pthread_mutex_lock(&e->io_lock);
	if (e->io_self && e->now.live) {
		struct hak_io *io = e->io_self;

		if (io->ack_due && now >= io->ack_due)
			hak_acknowledge(io, now);
		if (io->ack_due)
			wait = io->ack_due > now ? io->ack_due - now : 0;
	}
	pthread_mutex_unlock(&e->io_lock);
	return wait;
}

void hak_apply_wait(struct hak_apply *a, uint64_t wait)
{
	static const uint64_t longest = 1000u * (uint64_t)HAK_MS;
	struct hak_engine *e = a->e;
	struct pollfd p[1 + HAK_LINKS_MAX];
	uint64_t now = hak_now(), until;
	struct timespec t;
	unsigned n = 1, which = 0;

	decide(a, now);
	p[0] = (struct pollfd){ .fd = e->wake_apply, .events = POLLIN };
	if (a->lent) {
		for (unsigned i = 0; i < e->cfg.n_links; i++)
			p[n++] = (struct pollfd){ .fd = e->links[i].fd, .events = POLLIN };
		until = ack_wait(e, now);
		if (until < wait)
			wait = until;
		until = a->took_ns + QUIET_NS - now;
		if (until < wait)
			wait = until;
	}
	if (wait > longest)
		wait = longest;
	t = (struct timespec){ .tv_sec = (time_t)(wait / 1000000000u),
			       .tv_nsec = (long)(wait % 1000000000u) };
	(void)ppoll(p, n, &t, NULL);
	if (p[0].revents)
		hak_unwake(e->wake_apply);
	atomic_store(&e->apply_idle, false);
	for (unsigned i = 1; i < n; i++)
		which |= p[i].revents ? 1u << (i - 1) : 0;
	if (which)
		read_links(e, which);
}
