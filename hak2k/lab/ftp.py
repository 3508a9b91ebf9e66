"""Enough of FTP to make a tracking helper work: control lines and data connections.

In active mode the client announces a port on the control connection; the
firewall's helper rewrites the announcement, expects the server's connection to
that port, and translates it.
"""

from __future__ import annotations

import re
import socket
from types import TracebackType
from typing import TYPE_CHECKING

from hak2k.lab import topology

if TYPE_CHECKING:
    from hak2k.lab.lab import Lab

_PORT = re.compile(rb"PORT (\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\r\n")


class FtpSession:
    """A control connection from the client to the server, masqueraded.

    Args:
        lab: with a firewall that forwards.
        source: the client's address.

    Attributes:
        client, server: both ends of the control connection.
    """

    def __init__(
        self, lab: Lab, source: str = topology.CLIENT4, port: int = topology.FTP_PORT
    ) -> None:
        self._lab = lab
        self._source = source
        self._open: list[socket.socket] = []
        listener = self._keep(lab.server.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((topology.SERVER4, port))
        listener.listen(1)
        listener.settimeout(5)
        self.client = self._keep(lab.client.socket(socket.AF_INET, socket.SOCK_STREAM))
        self.client.settimeout(5)
        self.client.bind((source, 0))
        self.client.connect((topology.SERVER4, port))
        self.server = self._keep(listener.accept()[0])
        self.server.settimeout(5)
        # A helper looks only at lines that follow a line it has seen in that direction.
        self.say("220 ready", from_server=True)
        self.say("USER anonymous")
        self.say("230 welcome", from_server=True)

    def _keep(self, made: socket.socket) -> socket.socket:
        self._open.append(made)
        return made

    def close(self) -> None:
        """Close every connection."""
        for one in reversed(self._open):
            one.close()

    def __enter__(self) -> FtpSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def say(self, line: str, *, from_server: bool = False) -> bytes:
        """Send one line and return it as it arrived on the other side.

        Raises:
            TimeoutError: it did not.
        """
        sender, receiver = self.client, self.server
        if from_server:
            sender, receiver = receiver, sender
        sender.sendall(line.encode() + b"\r\n")
        data = b""
        while not data.endswith(b"\r\n"):
            part = receiver.recv(4096)
            if not part:
                raise ConnectionError("the control connection was closed")
            data += part
        return data

    def announce(self) -> tuple[socket.socket, tuple[str, int]]:
        """Send PORT; return the client's listener and what the server was told.

        Raises:
            TimeoutError: the announcement did not arrive.
            ValueError: it arrived mutilated.
        """
        listener = self._keep(self._lab.client.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.bind((self._source, 0))
        listener.listen(1)
        listener.settimeout(5)
        port = listener.getsockname()[1]
        heard = self.say(f"PORT {self._source.replace('.', ',')},{port >> 8},{port & 255}")
        match = _PORT.fullmatch(heard)
        if match is None:
            raise ValueError(f"the server was told {heard!r}")
        numbers = [int(number) for number in match.groups()]
        address = ".".join(str(number) for number in numbers[:4])
        return listener, (address, numbers[4] << 8 | numbers[5])

    def transfer(self, listener: socket.socket, target: tuple[str, int], size: int) -> bool:
        """Open the data connection from the server and send ``size`` bytes through it.

        Raises:
            TimeoutError: it could not be opened, or it stalled.
        """
        with self._lab.server.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            server.settimeout(5)
            server.connect(target)
            client = self._keep(listener.accept()[0])
            client.settimeout(5)
            sent = bytes(range(256)) * (size // 256 + 1)
            received = 0
            offset = 0
            while received < size:
                if offset < size:
                    offset += server.send(sent[offset : min(size, offset + 16384)])
                data = client.recv(65536)
                if not data or data != sent[received : received + len(data)]:
                    return False
                received += len(data)
            return True
