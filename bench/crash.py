"""From the crash of the active node to traffic through the other one.

Two UDP streams of a datagram every 10 ms run through the firewalls, client to server
and back, on one masqueraded connection.  The active node is killed and all its links
go down at once, again and again, the two nodes in turn.  What counts is what the hosts
see: the longest time without a datagram, and how long after the crash the last of the
two directions came back, by the kernels' own receive stamps.

With real daemons where there are any; otherwise ("engines") each engine sits in a
process that promotes it when it reports the peer's death.
"""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench import rig, tools
from bench.report import Options, Result, Table, Target, spread
from hak2k.lab import Lab, Node, topology, until

NAME = "crash"
TITLE = "from the crash of the active node to traffic through the other one"

HEARTBEAT_MS, DEAD_AFTER_MS = 50, 200
INTERVAL_MS, GAP_MS = 10, 30
SETTLE_S = 0.5
DATA = ("lan", "wan")
HA = ("ha0", "ha1")


@dataclass(frozen=True)
class Gap:
    """A silence at one end: A is the client, B the server; wall-clock ns."""

    end: str
    last: int
    first: int

    @property
    def ms(self) -> float:
        return (self.first - self.last) / 1e6


class Streams:
    """bench/c/stream.c in both directions, and the gaps it reports."""

    def __init__(self, lab: Lab) -> None:
        client, server = f"{topology.CLIENT4}:1000", f"{topology.SERVER4}:9999"
        self.process = tools.start(
            lab.client, "stream", "-A", f"{lab.client.fd},{client},{server}",
            "-B", f"{lab.server.fd},{server},{topology.WAN4}:1000",
            "-i", INTERVAL_MS * 1000, "-g", GAP_MS,
            stdin=subprocess.PIPE, namespaces=(lab.client, lab.server),
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._seen: list[Gap] = []

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def gaps(self) -> list[Gap]:
        """All gaps so far; the first one of each end is its beginning."""
        with contextlib.suppress(queue.Empty):
            while True:
                end, last, first = self._lines.get_nowait().split()
                self._seen.append(Gap(end, int(last), int(first)))
        return list(self._seen)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self._reader.join()


class Cluster(Protocol):
    """A pair of nodes that can be crashed."""

    kind: str
    active: Node

    def crash(self) -> int:
        """Kill the active node; its last moment, wall-clock ns."""

    def recovered(self) -> dict[str, Any]:
        """Wait until the other one is active; what it says about its swap."""

    def revive(self) -> None:
        """Bring the crashed node back; return when it is passive and ready."""

    def close(self) -> None: ...


class Daemons:
    """Two real hak2kd."""

    kind = "daemons"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        for node in lab.fw:
            liveness = {"heartbeat_ms": HEARTBEAT_MS, "dead_after_ms": DEAD_AFTER_MS}
            lab.write_config(node, liveness=liveness)
        lab.start_pair()
        self.active = lab.fw1

    def crash(self) -> int:
        return int(self.lab.crash(self.active).wall * 1e9)

    def recovered(self) -> dict[str, Any]:
        self.crashed, self.active = self.active, self.lab.other(self.active)
        self.lab.wait(self.active, mode="active")
        return {}

    def revive(self) -> None:
        self.lab.revive(self.crashed)
        self.lab.start(self.crashed)
        self.lab.wait(self.crashed, mode="passive", ready=True)

    def close(self) -> None:
        for node in self.lab.fw:
            self.lab.kill(node)


class Engines:
    """Two engines that promote themselves."""

    kind = "engines"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.psk = secrets.token_hex(32)
        self.engines = {node.name: self._engine(node) for node in lab.fw}
        self.active = lab.fw1
        self.engines["fw2"].call("passivate")
        self.engines["fw1"].call("activate")
        self._synced("fw2")

    def _engine(self, node: Node) -> rig.Engine:
        return rig.Engine(node, self.psk, heartbeat_ms=HEARTBEAT_MS, dead_after_ms=DEAD_AFTER_MS)

    def _synced(self, name: str) -> None:
        engine = self.engines[name]
        until(lambda: engine.call("state")["stream"]["synced"], 20, "the full copy")

    def crash(self) -> int:
        self.engines[self.lab.other(self.active).name].tell("await_death", 5)
        time.sleep(0.01)
        at = time.time_ns()
        self.engines[self.active.name].process.kill()
        self.active.down(*HA, *DATA)
        return at

    def recovered(self) -> dict[str, Any]:
        self.engines[self.active.name].kill()
        self.crashed, self.active = self.active, self.lab.other(self.active)
        return dict(self.engines[self.active.name].answer())

    def revive(self) -> None:
        name = self.crashed.name
        self.lab.revive(self.crashed)
        self.engines[name] = self._engine(self.crashed)
        self.engines[name].call("passivate")
        self.lab.plug(self.crashed)
        self._synced(name)

    def close(self) -> None:
        for engine in self.engines.values():
            engine.kill()


def _daemons_exist() -> bool:
    programs = (Path(sys.executable).parent / name for name in ("hak2kd", "hak2kctl"))
    modules = ("hak2k.daemon", "hak2k.cli")
    return all(p.exists() for p in programs) and all(map(importlib.util.find_spec, modules))


def _round(cluster: Cluster, streams: Streams) -> dict[str, Any]:
    victim = cluster.active.name
    # Not always at the same place between two heartbeats.
    time.sleep(0.1 + secrets.randbelow(HEARTBEAT_MS) / 1000)
    crashed = cluster.crash()
    swap = cluster.recovered()

    def back() -> bool:
        ends = {g.end for g in streams.gaps() if g.first > crashed and g.last}
        return ends == {"A", "B"}

    until(back, 5, "traffic in both directions", detail=lambda: streams.gaps()[-4:])
    time.sleep(SETTLE_S)
    now = time.time_ns()
    gaps = [g for g in streams.gaps() if g.first > crashed and g.last]
    cluster.revive()
    # What bringing the node back does to the traffic is told apart.
    time.sleep(0.2)
    late = [g for g in streams.gaps() if g.first > now]
    return {
        "victim": victim,
        "gap_ms": max(g.ms for g in gaps),
        "to_server_ms": max((g.ms for g in gaps if g.end == "B"), default=0.0),
        "to_client_ms": max((g.ms for g in gaps if g.end == "A"), default=0.0),
        "back_ms": (max(g.first for g in gaps) - crashed) / 1e6,
        "revive_gap_ms": max((g.ms for g in late), default=0.0),
        "promoted_ms": (swap["wall_ns"] - crashed) / 1e6 if "wall_ns" in swap else None,
        "swap": swap,
    }


def run(options: Options) -> Result:
    crashes = options.pick(10, 4)
    with Lab() as lab:
        cluster: Cluster = Daemons(lab) if _daemons_exist() else Engines(lab)
        try:
            streams = Streams(lab)
            try:
                until(lambda: len(streams.gaps()) >= 2, 5, "traffic in both directions")
                rounds = [_round(cluster, streams) for _ in range(crashes)]
            finally:
                streams.close()
        finally:
            cluster.close()
    result = Result(NAME, data={"with": cluster.kind, "rounds": rounds})
    table = Table(
        f"Crash to traffic, {crashes} crashes of {cluster.kind} (ms)",
        ("", "min", "median", "p95", "max"),
    )
    names = {
        "promoted_ms": "crash to promotion",
        "back_ms": "crash to traffic both ways",
        "gap_ms": "longest gap seen by a host",
        "revive_gap_ms": "longest gap as the node returned",
    }
    for key, name in names.items():
        values = [float(r[key]) for r in rounds if r[key] is not None]
        if not values:
            continue
        stats = result.data[key] = spread(values)
        table.rows.append((name, *(stats[k] for k in ("min", "p50", "p95", "max"))))
    table.notes.append(
        f"heartbeat_ms = {HEARTBEAT_MS}, dead_after_ms = {DEAD_AFTER_MS}. UDP, a datagram "
        f"every {INTERVAL_MS} ms each way, which is part of each gap; gaps of up to "
        f"{GAP_MS} ms count as none."
    )
    result.tables.append(table)
    result.targets.append(
        Target("crash to traffic, median", result.data["gap_ms"]["p50"], 300, "ms")
    )
    result.targets.append(Target("crash to traffic, max", result.data["gap_ms"]["max"], 300, "ms"))
    return result
