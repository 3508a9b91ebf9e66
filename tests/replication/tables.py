"""When a passive node's table is what the active node's demands."""

from __future__ import annotations

from typing import Any

from hak2k.lab import Entry, Table, until
from hak2k.lab import ctnl as c
from tests.pair import Pair, Side

GRE, TCP = 47, 6
LARVAL = 8 * 86400
# A test is over long before a larva's clock has run down by as much.
LARVAL_SLACK = 3600
NAT_DONE = c.SRC_NAT_DONE | c.DST_NAT_DONE
# Which of these a connection is in is not told (csrc/hak_tcp.h).
OPENS = ("SYN_SENT", "SYN_RECV", "SYN_SENT2")
CLOSES = ("FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE")
TOLD = c.TCP_WINDOW_SCALE | c.TCP_SACK_PERM | c.TCP_CLOSE_INIT


def carried(entry: Entry) -> dict[str, Any]:
    """What of an entry ctnetlink can write into another kernel, by name.

    Without translation, "looked for translations" cannot be written.
    """
    fields = entry.identity()
    fields["status"] = entry.status & ~(c.DYING | c.OFFLOAD | (0 if entry.natted else NAT_DONE))
    return fields


def larva_of(entry: Entry) -> dict[str, Any]:
    """What a passive kernel must hold for an entry of the active one, by name.

    Everything is equal but for what makes a larva of it: TCP checks no windows, and
    remembers none; GRE's timeout is fixed.
    """
    wanted = carried(entry)
    wanted["status"] &= ~c.FIXED_TIMEOUT
    if entry.orig.proto == GRE:
        wanted["status"] |= c.FIXED_TIMEOUT
    if entry.tcp is not None:
        flags = [f & TOLD | c.TCP_BE_LIBERAL for f in entry.tcp.flags]
        wanted["tcp.flags"] = tuple(flags)
        if entry.tcp.state in OPENS:  # and what the answer said is not told
            wanted["tcp.state"] = "SYN_RECV"
            wanted["status"] |= c.SEEN_REPLY
            del wanted["tcp.flags"], wanted["tcp.wscale"]
    return wanted


def faults(active: Entry, passive: Entry | None, used: bool = False) -> list[str]:
    """How `passive` fails to be the larva of `active`; empty if it does not.

    used: the node may have seen packets of it, for it was active itself.
    """
    if passive is None:
        return [f"missing: {active.orig}"]
    have, want = carried(passive), larva_of(active)
    if have["tcp.state"] in CLOSES and want["tcp.state"] in CLOSES:
        have["tcp.state"] = want["tcp.state"]
    found = [
        f"{active.orig}: {name}: has {have[name]!r}, should be {value!r}"
        for name, value in want.items()
        if have[name] != value
    ]
    if not passive.timeout > LARVAL - LARVAL_SLACK:
        found.append(f"{active.orig}: timeout {passive.timeout}")
    counters = (passive.counters_orig, passive.counters_reply)
    if not used and any(n for pair in counters for n in pair or ()):
        found.append(f"{active.orig}: saw packets: {passive.counters_orig}")
    return found


def replicable(side: Side) -> Table:
    """The entries of a node that concern both."""
    return side.node.conntrack(lambda e: not e.mark & 0x100)


def table_faults(two: Pair, active: Side | None = None, used: bool = False) -> list[str]:
    """How the passive table fails to be the active one's copy."""
    active = active or two.a
    mine, theirs = replicable(active), replicable(two.other(active))
    found = [f"extra: {theirs[k].orig}" for k in theirs.keys() - mine.keys()]
    for key, entry in mine.items():
        found += faults(entry, theirs.get(key), used)
    return sorted(found)


def equal(two: Pair, active: Side | None = None, timeout: float = 5.0, used: bool = False) -> None:
    """Wait until the passive table is a copy of the active one."""
    until(
        lambda: not table_faults(two, active, used),
        timeout,
        "equal tables",
        interval=0.05,
        detail=lambda: "\n".join([*table_faults(two, active, used)[:20], two.report()]),
    )


def arrives(two: Pair, entry: Entry, timeout: float = 3.0) -> Entry:
    """Wait until the passive kernel has what the active one has under this key.

    Returns the active one's entry.
    """

    def found() -> list[str]:
        here = two.a.node.ct.get(entry.orig, entry.zone)
        assert here is not None, "the active kernel does not have it"
        return faults(here, two.b.node.ct.get(entry.orig, entry.zone))

    until(
        lambda: not found(),
        timeout,
        "an equal entry",
        detail=lambda: "\n".join([*found(), two.report()]),
    )
    here = two.a.node.ct.get(entry.orig, entry.zone)
    assert here is not None
    return here


def leaves(two: Pair, entry: Entry, timeout: float = 3.0) -> None:
    """Wait until the passive kernel no longer has this entry."""
    until(
        lambda: two.b.node.ct.get(entry.orig, entry.zone) is None,
        timeout,
        "the entry to go",
        detail=two.report,
    )
