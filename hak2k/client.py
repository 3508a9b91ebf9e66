"""Talking to a running hak2kd, with or without asyncio.

    with Client() as client:
        print(client.call("info")["local"]["mode"])

    client = AsyncClient()
    async for event in client.follow():
        ...

Errors: UnreachableError if no daemon answers, RefusedError if it refuses (with its
reason).  This module stands at the start of every `ha...` command: it imports next
to nothing; asyncio only when AsyncClient is used.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from hak2k.errors import InternalError, RefusedError, UnreachableError, UsageError

DEFAULT_SOCKET: Final = "/run/hak2k/control.sock"
MAX_ANSWER: Final = 64 * 1024 * 1024


def default_socket() -> str:
    """HAK2K_SOCKET, or /run/hak2k/control.sock."""
    return os.environ.get("HAK2K_SOCKET") or DEFAULT_SOCKET


def _unreachable(path: str, e: OSError) -> UnreachableError:
    why = e.strerror or str(e)
    return UnreachableError(f"hak2kd does not answer on {path}: {why}; is it running?")


def _request(command: str, args: dict[str, Any]) -> bytes:
    return json.dumps({"command": command, "args": args}).encode() + b"\n"


def _answer(line: bytes, path: str) -> dict[str, Any]:
    """A line of the daemon's as a dictionary.  Raises what it stands for."""
    if not line:
        raise UnreachableError(f"hak2kd on {path} ended before it answered")
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise InternalError(f"{path} does not speak hak2k's protocol")
    if answer.get("ok") is False:
        text = str(answer.get("error", "refused"))
        if answer.get("code") == 2:
            raise UsageError(text)
        raise RefusedError(text)
    return answer


class Client:
    """A connection, made at the first call.

    path: the control socket; None: `default_socket()`.
    timeout_s: how long one answer may take; None: for ever.
    """

    def __init__(self, path: str | None = None, timeout_s: float | None = 60.0) -> None:
        self.path = default_socket() if path is None else path
        self.timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket, self._buffer = None, b""

    def _connected(self) -> socket.socket:
        if self._socket is None:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                s.settimeout(self.timeout_s)
                s.connect(self.path)
            except OSError as e:
                s.close()
                raise _unreachable(self.path, e) from e
            self._socket = s
        return self._socket

    def _line(self, s: socket.socket) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_ANSWER:
                raise InternalError(f"the answer on {self.path} has no end")
            try:
                piece = s.recv(65536)
            except OSError as e:
                self.close()
                raise _unreachable(self.path, e) from e
            if not piece:
                self.close()
                return b""
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _send(self, command: str, args: dict[str, Any]) -> socket.socket:
        s = self._connected()
        try:
            s.sendall(_request(command, args))
        except OSError as e:
            self.close()
            raise _unreachable(self.path, e) from e
        return s

    def call(self, command: str, /, **args: Any) -> Any:
        """One command; its result.  Raises RefusedError, UnreachableError."""
        s = self._send(command, args)
        return _answer(self._line(s), self.path).get("result")

    def follow(self, command: str = "events", /, **args: Any) -> Iterator[Any]:
        """The items of a command that follows, as they come; ends with the daemon."""
        s = self._send(command, {"follow": True, **args})
        s.settimeout(None)
        while line := self._line(s):
            yield _answer(line, self.path).get("event")


class AsyncClient:
    """The same for asyncio.  Each call has a connection of its own, so calls may
    overlap."""

    def __init__(self, path: str | None = None, timeout_s: float | None = 60.0) -> None:
        self.path = default_socket() if path is None else path
        self.timeout_s = timeout_s

    async def call(self, command: str, /, **args: Any) -> Any:
        """One command; its result.  Raises RefusedError, UnreachableError."""
        import asyncio

        async def talk() -> bytes:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=MAX_ANSWER)
            try:
                writer.write(_request(command, args))
                await writer.drain()
                return await reader.readline()
            finally:
                writer.close()

        try:
            line = await asyncio.wait_for(talk(), self.timeout_s)
        except OSError as e:  # TimeoutError is one
            raise _unreachable(self.path, e) from e
        return _answer(line, self.path).get("result")

    async def follow(self, command: str = "events", /, **args: Any) -> AsyncIterator[Any]:
        """The items of a command that follows, as they come; ends with the daemon."""
        import asyncio

        try:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=MAX_ANSWER)
        except OSError as e:
            raise _unreachable(self.path, e) from e
        try:
            writer.write(_request(command, {"follow": True, **args}))
            while line := await reader.readline():
                yield _answer(line, self.path).get("event")
        finally:
            writer.close()
