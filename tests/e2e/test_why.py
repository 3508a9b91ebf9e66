"""Asked why a role changed, a daemon answers from what it recorded; and what it recorded
is decided the same again without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hak2k.errors import RefusedError
from hak2k.lab import Node, until
from tests.e2e.duo import Duo


def recording(duo: Duo, fw: Node) -> Path:
    return Path(f"{duo.lab.daemons[fw].control_socket}.flight")


def history(duo: Duo, fw: Node) -> list[dict[str, Any]]:
    """All that it remembers, the last change first."""
    found: list[dict[str, Any]] = []
    while True:
        try:
            found.append(duo.ask(fw, "why", number=len(found) + 1))
        except RefusedError:
            return found


def replayed(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hak2k.recorder", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_why_after_swaps_a_crash_and_a_restart(duo: Duo) -> None:
    first, second = duo.active, duo.passive
    duo.ask(first, "passive")
    duo.wait_mode(second, "active")
    duo.ready()
    said = duo.ask(first, "why")
    assert (said["from"], said["to"], said["number"]) == ("active", "passive", 1)
    assert said["reason"].startswith("peer is better: forced")
    assert [r["row"] for r in said["rows"]] == ["A9", "H1"]
    assert [e["id"] for e in said["log"]][:2] == ["handover.start", "handover.done"]
    assert duo.ask(second, "why")["reason"] == "hand-over by the peer"
    duo.ask(first, "reset")
    duo.ready()

    active, passive = duo.active, duo.passive
    duo.lab.crash(active)
    duo.wait_mode(passive, "active", 3.0)
    said = duo.ask(passive, "why", number=1)
    assert said["reason"] == "peer dead"
    assert said["local"]["state"] == "ready"
    assert said["peer"]["mode"] == "active"
    assert said["peer"]["alive"] is False
    (took,) = [e for e in said["log"] if e["id"] == "role.active"]
    assert took["detect_ms"] >= 200
    # Before the crash, by another life of the process: from the disk.
    duo.lab.revive(active)
    duo.lab.start(active.name)
    duo.ready()
    kept = history(duo, active)
    assert len(kept) >= 3
    last = kept[-1]
    assert last["from"] == "starting"

    done = duo.lab.daemons.command(passive, "why")
    assert done.returncode == 0
    assert "Reason: peer dead." in done.stdout
    assert json.loads(duo.lab.daemons.command(passive, "why", "--json").stdout)["number"] == 1
    for fw in duo.lab.fw:
        assert replayed(recording(duo, fw)).endswith(" 0 decided otherwise\n")


def test_a_number_that_makes_no_sense(duo: Duo) -> None:
    for number in ("0", "-1", "999"):
        done = duo.lab.daemons.command(duo.active, "why", "--", number)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("hak2kctl")


def test_a_file_that_cannot_be_written(duo: Duo, tmp_path: Path) -> None:
    """The daemon runs, says so once, and still knows this life."""
    fw = duo.passive
    (tmp_path / "file").write_text("")
    duo.lab.daemons.stop(fw)
    duo.lab.write_config(fw, log={"recorder": str(tmp_path / "file" / "x")})
    try:
        duo.lab.start(fw.name)
        duo.ready()
        said = until(
            lambda: [e for e in duo.events(fw) if e["id"] == "recorder.failed"], 5, "the event"
        )
        assert len(said) == 1
        assert duo.ask(fw, "why")["to"] == "passive"
        with pytest.raises(RefusedError, match="on record"):
            duo.ask(fw, "why", number=5)
    finally:
        duo.lab.daemons.stop(fw)
        duo.configure()
        duo.lab.start(fw.name)
        duo.ready()
