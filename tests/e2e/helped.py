"""Programs whose protocols need a tracking helper, and the ruleset that assigns it.

Servers and clients of FTP are real ones (pyftpdlib, ftplib).  The others are the few
messages that the protocols themselves need, over real sockets: each side acts on what
arrives, so that an announcement which was not translated, or not expected, leads nowhere.
"""

from __future__ import annotations

import contextlib
import ftplib
import hashlib
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from hak2k.lab import Lab, Node, until
from hak2k.lab import topology as t
from tests.e2e.duo import Duo

# By name of the helper: the protocol and port that select it.
HELPERS = {
    "sip": ("udp", 5060),
    "tftp": ("udp", 69),
    "irc": ("tcp", 6667),
    "amanda": ("udp", 10080),
    "pptp": ("tcp", 1723),
}


def _helpers() -> Iterator[str]:
    for family, l3 in (("4", "ip"), ("6", "ip6")):
        for name, (proto, _) in HELPERS.items():
            if (name, family) not in (("irc", "6"), ("pptp", "6")):  # IPv4 only
                yield f'  ct helper {name}{family} {{\n    type "{name}" protocol {proto}'
                yield f"    l3proto {l3}\n  }}"
    yield "  chain assign {\n    type filter hook prerouting priority filter"
    for name, (proto, port) in HELPERS.items():
        yield f'    meta nfproto ipv4 {proto} dport {port} ct helper set "{name}4"'
    yield '    meta nfproto ipv6 udp dport 69 ct helper set "tftp6"'
    # Calls that come in: not every kernel hands the helper on after a swap.
    yield '    meta nfproto ipv4 udp sport 5060 ct helper set "sip4"'
    yield "  }"


def _published(l3: str, wan: str, inside: str) -> str:
    return f"""
table {l3} published {{
  chain prerouting {{
    type nat hook prerouting priority dstnat - 1
    iifname "wan" {l3} daddr {wan} tcp dport {t.FTP_PORT} dnat to {inside}
    iifname "wan" {l3} daddr {wan} udp dport 10080 dnat to {inside}
  }}
}}
"""


RULESET = (
    t.RULESET
    + "table inet helpers {\n"
    + "\n".join(_helpers())
    + "\n}\n"
    + _published("ip", t.WAN4, t.CLIENT4)
    + _published("ip6", t.WAN6, t.CLIENT6)
)


# -- FTP ---------------------------------------------------------------------------------


@contextlib.contextmanager
def ftpd(node: Node, address: str, folder: Path) -> Iterator[None]:
    """pyftpdlib on port 21, read only, for anonymous."""
    # It compares an announced IPv6 address as text, and the kernel writes it in full.
    options = ["--permit-foreign-addresses"] if ":" in address else []
    process = node.popen(
        sys.executable, "-W", "ignore", "-m", "pyftpdlib",
        "-i", address, "-p", "21", "-d", str(folder), *options,
    )  # fmt: skip
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def listens() -> bool:
            assert process.poll() is None, "pyftpdlib ended"
            with node.socket(family, socket.SOCK_STREAM) as probe:
                return bool(probe.connect_ex((address, 21)) == 0)

        until(listens, 20, f"an FTP server on {address}")
        yield
    finally:
        process.kill()
        process.wait()


class Ftp:
    """ftplib, stopped between its announcement and the data connection.

    Args:
        node, source: whose client it is, and from which address.
        host: where the server is announced.
        how: the command that prepares a transfer: PORT, EPRT, PASV or EPSV.
    """

    def __init__(self, node: Node, source: str, host: str, how: str) -> None:
        self.name = f"{how} {source} -> {host}"
        self._node, self._source, self._how = node, source, how
        self._listener: socket.socket | None = None
        self._target = ("", 0)
        with node.enter():
            self._ftp = ftplib.FTP(timeout=8)
            self._ftp.trust_server_pasv_ipv4_address = True  # as the firewall put it
            self._ftp.connect(host, source_address=(source, 0))
        self._ftp.login()
        self._ftp.voidcmd("TYPE I")

    def announce(self) -> None:
        if self._how in ("PASV", "EPSV"):
            if self._how == "PASV":
                self._target = ftplib.parse227(self._ftp.sendcmd("PASV"))
            else:
                peer = self._ftp.sock.getpeername()
                self._target = ftplib.parse229(self._ftp.sendcmd("EPSV"), peer)
            return
        family = socket.AF_INET6 if ":" in self._source else socket.AF_INET
        self._listener = self._node.socket(family, socket.SOCK_STREAM)
        self._listener.settimeout(8)
        self._listener.bind((self._source, 0))
        self._listener.listen(1)
        port = self._listener.getsockname()[1]
        send = self._ftp.sendport if self._how == "PORT" else self._ftp.sendeprt
        send(self._source, port)

    def fetch(self, name: str) -> str:
        """The file's SHA-256, through the connection announced before."""
        if self._listener is None:
            data = self._node.socket(self._ftp.af, socket.SOCK_STREAM)
            data.settimeout(8)
            data.bind((self._source, 0))
            data.connect(self._target)
            self._ftp.sendcmd(f"RETR {name}")
        else:
            self._ftp.sendcmd(f"RETR {name}")
            data, _ = self._listener.accept()
            data.settimeout(8)
            self._listener.close()
            self._listener = None
        digest = hashlib.sha256()
        with data:
            while part := data.recv(1 << 16):
                digest.update(part)
        self._ftp.voidresp()
        return digest.hexdigest()

    def close(self) -> None:
        self._ftp.close()
        if self._listener is not None:
            self._listener.close()


