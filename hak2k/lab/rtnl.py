"""Links, addresses and routes of one namespace, over rtnetlink.

Every change is one message, and many changes can go in one system call: a
"power cut" of four links must not take four processes.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from types import TracebackType

from hak2k.lab.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkError,
    NetlinkSocket,
    attr,
    nest,
    parse_attrs,
    text,
)

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE = 24
_RTM_NEWNEIGH = 28

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_IFLA_STATS64, _IFLA_OPERSTATE, _IFLA_CARRIER = 23, 16, 33
_IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 10, 18, 28
_IFLA_GSO_MAX_SEGS = 40
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 4, 5
_VETH_INFO_PEER = 1
_BR_FORWARD_DELAY, _BR_STP_STATE, _BR_MCAST_SNOOPING = 1, 5, 23
_BRPORT_LEARNING = 8
_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NUD_PERMANENT = 0x80


@dataclass(frozen=True)
class Link:
    """A network device as the kernel describes it."""

    index: int
    name: str
    up: bool  # administratively
    carrier: bool
    mac: str
    mtu: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int


@dataclass(frozen=True)
class End:
    """One end of a virtual cable: a device name inside a namespace."""

    namespace: int  # file descriptor
    name: str
    mac: str | None = None
    gso_max_segs: int | None = None


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _interface(address: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    return ipaddress.ip_interface(address)


class Rtnl:
    """rtnetlink of the namespace in which the object was made."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE)
        self._indexes: dict[str, int] = {}

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        self._socket.close()

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- links ---------------------------------------------------------------

    def links(self) -> dict[str, Link]:
        """Every device of the namespace by name, with its counters."""
        found: dict[str, Link] = {}
        for message in self._socket.dump(_RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0)):
            _, _, index, flags, _ = _IFINFO.unpack_from(message.body)
            attrs = parse_attrs(message.body[_IFINFO.size :])
            name = attrs[_IFLA_IFNAME].rstrip(b"\0").decode()
            stats = struct.unpack_from("=4Q", attrs.get(_IFLA_STATS64, bytes(32)))
            found[name] = Link(
                index=index,
                name=name,
                up=bool(flags & _IFF_UP),
                carrier=attrs.get(_IFLA_CARRIER, b"\0")[0] == 1,
                mac=attrs.get(_IFLA_ADDRESS, b"").hex(":"),
                mtu=struct.unpack("=I", attrs[_IFLA_MTU])[0],
                rx_packets=stats[0],
                tx_packets=stats[1],
                rx_bytes=stats[2],
                tx_bytes=stats[3],
            )
        self._indexes = {name: link.index for name, link in found.items()}
        return found

    def index(self, name: str) -> int:
        """The interface index of ``name``.

        Raises:
            KeyError: no such device.
        """
        if name not in self._indexes:
            self.links()
        return self._indexes[name]

    def add_veth(self, near: End, far: End) -> None:
        """Lay a virtual cable between two namespaces; both ends stay down."""
        peer = _IFINFO.pack(0, 0, 0, 0, 0) + self._end(far)
        body = _IFINFO.pack(0, 0, 0, 0, 0) + self._end(near)
        body += nest(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_KIND, "veth"),
            nest(_IFLA_INFO_DATA, attr(_VETH_INFO_PEER, peer)),
        )
        self._socket.request(_RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)

    @staticmethod
    def _end(end: End) -> bytes:
        parts = text(_IFLA_IFNAME, end.name)
        parts += attr(_IFLA_NET_NS_FD, struct.pack("=I", end.namespace))
        if end.mac is not None:
            parts += attr(_IFLA_ADDRESS, _mac_bytes(end.mac))
        if end.gso_max_segs is not None:
            parts += attr(_IFLA_GSO_MAX_SEGS, struct.pack("=I", end.gso_max_segs))
        return parts

    def add_bridge(self, name: str) -> None:
        """Make a bridge that forwards at once: no STP, no delay, no snooping."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name)
        body += nest(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_KIND, "bridge"),
            nest(
                _IFLA_INFO_DATA,
                attr(_BR_FORWARD_DELAY, struct.pack("=I", 0)),
                attr(_BR_STP_STATE, struct.pack("=I", 0)),
                attr(_BR_MCAST_SNOOPING, b"\0"),
            ),
        )
        self._socket.request(_RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)

    def _set_flags(self, names: tuple[str, ...], flags: int) -> None:
        self._socket.requests(
            [
                (
                    _RTM_NEWLINK,
                    0,
                    _IFINFO.pack(0, 0, self.index(name), flags, _IFF_UP),
                )
                for name in names
            ]
        )

    def up(self, *names: str) -> None:
        """Set devices administratively up, all in one system call."""
        self._set_flags(names, _IFF_UP)

    def down(self, *names: str) -> None:
        """Set devices administratively down, in order, in one system call."""
        self._set_flags(names, 0)

    def delete(self, name: str) -> None:
        """Remove a device."""
        self._socket.request(_RTM_DELLINK, _IFINFO.pack(0, 0, self.index(name), 0, 0))
        self._indexes.pop(name, None)

    def set_master(self, name: str, bridge: str | None) -> None:
        """Attach a device to ``bridge``, or detach it (``None``)."""
        master = 0 if bridge is None else self.index(bridge)
        body = _IFINFO.pack(0, 0, self.index(name), 0, 0)
        body += attr(_IFLA_MASTER, struct.pack("=I", master))
        self._socket.request(_RTM_NEWLINK, body)

    def set_learning(self, name: str, learning: bool) -> None:
        """Whether the bridge learns which addresses live behind this port."""
        body = _IFINFO.pack(0, 0, self.index(name), 0, 0)
        body += nest(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_SLAVE_KIND, "bridge"),
            nest(_IFLA_INFO_SLAVE_DATA, attr(_BRPORT_LEARNING, bytes([learning]))),
        )
        self._socket.request(_RTM_NEWLINK, body)

    def set_mac(self, name: str, mac: str) -> None:
        """Give a device another hardware address."""
        body = _IFINFO.pack(0, 0, self.index(name), 0, 0)
        self._socket.request(_RTM_NEWLINK, body + attr(_IFLA_ADDRESS, _mac_bytes(mac)))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set the largest packet (bytes) that a device carries."""
        body = _IFINFO.pack(0, 0, self.index(name), 0, 0)
        body += attr(_IFLA_MTU, struct.pack("=I", mtu))
        self._socket.request(_RTM_NEWLINK, body)

    # -- addresses -----------------------------------------------------------

    def addresses(self, name: str) -> list[str]:
        """The addresses of a device as ``address/length``, link-local ones too."""
        index = self.index(name)
        found = []
        for message in self._socket.dump(_RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0)):
            family, length, _, _, owner = _IFADDR.unpack_from(message.body)
            if owner != index:
                continue
            attrs = parse_attrs(message.body[_IFADDR.size :])
            raw = attrs.get(_IFA_LOCAL, attrs.get(_IFA_ADDRESS, b""))
            found.append(f"{socket.inet_ntop(family, raw)}/{length}")
        return found

    def _address(self, name: str, address: str) -> bytes:
        parsed = _interface(address)
        v6 = parsed.version == 6
        body = _IFADDR.pack(
            socket.AF_INET6 if v6 else socket.AF_INET,
            parsed.network.prefixlen,
            0,
            0,
            self.index(name),
        )
        body += attr(_IFA_LOCAL, parsed.ip.packed)
        body += attr(_IFA_ADDRESS, parsed.ip.packed)
        if v6:
            body += attr(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD))
        return body

    def add_address(self, name: str, *addresses: str) -> None:
        """Add addresses (``address/length``); those already there are kept."""
        self._socket.requests(
            [
                (
                    _RTM_NEWADDR,
                    NLM_F_CREATE | NLM_F_REPLACE,
                    self._address(name, address),
                )
                for address in addresses
            ]
        )

    def remove_address(self, name: str, *addresses: str) -> None:
        """Remove addresses.

        Raises:
            NetlinkError: one of them is not there.
        """
        self._socket.requests(
            [(_RTM_DELADDR, 0, self._address(name, address)) for address in addresses]
        )

    # -- routes and neighbours -------------------------------------------------

    def add_route(self, destination: str, via: str, device: str) -> None:
        """Add a route; ``destination`` is ``default4``, ``default6`` or a prefix."""
        gateway = ipaddress.ip_address(via)
        family = socket.AF_INET6 if gateway.version == 6 else socket.AF_INET
        length, parts = 0, b""
        if not destination.startswith("default"):
            network = ipaddress.ip_network(destination)
            length = network.prefixlen
            parts = attr(_RTA_DST, network.network_address.packed)
        # Table main, protocol static, scope universe, type unicast.
        body = _RTMSG.pack(family, length, 0, 0, 254, 4, 0, 1, 0) + parts
        body += attr(_RTA_GATEWAY, gateway.packed)
        body += attr(_RTA_OIF, struct.pack("=I", self.index(device)))
        self._socket.request(_RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_REPLACE)

    def set_neighbour(self, name: str, address: str, mac: str) -> None:
        """Pin the hardware address of a neighbour, so that nobody asks for it."""
        target = ipaddress.ip_address(address)
        family = socket.AF_INET6 if target.version == 6 else socket.AF_INET
        body = _NDMSG.pack(family, self.index(name), _NUD_PERMANENT, 0, 0)
        body += attr(1, target.packed) + attr(2, _mac_bytes(mac))
        self._socket.request(_RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE)


__all__ = ["End", "Link", "NetlinkError", "Rtnl"]
