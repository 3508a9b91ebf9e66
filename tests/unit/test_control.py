"""Control socket and client, with a daemon that is a table of functions."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hak2k.client import AsyncClient, Client
from hak2k.control import MAX_REQUEST, Handler, Lock, Server
from hak2k.errors import InternalError, KernelError, RefusedError, UnreachableError, UsageError


async def echo(args: dict[str, Any]) -> Any:
    return args


async def refuse(args: dict[str, Any]) -> Any:
    raise RefusedError("the peer is not ready")


async def broken(args: dict[str, Any]) -> Any:
    return 1 // 0


async def forever(args: dict[str, Any]) -> Any:
    await asyncio.Event().wait()


async def count(args: dict[str, Any]) -> Any:
    async def items() -> AsyncIterator[dict[str, Any]]:
        for i in range(args.get("n", 3)):
            yield {"i": i}

    return items()


HANDLERS: dict[str, Handler] = {
    "echo": echo,
    "refuse": refuse,
    "broken": broken,
    "forever": forever,
    "events": count,
}


@contextmanager
def serving(path: Path, handlers: dict[str, Handler] = HANDLERS) -> Iterator[list[Exception]]:
    """The server in a thread of its own; the faults of handlers."""
    faults: list[Exception] = []
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def main() -> None:
        server = Server(path, handlers, faults.append)
        await server.start()
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(end.set))
        ready.set()
        await end.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(5)
        yield faults
    finally:
        stop[0]()
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with serving(tmp_path / "s"):
        yield tmp_path / "s"


def test_one_connection_several_calls(path: Path) -> None:
    with Client(str(path)) as client:
        assert client.call("echo", a=1, b="ü\n") == {"a": 1, "b": "ü\n"}
        assert client.call("echo") == {}
        with pytest.raises(RefusedError, match="the peer is not ready"):
            client.call("refuse")
        with pytest.raises(UsageError, match="no such command: nope"):
            client.call("nope")
        assert client.call("echo", last=True) == {"last": True}


def test_following(path: Path) -> None:
    with Client(str(path)) as client:
        got = client.follow("events", n=2)
        assert [next(got), next(got)] == [{"i": 0}, {"i": 1}]


def test_with_asyncio(path: Path) -> None:
    async def run() -> None:
        client = AsyncClient(str(path))
        answers = await asyncio.gather(*(client.call("echo", i=i) for i in range(20)))
        assert [a["i"] for a in answers] == list(range(20))
        with pytest.raises(RefusedError):
            await client.call("refuse")
        got = []
        async for item in client.follow("events", n=5):
            got.append(item["i"])
            if len(got) == 5:
                break
        assert got == list(range(5))
        with pytest.raises(UnreachableError):
            await AsyncClient(str(path), timeout_s=0.1).call("forever")

    asyncio.run(run())


def test_a_fault_of_ours_is_told_and_survived(tmp_path: Path) -> None:
    with serving(tmp_path / "s") as faults, Client(str(tmp_path / "s")) as client:
        with pytest.raises(RefusedError, match="ZeroDivisionError"):
            client.call("broken")
        assert client.call("echo") == {}
        assert isinstance(faults[0], ZeroDivisionError)


def test_nobody_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UnreachableError, match="is it running"):
            Client(str(path)).call("echo")
        with pytest.raises(UnreachableError):
            asyncio.run(AsyncClient(str(path)).call("echo"))


def test_something_else_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen()

        def answer() -> None:
            peer, _ = s.accept()
            peer.recv(65536)  # or closing could break the client's pipe first
            peer.sendall(b"HTTP/1.1 400 Bad Request\n")
            peer.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(str(path), 5) as client, pytest.raises(InternalError, match="does not"):
            client.call("echo")
        thread.join()


def test_a_client_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """The server ends although a command never does."""
    path = tmp_path / "s"
    with serving(path), Client(str(path), 0.1) as client, pytest.raises(UnreachableError):
        client.call("forever")


def raw(path: Path, data: bytes) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(path))
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        got = b""
        while piece := s.recv(65536):
            got += piece
    return [json.loads(line) for line in got.splitlines()]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\n", "not JSON"),
        (b"nope\n", "not JSON"),
        (b"[]\n", 'no "command"'),
        (b'{"command": 1}\n', 'no "command"'),
        (b'{"command": "echo", "args": 1}\n', "not an object"),
        (b"\xff\xfe\n", "not JSON"),
        pytest.param(b"x" * (MAX_REQUEST + 10) + b"\n", "too long", id="long"),
        # more than all buffers on the way hold: it is still being written when refused
        pytest.param(b"x" * (1 << 22), "too long", id="without end"),
    ],
)
def test_bad_requests(path: Path, data: bytes, words: str) -> None:
    (answer,) = raw(path, data)
    assert answer["ok"] is False
    assert answer["code"] == 2
    assert words in answer["error"]


def test_a_request_without_an_end(path: Path) -> None:
    assert raw(path, b'{"command": "echo"}') == [{"ok": True, "result": {}}]
    assert raw(path, b"") == []


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None
)
@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_ignored(path: Path, data: bytes) -> None:
    for answer in raw(path, data + b"\n"):
        assert answer["ok"] is False
    assert raw(path, b'{"command": "echo"}\n')[0]["ok"]


# --- socket and lock ---


def test_mode_and_directory(tmp_path: Path) -> None:
    path = tmp_path / "run" / "hak2k" / "s"
    lock = Lock(path)
    lock.take()
    with serving(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
        assert lock.path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()
    lock.release()


def test_the_second_daemon_is_refused(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "s"), Lock(tmp_path / "s")
    first.take()
    with pytest.raises(KernelError, match=rf"another hak2kd \(process {os.getpid()}\)"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_a_stale_socket_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    with serving(path), Client(str(path)) as client:
        assert client.call("echo") == {}


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(KernelError, match="control socket"):
        asyncio.run(Server(path, {}).start())
    assert path.read_text() == "precious"
