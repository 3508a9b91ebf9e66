"""The flight recorder: what the election was fed and what it decided, on disk.

The election is pure, so its inputs are enough to decide everything again: a state to
begin with, then events with their times.  Two files of bounded size take turns; each
begins with the state, so that each can be replayed by itself:

    {"kind": "state", "now": 12.3, "wall": 1.7e9, "rules": {...}, "state": {...}}
    {"kind": "step", "now": 12.5, "wall": 1.7e9, "event": {...}, "commands": [...]}
    {"kind": "event", "event": {...}}           what the event log said of a swap

    python -m hak2k.recorder FILE...     decides all of it again, and compares

Events that changed nothing and caused nothing (most ticks) are left out: without
them all the rest comes out the same.

Writing is a thread's business: a disk that hangs must not hold up a decision.  What
it cannot write in time is counted and lost, and a new state begins the next record.

Not handled: a clock other than the monotonic one of this boot; records of another
version of the format, which are refused.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from hak2k import model
from hak2k.election import Row, step

VERSION: Final = 1
FILE_BYTES: Final = 1 << 20  # of each of the two files
WAITING_MAX: Final = 1000  # lines that the writer may be behind
CHANGES_KEPT: Final = 64  # changes of role, in memory
# Events that belong to a change of role.
OF_A_CHANGE: Final = ("role.", "handover.", "split.", "flap.")
OF_A_DEATH: Final = ("stream.cut", "peer.process", "peer.machine")  # told after it

_CLASSES: Final[dict[str, type[Any]]] = {
    name: cls
    for name, cls in vars(model).items()
    if isinstance(cls, type) and (is_dataclass(cls) or issubclass(cls, Enum))
}


def pack(value: Any) -> Any:
    """Data of `hak2k.model` as JSON: {"Name": {field: value}}, {"Name": "MEMBER"}."""
    if isinstance(value, Enum):
        return {type(value).__name__: value.name}
    if is_dataclass(value):
        inside = {f.name: pack(getattr(value, f.name)) for f in fields(value)}
        return {type(value).__name__: inside}
    return value


def unpack(value: Any) -> Any:
    """The reverse.  Raises ValueError for what is not of this version's model."""
    if isinstance(value, list):
        return tuple(unpack(x) for x in value)
    if not isinstance(value, dict):
        return value
    try:
        ((name, inside),) = value.items()
        cls = _CLASSES[name]
        if issubclass(cls, Enum):
            return cls[inside]
        return cls(**{key: unpack(x) for key, x in inside.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise ValueError(f"not of this version: {e}") from e


@dataclass(slots=True)
class Change:
    """One change of this node's role, and how it came about."""

    now: float
    wall: float
    event: model.Event
    before: model.State
    after: model.State
    rows: list[tuple[Row, str]]
    """The rows of the election's table that fired, each with its reason."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """What the event log said of it afterwards."""


class Changes:
    """Finds the changes of role in a sequence of steps."""

    def __init__(self) -> None:
        self.found: deque[Change] = deque(maxlen=CHANGES_KEPT)
        self._leading: list[tuple[Row, str]] = []  # to a hand-over under way
        self._early: list[dict[str, Any]] = []  # what was said of that
        self._death: Change | None = None  # by a death whose cause is not known yet

    def step(self, change: Change) -> bool:
        """Whether it was one.  A hand-over is part of the change that it leads to."""
        rows = [(row, why) for row, why in change.rows if row.to is not row.role]
        if change.before.mode is change.after.mode:
            if rows:
                giving = change.after.role is model.Role.HANDING_OVER
                self._leading, self._early = rows if giving else [], []
            return False
        change.rows, change.log = [*self._leading, *rows], self._early
        self._leading, self._early = [], []
        self.found.append(change)
        self._death = change if isinstance(change.event, model.PeerDead) else None
        return True

    def log(self, event: dict[str, Any]) -> None:
        if event["id"] in OF_A_DEATH and self._death is not None:
            self._death.log.append(event)
        if event["id"].startswith("peer."):
            self._death = None  # what is found out later is of another time
        if not event["id"].startswith(OF_A_CHANGE):
            return
        if self._leading:
            self._early.append(event)
        elif self.found:
            self.found[-1].log.append(event)


class Recorder:
    """Writes the files, and keeps the latest changes of role in memory.

    path: the file; the older half is beside it, with ".1" added.  None: no files.
    """

    def __init__(
        self, path: Path | None, rules: model.ElectionConfig, *, file_bytes: int = FILE_BYTES
    ) -> None:
        self.path = path
        self.rules = rules
        self.changes = Changes()
        self.lost = 0
        self.failure: OSError | None = None
        self._file_bytes = file_bytes
        self._lines: deque[str] = deque()
        self._wake = threading.Condition()
        self._over = False
        self._fresh = True  # the next line must be a state
        self._thread: threading.Thread | None = None
        if path is not None:
            self._thread = threading.Thread(target=self._write, name="hak-recorder", daemon=True)
            self._thread.start()

    # --- the node's side ---

    def step(
        self,
        event: model.Event,
        before: model.State,
        after: model.State,
        commands: Sequence[model.Command],
        rows: list[tuple[Row, str]],
        now: float,
        wall: float,
    ) -> None:
        """One step of the election, as it was taken."""
        if before == after and not commands:
            return
        self.changes.step(Change(now, wall, event, before, after, rows))
        line = {
            "kind": "step",
            "now": now,
            "wall": wall,
            "event": pack(event),
            "commands": [pack(c) for c in commands],
        }
        self._put(line, before)

    def log(self, event: dict[str, Any]) -> None:
        """An event of the event log; those that belong to a change are kept with it."""
        kept = event["id"].startswith((*OF_A_CHANGE, "peer.", "daemon."))
        if kept or event["id"] in OF_A_DEATH:
            self.changes.log(event)
            self._put({"kind": "event", "event": event}, None)

    def read(self) -> deque[Change]:
        """The changes of role on record, oldest first, those of earlier runs among
        them; those in memory if the files cannot be read."""
        if self.path is None:
            return self.changes.found
        try:
            found = replay(lines_of((_older(self.path), self.path))).changes.found
        except (OSError, ValueError):
            found = deque()
        return max(found, self.changes.found, key=len)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        with self._wake:
            self._over = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def _put(self, line: dict[str, Any], before: model.State | None) -> None:
        if self._thread is None or self.failure is not None:
            return
        with self._wake:
            if len(self._lines) >= WAITING_MAX:
                self.lost += 1
                self._fresh = True
                return
            if self._fresh:
                if before is None:
                    return  # no state to begin with
                self._fresh = False
                self._lines.append(self._state(before, line["now"], line["wall"]))
            self._lines.append(json.dumps(line) + "\n")
            self._wake.notify()

    def _state(self, state: model.State, now: float, wall: float) -> str:
        head = {"kind": "state", "version": VERSION, "now": now, "wall": wall}
        return json.dumps({**head, "rules": pack(self.rules), "state": pack(state)}) + "\n"

    # --- the thread's side ---

    def _write(self) -> None:
        assert self.path is not None
        try:
            self.path.parent.mkdir(mode=0o755, exist_ok=True)
            fd = self._open()
            while True:
                with self._wake:
                    while not self._lines and not self._over:
                        self._wake.wait()
                    lines = list(self._lines)
                    self._lines.clear()
                    if self._over and not lines:
                        break
                for line in lines:
                    # Turned only where a state begins, so that either file is whole.
                    if os.fstat(fd).st_size > self._file_bytes and line.startswith(_STATE):
                        os.close(fd)
                        self.path.replace(_older(self.path))
                        fd = self._open()
                    os.write(fd, line.encode())
                if os.fstat(fd).st_size > self._file_bytes:
                    self._fresh = True
            os.close(fd)
        except OSError as e:
            self.failure = e
            self._lines.clear()

    def _open(self) -> int:
        assert self.path is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.path, flags, 0o600)


_STATE: Final = '{"kind": "state"'


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


# --- reading ------------------------------------------------------------------


@dataclass(slots=True)
class Replayed:
    """What came of deciding everything again."""

    steps: int = 0
    differences: list[str] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)


def lines_of(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The records of the files.  A last line that was torn by a crash is left out."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        for line in text.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def replay(records: Iterable[dict[str, Any]]) -> Replayed:
    """Feed recorded events to the election again, and compare what it decides.

    Raises ValueError for records of another version.
    """
    out = Replayed()
    rules: model.ElectionConfig | None = None
    state: model.State | None = None
    for record in records:
        match record.get("kind"):
            case "state":
                if record.get("version") != VERSION:
                    raise ValueError(f"recorded by another version: {record.get('version')}")
                rules, state = unpack(record["rules"]), unpack(record["state"])
            case "step" if rules is not None and state is not None:
                event, before = unpack(record["event"]), state
                rows: list[tuple[Row, str]] = []
                state, commands = step(rules, before, event, record["now"], rows)
                out.steps += 1
                if [pack(c) for c in commands] != record["commands"]:
                    out.differences.append(
                        f"step {out.steps}, {record['event']}: decided {commands}, "
                        f"recorded {record['commands']}"
                    )
                wall = record["wall"]
                out.changes.step(Change(record["now"], wall, event, before, state, rows))
            case "event":
                out.changes.log(record["event"])
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Replay the files; 0: all was decided the same again."""
    paths = [Path(p) for p in (sys.argv[1:] if argv is None else argv)]
    if not paths:
        print("usage: python -m hak2k.recorder FILE...", file=sys.stderr)
        return 2
    try:
        found = replay(lines_of(paths))
    except (OSError, ValueError) as e:
        print(f"hak2k.recorder: {e}", file=sys.stderr)
        return 1
    for text in found.differences:
        print(text)
    print(f"{found.steps} steps, {len(found.differences)} decided otherwise")
    return 1 if found.differences or not found.steps else 0


if __name__ == "__main__":
    sys.exit(main())
