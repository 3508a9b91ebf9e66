"""The gate's tables in a real kernel: what passes, what is answered."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import replace

import pytest

from hak2k import gate
from hak2k.errors import KernelError
from hak2k.lab.node import Node
from hak2k.lab.rtnl import End
from tests.netns.conftest import Two

SPEC = gate.GateSpec(
    interfaces=("lan", "wan"),
    links=("ha0",),
    port=44242,
    addresses=("10.71.0.1/24", "fd71::1/64", "10.72.0.1/24", "fd72::1/64"),
)
ETHER = 1
VIP = ("10.71.0.1", "fd71::1")


def build(node: Node, spec: gate.GateSpec = SPEC, types: tuple[int, ...] = ()) -> None:
    node.call(gate.build, spec, types)


def flip(node: Node, verb: str) -> None:
    node.nft(f"{verb} element netdev hak2k open {{ ether }}")


def elements(node: Node) -> list[str]:
    out = json.loads(node.run("nft", "-j", "list", "set", "netdev", "hak2k", "open").stdout)
    (found,) = [x["set"] for x in out["nftables"] if "set" in x]
    return list(found.get("elem", []))


def passes(two: Two) -> bool:
    return any(two.host.ping(a, timeout=0.3) for a in VIP)


def received(node: Node, link: str) -> int:
    return node.device_packets(link)[0]


def test_closed_open_closed(two: Two) -> None:
    build(two.fw)
    assert elements(two.fw) == []
    assert not passes(two)
    flip(two.fw, "add")
    assert all(two.host.ping(a, timeout=2) for a in VIP)
    flip(two.fw, "delete")
    assert not passes(two)


def test_a_closed_gate_is_mute(two: Two) -> None:
    build(two.fw)
    before = received(two.host, "lan")
    for address in ("10.71.0.2", "fd71::2"):
        two.fw.ping(address, timeout=0.2)
    two.fw.rtnl.down("lan")
    two.fw.rtnl.up("lan")  # neighbour discovery, router solicitation
    assert not passes(two)
    assert received(two.host, "lan") == before


def test_ha_links_are_not_behind_the_gate(two: Two) -> None:
    build(two.fw)
    assert two.host.ping("192.168.69.1", timeout=2)


def test_building_again_closes_and_leaves_no_duplicates(two: Two) -> None:
    build(two.fw)
    flip(two.fw, "add")
    build(two.fw)
    assert elements(two.fw) == []
    once = two.fw.run("nft", "list", "ruleset").stdout
    build(two.fw)
    assert two.fw.run("nft", "list", "ruleset").stdout == once


def test_building_open_has_no_gap(two: Two) -> None:
    build(two.fw)
    flip(two.fw, "add")
    assert two.host.ping("10.71.0.1", timeout=2)  # neighbours are known
    pings = two.host.popen(
        "ping", "-n", "-i", "0.002", "-c", "300", "-W", "1", "10.71.0.1", stdout=-1, text=True
    )
    for _ in range(40):
        build(two.fw, types=(ETHER,))
    out, _ = pings.communicate(timeout=30)
    assert elements(two.fw) == ["ether"]
    assert " 300 received" in out, out


def test_present(two: Two) -> None:
    def present(spec: gate.GateSpec = SPEC) -> bool:
        return two.fw.call(gate.present, spec)

    assert not present()
    build(two.fw)
    assert present()
    assert present(replace(SPEC, interfaces=("lan",)))
    assert not present(replace(SPEC, interfaces=("lan", "wan", "dmz")))
    build(two.fw, replace(SPEC, events="all"))
    assert present(replace(SPEC, events="all"))
    assert not present()
    build(two.fw)
    for damage in (
        "delete table inet hak2k",
        "delete table netdev hak2k",
        "flush chain inet hak2k guard_in; delete chain inet hak2k guard_in",
        "flush chain netdev hak2k egress; delete chain netdev hak2k egress",
        "chain netdev hak2k ingress { policy accept; }",
        "flush chain inet hak2k tell_in; delete chain inet hak2k tell_in",
    ):
        two.fw.nft(damage)
        assert not present(), damage
        build(two.fw)
        assert present()


def test_one_interface(two: Two) -> None:
    spec = replace(SPEC, interfaces=("lan",))
    build(two.fw, spec)
    assert two.fw.call(gate.present, spec)
    assert not two.host.ping("10.71.0.1", timeout=0.2)
    assert two.host.ping("10.72.0.1", timeout=2)


def test_destroy(two: Two) -> None:
    two.fw.call(gate.destroy)
    build(two.fw)
    two.fw.call(gate.destroy)
    assert two.fw.run("nft", "list", "ruleset").stdout == ""
    assert all(two.host.ping(a, timeout=2) for a in VIP)


def test_a_refused_transaction_changes_nothing(two: Two) -> None:
    build(two.fw)
    flip(two.fw, "add")
    before = two.fw.run("nft", "list", "ruleset").stdout
    with pytest.raises(KernelError, match="nftables: "):
        build(two.fw, replace(SPEC, port=70000))
    assert two.fw.run("nft", "list", "ruleset").stdout == before


def test_the_users_own_tables_stay(two: Two) -> None:
    two.fw.nft("table inet mine { chain c { counter; }; }")
    build(two.fw)
    two.fw.call(gate.destroy)
    assert "table inet mine" in two.fw.run("nft", "list", "ruleset").stdout


@pytest.mark.parametrize("name", ["", 'a"b', "a b", "a\nb", "a;b", "a}b", "x" * 16])
def test_names_that_are_more_than_names(name: str) -> None:
    with pytest.raises(ValueError, match="not an interface name"):
        gate.ruleset(replace(SPEC, interfaces=(name,)))


def test_odd_names_are_only_names(two: Two) -> None:
    for name in ("drop", "lan.100", "a@b", "0x10"):
        gate.ruleset(replace(SPEC, interfaces=("lan", name)))
    two.fw.rtnl.add_veth(End(two.fw.fd, "drop"), End(two.fw.fd, "peer"))
    build(two.fw, replace(SPEC, interfaces=("lan", "drop")))


# --- the table for both nodes ---


def test_the_rule_for_labels_is_never_run(two: Two) -> None:
    """The kernel gives an entry room for labels only if some rule names them."""
    build(two.fw)
    found = json.loads(two.fw.run("nft", "-j", "list", "table", "inet", "hak2k").stdout)
    chains = {x["chain"]["name"]: x["chain"] for x in found["nftables"] if "chain" in x}
    assert "hook" not in chains["labels"]


def test_the_stream_is_not_tracked(two: Two) -> None:
    build(two.fw)

    def count(port: int) -> int:
        before = two.fw.conntrack_count()
        with (
            two.fw.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
            two.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
        ):
            ours.bind(("192.168.69.1", port))
            theirs.bind(("192.168.69.2", port))
            ours.settimeout(2)
            theirs.settimeout(2)
            theirs.sendto(b"x", ("192.168.69.1", port))
            assert ours.recv(10) == b"x"
            ours.sendto(b"y", ("192.168.69.2", port))
            assert theirs.recv(10) == b"y"
        return two.fw.conntrack_count() - before

    assert count(44242) == 0
    assert count(44243) == 1


FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


def tcp_answer(two: Two, flags: int, sport: int) -> int | None:
    """Flags of the answer to a lone segment to a closed port of the firewall."""
    with two.host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as s:
        s.bind(("10.71.0.2", 0))
        s.settimeout(0.3)
        head = struct.pack("!HHIIBBHHH", sport, 7, 1000, 1000, 5 << 4, flags, 500, 0, 0)
        pseudo = socket.inet_aton("10.71.0.2") + socket.inet_aton("10.71.0.1")
        words = struct.unpack("!16H", pseudo + struct.pack("!BBH", 0, 6, 20) + head)
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        s.sendto(head[:16] + struct.pack("!H", total) + head[18:], ("10.71.0.1", 0))
        try:
            while True:
                packet = s.recv(200)
                segment = packet[(packet[0] & 15) * 4 :]
                if struct.unpack("!HH", segment[:4]) == (7, sport):
                    return int(segment[13])
        except TimeoutError:
            return None


def test_no_reset_for_what_is_not_known(two: Two) -> None:
    build(two.fw, types=(ETHER,))
    two.fw.call(gate.destroy)
    two.host.ping("10.71.0.1")
    assert tcp_answer(two, ACK, 1001) == RST, "without the guard"
    build(two.fw, types=(ETHER,))
    for port, flags in enumerate((ACK, SYN | ACK, FIN | ACK, 0), 1100):
        assert tcp_answer(two, flags, port) is None
    assert tcp_answer(two, SYN, 1200) == RST | ACK, "a closed port is still a closed port"


def udp_refused(two: Two, address: str) -> bool:
    """Whether a datagram is answered by "port unreachable"."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with two.host.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(0.4)
        s.connect((address, 9))
        s.send(b"x")
        try:
            s.recv(10)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
        return False


