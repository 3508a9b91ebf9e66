"""What the demonstration knows at a moment: shared by its story and its screen."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hak2k.lab.traffic import Stats

NAMES = {"fw1": "FW-A", "fw2": "FW-B"}


@dataclass
class Group:
    """Connections of one sort.

    Attributes:
        key: the name they are counted under.
        label: what the audience reads.
        route, proto: how they run, as for ``Traffic.open``.
        count: how many.
        interval_ms: between two messages of one of them.
    """

    key: str
    label: str
    route: str
    proto: str
    count: int
    interval_ms: float
    stats: Stats = field(default_factory=Stats)
    crash_gap_ms: float | None = None
    swap_gap_ms: float | None = None

    @property
    def living(self) -> int:
        """How many still get replies, or ended as they should."""
        return self.stats.alive - self.stats.silent


@dataclass
class Firewall:
    """One of the two, as the audience sees it."""

    name: str
    mode: str = "off"  # off, starting, active, passive, dead
    ready: bool = False
    entries: int = 0
    larval: int = 0

    @property
    def label(self) -> str:
        """Its serial number."""
        return NAMES[self.name]


@dataclass
class Step:
    """One step of the story."""

    title: str
    began: float
    took: float | None = None
    result: str = ""


@dataclass
class Incident:
    """A crash or a planned swap, and what it did.

    Attributes:
        title: for the summary.
        detect_ms: until the survivor knew, from the blow on.
        swap_ms: until it was active, from then on (the whole, for a planned one).
        gate_us: how long it took to open the gate.
        resets: RST segments seen on the wire.
        survived, flows: by protocol.
        gaps: longest silence (ms) by group label.
    """

    title: str
    detect_ms: float | None = None
    swap_ms: float | None = None
    gate_us: float | None = None
    resets: int = 0
    survived: dict[str, int] = field(default_factory=dict)
    flows: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)

    @property
    def unharmed(self) -> bool:
        """Whether every flow lives and nobody was reset."""
        return self.survived == self.flows and self.resets == 0

    def as_dict(self) -> dict[str, Any]:
        """For the report in JSON."""
        return {
            "title": self.title,
            "detect_ms": self.detect_ms,
            "swap_ms": self.swap_ms,
            "gate_us": self.gate_us,
            "resets": self.resets,
            "survived": self.survived,
            "flows": self.flows,
            "longest_gap_ms": self.gaps,
            "unharmed": self.unharmed,
        }


class Show:
    """Everything that can be drawn; the lock guards the lists."""

    def __init__(self, groups: list[Group]) -> None:
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.groups = groups
        self.firewalls = {name: Firewall(name) for name in NAMES}
        self.steps: list[Step] = []
        self.events: deque[tuple[float, str, str, str]] = deque(maxlen=200)
        self.incidents: list[Incident] = []
        self.resets = 0
        self.leaked = 0
        self.tables_equal: bool | None = None
        self.failure = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the demonstration began."""
        return time.monotonic() - self.began

    @property
    def success(self) -> bool:
        """Whether all that was promised has been kept."""
        return (
            not self.failure
            and len(self.incidents) == 2
            and all(incident.unharmed for incident in self.incidents)
            and self.resets == 0
            and self.leaked == 0
        )

    def event(self, firewall: str, event: dict[str, Any]) -> None:
        """Take note of an event that a daemon told."""
        kind = str(event.get("id", ""))
        with self.lock:
            text = str(event.get("message", ""))
            self.events.append((self.elapsed, NAMES[firewall], kind, text))
            node = self.firewalls[firewall]
            if kind == "role.active":
                node.mode, node.ready = "active", False
            elif kind == "role.passive":
                node.mode = "passive"
            elif kind == "sync.done":
                node.ready = True

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON."""
        return {
            "success": self.success,
            "failure": self.failure,
            "seconds": round(self.elapsed, 2),
            "incidents": [incident.as_dict() for incident in self.incidents],
            "resets": self.resets,
            "frames_from_passive": self.leaked,
            "tables_equal": self.tables_equal,
            "groups": [
                {
                    "label": group.label,
                    "proto": group.proto,
                    "flows": group.count,
                    "alive": group.living,
                    "sent": group.stats.sent,
                    "received": group.stats.received,
                    "bytes_verified": group.stats.bytes_verified,
                    "crash_gap_ms": group.crash_gap_ms,
                    "swap_gap_ms": group.swap_gap_ms,
                    "resets": group.stats.resets,
                    "errors": group.stats.errors,
                }
                for group in self.groups
            ],
            "steps": [
                {"title": step.title, "seconds": step.took, "result": step.result}
                for step in self.steps
            ],
        }
