"""The test bed: what it builds, what passes through it, what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hak2k.lab import CommandFailed, Faults, Lab, Timeout, poll, until
from hak2k.lab import topology as t
from hak2k.lab.config import to_toml
from hak2k.lab.ftp import FtpSession
from hak2k.lab.rawflow import FLOWS, RawPair
from hak2k.lab.traffic import ROUTES, Traffic


def udp_arrives(lab: Lab, payload: bytes = b"x", link: str = "ha0") -> bool:
    """Whether a datagram over an HA link gets from fw1 to fw2 (within 0.2 s)."""
    address = {"ha0": "192.168.69.2", "ha1": "192.168.70.2"}[link]
    with (
        lab.fw2.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        lab.fw1.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((address, 4444))
        receiver.settimeout(0.2)
        try:
            sender.sendto(payload, (address, 4444))
            return receiver.recv(65536) == payload
        except OSError:
            return False


# -- the topology --------------------------------------------------------------


def test_addresses_links_and_settings(lab: Lab) -> None:
    for name, node in (("fw1", lab.fw1), ("fw2", lab.fw2)):
        links = node.links()
        assert set(links) >= {"lan", "wan", "ha0", "ha1", "lo"}
        assert links["lan"].mac == t.LAN_MAC
        assert links["wan"].mac == t.WAN_MAC
        for link, address in t.HA_ADDRESSES[name].items():
            assert address in node.rtnl.addresses(link)
        assert node.sysctl_get("net.ipv4.ip_forward") == "1"
        assert node.sysctl_get("net.netfilter.nf_conntrack_events") == "1"
    assert set(t.LAN_ADDRESSES) <= set(lab.fw1.rtnl.addresses("lan"))
    assert set(t.WAN_ADDRESSES) <= set(lab.fw1.rtnl.addresses("wan"))
    assert not lab.fw2.links()["lan"].up  # only one of them forwards here


def test_pings(lab: Lab) -> None:
    for target in (t.SERVER4, t.SERVER6, t.LAN4, t.LAN6):
        assert lab.client.ping(target) == 1, target
    # From outside, nothing that is not published may come in.
    assert lab.server.ping(t.CLIENT4, timeout=0.1) == 0
    assert udp_arrives(lab, link="ha0")
    assert udp_arrives(lab, link="ha1")


def test_firewall_drops_what_nobody_asked_for_without_a_word(lab: Lab) -> None:
    tap = lab.tap
    with lab.server.socket(socket.AF_INET, socket.SOCK_STREAM) as knock:
        knock.settimeout(0.1)
        assert lab.server.ping(t.WAN4) == 1
        tap.reset()
        with pytest.raises(TimeoutError):
            knock.connect((t.WAN4, 22))
    # No reset and no "unreachable"; the kernel's multicast reports are not answers.
    for kind in ("rst", "tcp", "icmp"):
        assert tap.count("fw1-wan", "out", kind) == 0
    assert lab.fw1.counters()["input_drop"] >= 1


# -- traffic ---------------------------------------------------------------------


def test_every_kind_of_traffic_passes(lab: Lab) -> None:
    tap = lab.tap
    with Traffic(lab) as traffic:
        for route, way in ROUTES.items():
            if route == "bulk":
                traffic.open("bulk", "bulk", total=1 << 20, rate=8 << 20)
                continue
            traffic.open(route, "tcp", 3, interval_ms=20)
            if way.side == "client":
                traffic.open(route, "udp", 2, interval_ms=20)
        traffic.open("masq", "icmp", 2, interval_ms=20)
        traffic.open("plain6", "icmp", 2, interval_ms=20)
        traffic.wait_established()
        until(lambda: traffic.stats()["bulk-bulk"].done, 5, "the download is complete")
        table = lab.fw1.conntrack()
        marks = {e.mark for e in table.values() if e.orig.dport == t.MARK_PORT}
        assert marks == {t.MARK}
        assert {e.zone for e in table.values() if e.orig.src == t.ZONE_CLIENT4} == {t.ZONE}
        assert all(e.reply.dst == t.SNAT4 for e in table.values() if e.orig.src == t.SNAT_CLIENT4)
        masqueraded = [e for e in table.values() if e.reply.dst == t.WAN4]
        assert {e.orig.proto for e in masqueraded} == {1, 6, 17}
        assert any(e.orig.dst == t.WAN6 and e.reply.src == t.CLIENT6 for e in table.values())
        assert traffic.pause()
        assert traffic.lost() == {}
        stats = traffic.stats()
        assert stats["bulk-bulk"].bytes_verified == 1 << 20
        assert all(s.received == s.sent for k, s in stats.items() if k != "bulk-bulk")
        report = traffic.report()
        assert len(report["server"]["flows"]) == 6
        assert all(flow["established"] for flow in report["client"]["flows"])
    assert tap.resets() == 0, tap.report()
    assert lab.fw1.counters()["invalid"] == 0


def test_a_download_can_be_ended(lab: Lab) -> None:
    with Traffic(lab) as traffic:
        traffic.open("bulk", "bulk", total=1 << 40, rate=1 << 20)
        until(lambda: traffic.stats()["bulk-bulk"].bytes_verified > 50_000, 5, "some data")
        traffic.finish()
        assert traffic.lost() == {}
        assert traffic.stats()["bulk-bulk"].bytes_verified < 5 << 20


def test_a_silence_is_measured_and_survived(lab: Lab) -> None:
    with Traffic(lab) as traffic:
        traffic.open("masq", "udp", 1, interval_ms=10)
        traffic.open("plain", "tcp", 1, interval_ms=10)
        traffic.wait_established()
        lab.unplug(lab.fw1)
        until(lambda: traffic.stats()["masq-udp"].silence_ms > 150, 2, "a silence of 150 ms")
        lab.plug(lab.fw1)
        stats = traffic.wait_flowing(silence_ms=100)
        assert stats["masq-udp"].longest_gap_ms >= 150
        assert stats["plain-tcp"].longest_gap_ms >= 150
        assert traffic.lost() == {}
        traffic.window()
        until(lambda: traffic.stats()["masq-udp"].received > 20, 2)
        assert traffic.stats()["masq-udp"].window_gap_ms < 150


def test_a_lost_entry_kills_a_connection(lab: Lab) -> None:
    """The negative control: without its entry a connection must not survive."""
    with Traffic(lab) as traffic:
        traffic.open("masq", "tcp", 5, interval_ms=20)
        traffic.open("plain", "tcp", 5, interval_ms=20)
        traffic.wait_established()
        lab.fw1.ct.flush()
        until(
            lambda: all(s.silence_ms > 300 for s in traffic.stats().values()),
            3,
            "no reply on any connection",
        )
    assert lab.fw1.counters()["invalid"] > 0


def test_a_wrong_command_does_not_kill_the_traffic(lab: Lab) -> None:
    with Traffic(lab) as traffic:
        with pytest.raises(Exception, match="no such protocol"):
            traffic.client.open("x", "carrier-pigeon", t.SERVER4)
        traffic.open("plain")
        traffic.wait_established()


@pytest.mark.parametrize("name", FLOWS)
def test_raw_protocols_pass_both_ways(lab: Lab, name: str) -> None:
    sources = [t.CLIENT4, t.SNAT_CLIENT4, t.ZONE_CLIENT4, t.CLIENT6, t.SNAT_CLIENT6]
    with RawPair(lab) as pair:
        for source in sources:
            if name == "ah" and ":" in source:
                continue
            flow = FLOWS[name](pair, source, seed=7)
            flow.open()
            assert flow.exchange() == (True, True), source
            numbers = {e.orig.proto for e in lab.fw1.conntrack().values()}
            assert numbers == {flow.protocol}
    assert lab.fw1.counters()["invalid"] == 0


def test_sctp_shutdown_ends_the_association(lab: Lab) -> None:
    with RawPair(lab) as pair:
        flow = FLOWS["sctp"](pair)
        flow.open()
        (entry,) = lab.fw1.conntrack().values()
        assert entry.sctp is not None
        assert entry.sctp.state == "ESTABLISHED"
        assert entry.sctp.vtags == (0x22000000, 0x11000000)
        flow.shutdown()  # type: ignore[attr-defined]
        (entry,) = lab.fw1.conntrack().values()
        assert entry.sctp is not None
        assert entry.sctp.state == "CLOSED"


def test_ftp_helper_makes_expectations(lab: Lab) -> None:
    with FtpSession(lab) as ftp:
        listener, target = ftp.announce()
        assert target[0] == t.WAN4  # rewritten on the way
        (expectation,) = lab.fw1.expectations()
        assert expectation.expected.dport == target[1]
        assert expectation.nat is not None
        assert ftp.transfer(listener, target, 100_000)
        children = [e for e in lab.fw1.conntrack().values() if e.master is not None]
        assert len(children) == 1
        control = next(e for e in lab.fw1.conntrack().values() if e.helper == "ftp")
        assert control.seqadj_orig is not None
        ftp.say("NOOP")
        ftp.say("200 done", from_server=True)


# -- the tap -----------------------------------------------------------------------


def test_tap_counts_and_keeps_resets(lab: Lab) -> None:
    tap = lab.tap
    assert lab.client.ping(t.SERVER4) == 1
    tap.reset()
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect((t.SERVER4, 7007))
    assert tap.count("fw1", "out", "rst") == 1
    assert tap.count("fw1-lan", "out", "rst") == 1
    assert tap.count("fw1-wan", "in", "rst") == 1
    assert tap.resets() == 2
    frames = tap.frames()
    assert {(f.port, f.direction, f.kind) for f in frames} == {
        ("fw1-lan", "out", "rst"),
        ("fw1-wan", "in", "rst"),
    }
    assert t.SERVER4 in tap.report()
    tap.reset()
    with lab.client.socket(socket.AF_INET6, socket.SOCK_STREAM) as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect((t.SERVER6, 7007))
    assert tap.resets() == 2
    assert len(tap.frames()) == 2


def test_tap_sees_a_mute_port_speak(lab: Lab) -> None:
    tap = lab.tap
    tap.mute("fw1")
    tap.reset()
    # It may say something of its own accord: multicast reports come late.
    assert {f.kind for f in tap.frames()} <= {"icmp6"}
    assert lab.client.ping(t.LAN4) == 1
    assert tap.count("fw1", "out") > 0
    kinds = {(f.port, f.direction, f.kind) for f in tap.frames()}
    assert ("fw1-lan", "out", "icmp") in kinds
    assert {direction for _, direction, _ in kinds} == {"out"}
    assert tap.missed == 0


def test_flood_reaches_both_firewalls() -> None:
    with Lab(flood=True) as lab:
        # The second one is deaf and mute, but its ports must get everything.
        lab.fw2.nft(
            'table netdev deaf { chain i { type filter hook ingress devices = { "lan", "wan" }'
            " priority -500; policy drop; }; chain o { type filter hook egress"
            ' devices = { "lan", "wan" } priority 500; policy drop; }; }'
        )
        assert lab.client.ping(t.SERVER4, 3) == 3
        lab.tap.reset()
        assert lab.client.ping(t.SERVER4, 3) == 3
        assert lab.tap.count("fw2-lan", "in", "icmp") >= 3
        assert lab.tap.count("fw2-wan", "in", "icmp") >= 3
        assert lab.tap.count("fw2", "out") == 0


# -- faults --------------------------------------------------------------------------


def test_cut_and_restore_direct_links(lab: Lab) -> None:
    lab.cut("ha0")
    assert not udp_arrives(lab, link="ha0")
    until(lambda: udp_arrives(lab, link="ha1"), 3, "ha1 works on")
    lab.cut()
    assert not udp_arrives(lab, link="ha1")
    lab.restore()
    until(lambda: udp_arrives(lab, link="ha0"), 3, "ha0 works again")
    until(lambda: udp_arrives(lab, link="ha1"), 3, "ha1 works again")
    with pytest.raises(ValueError, match="wire=True"):
        lab.cut("ha0", how="silent")


def test_crash_and_revival(lab: Lab) -> None:
    assert lab.client.ping(t.SERVER6) == 1
    crash = lab.crash("fw1")
    assert crash.took_ms < 100
    assert not any(lab.fw1.links()[link].up for link in ("ha0", "ha1", "lan", "wan"))
    assert lab.client.ping(t.SERVER4, timeout=0.05) == 0
    lab.revive("fw1")
    assert lab.fw1.conntrack(transit=True) == {}
    assert lab.client.ping(t.LAN4, timeout=0.05) == 0  # isolated until its daemon is up
    lab.plug("fw1")
    for target in (t.SERVER4, t.SERVER6, t.LAN6):
        until(lambda target=target: lab.client.ping(target), 3, f"ping {target}")
    until(lambda: udp_arrives(lab), 3, "ha0 works again")


def test_wire_carries_and_hurts() -> None:
    with Lab(wire=True) as lab:
        wire = lab.wire
        assert wire is not None
        # A frame of the kernel's own would shift the fate of all after it.
        for node in lab.fw:
            node.sysctl("net.ipv6.conf.ha0.disable_ipv6=1")
        lab.fw1.rtnl.set_neighbour("ha0", "192.168.69.2", lab.fw2.links()["ha0"].mac)
        assert udp_arrives(lab)
        assert udp_arrives(lab, b"y" * 1400, "ha1")

        def burst(faults: Faults, count: int = 100) -> list[int]:
            """The numbers that arrive of ``count`` datagrams."""
            wire.set(faults, link="ha0", source="fw1", seed=1)
            with (
                lab.fw2.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
                lab.fw1.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
            ):
                receiver.bind(("192.168.69.2", 5555))
                receiver.settimeout(0.3)
                for number in range(count):
                    sender.sendto(number.to_bytes(4, "big"), ("192.168.69.2", 5555))
                found = []
                try:
                    while True:
                        found.append(int.from_bytes(receiver.recv(100), "big"))
                except TimeoutError:
                    pass
            return found

        everything = list(range(100))
        assert burst(Faults()) == everything
        lossy = burst(Faults(loss=0.3))
        assert 40 < len(lossy) < 90
        assert lossy == sorted(lossy)
        assert burst(Faults(loss=0.3)) == lossy  # the same seed, the same fate
        assert sorted(burst(Faults(duplicate=1.0))) == sorted(everything * 2)
        shuffled = burst(Faults(reorder=0.2))
        assert sorted(shuffled) == everything
        assert shuffled != everything
        assert burst(Faults(delay_ms=20)) == everything
        assert burst(Faults(blackhole=True)) == []
        tally = wire.tally(link="ha0", source="fw1")
        assert tally.lost > 100
        assert tally.duplicated >= 100
        assert tally.reordered > 5
        assert wire.tally(link="ha1", source="fw1").lost == 0
        wire.set()

        for how in ("silent", "carrier", "admin"):
            lab.cut("ha0", how=how)
            assert not udp_arrives(lab)
            assert udp_arrives(lab, link="ha1")
            carrier = lab.fw2.links()["ha0"].carrier
            assert carrier == (how != "carrier"), how
            lab.restore("ha0")
            # The kernel may take a second to believe in a carrier that came back.
            until(lambda: udp_arrives(lab), 3, f"ha0 works again after {how}")


def test_wire_corrupts() -> None:
    with Lab(wire=True) as lab:
        assert lab.wire is not None
        assert udp_arrives(lab)
        lab.wire.set(Faults(corrupt=1.0), link="ha0", seed=3)
        good = bytes(500)
        with (
            lab.fw2.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as tap,
            lab.fw1.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            tap.bind(("ha0", 0x0800))
            tap.settimeout(1)
            for _ in range(20):
                sender.sendto(good, ("192.168.69.2", 4444))
            bodies = [tap.recv(2000)[28:] for _ in range(20)]
        assert lab.wire.tally(link="ha0", source="fw1").corrupted >= 20
        # A bit of nearly every one: the rest have theirs in a header.
        damaged = [body for body in bodies if body != good]
        assert len(damaged) > 10
        assert all(sum(byte.bit_count() for byte in body) == 1 for body in damaged)


# -- nodes -----------------------------------------------------------------------------


def test_commands_report_what_went_wrong(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match=r"(?s)client.*exited with 3.*moan"):
        lab.client.run("sh", "-c", "echo moan >&2; exit 3")
    with pytest.raises(CommandFailed, match="syntax error"):
        lab.fw1.nft("add nonsense")
    assert lab.client.run("cat", input="text").stdout == "text"


def test_until_says_what_it_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll, "patience", 2.0)
    with pytest.raises(Timeout, match=r"not within 0.04 s: the moon.*last value: 0"):
        until(lambda: 0, 0.02, "the moon")
    assert until(lambda: 5, 0, "five") == 5


def test_configuration_file(lab: Lab) -> None:
    path = lab.write_config("fw2", cluster={"priority": 7}, swap=None, extra="# end\n")
    settings = tomllib.loads(path.read_text())
    assert settings["node"]["serial"] == "FW-B"
    assert settings["cluster"] == {
        "id": 7,
        "psk_file": "psk",
        "priority": 7,
        "address_mode": "shared",
    }
    assert "swap" not in settings
    assert [link["peer"] for link in settings["link"]] == ["192.168.69.1", "192.168.70.1"]
    psk = path.parent / "psk"
    assert psk.stat().st_mode & 0o777 == 0o600
    other = lab.write_config("fw1").parent / "psk"
    assert psk.read_text() == other.read_text()
    assert tomllib.loads(to_toml({"a": {"b": 'c"\\\n'}}))["a"]["b"] == 'c"\\\n'


# -- leaving nothing behind ---------------------------------------------------------------


def other_worker(pid: str) -> bool:
    """Part of a pytest worker that runs beside this one: new namespaces of its labs may
    get the numbers that ours had."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").encode()
    said = [entry for entry in environ if entry.startswith(b"PYTEST_XDIST_WORKER=")]
    sibling = parent == os.getppid() and int(pid) != os.getpid()
    return sibling or (bool(said) and said != [b"PYTEST_XDIST_WORKER=" + worker])


