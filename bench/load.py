"""What replication costs in CPU time, on both nodes, beside what it cannot cost less.

The same load three times in turn, short masqueraded TCP connections as real packets:

    none     nobody listens: the cost of forwarding alone
    floor    bench/c/listen.c receives the events and throws them away; at the same
             time and rate bench/c/entries.c writes prebuilt batches on the other node
    hak2k    a pair of engines, encrypted and reliable

Times are those the scheduler keeps for each thread.  The load runs on one CPU, all
else on another, so that nobody is charged for what an interrupt did in his name.

One machine plays both nodes, which has a price: whether somebody listens to events is
asked per host, so the passive kernel too builds an event for each entry it gets, which
on a machine of its own it does not.  The floor pays that as well: mind the ratios.
"""

from __future__ import annotations

import signal
import statistics
import time
from typing import Any

from bench import rig, tools
from bench.report import Options, Result, Table
from hak2k.lab import Lab

NAME = "load"
TITLE = "CPU per event and per connection on both nodes, as a ratio to a floor"

RATES = (2000, 12000)
FLOOR_FLOWS = 4096
WARM_S = 1
VARIANTS = ("none", "floor", "hak2k")
THREADS = ("hak-io", "hak-capture", "hak-apply")


def _load(lab: Lab, rate: int, seconds: float, cpu: int, number: int) -> dict[str, Any]:
    """Connections on as many tuples as a second has: from the second on, all reopen one."""
    flows = rate * WARM_S
    count = int(rate * seconds)
    return rig.lives(lab, count, rate, "-f", flows, "-i", number, "-c", cpu)


def _none(rate: int, seconds: float) -> dict[str, float]:
    cpu, _ = rig.cpus()
    with Lab() as lab:
        rig.prepare(lab)
        lab.solo(lab.fw1)
        _load(lab, rate, WARM_S, cpu, 0)
        made = _load(lab, rate, seconds, cpu, rate * WARM_S)
    return {"lives": made["lives"], "load": made["cpu_ns"], "seconds": made["ns"] / 1e9}


def _floor(rate: int, seconds: float) -> dict[str, float]:
    load_cpu, cpu = rig.cpus()
    with Lab() as lab:
        rig.prepare(lab)
        lab.solo(lab.fw1)
        listener = tools.start(lab.fw1, "listen", "-c", cpu)
        assert listener.stdout is not None
        listener.stdout.readline()
        _load(lab, rate, WARM_S, load_cpu, 0)
        time.sleep(0.2)
        before = sum(rig.thread_ns(listener.pid).values())
        writer = tools.start(
            lab.fw2, "entries", "-m", "lives", "-n", int(rate * seconds), "-r", rate,
            "-f", FLOOR_FLOWS, "-c", cpu,
        )  # fmt: skip
        made = _load(lab, rate, seconds, load_cpu, rate * WARM_S)
        written = tools.result("entries", writer)
        time.sleep(0.2)
        after = sum(rig.thread_ns(listener.pid).values())
        listener.send_signal(signal.SIGTERM)
        heard = tools.result("listen", listener)
    if written["errors"]:
        raise RuntimeError(f"the kernel refused {written['errors']} messages of the floor")
    return {
        "lives": made["lives"],
        "load": made["cpu_ns"],
        "seconds": made["ns"] / 1e9,
        "active": after - before,
        # Of its own count of lives, which are whole batches.
        "passive": written["cpu_ns"] * made["lives"] / written["count"],
        "overruns": heard["overruns"],
    }


