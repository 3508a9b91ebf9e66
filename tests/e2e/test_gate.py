"""The gate, as those see it who are on the other side of the wire."""

from __future__ import annotations

import time
from datetime import datetime

from hak2k.lab import Node, until
from hak2k.lab import topology as t
from tests.e2e.duo import Duo

# All data traffic reaches both firewalls: nothing but the gate keeps one silent.
OPTIONS = {"flood": True}


def chatter(duo: Duo, fw: Node) -> None:
    """Make a firewall say all that one says by itself, on both data interfaces:
    echo requests, so ARP and neighbour solicitations; new addresses, so duplicate
    address detection, MLD and gratuitous ARP; links that come up; broken flows."""
    for target in (t.CLIENT4, t.CLIENT6, t.SERVER4, t.SERVER6):
        fw.ping(target, timeout=0.1)
    fw.sysctl("net.ipv6.conf.lan.accept_dad=1", "net.ipv6.conf.wan.accept_dad=1")
    fw.sysctl("net.ipv4.conf.lan.arp_notify=1", "net.ipv6.conf.lan.ndisc_notify=1")
    fw.run("ip", "address", "add", "10.71.0.99/24", "dev", "lan")
    fw.run("ip", "address", "add", "fd71::99/64", "dev", "lan")
    fw.run("ip", "address", "add", "fd72::99/64", "dev", "wan")
    before = duo.position(fw)
    fw.down("lan")
    duo.wait_event(fw, "interface.down", before)
    fw.up("lan")
    duo.wait_event(fw, "interface.up", before)
    fw.run("ip", "address", "replace", "fd71::1/64", "dev", "lan")  # lost when it went down
    fw.run("ip", "route", "replace", "203.0.113.0/24", "via", t.SERVER4, check=False)
    fw.ping("203.0.113.1", timeout=0.1)
    # Somebody asks for it by name: by ARP, by a solicitation, by a closed port.
    duo.lab.client.run("ip", "neighbour", "flush", "dev", "eth0")
    duo.lab.server.run("ip", "neighbour", "flush", "dev", "eth0")
    duo.lab.client.ping("10.71.0.99", timeout=0.1)
    duo.lab.client.ping("fd71::99", timeout=0.1)


def quiet_down(fw: Node) -> None:
    """Undo what `chatter` did."""
    fw.run("ip", "address", "del", "10.71.0.99/24", "dev", "lan")
    fw.run("ip", "address", "del", "fd71::99/64", "dev", "lan", check=False)
    fw.run("ip", "address", "del", "fd72::99/64", "dev", "wan")
    fw.run("ip", "route", "flush", "203.0.113.0/24")
    fw.rtnl.add_address("lan", *(a for a in t.LAN_ADDRESSES if a not in fw.rtnl.addresses("lan")))
    fw.sysctl("net.ipv6.conf.lan.accept_dad=0", "net.ipv6.conf.wan.accept_dad=0")
    fw.sysctl("net.ipv4.conf.lan.arp_notify=0", "net.ipv6.conf.lan.ndisc_notify=0")


def calm(duo: Duo, fw: Node) -> int:
    """The position in the event log, once the log would take another gate.missing:
    it takes one a second."""
    last = [e["time"] for e in duo.events(fw) if e["id"] == "gate.missing"][-1:]
    if last:
        then = datetime.fromisoformat(last[0]).timestamp()
        until(lambda: time.time() - then > 1.1, 5.0, "a calm event log")
    return duo.position(fw)


def test_not_one_frame_leaves_the_passive(duo: Duo) -> None:
    """With its daemon, without it, and while it starts again."""
    passive, tap = duo.passive, duo.lab.tap
    tap.mute(passive.name)
    tap.reset()
    try:
        chatter(duo, passive)
        duo.progress()
        # Its interfaces do hear what is flooded to them.
        assert tap.count(passive.name, "in") > 100
        duo.lab.kill(passive)
        chatter_again = (t.CLIENT4, t.CLIENT6, t.SERVER6)
        assert sum(passive.ping(target, timeout=0.1) for target in chatter_again) == 0
        duo.lab.start(passive)
        duo.ready()
        duo.progress()
        quiet_down(passive)
        # But for what it tried to say itself, from addresses that are gone again.
        duo.equal(where=lambda entry: not entry.orig.src.endswith("99"))
        duo.lab.stop(passive)
        assert sum(passive.ping(target, timeout=0.1) for target in chatter_again) == 0
        assert tap.count(passive.name, "out") == 0, tap.report()
        assert tap.missed == 0
    finally:
        tap.mute(passive.name, False)
    duo.unharmed()


