"""The shell around the election, over a core that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hak2k import Engine
from hak2k._rtnl import Link
from hak2k.config import load_config
from hak2k.errors import ConfigError, KernelError, RefusedError, UsageError
from hak2k.events import EventLog
from hak2k.gate import GateSpec
from hak2k.model import Forced, Role
from hak2k.netwatch import Snapshot
from hak2k.node import Node
from hak2k.service import UNAVAILABLE, Service
from tests.unit.fake_core import FakeCore, FakeCoreError
from tests.unit.samples import GOOD, write

READY_PEER = {"mode": 1, "state": 2}


def link(name: str, index: int, *, carrier: bool = True) -> Link:
    return Link(name, index, 1, b"\2\0\0\0\0\1", True, carrier, 6 if carrier else 2)


def snapshot(**changed: Link | None) -> Snapshot:
    links: dict[str, Link | None] = {"lan": link("lan", 2), "wan": link("wan", 3)}
    links |= changed
    there = {n: x for n, x in links.items() if x is not None}
    return Snapshot(there, frozenset({(2, b"\x0a\x47\0\1")}))


class Rig:
    def __init__(self, directory: Path, text: str = GOOD) -> None:
        settings = load_config(write(directory, text))
        cores: list[FakeCore] = []

        def make(**arguments: Any) -> FakeCore:
            cores.append(FakeCore(**arguments))
            return cores[0]

        self.log = EventLog()
        self.gates: list[tuple[GateSpec, list[int]]] = []
        self.gate_fault: Exception | None = None
        self.asked: list[tuple[str, ...]] = []
        self.answer: asyncio.Future[str | None] | None = None
        self.node = Node(
            settings,
            Engine(settings, core=make),
            self.log,
            snapshot(),
            gate_build=self.build,
            gate_present=lambda spec: True,
            ask=self.ask,
        )
        self.node.rules = replace(self.node.rules, start_wait=60, grace=0.02, stop_wait=0.05)
        self.core = cores[0]
        self.service = Service(self.node)

    def build(self, spec: GateSpec, types: list[int]) -> None:
        if self.gate_fault is not None:
            raise self.gate_fault
        self.gates.append((spec, types))
        self.core.gate = bool(types)

    def tamper(self, gate: bool | None) -> None:
        """As somebody else did, and the watcher tells."""
        self.core.gate = gate
        self.node.on_rules()

    async def ask(self, addresses: Sequence[str], timeout_s: float) -> str | None:
        """In place of pings: the answer is the test's."""
        self.asked.append(tuple(addresses))
        self.answer = asyncio.get_running_loop().create_future()
        return await self.answer

    def ids(self) -> list[str]:
        return [e["id"] for e in self.log]

    def event(self, id: str) -> dict[str, Any]:
        return [e for e in self.log if e["id"] == id][-1]

    async def becomes(self, role: Role) -> None:
        assert await self.node.until(lambda: self.node.state.role is role, 3), self.ids()

    async def logged(self, id: str) -> dict[str, Any]:
        assert await self.node.until(lambda: id in self.ids(), 3), self.ids()
        return self.event(id)

    async def alone(self) -> None:
        """Active, without a peer."""
        self.node.rules = replace(self.node.rules, start_wait=0.0)
        await self.becomes(Role.ACTIVE)

    async def passive(self) -> None:
        """Passive and ready, beside an active peer."""
        self.core.meet(mode=2, state=3, term=1)
        await self.becomes(Role.PASSIVE)
        self.core.say("sync.begin")
        self.core.say("sync.done", entries=5, removed=1, ns=2_000_000)
        await self.logged("sync.done")

    async def active(self) -> None:
        """Active, with a peer that is ready."""
        await self.alone()
        self.core.meet(**READY_PEER)
        await self.logged("peer.up")


@asynccontextmanager
async def running(directory: Path, text: str = GOOD) -> AsyncIterator[Rig]:
    rig = Rig(directory, text)
    rig.node.start()
    try:
        yield rig
    finally:
        rig.node.close()


