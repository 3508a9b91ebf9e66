/* hak_wire.h - K2K version 1: everything that travels between the two nodes.
 *
 * docs/wire.md is the normative text; this header is its code.  Numbers are
 * big-endian.  Ids are never reused; whoever meets an unknown record type or
 * field skips it by its length and counts it.
 *
 *  datagram:  header (16, clear) | sealed payload | tag (16)
 *
 *   0               1               2               3
 *   0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7
 *  +---------------+---------------+-------------------------------+
 *  | version = 1   | kind          | cluster id                    |
 *  +---------------+---------------+-------------------------------+
 *  | session id (chosen by the receiver of this datagram)          |
 *  +---------------------------------------------------------------+
 *  | sequence, 64 bits, one counter per kind, direction, session   |
 *  |                                                               |
 *  +---------------------------------------------------------------+
 *
 *  payload of DATA and CONTROL: records, one after the other
 *
 *  +---------------+---------------+----------------------------- - -
 *  | type          | length n      | n bytes of body
 *  +---------------+---------------+----------------------------- - -
 *  a length byte of 255 means: two more bytes give the length (255..65535)
 */
#ifndef HAK_WIRE_H
#define HAK_WIRE_H

#include <assert.h>
#include "hak_buf.h"
#include "hak_err.h"
#include "hak_flow.h"

enum {
	HAK_WIRE_VERSION = 1,
	HAK_PORT = 44242,

	HAK_HDR_LEN = 16,
	HAK_TAG_LEN = 16,
	HAK_DGRAM_MAX = 1432,	/* 1500 - IPv6 - UDP, and 20 to spare; never more,
				 * whatever the link's MTU claims */
	HAK_DGRAM_MIN = 548,	/* 576 - IPv4 - UDP: every IPv4 link carries it */
	HAK_PAYLOAD_MAX = HAK_DGRAM_MAX - HAK_HDR_LEN - HAK_TAG_LEN,
};

struct hak_wire_hdr {
	uint8_t version;
	uint8_t kind;
	uint8_t cluster[2];
	uint8_t session[4];
	uint8_t seq[8];
};
static_assert(sizeof(struct hak_wire_hdr) == HAK_HDR_LEN, "clear header is 16 bytes");
static_assert(offsetof(struct hak_wire_hdr, kind) == 1, "wire layout");
static_assert(offsetof(struct hak_wire_hdr, cluster) == 2, "wire layout");
static_assert(offsetof(struct hak_wire_hdr, session) == 4, "wire layout");
static_assert(offsetof(struct hak_wire_hdr, seq) == 8, "wire layout");

enum hak_kind {			/* hak_wire_hdr.kind, and the lane of the nonce */
	HAK_KIND_HELLO = 1,	/* handshake, first message; session = sender's id */
	HAK_KIND_WELCOME = 2,	/* handshake, second message */
	HAK_KIND_DATA = 3,	/* the ordered stream; resent byte for byte */
	HAK_KIND_CONTROL = 4,	/* heartbeats, acknowledgements, requests */
};

enum hak_rec {			/* record types */
	/* stream (DATA) */
	HAK_REC_FLOW_NEW = 1,	/* a connection was made; all that is known of it */
	HAK_REC_FLOW_UPDATE = 2,/* only what changed */
	HAK_REC_FLOW_DESTROY = 3,
	HAK_REC_FLOW_SYNC = 4,	/* as NEW, but found by listing the table */
	HAK_REC_EXP_NEW = 8,
	HAK_REC_EXP_DESTROY = 9,
	HAK_REC_SYNC_BEGIN = 16,/* u32 generation [, u32 round, u8 bits: summed up so] */
	HAK_REC_SYNC_END = 17,	/* u32 generation, u64 entries sent */
	HAK_REC_HANDOVER = 18,	/* u32 term: nothing of mine follows; take over */
	HAK_REC_SYNC_LOST = 19,	/* u32 generation or 0: events, or a listing, were lost
				 * here; ask for a copy */
	HAK_REC_RECON_BEGIN = 20,	/* comparison of the tables, see hak_digest.h: */
	HAK_REC_RECON_LISTED = 21,	/* the sender has summed up its table */
	HAK_REC_RECON_CLOSE = 22,	/* as of here; sums follow */
	HAK_REC_RECON_SUMS = 23,
	HAK_REC_RECON_MARKED = 24,	/* slots that a copy is wanted of were noted */
	HAK_REC_RECON_BRIEF = 26,	/* sums again, less of each */
	HAK_REC_OFFERED = 25,	/* u32 number of the OFFER, u32 taken, u32 refused */

