/* hak_gate.c - see hak_gate.h.  Layout: net/netfilter/nf_tables_api.c. */
#include "hak_gate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include "hak_nlmsg.h"

enum hak_err hak_gate_init(struct hak_gate *g, const char *table,
			   const char *const *interfaces, unsigned n)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	enum hak_err e = s < 0 ? HAK_ESYS : HAK_OK;

	memset(g, 0, sizeof *g);
	g->nl.fd = -1;
	snprintf(g->table, sizeof g->table, "%s", table);
	for (unsigned i = 0; i < n && !e; i++) {
		struct ifreq q = { 0 };
		unsigned k = 0;

		snprintf(q.ifr_name, sizeof q.ifr_name, "%s", interfaces[i]);
		if (ioctl(s, SIOCGIFHWADDR, &q)) {
			e = HAK_ESYS;
			break;
		}
		while (k < g->n_types && g->types[k] != q.ifr_hwaddr.sa_family)
			k++;
		if (k == HAK_GATE_TYPES)
			e = HAK_EINVAL;
		else if (k == g->n_types)
			g->types[g->n_types++] = q.ifr_hwaddr.sa_family;
	}
	if (s >= 0) {
		int keep = errno;

		close(s);
		errno = keep;
	}
	return e ? e : hak_nl_open(&g->nl, HAK_NL_CALL_BUF);
}

void hak_gate_free(struct hak_gate *g)
{
	hak_nl_close(&g->nl);
}

static void batch_edge(struct hak_wr *w, uint16_t type, uint32_t seq)
{
	size_t at = hak_nlmsg_begin(w, type, NLM_F_REQUEST, seq, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);

	hak_nlmsg_end(w, at);
}

static void elements(struct hak_wr *w, const struct hak_gate *g)
{
	size_t list = hak_nla_begin(w, NFTA_SET_ELEM_LIST_ELEMENTS);

	for (unsigned i = 0; i < g->n_types; i++) {
		size_t elem = hak_nla_begin(w, NFTA_LIST_ELEM);
		size_t key = hak_nla_begin(w, NFTA_SET_ELEM_KEY);

		/* a 16-bit key as nft_meta loads iiftype: host order */
		hak_nla_put(w, NFTA_DATA_VALUE, &g->types[i], sizeof g->types[i]);
		hak_nla_end(w, key);
		hak_nla_end(w, elem);
	}
	hak_nla_end(w, list);
}

/* The errno of the one acknowledgement that ends a call; 0 is success. */
static int answer(struct hak_nl *nl, uint32_t seq)
{
	uint8_t buf[4096];

	for (;;) {
		struct hak_rd r;
		size_t n;

		if (hak_nl_recv(nl, buf, sizeof buf, 0, &n))
			return errno;
		r = hak_rd_on(buf, n);
		while (hak_rd_left(&r) >= sizeof(struct nlmsghdr)) {
			struct nlmsghdr h;
			struct hak_rd body = hak_nlmsg_next(&r, &h);

			if (body.bad)
				break;
			if (h.nlmsg_type == NLMSG_ERROR && h.nlmsg_seq == seq)
				return -(int)hak_rd_h32(&body);
		}
	}
}

static enum hak_err flip(struct hak_gate *g, const char *set, bool on)
{
	uint8_t buf[1024];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	uint16_t type = NFNL_SUBSYS_NFTABLES << 8 | (on ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM);
	uint32_t seq = ++g->nl.seq;
	size_t at;
	int err;

	hak_nl_drain(&g->nl);
	batch_edge(&w, NFNL_MSG_BATCH_BEGIN, seq);
	at = hak_nlmsg_begin(&w, type, (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | (on ? NLM_F_CREATE : 0)),
			     seq, NFPROTO_NETDEV, 0);
	hak_nla_str(&w, NFTA_SET_ELEM_LIST_TABLE, g->table);
	hak_nla_str(&w, NFTA_SET_ELEM_LIST_SET, set);
	/* Closing empties the set whatever is in it: DELSETELEM without elements
	 * flushes, so that no element somebody added keeps the gate ajar. */
	if (on)
		elements(&w, g);
	hak_nlmsg_end(&w, at);
	batch_edge(&w, NFNL_MSG_BATCH_END, seq);
	if (w.bad)
		return HAK_ESPACE;
	if (hak_nl_send(&g->nl, &w))
		return HAK_ESYS;
	err = answer(&g->nl, seq);
	errno = err;
	return err ? HAK_ESYS : HAK_OK;
}

enum hak_err hak_gate_flip(struct hak_gate *g, bool open)
{
	return flip(g, "open", open);
}

enum hak_err hak_gate_leave(struct hak_gate *g, bool leaving)
{
	return flip(g, "leaving", leaving);
}

int hak_gate_probe(struct hak_gate *g)
{
	uint8_t buf[8192];
	struct hak_wr w = hak_wr_on(buf, 512);
	uint32_t seq = ++g->nl.seq;
	size_t at, n;
	int found = 0;

	hak_nl_drain(&g->nl);
	at = hak_nlmsg_begin(&w, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM,
			     NLM_F_REQUEST | NLM_F_DUMP, seq, NFPROTO_NETDEV, 0);
	hak_nla_str(&w, NFTA_SET_ELEM_LIST_TABLE, g->table);
	hak_nla_str(&w, NFTA_SET_ELEM_LIST_SET, "open");
	hak_nlmsg_end(&w, at);
	if (w.bad || hak_nl_send(&g->nl, &w))
		return -2;
	for (;;) {
		struct hak_rd r;

		if (hak_nl_recv(&g->nl, buf, sizeof buf, 0, &n))
			return -2;
		r = hak_rd_on(buf, n);
		while (hak_rd_left(&r) >= sizeof(struct nlmsghdr)) {
			struct nlmsghdr h;
			struct hak_rd body = hak_nlmsg_next(&r, &h);

			if (body.bad)
				break;
			if (h.nlmsg_seq != seq)
				continue;
			if (h.nlmsg_type == NLMSG_ERROR) {
				errno = -(int)hak_rd_h32(&body);
				return errno == ENOENT ? -1 : -2;
			}
			if (h.nlmsg_type == NLMSG_DONE)
				return found;
			/* nfgenmsg, then attributes: elements are there or not */
			(void)hak_rd_take(&body, 4);
			while (hak_rd_left(&body) >= 4) {
				uint16_t t;
				struct hak_rd v = hak_nla_next(&body, &t);

				if (v.bad)
					break;
				if (t == NFTA_SET_ELEM_LIST_ELEMENTS && hak_rd_left(&v))
					found = 1;
			}
		}
	}
}