def test_ruleset_flushed_on_the_passive(duo: Duo) -> None:
    """What an administrator does without a thought: the gate is back, closed."""
    passive, tap = duo.passive, duo.lab.tap
    before = calm(duo, passive)
    passive.nft("flush ruleset\n" + t.RULESET)
    assert duo.gate(passive) == "missing"
    until(lambda: duo.gate(passive) == "closed", 3.0, "the gate to be back")
    event = duo.wait_event(passive, "gate.missing", before)
    assert "closed" in event["message"]
    assert duo.gate(passive) == "closed"
    # It is a whole gate: nothing gets out.
    tap.mute(passive.name)
    tap.reset()
    try:
        assert passive.ping(t.CLIENT6, timeout=0.1) == 0
        assert passive.ping(t.SERVER4, timeout=0.1) == 0
        duo.progress()
        assert tap.count(passive.name, "out") == 0, tap.report()
    finally:
        tap.mute(passive.name, False)
    assert duo.mode(passive) == "passive"
    duo.ready()
    duo.equal()
    # And one that opens.
    duo.ask(passive, "active", timeout=5.0)
    assert duo.gate(passive) == "open"
    duo.ask(passive, "reset")
    duo.unharmed()


def test_ruleset_flushed_on_the_active(duo: Duo) -> None:
    active = duo.active
    before = calm(duo, active)
    active.nft("flush ruleset\n" + t.RULESET)
    until(lambda: duo.gate(active) == "open", 3.0, "the gate to be back")
    assert "open" in duo.wait_event(active, "gate.missing", before)["message"]
    duo.unharmed(gap_ms=3000)
    assert duo.active is active
    # Whoever asks later is told.
    gate = duo.ask(active, "info")["gate"]
    assert (gate["state"], gate["rebuilt_why"]) == ("open", "its table was gone")
    assert gate["rebuilt"] >= 1
    assert "made again" in duo.lab.daemons.command(active, "info", "-v").stdout
    # It is a gate that closes.
    duo.ask(active, "passive", timeout=5.0)
    assert duo.gate(active) == "closed"
    duo.ask(active, "reset")
    duo.ready()
    duo.equal()


def test_gate_opened_behind_the_daemons_back(duo: Duo) -> None:
    passive = duo.passive
    before = calm(duo, passive)
    passive.nft("add element netdev hak2k open { ether }")
    until(lambda: duo.gate(passive) == "closed", 3.0, "the gate to be closed again")
    duo.wait_event(passive, "gate.missing", before)
    assert duo.mode(passive) == "passive"
    duo.gates()


def test_gate_closed_behind_the_daemons_back(duo: Duo) -> None:
    active = duo.active
    before = calm(duo, active)
    active.nft("flush set netdev hak2k open")
    until(lambda: duo.gate(active) == "open", 3.0, "the gate to be open again")
    duo.wait_event(active, "gate.missing", before)
    duo.unharmed()
    duo.gates()


def test_a_part_of_the_gate_taken_away(duo: Duo) -> None:
    """The set is there, but nothing looks at it: found by the slow check."""
    passive = duo.passive
    before = calm(duo, passive)
    passive.nft("delete chain netdev hak2k egress")
    event = duo.wait_event(passive, "gate.missing", before)
    assert "a part" in event["message"]
    assert passive.ping(t.CLIENT6, timeout=0.1) == 0
    duo.gates()


def test_gate_gone_at_the_moment_of_a_swap(duo: Duo) -> None:
    """Too late for a probe to notice: the swap itself makes it anew."""
    active, passive = duo.active, duo.passive
    before = calm(duo, passive)
    passive.nft("delete table netdev hak2k")
    duo.ask(passive, "active")
    assert duo.modes().count("active") == 1
    assert duo.mode(passive) == "active"
    assert "role.refused" not in duo.ids(passive, before)
    duo.wait_event(passive, "gate.missing", before)
    duo.progress()
    duo.gates()
    duo.ask(passive, "reset")
    duo.ready()
    duo.equal()
    assert duo.mode(active) == "passive"
