"""The connections of one traffic process, each with its own book-keeping.

Every flow sends numbered messages at its interval and expects each of them back
unchanged.  What it measures is what a user would notice: the longest time
without a reply, messages that never came back, resets and errors.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hak2k.lab.traffic.engine import Engine

# magic, flow number, message number, time sent (ns): the head of every message.
_HEAD = struct.Struct(">IIIQ")
_MAGIC = 0x68616B32
BLOCK = 16384
_BULK_REQUEST = struct.Struct(">QI")
_DIGEST_BYTES = 32
_UNANSWERED_LIMIT = 20000
_DATAGRAM_BYTES = 65535
_SOL_RAW, _ICMP_FILTER = 255, 1


class Flow:
    """One conversation that ought to go on whatever happens to the firewalls.

    Attributes:
        kind: the caller's name for the group it belongs to.
        gap_ns: longest time between two replies, ever.
        window_ns: the same since the last ``window``.
    """

    proto = ""

    def __init__(self, engine: Engine, kind: str, number: int, interval: float) -> None:
        self.engine = engine
        self.kind = kind
        self.number = number
        self.interval = interval
        self.sent = 0
        self.received = 0
        self.bytes_verified = 0
        self.resets = 0
        self.errors: list[str] = []
        self.gap_ns = 0
        self.window_ns = 0
        self.last_ns = 0
        self.done = False
        self.socket: socket.socket | None = None

    @property
    def established(self) -> bool:
        """Whether anything came back yet."""
        return self.received > 0

    @property
    def outstanding(self) -> bool:
        """Whether something is under way that a close would turn into a reset."""
        return False

    @property
    def alive(self) -> bool:
        """Whether it can still go on."""
        return self.socket is not None or self.done

    def start(self) -> None:
        """Open the socket and send the first message."""
        raise NotImplementedError

    def tick(self) -> None:
        """Send the next message; called once per interval."""
        raise NotImplementedError

    def ready(self, events: int) -> None:
        """The socket can be read, or written."""
        raise NotImplementedError

    def replied(self, size: int, messages: int = 1) -> None:
        """Book replies of ``size`` bytes in all that were right."""
        now = time.monotonic_ns()
        if self.last_ns:
            gap = now - self.last_ns
            self.gap_ns = max(self.gap_ns, gap)
            self.window_ns = max(self.window_ns, gap)
        self.last_ns = now
        self.received += messages
        self.bytes_verified += size

    def silence_ns(self, now: int) -> int:
        """How long nothing has come back, as of now."""
        return now - self.last_ns if self.last_ns and not self.done else 0

    def restart_window(self, now: int) -> None:
        """Start measuring ``window_ns`` anew."""
        self.window_ns = 0
        if self.last_ns:
            self.last_ns = now

    def failed(self, error: OSError | str) -> None:
        """The conversation is over, and not in the way it should be."""
        if isinstance(error, OSError):
            if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNREFUSED):
                self.resets += 1
            error = errno.errorcode.get(error.errno or 0, str(error))
        self.errors.append(error)
        self.close()

    def noted(self, error: str) -> None:
        """Something was wrong, but the conversation goes on."""
        if len(self.errors) < 10:
            self.errors.append(error)

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        if self.socket is not None:
            self.engine.forget(self.socket)
            self.socket.close()
            self.socket = None

    def report(self) -> dict[str, Any]:
        """All figures of this flow."""
        now = time.monotonic_ns()
        silence = self.silence_ns(now)
        return {
            "kind": self.kind,
            "proto": self.proto,
            "number": self.number,
            "established": self.established,
            "alive": self.alive,
            "done": self.done,
            "sent": self.sent,
            "received": self.received,
            "bytes_verified": self.bytes_verified,
            "longest_gap_ms": round(max(self.gap_ns, silence) / 1e6, 3),
            "window_gap_ms": round(max(self.window_ns, silence) / 1e6, 3),
            "silence_ms": round(silence / 1e6, 3),
            "resets": self.resets,
            "errors": self.errors,
        }

    def message(self, size: int) -> bytes:
        """The next message: its head, and a body that depends on it."""
        head = _HEAD.pack(_MAGIC, self.number, self.sent & 0xFFFFFFFF, time.monotonic_ns())
        self.sent += 1
        return head + self.engine.pattern[: max(0, size - _HEAD.size)]

    def is_own(self, data: bytes) -> bool:
        """Whether ``data`` is one of this flow's messages, unchanged."""
        if len(data) < _HEAD.size:
            return False
        magic, number, _, _ = _HEAD.unpack_from(data)
        body = len(data) - _HEAD.size
        return (
            magic == _MAGIC
            and number == self.number
            and data[_HEAD.size :] == self.engine.pattern[:body]
        )


