"""Other pre-shared keys while the stream runs: nothing is lost, whoever is first."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

import pytest

from hak2k.lab import Faults, Lab, until
from tests.pair import Pair, Side, pair
from tests.replication.tables import equal
from tests.replication.test_links import entries

OLD, NEW, THIRD = (secrets.token_bytes(32) for _ in range(3))


@pytest.fixture(params=["a", "b"])
def begun(request: pytest.FixtureRequest, lab: Lab) -> Iterator[tuple[Pair, Side]]:
    """A pair with the key OLD, and the side that is told of others first: the one that
    begins handshakes, or the other one."""
    with pair(lab) as two:
        for side in (two.a, two.b):
            side.engine.set_keys(two.psk)
        yield two, getattr(two, request.param)


def key(side: Side) -> int:
    return int(side.engine.stream()["key"])


def whole(two: Pair) -> None:
    """No session but the first, no copy but the first, no loss; equal tables."""
    for side in (two.a, two.b):
        assert len(side.seen("session.up")) == 1, two.report()
        assert not side.saw("peer.dead")
        assert not side.saw("stream.lost")
        assert side.stats["drop.malformed"] == 0
    assert two.b.synced
    assert len(two.b.seen("sync.done")) == 1
    two.fence()
    equal(two)


def rekeyed(two: Pair, times: int = 1) -> None:
    def done() -> bool:
        return all(s.stats["keys.changed"] == times for s in (two.a, two.b))

    until(done, 8, f"{times} changes of keys", detail=two.report)
    assert key(two.a) == key(two.b)


def test_new_key_first_on_both_then_the_old_one_goes(begun: tuple[Pair, Side]) -> None:
    two, first = begun
    other = two.other(first)
    some = entries(400)
    two.a.node.ct.create(*some[:100])
    before = key(two.a)
    first.engine.set_keys(NEW + two.psk)
    two.a.node.ct.create(*some[100:200])
    # one node alone changes nothing, however often it offers
    if first is two.a:
        until(lambda: other.stats["drop.auth"] > 2, 5, "offers under an unknown key")
    assert key(two.a) == key(two.b) == before
    whole(two)
    other.engine.set_keys(NEW + two.psk)
    rekeyed(two)
    assert key(two.a) != before
    two.a.node.ct.create(*some[200:300])
    whole(two)
    for side in (first, other):
        side.engine.set_keys(NEW)
    two.a.node.ct.create(*some[300:])
    whole(two)
    assert two.a.stats["keys.changed"] == 1
    # the old key is worth nothing any more
    two.b.close()
    two.b._psk = two.psk
    two.b.open()
    until(lambda: two.b.stats["drop.auth"] > 3, 5, detail=two.report)
    assert two.b.engine.peer() is None
    two.b.close()
    two.b._psk = NEW
    two.b.open()
    two.b.passivate()
    two.synced()
    equal(two)


def test_a_key_that_only_one_knows(begun: tuple[Pair, Side]) -> None:
    """The session stands, under a key that this node has no more."""
    two, first = begun
    before = key(two.a)
    first.engine.set_keys(NEW)
    two.a.node.ct.create(*entries(50))
    two.a.beats(60, 8)
    assert key(two.a) == key(two.b) == before
    whole(two)
    two.other(first).engine.set_keys(NEW)
    rekeyed(two)
    whole(two)


def test_a_node_with_the_new_key_finds_one_with_the_old(lab: Lab) -> None:
    """Between the steps of a change a node may have to start: any common key will do,
    and the preferred one follows by itself."""
    with pair(lab) as two:
        for side in (two.a, two.b):
            two.other(side).engine.set_keys(two.psk)
            side.close()
            side._psk = NEW + THIRD + two.psk
            side.open()
            sessions = len(two.other(side).seen("session.up"))
            until(lambda: side.engine.stream()["key"], 8, detail=two.report)  # noqa: B023
            assert key(two.a) == key(two.b)
            assert sessions or two.other(side).saw("session.up")
        two.a.activate()
        two.b.passivate()
        two.synced()
        two.a.node.ct.create(*entries(20))
        two.fence()
        equal(two)


def test_far_apart_one_offer_changes_the_keys() -> None:
    """The peer's first word under new keys takes a round trip: no reason to offer another
    session, which would put an end to this one if the word came even later."""
    with Lab(wire=True) as lab, pair(lab, dead_after_ms=2000) as two:
        assert lab.wire is not None
        lab.wire.set(Faults(delay_ms=95))
        keys, offers = [two.psk], []
        # A busy machine makes silences that do call for an offer.
        while 1 not in offers and len(offers) < 10:
            two.b.beats(20)
            tried = two.b.stats["keys.tried"]
            keys.append(secrets.token_bytes(32))
            for side in (two.b, two.a):
                side.engine.set_keys(keys[-1] + keys[-2])
            rekeyed(two, len(offers) + 1)
            two.b.beats(20)
            offers.append(two.b.stats["keys.tried"] - tried)
        assert 1 in offers, offers
        whole(two)


@pytest.mark.parametrize(
    "faults",
    [Faults(loss=0.1, reorder=0.2, duplicate=0.1), Faults(delay_ms=80)],
    ids=["loss", "delay"],
)
def test_many_changes_under_load(faults: Faults) -> None:
    """Datagrams sealed before a change are resent as they were, and still open."""
    with Lab(wire=True) as lab, pair(lab, dead_after_ms=2000) as two:
        assert lab.wire is not None
        lab.wire.set(faults)
        some = entries(6000)
        stop = threading.Event()

        def churn() -> None:
            made = 0
            while not stop.wait(0.002) and made < len(some):
                two.a.node.ct.create(*some[made : made + 5])
                made += 5

        thread = threading.Thread(target=churn, daemon=True)
        thread.start()
        try:
            before = two.psk
            for turn, one in enumerate((NEW, THIRD, OLD, NEW), 1):
                for side in (two.b, two.a):
                    side.engine.set_keys(one + before)
                rekeyed(two, turn)
                before = one
        finally:
            stop.set()
            thread.join()
        lab.wire.set(None)
        assert not faults.loss or two.a.stats["tx.resent"] > 0
        whole(two)
