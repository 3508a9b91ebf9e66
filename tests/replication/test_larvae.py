"""Larval life, protocol by protocol: kept while passive, adopted by the first packet,
given its natural timeout, or its end, without one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hak2k.lab import Entry, until
from hak2k.lab import ctnl as c
from hak2k.lab import topology as t
from hak2k.lab.rawflow import Ah, Esp, Gre, RawFlow, RawPair, Sctp, UdpLite
from hak2k.swap import natural_timeouts
from tests.pair import Pair, Side
from tests.replication.by_hand import Other, Ping, Ping6, Tcp, Udp, by_hand, say
from tests.replication.entries import GRE, make
from tests.replication.tables import LARVAL, LARVAL_SLACK, equal, replicable
from tests.replication.test_recon import counts, verify
from tests.replication.through import change_roles, swap


def entry_of(side: Side, source: str) -> Entry | None:
    """The GRE entry of a client's address."""
    found = side.node.conntrack(lambda e: e.orig.proto == GRE and e.orig.src == source)
    return next(iter(found.values()), None)


def there(side: Side, source: str) -> Entry:
    entry = entry_of(side, source)
    assert entry is not None, f"{side.node.name} lost it"
    return entry


def test_gre_ends_when_its_packets_do(two: Pair) -> None:
    """A larva of GRE bears a fixed timeout of eight days.  After a swap the counters
    tell: one without packets ends within a natural timeout of that, on both nodes; one
    with packets never does."""
    with RawPair(two.lab) as raw:
        live, idle = Gre(raw, t.CLIENT4, 1), Gre(raw, t.SNAT_CLIENT4, 2)
        for flow in (live, idle):
            flow.open()
        equal(two)
        old = there(two.b, t.CLIENT4)
        two.b.node.ct.delete(old)
        two.b.node.ct.create(replace(old, timeout=LARVAL - 2 * 86400))
        change_roles(two, two.a, two.b)
        assert there(two.b, t.CLIENT4).status & c.FIXED_TIMEOUT
        two.b.engine.sweep({0: {0: 600}, GRE: {0: 1, 1: 1}})

        def idle_one_ended() -> bool:
            assert live.exchange() == (True, True)
            return entry_of(two.b, t.SNAT_CLIENT4) is None

        until(idle_one_ended, 8, "the end of an idle tunnel", interval=0.1)

        # Nor does it run out: it had used up two days, and is replaced by a new one.
        def anew() -> bool:
            live.exchange()
            entry = entry_of(two.b, t.CLIENT4)
            return entry is not None and entry.timeout > LARVAL - LARVAL_SLACK

        until(anew, 3, "a new one in its place")
        until(lambda: entry_of(two.a, t.SNAT_CLIENT4) is None, 3, "the peer to be told")
        there(two.a, t.CLIENT4)
        until(lambda: entry_of(two.b, t.CLIENT4) is None, 8, "the end of the other one")
        until(lambda: entry_of(two.a, t.CLIENT4) is None, 3, "the peer to be told")
        assert two.b.stats["sweep.reaped"] == 2


def test_gre_made_by_packets_becomes_a_larva_and_ceases_to_be_one(two: Pair) -> None:
    """The kernel keeps GRE's timeouts in the entries that it made itself: these need no
    fixed one when their node steps down, and get the natural one back."""
    with RawPair(two.lab) as raw:
        live, idle = Gre(raw, t.CLIENT4, 1), Gre(raw, t.SNAT_CLIENT4, 2)
        for flow in (live, idle):
            flow.open()
        equal(two)
        assert there(two.a, t.CLIENT4).timeout <= 180
        change_roles(two, two.a, two.b)
        for source in (t.CLIENT4, t.SNAT_CLIENT4):
            entry = there(two.a, source)
            assert entry.timeout > LARVAL - LARVAL_SLACK
            assert not entry.status & c.FIXED_TIMEOUT
        assert live.exchange() == (True, True)
        change_roles(two, two.b, two.a)
        assert live.exchange() == (True, True)
        assert 0 < there(two.a, t.CLIENT4).timeout <= 180
        two.a.engine.sweep({0: {0: 600}, GRE: {0: 30, 1: 170}})
        until(lambda: there(two.a, t.SNAT_CLIENT4).timeout <= 170, 5, "the sweep")
        assert live.exchange() == (True, True)


