/* hak_handover.c - a planned swap: both gates open for a moment, no frame lost.
 *
 *   active                                    passive
 *     late frames bear another address
 *     PREPARE  ---- in heartbeats --------->    all before it applied: gate open,
 *                                               announced: the switches turn to it
 *              <--- ARMED, with heartbeats --
 *     SETTLE_MS for what is on its way          forwards
 *     gate closed
 *     last records, HANDOVER -------------->    all of them applied: active
 *              <--- ACK ---------------------
 *     passive
 *
 * Both say so in every heartbeat for as long as it holds.  A peer that was stopped, and
 * finds an old PREPARE in its socket, finds the end of it there too, or with the next
 * heartbeat; it closes its gate again (handover.off).
 *
 * Whoever waits in vain stays what it is.  A peer that does not open its gate in time
 * (an older version, addresses that move) gets HANDOVER all the same, and what comes
 * between the two gates is lost.
 *
 * Not handled: a switch that floods, where both forward; packets of a connection that is
 * younger than its first record, if they reach the peer earlier than that; a peer that is
 * stopped with its gate open, where there is no lease (hak_lease.h): it closes it when it
 * runs on.
 */
#include "hak_engine_int.h"

#include <errno.h>
#include <time.h>

enum {
	SETTLE_MS = 5,		/* for frames on their way when the peer was announced */
};

enum hak_err hak_engine_arm(struct hak_engine *e, uint32_t term, struct hak_swap_times *t)
{
	uint64_t t0 = hak_now(), t1;

	memset(t, 0, sizeof *t);
	if (atomic_load(&e->role) != HAK_PASSIVE || !term ||
	    atomic_load(&e->peer_prepares) != term)
		return HAK_ESTATE;
	/* If this process hangs from here on, the kernel closes the gate again. */
	hak_lease_arm(e, true);
	/* What packets do from here on is read when this node is active. */
	if (!atomic_load(&e->armed) && hak_open_gate(e)) {
		int keep = errno;

		hak_lease_arm(e, false);
		errno = keep;
		return HAK_ESYS;
	}
	t1 = hak_now();
	(void)hak_engine_announce(e);
	atomic_store(&e->armed, term);
	pthread_mutex_lock(&e->tx_lock);
	hak_send_heartbeats(e);
	pthread_mutex_unlock(&e->tx_lock);
	t->gate_ns = t1 - t0;
	t->announce_ns = hak_now() - t1;
	t->total_ns = hak_now() - t0;
	return HAK_OK;
}

void hak_peer_prepares(struct hak_engine *e, uint32_t term, uint64_t seq)
{
	uint32_t was;

	pthread_mutex_lock(&e->q_lock);
	was = atomic_exchange(&e->peer_prepares, term);
	e->prepare_seq = seq;
	if (term != was)
		e->prepare_told = false;
	pthread_mutex_unlock(&e->q_lock);
	if (term && term != was)
		hak_wake(e->wake_apply);
	if (was && !term)
		hak_emit(e, HAK_EV_UNPREPARED, was, 0, 0, NULL);
}

/* The peer asks us to open our gate: when all that it had said by then is applied. */
void hak_tell_prepare(struct hak_engine *e)
{
	uint32_t term = atomic_load(&e->peer_prepares);
	uint64_t applied;
	bool tell;

	if (!term || atomic_load(&e->role) != HAK_PASSIVE)
		return;
	pthread_mutex_lock(&e->rx_lock);
	applied = e->rx_reset ? 0 : e->rx.applied;
	pthread_mutex_unlock(&e->rx_lock);
	pthread_mutex_lock(&e->q_lock);
	tell = !e->prepare_told && applied >= e->prepare_seq;
	e->prepare_told |= tell;
	pthread_mutex_unlock(&e->q_lock);
	if (tell)
		hak_emit(e, HAK_EV_PREPARE, term, 0, 0, NULL);
}

/* Let the capture thread send all that it knows, and HANDOVER behind it if that is `rec`. */
static void ask_drain(struct hak_engine *e, uint8_t rec, uint32_t term)
{
	pthread_mutex_lock(&e->q_lock);
	e->drain_term = term;
	e->drained = false;
	e->drain_asked = rec;
	pthread_mutex_unlock(&e->q_lock);
}

