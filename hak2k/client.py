"""Talking to a running hak2kd, with or without asyncio.

    with Client() as client:
        print(client.call("info")["local"]["mode"])

    client = AsyncClient()
    if (await client.info())["local"]["quality"] < 100:
        ...
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
from typing import TYPE_CHECKING, Any, Final, cast

from hak2k.errors import InternalError, RefusedError, UnreachableError, UsageError

if TYPE_CHECKING:
    from hak2k.answers import Event, Info, Mode, Verdict

DEFAULT_SOCKET: Final = "/run/hak2k/control.sock"
MAX_ANSWER: Final = 64 * 1024 * 1024


def default_socket() -> str:
    """HAK2K_SOCKET, or /run/hak2k/control.sock."""
    return os.environ.get("HAK2K_SOCKET") or DEFAULT_SOCKET


def unreachable(path: str, e: OSError) -> UnreachableError:
    hint = "is it running?"
    if isinstance(e, PermissionError):
        hint = "run this as root, or as a member of control.group"
    elif isinstance(e, TimeoutError):
        hint = "it hangs, or its machine is busy: see journalctl -u hak2kd"
    why = e.strerror or str(e) or "timed out"
    return UnreachableError(f"hak2kd does not answer on {path}: {why}; {hint}")


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
                raise unreachable(self.path, e) from e
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
                raise unreachable(self.path, e) from e
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
            raise unreachable(self.path, e) from e
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
    """The same for asyncio, with a method for each command.

    path: the control socket; None: `default_socket()`.
    timeout_s: how long one answer may take, on top of what the command itself may wait
        for; None: for ever.

    Each call has a connection of its own, so calls may overlap, and a daemon that was
    started anew in between does not matter.  A call that is cancelled hangs up; what
    the daemon has begun by then, it completes.

    Raises, all of them: UnreachableError if no daemon answers in time, RefusedError
    with the daemon's reason, UsageError for an argument it does not take.
    """

    def __init__(self, path: str | None = None, timeout_s: float | None = 60.0) -> None:
        self.path = default_socket() if path is None else path
        self.timeout_s = timeout_s

    async def info(self) -> Info:
        """Both nodes, links, stream, table, health, gate: `hainfo --json`."""
        return cast("Info", await self.call("info"))

    async def mode(self) -> Mode:
        """This node's."""
        return cast("Mode", (await self.call("mode"))["mode"])

    async def active(self, *, force: bool = False, timeout_s: float = 10.0) -> Mode:
        """Force this node active; returns its mode when the swap is complete.

        force: even if its table is not complete, which loses connections.
        """
        return await self._swap("active", force, timeout_s)

    async def passive(self, *, force: bool = False, timeout_s: float = 10.0) -> Mode:
        """Force this node passive: the peer takes over first, without loss.

        force: even if nobody can take over.
        """
        return await self._swap("passive", force, timeout_s)

    async def reset(self, *, timeout_s: float = 10.0) -> Mode:
        """Lift what `active` or `passive` forced; roles may change by it."""
        return await self._swap("reset", False, timeout_s)

    async def _swap(self, command: str, force: bool, timeout_s: float) -> Mode:
        args = {"force": force, "timeout": timeout_s}
        return cast("Mode", (await self._talk(command, args, timeout_s))["mode"])

    async def wait(
        self, mode: Mode | None = None, *, ready: bool = False, timeout_s: float = 60.0
    ) -> Mode:
        """Return when this node is in that mode; ready: and it forwards, or may take
        over.  RefusedError: not so after timeout_s."""
        args = {"mode": mode, "ready": ready, "timeout": timeout_s}
        return cast("Mode", (await self._talk("wait", args, timeout_s))["mode"])

    async def verify(self, *, repair: bool = True, timeout_s: float = 60.0) -> Verdict:
        """Compare both kernels' tables as of a point of the stream; on either node.

        repair: send what differs to the passive one.
        """
        args = {"no_repair": not repair, "timeout": timeout_s}
        return cast("Verdict", await self._talk("verify", args, timeout_s))

    async def freeze(self, seconds: float | None = None) -> float:
        """Preferences decide nothing for a while; the death of a node still does.

        seconds: None: as configured.  Returns how many it is.
        """
        return float((await self.call("freeze", **{"for": seconds}))["seconds"])

    async def resume(self) -> bool:
        """Whether it was frozen."""
        return bool((await self.call("resume"))["was_frozen"])

    def frozen(self, seconds: float | None = None) -> Frozen:
        """`async with client.frozen():` freeze, and resume whatever happens inside."""
        return Frozen(self, seconds)

    async def stats(self) -> dict[str, int]:
        """All counters, by name: docs/operations.md, chapter 11."""
        return cast("dict[str, int]", await self.call("stats"))

    async def reload(self) -> list[str]:
        """Read the configuration again; the names of the keys that changed."""
        return cast("list[str]", (await self.call("reload"))["changed"])

    async def why(self, number: int = 1) -> dict[str, Any]:
        """The number-th last change of role, explained: `hawhy --json`."""
        return cast("dict[str, Any]", await self.call("why", number=number))

    async def events(self) -> list[Event]:
        """The log so far, the newest last; what is kept is bounded."""
        return cast("list[Event]", await self.call("events"))

    async def call(self, command: str, /, **args: Any) -> Any:
        """One command by name; its result."""
        return await self._talk(command, args, 0.0)

    async def _talk(self, command: str, args: dict[str, Any], patience_s: float) -> Any:
        import asyncio

        async def talk() -> bytes:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=MAX_ANSWER)
            try:
                writer.write(_request(command, args))
                await writer.drain()
                return await reader.readline()
            finally:
                writer.close()

        limit = None if self.timeout_s is None else self.timeout_s + patience_s
        try:
            line = await asyncio.wait_for(talk(), limit)
        except OSError as e:  # TimeoutError is one
            raise unreachable(self.path, e) from e
        return _answer(line, self.path).get("result")

    async def follow(self, command: str = "events", /, **args: Any) -> AsyncIterator[Any]:
        """The items of a command that follows, as they come; ends with the daemon."""
        import asyncio

        try:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=MAX_ANSWER)
        except OSError as e:
            raise unreachable(self.path, e) from e
        try:
            writer.write(_request(command, {"follow": True, **args}))
            while line := await reader.readline():
                yield _answer(line, self.path).get("event")
        finally:
            writer.close()


class Frozen:
    """Of `AsyncClient.frozen`."""

    def __init__(self, client: AsyncClient, seconds: float | None) -> None:
        self._client, self._seconds = client, seconds

    async def __aenter__(self) -> float:
        """For how many seconds, at most."""
        return await self._client.freeze(self._seconds)

    async def __aexit__(self, *_: object) -> None:
        await self._client.resume()
