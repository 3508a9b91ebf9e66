"""Which of TCP's states are told, and that those suffice.

By default the kernel makes no events of TCP's middle states (hak2k/gate.py).  What
must hold all the same: a handshake goes on wherever it was at a crash, and no
connection that has closed stands as established on the node that takes over, where it
would do so for five days.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hak2k import gate
from hak2k.lab import Entry, Lab, until
from hak2k.lab import ctnl as c
from hak2k.lab import topology as t
from hak2k.lab.ctnl import Events
from hak2k.swap import natural_timeouts
from tests.pair import SPEC, Pair, pair
from tests.replication import through
from tests.replication.by_hand import Tcp, Udp, by_hand, say
from tests.replication.tables import CLOSES, equal, replicable
from tests.replication.test_recon import counts, verify
from tests.replication.through import both_keep_quiet, swap


@pytest.fixture(params=["probe", "netlink"])
def two(request: pytest.FixtureRequest) -> Iterator[Pair]:
    netlink = request.param == "netlink"
    with Lab(ruleset=through.RULESET) as lab, pair(lab, netlink=netlink) as both:
        yield both


@pytest.fixture
def by_netlink() -> Iterator[Pair]:
    with Lab(ruleset=through.RULESET) as lab, pair(lab, netlink=True) as both:
        yield both


OPEN = "c:S s:SA c:A"
# name: packets, the states that are told of them
LIVES = {
    "client closes": (f"{OPEN} c:FA s:A s:FA c:A", "SYN_SENT ESTABLISHED FIN_WAIT LAST_ACK"),
    "server closes": (f"{OPEN} s:FA c:A c:FA s:A", "SYN_SENT ESTABLISHED FIN_WAIT LAST_ACK"),
    "three packets": (f"{OPEN} c:FA s:FA c:A", "SYN_SENT ESTABLISHED FIN_WAIT LAST_ACK"),
    "both at once": (f"{OPEN} c:FA s:FA* c:A s:A", "SYN_SENT ESTABLISHED FIN_WAIT LAST_ACK"),
    "half": (f"{OPEN} c:FA s:A s:A c:A", "SYN_SENT ESTABLISHED FIN_WAIT"),
    "the other half": (f"{OPEN} s:FA c:A c:A s:A", "SYN_SENT ESTABLISHED FIN_WAIT"),
    "FIN repeated": (f"{OPEN} c:FA c:FA* c:FA* s:A", "SYN_SENT ESTABLISHED FIN_WAIT LAST_ACK"),
    "reset by server": (f"{OPEN} c:A s:RA", "SYN_SENT ESTABLISHED CLOSE"),
    "reset by client": (f"{OPEN} s:A c:R", "SYN_SENT ESTABLISHED CLOSE"),
    "reset when half closed": (f"{OPEN} c:FA s:A s:RA", "SYN_SENT ESTABLISHED FIN_WAIT CLOSE"),
    "closed with the first ACK": ("c:S s:SA c:FA s:A", "SYN_SENT FIN_WAIT"),
    "reset in the handshake": ("c:S s:SA c:R", "SYN_SENT CLOSE"),
    "crossing SYNs": ("c:S s:S c:SA* s:A c:A", "SYN_SENT ESTABLISHED"),
    "SYN/ACK repeated": ("c:S s:SA s:SA* c:A s:A", "SYN_SENT ESTABLISHED"),
}


def told(events: Events) -> dict[int | None, str]:
    """By source port: states, in the order of the kernel's events so far."""
    found: dict[int | None, list[str]] = {}
    for event in events.read(1.0):
        entry = event.entry
        if entry is not None and entry.tcp and event.kind != "destroy":
            found.setdefault(entry.orig.sport, []).append(entry.tcp.state)
    return {port: " ".join(states) for port, states in found.items()}


def entry_of(two: Pair, flow: Tcp | Udp, *, passive: bool = True) -> Entry:
    side = two.b if passive else two.a
    (entry,) = side.node.conntrack(
        lambda e: (e.orig.src, e.orig.sport) == (flow.source, flow.sport)
    ).values()
    return entry


def test_what_is_told_of_each_life(by_netlink: Pair) -> None:
    two = by_netlink
    with by_hand(two.lab) as raw, two.lab.fw1.events() as events:
        flows = {}
        for i, (name, (packets, _)) in enumerate(LIVES.items()):
            flows[name] = flow = Tcp(raw, t.CLIENT4, i)
            say(flow, *packets.split())
        equal(two)
        states = told(events)
        for name, flow in flows.items():
            assert states[flow.sport] == LIVES[name][1], name
        # Nobody misses what was not told.
        found = verify(two.b)
        assert counts(found) == (0, 0, 0, 0), found


