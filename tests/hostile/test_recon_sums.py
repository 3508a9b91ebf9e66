"""What is newer in the comparison, with a peer that is wrong: brief sums, and a copy that is
its own proof."""

from __future__ import annotations

import struct

import pytest

from hak2k.lab import until
from tests.hostile.bench import Bench
from tests.hostile.k2k import (
    FLOW_DESTROY,
    FLOW_SYNC,
    RECON_ASK_BRIEF,
    RECON_BEGIN,
    RECON_BRIEF,
    RECON_CLOSE,
    RECON_CLOSE_WANT,
    RECON_LISTED,
    RECON_MARK,
    RECON_SUMS,
    RECON_WANT,
    SYNC_BEGIN,
    SYNC_END,
    SYNC_WANT,
    recon,
    recon_ask,
    recon_brief,
    recon_sums,
    record,
    sync_want,
    udp,
)
from tests.hostile.test_recon import ENTRIES, Asker, Teller, flows, ports, questions, sync


def test_brief_answers_in_any_order_but_the_right_one(bench: Bench) -> None:
    """Of nodes that were asked for, in their order; where none of the children differs, the
    sums were too brief to show which one does, and all are looked into."""
    asker, peer = Asker(bench), bench.peer
    number = asker.wants()
    peer.data(recon(RECON_BEGIN, number, 0, 12, brief=True), recon(RECON_LISTED, number, ENTRIES))
    asker.asks(RECON_CLOSE_WANT)
    peer.data(recon(RECON_CLOSE, number))
    asker.wrong(number, RECON_SUMS)
    peer.data(recon_brief(number, 8, 0, [1] * 16))  # not yet
    peer.data(recon_sums(number, 12, 0, [1]))
    body = asker.asks(RECON_ASK_BRIEF)
    assert body == struct.pack(">IBI", number, 12, 0)
    with bench.expect():
        for other in (number - 1, number + 1):
            peer.data(recon_brief(other, 8, 0, [1] * 16))
        for shift in (4, 0):
            peer.data(recon_brief(number, shift, 0, [1] * 16))
        peer.data(recon_brief(number, 8, 1, [1] * 16))
    asker.still_asks(RECON_ASK_BRIEF, body)
    peer.data(recon_brief(number, 8, 0, [0xABCD] * 16))
    body = asker.asks(RECON_ASK_BRIEF)
    assert body == struct.pack(">IB16I", number, 8, *range(16))
    peer.data(recon_brief(number, 4, 0, [0xABCD] * 32))  # of two nodes
    with bench.expect():
        for first in (0, 1, 3, 15):
            peer.data(recon_brief(number, 4, first, [1] * 16))
    asker.still_asks(RECON_ASK_BRIEF, body)
    peer.data(recon_brief(number, 4, 2, [0xABCD1234] * 16 * 20, 4))  # more than were asked for
    body = asker.asks(RECON_ASK_BRIEF)
    assert body == struct.pack(">IB256I", number, 4, *range(256))
    for node in range(256):
        peer.data(recon_brief(number, 0, node, [0xEE] * 16, 1 + node % 2))
    marked = asker.asks(RECON_MARK)
    assert struct.unpack(">IIIH", marked[:14]) == (number, 0, 0, 0xFFFF)
    assert ports(bench) == set(range(ENTRIES))
    assert not bench.side.engine.stream()["synced"]


def test_brief_answers_that_show_no_difference(bench: Bench) -> None:
    asker, peer = Asker(bench), bench.peer
    peer.data(*[udp(FLOW_DESTROY, n) for n in range(ENTRIES)])
    until(lambda: not ports(bench), 2, "an empty table")
    number = asker.wants()
    peer.data(recon(RECON_BEGIN, number, 0, 12, brief=True), recon(RECON_LISTED, number, ENTRIES))
    asker.asks(RECON_CLOSE_WANT)
    peer.data(recon(RECON_CLOSE, number), recon_sums(number, 12, 0, [1 << 63]))
    for shift, nodes in ((12, 1), (8, 16), (4, 256)):
        body = asker.asks(RECON_ASK_BRIEF)
        assert body == struct.pack(f">IB{nodes}I", number, shift, *range(nodes))
        for node in range(nodes):
            peer.data(recon_brief(number, shift - 4, node, [0] * 16))
    assert asker.asks(RECON_MARK)[8:14] == struct.pack(">IH", 0, 0xFFFF)


