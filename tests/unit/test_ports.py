"""What a step-down does to the proof that both tables are equal, over a core and an
rtnetlink that are not there; real ones are in tests/netns and tests/e2e."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest

from hak2k import ports
from hak2k.model import Role
from tests.unit.samples import GOOD
from tests.unit.test_node import READY_PEER, Rig, run

MOVE = GOOD.replace('address_mode = "shared"', 'address_mode = "move"')


class Addresses:
    """Of one node, in place of rtnetlink."""

    def __init__(self) -> None:
        self.here: set[tuple[int, bytes]] = set()

    def __call__(self) -> Addresses:
        return self

    def close(self) -> None:
        pass

    def add_address(self, index: int, address: IPv4Interface | IPv6Interface) -> bool:
        fresh = (index, address.ip.packed) not in self.here
        self.here.add((index, address.ip.packed))
        return fresh

    def remove_addresses(self, unwanted: set[tuple[int, bytes]]) -> list[bytes]:
        gone = self.here & unwanted
        self.here -= gone
        return [address for _, address in gone]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Addresses:
    found = Addresses()
    monkeypatch.setattr(ports, "Rtnl", found)
    monkeypatch.setattr(ports, "_index", {"lan": 2, "wan": 3}.__getitem__)
    return found


async def stepped_down(rig: Rig, kernel: Addresses) -> int:
    """Was active, is passive; how many comparisons were asked for."""
    await rig.alone()
    assert len(kernel.here) == len(rig.node.config.announcements)
    rig.core.meet(**READY_PEER)
    await rig.logged("peer.up")
    assert kernel.here
    handler = rig.service.handlers()["passive"]({"timeout": 3})

    async def taken() -> None:
        await rig.logged("handover.done")
        rig.core.meet(mode=2, state=3, term=2)

    await asyncio.gather(handler, taken())
    assert rig.node.state.role is Role.PASSIVE
    assert not kernel.here
    return rig.core.names().count("want_sync")


def test_a_comparison_beside_the_walk_proves_nothing(tmp_path: Path, kernel: Addresses) -> None:
    async def check(rig: Rig) -> None:
        asked = await stepped_down(rig, kernel)
        rig.core.say("sync.begin")
        rig.core.say("sync.done")
        assert await rig.node.until(lambda: rig.core.names().count("want_sync") > asked, 3)
        assert not rig.node.state.synced
        assert "sync.done" not in rig.ids()
        rig.core.say("sync.done", entries=5, removed=1, ns=1)
        await rig.logged("sync.done")
        assert rig.node.state.synced
        assert rig.core.names().count("want_sync") == asked + 1

    run(tmp_path, check, MOVE)


def test_active_again_before_the_walk_is_over(
    tmp_path: Path, kernel: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "WALK_S", 60.0)

    async def check(rig: Rig) -> None:
        asked = await stepped_down(rig, kernel)
        rig.core.say("sync.done")
        rig.core.say("peer.dead", silent_ns=1)
        await rig.becomes(Role.ACTIVE)
        assert kernel.here
        assert rig.core.names().count("want_sync") == asked

    run(tmp_path, check, MOVE)


def test_without_a_walk_the_first_counts(tmp_path: Path, kernel: Addresses) -> None:
    """A node that starts and has no address to remove."""

    async def check(rig: Rig) -> None:
        await rig.passive()
        assert rig.node.state.synced

    run(tmp_path, check, MOVE)