def test_a_gre_larva_that_has_used_up_a_day_is_renewed(two: Pair) -> None:
    """On a passive node, by the next comparison; or the peer's tunnel would one day run
    out under it."""
    entry = make("gre", 4, "snat", "10.71.0.31")
    two.lab.fw1.ct.create(replace(entry, mark=5))
    equal(two)
    before = two.lab.fw2.ct.get(entry.orig)
    assert before is not None
    two.lab.fw2.ct.delete(entry)
    two.lab.fw2.ct.create(replace(before, timeout=LARVAL - 2 * 86400))
    found = verify(two.b)
    assert counts(found) == (0, 0, 0, 0)
    equal(two)
    after = two.lab.fw2.ct.get(entry.orig)
    assert after is not None
    assert after.timeout > LARVAL - LARVAL_SLACK
    assert after.identity() == before.identity()


@dataclass(frozen=True)
class Life:
    """One state of one protocol.

    Args:
        made: the packets that bring it there (`by_hand.say`).
        meant: the sysctl that says how long the kernel of the node that takes over lets
            it be, behind "nf_conntrack_".
        first: the first packets after the swap, until the kernel takes notice.
        then: the sysctl that holds after it, if it is another one.
        state: TCP's or SCTP's.
    """

    name: str
    kind: type[RawFlow]
    made: str
    meant: str
    first: str
    then: str = ""
    state: str = ""


OPEN = "c:S s:SA c:A"
LIVES = (
    # Half-open is one state for a larva, which neither the SYN nor its answer changes.
    Life("tcp", Tcp, "c:S", "tcp_timeout_syn_recv", "s:SA c:A", "tcp_timeout_established",
         "SYN_SENT"),
    Life("tcp", Tcp, "c:S", "tcp_timeout_syn_recv", "c:S* s:SA", state="SYN_SENT"),
    Life("tcp", Tcp, "c:S s:S", "tcp_timeout_syn_recv", "c:SA*", state="SYN_SENT2"),
    Life("tcp", Tcp, "c:S s:SA", "tcp_timeout_syn_recv", "c:A", "tcp_timeout_established",
         "SYN_RECV"),
    Life("tcp", Tcp, OPEN, "tcp_timeout_established", "s:A", state="ESTABLISHED"),
    # All closing states are one for a larva.
    Life("tcp", Tcp, f"{OPEN} c:FA", "tcp_timeout_time_wait", "s:A", state="FIN_WAIT"),
    Life("tcp", Tcp, f"{OPEN} c:FA s:A", "tcp_timeout_time_wait", "s:A", state="CLOSE_WAIT"),
    Life("tcp", Tcp, f"{OPEN} c:FA s:A s:FA", "tcp_timeout_time_wait", "s:FA*", state="LAST_ACK"),
    Life("tcp", Tcp, f"{OPEN} c:FA s:A s:FA c:A", "tcp_timeout_time_wait", "c:A",
         state="TIME_WAIT"),
    Life("tcp", Tcp, f"{OPEN} s:RA", "tcp_timeout_close", "s:A", state="CLOSE"),
    Life("udp, one way", Udp, "c", "udp_timeout", "c"),
    # A larva does not remember for how long it has been answered.
    Life("udp, answered", Udp, "c s", "udp_timeout", "s", "udp_timeout_stream"),
    Life("udp, a stream", Udp, "c s stream", "udp_timeout_stream", "c"),
    Life("udplite, one way", UdpLite, "c", "udp_timeout", "c"),
    Life("udplite, answered", UdpLite, "c s", "udp_timeout", "s", "udp_timeout_stream"),
    Life("udplite, a stream", UdpLite, "c s c", "udp_timeout_stream", "s"),
    Life("icmp", Ping, "c s", "icmp_timeout", "s"),
    Life("icmpv6", Ping6, "c s", "icmpv6_timeout", "c"),
    # Nor does an INIT.
    Life("sctp", Sctp, "init", "sctp_timeout_closed", "init_ack", "sctp_timeout_cookie_wait",
         "CLOSED"),
    Life("sctp", Sctp, "init init_ack", "sctp_timeout_cookie_wait", "init_ack",
         state="COOKIE_WAIT"),
    Life("sctp", Sctp, "open", "sctp_timeout_established", "s", state="ESTABLISHED"),
    Life("esp", Esp, "c s", "generic_timeout", "s"),
    Life("ah", Ah, "c s", "generic_timeout", "c"),
    Life("another", Other, "c s", "generic_timeout", "s"),
)  # fmt: skip


