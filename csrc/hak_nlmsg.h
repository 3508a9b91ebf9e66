/* hak_nlmsg.h - netlink framing on top of the cursor: messages, attributes, nests.
 *
 * Netlink headers are in host order and everything is padded to four bytes.
 * Reading tolerates what newer kernels may send; a length that lies ends the walk.
 */
#ifndef HAK_NLMSG_H
#define HAK_NLMSG_H

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include "hak_buf.h"

/* The uapi macros mix signs; these say the same in size_t. */
enum { HAK_NLA_HDR = 4, HAK_NLA_TYPE = 0x3fff };

static inline size_t hak_nl_pad(size_t n)
{
	return (4 - n % 4) % 4;
}

/* ---- writing: begin returns where the header stands, end fills its length ---- */

static inline size_t hak_nlmsg_begin(struct hak_wr *w, uint16_t type, uint16_t flags,
				     uint32_t seq, uint8_t family, uint16_t res_id)
{
	const struct {		/* in one piece: one look at what is left */
		struct nlmsghdr h;
		struct nfgenmsg g;
	} x = {
		.h = { .nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = seq },
		.g = { .nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(res_id) },
	};
	size_t at = hak_wr_len(w);

	hak_wr_copy(w, &x, sizeof x);
	return at;
}

static inline void hak_nlmsg_end(struct hak_wr *w, size_t at)
{
	uint32_t len = (uint32_t)(hak_wr_len(w) - at);

	hak_wr_patch(w, at, &len, sizeof len);
}

static inline void hak_nla_put(struct hak_wr *w, uint16_t type, const void *v, size_t n)
{
	const struct nlattr a = { (uint16_t)(HAK_NLA_HDR + n), type };

	hak_wr_copy(w, &a, sizeof a);
	hak_wr_copy(w, v, n);
	hak_wr_zero(w, hak_nl_pad(n));
}

static inline void hak_nla_str(struct hak_wr *w, uint16_t type, const char *s)
{
	hak_nla_put(w, type, s, strlen(s) + 1);
}

static inline size_t hak_nla_begin(struct hak_wr *w, uint16_t type)
{
	const struct nlattr a = { .nla_type = type | NLA_F_NESTED };
	size_t at = hak_wr_len(w);

	hak_wr_copy(w, &a, sizeof a);
	return at;
}

static inline void hak_nla_end(struct hak_wr *w, size_t at)
{
	uint16_t len = (uint16_t)(hak_wr_len(w) - at);

	hak_wr_patch(w, at, &len, sizeof len);
}

/* ---- reading ---- */

/* The next message's header and a reader over its payload (the reader is bad if
 * there is none that fits, and *r is then at its end). */
static inline struct hak_rd hak_nlmsg_next(struct hak_rd *r, struct nlmsghdr *h)
{
	struct hak_rd body;
	size_t pad;

	hak_rd_copy(r, h, sizeof *h);
	if (r->bad || h->nlmsg_len < sizeof *h) {
		(void)hak_rd_take(r, hak_rd_left(r));
		return hak_rd_sub(r, 1);
	}
	body = hak_rd_sub(r, h->nlmsg_len - sizeof *h);
	pad = hak_nl_pad(h->nlmsg_len);
	(void)hak_rd_take(r, pad < hak_rd_left(r) ? pad : hak_rd_left(r));
	return body;
}

/* The next attribute's type (flags masked) and a reader over its value. */
static inline struct hak_rd hak_nla_next(struct hak_rd *r, uint16_t *type)
{
	uint16_t len = hak_rd_h16(r);
	struct hak_rd v;
	size_t pad;

	*type = hak_rd_h16(r) & HAK_NLA_TYPE;
	if (r->bad || len < HAK_NLA_HDR) {
		r->bad = true;
		return hak_rd_sub(r, 1);
	}
	v = hak_rd_sub(r, (size_t)len - HAK_NLA_HDR);
	pad = hak_nl_pad(len);
	(void)hak_rd_take(r, pad < hak_rd_left(r) ? pad : hak_rd_left(r));
	return v;
}

#endif
