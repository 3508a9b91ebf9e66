"""The event log."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path

import pytest

from hak2k import events as e


def test_an_event() -> None:
    seen: list[dict[str, object]] = []
    log = e.EventLog(sink=seen.append, clock=lambda: 1_700_000_000.1239)
    log.emit("peer.dead", "peer FW-B is silent", silent_ms=203.5)
    wanted = {
        "time": "2023-11-14T22:13:20.123Z",
        "id": "peer.dead",
        "severity": "warning",
        "message": "peer FW-B is silent",
        "silent_ms": 203.5,
    }
    assert seen == [wanted]
    assert list(log) == [wanted]
    assert list(seen[0])[:4] == ["time", "id", "severity", "message"]


def test_an_unknown_id_is_a_bug() -> None:
    with pytest.raises(KeyError):
        e.EventLog().emit("peer.deaf", "x")


def test_the_ring_has_an_end() -> None:
    log = e.EventLog(size=3)
    for i in range(10):
        log.emit("peer.up", str(i))
    assert [x["message"] for x in log] == ["7", "8", "9"]


def test_levels() -> None:
    seen: list[dict[str, object]] = []
    log = e.EventLog(sink=seen.append, level="warning")
    log.emit("peer.up", "x")
    log.emit("peer.dead", "x")
    log.emit("gate.failed", "x")
    log.emit("peer.status", "x")
    assert [x["id"] for x in seen] == ["peer.dead", "gate.failed"]
    assert [x["id"] for x in log] == ["peer.up", "peer.dead", "gate.failed"]


def test_a_reader_that_does_not_read() -> None:
    async def run() -> list[str]:
        log = e.EventLog()
        with log.reader(size=2) as queue:
            for i in range(5):
                log.emit("peer.up", str(i))
            got = [queue.get_nowait()["message"] for _ in range(queue.qsize())]
        log.emit("peer.up", "later")
        assert queue.empty()
        return got

    assert asyncio.run(run()) == ["0", "1"]


def test_sinks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "out"

    def written(style: str) -> str:
        with path.open("w") as out:
            log = e.EventLog(sink=e.StderrSink(style, out), clock=lambda: 1.0)
            log.emit("role.active", "peer dead", reason="peer dead", term=3)
        return path.read_text()

    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    line = 'role.active: peer dead reason="peer dead" term=3\n'
    assert written("text") == "1970-01-01T00:00:01.000Z info    " + line
    assert json.loads(written("json"))["reason"] == "peer dead"
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")  # inherited, of another file
    assert written("text") == "1970-01-01T00:00:01.000Z info    " + line
    info = path.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
    assert written("text") == "<6>" + line


def test_a_closed_log_stops_nothing() -> None:
    out = io.StringIO()
    out.close()
    e.EventLog(sink=e.StderrSink("text", out)).emit("peer.up", "x")


def test_catalogue() -> None:
    for id, entry in e.CATALOG.items():
        assert re.fullmatch(r"[a-z]+(\.[a-z]+)?", id)
        assert entry.severity in e.SEVERITIES
        assert entry.meaning
        # Whoever is woken must be told what to do.
        assert entry.remedy or entry.severity in ("info", "debug")