# -- sockets of the others -----------------------------------------------------------------


class Sockets:
    """Sockets of the lab's hosts, closed together."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._stack = contextlib.ExitStack()

    def udp(self, node: Node, address: str, port: int = 0) -> socket.socket:
        return self._bound(node, address, port, socket.SOCK_DGRAM)

    def listener(self, node: Node, address: str, port: int = 0) -> socket.socket:
        made = self._bound(node, address, port, socket.SOCK_STREAM)
        made.listen()
        return made

    def stream(self, node: Node, source: str, target: tuple[str, int]) -> socket.socket:
        made = self._bound(node, source, 0, socket.SOCK_STREAM)
        made.connect(target)
        return made

    def accept(self, listener: socket.socket) -> socket.socket:
        made = self.keep(listener.accept()[0])
        made.settimeout(5)
        return made

    def keep(self, made: socket.socket) -> socket.socket:
        """Close it with the others."""
        return self._stack.enter_context(made)

    def _bound(self, node: Node, address: str, port: int, kind: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = self.keep(node.socket(family, kind))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(5)
        made.bind((address, port))
        return made

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


# -- SIP -----------------------------------------------------------------------------------


class Message:
    """What arrived: its first line, headers (the first of each name), body, sender."""

    def __init__(self, data: bytes, sender: tuple[str, int]) -> None:
        head, _, self.body = data.decode().partition("\r\n\r\n")
        self.first, *lines = head.split("\r\n")
        self.headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            self.headers.setdefault(name, value.strip())
        self.sender = sender
        assert int(self.headers["Content-Length"]) == len(self.body.encode()), data

    @property
    def contact(self) -> tuple[str, int]:
        match = re.search(r"@([\d.]+):(\d+)", self.headers["Contact"])
        assert match is not None, self.headers
        return match[1], int(match[2])

    @property
    def media(self) -> tuple[str, int]:
        """Where the sender's session description wants to hear."""
        where = re.search(r"^c=IN IP4 (\S+)", self.body, re.M)
        port = re.search(r"^m=audio (\d+) ", self.body, re.M)
        assert where is not None
        assert port is not None
        return where[1], int(port[1])


