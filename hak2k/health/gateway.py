"""gateway: a neighbour that must answer pings (ICMP and ICMPv6 echo).

Only the active node can ask: the data interfaces of a passive one are mute.  What a node
found while it was active stays as it is while it is passive, so that two nodes which
both lost the gateway do not hand the role back and forth.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

from hak2k.health import kind
from hak2k.health.hwmon import INTERFACE
from hak2k.health.kind import Context, Kind, Option, Sample

_ECHO: Final = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_TYPES: Final = {4: (8, 0), 6: (128, 129)}  # request, reply


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    address = ipaddress.ip_address(options["address"])
    try:
        with _open(address.version) as s:
            if options.get("interface"):
                name = options["interface"].encode()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
            s.connect((str(address), 0))
            took = _ping(s, address.version, context.timeout_s)
    except PermissionError:
        return kind.bad("pings are not allowed: CAP_NET_RAW or net.ipv4.ping_group_range")
    except OSError as e:
        return kind.bad(f"{address}: {e.strerror}")
    if took is None:
        return kind.bad(f"{address} does not answer")
    return kind.good(f"{address} answers in {took * 1000:.1f} ms")


def _open(version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    try:
        return socket.socket(family, socket.SOCK_RAW, protocol)
    except PermissionError:
        # Without privileges, if net.ipv4.ping_group_range has our group.
        return socket.socket(family, socket.SOCK_DGRAM, protocol)


def _ping(s: socket.socket, version: int, timeout_s: float) -> float | None:
    """Seconds until the answer; None: none in time."""
    request, reply = _TYPES[version]
    secret = os.urandom(16)
    head = _ECHO.pack(request, 0, 0, int.from_bytes(secret[:2], "big"), 1)
    if version == 4:  # ICMPv6's is the kernel's work
        head = head[:2] + _checksum(head + secret) + head[4:]
    started = time.monotonic()
    s.send(head + secret)
    while True:
        left = started + timeout_s - time.monotonic()
        if left <= 0 or not select.select([s], [], [], left)[0]:
            return None
        data = s.recv(2048)
        if version == 4 and s.type == socket.SOCK_RAW:
            data = data[(data[0] & 0xF) * 4 :]
        if len(data) >= _ECHO.size and data[0] == reply and data[_ECHO.size :] == secret:
            return time.monotonic() - started


def _checksum(data: bytes) -> bytes:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")


def check(options: Mapping[str, Any]) -> str | None:
    try:
        ipaddress.ip_address(options["address"])
    except ValueError:
        return f"{options['address']!r} is not an IPv4 or IPv6 address"
    return None


KIND: Final = Kind(
    "gateway",
    sample,
    {"address": Option("an IPv4 or IPv6 address", required=True), "interface": INTERFACE},
    interval_s=1.0,
    timeout_s=1.0,
    fail_after=3,
    recover_after=5,
    prompt=False,
    active_only=True,
    check=check,
)
