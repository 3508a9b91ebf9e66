"""What is not replicated: by mark, protocol, network."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from hak2k.lab import Entry, Lab, Tuple, until
from tests.pair import Pair, Side, pair
from tests.replication.entries import make


def tx(two: Pair) -> int:
    return two.a.stats["tx.records"]


def test_a_mark_goes_in_and_out_of_the_policy(lab: Lab) -> None:
    """Out: it disappears, told once.  In: it appears.  Born out: not a word."""
    with pair(lab) as two:
        born_out = replace(make("udp", 4, "plain", "10.71.13.1"), mark=0x100)
        goes = replace(make("tcp", 4, "snat", "10.71.13.2"), mark=1)
        lab.fw1.ct.create(goes)
        two.fence()
        assert lab.fw2.ct.get(goes.orig) is not None
        before = tx(two)
        lab.fw1.ct.create(born_out)
        for mark in (0x101, 0x102, 0x103):
            lab.fw1.ct.change(born_out, mark=mark)
        lab.fw1.ct.delete(born_out)
        two.fence()
        assert tx(two) - before == 2, "more than the fence's two records"
        before = tx(two)
        for mark in (0x100, 0x101, 0x102):
            lab.fw1.ct.change(goes, mark=mark)
        two.fence()
        assert lab.fw2.ct.get(goes.orig) is None
        assert tx(two) - before == 3, "an end, and the fence's two records"
        lab.fw1.ct.change(goes, mark=2)
        two.fence()
        found = lab.fw2.ct.get(goes.orig)
        assert found is not None
        assert found.mark == 2
        lab.fw1.ct.change(goes, mark=0x100)
        two.fence()
        assert lab.fw2.ct.get(goes.orig) is None


def test_excluded_protocols_do_not_reach_user_space(lab: Lab) -> None:
    """The filter on the socket tells all 256 protocols apart as the policy does."""
    kept = {17, 89, 132, 255}
    flows = {}
    for number in range(1, 256):
        orig = Tuple("10.71.13.1", "10.72.13.1", number)
        if number not in (1, 6, 33, 58, 132, 47, 136, 17):
            flows[number] = replace(make("esp", 4, "plain", "10.71.13.1"), orig=orig,
                                    reply=orig.inverse())  # fmt: skip
    for name, number in (("tcp", 6), ("sctp", 132), ("icmp", 1), ("udp", 17)):
        flows[number] = make(name, 4, "plain", "10.71.13.9")
    with pair(lab, protocols=sorted(kept)) as two:
        two.fence()
        before = two.a.stats
        lab.fw1.ct.create(*flows.values())
        two.fence()
        after = two.a.stats
        there = {entry.orig.proto for entry in lab.fw2.conntrack().values()}
        assert there == kept
        assert after["capture.excluded"] == before["capture.excluded"]
        assert after["capture.events"] - before["capture.events"] == len(kept) + 2


def test_excluded_networks(lab: Lab) -> None:
    def packed(text: str) -> tuple[bytes, int]:
        net = ipaddress.ip_network(text)
        return net.network_address.packed, net.prefixlen

    nets = [packed("10.71.13.0/24"), packed("fd71::13:0/112")]
    hidden = [make("tcp", 4, "plain", "10.71.13.7"), make("udp", 6, "plain", "fd71::13:7")]
    shown = [make("tcp", 4, "plain", "10.71.14.7"), make("udp", 6, "plain", "fd71::14:7")]
    with pair(lab, exclude_networks=nets) as two:
        lab.fw1.ct.create(*hidden, *shown)
        two.fence()
        assert lab.fw2.conntrack().keys() == {entry.key for entry in shown}


def young(count: int, first: int = 1) -> list[Entry]:
    """So many UDP connections, of one client to one server."""
    base = make("udp", 4, "plain", "10.71.20.1")
    origs = [
        Tuple(base.orig.src, base.orig.dst, 17, 1000 + n, 53) for n in range(first, first + count)
    ]
    return [replace(base, orig=orig, reply=orig.inverse()) for orig in origs]


def test_what_dies_young_is_never_sent(lab: Lab) -> None:
    with pair(lab, min_duration_s=0.5) as two:
        before = two.a.stats
        short, long = young(200), young(50, first=1000)
        lab.fw1.ct.create(*short)
        lab.fw1.ct.change(short[0], mark=7)
        lab.fw1.ct.delete(*short)
        until(lambda: two.a.stats["hold.died_young"] == 200, 5, detail=two.report)
        lab.fw1.ct.create(*long)
        until(lambda: two.a.stats["hold.sent"] == 50, 5, detail=two.report)
        two.settled()
        assert lab.fw2.conntrack().keys() == {entry.key for entry in long}
        assert two.a.stats["tx.records"] - before["tx.records"] == 50
        # From now on they are like all others: changes and ends are told at once.
        lab.fw1.ct.change(long[0], mark=9)
        lab.fw1.ct.delete(long[1])

        def told() -> bool:
            found = lab.fw2.ct.get(long[0].orig)
            gone = lab.fw2.ct.get(long[1].orig) is None
            return bool(found and found.mark == 9 and gone)

        until(told, 5, detail=two.report)
        assert two.a.engine.stream()["held"] == 0


def test_a_crash_loses_the_young_alone(lab: Lab) -> None:
    old, new = young(20), young(30, first=100)
    lab.fw1.ct.create(*old)
    with pair(lab, min_duration_s=60) as two:
        lab.fw1.ct.create(*new)
        until(lambda: two.a.engine.stream()["held"] == 30, 5, detail=two.report)
        two.a.close()
        two.b.activate()
        assert lab.fw2.conntrack().keys() == {entry.key for entry in old}


def test_a_planned_swap_loses_none(lab: Lab) -> None:
    with pair(lab, min_duration_s=60) as two:
        entries = young(3000)
        lab.fw1.ct.create(*entries)
        until(lambda: two.a.engine.stream()["held"] == 3000, 5, detail=two.report)
        assert lab.fw1.call(two.a.engine.handover, 2, 5000)
        assert lab.fw2.conntrack().keys() == {entry.key for entry in entries}


def test_a_copy_leaves_the_young_out(lab: Lab) -> None:
    with pair(lab, min_duration_s=60) as two:
        entries = young(100)
        lab.fw1.ct.create(*entries)
        until(lambda: two.a.engine.stream()["held"] == 100, 5, detail=two.report)
        done = two.b.stats["sync.done"]
        two.b.engine.want_sync()
        until(lambda: two.b.stats["sync.done"] > done, 10, detail=two.report)
        assert lab.fw2.conntrack() == {}


def test_a_child_brings_its_young_master(lab: Lab) -> None:
    with pair(lab, min_duration_s=60) as two:
        master = make("tcp", 4, "plain", "10.71.21.1")
        lab.fw1.ct.create(master)
        until(lambda: two.a.engine.stream()["held"] == 1, 5, detail=two.report)
        child = replace(young(1)[0], master=master.orig)
        lab.fw1.ct.create(child)
        until(lambda: lab.fw2.ct.get(child.orig), 5, detail=two.report)
        assert lab.fw2.ct.get(master.orig) is not None


@pytest.mark.parametrize(
    "other",
    [{"protocols": [6]}, {"exclude_mark": (1, 1)}, {"exclude_local": False}, {"min_duration_s": 1},
     {"exclude_networks": [(bytes(4), 8)]}],
)  # fmt: skip
def test_policies_that_differ_are_named_on_both(lab: Lab, other: dict[str, Any]) -> None:
    two = Pair(lab)
    try:
        two.b.close()
        two.b = Side(lab.fw2, 2, two.psk, **other)
        two.meet()
        for side in (two.a, two.b):
            assert side.engine.peer()["policy_differs"]
            until(lambda: side.saw("policy.differs"), 5)  # noqa: B023
    finally:
        two.close()


def test_policies_that_agree(lab: Lab) -> None:
    nets = [(bytes([10, 9, 0, 0]), 16), (bytes([10, 8, 0, 0]), 16)]
    two = Pair(lab, exclude_networks=nets)
    try:
        two.b.close()
        two.b = Side(lab.fw2, 2, two.psk, exclude_networks=nets[::-1])
        two.meet()
        for side in (two.a, two.b):
            assert side.engine.peer()["policy"]
            assert not side.engine.peer()["policy_differs"]
            assert not side.saw("policy.differs")
    finally:
        two.close()
