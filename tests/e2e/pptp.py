"""PPTP (RFC 2637): the messages that set up a call, and its packets in enhanced GRE.

Only what the kernel's helper looks at is filled in: nobody here speaks PPP.
"""

from __future__ import annotations

import socket
import struct

MAGIC = 0x1A2B3C4D
START, STARTED, CALL, CALLED = 1, 2, 7, 8
PORT = 1723


def message(kind: int, body: bytes) -> bytes:
    return struct.pack(">HHIHH", 12 + len(body), 1, MAGIC, kind, 0) + body


def hear(stream: socket.socket, kind: int) -> bytes:
    """The body of the next message, which has to be of that kind."""
    got = b""
    while len(got) < 12 or len(got) < struct.unpack_from(">H", got)[0]:
        part = stream.recv(1024)
        assert part, "closed"
        got += part
    assert struct.unpack_from(">HHIH", got)[1:] == (1, MAGIC, kind)
    return got[12:]


def start(client: socket.socket, server: socket.socket) -> None:
    rest = struct.pack(">IIHH64s64s", 3, 3, 1, 1, b"host", b"vendor")
    client.sendall(message(START, struct.pack(">HH", 0x100, 0) + rest))
    hear(server, START)
    server.sendall(message(STARTED, struct.pack(">HBB", 0x100, 1, 0) + rest))
    hear(client, STARTED)


def call(client: socket.socket, server: socket.socket, ours: int, theirs: int) -> tuple[int, int]:
    """Set up a call; the ids that the server and the client were told of each other's."""
    body = struct.pack(
        ">HHIIIIHHHH64s64s", ours, 1, 300, 100_000_000, 3, 3, 64, 0, 0, 0, b"", b""
    )  # fmt: skip
    client.sendall(message(CALL, body))
    (seen,) = struct.unpack_from(">H", hear(server, CALL))
    body = struct.pack(">HHBBHIHHI", theirs, seen, 1, 0, 0, 100_000, 64, 0, 0)
    server.sendall(message(CALLED, body))
    answer = hear(client, CALLED)
    told, own = struct.unpack_from(">HH", answer)
    assert own == ours, "the answer is for another call"
    return seen, told


def gre(call_id: int, text: bytes, number: int = 1) -> bytes:
    return struct.pack(">HHHHI", 0x3001, 0x880B, len(text), call_id, number) + text


def receives(raw: socket.socket, call_id: int, text: bytes) -> bool:
    """Whether such a packet comes within the socket's timeout; others are passed over."""
    try:
        while True:
            packet = raw.recv(2048)
            packet = packet[(packet[0] & 15) * 4 :]
            if packet[12:] == text and struct.unpack_from(">H", packet, 6)[0] == call_id:
                return True
    except TimeoutError:
        return False
