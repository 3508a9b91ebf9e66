"""The daemon's part, with the real process that samples."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hak2k.health import monitor
from hak2k.health.monitor import Component, Health
from hak2k.settings import HealthConfig


class Rig:
    def __init__(self, config: Sequence[HealthConfig], root: Path) -> None:
        self.events: list[tuple[str, str]] = []
        self.active = True
        self.changed = asyncio.Event()
        self.health = Health(
            config,
            emit=self.emit,
            changed=self.changed.set,
            active=lambda: self.active,
            root=str(root),
        )

    def emit(self, id: str, text: str, **fields: Any) -> None:
        self.events.append((id, text))
        self.changed.set()

    def component(self, name: str) -> Component:
        return next(c for c in self.health.components() if c.name == name)

    async def becomes(self, name: str, state: str) -> Component:
        async with asyncio.timeout(8):
            while self.component(name).state != state:
                self.changed.clear()
                await self.changed.wait()
        return self.component(name)

    @property
    def process(self) -> int:
        process = self.health._sampler._process
        assert process is not None
        return process.pid


def run(root: Path, config: Sequence[HealthConfig], what: Callable[[Rig], Awaitable[None]]) -> None:
    async def go() -> None:
        rig = Rig(config, root)
        rig.health.start()
        try:
            await what(rig)
        finally:
            rig.health.close()
        process = rig.health._sampler._process
        if process is not None:
            assert await asyncio.to_thread(process.wait, 5) in (0, -signal.SIGKILL)

    asyncio.run(asyncio.wait_for(go(), 30))


def conntrack(root: Path, count: int) -> None:
    folder = root / "proc/sys/net/netfilter"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nf_conntrack_max").write_text("100")
    (folder / "nf_conntrack_count").write_text(str(count))


def fill(**changed: Any) -> HealthConfig:
    base = HealthConfig("fill", "conntrack", weight=50, interval_s=0.02, fail=95.0, recover=85.0)
    return replace(base, **changed)


def test_there_and_back(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        found = await rig.becomes("fill", "ok")
        assert (found.part.weight, found.part.lost) == (50, 0)
        conntrack(tmp_path, 96)
        found = await rig.becomes("fill", "failed")
        assert found.part.lost == 1
        assert found.reason == "96 of 100 entries; bad: 95 or more %"
        assert found.checked is not None
        assert abs(found.since - time.time()) < 60
        conntrack(tmp_path, 10)
        await rig.becomes("fill", "ok")
        assert [id for id, _ in rig.events] == ["health.failed", "health.recovered"]

    conntrack(tmp_path, 1)
    run(tmp_path, [fill()], check)


def test_hot_plug(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.becomes("fill", "absent")
        await rig.becomes("must", "failed")
        conntrack(tmp_path, 1)
        await rig.becomes("fill", "ok")
        await rig.becomes("must", "ok")
        (tmp_path / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
        found = await rig.becomes("fill", "absent")
        assert found.part.lost == 0
        assert ("health.absent", "fill: no conntrack here") in rig.events
        await rig.becomes("must", "failed")

    run(tmp_path, [fill(), fill(name="must", required=True)], check)


def test_no_check_waits_for_one_that_hangs(tmp_path: Path, monkeypatch: Any) -> None:
    """And the loop waits for none."""
    monkeypatch.setattr(monitor, "START_S", 2.0)

    async def check(rig: Rig) -> None:
        started = time.monotonic()
        await rig.becomes("fill", "ok")
        assert time.monotonic() - started < monitor.START_S
        found = await rig.becomes("hangs", "failed")
        assert found.reason == "no answer within 0.1 s"
        for _ in range(3):  # it goes on hanging, the other goes on
            before = rig.component("fill").checked
            async with asyncio.timeout(5):
                while rig.component("fill").checked == before:
                    await asyncio.sleep(0)
        assert rig.component("hangs").state == "failed"

    conntrack(tmp_path, 1)
    fifo = tmp_path / "sys/class/tpm/tpm1/pcr-sha1/0"
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)  # reading it waits for a writer, for ever
    hangs = HealthConfig("hangs", "tpm", interval_s=0.1, timeout_s=0.1, options={"device": "tpm1"})
    run(tmp_path, [hangs, fill()], check)


def test_the_start_of_the_process_is_no_fault(tmp_path: Path, monkeypatch: Any) -> None:
    """An interpreter takes its time to start, more so while a machine boots; and the first
    sample decides alone."""
    monkeypatch.setattr(monitor, "GRACE_S", 0.0)

    async def check(rig: Rig) -> None:
        await rig.becomes("fill", "ok")
        assert rig.events == []

    conntrack(tmp_path, 1)
    run(tmp_path, [fill(timeout_s=0.01, fail_after=100)], check)


def test_the_process_is_killed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(monitor, "RESTART_S", 1000.0)

    async def check(rig: Rig) -> None:
        await rig.becomes("fill", "ok")
        first = rig.process
        os.kill(first, signal.SIGKILL)
        found = await rig.becomes("fill", "failed")
        assert found.reason == "the process that checks does not run"
        rig.health._sampler._restart_at = 0.0
        await rig.becomes("fill", "ok")
        assert rig.process != first
        ids = [id for id, _ in rig.events]
        assert ids == ["health.sampler", "health.failed", "health.recovered"]

    conntrack(tmp_path, 1)
    run(tmp_path, [fill()], check)


def test_what_only_the_active_node_can_ask(tmp_path: Path) -> None:
    gateway = HealthConfig(
        "gw",
        "gateway",
        interval_s=0.05,
        timeout_s=0.05,
        options={"address": "203.0.113.1", "interface": "lo"},
    )

    async def check(rig: Rig) -> None:
        rig.active = False
        await rig.becomes("fill", "ok")
        found = rig.component("gw")
        assert (found.state, found.reason, found.checked) == (
            "unknown",
            "not checked while passive",
            None,
        )
        rig.active = True
        await rig.becomes("gw", "failed")
        rig.active = False
        # Kept, or the role would go back and forth.
        before = rig.component("gw").checked
        conntrack(tmp_path, 99)
        await rig.becomes("fill", "failed")
        conntrack(tmp_path, 1)
        await rig.becomes("fill", "ok")
        found = rig.component("gw")
        assert found.state == "failed"
        assert found.reason.startswith("not checked while passive; 203.0.113.1")
        assert before is not None
        assert abs((found.checked or 0) - before) < 0.2
        rig.health.reload([gateway, fill()])
        assert rig.component("gw").state == "unknown", "an operator's word ends it"

    conntrack(tmp_path, 1)
    run(tmp_path, [gateway, fill()], check)


def test_reload_keeps_what_is_the_same(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.becomes("fill", "failed")
        rig.health.reload([fill(weight=7)])
        found = rig.component("fill")
        assert (found.state, found.part.weight) == ("failed", 7)
        rig.health.reload([fill(fail=99.5)])
        assert rig.component("fill").state == "unknown"
        await rig.becomes("fill", "ok")
        rig.health.reload([])
        assert rig.health.components() == []

    conntrack(tmp_path, 99)
    run(tmp_path, [fill()], check)


def test_without_tables_there_is_no_process(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await asyncio.sleep(0)
        assert rig.health._sampler._process is None

    run(tmp_path, [], check)
