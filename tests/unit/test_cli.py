"""The commands: exit codes, spelling, layout, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hak2k import cli
from hak2k.client import unreachable
from hak2k.control import Handler
from hak2k.errors import RefusedError
from hak2k.present import WIDTH, event_line, info_lines, stats_lines, when, wrapped
from tests.unit.test_control import serving

NODE = {
    "serial": "VMSNSX08K0012A9",
    "model": "EVAU",
    "version": "4.0.0.beta-2019-10-21-19:00-r",
    "mode": "active",
    "since": "2019-10-22T11:33:45.000Z",
    "forced": "no",
    "quality": 100,
    "priority": 0,
    "state": "running",
    "boot": "2019-10-22T11:31:00.000Z",
    "config_synced": False,
    "protocol": {"stream": 1, "state": 1},
    "supervisor": True,
}
PEER = NODE | {
    "serial": "VMSNSX08K0013A9",
    "mode": "passive",
    "state": "ready",
    "config_synced": True,
    "supervisor": False,
    "alive": True,
}
LINK = {"name": "main", "state": "ok", "since": "2019-10-22T11:39:15.000Z", "rtt_us": 210}
INFO: dict[str, Any] = {
    "local": NODE,
    "peer": PEER,
    "links": [
        LINK | {"local": "192.168.69.1", "peer": "192.168.69.2"},
        LINK
        | {"name": "backup", "state": "failed", "rtt_us": None}
        | {"local": "192.168.70.1", "peer": "192.168.70.2"},
    ],
    "stream": {"lag_records": 0, "lag_ms": 0.0, "sequence": 99, "encrypted": True},
    "gate": {"state": "open", "rebuilt": 0, "rebuilt_at": None, "rebuilt_why": None},
    "health": [
        {
            "component": "a-name-of-32-characters-and-longer",
            "kind": "temperature",
            "state": "degraded",
            "weight": 9999,
            "cost": 0.0,
            "since": "2026-01-31T11:00:00.000Z",
            "checked": "2026-01-31T12:00:00.000Z",
            "reason": "a reason that is longer than any terminal of 80 columns could show " * 2,
        }
    ],
    "lease": {"enforced": True, "state": "on", "left_ms": 150.5, "refused": 0},
    "table": {"entries": 5, "equal": None, "as_of": 99, "age_ms": 0.0},
}
EVENTS: list[dict[str, Any]] = [
    {"time": "2026-01-01T00:00:00.000Z", "id": "peer.up", "severity": "info", "message": "x"},
    {
        "time": "2026-01-01T00:00:01.000Z",
        "id": "peer.dead",
        "severity": "warning",
        "message": "silent",
        "silent_ms": 200,
    },
]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Daemon:
    """Answers as hak2kd does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def handlers(self) -> dict[str, Handler]:
        answers: dict[str, Any] = {
            "info": INFO,
            "mode": {"mode": "active"},
            "active": {"mode": "active", "forced": "active"},
            "reset": {"mode": "active", "forced": "no"},
            "stats": {"tx.records": 7, "drop.auth": 1},
            "wait": {"mode": "passive"},
            "reload": {"changed": []},
            "freeze": {"frozen": True, "seconds": 5.0, "until": "2026-01-31T12:00:00.000Z"},
            "resume": {"frozen": False, "was_frozen": True},
            "events": EVENTS,
        }
        refused = ("passive", "sync", "diff", "synctest", "verify", "why")

        def handler(name: str) -> Handler:
            async def run(args: dict[str, Any]) -> Any:
                self.asked.append((name, args))
                if name in refused:
                    raise RefusedError(f"{name}: not available in this version")
                return answers[name]

            return run

        return {name: handler(name) for name in (*answers, *refused)}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    made = Daemon()
    monkeypatch.setenv("HAK2K_SOCKET", str(tmp_path / "s"))
    with serving(tmp_path / "s", made.handlers()):
        yield made


