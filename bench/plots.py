"""Pictures of what was measured: one for each question, readable without the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from bench import report
from bench.variants import LABELS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Content = dict[str, Any]
OURS, PEER, BARE, SECOND = "#0b6e4f", "#b04a2f", "#7a7f87", "#dfa98f"
SIZE = (8.4, 4.4)
ABOVE: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 9), "ha": "right"}
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titlepad": 14,
    "axes.labelsize": 10,
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "hak2k",
}


def _colour(name: str) -> str:
    if name.startswith("hak2k"):
        return OURS
    return BARE if name.split(",")[0] in ("floor", "listen", "off", "silent") else PEER


def _figure(title: str, content: Content) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    axes.set_title(title)
    about = content["machine"]
    note = f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, {about['time'][:10]}"
    figure.supxlabel(note + (", quick run" if content["quick"] else ""), fontsize=7, color=BARE)
    return figure, axes


def _bars(
    axes: Any, labels: Sequence[str], values: Sequence[float], colours: Sequence[str], form: str
) -> None:
    """Horizontal bars, the first on top, each with its value."""
    bars = axes.barh(range(len(labels)), values, color=colours, height=0.68)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.bar_label(bars, [form.format(v) for v in values], padding=4)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)


def cpu(content: Content) -> Any:
    """Both nodes' replicators."""
    [rate] = [r for r in content["data"]["rates"] if r == "12000"]
    found = content["data"]["rates"][rate]["median"]
    names = [n for n in found if found[n]["passive"]]
    figure, axes = _figure("What does replicating one short connection cost each node?", content)
    height = 0.38
    for shift, side, shade in ((-height / 2, "active", 1.0), (height / 2, "passive", 0.55)):
        bars = axes.barh(
            [i + shift for i in range(len(names))],
            [found[n][side] / 1000 for n in names],
            height=height, color=[_colour(n) for n in names], alpha=shade,
        )  # fmt: skip
        axes.bar_label(bars, [f"{found[n][side] / 1000:.1f} {side}" for n in names], padding=4)
    axes.set_yticks(range(len(names)), [LABELS[n] for n in names])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("CPU of the replicating process, microseconds per connection, at 12,000/s")
    return figure


def firewall(content: Content) -> Any:
    """Forwarding and replicating, stacked."""
    found = content["data"]["rates"]["12000"]["median"]
    names = list(found)
    off = found["off"]["load"]
    figure, axes = _figure("How much slower does a firewall get when it replicates?", content)
    forward = [found[n]["load"] / 1000 for n in names]
    own = [found[n]["active"] / 1000 for n in names]
    axes.barh(range(len(names)), forward, color="#c9ccd1", height=0.68)
    bars = axes.barh(
        range(len(names)), own, left=forward, color=[_colour(n) for n in names], height=0.68
    )
    axes.bar_label(
        bars, [f"{(found[n]['load'] + found[n]['active']) / off:.2f} x" for n in names], padding=4
    )
    axes.set_yticks(range(len(names)), [LABELS[n] for n in names])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "CPU on the active node, microseconds per connection:\n"
        "grey: forwarding its packets and making events; in colour: the replicator"
    )
    return figure


def size(content: Content) -> Any:
    found = content["data"]["rates"]["12000"]["median"]
    names = [n for n in found if found[n]["passive"]]
    figure, axes = _figure("How many bytes does a short connection take on the link?", content)
    _bars(axes, [LABELS[n] for n in names], [found[n]["payload"] for n in names],
          [_colour(n) for n in names], "{:.0f}")  # fmt: skip
    axes.set_xlabel("UDP payload sent by the active node, bytes per connection, at 12,000/s")
    return figure


def throughput(content: Content) -> Any:
    found = content["data"]["median"]
    figure, axes = _figure(
        "How many connections a second reach the other node without loss?", content
    )
    names = list(found)
    _bars(axes, [LABELS[n] for n in names], [found[n] for n in names],
          [_colour(n) for n in names], "{:,.0f}")  # fmt: skip
    axes.set_xlabel("connections a second, both nodes and the load on one saturated machine")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def delay(content: Content) -> Any:
    """Cumulative distributions at the goal's rate."""
    runs = content["data"]["rates"]["1000"]["runs"]
    figure, axes = _figure("How long until the other node has a new connection?", content)
    styles = {"floor": ":", "floor, woken": "--"}
    peers = iter(("-", "--"))
    for name, each in runs.items():
        values = sorted(ns / 1000 for run in each for ns in run["ns"])
        shares = [(i + 1) / len(values) * 100 for i in range(len(values))]
        line = styles.get(name) or (next(peers) if _colour(name) == PEER else "-")
        axes.plot(values, shares, line, color=_colour(name), linewidth=2, label=LABELS[name])
    axes.set_xscale("log")
    axes.set_xlabel("microseconds from one kernel's entry to the other's, at 1,000 connections/s")
    axes.set_ylabel("connections that arrived, %")
    axes.set_ylim(0, 101)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    return figure