def life_of(side: Side, flow: RawFlow) -> Entry:
    def this(e: Entry) -> bool:
        port = getattr(flow, "sport", None)
        icmp = e.orig.icmp is None or e.orig.icmp[0] == 0x4000 + flow.seed
        return (
            (e.orig.proto, e.orig.src) == (flow.protocol, flow.source)
            and port in (None, e.orig.sport)
            and icmp
        )

    (entry,) = side.node.conntrack(this).values()
    return entry


def age_streams(two: Pair, flows: list[RawFlow]) -> None:
    """UDP is a stream when it is still answered two seconds after its first packet."""

    def assured() -> bool:
        for flow in flows:
            say(flow, "s")
        return all(life_of(two.a, flow).status & c.ASSURED for flow in flows)

    until(assured, 5, "streams", interval=0.2)


def test_timeouts_after_a_swap_protocol_by_protocol(two: Pair) -> None:
    """Every state of every protocol: kept while passive, neither ageing nor used; the
    first packet after the swap puts the kernel's own timeout back; the sweep gives the
    same to what sees no packet.  (GRE: above.)"""
    lab = two.lab
    names = sorted({name for life in LIVES for name in (life.meant, life.then) if name})
    # Each its own on the node that takes over, so that none is mistaken for another, and
    # with room for the time that this takes on a busy machine.
    room = 150
    seconds = {name: 1000 + 2 * room * i for i, name in enumerate(names)}
    for name in (
        *names,
        *(f"tcp_timeout_{s}" for s in ("syn_sent", "fin_wait", "close_wait", "last_ack")),
    ):
        lab.fw1.sysctl(f"net.netfilter.nf_conntrack_{name}=600")
    for name in names:
        lab.fw2.sysctl(f"net.netfilter.nf_conntrack_{name}={seconds[name]}")
    for node in lab.fw:
        # What waits for an acknowledgement would be cut to these.
        for name in ("tcp_timeout_unacknowledged", "tcp_timeout_max_retrans"):
            node.sysctl(f"net.netfilter.nf_conntrack_{name}=9999")
    with by_hand(lab) as raw:
        flows = []
        for i, life in enumerate(LIVES):
            v6 = life.kind is Ping6
            used = life.kind(raw, t.CLIENT6 if v6 else t.CLIENT4, i)
            idle = life.kind(raw, t.SNAT_CLIENT6 if v6 else t.SNAT_CLIENT4, 100 + i)
            for flow in (used, idle):
                say(flow, *(step for step in life.made.split() if step != "stream"))
            flows.append((life, used, idle))
        age_streams(
            two, [f for life, *both in flows if "stream" in life.made.split() for f in both]
        )
        for life, *both in flows:
            for flow in both:
                entry = life_of(two.a, flow)
                state = entry.tcp or entry.sctp
                assert life.state in ("", state and state.state), entry
                assert 540 <= entry.timeout <= 600, "the active node's own"
        equal(two)
        for entry in replicable(two.b).values():
            assert entry.timeout > LARVAL - LARVAL_SLACK, "it may not run out"
            assert entry.counters_orig == entry.counters_reply == (0, 0), "nobody used it"

        swap(two)
        for life, used, idle in flows:
            say(used, *life.first.split())
            meant = seconds[life.then or life.meant]
            assert meant - room <= life_of(two.b, used).timeout <= meant, life
            assert life_of(two.b, idle).timeout > LARVAL - LARVAL_SLACK, life
        two.b.engine.sweep(two.b.node.call(natural_timeouts))
        (done,) = until(lambda: two.b.seen("sweep.done"), 5, detail=two.report)
        assert done["entries"] == len(LIVES)
        for life, used, idle in flows:
            meant, then = seconds[life.meant], seconds[life.then or life.meant]
            assert meant - room <= life_of(two.b, idle).timeout <= meant, life
            assert then - room <= life_of(two.b, used).timeout <= then, life
        assert lab.fw2.counters()["invalid"] == 0
