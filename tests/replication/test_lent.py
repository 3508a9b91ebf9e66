"""While a stream comes, the passive node's apply thread reads the links itself."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hak2k.lab import Entry, Faults, Node, until
from hak2k.lab.ctnl import Conntrack
from tests.pair import Pair
from tests.replication.tables import equal
from tests.replication.test_links import entries, wired
from tests.replication.through import change_roles, swap


@contextmanager
def trickle(node: Node, made: list[Entry]) -> Iterator[None]:
    """Entries one by one, each by a call of its own, until the block ends.

    Args:
        made: grows by each that was made.
    """
    stop = threading.Event()

    def run() -> None:
        with node.enter(), Conntrack() as ct:
            for entry in entries(60000):
                if stop.is_set():
                    return
                ct.create(entry)
                made.append(entry)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def grows(two: Pair, by: int) -> None:
    before = two.b.stats["rx.direct"]
    until(lambda: two.b.stats["rx.direct"] >= before + by, 5, detail=two.report)


def preferred(name: str) -> int:
    """How many of this process's threads of that name run ahead of ordinary ones."""
    tids = [int(t.name) for t in Path("/proc/self/task").iterdir()]
    return sum(
        Path(f"/proc/self/task/{tid}/comm").read_text().strip() == name
        and os.sched_getscheduler(tid) == os.SCHED_RR
        for tid in tids
    )


def test_a_trickle_waits_for_nobody(two: Pair) -> None:
    """Whoever reads events, and whoever has the links; not who only stands by."""
    until(lambda: two.a.stats["heartbeats.sent"] and two.b.stats["heartbeats.sent"], 5)
    if preferred("hak-io") != 2:
        pytest.skip("real-time priority is refused here (CAP_SYS_NICE)")
    until(lambda: (preferred("hak-capture"), preferred("hak-apply")) == (1, 0), 5)
    with trickle(two.a.node, []):
        until(lambda: preferred("hak-apply") == 1, 5, detail=two.report)
    until(lambda: preferred("hak-apply") == 0, 5, detail=two.report)
    two.a.passivate()
    until(lambda: preferred("hak-capture") == 0, 5, detail=two.report)


def test_it_borrows_the_links_and_gives_them_back(two: Pair) -> None:
    made: list[Entry] = []
    with trickle(two.a.node, made):
        grows(two, 100)
    equal(two)
    # Heartbeats go on to be heard, by whomever; then one datagram comes alone.
    before = two.b.stats
    until(lambda: two.b.stats["heartbeats.received"] > before["heartbeats.received"] + 10, 5)
    before = two.b.stats
    two.lab.fw1.ct.delete(made[0])
    until(lambda: two.b.stats["rx.datagrams"] > before["rx.datagrams"], 5)
    assert two.b.stats["rx.direct"] == before["rx.direct"]
    equal(two)
    for side in (two.a, two.b):
        assert not side.saw("peer.dead")
        assert not side.saw("link.down")


def test_what_has_arrived_is_applied_before_a_swap(two: Pair) -> None:
    """Also what is still in the socket."""
    made: list[Entry] = []
    before = two.a.stats["tx.records"]
    with trickle(two.a.node, made):
        grows(two, 100)
    made += (some := entries(60000)[-3000:])
    two.lab.fw1.ct.create(*some)
    until(lambda: two.a.stats["tx.records"] - before >= len(made), 5, detail=two.report)
    swap(two)
    here = {entry.orig for entry in two.lab.fw2.ct.dump().values()}
    assert [entry for entry in made if entry.orig not in here] == []


def test_roles_change_while_it_comes(two: Pair) -> None:
    made: list[Entry] = []
    with trickle(two.a.node, made):
        grows(two, 50)
        change_roles(two, two.a, two.b)
        change_roles(two, two.b, two.a)
        grows(two, 50)
    equal(two)


def test_losses_are_asked_for_in_time(rng: random.Random) -> None:
    """The timer for it is the other thread's."""
    with wired(dead_after_ms=2000) as two:
        assert two.lab.wire is not None
        made: list[Entry] = []
        faults = Faults(loss=0.1, duplicate=0.1, reorder=0.1)
        two.lab.wire.set(faults, seed=rng.getrandbits(32))
        with trickle(two.a.node, made):
            grows(two, 200)
        equal(two)
        assert two.b.stats["nack.sent"]
        assert not two.b.stats["stream.lost"]


def test_a_flood_keeps_no_heartbeat_waiting(two: Pair) -> None:
    """More than is read at once: the links go back to the thread that has the timers."""
    made: list[Entry] = []
    with trickle(two.a.node, made):
        grows(two, 50)
        some = entries(60000)[-20000:]
        for part in (some[n : n + 2000] for n in range(0, len(some), 2000)):
            two.lab.fw1.ct.create(*part)
        heard = two.b.stats["heartbeats.received"]
        until(lambda: two.b.stats["heartbeats.received"] > heard + 20, 5, detail=two.report)
    equal(two)
    for side in (two.a, two.b):
        assert not side.saw("peer.dead")
        assert not side.saw("link.down")
    assert not two.b.stats["stream.lost"]