def test_no_closed_connection_stands_as_established_after_a_swap(two: Pair) -> None:
    """The sweep then gives it the minutes of a closing one, not the days of an open one."""
    with by_hand(two.lab) as raw:
        flows = []
        for i, (name, (packets, _)) in enumerate(LIVES.items()):
            for source in (t.CLIENT4, t.SNAT_CLIENT4):
                flow = Tcp(raw, source, i)
                say(flow, *packets.split())
                flows.append((name, flow))
        equal(two)
        swap(two)
        two.b.engine.sweep(two.b.node.call(natural_timeouts))
        until(lambda: two.b.seen("sweep.done"), 5, detail=two.report)
        for name, flow in flows:
            entry = entry_of(two, flow)
            assert entry.tcp is not None
            if LIVES[name][1].endswith("ESTABLISHED"):
                assert entry.tcp.state == "ESTABLISHED", name
                assert entry.timeout > 86400, name
            else:
                assert entry.tcp.state in CLOSES, name
                assert entry.timeout <= 120, name
        both_keep_quiet(two)


@pytest.mark.parametrize("point", range(4))
def test_a_handshake_goes_on_wherever_it_was(two: Pair, point: int) -> None:
    """Also where the SYN or its answer is repeated, as nobody knows what was lost."""
    packets = OPEN.split()
    sources = (t.CLIENT4, t.SNAT_CLIENT4, t.ZONE_CLIENT4, t.CLIENT6, t.SNAT_CLIENT6)
    with by_hand(two.lab) as raw:
        first, again = ([Tcp(raw, source, i) for source in sources] for i in range(2))
        for flow in first + again:
            say(flow, *packets[:point])
        equal(two)
        swap(two)
        repeated = [f"{p}*" for p in packets[:point]] if point < 3 else []
        for flow in first:
            say(flow, *packets[point:], "s:A", "c:A")
        for flow in again:
            say(flow, *repeated, *packets[point:], "s:A", "c:A")
        for flow in first + again:
            entry = entry_of(two, flow)
            assert entry.tcp is not None
            assert entry.tcp.state == "ESTABLISHED"
            assert entry.status & c.ASSURED
            assert entry.timeout > 86400
    both_keep_quiet(two)


def test_back_and_forth_in_the_middle_of_a_handshake(two: Pair) -> None:
    """The node that steps down makes a larva of its own half-open entry, too."""
    with by_hand(two.lab) as raw:
        flow = Tcp(raw, t.SNAT_CLIENT4)
        say(flow, "c:S")
        equal(two)
        through.change_roles(two, two.a, two.b)
        say(flow, "s:SA")
        through.change_roles(two, two.b, two.a)
        say(flow, "c:A", "s:A", "c:A")
        equal(two)
        (entry,) = replicable(two.a).values()
        assert entry.tcp is not None
        assert entry.tcp.state == "ESTABLISHED"
    both_keep_quiet(two)


def test_what_is_picked_up_in_its_middle(two: Pair) -> None:
    """Both nodes know whether it was answered."""
    two.lab.fw1.sysctl("net.netfilter.nf_conntrack_tcp_loose=1")
    with by_hand(two.lab) as raw:
        mute, answered, full = (Tcp(raw, t.CLIENT4, i) for i in range(3))
        say(mute, "c:A")
        say(answered, "c:A", "s:A")
        say(full, "c:A", "s:A", "c:A")
        equal(two)
        status = [entry_of(two, f).status & (c.SEEN_REPLY | c.ASSURED) for f in (
            mute, answered, full
        )]  # fmt: skip
        assert status == [0, c.SEEN_REPLY, c.SEEN_REPLY | c.ASSURED]


def test_other_protocols_are_told_as_ever(by_netlink: Pair) -> None:
    two = by_netlink
    with by_hand(two.lab) as raw, two.lab.fw1.events() as events:
        flow = Udp(raw, t.CLIENT4)
        say(flow, "c", "s")
        equal(two)
        kinds = Counter(e.kind for e in events.read(1.0))
        assert kinds == {"new": 1, "update": 1}


