"""The oracle itself: what is written into the kernel is what is read back."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace

import pytest

from hak2k.lab import Lab, until
from hak2k.lab import ctnl as c
from hak2k.lab import topology as t
from hak2k.lab.ctnl import Conntrack, Entry, Expectation, Sctp, SeqAdj, Synproxy, Tcp, Tuple
from hak2k.lab.netlink import NetlinkError

TCP4 = Tuple("10.71.0.10", "10.72.0.10", 6, 1000, 2000)
LIBERAL = c.TCP_BE_LIBERAL | c.TCP_WINDOW_SCALE | c.TCP_SACK_PERM


def entry(orig: Tuple, **fields: object) -> Entry:
    base = Entry(orig, orig.inverse(), timeout=600, status=c.CONFIRMED | c.SEEN_REPLY)
    return replace(base, **fields)  # type: ignore[arg-type]


def natted(orig: Tuple, reply: Tuple, bits: int, **fields: object) -> Entry:
    status = c.CONFIRMED | c.SEEN_REPLY | c.ASSURED | bits
    return entry(orig, reply=reply, status=status, **fields)


ENTRIES = {
    "tcp": entry(TCP4, tcp=Tcp("ESTABLISHED", (7, 3), (LIBERAL, LIBERAL)), mark=0xDEADBEEF),
    "tcp-syn-sent": entry(TCP4, status=c.CONFIRMED, tcp=Tcp("SYN_SENT")),
    "tcp6": entry(
        Tuple("fd71::10", "fd72::10", 6, 1, 65535),
        status=c.CONFIRMED | c.SEEN_REPLY | c.ASSURED,
        tcp=Tcp("TIME_WAIT", (14, 0), (LIBERAL, LIBERAL)),
    ),
    "labels": entry(TCP4, tcp=Tcp("ESTABLISHED"), labels=1 << 127 | 1 << 64 | 1),
    "zone": entry(TCP4, tcp=Tcp("ESTABLISHED"), zone=77),
    "seqadj": entry(
        TCP4,
        tcp=Tcp("ESTABLISHED"),
        seqadj_orig=SeqAdj(123456789, -4, 3),
        seqadj_reply=SeqAdj(5, 6, 7),
    ),
    "synproxy": entry(TCP4, tcp=Tcp("ESTABLISHED"), synproxy=Synproxy(1, 2, 0xFFFFFFFF)),
    "helper": entry(
        replace(TCP4, dport=21),
        tcp=Tcp("ESTABLISHED"),
        helper="ftp",
        status=c.CONFIRMED | c.SEEN_REPLY | c.HELPER,
    ),
    "udp": entry(Tuple("10.71.0.10", "10.72.0.10", 17, 53, 53)),
    "udplite": entry(Tuple("10.71.0.10", "10.72.0.10", 136, 53, 53)),
    "icmp": entry(Tuple("10.71.0.10", "10.72.0.10", 1, icmp=(77, 8, 0))),
    "icmpv6": entry(Tuple("fd71::10", "fd72::10", 58, icmp=(77, 128, 0))),
    "esp": entry(Tuple("10.71.0.10", "10.72.0.10", 50)),
    "gre": entry(Tuple("10.71.0.10", "10.72.0.10", 47, 5, 6)),
    "sctp": entry(
        Tuple("fd71::10", "fd72::10", 132, 5, 6),
        sctp=Sctp("ESTABLISHED", (0x12345678, 0xFFFFFFFF)),
    ),
    "snat": natted(
        TCP4,
        Tuple("10.72.0.10", "10.72.0.1", 6, 2000, 40000),
        c.SRC_NAT,
        tcp=Tcp("ESTABLISHED"),
    ),
    "dnat": natted(
        Tuple("10.72.0.10", "10.72.0.1", 6, 1000, 8080),
        Tuple("10.71.0.10", "10.72.0.10", 6, 80, 1000),
        c.DST_NAT,
        tcp=Tcp("ESTABLISHED"),
    ),
    "both-nat": natted(
        Tuple("10.71.0.10", "10.72.0.99", 17, 1000, 53),
        Tuple("10.72.0.10", "10.72.0.1", 17, 5353, 40000),
        c.SRC_NAT | c.DST_NAT,
    ),
    "icmp-snat": natted(
        Tuple("10.71.0.10", "10.72.0.10", 1, icmp=(77, 8, 0)),
        Tuple("10.72.0.10", "10.72.0.1", 1, icmp=(999, 0, 0)),
        c.SRC_NAT,
    ),
    "snat6": natted(
        Tuple("fd71::10", "fd72::10", 17, 1000, 53),
        Tuple("fd72::10", "fd72::77", 17, 53, 1000),
        c.SRC_NAT,
    ),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_comes_back_as_it_was_created(lab: Lab, name: str) -> None:
    wanted = ENTRIES[name]
    lab.fw1.ct.create(wanted)
    found = lab.fw1.conntrack()
    assert list(found) == [wanted.key]
    got = found[wanted.key]
    assert 590 <= got.timeout <= 600
    # The kernel adds that it has looked for translations, but only if told of one.
    done = c.SRC_NAT_DONE | c.DST_NAT_DONE if wanted.natted else 0
    expected = replace(wanted, timeout=got.timeout, status=wanted.status | done)
    if wanted.seqadj_orig is not None:
        expected = replace(expected, status=expected.status | got.status & c.SEQ_ADJUST)
    if wanted.helper:
        got = replace(got, help_info=b"")
    assert got == expected
    by_tuple = lab.fw1.ct.get(wanted.orig, wanted.zone)
    assert by_tuple is not None
    assert by_tuple.identity() == found[wanted.key].identity()
    lab.fw1.ct.delete(wanted)
    assert lab.fw1.ct.get(wanted.orig, wanted.zone) is None


def test_update_and_change(lab: Lab) -> None:
    ct = lab.fw1.ct
    first = ENTRIES["tcp"]
    ct.create(first)
    got = ct.dump()[first.key]
    ct.update(replace(got, tcp=Tcp("CLOSE_WAIT", (7, 3), (0, 0)), mark=5, timeout=30))
    got = ct.dump()[first.key]
    assert got.tcp is not None
    assert (got.tcp.state, got.tcp.flags[0], got.mark) == ("CLOSE_WAIT", 0, 5)
    assert 25 <= got.timeout <= 30
    ct.change(got, mark=9)
    assert ct.dump()[first.key].mark == 9


def test_refusals_carry_the_errno(lab: Lab) -> None:
    ct = lab.fw1.ct
    ct.create(ENTRIES["udp"])
    with pytest.raises(NetlinkError) as caught:
        ct.create(ENTRIES["udp"])
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(NetlinkError) as caught:
        ct.delete(ENTRIES["esp"])
    assert caught.value.errno == errno.ENOENT


def test_a_batch_goes_on_after_a_refusal(lab: Lab) -> None:
    ct = lab.fw1.ct
    many = [entry(Tuple("10.71.0.10", "10.72.0.10", 17, i, 53)) for i in range(1, 1001)]
    ct.create(many[500])
    with pytest.raises(NetlinkError):
        ct.create(*many[400:600])
    ct.create(*many[:400], *many[600:])
    assert len(lab.fw1.conntrack()) == 1000
    assert ct.count() >= 1000
    ct.flush()
    assert ct.count() < 10  # the firewall's own multicast may be back already


def test_expectation_round_trip(lab: Lab) -> None:
    ct = lab.fw1.ct
    master = ENTRIES["helper"]
    ct.create(master)
    full = 0xFFFF
    wanted = Expectation(
        master=master.orig,
        expected=Tuple("10.72.0.10", "10.72.0.1", 6, 0, 3456),
        mask=Tuple("255.255.255.255", "255.255.255.255", 6, 0, full),
        nat=(1, Tuple("10.71.0.10", "10.72.0.10", 6, 0, 6543)),
        function="nat-follow-master",
    )
    ct.expect(wanted)
    (got,) = ct.expectations()
    assert got.timeout > 0
    assert got.nat is not None
    assert got.nat[0] == 1
    assert (got.nat[1].src, got.nat[1].sport) == ("10.71.0.10", 0)
    for name, value in wanted.identity().items():
        if name != "nat":
            assert got.identity()[name] == value, name
    ct.unexpect(got)
    assert ct.expectations() == []


def test_child_needs_its_master(lab: Lab) -> None:
    ct = lab.fw1.ct
    child = entry(
        Tuple("10.72.0.10", "10.71.0.10", 6, 20, 3456), tcp=Tcp("ESTABLISHED"), master=TCP4
    )
    with pytest.raises(NetlinkError) as caught:
        ct.create(child)
    assert caught.value.errno == errno.ENOENT
    ct.create(ENTRIES["tcp"])
    ct.create(child)
    got = ct.dump()[child.key]
    assert got.master == TCP4
    assert got.status & c.EXPECTED


def test_events_tell_who_did_it(lab: Lab) -> None:
    with lab.fw1.events() as events:
        ct = lab.fw1.ct
        ct.create(ENTRIES["udp"])
        ct.change(ENTRIES["udp"], mark=3)
        ct.delete(ENTRIES["udp"])
        seen: list[c.Event] = []

        def three() -> bool:
            seen.extend(events.read())
            return len(seen) >= 3

        until(three, 2, "three events")
    assert [event.kind for event in seen] == ["new", "update", "destroy"]
    assert {event.portid for event in seen} == {ct.portid}
    assert seen[1].entry is not None
    assert seen[1].entry.mark == 3


def test_differences_name_the_field(lab: Lab) -> None:
    lab.fw1.ct.create(ENTRIES["tcp"], ENTRIES["udp"])
    lab.fw2.ct.create(replace(ENTRIES["tcp"], mark=1), ENTRIES["esp"])
    lines = c.differences(lab.fw1.conntrack(), lab.fw2.conntrack())
    assert len(lines) == 3
    assert any("mark" in line for line in lines)
    lab.fw2.ct.flush()
    strict = (c.TCP_WINDOW_SCALE, c.TCP_WINDOW_SCALE)
    lab.fw2.ct.create(
        ENTRIES["udp"], replace(ENTRIES["tcp"], tcp=Tcp("ESTABLISHED", (7, 3), strict))
    )
    # Window checking flags may differ on a standby.
    assert c.differences(lab.fw1.conntrack(), lab.fw2.conntrack()) == []


def test_real_connection_is_decoded(lab: Lab) -> None:
    with (
        lab.server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.bind((t.SERVER4, t.LABEL_PORT))
        listener.listen()
        client.bind((t.CLIENT4, 0))
        client.connect((t.SERVER4, t.LABEL_PORT))
        (found,) = lab.fw1.conntrack().values()
        assert found.orig == Tuple(t.CLIENT4, t.SERVER4, 6, client.getsockname()[1], t.LABEL_PORT)
        assert found.reply == found.orig.inverse()
        assert found.labels == 1 << t.LABEL
        assert found.tcp is not None
        assert found.tcp.state == "ESTABLISHED"
        assert found.status & c.ASSURED
        assert found.counters_orig is not None
        assert found.counters_orig[0] >= 2


def test_standalone_in_the_calling_thread(lab: Lab) -> None:
    with lab.fw2.enter(), Conntrack() as ct:
        ct.create(ENTRIES["udp"])
    assert list(lab.fw2.conntrack()) == [ENTRIES["udp"].key]
    assert lab.fw1.conntrack() == {}
