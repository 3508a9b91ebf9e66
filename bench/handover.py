"""Planned swaps back and forth under numbered traffic: is every packet there, once?

Two real daemons.  bench/c/mixed.c sends UDP, TCP and pings, plain, masqueraded and
IPv6, in both directions, each with a number, while the role goes back and forth; half
of the swaps are asked of the active node, half of the passive one.  For each kind:
what was sent, what never came, what came twice or out of order.  TCP's repetitions
that the other side did not have already count as losses.

Besides, new flows ask a question each.  A flow that is younger than replication takes
(0.2 ms) is known to one node only, so these are told apart.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

from bench import rig, tools
from bench.report import Options, Result, Table, Target, spread
from hak2k.client import Client
from hak2k.lab import Lab, Node, until

NAME = "handover"
TITLE = "packets lost, doubled and delayed by planned swaps under mixed traffic"

RATE, FRESH, SWAPS = 10_000, 100, 100
PACKETS = 1_000_000


class Pair:
    """Two daemons, asked without a process for each question."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.start_pair()
        self.active = lab.fw1

    @property
    def passive(self) -> Node:
        return self.lab.other(self.active)

    def ask(self, fw: Node, command: str, **arguments: Any) -> Any:
        with Client(str(self.lab.daemons[fw].control_socket), 30.0) as client:
            return client.call(command, **arguments)

    def ready(self) -> None:
        def good() -> bool:
            said = [self.ask(fw, "info")["local"] for fw in (self.active, self.passive)]
            states = [(one["mode"], one["state"]) for one in said]
            return states == [("active", "running"), ("passive", "ready")]

        until(good, 20, "one active, one ready")

    def swap(self, number: int) -> dict[str, float]:
        """One swap; when it was asked for and what the nodes say of it."""
        before = [len(self.ask(fw, "events")) for fw in self.lab.fw]
        giving, taking = self.active, self.passive
        began = time.monotonic_ns()
        asked = taking if number % 2 else giving
        self.ask(asked, "active" if number % 2 else "passive")
        ended = time.monotonic_ns()
        self.active = taking
        self.ask(asked, "reset")
        found: dict[str, float] = {"began_ns": began, "ended_ns": ended}
        for fw, n in zip(self.lab.fw, before, strict=True):
            for event in self.ask(fw, "events")[n:]:
                if event["id"] == "handover.done":
                    found |= {k: v for k, v in event.items() if k.endswith("_ms")}
        self.ready()
        return found


def _start(lab: Lab, rate: int, fresh: int) -> subprocess.Popen[str]:
    lab.client.sysctl("net.ipv4.ping_group_range=0 2147483647")
    process = tools.start(
        lab.client, "mixed", "-C", lab.client, "-S", lab.server,
        "-r", rate, "-f", fresh, "-c", rig.cpus()[0], stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise tools.ToolError(f"mixed: {process.communicate()[1]}")
    return process


def measure(swaps: int, rate: int, fresh: int, packets: int) -> dict[str, Any]:
    """Swaps spread over as many packets; the account."""
    with Lab() as lab:
        pair = Pair(lab)
        process = _start(lab, rate, fresh)
        began = time.monotonic()
        time.sleep(0.3)
        made = []
        for number in range(swaps):
            made.append(pair.swap(number))
            due = began + packets / rate * (number + 1) / swaps
            time.sleep(max(0.05, due - time.monotonic()))
        found = tools.result("mixed", process)
        refused = {fw.name: fw.counters()["invalid"] for fw in lab.fw}
    return {**found, "swaps": made, "invalid": refused}


def by_kind(flows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, int]]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for flow in flows:
        row = found.setdefault((flow["kind"], flow["to"]), {})
        for key in ("sent", "lost", "twice", "late"):
            row[key] = row.get(key, 0) + flow[key]
        repeated = max(0, flow["repeated"] - flow["spurious"])
        row["repeated"] = row.get("repeated", 0) + repeated
        row["spurious"] = row.get("spurious", 0) + flow["spurious"]
        for key in ("gap_ns", "slow_ns"):
            row[key] = max(row.get(key, 0), flow[key])
    return found


def run(options: Options) -> Result:
    swaps = options.swaps or options.pick(SWAPS, 4)
    rate = options.rate or RATE
    packets = round(PACKETS * swaps / SWAPS)
    data = measure(swaps, rate, FRESH, packets)
    kinds = by_kind(data["flows"])
    result = Result(NAME, data=data)
    total = {key: sum(row[key] for row in kinds.values()) for key in next(iter(kinds.values()))}
    table = Table(
        f"{swaps} planned swaps, {total['sent']:,} packets at {rate:,} a second",
        ("kind", "to", "sent", "lost", "twice", "late", "gap ms", "delay ms"),
    )
    for (kind, to), row in kinds.items():
        times = (row["gap_ns"] / 1e6, row["slow_ns"] / 1e6)
        lost = row["lost"] + row["repeated"]
        table.rows.append((kind, to, row["sent"], lost, row["twice"], row["late"], *times))
    for proto, one in data["fresh"].items():
        lost = one["lost"] + one["repeated"]
        table.rows.append((f"new {proto.upper()}", "and back", one["asked"], lost, "", "", "", ""))
    took = spread([s["total_ms"] for s in data["swaps"]])
    alone = sum("armed_ms" not in s for s in data["swaps"])
    asked = spread([(s["ended_ns"] - s["began_ns"]) / 1e6 for s in data["swaps"]])
    gap = max(row["gap_ns"] for row in kinds.values()) / 1e6
    table.notes.append(
        f"Hand-over {took['p50']:.1f} ms (p50), {took['max']:.1f} (max); command "
        f"{asked['p50']:.1f}, {asked['max']:.1f}. Gap: longest time between two packets of "
        f"one flow. Lost, of TCP: repeated and wanted. {alone} swaps without overlap."
    )
    result.tables.append(table)
    lost = total["lost"] + total["repeated"]
    fresh_lost = sum(one["lost"] + one["repeated"] for one in data["fresh"].values())
    result.targets += [
        Target("packets lost by planned swaps", lost, 0, "packets"),
        Target("packets doubled by planned swaps", total["twice"], 0, "packets"),
        Target("new flows that lost a packet", fresh_lost, 0, "flows"),
        Target("longest gap", gap, 50, "ms"),
    ]
    return result