def namespaces(pid: int | None = None) -> set[str]:
    """Every network namespace that a process, or any, is in or holds open."""
    found = set()
    pids = [p.name for p in Path("/proc").glob("[0-9]*")] if pid is None else [str(pid)]
    for one in pids:
        if pid is None and other_worker(one):
            continue
        for link in [Path(f"/proc/{one}/ns/net"), *Path(f"/proc/{one}/fd").glob("*")]:
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("net:"):
                found.add(target)
    return found


def test_two_labs_do_not_see_each_other() -> None:
    with Lab() as one, Lab() as two:
        one.solo("fw1")
        two.solo("fw1")
        assert one.client.ping(t.SERVER4) == 1

        assert two.fw1.conntrack() == {}
        assert one.directory != two.directory


def test_close_is_idempotent_and_complete() -> None:
    before = namespaces(os.getpid())
    lab = Lab(wire=True)
    child = lab.client.popen("sleep", "100")
    directory = lab.directory
    made = namespaces(os.getpid()) - before
    assert made
    lab.close()
    lab.close()
    assert child.poll() is not None
    assert not directory.exists()
    until(lambda: not namespaces() & made, 2, "the namespaces are gone")


_VICTIM = """
import sys, time
from hak2k.lab import Lab
from hak2k.lab.traffic import Traffic
lab = Lab(wire=True)
lab.solo("fw1")
traffic = Traffic(lab)
traffic.open("masq", "tcp", 2)
traffic.wait_established()
sleeper = lab.fw2.popen("sleep", "1000")
print(lab.directory, sleeper.pid, lab.wire._process.pid, flush=True)
time.sleep(1000)
"""


