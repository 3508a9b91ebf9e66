"""Reconciliation: what it costs to prove two tables equal, and to make them so.

Both kernels' tables are filled alike; then entries are deleted on the passive node,
behind its engine's back, and compared by `verify`: bytes of the stream (sealed; the
questions, some hundred bytes each, come on top), time, and CPU of both engines.  "all"
is an empty passive table.  Last, the active's engine is stopped under load until its
kernel drops events: the time from its return to two tables that are proved equal.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from bench import rig, tools
from bench.report import Options, Result, Table
from hak2k.lab import Lab, Tuple, until

NAME = "recon"
TITLE = "bytes, time and CPU to find and repair differences, and after lost events"

DIFFERENCES = (0, 1, 1000, None)  # None: all
RATE, STOPPED_S = 6000, 5.0


def nth_tuple(i: int) -> Tuple:
    """The i-th connection of bench/c/entries.c."""
    a, b = 0x0A490001 + i % 0xFFFF, 0x0A4A0001 + i // 50000
    dotted = [".".join(str(n >> s & 255) for s in (24, 16, 8, 0)) for n in (a, b)]
    return Tuple(dotted[0], dotted[1], 6, 10000 + i % 50000, 443)


def _cpu(pair: rig.Pair) -> tuple[int, int]:
    a, b = (sum(rig.thread_ns(e.process.pid, "hak-").values()) for e in (pair.a, pair.b))
    return a, b


def _verify(pair: rig.Pair) -> dict[str, Any]:
    sent, cpu = pair.a.stats["tx.bytes"], _cpu(pair)
    found = dict(pair.b.call("verify", 300))
    after = _cpu(pair)
    found["bytes"] = pair.a.stats["tx.bytes"] - sent
    found["cpu_active_ns"], found["cpu_passive_ns"] = after[0] - cpu[0], after[1] - cpu[1]
    if not found["equal"]:
        raise RuntimeError(f"the tables stay different: {found}")
    return found


def _measure(size: int) -> dict[str, Any]:
    with Lab() as lab:
        rig.prepare(lab)
        for node in lab.fw:
            rig.fill(node, size)
        with rig.Pair(lab, keep=True) as pair:
            rows: dict[str, Any] = {}
            for n in DIFFERENCES:
                if n is None:
                    lab.fw2.ct.flush()
                elif n:
                    step = size // n
                    lab.fw2.ct.delete(*(rig.entry(nth_tuple(i * step)) for i in range(n)))
                rows["all" if n is None else f"{n:,}"] = _verify(pair)
            return rows


def _overrun() -> dict[str, Any]:
    with Lab() as lab:
        rig.prepare(lab)
        with rig.Pair(lab) as pair:
            load = tools.start(
                lab.client, "lives", *rig.life_options(lab), "-n", RATE * 12, "-r", RATE,
                namespaces=(lab.client, lab.server),
            )  # fmt: skip
            pair.a.process.send_signal(signal.SIGSTOP)
            time.sleep(STOPPED_S)
            began = time.monotonic()
            pair.a.process.send_signal(signal.SIGCONT)
            until(lambda: pair.a.stats["capture.overruns"], 20, "an overrun")
            until(
                lambda: pair.b.call("table")["equal"] and pair.b.stats["recon.done"] > 1,
                120, "equal tables",
            )  # fmt: skip
            took = time.monotonic() - began
            under_load = load.poll() is None
            load.communicate(timeout=60)
            return {
                "equal_s": took,
                "under_load": under_load,
                "overruns": pair.a.stats["capture.overruns"],
                "rounds": pair.b.stats["recon.rounds"],
            }


def run(options: Options) -> Result:
    result = Result(NAME, data={"sizes": {}})
    table = Table(
        "Comparing two tables, and repairing what differs",
        ("entries", "differ", "bytes", "ms", "active CPU ms", "passive CPU ms"),
    )
    for size in options.pick((100_000, 1_000_000), (20_000,)):
        with rig.table_size(2 * size) as room:
            if not room:
                table.notes.append(f"{size:,} entries: nf_conntrack_max cannot be raised here.")
                continue
            rows = _measure(size)
        result.data["sizes"][f"{size:,}"] = rows
        for differ, r in rows.items():
            table.rows.append(
                (f"{size:,}", differ, r["bytes"], r["ns"] / 1e6,
                 r["cpu_active_ns"] / 1e6, r["cpu_passive_ns"] / 1e6)
            )  # fmt: skip
    table.notes.append(
        'The row "0" is one pass of the scrub. Time includes that of listing both tables, '
        "and the second proof after a repair."
    )
    result.tables.append(table)
    lost = _overrun()
    result.data["overrun"] = lost
    result.tables.append(
        Table(
            f"Events lost at {RATE:,} lives/s, engine stopped for {STOPPED_S:g} s",
            ("overruns", "return to equal, s", "load went on", "rounds"),
            [(lost["overruns"], lost["equal_s"], lost["under_load"], lost["rounds"])],
        )
    )
    return result
