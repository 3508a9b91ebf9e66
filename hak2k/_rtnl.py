"""A few questions to rtnetlink, and orders, with nothing but `socket` and `struct`.

pyroute2 asks the same, but takes 0.3 s to import and about 0.5 ms an answer to
decode, which at ten polls a second of four interfaces is 2 % of a CPU; this takes
a twentieth.  /sys/class/net would be simpler still, but it shows the network
namespace in which it was mounted, which need not be ours.

Formats: linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from hak2k.errors import KernelError

Address = IPv4Interface | IPv6Interface

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_RTATTR = struct.Struct("=HH")

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, 3 lengths, table, protocol, scope, type, flags

_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLM_F_MAKE = _NLM_F_ACK | 0x600  # NLM_F_CREATE, NLM_F_EXCL
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_OPERSTATE = 1, 3, 16
_IFLA_MASTER, _IFLA_LINKINFO = 10, 18
_IFLA_EXT_MASK, _IFLA_CARRIER = 29, 33
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_DATA = 1, 2, 5  # in IFLA_LINKINFO
_BOND_AD_INFO, _AD_INFO_AGGREGATOR = 23, 1  # in INFO_DATA: the aggregator in use
_SLAVE_MII_STATUS, _SLAVE_AGGREGATOR = 2, 6  # in INFO_SLAVE_DATA of a bond's member
_RTEXT_FILTER_SKIP_STATS = 8  # keeps the answer short
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD, _IFA_F_PERMANENT = 0x02, 0x80
_RTA_OIF, _RTA_MULTIPATH = 4, 9
_RTNH = struct.Struct("=HBBi")  # length, flags, hops, index of the interface
_RTNH_F_ONLINK = 4
_SCOPE_LINK = 253
# Boot, static, DHCP: others have an owner that sees the link come back.
_KEPT_PROTOCOLS = (3, 4, 16)
_IFF_UP = 1
_OPER_UNKNOWN, _OPER_UP = 0, 6


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface as the kernel describes it."""

    name: str
    index: int
    type: int
    """ARPHRD type; 1: Ethernet."""
    mac: bytes
    up: bool
    """Administratively."""
    carrier: bool
    operstate: int
    """IF_OPER_*; 6 up, 0 unknown (a driver that does not say)."""
    kind: str = ""
    """What made it: "bond", "vlan" ...; empty: hardware, or it does not say."""
    aggregator: int | None = None
    """Of a bond with LACP: the group of members in use."""

    @property
    def aggregate(self) -> bool:
        """Whether it stands for several members."""
        return self.kind in ("bond", "team")

    @property
    def working(self) -> bool:
        return self.up and self.carrier and self.operstate in (_OPER_UP, _OPER_UNKNOWN)


def _attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _RTATTR.size <= len(data):
        length, kind = _RTATTR.unpack_from(data, at)
        if length < _RTATTR.size or at + length > len(data):
            return
        # The two upper bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        yield kind & 0x3FFF, data[at + _RTATTR.size : at + length]
        at += (length + 3) & ~3


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NLMSG.size <= len(data):
        length, kind, _, _, _ = _NLMSG.unpack_from(data, at)
        if length < _NLMSG.size or at + length > len(data):
            return
        yield kind, data[at + _NLMSG.size : at + length]
        at += (length + 3) & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    pad = b"\0" * (-len(value) % 4)
    return _RTATTR.pack(_RTATTR.size + len(value), kind) + value + pad


