"""Events that the probe takes in the kernel: each is told once, and all of it.

The other tests here use the probe as well, as a daemon does by default; these are about
what is particular to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from hak2k.lab import Lab, until
from hak2k.lab import topology as t
from tests.pair import Pair, pair
from tests.replication import through
from tests.replication.by_hand import Tcp, Udp, by_hand, say
from tests.replication.entries import make
from tests.replication.tables import equal
from tests.replication.test_events import OPEN, entry_of
from tests.replication.test_recon import counts, verify
from tests.replication.through import swap

SOURCES = (t.CLIENT4, t.SNAT_CLIENT4, t.ZONE_CLIENT4, t.CLIENT6, t.SNAT_CLIENT6)


@pytest.fixture
def two() -> Iterator[Pair]:
    with Lab(ruleset=through.RULESET) as lab, pair(lab) as both:
        yield both


def events_of(two: Pair) -> int:
    return two.a.stats["capture.events"]


def test_no_message_is_made_of_what_the_probe_tells(two: Pair) -> None:
    """Whoever listens by netlink hears of ends alone; the peer knows all."""
    with by_hand(two.lab) as raw, two.lab.fw1.events() as events:
        tcp = [Tcp(raw, source) for source in SOURCES]
        udp = [Udp(raw, source) for source in SOURCES]
        for flow in tcp:
            say(flow, *OPEN.split(), "c:A", "s:A")
        for other in udp:
            say(other, "c", "s", "c")
        equal(two)
        assert Counter(e.kind for e in events.read(1.0)) == {}
        for entry in two.a.node.conntrack(lambda e: e.orig.proto in (6, 17)).values():
            two.a.node.ct.delete(entry)
        equal(two)
        assert Counter(e.kind for e in events.read(1.0)) == {"destroy": 2 * len(SOURCES)}


def test_marks_and_labels_of_packets(two: Pair) -> None:
    """Set by rules, also to nothing again; a label makes another record of it."""
    with by_hand(two.lab) as raw:
        flows = [Tcp(raw, source) for source in SOURCES]
        for flow in flows:
            say(flow, *OPEN.split())
        equal(two)
        for rule, mark in (("ct mark set 7", 7), ("ct label set 5", 7), ("ct mark set 0", 0)):
            two.lab.fw1.nft(
                "table inet marks { }; delete table inet marks; table inet marks {"
                f" chain f {{ type filter hook forward priority 0; meta l4proto tcp {rule}; }}; }}"
            )
            for flow in flows:
                say(flow, "c:A", "s:A")
            equal(two)
            for flow in flows:
                entry = entry_of(two, flow)
                assert entry.mark == mark, rule
        found = verify(two.b)
        assert counts(found) == (0, 0, 0, 0), found


def test_what_is_done_by_hand_is_told_too(two: Pair) -> None:
    """Through ctnetlink, to entries that packets made and that bear the probe's mask."""
    with by_hand(two.lab) as raw:
        flow = Udp(raw, t.SNAT_CLIENT4)
        say(flow, "c", "s")
        equal(two)
        two.lab.fw1.ct.change(entry_of(two, flow, passive=False), mark=3)
        until(lambda: entry_of(two, flow).mark == 3, 3, detail=two.report)
        two.lab.fw1.ct.create(make("tcp", 4, "masquerade-port", "10.71.12.1"))
        equal(two)


def test_each_event_is_told_once_whatever_the_mask_is(two: Pair) -> None:
    """Entries that were adopted bear ctnetlink's mask, all events: those are messages."""
    with by_hand(two.lab) as raw:
        flows = [Tcp(raw, source) for source in SOURCES]
        for flow in flows:
            say(flow, *OPEN.split())
        equal(two)
        swap(two)
        until(lambda: two.b.stats["capture.events"] == 0, 3, detail=two.report)
        for flow in flows:
            say(flow, "c:FA")
        until(lambda: two.b.stats["capture.events"] >= len(flows), 3, detail=two.report)
        assert two.b.stats["capture.events"] == len(flows)


def test_what_is_refused_never_begins(two: Pair) -> None:
    """The answer to it, an ICMP error or a reset, bears the connection that it refuses."""
    with by_hand(two.lab) as raw:
        two.lab.fw1.nft(
            "table inet refuse { chain f { type filter hook forward priority 0;"
            " udp dport 4000-65535 reject;"
            " tcp dport 4000-65535 reject with tcp reset; }; }"
        )
        before = events_of(two)
        for source in (t.CLIENT4, t.CLIENT6):
            for flow in (Tcp(raw, source, 7), Udp(raw, source, 7)):
                if isinstance(flow, Tcp):
                    flow.next_flags = "S"
                assert not flow.forward(), flow
        two.fence()
        assert events_of(two) - before == 2, "the fence's own"
        assert two.b.node.conntrack(lambda e: e.orig.sport == flow.sport) == {}


def test_a_ring_that_is_too_small(lab: Lab) -> None:
    """What does not fit is lost, which is noticed at once and mended by a comparison."""
    with pair(lab) as two:
        two.a.engine.close()
        two.a.ring_bytes = 4000  # rounded up to a page: fifteen messages
        two.a.open()
        two.a.activate()
        two.synced()
        some = [
            make("udp", 4, "plain", f"10.71.{40 + i // 200}.{1 + i % 200}") for i in range(1000)
        ]

        def burst() -> bool:
            """Until the capture thread was too slow for once."""
            two.a.node.ct.create(*some)
            if two.a.saw("overrun"):
                return True
            two.a.node.ct.delete(*some)
            return two.a.saw("overrun")

        until(burst, 20, detail=two.report)
        until(lambda: two.b.saw("stream.lost"), 3, detail=two.report)
        two.synced()
        two.fence()
        equal(two)
        assert two.a.stats["capture.overruns"] >= 1


def test_protocols_that_are_left_out_never_leave_the_kernel(lab: Lab) -> None:
    with pair(lab, protocols=[17]) as two, by_hand(lab) as raw:
        flows = [Tcp(raw, source) for source in (t.CLIENT4, t.CLIENT6)]
        say(Udp(raw, t.CLIENT4), "c", "s", "c")
        two.fence()
        before = events_of(two), two.a.stats["capture.excluded"]
        for flow in flows:
            say(flow, *OPEN.split())
        for entry in two.a.node.conntrack(lambda e: e.orig.proto == 6).values():
            two.a.node.ct.delete(entry)
        two.fence()
        after = events_of(two), two.a.stats["capture.excluded"]
        assert (after[0] - before[0], after[1] - before[1]) == (2, 0), "the fence's own"
