"""Not one line of Python runs for an event: counted, in the real daemon.

Two daemons run with every line of their Python counted (bench/counted.py).  First
nothing happens for a while, then a hundred thousand events pass.  What the second costs
beyond the first, per event, is what the interpreter has to do with events.
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

RATE = 8000
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
            rig.lives(lab, 1, 100)
            before = _events(lab)
            until_quiet = _Watch(files)
            time.sleep(span)
            quiet = until_quiet.end()
            watch = _Watch(files)
            rig.lives(lab, lives, RATE, "-f", lives // 4)
            time.sleep(max(0.0, span - (time.monotonic() - watch.began)))
            loaded = watch.end()
            until(lambda: _events(lab) - before >= 6 * lives, 20, "the events")
            events = _events(lab) - before
            equal = lab.fw2.conntrack_count() >= lives // 4
    return {"events": events, "quiet": quiet, "loaded": loaded, "replicated": equal}


def run(options: Options) -> Result:
    found = measure(options.pick(15_000, 8_000), options.pick(SPAN_S, 5))
    result = Result(NAME, data=found)
    table = Table(
        f"Lines of Python a second, {found['events']:,} events in the second column",
        ("daemon", "quiet", "events", "lines per event"),
    )
    worst = 0.0
    for name, role in (("fw1", "active"), ("fw2", "passive")):
        quiet, loaded = found["quiet"][name], found["loaded"][name]
        each = (loaded - quiet) * found["loaded"]["s"] / found["events"]
        worst = max(worst, each)
        table.rows.append((role, quiet, loaded, f"{each:.5f}"))
    table.notes.append(
        "What runs without events is what a daemon does by the clock: health, the lease, "
        "watching its links. It differs a little from second to second."
    )
    result.data["worst"] = worst
    result.tables.append(table)
    result.targets.append(
        Target("lines of Python per event (1 if it ran for each)", worst, 0.02, "lines")
    )
    return result
