"""Engines that come and go: new keys, new numbers, a new copy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from hak2k._core import CoreError
from hak2k.lab import Entry, Faults, Lab, until
from tests.pair import Pair, pair
from tests.replication.tables import equal, table_faults
from tests.replication.test_links import entries


def test_the_passive_engine_restarts(two: Pair) -> None:
    some = entries(600)
    two.lab.fw1.ct.create(*some[:300])
    equal(two)
    first = two.a.engine.peer()["boot_id"]
    two.b.close()
    until(lambda: two.a.saw("peer.dead"), 2, detail=two.report)
    # What happens meanwhile is nobody's loss: the copy will tell.
    two.lab.fw1.ct.delete(*some[:150])
    two.lab.fw1.ct.create(*some[300:])
    two.b.open()
    two.b.passivate()
    two.synced()
    two.fence()
    equal(two)
    assert two.a.engine.peer()["boot_id"] != first
    up = two.a.seen("session.up")
    assert [event["new_boot"] for event in up] == [True, True]
    assert up[0]["boot"] != up[1]["boot"]
    # Its table outlived its engine, so the copy had something to remove.
    assert two.b.seen("sync.done")[-1]["removed"] == 150
    # Only what differed was sent.
    assert two.a.stats["sync.sent"] == 1
    assert two.a.stats["sync.entries_sent"] < 450
    two.lab.fw1.ct.delete(*some[150:])
    two.fence()
    equal(two)


def test_it_says_goodbye_first(two: Pair) -> None:
    """An orderly end is known at once, and is no death."""
    two.b.engine.bye()
    two.b.close()
    until(lambda: two.a.saw("peer.bye"), 0.15, detail=two.report)
    peer = two.a.engine.peer()
    assert peer is not None
    assert not peer["alive"]
    two.lab.fw1.ct.create(*entries(10))
    two.b.open()
    two.b.passivate()
    two.synced()
    equal(two)
    assert not two.a.saw("peer.dead")
    assert len(two.a.seen("peer.alive")) == 2


def test_the_active_engine_restarts_and_stays_active(two: Pair) -> None:
    """It lost all its numbers, and what happened while it was away."""
    some = entries(600)
    two.lab.fw1.ct.create(*some[:300])
    equal(two)
    two.a.close()
    until(lambda: two.b.saw("peer.dead"), 2, detail=two.report)
    two.lab.fw1.ct.delete(*some[:150])
    two.lab.fw1.ct.create(*some[300:])
    before = len(two.b.seen("sync.done"))
    two.a.open()
    two.meet()
    two.a.activate()
    until(lambda: len(two.b.seen("sync.done")) > before, 5, detail=two.report)
    two.synced()
    two.fence()
    equal(two)
    assert len(two.b.seen("session.up")) == 2


def test_nobody_is_active_for_a_while(lab: Lab) -> None:
    """Two that are passive wait; whoever becomes active is asked for its table."""
    some = entries(200)
    lab.fw1.ct.create(*some[:100])
    lab.fw2.ct.create(*some[100:])
    two = Pair(lab)
    try:
        two.meet()
        two.a.passivate()
        two.b.passivate()
        two.a.beats(10, 2)
        for side in (two.a, two.b):
            assert not side.synced
            assert not side.saw("sync.begin")
        assert len(lab.fw1.conntrack()) == len(lab.fw2.conntrack()) == 100
        two.b.activate()
        two.synced(two.a)
        equal(two, two.b)
        assert lab.fw1.conntrack().keys() == {e.key for e in some[100:]}
    finally:
        two.close()


def test_the_roles_change_hands_many_times(two: Pair) -> None:
    """Each time the new active's table is what counts, and nothing of an older
    stream gets through."""
    active, passive = two.a, two.b
    for turn in range(6):
        some = entries(1000)[turn * 100 : turn * 100 + 100]
        active.node.ct.create(*some)
        two.fence(active)
        equal(two, active)
        active.passivate()
        passive.activate()
        active, passive = passive, active
        active.node.ct.delete(*some[:50])
        two.synced(passive)
        two.fence(active)
        equal(two, active)
        assert len(active.node.conntrack()) == 50 * (turn + 1)
    for side in (two.a, two.b):
        assert len(side.seen("session.up")) == 1
        assert side.stats["apply.failed"] == 0


def test_handover_loses_nothing(two: Pair) -> None:
    """All that was published before is in the other kernel when it is told."""
    some = entries(3000)
    for turn, (active, passive) in enumerate(((two.a, two.b), (two.b, two.a), (two.a, two.b))):
        mine = some[turn * 1000 : turn * 1000 + 1000]
        active.node.ct.create(*mine)
        active.term += 1
        assert active.node.call(active.engine.handover, active.term, 2000)
        assert not active.engine.gate_is_open()
        told = until(lambda: passive.seen("handover"), 1)  # noqa: B023
        assert told[-1]["term"] == active.term
        for entry in (mine[0], mine[-1]):
            assert passive.node.ct.get(entry.orig) is not None
        assert table_faults(two, active, used=True) == []
        active.passivate()
        passive.activate()
        two.synced(active)


def test_both_gates_are_open_for_a_moment(two: Pair) -> None:
    """Prepared; what is made until the end is told; nothing is lost by then."""
    a, b = two.a, two.b
    with ThreadPoolExecutor(1) as pool:
        given = pool.submit(a.node.call, a.engine.handover, 9, 5000, 5000)
        [prepare] = until(lambda: b.seen("handover.prepare"), 2)
        assert prepare["term"] == 9
        assert a.engine.gate_is_open() is True
        assert b.engine.gate_is_open() is False
        b.node.call(b.engine.arm, 9)
        assert b.engine.gate_is_open() is True
        times = given.result(5)
    assert times is not None
    assert 0 < times["armed_ns"] < times["closed_ns"] < times["applied_ns"]
    assert a.engine.gate_is_open() is False
    assert until(lambda: b.seen("handover"), 1)


def test_armed_in_vain(two: Pair) -> None:
    """Whatever the peer said once: it is what it says now that counts."""
    a, b = two.a, two.b
    with pytest.raises(CoreError):
        b.node.call(b.engine.arm, 9)
    with ThreadPoolExecutor(1) as pool:
        given = pool.submit(a.node.call, a.engine.handover, 9, 5000, 5000)
        until(lambda: b.seen("handover.prepare"), 2)
        assert not b.seen("handover.off")
        b.node.call(b.engine.arm, 9)
        assert given.result(5) is not None
    [off] = until(lambda: b.seen("handover.off"), 2)
    assert off["term"] == 9
    with pytest.raises(CoreError):
        b.node.call(b.engine.arm, 9)
    b.node.call(b.engine.passivate, 1)
    assert b.engine.gate_is_open() is False


def test_handover_to_one_that_does_not_prepare(two: Pair) -> None:
    """An older version: the gate is closed first, as ever."""
    times = two.a.node.call(two.a.engine.handover, 9, 5000, 50)
    assert times is not None
    assert times["armed_ns"] == 0
    assert times["closed_ns"] >= 50_000_000


def test_handover_without_a_peer_is_called_off(two: Pair) -> None:
    """Nobody to take over: the gate is open again, and publishing goes on."""
    two.b.close()
    until(lambda: two.a.saw("peer.dead"), 2)
    assert not two.a.node.call(two.a.engine.handover, 9, 100)
    assert two.a.engine.gate_is_open()
    two.b.open()
    two.b.passivate()
    two.synced()
    two.a.node.ct.create(*entries(10))
    two.fence()
    equal(two)


def test_two_pairs_with_other_keys_do_not_meet(lab: Lab) -> None:
    """Same addresses, another key: not a word is believed."""
    some: list[Entry] = entries(10)
    with pair(lab) as two:
        lab.fw1.ct.create(*some)
        equal(two)
        two.b.close()
        two.b._psk = bytes(32)
        two.b.open()
        until(lambda: two.b.stats["drop.auth"] > 3, 3, detail=two.report)
        assert two.b.engine.peer() is None
        assert not two.b.saw("session.up")
        assert len(two.a.seen("session.up")) == 1
        two.b.close()
        two.b._psk = two.psk
        two.b.open()
        two.b.passivate()
        two.synced()
        equal(two)


def test_one_meeting_makes_one_session() -> None:
    """However late an answer is, the next offer does not take its place at once."""
    with Lab(wire=True) as lab:
        assert lab.wire is not None
        lab.wire.set(Faults(delay_ms=60))  # more than a heartbeat's interval
        for _ in range(6):
            two = Pair(lab, dead_after_ms=2000)
            try:
                two.meet()
                until(lambda: two.a.saw("peer.alive") and two.b.saw("peer.alive"), 2)  # noqa: B023
                two.a.beats(8, 2)
                for side in (two.a, two.b):
                    assert len(side.seen("session.up")) == 1, two.report()
            finally:
                two.close()
