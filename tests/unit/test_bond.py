"""Bonds: what rtnetlink says of their members, and what a lost one costs.

Messages as linux/if_link.h has them; a kernel with the bonding driver is not needed.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import pytest

from hak2k._rtnl import Link, _link, _member
from hak2k.health.interfaces import Interfaces, member_news
from hak2k.netwatch import Snapshot
from hak2k.quality import quality
from hak2k.settings import InterfaceConfig
from tests.unit.test_node import link

LACP, ACTIVE_BACKUP = 4, 1


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(name: str, index: int, *attributes: bytes, carrier: bool = True) -> bytes:
    """struct ifinfomsg and attributes of an Ethernet interface that is up."""
    head = struct.pack("=BxHiII", 0, 1, index, 0x1043, 0)
    head += attribute(3, name.encode() + b"\0") + attribute(16, b"\6" if carrier else b"\2")
    return head + attribute(33, bytes([carrier])) + b"".join(attributes)


def bond(mode: int, aggregator: int | None = None) -> bytes:
    data = attribute(1, bytes([mode])) + attribute(3, struct.pack("=I", 100))
    if aggregator is not None:
        data += attribute(
            23 | 0x8000, attribute(1, struct.pack("=H", aggregator)) + attribute(2, b"\2\0")
        )
    return message("bond0", 9, attribute(18, attribute(1, b"bond\0") + attribute(2, data)))


def member(
    name: str, *, master: int = 9, mii: int = 0, aggregator: int | None = None, **more: Any
) -> bytes:
    slave = attribute(1, b"\0") + attribute(2, bytes([mii]))
    if aggregator is not None:
        slave += attribute(6, struct.pack("=H", aggregator))
    info = attribute(4, b"bond\0") + attribute(5 | 0x8000, slave)
    number = int(name[-1])
    return message(
        name, number, attribute(10, struct.pack("=I", master)), attribute(18, info), **more
    )


def test_a_bond() -> None:
    master = _link(bond(ACTIVE_BACKUP), "bond0")
    assert (master.kind, master.aggregate, master.aggregator) == ("bond", True, None)
    assert _link(bond(LACP, 3), "bond0").aggregator == 3
    assert not _link(message("eth0", 1), "eth0").aggregate


def test_members_of_active_backup() -> None:
    master = _link(bond(ACTIVE_BACKUP), "bond0")
    assert _member(member("eth1"), master) == ("eth1", True)
    assert _member(member("eth1", carrier=False), master) == ("eth1", False)
    # The carrier stands, but ARP monitoring does not think much of it.
    assert _member(member("eth1", mii=2), master) == ("eth1", False)
    assert _member(member("eth1", master=8), master) is None
    assert _member(message("eth5", 5), master) is None


def test_a_member_that_lacp_left_out() -> None:
    """The switch talks LACP on one port only: each of the two has its own group."""
    master = _link(bond(LACP, 1), "bond0")
    assert _member(member("eth1", aggregator=1), master) == ("eth1", True)
    assert _member(member("eth2", aggregator=2), master) == ("eth2", False)


@pytest.mark.parametrize("cut", range(1, 120))
def test_a_message_that_is_too_short_is_survived(cut: int) -> None:
    whole = member("eth1", aggregator=1)
    master = Link("bond0", 9, 1, b"", True, True, 6, "bond", 1)
    if len(whole) - cut >= 16:
        _member(whole[: len(whole) - cut], master)


def seen(**members: bool) -> Snapshot:
    return Snapshot({"bond0": link("bond0", 9), "lan": link("lan", 2)}, members={"bond0": members})


@pytest.mark.parametrize(
    ("counts", "lost", "number"), [(True, Fraction(1, 2), 75), (False, 0, 100)]
)
def test_what_a_member_costs(counts: bool, lost: Fraction, number: int) -> None:
    config = [InterfaceConfig("bond0", members=counts), InterfaceConfig("lan")]
    interfaces = Interfaces()
    before = interfaces.components(config, seen(eth1=True, eth2=True), 1.0)
    assert quality([c.part for c in before]) == 100
    found = interfaces.components(config, seen(eth1=True, eth2=False), 2.0)
    assert found[0].part.lost == lost
    assert found[0].state == ("degraded" if counts else "ok")
    assert found[0].reason == "1 of 2 members work, not eth2"
    assert found[0].since == 2.0
    assert quality([c.part for c in found]) == number


def test_a_member_that_is_pulled_out_is_missed_until_told_otherwise() -> None:
    config, interfaces = [InterfaceConfig("bond0", members=True)], Interfaces()
    interfaces.components(config, seen(eth1=True, eth2=True), 1.0)
    (found,) = interfaces.components(config, seen(eth1=True), 2.0)
    assert found.reason == "1 of 2 members work, not eth2"
    interfaces.forget()
    (found,) = interfaces.components(config, seen(eth1=True), 3.0)
    assert (found.state, found.part.lost) == ("ok", 0)


def test_the_last_member_takes_all() -> None:
    config, interfaces = [InterfaceConfig("bond0", members=True)], Interfaces()
    down = Snapshot({"bond0": link("bond0", 9, carrier=False)}, members={"bond0": {"eth1": False}})
    (found,) = interfaces.components(config, down, 1.0)
    assert (found.state, found.part.lost, found.reason) == ("failed", 1, "no carrier")


def test_events_of_members() -> None:
    old, new = seen(eth1=True, eth2=False, eth3=True), seen(eth1=False, eth2=True)
    assert list(member_news(old, new, "bond0")) == [
        ("member.down", "eth1 of bond0 does not work", "eth1"),
        ("member.up", "eth2 of bond0 works", "eth2"),
        ("member.down", "eth3 of bond0 does not work", "eth3"),
    ]
    assert list(member_news(new, new, "bond0")) == []
