"""What a connection tracking table holds, as plain values.

Tuples, entries and expectations, the bits of their status and flags, and how two
tables are compared.  ``ctnl`` carries them to and from the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

# Bits of an entry's status.
EXPECTED, SEEN_REPLY, ASSURED, CONFIRMED = 0x1, 0x2, 0x4, 0x8
SRC_NAT, DST_NAT, SEQ_ADJUST = 0x10, 0x20, 0x40
SRC_NAT_DONE, DST_NAT_DONE, DYING = 0x80, 0x100, 0x200
FIXED_TIMEOUT, HELPER, OFFLOAD = 0x400, 0x2000, 0x4000

_NOT_IDENTITY = DYING | FIXED_TIMEOUT | SRC_NAT_DONE | DST_NAT_DONE

# Bits of a TCP direction's flags.
TCP_WINDOW_SCALE, TCP_SACK_PERM, TCP_CLOSE_INIT = 0x01, 0x02, 0x04
TCP_BE_LIBERAL, TCP_DATA_UNACK, TCP_MAXACK_SET = 0x08, 0x10, 0x20

TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)
SCTP_STATES = (
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
)
PROTOCOLS = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "sctp": 132,
    "udplite": 136,
}
_ICMP_INVERSE = {0: 8, 8: 0, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
_ICMPV6_INVERSE = {128: 129, 129: 128, 139: 140, 140: 139}


@dataclass(frozen=True)
class Tuple:
    """One direction of a flow, as its packets look on the wire.

    ``icmp`` is (id, type, code); ``zone`` only if this direction has its own.
    """

    src: str
    dst: str
    proto: int
    sport: int | None = None
    dport: int | None = None
    icmp: tuple[int, int, int] | None = None
    zone: int | None = None

    @property
    def family(self) -> int:
        """``AF_INET`` or ``AF_INET6``."""
        return int(socket.AF_INET6 if ":" in self.src else socket.AF_INET)

    def inverse(self) -> Tuple:
        """The reply direction of a flow that nobody translates."""
        icmp = self.icmp
        if icmp is not None:
            table = _ICMPV6_INVERSE if self.proto == 58 else _ICMP_INVERSE
            icmp = (icmp[0], table.get(icmp[1], icmp[1]), icmp[2])
        return replace(
            self,
            src=self.dst,
            dst=self.src,
            sport=self.dport,
            dport=self.sport,
            icmp=icmp,
        )

    def __str__(self) -> str:
        def end(address: str, port: int | None) -> str:
            return address if port is None else f"[{address}]:{port}"

        tail = f" icmp{self.icmp}" if self.icmp is not None else ""
        tail += f" zone={self.zone}" if self.zone is not None else ""
        return f"{self.proto} {end(self.src, self.sport)}>{end(self.dst, self.dport)}{tail}"


Key = tuple[int, Tuple]


@dataclass(frozen=True)
class Tcp:
    """TCP's tracking state; window scales and flags are (original, reply)."""

    state: str
    wscale: tuple[int, int] = (0, 0)
    flags: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Sctp:
    """SCTP's tracking state and verification tags (original, reply)."""

    state: str
    vtags: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class SeqAdj:
    """How a helper that resized packets shifted one direction's numbers."""

    position: int
    before: int
    after: int


@dataclass(frozen=True)
class Synproxy:
    """What SYNPROXY keeps of the handshake it answered itself."""

    isn: int
    its: int
    tsoff: int


