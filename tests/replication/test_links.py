"""The HA links at their worst: what is lost is sent again, and what is lost for good
is copied anew."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hak2k.lab import Entry, Faults, Lab, Tuple, until
from hak2k.lab import ctnl as c
from hak2k.lab.ctnl import Conntrack
from tests.pair import Pair, Side, pair
from tests.replication.tables import equal, table_faults
from tests.replication.test_copy import Churn


@contextmanager
def wired(**options: Any) -> Iterator[Pair]:
    with Lab(wire=True) as lab, pair(lab, **options) as two:
        yield two


def entries(count: int) -> list[Entry]:
    found = []
    for n in range(count):
        orig = Tuple("10.71.0.10", "10.72.0.10", 17, 1024 + n % 60000, 2000 + n // 60000)
        found.append(Entry(orig, orig.inverse(), status=c.CONFIRMED, timeout=600))
    return found


def quiet_about(side: Side, *kinds: str) -> None:
    for kind in kinds:
        assert not side.saw(kind), side.seen(kind)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(Faults(loss=0.1, duplicate=0.1, reorder=0.1), id="all"),
        pytest.param(Faults(loss=0.3), id="heavy-loss"),
        pytest.param(Faults(reorder=0.5, duplicate=0.5, jitter_ms=3), id="chaos"),
        pytest.param(Faults(corrupt=0.2), id="altered"),
        pytest.param(Faults(loss=0.05, delay_ms=20, jitter_ms=10), id="far-away"),
    ],
)
def test_faults_under_churn(faults: Faults, rng: random.Random) -> None:
    """Thousands of entries come, change and go meanwhile; then the tables are equal,
    and no copy was needed for it."""
    # With such loss several heartbeats in a row may go: no verdict is asked for here.
    with wired(dead_after_ms=2000) as two:
        lab = two.lab
        assert lab.wire is not None
        copies = len(two.b.seen("sync.done"))
        lab.wire.set(faults, seed=rng.getrandbits(32))
        some = entries(3000)
        lab.fw1.ct.create(*some[1::2])
        with lab.fw1.enter(), Conntrack() as ct:
            churn = Churn(ct, some, rng.getrandbits(32))
            churn.start()
            until(lambda: churn.rounds > 60, 20, "churn")
            churn.end()
        two.fence()
        assert table_faults(two) == []
        tally = lab.wire.tally()
        ours, theirs = two.a.stats, two.b.stats
        if faults.loss or faults.corrupt:
            assert tally.lost + tally.corrupted > tally.received // 50
            assert ours["tx.resent"] > 0
            assert ours["nack.received"] > 0
        if faults.duplicate:
            assert tally.duplicated > tally.received // 50
            assert theirs["drop.duplicate"] > 0
        if faults.corrupt:
            assert theirs["drop.auth"] > 0 or theirs["drop.version"] > 0
        # Once is enough: what is on its way is not asked for again and again.
        assert ours["tx.resent"] < 3 * max(100, tally.lost + tally.corrupted + tally.reordered)
        assert len(two.b.seen("sync.done")) == copies
        assert theirs["apply.failed"] == 0
        for side in (two.a, two.b):
            quiet_about(side, "peer.dead", "stream.lost", "overrun", "apply.error")


def test_faults_during_the_full_copy(rng: random.Random) -> None:
    with Lab(wire=True) as lab:
        assert lab.wire is not None
        lab.fw1.ct.create(*entries(4000))
        lab.fw2.ct.create(*entries(6000)[3000:])
        two = Pair(lab, dead_after_ms=2000)
        try:
            two.meet()
            lab.wire.set(Faults(loss=0.1, duplicate=0.1, reorder=0.1), seed=rng.getrandbits(32))
            two.begin()
            two.fence()
            assert table_faults(two) == []
            assert two.a.stats["tx.resent"] > 0
        finally:
            two.close()


@pytest.mark.parametrize("link", ["ha0", "ha1"])
@pytest.mark.parametrize("how", ["carrier", "silent", "admin"])
def test_one_link_is_cut(link: str, how: str) -> None:
    """An event, and nothing else; it comes back, and so does an event."""
    number = int(link[-1])
    with wired(dead_after_ms=1000) as two:  # the other link may wait for its turn
        lab = two.lab
        some = entries(600)
        lab.fw1.ct.create(*some[:200])
        lab.cut(link, how=how)
        lab.fw1.ct.create(*some[200:400])
        for side in (two.a, two.b):
            until(lambda: side.seen("link.down"), 2, "its event", detail=two.report)  # noqa: B023
        lab.fw1.ct.delete(*some[:100])
        two.fence(timeout=1)
        equal(two)
        for side in (two.a, two.b):
            assert {event["link"] for event in side.seen("link.down")} == {number}
            states = [one["up"] for one in side.engine.links()]
            assert states == [number == 1, number == 0]
        ups = [len(side.seen("link.up")) for side in (two.a, two.b)]
        lab.restore()
        for side, before in zip((two.a, two.b), ups, strict=True):
            until(lambda: len(side.seen("link.up")) > before, 4, detail=two.report)  # noqa: B023
            assert all(one["up"] for one in side.engine.links())
        lab.fw1.ct.create(*some[400:])
        two.fence()
        equal(two)
        for side in (two.a, two.b):
            quiet_about(side, "peer.dead", "stream.lost", "overrun")
            assert len(side.seen("session.up")) == 1
        assert len(two.b.seen("sync.done")) == 1


def test_one_link_after_the_other_is_cut() -> None:
    """At no moment both: the stream changes over each time."""
    with wired(dead_after_ms=1000) as two:
        some = entries(500)
        for n, link in enumerate(("ha0", "ha1", "ha0", "ha1")):
            two.lab.cut(link, how="silent")
            downs = [e["link"] for e in two.b.seen("link.down")]
            two.lab.fw1.ct.create(*some[n * 100 : n * 100 + 100])
            until(lambda: len(two.b.seen("link.down")) > len(downs), 2)  # noqa: B023
            two.fence(timeout=1)
            two.lab.restore()
            until(lambda: all(one["up"] for one in two.b.engine.links()), 2)
            until(lambda: all(one["up"] for one in two.a.engine.links()), 2)
        equal(two)
        for side in (two.a, two.b):
            quiet_about(side, "peer.dead", "stream.lost")
        assert len(two.b.seen("sync.done")) == 1


def test_both_links_are_cut_for_less_than_a_death() -> None:
    """What was published meanwhile is asked for; nobody notices more than that."""
    with wired(dead_after_ms=1500) as two:
        some = entries(2000)
        two.lab.fw1.ct.create(*some[::2])
        two.fence()
        for k in range(3):
            two.lab.cut(how="silent")
            two.lab.fw1.ct.create(*some[2 * k + 1 :: 6])
            two.lab.fw1.ct.delete(*some[2 * k :: 20])
            until(lambda: two.a.engine.stream()["lag_records"] > 300, 1)
            assert two.b.engine.stream()["synced"]
            two.lab.restore()
            two.fence()
            equal(two)
        for side in (two.a, two.b):
            quiet_about(side, "peer.dead", "link.down", "stream.lost")
        assert two.a.stats["tx.resent"] > 0
        assert len(two.b.seen("sync.done")) == 1


def test_both_links_are_cut_for_longer_than_a_death() -> None:
    """Nobody restarted: the session and its numbers stand, the ring has it all."""
    with wired() as two:
        some = entries(1000)
        two.lab.fw1.ct.create(*some[:500])
        equal(two)
        two.lab.cut(how="silent")
        for side in (two.a, two.b):
            until(lambda: side.saw("peer.dead"), 2)  # noqa: B023
        two.lab.fw1.ct.create(*some[500:])
        two.lab.fw1.ct.delete(*some[:100])
        until(lambda: two.a.engine.stream()["lag_records"] >= 600, 2)
        two.lab.restore()
        for side in (two.a, two.b):
            until(lambda: len(side.seen("peer.alive")) == 2, 2)  # noqa: B023
        equal(two)
        for side in (two.a, two.b):
            assert len(side.seen("session.up")) == 1
            quiet_about(side, "stream.lost")
        assert len(two.b.seen("sync.done")) == 1


def test_more_is_missed_than_the_ring_holds(lab: Lab) -> None:
    """What cannot be sent again is copied anew, by itself."""
    with pair(lab) as two:
        some = entries(3000)
        two.lab.fw1.ct.create(*some[:1000])
        equal(two)
        two.lab.cut()
        for side in (two.a, two.b):
            until(lambda: side.saw("peer.dead"), 2)  # noqa: B023
        two.lab.fw1.ct.delete(*some[:500])
        two.lab.fw1.ct.create(*some[1000:2000])
        # One at a time, for a datagram each: as it would be over hours.
        for mark in range(1, 8300):
            before = two.a.engine.stream()["sequence"]
            two.lab.fw1.ct.change(some[700], mark=mark & ~0x100)
            until(lambda: two.a.engine.stream()["sequence"] > before, 2, interval=0)  # noqa: B023
        two.lab.restore()
        until(lambda: two.b.saw("stream.lost"), 5, detail=two.report)
        assert not two.b.synced or len(two.b.seen("sync.done")) == 2
        until(lambda: len(two.b.seen("sync.done")) == 2, 10, detail=two.report)
        two.synced()
        two.fence()
        equal(two)
        assert two.b.stats["stream.lost"] == 1
        assert two.b.stats["sync.removed"] >= 500
        # And the stream goes on behind the gap.
        two.lab.fw1.ct.create(*some[2000:])
        two.fence()
        equal(two)
        assert len(two.b.seen("sync.done")) == 2


def event_socket(side: Side) -> socket.socket:
    """A second handle of the engine's subscription to its kernel's events."""
    netlink, netfilter, memberships = 270, 12, 9
    found = []
    for name in Path("/proc/self/fd").iterdir():
        try:
            one = socket.socket(fileno=os.dup(int(name.name)))
        except OSError:
            continue  # no socket, or closed by now
        groups = 0
        if one.family == socket.AF_NETLINK and one.proto == netfilter:
            groups = int.from_bytes(one.getsockopt(netlink, memberships, 4), "little")
        if groups:
            found.append(one)
        else:
            one.close()
    assert len(found) == 1, f"of {side.node.name} and nobody else: {found}"
    return found[0]


def test_events_lost_in_the_kernel(by_netlink: Pair) -> None:
    """A burst larger than the socket's buffer: only a copy makes good for it."""
    two = by_netlink
    some = entries(3000)
    two.a.node.ct.create(*some[::2])
    equal(two)
    with event_socket(two.a) as events:
        size = events.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for start in range(0, 3000, 400):
            two.a.node.ct.delete(*some[start : start + 400 : 2])
            two.a.node.ct.create(*some[start + 1 : start + 400 : 2])
            if two.a.saw("overrun"):
                break
        until(lambda: two.a.saw("overrun"), 3, detail=two.report)
        until(lambda: two.b.saw("stream.lost"), 3, detail=two.report)
        events.setsockopt(socket.SOL_SOCKET, 33, size)  # SO_RCVBUFFORCE
    until(lambda: len(two.b.seen("sync.done")) >= 2, 10, detail=two.report)
    two.synced()
    two.fence()
    equal(two)
    assert two.a.stats["capture.overruns"] >= 1


def test_nobody_is_accused_for_a_bad_network(rng: random.Random) -> None:
    """A fifth is lost, up to 50 ms late: far beyond what dead_after_ms alone would bear."""
    with Lab(wire=True) as lab:
        wire = lab.wire
        assert wire is not None
        wire.set(Faults(loss=0.2, jitter_ms=50), seed=rng.getrandbits(32))
        with pair(lab, heartbeat_ms=10, dead_after_ms=30, dead_after_max_ms=600) as two:
            both = (two.a, two.b)

            def judged() -> bool:
                """Of what a machine does that lets a wire, or a node, wait for its turn,
                nothing is said here."""
                seen = [len(side.seen("peer.dead")) for side in both]
                slips = [side.stats["slips"] for side in both]
                wire.tally()
                for side in both:
                    side.beats(300, 20)
                if wire.tally().late_ms > 10 or slips != [side.stats["slips"] for side in both]:
                    return False
                assert seen == [len(side.seen("peer.dead")) for side in both], two.report()
                return True

            until(judged, 60, "a quiet time")
            for side in both:
                peer = side.engine.peer()
                assert peer["longest_ns"] > 30e6
                assert 60e6 < peer["limit_ns"] <= 600e6
