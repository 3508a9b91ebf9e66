/* hak_beat.c - heartbeats as they go out, and the lease that hangs on them. */
#include "hak_engine_int.h"

/* As long as it is so: a peer that missed the end of it sees that it is said no more. */
static void put_handover(struct hak_wr *w, uint32_t prepare, uint64_t drained, uint32_t armed)
{
	uint8_t bytes[12];
	struct hak_wr b = hak_wr_on(bytes, sizeof bytes);

	if (prepare) {
		hak_wr_u32(&b, prepare);
		hak_wr_u64(&b, drained);
		(void)hak_wire_put_raw(w, HAK_REC_PREPARE, bytes, hak_wr_len(&b));
	} else if (armed) {
		hak_wr_u32(&b, armed);
		(void)hak_wire_put_raw(w, HAK_REC_ARMED, bytes, hak_wr_len(&b));
	}
}

/* What the peer would else find out by silence. */
static void put_links(struct hak_engine *e, struct hak_wr *w)
{
	uint8_t down = 0;

	for (unsigned i = 0; i < e->cfg.n_links; i++)
		if (atomic_load(&e->links[i].interface) != HAK_LINK_WORKS)
			down |= (uint8_t)(1u << i);
	if (down)
		(void)hak_wire_put_raw(w, HAK_REC_LINKS, &down, sizeof down);
}

void hak_send_heartbeats(struct hak_engine *e)
{
	uint32_t armed = atomic_load(&e->armed), prepare;
	bool passive = atomic_load(&e->role) == HAK_PASSIVE;
	uint64_t drained;
	struct hak_status status;
	struct hak_ack ack = { 0 };
	struct hak_table table;

	if (e->said_bye)
		return;		/* one more would bring us back to life over there */
	hak_engine_table(e, &table);
	table.fill = atomic_load(&e->fill);
	table.max = atomic_load(&e->table_max);
	pthread_mutex_lock(&e->q_lock);
	status = e->status;
	prepare = e->prepare;
	drained = e->drained_seq;
	pthread_mutex_unlock(&e->q_lock);
	status.priority = atomic_load(&e->priority) + 1u;
	if (passive) {
		pthread_mutex_lock(&e->rx_lock);
		if (!e->rx_reset)
			ack = (struct hak_ack){ .next = e->rx.next, .applied = e->rx.applied };
		pthread_mutex_unlock(&e->rx_lock);
	}
	for (unsigned i = 0; i < e->cfg.n_links; i++) {
		const struct hak_link *l = &e->links[i];
		uint64_t now = hak_now();
		uint8_t body[256];
		struct hak_wr w = hak_wr_on(body, sizeof body);
		struct hak_heartbeat h = {
			.link = (uint8_t)i, .sent_ns = now,
			.stream_next = e->tx.next, .stream_base = e->tx.base,
		};

		hak_heartbeat_echo(&h, l->echo_ns, l->echo_at, now);
		hak_put_heartbeat(&w, &h);
		hak_put_status(&w, &status);
		/* from who compares to whom it is compared with */
		if (passive) {
			hak_put_table(&w, &table);
			hak_put_ack(&w, &ack);
		}
		put_handover(&w, prepare, drained, armed);
		put_links(e, &w);
		hak_send_control(e, i, body, hak_wr_len(&w));
		hak_count(&e->stats, HAK_STAT_HEARTBEATS_SENT);
	}
}

/* A standby promotes itself when it has heard nothing for dead_after_ms.  It hears this
 * heartbeat later than it was sent, so a lease that is a little shorter has ended by
 * then; the rest is for clocks that differ, and frames on their way. */
static uint64_t lease_length(const struct hak_engine *e)
{
	uint64_t dead = (uint64_t)e->cfg.dead_after_ms * HAK_MS;

	return dead - dead / 16;
}

void hak_renew_lease(struct hak_engine *e, uint64_t now)
{
	uint64_t late;
	struct hak_lease_facts f = {
		.now = now, .length = lease_length(e),
		.prepared = atomic_load(&e->peer_prepares),
		.active = atomic_load(&e->role) == HAK_ACTIVE,
		.heard = atomic_load(&e->peer_alive),
		.peer_active = atomic_load(&e->peer_mode) == HAK_ACTIVE,
		.echoed_ns = e->echoed_ns,
	};
	struct hak_lessee before, after;

	if (!e->cfg.lease)
		return;
	/* in one step: hak_lease_arm() comes from another thread */
	pthread_mutex_lock(&e->q_lock);
	before = e->lessee;
	late = now - before.until;
	f.armed = e->arming;
	(void)hak_lease_step(&e->lessee, &f);
	after = e->lessee;
	atomic_store(&e->lease_state, after.state);
	atomic_store(e->cfg.lease->until, after.until);
	pthread_mutex_unlock(&e->q_lock);
	if (after.state == before.state || !f.active)
		return;
	if (after.state == HAK_LEASE_LAPSED)
		hak_emit(e, HAK_EV_LEASE_LAPSED, late, 0, 0, NULL);
	else if (before.state == HAK_LEASE_LAPSED)
		hak_emit(e, HAK_EV_LEASE_REGAINED, now - after.lapsed_ns, 0, 0, NULL);
}

void hak_lease_arm(struct hak_engine *e, bool arming)
{
	pthread_mutex_lock(&e->q_lock);
	e->arming = arming;
	if (arming && e->cfg.lease) {
		e->lessee.state = HAK_LEASE_ON;
		e->lessee.until = hak_now() + lease_length(e);
		atomic_store(e->cfg.lease->until, e->lessee.until);
	}
	pthread_mutex_unlock(&e->q_lock);
}
