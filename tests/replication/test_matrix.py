"""An entry on the active kernel is an entry of the passive kernel, attribute by
attribute, from its birth to its end: every protocol in every form of translation.

The entries are made by a foreign ctnetlink socket, which can make what no packet of
a small lab would.  What real packets make is in test_packets.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hak2k.lab import Entry
from hak2k.lab import ctnl as c
from hak2k.lab.ctnl import Sctp, SeqAdj, Synproxy, Tcp
from tests.pair import Pair
from tests.replication.entries import DCCP, Case, cases, make
from tests.replication.tables import arrives, carried, equal, faults, leaves

ALL_LABELS = (1 << 128) - 1


@pytest.fixture(autouse=True)
def clean(shared: Pair) -> Iterator[None]:
    """What a test leaves is gone from both kernels before the next one."""
    yield
    shared.a.node.ct.flush()
    shared.fence()


def born(two: Pair, entry: Entry) -> Entry:
    """Create on the active kernel; it must be there as meant, and on the passive."""
    two.a.node.ct.create(entry)
    here = arrives(two, entry)
    if entry.orig.proto != DCCP:  # without ports where the kernel has no tracker
        assert carried(here) == carried(entry)
    return here


@pytest.mark.parametrize("case", cases(), ids=str)
def test_life_of_an_entry(shared: Pair, case: Case) -> None:
    here = born(shared, case.entry())
    ct = shared.a.node.ct

    changed = replace(
        here,
        mark=0x0BADCAFE & ~0x100,
        labels=1 << 127 | 1 << 3,
        status=here.status | c.SEEN_REPLY | c.ASSURED,
        timeout=300,
    )
    if here.tcp:
        changed = replace(changed, tcp=replace(here.tcp, state="CLOSE_WAIT"))
    if here.sctp:
        changed = replace(changed, sctp=replace(here.sctp, state="SHUTDOWN_SENT"))
    ct.update(changed)
    assert carried(arrives(shared, here)) == carried(changed)

    # To nothing again: "no mark" must not be taken for "no news of the mark".
    ct.change(here, mark=0)
    assert arrives(shared, here).mark == 0

    ct.delete(here)
    leaves(shared, here)


# -- what single protocols have ------------------------------------------------


@pytest.mark.parametrize("state", c.TCP_STATES)
def test_tcp_states(shared: Pair, state: str) -> None:
    """Born in a state, and come to it from a handshake."""
    number = c.TCP_STATES.index(state)
    flags = (c.TCP_WINDOW_SCALE | c.TCP_CLOSE_INIT, c.TCP_WINDOW_SCALE | c.TCP_SACK_PERM)
    entry = make("tcp", 4, "masquerade-port", f"10.71.20.{number + 1}")
    here = born(shared, replace(entry, tcp=Tcp(state, (14, 1), flags)))
    shared.a.node.ct.delete(here)
    leaves(shared, here)

    unreplied = entry.status & ~(c.SEEN_REPLY | c.ASSURED)
    here = born(shared, replace(entry, tcp=Tcp("SYN_SENT"), status=unreplied))
    for later in ("SYN_RECV", "ESTABLISHED", state):
        here = replace(here, tcp=Tcp(later, (14, 1), flags), status=entry.status)
        shared.a.node.ct.update(here)
        assert carried(arrives(shared, here)) == carried(here)
    shared.a.node.ct.delete(here)
    leaves(shared, here)


@pytest.mark.parametrize("bits", range(8))
def test_tcp_flags_are_told_one_by_one(shared: Pair, bits: int) -> None:
    """Scaling, SACK and who closed; what this kernel saw itself is not told."""
    entry = make("tcp", 4, "plain", f"10.71.21.{bits + 1}")
    seen = c.TCP_DATA_UNACK | c.TCP_MAXACK_SET
    entry = replace(entry, tcp=Tcp("ESTABLISHED", (0, 0), (bits | seen, 7 - bits | seen)))
    shared.a.node.ct.create(entry)
    arrives(shared, entry)
    copy = shared.b.node.ct.get(entry.orig)
    assert copy is not None
    assert copy.tcp is not None
    assert copy.tcp.flags == (bits | c.TCP_BE_LIBERAL, 7 - bits | c.TCP_BE_LIBERAL)
    shared.a.node.ct.delete(entry)


@pytest.mark.parametrize("scale", [(0, 0), (14, 14), (0, 9), (3, 0)])
def test_tcp_window_scale(shared: Pair, scale: tuple[int, int]) -> None:
    entry = make("tcp", 6, "snat", f"fd71::22:{scale[0]:x}:{scale[1]:x}")
    flags = (c.TCP_WINDOW_SCALE, c.TCP_WINDOW_SCALE)
    here = born(shared, replace(entry, tcp=Tcp("ESTABLISHED", scale, flags)))
    assert here.tcp is not None
    assert here.tcp.wscale == scale
    shared.a.node.ct.delete(entry)


@pytest.mark.parametrize("state", c.SCTP_STATES)
@pytest.mark.parametrize("form", ["plain", "both-ports"])
def test_sctp_states_and_tags(shared: Pair, state: str, form: str) -> None:
    number = c.SCTP_STATES.index(state)
    entry = make("sctp", 4, form, f"10.71.23.{len(form) * 10 + number}")
    here = born(shared, replace(entry, sctp=Sctp(state, (0xFFFFFFFF, 1))))
    # A new association in the place of the old one: other tags.
    later = replace(here, sctp=Sctp("COOKIE_ECHOED", (0, 0x80000000)))
    shared.a.node.ct.update(later)
    assert carried(arrives(shared, here)) == carried(later)
    shared.a.node.ct.delete(here)
    leaves(shared, here)


@pytest.mark.parametrize("keys", [(0, 0), (0xFFFF, 1), (0, 0x8000)])
@pytest.mark.parametrize("form", ["plain", "snat", "dnat"])
def test_gre_keys(shared: Pair, keys: tuple[int, int], form: str) -> None:
    entry = make("gre", 4, form, "10.71.24.1")
    orig = replace(entry.orig, sport=keys[0], dport=keys[1])
    reply = replace(entry.reply, sport=keys[1], dport=keys[0])
    here = born(shared, replace(entry, orig=orig, reply=reply))
    shared.a.node.ct.delete(here)
    leaves(shared, here)


def test_gre_keys_that_are_not_each_others_inverse(shared: Pair) -> None:
    """As PPTP's tunnels have them: each direction bears the call id of its target."""
    entry = make("gre", 4, "plain", "10.71.24.2")
    reply = replace(entry.reply, sport=0x5566, dport=0x7788)
    here = born(shared, replace(entry, reply=reply))
    shared.a.node.ct.delete(here)
    leaves(shared, here)


