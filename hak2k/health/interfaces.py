"""The data interfaces as components of the quality factor.

Not damped: a carrier that goes is noticed within 100 ms (hak2k.netwatch), and the
kernel has its own linger for one that flutters.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from hak2k.health.monitor import Component
from hak2k.netwatch import Snapshot
from hak2k.quality import Part
from hak2k.settings import InterfaceConfig


def look(config: InterfaceConfig, snapshot: Snapshot) -> tuple[str, Fraction, str]:
    """(state, what is lost, reason)."""
    link = snapshot.links.get(config.name)
    if link is None:
        return "failed", Fraction(1), "does not exist"
    if link.working:
        return "ok", Fraction(0), ""
    return "failed", Fraction(1), "no carrier" if link.up else "is down"


class Interfaces:
    """Remembers since when each interface is as it is."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, str, float]] = {}  # state, reason, Unix time

    def components(
        self, config: Iterable[InterfaceConfig], snapshot: Snapshot, now: float
    ) -> list[Component]:
        """now: Unix time."""
        out = []
        for one in config:
            state, lost, reason = look(one, snapshot)
            seen = self._since.get(one.name)
            if seen is None or seen[:2] != (state, reason):
                seen = self._since[one.name] = (state, reason, now)
            part = Part(one.weight, lost)
            out.append(Component(one.name, "interface", state, part, seen[2], reason))
        return out
