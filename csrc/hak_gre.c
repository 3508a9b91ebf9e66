/* hak_gre.c - larvae of GRE, whose end only packets can tell.
 *
 * The kernel keeps GRE's timeouts in each entry, and leaves them zero in one made
 * through ctnetlink: its first packet would end it.  So these larvae are born with
 * FIXED_TIMEOUT, which no packet shortens, and no message: what stands for adoption is
 * done here.
 *
 *   passive   one that has used up a day is replaced by a new one (nobody uses it)
 *   active    each natural timeout, all are looked at: one whose packets were not
 *             counted on for a natural timeout is ended, and the peer is told; one that
 *             lives and has used up a day is replaced
 *
 * What the last look saw is kept in a fixed number of places, by identity: nothing
 * grows with the table, and one that finds no place waits for another's end.
 *
 * An entry that this kernel made has its timeouts, and becomes a larva and ceases to be
 * one like those of any other protocol.
 *
 * Not handled: nf_conntrack_acct = 0 when the larva was made.  Without counters nothing
 * tells a living one from a dead one, and both end with their larval timeout.
 */
#include "hak_apply_int.h"

#include <netinet/in.h>
#include <linux/netfilter/nf_conntrack_common.h>

enum { WAYS = 4, RENEW_S = 86400 };

bool hak_gre_fixed(const struct hak_flow *f)
{
	return f->l4proto == IPPROTO_GRE && f->status & IPS_FIXED_TIMEOUT;
}

/* The listing is a moment old. */
static void replace(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_ctmsg now;

	if (!hak_apply_get(a, f, &now) && hak_gre_fixed(&now.flow))
		(void)hak_apply_replace(a, &now.flow);
}

void hak_gre_renew(struct hak_apply *a, const struct hak_flow *f, uint32_t larval)
{
	if (f->timeout + RENEW_S < larval)
		replace(a, f);
}

/* Not by the socket whose doings the capture thread overlooks: the peer is to know. */
static void reap(struct hak_apply *a, const struct hak_flow *f)
{
	struct hak_nl *nl = &a->e->reap_nl;
	uint8_t out[512];
	struct hak_wr w = hak_wr_on(out, sizeof out);
	struct hak_ctmsg now;

	if (hak_apply_get(a, f, &now) || !hak_gre_fixed(&now.flow) ||
	    now.flow.packets != f->packets)
		return;
	if (hak_ct_put_delete(&w, ++nl->seq, f, false) || hak_nl_send(nl, &w))
		return;
	hak_nl_drain(nl);
	hak_count(&a->e->stats, HAK_STAT_REAPED);
}

static struct hak_gre *place(struct hak_apply *a, uint64_t id)
{
	struct hak_gre *unused = NULL;

	for (unsigned i = 0; i < WAYS; i++) {
		struct hak_gre *g = &a->gre[(id + i) % HAK_GRE_PLACES];

		if (g->id == id)
			return g;
		if (!g->id && !unused)
			unused = g;
	}
	return unused;
}

void hak_gre_look(struct hak_apply *a, const struct hak_flow *f, uint32_t natural)
{
	uint64_t id = hak_flow_hash(f, a->e->hash_key), now = hak_now();
	uint64_t natural_ns = natural * 1000000000ull;
	struct hak_gre *g = place(a, id);

	if (!(f->have & HAK_HAS_PACKETS) || !g)
		return;
	if (natural_ns < a->gre_period_ns)
		a->gre_period_ns = natural_ns;
	g->seen = true;
	if (g->id != id) {
		*g = (struct hak_gre){ .id = id, .packets = f->packets, .since_ns = now, .seen = true };
	} else if (g->packets != f->packets) {
		g->packets = f->packets;
		g->since_ns = now;
		hak_gre_renew(a, f, a->e->cfg.larval_timeout);
	} else if (now - g->since_ns >= natural_ns) {
		reap(a, f);
	}
}

void hak_gre_looked(struct hak_apply *a)
{
	a->gre_due_ns = a->gre_period_ns == UINT64_MAX ? 0 : hak_now() + a->gre_period_ns;
	a->gre_period_ns = UINT64_MAX;
	for (unsigned i = 0; i < HAK_GRE_PLACES; i++) {
		if (!a->gre[i].seen)
			a->gre[i].id = 0;
		a->gre[i].seen = false;
	}
}

void hak_gre_forget(struct hak_apply *a)
{
	memset(a->gre, 0, sizeof a->gre);
	a->gre_period_ns = UINT64_MAX;
	a->gre_due_ns = 0;
}
