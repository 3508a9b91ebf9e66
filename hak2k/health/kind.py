"""What a kind of health check is made of.

A kind samples and says what it saw; whether that makes a component fail is decided
elsewhere (hak2k.health.judge).  Sampling may block: it runs in a process of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hak2k.quality import DEFAULT_WEIGHT

LABEL: Final = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,31}"
LABEL_RULE: Final = "1 to 32 of A-Z a-z 0-9 . _ : -"


class Seen(enum.StrEnum):
    """What one sample saw."""

    GOOD = "good"
    BAD = "bad"
    ABSENT = "absent"
    """There is no such thing here (any more): normal, unless it is required."""


@dataclass(frozen=True, slots=True)
class Sample:
    seen: Seen
    reason: str = ""
    """What an operator should read, one short line."""
    value: float | None = None
    """What was measured, for kinds with a level; the judge compares it."""


def good(reason: str = "", value: float | None = None) -> Sample:
    return Sample(Seen.GOOD, reason, value)


def bad(reason: str) -> Sample:
    return Sample(Seen.BAD, reason)


def absent(reason: str) -> Sample:
    return Sample(Seen.ABSENT, reason)


@dataclass(frozen=True, slots=True)
class Context:
    """Where and how long a sampler may look."""

    root: Path = Path("/")
    """Above sys and proc; another one in tests."""
    timeout_s: float = 5.0
    """What takes longer has failed."""


@dataclass(frozen=True, slots=True)
class Level:
    """Thresholds of a measured value, the keys `fail` and `recover`."""

    unit: str
    low: float
    high: float
    fail: float | None
    """Default; None: as the device itself says."""
    recover: float | None
    falls: bool = False
    """True: low values are bad."""


@dataclass(frozen=True, slots=True)
class Option:
    """A key of a kind's own."""

    rule: str
    """What is allowed, for messages."""
    pattern: str = r"[^\0]+"
    required: bool = False
    many: bool = False
    """A list of such texts."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the table of kinds."""

    name: str
    sample: Callable[[Mapping[str, Any], Context], Sample]
    """(options by key, context): one sample; may block, raises OSError or ValueError
    where it cannot tell, which counts as bad."""
    options: Mapping[str, Option] = field(default_factory=dict)
    level: Level | None = None
    weight: int = DEFAULT_WEIGHT
    interval_s: float = 10.0
    timeout_s: float = 5.0
    fail_after: int = 2
    recover_after: int = 3
    prompt: bool = True
    """The first sample of all decides alone.  False where one says little."""
    active_only: bool = False
    """Cannot be sampled on a passive node, whose data interfaces are mute."""
    check: Callable[[Mapping[str, Any]], str | None] = lambda options: None
    """What is wrong with these options together, or None."""


def read(path: Path) -> str | None:
    """A file of sysfs or proc, stripped; None: it is not there, or has nothing to say."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number(path: Path) -> int | None:
    """Likewise, one whole number."""
    text = read(path)
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        return None


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if it is not there."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
