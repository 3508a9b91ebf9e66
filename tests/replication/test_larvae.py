"""Larval life, protocol by protocol: kept while passive, adopted by the first packet,
given its natural timeout, or its end, without one."""

from __future__ import annotations

from dataclasses import replace

from hak2k.lab import Entry, until
from hak2k.lab import ctnl as c
from hak2k.lab import topology as t
from hak2k.lab.rawflow import Gre, RawPair
from tests.pair import Pair, Side
from tests.replication.entries import GRE, make
from tests.replication.tables import LARVAL, LARVAL_SLACK, equal
from tests.replication.test_recon import counts, verify


def change_roles(two: Pair, old: Side, new: Side) -> None:
    """A planned swap; the old active node has compared its table when it is over."""
    old.passivate()
    new.activate()
    two.synced(old)


def entry_of(side: Side, source: str) -> Entry | None:
    """The GRE entry of a client's address."""
    found = side.node.conntrack(lambda e: e.orig.proto == GRE and e.orig.src == source)
    return next(iter(found.values()), None)


def there(side: Side, source: str) -> Entry:
    entry = entry_of(side, source)
    assert entry is not None, f"{side.node.name} lost it"
    return entry


def test_gre_ends_when_its_packets_do(two: Pair) -> None:
    """A larva of GRE bears a fixed timeout of eight days.  After a swap the counters
    tell: one without packets ends within a natural timeout of that, on both nodes; one
    with packets never does."""
    with RawPair(two.lab) as raw:
        live, idle = Gre(raw, t.CLIENT4, 1), Gre(raw, t.SNAT_CLIENT4, 2)
        for flow in (live, idle):
            flow.open()
        equal(two)
        old = there(two.b, t.CLIENT4)
        two.b.node.ct.delete(old)
        two.b.node.ct.create(replace(old, timeout=LARVAL - 2 * 86400))
        change_roles(two, two.a, two.b)
        assert there(two.b, t.CLIENT4).status & c.FIXED_TIMEOUT
        two.b.engine.sweep({0: {0: 600}, GRE: {0: 1, 1: 1}})

        def idle_one_ended() -> bool:
            assert live.exchange() == (True, True)
            return entry_of(two.b, t.SNAT_CLIENT4) is None

        until(idle_one_ended, 8, "the end of an idle tunnel", interval=0.1)
        # Nor does it run out: it had used up two days.
        assert there(two.b, t.CLIENT4).timeout > LARVAL - LARVAL_SLACK
        until(lambda: entry_of(two.a, t.SNAT_CLIENT4) is None, 3, "the peer to be told")
        there(two.a, t.CLIENT4)
        until(lambda: entry_of(two.b, t.CLIENT4) is None, 8, "the end of the other one")
        until(lambda: entry_of(two.a, t.CLIENT4) is None, 3, "the peer to be told")
        assert two.b.stats["sweep.reaped"] == 2


def test_gre_made_by_packets_becomes_a_larva_and_ceases_to_be_one(two: Pair) -> None:
    """The kernel keeps GRE's timeouts in the entries that it made itself: these need no
    fixed one when their node steps down, and get the natural one back."""
    with RawPair(two.lab) as raw:
        live, idle = Gre(raw, t.CLIENT4, 1), Gre(raw, t.SNAT_CLIENT4, 2)
        for flow in (live, idle):
            flow.open()
        equal(two)
        assert there(two.a, t.CLIENT4).timeout <= 180
        change_roles(two, two.a, two.b)
        for source in (t.CLIENT4, t.SNAT_CLIENT4):
            entry = there(two.a, source)
            assert entry.timeout > LARVAL - LARVAL_SLACK
            assert not entry.status & c.FIXED_TIMEOUT
        assert live.exchange() == (True, True)
        change_roles(two, two.b, two.a)
        assert live.exchange() == (True, True)
        assert 0 < there(two.a, t.CLIENT4).timeout <= 180
        two.a.engine.sweep({0: {0: 600}, GRE: {0: 30, 1: 170}})
        until(lambda: there(two.a, t.SNAT_CLIENT4).timeout <= 170, 5, "the sweep")
        assert live.exchange() == (True, True)


def test_a_gre_larva_that_has_used_up_a_day_is_renewed(two: Pair) -> None:
    """On a passive node, by the next comparison; or the peer's tunnel would one day run
    out under it."""
    entry = make("gre", 4, "snat", "10.71.0.31")
    two.lab.fw1.ct.create(replace(entry, mark=5))
    equal(two)
    before = two.lab.fw2.ct.get(entry.orig)
    assert before is not None
    two.lab.fw2.ct.delete(entry)
    two.lab.fw2.ct.create(replace(before, timeout=LARVAL - 2 * 86400))
    found = verify(two.b)
    assert counts(found) == (0, 0, 0, 0)
    equal(two)
    after = two.lab.fw2.ct.get(entry.orig)
    assert after is not None
    assert after.timeout > LARVAL - LARVAL_SLACK
    assert after.identity() == before.identity()
