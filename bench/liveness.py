"""How soon a death is noticed, and that none is seen where there is none.

Deaths: two daemons with a heartbeat every 10 ms.  The active one is killed and all its
links go down at once; the other one says when its gate was open.

False suspicions: pairs of engines, one active and one passive each, behind relays that
lose a fifth of all frames and delay each by 0 to 50 ms, on both links and in both
directions, while a busy loop runs for each processor.  Nobody dies, so each "peer dead"
is a false one.  What is counted are heartbeats sent, by both nodes, on both links: each
is one on whose arrival the other node's judgement depends.  Many pairs at a time make a
million of them in minutes; they also load the machine, which is part of the test.
"""

from __future__ import annotations

import math
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench import rig
from bench.report import Options, Result, Table, Target, spread
from hak2k.client import Client
from hak2k.lab import Faults, Lab, Node, until

NAME = "liveness"
TITLE = "from death to promotion at 10 ms heartbeats; false suspicions on a bad network"
LONG = True

BEAT_MS, DEAD_MS = 10, 30
GOAL_MS = 50
BAD = Faults(loss=0.2, jitter_ms=50)


@dataclass(frozen=True)
class Case:
    """One row: settings of liveness, and how many heartbeats."""

    beat_ms: int
    dead_ms: int
    most_ms: int
    heartbeats: int


# --- deaths -------------------------------------------------------------------


def _ask(lab: Lab, node: Node, command: str) -> Any:
    with Client(str(lab.daemons[node].control_socket), 30.0) as client:
        return client.call(command)


def _death(lab: Lab, active: Node) -> dict[str, float]:
    heir = lab.other(active)
    known = len(_ask(lab, heir, "events"))
    # Not always at the same place between two heartbeats.
    time.sleep(0.5 + secrets.randbelow(BEAT_MS * 100) / 1e5)
    limit = float(_ask(lab, heir, "info")["peer"]["dead_after_ms"])
    crash = lab.crash(active)

    def promoted() -> dict[str, Any] | None:
        return next(
            (e for e in _ask(lab, heir, "events")[known:] if e["id"] == "role.active"), None
        )

    event = until(promoted, 5, "a promotion")
    assert event is not None
    lab.revive(active)
    lab.start(active)
    lab.wait(active, mode="passive", ready=True)
    at = datetime.fromisoformat(event["time"]).timestamp()
    return {
        "promoted_ms": (at - crash.wall) * 1000,
        "silent_ms": float(event["detect_ms"]),
        "gate_us": float(event["total_us"]),
        "limit_ms": limit,
    }


def _deaths(options: Options) -> list[dict[str, float]]:
    found = []
    with Lab() as lab:
        for node in lab.fw:
            liveness = {"heartbeat_ms": BEAT_MS, "dead_after_ms": DEAD_MS}
            lab.write_config(
                node, liveness=liveness, cluster={"priority": 0}, swap={"flap_count": 0}
            )
        lab.start_pair()
        active = lab.fw1
        for _ in range(options.pick(30, 3)):
            found.append(_death(lab, active))
            active = lab.other(active)
    return found


# --- false suspicions ----------------------------------------------------------


