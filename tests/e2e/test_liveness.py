"""Heartbeats: what they run on, and how fast and how slow they may be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hak2k.lab import Faults, until
from tests.e2e.duo import Duo

OPTIONS = {"traffic": False}


def _threads(pid: int) -> dict[str, tuple[int, int]]:
    """Scheduling policy and real-time priority of each thread, by its name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
        name = (task / "comm").read_text().strip()
        found[name] = (int(fields[38]), int(fields[37]))
    return found


def _memory(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {x.split(":")[0]: int(x.split()[1]) for x in lines if x.startswith("Vm")}


def test_heartbeats_have_priority_and_wait_for_no_disk(duo: Duo) -> None:
    allowed = subprocess.run(["chrt", "-r", "10", "true"], check=False).returncode == 0
    for fw in duo.lab.fw:
        process = duo.lab.daemons[fw].process
        assert process is not None
        threads = _threads(process.pid)
        if allowed:
            assert threads["hak-io"] == (os.SCHED_RR, 10)
        others = {n: t for n, t in threads.items() if n != "hak-io"}
        # While little comes the stream's threads have a lower one (hak_lent.c).
        stream = {others.pop("hak-capture"), others.pop("hak-apply")}
        assert stream <= {(os.SCHED_OTHER, 0), (os.SCHED_RR, 5)}, stream
        assert set(others.values()) == {(os.SCHED_OTHER, 0)}, others
        memory = _memory(process.pid)
        # Of what is mapped, all that was ever touched: more than is there now.
        assert memory["VmLck"] >= memory["VmRSS"], memory


class Fast(Duo):
    def configure(self, **overrides: Any) -> None:
        super().configure(liveness={"heartbeat_ms": 10, "dead_after_ms": 30}, **overrides)


class Far(Duo):
    """Heartbeats of a second, and 200 ms there and back."""

    def configure(self, **overrides: Any) -> None:
        assert self.lab.wire is not None
        self.lab.wire.set(Faults(delay_ms=100))
        super().configure(liveness={"heartbeat_ms": 1000, "dead_after_ms": 3000}, **overrides)


def _lives(duo: Duo, heartbeats: int, dead_ms: float) -> bool:
    """Both nodes, for so many heartbeats; False: one of them was believed dead."""
    stood = {fw: duo.position(fw) for fw in duo.lab.fw}
    goal = {fw: duo.ask(fw, "stats")["heartbeats.received"] + heartbeats for fw in duo.lab.fw}
    for fw in duo.lab.fw:
        until(lambda: duo.ask(fw, "stats")["heartbeats.received"] >= goal[fw], 20)  # noqa: B023
        peer = duo.ask(fw, "info")["peer"]
        assert dead_ms <= peer["dead_after_ms"] <= 5 * dead_ms
        assert 0 < peer["longest_silence_ms"] < peer["dead_after_ms"]
    return not any("peer.dead" in duo.ids(fw, stood[fw]) for fw in duo.lab.fw)


def _lives_then_dies(duo: Duo, heartbeats: int, dead_ms: float) -> None:
    # A machine that stands still for dead_ms is no proof of anything: the next may not.
    assert any(_lives(duo, heartbeats, dead_ms) for _ in range(5))
    duo.ready()
    dead, heir = duo.active, duo.passive
    duo.ask(heir, "active")
    duo.ask(heir, "reset")
    duo.ready()
    dead, heir = duo.active, duo.passive
    after = duo.position(heir)
    duo.lab.crash(dead)
    event = duo.wait_event(heir, "role.active", after)
    assert event["reason"] == "peer dead"
    assert event["detect_ms"] >= dead_ms - 1


def test_ten_milliseconds() -> None:
    duo = Fast(traffic=False)
    try:
        _lives_then_dies(duo, 300, 30)
    finally:
        duo.close()


@pytest.mark.soak
def test_a_long_way() -> None:
    duo = Far(traffic=False, wire=True)
    try:
        _lives_then_dies(duo, 40, 3000)
    finally:
        duo.close()
