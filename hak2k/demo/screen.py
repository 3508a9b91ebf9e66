"""How the demonstration looks: a live picture, or plain lines without a terminal."""

from __future__ import annotations

import sys
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hak2k.demo.show import Firewall, Incident, Show, Step

WIDTH = 80
_MODES = {
    "active": ("●", "bold green"),
    "passive": ("○", "cyan"),
    "starting": ("◌", "yellow"),
    "dead": ("✖", "bold red"),
    "off": ("·", "dim"),
}


def milliseconds(value: float | None) -> str:
    """A duration for a narrow column."""
    return "" if value is None else f"{value:.0f} ms"


def _firewall(node: Firewall) -> Text:
    mark, style = _MODES.get(node.mode, ("?", ""))
    line = Text()
    line.append(f" {mark} {node.label}  ", style)
    state = node.mode
    if node.mode == "passive":
        state = "passive, ready" if node.ready else "passive, syncing"
    line.append(f"{state:<18}", style)
    if node.mode == "dead":
        line.append("no power", "dim")
        return line
    line.append(f"{node.entries:>5} entries in its kernel")
    if node.larval:
        line.append(f", {node.larval} larval", "cyan")
    return line


def _steps(show: Show, lines: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=6, justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=WIDTH - 8)
    for step in show.steps[-lines:]:
        if step.took is None:
            table.add_row(Text("...", "yellow"), Text(step.title, "bold"))
            continue
        line = Text(step.title)
        if step.result:
            line.append(f": {step.result}", "red" if step.result == "failed" else "green")
        table.add_row(Text(f"{step.took:.1f} s", "dim"), line)
    return table


def _traffic(show: Show) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim", width=WIDTH)
    table.add_column("connections", no_wrap=True)
    for name in ("alive", "replies", "silent for", "power cut", "swap"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in show.groups:
        stats = group.stats
        if not stats.flows:
            continue
        whole = group.living == stats.flows
        alive = Text(f"{group.living}/{stats.flows}", "green" if whole else "bold red")
        replies = f"{stats.received:,}"
        if group.proto == "bulk":
            replies = f"{stats.bytes_verified / 1e6:.1f} MB"
        silence = stats.silence_ms
        style = "dim" if silence < 3 * group.interval_ms + 100 else "bold yellow"
        table.add_row(
            group.label,
            alive,
            replies,
            Text(milliseconds(silence), style),
            milliseconds(group.crash_gap_ms),
            milliseconds(group.swap_gap_ms),
        )
    return table


def _events(show: Show, lines: int) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for when, name, kind, message in list(show.events)[-lines:]:
        text.append(f"{when:6.2f} ", "dim")
        text.append(f"{name} ", "bold")
        text.append(kind, "magenta")
        text.append(f"  {message}\n")
    return text


def picture(show: Show, height: int) -> RenderableType:
    """The whole screen, for a terminal of ``height`` lines."""
    title = Text(" hak2k ", "bold reverse")
    title = Text.assemble(title, ("  two firewalls, one service".ljust(64), ""))
    title.append(f"{show.elapsed:6.1f} s", "dim")
    parts: list[RenderableType] = [title, Text()]
    with show.lock:
        flowing = any(group.stats.flows for group in show.groups)
        # Title, firewalls, blank lines and the traffic are always there.
        room = height - 7 - (len(show.groups) + 2 if flowing else 0)
        steps = min(len(show.steps), max(3, min(12, room)))
        parts += [_firewall(node) for node in show.firewalls.values()]
        parts += [Text(), _steps(show, steps), Text()]
        if flowing:
            parts += [_traffic(show), Text()]
        if room - steps > 1:
            parts.append(_events(show, min(6, room - steps - 1)))
    return Group(*parts)


def _incident_lines(incident: Incident) -> list[str]:
    lines = []
    times = []
    if incident.detect_ms is not None:
        times.append(f"noticed after {incident.detect_ms:.0f} ms")
    if incident.swap_ms is not None:
        times.append(f"swapped in {incident.swap_ms:.1f} ms")
    if incident.gate_us is not None:
        times.append(f"gate opened in {incident.gate_us:.0f} us")
    lines.append(", ".join(times) or "no times were told")
    survived = [
        f"{incident.survived[kind]} of {count} {kind}" for kind, count in incident.flows.items()
    ]
    lines.append(f"survived: {', '.join(survived)}")
    longest: dict[str, float] = {}
    for label, gap in incident.gaps.items():
        kind = label.split()[0]
        longest[kind] = max(longest.get(kind, 0.0), gap)
    gaps = [f"{kind} {gap:.0f} ms" for kind, gap in longest.items()]
    lines.append(f"longest silence: {', '.join(gaps)}; resets: {incident.resets}")
    return lines


def _intervals(show: Show) -> str:
    """How often replies come when nothing is wrong: no silence can be shorter."""
    usual: dict[str, float] = {}
    for group in show.groups:
        if group.proto != "bulk":
            usual.setdefault(group.label.split()[0], group.interval_ms)
    return ", ".join(f"{kind} {interval:.0f} ms" for kind, interval in usual.items())


def summary_lines(show: Show) -> list[str]:
    """What is left to say at the end."""
    lines: list[str] = []
    for incident in show.incidents:
        lines.append(f"{incident.title}:")
        lines += [f"  {line}" for line in _incident_lines(incident)]
    lines.append(f"between two replies, when all is well: {_intervals(show)}")
    lines.append(
        f"resets on the wire: {show.resets}; frames out of a passive firewall: {show.leaked}"
    )
    if show.failure:
        lines.append(f"FAILED: {show.failure}")
    elif show.success:
        lines.append("Nothing was lost.")
    else:
        lines.append("FAILED: something was lost, see above.")
    return lines


class LiveScreen:
    """A picture that is redrawn several times a second."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._console = Console(width=WIDTH)
        self._live = Live(
            get_renderable=lambda: picture(show, self._console.size.height),
            console=self._console,
            refresh_per_second=5,
            vertical_overflow="crop",
        )

    def told(self, step: Step) -> None:
        """Nothing to do: the next picture shows it."""

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._live.stop()
        style = "green" if self._show.success else "red"
        text = Text("\n".join(summary_lines(self._show)))
        self._console.print(Panel(text, border_style=style, width=WIDTH))


class PlainScreen:
    """A line per step."""

    def __init__(self, show: Show, stream: IO[str] = sys.stdout) -> None:
        self._show = show
        self._stream = stream

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def told(self, step: Step) -> None:
        """Print the beginning or the end of a step."""
        if step.took is None:
            self._print(f"{self._show.elapsed:6.1f} s  {step.title} ...")
        else:
            result = step.result or "done"
            self._print(f"{self._show.elapsed:6.1f} s    {result} ({step.took:.2f} s)")

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *unused: object) -> None:
        self._print("")
        for group in self._show.groups:
            stats = group.stats
            if not stats.flows:
                continue
            crash, swap = (milliseconds(g) for g in (group.crash_gap_ms, group.swap_gap_ms))
            self._print(
                f"{group.label:<20} {group.living:>4}/{stats.flows:<4} alive, longest silence:"
                f" power cut {crash or '-':>7}, swap {swap or '-':>7}"
            )
        self._print("")
        for line in summary_lines(self._show):
            self._print(line)
