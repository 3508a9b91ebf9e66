"""What the measurements have in common: percentiles, tables, targets, files."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent / "out"
WIDTH = 80


@dataclass
class Options:
    """How to measure.

    Attributes:
        quick: fewer and smaller: to see that it works, not what it costs.
        swaps, rate: of `handover`; 0: as it thinks best.
        rounds: how often, where a median is taken; 0: as it thinks best.
        large: also with four million entries, where that is asked for.
    """

    quick: bool = False
    swaps: int = 0
    rate: int = 0
    large: bool = False
    rounds: int = 0

    def times(self, full: int) -> int:
        """How many rounds; ``full``: for a figure that is to be believed."""
        return self.rounds or self.pick(full, 1)

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full


@dataclass
class Table:
    title: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Target:
    """A figure that is to stay at or below a limit; at or above it, if ``least``.

    Attributes:
        beside: the peer's figure, or another one that it means nothing without.
    """

    name: str
    value: float
    limit: float
    unit: str
    least: bool = False
    beside: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass
class Result:
    """What one measurement found.

    Attributes:
        data: for the JSON file; all figures in base units (ns, bytes).
    """

    name: str
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all values do not exceed; NaN if none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """A distribution for the JSON file."""
    return {
        "n": len(values),
        "min": min(values, default=math.nan),
        "p50": percentile(values, 0.50),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "max": max(values, default=math.nan),
    }


def text(value: object) -> str:
    """A cell: three significant digits, thousands separated."""
    if isinstance(value, float):
        if math.isnan(value):
            return "-"
        if abs(value) >= 99.95:
            return f"{value:,.0f}"
        return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _wrapped(note: str) -> list[str]:
    lines, line = [], ""
    for word in note.split():
        if line and len(line) + 1 + len(word) > WIDTH - 2:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    return [*lines, line]


def render(table: Table) -> str:
    """The table as text, the first column to the left, all others to the right."""
    cells = [[str(c) for c in table.columns], *([text(c) for c in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    room = WIDTH - sum(widths)
    gap = " " * max(1, min(3, room // max(1, len(widths) - 1)))
    lines = [table.title]
    for n, row in enumerate(cells):
        first, *others = (
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(gap.join([first, *others]).rstrip())
        if n == 0:
            lines.append(gap.join("-" * w for w in widths))
    for note in table.notes:
        lines += [f"  {line}" for line in _wrapped(note)]
    return "\n".join(lines)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What a figure means nothing without."""
    from hak2k import __version__, _core

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "kernel_build": platform.version(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "hak2k": __version__,
        "core": getattr(_core, "BUILD", "release"),
        "wire": _core.WIRE_VERSION,
    }


def heading(about: dict[str, Any]) -> str:
    lines = (
        f"hak2k {about['hak2k']} ({about['core']}), wire {about['wire']}; "
        f"kernel {about['kernel']},\n{about['cpu']}, {about['cpus']} cpus, "
        f"load {about['load']:.1f}, Python {about['python']}"
    )
    if about["load"] > 0.5 * about["cpus"]:
        lines += "\nTHE MACHINE IS BUSY: latencies and maxima mean nothing, ratios little."
    return lines


def write(result: Result, about: dict[str, Any], options: Options, seconds: float) -> Path:
    """Store a result as JSON; return the file."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{result.name}.json"
    content = {
        "name": result.name,
        "machine": about,
        "quick": options.quick,
        "seconds": round(seconds, 1),
        "skipped": result.skipped,
        "targets": [asdict(t) | {"met": t.met} for t in result.targets],
        "data": result.data,
    }
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
    return path


def show(result: Result) -> None:
    if result.skipped:
        print(f"{result.name}: skipped: {result.skipped}\n")
    for table in result.tables:
        print(render(table), end="\n\n")
    sys.stdout.flush()


def verdicts(results: Sequence[Result]) -> Table:
    """The table of all targets."""
    return _judged([(t.name, t) for result in results for t in result.targets])


def _judged(targets: Sequence[tuple[str, Target]]) -> Table:
    table = Table("Goals", ("figure", "measured", "goal", "unit", ""))
    for name, t in targets:
        goal = f"{'>=' if t.least else '<='} {t.limit:,g}"
        table.rows.append((name, t.value, goal, t.unit, "ok" if t.met else "MISSED"))
        if t.beside:
            table.notes.append(f"{name}: {t.beside}.")
    return table


def stored() -> list[dict[str, Any]]:
    """What is in bench/out, the oldest first."""
    found = [
        json.loads(path.read_text()) for path in OUT.glob("*.json") if path.stem != "micro-raw"
    ]
    return sorted(found, key=lambda content: str(content["machine"]["time"]))


def goals(contents: Sequence[dict[str, Any]]) -> Table:
    """The table of all targets, of what was stored."""
    targets = []
    for content in contents:
        for t in content["targets"]:
            target = Target(**{key: value for key, value in t.items() if key != "met"})
            targets.append((target.name, target))
    table = _judged(targets)
    for content in contents:
        if content["quick"] and content["targets"]:
            table.notes.append(f"{content['name']}: of a quick run, which says little.")
    return table