@pytest.mark.parametrize(
    ("family", "kind"), [(4, k) for k in (8, 13, 15, 17)] + [(6, k) for k in (128, 139)]
)
def test_icmp_types(shared: Pair, family: int, kind: int) -> None:
    client = "10.71.25.1" if family == 4 else "fd71::25:1"
    entry = make("icmp", family, "masquerade-port", client)
    assert entry.orig.icmp is not None
    orig = replace(entry.orig, icmp=(7, kind, 0))
    answer = orig.inverse().icmp
    assert answer is not None
    reply = replace(entry.reply, icmp=(8, *answer[1:]))
    here = born(shared, replace(entry, orig=orig, reply=reply))
    shared.a.node.ct.delete(here)
    leaves(shared, here)


# -- what every protocol may have ------------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp", "sctp", "gre", "esp"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("form", ["plain", "snat", "dnat"])
def test_zones(shared: Pair, protocol: str, family: int, form: str) -> None:
    """One tuple in no zone, in zones of both directions, and of one direction."""
    base = make(protocol, family, form, "10.71.26.1" if family == 4 else "fd71::26:1")
    entries = [base, replace(base, zone=1), replace(base, zone=0xFFFF)]
    for entry in entries:
        born(shared, entry)
    # Where one direction has the zone, the other is in none, like `base`.
    shared.a.node.ct.delete(base)
    leaves(shared, base)
    entries[0] = replace(base, orig=replace(base.orig, zone=2))
    entries.append(replace(base, reply=replace(base.reply, zone=3)))
    born(shared, entries[0])
    born(shared, entries[-1])
    for n, entry in enumerate(entries):
        shared.a.node.ct.change(entry, mark=n + 1)
        assert arrives(shared, entry).mark == n + 1
    equal(shared)
    for entry in entries:
        shared.a.node.ct.delete(entry)
        leaves(shared, entry)
    equal(shared)