def test_a_copy_that_is_its_own_proof(bench: Bench) -> None:
    """What our kernel took of it is compared with what the peer says that it sent, and only
    if the sums are of the round that was asked for."""
    asker, peer = Asker(bench), bench.peer
    number = asker.wants()
    peer.data(recon(RECON_BEGIN, number, 1, 0))
    generation, of, sums_of = struct.unpack(">III", asker.asks(SYNC_WANT))
    assert (of, sums_of) == (0, number)
    peer.data(record(SYNC_BEGIN, struct.pack(">IIB", generation, number, 12)))
    peer.data(udp(FLOW_SYNC, 9), sync(SYNC_END, generation, 1))
    body = asker.asks(RECON_CLOSE_WANT)
    assert ports(bench) == {9}
    asker.wrong(number, RECON_CLOSE)
    asker.still_asks(RECON_CLOSE_WANT, body)
    peer.data(recon(RECON_CLOSE, number), recon_sums(number, 12, 0, [1]))
    assert asker.asks(RECON_ASK_BRIEF)[:5] == struct.pack(">IB", number, 12)
    assert not bench.side.engine.stream()["synced"]
    assert ports(bench) == {9}


@pytest.mark.parametrize("other", [0, 1, 17, 2**32 - 16])
def test_a_copy_with_sums_of_another_round(bench: Bench, other: int) -> None:
    """It is a copy, and proves nothing: the comparison begins anew."""
    asker, peer = Asker(bench), bench.peer
    number = asker.wants()
    peer.data(recon(RECON_BEGIN, number, 1, 0))
    generation = struct.unpack(">III", asker.asks(SYNC_WANT))[0]
    peer.data(record(SYNC_BEGIN, struct.pack(">IIB", generation, other, 12)))
    peer.data(udp(FLOW_SYNC, 9), sync(SYNC_END, generation, 1))
    assert asker.wants() == number + 16
    assert ports(bench) == {9}


def test_brief_sums_are_parts_of_the_others(active: Bench) -> None:
    """Other parts in each round, and only of nodes that there are."""
    teller, peer = Teller(active), active.peer
    flows(active, ENTRIES)
    peer.control(recon(RECON_WANT, 16, brief=True))
    assert teller.hear(RECON_LISTED)[0] == (RECON_BEGIN, struct.pack(">IIBB", 16, 0, 12, 1))
    teller.silent(recon_ask(16, 12, [0], RECON_ASK_BRIEF))
    peer.control(recon(RECON_CLOSE_WANT, 16))
    top = struct.unpack(">Q", teller.hear(RECON_SUMS)[-1][1][9:])[0]
    teller.silent(recon_ask(17, 12, [0], RECON_ASK_BRIEF))
    teller.silent(recon_ask(16, 12, [1], RECON_ASK_BRIEF))
    peer.control(recon_ask(16, 12, [0], RECON_ASK_BRIEF))
    brief = struct.unpack(">IBIB16I", teller.hear(RECON_BRIEF)[-1][1])
    assert brief[:4] == (16, 8, 0, 4)
    assert sum(brief[4:]) % 2**32 == top % 2**32
    # all that was clean and equal keeps its sum in the next round, though nobody looks at it
    peer.control(recon(RECON_WANT, 17))
    teller.hear(RECON_LISTED)
    peer.control(recon(RECON_CLOSE_WANT, 17))
    assert struct.unpack(">Q", teller.hear(RECON_SUMS)[-1][1][9:])[0] == top
    peer.control(recon_ask(17, 12, [0], RECON_ASK_BRIEF))
    other = struct.unpack(">IBIB16I", teller.hear(RECON_BRIEF)[-1][1])[4:]
    assert other != brief[4:]


def test_a_copy_that_is_summed_up(active: Bench) -> None:
    """As the round that was asked for, if it can be one; its sums are those of a round."""
    teller, peer = Teller(active), active.peer
    flows(active, ENTRIES)
    for n, number in enumerate((0, 1, 17, 2**32 - 1)):
        peer.control(sync_want(20 + n, 0, number))
        assert teller.hear(SYNC_END)[0] == (SYNC_BEGIN, struct.pack(">I", 20 + n))
        teller.silent(recon(RECON_CLOSE_WANT, number))
    peer.control(sync_want(30, 0, 32))
    assert teller.hear(SYNC_END)[0] == (SYNC_BEGIN, struct.pack(">IIB", 30, 32, 12))
    teller.silent(*questions(32), recon(RECON_CLOSE_WANT, 16))
    peer.control(recon(RECON_CLOSE_WANT, 32))
    copied = teller.hear(RECON_SUMS)[-1][1][9:]
    peer.control(recon(RECON_WANT, 33))
    assert teller.hear(RECON_LISTED)[0] == (RECON_BEGIN, struct.pack(">IIBB", 33, 0, 12, 1))
    teller.closed(33)
    peer.control(sync_want(31, 0, 33))  # not a first one
    assert teller.hear(SYNC_END)[0] == (SYNC_BEGIN, struct.pack(">I", 31))
    assert len(copied) == 8
    assert any(copied)
