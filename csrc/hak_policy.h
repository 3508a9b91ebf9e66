/* hak_policy.h - which connections are replicated at all.
 *
 * Asked once per event before anything is encoded, and on the passive side before
 * its own entries are compared with the peer's.  Pure: reads a flow, says yes or no.
 */
#ifndef HAK_POLICY_H
#define HAK_POLICY_H

#include <stdbool.h>
#include <stdint.h>
#include "hak_flow.h"

enum { HAK_LOCAL_SLOTS = 2048, HAK_LOCAL_MAX = 1024, HAK_NETS_MAX = 64 };

/* An open-addressed set of this node's own addresses. */
struct hak_locals {
	unsigned n;
	uint8_t used[HAK_LOCAL_SLOTS];
	uint8_t addr[HAK_LOCAL_SLOTS][17];	/* l3, then the address */
};

struct hak_net {
	uint8_t l3, bits;		/* length of the prefix */
	uint8_t addr[16];
};

struct hak_policy {
	uint32_t protocols[8];		/* bit set: replicated */
	uint32_t mark, mark_mask;	/* mask 0: no exclusion by mark */
	bool exclude_local;
	uint32_t min_ms;		/* younger ones wait, see hak_hold.h; 0: none */
	unsigned n_nets;		/* excluded networks, in ascending order */
	struct hak_net nets[HAK_NETS_MAX];
};

static inline unsigned hak_local_hash(uint8_t l3, const uint8_t *a)
{
	uint32_t h = 2166136261u ^ l3;	/* FNV-1a: our own addresses, nobody's choice */

	for (unsigned i = 0; i < hak_addr_len(l3); i++)
		h = (h ^ a[i]) * 16777619u;
	return h % HAK_LOCAL_SLOTS;
}

static inline bool hak_locals_has(const struct hak_locals *l, uint8_t l3, const uint8_t *a)
{
	unsigned i = hak_local_hash(l3, a);

	for (; l->used[i]; i = (i + 1) % HAK_LOCAL_SLOTS)
		if (l->addr[i][0] == l3 && !memcmp(&l->addr[i][1], a, hak_addr_len(l3)))
			return true;
	return false;
}

/* False: the set is full. */
static inline bool hak_locals_add(struct hak_locals *l, uint8_t l3, const uint8_t *a)
{
	unsigned i = hak_local_hash(l3, a);

	if (hak_locals_has(l, l3, a))
		return true;
	if (l->n == HAK_LOCAL_MAX)
		return false;
	while (l->used[i])
		i = (i + 1) % HAK_LOCAL_SLOTS;
	l->used[i] = 1;
	l->addr[i][0] = l3;
	memcpy(&l->addr[i][1], a, hak_addr_len(l3));
	l->n++;
	return true;
}

/* Addresses that never name another host behind us: loopback, multicast, limited
 * broadcast, IPv6 link-local.  (Forwarded multicast is therefore not replicated.) */
static inline bool hak_addr_special(uint8_t l3, const uint8_t *a)
{
	static const uint8_t zero[15];

	if (l3 == 10)
		return a[0] == 0xff || (a[0] == 0xfe && (a[1] & 0xc0) == 0x80) ||
		       (!memcmp(a, zero, 15) && a[15] <= 1);
	return a[0] == 127 || a[0] >= 224 || a[0] == 0;
}

/* Does the connection begin or end on this node?  The reply's source is where it
 * really ends, behind any DNAT. */
static inline bool hak_flow_is_local(const struct hak_locals *l, const struct hak_flow *f)
{
	const uint8_t *from = f->orig.src;
	const uint8_t *to = f->have & HAK_HAS_REPLY ? f->reply.src : f->orig.dst;

	return hak_addr_special(f->l3, from) || hak_addr_special(f->l3, to) ||
	       hak_locals_has(l, f->l3, from) || hak_locals_has(l, f->l3, to);
}

static inline bool hak_net_has(const struct hak_net *n, uint8_t l3, const uint8_t *a)
{
	unsigned whole = n->bits / 8, rest = n->bits % 8;

	return n->l3 == l3 && !memcmp(n->addr, a, whole) &&
	       (!rest || !((n->addr[whole] ^ a[whole]) >> (8 - rest)));
}

/* Is one of its ends in an excluded network?  Both original addresses count, and the
 * real server behind a DNAT; not the address that SNAT lent to it. */
static inline bool hak_flow_in_nets(const struct hak_policy *p, const struct hak_flow *f)
{
	for (unsigned i = 0; i < p->n_nets; i++) {
		const struct hak_net *n = &p->nets[i];

		if (hak_net_has(n, f->l3, f->orig.src) || hak_net_has(n, f->l3, f->orig.dst) ||
		    (f->have & HAK_HAS_REPLY && hak_net_has(n, f->l3, f->reply.src)))
			return true;
	}
	return false;
}

/* Would it be replicated, but for its mark? */
static inline bool hak_policy_concerns(const struct hak_policy *p, const struct hak_locals *l,
				       const struct hak_flow *f)
{
	if (!(p->protocols[f->l4proto / 32] >> (f->l4proto % 32) & 1))
		return false;
	if (p->n_nets && hak_flow_in_nets(p, f))
		return false;
	return !(p->exclude_local && hak_flow_is_local(l, f));
}

/* `mark` absent counts as 0, as in ctnetlink. */
static inline bool hak_policy_wants(const struct hak_policy *p, const struct hak_locals *l,
				    const struct hak_flow *f)
{
	uint32_t mark = f->have & HAK_HAS_MARK ? f->mark : 0;

	if (p->mark_mask && (mark & p->mark_mask) == (p->mark & p->mark_mask))
		return false;
	return hak_policy_concerns(p, l, f);
}

/* The same for the same policy on any machine; never 0. */
uint64_t hak_policy_hash(const struct hak_policy *p);

#endif
