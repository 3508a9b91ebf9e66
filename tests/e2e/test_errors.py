"""What stands in the way of a start: one clear line each, and the right exit code."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hak2k.lab import Lab, until
from hak2k.lab.config import new_psk
from tests.e2e.duo import Duo, Gate


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def lab(shared: Lab) -> Lab:
    """No daemon runs, and no gate stands."""
    for fw in shared.fw:
        shared.kill(fw)
        fw.nft("table netdev hak2k\ntable inet hak2k\ndelete table netdev hak2k\n"
               "delete table inet hak2k")  # fmt: skip
    return shared


def start(
    lab: Lab, *before: str, env: dict[str, str] | None = None, after: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run fw1's daemon, which is expected to end by itself, behind other programs."""
    return lab.fw1.run(
        *before,
        lab.daemons.bindir / "hak2kd",
        "--config",
        lab.daemons["fw1"].config,
        *after,
        check=False,
        timeout=20,
        env=env,
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """One line that has all the words, and nothing else; no gate was made."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    return done.stderr.rstrip("\n")


def at(config: Path, key: str, text: str) -> str:
    """FILE:LINE: of the line that `text` begins, and the key."""
    lines = config.read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.startswith(text))
    return f"{config}:{number}: {key}: "


# -- the configuration: 2 -----------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "key", "line", "words"),
    [
        ({"stream": {"prot": 1}}, "stream.prot", "prot =", ("not a known key", "'port'")),
        ({"colour": {"red": 1}}, "colour", "[colour]", ("not a known key",)),
        ({"stream": {"port": "44242"}}, "stream.port", "port", ("a string", "a whole number")),
        ({"stream": {"encrypt": 1}}, "stream.encrypt", "encrypt", ("true or false",)),
        ({"cluster": {"id": 70000}}, "cluster.id", "id", ("70000", "65535")),
        (
            {"liveness": {"heartbeat_ms": 150}},
            "liveness.",
            "dead_after_ms",
            ("contradicts", "heartbeat_ms", "dead_after_ms"),
        ),
        (
            {"stream": {"events": "all", "capture": "probe"}},
            "stream.events",
            "events",
            ("contradicts stream.capture", "netlink"),
        ),
        ({"cluster": {"psk_file": "none"}}, "cluster.psk_file", "psk_file", ("No such file",)),
        ({"node": {"serial": None}}, "node.serial", "[node]", ("is missing",)),
    ],
    ids=[
        "unknown",
        "table",
        "type",
        "flag",
        "range",
        "contradiction",
        "probe",
        "no-psk",
        "missing",
    ],
)
def test_configuration(
    lab: Lab,
    overrides: dict[str, Any],
    key: str,
    line: str,
    words: tuple[str, ...],
) -> None:
    config = lab.write_config("fw1", **overrides)
    done = start(lab)
    error = refused(done, 2, *words)
    where = at(config, key, line).rsplit(": ", 1)[0]
    assert error.startswith(where), (error, where)
    assert re.match(re.escape(str(config)) + r":\d+: [a-z_.]+: \S", error)
    assert key in error
    with Gate(lab.fw1) as gate:
        assert gate.state() == "missing"


def test_check_says_the_same(lab: Lab) -> None:
    config = lab.write_config("fw1", stream={"prot": 1})
    error = refused(start(lab), 2)
    assert refused(start(lab, after=("--check",)), 2) == error
    assert error.startswith(f"{config}:")


def test_two_interfaces_of_one_name(lab: Lab) -> None:
    """A contradiction names both places."""
    interfaces = [{"name": "lan", "weight": 1}, {"name": "lan", "weight": 2}]
    config = lab.write_config("fw1", interface=interfaces)
    error = refused(start(lab), 2, "interface[0]", "interface[1]")
    assert error.startswith(f"{config}:")


def test_key_readable_by_others(lab: Lab) -> None:
    config = lab.write_config("fw1")
    psk = config.with_name("psk")
    for mode in (0o640, 0o604):
        psk.chmod(mode)
        refused(start(lab), 2, at(config, "cluster.psk_file", "psk_file"), f"chmod 600 {psk}")


def test_not_toml_and_no_file(lab: Lab) -> None:
    config = lab.write_config("fw1", extra="[[[\n")
    error = refused(start(lab), 2)
    assert re.match(re.escape(str(config)) + r":\d+: ", error)
    config.unlink()
    refused(start(lab), 2, str(config), "No such file")


# -- the machine: 1 -----------------------------------------------------------------


def test_missing_interfaces(lab: Lab) -> None:
    config = lab.write_config("fw1", interface=[{"name": "dmz", "weight": 1}])
    refused(start(lab), 1, at(config, "interface[0].name", 'name = "dmz"'), "dmz does not exist")
    links = [{"name": "main", "interface": "ha9", "local": "192.168.69.1", "peer": "192.168.69.2"}]
    config = lab.write_config("fw1", link=links)
    refused(start(lab), 1, f"{config}:", "link[0].interface", "ha9 does not exist")


def test_address_is_not_on_the_ha_interface(lab: Lab) -> None:
    links = [{"name": "main", "interface": "ha0", "local": "192.168.69.9", "peer": "192.168.69.2"}]
    config = lab.write_config("fw1", link=links)
    refused(start(lab), 1, f"{config}:", "link[0].local", "192.168.69.9", "ip address add")


def test_port_in_use(lab: Lab) -> None:
    config = lab.write_config("fw1")
    with lab.fw1.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("192.168.70.1", 44242))
        refused(start(lab), 1, f"{config}:", "link[1].local", "44242", "in use")


def test_second_daemon(lab: Lab) -> None:
    """On the same control socket; then with its own, but on the same port."""
    lab.write_config("fw1")
    lab.start("fw1")
    lab.wait("fw1", mode="active")
    with Gate(lab.fw1) as gate:
        process = lab.daemons["fw1"].process
        assert process is not None
        refused(start(lab), 1, "another hak2kd", f"process {process.pid}")
        # The first one is not disturbed: its gate is open still.
        assert gate.state() == "open"
        other = lab.daemons["fw1"].directory / "other.sock"
        config = lab.write_config("fw1", control={"socket": str(other)})
        refused(start(lab), 1, f"{config}:", "44242", "another hak2kd")
        assert gate.state() == "open"
    assert lab.daemons["fw1"].running


@pytest.mark.parametrize("capability", ["net_admin", "net_raw"])
def test_missing_capability(lab: Lab, capability: str) -> None:
    lab.write_config("fw1")
    without = f"-{capability}"
    done = start(lab, "setpriv", "--bounding-set", without, "--inh-caps", without)
    refused(done, 1, f"CAP_{capability.upper()} missing")


def test_a_probe_that_is_demanded_and_not_possible(lab: Lab) -> None:
    config = lab.write_config("fw1", stream={"capture": "probe"}, liveness={"lease": False})
    without = "-bpf,-perfmon,-sys_admin"
    done = start(lab, "setpriv", "--bounding-set", without, "--inh-caps", without)
    where = at(config, "stream.capture", "capture").rsplit(":", 3)[0]
    refused(done, 1, where, "stream.capture", "probe", 'capture = "auto"')


def test_missing_libnftables(lab: Lab) -> None:
    """The library is really not there: an empty file lies over it, for this process."""
    found = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    library = re.search(r"libnftables\.so\.1 .* => (\S+)", found)
    assert library is not None
    lab.write_config("fw1")
    hide = f'mount --bind /dev/null "{library[1]}" && exec "$@"'
    done = start(lab, "unshare", "--mount", "sh", "-c", hide, "sh")
    refused(done, 1, "libnftables is missing", "apt-get install libnftables1")


def test_missing_python_module(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "nftables.py").write_text("raise ImportError('No module named nftables')\n")
    lab.write_config("fw1")
    refused(start(lab, env={"PYTHONPATH": str(tmp_path)}), 1, "libnftables is missing")


def test_control_socket_cannot_be_made(lab: Lab) -> None:
    lab.write_config("fw1", control={"socket": "/proc/hak2k/control.sock"})
    refused(start(lab), 1, "/proc/hak2k")


# -- two nodes that do not fit together ------------------------------------------------


def begin(lab: Lab, second: dict[str, Any]) -> Duo:
    """Start both, the second one configured otherwise; return when both have
    decided.  (A `Duo` waits for a pair; here there is none.)"""
    duo = Duo.__new__(Duo)
    duo.lab, duo.traffic = lab, None
    lab.write_config("fw1")
    lab.write_config("fw2", **second)
    for fw in lab.fw:
        lab.start(fw)
    for fw in lab.fw:
        # Each is alone as far as it knows: two of them are active.
        duo.wait_mode(fw, "active")
    return duo


def counts(duo: Duo, reason: str) -> list[int]:
    return [duo.ask(fw, "stats")[f"drop.{reason}"] for fw in duo.lab.fw]


def strangers(duo: Duo) -> None:
    """No session, and both say so."""
    for fw in duo.lab.fw:
        info = duo.ask(fw, "info")
        assert info["peer"] is None
        assert {link["state"] for link in info["links"]} == {"failed"}
        assert "session.up" not in duo.ids(fw)
        shown = duo.lab.ctl(fw, "info", json=False)
        assert "(no peer)" in shown
        assert "Notice: the other firewall has not been heard yet" in shown


@pytest.mark.parametrize(
    ("second", "reason", "words"),
    [
        ({"psk": new_psk()}, "auth", "psk_file"),
        ({"cluster": {"id": 8}}, "cluster", "cluster.id"),
    ],
    ids=["key", "cluster"],
)
def test_two_that_are_strangers(lab: Lab, second: dict[str, Any], reason: str, words: str) -> None:
    duo = begin(lab, second)
    strangers(duo)
    until(lambda: any(counts(duo, reason)), 5, f"drop.{reason}", detail=duo.report)
    strangers(duo)
    # Whoever receives what it cannot accept says it in words.
    refusing = [fw for fw, n in zip(lab.fw, counts(duo, reason), strict=True) if n]
    for fw in refusing:
        event = duo.wait_event(fw, "hello.refused", timeout=15)
        assert words in f"{event['message']} {event.get('reason', '')}"


def test_two_of_one_serial(lab: Lab) -> None:
    duo = begin(lab, {"node": {"serial": "FW-A"}})
    strangers(duo)

    def refusing() -> list[dict[str, Any]]:
        found = [e for fw in lab.fw for e in duo.events(fw) if e["id"] == "hello.refused"]
        return found

    event = until(refusing, 5, "hello.refused", detail=duo.report)[0]
    assert "serial" in f"{event['message']} {event.get('reason', '')}"
    assert any(counts(duo, "hello"))
