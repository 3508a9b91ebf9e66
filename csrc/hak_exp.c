/* hak_exp.c - struct hak_expect -> ctnetlink requests, see hak_ct.h.
 *
 * The kernel's side is ctnetlink_new_expect and its callees (net/netfilter/
 * nf_conntrack_netlink.c).  An expectation needs its master, and the master its helper.
 * It is looked up in the zone of its master, whichever direction that zone belongs to;
 * a master whose zone is its replies' alone cannot be named at all.
 */
#include "hak_ct.h"

#include <linux/netfilter/nf_conntrack_common.h>
#include "hak_ct_tuple.h"

enum {
	EXP_NEW = NFNL_SUBSYS_CTNETLINK_EXP << 8 | IPCTNL_MSG_EXP_NEW,
	EXP_GET = NFNL_SUBSYS_CTNETLINK_EXP << 8 | IPCTNL_MSG_EXP_GET,
	EXP_DELETE = NFNL_SUBSYS_CTNETLINK_EXP << 8 | IPCTNL_MSG_EXP_DELETE,
};

static bool bad_expect(const struct hak_expect *e)
{
	return e->l3 != AF_INET && e->l3 != AF_INET6;
}

static uint16_t flags(unsigned more, bool ack)
{
	return (uint16_t)(NLM_F_REQUEST | more | (ack ? NLM_F_ACK : 0));
}

static void put_tuple(struct hak_wr *w, const struct hak_expect *e)
{
	hak_ct_put_tuple(w, CTA_EXPECT_TUPLE, e->l3, e->l4proto, &e->tuple, 0);
}

static void put_zone(struct hak_wr *w, const struct hak_expect *e)
{
	if (e->zone)
		hak_nla_u16(w, CTA_EXPECT_ZONE, e->zone);
}

/* The three tuples without which CTNL_MSG_EXP_NEW is EINVAL, even to change a timeout. */
static size_t begin_new(struct hak_wr *w, uint16_t fl, uint32_t seq, const struct hak_expect *e)
{
	size_t at = hak_nlmsg_begin(w, EXP_NEW, fl, seq, e->l3, 0);

	hak_ct_put_tuple(w, CTA_EXPECT_MASTER, e->l3, e->master_l4proto, &e->master, 0);
	put_tuple(w, e);
	hak_ct_put_tuple(w, CTA_EXPECT_MASK, e->l3, e->l4proto, &e->mask, 0);
	put_zone(w, e);
	return at;
}

enum hak_err hak_exp_put_create(struct hak_wr *w, uint32_t seq, const struct hak_expect *e, bool ack)
{
	size_t at, nest;

	if (bad_expect(e))
		return HAK_EINVAL;
	at = begin_new(w, flags(NLM_F_CREATE | NLM_F_EXCL, ack), seq, e);
	hak_nla_u32(w, CTA_EXPECT_FLAGS, e->flags & ~(uint32_t)NF_CT_EXPECT_USERSPACE);
	hak_nla_u32(w, CTA_EXPECT_CLASS, e->class_);
	/* Older kernels ignore the class unless the helper is named, but then hand that
	 * helper to the child as well: name it only where there is a class to keep. */
	if (e->class_ && e->helper[0])
		hak_nla_str(w, CTA_EXPECT_HELP_NAME, e->helper);
	if (e->has_nat) {
		nest = hak_nla_begin(w, CTA_EXPECT_NAT);
		hak_nla_u32(w, CTA_EXPECT_NAT_DIR, e->nat_dir);
		hak_ct_put_tuple(w, CTA_EXPECT_NAT_TUPLE, e->l3, e->nat_l4proto, &e->nat, 0);
		hak_nla_end(w, nest);
	}
	if (e->fn[0])
		hak_nla_str(w, CTA_EXPECT_FN, e->fn);
	return hak_ct_end(w, at);
}

enum hak_err hak_exp_put_timeout(struct hak_wr *w, uint32_t seq, const struct hak_expect *e,
				 uint32_t timeout)
{
	size_t at;

	if (bad_expect(e))
		return HAK_EINVAL;
	at = begin_new(w, flags(0, true), seq, e);
	hak_nla_u32(w, CTA_EXPECT_TIMEOUT, timeout);
	return hak_ct_end(w, at);
}

enum hak_err hak_exp_put_delete(struct hak_wr *w, uint32_t seq, const struct hak_expect *e, bool ack)
{
	size_t at;

	if (bad_expect(e))
		return HAK_EINVAL;
	at = hak_nlmsg_begin(w, EXP_DELETE, flags(0, ack), seq, e->l3, 0);
	put_tuple(w, e);
	put_zone(w, e);
	return hak_ct_end(w, at);
}

enum hak_err hak_exp_put_list(struct hak_wr *w, uint32_t seq)
{
	size_t at = hak_nlmsg_begin(w, EXP_GET, flags(NLM_F_DUMP, false), seq, AF_UNSPEC, 0);

	return hak_ct_end(w, at);
}

enum hak_err hak_exp_put_list_of(struct hak_wr *w, uint32_t seq, const struct hak_flow *master)
{
	size_t at;

	if (master->l3 != AF_INET && master->l3 != AF_INET6)
		return HAK_EINVAL;
	at = hak_nlmsg_begin(w, EXP_GET, flags(NLM_F_DUMP, false), seq, master->l3, 0);
	hak_ct_put_tuple(w, CTA_EXPECT_MASTER, master->l3, master->l4proto, &master->orig, 0);
	if (master->zone)
		hak_nla_u16(w, CTA_EXPECT_ZONE, master->zone);
	return hak_ct_end(w, at);
}

enum hak_err hak_exp_put_flush(struct hak_wr *w, uint32_t seq, bool ack)
{
	size_t at = hak_nlmsg_begin(w, EXP_DELETE, flags(0, ack), seq, AF_UNSPEC, 0);

	return hak_ct_end(w, at);
}
