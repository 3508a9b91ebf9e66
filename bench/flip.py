"""The swap itself: how long the gate takes, and when the first packet is through.

A lone engine on fw2 is made active and passive in turn while a datagram every 10 us
runs from the server towards a masqueraded (larval) connection of the client.  The
first packet's time is the client's kernel's, at reception; it counts from just
before the call, and so contains the gate, the forwarding and up to 10 us of waiting
for the next datagram.  Neighbours are known beforehand, except in the series "ARP":
there the firewall has to ask for the client's hardware address first.

Beside it: how long conntrackd takes to commit its cache of as many entries, which its
users wait for at that moment.
"""

from __future__ import annotations

import secrets
import select
import subprocess
import time
from typing import Any

from bench import peer, rig, tools
from bench.report import Options, Result, Table, Target, spread
from hak2k.lab import Entry, Lab, Tuple, topology
from hak2k.lab import ctnl as c

NAME = "flip"
TITLE = "gate flip and first packet at 0, 100k and 1M entries"

LARVAL_S = 8 * 86400
CLOSED_S, OPEN_S = 0.025, 0.004
INTERVAL_US, GAP_MS = 10, 10
PEER_MOST = 1_000_000  # its commit takes ten seconds then


def _larva() -> Entry:
    """A UDP connection of the client, replicated but never seen here."""
    orig = Tuple(topology.CLIENT4, topology.SERVER4, 17, 1000, 9999)
    reply = Tuple(topology.SERVER4, topology.WAN4, 17, 9999, 1000)
    status = c.CONFIRMED | c.SEEN_REPLY | c.ASSURED | c.SRC_NAT
    return Entry(orig, reply, status=status, timeout=LARVAL_S)


class Stream:
    """The probe: bench/c/stream.c, from the server to the client."""

    def __init__(self, lab: Lab, cpu: int) -> None:
        self.process = tools.start(
            lab.client, "stream", "-A", f"{lab.client.fd},{topology.CLIENT4}:1000",
            "-B", f"{lab.server.fd},{topology.SERVER4}:9999,{topology.WAN4}:1000",
            "-i", INTERVAL_US, "-g", GAP_MS, "-c", cpu,
            stdin=subprocess.PIPE, namespaces=(lab.client, lab.server),
        )  # fmt: skip

    def first(self, after_ns: int) -> int | None:
        """When the first packet after a silence came; None: within a second none."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + 1
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.process.stdout], [], [], left)[0]:
                break
            line = self.process.stdout.readline()
            if not line:
                raise tools.ToolError("the probe stream ended")
            at = int(line.split()[2])
            if at >= after_ns:
                return at
        return None

    def close(self) -> None:
        self.process.communicate(timeout=10)


def _series(
    lab: Lab, engine: rig.Engine, stream: Stream, flips: int, *, cold: bool = False
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {
        "gate": [],
        "announce": [],
        "total": [],
        "first": [],
        "close": [],
    }
    missed = 0
    for _ in range(flips):
        if cold:
            lab.fw2.run("ip", "neigh", "flush", "dev", "lan", "nud", "all")
            lab.fw2.run("ip", "neigh", "del", topology.CLIENT4, "dev", "lan", check=False)
        time.sleep(CLOSED_S)
        times = engine.call("activate")
        first = stream.first(times["wall_ns"])
        time.sleep(OPEN_S)
        closed = engine.call("passivate")
        if first is None:
            missed += 1
            continue
        found["gate"].append(times["gate_ns"])
        found["announce"].append(times["announce_ns"])
        found["total"].append(times["total_ns"])
        found["first"].append(first - times["wall_ns"])
        found["close"].append(closed["gate_ns"])
    if missed:
        raise RuntimeError(f"{missed} of {flips} flips let no packet through")
    return found


def _measure(size: int, flips: int, *, cold: bool = False) -> dict[str, Any]:
    load_cpu, engine_cpu = rig.cpus()
    with Lab() as lab:
        rig.prepare(lab)
        lab.solo(lab.fw2)
        engine = rig.Engine(lab.fw2, secrets.token_hex(32), cpu=engine_cpu)
        try:
            engine.call("passivate")
            filled = {"ns": 0}
            if size:
                filled = rig.fill(lab.fw2, size)
            lab.fw2.ct.create(_larva())
            stream = Stream(lab, load_cpu)
            try:
                series = _series(lab, engine, stream, flips, cold=cold)
            finally:
                stream.close()
            count = lab.fw2.conntrack_count()
        finally:
            engine.kill()
    if count < size:
        raise RuntimeError(f"the table has {count} of {size} entries")
    return {"entries": count, "fill_ns": filled["ns"], "series": series}


def run(options: Options) -> Result:
    flips = options.pick(40, 20)
    sizes = options.pick((0, 100_000, 1_000_000), (0, 20_000))
    if options.large:
        sizes = (*sizes, 4_000_000)
    result = Result(NAME, data={"flips": flips, "interval_us": INTERVAL_US, "sizes": {}})
    table = Table(
        f"Gate flip and first forwarded packet, {flips} flips each (us)",
        ("entries", "gate p50", "p95", "swap p50", "p95", "packet p50", "p95", "max", "peer ms"),
    )
    beside = ""
    worst = {"gate": 0.0, "first": 0.0}
    for size, cold in (*((size, False) for size in sizes), (0, True)):
        with rig.table_size(size) as room:
            if not room:
                table.notes.append(f"{size:,} entries: nf_conntrack_max cannot be raised here.")
                continue
            found = _measure(size, flips, cold=cold)
            theirs = peer.bulk("ftfw", size) if 0 < size <= PEER_MOST else None
        stats = {name: spread(values) for name, values in found["series"].items()}
        label = f"{size:,}" + (" ARP" if cold else "")
        result.data["sizes"][label] = {**found, "stats": stats, "ftfw": theirs}
        gate, total, first = stats["gate"], stats["total"], stats["first"]
        row = (gate["p50"], gate["p95"], total["p50"], total["p95"],
               first["p50"], first["p95"], first["max"])  # fmt: skip
        commit = theirs["commit_ns"] / 1e6 if theirs else float("nan")
        table.rows.append((label, *(ns / 1000 for ns in row), commit))
        if theirs:
            beside = f"conntrackd's commit at {label}: {commit:,.0f} ms"
        if not cold:
            worst = {name: max(ns, stats[name]["p95"]) for name, ns in worst.items()}
    table.notes.append(
        "gate: listening begins, one nftables transaction; swap: with announcements. "
        "First packet: from the call to the client's kernel, a datagram every 10 us. "
        "ARP: the client's hardware address was unknown. peer: conntrackd's commit."
    )
    result.tables.append(table)
    result.targets += [
        Target("gate flip p95, worst size", worst["gate"] / 1000, 200, "us", beside=beside),
        Target("call to first packet p95, worst size", worst["first"] / 1000, 200, "us"),
    ]
    return result
