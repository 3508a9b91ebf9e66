"""What replication costs: CPU on both nodes and bytes between them, for one connection.

The same load for each in turn, round after round: short masqueraded TCP connections
("lives") as real packets, six of them each, on tuples that are used again.  Beside
hak2k stand forwarding alone, a floor (the least that can replicate at all, neither
encrypted nor reliable) and conntrackd.

Times are those the scheduler keeps for each thread.  The load runs on one CPU, all
replicators on another, so that nobody is charged for what an interrupt did in his name.
"forwarding" is the load's own time, which is the firewall's: its packets, their tracking
and the making of events.  So forwarding and the active replicator together are what the
firewall pays.

The passive kernel makes no events, as on a machine of its own, where nobody listens
(conntrackd would; that is left out in its favour).  The row "both kernels" of hak2k is
with them.
"""

from __future__ import annotations

import statistics
from typing import Any

from bench import rig, variants
from bench.report import Options, Result, Table, Target
from bench.variants import LABELS, Setup
from hak2k.lab import Lab

NAME = "cost"
TITLE = "CPU and bytes per connection on both nodes, beside a floor and conntrackd"

RATE, LOW_RATE = 12000, 2000
WARM_S = 1
TAIL_NS = 5 * 20_000_000  # of bench/c/lives.c: between the packets of a life
VARIANTS = (
    "off", "silent", "listen", "floor", "floor, masked", "hak2k", "netlink",
    "ftfw", "direct", "notrack",
)  # fmt: skip
QUICK = ("off", "floor", "hak2k", "direct")
LOW = ("off", "floor", "hak2k")
DOOR = "door"  # the load alone: the firewall drops it before it looks
THREADS = ("hak-io", "hak-capture", "hak-apply")
NAN = float("nan")


def _load(
    lab: Lab, rate: int, seconds: float, cpu: int, number: int, *, ports: bool
) -> dict[str, Any]:
    """Connections on as many tuples as a second has: from the second on, all reopen one."""
    flows = rate * WARM_S
    return rig.lives(
        lab, int(rate * seconds), rate, "-f", flows, "-i", number, "-c", cpu, ports=ports
    )


def _threads(variant: variants.Variant) -> dict[str, int]:
    return {
        f"{side}.{name}": ns
        for side, pid in zip(("active", "passive"), variant.pids, strict=True)
        for name, ns in rig.thread_ns(pid, "hak-").items()
    }


def measure(
    name: str, rate: int, seconds: float, *, both: bool = False, ports: bool = False
) -> dict[str, Any]:
    """One variant under the load.

    Args:
        both: with events in the passive kernel too.
        ports: the load is at fw1's own cables; of ``DOOR`` it does not pass the door.

    Returns:
        Per life: ``load``, ``active``, ``passive`` (ns of CPU), ``bytes`` (frames,
        whole), ``payload`` (UDP's), ``packets``; and what went wrong.
    """
    load_cpu, cpu = rig.cpus()
    kind = "off" if name == DOOR else name
    with variants.running(kind, Setup(cpu=cpu, passive_events=both)) as variant:
        lab, pid = variant.lab, variant.pids[0]
        if ports:
            rig.prepare_ports(lab, closed=name == DOOR)
        _load(lab, rate, WARM_S, load_cpu, 0, ports=ports)
        variant.drained()
        before, sent = variant.cpu(), variants.traffic(pid)
        threads = _threads(variant)
        made = _load(lab, rate, seconds, load_cpu, rate * WARM_S, ports=ports)
        variant.drained()
        after, now = variant.cpu(), variants.traffic(pid)
        grown = {key: ns - threads.get(key, 0) for key, ns in _threads(variant).items()}
        different, lost = variant.different(), variant.lost()
    lives = made["lives"]
    frames = {key: now[key] - sent[key] for key in now}
    if isinstance(variant, variants.Nobody):
        frames = dict.fromkeys(frames, 0)
    return {
        "load": made["cpu_ns"] / lives,
        "active": (after[0] - before[0]) / lives,
        "passive": (after[1] - before[1]) / lives,
        "bytes": frames["bytes"] / lives,
        "payload": (frames["bytes"] - variants.HEADERS * frames["packets"]) / lives,
        "packets": frames["packets"] / lives,
        **{key: ns / lives for key, ns in grown.items()},
        # The last life's packets come when no new one begins any more.
        "rate": lives / (made["ns"] - TAIL_NS) * 1e9,
        "lost": lost,
        "different": different,
    }


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure; troubles are kept."""
    found: dict[str, Any] = {
        key: statistics.median(run[key] for run in runs)
        for key, value in runs[0].items()
        if isinstance(value, float)
    }
    found["lost"] = sum(run["lost"] for run in runs)
    found["different"] = next((run["different"] for run in runs if run["different"]), "")
    return found


def _rounds(
    names: list[str], rate: int, seconds: float, rounds: int, *, both: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """All names in turn, as often as there are rounds."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(measure(name, rate, seconds, both=both))
    return runs


