/* fuzz_hello.c - the handshake, as if anybody had sent it.  The first byte says what:
 *
 *   0      the payload of a HELLO, once it is open: what is accepted is fit to be logged
 *          and is written again as the same bytes
 *   1      a whole first message: only the true one opens
 *   other  a whole second message: only the true one opens, and what does not open
 *          leaves the handshake as it was
 *
 * The keys are fixed, so there is one true message of each; seeds.c writes them.
 */
#include <string.h>
#include "hak_buf.h"
#include "hak_control.h"
#include "hak_crypto.h"
#include "fuzz_hello.h"
#include "fuzz.h"

static void try_payload(struct hak_rd r)
{
	const uint8_t *from = r.pos;
	uint8_t bytes[HAK_HELLO_MAX];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_hello h;

	if (hak_get_hello(r, &h))
		return;
	const char *const names[] = { h.serial, h.model, h.version };

	for (int i = 0; i < 3; i++) {
		PROMISE(strnlen(names[i], HAK_NAME_MAX) < HAK_NAME_MAX);
		for (const char *c = names[i]; *c; c++)
			PROMISE(*c >= 0x20 && *c <= 0x7e);
	}
	PROMISE(h.session && h.serial[0] && h.wire_min <= h.wire_max);
	hak_put_hello(&w, &h);
	PROMISE(!w.bad && hak_wr_len(&w) <= hak_rd_left(&r));
	bytes[2] = from[2];		/* flags of later versions are not kept */
	PROMISE(!memcmp(bytes, from, hak_wr_len(&w)));
}

static void try_first(struct hak_rd r)
{
	struct hello_pair p = hello_pair();
	uint8_t text[4096], peer_e[HAK_DH_LEN];
	bool is_true = hak_rd_left(&r) == HELLO_LEN && !memcmp(r.pos, p.first, HELLO_LEN);

	if (hak_rd_left(&r) > sizeof text)
		return;
	PROMISE(!hak_noise_read1(&p.responder, r.pos, hak_rd_left(&r), text, peer_e) == is_true);
}

static void try_second(struct hak_rd r)
{
	struct hello_pair p = hello_pair();
	struct hak_noise before = p.initiator;
	uint8_t text[4096], keys[2][HAK_KEY_LEN];
	bool is_true = hak_rd_left(&r) == HELLO_LEN && !memcmp(r.pos, p.second, HELLO_LEN);
	enum hak_err e;

	if (hak_rd_left(&r) > sizeof text)
		return;
	e = hak_noise_read2(&p.initiator, r.pos, hak_rd_left(&r), text, keys);
	PROMISE(!e == is_true);
	if (e) {
		PROMISE(!memcmp(&before, &p.initiator, sizeof before));
		e = hak_noise_read2(&p.initiator, p.second, HELLO_LEN, text, keys);
	}
	PROMISE(!e && !memcmp(keys, p.keys, sizeof keys));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hak_rd r = hak_rd_on(data, size);

	switch (hak_rd_u8(&r)) {
	case 0:
		try_payload(r);
		break;
	case 1:
		try_first(r);
		break;
	default:
		try_second(r);
	}
	return 0;
}
