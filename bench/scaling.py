"""``python -m bench scaling``: what a larger firewall would need, from measured costs.

Nothing is measured here.  Costs come from bench/out where something was measured, else
from what is stated in ``FIGURES``; both are printed.  What no measurement of this suite
can tell (how large connections are, what forwarding a packet costs on a real network
card) is an assumption, is printed as such, and can be changed on the command line.
docs/scaling.md explains what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from bench.report import Table

EVENTS = 5  # of a life, by the default event policy
PAYLOAD = 1400  # of a datagram, full
FRAME = 8 + 20 + 14 + 4 + 20 + 32  # UDP, IPv4, Ethernet, its checksum, its gaps; header and tag
EVENT_TRUESIZE = 1280  # of an event that waits in a socket's buffer
EVENT_BUFFER = 128 << 20
WINDOW = 4096  # datagrams under way
SLOTS = 1 << 20
SLOT_BYTES = 8
PACE = 2  # a listing takes half of its thread's time
BUSY = 0.7  # how much of a thread may be used all the time
EVENT_STALL_S, STREAM_STALL_S = 0.25, 0.5  # what buffers must bear
JOIN_S = 600
DIRTY = 0.5  # share of slots that a round may leave dirty
LINK = 1e9

Contents = Mapping[str, Any]


@dataclass(frozen=True)
class Costs:
    """Microseconds of CPU, or bytes, of one life or one entry.

    Attributes:
        events: what making events costs forwarding, one life.
        listener: what each further socket with a filter adds to that.
        capture, apply, io: the engine's threads, one life.
        bytes: on the wire, sealed, one life.
        writer: kernel alone, one life from one writer.
        writers: the same from two, by the clock: 1 / writer if nothing is gained.
        list, insert: kernel alone, one entry.
        copied: bytes on the wire for one entry of a copy.
        entry: bytes of kernel memory.
        sweep: one entry, after a swap.
        packet: what forwarding a packet costs, assumed.
    """

    events: float
    listener: float
    capture: float
    apply: float
    io: float
    bytes: float
    writer: float
    writers: float
    list: float
    insert: float
    copied: float
    entry: float
    sweep: float
    packet: float


@dataclass(frozen=True)
class Load:
    """A firewall's traffic.

    Attributes:
        mean: bytes of a connection, both ways, headers included.
        packet: bytes of a packet.
        entries: connections in the table.
    """

    gbit: float = 100
    mean: float = 100_000
    entries: int = 10_000_000
    packet: float = 700

    @property
    def bytes(self) -> float:
        """A second."""
        return self.gbit * 1e9 / 8

    @property
    def lives(self) -> float:
        return self.bytes / self.mean


def _largest(sizes: Mapping[str, Any]) -> tuple[int, Any]:
    """Of those named by a number alone."""
    known = {int(text.replace(",", "")): own for text, own in sizes.items() if " " not in text}
    return max(known), known[max(known)]


def _life(c: Contents) -> Any:
    return _largest(c["cost"]["rates"])[1]["median"]


def _copy(c: Contents, of: Callable[[Any], float]) -> float:
    size, own = _largest(c["bulk"]["sizes"])
    return of(own) / size


def _insert(c: Contents) -> float:
    """In the largest table that was filled: the larger, the dearer."""
    size, own = _largest(c["flip"]["sizes"])
    return float(own["fill_ns"]) / size / 1000


# Field, what it is, what is taken if nothing was measured, and where it stands, in ns or
# bytes.
FIGURES: Final[Sequence[tuple[str, str, float, Callable[[Contents], float] | None]]] = (
    ("events", "making a life's events", 23.3,
     lambda c: (_life(c)["hak2k"]["load"] - _life(c)["off"]["load"]) / 1000),
    ("listener", "each further filtered socket, a life", 1.3,
     lambda c: (c["shards"]["median"]["listeners, eight, by hash"]["forward"]
                - c["shards"]["median"]["listeners, one"]["forward"]) / 7000),
    ("capture", "capture thread, a life", 10.6,
     lambda c: _life(c)["hak2k"]["active.hak-capture"] / 1000),
    ("apply", "apply thread, a life", 11.5,
     lambda c: _life(c)["hak2k"]["passive.hak-apply"] / 1000),
    ("io", "passive io thread, a life", 3.0,
     lambda c: _life(c)["hak2k"]["passive.hak-io"] / 1000),
    ("bytes", "bytes of a life, sealed", 97,
     lambda c: _life(c)["hak2k"]["payload"]),
    ("writer", "kernel alone, a life, one writer", 10.4,
     lambda c: 1e6 / c["shards"]["median"]["writers, lean, one"]["rate"]),
    ("writers", "the same, two writers, by the clock", 9.2,
     lambda c: 1e6 / c["shards"]["median"]["writers, lean, two"]["rate"]),
    ("list", "kernel alone, listing an entry", 3.7,
     lambda c: _copy(c, lambda own: own["floors"]["list"]) / 1000),
    ("insert", "kernel alone, writing an entry", 7.7,
     _insert),
    ("copied", "bytes of an entry copied", 25,
     lambda c: _copy(c, lambda own: own["bytes"])),
    ("entry", "kernel's bytes of an entry", 407,
     lambda c: _largest(c["memory"]["sizes"])[1]["hak2k"]["entry"]),
    ("sweep", "sweep after a swap, an entry", 6.0, None),
    ("packet", "forwarding a packet (assumed)", 1.0, None),
)  # fmt: skip


def costs(contents: Contents) -> tuple[Costs, dict[str, bool]]:
    """Costs as measured, and which of them were."""
    values, measured = {}, {}
    for name, _, stated, found in FIGURES:
        values[name], measured[name] = stated, False
        if found is not None:
            try:
                value = float(found(contents))
            except (KeyError, TypeError, ValueError):
                continue
            if value > 0 and math.isfinite(value):
                values[name], measured[name] = value, True
    return Costs(**values), measured


def dirty(lives: float, seconds: float, slots: float) -> float:
    """The share of slots that records hit in that time."""
    return 1 - math.exp(-lives * seconds / slots)


def listing_s(entries: int, c: Costs) -> float:
    """How long one listing of a table takes, at its pace."""
    return entries * c.list * PACE / 1e6


def join_s(load: Load, c: Costs, each: float) -> float:
    """Writing a whole table beside the live stream, whose lives take ``each`` us."""
    left = 1 - load.lives * each / 1e6
    return load.entries * c.insert / 1e6 / left if left > 0 else math.inf


@dataclass(frozen=True)
class Limit:
    """Where something is no longer enough.

    Attributes:
        lives: how many a second it bears, with one stream.
        shares: whether several shards bear as many times more.
        most: what no number of shards exceeds.
        stream: whether it is a stream's; else more slots are a cure as well.
    """

    name: str
    lives: float
    shares: bool
    most: float = math.inf
    stream: bool = True

    def at(self, shards: int) -> float:
        return min(self.most, self.lives * (shards if self.shares else 1))


def limits(load: Load, c: Costs) -> list[Limit]:
    """The first to break first, one stream."""
    lock = 1e6 / min(c.writer, c.writers)  # what all writers together reach
    writing = load.entries * c.insert / 1e6 / JOIN_S
    found = [
        Limit(f"comparison: {DIRTY:.0%} of slots dirty",
              -math.log(1 - DIRTY) * SLOTS / listing_s(load.entries, c), True, stream=False),
        Limit(f"capture thread, {BUSY:.0%} busy", BUSY * 1e6 / c.capture, True),
        Limit(f"apply thread, {BUSY:.0%} busy", BUSY * 1e6 / c.apply, True, BUSY * lock),
        Limit(f"joining within {JOIN_S} s", max(0.0, 1 - writing) * 1e6 / c.apply, True,
              max(0.0, 1 - writing) * lock),
        Limit(f"io thread, {BUSY:.0%} busy", BUSY * 1e6 / c.io, True),
        Limit(f"event buffer, {EVENT_STALL_S} s unread",
              EVENT_BUFFER / EVENT_TRUESIZE / EVENTS / EVENT_STALL_S, True),
        Limit(f"window, {STREAM_STALL_S} s not applied",
              WINDOW * PAYLOAD / c.bytes / STREAM_STALL_S, True),
        Limit(f"link of 1 Gbit/s, {BUSY:.0%} used",
              BUSY * LINK / 8 / (c.bytes * (1 + FRAME / PAYLOAD)), False),
    ]  # fmt: skip
    return sorted(found, key=lambda limit: limit.lives)


def shards_for(load: Load, c: Costs, most: int = 16) -> int:
    """The least power of two after which no stream breaks where shards would help."""
    shards, streams = 1, [limit for limit in limits(load, c) if limit.stream]
    while shards < most and any(
        limit.at(shards) < min(load.lives, limit.at(2 * shards)) for limit in streams
    ):
        shards *= 2
    return shards


def needs(load: Load, c: Costs, shards: int) -> list[tuple[str, float, str]]:
    """What it takes: name, figure, unit."""
    lives, mib = load.lives, 1 << 20
    datagrams = lives * c.bytes / PAYLOAD
    wire = lives * c.bytes + datagrams * FRAME
    making = lives * (c.events + (shards - 1) * c.listener) / 1e6
    forwarding = load.bytes / load.packet * c.packet / 1e6
    pass_s = listing_s(load.entries, c)
    waiting = lives * EVENTS * EVENT_STALL_S * EVENT_TRUESIZE
    buckets = 1 << math.ceil(math.log2(load.entries / 2))
    return [
        ("connections a second", lives, ""),
        ("mean time in the table", load.entries / lives, "s"),
        ("events a second", lives * EVENTS, ""),
        ("active: forwarding (assumed)", forwarding, "cores"),
        ("active: making events", making, "cores"),
        ("active: capture, all shards", lives * c.capture / 1e6, "cores"),
        ("passive: apply, all shards", lives * c.apply / 1e6, "cores"),
        ("passive: of what its kernel can write", lives * min(c.writer, c.writers) / 1e4, "%"),
        ("passive: io, all shards", lives * c.io / 1e6, "cores"),
        ("HA link, live", wire * 8 / 1e6, "Mbit/s"),
        ("HA link, datagrams a second", datagrams, ""),
        ("one copy of the table", load.entries * c.copied / 1e6, "MB"),
        ("kernel memory of the table, each node", load.entries * c.entry / mib, "MiB"),
        ("hash table of half as many buckets", buckets * 8 / mib, "MiB"),
        ("one listing, at its pace", pass_s, "s"),
        ("slots dirty after it", 100 * dirty(lives, pass_s, SLOTS * shards), "%"),
        ("sums, so that a tenth is dirty", lives * pass_s / 0.105 * SLOT_BYTES / mib, "MiB"),
        ("joining, idle", load.entries * max(c.list, c.insert) / 1e6, "s"),
        ("joining under this load", join_s(load, c, max(c.apply / shards, c.writers)), "s"),
        ("event buffers for that stall", waiting / mib, "MiB"),
        ("swap: gate", 0.0, "grows by nothing"),
        ("sweep after a swap, in the background", load.entries * c.sweep * PACE / 1e6, "s"),
    ]  # fmt: skip


def tables(contents: Contents, load: Load) -> list[Table]:
    """All that is printed."""
    c, measured = costs(contents)
    inputs = Table("Costs (us of CPU unless bytes)", ("", "", "where from"))
    for name, text, _, _ in FIGURES:
        inputs.rows.append((text, getattr(c, name), "bench/out" if measured[name] else "stated"))
    quick = sorted(name for name, own in contents.items() if own.get("quick"))
    if quick:
        inputs.notes.append(f"Of quick runs, which say little: {', '.join(quick)}.")
    inputs.notes.append(
        f"Assumed: {load.mean:,.0f} bytes a connection, {load.packet:,.0f} a packet."
    )
    shards = shards_for(load, c)
    wanted = Table(
        f"{load.gbit:g} Gbit/s, {load.entries:,} connections, shards: {shards}", ("", "", "")
    )
    wanted.rows += needs(load, c, shards)
    for limit in limits(load, c):
        if limit.at(shards) < load.lives:
            cure = "fewer records" if limit.stream else "more slots"
            wanted.notes.append(
                f"Not enough: {limit.name} at {limit.at(shards):,.0f} lives/s; cure: {cure}."
            )
    breaks = Table(
        f"Where it ends, lives/s, with {load.entries:,} connections",
        ("", "one", "two", "four", "eight", "Gbit/s, one"),
    )
    for limit in limits(load, c):
        gbit = limit.lives * load.mean * 8 / 1e9
        breaks.rows.append((limit.name, *(limit.at(n) for n in (1, 2, 4, 8)), gbit))
    rates = Table(
        "By rate, one stream: threads in % of a core",
        ("Gbit/s", "lives/s", "capture", "apply", "kernel", "HA Mbit/s", "dirty %", "join s"),
    )
    for gbit in (1, 10, 25, 40, 100):
        own = Load(gbit, load.mean, load.entries, load.packet)
        per = own.lives / 1e4
        rates.rows.append((
            str(gbit), own.lives, per * c.capture, per * c.apply, per * min(c.writer, c.writers),
            own.lives * c.bytes * (1 + FRAME / PAYLOAD) * 8 / 1e6,
            100 * dirty(own.lives, listing_s(own.entries, c), SLOTS), join_s(own, c, c.apply),
        ))  # fmt: skip
    rates.notes.append("kernel: of what one kernel can write, however many threads ask it to.")
    return [inputs, wanted, breaks, rates]


def loaded(stored: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stored results by name, as ``costs`` looks for them."""
    return {own["name"]: {**own["data"], "quick": own["quick"]} for own in stored}


assert [field.name for field in fields(Costs)] == [figure[0] for figure in FIGURES]
