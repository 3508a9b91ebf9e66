"""Schedules of random faults for the simulated pair: `make sim` plays very many.

    python -m tests.unit.election_chaos [SCHEDULES [FIRST_SEED]]

A schedule is a seed and the numbers of its steps; each step has random numbers of
its own, so that one may be left out and the others stay what they were.
"""

from __future__ import annotations

import random
import sys
import time
from multiprocessing import Pool

from hak2k import model as m
from hak2k.model import Forced, Role
from tests.unit.election_sim import Node, World

STEPS = tuple(range(20))
# What must be reached so long after the last fault is over, in seconds.
ONE_ACTIVE_S = 15.0
SETTLED_S = 25.0


def bound(world: World) -> float:
    """Two actives that hear each other: conflict_wait, and until both know the same."""
    return world.a.config.conflict_wait + 4 * world.beat + 0.25


def arming_bound(world: World) -> float:
    """Two open gates in a hand-over: until the peer is armed, or is told the end."""
    return 0.5 + 4 * world.beat + 0.25


def changes(world: World) -> int:
    return len(world.a.roles) + len(world.b.roles)


# --- faults ------------------------------------------------------------------


def _links(world: World, rng: random.Random) -> None:
    """Each direction of each link works, or does not."""
    kind = rng.randrange(5)
    for node, ways in world.ways.items():
        for i, way in enumerate(ways):
            if kind == 0:
                way.cut = False
            elif kind == 1:
                way.cut = True
            elif kind == 2:
                way.cut = node is world.a
            elif kind == 3:
                way.cut = i == 0
            else:
                way.cut = rng.random() < 0.5


def _loss(world: World, rng: random.Random) -> None:
    """Not the same in both directions, nor on both links."""
    alike = rng.random() < 0.3
    loss = rng.choice([0.0, 0.05, 0.3, 0.6])
    for ways in world.ways.values():
        for way in ways:
            way.loss = loss if alike else rng.choice([0.0, 0.0, 0.05, 0.3, 0.6, 0.9])


def _delay(world: World, rng: random.Random) -> None:
    """Up to 200 ms there and back; where it varies, datagrams overtake each other."""
    for ways in world.ways.values():
        for way in ways:
            way.delay = rng.choice(
                [(0.0002, 0.002), (0.001, 0.03), (0.04, 0.05), (0.0, 0.1), (0.1, 0.1)]
            )
            way.twice = rng.choice([0.0, 0.0, 0.2])


def _flaps(world: World, rng: random.Random) -> None:
    """One link, both directions, some times on and off."""
    link = rng.randrange(2)
    also = rng.random() < 0.3
    at = world.now

    def turn(cut: bool) -> None:
        for ways in world.ways.values():
            for i, way in enumerate(ways):
                if i == link or also:
                    way.cut = cut

    for _ in range(rng.randrange(2, 8)):
        at += rng.uniform(0.02, 0.4)
        world.at(at, turn, True)
        at += rng.uniform(0.02, 0.4)
        world.at(at, turn, False)


def _start(world: World, node: Node, rng: random.Random) -> None:
    if not node.up:
        node.older = rng.random() < 0.2
        node.start()