/* In every heartbeat from now on, the first of which is now; 0: no more. */
static void say_prepare(struct hak_engine *e, uint32_t term)
{
	pthread_mutex_lock(&e->q_lock);
	e->prepare = term;
	pthread_mutex_unlock(&e->q_lock);
	pthread_mutex_lock(&e->tx_lock);
	hak_send_heartbeats(e);
	pthread_mutex_unlock(&e->tx_lock);
}

static bool all_is_sent(struct hak_engine *e)
{
	bool is;

	pthread_mutex_lock(&e->q_lock);
	is = e->drained;
	pthread_mutex_unlock(&e->q_lock);
	return is;
}

static bool peer_is_armed(struct hak_engine *e)
{
	bool is;

	pthread_mutex_lock(&e->q_lock);
	is = e->peer_armed == e->drain_term;
	pthread_mutex_unlock(&e->q_lock);
	return is;
}

static bool peer_has_all(struct hak_engine *e)
{
	uint64_t applied;
	bool has;

	pthread_mutex_lock(&e->tx_lock);
	applied = e->tx.applied;
	pthread_mutex_unlock(&e->tx_lock);
	pthread_mutex_lock(&e->q_lock);
	has = e->drained && applied >= e->drained_seq;
	pthread_mutex_unlock(&e->q_lock);
	return has;
}

/* Until it holds; false: it does not in time, or there is no peer any more. */
static bool await(struct hak_engine *e, bool (*holds)(struct hak_engine *), uint64_t until)
{
	while (!holds(e)) {
		if (hak_now() >= until || !atomic_load(&e->peer_alive))
			return false;
		hak_wake(e->wake_capture);
		pthread_mutex_lock(&e->q_lock);
		(void)hak_await_turn(e, hak_now() + HAK_MS / 2);
		pthread_mutex_unlock(&e->q_lock);
	}
	return true;
}

/* Both nodes forward for a moment, each with complete state; from the moment at which the
 * peer has announced itself only it is sent frames, if nothing of ours tells the switches
 * otherwise: so what still leaves here bears another hardware address. */
static bool forward_together(struct hak_engine *e, uint32_t term, uint64_t until)
{
	struct timespec settle = { .tv_nsec = SETTLE_MS * (long)HAK_MS };

	e->peer_armed = 0;
	if (hak_gate_leave(&e->gate, true))
		return false;
	ask_drain(e, HAK_REC_PREPARE, term);
	if (!await(e, all_is_sent, until))
		return false;
	say_prepare(e, term);
	if (!await(e, peer_is_armed, until))
		return false;
	(void)nanosleep(&settle, NULL);
	return true;
}

enum hak_err hak_engine_handover(struct hak_engine *e, uint32_t term, uint32_t timeout_ms,
				 uint32_t prepare_ms, struct hak_handover_times *t)
{
	uint64_t t0 = hak_now(), until = t0 + (uint64_t)timeout_ms * HAK_MS;
	enum hak_err r = HAK_ESTATE;
	int keep;

	memset(t, 0, sizeof *t);
	if (atomic_load(&e->role) != HAK_ACTIVE || !atomic_load(&e->peer_alive))
		return HAK_ESTATE;
	if (prepare_ms && forward_together(e, term, t0 + (uint64_t)prepare_ms * HAK_MS))
		t->armed_ns = hak_now() - t0 - SETTLE_MS * HAK_MS;
	if (!atomic_load(&e->peer_alive))
		goto stay;
	if (hak_gate_flip(&e->gate, false)) {
		r = HAK_ESYS;
		goto stay;
	}
	t->closed_ns = hak_now() - t0;
	ask_drain(e, HAK_REC_HANDOVER, term);
	if (await(e, peer_has_all, until)) {
		t->applied_ns = hak_now() - t0;
		hak_become_passive(e);
		if (prepare_ms) {
			(void)hak_gate_leave(&e->gate, false);
			say_prepare(e, 0);
		}
		return HAK_OK;
	}
	if (hak_gate_flip(&e->gate, true))
		r = HAK_ESYS;
stay:
	keep = errno;
	ask_drain(e, 0, term);
	if (prepare_ms) {
		(void)hak_gate_leave(&e->gate, false);
		say_prepare(e, 0);
	}
	(void)hak_engine_announce(e);
	errno = keep;
	return r;
}
