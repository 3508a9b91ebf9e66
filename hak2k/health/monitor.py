"""The daemon's part of health: asks in time, judges, and explains the quality factor.

In the event loop's thread, and never waits: samples are taken by a process of their own
(hak2k.health.sampler), and one that does not come by its deadline is a bad one.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

from hak2k import privileges
from hak2k.health import kind
from hak2k.health.judge import Rule, State, judge, unknown
from hak2k.health.kind import Sample, Seen
from hak2k.health.sampler import MOST
from hak2k.health.table import KINDS
from hak2k.quality import Part, costs
from hak2k.settings import HealthConfig

GRACE_S: Final = 1.0  # for the sampler, beyond what it gives the check itself
START_S: Final = 10.0  # for its first answer: an interpreter has to start
RESTART_S: Final = 5.0
PASSIVE: Final = "not checked while passive"


@dataclass(frozen=True, slots=True)
class Component:
    """One line of the explanation."""

    name: str
    kind: str
    state: str
    """ok, failed, degraded, absent or unknown."""
    part: Part
    since: float
    """Unix time."""
    reason: str = ""
    checked: float | None = None
    """Unix time; None: never, or all the time."""


def explain(components: Sequence[Component]) -> list[dict[str, Any]]:
    """The table behind the number, the dearest first; times in Unix seconds."""
    points = costs([c.part for c in components])
    rows = [
        {
            "component": c.name,
            "kind": c.kind,
            "state": c.state,
            "weight": c.part.weight,
            "cost": cost,
            "since": c.since,
            "checked": c.checked,
            "reason": c.reason,
        }
        for c, cost in zip(components, points, strict=True)
    ]
    return sorted(rows, key=lambda r: -r["cost"])


class Sampler:
    """The other process: asked for samples, and started again if it ends.

    answered: called with (number of the question, sample).
    ended: called with a text when the process is gone.
    root: above sys and proc.
    """

    def __init__(
        self,
        answered: Callable[[int, Sample], None],
        ended: Callable[[str], None],
        root: str = "/",
    ) -> None:
        self._answered, self._ended, self._root = answered, ended, root
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._heard = False
        self._restart_at = 0.0

    def ask(self, config: HealthConfig) -> int | None:
        """Ask for a sample; the question's number.  None: it cannot be asked now."""
        if self._socket is None and not self._start():
            return None
        assert self._socket is not None
        self._number += 1
        question = {
            "id": self._number,
            "kind": config.kind,
            "options": dict(config.options),
            "timeout_s": config.timeout_s,
        }
        try:
            self._socket.send(json.dumps(question).encode())
        except OSError:
            return None  # full: it hangs; or gone, which the reader will see
        return self._number

    @property
    def grace(self) -> float:
        """How much later than a check's deadline its answer may come, in seconds."""
        return GRACE_S if self._heard else START_S

    def close(self) -> None:
        """The process ends by itself, with all that it started."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _start(self) -> bool:
        now = time.monotonic()
        if now < self._restart_at:
            return False
        self._restart_at = now + RESTART_S
        if self._process is not None and self._process.poll() is None:
            return False  # it hangs in the kernel; one that does is enough
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "hak2k.health.sampler", self._root]
        try:
            with theirs, privileges.lent_to_children(privileges.NET_RAW):
                self._process = subprocess.Popen(command, stdin=theirs.fileno())
        except OSError as e:
            ours.close()
            self._ended(f"cannot be started: {e.strerror}")
            return False
        ours.setblocking(False)
        self._socket, self._heard = ours, False
        asyncio.get_running_loop().add_reader(ours, self._read)
        return True

    def _read(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data = self._socket.recv(MOST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                if self._process is not None:
                    self._process.kill()
                self._ended("ended; it is started again")
                return
            self._heard = True
            said = json.loads(data)
            self._answered(said["id"], Sample(Seen(said["seen"]), said["reason"], said["value"]))


class _Check:
    """One [[health]] table at work."""

    def __init__(self, config: HealthConfig, now: float) -> None:
        self.config = config
        self.kind = KINDS[config.kind]
        self.judged = unknown(now)
        self.asked: int | None = None  # an answer is still to come
        self.asked_at = self.deadline = 0.0
        self.timer: asyncio.TimerHandle | None = None
        level = self.kind.level
        self.rule = Rule(
            fail_after=config.fail_after,
            recover_after=config.recover_after,
            fail=config.fail,
            recover=config.recover,
            falls=level is not None and level.falls,
            unit="" if level is None else level.unit,
            required=config.required,
            prompt=self.kind.prompt,
        )

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Health:
    """All [[health]] tables of a node.

    emit: logs an event: id, text, fields.
    changed: called when a component fails, recovers, comes or goes.
    active: whether this node is the active one now.
    """

    def __init__(
        self,
        config: Sequence[HealthConfig],
        *,
        emit: Callable[..., object],
        changed: Callable[[], None],
        active: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        root: str = "/",
    ) -> None:
        self._emit, self._changed, self._active = emit, changed, active
        self._clock, self._wall = clock, wall
        self._checks = [_Check(c, clock()) for c in config]
        self._sampler = Sampler(self._answered, self._sampler_ended, root)
        self._running = False

    # --- life ---

    def start(self) -> None:
        """Begin to sample; a loop must run."""
        self._running = True
        for check in self._checks:
            self._due(check)

    def close(self) -> None:
        self._running = False
        for check in self._checks:
            check.stop()
        self._sampler.close()

    def reload(self, config: Sequence[HealthConfig]) -> None:
        """Go by other tables.  What did not change goes on as it was, but a passive
        node forgets what it found while it was active."""
        kept = {c.config.name: c for c in self._checks}
        self._checks = []
        for one in config:
            old = kept.get(one.name)
            stale = old is not None and old.kind.active_only and not self._active()
            if old is not None and not stale and _same(old.config, one):
                del kept[one.name]
                old.config = one
                self._checks.append(old)
                continue
            self._checks.append(_Check(one, self._clock()))
            if self._running:
                self._due(self._checks[-1])
        for gone in kept.values():
            gone.stop()

    # --- the number ---

    def components(self) -> list[Component]:
        return [self._component(c) for c in self._checks]

    def _component(self, check: _Check) -> Component:
        judged, reason = check.judged, check.judged.reason
        if check.kind.active_only and not self._active():
            reason = f"{PASSIVE}; {reason}" if reason else PASSIVE
        failed = judged.state is State.FAILED
        return Component(
            check.config.name,
            check.config.kind,
            judged.state,
            Part(check.config.weight, Fraction(int(failed))),
            self._unix(judged.since),
            reason,
            None if judged.checked is None else self._unix(judged.checked),
        )

    def _unix(self, at: float) -> float:
        return self._wall() - (self._clock() - at)

    # --- sampling ---

    def _later(self, check: _Check, seconds: float, do: Callable[[_Check], None]) -> None:
        check.stop()
        check.timer = asyncio.get_running_loop().call_later(seconds, do, check)

    def _due(self, check: _Check) -> None:
        if check.kind.active_only and not self._active():
            self._later(check, check.config.interval_s, self._due)
        elif check.asked is not None:  # the last answer never came
            self._late(check)
        else:
            check.asked, check.asked_at = self._sampler.ask(check.config), self._clock()
            if check.asked is None:
                self._late(check)
            else:
                limit = check.config.timeout_s + self._sampler.grace
                check.deadline = check.asked_at + limit
                self._later(check, limit, self._late)

    def _late(self, check: _Check) -> None:
        text = f"no answer within {check.config.timeout_s:g} s"
        if check.asked is None:
            text = "the process that checks does not run"
        self._later(check, check.config.interval_s, self._due)
        self._judge(check, kind.bad(text))

    def _answered(self, number: int, sample: Sample) -> None:
        check = next((c for c in self._checks if c.asked == number), None)
        if check is None:
            return  # of a table that is gone
        check.asked = None
        now = self._clock()
        if now > check.deadline:
            return  # it has been judged without, and the next one is on its way
        left = check.asked_at + check.config.interval_s - now
        self._later(check, max(0.0, left), self._due)
        if not check.kind.active_only or self._active():
            self._judge(check, sample)

    def _sampler_ended(self, text: str) -> None:
        self._emit("health.sampler", f"the process that checks {text}")
        for check in self._checks:
            if check.asked is not None:
                check.asked = None
                self._late(check)

    def _judge(self, check: _Check, sample: Sample) -> None:
        was = check.judged
        check.judged = now = judge(check.rule, was, sample, self._clock())
        if now.state is was.state:
            return
        name, fields = check.config.name, {"name": check.config.name, "kind": check.config.kind}
        match now.state, was.state:
            case State.FAILED, _:
                self._emit("health.failed", f"{name}: {now.reason}", **fields)
            case _, State.FAILED:
                self._emit("health.recovered", f"{name}: {now.reason or 'good'}", **fields)
            case State.ABSENT, State.OK:
                self._emit("health.absent", f"{name}: {now.reason}", **fields)
            case State.OK, State.ABSENT:
                self._emit("health.present", f"{name}: {now.reason}", **fields)
        self._changed()


def _same(a: HealthConfig, b: HealthConfig) -> bool:
    """Whether both ask and judge alike."""
    return replace(a, weight=0) == replace(b, weight=0)
