"""Which of two nodes shall be active: three orders, for three situations.  Pure.

`hak2k.election` says when each is used, and why it is this one.  Each returns a number
(> 0 we, < 0 the peer, 0 equal) and the criterion that decided.
"""

from __future__ import annotations

from typing import Final

from hak2k.model import ElectionConfig, Forced, Peer, State

_FORCED_RANK: Final = {Forced.ACTIVE: 2, Forced.NO: 1, Forced.PASSIVE: 0}
_Criteria = tuple[tuple[str, int, int], ...]


def _first_difference(criteria: _Criteria) -> tuple[int, str]:
    for name, ours, theirs in criteria:
        if ours != theirs:
            return ours - theirs, f"{name} {ours} to {theirs}"
    return 0, "equal"


def _by_serial(c: ElectionConfig, p: Peer) -> tuple[int, str]:
    return (1, "lower serial") if c.serial < p.serial else (-1, "higher serial")


def _forced(s: State, p: Peer) -> tuple[str, int, int]:
    return ("forced rank", _FORCED_RANK[s.forced], _FORCED_RANK[p.forced])


def none_active_order(c: ElectionConfig, s: State, p: Peer) -> tuple[int, str]:
    """Of two nodes neither of which is active, which shall be."""
    order, why = _first_difference(
        (
            _forced(s, p),
            ("ready", int(s.synced), int(p.complete)),
            ("quality", s.quality, p.quality),
            ("priority", s.priority, p.priority),
        )
    )
    return (order, why) if order else _by_serial(c, p)


def both_active_order(c: ElectionConfig, s: State, p: Peer) -> tuple[int, str]:
    """Of two active nodes, which stays."""
    order, why = _first_difference(
        (
            _forced(s, p),
            ("quality", s.quality, p.quality),
            ("term", s.term, p.term),
            ("priority", s.priority, p.priority),
        )
    )
    return (order, why) if order else _by_serial(c, p)


def preference(s: State, p: Peer) -> tuple[int, str]:
    """Whether an active node and a ready peer should swap: only if < 0."""
    return _first_difference(
        (
            _forced(s, p),
            ("quality", s.quality, p.quality),
            ("priority", s.priority, p.priority),
        )
    )
