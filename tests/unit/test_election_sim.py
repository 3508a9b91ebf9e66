"""Two nodes through random faults; see election_sim.py and election_chaos.py.

The seed of a failure is the test's parameter: run it alone with `-k 'chaos[17]'`.
"""

from __future__ import annotations

import random

import pytest

from hak2k.model import Forced, Role
from tests.unit.election_chaos import BOUND_S, attempt, changes, play, report, shortest
from tests.unit.election_sim import World


@pytest.mark.parametrize("seed", range(40))
def test_chaos(seed: int) -> None:
    play(seed)


def test_a_broken_rule_is_found_and_its_schedule_shortened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.unit.election_chaos.BOUND_S", -1.0)
    failure = attempt(3)
    assert failure is not None
    report(*failure)
    assert "seed 3" in capsys.readouterr().out
    assert shortest(3) == ()


@pytest.mark.parametrize("seed", range(10))
def test_both_start_together(seed: int) -> None:
    world = World(seed)
    world.a.start()
    world.run(random.Random(seed).uniform(0, 1.5))
    world.b.start()
    world.run(3)
    assert len(world.active()) == 1
    assert world.worst_both_open == 0
    # Neither was active and had to give way.
    promotions = [r for n in (world.a, world.b) for r in n.roles if r[1] is Role.ACTIVE]
    assert len(promotions) == 1


def started(seed: int = 1, priorities: tuple[int, int] = (0, 0)) -> World:
    world = World(seed, priorities)
    world.a.start()
    world.run(2)
    world.b.start()
    world.run(5)
    assert world.active() == ["FW-A"]
    assert world.b.state.table.name == "READY"
    return world


def test_death() -> None:
    world = started()
    world.a.kill()
    world.run(0.35)
    assert world.active() == ["FW-B"]
    world.a.start()
    world.run(5)
    assert world.active() == ["FW-B"], "equal nodes stay"
    assert world.a.state.table.name == "READY"


def test_the_preferred_node_comes_back() -> None:
    world = World(1, (50, 0))
    world.b.start()
    world.run(3)
    assert world.active() == ["FW-B"]
    world.a.start()
    world.run(6)
    assert world.active() == ["FW-A"]
    assert world.worst_both_open == 0


def test_quality_then_back() -> None:
    world = started(priorities=(50, 0))
    world.set_quality(world.a, 50)
    world.run(0.5)
    assert world.active() == ["FW-B"]
    world.set_quality(world.a, 100)
    world.run(5)
    assert world.active() == ["FW-A"], "equal quality: priority"


def test_a_flapping_interface_does_not_flap_the_roles() -> None:
    world = started(priorities=(50, 0))
    before = changes(world)
    for _ in range(50):
        world.set_quality(world.a, 50)
        world.run(0.1)
        world.set_quality(world.a, 100)
        world.run(0.1)
    # Ten seconds, at least a second between two switches, each two changes on
    # the node that gives (handing over, passive) and one on the other.
    assert changes(world) - before <= 30


def test_forced() -> None:
    world = started()
    assert world.b.force(Forced.ACTIVE) is None
    world.run(0.5)
    assert world.active() == ["FW-B"]
    world.set_quality(world.b, 10)
    world.run(5)
    assert world.active() == ["FW-B"], "forced goes before quality"
    assert world.b.force(Forced.NO) is None
    world.run(3)
    assert world.active() == ["FW-A"]


def test_orderly_stop_hands_over() -> None:
    world = started()
    from hak2k.model import Stop

    world.a.feed(Stop())
    world.run(0.5)
    assert world.active() == ["FW-B"]
    assert not world.a.up
    assert world.a.state.role is Role.STOPPED


@pytest.mark.parametrize("one_way", [{"FW-A"}, {"FW-B"}, {"FW-A", "FW-B"}])
def test_split_and_heal(one_way: set[str]) -> None:
    world = started()
    world.cut = one_way
    world.run(3)
    world.cut = set()
    world.run(5)
    assert len(world.active()) == 1
    assert world.worst_both_open <= BOUND_S
    before = changes(world)
    world.run(10)
    assert changes(world) == before


def test_a_frozen_active_does_not_take_back() -> None:
    world = started(priorities=(0, 0))
    world.a.frozen_until = world.now + 3
    world.run(2)
    assert "FW-B" in world.active()
    world.run(5)
    assert world.active() == ["FW-B"]
