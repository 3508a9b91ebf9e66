"""Offers after a split, by a peer that has the key and no manners, and to one that is of
an older version."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from hak2k.lab import Lab, until
from tests.hostile import k2k
from tests.hostile.bench import Bench
from tests.hostile.k2k import ACTIVE, FLOW_SYNC, OFFER, OFFERED, record, udp
from tests.replication.entries import make

ANSWERED = bytes([0x31, 2])  # the status: a reply was seen


def offer(number: int, *flows: int) -> bytes:
    body = b"".join(udp(FLOW_SYNC, flow, ANSWERED) for flow in flows)
    return record(OFFER, struct.pack(">I", number) + body)


def answer(bench: Bench, number: int) -> tuple[int, int]:
    """How many were taken, and refused."""
    while True:
        said, taken, refused = struct.unpack(">III", bench.peer.wait_record(OFFERED))
        if said == number:
            return taken, refused


def ports(bench: Bench) -> set[int]:
    return {e.orig.sport - 10000 for e in bench.side.node.conntrack().values()}


@pytest.fixture
def conflict(active: Bench) -> Bench:
    """An active engine whose peer says that it is active as well."""
    active.mode = ACTIVE
    active.fence()
    return active


def test_without_a_conflict_nothing_is_taken(active: Bench) -> None:
    active.peer.control(offer(1, 1, 2))
    assert answer(active, 1) == (0, 2)
    assert ports(active) == set()


def test_a_passive_node_takes_nothing(bench: Bench) -> None:
    with bench.expect():
        bench.peer.control(offer(1, 1, 2))
    assert ports(bench) == set()


def test_what_is_there_stays_and_nothing_is_done_twice(conflict: Bench) -> None:
    conflict.peer.control(offer(1, 1, 2))
    assert answer(conflict, 1) == (2, 0)
    assert ports(conflict) == {1, 2}
    (mine,) = (e for e in conflict.side.node.conntrack().values() if e.orig.sport == 10001)
    conflict.side.node.ct.delete(mine)
    # the same number: the same answer, and no second life
    conflict.peer.control(offer(1, 1, 2))
    assert answer(conflict, 1) == (2, 0)
    assert ports(conflict) == {2}
    conflict.peer.control(offer(2, 1, 2, 3))
    assert answer(conflict, 2) == (2, 0)
    assert ports(conflict) == {1, 2, 3}


def test_what_is_in_the_way_of_ours_is_refused(conflict: Bench) -> None:
    """Its original tuple, or the one that answers come by, belongs to another connection."""
    conflict.peer.control(offer(1, 1, 2))
    assert answer(conflict, 1) == (2, 0)
    node = conflict.side.node
    one, two = sorted(node.conntrack().values(), key=lambda e: e.orig.sport)
    node.ct.delete(one, two)
    # the same as the first offered one but for its answers; another one with the
    # second's answers
    ours = [
        replace(one, reply=replace(one.reply, dport=40001)),
        replace(two, orig=replace(two.orig, sport=two.orig.sport + 100)),
    ]
    node.ct.create(*ours)
    conflict.peer.control(offer(2, 1, 2))
    assert answer(conflict, 2) == (0, 2)
    assert {(e.orig, e.reply) for e in node.conntrack().values()} == {
        (e.orig, e.reply) for e in ours
    }


def test_offers_that_make_no_sense(conflict: Bench) -> None:
    number = struct.pack(">I", 1)
    wrong = [
        record(OFFER),
        record(OFFER, number[:3]),
        record(OFFER, number),
        record(OFFER, number + udp(FLOW_SYNC, 1)[:-1]),
        record(OFFER, number + udp(k2k.FLOW_NEW, 1)),
        record(OFFER, number + udp(FLOW_SYNC, 1) + udp(k2k.FLOW_DESTROY, 1)),
        offer(1, *range(33)),
    ]
    with conflict.expect(malformed=len(wrong)):
        for one in wrong:
            conflict.peer.control(one)
    assert ports(conflict) == set()


def test_more_offers_than_a_table_needs(conflict: Bench) -> None:
    """They are limited, and the node goes on to serve others."""
    for number in range(1, 600):
        conflict.peer.control(offer(number, *range(10)))
    until(lambda: conflict.stat("asks.limited") > 0, 5, "a limit")
    conflict.fence()
    until(lambda: ports(conflict) == set(range(10)), 5, "what was offered")


def test_a_peer_that_knows_no_offers_is_compared_with(lab: Lab) -> None:
    """An older version skips them; nothing is asked before it had time to answer."""
    lab.solo(lab.fw2)
    bench = Bench(lab)
    try:
        bench.side.activate()
        entry = make("udp", 4, "plain", "10.71.1.1")
        bench.side.node.ct.create(entry)
        bench.connect()
        bench.mode = ACTIVE
        bench.fence()
        bench.peer.drain()
        bench.side.passivate()
        said = struct.unpack_from(">I", bench.peer.wait_record(OFFER))
        assert struct.unpack_from(">I", bench.peer.wait_record(OFFER)) == said
        bench.peer.wait_record(k2k.RECON_WANT, 5)
        assert bench.stat("offers.made") == 1
        (event,) = bench.side.seen("split.offered")
        assert (event["taken"], event["refused"], event["offered"]) == (0, 0, 1)
    finally:
        bench.close()