@pytest.mark.parametrize("address", VIP)
def test_no_port_unreachable_from_our_own_addresses(two: Two, address: str) -> None:
    build(two.fw, replace(SPEC, addresses=()), (ETHER,))
    assert two.host.ping(address, timeout=2)
    assert udp_refused(two, address), "without the guard"
    build(two.fw, types=(ETHER,))
    assert not udp_refused(two, address)


@pytest.mark.parametrize("version", [4, 6])
def test_what_the_ruleset_rejects_is_still_answered(two: Two, version: int) -> None:
    build(two.fw, types=(ETHER,))
    two.fw.nft("table inet mine { chain c { type filter hook forward priority 0; "
               "udp dport 9 reject; }; }")  # fmt: skip
    if version == 4:
        two.fw.sysctl("net.ipv4.ip_forward=1")
        two.host.run("ip", "route", "add", "10.99.0.0/24", "via", "10.71.0.1")
        two.fw.run("ip", "route", "add", "10.99.0.0/24", "via", "10.72.0.2")
        target = "10.99.0.9"
    else:
        two.fw.sysctl("net.ipv6.conf.all.forwarding=1")
        two.host.run("ip", "-6", "route", "add", "fd99::/64", "via", "fd71::1")
        two.fw.run("ip", "-6", "route", "add", "fd99::/64", "via", "fd72::2")
        target = "fd99::9"
    two.host.ping(VIP[version == 6], timeout=2)
    assert udp_refused(two, target)
