"""The masquerade trap: a device or an address goes on the active node, the kernel ends
what was masqueraded to it, and the peer must keep it all the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hak2k.lab import Entry, until
from hak2k.lab.topology import WAN4, WAN6
from tests.e2e.duo import Duo
from tests.replication.entries import make

SRC_NAT = 1 << 4  # IPS_SRC_NAT


def masqueraded(entry: Entry) -> bool:
    return bool(entry.status & SRC_NAT) and entry.reply.dst == WAN4


@pytest.mark.parametrize("way", ["address", "link"])
def test_masqueraded_flows_outlive_their_device(duo: Duo, way: str) -> None:
    assert duo.traffic is not None
    # Of its own making: a node that took over has copies, which are immune.
    duo.traffic.open("masq", "tcp", 3)
    duo.traffic.open("masq", "udp", 2)
    duo.traffic.wait_established()
    duo.equal()
    duo.mark()
    active, passive = duo.active, duo.passive
    before = active.conntrack(masqueraded)
    assert len(before) >= 5
    after = duo.position(active)
    if way == "link":
        active.down("wan")  # its quality falls: the peer takes over by itself
    else:
        active.run("ip", "address", "del", f"{WAN4}/24", "dev", "wan")
    event = duo.wait_event(active, "masquerade.trapped", after)
    assert event["connections"] >= 1  # so far: the kernel may not have told of all
    until(lambda: duo.ask(active, "stats")["capture.trapped"] >= 5, 5, "all of them")
    if way == "address":
        duo.ask(active, "passive")
    duo.wait_mode(passive, "active")
    kept = passive.conntrack(masqueraded)
    assert [key for key in before if key not in kept] == []
    duo.unharmed(passive)
    # Once all is well again, both are equal.
    if way == "link":
        active.up("wan")
        active.run("ip", "address", "add", f"{WAN6}/64", "dev", "wan", "nodad")
    else:
        active.run("ip", "address", "add", f"{WAN4}/24", "dev", "wan")
    duo.heal()
    duo.equal()


def test_what_ends_otherwise_ends_on_the_peer_too(duo: Duo) -> None:
    """The negative control: before the loss for what is masqueraded, and while the trap
    is sprung for what is not."""
    duo.mark()
    active, passive = duo.active, duo.passive
    early = make("udp", 4, "masquerade", "10.71.0.91")
    plain = make("udp", 4, "plain", "10.71.0.92")
    kept = make("udp", 4, "masquerade", "10.71.0.93")
    kept = replace(kept, reply=replace(kept.reply, dport=40001))
    early = replace(early, reply=replace(early.reply, dport=40002))
    active.ct.create(early, plain, kept)
    until(lambda: all(passive.ct.get(e.orig) for e in (early, plain, kept)), 5)
    active.ct.delete(early)
    until(lambda: passive.ct.get(early.orig) is None, 5, "the end of a masqueraded one")
    active.run("ip", "address", "del", f"{WAN4}/24", "dev", "wan")
    trapped = duo.ask(active, "stats")["capture.trapped"]
    active.ct.delete(kept, plain)
    until(lambda: passive.ct.get(plain.orig) is None, 5, "the end of a plain one")
    assert passive.ct.get(kept.orig) is not None
    assert duo.ask(active, "stats")["capture.trapped"] > trapped
    # The traffic's own are gone here, and live there.
    duo.ask(active, "passive")
    duo.wait_mode(passive, "active")
    duo.unharmed(passive)
    active.run("ip", "address", "add", f"{WAN4}/24", "dev", "wan")
    duo.heal()
    duo.equal()