@dataclass(frozen=True)
class Entry:
    """A connection tracking entry: all that ctnetlink tells about it.

    ``timeout`` is in seconds; ``labels`` is a bit mask; ``counters_*`` are
    (packets, bytes); ``timestamp`` is (start, stop) in ns.  A field that the
    kernel did not send has its default.
    """

    orig: Tuple
    reply: Tuple
    zone: int = 0
    status: int = 0
    timeout: int = 0
    mark: int = 0
    labels: int = 0
    tcp: Tcp | None = None
    sctp: Sctp | None = None
    helper: str = ""
    help_info: bytes = b""
    master: Tuple | None = None
    seqadj_orig: SeqAdj | None = None
    seqadj_reply: SeqAdj | None = None
    synproxy: Synproxy | None = None
    id: int = field(default=0, compare=False)
    use: int = field(default=0, compare=False)
    counters_orig: tuple[int, int] | None = field(default=None, compare=False)
    counters_reply: tuple[int, int] | None = field(default=None, compare=False)
    timestamp: tuple[int, int] | None = field(default=None, compare=False)
    present: frozenset[int] = field(default=frozenset(), compare=False)

    @property
    def key(self) -> Key:
        """What tells this entry from every other: zone and original tuple."""
        return self.zone, self.orig

    @property
    def natted(self) -> bool:
        """Whether an address or port is translated."""
        return bool(self.status & (SRC_NAT | DST_NAT))

    def identity(self) -> dict[str, Any]:
        """What two nodes must agree on, by name; no clocks, no counters.

        Of the status, what concerns clocks and life is left out, and that the
        kernel has looked for a translation: it does not for entries made over
        ctnetlink without one, and none can say so there.
        """
        return {
            "zone": self.zone,
            "orig": self.orig,
            "reply": self.reply,
            "status": self.status & ~_NOT_IDENTITY,
            "mark": self.mark,
            "labels": self.labels,
            "tcp.state": self.tcp.state if self.tcp else None,
            "tcp.wscale": self.tcp.wscale if self.tcp else None,
            "tcp.flags": self.tcp.flags if self.tcp else None,
            "sctp.state": self.sctp.state if self.sctp else None,
            "sctp.vtags": self.sctp.vtags if self.sctp else None,
            "helper": self.helper,
            "master": self.master,
            "seqadj_orig": self.seqadj_orig,
            "seqadj_reply": self.seqadj_reply,
            "synproxy": self.synproxy,
        }


@dataclass(frozen=True)
class Expectation:
    """A connection that a helper announced and that has not come yet."""

    master: Tuple
    expected: Tuple
    mask: Tuple
    timeout: int = 0
    helper: str = ""
    zone: int = 0
    flags: int = 0
    klass: int = 0
    nat: tuple[int, Tuple] | None = None
    function: str = ""
    id: int = field(default=0, compare=False)

    @property
    def key(self) -> tuple[int, Tuple, Tuple]:
        """What tells this expectation from every other."""
        return self.zone, self.expected, self.mask

    def identity(self) -> dict[str, Any]:
        """What two nodes must agree on, by name."""
        return {
            "master": self.master,
            "expected": self.expected,
            "mask": self.mask,
            "zone": self.zone,
            "flags": self.flags,
            "class": self.klass,
            "nat": self.nat,
            "function": self.function,
        }


Table = dict[Key, Entry]


# -- comparing -----------------------------------------------------------------------

# On a standby these differ by design: how strictly it would check windows, and
# marks that only the kernel that saw the packets itself can set.
STANDBY_FIELDS = frozenset({"tcp.flags"})


def differences(left: Table, right: Table, *, ignore: Iterable[str] = STANDBY_FIELDS) -> list[str]:
    """Describe how two tables differ, one line each; an empty list if equal.

    Args:
        ignore: names of ``Entry.identity`` fields that may differ.
    """
    ignored = set(ignore)
    lines = [f"only left: {left[k].orig}" for k in left.keys() - right.keys()]
    lines += [f"only right: {right[k].orig}" for k in right.keys() - left.keys()]
    for key in left.keys() & right.keys():
        a, b = left[key].identity(), right[key].identity()
        for name, value in a.items():
            if name not in ignored and value != b[name]:
                lines.append(f"{left[key].orig}: {name}: {value!r} != {b[name]!r}")
    return sorted(lines)
