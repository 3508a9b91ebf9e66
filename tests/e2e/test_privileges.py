"""What a running daemon may do, and where its keys are not: not in what it says, not
in what others can see of it, not in a core dump."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hak2k import keys
from hak2k.lab import Lab, Node, until
from hak2k.lab.config import new_psk, write_private
from tests.e2e.duo import Duo

KEPT = {"cap_net_admin", "cap_net_raw", "cap_ipc_lock", "cap_sys_nice"}
OPTIONS = {"traffic": True}


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def pid(lab: Lab, fw: Node) -> int:
    process = lab.daemons[fw].process
    assert process is not None
    # The lab may run it behind another program.
    name = Path(f"/proc/{process.pid}/comm").read_text().strip()
    assert name in ("hak2kd", "python3"), name
    return process.pid


def test_capabilities_of_every_thread(duo: Duo) -> None:
    kept = sum(1 << bit for bit in (12, 13, 14, 23))
    for fw in duo.lab.fw:
        tasks = [int(t.name) for t in Path(f"/proc/{pid(duo.lab, fw)}/task").iterdir()]
        assert len(tasks) > 3
        for task in tasks:
            got = status(task)
            for name in ("CapEff", "CapPrm", "CapBnd"):
                assert int(got[name], 16) & ~kept == 0, (name, got[name])
            for name in ("CapInh", "CapAmb"):
                assert int(got[name], 16) == 0
            assert int(got["CapEff"], 16) >> 12 & 3 == 3
            assert got["NoNewPrivs"] == "1"


def test_all_works_with_these(duo: Duo) -> None:
    """There and back, announcements, gates, a reload that reads root's key anew."""
    lab = duo.lab
    for _ in range(2):
        was = duo.passive
        sent = duo.ask(was, "stats")["swap.announcements"]
        duo.ask(was, "active")
        duo.ready()
        assert duo.active is was
        duo.ask(was, "reset")
        assert duo.ask(was, "stats")["swap.announcements"] > sent
        duo.gates()
        for fw in lab.fw:
            assert duo.ask(fw, "reload") == {"changed": []}
    assert all(duo.ask(fw, "info")["stream"]["capture"] == "probe" for fw in lab.fw)
    duo.progress()
    duo.equal()


def test_a_change_of_keys_by_an_operator(duo: Duo) -> None:
    """As docs/operations.md says: no swap, no lost session, no lost connection."""
    lab, active = duo.lab, duo.active
    new = new_psk()
    old = {fw.name: lab.daemons[fw].directory.joinpath("psk").read_text() for fw in lab.fw}
    stood = {fw: duo.position(fw) for fw in lab.fw}
    first = duo.ask(lab.fw1, "info")["stream"]["key"]
    fresh = keys.fingerprint(keys.derive_key(new.encode()))
    try:
        for fw in (lab.fw2, lab.fw1):  # the one that begins comes last, and first below
            write_private(lab.daemons[fw].directory / "psk", f"{new}\n{old[fw.name]}")
            assert duo.ask(fw, "reload") == {"changed": ["cluster.psk_file"]}
            if fw is lab.fw2:
                stream = duo.ask(fw, "info")["stream"]
                assert (stream["key"], stream["key_current"]) == (first, False)
                assert stream["keys"] == [fresh, first]
                shown = lab.ctl(fw, "info", "-v", json=False)
                assert re.search(rf"^key +: {first}, 2\d\d bits +waits for {fresh}$", shown, re.M)
                event = duo.wait_event(fw, "key.waiting", stood[fw])
                assert (event["key"], event["wanted"]) == (first, fresh)
        for fw in lab.fw:
            duo.wait_event(fw, "session.rekeyed", stood[fw])
            stream = duo.ask(fw, "info")["stream"]
            assert (stream["key"], stream["key_current"]) == (fresh, True)
            assert 200 < stream["key_bits"] <= 256
        for fw in lab.fw:
            write_private(lab.daemons[fw].directory / "psk", f"{new}\n")
            assert duo.ask(fw, "reload") == {"changed": ["cluster.psk_file"]}
        duo.progress()
        duo.equal()
        assert duo.active is active
        for fw in lab.fw:
            after = duo.ids(fw, stood[fw])
            assert not {"session.up", "peer.dead", "role.active", "sync.start"} & set(after)
            assert after.count("session.rekeyed") == 1
        # a wrong key on one side: said, and the session stands
        at = duo.position(lab.fw1)
        write_private(lab.daemons[lab.fw1].directory / "psk", new_psk() + "\n")
        duo.ask(lab.fw1, "reload")
        event = duo.wait_event(lab.fw1, "key.waiting", at)
        assert "not in psk_file any more" in event["message"]
        assert "peer.dead" not in duo.ids(lab.fw1, at)
        duo.progress()
    finally:
        for fw in lab.fw:
            write_private(lab.daemons[fw].directory / "psk", old[fw.name])
            duo.ask(fw, "reload")

        def back() -> bool:
            return all(duo.ask(fw, "info")["stream"]["key"] == first for fw in lab.fw)

        until(back, 10, "the first key again", detail=duo.report)
    duo.progress()