	/* control (CONTROL) */
	HAK_REC_HEARTBEAT = 64,
	HAK_REC_STATUS = 65,	/* what the election needs to know of the sender */
	HAK_REC_ACK = 66,	/* u64 next stream sequence wanted */
	HAK_REC_NACK = 67,	/* n * (u64 first, u16 count) missing datagrams */
	HAK_REC_SYNC_WANT = 68,	/* u32 generation [, u32 round [, u32 sums]]: list your table
				 * for me [only the slots that were marked in that round]
				 * [and sum up what you send, as that round] */
	HAK_REC_FLOW_WANT = 69,	/* a tuple whose full record is wanted */
	HAK_REC_BYE = 70,	/* orderly end of the sender's process */
	HAK_REC_RECON_WANT = 71,	/* compare your table with mine */
	HAK_REC_RECON_CLOSE_WANT = 72,	/* I have summed up mine: close the round */
	HAK_REC_RECON_ASK = 73,	/* nodes whose children's sums are wanted */
	HAK_REC_RECON_MARK = 74,/* slots whose entries are wanted */
	HAK_REC_VERIFY = 75,	/* active to passive: compare now */
	HAK_REC_TABLE = 76,	/* passive to active: how equal the tables are */
	HAK_REC_PREPARE = 77,	/* active to passive: HANDOVER comes soon; open your gate */
	HAK_REC_ARMED = 78,	/* passive to active: u32 term of PREPARE: it is open */
	HAK_REC_OFFER = 79,	/* u32 number, then FLOW_SYNC records: take these */
	HAK_REC_RECON_ASK_BRIEF = 81,	/* as RECON_ASK, to be answered by RECON_BRIEF */
	HAK_REC_LINKS = 80,	/* u8: a bit for each of the sender's links that is down */
};

/* Body of a flow record and of an expectation record:
 *
 *  +---------------+- - - - - - - - + - - - - - - - - -+-----------------+
 *  | shape         | l4proto (1)    | zone (2)         | tuple           |
 *  +---------------+- - - - - - - - + - - - - - - - - -+-----------------+
 *  | fields: each one byte (id << 4 | length; 15: a length byte of 15..255
 *  | follows), then the value
 *
 *  tuple (of a flow: the original one): src, dst (4 or 16 each), then sport,
 *  dport (2 each) if the protocol has them, or ICMP id (2), type, code.
 *
 *  shape bits: */
enum {
	HAK_SHAPE_V6 = 0x01,
	HAK_SHAPE_ZONE = 0x06,	/* enum hak_zone_dir << 1; not 0: the zone follows */
	HAK_SHAPE_ZONE_SHIFT = 1,
	HAK_SHAPE_PROTO = 0x18,	/* enum hak_shape_proto << 3 */
	HAK_SHAPE_PROTO_SHIFT = 3,
	/* Others are reserved: a record that bears one is skipped and counted. */
	HAK_SHAPE_KNOWN = 0x1f,
};

enum {
	HAK_LONG_RECORD = 255,	/* a record's length byte: two more bytes follow */
	HAK_LONG_FIELD = 15,	/* a field's length nibble: a byte follows */
};

/* The protocols of nearly all connections need no byte of their own. */
enum hak_shape_proto {
	HAK_SHAPE_OTHER = 0,	/* l4proto follows, and is none of these: */
	HAK_SHAPE_TCP = 1,
	HAK_SHAPE_UDP = 2,
	HAK_SHAPE_ICMP = 3,	/* ICMP over IPv4, ICMPv6 over IPv6 */
};

/* Fields of flow records.  What is fixed at a connection's birth travels in NEW
 * and SYNC alone: the reply tuple (only the parts in which it is not the inverse
 * of the original one, that is NAT), helper and master.  Status and mark that are
 * absent are zero in NEW and SYNC and unchanged in UPDATE. */
enum hak_field {
	HAK_FIELD_REPLY_SRC = 0,	/* address [, 2 sport] */
	HAK_FIELD_REPLY_DST = 1,	/* address [, 2 dport] */
	HAK_FIELD_REPLY_PORTS = 2,	/* 4: sport, dport (or id, type, code), where the
					 * two above do not say it */
	HAK_FIELD_STATUS = 3,		/* 1 or more: enum hak_wire_status_bit */
	HAK_FIELD_TCP = 4,		/* 1 status << 4 | state [, 1 flags o/r nibbles
					 * [, 1 wscale o/r nibbles]] */
	HAK_FIELD_SCTP = 5,		/* 1 state [, 4 vtag original, 4 vtag reply] */
	HAK_FIELD_DCCP = 6,		/* 1 state, 1 role, 8 handshake sequence */
	HAK_FIELD_MARK = 7,		/* 1..4, leading zeroes cut */
	HAK_FIELD_LABELS = 8,		/* 1..16, trailing zeroes cut */
	HAK_FIELD_HELPER = 9,		/* name, 1..15, no NUL */
	HAK_FIELD_MASTER = 10,		/* l4proto, tuple as above */
	HAK_FIELD_SEQADJ = 11,		/* 24: pos, before, after; original, reply */
	HAK_FIELD_SYNPROXY = 12,	/* 12: isn, its, tsoff */
	/* 15 is for ever the escape to a second id byte, for later versions */
	HAK_FIELD_ESCAPE = 15,
};

