"""A whole table: the first copy into an empty passive node, and a node that rejoins.

The active node's table is full, the passive one's empty, both engines stand ready; the
time runs from the role's assignment until both tables are the same.  It cannot be less
than the slower of two floors: listing the table (bench/c/list.c) and writing it
(bench/c/entries.c, 64 entries a call).

Another time, so as not to take its CPU, one datagram after the other goes through the
active firewall meanwhile: what does forwarding notice?

Then a thousand entries are taken from the passive node while its engine is away; it
comes back and makes up for them.  Last, conntrackd copies the same table.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

from bench import peer, rig, tools
from bench.recon import nth_tuple
from bench.report import Options, Result, Table, Target, spread
from bench.sweep import Probe
from hak2k.lab import Lab

NAME = "bulk"
TITLE = "first copy of a whole table, and rejoining with 1,000 differences"

SIZES = (100_000, 1_000_000)
DIFFERENCES = 1000
QUIET_S = 1.0


def _floors(size: int) -> dict[str, float]:
    """The two floors, in ns of wall-clock time."""
    with Lab() as lab:
        rig.prepare(lab)
        lab.fw2.sysctl("net.netfilter.nf_conntrack_events=0")
        rig.fill(lab.fw1, size)
        listed = tools.run(lab.fw1, "list", timeout=120)
        inserted = rig.fill(lab.fw2, size)
    return {"list": listed["ns"], "insert": inserted["ns"]}


def _waiting(lab: Lab, size: int) -> rig.Pair:
    """Both engines, without roles; the active node's table is full, the other empty."""
    rig.prepare(lab)
    lab.fw2.sysctl("net.netfilter.nf_conntrack_events=0")
    rig.fill(lab.fw1, size)
    pair = rig.Pair(lab, keep=True, start=False)
    lab.fw2.ct.flush()
    return pair


def _complete(lab: Lab, size: int) -> None:
    have = lab.fw2.conntrack_count()
    if have < size:
        raise RuntimeError(f"{have} of {size} entries on the passive node")


def _cpu(pair: rig.Pair) -> list[int]:
    return [sum(rig.thread_ns(e.process.pid, "hak-").values()) for e in (pair.a, pair.b)]


def _copy_and_rejoin(size: int) -> dict[str, Any]:
    with Lab() as lab, _waiting(lab, size) as pair:
        began, cpu = time.monotonic(), _cpu(pair)
        pair.start()
        found: dict[str, Any] = {"ns": (time.monotonic() - began) * 1e9}
        found["cpu"] = [now - then for now, then in zip(_cpu(pair), cpu, strict=True)]
        found["bytes"] = pair.a.stats["tx.bytes"]
        _complete(lab, size)
        found["rejoin"] = _rejoin(lab, pair, size)
    return found