def test_all_events(by_netlink: Pair) -> None:
    two = by_netlink
    with two.lab.fw1.enter():
        gate.build(replace(SPEC, events="all"), [1])
    with by_hand(two.lab) as raw, two.lab.fw1.events() as events:
        flow = Tcp(raw, t.CLIENT4)
        say(flow, *f"{OPEN} c:FA s:A s:FA c:A".split())
        want = "SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT"
        assert told(events)[flow.sport] == want

        def state() -> str | None:
            found = [e.tcp for e in replicable(two.b).values() if e.tcp]
            return found[0].state if found else None

        until(lambda: state() == "TIME_WAIT", 3, detail=two.report)


def test_a_mark_that_changes_is_told_at_any_time(two: Pair) -> None:
    """By hand, and by a rule on a packet that makes no other event."""
    with by_hand(two.lab) as raw:
        flow = Tcp(raw, t.CLIENT4)
        say(flow, *OPEN.split())
        equal(two)
        two.lab.fw1.ct.change(entry_of(two, flow, passive=False), mark=5)
        until(lambda: entry_of(two, flow).mark == 5, 3, detail=two.report)
        two.lab.fw1.nft(
            "table inet marks { chain f { type filter hook forward priority 0;"
            " meta l4proto tcp ct mark set 7; }; }"
        )
        say(flow, "s:A")
        until(lambda: entry_of(two, flow).mark == 7, 3, detail=two.report)


def test_the_second_fin_is_no_news(two: Pair) -> None:
    """Unless something else has changed with it."""
    with by_hand(two.lab) as raw:
        plain, marked = Tcp(raw, t.CLIENT4), Tcp(raw, t.CLIENT4, 1)
        for flow in (plain, marked):
            say(flow, *OPEN.split(), "c:FA", "s:A")
        equal(two)
        states = [entry.tcp.state for entry in replicable(two.b).values() if entry.tcp]
        assert states == ["TIME_WAIT"] * 2
        sent = two.a.stats["tx.records"]
        say(plain, "s:FA", "c:A")
        two.fence()
        assert two.a.stats["tx.records"] - sent == 2  # the fence's own
        assert two.a.stats["capture.no_news"] >= 1
        two.lab.fw1.nft(
            "table inet marks { chain f { type filter hook forward priority 0;"
            " meta l4proto tcp ct mark set 7; }; }"
        )
        say(marked, "s:FA", "c:A")
        until(lambda: entry_of(two, marked).mark == 7, 3, detail=two.report)
        found = verify(two.b)
        assert counts(found) == (0, 0, 0, 0), found


@pytest.mark.parametrize("closed", ["c:FA", "c:FA s:A", "c:FA s:A s:FA", "c:FA s:A s:FA c:A"])
def test_a_closing_connection_begins_anew_after_a_swap(two: Pair, closed: str) -> None:
    """Its SYN is not taken for one of the old life's: the handshake is a new one's."""
    with by_hand(two.lab) as raw:
        flows = [Tcp(raw, source) for source in (t.CLIENT4, t.SNAT_CLIENT4, t.CLIENT6)]
        for flow in flows:
            say(flow, *OPEN.split(), *closed.split())
        equal(two)
        swap(two)
        for flow in flows:
            say(flow, *OPEN.split(), "s:A", "c:A")
            entry = entry_of(two, flow)
            assert entry.tcp is not None
            assert entry.tcp.state == "ESTABLISHED"
            assert entry.status & c.ASSURED
            # windows are judged again: it is no larva's any more
            assert not any(f & c.TCP_BE_LIBERAL for f in entry.tcp.flags), entry.tcp
        both_keep_quiet(two)


def test_a_half_closed_connection_goes_on_after_a_swap(two: Pair) -> None:
    """Data one way, and its acknowledgements, for as long as they come; then the end."""
    with by_hand(two.lab) as raw:
        flow = Tcp(raw, t.SNAT_CLIENT4)
        say(flow, *OPEN.split(), "c:FA", "s:A")
        equal(two)
        swap(two)
        say(flow, "s:A", "c:A", "s:A", "c:A", "s:FA", "c:A", "s:FA*", "c:A")
        entry = entry_of(two, flow)
        assert entry.tcp is not None
        assert entry.tcp.state in CLOSES
        both_keep_quiet(two)


def test_lives_on_the_same_tuple_are_told_apart(two: Pair) -> None:
    """What was told of the life before says nothing of this one."""
    with by_hand(two.lab) as raw:
        flow = Tcp(raw, t.SNAT_CLIENT4)
        for _ in range(3):
            say(flow, *OPEN.split())
            equal(two)
            say(flow, "c:FA", "s:FA", "c:A")
            equal(two)
            entry = entry_of(two, flow)
            assert entry.tcp is not None
            assert entry.tcp.state == "TIME_WAIT"
        assert two.a.stats["capture.no_news"] >= 3
