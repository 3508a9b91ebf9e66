"""A core without a kernel: records what it is told, says what a test wants said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


class FakeCoreError(Exception):
    """As `_core.CoreError`."""

    def __init__(self, text: str, kind: str, errno: int = 0) -> None:
        super().__init__(text)
        self.kind = kind
        self.errno = errno


class FakeCore:
    """Everything that `hak2k.engine.Core` names."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.calls: list[tuple[str, Any]] = []
        self.fail: dict[str, Exception] = {}
        self.gate: bool | None = False
        self.peer_info: dict[str, Any] | None = None
        self.handover_ok = True
        self.peer_max: int | None = None
        self.table_info: dict[str, Any] = {
            "equal": None,
            "verified": 0,
            "as_of": 0,
            "age_ms": 0,
            "entries": 0,
            "missing": 0,
            "extra": 0,
            "different": 0,
            "repaired": 0,
        }
        self.closed = False
        self._pending: list[dict[str, Any]] = []
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def _note(self, name: str, value: Any = None) -> None:
        self.calls.append((name, value))
        if name in self.fail:
            raise self.fail[name]

    def guard(self, interface: str) -> None:
        self._note("guard", interface)

    def lease(self) -> dict[str, Any]:
        return {"enforced": False, "state": 0, "left_ns": 0, "refused": 0}

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    # what a test does

    def say(self, type: str, **data: Any) -> None:
        if type in ("peer.dead", "peer.bye") and self.peer_info is not None:
            self.peer_info |= {"alive": False}
        self._pending.append({"type": type, "mono_ns": 1, **data})
        os.eventfd_write(self._fd, 1)

    def meet(self, **changes: Any) -> None:
        """The peer's first words, or new ones."""
        first = self.peer_info is None
        old = self.peer_info or {
            "serial": "FW-B",
            "model": "lab",
            "version": "0.1.0",
            "boot_id": 5,
            "boot_ms": 1_700_000_000_000,
            "priority": 0,
            "wire_min": 1,
            "wire_max": 1,
            "alive": True,
            "mode": 0,
            "forced": 0,
            "quality": 100,
            "state": 0,
            "term": 0,
            "since": 1_700_000_000_000,
            "heard_ns_ago": 1_000_000,
            "limit_ns": 200_000_000,
            "longest_ns": 51_000_000,
            "policy_differs": False,
        }
        self.peer_info = old | changes
        if first:
            self.say("session.up", boot=5, new_boot=True)
            self.say("peer.alive")
        self.say("peer.status")

    # what the engine does

    def start(self) -> None:
        self._note("start")

    def close(self) -> None:
        self._note("close")
        if not self.closed:
            self.closed = True
            os.close(self._fd)

    def bye(self) -> None:
        self._note("bye")

    def activate(self, term: int) -> dict[str, int]:
        self._note("activate", term)
        self.gate = True
        return {"drain_ns": 1, "gate_ns": 40_000, "announce_ns": 2, "total_ns": 90_000}

    def passivate(self, term: int) -> dict[str, int]:
        self._note("passivate", term)
        self.gate = False
        return {"gate_ns": 30_000, "total_ns": 31_000}

    def arm(self, term: int) -> dict[str, int]:
        self._note("arm", term)
        self.gate = True
        return {"gate_ns": 40_000, "announce_ns": 2, "total_ns": 90_000}

    def handover(self, term: int, timeout_ms: int, prepare_ms: int = 0) -> dict[str, int] | None:
        self._note("handover", (term, timeout_ms))
        if not self.handover_ok:
            return None
        self.gate = False
        return {"armed_ns": 1_000_000, "closed_ns": 2_000_000, "applied_ns": 3_000_000}

    def gate_is_open(self) -> bool | None:
        return self.gate

    def announce(self) -> int:
        self._note("announce")
        return 4

    def sweep(self, natural: dict[int, dict[int, int]]) -> None:
        self._note("sweep", natural)

    def want_sync(self) -> None:
        self._note("want_sync")

    def verify(self, id: int, repair: bool) -> bool:
        self._note("verify", (id, repair))
        self.table_info["verified"] = id
        return self.peer_info is not None

    def table(self) -> dict[str, Any]:
        return self.table_info

    def set_status(self, **status: int) -> None:
        self._note("set_status", status)

    def set_link(self, link: int, state: int) -> None:
        self._note("set_link", (link, state))

    def set_priority(self, priority: int) -> None:
        self._note("set_priority", priority)

    def set_keys(self, psk: bytes | bytearray) -> None:
        self._note("set_keys", bytes(psk))

    def set_local_addresses(self, addresses: Sequence[bytes]) -> None:
        self._note("set_local_addresses", list(addresses))

    def set_announcements(self, items: Sequence[tuple[str, str]]) -> None:
        self._note("set_announcements", list(items))

    @property
    def event_fd(self) -> int:
        return self._fd

    def events(self) -> list[dict[str, Any]]:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        out, self._pending = self._pending, []
        return out

    def peer(self) -> dict[str, Any] | None:
        return self.peer_info

    def links(self) -> list[dict[str, Any]]:
        return [
            {"name": "main", "up": True, "since_ms": 1_700_000_000_000, "rtt_us": 200},
            {"name": "backup", "up": False, "since_ms": 1_700_000_000_000, "rtt_us": None},
        ]

    def stream(self) -> dict[str, Any]:
        return {
            "role": "active",
            "sequence": 12,
            "acked": 10,
            "lag_records": 2,
            "lag_ms": 0.5,
            "encrypted": True,
            "synced": True,
            "generation": 1,
            "published": 12,
            "applied": 0,
            "held": 0,
            "pressure": 0,
            "pressure_cause": None,
            "peer_fill": None,
            "peer_max": self.peer_max,
            "key": 0,
        }

    def stats(self) -> dict[str, int]:
        return {"rx.datagrams": 3, "drop.auth": 1}

    def table_count(self) -> int:
        return 42

    def table_max(self) -> int:
        return 262144
