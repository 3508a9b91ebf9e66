"""Two nodes through random faults; see election_sim.py.

The seed of a failure is the test's parameter: run it alone with `-k 'chaos[17]'`.
"""

from __future__ import annotations

import random

import pytest

from hak2k.model import Forced, Role
from tests.unit.election_sim import World

# Two actives that hear each other: conflict_wait, two heartbeats, and the delay.
BOUND_S = 0.5


def settle(world: World) -> tuple[str, int]:
    """After all faults: who is active, and how many role changes there were."""
    world.heal()
    world.run(15)
    (active,) = world.active()
    return active, changes(world)


def changes(world: World) -> int:
    return len(world.a.roles) + len(world.b.roles)


@pytest.mark.parametrize("seed", range(40))
def test_chaos(seed: int) -> None:
    world = World(seed, [(0, 0), (50, 0), (0, 50)][seed % 3])
    if seed % 4 == 0:
        world.a.promote_fails = world.b.promote_fails = 0.2
    world.a.start()
    world.run(world.rng.choice([0.0, 0.5, 2.0]))
    world.b.start()
    for _ in range(20):
        world.run(world.rng.choice([0.05, 0.3, 1, 2]))
        world.chaos()
    active, before = settle(world)
    world.run(8)
    assert world.active() == [active]
    assert changes(world) == before, "flapping"
    assert world.worst_both_open <= BOUND_S
    passive = world.b if active == world.a.name else world.a
    assert passive.state.table.name == "READY"
    a, b = (world.a.quality, world.a.priority), (world.b.quality, world.b.priority)
    if a != b:
        assert active == ("FW-A" if a > b else "FW-B")


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
