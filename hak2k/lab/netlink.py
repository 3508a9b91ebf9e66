"""A small netlink socket and attribute codec.

Only what the lab needs: typed-length-value attributes, one request with its
acknowledgement, many requests in one system call, and dumps.  It shares no
code with the product, so that it can serve as an oracle for it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_ECHO = 0x8
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP_INTR = 0x10

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 18


class NetlinkError(OSError):
    """The kernel refused a netlink request; ``errno`` says why."""


class Interrupted(NetlinkError):
    """The kernel said that a dump was overtaken by a change of the table."""


def align(length: int) -> int:
    """Round ``length`` (bytes) up to the netlink alignment of four."""
    return (length + 3) & ~3


def attr(kind: int, payload: bytes) -> bytes:
    """Encode one attribute of type ``kind`` around ``payload``."""
    length = _ATTR.size + len(payload)
    return _ATTR.pack(length, kind) + payload + bytes(align(length) - length)


def nest(kind: int, *parts: bytes) -> bytes:
    """Encode a nested attribute that holds already encoded ``parts``."""
    return attr(kind | NLA_F_NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """Encode a NUL-terminated string attribute."""
    return attr(kind, value.encode() + b"\0")


def parse_attrs(data: bytes) -> dict[int, bytes]:
    """Split ``data`` into ``{type: payload}``; the last of a kind wins.

    Raises:
        ValueError: an attribute is longer than what is left of ``data``.
    """
    found: dict[int, bytes] = {}
    offset = 0
    while len(data) - offset >= _ATTR.size:
        length, kind = _ATTR.unpack_from(data, offset)
        if length < _ATTR.size or length > len(data) - offset:
            raise ValueError(f"attribute {kind:#x} claims {length} bytes at {offset}")
        found[kind & NLA_TYPE_MASK] = data[offset + _ATTR.size : offset + length]
        offset += align(length)
    return found


class Message:
    """One received netlink message: its header fields and its body."""

    __slots__ = ("body", "flags", "kind", "portid", "sequence")

    def __init__(self, kind: int, flags: int, sequence: int, portid: int, body: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self.sequence = sequence
        self.portid = portid
        self.body = body


def split(datagram: bytes) -> Iterator[Message]:
    """Yield the messages of one received ``datagram``.

    Raises:
        ValueError: a message header is inconsistent with the datagram.
    """
    offset = 0
    while len(datagram) - offset >= _HEADER.size:
        length, kind, flags, sequence, portid = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or length > len(datagram) - offset:
            raise ValueError(f"netlink message claims {length} bytes at {offset}")
        body = datagram[offset + _HEADER.size : offset + length]
        yield Message(kind, flags, sequence, portid, body)
        offset += align(length)


class NetlinkSocket:
    """A netlink socket bound to the network namespace in which it was made.

    Args:
        protocol: ``NETLINK_ROUTE`` or ``NETLINK_NETFILTER``.
        groups: multicast groups (numbers, not a mask) to join.
        receive_buffer: bytes of receive buffer to ask for; the kernel's limit
            applies where the caller lacks ``CAP_NET_ADMIN`` on the host.
    """

    def __init__(
        self,
        protocol: int,
        *,
        groups: Sequence[int] = (),
        receive_buffer: int = 1 << 22,
    ) -> None:
        self.socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        try:
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
            except PermissionError:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            # A refusal must not carry the whole request back: large batches would
            # overrun the receive buffer with their own echoes.
            self.socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self.socket.bind((0, 0))
            for group in groups:
                self.socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except BaseException:
            self.socket.close()
            raise
        self._sequence = 0

    @property
    def portid(self) -> int:
        """The port number that the kernel gave this socket."""
        return int(self.socket.getsockname()[0])

    def fileno(self) -> int:
        """The file descriptor, for ``select``."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        self.socket.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _frame(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return (
            _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
            + body
            + bytes(align(len(body)) - len(body))
        )

    def _receive(self) -> Iterator[Message]:
        while True:
            yield from split(self.socket.recv(_RECEIVE_BYTES))

    def request(self, kind: int, body: bytes, flags: int = 0) -> list[Message]:
        """Send one request and return what the kernel answered before its ack.

        Raises:
            NetlinkError: the kernel refused.
        """
        return self.requests([(kind, flags, body)])

    def requests(self, batch: Sequence[tuple[int, int, bytes]]) -> list[Message]:
        """Send ``(type, flags, body)`` requests in one system call.

        All are executed, whatever becomes of the others; then the first
        refusal, if any, is raised.

        Raises:
            NetlinkError: the kernel refused one of them.
        """
        if not batch:
            return []
        frames = [
            self._frame(kind, flags | NLM_F_REQUEST | NLM_F_ACK, body)
            for kind, flags, body in batch
        ]
        first = self._sequence - len(batch) + 1
        self.socket.send(b"".join(frames))
        waiting = set(range(first, self._sequence + 1))
        answers: list[Message] = []
        failure: NetlinkError | None = None
        for message in self._receive():
            if message.sequence not in waiting:
                continue  # an event, or an answer that nobody waited for
            if message.kind != NLMSG_ERROR:
                answers.append(message)
                continue
            code = -struct.unpack_from("=i", message.body)[0]
            if code and failure is None:
                index = message.sequence - first
                failure = NetlinkError(
                    code, f"{os.strerror(code)} (request {index} of {len(batch)})"
                )
            waiting.discard(message.sequence)
            if not waiting:
                break
        if failure is not None:
            raise failure
        return answers

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """Return every message of a dump.

        Raises:
            Interrupted: the table changed in a way that may have hidden entries.
            NetlinkError: the kernel refused.
        """
        self.socket.send(self._frame(kind, NLM_F_REQUEST | NLM_F_DUMP, body))
        answers: list[Message] = []
        torn = False
        for message in self._receive():
            if message.sequence != self._sequence:
                continue
            torn = torn or bool(message.flags & NLM_F_DUMP_INTR)
            if message.kind == NLMSG_DONE:
                break
            if message.kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", message.body)[0]
                raise NetlinkError(code, os.strerror(code))
            answers.append(message)
        if torn:
            raise Interrupted(4, "the table changed during the dump")
        return answers
