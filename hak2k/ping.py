"""ICMP and ICMPv6 echo: whether a machine answers."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

_ECHO: Final = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_TYPES: Final = {4: (8, 0), 6: (128, 129)}  # request, reply


class Echo:
    """One question to one address, on a socket of its own.

    Raises PermissionError: neither CAP_NET_RAW nor net.ipv4.ping_group_range allows it.
    Raises OSError: no way there.
    """

    def __init__(self, address: str, interface: str | None = None) -> None:
        self._version = ipaddress.ip_address(address).version
        self._secret = os.urandom(16)
        self.socket = _open(self._version)
        try:
            if interface:
                self.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode()
                )
            self.socket.connect((address, 0))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self) -> None:
        """Raises OSError."""
        secret = self._secret
        head = _ECHO.pack(_TYPES[self._version][0], 0, 0, int.from_bytes(secret[:2], "big"), 1)
        if self._version == 4:  # ICMPv6's is the kernel's work
            head = head[:2] + _checksum(head + secret) + head[4:]
        self.socket.send(head + secret)

    def answered(self, data: bytes) -> bool:
        """Whether this, which the socket received, is the answer."""
        if self._version == 4 and self.socket.type == socket.SOCK_RAW and data:
            data = data[(data[0] & 0xF) * 4 :]
        reply = _TYPES[self._version][1]
        return len(data) >= _ECHO.size and data[0] == reply and data[_ECHO.size :] == self._secret


def _open(version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    try:
        return socket.socket(family, socket.SOCK_RAW, protocol)
    except PermissionError:
        # Without privileges, if net.ipv4.ping_group_range has our group.
        return socket.socket(family, socket.SOCK_DGRAM, protocol)


def _checksum(data: bytes) -> bytes:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")


async def answering(addresses: Sequence[str], timeout_s: float) -> str | None:
    """The first of the addresses to answer, all asked at once; None: none in time.
    Raises PermissionError."""
    loop = asyncio.get_running_loop()

    async def ask(address: str) -> str | None:
        try:
            with Echo(address) as echo:
                echo.socket.setblocking(False)
                echo.send()
                while not echo.answered(await loop.sock_recv(echo.socket, 2048)):
                    pass
        except PermissionError:
            raise
        except OSError:  # nobody is there, says a router or our own neighbour table
            return None
        return address

    asked = [asyncio.ensure_future(ask(a)) for a in addresses]
    try:
        for done in asyncio.as_completed(asked, timeout=timeout_s):
            found = await done
            if found is not None:
                return found
    except TimeoutError:
        pass
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return None
