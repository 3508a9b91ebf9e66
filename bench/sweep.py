"""The sweep after a swap: how long it takes, its CPU, and what forwarding notices.

A lone engine takes over a table of idle larvae and sweeps it.  Meanwhile one datagram
after the other goes from the server through a masqueraded connection to the client:
both sockets are in this process, so what is measured is the path through both hosts'
kernels and the firewall's, and a wake-up.  The same is measured before, with the table
full and nothing to do.  The prober and the engine have a CPU each.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import Any

from bench import rig
from bench.report import Options, Result, Table, spread
from hak2k.lab import Entry, Lab, Node, Tuple, topology
from hak2k.lab import ctnl as c

NAME = "sweep"
TITLE = "the sweep after a swap at 10k, 100k and 1M entries"

LARVAL_S = 8 * 86400
QUIET_S, CHUNK = 1.0, 50


class Probe:
    """One datagram at a time, from the server to the client's masqueraded socket."""

    def __init__(self, lab: Lab, firewall: Node) -> None:
        self.near = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.near.bind((topology.CLIENT4, 1000))
        self.near.settimeout(0.5)
        self.far = lab.server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.far.bind((topology.SERVER4, 9999))
        self.far.connect((topology.WAN4, 1000))
        orig = Tuple(topology.CLIENT4, topology.SERVER4, 17, 1000, 9999)
        reply = Tuple(topology.SERVER4, topology.WAN4, 17, 9999, 1000)
        status = c.CONFIRMED | c.SEEN_REPLY | c.ASSURED | c.SRC_NAT
        firewall.ct.create(Entry(orig, reply, status=status, timeout=LARVAL_S))
        self.lost = 0

    def some(self) -> list[float]:
        """Latencies in ns of the next datagrams."""
        found = []
        for _ in range(CHUNK):
            began = time.perf_counter_ns()
            self.far.send(b"probe")
            try:
                self.near.recv(100)
            except TimeoutError:
                self.lost += 1
                continue
            found.append(float(time.perf_counter_ns() - began))
        return found

    def close(self) -> None:
        self.near.close()
        self.far.close()


def _cpu(engine: rig.Engine) -> int:
    return sum(rig.thread_ns(engine.process.pid, "hak-").values())


def _measure(size: int) -> dict[str, Any]:
    probe_cpu, engine_cpu = rig.cpus()
    usable = os.sched_getaffinity(0)
    with Lab() as lab:
        rig.prepare(lab)
        lab.solo(lab.fw2)
        engine = rig.Engine(lab.fw2, secrets.token_hex(32), cpu=engine_cpu)
        probe = Probe(lab, lab.fw2)
        try:
            engine.call("passivate")
            rig.fill(lab.fw2, size)
            engine.call("activate")
            os.sched_setaffinity(0, {probe_cpu})
            quiet: list[float] = []
            until = time.monotonic() + QUIET_S
            while time.monotonic() < until:
                quiet += probe.some()
            during: list[float] = []
            cpu = _cpu(engine)
            engine.call("sweep")
            while not (done := engine.call("swept")):
                during += probe.some()
            cpu = _cpu(engine) - cpu
        finally:
            os.sched_setaffinity(0, usable)
            probe.close()
            engine.kill()
    if done["entries"] < size or probe.lost:
        raise RuntimeError(f"swept {done['entries']} of {size}, {probe.lost} probes lost")
    return {**done, "cpu_ns": cpu, "quiet": spread(quiet), "during": spread(during)}


def run(options: Options) -> Result:
    result = Result(NAME, data={"sizes": {}})
    table = Table(
        "The sweep, and a datagram through the firewall meanwhile (us)",
        ("entries", "sweep ms", "CPU ms", "quiet p50", "p99", "sweep p50", "p99", "max"),
    )
    for size in options.pick((10_000, 100_000, 1_000_000), (10_000, 100_000)):
        with rig.table_size(size) as room:
            if not room:
                table.notes.append(f"{size:,} entries: nf_conntrack_max cannot be raised here.")
                continue
            found = _measure(size)
        result.data["sizes"][f"{size:,}"] = found
        quiet, during = found["quiet"], found["during"]
        shown = (quiet["p50"], quiet["p99"], during["p50"], during["p99"], during["max"])
        table.rows.append(
            (f"{size:,}", found["ns"] / 1e6, found["cpu_ns"] / 1e6, *(ns / 1000 for ns in shown))
        )
    table.notes.append(
        "Every entry is an idle larva, which is the worst case: one that saw a packet costs "
        "its part of the listing alone. The sweep takes half of its thread's time at most."
    )
    result.tables.append(table)
    return result