class TcpFlow(Flow):
    """A TCP connection to an echo service; what comes back is compared byte by byte."""

    proto = "tcp"

    def __init__(
        self,
        engine: Engine,
        kind: str,
        number: int,
        interval: float,
        target: tuple[str, int],
        source: str | None,
        size: int,
    ) -> None:
        super().__init__(engine, kind, number, interval)
        self.target = target
        self.source = source
        self.size = size
        self._connected = False
        self._backlog = bytearray()  # sent by us, accepted by no socket buffer yet
        self._expected = bytearray()  # on its way, must come back

    @property
    def outstanding(self) -> bool:
        return self.socket is not None and bool(self._expected)

    def start(self) -> None:
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.source:
                self.socket.bind((self.source, 0))
            self.socket.connect(self.target)
        except BlockingIOError:
            pass
        except OSError as error:
            self.failed(error)
            return
        self.engine.watch(self.socket, self.ready, write=True)

    def tick(self) -> None:
        if self.socket is None or not self._connected:
            return
        if len(self._expected) > self.size * _UNANSWERED_LIMIT:
            return  # a dead connection must not eat the memory
        message = self.message(self.size)
        self._expected += message
        self._backlog += message
        self._push()

    def _push(self) -> bool:
        """Send what waits; return whether the connection still lives."""
        assert self.socket is not None
        try:
            while self._backlog:
                count = self.socket.send(self._backlog)
                del self._backlog[:count]
        except BlockingIOError:
            pass
        except OSError as error:
            self.failed(error)
            return False
        self.engine.watch(self.socket, self.ready, write=bool(self._backlog))
        return True

    def ready(self, events: int) -> None:
        if self.socket is None:
            return
        if not self._connected:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.failed(OSError(code, ""))
                return
            self._connected = True
            self.engine.watch(self.socket, self.ready)
            self.tick()
            return
        if self._backlog and not self._push():
            return
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.failed(error)
            return
        if not data:
            self.failed("closed by the other side")
            return
        if not self._expected.startswith(data):
            self.failed("received what was never sent")
            return
        before = len(self._expected)
        del self._expected[: len(data)]
        answered = -(-before // self.size) - -(-len(self._expected) // self.size)
        self.replied(len(data), answered)


class BulkFlow(Flow):
    """A TCP download of a known stream, checked as it comes and by its digest.

    The stream ends with its SHA-256, so that the receiver need not know how long
    it will be: ``finish`` asks the sender to come to an end at once.
    """

    proto = "bulk"

    def __init__(
        self,
        engine: Engine,
        kind: str,
        number: int,
        target: tuple[str, int],
        total: int,
        rate: int,
    ) -> None:
        super().__init__(engine, kind, number, 1.0)
        self.target = target
        self.total = total
        self.rate = rate
        self._connected = False
        self._digest = hashlib.sha256()
        self._held = b""  # may be stream or digest: only the end of the connection tells

    def start(self) -> None:
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        try:
            self.socket.connect(self.target)
        except BlockingIOError:
            pass
        except OSError as error:
            self.failed(error)
            return
        self.engine.watch(self.socket, self.ready, write=True)

    def tick(self) -> None:
        pass  # the other side sets the pace

    def finish(self) -> None:
        """Ask for the end of the stream."""
        if self.socket is not None and self._connected:
            self.socket.send(b"\n")

    def ready(self, events: int) -> None:
        if self.socket is None:
            return
        try:
            if not self._connected:
                code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, "")
                self.socket.send(_BULK_REQUEST.pack(self.total, self.rate))
                self.sent = 1
                self._connected = True
                self.engine.watch(self.socket, self.ready)
                return
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            self.failed(error)
            return
        if not data:
            if self._held != self._digest.digest():
                self.failed("cut short, or the digests differ")
                return
            self.done = True
            self.close()
            return
        data = self._held + data
        body, self._held = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if body:
            if not self.engine.is_stream(self.bytes_verified, body):
                self.failed(f"wrong data after {self.bytes_verified} bytes")
                return
            self._digest.update(body)
            self.replied(len(body))

    def report(self) -> dict[str, Any]:
        return {**super().report(), "total": self.total}


