"""How long a pair takes until all is well again, whatever happened to it.

Real daemons under real flows and short connections. Each row of
`hak2k.lab.disturb` is done a few times; the clock runs from when the harm was undone
(a daemon runs again, a link is back) until one node is active, the other ready, and
their tables are proved equal by a comparison that was asked for then.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from bench.report import Options, Result, Table
from hak2k.client import Client
from hak2k.errors import HakError
from hak2k.lab import Lab, Node, until
from hak2k.lab.disturb import DISTURBANCES, Disturbance, cut_both
from hak2k.lab.traffic import Traffic

NAME = "faults"
TITLE = "from a fault to equal tables"

FLOWS = (("plain", "tcp", 4), ("masq", "tcp", 4), ("dnat", "tcp", 2), ("masq", "udp", 2))


def _ask(lab: Lab, node: Node, command: str, **args: Any) -> Any:
    with Client(str(lab.daemons[node].control_socket), 30.0) as client:
        return client.call(command, **args)


def _roles(lab: Lab) -> dict[str, tuple[str, str]]:
    found = {}
    for node in lab.fw:
        local = _ask(lab, node, "info")["local"]
        found[node.name] = (local["mode"], local["state"])
    return found


def _well(lab: Lab) -> bool:
    """One active, the other ready, and equal as of now."""
    try:
        if sorted(_roles(lab).values()) != [("active", "running"), ("passive", "ready")]:
            return False
        found = _ask(lab, _active(lab), "verify", no_repair=True)
    except HakError:
        return False
    return bool(found["equal"]) and not any(found[k] for k in ("missing", "extra", "different"))


def _active(lab: Lab) -> Node:
    return next(n for n in lab.fw if _ask(lab, n, "mode")["mode"] == "active")


def _once(lab: Lab, what: Disturbance) -> tuple[float, bool]:
    active = _active(lab)
    what.do(lab, active, lab.other(active))
    undone = time.monotonic()
    until(lambda: _well(lab), 60, f"{what.name}: all well again", interval=0.005)
    return (time.monotonic() - undone) * 1000, _active(lab) is not active


def run(options: Options) -> Result:
    times = options.pick(3, 1)
    what = list(DISTURBANCES)
    if not options.quick:
        what.append(Disturbance("both links cut for 60 s", cut_both(60.0), swaps=None))
    result = Result(NAME)
    table = Table(
        f"From the end of a fault to equal tables, {times} times each (ms)",
        ("fault", "median", "max", "swapped", "flows lost"),
    )
    with Lab(wire=True, loose=True) as lab:
        for node in lab.fw:
            lab.write_config(node, cluster={"priority": 0})  # none is preferred
        lab.start_pair()
        until(lambda: _well(lab), 30, "a pair")
        traffic = Traffic(lab)
        for route, proto, count in FLOWS:
            traffic.open(route, proto, count)
        traffic.wait_established()
        for each in what:
            found = [_once(lab, each) for _ in range(times)]
            took = [ms for ms, _ in found]
            lost = len(traffic.lost())
            result.data[each.name] = {"ms": took, "lost": lost}
            swapped = f"{sum(s for _, s in found)} of {times}"
            table.rows.append((each.name, round(median(took)), round(max(took)), swapped, lost))
    table.notes.append(
        f"{sum(n for _, _, n in FLOWS)} flows of TCP and UDP, plain and translated; "
        "nf_conntrack_tcp_loose = 1. The comparison that proves it is part of the time. "
        '"conntrack -F, passive" is noticed by the daemon, which looks once a second.'
    )
    result.tables.append(table)
    return result
