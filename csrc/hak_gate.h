/* hak_gate.h - opening and closing the gate: one nftables transaction, raw.
 *
 * The table, its set and its chains are made by hak2k/gate.py.  Here is only the
 * flip: the set "open" holds the device types that may pass; empty means closed.
 * A prepared batch on an open socket, because this is what a swap waits for:
 * 30-50 us at any size of the conntrack table.
 *
 * The set "leaving" is of the same kind: while it is not empty, what leaves bears a
 * hardware address of no account, so that no switch learns ours from it.
 */
#ifndef HAK_GATE_H
#define HAK_GATE_H

#include <net/if.h>
#include "hak_err.h"
#include "hak_nl.h"

enum { HAK_GATE_TYPES = 8, HAK_GATE_NAME = 32 };

struct hak_gate {
	struct hak_nl nl;
	char table[HAK_GATE_NAME];		/* family netdev */
	uint16_t types[HAK_GATE_TYPES];		/* ARPHRD_* of the data interfaces */
	unsigned n_types;
};

/* Looks the interfaces' types up.  HAK_ESYS: errno ENODEV for a missing one. */
enum hak_err hak_gate_init(struct hak_gate *g, const char *table,
			   const char *const *interfaces, unsigned n);
void hak_gate_free(struct hak_gate *g);
/* HAK_ESYS: errno as nftables said it (ENOENT: the table is not there).  Opening
 * an open gate and closing a closed one succeed. */
enum hak_err hak_gate_flip(struct hak_gate *g, bool open);
/* The same for the set "leaving". */
enum hak_err hak_gate_leave(struct hak_gate *g, bool leaving);
/* 1 open, 0 closed, -1 table or set missing, -2 error (errno). */
int hak_gate_probe(struct hak_gate *g);

#endif
