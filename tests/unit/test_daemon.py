"""hak2kd's start: what is checked, and how a refusal looks.  No root needed."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from hak2k import __version__, daemon, privileges
from hak2k._rtnl import Link
from hak2k.errors import KernelError
from hak2k.events import EventLog
from hak2k.netwatch import Snapshot
from tests.unit.samples import GOOD, config, write


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon.main(["--config", str(write(tmp_path)), "--check"]) == 0
    assert capsys.readouterr().out == "OK\n"


def test_a_bad_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD.replace("id = 7", "id = 0"))
    for argv in (["--check"], []):
        assert daemon.main(["--config", str(path), *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.fullmatch(rf"{re.escape(str(path))}:6: cluster\.id: .+, .+|.+; .+", line)


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--config"], ["--config", "x", "--log-format", "xml"]):
        with pytest.raises(SystemExit) as caught:
            daemon.main(argv)
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        daemon.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"hak2kd {__version__}\n"


def test_capabilities(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t0000000000003000\n")
    privileges.check(str(status))
    status.write_text("Name:\tx\nCapEff:\t0000000000001000\n")
    with pytest.raises(KernelError, match="CAP_NET_RAW missing; run as root"):
        privileges.check(str(status))


def link(name: str, index: int) -> Link:
    return Link(name, index, 1, b"", True, True, 6)


def test_interfaces(tmp_path: Path) -> None:
    made = config(tmp_path)
    everything = Snapshot(
        {n: link(n, i) for i, n in enumerate(("ha0", "ha1", "lan", "wan"))},
        frozenset({(0, bytes([192, 168, 69, 1])), (1, bytes([192, 168, 70, 1]))}),
    )
    daemon.check_interfaces(made, everything)
    without = {n: x for n, x in everything.links.items() if n in ("ha0", "lan")}
    wrong = Snapshot(without, frozenset({(7, bytes([192, 168, 69, 1]))}))
    with pytest.raises(KernelError) as caught:
        daemon.check_interfaces(made, wrong)
    lines = str(caught.value).splitlines()
    assert [x.split(": ")[1] for x in lines] == [
        "link[0].local",
        "link[1].interface",
        "interface[1].name",
    ]
    assert all(x.startswith(f"{made.path}:") for x in lines)
    assert "192.168.69.1 is not an address of ha0" in lines[0]
    assert "interface wan does not exist" in lines[2]


def test_the_port_is_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        made = config(tmp_path, port=f"port = {port}", local='local = "127.0.0.1"')
        with pytest.raises(KernelError, match=r"link\[0\]\.local: UDP port \d+ on 127"):
            daemon.check_port(made)


def test_sysctls(tmp_path: Path) -> None:
    path = tmp_path / "net" / "netfilter" / "nf_conntrack_events"
    log = EventLog()
    daemon.set_sysctls(log, root=tmp_path)
    assert [e["id"] for e in log] == ["sysctl.failed"]
    path.parent.mkdir(parents=True)
    path.write_text("2\n")
    daemon.set_sysctls(log, root=tmp_path)
    assert path.read_text() == "1"
    assert list(log)[-1]["before"] == "2"
    daemon.set_sysctls(log, root=tmp_path)
    assert len(list(log)) == 2, "nothing to do, nothing said"
    assert daemon.sysctls(config(tmp_path)) == list(daemon.SYSCTLS)
    moving = config(tmp_path, address_mode='address_mode = "move"')
    names = [name for name, _, _ in daemon.sysctls(moving)]
    assert "net/ipv4/conf/lan/promote_secondaries" in names
    assert len(set(names)) == len(names)


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.notify("READY=1")  # nobody is there
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        daemon.notify("READY=1")
        assert s.recv(100) == b"READY=1"
    path.unlink()
    daemon.notify("READY=1")


def test_no_tracebacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAK2K_DEBUG", raising=False)

    def fails(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(daemon, "run", fails)
    assert daemon.main(["--config", str(write(tmp_path))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "hak2kd: internal error: ZeroDivisionError('oops'); please report it"

    def refuses(*_: object) -> None:
        raise KernelError("a\nb")

    monkeypatch.setattr(daemon, "run", refuses)
    assert daemon.main(["--config", str(write(tmp_path))]) == 1
    assert capsys.readouterr().err == "hak2kd: a\nhak2kd: b\n"
