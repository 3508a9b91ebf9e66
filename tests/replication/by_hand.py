"""TCP, UDP and ping packet by packet: states of a connection that sockets do not hold."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from hak2k.lab import Lab
from hak2k.lab import topology as t
from hak2k.lab.rawflow import Ported, RawFlow, RawPair, pseudo_header
from hak2k.lab.traffic.flows import checksum

FLAGS = {"F": 1, "S": 2, "R": 4, "A": 16}


@contextmanager
def by_hand(lab: Lab) -> Iterator[RawPair]:
    """Both kernels keep quiet about TCP, UDP and ping as well."""
    ports = f"{t.PLAIN_PORTS[0]}-{t.PLAIN_PORTS[1]}, 20000-29999"
    with RawPair(lab) as pair:
        for node in (lab.client, lab.server):
            node.nft(
                "table inet hand_quiet { chain input { type filter hook input priority 0;"
                f" meta l4proto {{ tcp, udp }} th dport {{ {ports} }} drop;"
                " icmp type { echo-request, echo-reply } drop;"
                " icmpv6 type { echo-request, echo-reply } drop; }; }"
            )
        yield pair


def say(flow: RawFlow, *steps: str) -> None:
    """Packets one after the other, each of which must arrive.

    "c" is the client's, "s" the server's; a TCP segment has flags ("c:SA"), and a star
    if it repeats its sender's last one.  "init", "init_ack" and "open" (all of the
    handshake) are SCTP's.
    """
    for step in steps:
        if step in ("init", "init_ack", "open"):
            getattr(flow, step)()
            continue
        who, _, flags = step.partition(":")
        if isinstance(flow, Tcp):
            flow.next_flags = flags
        arrived = flow.backward() if who == "s" else flow.forward()
        assert arrived, f"{flow!r}: {step} did not arrive"


class Tcp(Ported):
    """A segment with the flags that are asked for; no data."""

    protocol = 6

    def __init__(self, pair: RawPair, source: str = t.CLIENT4, seed: int = 0) -> None:
        super().__init__(pair, source, seed)
        self.numbers = [0x10000000 + (seed << 16), 0x40000000 + (seed << 16)]
        self.next_flags = ""

    def _number(self, reply: bool) -> int:
        return self.numbers[reply] - (self.next_flags.endswith("*"))

    def _data(self, reply: bool, timeout: float) -> bool:
        arrived = super()._data(reply, timeout)
        if not self.next_flags.endswith("*"):
            self.numbers[reply] += any(flag in self.next_flags for flag in "SF")
        return arrived

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        bits = sum(FLAGS[flag] for flag in self.next_flags.rstrip("*"))
        ack = self.numbers[not reply] if bits & FLAGS["A"] else 0
        # The marker is an option of an unassigned kind (RFC 4727).
        option = struct.pack(">BB", 253, 2 + len(marker)) + marker + b"\0\0"
        words = (20 + len(option)) // 4
        head = struct.pack(
            ">HHIIBBHHH", *self.ports(reply), self._number(reply), ack, words << 4, bits, 8192, 0, 0
        )
        data = head + option
        total = checksum(pseudo_header(src, dst, 6, len(data)) + data)
        return data[:16] + struct.pack(">H", total) + data[18:]


class Udp(Ported):
    protocol = 17

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        length = 8 + len(marker)
        data = struct.pack(">HHHH", *self.ports(reply), length, 0) + marker
        total = checksum(pseudo_header(src, dst, 17, length) + data)
        return data[:6] + struct.pack(">H", total or 0xFFFF) + marker


class Ping(RawFlow):
    """Echo requests one way, answers the other; IPv4."""

    protocol = 1
    kinds = (8, 0)

    def __init__(self, pair: RawPair, source: str = t.CLIENT4, seed: int = 0) -> None:
        super().__init__(pair, source, seed)
        if source == t.CLIENT4:
            self.seen_source = t.WAN4  # masqueraded

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        data = struct.pack(">BBHHH", self.kinds[reply], 0, 0, 0x4000 + self.seed, 1) + marker
        pseudo = pseudo_header(src, dst, 58, len(data)) if self.protocol == 58 else b""
        total = checksum(pseudo + data)
        return data[:2] + struct.pack(">H", total) + data[4:]


class Ping6(Ping):
    """The same over IPv6."""

    protocol = 58
    kinds = (128, 129)


class Other(RawFlow):
    """A protocol that nobody knows."""

    protocol = 253

    def payload(self, reply: bool, marker: bytes, src: str, dst: str) -> bytes:
        return marker