ALIASES = {c.alias: c.name for c in cli.COMMANDS if c.alias}
CONTRACT = {
    "hainfo": "info",
    "hamode": "mode",
    "haactive": "active",
    "hapassive": "passive",
    "hareset": "reset",
    "hasync": "sync",
    "hadiff": "diff",
    "hasynctest": "synctest",
    "enha": "reload",
    "hawhy": "why",
}


def test_the_names_of_the_contract() -> None:
    assert ALIASES == CONTRACT
    names = {c.name for c in cli.COMMANDS}
    assert names >= {"freeze", "resume", "verify", "stats", "events", "wait"}
    for alias in CONTRACT:
        assert callable(getattr(cli, f"{alias}_main"))


def test_both_spellings(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.hamode_main([]) == 0
    assert cli.hak2kctl_main(["mode"]) == 0
    assert capsys.readouterr().out == "active\nactive\n"


@pytest.mark.parametrize("name", [c.name for c in cli.COMMANDS])
@pytest.mark.parametrize("before", [True, False])
def test_every_command_takes_socket_and_json(
    daemon: Daemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    before: bool,
) -> None:
    monkeypatch.delenv("HAK2K_SOCKET")
    options = ["--socket", str(tmp_path / "s"), "--json"]
    argv = [*options, name] if before else [name, *options]
    if name == "wait":
        argv += ["--ready"]
    code = cli.hak2kctl_main(argv)
    out = capsys.readouterr()
    if code == 0:
        assert [json.loads(line) for line in out.out.splitlines()]
    else:
        assert code == 1
        assert out.err == f"hak2kctl: {name}: not available in this version\n"


def test_exit_codes(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.haactive_main([]) == 0
    assert cli.hapassive_main([]) == 1
    assert capsys.readouterr().err == "hapassive: passive: not available in this version\n"
    nobody = ["--socket", str(tmp_path / "nobody")]
    for alias in CONTRACT:
        assert getattr(cli, f"{alias}_main")(nobody) == 3
    assert "is it running?" in capsys.readouterr().err
    for argv in (["nope"], [], ["mode", "--nope"], ["wait", "--mode", "x"], ["reset", "x"]):
        with pytest.raises(SystemExit) as caught:
            cli.hak2kctl_main(argv)
        assert caught.value.code == 2
    assert cli.hak2kctl_main(["wait"]) == 2


def test_arguments_reach_the_daemon(daemon: Daemon) -> None:
    cli.haactive_main(["--timeout", "3"])
    cli.hapassive_main(["--force"])
    cli.hak2kctl_main(["freeze", "--for", "5"])
    cli.hak2kctl_main(["verify", "--no-repair"])
    cli.hadiff_main(["etc/x"])
    cli.hak2kctl_main(["why", "2"])
    asked = dict(daemon.asked)
    assert asked["active"] == {"timeout": 3.0, "force": False}
    assert asked["passive"] == {"timeout": 10.0, "force": True}
    assert asked["freeze"] == {"for": 5.0}
    assert asked["verify"] == {"no_repair": True, "timeout": 120.0}
    assert asked["diff"] == {"path": "etc/x"}
    assert asked["why"] == {"number": 2}


def test_a_program_runs_frozen(daemon: Daemon, tmp_path: Path) -> None:
    asked = lambda: [name for name, _ in daemon.asked]  # noqa: E731
    assert cli.hak2kctl_main(["freeze", "--for", "5", "--", "sh", "-c", "exit 7"]) == 7
    assert asked() == ["freeze", "resume"]
    assert cli.hak2kctl_main(["freeze", "touch", str(tmp_path / "made")]) == 0
    assert (tmp_path / "made").exists()
    assert cli.hak2kctl_main(["freeze", "--", "/nonexistent"]) == 127
    assert asked() == ["freeze", "resume"] * 3
    # A ruleset is loaded whether there is a daemon or not.
    nobody = ["--socket", str(tmp_path / "nobody"), "freeze"]
    assert cli.hak2kctl_main([*nobody, "--", "sh", "-c", "exit 3"]) == 3
    assert cli.hak2kctl_main(nobody) == 3  # not reachable


def test_wait_waits_for_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "s"
    codes: list[int] = []
    argv = ["wait", "--socket", str(path), "--mode", "passive", "--timeout", "20"]
    waiter = threading.Thread(target=lambda: codes.append(cli.hak2kctl_main(argv)))
    waiter.start()
    daemon = Daemon()
    with serving(path, daemon.handlers()):
        waiter.join(20)
    assert codes == [0]
    ((_, args),) = daemon.asked
    assert args["mode"] == "passive"
    assert 0 < args["timeout"] <= 20


def test_wait_in_vain(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    assert cli.hak2kctl_main(["wait", "--socket", path, "--ready", "--timeout", "0.2"]) == 3


def test_events(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.hak2kctl_main(["events", "--json"]) == 0
    assert [json.loads(x) for x in capsys.readouterr().out.splitlines()] == EVENTS
    assert event_line(EVENTS[1]) == ("2026-01-01 00:00:01 warning peer.dead: silent silent_ms=200")


def test_enha(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.enha_main([]) == 0
    assert capsys.readouterr().out == "Supervisor ? OK || Local fw ? Running\n"


def test_enha_without_an_active_node(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for peer in (None, PEER):
        local = NODE | {"mode": "passive", "state": "syncing", "supervisor": False}
        monkeypatch.setitem(INFO, "local", local)
        monkeypatch.setitem(INFO, "peer", peer)
        assert cli.enha_main([]) == 0
        assert capsys.readouterr().out == "Supervisor ? None || Local fw ? Syncing\n"


def test_what_to_do_when_nobody_answers() -> None:
    def said(error: OSError) -> str:
        return str(unreachable("/s", error))

    assert said(FileNotFoundError(2, "No such file")).endswith(": No such file; is it running?")
    assert said(PermissionError(13, "Permission denied")).endswith(
        "run this as root, or as a member of control.group"
    )
    assert ": timed out; it hangs" in said(TimeoutError())  # as asyncio raises it


# --- layout ---

HAINFO = """\
Nodes status:
                 VMSNSX08K0012A9 (local)        VMSNSX08K0013A9
model          : EVAU                           EVAU
version        : 4.0.0.beta-2019-10-21-19:00-r  4.0.0.beta-2019-10-21-19:00-r
forced         : No                             No
mode           : Active                         Passive
  since        : 2019-10-22 11:33:45            2019-10-22 11:33:45
backup active  : N/A                            N/A
backup ver.    : N/A                            N/A
backup date    : N/A                            N/A
quality        : 100                            100
priority       : 0                              0
file sync      : None running                   None running
is conf sync   : no                             yes
boot           : 2019-10-22 11:31:00            2019-10-22 11:31:00
state          : Running                        Ready
main link      : 192.168.69.1: OK               192.168.69.2: OK
backup link    : 192.168.70.1: FAILED           192.168.70.2: FAILED
FwadminRevision: N/A                            N/A
"""


def test_hainfo(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.hainfo_main([]) == 0
    assert capsys.readouterr().out == HAINFO


def test_hainfo_v_has_the_fields_of_the_note() -> None:
    labels = [line.split(":")[0].strip() for line in info_lines(INFO, True)]
    for label in ("supervisor", "balanc. paused", "last conf sync", "state", "main link"):
        assert label in labels
    assert labels.index("mode") < labels.index("supervisor") < labels.index("quality")
    ends = ["licence", "boot", "state", "syncid", "main link", "FwadminRevision"]
    assert [label for label in labels if label in ends] == ends


def test_syncid_is_what_both_tables_were_proved_equal_at() -> None:
    def syncid(info: dict[str, Any]) -> list[str]:
        (row,) = [x.split()[2:] for x in info_lines(info, True) if x.startswith("syncid")]
        return row

    equal = INFO | {"table": INFO["table"] | {"equal": True}}
    assert syncid(equal) == ["99", "99"]
    assert syncid(INFO) == syncid(equal | {"peer": None}) == ["N/A", "N/A"]


def test_hainfo_v_explains_the_quality() -> None:
    dear = INFO | {"health": [INFO["health"][0] | {"cost": 33.3}]}
    lines = info_lines(dear, True)
    at = next(i for i, line in enumerate(lines) if line.startswith("quality ") and "%" in line)
    columns = ("component", "kind", "state", "weight", "cost")
    row = [lines[at + 2][lines[at + 1].index(c) :].split()[0] for c in columns[:3]]
    assert row == ["a-name-of-32-ch~", "temperature", "degraded"]
    assert lines[at + 2].split()[3:5] == ["9999", "33.3"]
    assert lines[at + 3].startswith("    a reason that")
    (notice,) = [x for x in info_lines(dear, False) if "points lost" in x]
    assert notice.startswith("Notice: quality, points lost: a-name-of-32-characters-and-longer")
    assert not [x for x in info_lines(INFO, False) if "points lost" in x]


def test_nothing_is_wider_than_a_terminal() -> None:
    long = {"serial": "S" * 32, "model": "m" * 32, "version": "v" * 60, "mode": "starting"}
    links = [x | {"name": "a" * 16} for x in INFO["links"]]
    info = INFO | {"local": NODE | long, "peer": PEER | long, "links": links}
    for verbose in (False, True):
        for line in info_lines(info, verbose):
            assert len(line) <= WIDTH, line
    for lost in (None, "stopped", "process", "machine"):
        gone = INFO | {"peer": PEER | {"alive": False, "mode": "fault", "lost": lost}}
        assert max(map(len, info_lines(gone, False))) <= WIDTH, lost


def test_sentences_are_wrapped() -> None:
    lines = wrapped(["word " * 40, "", "short"])
    assert max(map(len, lines)) <= WIDTH
    assert lines[1].startswith("  word")
    assert lines[-2:] == ["", "short"]


def test_without_a_peer() -> None:
    lines = info_lines(INFO | {"peer": None}, True)
    assert lines[1].endswith("(no peer)")
    assert lines[-1].startswith("Notice:")
    silent = info_lines(INFO | {"peer": PEER | {"alive": False, "mode": "fault"}}, False)
    assert any("Unreachable" in line for line in silent)
    (state,) = [line.split() for line in silent if line.startswith("state ")]
    assert state[2:] == ["Running", "N/A"]


def test_pressure_is_shown() -> None:
    pressed = INFO["stream"] | {"pressure": 2, "pressure_cause": "events", "held": 262144}
    assert not any("pressure" in line for line in info_lines(INFO, True))
    line = info_lines(INFO | {"stream": pressed}, False)[-1]
    assert line == "Notice: pressure 2 (events), 262144 connections are unprotected"
    assert len(line) <= WIDTH


def test_stats_and_times() -> None:
    assert stats_lines({"b": 1, "drop.auth": 22}) == ["b         1", "drop.auth 22"]
    assert stats_lines({}) == []
    assert when(None) == "N/A"
    assert when("what") == "what"


# --- start-up ---


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])},
    )


def test_only_light_modules_are_loaded() -> None:
    done = run_python(
        "import sys; from hak2k.cli import hainfo_main; hainfo_main(['--socket', '/nowhere']);"
        "print(*(m for m in ('asyncio', 'pyroute2', 'nftables', 'hak2k._core', 'inspect',"
        "'dataclasses', 'hak2k.config') if m in sys.modules))"
    )
    assert done.stdout.strip() == ""
    assert "is it running?" in done.stderr


def test_nobody_reads_on(tmp_path: Path) -> None:
    """hainfo | head -1"""
    with serving(tmp_path / "s", Daemon().handlers()):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "hak2k", "info", "--socket", str(tmp_path / "s")],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            cwd=Path(cli.__file__).parents[1],
        )
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""
