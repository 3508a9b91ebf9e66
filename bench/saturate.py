"""How many connections a second are replicated without loss by a machine that is full.

Two load generators, one on each CPU, send as fast as they can; the replicators run
wherever they find time.  So everything counts: the firewall's packets, the making of
events, reading, sending and applying them, on one machine for both nodes; but not the
lab's bridges and hosts, for packets are put onto the firewall's own cables.  The figure
is lives by the time from the first packet until nothing is under way any more; if
anything was lost, it is tried again with a tenth less than what was reached, until
nothing is.

Once with all events, and once with those that hak2k chooses without a probe, lent to the
others by a rule of the ruleset.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench import rig, tools, variants
from bench.report import Options, Result, Table, Target
from bench.variants import LABELS, Setup

NAME = "saturate"
TITLE = "connections a second without loss, the whole machine saturated"

VARIANTS = (
    "hak2k", "netlink", "floor", "ftfw", "direct", "notrack",
    "floor, masked", "ftfw, masked", "notrack, masked",
)  # fmt: skip
QUICK = ("hak2k", "floor", "notrack")
FLOWS = 20_000  # at most; and each is used three times
ENDLESS = 200_000  # more than any machine forwards
TRIES, LESS = 12, 0.9
LATEST_S = 1.5


def _offer(variant: variants.Variant, lives: int, rate: int) -> float:
    """Half of the load on each of two CPUs; when it began."""
    began = time.monotonic()
    flows = min(FLOWS, lives // 3) // 2
    load = ("-n", lives // 2, "-r", rate // 2, "-f", flows)
    options = (*rig.life_options(variant.lab, ports=True), *load)
    generators = [
        tools.start(variant.lab.client, "lives", *options, "-o", half * flows, "-c", cpu)
        for half, cpu in enumerate(rig.cpus())
    ]
    for generator in generators:
        tools.result("lives", generator)
    return began


def attempt(
    name: str, lives: int, rate: int, kind: type[variants.Variant] | None = None
) -> dict[str, Any]:
    """Offer that many; what was reached, what it took, and what was lost.

    Args:
        kind: of the replicators, if it is none of ``variants.KINDS``.
    """
    with variants.running(name, Setup(), kind) as variant:
        rig.prepare_ports(variant.lab)
        before = variant.cpu()
        began = _offer(variant, lives, rate)
        offered = time.monotonic()
        done = max(variant.drained(), offered)
        # NOTRACK sends what fills no datagram after a second.
        deadline = time.monotonic() + LATEST_S
        while (different := variant.different()) and time.monotonic() < deadline:
            time.sleep(0.1)
        lost, after = variant.lost(), variant.cpu()
    return {
        "cpu": [(now - then) / lives for now, then in zip(after, before, strict=True)],
        "rate": lives / (done - began),
        "offered": lives / (offered - began),
        "asked": rate,
        "lost": lost,
        "different": different,
    }


def reach(
    name: str, lives: int, rate: int, kind: type[variants.Variant] | None = None
) -> list[dict[str, Any]]:
    """Attempts, each with less, until one loses nothing: the last one."""
    found = []
    for _ in range(TRIES):
        found.append(attempt(name, lives, int(rate), kind))
        if not found[-1]["lost"] and not found[-1]["different"]:
            break
        rate = int(LESS * min(rate, found[-1]["offered"], found[-1]["rate"] / LESS))
    return found


def _goals(found: dict[str, float]) -> list[Target]:
    ours = found["hak2k"]
    same = "floor, masked"
    goals = []
    for limit, text, names in (
        (3, "conntrackd's best as shipped", variants.PEERS),
        (1.8, "conntrackd's best with our events", [f"{n}, masked" for n in variants.PEERS]),
        (0.95, "the floor's with the same events", (same,)),
    ):
        best = max((found[n] for n in names if n in found), default=None)
        if best:
            beside = f"{ours:,.0f} and {best:,.0f} lives/s"
            goals.append(Target(f"lives/s, of {text}", ours / best, limit, "x", True, beside))
    return goals


def run(options: Options) -> Result:
    lives, rounds = options.pick(60_000, 15_000), options.times(5)
    names = variants.known(*options.pick(VARIANTS, QUICK))
    result = Result(NAME, data={"lives": lives, "runs": {}})
    runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in names}
    start = dict.fromkeys(names, ENDLESS)
    for _ in range(rounds):
        for name in names:
            tried = reach(name, lives, start[name])
            runs[name].append(tried)
            if len(tried) > 1:
                start[name] = int(tried[-1]["asked"] / LESS**2)
    good = {
        name: [
            tried[-1]["rate"]
            for tried in each
            if not tried[-1]["lost"] and not tried[-1]["different"]
        ]
        for name, each in runs.items()
    }
    found = {name: statistics.median(rates) for name, rates in good.items() if rates}
    result.data.update(runs=runs, median=found)
    table = Table(
        f"Lives a second without loss, median of {rounds} rounds of {lives:,} lives",
        ("", "lives/s", "least", "most", "hak2k is", "attempts"),
    )
    for name in names:
        if name not in found:
            table.notes.append(f"{LABELS[name]}: something was lost at every rate.")
            continue
        own, ratio = good[name], found["hak2k"] / found[name] if "hak2k" in found else float("nan")
        tries = statistics.mean(len(tried) for tried in runs[name])
        table.rows.append((LABELS[name], found[name], min(own), max(own), f"{ratio:.2f} x", tries))
    table.notes.append(
        "Masked: with the rules that hak2k has without a probe. Attempts: how often it took less "
        "until nothing was lost; 1: never, it was slowed down by the machine alone."
    )
    result.tables.append(table)
    if "hak2k" in found:
        result.targets += _goals(found)
    return result
