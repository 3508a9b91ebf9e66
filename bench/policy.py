"""What it costs to leave connections out: CPU of the capture thread.

UDP connections that live for a moment are made by real packets and flushed, under one
policy after the other.  The same connections are replicated, or left out by the
kernel's filter (protocols), by the core (networks), or for their youth.
"""

from __future__ import annotations

import time
from typing import Any

from bench import rig
from bench.report import Options, Result, Table
from hak2k.lab import Lab

NAME = "policy"
TITLE = "what it costs to leave connections out"

POLICIES: dict[str, dict[str, Any]] = {
    "all replicated": {},
    "adaptive, no pressure": {"adaptive": True},
    "protocols, in the kernel": {"protocols": [6]},
    "1 network": {"exclude_networks": ["10.0.0.0/8"]},
    "64 networks, the last fits": {
        "exclude_networks": ["10.0.0.0/8", *(f"1.0.{n}.0/24" for n in range(63))]
    },
    "min_duration_s": {"min_duration_s": 60},
}
RATE = 4000


def _measure(policy: dict[str, Any], count: int) -> dict[str, float]:
    with Lab() as lab:
        rig.prepare(lab)
        with rig.Pair(lab, policy=policy) as pair:
            rig.lives(lab, 1, 100, "-u", "-o", count + 1)
            lab.fw1.ct.flush()
            pair.settled()
            before, cpu = pair.a.stats, rig.thread_ns(pair.a.process.pid, "hak-capture")
            rig.lives(lab, count, RATE, "-u")
            time.sleep(0.1)
            lab.fw1.ct.flush()
            pair.settled()
            after = pair.a.stats
            spent = rig.thread_ns(pair.a.process.pid, "hak-capture")
    found = {k: (after[k] - before[k]) / count for k in ("capture.events", "tx.records")}
    found["cpu_ns"] = (sum(spent.values()) - sum(cpu.values())) / count
    return found


def run(options: Options) -> Result:
    count = options.pick(20000, 500)
    result = Result(NAME, data={"rate": RATE, "count": count})
    table = Table(
        f"Cost of a policy, {count:,} UDP connections at {RATE:,}/s, each",
        ("policy", "events read", "records sent", "CPU, us"),
    )
    for name, policy in POLICIES.items():
        found = _measure(policy, count)
        result.data[name] = found
        table.rows.append(
            (name, found["capture.events"], found["tx.records"], found["cpu_ns"] / 1000)
        )
    table.notes.append("CPU: of the capture thread. The filter's own is part of the packets'.")
    result.tables.append(table)
    return result
