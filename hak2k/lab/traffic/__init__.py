"""Long-lived connections through the lab, and what became of each of them.

::

    with Traffic(lab) as traffic:
        traffic.open("masq", "tcp", 100)
        traffic.wait_established()
        ...
        assert traffic.lost() == {}

Each side of the conversations is one process, which several hundred connections
share.  A *kind* is a name under which flows are opened and counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from hak2k.lab import topology
from hak2k.lab.poll import Timeout, until

if TYPE_CHECKING:
    from hak2k.lab.lab import Lab
    from hak2k.lab.node import Node

# Services, on both sides where it matters.
PLAIN_PORT = topology.PLAIN_PORTS[0]
MASQ_PORT = 5000
BULK_PORT = 5001


class TrafficError(RuntimeError):
    """A traffic process refused a command, or died."""


@dataclass(frozen=True)
class Route:
    """How one kind of conversation runs through the firewalls."""

    side: str  # who opens it
    host: str
    port: int
    source: str | None = None


# Name -> who opens it, and where it goes.
ROUTES = {
    "plain": Route("client", topology.SERVER4, PLAIN_PORT),
    "masq": Route("client", topology.SERVER4, MASQ_PORT),
    "snat": Route("client", topology.SERVER4, MASQ_PORT, topology.SNAT_CLIENT4),
    "dnat": Route("server", topology.WAN4, topology.DNAT_PORT),
    "plain6": Route("client", topology.SERVER6, PLAIN_PORT),
    "snat6": Route("client", topology.SERVER6, MASQ_PORT, topology.SNAT_CLIENT6),
    "dnat6": Route("server", topology.WAN6, topology.DNAT_PORT),
    "zone": Route("client", topology.SERVER4, PLAIN_PORT, topology.ZONE_CLIENT4),
    "mark": Route("client", topology.SERVER4, topology.MARK_PORT),
    "label": Route("client", topology.SERVER4, topology.LABEL_PORT),
    "optout": Route("client", topology.SERVER4, topology.OPT_OUT_PORT),
    "bulk": Route("client", topology.SERVER4, BULK_PORT),
}


@dataclass
class Stats:
    """The figures of one kind of flow, over all of them; times in ms.

    ``silent`` counts the living flows that have had no reply for longer than what
    was asked for (a second); ``longest_gap_ms`` is since the flows began, and
    ``window_gap_ms`` since the last ``window``.
    """

    proto: str = ""
    flows: int = 0
    established: int = 0
    alive: int = 0
    silent: int = 0
    done: int = 0
    sent: int = 0
    received: int = 0
    bytes_verified: int = 0
    longest_gap_ms: float = 0.0
    window_gap_ms: float = 0.0
    silence_ms: float = 0.0
    resets: int = 0
    errors: dict[str, int] = field(default_factory=dict)


class Endpoint:
    """The traffic process of one side.

    Args:
        node: where it runs.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._lock = threading.Lock()
        self._process = node.popen(
            sys.executable,
            "-m",
            "hak2k.lab.traffic",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[str] = self._process.stdin
        self._output: IO[str] = self._process.stdout

    def command(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have a command obeyed and return the answer.

        Raises:
            TrafficError: refused, or the process is dead.
        """
        with self._lock:
            try:
                self._input.write(json.dumps({"do": do, **arguments}) + "\n")
                self._input.flush()
                line = self._output.readline()
            except (BrokenPipeError, ValueError):
                line = ""
        if not line:
            raise TrafficError(f"the traffic process of {self.node.name} is dead")
        answer = dict(json.loads(line))
        if not answer.pop("ok"):
            raise TrafficError(f"{self.node.name}: {do}: {answer['error']}")
        return answer

    def listen(self, proto: str, port: int, host: str = "::") -> None:
        """Serve ``tcp`` or ``udp`` echo, or ``bulk``, on a port."""
        self.command("listen", proto=proto, port=port, host=host)

    def open(self, kind: str, proto: str, host: str, port: int = 0, **options: Any) -> None:
        """Open flows; ``options`` as for ``Traffic.open``."""
        self.command("open", kind=kind, proto=proto, host=host, port=port, **options)

    def stats(self, silent_ms: float = 1000.0) -> dict[str, Stats]:
        """Figures by kind."""
        kinds = self.command("stats", silent_ms=silent_ms)["kinds"]
        return {kind: Stats(**figures) for kind, figures in kinds.items()}

    def close(self) -> dict[str, Any]:
        """End the process; return its last report ({} if it was dead)."""
        report: dict[str, Any] = {}
        if self._process.returncode is None:
            try:
                report = self.command("quit")
            except TrafficError:
                self._process.kill()
            self._process.wait()
        try:
            self._input.close()
        except BrokenPipeError:
            pass  # a command that the dead process never read
        self._output.close()
        return report


class Traffic:
    """Both sides of the conversations through a lab, with the usual services.

    Args:
        lab: where to run; the services listen when the constructor returns.
    """

    def __init__(self, lab: Lab) -> None:
        self.client = Endpoint(lab.client)
        self.server = Endpoint(lab.server)
        for port in (
            PLAIN_PORT,
            MASQ_PORT,
            topology.MARK_PORT,
            topology.LABEL_PORT,
            topology.OPT_OUT_PORT,
        ):
            self.server.listen("tcp", port)
            # One address per socket: the reply must come from the address asked.
            self.server.listen("udp", port, topology.SERVER4)
            self.server.listen("udp", port, topology.SERVER6)
        self.server.listen("bulk", BULK_PORT)
        self.client.listen("tcp", topology.DNAT_TARGET_PORT)
        self._closed = False

    def __enter__(self) -> Traffic:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(
        self,
        route: str,
        proto: str = "tcp",
        count: int = 1,
        *,
        kind: str | None = None,
        interval_ms: float = 100.0,
        size: int = 64,
        total: int = 1 << 24,
        rate: int = 1 << 22,
    ) -> str:
        """Open flows; return the name of their kind.

        Args:
            route: one of ``ROUTES``.
            proto: ``tcp``, ``udp``, ``icmp`` or ``bulk`` (a TCP download).
            count: how many flows.
            kind: the name to count them under; ``route-proto`` by default.
            interval_ms: between two messages of one flow.
            size: bytes per message.
            total: bytes of a download.
            rate: bytes per second of a download.

        Raises:
            KeyError: no such route.
            TrafficError: refused.
        """
        way = ROUTES[route]
        name = kind or f"{route}-{proto}"
        side = self.client if way.side == "client" else self.server
        options: dict[str, Any] = {"count": count, "interval_ms": interval_ms, "size": size}
        if way.source and proto in ("tcp", "udp"):
            options["source"] = way.source
        if proto == "bulk":
            options.update(total=total, rate=rate)
        side.open(name, proto, way.host, way.port, **options)
        return name

    def stats(self, silent_ms: float = 1000.0) -> dict[str, Stats]:
        """Live figures by kind.

        Args:
            silent_ms: from what silence on a flow counts as silent.
        """
        return {**self.server.stats(silent_ms), **self.client.stats(silent_ms)}

    def window(self) -> None:
        """Start the ``window_gap_ms`` figures anew, to measure one incident."""
        for side in (self.client, self.server):
            side.command("window")

    def wait_established(self, timeout: float = 10.0) -> dict[str, Stats]:
        """Wait until every flow got its first reply; return the figures.

        Raises:
            Timeout: with the figures.
        """

        def all_established() -> bool:
            return all(s.established == s.flows for s in self.stats().values())

        until(
            all_established,
            timeout,
            "every flow is established",
            interval=0.05,
            detail=lambda: {k: (s.established, s.flows) for k, s in self.stats().items()},
        )
        return self.stats()

    def wait_flowing(self, timeout: float = 10.0, silence_ms: float = 500.0) -> dict[str, Stats]:
        """Wait until no living flow has been silent for more than ``silence_ms``.

        Raises:
            Timeout: with the silences.
        """

        def flowing() -> bool:
            return all(s.silence_ms <= silence_ms for s in self.stats().values())

        until(
            flowing,
            timeout,
            "replies on every flow",
            interval=0.05,
            detail=lambda: {k: s.silence_ms for k, s in self.stats().items()},
        )
        return self.stats()

    def lost(self) -> dict[str, Stats]:
        """The kinds of which a flow died, was reset or got wrong data."""
        return {
            kind: s for kind, s in self.stats().items() if s.alive < s.flows or s.resets or s.errors
        }

    def report(self) -> dict[str, Any]:
        """Every flow of both sides by itself, and the figures by kind."""
        return {side.node.name: side.command("report") for side in (self.client, self.server)}

    def finish(self, timeout: float = 10.0) -> None:
        """End every download early and wait until its digest has been compared.

        Raises:
            Timeout: one of them did not end.
        """
        self.client.command("finish")
        until(
            lambda: all(s.done == s.flows for s in self.stats().values() if s.proto == "bulk"),
            timeout,
            "every download is complete",
            detail=lambda: {k: s for k, s in self.stats().items() if s.proto == "bulk"},
        )

    def pause(self, timeout: float = 1.0) -> bool:
        """Send nothing new; return whether all that was under way came back.

        Args:
            timeout: seconds to wait for it.
        """

        def quiet() -> bool:
            sides = (self.client, self.server)
            return not any(side.command("pause")["outstanding"] for side in sides)

        try:
            return until(quiet, timeout, "no message is under way")
        except Timeout:
            return False

    def resume(self) -> None:
        """Go on after a pause."""
        for side in (self.client, self.server):
            side.command("pause", paused=False)
            side.command("window")

    def close(self) -> None:
        """End both processes; harmless when repeated."""
        if not self._closed:
            self._closed = True
            try:
                # Without the pause, the echoes under way would be answered with resets.
                self.pause(0.3)
            except TrafficError:
                pass  # one of them is dead already
            self.client.close()
            self.server.close()
