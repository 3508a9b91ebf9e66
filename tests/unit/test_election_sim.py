"""Two nodes through random faults; see election_sim.py and election_chaos.py.

A seed that fails prints the steps that are needed for it; `make sim` plays very many.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from hak2k.model import Forced, PeerDead, Role, Stop
from tests.unit import election_chaos
from tests.unit.election_chaos import (
    attempt,
    bound,
    changes,
    play,
    report,
    settled,
    shortest,
)
from tests.unit.election_core import Core, Lease
from tests.unit.election_sim import Node, World

EACH = 60


@pytest.mark.parametrize("group", range(20))
def test_chaos(group: int, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(group * EACH, (group + 1) * EACH):
        failure = attempt(seed)
        if failure is not None:
            report(*failure)
            pytest.fail(capsys.readouterr().out)


# Schedules that a rule was broken by, once; what has been mended since.
FOUND = [
    # elected by the zeroes of a status that had not come yet
    (116, (0, 4)),
    (492, (0, 1, 3, 4, 11, 16)),
    # the interpreter hung: a death that was over by then made it active
    (578, (0, 1, 2, 4, 6, 7)),
    # so did a tick that came before the news
    (25416, (0, 1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 15, 17, 18)),
    (46634, (0, 1, 2, 3, 4, 5, 7)),
]


@pytest.mark.parametrize(("seed", "steps"), FOUND)
def test_found(seed: int, steps: tuple[int, ...]) -> None:
    play(seed, steps)


def test_a_broken_rule_is_found_and_its_schedule_shortened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(election_chaos, "bound", lambda world: -1.0)
    failure = attempt(3)
    assert failure is not None
    report(*failure)
    assert "seed 3" in capsys.readouterr().out
    assert shortest(3) == ()


def test_passing_over_heartbeats_changes_nothing() -> None:
    """A run with and one without come to the same end, if not at the same microsecond."""
    fast, slow = World(5, (0, 50)), World(5, (0, 50))
    slow.skip = lambda horizon: None  # type: ignore[method-assign]
    for world in (fast, slow):
        world.a.start()
        world.run(3)
        world.b.start()
        world.run(20)
        world.a.kill()
        world.run(20)
        world.a.start()
        world.run(20)
        settled(world)
    assert fast.active() == slow.active() == ["FW-B"]
    assert [r[1] for r in fast.a.roles] == [r[1] for r in slow.a.roles]
    assert [r[1] for r in fast.b.roles] == [r[1] for r in slow.b.roles]
    assert fast.handled < slow.handled / 4


@pytest.mark.parametrize("seed", range(10))
def test_both_start_together(seed: int) -> None:
    world = World(seed)
    world.a.start()
    world.run(random.Random(seed).uniform(0, 1.5))
    world.b.start()
    world.run(3)
    assert len(world.active()) == 1
    assert world.rules.worst_both == 0
    # Neither was active and had to give way.
    promotions = [r for n in (world.a, world.b) for r in n.roles if r[1] is Role.ACTIVE]
    assert len(promotions) == 1


def started(seed: int = 1, priorities: tuple[int, int] = (0, 0), *, leased: bool = False) -> World:
    world = World(seed, priorities, leased=leased)
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
    assert world.rules.worst_both == 0


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
    world.a.feed(Stop())
    world.run(0.5)
    assert world.active() == ["FW-B"]
    assert not world.a.up
    assert world.a.state.role is Role.STOPPED


@pytest.mark.parametrize("one_way", [("FW-A",), ("FW-B",), ("FW-A", "FW-B")])
def test_split_and_heal(one_way: tuple[str, ...]) -> None:
    world = started()
    world.cut(*one_way)
    world.run(3)
    world.cut()
    world.run(5)
    assert len(world.active()) == 1
    assert world.rules.worst_both <= bound(world)
    before = changes(world)
    world.run(10)
    assert changes(world) == before


def test_a_stopped_active_does_not_take_back() -> None:
    world = started(leased=True)
    world.a.pause(3)
    world.run(2)
    assert world.b.forwards()
    assert not world.a.forwards(), "the kernel has closed its gate"
    world.run(0.99)
    assert not world.a.forwards()
    world.run(5)
    assert world.active() == ["FW-B"]


def test_one_link_is_enough() -> None:
    world = started()
    before = changes(world)
    for node in (world.a, world.b):
        world.ways[node][0].cut = True
    world.run(5)
    assert changes(world) == before
    world.set_quality(world.a, 50)
    world.run(1)
    assert world.active() == ["FW-B"], "a hand-over takes the other link"


@pytest.mark.parametrize("older", ["FW-A", "FW-B"])
def test_a_hand_over_with_an_older_version(older: str) -> None:
    """It knows no PREPARE: its gate opens after the other one is closed."""
    world = World(1)
    for node in (world.a, world.b):
        node.older = node.name == older
    world.a.start()
    world.run(2)
    world.b.start()
    world.run(5)
    world.set_quality(world.a, 50)
    world.run(1)
    assert world.active() == ["FW-B"]
    assert world.rules.worst_arming == world.rules.worst_both == 0
    settled(world)


def test_both_gates_are_open_in_a_hand_over() -> None:
    world = started()
    world.set_quality(world.a, 50)
    world.run(1)
    assert world.active() == ["FW-B"]
    assert 0.004 < world.rules.worst_arming < 0.1
    assert world.rules.worst_both == 0


@pytest.mark.parametrize("what", ["end", "kill", "pause"])
@pytest.mark.parametrize("who", ["FW-A", "FW-B"])
def test_a_fault_at_every_step_of_a_hand_over(what: str, who: str) -> None:
    """Steps: heartbeats, commands, gates; both nodes, one after the other."""
    reached = 0
    for at in range(1, 25):
        world = started(seed=at, leased=True)
        world.set_quality(world.a, 50)
        node = world.a if who == "FW-A" else world.b
        node.fuse = [at, what, 0.3]
        if at == 1:
            world.rules.unleased = 0
        world.run(4)
        reached += node.fuse is None
        node.fuse = None
        world.run(6)
        if not node.up:
            node.start()
        world.run(8)
        settled(world)
        assert world.active() == ["FW-B"], f"step {at}"
    assert reached > 12


def test_the_clock_on_the_wall_may_jump() -> None:
    world = started()
    before = changes(world)
    world.a.wall -= 1e6
    world.b.wall += 1e6
    world.run(10)
    assert changes(world) == before
    world.a.kill()
    world.a.start()  # with a clock that is far behind, while its death goes unnoticed
    world.run(10)
    settled(world)


# --- the simulator sees what it is there to see --------------------------------


def _forgives_nothing(core: Core) -> None:
    core.slipped = core.clock()


def _renews_first(core: Core) -> None:
    """The lease longer, and then a stop before the heartbeat that it was for."""
    w, node = core.world, core.node
    w.periodic(w.now + w.beat / node.rate, node.call, node.life, core.beat, ())
    now = core.clock()
    node.steps([(core.renew, (now,)), (core.send_beat, (0,)), (core.send_beat, (1,))])
    if not node.halted and core.initiator and core.lonely(now):
        core.hello(now)


def _believes_the_late(node: Node, kind: str, data: object) -> None:
    if kind == "dead":
        node.queue.append(PeerDead())
    else:
        TRANSLATE(node, kind, data)


def _too_long(lease: Lease, now: float, length: float, **facts: Any) -> None:
    LEASE_STEP(lease, now, 1.2 * length, **facts)


TRANSLATE, LEASE_STEP = Node.translate, Lease.step


@pytest.mark.parametrize(
    ("where", "name", "mistake", "seed", "words"),
    [
        (Core, "slip", _forgives_nothing, 10, "woke"),
        (Core, "beat", _renews_first, 706, "may forward"),
        (Node, "translate", _believes_the_late, 578, "may forward"),
        (Lease, "step", _too_long, 13, "may forward"),
    ],
)
def test_a_mistake_is_found(
    monkeypatch: pytest.MonkeyPatch,
    where: type,
    name: str,
    mistake: Callable[..., None],
    seed: int,
    words: str,
) -> None:
    """Each was one of ours, or could be; the same schedule without it breaks no rule."""
    assert attempt(seed) is None
    monkeypatch.setattr(where, name, mistake)
    failure = attempt(seed)
    assert failure is not None
    assert words in failure[1]
