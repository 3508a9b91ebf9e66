"""Flows of protocols that the kernel has no sockets for, made by hand.

A ``RawPair`` holds a raw socket and a packet socket on each side.  It sends whole
IP packets and sees what arrives on the other side *before* that kernel has an
opinion about it.  The flows built on it (``Sctp``, ``Gre``, ``Esp`` and so on) know
what their packets look like and where translation moves them::

    with RawPair(lab) as pair:
        flow = Sctp(pair)
        flow.open()
        assert flow.exchange() == (True, True)
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from hak2k.lab import topology
from hak2k.lab.traffic.flows import checksum

if TYPE_CHECKING:
    from hak2k.lab.lab import Lab
    from hak2k.lab.node import Node

DCCP, GRE, ESP, AH, SCTP, UDPLITE = 33, 47, 50, 51, 132, 136
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_PACKET_OUTGOING = 4
_IPV6_HDRINCL = 36
_PROTOCOLS = (DCCP, GRE, ESP, AH, SCTP, UDPLITE)


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def pseudo_header(src: str, dst: str, protocol: int, length: int) -> bytes:
    """What transport checksums cover besides the packet (RFC 768, RFC 8200)."""
    if ":" in src:
        a, b = (socket.inet_pton(socket.AF_INET6, x) for x in (src, dst))
        return a + b + struct.pack(">IxxxB", length, protocol)
    a, b = (socket.inet_pton(socket.AF_INET, x) for x in (src, dst))
    return a + b + struct.pack(">xBH", protocol, length)


def ip_packet(src: str, dst: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 or IPv6 packet around ``payload``."""
    if ":" in src:
        a, b = (socket.inet_pton(socket.AF_INET6, x) for x in (src, dst))
        return struct.pack(">IHBB", 0x60000000, len(payload), protocol, 64) + a + b + payload
    a, b = (socket.inet_pton(socket.AF_INET, x) for x in (src, dst))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + a + b
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


class Packet:
    """A received IP packet.

    Attributes:
        src, dst: addresses as text.
        protocol: the number in its header.
        payload: what follows the IP header.
    """

    def __init__(self, data: bytes) -> None:
        if data[0] >> 4 == 6:
            self.protocol, offset = data[6], 40
            self.src = socket.inet_ntop(socket.AF_INET6, data[8:24])
            self.dst = socket.inet_ntop(socket.AF_INET6, data[24:40])
        else:
            self.protocol, offset = data[9], (data[0] & 15) * 4
            self.src = socket.inet_ntop(socket.AF_INET, data[12:16])
            self.dst = socket.inet_ntop(socket.AF_INET, data[16:20])
            data = data[: struct.unpack_from(">H", data, 2)[0]]  # without padding
        self.payload = data[offset:]

    def __repr__(self) -> str:
        return f"<{self.protocol} {self.src}>{self.dst} {self.payload[:16].hex()}>"


