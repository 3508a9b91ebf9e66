"""What a swap does with what it finds: the stream's rest, larvae, idle entries."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest

from hak2k.lab import Entry, Lab, Table, until
from hak2k.lab import ctnl as c
from hak2k.lab import topology as t
from hak2k.lab.ftp import FtpSession
from hak2k.lab.rawflow import FLOWS, RawPair
from hak2k.lab.traffic import Traffic
from tests.pair import Pair
from tests.replication import through
from tests.replication.entries import DCCP, GRE, SCTP, TCP, cases, make
from tests.replication.tables import LARVAL, LARVAL_SLACK, equal
from tests.replication.test_links import entries

# Unlike any of the kernel's, to tell who set a time-out.
NATURAL = {
    0: {0: 3333},
    TCP: {0: 1111, 3: 70000, 7: 77},
    17: {0: 222, 1: 444},
    SCTP: {0: 1313, 4: 2424},
    47: {0: 55},
}


def natural(entry: Entry) -> int:
    """What the sweep should give it."""
    table = NATURAL.get(entry.orig.proto, NATURAL[0])
    state = 0
    if entry.tcp:
        state = {"ESTABLISHED": 3, "TIME_WAIT": 7}.get(entry.tcp.state, 0)
    elif entry.sctp:
        state = 4 if entry.sctp.state == "ESTABLISHED" else 0
    elif entry.status & c.ASSURED:
        state = 1
    return table.get(state, table[0])


def larval(entry: Entry) -> bool:
    return entry.timeout > LARVAL - LARVAL_SLACK


def swept(two: Pair) -> int:
    """Let the new active node sweep; how many entries it touched."""
    two.b.engine.sweep(NATURAL)
    (done,) = until(lambda: two.b.seen("sweep.done"), 5, detail=two.report)
    return int(done["entries"])


@pytest.mark.parametrize("turn", range(3))
def test_activation_drains_what_was_received(two: Pair, turn: int) -> None:
    """In the middle of a torrent: what is in the table when the gate opens is a
    beginning of what was sent, and nothing is added to it later."""
    some = entries(6000)
    torrent = threading.Thread(target=two.lab.fw1.ct.create, args=some)
    torrent.start()
    until(lambda: two.b.stats["apply.created"] > 1500 * turn, 5, interval=0.0005)
    times = two.b.activate()
    applied = two.b.stats["apply.records"]
    table: Table = two.lab.fw2.conntrack()
    torrent.join()
    assert times["drain_ns"] < 60_000_000
    sent = [e.key in table for e in some]
    count = sum(sent)
    assert count == len(table)
    assert sent == [True] * count + [False] * (len(some) - count)
    # The rest of the torrent arrives, and is refused for what it is.
    if count < 5000:
        until(lambda: two.b.stats["drop.role"] > 0, 3, detail=two.report)
    assert two.b.stats["apply.records"] == applied
    assert two.lab.fw2.conntrack().keys() == table.keys()


def test_the_sweep_gives_idle_larvae_their_natural_timeouts(two: Pair) -> None:
    made = [e for case in cases() if (e := case.entry()).orig.proto != DCCP]
    made += [
        replace(make(name, 4, "plain", "10.71.41.1"), status=c.CONFIRMED | c.SEEN_REPLY | c.ASSURED)
        for name in ("udp", "udplite")
    ]
    made = list({e.reply: e for e in made}.values())
    two.lab.fw1.ct.create(*made)
    tcp = make("tcp", 4, "plain", "10.71.40.1")
    waiting = replace(tcp, tcp=replace(tcp.tcp, state="TIME_WAIT")) if tcp.tcp else tcp
    two.lab.fw1.ct.create(waiting, *entries(3000))
    equal(two)
    own = replace(entries(1)[0].orig, src="10.72.0.1")
    two.lab.fw2.ct.create(Entry(own, own.inverse(), status=8, timeout=5000))
    two.lab.crash("fw1")
    two.b.activate()
    count = swept(two)
    table = two.lab.fw2.conntrack()
    assert len(table) == len(made) + 3001
    fixed = [e for e in table.values() if e.orig.proto == GRE]
    assert fixed
    assert count == len(table) - len(fixed)
    for entry in table.values():
        if entry.orig.proto == GRE:
            assert larval(entry), "a fixed timeout cannot be changed"
        else:
            wanted = natural(entry)
            assert wanted - 5 <= entry.timeout <= wanted, entry
    here = two.lab.fw2.ct.get(own)
    assert here is not None
    assert 4900 < here.timeout <= 5000
    assert two.b.stats["sweep.entries"] == count


def test_the_first_packet_gives_the_natural_timeout(two: Pair) -> None:
    """Lazy adoption: the kernel does it by itself, sweep or no sweep; and the sweep
    leaves alone what it did."""
    lab = two.lab
    with Traffic(lab) as traffic, RawPair(lab) as raw:
        for route in ("plain", "masq", "snat6"):
            traffic.open(route, "tcp", 2, interval_ms=20)
            traffic.open(route, "udp", 2, interval_ms=20)
        traffic.wait_established()
        flows = [kind(raw, t.CLIENT4, 1) for kind in FLOWS.values()]
        for flow in flows:
            flow.open()
        idle = entries(20)
        lab.fw1.ct.create(*idle)
        equal(two)
        through.swap(two)
        through.every_flow_goes_on(traffic)
        for flow in flows:
            assert flow.exchange(2.0) == (True, True)
        table = lab.fw2.conntrack()
        limits = {6: 432000, 17: 180, SCTP: 500000, 136: 180}
        for entry in table.values():
            if entry.key in {e.key for e in idle} or entry.orig.proto == GRE:
                assert larval(entry)
            else:
                assert entry.timeout <= limits.get(entry.orig.proto, 600), entry
        # The idle ones alone are left for the sweep.
        assert swept(two) == len(idle)
        after = lab.fw2.conntrack()
        for entry in idle:
            assert after[entry.key].timeout <= 222
        for entry in after.values():
            assert entry.orig.proto == GRE or not larval(entry)
        through.every_flow_goes_on(traffic)
        assert lab.fw2.counters()["invalid"] == 0


def test_expectations_after_a_swap_do_not_wait_for_ever(two: Pair) -> None:
    """Each is a hole in the firewall: it must close when the helper meant it to."""
    with FtpSession(two.lab) as ftp:
        ftp.announce()
        until(lambda: len(two.lab.fw2.expectations()) == 1, 3)
        (meant,) = two.lab.fw1.expectations()
        assert meant.timeout <= 300 < two.lab.fw2.expectations()[0].timeout
        through.swap(two)
        swept(two)
        (left,) = two.lab.fw2.expectations()
        assert left.timeout <= 300


def test_new_connections_of_the_new_active_node_are_published(two: Pair) -> None:
    """From its first packet on: the old one comes back and learns of all."""
    lab = two.lab
    through.swap(two)
    with Traffic(lab) as traffic:
        traffic.open("masq", "tcp", 3, interval_ms=20)
        traffic.wait_established()
        two.a.close()
        lab.revive("fw1")
        two.a.open()
        two.a.passivate()
        lab.plug("fw1")
        two.synced(two.a)
        traffic.open("plain", "udp", 3, interval_ms=20)
        traffic.wait_established()
        two.fence(two.b)
        equal(two, two.b)
        assert traffic.lost() == {}


def test_the_swap_is_announced_to_the_neighbours(lab: Lab) -> None:
    """Each address on its device: ARP and unsolicited advertisements."""
    two = Pair(lab)
    try:
        two.begin()
        lab.tap.mute("fw2")  # to keep the frames
        lab.tap.reset()
        times = two.b.activate()
        assert times["total_ns"] > 0
        until(lambda: lab.tap.count("fw2", "out", "arp") >= 4, 2)
        until(lambda: lab.tap.count("fw2", "out", "icmp6") >= 2, 2)
        told = set()
        for frame in lab.tap.frames():
            if frame.direction == "out" and frame.kind == "arp":
                told.add((frame.port, socket.inet_ntoa(frame.data[28:32])))
            elif frame.direction == "out" and frame.kind == "icmp6" and frame.data[54] == 136:
                assert frame.data[58] & 0x20, "without the override flag"
                told.add((frame.port, socket.inet_ntop(socket.AF_INET6, frame.data[62:78])))
        assert told == {
            ("fw2-lan", t.LAN4),
            ("fw2-wan", t.WAN4),
            ("fw2-lan", t.LAN6),
            ("fw2-wan", t.WAN6),
        }
    finally:
        two.close()
