"""What a pair costs while nothing happens: CPU of both daemons, beside the floor.

Real daemons at their default settings, active and ready, no connections.  The floor
(bench/c/beat.c) sends and receives as many sealed datagrams over the same links, the
follower when the leader's come, and does nothing else: most of either is the kernel's
work for a datagram, with caches that are cold after 50 ms.

Either is a pair in a lab of its own, one after the other, again and again.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import Any

from bench import rig, tools
from bench.report import Options, Result, Table, Target
from hak2k.lab import Lab, Node, topology

NAME = "idle"
TITLE = "CPU of both daemons when nothing happens"

LIMIT = 0.5  # % of a CPU
SETTLE_S = 6  # five after its start a daemon lists the gate's tables once more
ROUNDS = 5


def _shares(pids: tuple[int, ...], seconds: float) -> list[dict[str, float]]:
    """Of a CPU in %, by thread, once what a start brings with it is over."""
    time.sleep(min(SETTLE_S, seconds))
    before, began = [rig.thread_ns(pid) for pid in pids], time.monotonic_ns()
    time.sleep(seconds)
    took = time.monotonic_ns() - began
    return [
        {name: (ns - then.get(name, 0)) / took * 100 for name, ns in rig.thread_ns(pid).items()}
        for pid, then in zip(pids, before, strict=True)
    ]


def _daemons(seconds: float) -> list[dict[str, float]]:
    with Lab() as lab:
        rig.prepare(lab)
        lab.start_pair()
        pids = [at.process.pid for node in lab.fw if (at := lab.daemons[node]).process]
        return _shares(tuple(pids), seconds)


def beat(node: Node, *more: object) -> subprocess.Popen[str]:
    """Half of a floor, at work."""
    own = topology.HA_ADDRESSES[node.name]
    other = topology.HA_ADDRESSES["fw2" if node.name == "fw1" else "fw1"]
    links = [
        word
        for name in own
        for word in ("-l", own[name].split("/")[0], "-p", other[name].split("/")[0])
    ]
    process = tools.start(node, "beat", *links, *more)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise tools.ToolError("beat did not start")
    return process


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """End it; what went to and fro."""
    process.terminate()
    counts = tools.result("beat", process)
    if not counts["received"] or counts["refused"]:
        raise tools.ToolError(f"beat: {counts}")
    return counts


def _floor(seconds: float) -> list[dict[str, float]]:
    with Lab() as lab:
        rig.prepare(lab)
        # as long as hak2k's heartbeats are: the passive node's say how far it is
        pair = [beat(lab.fw1, "-n", 91), beat(lab.fw2, "-n", 153, "-a")]
        found = _shares(tuple(each.pid for each in pair), seconds)
        for each in pair:
            told(each)
        return found


def run(options: Options) -> Result:
    seconds = options.pick(10, 1)
    measured: dict[str, list[list[dict[str, float]]]] = {"hak2k": [], "floor": []}
    for _ in range(options.times(ROUNDS)):
        measured["hak2k"].append(_daemons(seconds))
        measured["floor"].append(_floor(seconds))
    result = Result(NAME, data={"seconds": seconds, "rounds": measured})
    totals = {
        name: [statistics.median(sum(pair[node].values()) for pair in rounds) for node in (0, 1)]
        for name, rounds in measured.items()
    }
    table = Table(
        "Idle, heartbeats on two links every 50 ms (% of a CPU)", ("", "active", "passive")
    )
    table.rows += [(name, *shares) for name, shares in totals.items()]
    ratios = [ours / least for ours, least in zip(totals["hak2k"], totals["floor"], strict=True)]
    table.rows.append(("ratio", *ratios))
    threads = Table("Of which, by thread", ("thread", "active", "passive"))
    for name in sorted({name for pair in measured["hak2k"] for node in pair for name in node}):
        shares = [
            statistics.median(pair[node].get(name, 0.0) for pair in measured["hak2k"])
            for node in (0, 1)
        ]
        threads.rows.append((name, *shares))
    result.tables += [table, threads]
    floor = max(totals["floor"])
    result.targets.append(
        Target("idle daemon", max(totals["hak2k"]), LIMIT, "% CPU", beside=f"floor {floor:.2f}")
    )
    return result
