/* hak_ct.h - ctnetlink messages <-> struct hak_flow / hak_expect.
 *
 * Decoding tolerates: unknown attributes, longer attributes, missing optional
 * ones, nests with or without NLA_F_NESTED.  It refuses: a tuple without
 * addresses or protocol, attributes shorter than their type.  Encoding writes
 * each message in the form that this kernel takes (net/netfilter/
 * nf_conntrack_netlink.c): the create form and the update form differ.
 */
#ifndef HAK_CT_H
#define HAK_CT_H

#include "hak_buf.h"
#include "hak_err.h"
#include "hak_flow.h"

enum hak_ct_what {
	HAK_CT_NEW = 1,		/* connection: event with NLM_F_CREATE|EXCL */
	HAK_CT_UPDATE,		/* connection: event without; also listings, replies */
	HAK_CT_DESTROY,
	HAK_CT_EXP_NEW,
	HAK_CT_EXP_DESTROY,
	HAK_CT_DONE,		/* NLMSG_DONE: the end of a listing */
	HAK_CT_ERROR,		/* NLMSG_ERROR: error and seq are set (0 = ack) */
};

struct hak_ctmsg {
	uint8_t what;		/* enum hak_ct_what */
	uint32_t seq, portid;	/* of the netlink header */
	int error;		/* HAK_CT_ERROR: positive errno, 0 for an ack;
				 * HAK_CT_DONE: errno of an interrupted listing */
	bool dump_intr;		/* NLM_F_DUMP_INTR was set */
	union {
		struct hak_flow flow;
		struct hak_expect expect;
	};
};

/* Take the next netlink message from the reader, which spans one received buffer.
 * HAK_ESKIP: a message of no interest was stepped over.  At HAK_ETRUNC and
 * HAK_EFORMAT the reader stands behind the bad message if its length was sane,
 * else at the end of the buffer. */
enum hak_err hak_ct_next(struct hak_rd *r, struct hak_ctmsg *out);

/* How an entry is to stand in the kernel it is written to. */
struct hak_ct_form {
	uint32_t timeout;	/* seconds; 0: leave CTA_TIMEOUT out (update only) */
	bool larval;		/* add BE_LIBERAL both ways and drop what the peer's
				 * window tracking knew; FIXED_TIMEOUT for GRE */
	bool excl;		/* create: NLM_F_EXCL */
	bool no_helper;		/* second try after EOPNOTSUPP */
	bool no_master;		/* second try after ENOENT: clears EXPECTED too */
	bool no_labels;		/* second try after ENOSPC (no label user in this netns) */
	bool flip_expected;	/* update, after EBUSY: invert IPS_EXPECTED */
	bool ack;		/* NLM_F_ACK */
};

/* Each appends one whole netlink message; HAK_ESPACE leaves the writer as it was.
 * create: needs HAK_HAS_REPLY; the NAT of a flow is expressed as ctnetlink wants
 * it (un-NATed reply tuple plus CTA_NAT_SRC/CTA_NAT_DST pinned to one port); an owner of
 * the same reply tuple is EEXIST.  update: of f->have, what is fixed at birth (reply,
 * helper, master) is left out, and CTA_TIMEOUT for a larva of GRE. */
enum hak_err hak_ct_put_create(struct hak_wr *w, uint32_t seq, const struct hak_flow *f,
			       const struct hak_ct_form *form);
enum hak_err hak_ct_put_update(struct hak_wr *w, uint32_t seq, const struct hak_flow *f,
			       const struct hak_ct_form *form);
/* by the original tuple and zone; `ack` asks for an acknowledgement */
enum hak_err hak_ct_put_delete(struct hak_wr *w, uint32_t seq, const struct hak_flow *f, bool ack);
enum hak_err hak_ct_put_get(struct hak_wr *w, uint32_t seq, const struct hak_flow *f);
/* GET or DELETE of whatever owns this reply tuple (CTA_TUPLE_REPLY): who is in the way? */
enum hak_err hak_ct_put_get_reply(struct hak_wr *w, uint32_t seq, const struct hak_flow *f);
enum hak_err hak_ct_put_delete_reply(struct hak_wr *w, uint32_t seq, const struct hak_flow *f, bool ack);
/* only CTA_TIMEOUT, and the BE_LIBERAL bits of a TCP entry; SET makes a larva of it: what
 * window tracking knew is dropped */
enum hak_liberal { HAK_LIBERAL_LEAVE, HAK_LIBERAL_CLEAR, HAK_LIBERAL_SET };
enum hak_err hak_ct_put_timeout(struct hak_wr *w, uint32_t seq, const struct hak_flow *f,
				uint32_t timeout, enum hak_liberal liberal);
/* All families, unfiltered.  If the kernel's hash table is resized meanwhile
 * (nf_conntrack_buckets; it is one for all namespaces), the listing lacks entries and
 * repeats others, and no NLM_F_DUMP_INTR tells: who takes absence for an end must compare
 * the number of buckets before and after. */
enum hak_err hak_ct_put_list(struct hak_wr *w, uint32_t seq);

enum hak_err hak_exp_put_create(struct hak_wr *w, uint32_t seq, const struct hak_expect *e, bool ack);
/* ctnetlink ignores CTA_EXPECT_TIMEOUT at creation: a second message sets it, and asks
 * for an acknowledgement */
enum hak_err hak_exp_put_timeout(struct hak_wr *w, uint32_t seq, const struct hak_expect *e,
				 uint32_t timeout);
enum hak_err hak_exp_put_delete(struct hak_wr *w, uint32_t seq, const struct hak_expect *e, bool ack);
enum hak_err hak_exp_put_list(struct hak_wr *w, uint32_t seq);
enum hak_err hak_exp_put_list_of(struct hak_wr *w, uint32_t seq, const struct hak_flow *master);
enum hak_err hak_exp_put_flush(struct hak_wr *w, uint32_t seq, bool ack);

/* A one-line text of a flow, for logs: "tcp 10.71.0.10:4711>10.72.0.10:80 ESTABLISHED".
 * Writes at most n bytes with the NUL; returns buf. */
const char *hak_flow_text(const struct hak_flow *f, char *buf, size_t n);

#endif
