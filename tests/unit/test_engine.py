"""The public engine, over a core that is not there."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from hak2k import Engine
from hak2k import errors as err
from tests.unit.fake_core import FakeCore, FakeCoreError
from tests.unit.samples import config


def made(directory: Path) -> tuple[Engine, FakeCore]:
    cores: list[FakeCore] = []

    def make(**arguments: object) -> FakeCore:
        cores.append(FakeCore(**arguments))
        return cores[0]

    return Engine(config(directory), core=make), cores[0]


def test_what_the_core_is_told(tmp_path: Path) -> None:
    engine, core = made(tmp_path)
    given = core.arguments
    assert given["links"][1] == ("backup", "ha1", "192.168.70.1", "192.168.70.2")
    assert given["interfaces"] == ["lan", "wan"]
    assert given["exclude_mark"] == (0x100, 0x100)
    assert len(given["psk"]) == 32
    assert ("lan", "fd71::1") in dict(core.calls)["set_announcements"]
    engine.close()


def test_roles(tmp_path: Path) -> None:
    engine, core = made(tmp_path)
    with engine:
        engine.start("passive", build_gate=False)
        core.meet(term=6)
        times = engine.promote()
        assert (times.gate_ns, times.total_ns) == (40_000, 90_000)
        assert engine.gate_is_open() is True
        assert engine.handover(0.5)
        engine.demote()
    assert [c for c in core.calls if c[0] in ("passivate", "activate", "handover")] == [
        ("passivate", 0),
        ("activate", 7),
        ("handover", (8, 500)),
        ("passivate", 8),
    ]
    assert core.closed


def test_start_active(tmp_path: Path) -> None:
    engine, core = made(tmp_path)
    engine.start("active", build_gate=False)
    assert core.names()[-2:] == ["start", "activate"]
    engine.close()


def test_seen(tmp_path: Path) -> None:
    engine, core = made(tmp_path)
    assert engine.peer() is None
    core.meet(mode=2)
    peer = engine.peer()
    assert peer is not None
    assert (peer.serial, peer.mode) == ("FW-B", 2)
    assert engine.links()[1].rtt_us is None
    assert engine.stream().lag_records == 2
    assert engine.statistics()["drop.auth"] == 1
    assert engine.table_count() == 42
    engine.close()


@pytest.mark.parametrize(
    ("kind", "kind_of"),
    [("kernel", err.KernelError), ("peer", err.PeerError), ("internal", err.InternalError)],
)
def test_errors(tmp_path: Path, kind: str, kind_of: type[err.HakError]) -> None:
    engine, core = made(tmp_path)
    core.fail["activate"] = FakeCoreError("no gate", kind, errno.ENOENT)
    with pytest.raises(kind_of, match="no gate") as caught:
        engine.promote()
    if isinstance(caught.value, err.KernelError):
        assert caught.value.errno == errno.ENOENT
    engine.close()


def test_closed(tmp_path: Path) -> None:
    engine, core = made(tmp_path)
    engine.close()
    engine.close()
    assert core.names().count("close") == 1
    with pytest.raises(err.InternalError, match="closed"):
        engine.promote()


def test_events_with_asyncio(tmp_path: Path) -> None:
    engine, core = made(tmp_path)

    async def run() -> list[str]:
        got = []
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: core.say("peer.dead", silent_ns=5))
        loop.call_later(0.01, lambda: core.say("peer.alive"))
        async for event in engine:
            got.append(event.type)
            if event.type == "peer.dead":
                assert event.data == {"silent_ns": 5}
            if len(got) == 2:
                break
        return got

    assert asyncio.run(asyncio.wait_for(run(), 5)) == ["peer.dead", "peer.alive"]
    engine.close()
