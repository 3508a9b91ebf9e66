/* hak_engine.c - birth, death and roles; see hak_engine.h. */
#include "hak_engine_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	UDP_BUF = 16 << 20,
	PATIENCE_MS = 120000,
	DRAIN_MS = 50,		/* how long a swap waits for records already here */
};

const char *hak_stat_name(unsigned i)
{
	static const char *const names[] = {
#define X(id, name) name,
		HAK_STATS(X)
#undef X
	};
	return i < HAK_STAT_COUNT ? names[i] : NULL;
}

uint64_t hak_stat_value(const struct hak_stats *s, unsigned i)
{
	return i < HAK_STAT_COUNT ? atomic_load_explicit(&s->v[i], memory_order_relaxed) : 0;
}

const char *hak_event_name(unsigned i)
{
	static const char *const names[] = {
#define X(id, name) name,
		HAK_EVENTS(X)
#undef X
	};
	return i < HAK_EV_COUNT ? names[i] : NULL;
}

/* ---- small queues ---------------------------------------------------- */

void hak_wake(int fd)
{
	uint64_t one = 1;

	/* fails only when it is awake already (the counter is full) */
	if (write(fd, &one, sizeof one) < 0)
		return;
}

void hak_unwake(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof n) < 0)
		return;
}

void hak_wish(struct hak_engine *e, const struct hak_wr *w)
{
	pthread_mutex_lock(&e->q_lock);
	e->wish.type = 0;
	if (w && hak_wr_len(w) <= sizeof e->wish.body) {
		struct hak_wr to = hak_wr_on(e->wish.body, sizeof e->wish.body);

		hak_wr_copy(&to, w->base, hak_wr_len(w));
		e->wish.len = (uint16_t)hak_wr_len(w);
		e->wish.type = w->base[0];
		e->wish.due_ns = 0;
	}
	pthread_mutex_unlock(&e->q_lock);
	if (w)
		hak_wake(e->wake_io);
}

/* A full queue drops the newest: what Python has not fetched yet is what explains
 * how things began. */
/* What the log alone lives on.  All else moves the election or answers a command. */
static bool for_the_log(enum hak_event_type t)
{
	switch (t) {
	case HAK_EV_TABLE_FULL:
	case HAK_EV_APPLY_ERROR:
	case HAK_EV_SLIP:
	case HAK_EV_HELLO_REFUSED:
	case HAK_EV_SYNC_SENT:
	case HAK_EV_OVERRUN:
	case HAK_EV_RECON_REPAIRED:
	case HAK_EV_RECON_STUCK:
	case HAK_EV_TRAPPED:
	case HAK_EV_PRESSURE:
		return true;
	default:
		return false;
	}
}

/* A reader that is stopped for long finds the older ones.  Half of the places are kept
 * for what decides, of which a second of flapping links makes a few dozen. */
void hak_emit(struct hak_engine *e, enum hak_event_type t, uint64_t a, uint64_t b, uint64_t c,
	      const char *text)
{
	unsigned places = for_the_log(t) ? HAK_EVENTS_HELD / 2 : HAK_EVENTS_HELD;
	struct hak_event *v;

	pthread_mutex_lock(&e->q_lock);
	if (e->ev_n < places) {
		v = &e->events[(e->ev_head + e->ev_n++) % HAK_EVENTS_HELD];
		*v = (struct hak_event){ .type = (uint8_t)t, .mono_ns = hak_now(),
					 .a = a, .b = b, .c = c };
		snprintf(v->text, sizeof v->text, "%s", text ? text : "");
	} else {
		hak_count(&e->stats, HAK_STAT_EVENTS_LOST);
	}
	pthread_mutex_unlock(&e->q_lock);
	hak_wake(e->event_fd);
}

bool hak_asks_put(struct hak_asks *q, const struct hak_ask *a)
{
	if (q->n == HAK_ASK_HELD)
		return false;
	q->v[(q->head + q->n++) % HAK_ASK_HELD] = *a;
	return true;
}

