"""gateway: a neighbour that must answer pings (ICMP and ICMPv6 echo).

Only the active node can ask: the data interfaces of a passive one are mute.  What a node
found while it was active stays as it is while it is passive, so that two nodes which
both lost the gateway do not hand the role back and forth.
"""

from __future__ import annotations

import ipaddress
import select
import time
from collections.abc import Mapping
from typing import Any, Final

from hak2k.health import kind
from hak2k.health.hwmon import INTERFACE
from hak2k.health.kind import Context, Kind, Option, Sample
from hak2k.ping import Echo


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    address = options["address"]
    try:
        with Echo(address, options.get("interface")) as echo:
            took = _ping(echo, context.timeout_s)
    except PermissionError:
        return kind.bad("pings are not allowed: CAP_NET_RAW or net.ipv4.ping_group_range")
    except OSError as e:
        return kind.bad(f"{address}: {e.strerror}")
    if took is None:
        return kind.bad(f"{address} does not answer")
    return kind.good(f"{address} answers in {took * 1000:.1f} ms")


def _ping(echo: Echo, timeout_s: float) -> float | None:
    """Seconds until the answer; None: none in time."""
    started = time.monotonic()
    echo.send()
    while True:
        left = started + timeout_s - time.monotonic()
        if left <= 0 or not select.select([echo.socket], [], [], left)[0]:
            return None
        if echo.answered(echo.socket.recv(2048)):
            return time.monotonic() - started


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
