"""Connection tracking over ctnetlink: an exact, independent codec for tests.

Everything that ctnetlink can carry about an entry or an expectation is decoded
into plain values and can be encoded again.  The product's own codec is tested
against this one, so nothing here may be shared with it.

All functions work on the network namespace of the calling thread; ``Conntrack``
and ``Events`` stay in the one in which they were made.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType

from hak2k.lab.cttypes import (
    ASSURED,
    CONFIRMED,
    DST_NAT,
    DST_NAT_DONE,
    DYING,
    EXPECTED,
    FIXED_TIMEOUT,
    HELPER,
    OFFLOAD,
    PROTOCOLS,
    SCTP_STATES,
    SEEN_REPLY,
    SEQ_ADJUST,
    SRC_NAT,
    SRC_NAT_DONE,
    STANDBY_FIELDS,
    TCP_BE_LIBERAL,
    TCP_CLOSE_INIT,
    TCP_DATA_UNACK,
    TCP_MAXACK_SET,
    TCP_SACK_PERM,
    TCP_STATES,
    TCP_WINDOW_SCALE,
    Entry,
    Expectation,
    Key,
    Sctp,
    SeqAdj,
    Synproxy,
    Table,
    Tcp,
    Tuple,
    differences,
)
from hak2k.lab.netlink import (
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Interrupted,
    Message,
    NetlinkError,
    NetlinkSocket,
    attr,
    nest,
    parse_attrs,
    split,
    text,
)

SUBSYS_CT, SUBSYS_EXP = 1, 2
MSG_NEW, MSG_GET, MSG_DELETE = 0, 1, 2
_MSG_GET_STATS = 5

GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY = 1, 2, 3
GROUP_EXP_NEW, GROUP_EXP_UPDATE, GROUP_EXP_DESTROY = 4, 5, 6
ALL_GROUPS = (1, 2, 3, 4, 6)

__all__ = [
    "ALL_GROUPS",
    "ASSURED",
    "CONFIRMED",
    "DST_NAT",
    "DST_NAT_DONE",
    "DYING",
    "EXPECTED",
    "FIXED_TIMEOUT",
    "HELPER",
    "OFFLOAD",
    "PROTOCOLS",
    "SCTP_STATES",
    "SEEN_REPLY",
    "SEQ_ADJUST",
    "SRC_NAT",
    "SRC_NAT_DONE",
    "STANDBY_FIELDS",
    "TCP_BE_LIBERAL",
    "TCP_CLOSE_INIT",
    "TCP_DATA_UNACK",
    "TCP_MAXACK_SET",
    "TCP_SACK_PERM",
    "TCP_STATES",
    "TCP_WINDOW_SCALE",
    "Conntrack",
    "Entry",
    "Event",
    "Events",
    "Expectation",
    "Key",
    "Sctp",
    "SeqAdj",
    "Synproxy",
    "Table",
    "Tcp",
    "Tuple",
    "decode_entry",
    "decode_event",
    "decode_expectation",
    "decode_tuple",
    "differences",
    "encode_entry",
    "encode_expectation",
    "encode_tuple",
]


# -- decoding --------------------------------------------------------------------


def _u8(data: bytes) -> int:
    return data[0]


def _be16(data: bytes) -> int:
    return int(struct.unpack(">H", data)[0])


def _be32(data: bytes) -> int:
    return int(struct.unpack(">I", data)[0])


def _be64(data: bytes) -> int:
    return int(struct.unpack(">Q", data)[0])


def decode_tuple(data: bytes) -> Tuple:
    """Decode the inside of a tuple attribute."""
    outer = parse_attrs(data)
    ip, proto = parse_attrs(outer.get(1, b"")), parse_attrs(outer.get(2, b""))
    family = socket.AF_INET6 if 3 in ip or 4 in ip else socket.AF_INET
    blank = bytes(16 if family == socket.AF_INET6 else 4)
    icmp = None
    for base in (4, 7):
        if base in proto:
            kind, code = proto[base + 1], proto[base + 2]
            icmp = (_be16(proto[base]), _u8(kind), _u8(code))
    return Tuple(
        src=socket.inet_ntop(family, ip.get(1, ip.get(3, blank))),
        dst=socket.inet_ntop(family, ip.get(2, ip.get(4, blank))),
        proto=_u8(proto.get(1, b"\0")),
        sport=_be16(proto[2]) if 2 in proto else None,
        dport=_be16(proto[3]) if 3 in proto else None,
        icmp=icmp,
        zone=_be16(outer[3]) if 3 in outer else None,
    )


def _state(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else str(number)


def _decode_protoinfo(data: bytes) -> tuple[Tcp | None, Sctp | None]:
    inner = parse_attrs(data)
    tcp = sctp = None
    if 1 in inner:
        parts = parse_attrs(inner[1])
        tcp = Tcp(
            state=_state(TCP_STATES, _u8(parts.get(1, b"\0"))),
            wscale=(_u8(parts.get(2, b"\0")), _u8(parts.get(3, b"\0"))),
            flags=(_u8(parts.get(4, b"\0")), _u8(parts.get(5, b"\0"))),
        )
    if 3 in inner:
        parts = parse_attrs(inner[3])
        sctp = Sctp(
            state=_state(SCTP_STATES, _u8(parts.get(1, b"\0"))),
            vtags=(_be32(parts.get(2, bytes(4))), _be32(parts.get(3, bytes(4)))),
        )
    return tcp, sctp


def _decode_seqadj(data: bytes | None) -> SeqAdj | None:
    if data is None:
        return None
    parts = parse_attrs(data)
    values = struct.unpack(">Iii", b"".join(parts.get(i, bytes(4)) for i in (1, 2, 3)))
    # The kernel lists the numbers of both directions as soon as one is shifted.
    return SeqAdj(*values) if any(values) else None


def _decode_pair(data: bytes | None) -> tuple[int, int] | None:
    if data is None:
        return None
    parts = parse_attrs(data)
    return _be64(parts.get(1, bytes(8))), _be64(parts.get(2, bytes(8)))


def decode_entry(body: bytes) -> Entry:
    """Decode a conntrack message body (from its ``nfgenmsg`` on).

    Raises:
        ValueError: the attributes are inconsistent.
        KeyError: one of the tuples is missing.
    """
    a = parse_attrs(body[4:])
    tcp, sctp = _decode_protoinfo(a[4]) if 4 in a else (None, None)
    help_parts = parse_attrs(a[5]) if 5 in a else {}
    synproxy = None
    if 24 in a:
        parts = parse_attrs(a[24])
        numbers = [_be32(parts.get(i, bytes(4))) for i in (1, 2, 3)]
        # Entries made over ctnetlink always list these, as zeroes if unused.
        synproxy = Synproxy(*numbers) if any(numbers) else None
    return Entry(
        orig=decode_tuple(a[1]),
        reply=decode_tuple(a[2]),
        zone=_be16(a[18]) if 18 in a else 0,
        status=_be32(a[3]) if 3 in a else 0,
        timeout=_be32(a[7]) if 7 in a else 0,
        mark=_be32(a[8]) if 8 in a else 0,
        labels=int.from_bytes(a.get(22, b""), "little"),
        tcp=tcp,
        sctp=sctp,
        helper=help_parts.get(1, b"").rstrip(b"\0").decode(),
        help_info=help_parts.get(2, b""),
        master=decode_tuple(a[14]) if 14 in a else None,
        seqadj_orig=_decode_seqadj(a.get(15)),
        seqadj_reply=_decode_seqadj(a.get(16)),
        synproxy=synproxy,
        id=_be32(a[12]) if 12 in a else 0,
        use=_be32(a[11]) if 11 in a else 0,
        counters_orig=_decode_pair(a.get(9)),
        counters_reply=_decode_pair(a.get(10)),
        timestamp=_decode_pair(a.get(20)),
        present=frozenset(a),
    )


def decode_expectation(body: bytes) -> Expectation:
    """Decode an expectation message body (from its ``nfgenmsg`` on).

    Raises:
        ValueError: the attributes are inconsistent.
        KeyError: a tuple is missing.
    """
    a = parse_attrs(body[4:])
    nat = None
    if 10 in a:
        parts = parse_attrs(a[10])
        nat = (_be32(parts[1]), decode_tuple(parts[2]))
    return Expectation(
        master=decode_tuple(a[1]),
        expected=decode_tuple(a[2]),
        mask=decode_tuple(a[3]),
        timeout=_be32(a[4]) if 4 in a else 0,
        id=_be32(a[5]) if 5 in a else 0,
        helper=a.get(6, b"").rstrip(b"\0").decode(),
        zone=_be16(a[7]) if 7 in a else 0,
        flags=_be32(a[8]) if 8 in a else 0,
        klass=_be32(a[9]) if 9 in a else 0,
        nat=nat,
        function=a.get(11, b"").rstrip(b"\0").decode(),
    )


# -- encoding --------------------------------------------------------------------


def _a8(kind: int, value: int) -> bytes:
    return attr(kind, bytes([value]))


def _a16(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack(">H", value))


def _a32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack(">I", value & 0xFFFFFFFF))


def encode_tuple(kind: int, t: Tuple) -> bytes:
    """Encode ``t`` as an attribute of type ``kind``."""
    v6 = ":" in t.src
    ip = nest(
        1,
        attr(3 if v6 else 1, socket.inet_pton(t.family, t.src)),
        attr(4 if v6 else 2, socket.inet_pton(t.family, t.dst)),
    )
    proto = _a8(1, t.proto)
    if t.sport is not None:
        proto += _a16(2, t.sport)
    if t.dport is not None:
        proto += _a16(3, t.dport)
    if t.icmp is not None:
        base = 7 if v6 else 4
        proto += _a16(base, t.icmp[0])
        proto += _a8(base + 1, t.icmp[1]) + _a8(base + 2, t.icmp[2])
    zone = _a16(3, t.zone) if t.zone is not None else b""
    return nest(kind, ip, nest(2, proto), zone)


def _encode_nat(kind: int, address: str, port: int | None) -> bytes:
    v6 = ":" in address
    raw = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, address)
    parts = attr(4 if v6 else 1, raw) + attr(5 if v6 else 2, raw)
    if port is not None:
        parts += nest(3, _a16(1, port), _a16(2, port))
    return nest(kind, parts)


def _encode_protoinfo(entry: Entry) -> bytes:
    if entry.tcp is not None:
        tcp = entry.tcp
        state = TCP_STATES.index(tcp.state) if tcp.state in TCP_STATES else 0
        return nest(
            4,
            nest(
                1,
                _a8(1, state),
                _a8(2, tcp.wscale[0]),
                _a8(3, tcp.wscale[1]),
                attr(4, bytes((tcp.flags[0], 0xFF))),
                attr(5, bytes((tcp.flags[1], 0xFF))),
            ),
        )
    if entry.sctp is not None:
        sctp = entry.sctp
        state = SCTP_STATES.index(sctp.state) if sctp.state in SCTP_STATES else 0
        vtags = _a32(2, sctp.vtags[0]) + _a32(3, sctp.vtags[1])
        return nest(4, nest(3, _a8(1, state), vtags))
    return b""


def _encode_seqadj(kind: int, value: SeqAdj | None) -> bytes:
    if value is None:
        return b""
    parts = (value.position, value.before, value.after)
    return nest(kind, *(_a32(i + 1, part) for i, part in enumerate(parts)))


def _encode_labels(labels: int) -> bytes:
    return attr(22, labels.to_bytes(16, "little"))


def encode_entry(entry: Entry, *, create: bool = True) -> bytes:
    """Encode ``entry`` as a message body that creates or updates it.

    A translated entry is created from its *untranslated* reply direction plus
    the translation; the kernel then computes the reply itself.  The kernel
    takes no translation in an update, nor a master.
    """
    body = struct.pack("=BBH", entry.orig.family, 0, 0)
    body += encode_tuple(1, entry.orig)
    # A zone of one direction stays that direction's.
    plain = replace(entry.orig.inverse(), zone=entry.reply.zone)
    if create and entry.natted:
        body += encode_tuple(2, plain)

        def port(value: int | None) -> int | None:
            return entry.reply.icmp[0] if entry.reply.icmp else value

        if entry.status & SRC_NAT:
            body += _encode_nat(6, entry.reply.dst, port(entry.reply.dport))
        if entry.status & DST_NAT:
            body += _encode_nat(13, entry.reply.src, port(entry.reply.sport))
    elif create:
        body += encode_tuple(2, entry.reply)
    if entry.zone:
        body += _a16(18, entry.zone)
    settable = SEEN_REPLY | ASSURED | CONFIRMED | FIXED_TIMEOUT
    kept = settable if create else settable | EXPECTED
    body += _a32(3, entry.status & kept | CONFIRMED) + _a32(7, entry.timeout)
    body += _a32(8, entry.mark)
    if entry.labels:
        body += _encode_labels(entry.labels)
    body += _encode_protoinfo(entry)
    if entry.helper:
        body += nest(5, text(1, entry.helper))
    if create and entry.master is not None:
        body += encode_tuple(14, entry.master)
    body += _encode_seqadj(15, entry.seqadj_orig)
    body += _encode_seqadj(16, entry.seqadj_reply)
    if entry.synproxy is not None:
        s = entry.synproxy
        body += nest(24, _a32(1, s.isn), _a32(2, s.its), _a32(3, s.tsoff))
    return body


def encode_expectation(expectation: Expectation) -> bytes:
    """Encode ``expectation`` as a message body that creates it."""
    e = expectation
    body = struct.pack("=BBH", e.expected.family, 0, 0)
    body += encode_tuple(1, e.master) + encode_tuple(2, e.expected)
    body += encode_tuple(3, e.mask)
    body += _a32(4, e.timeout) + _a32(8, e.flags) + _a32(9, e.klass)
    if e.zone:
        body += _a16(7, e.zone)
    if e.nat is not None:
        body += nest(10, _a32(1, e.nat[0]), encode_tuple(2, e.nat[1]))
    if e.helper:
        body += text(6, e.helper)
    if e.function:
        body += text(11, e.function)
    return body


def _by_key(zone: int, t: Tuple) -> bytes:
    body = struct.pack("=BBH", t.family, 0, 0) + encode_tuple(1, t)
    return body + (_a16(18, zone) if zone else b"")


# -- talking to the kernel ---------------------------------------------------------


class Conntrack:
    """The connection tracking table of the namespace the object was made in."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER, receive_buffer=1 << 25)

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        self._socket.close()

    def __enter__(self) -> Conntrack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def portid(self) -> int:
        """The netlink port that changes made through this object are marked with."""
        return self._socket.portid

    def request(
        self, message: int, body: bytes, flags: int = 0, subsystem: int = SUBSYS_CT
    ) -> list[Message]:
        """Send a hand-made request.

        Raises:
            NetlinkError: refused.
        """
        return self._socket.request(subsystem << 8 | message, body, flags)

    def _dump(self, subsystem: int) -> list[Message]:
        body = struct.pack("=BBH", 0, 0, 0)
        for _ in range(20):
            try:
                return self._socket.dump(subsystem << 8 | MSG_GET, body)
            except Interrupted:
                continue  # resized or overtaken: the next one may be whole
        raise Interrupted(errno.EINTR, "the table never held still for a dump")

    def dump(self, where: Callable[[Entry], bool] | None = None) -> Table:
        """List the table, by key; ``where`` selects."""
        entries = (decode_entry(message.body) for message in self._dump(SUBSYS_CT))
        return {e.key: e for e in entries if where is None or where(e)}

    def get(self, orig: Tuple, zone: int = 0) -> Entry | None:
        """Look one entry up by its original (or reply) tuple."""
        try:
            answers = self.request(MSG_GET, _by_key(zone, orig))
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return decode_entry(answers[0].body)

    def create(self, *entries: Entry) -> None:
        """Create entries in one system call.

        Raises:
            NetlinkError: ``EEXIST``, ``ENOENT`` (no such master) and so on; the
                other entries are created all the same.
        """
        kind, flags = SUBSYS_CT << 8 | MSG_NEW, NLM_F_CREATE | NLM_F_EXCL
        for start in range(0, len(entries), 200):
            chunk = entries[start : start + 200]
            self._socket.requests([(kind, flags, encode_entry(e)) for e in chunk])

    def update(self, *entries: Entry) -> None:
        """Update entries, found by their original tuple.

        Raises:
            NetlinkError: ``ENOENT``, ``EBUSY`` and so on.
        """
        kind = SUBSYS_CT << 8 | MSG_NEW
        self._socket.requests([(kind, 0, encode_entry(entry, create=False)) for entry in entries])

    def change(
        self,
        entry: Entry,
        *,
        timeout: int | None = None,
        mark: int | None = None,
        labels: int | None = None,
        status: int | None = None,
    ) -> None:
        """Change only the named fields of an entry in the kernel.

        Raises:
            NetlinkError: refused.
        """
        body = _by_key(entry.zone, entry.orig)
        if timeout is not None:
            body += _a32(7, timeout)
        if mark is not None:
            body += _a32(8, mark)
        if labels is not None:
            body += _encode_labels(labels)
        if status is not None:
            body += _a32(3, status)
        self.request(MSG_NEW, body)

    def delete(self, *entries: Entry) -> None:
        """Delete entries, found by their original tuple.

        Raises:
            NetlinkError: ``ENOENT``.
        """
        kind = SUBSYS_CT << 8 | MSG_DELETE
        self._socket.requests([(kind, 0, _by_key(e.zone, e.orig)) for e in entries])

    def flush(self) -> None:
        """Delete every entry, and with them every expectation."""
        self.request(MSG_DELETE, struct.pack("=BBH", 0, 0, 0))

    def count(self) -> int:
        """How many entries there are, without listing them."""
        answers = self.request(_MSG_GET_STATS, struct.pack("=BBH", 0, 0, 0))
        return _be32(parse_attrs(answers[0].body[4:])[1])

    def expectations(self) -> list[Expectation]:
        """List the expectations."""
        return [decode_expectation(m.body) for m in self._dump(SUBSYS_EXP)]

    def expect(self, *expectations: Expectation) -> None:
        """Create expectations; the kernel's helper policy sets their time-out.

        Raises:
            NetlinkError: ``ENOENT`` (no master), ``EOPNOTSUPP`` (no helper).
        """
        kind, flags = SUBSYS_EXP << 8 | MSG_NEW, NLM_F_CREATE | NLM_F_EXCL
        self._socket.requests([(kind, flags, encode_expectation(e)) for e in expectations])

    def unexpect(self, expectation: Expectation) -> None:
        """Delete one expectation.

        Raises:
            NetlinkError: ``ENOENT``.
        """
        t = expectation.expected
        body = struct.pack("=BBH", t.family, 0, 0) + encode_tuple(2, t)
        body += _a16(7, expectation.zone) if expectation.zone else b""
        self.request(MSG_DELETE, body, subsystem=SUBSYS_EXP)


