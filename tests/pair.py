"""Two engines in a lab, without daemons: what the tests of the core drive.

The daemon's decisions are left out on purpose: a test says who is active.
"""

from __future__ import annotations

import ipaddress
import itertools
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hak2k import _core, gate
from hak2k.lab import Entry, Lab, Node, Tuple, until
from hak2k.lab import ctnl as c

ADDRESSES = [("lan", "10.71.0.1"), ("wan", "10.72.0.1"), ("lan", "fd71::1"), ("wan", "fd72::1")]
STARTING, PASSIVE, ACTIVE = 0, 1, 2
SPEC = gate.GateSpec(
    interfaces=("lan", "wan"),
    links=("ha0", "ha1"),
    port=44242,
    addresses=tuple(a for _, a in ADDRESSES),
    events="probed",
)


class Side:
    """One node's engine; every call runs in its namespace."""

    def __init__(
        self, node: Node, number: int, psk: bytes, *, netlink: bool = False, **options: Any
    ) -> None:
        self.node = node
        self.number = number
        self.term = 0
        self.log: list[dict[str, Any]] = []
        self.engine: Any = None
        self._options = options
        self._netlink = netlink
        self.ring_bytes: int | None = None  # of the next engine's probe; None: the usual
        self._psk = psk
        self.open()

    def open(self) -> None:
        """Build the gate (closed) and start an engine, as a booting node does."""
        other = 3 - self.number
        arguments: dict[str, Any] = {
            "cluster": 7,
            "psk": self._psk,
            "serial": f"FW-{self.number}",
            "model": "lab",
            "version": "test",
            "priority": 0,
            "links": [
                ("main", "ha0", f"192.168.69.{self.number}", f"192.168.69.{other}"),
                ("backup", "ha1", f"192.168.70.{self.number}", f"192.168.70.{other}"),
            ],
            "port": 44242,
            "heartbeat_ms": 50,
            "dead_after_ms": 200,
            "encrypt": True,
            "interfaces": ["lan", "wan"],
            "gate_table": gate.TABLE,
            "protocols": None,
            "exclude_mark": (0x100, 0x100),
            "exclude_local": True,
        } | self._options
        local = [a for _, a in ADDRESSES] + [
            f"192.168.69.{self.number}",
            f"192.168.70.{self.number}",
        ]
        with self.node.enter():
            gate.build(replace(SPEC, events="lean") if self._netlink else SPEC)
            if not self._netlink:
                size = self.ring_bytes
                arguments["probe"] = _core.Probe() if size is None else _core.Probe(size)
            self.engine = _core.Engine(**arguments)
            self.engine.set_local_addresses([ipaddress.ip_address(a).packed for a in local])
            self.engine.set_announcements(ADDRESSES)
            self.engine.start()

    def activate(self) -> dict[str, int]:
        self.term += 1
        self._status(ACTIVE, 3)
        times = self.node.call(self.engine.activate, self.term)
        return dict(times)

    def passivate(self) -> None:
        self._status(PASSIVE, 1)
        self.node.call(self.engine.passivate, self.term)

    def _status(self, mode: int, state: int) -> None:
        self.engine.set_status(
            mode=mode, forced=0, quality=100, state=state, term=self.term,
            since=int(time.time() * 1000),
        )  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        """All events since the start, oldest first."""
        self.log += self.engine.events()
        return self.log

    def saw(self, kind: str) -> bool:
        return any(event["type"] == kind for event in self.events())

    def seen(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind, oldest first."""
        return [event for event in self.events() if event["type"] == kind]

    @property
    def stats(self) -> dict[str, int]:
        return dict(self.engine.stats())

    def beats(self, count: int, timeout: float = 5) -> None:
        """So many further heartbeats of the peer are heard."""
        first = self.stats["heartbeats.received"]
        until(lambda: self.stats["heartbeats.received"] > first + count, timeout)

    @property
    def synced(self) -> bool:
        return bool(self.engine.stream()["synced"])

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.engine = None


class Pair:
    def __init__(self, lab: Lab, **options: Any) -> None:
        self.lab = lab
        self.psk = secrets.token_bytes(32)
        self.a = Side(lab.fw1, 1, self.psk, **options)
        self.b = Side(lab.fw2, 2, self.psk, **options)
        self._fences = itertools.count(1)

    def begin(self) -> None:
        """fw1 active, fw2 passive with a full copy."""
        self.meet()
        self.a.activate()
        self.b.passivate()
        self.synced()

    def meet(self) -> None:
        """Wait until both have a session with the other."""
        until(lambda: self.a.engine.peer() and self.b.engine.peer(), 5, "a session")

    def other(self, side: Side) -> Side:
        return self.b if side is self.a else self.a

    def synced(self, side: Side | None = None) -> None:
        side = side or self.b
        until(lambda: side.synced, 30, "the full copy", detail=self.report)

    def settled(self, active: Side | None = None) -> None:
        """All that the active side published is in the other's kernel."""
        active = active or self.a
        passive = self.other(active)

        def quiet() -> bool:
            s = active.engine.stream()
            done = passive.engine.stream()["acked"]
            return bool(s["lag_records"] == 0 and s["sequence"] == done)

        until(quiet, 10, "the stream to drain", detail=self.report)

    def fence(self, active: Side | None = None, timeout: float = 10) -> None:
        """All that happened to the active kernel's table so far is in the other's.

        Events are published in order: what was written after them tells.
        """
        active = active or self.a
        passive = self.other(active)
        # Hosts that the lab does not have, so that no test mistakes it for its own.
        orig = Tuple("10.71.0.250", "10.72.0.250", 17, next(self._fences), 9)
        active.node.ct.create(Entry(orig, orig.inverse(), status=c.CONFIRMED, timeout=60))
        until(lambda: passive.node.ct.get(orig), timeout, "the fence", detail=self.report)
        active.node.ct.delete(Entry(orig, orig.inverse()))
        gone = lambda: passive.node.ct.get(orig) is None  # noqa: E731
        until(gone, timeout, "the fence to go", detail=self.report)

    def report(self) -> str:
        """Both sides in words, for an assertion message."""
        lines = []
        for side in (self.a, self.b):
            if side.engine is None:
                continue
            stats = {k: v for k, v in side.stats.items() if v}
            lines += [f"{side.node.name}: {side.engine.stream()}", f"  {stats}"]
            lines += [f"  {event}" for event in side.events()[-20:]]
        return "\n".join(lines)

    def close(self) -> None:
        self.a.close()
        self.b.close()


@contextmanager
def pair(lab: Lab, **options: Any) -> Iterator[Pair]:
    both = Pair(lab, **options)
    try:
        both.begin()
        yield both
    finally:
        both.close()
