"""The interfaces of the HA links: what their state says sooner than silence does.

A link that is down, or has lost its carrier, is told to the core at once: the stream
moves to the other one, and the peer hears of it there.  What the core cannot know by
itself is whose fault it is that nothing is heard: a node whose HA interfaces are all
administratively down made itself deaf, and does not accuse its peer (csrc/hak_judge.c).
"""

from __future__ import annotations

from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from hak2k.netwatch import Snapshot

if TYPE_CHECKING:
    from hak2k.node import Node


BUSY_S: Final = 0.02


class LinkState(IntEnum):
    """As in csrc/hak_engine.h."""

    WORKS = 0
    NO_CARRIER = 1
    DOWN = 2
    """Administratively, or there is no such interface."""


# Of event link.down: why.
WHY: Final = (
    "is silent",
    "has no carrier",
    "is down on this node",
    "is down on the peer",
)


class HaLinks:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._states: list[LinkState] = [LinkState.WORKS] * len(node.config.link)

    def look(self, seen: Snapshot) -> None:
        """Interfaces may have changed."""
        if self._node.busy:  # the engine is in use; look again
            self._node.later("links", BUSY_S, lambda: self.look(self._node.snapshot))
            return
        deaf = self.deaf
        for i, link in enumerate(self._node.config.link):
            state = _state(seen, link.interface)
            if state is not self._states[i]:
                self._states[i] = state
                self._node.attempt("link", partial(self._node.engine.set_link, i, state))
        if self.deaf and not deaf:
            text = "all HA links are down on this node: while it is passive it does not take over"
            self._node.log.emit("link.deaf", text)

    def text(self, index: int) -> str:
        """Of a link's interface: "works", "no carrier", "down"."""
        return self._states[index].name.lower().replace("_", " ")

    @property
    def deaf(self) -> bool:
        return all(state is LinkState.DOWN for state in self._states)


def _state(seen: Snapshot, interface: str) -> LinkState:
    link = seen.links.get(interface)
    if link is None or not link.up:
        return LinkState.DOWN
    return LinkState.WORKS if link.working else LinkState.NO_CARRIER