def _hak2k(rate: int, seconds: float) -> dict[str, float]:
    load_cpu, cpu = rig.cpus()
    with Lab() as lab:
        rig.prepare(lab)
        with rig.Pair(lab, cpu=cpu) as pair:
            sides = {"active": pair.a, "passive": pair.b}
            _load(lab, rate, WARM_S, load_cpu, 0)
            pair.settled()
            cpu_before = {n: rig.thread_ns(e.process.pid, "hak-") for n, e in sides.items()}
            before = pair.a.stats
            made = _load(lab, rate, seconds, load_cpu, rate * WARM_S)
            pair.settled(quiet=0.05)
            after = pair.a.stats
            cpu_after = {n: rig.thread_ns(e.process.pid, "hak-") for n, e in sides.items()}
            passive = pair.b.stats
            tables = (lab.fw1.conntrack_count(), lab.fw2.conntrack_count())
    threads = {
        f"{side}.{name}": cpu_after[side].get(name, 0) - cpu_before[side].get(name, 0)
        for side in sides
        for name in THREADS
    }
    grown = {name: after[name] - before[name] for name in after}
    return {
        "lives": made["lives"],
        "load": made["cpu_ns"],
        "seconds": made["ns"] / 1e9,
        **{side: sum(threads[f"{side}.{n}"] for n in THREADS) for side in sides},
        **threads,
        "events": grown["capture.events"],
        "record_bytes": grown["tx.record_bytes"],
        "bytes": grown["tx.bytes"],
        "datagrams": grown["tx.datagrams"],
        "overruns": after["capture.overruns"],
        "refused": passive["apply.failed"] + passive["apply.full"],
        "lost": passive["stream.lost"],
        "entries_active": tables[0],
        "entries_passive": tables[1],
    }


_MEASURES = {"none": _none, "floor": _floor, "hak2k": _hak2k}


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Per life, in ns or bytes: the median over the rounds; sums stay sums."""
    total = {"lives", "seconds", "overruns", "refused", "lost", "entries_active", "entries_passive"}
    return {
        key: sum(r[key] for r in runs)
        if key in total
        else statistics.median(r[key] / r["lives"] for r in runs)
        for key in runs[0]
    }


def run(options: Options) -> Result:
    seconds, rounds = options.pick(3, 1.5), options.pick(3, 1)
    result = Result(NAME, data={"seconds": seconds, "rounds": rounds, "rates": {}})
    costs = Table(
        f"CPU per connection (us), median of {rounds} rounds of {seconds} s",
        ("load", "variant", "forwarding", "active", "passive", "act/floor", "pas/floor"),
    )
    events = Table(
        "hak2k: CPU per event (us), by thread; bytes sealed per connection",
        ("load", "events", "capture", "io", "active", "apply", "io", "passive", "bytes"),
    )
    for rate in RATES:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for _ in range(rounds):
            for name in VARIANTS:
                runs[name].append(_MEASURES[name](rate, seconds))
        found = {name: _medians(runs[name]) for name in VARIANTS}
        result.data["rates"][str(rate)] = {"runs": runs, "median": found}
        label = f"{rate:,}/s"
        reached = min(r["lives"] / r["seconds"] for name in VARIANTS for r in runs[name])
        if reached < 0.9 * rate:
            costs.notes.append(f"{label}: the load generator only reached {reached:,.0f}/s.")
        floor, ours = found["floor"], found["hak2k"]
        for name in VARIANTS:
            own = found[name]
            both = [own[s] / 1000 if s in own else float("nan") for s in ("active", "passive")]
            ratios = [ours[s] / floor[s] if name == "hak2k" else float("nan")
                      for s in ("active", "passive")]  # fmt: skip
            costs.rows.append((label, name, own["load"] / 1000, *both, *ratios))
        per_event = {k: ours[k] / ours["events"] / 1000 for k in ours if k not in ("events",)}
        events.rows.append(
            (
                label,
                ours["events"],
                per_event["active.hak-capture"],
                per_event["active.hak-io"],
                per_event["active"],
                per_event["passive.hak-apply"],
                per_event["passive.hak-io"],
                per_event["passive"],
                ours["bytes"],
            )
        )
        for trouble in ("overruns", "refused", "lost"):
            if ours[trouble]:
                events.notes.append(f"{label}: {trouble}: {ours[trouble]:,.0f}")
        if ours["entries_active"] != ours["entries_passive"]:
            events.notes.append(
                f"{label}: tables differ: {ours['entries_active']:,.0f} entries on the "
                f"active node, {ours['entries_passive']:,.0f} on the passive one"
            )
    costs.notes.append(
        "forwarding: the load's own CPU, six packets and their tracking, on the active "
        "firewall. One host plays both nodes, so the passive kernel builds events as "
        "well; the floor pays for that too."
    )
    result.tables += [costs, events]
    return result
