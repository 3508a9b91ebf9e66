"""A passive node: its larvae neither run out nor are used, and it says nothing."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hak2k.lab import Lab, until
from hak2k.lab import topology as t
from hak2k.lab.rawflow import FLOWS, RawPair
from hak2k.lab.traffic import Traffic
from tests.pair import Pair, pair
from tests.replication.entries import cases
from tests.replication.tables import equal, replicable, table_faults
from tests.replication.through import both_keep_quiet, every_flow_goes_on, swap

SHORT = 2  # seconds: time-outs that a test can outlive


def make_short(lab: Lab) -> None:
    """All natural time-outs of what the tests use, on both nodes."""
    for node in lab.fw:
        base = "net.netfilter.nf_conntrack"
        node.sysctl(
            *(
                f"{base}_{name}={SHORT}"
                for name in (
                    "udp_timeout",
                    "udp_timeout_stream",
                    "icmp_timeout",
                    "icmpv6_timeout",
                    "generic_timeout",
                    "gre_timeout",
                    "gre_timeout_stream",
                    "tcp_timeout_established",
                )
            )
        )


def gone(two: Pair, port: int) -> bool:
    return not two.a.node.conntrack(lambda e: e.orig.sport == port)


def test_live_flows_outlive_the_timeouts_of_the_passive_node(two: Pair) -> None:
    """A packet a second keeps an entry alive where the packets are; the other kernel
    sees none, gets no news either, and must still have it at the end."""
    make_short(two.lab)
    with Traffic(two.lab) as traffic:
        traffic.open("plain", "udp", 3, interval_ms=1000)
        traffic.open("masq", "udp", 3, interval_ms=1000)
        traffic.open("plain6", "udp", 2, interval_ms=1000)
        traffic.open("masq", "icmp", 2, interval_ms=1000)
        traffic.open("snat", "tcp", 2, interval_ms=1000)
        traffic.wait_established()
        equal(two)
        events = two.a.stats["capture.events"]
        # An idle one, as a clock: when it is gone, all the others would be too.
        with two.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as idle:
            idle.bind((t.CLIENT4, 0))
            idle.sendto(b"once", (t.SERVER4, t.PLAIN_PORTS[0]))
            port = idle.getsockname()[1]
            until(lambda: not gone(two, port), 3, "an idle flow")
            until(lambda: gone(two, port), 4 * SHORT, "its end", interval=0.1)
        two.fence()
        equal(two)
        assert len(replicable(two.b)) == 12
        # Some new, some assured, and the idle ones; but none for each packet.
        assert two.a.stats["capture.events"] < events + 40
        swap(two)
        every_flow_goes_on(traffic)
        both_keep_quiet(two)


def test_larvae_of_every_protocol_outlive_their_timeouts(two: Pair) -> None:
    """The active one's end at their time, and only then the passive one's."""
    make_short(two.lab)
    entries = [replace(case.entry(), timeout=4) for case in cases() if case.form == "plain"]
    two.a.node.ct.create(*entries)
    equal(two)
    # By their own clocks: what has no time left was not renewed.
    until(lambda: min(e.timeout for e in replicable(two.a).values()) <= 1, 6, "most of the time")
    equal(two)
    until(lambda: not replicable(two.a), 8, "the end", interval=0.2)
    until(lambda: not replicable(two.b), 3, "the end there", detail=two.report)
    assert two.b.stats["apply.deleted"] >= len(entries)


@pytest.fixture
def flooded() -> Iterator[Pair]:
    """The switch learns nothing: all that is sent reaches both firewalls."""
    with Lab(flood=True) as lab, pair(lab) as two:
        lab.tap.mute("fw2")
        lab.tap.reset()
        yield two


def try_to_speak(two: Pair) -> None:
    """All that makes a node send frames, done on the passive one."""
    node = two.b.node
    # To neighbours it does not know: ARP requests, neighbour solicitations.
    for address in (t.CLIENT4, t.CLIENT6, t.SERVER4, t.SERVER6, "10.71.0.99", "fd72::9a"):
        assert node.ping(address, timeout=0.1) == 0, f"{address} answered a passive node"
    # To neighbours it does know.
    for device, address, owner in (
        ("lan", t.CLIENT4, two.lab.client),
        ("wan", t.SERVER6, two.lab.server),
        ("wan", t.SERVER4, two.lab.server),
    ):
        mac = owner.links()["eth0"].mac
        node.run("ip", "neigh", "replace", address, "lladdr", mac, "dev", device)
        assert node.ping(address, timeout=0.1) == 0
    for device in ("lan", "wan"):
        assert node.ping(f"ff02::1%{device}", timeout=0.1) == 0
    # TCP of its own, a broadcast, multicast groups.  The SYN is not kept back until the
    # neighbour is found: that may be after a swap, and its answer would be reset.
    with node.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        own.setblocking(False)
        own.connect_ex((t.SERVER4, t.PLAIN_PORTS[0]))
    with node.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        own.sendto(b"anybody", ("10.71.0.255", 9))
        group = struct.pack("4s4s", socket.inet_aton("239.1.2.3"), socket.inet_aton(t.LAN4))
        own.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    # A link that bounces: duplicate address detection, router solicitation, MLD.
    node.sysctl(
        "net.ipv6.conf.lan.accept_dad=1",
        "net.ipv6.conf.lan.dad_transmits=2",
        "net.ipv6.conf.lan.forwarding=0",
        "net.ipv6.conf.lan.router_solicitations=2",
        "net.ipv6.conf.lan.router_solicitation_delay=0",
    )
    node.down("lan")
    node.up("lan")
    # The kernel took the IPv6 addresses away with the link; each that comes is probed.
    node.rtnl.add_address("lan", f"{t.LAN6}/64", "fd71::5/64")
    node.sysctl("net.ipv6.conf.lan.forwarding=1", "net.ipv6.conf.lan.accept_dad=0")


def ask_it(two: Pair) -> None:
    """What others send to the shared addresses; only the active one may answer."""
    lab = two.lab
    for node, addresses in ((lab.client, (t.LAN4, t.LAN6)), (lab.server, (t.WAN4, t.WAN6))):
        node.run("ip", "neigh", "flush", "all")
        for address in addresses:
            assert node.ping(address, count=2) == 2, "answered once, by the active one"
    with lab.server.socket(socket.AF_INET, socket.SOCK_STREAM) as knock:
        knock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            knock.connect((t.WAN4, 22))


def test_a_flooded_passive_node_is_deaf_and_mute(flooded: Pair) -> None:
    two, lab = flooded, flooded.lab
    assert lab.fw2.sysctl_get("net.netfilter.nf_conntrack_acct") == "1"
    with Traffic(lab) as traffic, RawPair(lab) as raw:
        for route in ("plain", "masq", "snat", "plain6", "snat6", "zone"):
            traffic.open(route, "tcp", 3, interval_ms=10)
            traffic.open(route, "udp", 3, interval_ms=10)
        traffic.open("dnat", "tcp", 3, interval_ms=10)
        traffic.open("masq", "icmp", 2, interval_ms=10)
        traffic.wait_established()
        flows = [kind(raw, t.SNAT_CLIENT4, 1) for kind in FLOWS.values()]
        for flow in flows:
            flow.open()
        equal(two)
        before = lab.tap.count("fw2", "in")
        ask_it(two)
        try_to_speak(two)
        for flow in flows:
            assert flow.exchange() == (True, True)
        every_flow_goes_on(traffic, more=30)
        # The packets did arrive, thousands of them: at the gate.
        assert lab.tap.count("fw2", "in") > before + 1000
        # `equal` is also: no entry here has seen a packet, none is of our own making.
        two.fence()
        equal(two)
        own = [
            e.orig
            for e in lab.fw2.conntrack(transit=False).values()
            if not e.orig.src.startswith(("192.168.", "127.", "10.71.0.1", "10.72.0.1", "f"))
            and e.key not in replicable(two.b)
        ]
        assert own == []
        assert lab.tap.count("fw2", "out") == 0, lab.tap.report()
        assert lab.tap.missed == 0
        assert all(n == 0 for n in lab.fw2.counters().values()), lab.fw2.counters()
        # And then it takes over, amid all that.
        lab.tap.mute("fw2", False)
        swap(two)
        every_flow_goes_on(traffic)
        for flow in flows:
            assert flow.exchange(2.0) == (True, True)
        both_keep_quiet(two)


def test_without_a_gate_it_would_be_heard(flooded: Pair) -> None:
    """The negative control: the instruments do see what a node says."""
    two, lab = flooded, flooded.lab
    lab.fw2.nft("delete table netdev hak2k")
    assert two.b.engine.gate_is_open() is None
    for address in (t.CLIENT4, t.SERVER6):
        lab.fw2.ping(address, timeout=0.1)
    assert lab.tap.count("fw2-lan", "out", "arp") > 0
    assert lab.tap.count("fw2-wan", "out", "icmp6") > 0
    # Each is counted at both of two looks, or at neither.
    until(lambda: len(lab.tap.frames()) == lab.tap.count("fw2", "out"), 3, "a quiet moment")
    with Traffic(lab) as traffic:
        traffic.open("plain", "udp", 1, interval_ms=10)
        traffic.wait_established()
        until(lambda: any("saw packets" in f for f in table_faults(two)), 3, "packets in it")


def test_a_gate_that_closes_again(flooded: Pair) -> None:
    """Stepping down mutes a node at once; nobody else's traffic stops."""
    two, lab = flooded, flooded.lab
    with Traffic(lab) as traffic:
        traffic.open("plain", "tcp", 3, interval_ms=10)
        traffic.open("masq", "udp", 3, interval_ms=10)
        traffic.wait_established()
        equal(two)
        for active, passive in ((two.a, two.b), (two.b, two.a)):
            active.passivate()
            lab.tap.mute(active.node.name)
            lab.tap.reset()
            assert not active.engine.gate_is_open()
            passive.activate()
            every_flow_goes_on(traffic)
            assert lab.tap.count(active.node.name, "out") == 0, lab.tap.report()
            two.synced(active)
            equal(two, passive, used=True)
            lab.tap.mute(active.node.name, False)
        assert traffic.pause()
        for node in lab.fw:
            assert node.counters()["invalid"] == 0
        assert lab.tap.resets() == 0


def test_a_booting_node_says_nothing_before_it_is_told_to(lab: Lab) -> None:
    """The gate is closed from the moment it is built, whatever it was before."""
    lab.tap.mute("fw2")
    with pair(lab) as two:
        lab.tap.reset()
        two.b.close()
        two.b.open()
        assert two.b.engine.gate_is_open() is False
        for address in (t.CLIENT4, t.SERVER6):
            assert lab.fw2.ping(address, timeout=0.1) == 0
        assert lab.tap.count("fw2", "out") == 0, lab.tap.report()


def test_packets_under_way_are_not_tracked_by_a_dead_daemon(flooded: Pair) -> None:
    """The engine ends, and the gate stays as it was: closed."""
    two, lab = flooded, flooded.lab
    with Traffic(lab) as traffic:
        traffic.open("plain", "udp", 3, interval_ms=10)
        traffic.wait_established()
        equal(two)
        table = replicable(two.b)
        two.b.close()
        every_flow_goes_on(traffic, more=20)
        after = replicable(two.b)
        assert after.keys() == table.keys()
        assert all(e.counters_orig == (0, 0) for e in after.values())
        assert lab.tap.count("fw2", "out") == 0, lab.tap.report()