def _order(world: World, node: Node, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            if node.running:
                node.feed(m.Stop())
        case 1 | 2:
            node.force(rng.choice(list(Forced)), rng.random() < 0.2)
        case _:
            if node.running:
                until = rng.choice([None, 0.5, 5.0])
                node.feed(m.Freeze(None if until is None else node.clock() + until))


def fault(world: World, rng: random.Random) -> None:
    """One random fault, or its end; sometimes two at once."""
    one_fault(world, rng)
    if rng.random() < 0.2:
        one_fault(world, rng)


def one_fault(world: World, rng: random.Random) -> None:
    node = rng.choice([world.a, world.b])
    match rng.randrange(20):
        case 0:
            node.kill()
        case 1:
            node.end()
        case 2 | 3 | 4:
            _start(world, node if not node.up else node.other, rng)
        case 5:
            _links(world, rng)
        case 6 | 7:
            _loss(world, rng)
        case 8:
            _delay(world, rng)
        case 9:
            _flaps(world, rng)
        case 10 | 11:
            node.pause(rng.choice([0.03, 0.09, 0.2, 0.5, 2.0]))
            if rng.random() < 0.2:
                node.other.pause(rng.choice([0.1, 0.5, 2.0]))
        case 12:
            node.stall(rng.choice([0.05, 0.3, 1.0, 3.0]))
        case 13 | 14:
            what = rng.choice(["pause", "pause", "end", "kill"])
            node.fuse = [rng.randrange(1, 40), what, rng.choice([0.1, 0.19, 0.4, 1.5])]
        case 15:
            world.set_quality(node, rng.choice([0, 50, 100, 100]))
        case 16:
            world.set_priority(node, rng.choice([0, 50, 100]))
        case 17:
            node.wall += rng.choice([-1e6, -1.0, 1.0, 1e6])
            if node.core is not None and node.running and rng.random() < 0.5:
                node.core.need_copy()
                node.emit("sync.lost")
        case _:
            _order(world, node, rng)


# --- schedules ---------------------------------------------------------------


def begin(seed: int) -> World:
    rng = random.Random(f"{seed}/world")
    beat, dead = rng.choice([(0.05, 0.2), (0.05, 0.2), (0.05, 0.2), (0.1, 0.5), (0.2, 1.0)])
    flap = {"flap_count": 4, "flap_window": 20.0, "flap_hold": 10.0} if rng.random() < 0.3 else {}
    world = World(
        seed,
        rng.choice([(0, 0), (50, 0), (0, 50)]),
        beat=beat,
        dead=dead,
        leased=rng.random() < 0.5,
        drift=rng.choice([0.0, 0.001, -0.001, 0.02, -0.02, 0.03, -0.03]),
        **flap,
    )
    if rng.random() < 0.25:
        world.a.fails = world.b.fails = 0.2
    for node in (world.a, world.b):
        node.older = rng.random() < 0.15
    return world


def play(seed: int, steps: tuple[int, ...] = STEPS, world: World | None = None) -> World:
    """Raises AssertionError if a rule is broken."""
    if world is None:
        world = begin(seed)
    reset = seed % 3 != 0
    world.a.start()
    world.run(world.rng.choice([0.0, 0.5, 2.0]))
    world.b.start()
    for step in steps:
        rng = random.Random(f"{seed}/{step}")
        world.run(rng.choice([0.05, 0.3, 1, 2]))
        world.chaos(rng)
    world.heal(reset=reset)
    world.run(ONE_ACTIVE_S)
    active = world.active()
    assert len(active) == 1, f"active: {active}"
    world.run(SETTLED_S - ONE_ACTIVE_S)
    settled(world)
    active = world.active()
    before = changes(world)
    world.run(60)
    assert world.active() == active, f"{active} became {world.active()}"
    assert changes(world) == before, "flapping"
    return world


def settled(world: World) -> None:
    """One is active, the right one, and the other one ready."""
    a, b = world.a, world.b
    active = world.active()
    assert len(active) == 1, f"active: {active}"
    one, other = (a, b) if active == [a.name] else (b, a)
    assert one.state.role is Role.ACTIVE, f"{one.name} is {one.state.role}, its gate is open"
    assert other.state.table.name == "READY", f"{other.name} is not ready"
    rank = {Forced.ACTIVE: 2, Forced.NO: 1, Forced.PASSIVE: 0}
    x, y = ((rank[n.state.forced], n.quality, n.priority) for n in (one, other))
    assert x >= y, f"{one.name} {x} is active, {other.name} {y} is better"
    rules = world.rules
    assert rules.worst_both <= bound(world), f"two actives for {rules.worst_both:.2f} s"
    most = arming_bound(world)
    assert rules.worst_arming <= most, f"both gates open for {rules.worst_arming:.2f} s"


def attempt(seed: int, steps: tuple[int, ...] = STEPS) -> tuple[int, str] | None:
    """The seed and what was broken; None: nothing."""
    try:
        play(seed, steps)
    except AssertionError as e:
        return seed, str(e)
    return None


def shortest(seed: int) -> tuple[int, ...]:
    """Steps none of which can be left out without the failure going away."""
    steps = STEPS
    for step in STEPS:
        fewer = tuple(s for s in steps if s != step)
        if attempt(seed, fewer) is not None:
            steps = fewer
    return steps


def report(seed: int, what: str) -> None:
    steps = shortest(seed)
    world = begin(seed)
    print(f"\nseed {seed}: {what}\nshortest: play({seed}, {steps})")
    try:
        play(seed, steps, world)
    except AssertionError as e:
        print(f"  there: {e}")
    roles = [(at, n.name, role, why) for n in (world.a, world.b) for at, role, why in n.roles]
    for at, name, role, why in sorted(roles, key=lambda r: r[0]):
        print(f"  {at - 100:7.3f} s  {name} {role.value}: {why}")


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(f"sim: seeds {first} to {first + count - 1}", flush=True)
    failed = 0
    began = time.monotonic()
    with Pool() as pool:
        results = pool.imap_unordered(attempt, range(first, first + count), chunksize=20)
        for done, failure in enumerate(results, 1):
            if failure is not None:
                failed += 1
                report(*failure)
            if done % 1000 == 0 or done == count:
                spent = time.monotonic() - began
                left = spent / done * (count - done)
                print(
                    f"sim: {done} of {count}, {failed} failed, {spent:.0f} s, {left:.0f} s to go",
                    flush=True,
                )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
