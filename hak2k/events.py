"""The event log: what happened, under identifiers that never change.

Monitoring systems match on `id`; the text may be improved at any time.  CATALOG
is the reference: documentation and tests are made from it, and an event that is
not in it cannot be logged.

    {"time": "2026-01-31T12:00:00.123Z", "id": "peer.dead", "severity": "warning",
     "message": "peer FW-B is silent", "silent_ms": 203}

A ring in memory: the newest `size` events.  The daemon also writes each to its
standard error, where journald keeps them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TextIO

SEVERITIES: Final = ("debug", "info", "warning", "error")
SYSLOG: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}


class Entry(NamedTuple):
    severity: str
    meaning: str
    remedy: str  # empty: nothing to do


CATALOG: Final[dict[str, Entry]] = {
    "daemon.start": Entry("info", "hak2kd runs", ""),
    "daemon.stop": Entry("info", "hak2kd ends", ""),
    "daemon.error": Entry("error", "an internal fault was caught", "report it with the message"),
    "config.warning": Entry(
        "warning", "the configuration promises more than this version does", "see text"
    ),
    "config.reloaded": Entry("info", "the configuration was read again", ""),
    "config.refused": Entry(
        "error", "the new configuration is not used", "correct it, or restart hak2kd"
    ),
    "sysctl.set": Entry("info", "a kernel setting was changed, as hak2k needs it", ""),
    "sysctl.failed": Entry(
        "warning", "a kernel setting cannot be changed", "set it as the text says"
    ),
    "peer.up": Entry("info", "heartbeats of the peer arrive", ""),
    "peer.dead": Entry(
        "warning",
        "silence on every link for dead_after_ms",
        "look at the peer and at the HA links",
    ),
    "peer.absent": Entry(
        "warning",
        "this node waited for its peer at its start, heard nothing, and goes on alone",
        "start the peer; if it runs, look at the HA links and at psk_file",
    ),
    "stream.cut": Entry(
        "warning",
        "taken over from a dead peer: what it may not have told before, by the most that it "
        "told per second lately; `changes`, `ms`, and `datagrams` that were known to be missing",
        "clients of connections that were new just then connect again",
    ),
    "peer.process": Entry(
        "warning",
        "the silent peer's machine answers pings: its hak2kd ended, or hangs",
        "look at the journal of hak2kd there; start it",
    ),
    "peer.machine": Entry(
        "warning",
        "the silent peer's machine answers no ping either: it is down, or all links to it are",
        "look at the machine, then at the HA links",
    ),
    "peer.bye": Entry("info", "the peer ended in an orderly way", ""),
    "peer.status": Entry("debug", "the peer's status changed", ""),
    "peer.conflict": Entry(
        "error", "the peer bears our own serial", "set node.serial of one of them"
    ),
    "session.up": Entry("info", "the two nodes agreed on keys", ""),
    "session.rekeyed": Entry(
        "info", "the session goes on under another pre-shared key; nothing was lost", ""
    ),
    "key.waiting": Entry(
        "warning",
        "the peer does not take the first key of psk_file; the session stands",
        "compare psk_file on both nodes, reload both; do not restart either before",
    ),
    "hello.refused": Entry(
        "warning",
        "a handshake was refused",
        "compare psk_file, cluster.id, stream.encrypt and the versions of both",
    ),
    "policy.differs": Entry(
        "warning",
        "the two nodes replicate different connections",
        "make [stream] the same on both: protocols, exclude_mark, exclude_local, "
        "exclude_networks, min_duration_s",
    ),
    "link.up": Entry("info", "an HA link works", ""),
    "link.down": Entry(
        "warning",
        "an HA link is silent, or its interface is down or has no carrier on either node",
        "look at cable and switch",
    ),
    "link.deaf": Entry(
        "error",
        "all HA links are administratively down on this node, or gone: it hears nobody by "
        "its own doing, and does not take over while it is passive",
        "set one up again: ip link set NAME up",
    ),
    "interface.up": Entry("info", "a data interface works", ""),
    "interface.down": Entry(
        "warning", "a data interface is down or lost its carrier", "look at the cable"
    ),
    "interface.bounced": Entry(
        "info", "the interfaces of a node that stepped down went down and up again", ""
    ),
    "address.corrected": Entry(
        "warning",
        'an address that moves (address_mode = "move") was here or missing against this '
        "node's role, and was put right",
        "let hak2k alone add and remove it; after a crash of the daemon it is expected",
    ),
    "address.failed": Entry(
        "error",
        "an address or a route could not be set or removed",
        "see the text; set it by hand",
    ),
    "interface.lost": Entry("error", "a data interface does not exist any more", "create it again"),
    "health.failed": Entry(
        "warning",
        "a component of [[health]] fails and costs its weight in quality",
        "see the text; `hainfo -v` has all of them",
    ),
    "health.recovered": Entry("info", "a component is good again", ""),
    "health.absent": Entry("info", "a component is not there any more; this costs nothing", ""),
    "health.present": Entry("info", "a component is there again", ""),
    "health.sampler": Entry(
        "error",
        "the process that checks health ended or cannot be started; it is tried again",
        "see the text; look for what ended it (out of memory?)",
    ),
    "member.up": Entry("info", "a member of an aggregate works", ""),
    "member.down": Entry(
        "warning",
        "a member of an aggregate does not work, or left it; it costs quality only with "
        "members = true",
        "look at its cable, and at LACP on the switch",
    ),
    "quality.changed": Entry("info", "the quality factor changed", ""),
    "priority.changed": Entry("info", "the priority changed", ""),
    "force.set": Entry("info", "an operator forced a state, or lifted it", ""),
    "force.tie": Entry(
        "warning",
        "both nodes are forced alike, so it decides nothing",
        "lift one of them: hareset",
    ),
    "recorder.failed": Entry(
        "warning",
        "the flight recorder's file cannot be written; hawhy knows this run only",
        "make room, or name another file: log.recorder",
    ),
    "freeze.set": Entry("info", "quality and priority decide nothing for a while", ""),
    "freeze.end": Entry("info", "quality and priority count again", ""),
    "flap.hold": Entry(
        "warning",
        "the role changed hands flap_count times within flap_window_s and nobody asked for it: "
        "it is kept for flap_hold_s; death, forced states and two actives still move it",
        "find what changes back and forth: `hawhy 1`, `hawhy 2`, `hainfo -v`; give it less "
        "weight, or a larger recover_after",
    ),
    "flap.end": Entry("info", "quality and priority may move the role again", ""),
    "role.active": Entry("info", "this node is active", ""),
    "role.passive": Entry("info", "this node is passive", ""),
    "role.refused": Entry(
        "error", "this node could not take the role", "see the text; free what it needs"
    ),
    "role.unproven": Entry(
        "warning",
        "this node became active before its table was complete",
        "some connections may have to be opened again",
    ),
    "split.resolved": Entry(
        "warning", "both nodes were active; one is now", "find out why they lost sight"
    ),
    "split.offered": Entry(
        "info",
        "connections that began on this node during a split were offered to the node that "
        "stays active: how many it took, and refused as they were in the way of its own",
        "",
    ),
    "handover.start": Entry("info", "the role is being given to the peer", ""),
    "handover.armed": Entry("info", "the gate is open, and the peer is about to hand over", ""),
    "handover.unarmed": Entry(
        "warning", "the gate was not opened before the peer's is closed", "see the text"
    ),
    "handover.disarmed": Entry(
        "warning", "the peer did not hand over; the gate is closed again", "look at its events"
    ),
    "handover.done": Entry("info", "the peer has all records and the role", ""),
    "handover.failed": Entry(
        "warning", "the peer did not acknowledge; nothing changed", "look at the links"
    ),
    "sync.start": Entry("info", "the two tables are being compared", ""),
    "sync.done": Entry("info", "this node's table equals the active's: it is ready", ""),
    "sync.sent": Entry("info", "a full copy was sent to the peer", ""),
    "recon.repaired": Entry(
        "warning",
        "the passive node's table differed from the active's, and was repaired",
        "find out who changed it (conntrack -D, -F, another tool); else report it",
    ),
    "recon.stuck": Entry(
        "error",
        "the tables differ and repairing does not help: this node is not ready",
        "compare the kernels: helpers, nf_conntrack_max, modules; see the example",
    ),
    "overrun": Entry(
        "warning",
        "this kernel lost conntrack events; a comparison repairs it",
        "raise net.core.rmem_max if it happens often",
    ),
    "stream.lost": Entry(
        "warning", "the stream has a gap; a comparison repairs it", "look at the HA links"
    ),
    "stream.pressure": Entry(
        "warning",
        "the stream cannot keep up: young connections without NAT wait, a crash loses them; "
        "level 1: name lookups, NTP and pings, 2: all",
        "cause stream: look at the HA links and the peer's CPU; events: at this node's CPU; "
        "table: raise nf_conntrack_max on the peer",
    ),
    "stream.relieved": Entry("info", "the stream keeps up better; fewer wait, or none", ""),
    "table.disturbed": Entry(
        "warning",
        "entries of this passive node went without the active one's doing; a comparison "
        "brings them back",
        "find out who ran conntrack -F or -D here",
    ),
    "table.full": Entry(
        "error",
        "this node's conntrack table has no room for the peer's entries",
        "raise nf_conntrack_max here to the peer's value or more",
    ),
    "table.smaller": Entry(
        "warning",
        "the peer's nf_conntrack_max is below this node's: it could not hold all connections",
        "set net.netfilter.nf_conntrack_max alike on both nodes, and nf_conntrack_buckets "
        "(/sys/module/nf_conntrack/parameters/hashsize) with it",
    ),
    "apply.error": Entry(
        "warning", "the kernel refused an entry", "compare the kernels; report it"
    ),
    "slip": Entry(
        "warning",
        "this node's own timer was late; the peer is not accused",
        "give the machine more time; look for what stalls it",
    ),
    "masquerade.trapped": Entry(
        "warning",
        "a device or address of this active node went, and with it the connections "
        "masqueraded to it; the peer keeps its copies of them",
        "let the peer take over; use hapassive before such work",
    ),
    "sweep.done": Entry("info", "taken-over entries have natural timeouts again", ""),
    "lease.lapsed": Entry(
        "error",
        "this active node did not run in time, so the kernel closed its gate before the "
        "standby could take over; it stays closed until the standby has answered",
        "give the machine more time; look for what stalls it; raise dead_after_ms",
    ),
    "lease.regained": Entry("info", "the standby did not take over; the gate is open again", ""),
    "lease.unavailable": Entry(
        "warning",
        "liveness.lease is set, but this kernel or these privileges do not allow it: "
        "a hung active node is not fenced",
        "start hak2kd with CAP_BPF on a kernel with cls_bpf, or set lease = false",
    ),
    "probe.unavailable": Entry(
        "info",
        "this kernel or these privileges do not allow eBPF programs in the packets' way: "
        "events come by netlink, which costs the firewall more",
        "start hak2kd with CAP_BPF and CAP_PERFMON on Linux 6.4 or newer, or set "
        'capture = "netlink"',
    ),
    "gate.missing": Entry(
        "error",
        "the gate's nftables table was gone; it was made again",
        "do not use `flush ruleset`: flush your own tables",
    ),
    "gate.failed": Entry("error", "the gate cannot be made again", "see the text; restart hak2kd"),
}


def rfc3339(when: float) -> str:
    """Unix time in seconds as RFC 3339 in UTC with milliseconds."""
    stamp = datetime.fromtimestamp(when, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{stamp.microsecond // 1000:03d}Z"


def as_text(event: dict[str, Any]) -> str:
    """One line: identifier, message, the other fields as key=value."""
    fixed = ("time", "id", "severity", "message")
    rest = "".join(f" {k}={_short(v)}" for k, v in event.items() if k not in fixed)
    return f"{event['id']}: {event['message']}{rest}"


def _short(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value) if " " in value or not value else value
    return json.dumps(value)


def _is_journal(stream: TextIO) -> bool:
    """Whether journald reads it.  JOURNAL_STREAM alone does not tell: it is inherited by
    processes whose output goes elsewhere (systemd.exec(5))."""
    try:
        info = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


class StderrSink:
    """Writes events to standard error.

    text: with syslog's <N> in front if journald reads it, else
    with the time.  json: one object per line.
    """

    def __init__(self, style: str = "text", stream: TextIO | None = None) -> None:
        self.style = style
        self.stream = stream if stream is not None else sys.stderr
        self.journald = _is_journal(self.stream)

    def __call__(self, event: dict[str, Any]) -> None:
        if self.style == "json":
            line = json.dumps(event)
        elif self.journald:
            line = f"<{SYSLOG[event['severity']]}>{as_text(event)}"
        else:
            line = f"{event['time']} {event['severity']:7} {as_text(event)}"
        try:
            self.stream.write(line + "\n")
            self.stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads the log any more: no reason to stop forwarding


class EventLog:
    """The ring, its readers and its sink.

    size: how many events are kept.
    level: the least severity that reaches the sink; the ring keeps all.
    """

    def __init__(
        self,
        size: int = 2000,
        sink: Callable[[dict[str, Any]], None] | None = None,
        level: str = "info",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring: deque[dict[str, Any]] = deque(maxlen=size)
        self._readers: set[asyncio.Queue[dict[str, Any]]] = set()
        self._sink = sink
        self._clock = clock
        self._watchers: list[Callable[[dict[str, Any]], None]] = []
        self.level = level

    def emit(self, id: str, message: str, **fields: Any) -> dict[str, Any]:
        """Log one event.  Raises KeyError for an id that CATALOG does not have."""
        severity = CATALOG[id].severity
        event = {
            "time": rfc3339(self._clock()),
            "id": id,
            "severity": severity,
            "message": message,
            **fields,
        }
        if severity != "debug":
            self._ring.append(event)
        if self._sink is not None and self._loud(severity):
            self._sink(event)
        for tell in self._watchers:
            tell(event)
        for reader in self._readers:
            try:
                reader.put_nowait(event)
            except asyncio.QueueFull:
                pass  # a reader that does not read must not fill our memory
        return event

    def watch(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """Call `tell` with each event from now on, whatever its severity."""
        self._watchers.append(tell)

    def _loud(self, severity: str) -> bool:
        return SEVERITIES.index(severity) >= SEVERITIES.index(self.level)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events kept, newest last."""
        return iter(list(self._ring))

    @contextmanager
    def reader(self, size: int = 1000) -> Iterator[asyncio.Queue[dict[str, Any]]]:
        """A queue that gets every event from now on, until the block ends."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(size)
        self._readers.add(queue)
        try:
            yield queue
        finally:
            self._readers.discard(queue)