class Rtnl:
    """A socket for both.  Not for several threads at once.

    Methods raise KernelError when the kernel refuses or does not answer in 2 s.
    """

    def __init__(self) -> None:
        self._socket = _open(0)
        # Not settimeout(): that would cost a poll() before each answer.
        limit = struct.pack("ll", 2, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._sequence = 0
        # Question, last answer and what it meant: nearly always the same again.
        self._seen: dict[str, tuple[bytes, bytes, Link | None]] = {}
        self._members: dict[int, tuple[int | None, list[bytes], dict[str, bool]]] = {}

    def close(self) -> None:
        self._socket.close()

    def _ask(self, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
        self._sequence += 1
        head = _NLMSG.pack(_NLMSG.size + len(body), kind, _NLM_F_REQUEST | flags, self._sequence, 0)
        answers: list[tuple[int, bytes]] = []
        try:
            self._socket.send(head + body)
            while True:
                data = self._socket.recv(65536)
                # Leftovers of a question that timed out.
                if _NLMSG.unpack_from(data)[3] != self._sequence:
                    continue
                for kind_, payload in _messages(data):
                    if kind_ == _NLMSG_DONE:
                        return answers
                    if kind_ == _NLMSG_ERROR:
                        code = -struct.unpack_from("=i", payload)[0]
                        if code == 0:  # it is done
                            return answers
                        raise OSError(code, os.strerror(code))
                    answers.append((kind_, payload))
                if not flags & _NLM_F_DUMP:
                    return answers
        except OSError as e:
            raise KernelError("rtnetlink", e.errno or errno.ETIMEDOUT) from e

    def link(self, name: str) -> Link | None:
        """The interface of that name; None: there is none."""
        body, last, link = self._seen.get(name, (b"", b"", None))
        if not body:
            mask = struct.pack("=I", _RTEXT_FILTER_SKIP_STATS)
            body = (
                _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
                + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
                + _attribute(_IFLA_EXT_MASK, mask)
            )
        try:
            answers = self._ask(_RTM_GETLINK, 0, body)
        except KernelError as e:
            if e.errno == errno.ENODEV:
                return None
            raise
        payload = next((p for kind, p in answers if kind == _RTM_NEWLINK), b"")
        if payload != last:
            link = _link(payload, name) if payload else None
        self._seen[name] = (body, payload, link)
        return link

    def members(self, master: Link) -> dict[str, bool]:
        """Whether each member of an aggregate works: it has a carrier, the bond thinks so
        too, and with LACP it is in the group in use."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        body += _attribute(_IFLA_MASTER, struct.pack("=I", master.index))
        body += _attribute(_IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
        answers = self._ask(_RTM_GETLINK, _NLM_F_DUMP, body)
        payloads = [p for kind, p in answers if kind == _RTM_NEWLINK]
        seen = self._members.get(master.index)
        if seen is None or seen[:2] != (master.aggregator, payloads):
            found = dict(m for p in payloads if (m := _member(p, master)) is not None)
            seen = self._members[master.index] = (master.aggregator, payloads, found)
        return seen[2]

    def addresses(self) -> list[tuple[int, bytes]]:
        """(interface index, address of 4 or 16 bytes), all of this netns."""
        out = []
        body = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        for kind, payload in self._ask(_RTM_GETADDR, _NLM_F_DUMP, body):
            if kind != _RTM_NEWADDR:
                continue
            index, address = _owner(payload)
            if address:
                out.append((index, address))
        return out

    # --- what changes something ---

    def add_address(self, index: int, address: Address) -> bool:
        """Give an interface an address, without a search for duplicates; False: it has
        it already."""
        v6 = address.version == 6
        family = socket.AF_INET6 if v6 else socket.AF_INET
        packed = address.ip.packed
        body = _IFADDR.pack(family, address.network.prefixlen, 0, 0, index)
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        if v6:
            body += _attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD))
        return self._make(_RTM_NEWADDR, body)

    def remove_addresses(self, unwanted: Container[tuple[int, bytes]]) -> list[bytes]:
        """Remove (interface index, address), the latest first: what the kernel calls
        secondary goes before its primary.  Those that were there."""
        out = []
        body = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        for kind, payload in reversed(self._ask(_RTM_GETADDR, _NLM_F_DUMP, body)):
            index, address = _owner(payload)
            if kind == _RTM_NEWADDR and (index, address) in unwanted:
                self._ask(_RTM_DELADDR, _NLM_F_ACK, payload)
                out.append(address)
        return out

    def set_up(self, index: int, up: bool) -> None:
        """Administratively."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, _IFF_UP if up else 0, _IFF_UP)
        self._ask(_RTM_NEWLINK, _NLM_F_ACK, body)

    def forgettable(self, indexes: Container[int]) -> list[tuple[int, bytes]]:
        """What the kernel forgets of interfaces that go down, and nobody brings back:
        IPv6 addresses, static routes.  For `remember`, once they are up."""
        found = []
        for kind, payload in self._ask(_RTM_GETADDR, _NLM_F_DUMP, _IFADDR.pack(10, 0, 0, 0, 0)):
            _, _, flags, scope, index = _IFADDR.unpack_from(payload)
            if index in indexes and scope != _SCOPE_LINK and flags & _IFA_F_PERMANENT:
                found.append((kind, payload))
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for kind, payload in self._ask(_RTM_GETROUTE, _NLM_F_DUMP, body):
                if _RTMSG.unpack_from(payload)[5] not in _KEPT_PROTOCOLS:
                    continue
                ways, route = _at_rest(payload)
                if any(i in indexes for i in ways):
                    found.append((kind, route))
        return found

    def remember(self, what: list[tuple[int, bytes]]) -> int:
        """Bring back what `forgettable` found; how much of it was refused."""
        for _ in range(3):  # a route may need another one
            refused = []
            for kind, payload in what:
                try:
                    self._make(kind, payload)
                except KernelError:
                    refused.append((kind, payload))
            what = refused
        return len(what)

    def _make(self, kind: int, body: bytes) -> bool:
        try:
            self._ask(kind, _NLM_F_MAKE, body)
        except KernelError as e:
            if e.errno == errno.EEXIST:
                return False
            raise
        return True


def _owner(payload: bytes) -> tuple[int, bytes]:
    """(interface index, address) of a message about an address."""
    found = dict(_attributes(payload, _IFADDR.size))
    # On point-to-point devices ADDRESS is the other end's.
    address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS) or b""
    return _IFADDR.unpack_from(payload)[4], address


def _at_rest(payload: bytes) -> tuple[list[int], bytes]:
    """The interfaces through which a route leads, by index; and the route without what
    says that it is dead at present, which the kernel would not take back."""
    *head, flags = _RTMSG.unpack_from(payload)
    out, ways = [_RTMSG.pack(*head, flags & _RTNH_F_ONLINK)], []
    for kind, value in _attributes(payload, _RTMSG.size):
        if kind == _RTA_OIF:
            ways.append(int(struct.unpack("=i", value)[0]))
        if kind == _RTA_MULTIPATH:
            hops, at = bytearray(value), 0
            while at + _RTNH.size <= len(hops):
                length, flags, more, index = _RTNH.unpack_from(hops, at)
                ways.append(index)
                _RTNH.pack_into(hops, at, length, flags & _RTNH_F_ONLINK, more, index)
                at += max((length + 3) & ~3, _RTNH.size)
            value = bytes(hops)
        out.append(_attribute(kind, value))
    return ways, b"".join(out)


def _link(payload: bytes, name: str) -> Link:
    _, kind, index, flags, _ = _IFINFO.unpack_from(payload)
    found = dict(_attributes(payload, _IFINFO.size))
    info = dict(_attributes(found.get(_IFLA_LINKINFO, b""), 0))
    made = info.get(_INFO_KIND, b"").rstrip(b"\0").decode()
    bond = dict(_attributes(info.get(_INFO_DATA, b""), 0)) if made == "bond" else {}
    lacp = dict(_attributes(bond.get(_BOND_AD_INFO, b""), 0))
    return Link(
        name=found.get(_IFLA_IFNAME, name.encode()).rstrip(b"\0").decode(),
        index=index,
        type=kind,
        mac=found.get(_IFLA_ADDRESS, b""),
        up=bool(flags & _IFF_UP),
        carrier=found.get(_IFLA_CARRIER, b"\1")[0] != 0,
        operstate=found.get(_IFLA_OPERSTATE, b"\0")[0],
        kind=made,
        aggregator=_u16(lacp.get(_AD_INFO_AGGREGATOR)),
    )


def _member(payload: bytes, master: Link) -> tuple[str, bool] | None:
    """(name, whether it works) of a member; None: it is not one of this master."""
    found = dict(_attributes(payload, _IFINFO.size))
    # A kernel that does not know the filter lists all interfaces.
    if found.get(_IFLA_MASTER) != struct.pack("=I", master.index):
        return None
    link = _link(payload, "")
    info = dict(_attributes(found.get(_IFLA_LINKINFO, b""), 0))
    of_bond = master.kind == "bond"
    slave = dict(_attributes(info.get(_INFO_SLAVE_DATA, b""), 0)) if of_bond else {}
    works = link.working and slave.get(_SLAVE_MII_STATUS, b"\0")[0] == 0
    if master.aggregator is not None:
        works = works and _u16(slave.get(_SLAVE_AGGREGATOR)) == master.aggregator
    return link.name, works


def _u16(value: bytes | None) -> int | None:
    return None if value is None or len(value) < 2 else int(struct.unpack_from("=H", value)[0])


def _open(groups: int) -> socket.socket:
    try:
        s = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        s.bind((0, groups))
    except OSError as e:
        raise KernelError("rtnetlink", e.errno or 0) from e
    return s
