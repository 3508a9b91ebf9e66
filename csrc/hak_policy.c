/* hak_policy.c - the policy as one number, for two nodes to compare. */
#include "hak_policy.h"
#include "hak_siphash.h"

/* Big-endian: the protocols' eight words, value and mask of the mark, exclude_local,
 * the least age in ms, then of each network family (4 or 6), bits and address. */
uint64_t hak_policy_hash(const struct hak_policy *p)
{
	static const uint8_t key[HAK_SIPHASH_KEY];	/* nobody's secret */
	uint8_t text[32 + 8 + 1 + 4 + HAK_NETS_MAX * 18];
	struct hak_wr w = hak_wr_on(text, sizeof text);
	uint64_t hash;

	for (unsigned i = 0; i < 8; i++)
		hak_wr_u32(&w, p->protocols[i]);
	hak_wr_u32(&w, p->mark & p->mark_mask);
	hak_wr_u32(&w, p->mark_mask);
	hak_wr_u8(&w, p->exclude_local);
	hak_wr_u32(&w, p->min_ms);
	for (unsigned i = 0; i < p->n_nets; i++) {
		hak_wr_u8(&w, p->nets[i].l3 == 10 ? 6 : 4);
		hak_wr_u8(&w, p->nets[i].bits);
		hak_wr_copy(&w, p->nets[i].addr, hak_addr_len(p->nets[i].l3));
	}
	hash = hak_siphash(text, hak_wr_len(&w), key);
	return hash ? hash : 1;
}
