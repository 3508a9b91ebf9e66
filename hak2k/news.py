"""Engine events that are only logged."""

from __future__ import annotations

from typing import Final

# Id, there and in the log: text.
NEWS: Final = {
    "overrun": "the kernel's event queue overran",
    "table.full": "the conntrack table is full",
    "apply.error": "the kernel refused an entry",
    "slip": "our heartbeat timer was late",
    "hello.refused": "a handshake was refused",
    "sync.sent": "a full copy was sent",
    "masquerade.trapped": "a device or address went; the peer keeps what was masqueraded to it",
    "policy.differs": "the two nodes' [stream] policies differ: compare protocols, exclude_mark, "
    "exclude_local, exclude_networks and min_duration_s",
    "lease.lapsed": "this node was late; the kernel closed its gate until the standby answers",
    "lease.regained": "the standby did not take over; the gate is open again",
    "split.offered": "what began here during the split was offered to the node that stays active",
    "sweep.done": "all taken-over entries have natural timeouts",
}
