/* hak_tcp.h - which of TCP's states the passive node has to tell apart.
 *
 * By default an active node's kernel makes no event of a handshake's middle, nor of the
 * ACK of a FIN (hak2k/gate.py): between the SYN and the ESTABLISHED state the passive
 * node cannot know how far a handshake has come, and after a FIN whether it was
 * acknowledged.  So states are of three classes, which is what is compared, and a larva
 * is made in the state that takes whatever comes next and that the connection rests in:
 *
 *   SYN_SENT              as SYN_RECV: there the kernel accepts the SYN again, the SYN/ACK
 *                         and the ACK, which is invalid in SYN_SENT
 *   FIN_WAIT to LAST_ACK  as TIME_WAIT: data, FINs and ACKs of both directions leave it
 *                         there, a reset closes it, a SYN begins anew.  So a second FIN
 *                         need not be told (hak_closing.h)
 *
 * The price: a connection of which one side has closed rests, if a swap comes, for
 * TIME_WAIT's two minutes without a packet instead of CLOSE_WAIT's one.  Of a connection whose SYN/ACK passes after a swap the window scales stay
 * unknown, unless the SYN is repeated.  The larva is liberal and does not need them.
 */
#ifndef HAK_TCP_H
#define HAK_TCP_H

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include "hak_flow.h"

static inline bool hak_tcp_opens(uint8_t state)
{
	return state == TCP_CONNTRACK_SYN_SENT || state == TCP_CONNTRACK_SYN_RECV ||
	       state == TCP_CONNTRACK_SYN_SENT2;
}

/* The state that stands for its class. */
static inline uint8_t hak_tcp_class(uint8_t state)
{
	if (hak_tcp_opens(state))
		return TCP_CONNTRACK_SYN_RECV;
	return state >= TCP_CONNTRACK_FIN_WAIT && state <= TCP_CONNTRACK_CLOSE
		       ? (uint8_t)TCP_CONNTRACK_FIN_WAIT : state;
}

/* As its larva is to be. */
static inline void hak_tcp_settle(struct hak_flow *f)
{
	if (!(f->have & HAK_HAS_TCP))
		return;
	if (hak_tcp_opens(f->tcp_state)) {
		f->tcp_state = TCP_CONNTRACK_SYN_RECV;
		f->status |= IPS_SEEN_REPLY;	/* else an ACK would be "new" for rules */
		f->have |= HAK_HAS_STATUS;
	} else if (f->tcp_state >= TCP_CONNTRACK_FIN_WAIT && f->tcp_state <= TCP_CONNTRACK_LAST_ACK) {
		f->tcp_state = TCP_CONNTRACK_TIME_WAIT;
	}
}

#endif
