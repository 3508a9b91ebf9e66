"""What happens in the demonstration, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hak2k.demo.monitor import Monitor
from hak2k.demo.show import NAMES, Group, Incident, Show, Step
from hak2k.lab import Lab, Node, Timeout, differences, until
from hak2k.lab.traffic import Stats, Traffic

# Flows that have been silent for longer than this have not recovered.
_SILENT_MS = 1000.0
# Messages per second over all TCP connections, so that a large number of them
# does not measure the machine instead of the firewalls.
_TCP_MESSAGES_PER_S = 3000


@dataclass(frozen=True)
class Options:
    """How the demonstration is to be.

    Attributes:
        connections: TCP connections, over all sorts.
        fast: shorter pauses to look at things.
    """

    connections: int = 240
    fast: bool = False

    @property
    def look_s(self) -> float:
        """How long the audience gets to look at a state of things."""
        return 1.5 if self.fast else 4.0


def make_groups(connections: int) -> list[Group]:
    """Divide TCP connections among the sorts, and add everything else."""
    interval = max(100.0, 1000.0 * connections / _TCP_MESSAGES_PER_S)
    shares = [
        ("TCP routed", "plain", 0.2),
        ("TCP masqueraded", "masq", 0.4),
        ("TCP published", "dnat", 0.2),
        ("TCP over IPv6", "plain6", 0.1),
    ]
    groups = [
        Group(f"{route}-tcp", label, route, "tcp", max(1, int(connections * share)), interval)
        for label, route, share in shares
    ]
    rest = connections - sum(group.count for group in groups)
    groups.append(Group("dnat6-tcp", "TCP IPv6 published", "dnat6", "tcp", max(1, rest), interval))
    groups += [
        Group("masq-udp", "UDP masqueraded", "masq", "udp", 8, 20),
        Group("plain6-udp", "UDP over IPv6", "plain6", "udp", 4, 20),
        Group("masq-icmp", "ping", "masq", "icmp", 2, 50),
        Group("plain6-icmp", "ping over IPv6", "plain6", "icmp", 2, 50),
        Group("bulk-bulk", "download", "bulk", "bulk", 1, 10),
    ]
    return groups


def event_time(event: dict[str, Any]) -> float | None:
    """The time of an event, in seconds on the clock of ``time.time``."""
    try:
        return datetime.fromisoformat(str(event["time"])).timestamp()
    except (KeyError, ValueError):
        return None


def first_event(events: list[dict[str, Any]], kind: str, after: float) -> dict[str, Any]:
    """The first event of ``kind`` after a time; an empty one if there is none."""
    for event in events:
        when = event_time(event)
        # Event times are cut to milliseconds.
        if event.get("id") == kind and when is not None and when >= after - 0.002:
            return event
    return {}


def number(value: object) -> float | None:
    """``value`` if it is a number."""
    return float(value) if isinstance(value, (int, float)) else None


class Story:
    """The demonstration itself.

    Args:
        options: how it is to be.
        show: filled as it goes on.
        told: called after each step begins and ends.
    """

    def __init__(self, options: Options, show: Show, told: Callable[[Step], None]) -> None:
        self._options = options
        self._show = show
        self._told = told

    def run(self) -> None:
        """Tell it from beginning to end; what goes wrong is in ``show.failure``."""
        try:
            self._run()
        except (OSError, RuntimeError, AssertionError) as error:
            self._show.failure = str(error) or type(error).__name__

    @contextmanager
    def _step(self, title: str) -> Iterator[Step]:
        step = Step(title, time.monotonic())
        with self._show.lock:
            self._show.steps.append(step)
        self._told(step)
        try:
            yield step
        except BaseException:
            step.result = "failed"
            raise
        finally:
            step.took = time.monotonic() - step.began
            self._told(step)

    def _run(self) -> None:
        with ExitStack() as stack:
            with self._step("build two firewalls, a client and a server"):
                lab = stack.enter_context(Lab())
                tap = self._tap = lab.tap
                for node, priority in ((lab.fw1, 50), (lab.fw2, 0)):
                    lab.write_config(node, cluster={"priority": priority})
            monitor = Monitor(lab, self._show)
            stack.callback(monitor.close)
            with self._step("start hak2kd on both") as step:
                self._boot(lab, monitor, lab.fw1)
                self._boot(lab, monitor, lab.fw2)
                active, passive = self._await_pair(lab)
                step.result = f"{NAMES[active.name]} active, {NAMES[passive.name]} passive, ready"
            total = sum(group.count for group in self._show.groups)
            with self._step(f"open {total} connections") as step:
                traffic = stack.enter_context(Traffic(lab))
                self._open(traffic)
                monitor.watch(traffic)
                traffic.wait_established(20)
                step.result = "all established"
            with self._step("wait until the passive holds them all") as step:
                step.result = self._await_copies(active, passive)
            tap.mute(passive.name)
            tap.reset()
            self._look()
            self._show.leaked += tap.count(passive.name, "out")
            self._check_flows(traffic, "before anything happened")

            self._aftermath(traffic, self._crash(lab, traffic, active, passive))
            self._bring_back(lab, monitor, active, passive)
            self._look(0.5)
            self._aftermath(traffic, self._planned_swap(lab, traffic, passive, active))
            self._back_to_rule(lab, active, passive)

            with self._step("finish the download, compare every byte") as step:
                traffic.finish()
                traffic.pause()
                monitor.take_stats(traffic)
                size = self._group("bulk-bulk").stats.bytes_verified / 1e6
                step.result = f"{size:.1f} MB intact"
            self._show.resets = max(self._show.resets, tap.resets())
            self._check_flows(traffic, "at the end")

    # -- steps -----------------------------------------------------------------

    def _group(self, key: str) -> Group:
        return next(group for group in self._show.groups if group.key == key)

    def _look(self, factor: float = 1.0) -> None:
        """Let the audience see the state of things."""
        time.sleep(self._options.look_s * factor)

    def _boot(self, lab: Lab, monitor: Monitor, node: Node) -> None:
        if not (Path(lab.daemons.bindir) / "hak2kd").exists():
            raise RuntimeError(f"there is no hak2kd in {lab.daemons.bindir}; run: make build")
        self._show.firewalls[node.name].mode = "starting"
        lab.start(node)
        monitor.follow(node.name)

    def _await_pair(self, lab: Lab) -> tuple[Node, Node]:
        lab.wait(lab.fw1, mode="active", timeout=15)
        lab.wait(lab.fw2, mode="passive", ready=True, timeout=15)
        self._show.firewalls["fw2"].ready = True
        return lab.fw1, lab.fw2

    def _open(self, traffic: Traffic) -> None:
        for group in self._show.groups:
            traffic.open(
                group.route,
                group.proto,
                group.count,
                kind=group.key,
                interval_ms=group.interval_ms,
                total=1 << 40,
                rate=2 << 20,
            )

    def _await_copies(self, active: Node, passive: Node) -> str:
        def missing() -> list[str]:
            return differences(active.conntrack(), passive.conntrack())

        until(
            lambda: not missing(),
            10,
            "the passive firewall's kernel holds what the active one's holds",
            interval=0.2,
            detail=lambda: "\n".join(missing()[:10]),
        )
        return f"{len(passive.conntrack())} entries, all fields equal"

    def _check_flows(self, traffic: Traffic, when: str) -> None:
        lost = traffic.lost()
        if lost:
            what = ", ".join(f"{kind}: {s.errors or 'dead'}" for kind, s in lost.items())
            raise RuntimeError(f"connections were lost {when}: {what}")

    def _aftermath(self, traffic: Traffic, incident: Incident) -> None:
        """Let things go on for a while, then book what the connections noticed."""
        with self._step("see what the connections noticed") as step:
            self._look()
            try:
                traffic.wait_flowing(10, _SILENT_MS)
            except Timeout:
                pass  # counted below
            stats = traffic.stats(_SILENT_MS)
            incident.resets = self._tap.resets()
            for group in self._show.groups:
                figures = stats[group.key]
                name = {"bulk": "download"}.get(group.proto, group.proto)
                living = figures.alive - figures.silent
                incident.flows[name] = incident.flows.get(name, 0) + figures.flows
                incident.survived[name] = incident.survived.get(name, 0) + living
                incident.gaps[group.label] = figures.window_gap_ms
            self._book(incident, stats)
            flows, living = sum(incident.flows.values()), sum(incident.survived.values())
            longest = max(incident.gaps.values())
            step.result = f"{living}/{flows} live, silence {longest:.0f} ms"
        if not incident.unharmed:
            raise RuntimeError(f"{incident.title}: {flows - living} of {flows} were lost")

    def _crash(self, lab: Lab, traffic: Traffic, active: Node, passive: Node) -> Incident:
        name = NAMES[active.name]
        incident = Incident(f"power cut of {name}")
        with self._step(f"cut the power of {name}") as step:
            lab.tap.reset()
            lab.tap.mute(passive.name, False)
            traffic.window()
            crash = lab.crash(active)
            self._show.firewalls[active.name].mode = "dead"
            lab.wait(passive, mode="active", timeout=10)
            events = lab.ctl(passive, "events")
            dead = first_event(events, "peer.dead", crash.wall)
            role = first_event(events, "role.active", crash.wall)
            noticed, swapped = event_time(dead), event_time(role)
            if noticed is not None:
                incident.detect_ms = round((noticed - crash.wall) * 1000, 1)
            else:
                incident.detect_ms = number(role.get("detect_ms"))
            total_us = number(role.get("total_us"))
            if total_us is not None:
                incident.swap_ms = round(total_us / 1000, 2)
            elif swapped is not None and noticed is not None:
                incident.swap_ms = round((swapped - noticed) * 1000, 1)
            incident.gate_us = number(role.get("gate_us"))
            step.result = f"{NAMES[passive.name]} took over"
            if swapped is not None:
                step.result += f" {(swapped - crash.wall) * 1000:.0f} ms later"
        return incident

    def _book(self, incident: Incident, stats: dict[str, Stats]) -> None:
        with self._show.lock:
            for group in self._show.groups:
                group.stats = stats[group.key]
                gap = incident.gaps[group.label]
                if incident.title.startswith("power"):
                    group.crash_gap_ms = gap
                else:
                    group.swap_gap_ms = gap
            self._show.incidents.append(incident)
            self._show.resets += incident.resets

    def _bring_back(self, lab: Lab, monitor: Monitor, dead: Node, alive: Node) -> None:
        name = NAMES[dead.name]
        with self._step(f"boot {name} again, with empty tables") as step:
            # The returning node is the preferred one; it shall not take over at once.
            lab.ctl(alive, "active", json=False)
            lab.revive(dead)
            self._boot(lab, monitor, dead)
            began = time.time()
            lab.wait(dead, mode="passive", ready=True, timeout=20)
            self._show.firewalls[dead.name].ready = True
            done = first_event(lab.ctl(dead, "events"), "sync.done", began - 5)
            copied = self._await_copies(alive, dead)
            took = number(done.get("ms"))
            step.result = copied if took is None else f"{copied}, copied in {took:.0f} ms"
        lab.tap.mute(dead.name)
        lab.tap.reset()

    def _planned_swap(self, lab: Lab, traffic: Traffic, active: Node, passive: Node) -> Incident:
        name = NAMES[active.name]
        incident = Incident(f"planned swap to {NAMES[passive.name]}")
        with self._step(f"hapassive on {name}: a planned swap") as step:
            self._show.leaked += lab.tap.count(passive.name, "out")
            lab.tap.mute(passive.name, False)
            lab.tap.reset()
            traffic.window()
            wall, began = time.time(), time.monotonic()
            lab.ctl(active, "passive", json=False)
            took = (time.monotonic() - began) * 1000
            lab.wait(passive, mode="active", timeout=10)
            role = first_event(lab.ctl(passive, "events"), "role.active", wall)
            done = first_event(lab.ctl(active, "events"), "handover.done", wall)
            incident.swap_ms = number(done.get("total_ms")) or round(took, 1)
            incident.gate_us = number(role.get("gate_us"))
            step.result = f"{NAMES[passive.name]} is active"
        return incident

    def _back_to_rule(self, lab: Lab, active: Node, passive: Node) -> None:
        with self._step(f"hareset on {NAMES[passive.name]}: back to the rule") as step:
            lab.ctl(passive, "reset", json=False)
            lab.wait(passive, mode="passive", ready=True, timeout=20)
            self._show.firewalls[passive.name].ready = True
            step.result = self._await_copies(active, passive)
            self._show.tables_equal = True