@dataclass(frozen=True)
class Event:
    """One multicast notification; ``portid`` is 0 if a packet or the clock did it."""

    kind: str  # new, update, destroy, exp_new, exp_destroy
    portid: int
    entry: Entry | None = None
    expectation: Expectation | None = None


def decode_event(message: Message) -> Event:
    """Decode a notification.

    Raises:
        ValueError: it is neither about an entry nor about an expectation.
    """
    subsystem, kind = message.kind >> 8, message.kind & 0xFF
    if subsystem == SUBSYS_CT and kind in (MSG_NEW, MSG_DELETE):
        name = "destroy"
        if kind == MSG_NEW:
            name = "new" if message.flags & (NLM_F_CREATE | NLM_F_EXCL) else "update"
        return Event(name, message.portid, entry=decode_entry(message.body))
    if subsystem == SUBSYS_EXP and kind in (MSG_NEW, MSG_DELETE):
        name = "exp_new" if kind == MSG_NEW else "exp_destroy"
        expectation = decode_expectation(message.body)
        return Event(name, message.portid, expectation=expectation)
    raise ValueError(f"unexpected netlink message {message.kind:#x}")


class Events:
    """A subscription to the notifications of the namespace it was made in.

    Args:
        groups: the multicast groups; all by default.
        receive_buffer: bytes.
    """

    def __init__(self, groups: Iterable[int] = ALL_GROUPS, receive_buffer: int = 1 << 25) -> None:
        self._socket = NetlinkSocket(
            NETLINK_NETFILTER, groups=tuple(groups), receive_buffer=receive_buffer
        )

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        self._socket.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The file descriptor, for ``select``."""
        return self._socket.fileno()

    def read(self, timeout: float = 0.0) -> list[Event]:
        """Everything that is queued, waiting up to ``timeout`` s for the first.

        Raises:
            OSError: ``ENOBUFS``: notifications were lost.
        """
        found: list[Event] = []
        while select.select([self._socket], [], [], 0 if found else timeout)[0]:
            datagram = self._socket.socket.recv(1 << 18)
            found.extend(decode_event(message) for message in split(datagram))
        return found

    def stream(self, seconds: float) -> Iterator[Event]:
        """Yield events as they come, for ``seconds``."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            yield from self.read(left)
