"""What really crosses the wires between the switch and the firewalls.

Two instruments on the switch's ports: named nftables counters in the kernel,
which miss nothing and cost little, and packet sockets with a kernel filter that
keep only the frames a test may have to show: resets, and everything that comes
out of a port that ought to be mute.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hak2k.lab.node import Node

ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_RECEIVE_BYTES = 1 << 24

# Counter per kind of frame; the first rule that matches counts it.
_KINDS = (
    ("rst", "tcp flags & rst == rst"),
    ("tcp", "meta l4proto tcp"),
    ("udp", "meta l4proto udp"),
    ("icmp", "meta protocol ip meta l4proto icmp"),
    ("icmp6", "meta protocol ip6 meta l4proto ipv6-icmp"),
    ("arp", "meta protocol arp"),
    ("other", ""),
)
KINDS = tuple(name for name, _ in _KINDS)

_PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}


@dataclass(frozen=True)
class Frame:
    """A frame that was caught.

    Attributes:
        time: seconds, on the clock of ``time.time``.
        port: ``fw1.lan`` and so on.
        direction: ``out`` of the firewall, or ``in``.
        kind: one of ``KINDS``.
    """

    time: float
    port: str
    direction: str
    kind: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.time:.6f} {self.port} {self.direction} {describe(self.data)}"


def _skip_extensions(frame: bytes) -> tuple[int, int]:
    """The transport protocol of an IPv6 frame, and where it begins."""
    protocol, offset = frame[20], 54
    while protocol in (0, 43, 60) and len(frame) >= offset + 2:
        protocol, offset = frame[offset], offset + 8 + frame[offset + 1] * 8
    return protocol, offset


def classify(frame: bytes) -> str:
    """Name the kind of an Ethernet frame as the counters would."""
    if len(frame) < 14:
        return "other"
    ethertype = struct.unpack_from(">H", frame, 12)[0]
    if ethertype == 0x0806:
        return "arp"
    if ethertype == 0x0800 and len(frame) >= 34:
        protocol, offset = frame[23], 14 + (frame[14] & 15) * 4
        if struct.unpack_from(">H", frame, 20)[0] & 0x1FFF:
            return _PROTOCOL_NAMES.get(protocol, "other")
    elif ethertype == 0x86DD and len(frame) >= 54:
        protocol, offset = _skip_extensions(frame)
    else:
        return "other"
    if protocol == 6 and len(frame) > offset + 13 and frame[offset + 13] & 4:
        return "rst"
    return _PROTOCOL_NAMES.get(protocol, "other")


def describe(frame: bytes) -> str:
    """One line about an Ethernet frame, for an assertion message."""
    if len(frame) < 14:
        return frame.hex()
    target, source = frame[:6].hex(":"), frame[6:12].hex(":")
    kind = classify(frame)
    ethertype = struct.unpack_from(">H", frame, 12)[0]
    line = f"{source}>{target} {kind}"
    if ethertype == 0x0800 and len(frame) >= 34:
        offset, family, at, size = 14 + (frame[14] & 15) * 4, socket.AF_INET, 26, 4
    elif ethertype == 0x86DD and len(frame) >= 54:
        offset, family, at, size = 54, socket.AF_INET6, 22, 16
    else:
        return f"{line} {frame[12:46].hex()}"
    a = socket.inet_ntop(family, frame[at : at + size])
    b = socket.inet_ntop(family, frame[at + size : at + 2 * size])
    if kind in ("tcp", "udp", "rst") and len(frame) >= offset + 4:
        sport, dport = struct.unpack_from(">HH", frame, offset)
        return f"{line} [{a}]:{sport}>[{b}]:{dport}"
    return f"{line} {a}>{b} {frame[offset : offset + 8].hex()}"


# Opcodes of classic BPF.
_LD_B, _LD_H, _LD_W, _LDX_IHL, _LD_B_IND = 0x30, 0x28, 0x20, 0xB1, 0x50
_JEQ, _JSET, _RET = 0x15, 0x45, 0x06
_PKTTYPE = 0xFFFFF004  # where Linux lets a filter read the packet type

_Line = tuple[str, int, str, str, int]  # label, opcode, if true, if false, operand


def _assemble(lines: list[_Line]) -> bytes:
    """Assemble classic BPF; an empty target is the next line."""
    places = {label: number for number, (label, *_) in enumerate(lines) if label}
    code = b""
    for number, (_, opcode, yes, no, operand) in enumerate(lines):
        jump = [places[target] - number - 1 if target else 0 for target in (yes, no)]
        code += struct.pack("=HBBI", opcode, jump[0], jump[1], operand)
    return code


def _program(mute: bool) -> bytes:
    """A filter that lets resets through and, if ``mute``, all that comes in."""
    return _assemble(
        [
            ("", _LD_W, "", "", _PKTTYPE),
            ("", _JEQ, "type", "keep" if mute else "type", _PACKET_OUTGOING),
            ("type", _LD_H, "", "", 12),
            ("", _JEQ, "v4", "", 0x0800),
            ("", _JEQ, "v6", "drop", 0x86DD),
            ("v4", _LD_B, "", "", 23),
            ("", _JEQ, "", "drop", 6),
            ("", _LD_H, "", "", 20),
            ("", _JSET, "drop", "", 0x1FFF),
            ("", _LDX_IHL, "", "", 14),
            ("", _LD_B_IND, "", "", 14 + 13),
            ("", _JSET, "keep", "drop", 4),
            ("v6", _LD_B, "", "", 20),
            ("", _JEQ, "", "drop", 6),
            ("", _LD_B, "", "", 54 + 13),
            ("", _JSET, "keep", "drop", 4),
            ("keep", _RET, "", "", 0xFFFF),
            ("drop", _RET, "", "", 0),
        ]
    )


class Tap:
    """Watches the switch's ports that face the firewalls.

    Args:
        switch: the node that holds the bridges.
        ports: device names there, ``fw1-lan`` and so on.
    """

    def __init__(self, switch: Node, ports: list[str]) -> None:
        self._switch = switch
        self._ports = ports
        self._mute: set[str] = set()
        self._frames: list[Frame] = []
        self._missed = 0
        self._base: Counter[tuple[str, str, str]] = Counter()
        self._sockets: dict[str, socket.socket] = {}
        switch.nft(self._ruleset())
        for port in ports:
            tap = switch.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._sockets[port] = tap
            tap.setblocking(False)
            try:
                tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
            except PermissionError:
                tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            self._attach(port)
            # Bound last: a frame from before the filter would be a false alarm.
            tap.bind((port, ETH_P_ALL))

    def _ruleset(self) -> str:
        lines = ["table netdev tap {"]
        for port in self._ports:
            for direction, hook in (("out", "ingress"), ("in", "egress")):
                name = f"{port}_{direction}".replace("-", "_")
                lines += [f"counter {name}_{kind} {{ }}" for kind in KINDS]
                lines.append(f"chain {name} {{")
                lines.append(f'type filter hook {hook} device "{port}" priority 0')
                lines += [f'{match} counter name "{name}_{kind}" accept' for kind, match in _KINDS]
                lines.append("}")
        return "\n".join([*lines, "}"])

    def _attach(self, port: str) -> None:
        code = _program(port in self._mute)
        memory = ctypes.create_string_buffer(code)
        program = struct.pack("HL", len(code) // 8, ctypes.addressof(memory))
        self._sockets[port].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def close(self) -> None:
        """Stop watching; harmless when repeated."""
        if self._sockets:
            for tap in self._sockets.values():
                tap.close()
            self._sockets = {}
            self._switch.nft("delete table netdev tap")

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ports_of(self, where: str) -> list[str]:
        return [port for port in self._ports if port == where or port.split("-")[0] == where]

    def mute(self, where: str, mute: bool = True) -> None:
        """Say that ``where`` (``fw2`` or ``fw2-lan``) ought to send nothing.

        From now on every frame that comes out of it is kept.
        """
        for port in self._ports_of(where):
            (self._mute.add if mute else self._mute.discard)(port)
            self._attach(port)

    def _totals(self) -> Counter[tuple[str, str, str]]:
        totals: Counter[tuple[str, str, str]] = Counter()
        found = self._switch.counters()
        for port in self._ports:
            for direction in ("out", "in"):
                name = f"{port}_{direction}".replace("-", "_")
                for kind in KINDS:
                    totals[port, direction, kind] = found.get(f"{name}_{kind}", 0)
        return totals

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Frames by (port, direction, kind) since the last ``reset``."""
        totals = self._totals()
        return {key: value - self._base[key] for key, value in totals.items()}

    def count(
        self,
        where: str | None = None,
        direction: str | None = None,
        kind: str | None = None,
    ) -> int:
        """How many frames passed; every criterion may be left out.

        Args:
            where: a firewall (``fw2``) or one port (``fw2-lan``).
            direction: ``out`` of the firewall or ``in``.
            kind: one of ``KINDS``.
        """
        ports = self._ports if where is None else self._ports_of(where)
        return sum(
            number
            for (port, way, what), number in self.counts().items()
            if port in ports and direction in (None, way) and kind in (None, what)
        )

    def resets(self) -> int:
        """TCP resets that came out of or went to a firewall."""
        return self.count(kind="rst")

    def frames(self) -> list[Frame]:
        """The frames kept since the last ``reset``, oldest first."""
        for port, tap in self._sockets.items():
            while True:
                try:
                    data, address = tap.recvfrom(0xFFFF)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENETDOWN:
                        raise
                    continue  # said once after the port was down; then it goes on
                direction = "in" if address[2] == _PACKET_OUTGOING else "out"
                self._frames.append(Frame(time.time(), port, direction, classify(data), data))
            _, lost = struct.unpack("II", tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            self._missed += lost
        return list(self._frames)

    @property
    def missed(self) -> int:
        """Frames that were to be kept but found the socket's buffer full."""
        return self._missed

    def reset(self) -> None:
        """Forget the counts and the frames so far."""
        self.frames()
        self._frames.clear()
        self._missed = 0
        self._base = self._totals()

    def report(self) -> str:
        """The kept frames as text, for an assertion message."""
        lines = [str(frame) for frame in self.frames()[:40]]
        return "\n".join(lines) or "no frame was kept"
