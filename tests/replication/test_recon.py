"""Reconciliation: differences made behind both engines' backs are found by digest,
told, and repaired; equal tables are proved equal, whatever is in them."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from hak2k.lab import Entry, Lab, until
from hak2k.lab.traffic import Traffic
from tests.pair import Pair, Side, pair
from tests.replication.tables import equal
from tests.replication.test_links import entries


def verify(side: Side, repair: bool = True, number: list[int] = [0]) -> dict[str, Any]:  # noqa: B006
    number[0] += 1
    assert side.engine.verify(number[0], repair)
    until(lambda: side.engine.table()["verified"] == number[0], 30, "a verdict")
    return dict(side.engine.table())


def counts(found: dict[str, Any]) -> tuple[int, int, int, int]:
    return found["missing"], found["extra"], found["different"], found["repaired"]


def fill(two: Pair, n: int) -> list[Entry]:
    some = entries(n)
    two.lab.fw1.ct.create(*some)
    two.fence()
    return some


@pytest.mark.parametrize("n", [0, 1, 600])
def test_equal_tables_are_proved_equal(two: Pair, n: int) -> None:
    fill(two, n)
    for side in (two.b, two.a):
        found = verify(side)
        assert found["equal"] is True
        assert counts(found) == (0, 0, 0, 0)
        assert found["entries"] == n


def test_a_look_repairs_nothing(two: Pair) -> None:
    some = fill(two, 300)
    before = two.lab.fw1.conntrack()
    two.lab.fw2.ct.delete(*some[:7])
    broken = two.lab.fw2.conntrack()
    found = verify(two.a, repair=False)
    assert found["equal"] is False
    assert counts(found) == (7, 0, 0, 0)
    assert two.lab.fw2.conntrack().keys() == broken.keys()
    found = verify(two.a)
    assert found["equal"] is True
    assert counts(found) == (7, 0, 0, 7)
    assert two.lab.fw2.conntrack().keys() == before.keys()
    assert counts(verify(two.a)) == (0, 0, 0, 0)


def test_many_differences_in_neighbouring_slots(two: Pair) -> None:
    """So much is told of a small table's sums that one copy brings all of them: no slot
    looks equal for a round because what is told of it is."""
    some = fill(two, 3000)
    two.lab.fw2.ct.delete(*some[::3])
    before = two.a.stats["sync.sent"]
    assert counts(verify(two.a, repair=False)) == (1000, 0, 0, 0)
    assert two.a.stats["sync.sent"] == before + 1
    assert counts(verify(two.a)) == (1000, 0, 0, 1000)
    assert two.a.stats["sync.sent"] == before + 2
    equal(two)


def test_a_table_that_somebody_emptied_is_not_called_equal(two: Pair) -> None:
    """So much is missing that all is copied, without a comparison before it."""
    fill(two, 600)
    two.lab.fw2.run("conntrack", "-F")
    assert counts(verify(two.a, repair=False)) == (600, 0, 0, 0)
    assert counts(verify(two.a)) == (600, 0, 0, 600)
    told = two.b.seen("recon.repaired")[-1]
    assert (told["missing"], told["extra"], told["different"]) == (600, 0, 0)
    assert told["text"].startswith("missing: ")
    equal(two)


def test_all_three_kinds_of_difference(two: Pair) -> None:
    some = fill(two, 900)
    extra = entries(1000)[900:]
    fw2 = two.lab.fw2.ct
    fw2.delete(*some[:40])
    fw2.create(*extra)
    for entry in some[40:60]:
        fw2.update(dataclasses.replace(entry, mark=entry.mark ^ 0x77))
    found = verify(two.b, repair=False)
    assert counts(found) == (40, 100, 20, 0)
    found = verify(two.b)
    assert counts(found) == (40, 100, 20, 160)
    equal(two)
    assert two.b.seen("recon.repaired")[-1]["text"]


def test_under_traffic_nothing_differs(lab: Lab) -> None:
    """Real connections, coming and going, in every way through the firewall."""
    with pair(lab) as two, Traffic(lab) as traffic:
        for way in ("plain", "masq", "dnat"):
            traffic.open(way, "tcp", 3, interval_ms=10)
        for way in ("plain", "masq"):
            traffic.open(way, "udp", 3, interval_ms=10)
            traffic.open(way, "icmp", 1, interval_ms=50)
        traffic.wait_established()
        for _ in range(10):
            found = verify(two.a)
            assert found["equal"] is True, two.report()
            assert counts(found) == (0, 0, 0, 0), two.report()
        assert traffic.lost() == {}


def test_repairs_under_churn_neither_kill_nor_resurrect(two: Pair) -> None:
    """Connections begin and end all the time in the slots that are being repaired; what
    the stream said is in the table afterwards, without a further repair."""
    some = fill(two, 1500)
    quiet, restless = some[:300], some[300:]
    extra = entries(1700)[1500:]
    stop = threading.Event()

    def churn() -> None:
        turn = 0
        while not stop.is_set():
            part = restless[turn % 12 * 100 : turn % 12 * 100 + 100]
            (two.lab.fw1.ct.create if turn // 12 % 2 else two.lab.fw1.ct.delete)(*part)
            turn += 1

    busy = threading.Thread(target=churn)
    busy.start()
    try:
        for turn in range(2):
            two.lab.fw2.ct.delete(*quiet[turn * 50 : turn * 50 + 50])
            two.lab.fw2.ct.create(*extra[turn * 50 : turn * 50 + 50])
            found = verify(two.b)
            assert found["equal"] is True, two.report()
            assert found["missing"] >= 50, found
            assert found["extra"] >= 50, found
    finally:
        stop.set()
        busy.join()
    two.fence()
    equal(two)
    assert two.b.stats["apply.failed"] == 0


def test_the_scrub_finds_and_repairs_by_itself(lab: Lab) -> None:
    with pair(lab, scrub_ms=200) as two:
        some = fill(two, 300)
        lab.fw2.ct.delete(*some[:5])
        until(lambda: two.b.saw("recon.repaired"), 5, "a repair", detail=two.report)
        equal(two)
        assert two.b.synced
        table = lambda: two.a.engine.table()  # noqa: E731
        until(lambda: table()["equal"] and not table()["missing"], 5, "a clean scrub")
        first = table()["as_of"]
        until(lambda: table()["age_ms"] < 300 and table()["as_of"] >= first, 5)


def test_a_rejoin_costs_its_difference(two: Pair) -> None:
    """Not the table: of 5000 entries some ten travel."""
    some = fill(two, 5000)
    two.b.close()
    until(lambda: two.a.saw("peer.dead"), 2)
    two.lab.fw1.ct.delete(*some[:5])
    sent = two.a.stats["tx.bytes"]
    two.b.open()
    two.b.passivate()
    two.synced()
    equal(two)
    assert two.b.seen("sync.done")[-1]["removed"] == 5
    assert two.a.stats["tx.bytes"] - sent < 20_000


def test_a_table_of_another_size_is_copied(two: Pair) -> None:
    fill(two, 2000)
    two.b.close()
    until(lambda: two.a.saw("peer.dead"), 2)
    two.lab.fw2.run("conntrack", "-F")
    two.b.open()
    two.b.passivate()
    two.synced()
    equal(two)
    assert two.b.seen("sync.done")[-1]["entries"] == 2000
