"""What replication costs on the wire: bytes per record, and per connection.

Real packets make real events: first the packet that opens each connection, then all
others, then the tables are flushed; after each phase the engine's counters are read.
"Before" is the records alone (tx.record_bytes), "sealed" is UDP payload with header
and tag (tx.bytes), which depends on how many records share a datagram.
"""

from __future__ import annotations

import time
from typing import Any

from bench import rig
from bench.report import Options, Result, Table, Target
from hak2k.lab import Lab

NAME = "size"
TITLE = "bytes per record and per connection, before and after sealing"

KINDS = {
    "TCP, masqueraded": (),
    "TCP, not translated": ("-p",),
    "UDP, masqueraded": ("-u",),
}
PHASES = ("new", "update", "destroy")
RATE = 4000


def _counters(pair: rig.Pair) -> dict[str, int]:
    pair.settled()
    stats = pair.a.stats
    return {k: stats[f"tx.{k}"] for k in ("records", "record_bytes", "bytes", "datagrams")}


def _measure(kind: tuple[str, ...], count: int) -> dict[str, Any]:
    with Lab() as lab:
        rig.prepare(lab)
        with rig.Pair(lab) as pair:
            # One connection with all its neighbours, so that nothing but these is new.
            rig.lives(lab, 1, 100, "-o", count + 1, *kind)
            lab.fw1.ct.flush()
            before = _counters(pair)
            phases = {}
            for phase in PHASES:
                if phase == "new":
                    rig.lives(lab, count, RATE, "-z", 0, *kind)
                elif phase == "update":
                    rig.lives(lab, count, RATE, "-a", 1, "-g", 50, *kind)
                else:
                    time.sleep(0.1)
                    lab.fw1.ct.flush()
                after = _counters(pair)
                phases[phase] = {k: after[k] - before[k] for k in after}
                before = after
            left = len(lab.fw2.conntrack())
    if left:
        raise RuntimeError(f"{left} entries are left on the passive node")
    return {"lives": count, "phases": phases}


def run(options: Options) -> Result:
    count = options.pick(4000, 500)
    result = Result(NAME, data={"rate": RATE})
    table = Table(
        f"Bytes on the wire, {count:,} connections each at {RATE:,}/s",
        ("connection", "NEW", "UPDATE", "DESTROY", "records", "before", "sealed", "datagrams"),
    )
    for name, kind in KINDS.items():
        found = _measure(kind, count)
        result.data[name] = found
        phases = found["phases"]
        each = [p["record_bytes"] / max(1, p["records"]) for p in phases.values()]
        totals = {k: sum(p[k] for p in phases.values()) / count for k in phases["new"]}
        found["per_life"] = totals
        table.rows.append(
            (name, *each, *(totals[k] for k in ("records", "record_bytes", "bytes", "datagrams")))
        )
        if kind == ():
            result.targets.append(
                Target("IPv4 TCP life before encryption", totals["record_bytes"], 150, "bytes")
            )
    table.notes.append(
        "NEW, UPDATE, DESTROY: bytes per record. The others are per connection: records, "
        "their bytes before encryption, UDP payload sealed, datagrams."
    )
    result.tables.append(table)
    return result
