"""Two daemons under traffic: what the tests in this folder drive and look at.

Nothing here asks a daemon what the kernel can tell: gates are read from nftables,
tables from ctnetlink, frames at the switch's ports.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hak2k.client import Client
from hak2k.lab import Entry, Lab, Node, Table, Timeout, differences, until
from hak2k.lab.netlink import (
    NETLINK_NETFILTER,
    Interrupted,
    NetlinkError,
    NetlinkSocket,
    parse_attrs,
    text,
)
from hak2k.lab.topology import OPT_OUT_MARK, SERVER4
from hak2k.lab.traffic import PLAIN_PORT, Traffic

_GETSETELEM = 10 << 8 | 13
_NETDEV = 5
# What no natural timeout reaches: a larva's is days above it.
LARVAL_S = 6 * 86400

# Route, protocol, how many: each way through the ruleset, for both families.
MIX = (
    *((route, "tcp", 3) for route in ("plain", "masq", "snat", "dnat", "zone", "mark", "label")),
    *((route, "tcp", 2) for route in ("plain6", "snat6", "dnat6")),
    *((route, "udp", 2) for route in ("plain", "masq", "snat", "plain6")),
    *((route, "icmp", 1) for route in ("plain", "plain6")),
)


class Gate:
    """A node's gate as its kernel has it; independent of the product's code."""

    def __init__(self, node: Node) -> None:
        self._socket = node.call(NetlinkSocket, NETLINK_NETFILTER)

    def state(self) -> str:
        """``open``, ``closed`` or ``missing``."""
        body = struct.pack("=BBH", _NETDEV, 0, 0) + text(1, "hak2k") + text(2, "open")
        while True:
            try:
                answers = self._socket.dump(_GETSETELEM, body)
            except Interrupted:
                continue  # the set changed meanwhile
            except NetlinkError:
                return "missing"
            # An empty list stands in the answer for an empty set.
            elements = [parse_attrs(m.body[4:]).get(3, b"") for m in answers]
            return "open" if any(elements) else "closed"

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GateWatch:
    """Samples both gates, thousands of times a second, until the block ends.

    Attributes:
        samples: how often so far.
        both: samples in which both were open, as (seconds, text).
        history: each change as (seconds, fw1's gate, fw2's gate).
    """

    def __init__(self, lab: Lab) -> None:
        self._gates = [Gate(node) for node in lab.fw]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples = 0
        self.both: list[tuple[float, str]] = []
        self.history: list[tuple[float, str, str]] = []

    def __enter__(self) -> GateWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for gate in self._gates:
            gate.close()

    def _run(self) -> None:
        one, two = self._gates
        while not self._stop.wait(0.0005):
            first, second = one.state(), two.state()
            # Two questions cannot be asked at the same time: fw1's gate counts as
            # open while fw2's was looked at if it was so before and after.
            if first == second == "open" and one.state() == "open":
                self.both.append((time.monotonic(), f"after {self.samples} samples"))
            if not self.history or self.history[-1][1:] != (first, second):
                self.history.append((time.monotonic(), first, second))
            self.samples += 1

    def more(self, count: int = 100, timeout: float = 10.0) -> None:
        """Return after ``count`` more samples."""
        goal = self.samples + count
        until(lambda: self.samples >= goal, timeout, "more samples of the gates")

    def never_both(self) -> None:
        assert self.samples > 0
        assert not self.both, f"both gates were open: {self.both[:5]}\n{self.history}"

    def handed_over(self) -> None:
        """Both gates were open only while one node handed over to the other."""
        assert self.samples > 0
        states = [change[1:] for change in self.history]
        for before, now, after in zip(states, states[1:], states[2:], strict=False):
            if now == ("open", "open"):
                assert after == before[::-1], self.history
        assert states[-1] != ("open", "open"), self.history


class Duo:
    """A lab with two daemons of equal priority.

    Args:
        traffic: open the usual connections when both daemons are ready.
        priorities: of fw1 and fw2.
        common: more settings of both.
        **options: of the lab.
    """

    def __init__(
        self,
        *,
        traffic: bool = True,
        priorities: tuple[int, int] = (0, 0),
        common: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.lab = Lab(**options)
        self.lab.daemons.common = {**self.lab.daemons.common, **(common or {})}
        self.priorities = priorities
        self.traffic: Traffic | None = None
        self._invalid: dict[str, int] = {}
        try:
            self.configure()
            self.lab.start("fw1")
            self.lab.start("fw2")
            self.ready()
            if traffic:
                self.traffic = Traffic(self.lab)
                for route, proto, count in MIX:
                    self.traffic.open(route, proto, count)
                self.traffic.wait_established()
            self.mark()
        except BaseException:
            self.close()
            raise

    def configure(self, **overrides: Any) -> None:
        """Write both configurations anew."""
        for node, priority in zip(self.lab.fw, self.priorities, strict=True):
            cluster = {"priority": priority, **overrides.get("cluster", {})}
            self.lab.write_config(node, **{**overrides, "cluster": cluster})

    def close(self) -> None:
        # The lab ends its children; asking the traffic for a pause would take longer.
        self.lab.close()

    # -- what the daemons say ----------------------------------------------------

    def ask(self, fw: Node, command: str, **args: Any) -> Any:
        """A command, without a process for it."""
        with Client(str(self.lab.daemons[fw].control_socket), 30.0) as client:
            return client.call(command, **args)

    def mode(self, fw: Node) -> str:
        return str(self.ask(fw, "mode")["mode"])

    def modes(self) -> tuple[str, str]:
        return self.mode(self.lab.fw1), self.mode(self.lab.fw2)

    @property
    def active(self) -> Node:
        """The one that says that it is active.

        A command that swaps returns when the new node has the role; the other one still
        says so itself for some milliseconds, behind a gate that is closed.
        """

        def found() -> list[Node] | None:
            says = [fw for fw in self.lab.fw if self.mode(fw) == "active"]
            return says if len(says) == 1 else None

        one = until(found, 2, "one active node", detail=self.modes)
        assert one is not None
        return one[0]

    @property
    def passive(self) -> Node:
        return self.lab.other(self.active)

    def events(self, fw: Node, after: int = 0) -> list[dict[str, Any]]:
        """The event log from a position (see ``position``)."""
        return list(self.ask(fw, "events"))[after:]

    def ids(self, fw: Node, after: int = 0) -> list[str]:
        return [event["id"] for event in self.events(fw, after)]

    def position(self, fw: Node) -> int:
        """Where the event log stands."""
        return len(self.events(fw))

    def wait_event(
        self, fw: Node, id: str, after: int = 0, timeout: float = 10.0
    ) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((e for e in self.events(fw, after) if e["id"] == id), None)

        event = until(found, timeout, f"event {id} on {fw.name}", detail=lambda: self.ids(fw))
        assert event is not None
        return event

    def wait_mode(self, fw: Node, mode: str, timeout: float = 10.0) -> float:
        """Wait for it; seconds on ``time.monotonic`` when it was seen."""
        until(lambda: self.mode(fw) == mode, timeout, f"{fw.name} is {mode}", interval=0.002)
        return time.monotonic()

    def ready(self, timeout: float = 20.0) -> None:
        """Wait until one node is active and the other passive and ready."""

        def good() -> bool:
            locals_ = [self.ask(fw, "info")["local"] for fw in self.lab.fw]
            said = sorted((one["mode"], one["state"]) for one in locals_)
            return said == [("active", "running"), ("passive", "ready")]

        until(good, timeout, "one active, one ready", interval=0.02, detail=self.report)

    # -- what the kernels say ----------------------------------------------------

    def gate(self, fw: Node) -> str:
        with Gate(fw) as gate:
            return gate.state()

    def gates(self) -> None:
        """The gates agree with the modes."""
        assert self.gate(self.active) == "open"
        assert self.gate(self.passive) == "closed"

    def table(self, fw: Node, where: Callable[[Entry], bool] = lambda e: True) -> Table:
        """What of a table is replicated."""
        return fw.conntrack(lambda e: not e.mark & OPT_OUT_MARK and where(e))

    def equal(
        self, timeout: float = 10.0, where: Callable[[Entry], bool] = lambda e: True
    ) -> Table:
        """Wait until both tables are equal and the passive's entries are larvae."""
        active, passive = self.active, self.passive
        last: Table = {}

        def faults() -> list[str]:
            nonlocal last
            last = self.table(active, where)
            copy = self.table(passive, where)
            found = differences(last, copy)
            found += [
                f"no larva: {e.orig}: {e.timeout} s" for e in copy.values() if e.timeout < LARVAL_S
            ]
            return found

        def detail() -> str:
            found = faults()
            return "\n".join(
                [f"left: {active.name} (active)", *found[:20], f"({len(found)})", self.report()]
            )

        until(lambda: not faults(), timeout, "equal tables", interval=0.05, detail=detail)
        return last

    # -- traffic -----------------------------------------------------------------

    def mark(self) -> None:
        """What is counted from here on: resets, invalid packets, gaps."""
        self.lab.tap.reset()
        self._invalid = {fw.name: self._invalid_now(fw) for fw in self.lab.fw}
        if self.traffic is not None:
            self.traffic.window()

    def _invalid_now(self, fw: Node) -> int:
        return fw.counters()["invalid"]

    def invalid(self, fw: Node) -> int:
        """Packets that a firewall found invalid since the mark (or its boot)."""
        now, before = self._invalid_now(fw), self._invalid[fw.name]
        return now - before if now >= before else now

    def progress(self, messages: int = 3, timeout: float = 15.0) -> None:
        """Wait until every kind of flow got as many more replies per flow, and none
        of them is silent: they all go on."""
        assert self.traffic is not None
        before = self.traffic.stats()

        def behind() -> dict[str, int]:
            now = self.traffic.stats() if self.traffic else {}
            missing = {
                k: before[k].received + messages * s.flows - s.received for k, s in now.items()
            }
            return {k: n for k, n in missing.items() if n > 0 or now[k].silence_ms > 500}

        until(lambda: not behind(), timeout, "replies on every flow", interval=0.05, detail=behind)

    def unharmed(self, *survivors: Node, gap_ms: float | None = None) -> None:
        """Every connection goes on, nobody was reset, nothing was invalid."""
        assert self.traffic is not None
        self.progress()
        assert self.traffic.lost() == {}
        assert self.lab.tap.resets() == 0, self.lab.tap.report()
        for fw in survivors:
            assert self.invalid(fw) == 0, fw.name
        if gap_ms is not None:
            # What a TCP sender adds by its own patience is none of the daemons'.
            gaps = {k: s.window_gap_ms for k, s in self.traffic.stats().items()}
            assert max(gaps.values()) < gap_ms, gaps

    # -- healing -----------------------------------------------------------------

    def heal(self) -> None:
        """Both daemons run, nothing is forced, both are ready: a test may begin."""
        for fw in self.lab.fw:
            if not self.lab.daemons[fw].running:
                self.lab.start(fw)
        for fw in self.lab.fw:
            if self.ask(fw, "info")["local"]["forced"] != "no":
                self.ask(fw, "reset")
        self.ready()
        self.mark()

    def report(self) -> str:
        lines = []
        for fw in self.lab.fw:
            try:
                info = self.ask(fw, "info")
                stats = {k: v for k, v in self.ask(fw, "stats").items() if v}
                lines += [f"{fw.name}: {info['local']}", f"  {info['stream']}", f"  {stats}"]
                lines += [f"  {event}" for event in self.events(fw)[-15:]]
            except Exception as error:
                lines.append(f"{fw.name}: {error}")
        return "\n".join(lines)


