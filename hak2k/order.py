"""Which of two nodes shall be active: three orders, for three situations.  Pure.

`hak2k.election` says when each is used, and why it is this one.  Each returns a number
(> 0 we, < 0 the peer, 0 equal) and the criterion that decided.  docs/election.md is
made from ORDERS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hak2k.model import ElectionConfig, Forced, Peer, State

_FORCED_RANK: Final = {Forced.ACTIVE: 2, Forced.NO: 1, Forced.PASSIVE: 0}

_OURS_AND_THEIRS: Final[dict[str, Callable[[State, Peer], tuple[int, int]]]] = {
    "forced rank": lambda s, p: (_FORCED_RANK[s.forced], _FORCED_RANK[p.forced]),
    "ready": lambda s, p: (int(s.synced), int(p.complete)),
    "quality": lambda s, p: (s.quality, p.quality),
    "term": lambda s, p: (s.term, p.term),
    "priority": lambda s, p: (s.priority, p.priority),
}

_NONE_ACTIVE: Final = ("forced rank", "ready", "quality", "priority")
_BOTH_ACTIVE: Final = ("forced rank", "quality", "term", "priority")
_PREFERENCE: Final = ("forced rank", "quality", "priority")

# situation, criteria from the first that differs, what decides if none does
ORDERS: Final = (
    ("none is active: who shall be", _NONE_ACTIVE, "the lower serial"),
    ("both are active: who stays", _BOTH_ACTIVE, "the lower serial"),
    ("one is active, the other ready: is it better", _PREFERENCE, "nobody moves"),
)


def _first_difference(criteria: tuple[str, ...], s: State, p: Peer) -> tuple[int, str]:
    for name in criteria:
        ours, theirs = _OURS_AND_THEIRS[name](s, p)
        if ours != theirs:
            return ours - theirs, f"{name} {ours} to {theirs}"
    return 0, "equal"


def _by_serial(c: ElectionConfig, p: Peer) -> tuple[int, str]:
    return (1, "lower serial") if c.serial < p.serial else (-1, "higher serial")


def none_active_order(c: ElectionConfig, s: State, p: Peer) -> tuple[int, str]:
    """Of two nodes neither of which is active, which shall be."""
    order, why = _first_difference(_NONE_ACTIVE, s, p)
    return (order, why) if order else _by_serial(c, p)


def both_active_order(c: ElectionConfig, s: State, p: Peer) -> tuple[int, str]:
    """Of two active nodes, which stays."""
    order, why = _first_difference(_BOTH_ACTIVE, s, p)
    return (order, why) if order else _by_serial(c, p)


def preference(s: State, p: Peer) -> tuple[int, str]:
    """Whether an active node and a ready peer should swap: only if < 0."""
    return _first_difference(_PREFERENCE, s, p)
