"""What one connection costs the firewall itself, with nothing of the lab in the figure.

In `cost` the load's time is everything on the packets' way: sockets, two bridges, the
hosts' ends of the cables.  Here packets are put straight onto the other ends of the
firewall's own two cables, and what comes out is dropped there, before a bridge has seen
it.  What remains besides, the sockets and the cables, is measured too: the same load,
which the firewall drops at its door.  That is taken away from each figure.

So "forwarding" is conntrack, NAT, routing, the ruleset, the gate and the making of events
for the six packets of a masqueraded life; and what replication costs is set beside
forwarding without any events.
"""

from __future__ import annotations

import statistics
from typing import Any

from bench import cost, variants
from bench.report import Options, Result, Table, Target
from bench.variants import LABELS

NAME = "alone"
TITLE = "the firewall's own cost of a connection, without bridges and hosts"

RATE = cost.RATE
VARIANTS = (
    "off", "silent", "listen", "floor", "floor, masked", "hak2k", "netlink", "ftfw", "direct",
)  # fmt: skip
QUICK = ("off", "hak2k")


def _own(run: dict[str, Any], door: float) -> tuple[float, float]:
    """Forwarding, and that with replication, of the active node: us for each life."""
    forward = run["load"] - door
    return forward / 1000, (forward + run["active"]) / 1000


def run(options: Options) -> Result:
    seconds, rounds = options.pick(3, 1), options.times(5)
    names = variants.known(*options.pick(VARIANTS, QUICK))
    result = Result(NAME, data={"seconds": seconds, "rounds": rounds, "rate": RATE})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (cost.DOOR, *names)}
    for _ in range(rounds):
        for name, each in runs.items():
            each.append(cost.measure(name, RATE, seconds, ports=True))
    door = statistics.median(one["load"] for one in runs[cost.DOOR])
    table = Table(
        f"CPU of the firewall per connection at {RATE:,}/s (us), median of {rounds}",
        ("", "forwarding", "and replicating", "of no events"),
    )
    found: dict[str, tuple[float, float]] = {}
    for name in names:
        medians = cost.medians(runs[name])
        found[name] = forward, whole = _own(medians, door)
        table.rows.append((LABELS[name], forward, whole, f"{whole / found['off'][0]:.2f} x"))
        if medians["lost"] or medians["different"]:
            what = medians["different"] or f"{medians['lost']:,} messages lost"
            table.notes.append(f"{LABELS[name]}: not complete: {what}.")
    table.notes.append(
        f"Taken away from each: {door / 1000:.1f} us of sending six packets to a firewall "
        "that drops them at its door."
    )
    result.tables.append(table)
    result.data.update(runs=runs, door=door, own=found)
    beside = ""
    if "ftfw" in found:
        beside = f"conntrackd FTFW {found['ftfw'][1] / found['off'][0]:.1f}"
    ratio = found["hak2k"][1] / found["off"][0]
    result.targets.append(
        Target("firewall's own cost, nothing of the lab in it", ratio, 1.6, "x", beside=beside)
    )
    return result
