"""Everything that is measured beside hak2k does replicate, and its losses are seen."""

from __future__ import annotations

import signal

import pytest

from bench import conntrackd, cost, rig, tools, variants
from bench.report import Target
from hak2k.lab import Lab, until

LIVES = 300

pytestmark = pytest.mark.usefixtures("programs")


@pytest.mark.parametrize("name", ["floor", "hak2k", "netlink", "ftfw", "direct", "notrack"])
def test_all_lives_reach_the_other_node(name: str) -> None:
    assert conntrackd.available(), "make peer"
    with variants.running(name, variants.Setup()) as variant:
        before = variant.cpu()
        rig.lives(variant.lab, LIVES, 2000)
        # What NOTRACK has not sent after a second fills no datagram.
        until(lambda: not variant.different(), 10, "equal tables", detail=variant.different)
        assert tools.run(variant.lab.fw1, "list", "-d")["entries"] == LIVES
        assert variant.lost() == 0
        assert all(now > then for now, then in zip(variant.cpu(), before, strict=True))
        assert all(variants.resident(pid) > 1 << 20 for pid in variant.pids)
        assert variants.traffic(variant.pids[0])["bytes"] > 20 * LIVES


def test_a_mask_leaves_five_events_of_a_life() -> None:
    with variants.running("floor, masked", variants.Setup()) as variant:
        assert isinstance(variant, variants.Floor)
        rig.lives(variant.lab, LIVES, 2000)
        until(lambda: not variant.different(), 10, "equal tables", detail=variant.different)
    # NEW, ASSURED and both FINs, no end yet.
    assert variant.found["active"]["events"] == 4 * LIVES
    assert variant.found["passive"]["records"] == 4 * LIVES
    assert variant.found["passive"]["errors"] == 0


def test_what_has_no_room_is_counted() -> None:
    with variants.running("floor", variants.Setup()) as variant:
        assert isinstance(variant, variants.Floor)
        assert variant.lost() == 0
        with variant.lab.fw1.events(receive_buffer=1 << 12):
            rig.lives(variant.lab, 200, 2000)
            assert variant.lost() > 0


def test_a_difference_is_seen() -> None:
    with variants.running("floor", variants.Setup()) as variant:
        assert isinstance(variant, variants.Floor)
        variant.passive.send_signal(signal.SIGSTOP)
        rig.lives(variant.lab, 20, 2000)
        assert variant.different() == "20 entries and 0"
        variant.passive.send_signal(signal.SIGCONT)
        until(lambda: not variant.different(), 10, "equal tables", detail=variant.different)


def test_a_cost_is_measured() -> None:
    for name in ("off", "listen", "floor"):
        found = cost.measure(name, 2000, 0.2)
        assert found["load"] > 1000
        assert (found["active"] > 0) == (name != "off")
        assert (found["passive"] > 0) == (name == "floor")
        assert (found["payload"] > 20) == (name == "floor")
        assert not found["lost"]
        assert not found["different"]


def test_a_listing_sums_up_a_table() -> None:
    with Lab() as lab:
        assert tools.run(lab.fw1, "list", "-d")["entries"] == 0
        for node in lab.fw:
            tools.run(node, "entries", "-m", "fill", "-n", 500)
        one, other = (tools.run(node, "list", "-d") for node in lab.fw)
        assert one["entries"] == 500
        assert one["sum"] == other["sum"]
        assert tools.run(lab.fw1, "list")["entries"] == 500
        entry = next(iter(lab.fw1.ct.dump().values()))
        lab.fw1.ct.delete(entry)
        assert tools.run(lab.fw1, "list", "-d")["sum"] != one["sum"]


def test_a_goal_may_be_a_least() -> None:
    assert Target("", 3.0, 3.0, "x", least=True).met
    assert not Target("", 2.9, 3.0, "x", least=True).met
    assert Target("", 2.9, 3.0, "x").met