class Phone:
    """A SIP user agent with one line and RTP.

    Args:
        sockets: keeps its sockets.
        node, address, port: where it is.
    """

    def __init__(self, sockets: Sockets, node: Node, address: str, port: int) -> None:
        self.at = (address, port)
        self._sockets, self._node = sockets, node
        self._socket = sockets.udp(node, address, port)
        self.rtp: socket.socket
        self.new_media()

    def new_media(self) -> socket.socket:
        """An even port, whose successor is for RTCP.  Each call needs its own: the helper
        expects a port for one call at a time."""
        while True:
            self.rtp = self._sockets.udp(self._node, self.at[0])
            if self.rtp.getsockname()[1] % 2 == 0:
                return self.rtp

    def _sdp(self) -> str:
        host, port = self.rtp.getsockname()
        return (
            f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        )

    def _send(self, first: str, headers: dict[str, str], body: str, to: tuple[str, int]) -> None:
        if body:
            headers["Content-Type"] = "application/sdp"
        headers["Content-Length"] = str(len(body))
        lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
        self._socket.sendto(("\r\n".join(lines) + "\r\n\r\n" + body).encode(), to)

    def request(
        self, method: str, to: tuple[str, int], cseq: int, call: str,
        *, sdp: bool = False, expires: int = 600,
    ) -> None:  # fmt: skip
        host, port = self.at
        headers = {
            "Via": f"SIP/2.0/UDP {host}:{port};branch=z9hG4bK{call}{cseq}{method}",
            "Max-Forwards": "70",
            "From": f"<sip:{port}@{host}>;tag={port}",
            "To": f"<sip:bob@{to[0]}>",
            "Call-ID": call,
            "CSeq": f"{cseq} {method}",
            "Contact": f"<sip:{port}@{host}:{port}>",
        }
        if method == "REGISTER":
            headers["Expires"] = str(expires)
        self._send(
            f"{method} sip:bob@{to[0]}:{to[1]} SIP/2.0", headers, self._sdp() if sdp else "", to
        )

    def answer(
        self, asked: Message, status: str = "200 OK", *, sdp: bool = False, expires: int = 600
    ) -> None:
        host, port = self.at
        names = ("Via", "From", "To", "Call-ID", "CSeq")
        headers = {name: asked.headers[name] for name in names}
        if asked.first.startswith("REGISTER"):
            headers["Contact"] = asked.headers["Contact"] + f";expires={expires}"
        else:
            headers["Contact"] = f"<sip:{port}@{host}:{port}>"
        self._send(f"SIP/2.0 {status}", headers, self._sdp() if sdp else "", asked.sender)

    def hear(self, begins: str) -> Message:
        data, sender = self._socket.recvfrom(4096)
        message = Message(data, sender)
        assert message.first.startswith(begins), message.first
        return message


class Line(NamedTuple):
    """The media of a call: each end's socket, and where it was told that the other is."""

    near: socket.socket
    to_far: tuple[str, int]
    far: socket.socket
    to_near: tuple[str, int]

    def there(self) -> None:
        self._speak(self.near, self.to_far, self.far)

    def back(self) -> None:
        self._speak(self.far, self.to_near, self.near)

    @staticmethod
    def _speak(sender: socket.socket, target: tuple[str, int], receiver: socket.socket) -> None:
        """One RTP packet, which has to arrive."""
        packet = struct.pack("!BBHII", 0x80, 0, 1, 160, 7) + os.urandom(160)
        sender.sendto(packet, target)
        assert receiver.recv(4096) == packet


# -- the others ------------------------------------------------------------------------------


def tftp_get(client: socket.socket, name: str, server: str) -> Callable[[], bytes]:
    """Ask for a file; what is returned receives it."""
    client.sendto(struct.pack("!H", 1) + name.encode() + b"\0octet\0", (server, 69))

    def receive() -> bytes:
        got, block = b"", 0
        while True:
            packet, sender = client.recvfrom(1024)
            kind, number = struct.unpack_from("!HH", packet)
            assert (kind, number) == (3, block + 1)
            block, got = number, got + packet[4:]
            client.sendto(struct.pack("!HH", 4, number), sender)
            if len(packet) < 516:
                return got

    return receive


def tftp_put(data: socket.socket, content: bytes, client: tuple[str, int]) -> None:
    """Serve one file from a port of its own, block by block."""
    for at in range(0, len(content) + 1, 512):
        number = at // 512 + 1
        data.sendto(struct.pack("!HH", 3, number) + content[at : at + 512], client)
        assert data.recv(4) == struct.pack("!HH", 4, number)


def line(sender: socket.socket, receiver: socket.socket, text: str) -> str:
    """Send one line; how it arrived."""
    sender.sendall(text.encode() + b"\r\n")
    got = b""
    while not got.endswith(b"\r\n"):
        part = receiver.recv(4096)
        assert part, "closed"
        got += part
    return got.decode().rstrip()


def settle(lab: Lab, active: Node, passive: Node, count: int) -> None:
    """Wait until as many expectations are on the active node, and on the other one too."""

    def same() -> bool:
        mine, theirs = (
            sorted(str(e.identity()) for e in node.expectations()) for node in (active, passive)
        )
        return len(mine) == count and mine == theirs

    def detail() -> str:
        return "\n".join(f"{fw.name}: {e.identity()}" for fw in lab.fw for e in fw.expectations())

    until(same, 5, f"{count} expectations on both", detail=detail)


def die(duo: Duo) -> None:
    """Both tables are equal; then the active one loses its power."""
    duo.equal()
    survivor = duo.passive
    duo.mark()
    duo.lab.crash(duo.active)
    duo.wait_mode(survivor, "active", 5)