def test_nothing_is_left_when_a_lab_is_killed() -> None:
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert victim.stdout is not None
    with victim.stdout:
        directory, *pids = victim.stdout.readline().split()
        made = namespaces(victim.pid) - namespaces(os.getpid())
        assert made
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    for pid in pids:
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 3, f"process {pid} is gone")
    until(lambda: not Path(directory).exists(), 3, "the directory is gone")
    until(lambda: not namespaces() & made, 3, "the namespaces are gone")


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root")
def test_without_root() -> None:
    """As an ordinary user: a user namespace, if this machine allows them."""
    # "env", because setpriv itself still executes its program with root's powers.
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env"]
    if subprocess.run([*nobody, "unshare", "-Urnm", "true"], check=False).returncode:
        pytest.skip("unprivileged user namespaces are not allowed here")
    program = (
        "import hak2k.lab as l; l.ensure_privileges(); lab = l.Lab(wire=True); lab.solo('fw1');"
        " print(lab.client.ping('10.72.0.10'), lab.client.ping('fd72::10')); lab.close()"
    )
    # The test's own interpreter may live where only root can read.
    for python in (sys.executable, "/usr/bin/python3"):
        probe = [*nobody, python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if Path(python).exists() and not subprocess.run(probe, check=False).returncode:
            break
    else:
        pytest.skip("no interpreter that an ordinary user can run")
    done = subprocess.run(
        [*nobody, python, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())},
    )
    if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip(f"an ordinary user cannot run it: {done.stderr[-300:]}")
    assert done.stdout == "1 1\n", done.stderr
