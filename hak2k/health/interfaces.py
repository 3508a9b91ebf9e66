"""The data interfaces as components of the quality factor.

Not damped: a carrier that goes is noticed within 100 ms (hak2k.netwatch), and the
kernel has its own linger for one that flutters.

An aggregate (a bond) counts as one interface; with `members = true` each of its members
counts for its share.  A member that left it, be it that its card was pulled out, is one
that does not work, until the configuration is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from hak2k.health.monitor import Component
from hak2k.netwatch import Snapshot
from hak2k.quality import Part
from hak2k.settings import InterfaceConfig

Members = dict[str, bool]
"""Member to whether it works."""


def look(
    config: InterfaceConfig, snapshot: Snapshot, members: Members
) -> tuple[str, Fraction, str]:
    """(state, what is lost, reason)."""
    link = snapshot.links.get(config.name)
    if link is None:
        return "failed", Fraction(1), "does not exist"
    if not link.working:
        return "failed", Fraction(1), "no carrier" if link.up else "is down"
    down = [name for name, works in members.items() if not works]
    if not down:
        return "ok", Fraction(0), ""
    count = len(members)
    reason = f"{count - len(down)} of {count} members work, not {', '.join(down)}"
    if config.members:
        return "degraded", Fraction(len(down), count), reason
    return "ok", Fraction(0), reason


def member_news(old: Snapshot, new: Snapshot, name: str) -> Iterator[tuple[str, str, str]]:
    """(event, text, member) for each member of an aggregate that changed."""
    before, now = old.members.get(name, {}), new.members.get(name, {})
    for member in sorted({*before, *now}):
        worked, works = before.get(member, False), now.get(member, False)
        if worked != works:
            id, word = ("member.up", "works") if works else ("member.down", "does not work")
            yield id, f"{member} of {name} {word}", member


class Interfaces:
    """Remembers since when each interface is as it is, and its members."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, str, float]] = {}  # state, reason, Unix time
        self._members: dict[str, Members] = {}

    def forget(self) -> None:
        """Members that left are no longer missed."""
        self._members.clear()

    def components(
        self, config: Iterable[InterfaceConfig], snapshot: Snapshot, now: float
    ) -> list[Component]:
        """now: Unix time."""
        out = []
        for one in config:
            known = dict.fromkeys(self._members.get(one.name, ()), False)
            members = self._members[one.name] = known | snapshot.members.get(one.name, {})
            state, lost, reason = look(one, snapshot, members)
            seen = self._since.get(one.name)
            if seen is None or seen[:2] != (state, reason):
                seen = self._since[one.name] = (state, reason, now)
            part = Part(one.weight, lost)
            out.append(Component(one.name, "interface", state, part, seen[2], reason))
        return out
