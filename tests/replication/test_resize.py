"""The hash table is resized while a copy lists it.

A listing then leaves entries out, and the kernel does not say so.  The table's size
is one for all namespaces: this test, and no other, moves it, and puts it back.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hak2k.lab import Entry, Lab, Tuple, until
from hak2k.lab import ctnl as c
from tests.pair import Pair, pair
from tests.replication.tables import equal

BUCKETS = Path("/proc/sys/net/netfilter/nf_conntrack_buckets")
ENTRIES = 20_000


def flows() -> list[Entry]:
    tuples = (Tuple("10.71.0.10", "10.72.0.10", 17, 1 + n, 1000) for n in range(ENTRIES))
    status = c.CONFIRMED | c.SEEN_REPLY
    return [Entry(t, t.inverse(), status=status, timeout=600) for t in tuples]


def copied(two: Pair) -> int:
    return len(two.b.seen("sync.done"))


@pytest.mark.host
def test_a_resize_during_a_listing_loses_nothing(lab: Lab) -> None:
    lab.fw1.ct.create(*flows())
    before = int(BUCKETS.read_text())
    done = threading.Event()

    def resize() -> None:
        """Some resizes, spread over the listing; bounded."""
        for n in range(6):
            BUCKETS.write_text(str(before if n % 2 else before * 2))
            if done.wait(0.01):
                break

    try:
        with pair(lab) as two:
            have = copied(two)
            moving = threading.Thread(target=resize)
            moving.start()
            two.b.engine.want_sync()
            until(lambda: copied(two) > have, 60, "a copy", detail=two.report)
            moving.join()
            equal(two)
            assert lab.fw2.conntrack_count() >= ENTRIES
    finally:
        done.set()
        BUCKETS.write_text(str(before))
