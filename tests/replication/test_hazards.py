"""H1 to H16: what is known to go wrong when connection tracking is replicated.

Each of these was seen in another replicator, mostly in conntrackd; docs/testing.md has
them in a table.  Here they are tried on this one, in the plainest form: the whole
matrix of each is elsewhere.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hak2k.lab import Entry, Lab, until
from hak2k.lab import ctnl as c
from hak2k.lab.ctnl import Conntrack, Tcp
from hak2k.lab.traffic import Traffic
from tests.pair import Pair, Side, pair
from tests.replication import through
from tests.replication.entries import TCP_FLAGS, make
from tests.replication.tables import LARVAL, LARVAL_SLACK, arrives, carried, equal, leaves
from tests.replication.test_links import entries, event_socket
from tests.replication.test_swap import natural, swept


@contextmanager
def undisturbed(side: Side, entry: Entry) -> Iterator[None]:
    """The kernel keeps this very entry: it is neither ended nor made anew."""
    with side.node.events() as events:
        yield
        seen = [e for e in events.read() if e.entry is not None and e.entry.key == entry.key]
        assert {e.kind for e in seen} <= {"update"}, seen


def changed(two: Pair, entry: Entry) -> None:
    """Change the entry there, and wait until it is the same here."""
    two.a.node.ct.update(entry)
    two.fence()
    here = two.a.node.ct.get(entry.orig, entry.zone)
    there = two.b.node.ct.get(entry.orig, entry.zone)
    assert here is not None
    assert there is not None
    assert carried(there)["mark"] == carried(here)["mark"] == entry.mark


def test_h01_no_other_port_is_chosen_for_a_translated_connection(two: Pair) -> None:
    """The passive node has another connection on the translated port."""
    ours = make("udp", 4, "masquerade-port", "10.71.1.1")
    clash = replace(ours, orig=replace(ours.orig, src="10.71.1.2"))
    assert clash.reply == ours.reply
    two.b.node.ct.create(clash)
    two.a.node.ct.create(ours)
    arrives(two, ours)
    there = two.b.node.ct.get(ours.orig)
    assert there is not None
    assert there.reply == ours.reply
    assert two.b.node.ct.get(clash.orig) is None
    assert two.b.stats["apply.evicted"] == 1


def test_h02_larvae_do_not_expire_and_their_end_ends_nothing(two: Pair) -> None:
    """A live UDP flow, whose copy would be long over by the passive kernel's clock;
    and a copy that is deleted there does not take the original with it."""
    for fw in two.lab.fw:
        fw.sysctl("net.netfilter.nf_conntrack_udp_timeout=2")
    entry = replace(make("udp", 4, "masquerade-port", "10.71.2.1"), timeout=2)
    two.a.node.ct.create(entry)
    arrives(two, entry)
    # kept alive there, by packets that make no event
    for _ in range(30):
        two.a.node.ct.change(entry, timeout=2)
        with two.b.node.events() as events:
            assert not [e for e in events.read(0.1) if e.kind == "destroy"]
    there = two.b.node.ct.get(entry.orig)
    assert there is not None
    assert there.timeout > LARVAL - LARVAL_SLACK
    two.b.node.ct.delete(there)
    two.a.node.ct.change(entry, timeout=60)
    two.fence()
    assert two.a.node.ct.get(entry.orig) is not None


def test_h03_two_gre_tunnels_between_the_same_ends(two: Pair) -> None:
    first = make("gre", 4, "plain", "10.71.3.1")
    second = replace(first, orig=replace(first.orig, sport=0x5566, dport=0x7788))
    second = replace(second, reply=second.orig.inverse())
    two.a.node.ct.create(first, second)
    arrives(two, first)
    arrives(two, second)
    assert len(two.b.node.conntrack(lambda e: e.orig.proto == 47)) == 2
    two.a.node.ct.delete(first)
    leaves(two, first)
    assert two.b.node.ct.get(second.orig) is not None


def test_h04_an_ipv6_entry_with_nat_is_updated_in_place(two: Pair) -> None:
    entry = make("tcp", 6, "masquerade-port", "fd71::4:1")
    two.a.node.ct.create(entry)
    arrives(two, entry)
    with undisturbed(two.b, entry):
        changed(two, replace(entry, mark=7))


def test_h05_zones_are_kept_apart(two: Pair) -> None:
    """Equal tuples in three zones: a comparison removes one copy, of one zone."""
    base = make("tcp", 4, "plain", "10.71.5.1")
    zones = [replace(base, zone=zone) for zone in (0, 3, 9)]
    two.a.node.ct.create(*zones)
    for entry in zones:
        arrives(two, entry)
    # gone while nobody looked
    two.b.close()
    until(lambda: two.a.saw("peer.dead"), 3)
    two.a.node.ct.delete(zones[1])
    two.b.open()
    two.b.passivate()
    two.synced()
    equal(two)
    assert {e.zone for e in two.b.node.conntrack().values()} == {0, 9}


def test_h06_the_window_scale_reaches_the_other_kernel(two: Pair) -> None:
    """With the flags without which the kernel ignores it."""
    talk = through.tcp(two.lab, "10.72.0.10", 5000, "10.72.0.10", 5000, "10.71.0.10")
    two.fence()
    (here,) = two.a.node.conntrack(lambda e: e.orig.dport == 5000).values()
    assert here.tcp is not None
    assert min(here.tcp.wscale) > 0
    there = two.b.node.ct.get(here.orig)
    assert there is not None
    assert there.tcp is not None
    assert there.tcp.wscale == here.tcp.wscale
    assert all(f & c.TCP_WINDOW_SCALE for f in there.tcp.flags)
    talk.close()


def test_h07_nothing_without_the_key(two: Pair) -> None:
    """What a stranger sends makes no entry, ends none, and is not answered."""
    entry = make("tcp", 4, "plain", "10.71.7.1")
    two.a.node.ct.create(entry)
    arrives(two, entry)
    before = {k: e.identity() for k, e in two.b.node.conntrack().items()}
    with two.lab.fw1.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("192.168.69.1", 0))
        refused = sum(n for k, n in two.b.stats.items() if k.startswith("drop."))
        for size in range(0, 1400, 7):
            stranger.sendto(os.urandom(size), ("192.168.69.2", 44242))
            # as conntrackd's: version 1, type 0, no flags, a length, a sequence
            head = bytes([0x10, 0]) + size.to_bytes(2) + os.urandom(12)
            stranger.sendto(head + os.urandom(size), ("192.168.69.2", 44242))

        def all_refused() -> bool:
            now = sum(n for k, n in two.b.stats.items() if k.startswith("drop."))
            return now - refused == 400

        until(all_refused, 3, detail=two.report)
        stranger.settimeout(0.1)
        try:
            answer: bytes | None = stranger.recv(2000)
        except TimeoutError:
            answer = None
    assert answer is None
    assert {k: e.identity() for k, e in two.b.node.conntrack().items()} == before


def test_h08_changes_that_nobody_heard_all_arrive_in_the_end(two: Pair) -> None:
    """By being sent again; what exceeds the ring for that is compared instead
    (test_links.py, test_more_is_missed_than_the_ring_holds)."""
    some = entries(3060)
    two.lab.cut()
    for side in (two.a, two.b):
        until(lambda: side.saw("peer.dead"), 3)  # noqa: B023
    two.a.node.ct.create(*some)
    two.a.node.ct.delete(*some[::3])
    two.lab.restore()
    until(lambda: len(two.b.seen("peer.alive")) > 1, 5, detail=two.report)
    two.fence()
    equal(two)
    assert len(two.b.node.conntrack()) == 2040


class Bursts(threading.Thread):
    """Hundreds of changes at once, without end."""

    def __init__(self, ct: Conntrack) -> None:
        super().__init__(daemon=True)
        self._ct, self._over = ct, threading.Event()
        self.rounds = 0

    def run(self) -> None:
        some = entries(800)
        while not self._over.is_set():
            self._ct.create(*some)
            self._ct.delete(*some[self.rounds % 2 :: 2])
            self._ct.delete(*some[1 - self.rounds % 2 :: 2])
            self.rounds += 1

    def __enter__(self) -> Bursts:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def test_h09_overruns_under_load_do_not_put_equality_off(by_netlink: Pair) -> None:
    """Again and again, and the load does not end; still the tables become equal."""
    two = by_netlink
    with Bursts(two.a.node.ct) as load:
        with event_socket(two.a) as events:
            size = events.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            until(lambda: two.a.stats["capture.overruns"] >= 3, 20, detail=two.report)
            events.setsockopt(socket.SOL_SOCKET, 33, size)  # SO_RCVBUFFORCE
        done = len(two.b.seen("sync.done"))
        until(lambda: len(two.b.seen("sync.done")) > done or two.b.synced, 20, detail=two.report)
        two.synced()
        rounds = load.rounds
        until(lambda: load.rounds > rounds + 3, 5, "the load to go on")
    two.fence()
    equal(two)


def test_h10_a_new_active_node_is_not_deafened_by_its_own_table(two: Pair) -> None:
    """It takes over thousands: no event of them reaches it, none is told again, and
    the sweep of their timeouts is no news either."""
    some = entries(8000)
    two.a.node.ct.create(*some)
    two.fence()
    two.lab.crash(two.lab.fw1)
    told = two.b.stats["tx.records"]
    two.b.activate()
    assert swept(two) == len(some)
    born = make("udp", 4, "plain", "10.71.10.1")
    two.b.node.ct.create(born)
    until(lambda: two.b.stats["capture.events"] > 0, 3, detail=two.report)
    assert two.b.stats["capture.overruns"] == 0
    assert two.b.stats["tx.records"] - told <= 2


def test_h11_idle_connections_keep_their_time_after_a_swap(two: Pair) -> None:
    """Days for an established TCP connection, not the minutes of a commit."""
    talk = through.tcp(two.lab, "10.72.0.10", 5000, "10.72.0.10", 5000, "10.71.0.10")
    two.fence()
    through.swap(two)
    swept(two)
    (entry,) = two.b.node.conntrack(lambda e: e.orig.dport == 5000).values()
    assert natural(entry) == 70000
    assert 69000 < entry.timeout <= 70000
    talk.both_ways()
    talk.close()


def test_h12_what_exists_is_changed_and_not_made_anew(two: Pair) -> None:
    """Counters, labels, helper and flags of the passive entry survive an update; a
    repetition of the whole does not disturb it either."""
    tcp = make("tcp", 4, "masquerade-port", "10.71.12.1")
    tcp = replace(tcp, orig=replace(tcp.orig, dport=21), reply=replace(tcp.reply, sport=21))
    entry = replace(tcp, helper="ftp", labels=0x5, status=tcp.status | c.HELPER)
    two.a.node.ct.create(entry)
    arrives(two, entry)
    with undisturbed(two.b, entry):
        changed(two, replace(entry, mark=12))
        here = replace(entry, mark=12, tcp=Tcp("CLOSE_WAIT", (7, 2), (TCP_FLAGS, TCP_FLAGS)))
        changed(two, here)
        two.b.engine.want_sync()
        until(lambda: len(two.b.seen("sync.done")) > 1, 5, detail=two.report)
    there = two.b.node.ct.get(entry.orig)
    assert there is not None
    assert (there.labels, there.helper) == (0x5, "ftp")


def test_h13_two_active_nodes_do_not_write_into_each_other(two: Pair) -> None:
    """Cut apart, both active; after that one of them is followed, not the last to
    write.  What the other one made alone it may offer, and no more (test_split.py)."""
    both, ours, theirs = entries(3)
    two.a.node.ct.create(both)
    arrives(two, both)
    two.lab.cut()
    until(lambda: two.b.saw("peer.dead"), 3)
    two.b.term = 1
    two.b.activate()
    two.a.node.ct.create(ours)
    two.a.node.ct.delete(both)
    two.b.node.ct.create(theirs)
    two.lab.restore()
    until(lambda: len(two.b.seen("peer.alive")) > 1, 5, detail=two.report)
    two.a.node.ct.change(ours, mark=5)
    until(lambda: two.b.stats["drop.role"] > 0, 3, detail=two.report)
    assert two.b.node.conntrack().keys() == {both.key, theirs.key}
    two.a.passivate()
    two.synced(two.a)
    equal(two, two.b, used=True)
    assert two.a.node.conntrack().keys() == {both.key, theirs.key}


def test_h14_a_restart_of_one_node_does_not_stall_the_stream(two: Pair) -> None:
    """Of either; the other one is left alone, and the stream goes on."""
    some = iter(entries(40))
    for side in (two.b, two.a, two.b, two.a):
        side.close()
        two.a.node.ct.create(next(some), next(some))
        side.open()
        two.meet()
        if side is two.a:
            side.activate()
        else:
            side.passivate()
        until(lambda: two.b.synced and two.a.engine.peer()["alive"], 10, detail=two.report)
        entry = next(some)
        two.a.node.ct.create(entry)
        arrives(two, entry)
        equal(two)


NF_CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@contextmanager
def smaller_tables(entries: int) -> Iterator[Callable[[], object]]:
    """nf_conntrack_max of the machine, which holds for all namespaces; yields what puts
    it back."""
    before = NF_CONNTRACK_MAX.read_text()

    def restore() -> None:
        NF_CONNTRACK_MAX.write_text(before)

    NF_CONNTRACK_MAX.write_text(f"{entries}\n")
    try:
        yield restore
    finally:
        restore()


@pytest.mark.host
def test_h15_a_full_table_is_no_secret(lab: Lab) -> None:
    """It is told, the node is not ready, and it becomes ready when there is room."""
    lasting = c.CONFIRMED | c.SEEN_REPLY | c.ASSURED  # others give way
    lab.fw1.ct.create(*(replace(e, status=lasting) for e in entries(3000)))
    two = Pair(lab)
    try:
        two.meet()
        with smaller_tables(2000) as restore:
            two.a.activate()
            two.b.passivate()
            until(lambda: two.b.saw("table.full"), 10, detail=two.report)
            assert two.b.stats["apply.full"] > 0
            until(lambda: two.b.saw("recon.stuck"), 15, detail=two.report)
            assert not two.b.synced
            restore()
        until(lambda: two.b.synced, 30, "equality once there is room", detail=two.report)
        equal(two)
    finally:
        two.close()


def test_h16_the_peer_s_own_entries_are_not_told_back_to_it(two: Pair) -> None:
    """A passive node publishes nothing; a new active one tells its peer, which has it
    all, nothing of it either."""
    two.a.node.ct.create(*entries(2000))
    two.fence()
    equal(two)
    assert two.b.stats["tx.records"] == 0
    told = two.a.stats["tx.records"]
    two.a.passivate()
    two.b.activate()
    two.synced(two.a)
    equal(two, two.b, used=True)
    assert two.b.stats["tx.records"] < 100
    assert two.a.stats["tx.records"] == told


def test_live_traffic_is_unharmed_by_all_of_this(lab: Lab) -> None:
    """The control of the above: real flows through a pair that compares, cuts and
    swaps, none of which may be lost."""
    with pair(lab) as two, Traffic(lab) as traffic:
        for way in ("plain", "masq", "dnat"):
            traffic.open(way, "tcp", 2, interval_ms=20)
        traffic.open("masq", "udp", 2, interval_ms=20)
        traffic.wait_established()
        through.every_flow_goes_on(traffic)
        two.fence()
        through.swap(two)
        through.every_flow_goes_on(traffic)
        through.both_keep_quiet(two)
