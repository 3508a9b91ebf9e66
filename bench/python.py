"""Not one line of Python runs for an event: counted, in the real daemon.

Two daemons run with every line of their Python counted (bench/counted.py), for a while
with a few connections and for as long with a hundred thousand events.  The difference,
for each event more, is what the interpreter has to do with events.

Not with none and with many: a daemon that has nothing to tell does less by the clock.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import counted, rig, tools
from bench.report import Options, Result, Table, Target
from hak2k.lab import Lab, Node, until

NAME = "python"
TITLE = "lines of Python run by the daemons, with and without events"

FEW, RATE = 100, 8000
# Long enough for what a daemon does once a second or two to happen in both spans alike.
SPAN_S = 10


def _wrapped(directory: Path) -> Path:
    """A folder with a daemon that counts, and the commands as they are."""
    python = Path(sys.executable)
    wrapper = directory / "hak2kd"
    wrapper.write_text(
        f"#!{python}\nimport sys\nsys.path.insert(0, {str(tools.ROOT)!r})\n"
        "from bench.counted import main\nmain()\n"
    )
    wrapper.chmod(0o755)
    for command in ("hak2kctl", "hainfo"):
        (directory / command).symlink_to(python.parent / command)
    return directory


class _Watch:
    """Lines of both daemons over a span of time."""

    def __init__(self, files: dict[Node, Path]) -> None:
        self.files = files
        self.began, self.before = time.monotonic(), self._now()

    def _now(self) -> dict[str, int]:
        return {node.name: counted.read(path) for node, path in self.files.items()}

    def end(self) -> dict[str, float]:
        """Lines a second of each, and the seconds."""
        seconds, now = time.monotonic() - self.began, self._now()
        return {name: (now[name] - self.before[name]) / seconds for name in now} | {"s": seconds}


def _events(lab: Lab) -> int:
    return int(lab.ctl(lab.fw1, "stats")["capture.events"])


def measure(lives: int, span: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hak2k-bench-") as name:
        with Lab(bindir=_wrapped(Path(name))) as lab:
            rig.prepare(lab)
            files = {node: lab.directory / f"lines-{node.name}" for node in lab.fw}
            for node, path in files.items():
                lab.start(node, env={counted.VARIABLE: str(path)}, timeout=30)
            lab.wait(lab.fw1, mode="active", timeout=30)
            lab.wait(lab.fw2, mode="passive", ready=True, timeout=60)
            return _spans(lab, files, lives, span)


def _heard(lab: Lab, least: int) -> None:
    until(lambda: _events(lab) >= least, 20, "the events")


def _spans(lab: Lab, files: dict[Node, Path], lives: int, span: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, count, rate in (("few", int(FEW * span), FEW), ("many", lives, RATE)):
        before, watch = _events(lab), _Watch(files)
        rig.lives(lab, count, rate)
        time.sleep(max(0.0, span - (time.monotonic() - watch.began)))
        found[name] = watch.end()
        _heard(lab, before + 6 * count)
        found[name]["events"] = _events(lab) - before
    found["entries"] = [node.conntrack_count() for node in lab.fw]
    return found


def run(options: Options) -> Result:
    found = measure(options.pick(15_000, 8_000), options.pick(SPAN_S, 2))
    result = Result(NAME, data=found)
    few, many = found["few"], found["many"]
    more = many["events"] - few["events"]
    table = Table(
        "Lines of Python that a daemon runs in a second",
        ("daemon", f"{few['events']:,} events", f"{many['events']:,} events", "per event more"),
    )
    worst = 0.0
    for name, role in (("fw1", "active"), ("fw2", "passive")):
        each = (many[name] * many["s"] - few[name] * few["s"]) / more
        worst = max(worst, each)
        table.rows.append((role, few[name], many[name], f"{each:.4f}"))
    table.notes.append(
        "What runs anyway is what a daemon does by the clock: health, the lease, watching "
        "its links. It differs a little from second to second."
    )
    result.data["worst"] = worst
    result.tables.append(table)
    result.targets.append(
        Target("lines of Python per event (1 if it ran for each)", worst, 0.05, "lines")
    )
    return result
