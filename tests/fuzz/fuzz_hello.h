/* fuzz_hello.h - one handshake with fixed keys: both its messages, and both ends before
 * they have read the other's. */
#ifndef FUZZ_HELLO_H
#define FUZZ_HELLO_H

#include <stdlib.h>
#include <string.h>
#include "hak_crypto.h"

enum { HELLO_TEXT = 20, HELLO_LEN = HELLO_TEXT + HAK_NOISE_OVERHEAD };

struct hello_pair {
	struct hak_noise initiator, responder;
	uint8_t first[HELLO_LEN], second[HELLO_LEN], keys[2][HAK_KEY_LEN];
};

static inline struct hello_pair hello_pair(void)
{
	static struct hello_pair p;
	static bool made;
	uint8_t psk[HAK_KEY_LEN], a[HAK_DH_LEN], b[HAK_DH_LEN], text[HELLO_LEN], peer_e[HAK_DH_LEN];
	struct hak_noise r;

	if (made)
		return p;
	memset(psk, 3, sizeof psk);
	memset(a, 5, sizeof a);
	memset(b, 7, sizeof b);
	memset(text, 9, sizeof text);
	if (hak_noise_start(&p.initiator, psk, "K2K", 3, a) ||
	    hak_noise_start(&p.responder, psk, "K2K", 3, b) ||
	    hak_noise_write1(&p.initiator, text, HELLO_TEXT, p.first))
		abort();
	r = p.responder;
	if (hak_noise_read1(&r, p.first, HELLO_LEN, text, peer_e) ||
	    hak_noise_write2(&r, peer_e, text, HELLO_TEXT, p.second, p.keys))
		abort();
	made = true;
	return p;
}

#endif