def test_other_priority_by_a_reload(duo: Duo) -> None:
    """Both nodes hear of it, and the preferred one takes over; no new session."""
    lab, was = duo.lab, duo.active
    other = duo.passive
    stood = {fw: duo.position(fw) for fw in lab.fw}
    try:
        lab.write_config(other, cluster={"priority": 70})
        assert duo.ask(other, "reload") == {"changed": ["cluster.priority"]}
        duo.wait_mode(other, "active")
        duo.ready()
        assert duo.ask(was, "info")["peer"]["priority"] == 70
        assert duo.ask(other, "info")["local"]["priority"] == 70
        for fw in lab.fw:
            assert not {"session.up", "peer.dead"} & set(duo.ids(fw, stood[fw]))
        duo.progress()
    finally:
        lab.write_config(other, cluster={"priority": 0})
        duo.ask(other, "reload")
        until(lambda: duo.ask(was, "info")["peer"]["priority"] == 0, 5, "the first priority")


def secrets_of(lab: Lab, fw: Node) -> list[bytes]:
    """The key in every form in which it could show."""
    text = (lab.daemons[fw].directory / "psk").read_bytes().strip()
    derived = bytes(keys.derive_key(text))
    prk = hmac.digest(b"hak2k psk v1", text, hashlib.sha256)
    return [text, bytes.fromhex(text.decode()), derived, derived.hex().encode(), prk]