@pytest.mark.parametrize("mark", [1, 0x80000000, 0xFFFFFEFF])
def test_marks(shared: Pair, mark: int) -> None:
    entry = make("udp", 4, "snat-port", "10.71.27.1")
    here = born(shared, replace(entry, mark=mark))
    for value in (0, mark ^ 0xFF, 0, mark):
        shared.a.node.ct.change(here, mark=value)
        assert arrives(shared, here).mark == value
    shared.a.node.ct.delete(here)
    leaves(shared, here)


@pytest.mark.parametrize("labels", [1, 1 << 127, 1 << 63 | 1 << 64, ALL_LABELS])
def test_labels(shared: Pair, labels: int) -> None:
    entry = make("udp", 6, "plain", "fd71::28:1")
    here = born(shared, replace(entry, labels=labels))
    for value in (labels ^ (1 << 9), labels, 1 << 17):
        shared.a.node.ct.change(here, labels=value)
        assert arrives(shared, here).labels == value
    shared.a.node.ct.delete(here)
    leaves(shared, here)


def test_status_grows(shared: Pair) -> None:
    here = born(shared, replace(make("udp", 4, "plain", "10.71.29.1"), status=c.CONFIRMED))
    for bit in (c.SEEN_REPLY, c.ASSURED):
        here = replace(here, status=here.status | bit)
        shared.a.node.ct.change(here, status=here.status)
        assert arrives(shared, here).status & bit
    shared.a.node.ct.delete(here)


HELPERS = {
    "ftp": ("tcp", 21),
    "irc": ("tcp", 6667),
    "sane": ("tcp", 6566),
    "pptp": ("tcp", 1723),
    "tftp": ("udp", 69),
    "amanda": ("udp", 10080),
    "sip": ("udp", 5060),
    "snmp": ("udp", 161),
    "netbios-ns": ("udp", 137),
}


@pytest.mark.parametrize("name", HELPERS)
def test_helpers(shared: Pair, name: str) -> None:
    protocol, port = HELPERS[name]
    entry = make(protocol, 4, "masquerade-port", "10.71.30.1")
    orig = replace(entry.orig, dport=port)
    reply = replace(entry.reply, sport=port)
    status = entry.status | c.HELPER
    here = born(shared, replace(entry, orig=orig, reply=reply, status=status, helper=name))
    assert here.helper == name
    shared.a.node.ct.change(here, mark=5)
    arrives(shared, here)
    shared.a.node.ct.delete(here)
    leaves(shared, here)


def test_a_helper_unknown_to_the_passive_kernel_does_not_cost_the_connection(
    shared: Pair,
) -> None:
    """What a kernel without it says is also what it says to a wrong protocol."""
    entry = make("udp", 4, "plain", "10.71.30.2")
    shared.a.node.ct.create(replace(entry, helper="sip", status=entry.status | c.HELPER))
    arrives(shared, entry)
    shared.a.node.ct.delete(entry)


def test_children_name_their_master(shared: Pair) -> None:
    ct = shared.a.node.ct
    master = make("tcp", 4, "masquerade-port", "10.71.31.1")
    born(shared, master)
    child = replace(make("udp", 4, "plain", "10.71.31.2"), master=master.orig)
    ct.create(child)
    here = arrives(shared, child)
    assert here.master == master.orig
    assert here.status & c.EXPECTED
    grandchild = replace(make("icmp", 4, "plain", "10.71.31.3"), master=child.orig)
    ct.create(grandchild)
    assert arrives(shared, grandchild).master == child.orig
    ct.change(here, mark=77, status=here.status | c.ASSURED)
    arrives(shared, child)
    # A child outlives its master, and still knows its name.
    ct.delete(master)
    leaves(shared, master)
    ct.change(here, mark=78)
    assert arrives(shared, child).master == master.orig
    for entry in (grandchild, child):
        ct.delete(entry)
        leaves(shared, entry)


def test_children_in_a_zone(shared: Pair) -> None:
    ct = shared.a.node.ct
    master = replace(make("tcp", 6, "snat", "fd71::32:1"), zone=9)
    child = replace(make("tcp", 6, "plain", "fd71::32:2"), zone=9, master=master.orig)
    born(shared, master)
    ct.create(child)
    assert arrives(shared, child).master == master.orig
    ct.delete(child, master)
    leaves(shared, master)