def run(directory: Path, what: Callable[[Rig], Any], text: str = GOOD) -> None:
    async def go() -> None:
        async with running(directory, text) as rig:
            await what(rig)

    asyncio.run(asyncio.wait_for(go(), 20))


def test_the_first_heartbeat_says_what_is(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        names = rig.core.names()
        assert names.index("set_status") < names.index("start")
        first = dict(rig.core.calls)["set_status"]
        assert first["quality"] == 100
        assert first["mode"] == 0

    run(tmp_path, check)


def test_alone(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.alone()
        event = rig.event("role.active")
        assert event["gate_us"] == 40.0
        assert event["total_us"] == 90.0
        assert event["term"] == 1
        assert "no peer heard" in event["reason"]
        assert rig.ids().count("peer.absent") == 1
        assert "sweep" in rig.core.names()
        # garp_count 3: one within activate, two more.
        assert await rig.node.until(lambda: rig.core.names().count("announce") == 2, 3)

    run(tmp_path, check)


def test_passive_then_the_peer_dies(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.passive()
        assert "want_sync" in rig.core.names()
        assert rig.event("sync.done")["ms"] == 2.0
        rig.core.say("peer.dead", silent_ns=203_400_000)
        await rig.becomes(Role.ACTIVE)
        assert rig.event("peer.dead")["silent_ms"] == 203.4
        assert rig.event("role.active")["detect_ms"] == 203.4
        assert rig.core.gate is True

    run(tmp_path, check)


def test_a_death_that_is_over_when_it_is_heard_of_moves_nothing(tmp_path: Path) -> None:
    """The interpreter hung; the core did not, and has heard the peer again."""

    async def check(rig: Rig) -> None:
        await rig.passive()
        rig.core.say("peer.dead", silent_ns=203_400_000)
        rig.core.meet(alive=True)
        rig.core.say("peer.alive")
        await rig.logged("peer.up")
        await rig.logged("peer.dead")
        assert rig.node.state.role is Role.PASSIVE

    run(tmp_path, check)


def test_a_late_tick_asks_the_core_first(tmp_path: Path) -> None:
    """The peer was dead, and this node could not be active; both are over."""

    async def check(rig: Rig) -> None:
        await rig.passive()
        rig.node.state = replace(rig.node.state, fault_until=rig.node.clock() + 60)
        rig.core.say("peer.dead", silent_ns=203_400_000)
        rig.node.drain_engine()
        assert rig.node.state.role is Role.PASSIVE
        rig.core.meet(alive=True)
        rig.core.say("peer.alive")
        rig.node.state = replace(rig.node.state, fault_until=rig.node.clock() - 1)
        rig.node._tick()
        assert rig.node.state.role is Role.PASSIVE

    run(tmp_path, check)


def test_a_peer_that_has_said_nothing_yet_is_not_judged_by_zeroes(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        rig.core.meet(since=0, quality=0)
        await rig.logged("session.up")
        assert rig.node.state.peer is None
        assert rig.node.state.role is Role.STARTING
        rig.core.meet(since=1_700_000_000_000, mode=2, term=1)
        await rig.becomes(Role.PASSIVE)

    run(tmp_path, check)


def test_a_promotion_that_fails(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        rig.core.fail["activate"] = FakeCoreError("no gate", "kernel", 2)
        rig.node.rules = replace(rig.node.rules, start_wait=0.0)
        await rig.logged("role.refused")
        assert rig.core.gate is False
        info = await rig.service.info({})
        assert info["local"]["mode"] == "fault"
        last = [v for n, v in rig.core.calls if n == "set_status"][-1]
        assert last["mode"] == 3

    run(tmp_path, check)


def test_force_there_and_back(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.active()
        handlers = rig.service.handlers()

        async def peer_takes() -> None:
            await rig.logged("handover.done")
            rig.core.meet(mode=2, state=3, term=2)

        helper = asyncio.ensure_future(peer_takes())
        assert await handlers["passive"]({}) == {"mode": "passive", "forced": "passive"}
        await helper
        assert ("handover", (2, 2000)) in rig.core.calls
        assert rig.event("force.set")["forced"] == "passive"
        assert rig.event("role.passive")["reason"] == "handed over"
        # Not ready: a script may have to wait, but not for long.
        with pytest.raises(RefusedError, match="not ready"):
            await handlers["active"]({"timeout": 0.1})
        rig.core.say("sync.done")
        taking = asyncio.ensure_future(handlers["active"]({}))
        rig.core.say("handover", term=3)
        await rig.becomes(Role.ACTIVE)
        # The peer still says that it is active: complete is the swap when both have moved.
        assert not (await asyncio.wait([taking], timeout=0.3))[0]
        rig.core.meet(mode=1, state=2, term=3)
        assert (await taking)["mode"] == "active"
        assert rig.event("role.active")["term"] == 3

    run(tmp_path, check)


async def _armed(rig: Rig) -> None:
    """Passive, and the active node is about to hand over."""
    await rig.active()
    handlers = rig.service.handlers()
    rig.core.say("handover.prepare", term=7)  # nothing to an active node

    async def peer_takes() -> None:
        await rig.logged("handover.done")
        rig.core.meet(mode=2, state=3, term=2)

    helper = asyncio.ensure_future(peer_takes())
    await handlers["passive"]({})
    await helper
    rig.core.say("handover.prepare", term=7)  # not ready
    await handlers["reset"]({})
    rig.core.say("sync.done")
    rig.core.say("handover.prepare", term=3)
    await rig.logged("handover.armed")
    assert [value for name, value in rig.core.calls if name == "arm"] == [3]


def test_gate_is_open_before_the_hand_over(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await _armed(rig)
        rig.node.probe_gate()
        assert rig.core.gate is True
        assert rig.node.gate_rebuilt == 0
        assert (await rig.service.handlers()["mode"]({}))["mode"] == "passive"
        rig.core.say("handover", term=3)
        assert await rig.node.until(lambda: rig.node.state.role is Role.ACTIVE, 3)
        assert not rig.node.arming.armed

    run(tmp_path, check)


def test_gate_is_closed_if_no_hand_over_comes(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await _armed(rig)
        rig.core.say("handover.off", term=3)
        await rig.logged("handover.disarmed")
        assert rig.core.gate is False
        assert not rig.node.state.synced

    run(tmp_path, check)


def test_force_in_vain(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.active()
        rig.core.handover_ok = False
        with pytest.raises(RefusedError, match=r"not complete after 0\.3 s.*hareset"):
            await rig.service.handlers()["passive"]({"timeout": 0.3})
        assert rig.node.state.role is Role.ACTIVE
        assert "handover.failed" in rig.ids()

    run(tmp_path, check)


def test_passive_without_a_peer(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.alone()
        passive = rig.service.handlers()["passive"]
        with pytest.raises(RefusedError, match="--force"):
            await passive({"timeout": 0.1})
        assert rig.node.state.forced is Forced.NO
        assert (await passive({"force": True}))["mode"] == "passive"
        assert rig.core.gate is False
        assert (await rig.service.handlers()["reset"]({}))["mode"] == "active"

    run(tmp_path, check)


def test_events_wait_while_a_handover_runs(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.active()
        import threading

        release = threading.Event()

        def slow(term: int, timeout_ms: int, prepare_ms: int) -> None:
            assert release.wait(5)

        rig.core.handover = slow  # type: ignore[method-assign]
        command = asyncio.ensure_future(rig.node.force(Forced.PASSIVE, alone=False, timeout_s=1))
        assert await rig.node.until(lambda: rig.node.busy, 3)
        rig.core.say("peer.dead", silent_ns=1)
        info = asyncio.ensure_future(rig.service.info({}))
        assert not await rig.node.until(lambda: "peer.dead" in rig.ids(), 0.3)
        assert not info.done()
        release.set()
        await rig.logged("peer.dead")
        assert (await info)["local"]["mode"] == "active"
        with pytest.raises(RefusedError):
            await command
        assert rig.node.state.role is Role.ACTIVE

    run(tmp_path, check)


def test_stop_hands_over(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.active()
        rig.node.stop()
        assert rig.node.finished is not None
        assert await asyncio.wait_for(rig.node.finished, 5) is False
        assert rig.core.gate is False
        assert "handover.done" in rig.ids()

    run(tmp_path, check)


def test_stop_alone_leaves_the_gate_open(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.alone()
        rig.node.stop()
        assert rig.node.finished is not None
        assert await asyncio.wait_for(rig.node.finished, 5) is True
        assert rig.core.gate is True

    run(tmp_path, check)


def test_interfaces(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.alone()
        rig.node.on_snapshot(snapshot(lan=link("lan", 2, carrier=False)))
        assert rig.event("interface.down")["name"] == "lan"
        assert rig.event("quality.changed")["quality"] == 50
        assert dict(rig.core.calls)["set_status"]["quality"] == 50
        rig.node.on_snapshot(snapshot())
        assert rig.event("quality.changed")["quality"] == 100
        assert not rig.gates
        rig.node.on_snapshot(snapshot(wan=None))
        assert rig.event("interface.lost")["name"] == "wan"
        # A device of the same name, but not the same device: the gate is made
        # anew, and open, since this node is active.
        rig.node.on_snapshot(snapshot(wan=link("wan", 9)))
        (spec, types) = rig.gates[-1]
        assert spec.interfaces == ("lan", "wan")
        assert types == [1]

    run(tmp_path, check)


def test_members_of_an_aggregate(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.alone()
        rig.node.on_snapshot(replace(snapshot(), members={"lan": {"eth1": True, "eth2": True}}))
        assert rig.node.state.quality == 100
        rig.node.on_snapshot(replace(snapshot(), members={"lan": {"eth1": True, "eth2": False}}))
        assert (rig.event("member.down")["name"], rig.event("member.down")["member"]) == (
            "lan",
            "eth2",
        )
        assert rig.node.state.quality == 100
        write(tmp_path, GOOD.replace("weight = 100", "members = true", 1))
        await rig.service.reload({})
        assert rig.node.state.quality == 75
        (row, *_) = (await rig.service.info({}))["health"]
        assert (row["component"], row["state"], row["cost"]) == ("lan", "degraded", 25)

    run(tmp_path, check)


@pytest.mark.parametrize("state", [None, False])
def test_a_gate_that_was_tampered_with_active(tmp_path: Path, state: bool | None) -> None:
    async def check(rig: Rig) -> None:
        await rig.alone()
        rig.tamper(state)
        await rig.logged("gate.missing")
        assert rig.core.gate is True

    run(tmp_path, check)


@pytest.mark.parametrize("state", [None, True])
def test_a_gate_that_was_tampered_with_passive(tmp_path: Path, state: bool | None) -> None:
    async def check(rig: Rig) -> None:
        await rig.passive()
        rig.tamper(state)
        await rig.logged("gate.missing")
        assert rig.core.gate is False

    run(tmp_path, check)


def test_a_gate_that_was_gone_and_with_it_the_choice_of_events(tmp_path: Path) -> None:
    """What closed meanwhile was not told: the tables are compared at once."""

    async def check(rig: Rig) -> None:
        await rig.active()
        assert "verify" not in rig.core.names()
        rig.tamper(None)
        await rig.logged("gate.missing")
        assert "verify" in rig.core.names()
        assert "daemon.error" not in rig.ids()

    run(tmp_path, check)


def test_a_gate_that_cannot_be_made(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.passive()
        rig.gate_fault = KernelError("nftables: no")
        rig.tamper(None)
        assert "nftables: no" in (await rig.logged("gate.failed"))["message"]
        rig.gate_fault = None  # it is tried again
        await rig.logged("gate.missing")
        assert rig.core.gate is False

    run(tmp_path, check)


def test_floods_are_counted_not_logged(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        for _ in range(100):
            rig.core.say("hello.refused", reason="key")
        await rig.logged("hello.refused")
        rig.node.drain_engine()
        assert rig.ids().count("hello.refused") == 1
        assert rig.event("hello.refused")["reason"] == "key"

    run(tmp_path, check)


def test_an_unknown_engine_event_is_survived(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        rig.core.say("from.the.future", x=1)
        assert "from.the.future" in (await rig.logged("daemon.error"))["message"]

    run(tmp_path, check)


def test_pressure_warns_when_it_rises_and_tells_when_it_falls(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        for before, level in ((0, 1), (1, 2), (2, 1), (1, 0)):
            cause = "stream" if level else ""
            rig.core.say("stream.pressure", level=level, before=before, held=5, text=cause)
        await rig.logged("stream.relieved")
        rig.node.drain_engine()
        said = [e for e in rig.log if e["id"].startswith("stream.")]
        assert [(e["id"], e["severity"], e["level"]) for e in said] == [
            ("stream.pressure", "warning", 1),
            ("stream.pressure", "warning", 2),
            ("stream.relieved", "info", 1),
            ("stream.relieved", "info", 0),
        ]
        assert said[1]["cause"] == "stream"
        assert said[1]["held"] == 5

    run(tmp_path, check)


def test_the_same_serial_twice(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        rig.core.meet(serial="FW-A")
        await rig.logged("peer.conflict")

    run(tmp_path, check)


def test_goodbye_is_said_on_each_link_and_counts_once(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.passive()
        rig.core.say("peer.bye")
        rig.core.say("peer.bye")
        rig.core.say("peer.status")  # the core may still believe it alive
        await rig.becomes(Role.ACTIVE)
        assert rig.ids().count("peer.bye") == 1
        assert rig.node.state.role is Role.ACTIVE

    run(tmp_path, check)


def test_info(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        info = await rig.service.info({})
        assert info["peer"] is None
        await rig.active()
        info = await rig.service.info({})
        for node in (info["local"], info["peer"]):
            assert node.keys() >= {
                *("serial", "model", "version", "mode", "since", "forced", "quality"),
                *("priority", "state", "boot", "config_synced", "protocol", "supervisor"),
            }
        assert info["local"]["mode"] == "active"
        assert info["local"]["state"] == "running"
        assert info["local"]["supervisor"] is True
        assert info["peer"]["state"] == "ready"
        assert info["links"][0]["state"] == "ok"
        assert info["links"][1]["state"] == "failed"
        assert info["links"][0]["since"].endswith("Z")
        assert (
            info["stream"].items()
            >= {"lag_records": 2, "lag_ms": 0.5, "sequence": 12, "encrypted": True}.items()
        )
        assert info["table"].items() >= {"entries": 42, "equal": None, "as_of": 0}.items()
        rig.core.say("peer.dead", silent_ns=1)
        await rig.logged("peer.dead")
        info = await rig.service.info({})
        assert info["peer"]["mode"] == "fault"
        assert info["peer"]["alive"] is False

    run(tmp_path, check)


def test_stats_are_flat(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        stats = await rig.service.stats({})
        assert stats["drop.auth"] == 1
        assert all(isinstance(v, int) for v in stats.values())

    run(tmp_path, check)


def test_wait(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.alone()
        wait = rig.service.wait
        assert await wait({"mode": "active", "ready": True}) == {"mode": "active"}
        with pytest.raises(RefusedError, match=r"not so after 0\.05 s: mode active"):
            await wait({"mode": "passive", "timeout": 0.0499999})
        for wrong in ({}, {"mode": "x"}, {"mode": "active", "timeout": "1"}, {"ready": 1}):
            with pytest.raises(UsageError):
                await wait(wrong)

    run(tmp_path, check)


def test_what_is_not_built_says_so(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        for name in UNAVAILABLE:
            with pytest.raises(RefusedError, match=f"{name}: not available in this version"):
                await rig.service.handlers()[name]({})

    run(tmp_path, check)


def test_reload(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        await rig.alone()
        write(tmp_path, GOOD.replace("weight = 100", "weight = 0", 1))
        assert await rig.service.reload({}) == {"changed": ["interface[0].weight"]}
        assert rig.event("config.reloaded")["keys"] == ["interface[0].weight"]
        rig.node.on_snapshot(snapshot(lan=link("lan", 2, carrier=False)))
        assert rig.node.state.quality == 100, "lan does not count any more"

        write(tmp_path, GOOD.replace("port = 44242", "port = 1"))
        with pytest.raises(RefusedError, match=r"stream\.port: cannot change"):
            await rig.service.reload({})
        write(tmp_path, GOOD.replace("port = 44242", "port = 0"))
        with pytest.raises(ConfigError, match=r"stream\.port: 0 is out of range"):
            await rig.service.reload({})
        assert rig.node.config.stream.port == 44242
        assert "config.refused" in rig.ids()

    run(tmp_path, check)


def test_reload_of_the_priority(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        write(tmp_path, GOOD.replace("priority = 0", "priority = 50"))
        assert await rig.service.reload({}) == {"changed": ["cluster.priority"]}
        assert ("set_priority", 50) in rig.core.calls
        assert rig.node.state.priority == 50

    run(tmp_path, check)


def test_a_peer_whose_table_takes_less(tmp_path: Path) -> None:
    """Said once for each pair of numbers, and again if it comes back."""

    async def check(rig: Rig) -> None:
        await rig.active()
        said = []
        for peer_max in (None, 262144, 300000, 65536, 65536, 262144, 65536, 1000):
            rig.core.peer_max = peer_max
            before = rig.ids().count("table.smaller")
            rig.node.looks.sizes()
            said.append(rig.ids().count("table.smaller") - before)
        assert said == [0, 0, 0, 1, 0, 0, 1, 1]
        event = rig.event("table.smaller")
        assert (event["peer_max"], event["max"], event["severity"]) == (1000, 262144, "warning")

    run(tmp_path, check)


def test_a_lost_peer_is_asked_for_after_the_promotion(tmp_path: Path) -> None:
    async def check(rig: Rig) -> None:
        async def answer(said: str | None) -> None:
            assert await rig.node.until(lambda: rig.answer is not None, 3)
            assert rig.answer is not None
            future, rig.answer = rig.answer, None
            future.set_result(said)

        await rig.passive()
        assert rig.node.lost.cause is None
        rig.core.say("peer.dead", silent_ns=200_000_000)
        await rig.becomes(Role.ACTIVE)  # nobody has answered yet
        assert rig.node.lost.cause == "unknown"
        await answer("fd00::2")
        event = await rig.logged("peer.process")
        assert event["address"] == "fd00::2"
        assert rig.asked == [("192.168.69.2", "fd00::2")]
        assert rig.node.lost.cause == "process"
        assert rig.node.recorder.changes.found[-1].log[-1] == event
        # once for the death, even if it comes to another end
        await answer(None)
        await answer(None)
        await rig.logged("peer.machine")
        assert event is rig.node.recorder.changes.found[-1].log[-1]
        rig.core.meet(mode=0)
        rig.core.say("peer.alive")
        assert await rig.node.until(lambda: rig.node.lost.cause is None, 3)
        rig.core.say("peer.bye")
        await rig.logged("peer.bye")
        assert rig.node.lost.cause == "stopped"

    run(tmp_path, check)
