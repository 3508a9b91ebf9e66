"""The commands, against real daemons: shapes, exit codes, words, columns."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hak2k.events import CATALOG, SEVERITIES
from hak2k.lab import Node
from tests.e2e.duo import Duo

ALIASES = {
    "hainfo": "info",
    "hamode": "mode",
    "hasync": "sync",
    "haactive": "active",
    "hapassive": "passive",
    "hareset": "reset",
    "hadiff": "diff",
    "hasynctest": "synctest",
    "enha": "reload",
    "hawhy": "why",
}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
LONG = ("A" * 32, "B" * 32)  # serials, as long as they may be


@pytest.fixture(scope="module")
def duo() -> Iterator[Duo]:
    duo = Duo(traffic=False)
    yield duo
    duo.close()


def run(
    duo: Duo, program: str, *arguments: str, socket: Path | str | None = None, timeout: float = 20
) -> subprocess.CompletedProcess[str]:
    """Run a program with HAK2K_SOCKET set to fw1's, or to another path."""
    path = duo.lab.daemons[duo.lab.fw1].control_socket if socket is None else socket
    return subprocess.run(
        [duo.lab.daemons.bindir / program, *arguments],
        env={**os.environ, "HAK2K_SOCKET": str(path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def answer(duo: Duo, program: str, *arguments: str) -> Any:
    done = run(duo, program, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def one_line(text: str, program: str) -> None:
    assert text.startswith(f"{program}: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text


# -- shapes ---------------------------------------------------------------------

NODE: dict[str, Any] = {
    "serial": str,
    "model": str,
    "version": str,
    "mode": ("active", "passive", "starting", "fault"),
    "since": RFC3339,
    "forced": ("no", "active", "passive"),
    "quality": int,
    "priority": int,
    "state": ("running", "ready", "syncing", "frozen", "starting"),
    "boot": RFC3339,
    "config_synced": (True, False, None),
    "protocol": {"stream": int, "state": int},
    "supervisor": bool,
}
INFO: dict[str, Any] = {
    "local": NODE,
    "peer": NODE,
    "links": [
        {"name": str, "state": ("ok", "failed"), "since": RFC3339, "rtt_us": (int, None)},
    ],
    "stream": {"lag_records": int, "lag_ms": float, "sequence": int, "encrypted": bool},
    "table": {"entries": int, "equal": (True, False, None), "as_of": int, "age_ms": float},
}


def fits(value: Any, shape: Any, where: str = "$") -> None:
    """Assert that a JSON value has a shape; more keys may be there."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        for key, part in shape.items():
            assert key in value, f"{where}.{key}"
            fits(value[key], part, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        assert value, where
        for i, item in enumerate(value):
            fits(item, shape[0], f"{where}[{i}]")
    elif isinstance(shape, tuple):
        types = tuple(s for s in shape if isinstance(s, type))
        ok = any(value is s or (isinstance(s, str) and value == s) for s in shape)
        assert ok or (type(value) in types), f"{where}: {value!r}"
    elif isinstance(shape, re.Pattern):
        assert isinstance(value, str), where
        assert shape.fullmatch(value), f"{where}: {value!r}"
    elif shape is float:
        assert type(value) in (int, float), f"{where}: {value!r}"
    else:
        assert type(value) is shape, f"{where}: {value!r}"


def test_info(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    for fw in (active, passive):
        info = duo.lab.ctl(fw, "info")
        fits(info, INFO)
        assert [link["name"] for link in info["links"]] == ["main", "backup"]
        assert all(link["rtt_us"] is not None for link in info["links"])
        assert info["stream"]["encrypted"] is True
    info = duo.lab.ctl(active, "info")
    assert (info["local"]["mode"], info["local"]["state"]) == ("active", "running")
    assert (info["peer"]["mode"], info["peer"]["state"]) == ("passive", "ready")
    assert (info["local"]["supervisor"], info["peer"]["supervisor"]) == (True, False)
    mirror = duo.lab.ctl(passive, "info")
    for key in ("serial", "model", "version", "mode", "since", "forced", "quality", "priority"):
        assert info["local"][key] == mirror["peer"][key], key
        assert info["peer"][key] == mirror["local"][key], key
    assert info["table"]["entries"] == active.conntrack_count()


def test_mode(duo: Duo) -> None:
    for fw, mode in ((duo.active, "active"), (duo.passive, "passive")):
        assert duo.lab.ctl(fw, "mode", json=False) == f"{mode}\n"
        assert duo.lab.ctl(fw, "mode")["mode"] == mode


def test_stats(duo: Duo) -> None:
    stats = duo.lab.ctl(duo.active, "stats")
    assert all(type(value) is int and value >= 0 for value in stats.values())
    assert all(isinstance(key, str) for key in stats)
    drops = {key for key in stats if key.startswith("drop.")}
    reasons = {"short", "long", "address", "version", "cluster", "session", "auth", "replay"}
    assert {f"drop.{reason}" for reason in reasons} <= drops
    text = run(duo, "hak2kctl", "stats").stdout.splitlines()
    assert [line.split()[0] for line in text] == sorted(stats)


def test_events(duo: Duo) -> None:
    lines = run(duo, "hak2kctl", "events", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) > 3
    for event in events:
        fits(event, {"time": RFC3339, "id": str, "severity": SEVERITIES, "message": str})
        assert event["severity"] == CATALOG[event["id"]].severity
    times = [event["time"] for event in events]
    assert times == sorted(times)  # newest last
    text = run(duo, "hak2kctl", "events").stdout.splitlines()
    assert len(text) == len(lines)
    assert all(e["id"] in line for e, line in zip(events, text, strict=True))


def test_events_follow(duo: Duo) -> None:
    """What is there, then what comes; it ends with the daemon at the latest."""
    path = duo.lab.daemons[duo.lab.fw1].control_socket
    follower = subprocess.Popen(
        [duo.lab.daemons.bindir / "hak2kctl", "--socket", path, "events", "--follow", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout is not None
        known = len(duo.events(duo.lab.fw1))
        seen = [json.loads(line) for line in itertools.islice(follower.stdout, known)]
        assert seen[0]["id"] == "daemon.start"
        forced = duo.mode(duo.lab.fw1)
        assert run(duo, f"ha{forced}").returncode == 0
        assert json.loads(follower.stdout.readline())["id"] == "force.set"
        assert run(duo, "hareset").returncode == 0
        assert json.loads(follower.stdout.readline())["id"] == "force.set"
    finally:
        follower.kill()
        follower.communicate()


# -- wait -------------------------------------------------------------------------


def test_wait(duo: Duo) -> None:
    lab = duo.lab
    active, passive = duo.active, duo.passive
    assert lab.ctl(active, "wait", "--mode", "active", "--ready", json=False) == "active\n"
    assert lab.ctl(passive, "wait", "--mode", "passive", "--ready")["mode"] == "passive"
    assert lab.ctl(passive, "wait", "--ready")["mode"] == "passive"
    begun = time.monotonic()
    late = lab.daemons.command(passive, "wait", "--mode", "active", "--timeout", "0.3")
    assert late.returncode == 1
    assert time.monotonic() - begun >= 0.3
    one_line(late.stderr, "hak2kctl")
    assert "mode passive" in late.stderr  # what is instead
    assert lab.daemons.command(passive, "wait").returncode == 2
    assert lab.daemons.command(passive, "wait", "--mode", "happy").returncode == 2
    assert lab.daemons.command(passive, "wait", "--ready", "--timeout", "-1").returncode == 2


def test_wait_sees_a_swap(duo: Duo) -> None:
    """Blocks until it is so, and does not ask again and again."""
    passive = duo.passive
    waiting = subprocess.Popen(
        [
            *(duo.lab.daemons.bindir / "hak2kctl", "wait", "--mode", "active"),
            *("--socket", str(duo.lab.daemons[passive].control_socket)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert duo.lab.daemons.command(passive, "active").returncode == 0
    assert waiting.communicate(timeout=5)[0] == "active\n"
    assert waiting.returncode == 0
    assert duo.lab.daemons.command(passive, "reset").returncode == 0
    duo.ready()


def test_wait_for_a_daemon_that_is_not_there_yet(duo: Duo, tmp_path: Path) -> None:
    done = run(duo, "hak2kctl", "wait", "--ready", "--timeout", "0.2", socket=tmp_path / "none")
    assert done.returncode == 3
    one_line(done.stderr, "hak2kctl")


# -- the aliases ----------------------------------------------------------------


@pytest.mark.parametrize("alias", ALIASES)
def test_alias_is_the_command(duo: Duo, alias: str) -> None:
    """Same words, same exit code, under its own name."""
    command = ALIASES[alias]
    # One that changes nothing: what the node is already.
    fw = {"haactive": duo.active, "hapassive": duo.passive}.get(alias, duo.active)
    path = duo.lab.daemons[fw].control_socket
    long, short = run(duo, "hak2kctl", command, socket=path), run(duo, alias, socket=path)
    assert long.returncode == short.returncode
    if alias != "hainfo":  # whose text has times in it
        assert long.stdout == short.stdout
    assert long.stderr.replace("hak2kctl:", f"{alias}:") == short.stderr
    if command in ("sync", "diff", "synctest", "why"):
        assert short.returncode in (0, 1)
    else:
        assert short.returncode == 0
    if short.returncode == 1:
        one_line(short.stderr, alias)
    assert run(duo, "hareset", socket=path).returncode == 0


@pytest.mark.parametrize("command", ["resume", "verify"])
def test_commands_without_an_alias(duo: Duo, command: str) -> None:
    done = run(duo, "hak2kctl", command)
    assert done.returncode in (0, 1)
    if done.returncode == 1:
        one_line(done.stderr, "hak2kctl")


@pytest.mark.parametrize("program", ["hak2kctl", *ALIASES])
def test_daemon_not_reachable(duo: Duo, program: str, tmp_path: Path) -> None:
    arguments = ["mode"] if program == "hak2kctl" else []
    missing = tmp_path / "none.sock"
    for options in ([], ["--json"]):
        done = run(duo, program, *arguments, *options, socket=missing)
        assert done.returncode == 3
        assert done.stdout == ""
        one_line(done.stderr, program)
        assert str(missing) in done.stderr


def test_socket_of_a_dead_daemon(duo: Duo) -> None:
    """The file that a killed daemon leaves behind."""
    passive = duo.passive
    path = duo.lab.daemons[passive].control_socket
    duo.lab.kill(passive)
    assert path.exists()
    assert run(duo, "hamode", socket=path).returncode == 3
    duo.lab.start(passive)
    duo.ready()
    duo.lab.stop(passive)
    assert not path.exists()
    assert run(duo, "hamode", socket=path).returncode == 3
    duo.lab.start(passive)
    duo.ready()


@pytest.mark.parametrize(
    "arguments",
    [
        ["hak2kctl"],
        ["hak2kctl", "dance"],
        ["hak2kctl", "mode", "--loud"],
        ["hainfo", "one", "two"],
        ["haactive", "--timeout", "soon"],
        ["hak2kctl", "freeze", "--for", "-3"],
        ["hawhy", "first"],
        ["hak2kd"],
    ],
    ids=" ".join,
)
def test_usage(duo: Duo, arguments: list[str]) -> None:
    done = run(duo, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_which_socket(duo: Duo, tmp_path: Path) -> None:
    """--socket before HAK2K_SOCKET, and on either side of the command."""
    one, two = (str(duo.lab.daemons[fw].control_socket) for fw in duo.lab.fw)
    serials = [duo.ask(fw, "info")["local"]["serial"] for fw in duo.lab.fw]

    def serial(*arguments: str, socket: str) -> str:
        done = run(duo, *arguments, "--json", socket=socket)
        return str(json.loads(done.stdout)["local"]["serial"])

    assert serial("hainfo", socket=one) == serials[0]
    assert serial("hainfo", socket=two) == serials[1]
    assert serial("hainfo", "--socket", two, socket=one) == serials[1]
    assert serial("hak2kctl", "--socket", two, "info", socket=one) == serials[1]
    assert serial("hak2kctl", "info", "--socket", two, socket=one) == serials[1]


def test_socket_is_for_root_alone(duo: Duo) -> None:
    for fw in duo.lab.fw:
        mode = duo.lab.daemons[fw].control_socket.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


def test_reader_that_goes_away(duo: Duo) -> None:
    """`hainfo | head -1` says nothing on standard error."""
    program = duo.lab.daemons.bindir / "hak2kctl"
    path = duo.lab.daemons[duo.lab.fw1].control_socket
    done = subprocess.run(
        ["/bin/sh", "-c", f"'{program}' --socket '{path}' stats | head -1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


# -- hainfo on a terminal ---------------------------------------------------------


def screen(duo: Duo, fw: Node, *arguments: str) -> list[str]:
    path = duo.lab.daemons[fw].control_socket
    done = run(duo, "hainfo", *arguments, socket=path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert all(line.isprintable() for line in lines)
    return lines


def test_hainfo_fits_a_terminal(duo: Duo) -> None:
    """With the longest names that are allowed, alone and with a peer; last of this
    file, because it restarts both daemons."""
    lab = duo.lab
    for fw, serial in zip(lab.fw, LONG, strict=True):
        lab.stop(fw)
        lab.write_config(fw, node={"serial": serial, "model": "M" * 32})
    lab.start(lab.fw1)
    lines = screen(duo, lab.fw1, "-v")
    assert any("(no peer)" in line for line in lines)
    assert any(line.startswith("Notice: ") for line in lines)
    lab.start(lab.fw2)
    duo.ready()
    for fw in lab.fw:
        short, long = screen(duo, fw), screen(duo, fw, "-v")
        assert len(short) < len(long)
        assert short[0] == "Nodes status:"
        labels = [line.split(":")[0].strip() for line in short[2:]]
        for label in ("model", "version", "forced", "mode", "since", "quality", "priority"):
            assert label in labels
        assert "main link" in labels
        assert sum("OK" in line for line in short if "link" in line) == 2
    lab.crash(lab.fw2)
    duo.wait_event(lab.fw1, "peer.dead")
    lines = screen(duo, lab.fw1)
    assert any("Unreachable" in line for line in lines)
    assert sum("FAILED" in line for line in lines) == 2