def takeover(content: Content) -> Any:
    """The flip beside conntrackd's commit, both by the number of entries."""
    sizes = {k: v for k, v in content["data"]["sizes"].items() if k.replace(",", "").isdigit()}
    figure, axes = _figure("How long does a swap take when the table is large?", content)
    counts = [int(k.replace(",", "")) for k in sizes]
    positions = list(range(len(counts)))
    ours = [v["stats"]["first"]["p50"] / 1e6 for v in sizes.values()]
    axes.plot(positions, ours, "o-", color=OURS, linewidth=2)
    axes.annotate(f"hak2k: {ours[-1] * 1000:.0f} us", (positions[-1], ours[-1]),
                  **ABOVE, color=OURS)  # fmt: skip
    theirs = [(i, v["ftfw"]["commit_ns"] / 1e6) for i, v in enumerate(sizes.values()) if v["ftfw"]]
    if theirs:
        axes.plot(*zip(*theirs, strict=True), "s-", color=PEER, linewidth=2)
        axes.annotate(f"conntrackd's commit: {theirs[-1][1]:,.0f} ms", theirs[-1],
                      **ABOVE, color=PEER)  # fmt: skip
    axes.set_yscale("log")
    axes.margins(y=0.2)
    axes.set_xticks(positions, [f"{n:,}" for n in counts])
    axes.set_xlabel("connections in the table")
    axes.set_ylabel("milliseconds until packets pass")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", alpha=0.25)
    return figure


def copy(content: Content) -> Any:
    """Floors, hak2k, conntrackd, at the largest size."""
    label, found = list(content["data"]["sizes"].items())[-1]
    figure, axes = _figure(
        f"How long does a first copy of {int(label):,} connections take?", content
    )
    rows = [
        ("list the table (floor)", found["floors"]["list"], BARE),
        ("write the table (floor)", found["floors"]["insert"], BARE),
        ("hak2k, into the kernel", found["ns"], OURS),
    ]
    for mode, text in (
        ("direct", "conntrackd, into the kernel"),
        ("ftfw", "conntrackd, into a cache"),
    ):
        if found[mode]:
            rows.append((text, found[mode]["sync_ns"], PEER))
    _bars(axes, [r[0] for r in rows], [r[1] / 1e9 for r in rows], [r[2] for r in rows], "{:.2f} s")
    axes.set_xlabel("seconds")
    return figure


def memory(content: Content) -> Any:
    found = content["data"]["sizes"]
    figure, axes = _figure("How much memory does a daemon take for its connections?", content)
    counts = [int(k) for k in found]
    positions = list(range(len(counts)))
    for name, colour, text in (("hak2k", OURS, "hak2k"), ("ftfw", PEER, "conntrackd FTFW")):
        if not all(found[str(n)][name] for n in counts):
            continue
        values = [max(found[str(n)][name]["rss"]) / (1 << 20) for n in counts]
        axes.plot(positions, values, "o-", color=colour, linewidth=2)
        axes.annotate(f"{text}: {values[-1]:,.0f} MiB", (positions[-1], values[-1]),
                      **ABOVE, color=colour)  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.set_xticks(positions, [f"{n:,}" for n in counts])
    axes.set_xlabel("connections in the table")
    axes.set_ylabel("resident memory of the larger daemon, MiB")
    axes.grid(axis="y", alpha=0.25)
    return figure


# picture: (measurement, how it is drawn)
PICTURES: dict[str, tuple[str, Callable[[Content], Any]]] = {
    "cpu": ("cost", cpu),
    "firewall": ("cost", firewall),
    "bytes": ("cost", size),
    "throughput": ("saturate", throughput),
    "delay": ("latency", delay),
    "takeover": ("flip", takeover),
    "copy": ("bulk", copy),
    "memory-by-size": ("memory", memory),
}


def draw(contents: dict[str, Content]) -> list[Path]:
    """Draw what was measured; the PNG files.  Each has an SVG beside it."""
    made = []
    with plt.rc_context(STYLE):
        for name, (source, picture) in PICTURES.items():
            content = contents.get(source)
            if content is None or content["skipped"]:
                continue
            figure = picture(content)
            for kind in ("svg", "png"):
                figure.savefig(report.OUT / f"{name}.{kind}", dpi=110)
            plt.close(figure)
            made.append(report.OUT / f"{name}.png")
    return made