/* Take the oldest that is due.  False: none; *next_due is when the head will be. */
bool hak_asks_take(struct hak_asks *q, uint64_t now, struct hak_ask *out, uint64_t *next_due)
{
	for (unsigned i = 0; i < q->n; i++) {
		struct hak_ask *a = &q->v[(q->head + i) % HAK_ASK_HELD];

		if (a->due_ns > now) {
			if (a->due_ns < *next_due)
				*next_due = a->due_ns;
			continue;
		}
		*out = *a;
		/* close the hole from the head's side: order among the due stays */
		for (; i > 0; i--)
			q->v[(q->head + i) % HAK_ASK_HELD] = q->v[(q->head + i - 1) % HAK_ASK_HELD];
		q->head = (q->head + 1) % HAK_ASK_HELD;
		q->n--;
		return true;
	}
	return false;
}

/* ---- birth ----------------------------------------------------------- */

static int udp_socket(const struct hak_link_cfg *l)
{
	int fd = socket(l->local.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int size = UDP_BUF, dscp = 0xc0;	/* CS6: network control */
	socklen_t len = l->local.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
							: sizeof(struct sockaddr_in);

	if (fd < 0)
		return -1;
	/* Only from and to this link, whatever the routing table says. */
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, l->ifname,
		       (socklen_t)strnlen(l->ifname, sizeof l->ifname)) ||
	    bind(fd, (const void *)&l->local, len)) {
		int keep = errno;

		close(fd);
		errno = keep;
		return -1;
	}
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	if (l->local.ss_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &dscp, sizeof dscp);
	else
		(void)setsockopt(fd, IPPROTO_IP, IP_TOS, &dscp, sizeof dscp);
	return fd;
}

static bool lower_address(const struct hak_link_cfg *l)
{
	if (l->local.ss_family == AF_INET)
		return memcmp(&((const struct sockaddr_in *)&l->local)->sin_addr,
			      &((const struct sockaddr_in *)&l->peer)->sin_addr, 4) < 0;
	return memcmp(&((const struct sockaddr_in6 *)&l->local)->sin6_addr,
		      &((const struct sockaddr_in6 *)&l->peer)->sin6_addr, 16) < 0;
}

static void unset_fds(struct hak_engine *e)
{
	e->wake_io = e->wake_capture = e->wake_apply = e->event_fd = -1;
	e->events_nl.fd = e->fetch_nl.fd = e->list_nl.fd = -1;
	e->apply_nl.fd = e->survey_nl.fd = e->reap_nl.fd = e->count_nl.fd = e->gate.nl.fd = -1;
	e->announcer.fd = e->trap.fd = -1;
	for (unsigned i = 0; i < HAK_LINKS_MAX; i++)
		e->links[i].fd = -1;
}

#define TRY(what, expr) do { \
	enum hak_err err_ = (expr); \
	if (err_) { \
		*err = err_ == HAK_ESYS ? errno : 0; \
		snprintf(why, HAK_TEXT, "%s", what); \
		return err_; \
	} } while (0)
#define SYS(expr) ((expr) ? HAK_ESYS : HAK_OK)

static enum hak_err open_all(struct hak_engine *e, char *why, int *err)
{
	const char *names[HAK_IFACES_MAX];
	char what[HAK_TEXT];

