"""Adaptive mode: when the stream cannot keep up, the short-lived wait first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from hak2k.lab import Entry, Lab, Node, Tuple, until
from tests.pair import Pair, pair
from tests.replication.entries import make

# What bears an acknowledgement, by UDP's length: one of its own (both headers, a record of
# 16 bytes, the tag), and a passive node's heartbeat.
ACKS = "{ 58, 161 }"


def many(protocol: str, form: str, port: int, count: int, client: str) -> list[Entry]:
    """So many connections of one client to one port."""
    base = make(protocol, 4, form, client)
    found = []
    for n in range(1000, 1000 + count):
        orig = Tuple(base.orig.src, base.orig.dst, base.orig.proto, n, port)
        reply = replace(orig.inverse(), dst=base.reply.dst)
        found.append(replace(base, orig=orig, reply=reply))
    return found


@contextmanager
def rule(node: Node, text: str) -> Iterator[None]:
    """A fault of the HA links, as a rule for what arrives at a node."""
    node.nft(f"table ip fault {{ chain in {{ type filter hook input priority 0; {text}; }}; }}")
    try:
        yield
    finally:
        node.nft("delete table ip fault")


def here(node: Node, entries: list[Entry]) -> int:
    return len(node.conntrack().keys() & {entry.key for entry in entries})


def pressure(two: Pair) -> int:
    return int(two.a.engine.stream()["pressure"])


def levels(two: Pair) -> list[int]:
    return [event["level"] for event in two.a.seen("stream.pressure")]


def equal(two: Pair) -> bool:
    return bool(two.lab.fw1.conntrack().keys() == two.lab.fw2.conntrack().keys())


def relieved(two: Pair) -> None:
    """The pressure is over, nobody waits, and both tables are equal."""
    until(lambda: not pressure(two), 20, detail=two.report)
    until(lambda: not two.a.engine.stream()["held"], 5, detail=two.report)
    two.fence()
    assert equal(two)


def test_without_pressure_nobody_waits(lab: Lab) -> None:
    with pair(lab, adaptive=True) as two:
        names = many("udp", "plain", 53, 500, "10.71.30.1")
        lab.fw1.ct.create(*names)
        two.fence()
        assert equal(two)
        stats = two.a.stats
        assert (pressure(two), stats["pressure.rises"], stats["hold.sent"]) == (0, 0, 0)


def test_who_waits_at_which_level(lab: Lab) -> None:
    """The stream flows, but no acknowledgement arrives: the lag grows for ever."""
    names = many("udp", "plain", 53, 60, "10.71.30.1")
    others = many("tcp", "plain", 443, 30, "10.71.30.2")
    natted = many("udp", "snat", 53, 40, "10.71.30.3")
    old = many("udp", "plain", 53, 20, "10.71.30.4")
    ping = [make("icmp", 4, "plain", "10.71.30.5"), make("icmp", 6, "plain", "fd71::30:5")]
    lab.fw1.ct.create(*old)
    with pair(lab, adaptive=True, dead_after_ms=20_000, dead_after_max_ms=20_000) as two:
        with rule(lab.fw1, f"udp dport 44242 udp length {ACKS} drop"):
            lab.fw1.ct.create(*natted[:1])
            until(lambda: pressure(two) == 1, 5, detail=two.report)
            lab.fw1.ct.create(*names, *ping, *others[:10], *natted[1:20])
            until(lambda: here(lab.fw2, others + natted) == 30, 5, detail=two.report)
            until(lambda: pressure(two) == 2, 5, detail=two.report)
            lab.fw1.ct.create(*others[10:], *natted[20:])
            lab.fw1.ct.change(old[0], mark=7)
            until(lambda: here(lab.fw2, natted) == 40, 5, detail=two.report)
            until(lambda: lab.fw2.ct.get(old[0].orig).mark == 7, 5, detail=two.report)
            # What waits is not there, is told, and is no difference.
            waiting = names + ping + others[10:]
            assert here(lab.fw2, waiting) == 0
            assert two.a.engine.stream()["held"] == len(waiting)
            assert two.a.engine.stream()["pressure_cause"] == "stream"
            two.a.engine.verify(7, False)
            until(lambda: two.b.engine.table()["verified"] == 7, 10, detail=two.report)
            found = two.b.engine.table()
            assert found["equal"], found
            assert not found["missing"] + found["extra"] + found["different"], found
            # What dies now was never sent; what turns out to live long does not wait.
            before = two.a.stats
            lab.fw1.ct.delete(*names[:25])
            until(lambda: two.a.stats["hold.died_young"] == 25, 5, detail=two.report)
            assert two.a.stats["tx.records"] == before["tx.records"]
            lab.fw1.ct.change(names[30], status=names[30].status | 6)
            until(lambda: here(lab.fw2, names) == 1, 5, detail=two.report)
            assert pressure(two) == 2
        relieved(two)
        assert levels(two) == [1, 2, 1, 0]
        assert two.a.stats["pressure.rises"] == 2
        assert not two.b.seen("recon.repaired")


def test_a_slow_link(lab: Lab) -> None:
    """A real backlog: what has NAT comes through in its turn, the rest after it."""
    old = many("tcp", "plain", 443, 50, "10.71.30.4")
    lab.fw1.ct.create(*old)
    with pair(lab, adaptive=True) as two:
        # all but heartbeats and acknowledgements
        data = "udp dport 44242 udp length != { 58, 99, 161 }"
        slow = f"{data} limit rate over 20 kbytes/second burst 4 kbytes drop"
        with rule(lab.fw2, slow):
            lab.fw1.ct.create(*many("udp", "snat", 9, 4000, "10.71.30.1"))
            until(lambda: pressure(two), 10, detail=two.report)
            names = many("udp", "plain", 53, 2000, "10.71.30.2")
            natted = many("tcp", "snat", 443, 100, "10.71.30.3")
            lab.fw1.ct.create(*names, *natted)
            for entry in old:
                lab.fw1.ct.change(entry, mark=9)
            until(lambda: here(lab.fw2, natted) == 100, 30, detail=two.report)
            until(lambda: lab.fw2.ct.get(old[-1].orig).mark == 9, 30, detail=two.report)
            assert here(lab.fw2, names) == 0
            assert two.a.engine.stream()["held"] == 2000
        relieved(two)
        assert levels(two)[-1] == 0


def test_the_peer_tells_how_full_its_table_is(lab: Lab) -> None:
    most = int(lab.fw2.sysctl_get("net.netfilter.nf_conntrack_max"))
    with pair(lab, adaptive=True) as two:
        until(lambda: two.a.engine.stream()["peer_fill"] == 0, 5, detail=two.report)
        count = min(60000, most // 20)
        lab.fw1.ct.create(*many("udp", "snat", 9, count, "10.71.30.1"))
        wanted = (count + 1) * 100 // most
        until(
            lambda: two.a.engine.stream()["peer_fill"] in (wanted, wanted - 1) and wanted,
            20,
            detail=two.report,
        )
        assert two.a.engine.stream()["peer_max"] == two.a.engine.table_max() == most
        assert two.b.engine.stream()["peer_fill"] is two.b.engine.stream()["peer_max"] is None
