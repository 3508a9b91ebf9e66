"""The gate of a passive node that is open before its peer's is closed.

In a planned swap the active node says that it is about to hand over (engine event
handover.prepare) and forwards on.  This node opens its gate and announces itself, so
that the switches send frames here; its table is complete, and it goes on applying what
the active node sends until the hand-over itself comes.  If none does, the gate is
closed again.

Not handled: addresses that move with the role; they cannot be in two places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hak2k.errors import HakError
from hak2k.model import Role, SyncLost

if TYPE_CHECKING:
    from hak2k.node import Node

HANDOVER_TIMEOUT_S: Final = 2.0
PREPARE_S: Final = 0.5  # of it, until the peer's gate is open


class Arming:
    def __init__(self, node: Node) -> None:
        self._node = node
        self.armed = False

    @property
    def prepare_s(self) -> float:
        """How long to wait for the peer to do so."""
        return 0.0 if self._node.config.moving else PREPARE_S

    def arm(self, term: int) -> None:
        """The peer is about to hand over."""
        node = self._node
        ready = node.state.role is Role.PASSIVE and node.state.synced
        if not ready or node.config.moving:
            return
        try:
            times = node.engine.arm(term)
        except HakError as e:
            # It is called off, or the peer waits in vain and does without.
            node.news("handover.unarmed", str(e))
            return
        self.armed = True
        us = round(times.total_ns / 1000, 1)
        node.log.emit("handover.armed", "the gate is open, as the peer's is", total_us=us)

    def done(self) -> None:
        """Whatever came of it: the gate is as the role says."""
        self.armed = False

    def disarm(self) -> None:
        """Nothing came of it, or it is complete: then this node is active by now."""
        if not self.armed:
            return
        node, self.armed = self._node, False
        node.attempt("gate", node.engine.demote)
        node.log.emit("handover.disarmed", "the peer did not hand over; the gate is closed")
        # Packets may have made ordinary entries of larvae.
        node.feed(SyncLost())
