"""What standing by costs in memory, for a table of connections.

Real daemons, whose active node's table is full when they start.  Beside them conntrackd,
which keeps every connection once more in each daemon's own memory, and the floor.

Each connection is in both nodes' kernels, on this one host: what these take for one is
half of what the host's slabs grew by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import peer, rig, variants
from bench.report import Options, Result, Table, Target
from hak2k.lab import Lab

NAME = "memory"
TITLE = "memory of both daemons at N entries"

SIZES = (0, 100_000, 1_000_000)
MIB = 1 << 20


def slabs() -> int:
    """Bytes of the kernel's own objects that cannot be reclaimed."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SUnreclaim:"):
            return int(line.split()[1]) * 1024
    return 0


def _daemons(size: int) -> dict[str, Any]:
    """Resident memory of both daemons."""
    with Lab() as lab:
        rig.prepare(lab)
        kernel = slabs()
        if size:
            rig.fill(lab.fw1, size)
        lab.start_pair(timeout=240)
        have = lab.fw2.conntrack_count()
        if have < size:
            raise RuntimeError(f"{have} of {size} entries on the passive node")
        pids = [instance.process.pid for node in lab.fw if (instance := lab.daemons[node]).process]
        found: dict[str, Any] = {"rss": [variants.resident(pid) for pid in pids]}
        if size:
            found["entry"] = (slabs() - kernel) / (2 * size)
    return found


def run(options: Options) -> Result:
    result = Result(NAME, data={"sizes": {}})
    table = Table(
        "Resident memory (MiB): active and passive daemon",
        ("entries", "hak2k", "", "conntrackd FTFW", "", "direct", ""),
    )
    sizes = options.pick(SIZES, (0, 20_000))
    ours: dict[int, list[int]] = {}
    for size in sizes:
        with rig.table_size(2 * size) as room:
            if not room:
                table.notes.append(f"{size:,} entries: nf_conntrack_max cannot be raised here.")
                continue
            found = _daemons(size)
            peers = {mode: peer.bulk(mode, size) for mode in ("ftfw", "direct")}
        result.data["sizes"][str(size)] = {"hak2k": found, **peers}
        ours[size] = found["rss"]
        shown = [found["rss"], *(p["rss"] if p else [float("nan")] * 2 for p in peers.values())]
        table.rows.append((f"{size:,}", *(float(rss) / MIB for pair in shown for rss in pair)))
    entry = result.data["sizes"][str(max(ours))]["hak2k"]["entry"]
    table.notes.append(f"Either kernel: {entry:.0f} bytes for each entry, without the hash table.")
    table.notes.append("The floor, which holds nothing, takes 2 MiB and its socket buffers.")
    result.tables.append(table)
    largest = max(ours)
    most = max(ours[largest])
    theirs = result.data["sizes"][str(largest)]["ftfw"]
    beside = f"conntrackd FTFW {max(theirs['rss']) / MIB:,.0f}" if theirs else ""
    result.targets += [
        Target(f"memory at {largest:,} entries", most / MIB, 64, "MiB", beside=beside),
        Target("memory that grew with them", (most - max(ours[0])) / MIB, 4, "MiB"),
    ]
    return result
