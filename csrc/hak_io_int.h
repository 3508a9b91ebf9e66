/* hak_io_int.h - the io thread's state, of which the apply thread makes use while the
 * links are lent to it (hak_lent.c).  Whoever touches it holds io_lock. */
#ifndef HAK_IO_INT_H
#define HAK_IO_INT_H

#include <sys/socket.h>
#include "hak_engine_int.h"
#include "hak_rate.h"
#include "hak_rhythm.h"

enum { HAK_RX_BATCH = 32 };

struct hak_inbox {			/* buffers of one recvmmsg() */
	struct mmsghdr mm[HAK_RX_BATCH];
	struct iovec iov[HAK_RX_BATCH];
	struct sockaddr_storage from[HAK_RX_BATCH];
	uint8_t bytes[HAK_RX_BATCH][HAK_DGRAM_MAX + 1];	/* one more shows a long one */
};

/* What the peer may ask for; hak_io.c says how often. */
enum asked { ASKED_LISTING, ASKED_ROUND, ASKED_FLOW, ASKED_RESEND, ASKED_OFFER, ASKED_KINDS };

struct hak_io {
	struct hak_engine *e;
	struct hak_inbox in;
	struct hak_rhythm rhythm;
	uint64_t ack_due, hello_due, rekey_due;
	struct hak_ack acked;		/* what we last told */
	unsigned unacked;		/* datagrams since */
	uint64_t data_ns;		/* when the last of them came */
	bool ack_busy;
	bool control;			/* something else than DATA was read */
	struct hak_rate rates[ASKED_KINDS];
};

/* hak_io.c: read what is there, some batches at most: a flood may fill the sockets, not
 * starve the timers.  True: there is more. */
bool hak_io_read_some(struct hak_io *io, unsigned link);
/* Seal and send a body; `other`: not over the link in use, if there is another one. */
void hak_io_send(struct hak_engine *e, const uint8_t *body, const struct hak_wr *w, bool other);

/* hak_lent.c */
void hak_owe_ack(struct hak_io *io, uint64_t now);
void hak_acknowledge(struct hak_io *io, uint64_t now);

#endif