def _rejoin(lab: Lab, pair: rig.Pair, size: int) -> dict[str, Any]:
    pair.b.kill()
    step = max(1, size // DIFFERENCES)
    lab.fw2.ct.delete(*(rig.entry(nth_tuple(i * step)) for i in range(DIFFERENCES)))
    before = pair.a.stats["tx.bytes"]
    pair.b = rig.Engine(lab.fw2, pair.psk)
    began = time.monotonic()
    pair.b.call("passivate")
    pair.synced(pair.b)
    took = time.monotonic() - began
    _complete(lab, size)
    return {"ns": took * 1e9, "bytes": pair.a.stats["tx.bytes"] - before}


def _forwarding(size: int) -> dict[str, Any]:
    """Latency of datagrams through the active node, quiet and during the copy."""
    probe_cpu, _ = rig.cpus()
    usable = os.sched_getaffinity(0)
    with Lab() as lab, _waiting(lab, size) as pair:
        probe = Probe(lab, lab.fw1)
        try:
            pair.a.call("activate")
            os.sched_setaffinity(0, {probe_cpu})
            quiet: list[float] = []
            end = time.monotonic() + QUIET_S
            while time.monotonic() < end:
                quiet += probe.some()
            during: list[float] = []
            pair.b.call("passivate")
            while not pair.b.call("state")["stream"]["synced"]:
                during += probe.some()
        finally:
            os.sched_setaffinity(0, usable)
            probe.close()
    return {"quiet": spread(quiet), "during": spread(during), "lost": probe.lost}


def measure(size: int, rounds: int) -> dict[str, Any]:
    floors = [_floors(size) for _ in range(rounds)]
    runs = [_copy_and_rejoin(size) for _ in range(rounds)]
    found: dict[str, Any] = {
        "floors": {k: statistics.median(f[k] for f in floors) for k in floors[0]},
        "ns": statistics.median(run["ns"] for run in runs),
        "bytes": statistics.median(run["bytes"] for run in runs),
        "rejoin_ns": statistics.median(run["rejoin"]["ns"] for run in runs),
        "rejoin_bytes": statistics.median(run["rejoin"]["bytes"] for run in runs),
        "forwarding": _forwarding(size),
        "runs": runs,
        "floor_runs": floors,
    }
    # What a missing entry takes by itself is what it takes in the copy.
    found["beyond"] = found["rejoin_bytes"] - DIFFERENCES * found["bytes"] / size
    for mode in ("direct", "ftfw"):
        found[mode] = peer.bulk(mode, size)
    return found


def _goals(size: int, found: dict[str, Any]) -> list[Target]:
    floors, label = found["floors"], f"{size:,}"
    slower = max(floors.values())
    direct = found["direct"]
    beside = f"conntrackd direct {direct['sync_ns'] / slower:.1f}" if direct else ""
    ratio = found["ns"] / slower
    rejoin = found["rejoin_ns"] / floors["list"]
    return [
        Target(f"copy of {label}, of the slower floor", ratio, 1.3, "x", beside=beside),
        Target(f"rejoin in {label}, of listing", rejoin, 1.2, "x"),
        Target(f"rejoin in {label}, beyond the entries", found["beyond"] / 1000, 100, "kB"),
    ]


def run(options: Options) -> Result:
    result = Result(NAME, data={"sizes": {}})
    copies = Table(
        "A whole table into an empty passive node (ms)",
        ("entries", "list", "insert", "hak2k", "/floor", "MB", "direct", "ftfw cache"),
    )
    rejoins = Table(
        f"Rejoining with {DIFFERENCES:,} entries missing",
        ("entries", "ms", "/list", "kB", "kB beyond the entries"),
    )
    forwarding = Table(
        "A datagram through the active firewall meanwhile (us)",
        ("entries", "quiet p50", "p99", "max", "copying p50", "p99", "max", "lost"),
    )
    for size in options.pick(SIZES, (20_000,)):
        rounds = options.times(5 if size <= SIZES[0] else 3)
        with rig.table_size(2 * size) as room:
            if not room:
                copies.notes.append(f"{size:,} entries: nf_conntrack_max cannot be raised here.")
                continue
            found = measure(size, rounds)
        result.data["sizes"][str(size)] = found
        label, floors = f"{size:,}", found["floors"]
        theirs = [
            found[m]["sync_ns"] / 1e6 if found[m] else float("nan") for m in ("direct", "ftfw")
        ]
        copies.rows.append(
            (label, floors["list"] / 1e6, floors["insert"] / 1e6, found["ns"] / 1e6,
             found["ns"] / max(floors.values()), found["bytes"] / 1e6, *theirs)
        )  # fmt: skip
        rejoins.rows.append(
            (label, found["rejoin_ns"] / 1e6, found["rejoin_ns"] / floors["list"],
             found["rejoin_bytes"] / 1000, found["beyond"] / 1000)
        )  # fmt: skip
        quiet, during = found["forwarding"]["quiet"], found["forwarding"]["during"]
        shown = [own[k] / 1000 for own in (quiet, during) for k in ("p50", "p99", "max")]
        forwarding.rows.append((label, *shown, found["forwarding"]["lost"]))
        if size == options.pick(SIZES, (20_000,))[-1]:
            result.targets += _goals(size, found)
    copies.notes.append(
        "list, insert: the floors. /floor: of the slower one. direct: conntrackd into its "
        "passive kernel; ftfw cache: into a cache, which must be committed at the swap."
    )
    result.tables += [copies, rejoins, forwarding]
    return result
