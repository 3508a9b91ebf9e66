"""Replication latency: from a kernel's event to the entry in the other kernel.

Nobody watches while it is measured, since a listener or a poller would take part:
both kernels note when they make an entry (net.netfilter.nf_conntrack_timestamp), and
afterwards the two tables are compared.  The events are those of real packets, short
TCP connections through the active firewall.

Beside hak2k: the floor, once woken by each event and once with its nap, and conntrackd
where it writes into the passive kernel (with caches it does so at the swap alone).
"""

from __future__ import annotations

import statistics
from typing import Any

from bench import rig, variants
from bench.report import Options, Result, Table, Target, spread
from bench.variants import LABELS, Setup
from hak2k.lab import Lab

NAME = "latency"
TITLE = "from an event of the active's kernel to the entry in the passive's"

RATES = (200, 1000)  # lives per second
GOAL_RATE = 1000
QUIET_S = 1.2  # NOTRACK sends what fills no datagram after a second
VARIANTS = ("hak2k", "floor", "floor, woken", "direct", "notrack")


def latencies(lab: Lab) -> tuple[list[float], int]:
    """Nanoseconds for each entry that both have; and how many one of them lacks."""
    active, passive = lab.fw1.ct.dump(), lab.fw2.ct.dump()
    found, missing = [], 0
    for key, entry in active.items():
        if not entry.orig.src.startswith("10.73."):
            continue
        other = passive.get(key)
        if other is None:
            missing += 1
            continue
        if entry.timestamp is None or other.timestamp is None:
            raise RuntimeError("this kernel notes no times (CONFIG_NF_CONNTRACK_TIMESTAMP)")
        found.append(float(other.timestamp[0] - entry.timestamp[0]))
    return found, missing


def measure(name: str, rate: int, seconds: float) -> dict[str, Any]:
    """Latencies of one variant, and what never came."""
    woken = name.endswith(", woken")
    setup = Setup(nap_us=0 if woken else 1000)
    with variants.running(name.removesuffix(", woken"), setup) as variant:
        lab = variant.lab
        for node in lab.fw:
            node.sysctl("net.netfilter.nf_conntrack_timestamp=1")
        made = rig.lives(lab, int(rate * seconds), rate)
        variant.drained(QUIET_S if variant.name == "notrack" else 0.2)
        found, missing = latencies(lab)
    return {"lives": made["lives"], "ns": found, "missing": missing, "stats": spread(found)}


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {key: statistics.median(run["stats"][key] for run in runs) for key in runs[0]["stats"]}


def _goals(found: dict[str, dict[str, float]]) -> list[Target]:
    beside = ""
    if "direct" in found:
        theirs = found["direct"]
        beside = f"conntrackd direct {theirs['p50'] / 1000:,.0f} and {theirs['p99'] / 1000:,.0f}"
    return [
        Target(
            f"latency {key} at {GOAL_RATE:,} lives/s", found["hak2k"][key] / 1000, limit, "us",
            beside=beside,
        )
        for key, limit in (("p50", 150), ("p99", 500))
    ]  # fmt: skip


def run(options: Options) -> Result:
    seconds, rounds = options.pick(3, 1), options.times(5)
    names = variants.known(*options.pick(VARIANTS, ("hak2k", "floor, woken", "direct")))
    result = Result(NAME, data={"seconds": seconds, "rounds": rounds, "rates": {}})
    for rate in options.pick(RATES, (GOAL_RATE,)):
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                runs[name].append(measure(name, rate, seconds))
        found = {name: _medians(each) for name, each in runs.items()}
        result.data["rates"][str(rate)] = {"runs": runs, "median": found}
        table = Table(
            f"Latency, kernel to kernel, at {rate:,} lives/s (us), median of {rounds}",
            ("", "entries", "missing", "min", "p50", "p95", "p99", "max"),
        )
        for name, stats in found.items():
            missing = sum(run["missing"] for run in runs[name])
            shown = (stats[key] / 1000 for key in ("min", "p50", "p95", "p99", "max"))
            table.rows.append((LABELS[name], int(stats["n"]), missing, *shown))
        result.tables.append(table)
        if rate == GOAL_RATE:
            result.targets += _goals(found)
    result.tables[-1].notes.append(
        "Both times are noted by the kernels themselves when they make the entry. A life "
        "is a masqueraded TCP connection of six packets; each makes seven events."
    )
    return result