class UdpFlow(Flow):
    """Requests and replies over UDP, lost ones counted."""

    proto = "udp"

    def __init__(
        self,
        engine: Engine,
        kind: str,
        number: int,
        interval: float,
        target: tuple[str, int],
        source: str | None,
        size: int,
    ) -> None:
        super().__init__(engine, kind, number, interval)
        self.target = target
        self.source = source
        self.size = size

    def start(self) -> None:
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        try:
            if self.source:
                self.socket.bind((self.source, 0))
            self.socket.connect(self.target)
        except OSError as error:
            self.failed(error)
            return
        self.engine.watch(self.socket, self.ready)
        self.tick()

    def tick(self) -> None:
        if self.socket is None:
            return
        try:
            self.socket.send(self.message(self.size))
        except OSError as error:
            self._trouble(error)

    def _trouble(self, error: OSError) -> None:
        # A datagram socket survives its errors: they are those of one datagram.
        if error.errno == errno.ECONNREFUSED:
            self.resets += 1
        self.noted(errno.errorcode.get(error.errno or 0, str(error)))

    def ready(self, events: int) -> None:
        if self.socket is None:
            return
        try:
            data = self.socket.recv(_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._trouble(error)
            return
        if self.is_own(data):
            self.replied(len(data))
        else:
            self.noted("received what was never sent")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of ``data``."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class PingFlow(Flow):
    """Echo requests over ICMP or ICMPv6, from a raw socket of its own."""

    proto = "icmp"

    def __init__(
        self, engine: Engine, kind: str, number: int, interval: float, target: str, size: int
    ) -> None:
        super().__init__(engine, kind, number, interval)
        self.target = target
        self.size = size
        self._v6 = ":" in target
        # The identifier is to ICMP what a port is to UDP.
        self._identifier = engine.identifier(number)

    def start(self) -> None:
        if self._v6:
            self.socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            # Let through echo replies only (RFC 3542): a bit per type, set = blocked.
            blocked = bytearray(b"\xff" * 32)
            word = 129 // 32 * 4
            mask = struct.unpack_from("=I", blocked, word)[0] & ~(1 << 129 % 32)
            struct.pack_into("=I", blocked, word, mask)
            self.socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP_FILTER, bytes(blocked))
        else:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            self.socket.setsockopt(
                _SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << 0) & 0xFFFFFFFF)
            )
        self.socket.setblocking(False)
        try:
            self.socket.connect((self.target, 0))
        except OSError as error:
            self.failed(error)
            return
        self.engine.watch(self.socket, self.ready)
        self.tick()

    def tick(self) -> None:
        if self.socket is None:
            return
        sequence = self.sent & 0xFFFF
        body = self.message(self.size)
        kind = 128 if self._v6 else 8
        head = struct.pack(">BBHHH", kind, 0, 0, self._identifier, sequence)
        if not self._v6:  # for ICMPv6 the kernel fills it in
            total = checksum(head + body)
            head = struct.pack(">BBHHH", kind, 0, total, self._identifier, sequence)
        try:
            self.socket.send(head + body)
        except OSError as error:
            self.noted(errno.errorcode.get(error.errno or 0, str(error)))

    def ready(self, events: int) -> None:
        if self.socket is None:
            return
        try:
            data = self.socket.recv(_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.noted(errno.errorcode.get(error.errno or 0, str(error)))
            return
        offset = 0 if self._v6 else (data[0] & 15) * 4
        # Every raw socket gets every reply; most are another flow's.
        if struct.unpack_from(">H", data, offset + 4)[0] == self._identifier:
            if self.is_own(data[offset + 8 :]):
                self.replied(len(data) - offset - 8)
            else:
                self.noted("received what was never sent")


class EchoServer:
    """Sends back whatever arrives, on every TCP connection to one port."""

    def __init__(self, engine: Engine, listener: socket.socket) -> None:
        self.engine = engine
        self.listener = listener
        self.accepted = 0
        engine.watch(listener, self._accept)

    def _accept(self, events: int) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            self.accepted += 1
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        backlog = bytearray()

        def ready(events: int) -> None:
            try:
                if not backlog:
                    data = connection.recv(65536)
                    if not data:
                        raise ConnectionError
                    backlog.extend(data)
                count = connection.send(backlog)
                del backlog[:count]
            except BlockingIOError:
                pass
            except OSError:
                self.engine.forget(connection)
                connection.close()
                return
            # While the client does not read, nothing more is read from it either.
            self.engine.watch(connection, ready, read=not backlog, write=bool(backlog))

        self.engine.watch(connection, ready)


class BulkServer(EchoServer):
    """Sends the known stream at the pace that the client asks for, then its digest."""

    def _serve(self, connection: socket.socket) -> None:
        _BulkStream(self.engine, connection)


class _BulkStream:
    """One download, from the sender's side."""

    def __init__(self, engine: Engine, connection: socket.socket) -> None:
        self.engine = engine
        self.connection = connection
        self.total = 0
        self.rate = 0
        self.sent = 0  # of the stream, into the backlog
        self.begin = 0
        self.digest = hashlib.sha256()
        self.backlog = bytearray()
        self.complete = False
        engine.watch(connection, self._ready)

    def _end(self) -> None:
        self.engine.forget(self.connection)
        self.connection.close()

    def _ready(self, events: int) -> None:
        try:
            request = self.connection.recv(_BULK_REQUEST.size)
        except BlockingIOError:
            return
        except OSError:
            request = b""
        if not request:
            self._end()
        elif self.total:
            self.total = min(self.total, self.sent)  # enough, says the client
        elif len(request) == _BULK_REQUEST.size:
            self.total, self.rate = _BULK_REQUEST.unpack(request)
            self.begin = time.monotonic_ns()
            self._push()
        else:
            self._end()

    def _refill(self) -> None:
        if self.backlog or self.complete:
            return
        elapsed = time.monotonic_ns() - self.begin
        allowed = min(self.total, self.rate * elapsed // 1_000_000_000 + BLOCK)
        size = min(BLOCK * 4, allowed - self.sent)
        if size > 0:
            chunk = self.engine.stream(self.sent, size)
            self.digest.update(chunk)
            self.backlog.extend(chunk)
            self.sent += size
        if self.sent >= self.total:
            self.backlog.extend(self.digest.digest())
            self.complete = True

    def _push(self) -> None:
        if self.connection.fileno() < 0:
            return
        self._refill()
        try:
            if self.backlog:
                del self.backlog[: self.connection.send(self.backlog)]
        except BlockingIOError:
            pass
        except OSError:
            self._end()
            return
        if self.backlog or not self.complete:
            self.engine.later(0.004, self._push)
        else:
            # All of it is with the kernel; the client closes when it has it.
            self.connection.shutdown(socket.SHUT_WR)


class UdpEchoServer:
    """Sends every datagram back to where it came from."""

    def __init__(self, engine: Engine, listener: socket.socket) -> None:
        self.listener = listener
        self.accepted = 0
        engine.watch(listener, self._ready)

    def _ready(self, events: int) -> None:
        for _ in range(64):
            try:
                data, peer = self.listener.recvfrom(_DATAGRAM_BYTES)
                self.listener.sendto(data, peer)
            except OSError:
                return
            self.accepted += 1
