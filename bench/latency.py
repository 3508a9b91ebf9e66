"""Replication latency: from a kernel's event to the entry in the other kernel.

Nobody watches while it is measured, since a listener or a poller would take part:
both kernels note when they make an entry (net.netfilter.nf_conntrack_timestamp), and
afterwards the two tables are compared.  The events are those of real packets, short
TCP connections through the active firewall.
"""

from __future__ import annotations

from typing import Any

from bench import rig
from bench.report import Options, Result, Table, Target, spread
from hak2k.lab import Lab

NAME = "latency"
TITLE = "from an event of the active's kernel to the entry in the passive's"

RATES = ((200, 10), (1000, 5))  # lives per second, for how many seconds
LIMIT_US = 2000


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


def _measure(rate: int, seconds: float) -> dict[str, Any]:
    with Lab() as lab:
        rig.prepare(lab)
        for node in lab.fw:
            node.sysctl("net.netfilter.nf_conntrack_timestamp=1")
        with rig.Pair(lab) as pair:
            made = rig.lives(lab, int(rate * seconds), rate)
            pair.settled()
            found, missing = latencies(lab)
            stats = pair.b.stats
    return {
        "lives": made["lives"],
        "ns": found,
        "missing": missing,
        "resent": stats["nack.sent"],
        "stats": spread(found),
    }


def run(options: Options) -> Result:
    result = Result(NAME)
    table = Table(
        "Replication latency, kernel to kernel (us)",
        ("load", "entries", "missing", "min", "p50", "p95", "p99", "max"),
    )
    for rate, seconds in RATES:
        found = _measure(rate, options.pick(seconds, 2))
        result.data[str(rate)] = found
        stats = found["stats"]
        table.rows.append(
            (
                f"{rate:,} lives/s",
                stats["n"],
                found["missing"],
                *(stats[k] / 1000 for k in ("min", "p50", "p95", "p99", "max")),
            )
        )
        result.targets.append(
            Target(f"latency p99 at {rate} lives/s", stats["p99"] / 1000, LIMIT_US, "us")
        )
    table.notes.append(
        "Both times are noted by the kernels themselves when they make the entry. A life "
        "is a masqueraded TCP connection of six packets; each makes seven events."
    )
    result.tables.append(table)
    return result