class Churn:
    """Short TCP connections through the firewalls, one after the other; their
    entries end soon after them."""

    def __init__(self, lab: Lab) -> None:
        for fw in lab.fw:
            fw.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait=2")
        self._lab, self._target = lab, (SERVER4, PLAIN_PORT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.done = 0
        self.failed: list[str] = []

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        # A pause: what is tested is not how fast this can be.
        while not self._stop.wait(0.01):
            with self._lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
                try:
                    self._one(s)
                except (OSError, AssertionError) as error:
                    self.failed.append(repr(error))
            self.done += 1

    def _one(self, s: socket.socket) -> None:
        """A question and its answer; who hears nothing asks again.

        What begins between the death of the active node's daemon and its peer's
        taking over is known to no other kernel.  Is it then the server's turn, the new
        node sees a stranger from outside and drops it, until the client has spoken.
        """
        s.settimeout(5)
        s.connect(self._target)
        s.settimeout(1)
        for _ in range(5):
            s.sendall(b"short")
            try:
                got = s.recv(64)
            except TimeoutError:
                continue
            assert got, "closed"
            assert got == b"short" * (len(got) // 5), got
            return
        raise TimeoutError("asked five times, no answer")

    def more(self, count: int, timeout: float = 20.0) -> None:
        goal = self.done + count
        until(lambda: self.done >= goal, timeout, f"{count} more short connections")


def rss(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)
    assert match is not None
    return int(match.group(1)) * 1024


@contextmanager
def frozen(duo: Duo, fw: Node) -> Iterator[None]:
    """The daemon does not run for the length of the block."""
    duo.lab.daemons.hang(fw)
    try:
        yield
    finally:
        duo.lab.daemons.unhang(fw)


__all__ = ["MIX", "Churn", "Duo", "Gate", "GateWatch", "Timeout", "frozen", "rss"]