/* Fields of EXP_NEW; EXP_DESTROY bears the expected tuple alone.  Numbers that
 * are absent are zero. */
enum hak_exp_field {
	HAK_EXP_FIELD_MASTER = 0,	/* l4proto, tuple: mandatory */
	HAK_EXP_FIELD_MASK = 1,		/* src address [, 2 sport]: mandatory.  The kernel
					 * keeps no mask of the destination: all ones */
	HAK_EXP_FIELD_FLAGS = 2,	/* 4: NF_CT_EXPECT_* but USERSPACE */
	HAK_EXP_FIELD_CLASS = 3,	/* 4 */
	HAK_EXP_FIELD_TIMEOUT = 4,	/* 4: seconds left when it was sent */
	HAK_EXP_FIELD_NAT = 5,		/* 1 direction, 1 l4proto, address [, 2 port] */
	HAK_EXP_FIELD_FN = 6,		/* name, 1..31, no NUL */
	HAK_EXP_FIELD_HELPER = 7,	/* name, 1..15, no NUL */
};

/* Status bits in K2K.  They are facts that, once true, stay true ("seen", and
 * EXPECTED from birth), so an absent byte and a zero byte say the same: nothing.
 * Since they fit a nibble they ride in TCP's state byte, which saves two bytes in
 * each record of a TCP life.  CONFIRMED is implied; the NAT bits follow from the
 * tuples; SEQ_ADJUST follows from the field; the others are the kernel's own. */
enum hak_wire_status_bit {
	HAK_WS_EXPECTED = 0x01,
	HAK_WS_SEEN_REPLY = 0x02,
	HAK_WS_ASSURED = 0x04,
	HAK_WS_HELPER = 0x08,
	HAK_WS_NIBBLE = 0x0f,		/* what TCP's state byte has room for */
};

/* A decoded record. */
struct hak_record {
	uint8_t type;			/* enum hak_rec */
	union {
		struct hak_flow flow;	/* FLOW_*, and FLOW_WANT (tuple only) */
		struct hak_expect expect;
		struct {
			uint32_t generation, round;
			uint64_t entries;
			uint32_t sums;	/* the round that its records are summed up as, 0: none */
			uint8_t bits;	/* of that */
		} sync;
		uint32_t term;
		struct { uint32_t term; uint64_t seq; } prepare;
		struct hak_rd body;	/* CONTROL and RECON records other than the
					 * above: parsed by hak_control.c */
	};
};

/* Append one flow record.  `type` is one of HAK_REC_FLOW_*; NEW and SYNC need
 * HAK_HAS_REPLY; for UPDATE only what `f->have` names is written, and nothing that
 * is fixed at birth; for DESTROY and WANT only the identity.  For expectations
 * `type` is HAK_REC_EXP_*.
 * HAK_ESPACE: the writer is as it was before the call; HAK_EINVAL likewise. */
enum hak_err hak_wire_put_flow(struct hak_wr *w, uint8_t type, const struct hak_flow *f);
enum hak_err hak_wire_put_expect(struct hak_wr *w, uint8_t type, const struct hak_expect *e);
/* Append a record with a ready-made body of at most 65535 bytes. */
enum hak_err hak_wire_put_raw(struct hak_wr *w, uint8_t type, const void *body, size_t n);

/* Take the next record.  HAK_OK: *out is filled.  HAK_ESKIP: an unknown type (or
 * an unknown shape) was stepped over; the reader stands behind it.  HAK_ETRUNC,
 * HAK_EFORMAT: the rest of the payload is unusable, *out is undefined.  Unknown
 * fields inside a known record are stepped over, counted in *skipped_fields
 * (which may be NULL). */
enum hak_err hak_wire_get(struct hak_rd *r, struct hak_record *out,
			  unsigned *skipped_fields);

/* The replicable bits of ctnetlink's status (IPS_*) as K2K bits and back; back
 * always with IPS_CONFIRMED, and unknown K2K bits ignored. */
uint32_t hak_wire_status(uint32_t ips);
uint32_t hak_ips_status(uint32_t wire);

const char *hak_rec_name(uint8_t type);	/* for logs and docs; "?" if unknown */

#endif
