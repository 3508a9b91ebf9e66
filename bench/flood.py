"""A flood of garbage on an HA link: what it costs the heartbeats, the stream and the CPU.

Somebody in the active node's place sends as fast as one process can: short datagrams,
unknown versions and sessions, forged handshakes, forged seals for the session in use,
replayed heartbeats.  The same load of connections runs without and with it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import rig, tools
from bench.latency import latencies
from bench.report import Options, Result, Table, spread
from hak2k.lab import Lab, Node, topology, until

NAME = "flood"
TITLE = "heartbeats and stream while garbage comes as fast as it can be sent"

RATE = 200  # lives per second meanwhile
SAMPLE_S = 0.02
HEADER = 16
CONTROL = 4


def _overheard(node: Node, source: str) -> bytes:
    """A heartbeat of the peer's as it went over ha0."""
    with node.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as tap:
        tap.bind(("ha0", 0x0800))
        tap.settimeout(5)
        while True:
            data = tap.recv(65536)
            if data[9] == 17 and socket.inet_ntoa(data[12:16]) == source and data[29] == CONTROL:
                return bytes(data[28:])


def _garbage(seen: bytes) -> list[str]:
    """Hex, "?" for a random digit pair: each way to be refused, some of them dear."""
    head = seen[:HEADER]
    junk = "?" * 300
    kinds = [(head[:1] + bytes([kind]) + head[2:]).hex() + junk for kind in (1, 2, 3, 4)]
    return ["?" * 20, "?" * 100, *kinds, kinds[2] + "?" * 1000, seen.hex()]


@contextmanager
def _flooding(lab: Lab, seconds: float, seen: bytes) -> Iterator[subprocess.Popen[str]]:
    script = tools.ROOT / "tests" / "hostile" / "flood.py"
    process = lab.fw1.popen(
        sys.executable, script, str(seconds), "192.168.69.1", "192.168.69.2",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write("\n".join(_garbage(seen)))
    process.stdin.close()
    process.stdin = None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class _Watch:
    """Round trips as the passive node has them, while lives run."""

    def __init__(self, engine: rig.Engine) -> None:
        self.engine = engine
        self.found: list[float] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stop.wait(SAMPLE_S):
            rtt = self.engine.call("links")[0]["rtt_us"]
            if rtt is not None:
                self.found.append(float(rtt))

    def __enter__(self) -> _Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def _drops(stats: dict[str, int]) -> int:
    return sum(n for name, n in stats.items() if name.startswith("drop."))


def _measure(seconds: float, flooded: bool) -> dict[str, Any]:
    with Lab() as lab:
        rig.prepare(lab)
        for node in lab.fw:
            node.sysctl("net.netfilter.nf_conntrack_timestamp=1")
        with rig.Pair(lab) as pair:
            seen = _overheard(lab.fw2, topology.HA_ADDRESSES["fw1"]["ha0"].split("/")[0])
            before = pair.b.stats
            if flooded:
                with _flooding(lab, seconds * 3 + 5, seen):
                    until(lambda: _drops(pair.b.stats) > _drops(before), 10, "the flood")
                    out = _loaded(lab, pair, seconds)
            else:
                out = _loaded(lab, pair, seconds)
            pair.settled()
            found, missing = latencies(lab)
    return out | {"ns": found, "missing": missing, "latency": spread(found)}


def _loaded(lab: Lab, pair: rig.Pair, seconds: float) -> dict[str, Any]:
    sent = pair.a.stats["heartbeats.sent"]
    before, cpu, began = pair.b.stats, _io(pair), time.monotonic()
    with _Watch(pair.b) as watch:
        rig.lives(lab, int(RATE * seconds), RATE)
    took = time.monotonic() - began
    after, said = pair.b.stats, pair.a.stats["heartbeats.sent"] - sent
    return {
        "seconds": took,
        "rtt": spread(watch.found),
        "refused": (_drops(after) - _drops(before)) / took,
        "io_cpu": (_io(pair) - cpu) / 1e9 / took,
        "heartbeats": (after["heartbeats.received"] - before["heartbeats.received"]) / took,
        "heartbeats_sent": said / took,
        "lost": after["stream.lost"] - before["stream.lost"],
        "handshakes": after["handshakes"],
    }


def _io(pair: rig.Pair) -> int:
    return rig.thread_ns(pair.b.process.pid, "hak-io")["hak-io"]


def run(options: Options) -> Result:
    result = Result(NAME)
    table = Table(
        f"A flood of garbage, {RATE} lives/s beside it",
        ("", "quiet", "flooded"),
    )
    seconds = options.pick(10, 2)
    quiet, flooded = (_measure(seconds, flood) for flood in (False, True))
    result.data.update(quiet=quiet, flooded=flooded)
    both = (quiet, flooded)
    table.rows += [
        ("garbage refused, datagrams/s", *(b["refused"] for b in both)),
        ("io thread, % of a CPU", *(b["io_cpu"] * 100 for b in both)),
        ("heartbeats sent, per second", *(b["heartbeats_sent"] for b in both)),
        ("heartbeats heard, per second", *(b["heartbeats"] for b in both)),
        ("round trip p50, us", *(b["rtt"]["p50"] for b in both)),
        ("round trip p99, us", *(b["rtt"]["p99"] for b in both)),
        ("replication p50, us", *(b["latency"]["p50"] / 1000 for b in both)),
        ("replication p99, us", *(b["latency"]["p99"] / 1000 for b in both)),
        ("entries missing", *(b["missing"] for b in both)),
        ("losses of the stream", *(b["lost"] for b in both)),
    ]
    table.notes.append(
        "Round trips are the engine's own smoothed figure of the flooded link, sampled 50 "
        "times a second. The flood shares the machine's CPUs with what is measured."
    )
    result.tables.append(table)
    return result