@contextmanager
def _stress(lab: Lab) -> Iterator[None]:
    """Every processor is busy."""
    loops = [
        lab.client.popen("taskset", "-c", str(cpu), sys.executable, "-c", "while True: pass")
        for cpu in {*rig.cpus()}
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()


def _suspicions(case: Case, pairs: int) -> dict[str, Any]:
    with ExitStack() as stack:
        engines: list[rig.Engine] = []
        labs = [stack.enter_context(Lab(wire=True)) for _ in range(pairs)]
        for lab in labs:
            assert lab.wire is not None
            lab.wire.set(BAD)
            options: dict[str, Any] = {
                "heartbeat_ms": case.beat_ms,
                "dead_after_ms": case.dead_ms,
                "dead_after_max_ms": case.most_ms,
            }
            pair = stack.enter_context(rig.Pair(lab, keep=True, **options))
            engines += [pair.a, pair.b]
        stack.enter_context(_stress(labs[0]))
        started: Counter[str] = Counter()
        for engine in engines:
            started.update(engine.call("liveness")["said"])
        before = sum(engine.stats["heartbeats.sent"] for engine in engines)
        began = time.monotonic()
        said: Counter[str] = Counter()
        now: list[dict[str, Any]] = []
        sent = 0
        while sent < case.heartbeats:
            time.sleep(0.5)
            now = [engine.call("liveness") for engine in engines]
            for one in now:
                said.update(one["said"])
            sent = sum(one["stats"]["heartbeats.sent"] for one in now) - before
        tally = [lab.wire.tally() for lab in labs if lab.wire is not None]
    return {
        "seconds": time.monotonic() - began,
        "pairs": pairs,
        "heartbeats": sent,
        "false": said["peer.dead"],
        "false_at_start": started["peer.dead"],
        "links_down": said["link.down"],
        "slips": said["slip"],
        "longest_ms": max(one["peer"]["longest_ns"] for one in now) / 1e6,
        "limit_ms": sorted(one["peer"]["limit_ns"] / 1e6 for one in now),
        "lost": sum(t.lost for t in tally) / sum(t.received for t in tally),
    }


def run(options: Options) -> Result:
    result = Result(NAME)
    deaths = _deaths(options)
    result.data["deaths"] = deaths
    table = Table(
        f"Death to promotion, {len(deaths)} kills (ms)", ("", "min", "median", "p99", "max")
    )
    for key, name in (
        ("promoted_ms", "killed to gate open"),
        ("silent_ms", "of that, silence"),
        ("limit_ms", "silence that means death"),
    ):
        stats = spread([d[key] for d in deaths])
        table.rows.append((name, *(stats[k] for k in ("min", "p50", "p99", "max"))))
    table.notes.append(
        f"heartbeat_ms = {BEAT_MS}, dead_after_ms = {DEAD_MS}; times to the millisecond."
    )
    result.tables.append(table)
    took = spread([d["promoted_ms"] for d in deaths])
    result.targets.append(Target("death to promotion, median", took["p50"], GOAL_MS, "ms"))

    pairs = options.pick(10, 2)
    million, some = options.pick((1_000_000, 100_000), (4_000, 1_000))
    cases = (
        Case(BEAT_MS, DEAD_MS, 10 * DEAD_MS, million),
        Case(50, 200, 1000, some),
        Case(BEAT_MS, DEAD_MS, 0, min(some, 20_000)),
        Case(50, 200, 0, min(some, 20_000)),
    )
    table = Table(
        "False suspicions: 20 % loss, 0 to 50 ms of delay, all processors busy",
        ("settings", "heartbeats", "false", "longest", "limit", "slips"),
    )
    for case in cases:
        found = _suspicions(case, pairs)
        result.data[f"{case.beat_ms}/{case.dead_ms}/{case.most_ms}"] = found
        limits = found["limit_ms"]
        table.rows.append(
            (
                f"{case.beat_ms}/{case.dead_ms}/{case.most_ms or case.dead_ms}",
                found["heartbeats"],
                found["false"] + found["false_at_start"],
                float(found["longest_ms"]),
                f"{limits[0]:.0f} to {limits[-1]:.0f}",
                found["slips"],
            )
        )
        if case.most_ms:
            name = f"false suspicions, {case.beat_ms} ms heartbeats"
            result.targets.append(Target(name, float(found["false"]), 0, ""))
    share = math.fsum(result.data[k]["lost"] for k in result.data if "/" in k) / len(cases)
    table.notes.append(
        "Settings: heartbeat_ms, dead_after_ms, dead_after_max_ms; the last two equal: as "
        "long as ever. Longest: the longest silence that a heartbeat ended; limit: what "
        "would have meant death, at the end, by engine; ms. Heartbeats sent by both nodes "
        f"of {pairs} pairs on both links; {share:.1%} of all frames were lost."
    )
    result.tables.append(table)
    return result