def _row(label: str, own: dict[str, Any], ours: dict[str, Any], off: float) -> tuple[object, ...]:
    """Costs in us, then how often each is hak2k's."""
    costs = [own[key] / 1000 or NAN for key in ("active", "passive")]
    ratios = [NAN if own is ours else own[key] / ours[key] or NAN for key in ("active", "passive")]
    firewall = own["load"] + own["active"]
    return (label, own["load"] / 1000, *costs, *ratios, firewall / off, own["payload"] or NAN)


def _table(rate: int, rounds: int, found: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        f"CPU (us) and bytes per connection at {rate:,}/s, median of {rounds}",
        ("", "forward", "active", "passive", "/hak2k", "/hak2k", "firewall", "bytes"),
    )
    for name, own in found.items():
        table.rows.append(_row(LABELS[name], own, found["hak2k"], found["off"]["load"]))
        if own["rate"] < 0.95 * rate:
            table.notes.append(f"{LABELS[name]}: the load only reached {own['rate']:,.0f}/s.")
        if own["lost"] or own["different"]:
            what = own["different"] or f"{own['lost']:,} messages lost"
            table.notes.append(f"{LABELS[name]}: not complete: {what}.")
    table.notes.append(
        "/hak2k: active and passive as multiples of hak2k's. firewall: forwarding and "
        "replicating on the active node, as a multiple of forwarding without events. "
        "bytes: UDP payload that the active node sends."
    )
    return table


def _threads_table(found: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        "hak2k by thread: CPU per connection (us)",
        ("load", "capture", "io", "active", "apply", "io", "passive", "datagrams"),
    )
    for label, own in found.items():
        shown = ("active.hak-capture", "active.hak-io", "active", "passive.hak-apply",
                 "passive.hak-io", "passive")  # fmt: skip
        table.rows.append((label, *(own.get(k, 0.0) / 1000 for k in shown), own["packets"]))
    return table


def _goals(found: dict[str, dict[str, Any]]) -> list[Target]:
    ours, floor, off = found["hak2k"], found["floor"], found["off"]
    goals = []
    for side in ("active", "passive"):
        goals.append(
            Target(f"CPU per life, {side}: of the floor's", ours[side] / floor[side], 1.0, "x")
        )
        if "direct" in found:
            ratio = found["direct"][side] / ours[side]
            goals.append(
                Target(f"CPU per life, {side}: conntrackd direct's, of ours", ratio, 5, "x", True)
            )
    firewall = (ours["load"] + ours["active"]) / off["load"]
    beside = ""
    if "ftfw" in found:
        theirs = (found["ftfw"]["load"] + found["ftfw"]["active"]) / off["load"]
        beside = f"conntrackd FTFW {theirs:.1f}"
    goals.append(Target("firewall's own cost, of forwarding's", firewall, 1.6, "x", beside=beside))
    sizes = [f"{LABELS[n]} {found[n]['payload']:.0f}" for n in ("ftfw",) if n in found]
    goals.append(
        Target("bytes sealed per life", ours["payload"], 100, "bytes", beside=", ".join(sizes))
    )
    return goals


def run(options: Options) -> Result:
    seconds, rounds = options.pick(3, 1), options.times(5)
    names = variants.known(*options.pick(VARIANTS, QUICK))
    result = Result(NAME, data={"seconds": seconds, "rounds": rounds, "rates": {}})
    runs = _rounds(names, RATE, seconds, rounds)
    found = {name: medians(each) for name, each in runs.items()}
    result.data["rates"][str(RATE)] = {"runs": runs, "median": found}
    result.tables.append(_table(RATE, rounds, found))
    detail = {f"{RATE:,}/s": found["hak2k"]}
    if not options.quick:
        low = _rounds(list(LOW), LOW_RATE, seconds, rounds)
        at_low = {name: medians(each) for name, each in low.items()}
        result.data["rates"][str(LOW_RATE)] = {"runs": low, "median": at_low}
        result.tables.append(_table(LOW_RATE, rounds, at_low))
        detail[f"{LOW_RATE:,}/s"] = at_low["hak2k"]
        shared = _rounds(["hak2k"], RATE, seconds, rounds, both=True)["hak2k"]
        detail[f"{RATE:,}/s, both kernels"] = medians(shared)
        result.data["both_kernels"] = {
            "runs": shared,
            "median": detail[f"{RATE:,}/s, both kernels"],
        }
    result.tables.append(_threads_table(detail))
    result.targets += _goals(found)
    return result