def test_keys_are_not_in_what_is_shown(duo: Duo) -> None:
    lab = duo.lab
    for fw in lab.fw:
        # whole keys, and halves of them
        wanted = [part for s in secrets_of(lab, fw) for part in (s, s[: len(s) // 2])]
        here = Path(f"/proc/{pid(lab, fw)}")
        shown = [lab.daemons[fw].log.read_bytes()]
        shown += [(here / name).read_bytes() for name in ("cmdline", "environ", "status", "maps")]
        for command in ("info", "stats", "events", "mode"):
            for options in ((), ("-v",)) if command == "info" else ((),):
                for json in ((), ("--json",)):
                    shown.append(lab.daemons.command(fw, command, *options, *json).stdout.encode())
        assert all(len(text) > 4 for text in shown)
        for text in shown:
            assert not any(part in text for part in wanted)


def in_memory(process: int, wanted: dict[str, bytes]) -> dict[str, int]:
    """In how many mappings of a living process each of these byte strings stands."""
    there = dict.fromkeys(wanted, 0)
    with Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            first, last = (int(part, 16) for part in span.split("-"))
            if not rights.startswith("rw"):
                continue
            memory.seek(first)
            content = memory.read(last - first)
            for name, what in wanted.items():
                there[name] += what in content
    return there


def test_keys_in_a_living_daemon(duo: Duo) -> None:
    """Each key stands once, in the engine's memory and as derived, and goes when it is
    not in the file any more: nothing of what was read, copied or mixed is left over."""
    lab, new = duo.lab, new_psk()
    files = {fw: lab.daemons[fw].directory / "psk" for fw in lab.fw}
    old = files[lab.fw1].read_text().strip()

    def check(fw: Node, text: str, derived: int) -> None:
        secret = text.encode()
        wanted = {
            "text": secret,
            "half of it": secret[: len(secret) // 2],
            "raw": bytes.fromhex(text),
            "extracted": hmac.new(b"hak2k psk v1", secret, hashlib.sha256).digest(),
            "derived": bytes(keys.derive_key(secret))[:16],
        }
        found = in_memory(pid(lab, fw), wanted)
        assert found == {**dict.fromkeys(wanted, 0), "derived": derived}

    for fw in lab.fw:
        check(fw, old, 1)
    for content in (f"{new}\n{old}\n", f"{new}\n"):
        for fw, path in files.items():
            write_private(path, content)
            duo.ask(fw, "reload")

        def under_new() -> bool:
            return all(duo.ask(fw, "info")["stream"]["key_current"] is True for fw in lab.fw)

        until(under_new, 10, "the new key", detail=duo.report)
    for fw in lab.fw:
        check(fw, old, 0)
        check(fw, new, 1)


def test_no_core_dump(duo: Duo) -> None:
    """The kernel makes none, and leaves the engine out of one that root asks for."""
    lab, fw = duo.lab, duo.passive
    here = Path(f"/proc/{pid(lab, fw)}")
    assert re.search(r"^Max core file size +0 +0 ", (here / "limits").read_text(), re.M)
    parts = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", (here / "smaps").read_text())
    hidden = [p for p in parts if re.search(r"^VmFlags:.* dd\b", p, re.M) and " rw-p " in p]
    assert hidden, "the engine's memory is in core dumps"
    process = lab.daemons[fw].process
    assert process is not None
    process.send_signal(signal.SIGABRT)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert (ended.si_code, ended.si_status) == (os.CLD_KILLED, signal.SIGABRT), "dumped"
    lab.kill(fw)
    lab.start(fw)
    duo.ready()


# -- start, as somebody else, in bad places ------------------------------------------


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def test_as_another_user(lab: Lab) -> None:
    """With two capabilities and nothing of root's."""
    instance = lab.daemons["fw1"]
    lab.write_config("fw1")
    directory = instance.directory
    for each in (directory, *directory.iterdir()):
        os.chown(each, 65534, 65534)
    for above in (directory.parent, directory.parent.parent):
        above.chmod(above.stat().st_mode | 0o011)
    wanted = "+net_admin,+net_raw"
    with open(instance.log, "ab") as log:
        instance.process = lab.fw1.popen(
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            f"--inh-caps={wanted}", f"--ambient-caps={wanted}",
            lab.daemons.bindir / "hak2kd", "--config", instance.config,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    lab.daemons.wait_answering("fw1")
    lab.wait("fw1", mode="active")
    got = status(instance.process.pid)
    assert int(got["CapEff"], 16) == 1 << 12 | 1 << 13
    assert int(got["CapAmb"], 16) == 0
    assert got["Uid"].split()[0] == "65534"
    # Without CAP_BPF and CAP_PERFMON there is no probe, and all works by netlink.
    assert lab.ctl("fw1", "info")["stream"]["capture"] == "netlink"
    (missing,) = [e for e in lab.ctl("fw1", "events") if e["id"] == "probe.unavailable"]
    assert "stream.capture" in missing["message"]
    chains = lab.fw1.run("nft", "list", "table", "inet", "hak2k").stdout
    assert "jump tell" in chains
    assert lab.ctl("fw1", "reload") == {"changed": []}


def test_a_capability_lent_to_children() -> None:
    """Without root, a process that this one starts may ping, and none after it."""
    wanted = "+net_admin,+net_raw"
    code = """
from subprocess import run
from hak2k import privileges
show = ["grep", "-h", "-E", "Cap(Inh|Eff)", "/proc/self/status"]
privileges.drop()
with privileges.lent_to_children(privileges.NET_RAW):
    run(show, check=True)
run(show, check=True)
run([*show[:-1], f"/proc/{__import__('os').getpid()}/status"], check=True)
"""
    done = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *(f"--inh-caps={wanted}", f"--ambient-caps={wanted}", sys.executable, "-c", code),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    got = [int(line.split()[1], 16) for line in done.stdout.splitlines()]
    raw, both = 1 << 13, 1 << 12 | 1 << 13
    assert got == [raw, raw, 0, 0, 0, both], done.stderr


def test_socket_for_a_group(lab: Lab) -> None:
    lab.write_config("fw1", control={"group": "4242"})
    lab.start("fw1")
    info = lab.daemons["fw1"].control_socket.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_gid) == (0o660, 4242)
    lab.stop("fw1")
    lab.write_config("fw1")
    lab.start("fw1")
    info = lab.daemons["fw1"].control_socket.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_gid) == (0o600, os.getegid())


def refused(lab: Lab, *words: str) -> None:
    config = lab.daemons["fw1"].config
    done = lab.fw1.run(lab.daemons.bindir / "hak2kd", "--config", config, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_what_is_in_the_socket_s_place(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    lab.write_config("fw1", control={"socket": str(path)})
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    refused(lab, str(path), "is no socket")
    path.unlink()
    path.write_text("a file")
    refused(lab, str(path), "is no socket")
    path.unlink()
    lock = tmp_path / "c.sock.lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(victim)
    refused(lab, str(lock))
    lock.unlink()
    lock.touch()
    lock.chmod(0o666)
    os.chown(lock, 65534, -1)
    refused(lab, f"{lock} belongs to user 65534")
    lock.unlink()
    tmp_path.chmod(0o777)
    refused(lab, str(tmp_path), "chmod o-w")
    tmp_path.chmod(0o700)
    assert victim.read_text() == "precious"
    # a dead daemon's socket is taken over
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    lab.daemons["fw1"].process = lab.fw1.popen(
        lab.daemons.bindir / "hak2kd", "--config", lab.daemons["fw1"].config,
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    until(answers, 10, "a daemon on the dead one's socket")


# -- the units -----------------------------------------------------------------------


def test_units(tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "apt-get install systemd"
    for name in ("hak2kd.service", "hak2k-gate.service"):
        unit = Path("contrib", name).read_text()
        # the programs are not where an installation puts them
        unit = re.sub(r"/usr/local/sbin/hak2kd", "/bin/true", unit)
        (tmp_path / name).write_text(unit)
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