class RawEnd:
    """Raw sockets of one side."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._out4 = node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._out6 = node.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._out6.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        self._in = [
            node.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
            for kind in (_ETH_P_IP, _ETH_P_IPV6)
        ]
        for listener in self._in:
            listener.setblocking(False)

    def close(self) -> None:
        """Close the sockets."""
        for one in (self._out4, self._out6, *self._in):
            one.close()

    def send(self, src: str, dst: str, protocol: int, payload: bytes) -> None:
        """Send one IP packet."""
        packet = ip_packet(src, dst, protocol, payload)
        if ":" in dst:
            self._out6.sendto(packet, (dst, 0))
        else:
            self._out4.sendto(packet, (dst, 0))

    def drain(self) -> None:
        """Forget what has arrived so far."""
        self._read()

    def _read(self) -> list[Packet]:
        found = []
        for listener in self._in:
            while True:
                try:
                    data, address = listener.recvfrom(0xFFFF)
                except BlockingIOError:
                    break
                if address[2] != _PACKET_OUTGOING:
                    found.append(Packet(data))
        return found

    def receive(self, wanted: Callable[[Packet], bool], timeout: float = 0.5) -> Packet | None:
        """Wait for an arriving packet; ``None`` if there is none in ``timeout`` s."""
        deadline = time.monotonic() + timeout
        while True:
            for packet in self._read():
                if wanted(packet):
                    return packet
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            select.select(self._in, [], [], left)


class RawPair:
    """Both sides of hand-made flows through a lab.

    While it lives, both kernels keep quiet about the protocols: their own
    "protocol unreachable" would end the flows.
    """

    def __init__(self, lab: Lab) -> None:
        self.client = RawEnd(lab.client)
        self.server = RawEnd(lab.server)
        self._nodes = (lab.client, lab.server)
        numbers = ", ".join(str(number) for number in _PROTOCOLS)
        for node in self._nodes:
            node.nft(
                "table inet raw_quiet { chain input { type filter hook input priority 0;"
                f" meta l4proto {{ {numbers} }} drop; }}; }}"
            )

    def close(self) -> None:
        """Close the sockets and let the kernels speak again."""
        for end in (self.client, self.server):
            end.close()
        for node in self._nodes:
            node.nft("delete table inet raw_quiet")

    def __enter__(self) -> RawPair:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class RawFlow:
    """A conversation between the client and the server in one protocol.

    Args:
        pair: the sockets.
        source: the client's address: its second one is translated by the
            firewalls' ruleset (``topology.SNAT_CLIENT4``), its others are not.
        seed: makes ports, keys and tags differ between flows.
    """

    protocol = 0

    def __init__(self, pair: RawPair, source: str = topology.CLIENT4, seed: int = 0) -> None:
        self.pair = pair
        self.source = source
        v6 = ":" in source
        self.target = topology.SERVER6 if v6 else topology.SERVER4
        translated = {
            topology.SNAT_CLIENT4: topology.SNAT4,
            topology.SNAT_CLIENT6: topology.SNAT6,
        }
        # As the server sees the client.
        self.seen_source = translated.get(source, source)
        self.seed = seed
        self.seen_port: int | None = None
        self._count = itertools.count(1)

    def open(self) -> None:
        """Exchange what the protocol needs before data.

        Raises:
            AssertionError: a packet did not arrive.
        """
        assert self.forward(), f"{self!r}: no packet got from the client to the server"
        assert self.backward(), f"{self!r}: no packet got from the server to the client"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source}, {self.seed})"

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        """The bytes after the IP header of one data packet."""
        raise NotImplementedError

    def marker(self) -> bytes:
        """Eight bytes by which a packet is recognised at the other side."""
        return struct.pack(">HHI", 0xAB2C, self.seed & 0xFFFF, next(self._count))

    def _pass(self, reply: bool, payload: bytes, marker: bytes, timeout: float) -> Packet | None:
        sender, receiver = self.pair.client, self.pair.server
        src, dst, seen = self.source, self.target, self.seen_source
        if reply:
            sender, receiver = receiver, sender
            src, dst, seen = self.target, self.seen_source, self.target
        receiver.drain()
        sender.send(src, dst, self.protocol, payload)
        return receiver.receive(
            lambda p: p.protocol == self.protocol and p.src == seen and marker in p.payload,
            timeout,
        )

    def _data(self, reply: bool, timeout: float) -> bool:
        marker = self.marker()
        src = self.target if reply else self.source
        dst = self.seen_source if reply else self.target
        payload = self.payload(reply, marker, src, dst)
        packet = self._pass(reply, payload, marker, timeout)
        if packet is not None and not reply:
            self._learn(packet)
        return packet is not None

    def _learn(self, packet: Packet) -> None:
        """Remember how translation changed the client's port."""

    def forward(self, timeout: float = 0.5) -> bool:
        """Send data from the client; whether it reached the server."""
        return self._data(False, timeout)

    def backward(self, timeout: float = 0.5) -> bool:
        """Send data from the server; whether it reached the client."""
        return self._data(True, timeout)

    def exchange(self, timeout: float = 0.5) -> tuple[bool, bool]:
        """Data both ways, the server's first: (reached client, reached server)."""
        return self.backward(timeout), self.forward(timeout)


class Ported(RawFlow):
    """A protocol with ports where UDP has them."""

    first_port = 20000

    def __init__(self, pair: RawPair, source: str = topology.CLIENT4, seed: int = 0) -> None:
        super().__init__(pair, source, seed)
        self.sport = self.first_port + seed
        # Among the ports that the ruleset does not translate.
        self.dport = topology.PLAIN_PORTS[0] + 1

    def _learn(self, packet: Packet) -> None:
        self.seen_port = struct.unpack_from(">H", packet.payload)[0]

    def ports(self, reply: bool) -> tuple[int, int]:
        """Source and destination port as the sender writes them."""
        if reply:
            return self.dport, self.seen_port or self.sport
        return self.sport, self.dport


