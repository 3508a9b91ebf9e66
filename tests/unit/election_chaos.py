"""Schedules of random faults for the simulated pair: `make sim` plays very many.

    python -m tests.unit.election_chaos [SCHEDULES [FIRST_SEED]]

A schedule is a seed and the numbers of its steps; each step has random numbers of
its own, so that one may be left out and the others stay what they were.
"""

from __future__ import annotations

import random
import sys
from multiprocessing import Pool

from tests.unit.election_sim import World

STEPS = tuple(range(20))
# Two actives that hear each other: conflict_wait, two heartbeats, and the delay.
BOUND_S = 0.5


def changes(world: World) -> int:
    return len(world.a.roles) + len(world.b.roles)


def play(seed: int, steps: tuple[int, ...] = STEPS, world: World | None = None) -> None:
    """Raises AssertionError if a rule is broken."""
    if world is None:
        world = begin(seed)
    world.a.start()
    world.run(world.rng.choice([0.0, 0.5, 2.0]))
    world.b.start()
    for step in steps:
        rng = random.Random(f"{seed}/{step}")
        world.run(rng.choice([0.05, 0.3, 1, 2]))
        world.chaos(rng)
    world.heal()
    world.run(15)
    active = world.active()
    assert len(active) == 1, f"active: {active}"
    before = changes(world)
    world.run(8)
    assert world.active() == active, f"{active} became {world.active()}"
    assert changes(world) == before, "flapping"
    assert world.worst_both_open <= BOUND_S, f"two actives for {world.worst_both_open:.2f} s"
    passive = world.b if active == [world.a.name] else world.a
    assert passive.state.table.name == "READY", f"{passive.name} is not ready"
    a, b = (world.a.quality, world.a.priority), (world.b.quality, world.b.priority)
    if a != b:
        assert active == ["FW-A" if a > b else "FW-B"], f"{active} is not the better one"


def begin(seed: int) -> World:
    world = World(seed, [(0, 0), (50, 0), (0, 50)][seed % 3])
    if seed % 4 == 0:
        world.a.promote_fails = world.b.promote_fails = 0.2
    return world


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
        print(f"  {at - 100:7.2f} s  {name} {role.value}: {why}")


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(f"sim: seeds {first} to {first + count - 1}", flush=True)
    failed = 0
    with Pool() as pool:
        results = pool.imap_unordered(attempt, range(first, first + count), chunksize=20)
        for done, failure in enumerate(results, 1):
            if failure is not None:
                failed += 1
                report(*failure)
            if done % 1000 == 0 or done == count:
                print(f"sim: {done} of {count}, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
