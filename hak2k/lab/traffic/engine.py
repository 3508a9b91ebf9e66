"""The event loop of a traffic process: sockets, a clock, and commands.

One thread, ``epoll`` and a heap of timers: several hundred conversations at ten
messages a second each cost a few per cent of a core.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import resource
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from hak2k.lab.traffic.flows import (
    BLOCK,
    BulkFlow,
    BulkServer,
    EchoServer,
    Flow,
    PingFlow,
    TcpFlow,
    UdpEchoServer,
    UdpFlow,
)

Handler = Callable[[int], None]
# The known stream repeats after this many bytes: a prime number of them, so that no
# block that got lost or came twice can go unseen.
_STREAM_PERIOD = 1_048_573


class Engine:
    """Runs flows and servers, and obeys lines of JSON."""

    def __init__(self) -> None:
        generator = random.Random(0x68616B32)
        self._period = generator.randbytes(_STREAM_PERIOD)
        self._twice = self._period + self._period[: BLOCK * 32]
        self.pattern = self._period[:65536]
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._identifier_base = os.getpid() * 64
        self._flows: list[Flow] = []
        self._servers: list[EchoServer | UdpEchoServer] = []
        self._pending = b""
        self._running = True
        self._paused = False

    # -- what flows use ------------------------------------------------------

    def watch(
        self, watched: socket.socket, handler: Handler, *, read: bool = True, write: bool = False
    ) -> None:
        """Call ``handler`` when the socket is ready; replaces an earlier wish."""
        fd = watched.fileno()
        mask = (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0)
        self._handlers[fd] = handler
        known = self._masks.get(fd)
        if known is None:
            self._epoll.register(fd, mask)
        elif known != mask:
            self._epoll.modify(fd, mask)
        self._masks[fd] = mask

    def forget(self, watched: socket.socket) -> None:
        """Never call the handler of this socket again."""
        fd = watched.fileno()
        if self._masks.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            del self._handlers[fd]

    def later(self, delay: float, function: Callable[[], None]) -> None:
        """Call ``function`` after ``delay`` seconds."""
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._order), function))

    def identifier(self, number: int) -> int:
        """An ICMP identifier for a flow, unlike those of other processes."""
        return (self._identifier_base + number) & 0xFFFF

    def stream(self, offset: int, size: int) -> bytes:
        """``size`` bytes of the known stream from ``offset``."""
        begin = offset % _STREAM_PERIOD
        data = self._twice[begin : begin + size]
        while len(data) < size:
            data += self.stream(offset + len(data), min(size - len(data), BLOCK))
        return data

    def is_stream(self, offset: int, data: bytes) -> bool:
        """Whether ``data`` is what the known stream has at ``offset``."""
        return data == self.stream(offset, len(data))

    # -- commands ------------------------------------------------------------

    def _add(self, flow: Flow, delay: float) -> None:
        self._flows.append(flow)
        due = 0.0

        def tick() -> None:
            if flow.alive and not flow.done:
                if not self._paused:
                    flow.tick()
                again = time.monotonic()
                # Kept on its own grid, so that a late call does not shift all others;
                # what was missed is not made up for.
                nonlocal due
                due = max(due + flow.interval, again)
                heapq.heappush(self._timers, (due, next(self._order), tick))

        def start() -> None:
            nonlocal due
            due = time.monotonic() + flow.interval
            flow.start()
            heapq.heappush(self._timers, (due, next(self._order), tick))

        self.later(delay, start)

    def do_open(
        self,
        kind: str,
        proto: str,
        host: str,
        port: int = 0,
        count: int = 1,
        interval_ms: float = 100.0,
        size: int = 64,
        source: str | None = None,
        total: int = 1 << 24,
        rate: int = 1 << 22,
    ) -> dict[str, Any]:
        """Open ``count`` flows; see ``Traffic.open``."""
        interval = interval_ms / 1000
        for index in range(count):
            number = next(self._numbers)
            flow: Flow
            if proto == "tcp":
                flow = TcpFlow(self, kind, number, interval, (host, port), source, size)
            elif proto == "udp":
                flow = UdpFlow(self, kind, number, interval, (host, port), source, size)
            elif proto == "icmp":
                flow = PingFlow(self, kind, number, interval, host, size)
            elif proto == "bulk":
                flow = BulkFlow(self, kind, number, (host, port), total, rate)
            else:
                raise ValueError(f"no such protocol: {proto!r}")
            # Spread over an interval: steady load instead of bursts.
            self._add(flow, min(interval, 1.0) * index / count)
        return {}

    def do_listen(self, proto: str, port: int, host: str = "::") -> dict[str, Any]:
        """Serve a port; see ``Traffic.listen``."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        datagram = proto == "udp"
        listener = socket.socket(family, socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((host, port))
        if datagram:
            self._servers.append(UdpEchoServer(self, listener))
            return {}
        listener.listen(4096)
        service = {"tcp": EchoServer, "bulk": BulkServer}[proto]
        self._servers.append(service(self, listener))
        return {}

    def do_stats(self, silent_ms: float = 1000.0) -> dict[str, Any]:
        """Figures by kind; see ``Stats``."""
        now = time.monotonic_ns()
        kinds: dict[str, dict[str, Any]] = {}
        for flow in self._flows:
            silence = flow.silence_ns(now)
            one = kinds.setdefault(
                flow.kind,
                {
                    "proto": flow.proto,
                    "flows": 0,
                    "established": 0,
                    "alive": 0,
                    "silent": 0,
                    "done": 0,
                    "sent": 0,
                    "received": 0,
                    "bytes_verified": 0,
                    "longest_gap_ms": 0.0,
                    "window_gap_ms": 0.0,
                    "silence_ms": 0.0,
                    "resets": 0,
                    "errors": {},
                },
            )
            one["flows"] += 1
            one["established"] += flow.established
            one["alive"] += flow.alive
            one["silent"] += flow.alive and silence > silent_ms * 1e6
            one["done"] += flow.done
            one["sent"] += flow.sent
            one["received"] += flow.received
            one["bytes_verified"] += flow.bytes_verified
            one["resets"] += flow.resets
            for name, value in (
                ("longest_gap_ms", max(flow.gap_ns, silence)),
                ("window_gap_ms", max(flow.window_ns, silence)),
                ("silence_ms", silence),
            ):
                one[name] = max(one[name], round(value / 1e6, 3))
            for error in flow.errors:
                one["errors"][error] = one["errors"].get(error, 0) + 1
        return {"kinds": kinds}

    def do_window(self) -> dict[str, Any]:
        """Start the ``window`` gaps anew."""
        now = time.monotonic_ns()
        for flow in self._flows:
            flow.restart_window(now)
        return {}

    def do_pause(self, paused: bool = True) -> dict[str, Any]:
        """Send nothing new; tell how many flows still wait for something."""
        self._paused = paused
        return {"outstanding": sum(flow.outstanding for flow in self._flows)}

    def do_report(self) -> dict[str, Any]:
        """Every flow by itself, and the sums."""
        return {"flows": [flow.report() for flow in self._flows], **self.do_stats()}

    def do_finish(self) -> dict[str, Any]:
        """Ask for the end of every download."""
        for flow in self._flows:
            if isinstance(flow, BulkFlow):
                flow.finish()
        return {}

    def do_close(self, kind: str) -> dict[str, Any]:
        """Close the flows of one kind."""
        for flow in self._flows:
            if flow.kind == kind:
                flow.close()
        self._flows = [flow for flow in self._flows if flow.kind != kind]
        return {}

    def do_quit(self) -> dict[str, Any]:
        """Close everything and end."""
        self._running = False
        return self.do_report()

    def _obey(self, line: bytes) -> None:
        answer: dict[str, Any]
        try:
            command = json.loads(line)
            name = command.pop("do")
            answer = {"ok": True, **getattr(self, f"do_{name}")(**command)}
        except Exception as error:
            # Told to the one who asked; the traffic must not die of a wrong command.
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    def _commands(self, events: int) -> None:
        data = os.read(0, 65536)
        if not data:
            self._running = False
        self._pending += data
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            self._obey(line)

    def run(self) -> None:
        """Work until told to quit, or until standard input ends."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
        self._epoll.register(0, select.EPOLLIN)
        self._handlers[0] = self._commands
        while self._running:
            wait = 1.0
            if self._timers:
                wait = max(0.0, self._timers[0][0] - time.monotonic())
            for fd, events in self._epoll.poll(wait, 256):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
        for flow in self._flows:
            flow.close()
