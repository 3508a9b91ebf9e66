"""Events as journald gets them, through a real socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hak2k.events import CATALOG, EventLog
from hak2k.journal import JournalSink, message_id


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(tmp_path / "journal"))
        s.settimeout(5)
        yield s


def received(journald: socket.socket) -> dict[str, str]:
    """As journald reads it."""
    data, out = journald.recv(65536), {}
    while data:
        line, data = data.split(b"\n", 1)
        if b"=" in line:
            name, value = line.split(b"=", 1)
        else:
            name, (size,) = line, struct.unpack("<Q", data[:8])
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert end == b"\n"
        out[name.decode()] = value.decode()
    return out


def test_fields(journald: socket.socket, tmp_path: Path) -> None:
    lost: list[dict[str, Any]] = []
    log = EventLog(sink=JournalSink(lost.append, tmp_path / "journal"), clock=lambda: 1.0)
    log.emit("peer.dead", "FW-B is silent", silent_ms=203.5, name="a=b")
    assert received(journald) == {
        "MESSAGE": "peer.dead: FW-B is silent silent_ms=203.5 name=a=b",
        "MESSAGE_ID": message_id("peer.dead"),
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "hak2kd",
        "HAK2K_EVENT": "peer.dead",
        "HAK2K_TIME": "1970-01-01T00:00:01.000Z",
        "HAK2K_MESSAGE": "FW-B is silent",
        "HAK2K_SILENT_MS": "203.5",
        "HAK2K_NAME": "a=b",
    }
    assert not lost


def test_text_cannot_pass_for_a_field(journald: socket.socket, tmp_path: Path) -> None:
    log = EventLog(sink=JournalSink(print, tmp_path / "journal"))
    log.emit("hello.refused", "x\nPRIORITY=0\n", what="\nHAK2K_EVENT=gate.failed")
    got = received(journald)
    assert (got["PRIORITY"], got["HAK2K_EVENT"]) == ("4", "hello.refused")
    assert got["HAK2K_MESSAGE"] == "x\nPRIORITY=0\n"
    assert got["HAK2K_WHAT"] == "\nHAK2K_EVENT=gate.failed"


def test_what_journald_does_not_take(journald: socket.socket, tmp_path: Path) -> None:
    lost: list[dict[str, Any]] = []
    log = EventLog(sink=JournalSink(lost.append, tmp_path / "journal"))
    log.emit("peer.up", "x" * 1_000_000)  # longer than a datagram
    assert [len(e["message"]) for e in lost] == [1_000_000]
    journald.close()
    log.emit("peer.up", "gone")
    assert lost[-1]["message"] == "gone"
    (tmp_path / "journal").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as anew:
        anew.bind(str(tmp_path / "journal"))
        anew.settimeout(5)
        log.emit("peer.up", "back")
        assert received(anew)["HAK2K_MESSAGE"] == "back"
    assert len(lost) == 2


def test_message_ids_never_change() -> None:
    assert message_id("role.active") == "ec36f29d13aa514a98a4c40c3f3c648b"
    assert len({message_id(id) for id in CATALOG}) == len(CATALOG)