	TRY("random numbers", hak_random(&e->boot_id, sizeof e->boot_id));
	TRY("random numbers", hak_random(e->hash_key, sizeof e->hash_key));
	TRY("eventfd", SYS((e->wake_io = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0));
	TRY("eventfd", SYS((e->wake_capture = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0));
	TRY("eventfd", SYS((e->wake_apply = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0));
	TRY("eventfd", SYS((e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0));
	TRY("memory for the stream", hak_tx_init(&e->tx));
	TRY("memory for the stream", hak_rx_init(&e->rx));
	TRY("memory for digests", hak_digest_init(&e->tx_digest));
	TRY("memory for digests", hak_digest_init(&e->rx_digest));
	TRY("memory for digests", hak_roll_init(&e->tx_roll));
	TRY("memory for digests", hak_roll_init(&e->rx_roll));
	if (e->cfg.policy.min_ms || e->cfg.adaptive)
		TRY("memory for young connections", hak_hold_new(&e->hold));
	TRY("conntrack netlink socket", hak_nl_open(&e->events_nl, HAK_NL_EVENT_BUF));
	TRY("route netlink socket", hak_trap_open(&e->trap));
	TRY("conntrack netlink socket", hak_nl_open(&e->fetch_nl, HAK_NL_CALL_BUF));
	TRY("conntrack netlink socket", hak_nl_open(&e->apply_nl, HAK_NL_CALL_BUF));
	TRY("conntrack netlink socket", hak_nl_open(&e->reap_nl, HAK_NL_CALL_BUF));
	TRY("conntrack netlink socket", hak_nl_open(&e->count_nl, HAK_NL_CALL_BUF));
	/* what we write ourselves is no news */
	if (e->cfg.probe)
		TRY("attaching the probe",
		    hak_probe_attach(e->cfg.probe, e->events_nl.fd, e->apply_nl.portid,
				     &e->cfg.policy));
	else
		TRY("filter of the event socket",
		    hak_nl_filter(&e->events_nl, e->apply_nl.portid, &e->cfg.policy));
	for (unsigned i = 0; i < e->cfg.n_interfaces; i++)
		names[i] = e->cfg.interfaces[i];
	TRY("data interfaces", hak_gate_init(&e->gate, e->cfg.gate_table, names,
					      e->cfg.n_interfaces));
	TRY("packet socket", hak_announcer_init(&e->announcer));
	for (unsigned i = 0; i < e->cfg.n_links; i++) {
		struct hak_link *l = &e->links[i];

		snprintf(what, sizeof what, "link %u (%s)", i, e->cfg.links[i].ifname);
		TRY(what, SYS((l->fd = udp_socket(&e->cfg.links[i])) < 0));
		l->info.rtt_us = -1;
		l->info.since_ms = e->boot_ms;
	}
	return HAK_OK;
}

enum hak_err hak_engine_new(struct hak_engine **out, const struct hak_engine_cfg *cfg,
			    char *why, int *err)
{
	struct hak_engine *e = mmap(NULL, sizeof *e, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	enum hak_err r;

	*out = NULL;
	*err = errno;
	snprintf(why, HAK_TEXT, "memory");
	if (e == MAP_FAILED)
		return HAK_ESYS;
	/* The key must not reach a core dump or the swap space.  Best effort: a
	 * tight RLIMIT_MEMLOCK is no reason to stand still. */
	(void)mlock(e, sizeof *e);
	(void)madvise(e, sizeof *e, MADV_DONTDUMP);
	unset_fds(e);
	/* Who holds a lock that the io thread waits for runs with its priority: on a busy
	 * machine a heartbeat would have to wait until that thread gets its turn. */
	pthread_mutexattr_t ma;
	pthread_mutexattr_init(&ma);
	(void)pthread_mutexattr_setprotocol(&ma, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&e->io_lock, &ma);
	pthread_mutex_init(&e->tx_lock, &ma);
	pthread_mutex_init(&e->rx_lock, &ma);
	pthread_mutex_init(&e->q_lock, &ma);
	pthread_mutexattr_destroy(&ma);
	pthread_condattr_t ca;
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&e->turned, &ca);
	pthread_condattr_destroy(&ca);
	e->cfg = *cfg;
	e->boot_ms = hak_wall_ms();
	e->larval_timeout = cfg->larval_timeout;
	e->initiator = lower_address(&cfg->links[0]);
	e->sync_needed = true;
	e->scrub_ms = cfg->scrub_ms;
	e->table.equal = 2;
	if (!e->cfg.patience_ms)
		e->cfg.patience_ms = PATIENCE_MS;
	e->priority = cfg->priority;
	for (unsigned i = 0; i < e->cfg.n_psk; i++)
		e->prints[i] = hak_key_print(e->cfg.psk[i]);
	r = open_all(e, why, err);
	if (r) {
		hak_engine_free(e);
		return r;
	}
	*out = e;
	return HAK_OK;
}

enum hak_err hak_engine_start(struct hak_engine *e)
{
	pthread_t *const threads[] = { &e->io, &e->capture, &e->apply };
	void *(*const mains[])(void *) = { hak_io_main, hak_capture_main, hak_apply_main };
	static const char *const names[] = { "hak-io", "hak-capture", "hak-apply" };

	if (e->running)
		return HAK_ESTATE;
	for (unsigned i = 0; i < 3; i++) {
		int err = pthread_create(threads[i], NULL, mains[i], e);

		if (err) {
			errno = err;
			return HAK_ESYS;
		}
		(void)pthread_setname_np(*threads[i], names[i]);
		e->running++;
	}
	return HAK_OK;
}

void hak_engine_free(struct hak_engine *e)
{
	if (!e)
		return;
	pthread_t const threads[] = { e->io, e->capture, e->apply };

	atomic_store(&e->stop, true);
	for (unsigned i = 0; i < e->running; i++) {
		hak_wake(e->wake_io);
		hak_wake(e->wake_capture);
		hak_wake(e->wake_apply);
		pthread_join(threads[i], NULL);
	}
	if (e->cfg.lease)	/* an orderly end: the gate alone decides from here on */
		atomic_store(e->cfg.lease->until, HAK_LEASE_FOREVER);
	hak_session_end(&e->now);
	hak_session_end(&e->next);
	hak_session_end(&e->old);
	for (unsigned i = 0; i < HAK_LINKS_MAX; i++)
		if (e->links[i].fd >= 0)
			close(e->links[i].fd);
	if (e->cfg.probe)
		hak_probe_tell(e->cfg.probe, false);
	hak_nl_close(&e->events_nl);
	hak_trap_close(&e->trap);
	hak_nl_close(&e->fetch_nl);
	hak_nl_close(&e->list_nl);
	hak_nl_close(&e->apply_nl);
	hak_nl_close(&e->survey_nl);
	hak_nl_close(&e->reap_nl);
	hak_nl_close(&e->count_nl);
	hak_gate_free(&e->gate);
	hak_announcer_free(&e->announcer);
	hak_tx_free(&e->tx);
	hak_rx_free(&e->rx);
	hak_digest_free(&e->tx_digest);
	hak_digest_free(&e->rx_digest);
	hak_roll_free(&e->tx_roll);
	hak_roll_free(&e->rx_roll);
	hak_hold_free(e->hold);
	for (int *fd = (int[]){ e->wake_io, e->wake_capture, e->wake_apply, e->event_fd, -2 };
	     *fd != -2; fd++)
		if (*fd >= 0)
			close(*fd);
	pthread_mutex_destroy(&e->io_lock);
	pthread_mutex_destroy(&e->tx_lock);
	pthread_mutex_destroy(&e->rx_lock);
	pthread_mutex_destroy(&e->q_lock);
	pthread_cond_destroy(&e->turned);
	hak_wipe(e, sizeof *e);
	(void)munmap(e, sizeof *e);
}

void hak_engine_bye(struct hak_engine *e)
{
	uint8_t body[4];
	struct hak_wr w = hak_wr_on(body, sizeof body);

	(void)hak_wire_put_raw(&w, HAK_REC_BYE, NULL, 0);
	pthread_mutex_lock(&e->tx_lock);
	for (unsigned i = 0; i < e->cfg.n_links; i++)
		hak_send_control(e, i, body, hak_wr_len(&w));
	e->said_bye = true;
	pthread_mutex_unlock(&e->tx_lock);
}

/* ---- roles ----------------------------------------------------------- */

bool hak_await_turn(struct hak_engine *e, uint64_t until)
{
	struct timespec t = { .tv_sec = (time_t)(until / 1000000000u),
			      .tv_nsec = (long)(until % 1000000000u) };

	return pthread_cond_timedwait(&e->turned, &e->q_lock, &t) == 0;
}

static bool stream_waits(struct hak_engine *e)
{
	bool w;

	pthread_mutex_lock(&e->rx_lock);
	w = e->rx.applied != e->rx.next;
	pthread_mutex_unlock(&e->rx_lock);
	return w;
}

/* What the old active managed to send belongs into the table before packets do. */
static void drain_stream(struct hak_engine *e)
{
	uint64_t until = hak_now() + (uint64_t)DRAIN_MS * HAK_MS;

	while (e->running && stream_waits(e) && hak_now() < until) {
		hak_wake(e->wake_apply);
		pthread_mutex_lock(&e->q_lock);
		(void)hak_await_turn(e, hak_now() + HAK_MS / 2);
		pthread_mutex_unlock(&e->q_lock);
	}
}

/* What was proved of the tables, was proved of the other direction. */
static void forget_table(struct hak_engine *e)
{
	pthread_mutex_lock(&e->q_lock);
	e->table = (struct hak_table){ .equal = 2, .verified = e->table.verified };
	pthread_mutex_unlock(&e->q_lock);
	hak_wish(e, NULL);
}

/* To hear of events, or no more. */
enum hak_err hak_listen(struct hak_engine *e, bool on)
{
	enum hak_err err;

	if (on)
		hak_nl_drain(&e->events_nl);
	if (e->cfg.probe)
		hak_probe_tell(e->cfg.probe, on);
	err = hak_nl_join(&e->events_nl, on);
	if (!on)
		hak_nl_drain(&e->events_nl);
	return err;
}

enum hak_err hak_open_gate(struct hak_engine *e)
{
	int keep;

	/* Listening begins before packets do, or their first events were lost. */
	if (!hak_listen(e, true) && !hak_gate_flip(&e->gate, true))
		return HAK_OK;
	keep = errno;
	(void)hak_listen(e, false);
	errno = keep;
	return HAK_ESYS;
}

enum hak_err hak_engine_activate(struct hak_engine *e, uint32_t term, struct hak_swap_times *t)
{
	uint64_t t0 = hak_now(), t1, t2;
	bool armed = atomic_load(&e->armed);

	(void)term;		/* the daemon's; told to the peer by set_status */
	memset(t, 0, sizeof *t);
	if (atomic_load(&e->role) == HAK_ACTIVE)
		return HAK_OK;
	hak_lent_drain(e);
	atomic_store(&e->role, HAK_TURNING);	/* no further datagram is taken */
	atomic_store(&e->offer_from_ns, 0);
	atomic_store(&e->alone_ns, !atomic_load(&e->session_up) ? HAK_OFFER_ALL :
				   atomic_load(&e->peer_alive) ? 0 : t0);
	atomic_store(&e->active_ns, t0);
	drain_stream(e);
	t1 = hak_now();
	if (!armed && hak_open_gate(e)) {
		atomic_store(&e->role, HAK_PASSIVE);
		return HAK_ESYS;
	}
	atomic_store(&e->armed, 0);
	hak_lease_arm(e, false);
	t2 = hak_now();
	(void)hak_engine_announce(e);
	forget_table(e);
	atomic_store(&e->role, HAK_ACTIVE);
	hak_wake(e->wake_capture);
	hak_wake(e->wake_apply);
	t->drain_ns = t1 - t0;
	t->gate_ns = t2 - t1;
	t->announce_ns = hak_now() - t2;
	t->total_ns = hak_now() - t0;
	return HAK_OK;
}

void hak_become_passive(struct hak_engine *e)
{
	forget_table(e);
	atomic_store(&e->armed, 0);
	hak_lease_arm(e, false);
	(void)hak_listen(e, false);
	atomic_store(&e->synced, false);
	atomic_store(&e->sync_needed, true);
	atomic_store(&e->role, HAK_PASSIVE);
	/* What the peer has not taken by now it must never get: by the time we are heard
	 * again those connections are long gone.  From here on nothing is sealed. */
	pthread_mutex_lock(&e->tx_lock);
	hak_tx_forget(&e->tx);
	pthread_mutex_unlock(&e->tx_lock);
	hak_wake(e->wake_capture);
	hak_wake(e->wake_apply);
}

/* Both are active, and this node gives way: what began here while they did not hear each
 * other, the peer may take. */
static void note_conflict(struct hak_engine *e)
{
	bool conflict = atomic_load(&e->role) == HAK_ACTIVE && atomic_load(&e->peer_alive) &&
			atomic_load(&e->peer_mode) == HAK_ACTIVE;

	atomic_store(&e->offer_until_ns, hak_now() + HAK_OFFER_WINDOW_NS);
	atomic_store(&e->offer_from_ns, conflict ? atomic_load(&e->alone_ns) : 0);
}

enum hak_err hak_engine_passivate(struct hak_engine *e, struct hak_swap_times *t)
{
	uint64_t t0 = hak_now();
	enum hak_err r = hak_gate_flip(&e->gate, false);

	memset(t, 0, sizeof *t);
	t->gate_ns = hak_now() - t0;
	/* A gate whose table is gone cannot be closed; the caller must hear of it,
	 * but publishing stops in any case. */
	int keep = errno;
	if (atomic_load(&e->role) != HAK_PASSIVE || atomic_load(&e->armed)) {
		note_conflict(e);
		hak_become_passive(e);
	}
	errno = keep;
	t->total_ns = hak_now() - t0;
	return r;
}

int hak_engine_gate(struct hak_engine *e)
{
	return hak_gate_probe(&e->gate);
}

void hak_engine_lease(struct hak_engine *e, struct hak_lease_info *out)
{
	const struct hak_lease *l = e->cfg.lease;

	*out = (struct hak_lease_info){ .enforced = l, .state = atomic_load(&e->lease_state) };
	if (!l)
		return;
	out->refused = atomic_load(l->refused);
	if (out->state == HAK_LEASE_ON)
		out->left_ns = (int64_t)(atomic_load(l->until) - hak_now());
}

unsigned hak_engine_announce(struct hak_engine *e)
{
	unsigned n = hak_announcer_send(&e->announcer);

	hak_count_n(&e->stats, HAK_STAT_ANNOUNCED, n);
	hak_count_n(&e->stats, HAK_STAT_ANNOUNCE_FAILED, e->announcer.n - n);
	return n;
}

void hak_engine_sweep(struct hak_engine *e, const uint32_t natural[256][16])
{
	pthread_mutex_lock(&e->q_lock);
	memcpy(e->natural, natural, sizeof e->natural);
	e->sweep_asked = true;
	pthread_mutex_unlock(&e->q_lock);
	hak_wake(e->wake_apply);
}

void hak_engine_want_sync(struct hak_engine *e)
{
	atomic_store(&e->synced, false);
	atomic_store(&e->sync_needed, true);
	hak_wake(e->wake_apply);
}

/* The comparison is the passive node's; an active one asks it. */
enum hak_err hak_engine_verify(struct hak_engine *e, uint32_t id, bool repair)
{
	struct hak_verify v = { .id = id, .repair = repair };
	int role = atomic_load(&e->role);
	uint8_t buf[16];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);

	if (!id)
		return HAK_EINVAL;
	if ((role != HAK_ACTIVE && role != HAK_PASSIVE) || !atomic_load(&e->peer_alive) ||
	    !atomic_load(&e->session_up))
		return HAK_ESTATE;
	pthread_mutex_lock(&e->q_lock);
	e->verify[0].v = v;
	e->verify[0].state = role == HAK_PASSIVE ? HAK_ASKED : HAK_ANSWERED;
	pthread_mutex_unlock(&e->q_lock);
	if (role == HAK_ACTIVE) {
		hak_put_verify(&w, &v);
		hak_wish(e, &w);
		return HAK_OK;
	}
	hak_wake(e->wake_apply);
	return HAK_OK;
}

void hak_engine_table(struct hak_engine *e, struct hak_table *out)
{
	uint64_t now = hak_now();

	pthread_mutex_lock(&e->q_lock);
	*out = e->table;
	if (out->equal != 2)
		out->age_ms = (uint32_t)((now - e->table_ns) / HAK_MS);
	pthread_mutex_unlock(&e->q_lock);
}

/* ---- inputs ---------------------------------------------------------- */

void hak_engine_set_priority(struct hak_engine *e, uint16_t priority)
{
	atomic_store(&e->priority, priority);
	pthread_mutex_lock(&e->tx_lock);
	hak_send_heartbeats(e);
	pthread_mutex_unlock(&e->tx_lock);
}

enum hak_err hak_engine_set_keys(struct hak_engine *e, const uint8_t psk[][32], unsigned n)
{
	if (!n || n > HAK_KEYS_MAX)
		return HAK_EINVAL;
	pthread_mutex_lock(&e->q_lock);
	for (unsigned i = 0; i < n; i++)
		memcpy(e->new_psk[i], psk[i], sizeof e->new_psk[i]);
	e->new_n_psk = n;
	pthread_mutex_unlock(&e->q_lock);
	hak_wake(e->wake_io);
	return HAK_OK;
}

void hak_engine_set_link(struct hak_engine *e, unsigned i, unsigned state)
{
	if (i >= e->cfg.n_links)
		return;
	atomic_store(&e->links[i].interface, (uint8_t)state);
	hak_wake(e->wake_io);
}

void hak_engine_set_status(struct hak_engine *e, const struct hak_status *s)
{
	bool changed;

	pthread_mutex_lock(&e->q_lock);
	changed = memcmp(&e->status, s, sizeof *s) != 0;
	e->status = *s;
	pthread_mutex_unlock(&e->q_lock);
	if (!changed)
		return;
	/* the peer's election should not wait for the next beat */
	pthread_mutex_lock(&e->tx_lock);
	hak_send_heartbeats(e);
	pthread_mutex_unlock(&e->tx_lock);
}

enum hak_err hak_engine_set_locals(struct hak_engine *e, const struct hak_locals *l)
{
	int other = !atomic_load(&e->locals_now);

	/* Readers finish with a set within one event: by the next change of
	 * addresses nobody looks at the older one. */
	e->locals[other] = *l;
	atomic_store_explicit(&e->locals_now, other, memory_order_release);
	return HAK_OK;
}

enum hak_err hak_engine_set_announcements(struct hak_engine *e, unsigned n,
					  const char *const *ifnames, const char *const *addrs,
					  unsigned *bad)
{
	hak_announcer_clear(&e->announcer);
	for (*bad = 0; *bad < n; ++*bad) {
		enum hak_err r = hak_announcer_add(&e->announcer, ifnames[*bad], addrs[*bad]);

		if (r && r != HAK_ESKIP)
			return r;
	}
	return HAK_OK;
}

/* ---- outputs --------------------------------------------------------- */

int hak_engine_event_fd(const struct hak_engine *e)
{
	return e->event_fd;
}

bool hak_engine_event(struct hak_engine *e, struct hak_event *out)
{
	bool got;

	pthread_mutex_lock(&e->q_lock);
	got = e->ev_n > 0;
	if (got) {
		*out = e->events[e->ev_head];
		e->ev_head = (e->ev_head + 1) % HAK_EVENTS_HELD;
		e->ev_n--;
	} else {
		hak_unwake(e->event_fd);
	}
	pthread_mutex_unlock(&e->q_lock);
	return got;
}

void hak_engine_peer(struct hak_engine *e, struct hak_peer *out)
{
	pthread_mutex_lock(&e->q_lock);
	*out = e->peer;
	pthread_mutex_unlock(&e->q_lock);
	out->alive = atomic_load(&e->peer_alive);
	out->policy_differs = out->hello.policy &&
			      out->hello.policy != hak_policy_hash(&e->cfg.policy);
	out->heard_ns = atomic_load(&e->peer_heard_ns);
	out->limit_ns = atomic_load(&e->limit_ns);
	out->longest_ns = atomic_load(&e->longest_ns);
}

void hak_engine_link(struct hak_engine *e, unsigned i, struct hak_link_info *out)
{
	pthread_mutex_lock(&e->q_lock);
	*out = e->links[i].info;
	pthread_mutex_unlock(&e->q_lock);
}

void hak_engine_stream(struct hak_engine *e, struct hak_stream_info *out)
{
	memset(out, 0, sizeof *out);
	out->role = atomic_load(&e->role);
	out->synced = atomic_load(&e->synced);
	out->generation = atomic_load(&e->generation);
	out->held = atomic_load(&e->held);
	out->pressure = atomic_load(&e->pressure) & 0xff;
	out->cause = (enum hak_cause)(atomic_load(&e->pressure) >> 8);
	out->peer_fill = out->role == HAK_ACTIVE ? atomic_load(&e->peer_fill) - 1 : -1;
	out->peer_max = out->role == HAK_ACTIVE ? atomic_load(&e->peer_max) : 0;
	out->published = atomic_load(&e->stats.v[HAK_STAT_TX_RECORDS]);
	out->applied = atomic_load(&e->stats.v[HAK_STAT_APPLIED]);
	pthread_mutex_lock(&e->tx_lock);
	out->encrypted = e->cfg.encrypt || (e->now.live && e->now.peer.encrypt);
	out->key = e->now.live ? e->now.key : 0;
	out->sequence = e->tx.next;
	out->acked = e->tx.applied;
	out->lag_records = e->tx.records - e->tx.records_applied;
	out->lag_ns = hak_tx_lag(&e->tx, hak_now());
	pthread_mutex_unlock(&e->tx_lock);
	if (out->role == HAK_PASSIVE) {
		pthread_mutex_lock(&e->rx_lock);
		out->sequence = e->rx.next;
		out->acked = e->rx.applied;
		pthread_mutex_unlock(&e->rx_lock);
	}
}

const struct hak_stats *hak_engine_stats(const struct hak_engine *e)
{
	return &e->stats;
}

int64_t hak_engine_table_count(struct hak_engine *e, uint32_t *max)
{
	return hak_nl_table_count(&e->count_nl, max);
}