class Sctp(Ported):
    """An SCTP association: four-way handshake, then DATA chunks."""

    protocol = SCTP

    def __init__(self, pair: RawPair, source: str = topology.CLIENT4, seed: int = 0) -> None:
        super().__init__(pair, source, seed)
        self.client_tag = 0x11000000 + seed
        self.server_tag = 0x22000000 + seed

    @staticmethod
    def chunk(kind: int, body: bytes, flags: int = 0) -> bytes:
        """A chunk, padded."""
        data = struct.pack(">BBH", kind, flags, 4 + len(body)) + body
        return data + bytes(-len(data) % 4)

    def packet(self, reply: bool, tag: int, *chunks: bytes) -> bytes:
        """A packet with its checksum."""
        head = struct.pack(">HHI", *self.ports(reply), tag)
        body = b"".join(chunks)
        return head + struct.pack("<I", crc32c(head + bytes(4) + body)) + body

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        tag = self.client_tag if reply else self.server_tag
        data = struct.pack(">IHHI", next(self._count), 0, 0, 0) + marker
        return self.packet(reply, tag, self.chunk(0, data, 3))

    def _step(self, reply: bool, tag: int, kind: int, body: bytes) -> None:
        marker = self.marker()
        payload = self.packet(reply, tag, self.chunk(kind, body + marker))
        packet = self._pass(reply, payload, marker, 0.5)
        assert packet is not None, f"{self!r}: chunk {kind} did not arrive"
        if not reply:
            self._learn(packet)

    def _begin(self, reply: bool) -> None:
        # INIT and INIT ACK carry a parameter that holds the marker: "cookie", type 7
        # (a receiver that does not want it skips it).
        own, other = self.client_tag, 0
        if reply:
            own, other = self.server_tag, self.client_tag
        body = struct.pack(">IIHHI", own, 65535, 1, 1, 1) + struct.pack(">HH", 7, 12)
        self._step(reply, other, 2 if reply else 1, body)

    def init(self) -> None:
        """The handshake's first packet alone.

        Raises:
            AssertionError: it did not arrive.
        """
        self._begin(False)

    def init_ack(self) -> None:
        """Its second packet alone.

        Raises:
            AssertionError: it did not arrive.
        """
        self._begin(True)

    def open(self) -> None:
        self.init()
        self.init_ack()
        self._step(False, self.server_tag, 10, b"")
        # COOKIE ACK has no body; the DATA bundled with it does.
        marker = self.marker()
        data = struct.pack(">IHHI", next(self._count), 0, 0, 0) + marker
        payload = self.packet(True, self.client_tag, self.chunk(11, b""), self.chunk(0, data, 3))
        assert self._pass(True, payload, marker, 0.5), f"{self!r}: no COOKIE ACK"
        super().open()

    def shutdown(self) -> None:
        """End the association in good order.

        Raises:
            AssertionError: a chunk did not arrive.
        """
        for reply, kind, body in (
            (False, 7, struct.pack(">I", 1)),
            (True, 8, b""),
            (False, 14, b""),
        ):
            tag = self.client_tag if reply else self.server_tag
            marker = struct.pack(">I", tag)
            payload = self.packet(reply, tag, self.chunk(kind, body))
            assert self._pass(reply, payload, marker, 0.5), f"{self!r}: chunk {kind}"


class Gre(RawFlow):
    """Generic Routing Encapsulation, version 0, with a key."""

    protocol = GRE

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        return struct.pack(">HHI", 0x2000, 0x0800, self.seed) + marker


class Esp(RawFlow):
    """Encapsulated security payload: an index, a sequence, opaque bytes."""

    protocol = ESP

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        spi = (0x2000 if reply else 0x1000) + self.seed
        return struct.pack(">II", spi, next(self._count)) + marker + bytes(24)


class Ah(RawFlow):
    """Authentication header, with a value that nobody here checks; IPv4 only.

    To IPv6 it is an extension header, which tracking skips to find the protocol.
    """

    protocol = AH

    def __init__(self, pair: RawPair, source: str = topology.CLIENT4, seed: int = 0) -> None:
        if ":" in source:
            raise ValueError("over IPv6, AH is not a protocol of its own")
        super().__init__(pair, source, seed)

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        spi = (0x4000 if reply else 0x3000) + self.seed
        return struct.pack(">BBHII", 59, 4, 0, spi, next(self._count)) + bytes(12) + marker


class UdpLite(Ported):
    """UDP-Lite (RFC 3828), its checksum covering the header only."""

    protocol = UDPLITE

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        head = struct.pack(">HHHH", *self.ports(reply), 8, 0)
        length = 8 + len(marker)
        total = checksum(pseudo_header(src, dst, UDPLITE, length) + head)
        return head[:6] + struct.pack(">H", total or 0xFFFF) + marker


class Dccp(Ported):
    """DCCP (RFC 4340): request, response, ack, then data packets."""

    protocol = DCCP

    def packet(self, reply: bool, kind: int, src: str, dst: str, body: bytes) -> bytes:
        """A packet with a 48-bit sequence number and its checksum."""
        number = next(self._count)
        # REQUEST ends with a service code; all but REQUEST and DATA acknowledge.
        more = b""
        if kind not in (0, 2):
            more += struct.pack(">HHI", 0, 0, max(1, number - 1))
        if kind in (0, 1):
            more += struct.pack(">I", 42)
        offset = (16 + len(more)) // 4
        head = struct.pack(
            ">HHBBHBBHI", *self.ports(reply), offset, 0, 0, kind << 1 | 1, 0, 0, number
        )
        data = head + more + body
        total = checksum(pseudo_header(src, dst, DCCP, len(data)) + data)
        return data[:6] + struct.pack(">H", total) + data[8:]

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        return self.packet(reply, 4, src, dst, marker)  # DATAACK

    def open(self) -> None:
        for reply, kind in ((False, 0), (True, 1), (False, 3)):
            marker = self.marker()
            src = self.target if reply else self.source
            dst = self.seen_source if reply else self.target
            payload = self.packet(reply, kind, src, dst, marker)
            packet = self._pass(reply, payload, marker, 0.5)
            assert packet is not None, f"{self!r}: packet type {kind} did not arrive"
            if not reply:
                self._learn(packet)
        super().open()


FLOWS: dict[str, type[RawFlow]] = {
    "sctp": Sctp,
    "gre": Gre,
    "esp": Esp,
    "ah": Ah,
    "udplite": UdpLite,
    "dccp": Dccp,
}