@pytest.mark.parametrize("form", ["plain", "masquerade-port"])
def test_sequence_adjustments(shared: Pair, form: str) -> None:
    entry = make("tcp", 4, form, "10.71.33.1")
    there, back = SeqAdj(0xFFFFFFF0, -5, 12), SeqAdj(1, 0, -7)
    here = born(
        shared,
        replace(entry, seqadj_orig=there, seqadj_reply=back, status=entry.status | c.SEQ_ADJUST),
    )
    # ctnetlink tells no change of them; the next event of the entry brings them.
    moved = replace(here, seqadj_orig=SeqAdj(9, 12, 20), mark=3)
    shared.a.node.ct.update(moved)
    assert carried(arrives(shared, here)) == carried(moved)
    shared.a.node.ct.delete(here)
    leaves(shared, here)


def test_synproxy(shared: Pair) -> None:
    entry = make("tcp", 4, "plain", "10.71.34.1")
    here = born(shared, replace(entry, synproxy=Synproxy(0xDEADBEEF, 7, 0xFFFFFFFE)))
    assert here.synproxy == Synproxy(0xDEADBEEF, 7, 0xFFFFFFFE)
    shared.a.node.ct.delete(here)
    leaves(shared, here)


def test_all_of_it_at_once(shared: Pair) -> None:
    """The longest record there is: one entry with all that an entry may have."""
    master = make("tcp", 6, "plain", "fd71::35:1")
    born(shared, replace(master, zone=4))
    entry = make("tcp", 6, "both-ports", "fd71::35:2")
    whole = replace(
        entry,
        zone=4,
        mark=0xFFFFFEFF,
        labels=ALL_LABELS,
        helper="ftp",
        master=master.orig,
        seqadj_orig=SeqAdj(0xFFFFFFFF, -1, -2),
        seqadj_reply=SeqAdj(1, 2, 3),
        synproxy=Synproxy(1, 2, 3),
        status=entry.status | c.HELPER | c.EXPECTED | c.SEQ_ADJUST,
    )
    here = born(shared, whole)
    shared.a.node.ct.delete(replace(master, zone=4))
    shared.a.node.ct.delete(here)
    leaves(shared, here)


# -- sequences of events ---------------------------------------------------------


def test_a_port_is_used_again_at_once(shared: Pair) -> None:
    """Old and new connection with one tuple, in one batch."""
    ct = shared.a.node.ct
    first = make("tcp", 4, "masquerade-port", "10.71.36.1")
    reply = replace(first.reply, dport=first.reply.dport + 1 if first.reply.dport else 0)
    second = replace(first, reply=reply, tcp=Tcp("SYN_SENT"), status=c.CONFIRMED | c.SRC_NAT)
    for _ in range(20):
        ct.create(first)
        ct.delete(first)
        ct.create(second)
        ct.delete(second)
    ct.create(second)
    shared.fence()
    assert faults(ct.dump()[second.key], shared.b.node.ct.get(second.orig)) == []
    ct.delete(second)


def test_a_translated_port_changes_hands(shared: Pair) -> None:
    """The reply tuple of one connection becomes that of another."""
    ct = shared.a.node.ct
    one = make("udp", 4, "masquerade-port", "10.71.36.2")
    other = make("udp", 4, "masquerade-port", "10.71.36.3")
    assert one.reply == other.reply
    for _ in range(20):
        ct.create(one)
        ct.delete(one)
        ct.create(other)
        ct.delete(other)
    ct.create(one)
    shared.fence()
    equal(shared)
    assert shared.b.node.ct.get(one.orig) is not None
    ct.delete(one)


def test_thousands_at_once(shared: Pair) -> None:
    ct = shared.a.node.ct
    base = make("udp", 4, "plain", "10.71.37.1")
    many = [
        replace(base, orig=orig, reply=orig.inverse(), mark=n)
        for n in range(1, 3001)
        if not n & 0x100
        for orig in [replace(base.orig, sport=n)]
    ]
    ct.create(*many)
    equal(shared)
    for entry in many[::7]:
        ct.change(entry, mark=0x10000)
    ct.delete(*many[1::2])
    equal(shared)
    assert len(shared.b.node.conntrack()) == len(many[::2])
    ct.delete(*many[::2])
    shared.fence()
    equal(shared)


def test_nothing_went_wrong_on_the_way(shared: Pair) -> None:
    """The last one: what all the above left in the counters."""
    stats = shared.b.stats
    assert stats["apply.failed"] == 0, shared.report()
    assert stats["apply.full"] == 0
    assert shared.a.stats["capture.malformed"] == 0
    assert not shared.b.saw("apply.error")
    shared.fence()
    equal(shared)
