"""Two engines in a lab, without daemons: what the tests of the core drive.

The daemon's decisions are left out on purpose: a test says who is active.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hak2k import _core
from hak2k.gate import Gate
from hak2k.lab import Lab, Node, until

ADDRESSES = [("lan", "10.71.0.1"), ("wan", "10.72.0.1"), ("lan", "fd71::1"), ("wan", "fd72::1")]
STARTING, PASSIVE, ACTIVE = 0, 1, 2


class Side:
    """One node's engine; every call runs in its namespace."""

    def __init__(self, node: Node, number: int, psk: bytes, **options: Any) -> None:
        self.node = node
        self.number = number
        self.term = 0
        self.log: list[dict[str, Any]] = []
        self.engine: Any = None
        self._options = options
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
            "gate_table": "hak2k",
            "protocols": None,
            "exclude_mark": (0x100, 0x100),
            "exclude_local": True,
        } | self._options
        local = [a for _, a in ADDRESSES] + [
            f"192.168.69.{self.number}",
            f"192.168.70.{self.number}",
        ]
        with self.node.enter():
            Gate(interfaces=["lan", "wan"], links=["ha0", "ha1"], port=44242).build()
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

    @property
    def stats(self) -> dict[str, int]:
        return dict(self.engine.stats())

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.engine = None


class Pair:
    def __init__(self, lab: Lab, **options: Any) -> None:
        self.lab = lab
        psk = secrets.token_bytes(32)
        self.a = Side(lab.fw1, 1, psk, **options)
        self.b = Side(lab.fw2, 2, psk, **options)

    def begin(self) -> None:
        """fw1 active, fw2 passive with a full copy."""
        until(lambda: self.a.engine.peer() and self.b.engine.peer(), 5, "a session")
        self.a.activate()
        self.b.passivate()
        self.synced()

    def synced(self, side: Side | None = None) -> None:
        side = side or self.b
        until(lambda: side.engine.stream()["synced"], 20, "the full copy")

    def settled(self, active: Side | None = None) -> None:
        """All that the active side published is in the other's kernel."""
        active = active or self.a
        passive = self.b if active is self.a else self.a

        def quiet() -> bool:
            s = active.engine.stream()
            return s["lag_records"] == 0 and s["sequence"] == passive.engine.stream()["acked"]

        until(quiet, 10, "the stream to drain")

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
