"""The control socket: one request, one line of JSON; one answer, one line.

    {"command": "wait", "args": {"mode": "passive", "ready": true}}
    {"ok": true, "result": {...}}
    {"ok": false, "code": 1, "error": "the peer is not ready: ..."}

A command that follows answers with lines {"event": {...}} until the client goes.
Several requests may follow each other on one connection.

The socket is for root alone (mode 0600), or for a group too (0660): who can write to
it can swap the roles.
A lock beside it (SOCKET.lock) belongs to the running daemon.  It, not the socket
file, says whether another daemon runs: the file of a daemon that was killed stays,
its lock does not.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from hak2k.errors import (
    HakError,
    InternalError,
    KernelError,
    RefusedError,
    UsageError,
)

MAX_REQUEST: Final = 65536
MAX_CLIENTS: Final = 64
# A client that does not read its answer is dropped, not waited for.
WRITE_TIMEOUT_S: Final = 10.0
# How long one that was refused in the middle of a request may go on sending it.
LINGER_S: Final = 1.0

Handler = Callable[[dict[str, Any]], Awaitable[Any]]
"""A command: its arguments to its result, which must be fit for JSON.  A result
that is an asynchronous iterator is sent item by item."""


class Lock:
    """The exclusive right to a control socket, held until `release`."""

    def __init__(self, socket: Path) -> None:
        self.path = socket.with_name(socket.name + ".lock")
        self._fd = -1

    def take(self) -> None:
        """Raises KernelError if another daemon holds it, or it cannot be made."""
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            _check_directory(self.path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self.path, flags, 0o600)
        except OSError as e:
            raise KernelError(f"cannot make {self.path}", e.errno or 0) from e
        if (owner := os.fstat(fd).st_uid) not in (0, os.geteuid()):
            os.close(fd)
            raise KernelError(f"{self.path} belongs to user {owner}; remove it")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            pid = os.read(fd, 32).decode(errors="replace").strip()
            os.close(fd)
            raise KernelError(
                f"another hak2kd (process {pid or '?'}) holds {self.path}; "
                "stop it first, or use another control.socket"
            ) from e
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        # The file stays: who removed it could remove one that a newcomer has
        # just locked.
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _check_directory(path: Path) -> None:
    """Raises KernelError if somebody else could put another socket in our place."""
    info = path.stat()
    if info.st_uid not in (0, os.geteuid()):
        raise KernelError(f"{path} belongs to user {info.st_uid}; chown root {path}")
    if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
        raise KernelError(
            f"anybody can replace files in {path}; chmod o-w {path}, or use another control.socket"
        )


class Server:
    """Serves `handlers` on a socket.  Take the `Lock` first.

    on_error: told of exceptions that are faults of a handler's.
    group: its members may connect too; this process must be one of them.
    """

    def __init__(
        self,
        path: Path,
        handlers: dict[str, Handler],
        on_error: Callable[[Exception], None] = lambda e: None,
        group: int | None = None,
    ) -> None:
        self.path = path
        self._group = group
        self._on_error = on_error
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises KernelError."""
        try:
            if stat.S_ISSOCK(os.lstat(self.path).st_mode):
                self.path.unlink()  # a dead daemon's: we hold the lock
            else:
                raise KernelError(
                    f"control socket {self.path} is there and is no socket; remove it"
                )
        except FileNotFoundError:
            pass
        # Between bind() and chmod() anybody might connect: so the mode is set by
        # the mask.  No other thread makes files at this time.
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._accept, self.path, limit=MAX_REQUEST
            )
        except OSError as e:
            raise KernelError(f"control socket {self.path}", e.errno or 0) from e
        finally:
            os.umask(mask)
        if self._group is not None:
            try:
                os.chown(self.path, -1, self._group, follow_symlinks=False)
                self.path.chmod(0o660)
            except OSError as e:
                await self.stop()
                text = f"control socket {self.path} cannot be given to group {self._group}"
                raise KernelError(text, e.errno or 0) from e

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        try:
            self.path.unlink()
        except OSError:
            pass
        # Let answers that are being written reach their clients.
        if self._clients:
            await asyncio.wait(self._clients, timeout=0.2)
        for task in list(self._clients):
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=1.0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > MAX_CLIENTS:
                await _refuse(reader, writer, RefusedError("too many clients"))
            else:
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client went away, or does not read
        except asyncio.CancelledError:
            pass  # the daemon ends; asyncio would log a traceback otherwise
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                await _refuse(reader, writer, UsageError("the request is too long"))
                return
            if not line:
                return
            # While a command waits (for a swap, for an event), watch for the
            # client to go, so that nobody waits for nobody.
            work = asyncio.ensure_future(self._one(line, writer))
            gone = asyncio.ensure_future(_closed(reader))
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                # A client that shut its sending side down may still be reading:
                # give a command that is nearly done the chance to answer.
                if not work.done():
                    await asyncio.wait({work}, timeout=1.0)
                if work.done():
                    work.result()
                if gone.done():
                    return
            finally:
                for task in (work, gone):
                    task.cancel()

    async def _one(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            command, args = _parse(line)
            handler = self._handlers.get(command)
            if handler is None:
                raise UsageError(f"no such command: {command}")
            result = await handler(args)
            if isinstance(result, AsyncIterator):
                async for item in result:
                    await _write(writer, {"event": item})
                return
            answer: dict[str, Any] = {"ok": True, "result": result}
        except HakError as e:
            answer = _failure(e)
        except (OSError, TimeoutError):
            raise  # of the connection
        except Exception as e:
            self._on_error(e)
            answer = _failure(InternalError(f"internal error: {e!r}"))
        await _write(writer, answer)


async def _refuse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, why: HakError
) -> None:
    """The last answer on a connection.  Closed with data unread, it would break under a
    client that still writes, who then never reads why."""
    await _write(writer, _failure(why))
    writer.write_eof()
    async with asyncio.timeout(LINGER_S):
        while await reader.read(MAX_REQUEST):
            pass


async def _closed(reader: asyncio.StreamReader) -> None:
    """Returns when the other side sends no more."""
    while not reader.at_eof():
        # No public way to wait for data without taking it; a pause is cheap, for
        # it only matters to commands that take long.
        await asyncio.sleep(0.2)


def _parse(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):  # the latter: nested too deeply
        raise UsageError("the request is not JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise UsageError('the request has no "command"')
    args = request.get("args", {})
    if not isinstance(args, dict):
        raise UsageError('"args" is not an object')
    return request["command"], args


def _failure(e: HakError) -> dict[str, Any]:
    return {"ok": False, "code": e.exit_code, "error": str(e)}


async def _write(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    await asyncio.wait_for(writer.drain(), WRITE_TIMEOUT_S)
