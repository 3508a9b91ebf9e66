"""The comparison of the tables with a peer that has the key and is wrong, or means harm:
answers nobody asked for, questions in the wrong order, too many of them.

The right order is docs/wire-tables.md's; every step is tried with everything that does
not belong there first."""

from __future__ import annotations

import random
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hak2k.lab import Lab, until
from tests.hostile import k2k
from tests.hostile.bench import Bench
from tests.hostile.k2k import (
    ACTIVE,
    DATA,
    FLOW_NEW,
    FLOW_SYNC,
    FLOW_WANT,
    RECON_ASK,
    RECON_ASK_BRIEF,
    RECON_BEGIN,
    RECON_BRIEF,
    RECON_CLOSE,
    RECON_CLOSE_WANT,
    RECON_LISTED,
    RECON_MARK,
    RECON_MARKED,
    RECON_SUMS,
    RECON_WANT,
    SYNC_BEGIN,
    SYNC_END,
    SYNC_LOST,
    SYNC_WANT,
    VERIFY,
    Silence,
    ack,
    heartbeat,
    recon,
    recon_ask,
    recon_brief,
    recon_mark,
    recon_sums,
    record,
    records,
    status,
    sync_want,
    table,
    udp,
    verify,
)

ENTRIES = 3
ROUNDS = (RECON_BEGIN, RECON_LISTED, RECON_CLOSE, RECON_MARKED)


def sync(kind: int, generation: int, entries: int = 0) -> bytes:
    return record(kind, struct.pack(">IQ", generation, entries)[: 4 if kind == SYNC_BEGIN else 12])


def ports(bench: Bench) -> set[int]:
    return {e.orig.sport - 10000 for e in bench.side.node.conntrack().values()}


def memory_kb() -> int:
    """The most that this process, of which the engine is a part, ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- a passive engine, and an active peer ----------------------------------------


class Asker:
    """A passive engine that compares its table with that of a peer who says ACTIVE."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.peer.data(*[udp(FLOW_NEW, n) for n in range(ENTRIES)])
        until(lambda: len(ports(bench)) == ENTRIES, 2, "the connections")
        bench.mode = ACTIVE
        bench.fence()

    def asks(self, kind: int) -> bytes:
        """The next question of that type.  Others have no place before it."""
        deadline = time.monotonic() + k2k.LONG
        while True:
            payload = self.bench.peer.wait_payload(k2k.CONTROL, deadline - time.monotonic())[1]
            for found, body in records(payload):
                if found == kind:
                    return body

    def wants(self) -> int:
        """The number of the comparison that is asked for next."""
        return int(struct.unpack(">I", self.asks(RECON_WANT)[:4])[0])

    def still_asks(self, kind: int, body: bytes) -> None:
        """What was sent is refused: the same question comes twice more, and no other."""
        questions = {RECON_WANT, RECON_CLOSE_WANT, RECON_ASK, RECON_MARK, SYNC_WANT}
        questions.add(RECON_ASK_BRIEF)
        self.bench.fence()
        self.bench.peer.drain()
        seen = 0
        while seen < 2:
            for found, said in records(self.bench.peer.wait_payload(k2k.CONTROL)[1]):
                if found in questions:
                    assert (found, said) == (kind, body)
                    seen += 1

    def wrong(self, number: int, *right: int) -> None:
        """All that can be said of the comparison, but what is right in this round."""
        kinds = [kind for kind in ROUNDS if kind not in right]
        others = (0, number - 1, number + 1, number + 16, 2**32 - 1)
        say = [recon(kind, number, 1, 12) for kind in kinds]
        say += [recon(kind, other, 1, 12) for kind in ROUNDS for other in others]
        say += [recon_sums(other, 12, 0, [1]) for other in others]
        if RECON_SUMS not in right:
            say += [recon_sums(number, shift, 0, [1] * 16) for shift in (0, 4, 8)]
            say += [recon_sums(number, 12, 0, [1])]
        if SYNC_BEGIN not in right:
            say += [sync(SYNC_BEGIN, g) + sync(SYNC_END, g) for g in (0, 1, 2, 2**32 - 1)]
        with self.bench.expect():
            for part in say:
                self.bench.peer.data(part)


def test_answers_in_any_order_but_the_right_one(bench: Bench) -> None:
    """Through a whole comparison that finds all unequal.  Nothing is deleted, and each
    question stands until its own answer comes."""
    asker, peer = Asker(bench), bench.peer
    body = asker.asks(RECON_WANT)
    number, entries, _, brief = struct.unpack(">IIBB", body)
    assert brief == 1
    assert (number % 16, entries) == (0, ENTRIES)
    asker.wrong(number, RECON_BEGIN)
    asker.still_asks(RECON_WANT, body)

    peer.data(recon(RECON_BEGIN, number, 0, 12))
    asker.wrong(number, RECON_LISTED)
    peer.data(recon(RECON_LISTED, number, ENTRIES))
    body = asker.asks(RECON_CLOSE_WANT)
    asker.wrong(number, RECON_CLOSE)
    asker.still_asks(RECON_CLOSE_WANT, body)

    peer.data(recon(RECON_CLOSE, number))
    asker.wrong(number, RECON_SUMS)
    peer.data(
        recon_sums(number, 8, 0, [1] * 16),  # not yet
        recon_sums(number, 12, 1, [1]),  # the table has 2^12 slots, so one node
        recon_sums(number, 12, 0, [1, 2]),
        recon_sums(number, 12, 255, [1]),
    )
    peer.data(recon_sums(number, 12, 0, [1]))
    for shift, last in ((12, 0), (8, 15), (4, 255)):
        body = asker.asks(RECON_ASK)
        assert struct.unpack(">IB", body[:5]) == (number, shift)
        assert len(body) == 5 + 4 * (last + 1)
        below = shift - 4
        with bench.expect():
            peer.data(recon_sums(number, shift, 0, [1]))
            for other in {0, 4, 8} - {below}:
                peer.data(recon_sums(number, other, 0, [1] * 16))
            peer.data(recon_sums(number, below, 2 ** (12 - below), [1] * 16))  # beyond its end
            peer.data(recon_sums(number, below, 2 ** (12 - below) - 1, [1] * 16))
        asker.still_asks(RECON_ASK, body)
        for node in range(last + 1):
            peer.data(recon_sums(number, below, node * 16, [node + 1] * 16))

    chunks = -(-256 // 200)
    for chunk in range(chunks):
        body = asker.asks(RECON_MARK)
        assert struct.unpack(">II", body[:8]) == (number, chunk)
        asker.wrong(number, RECON_MARKED)
        with bench.expect():
            for noted in (chunk - 1, chunk, chunk + 2, 2**32 - 1):
                peer.data(recon(RECON_MARKED, number, noted % 2**32))
        asker.still_asks(RECON_MARK, body)
        peer.data(recon(RECON_MARKED, number, chunk + 1))

    body = asker.asks(SYNC_WANT)
    generation, of = struct.unpack(">II", body)
    assert of == number
    asker.wrong(number, SYNC_BEGIN)
    with bench.expect():
        peer.data(sync(SYNC_END, generation))  # of a copy that did not begin
        for other in (0, generation - 1, generation + 1):
            peer.data(sync(SYNC_BEGIN, other), sync(SYNC_END, other))
    asker.still_asks(SYNC_WANT, body)
    peer.data(sync(SYNC_BEGIN, generation), *[udp(FLOW_SYNC, n) for n in range(1, 5)])
    bench.fence()
    until(lambda: ports(bench) == set(range(5)), 2, "the copy so far")
    with bench.expect():
        for other in (0, generation - 1, generation + 1):
            peer.data(sync(SYNC_END, other))
    assert ports(bench) == set(range(5))
    # the one thing that removes: the end of the copy that was asked for, in the listing
    # that the next proof needs anyway
    peer.data(sync(SYNC_END, generation, 4))
    body = asker.asks(RECON_WANT)
    assert struct.unpack(">IIB", body[:9])[0] == number + 1
    peer.data(recon(RECON_BEGIN, number + 1, 0, 12), recon(RECON_LISTED, number + 1, ENTRIES))
    asker.asks(RECON_CLOSE_WANT)
    peer.data(recon(RECON_CLOSE, number + 1))
    until(lambda: ports(bench) == set(range(1, 5)), 2, "the removal")
    assert not bench.side.engine.stream()["synced"]


def differing_rounds(bench: Bench, slot_of: Callable[[int], int | None]) -> None:
    """Play the active node with an empty table of which, in the n-th round of the
    comparison, one slot differs; until a round in which none does, or a verdict."""
    asker, peer = Asker(bench), bench.peer
    body = asker.asks(RECON_WANT)
    first = struct.unpack(">IIB", body[:9])[0]
    number, slot = first, slot_of(0)

    def sums(shift: int, node: int, n: int) -> bytes:
        """Of that many nodes: 1 for the one that has the slot."""
        at = [slot is not None and slot >> shift == node + i for i in range(n)]
        return recon_sums(number, shift, node, [int(x) for x in at])

    peer.data(recon(RECON_BEGIN, number, 0, 12), recon(RECON_LISTED, number, 0))
    while slot is not None or number == first:
        for kind, body in records(peer.wait_payload(k2k.CONTROL)[1]):
            asked = int.from_bytes(body[:4], "big")
            if kind == RECON_CLOSE_WANT:
                peer.data(recon(RECON_CLOSE, number), sums(12, 0, 1))
            elif kind == RECON_ASK:
                shift = body[4]
                nodes = struct.unpack(f">{len(body) // 4 - 1}I", body[5:])
                peer.data(*[sums(shift - 4, node << 4, 16) for node in nodes])
            elif kind == RECON_MARK:
                chunk = struct.unpack(">I", body[4:8])[0]
                peer.data(recon(RECON_MARKED, number, chunk + 1))
            elif kind == SYNC_WANT:
                peer.data(sync(SYNC_BEGIN, asked), sync(SYNC_END, asked))
            elif kind == RECON_WANT and asked != number:
                if asked != number + 1:
                    return  # it begins anew
                number, slot = asked, slot_of(asked - first)
                peer.data(recon(RECON_BEGIN, number, 0, 12), recon(RECON_LISTED, number, 0))
        if bench.side.saw("recon.stuck"):
            return
    body = asker.asks(RECON_CLOSE_WANT)
    peer.data(recon(RECON_CLOSE, number), sums(12, 0, 1))


def test_each_repair_that_helps_is_followed_by_another(bench: Bench) -> None:
    """Under load a round finds what was dirty in the one before it.  However many
    repairs that takes, each of them helped."""
    differing_rounds(bench, lambda n: 100 * n if n < 8 else None)
    until(lambda: bench.side.engine.stream()["synced"], 3, "equal tables")
    assert not bench.side.saw("recon.stuck")


def test_repairs_that_do_not_help_are_given_up(bench: Bench) -> None:
    differing_rounds(bench, lambda n: 7)
    until(lambda: bench.side.saw("recon.stuck"), 3, "that it is told")
    assert not bench.side.engine.stream()["synced"]


def test_the_end_of_a_copy_twice(bench: Bench) -> None:
    """What came after the copy was not in it, and is no reason to go."""
    asker, peer = Asker(bench), bench.peer
    number = asker.wants()
    peer.data(recon(RECON_BEGIN, number, 1, 0))  # of another size: all of it
    generation = struct.unpack(">II", asker.asks(SYNC_WANT)[:8])[0]
    whole = [sync(SYNC_BEGIN, generation), udp(FLOW_SYNC, 9), sync(SYNC_END, generation, 1)]
    peer.data(*whole)
    again = asker.wants()
    assert again == number + 16
    assert ports(bench) == {9}
    peer.data(udp(FLOW_NEW, 10))
    peer.data(sync(SYNC_BEGIN, generation), sync(SYNC_END, generation, 0))
    peer.data(udp(FLOW_NEW, 11))
    until(lambda: 11 in ports(bench), 2, "what came last")
    asker.still_asks(RECON_WANT, struct.pack(">IIBB", again, 1, 0, 1))
    assert ports(bench) == {9, 10, 11}


@pytest.mark.parametrize(
    "part",
    [
        record(SYNC_BEGIN, struct.pack(">IIB", 1, 16, 11)),
        record(SYNC_BEGIN, struct.pack(">IIB", 1, 16, 21)),
        recon(RECON_BEGIN, 16, 0, 11),
        recon(RECON_BEGIN, 16, 0, 21),
        recon(RECON_LISTED, 16, 0, 255),
        recon_brief(16, 3, 0, [1] * 16),
        recon_brief(16, 12, 0, [1] * 16),
        recon_brief(16, 8, 0, []),
        recon_brief(16, 8, 0, [1] * 15),
        recon_brief(16, 8, 256, [1] * 16),
        recon_brief(16, 0, 2**16, [1] * 16),
        recon_brief(16, 0, 0, [1] * 1296, 1),
        recon_brief(16, 0, 0, [1] * 656, 2),
        recon_brief(16, 0, 0, [1] * 336, 4),
        *(recon_brief(16, 8, 0, [0] * 16, size) for size in (0, 3, 8)),
        record(RECON_BRIEF, struct.pack(">IBIB", 16, 8, 0, 0) + bytes(16)),
        record(RECON_BRIEF, struct.pack(">IBIB", 16, 4, 0, 2) + bytes(31)),
        record(RECON_BRIEF, struct.pack(">IBIB", 16, 4, 0, 4) + bytes(32)),
        recon_sums(16, 3, 0, [1]),
        recon_sums(16, 16, 0, [1]),
        recon_sums(16, 252, 0, [1]),
        recon_sums(16, 12, 0, []),
        recon_sums(16, 12, 0, [0] * 129),
        recon_sums(16, 12, 256, [0]),
        recon_sums(16, 12, 255, [0, 0]),
        recon_sums(16, 0, 2**20 - 15, [0] * 16),
        recon_sums(16, 0, 2**32 - 1, [0] * 16),
        record(RECON_SUMS, struct.pack(">IBI", 16, 12, 0) + bytes(12)),
        record(RECON_SUMS, struct.pack(">IBI", 16, 8, 0) + bytes(6)),
    ],
)
def test_answers_that_cannot_be(bench: Bench, part: bytes) -> None:
    with bench.expect("drop.malformed"):
        bench.peer.data(part)
    assert ports(bench) == set()


@pytest.mark.parametrize(
    "part",
    [
        recon(RECON_WANT, 16, 0, 21),
        recon_ask(16, 0, [0]),
        recon_ask(16, 0, [0], RECON_ASK_BRIEF),
        recon_ask(16, 4, [], RECON_ASK_BRIEF),
        recon_ask(16, 4, [1 << 16], RECON_ASK_BRIEF),
        recon_ask(16, 16, [0]),
        recon_ask(16, 5, [0]),
        recon_ask(16, 4, []),
        recon_ask(16, 4, [1 << 16]),
        recon_ask(16, 12, [256]),
        recon_ask(16, 12, [0] * 257),
        recon_mark(16, 0, {}),
        recon_mark(16, 0, {1 << 16: 1}),
        recon_mark(16, 0, dict.fromkeys(range(201), 1)),
        record(RECON_MARK, struct.pack(">IIIHI", 16, 0, 0, 1, 0)),
        table(3),
    ],
)
def test_questions_that_cannot_be(bench: Bench, part: bytes) -> None:
    with bench.expect("drop.malformed"):
        bench.peer.control(part)


def test_from_the_wrong_role(bench: Bench) -> None:
    """A passive node hears no TABLE and answers no question; in the stream, questions are
    no records at all."""
    bench.mode = ACTIVE
    bench.fence()
    sequence = bench.side.engine.stream()["sequence"]
    said = table(1, 77, 5, 1000, 9)
    questions = [recon(RECON_WANT, 16), recon(RECON_CLOSE_WANT, 16), recon_ask(16, 12, [0])]
    questions += [recon_mark(16, 0, {0: 1}), sync_want(1), sync_want(1, 16)]
    with bench.expect():
        bench.peer.control(said, *questions)
    found = bench.side.engine.table()
    assert (found["equal"], found["verified"], found["entries"]) == (None, 0, 0)
    assert not bench.side.seen("verify.done")
    assert bench.side.engine.stream()["sequence"] == sequence
    with bench.expect(record=8):
        bench.peer.data(said, *questions, verify(1))
    with bench.expect(record=5):
        bench.peer.control(*[recon(kind, 16) for kind in ROUNDS], recon_sums(16, 12, 0, [1]))


def test_questions_to_a_passive_node_are_not_kept_for_later(bench: Bench) -> None:
    bench.peer.control(recon(RECON_WANT, 16), sync_want(1))
    bench.fence()
    bench.peer.drain()
    bench.side.activate()
    bench.fence()
    with pytest.raises(Silence):
        bench.peer.wait_kind(DATA, 0.3)


# -- an active engine, and a passive peer ----------------------------------------


class Teller:
    """What an active engine says in its stream, acknowledged as it comes."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def hear(self, until_kind: int, timeout: float = 2.0) -> list[tuple[int, bytes]]:
        """All records up to and with the first one of that type."""
        heard: list[tuple[int, bytes]] = []
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            head, payload = self.bench.peer.wait_payload(DATA, left)
            self.bench.peer.control(ack(head.seq + 1, head.seq + 1))
            heard += records(payload)
            if until_kind in [kind for kind, _ in heard]:
                return heard

    def silent(self, *questions: bytes) -> None:
        """Each is refused without a word in the stream, or an end of the session."""
        stream = self.bench.side.engine.stream
        with self.bench.expect():
            for question in questions:
                sequence = stream()["sequence"]
                self.bench.peer.control(question)
                self.bench.fence()
                assert stream()["sequence"] == sequence, question.hex()

    def begun(self, number: int, bits: int = 12) -> None:
        self.bench.peer.control(recon(RECON_WANT, number))
        heard = self.hear(RECON_LISTED)
        assert heard[0] == (RECON_BEGIN, struct.pack(">IIB", number, 0, bits))
        assert heard[-1][1][:4] == struct.pack(">I", number)

    def closed(self, number: int) -> None:
        self.bench.peer.control(recon(RECON_CLOSE_WANT, number))
        heard = self.hear(RECON_SUMS)
        assert [kind for kind, _ in heard] == [RECON_CLOSE, RECON_SUMS]


def flows(bench: Bench, n: int, first: int = 7000) -> None:
    """Connections through the engine's node, and their records out of the way."""
    with bench.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind(("10.71.0.10", 0))
        for port in range(first, first + n):
            out.sendto(b"x", ("10.72.0.10", port))
    published = bench.side.engine.stream
    until(lambda: published()["published"] >= n, 2, "the records")
    bench.fence()
    bench.peer.control(ack(published()["sequence"], published()["sequence"]))
    bench.peer.drain()


def questions(number: int) -> list[bytes]:
    """All that need a round that was closed."""
    return [
        recon_ask(number, 12, [0]),
        recon_mark(number, 0, {0: 0xFFFF}),
        *([sync_want(50 + number % 16, number)] if number else []),
        recon(RECON_WANT, number + 1) if (number + 1) % 16 else recon_ask(number, 4, [0]),
    ]


def test_questions_in_any_order_but_the_right_one(active: Bench) -> None:
    teller, peer = Teller(active), active.peer
    flows(active, ENTRIES)
    teller.silent(recon(RECON_WANT, 0), recon(RECON_WANT, 17), recon(RECON_WANT, 2**32 - 1))
    for number in (0, 16, 17):
        teller.silent(recon(RECON_CLOSE_WANT, number), *questions(number))
    teller.begun(16)
    teller.silent(recon(RECON_WANT, 16), *questions(16), *questions(17))
    teller.silent(*[recon(RECON_CLOSE_WANT, number) for number in (0, 15, 17, 32)])
    teller.closed(16)
    teller.silent(recon(RECON_CLOSE_WANT, 16), recon(RECON_WANT, 16), recon(RECON_WANT, 18))
    teller.silent(*questions(0), *questions(15), *questions(17), *questions(32))
    # nodes that a table of 2^12 slots does not have
    teller.silent(recon_ask(16, 12, [1, 255]), recon_ask(16, 8, [16]), recon_ask(16, 4, [256]))
    peer.control(recon_ask(16, 12, [1, 0, 200]))
    assert teller.hear(RECON_SUMS)[0][1][:9] == struct.pack(">IBI", 16, 8, 0)
    # the next round, and its order
    teller.begun(17)
    teller.silent(*questions(16)[:3], recon(RECON_WANT, 18), recon(RECON_CLOSE_WANT, 16))
    teller.closed(17)
    # new ones under another number end the old ones
    teller.begun(160)
    teller.silent(*questions(17), recon(RECON_CLOSE_WANT, 17))


def test_marks_of_everything_again_and_again(active: Bench) -> None:
    teller, peer = Teller(active), active.peer
    flows(active, ENTRIES)
    teller.begun(16)
    teller.closed(16)
    everything = [
        dict.fromkeys(range(n, min(n + 200, 1 << 16)), 0xFFFF) for n in range(0, 1 << 16, 200)
    ]

    def marked() -> int:
        return struct.unpack(">IIB", teller.hear(RECON_MARKED)[-1][1])[1]

    peer.control(recon_mark(16, 5, {0: 1}))
    assert marked() == 0
    for _ in range(2):
        for chunk, groups in enumerate(everything[:3]):
            peer.control(recon_mark(16, chunk, groups))
            marked()
    assert marked_again(peer, teller) == 3
    for chunk in range(3, len(everything)):  # groups that such a table does not have
        peer.control(recon_mark(16, chunk, everything[chunk]))
        assert marked() == chunk + 1
    peer.control(sync_want(9, 16))
    heard = teller.hear(SYNC_END)
    assert Counter(kind for kind, _ in heard) == {SYNC_BEGIN: 1, FLOW_SYNC: ENTRIES, SYNC_END: 1}


def marked_again(peer: k2k.Peer, teller: Teller) -> int:
    peer.control(recon_mark(16, 1, {0: 1}))
    return struct.unpack(">IIB", teller.hear(RECON_MARKED)[-1][1])[1]


def test_a_request_for_a_copy_that_was_overtaken(active: Bench) -> None:
    """By the other link: the copy was made, and the comparison after it must not end for
    it.  The next generation is another matter, and so is the next session."""
    teller = Teller(active)
    flows(active, ENTRIES)
    active.peer.control(sync_want(7))
    assert [kind for kind, _ in teller.hear(SYNC_END)].count(FLOW_SYNC) == ENTRIES
    teller.begun(16)
    teller.silent(sync_want(7), sync_want(7, 16))
    teller.closed(16)
    active.peer.control(sync_want(8))
    teller.hear(SYNC_END)
    active.peer.reboot()
    active.connect()
    active.peer.control(sync_want(8))
    teller.hear(SYNC_END)


def test_rounds_of_an_earlier_session(active: Bench) -> None:
    """Its key, by which slots are told, is gone."""
    teller = Teller(active)
    flows(active, ENTRIES)
    teller.begun(16)
    teller.closed(16)
    active.peer.control(recon_mark(16, 0, {0: 0xFFFF}))
    teller.hear(RECON_MARKED)
    active.peer.reboot()
    active.connect()
    teller.silent(*questions(16), recon(RECON_CLOSE_WANT, 16))
    teller.begun(16)


def test_answers_to_another_question_of_an_operator(active: Bench) -> None:
    """The peer's own operator asks as well: that is no answer to ours, which stands."""
    assert active.side.engine.verify(5, True)
    assert active.peer.wait_record(VERIFY) == struct.pack(">IB", 5, 1)
    active.peer.control(table(1, 4, 10, 0, ENTRIES))
    active.fence()
    active.peer.drain()
    assert active.peer.wait_record(VERIFY) == struct.pack(">IB", 5, 1)
    active.peer.control(table(1, 5, 11, 0, ENTRIES))
    until(lambda: any(e["id"] == 5 for e in active.side.seen("verify.done")), 2, "the answer")
    active.fence()
    active.peer.drain()
    with pytest.raises(Silence):
        active.peer.wait_record(VERIFY, 0.5)


# -- floods ----------------------------------------------------------------------

FLOOD_S = 0.5
GROWTH_KB = 24 * 1024  # the sums of 2^20 slots, both ways, and some


def flood(say: Callable[[int], None]) -> int:
    """How many there were."""
    end, n = time.monotonic() + FLOOD_S, 0
    while time.monotonic() < end:
        say(n)
        n += 1
    return n


FLOODS: dict[str, Callable[[int], bytes]] = {
    "WANT": lambda n: recon(RECON_WANT, 16 * (n + 1)),
    "WANT and CLOSE_WANT": lambda n: recon(
        (RECON_WANT, RECON_CLOSE_WANT)[n % 2], 16 * (n // 2 + 2)
    ),
    "ASK": lambda n: recon_ask(16, (4, 8, 12)[n % 3], [0] * 256),
    "MARK": lambda n: recon_mark(16, n, dict.fromkeys(range(200), 0xFFFF)),
    "SYNC_WANT": lambda n: sync_want(n + 100),
    "SYNC_WANT of a round": lambda n: sync_want(n + 100, 16),
    "TABLE": lambda n: table(n % 3, n),
}


@pytest.mark.parametrize("what", FLOODS)
def test_flood_of_questions(active: Bench, what: str) -> None:
    """The stream goes on: a connection that is made meanwhile is told soon."""
    teller, say = Teller(active), FLOODS[what]
    flows(active, 60)
    teller.begun(16)
    teller.closed(16)
    before = memory_kb()
    published = active.side.engine.stream()["published"]

    def one(n: int) -> None:
        active.peer.control(say(n))
        if n % 50 == 0:
            with active.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.bind(("10.71.0.10", 20000 + n // 50))
                out.sendto(b"x", ("10.72.0.10", 53))
            stream = active.side.engine.stream()
            active.peer.control(ack(stream["sequence"], stream["sequence"]))
            active.peer.drain()

    sent = flood(one)
    new = -(-sent // 50)
    until(
        lambda: active.side.engine.stream()["published"] >= published + new,
        1,
        f"{new} connections made during {sent} questions",
    )
    active.usable()
    assert memory_kb() - before < GROWTH_KB
    assert not active.side.saw("peer.dead")


# How many of one kind at once and per second, as in csrc/hak_io.c.
LIMITS: dict[str, tuple[Callable[[int], bytes], int, int]] = {
    "WANT": (lambda n: recon(RECON_WANT, 16 * n), 64, 50),
    "SYNC_WANT": (lambda n: sync_want(n), 64, 50),
    "ASK": (lambda n: recon_ask(16, 12, [0]), 512, 10_000),
    "FLOW_WANT": (lambda n: udp(FLOW_WANT, n), 1024, 5000),
}


@pytest.mark.parametrize("what", LIMITS)
def test_more_questions_than_a_node_may_ask(active: Bench, what: str) -> None:
    """Above the rate there is no answer, only a number; below it there is again."""
    say, burst, rate = LIMITS[what]
    teller, began = Teller(active), time.monotonic()
    sent = 4 * burst
    for first in range(1, sent, 16):
        active.peer.control(*[say(n) for n in range(first, first + 16)])
    active.fence()
    most = burst + rate * (time.monotonic() - began) + 1
    assert sent - most <= active.stat("asks.limited") <= sent - burst
    active.peer.drain()

    def answered() -> bool:
        # As a wish is: told again until there is an answer.
        active.peer.control(recon(RECON_WANT, 16 * sent), heartbeat())
        try:
            teller.hear(RECON_BEGIN, 0.1)
        except Silence:
            return False
        return True

    until(answered, 5, "an answer")


def patient(lab: Lab, milliseconds: int) -> Iterator[Bench]:
    made = Bench(lab, patience_ms=milliseconds)
    try:
        made.connect()
        made.passivate()
        yield made
    finally:
        made.close()


@pytest.fixture
def impatient(lab: Lab) -> Iterator[Bench]:
    yield from patient(lab, 300)


def test_a_listing_that_never_ends(impatient: Bench) -> None:
    asker, peer = Asker(impatient), impatient.peer
    number = asker.wants()
    peer.data(recon(RECON_BEGIN, number, 0, 12))
    body = asker.asks(RECON_WANT)
    while struct.unpack(">IIB", body[:9])[0] == number:  # told before the answer had come
        body = asker.asks(RECON_WANT)
    assert struct.unpack(">IIB", body[:9]) == (number + 16, ENTRIES, 0)
    assert impatient.stat("recon.stalled") == 1
    peer.data(recon(RECON_LISTED, number, ENTRIES))  # too late
    asker.still_asks(RECON_WANT, body)
    assert len(ports(impatient)) == ENTRIES


@pytest.fixture
def lenient(lab: Lab) -> Iterator[Bench]:
    yield from patient(lab, 1500)


def test_a_copy_that_never_ends(lenient: Bench) -> None:
    """It may take as long as it likes, while it goes on."""
    asker, peer = Asker(lenient), lenient.peer
    number = asker.wants()
    peer.data(recon(RECON_BEGIN, number, 5000, 0))
    generation = struct.unpack(">I", asker.asks(SYNC_WANT)[:4])[0]
    began = time.monotonic()
    peer.data(sync(SYNC_BEGIN, generation))
    n = 100
    while time.monotonic() - began < 4:
        peer.data(udp(FLOW_SYNC, n))
        until(lambda n=n: n in ports(lenient), 2, "what was copied")
        n += 1
    assert lenient.stat("recon.stalled") == 0
    assert asker.wants() > number
    assert lenient.stat("recon.stalled") == 1


ANSWERS: dict[str, Callable[[int], bytes]] = {
    "BEGIN": lambda n: recon(RECON_BEGIN, 16 * (n % 4 + 1), 0, 20),
    "SYNC_LOST": lambda n: record(SYNC_LOST, bytes(4)),
    "SUMS": lambda n: recon_sums(16, 0, n % 1000, [n] * 100),
    "SYNC_BEGIN and SYNC_END": lambda n: sync(SYNC_BEGIN, n % 5) + sync(SYNC_END, n % 5),
    "malformed": lambda n: recon(RECON_BEGIN, 16, 0, 1),
}


@pytest.mark.parametrize("what", [*ANSWERS, "VERIFY"])
def test_flood_of_answers(bench: Bench, what: str, rng: random.Random) -> None:
    """Nothing goes, and what the stream brings is done soon."""
    asker = Asker(bench)
    asker.asks(RECON_WANT)
    before = memory_kb()

    def one(n: int) -> None:
        if what == "VERIFY":
            bench.peer.control(verify(rng.getrandbits(32), bool(n % 2)))
        else:
            bench.peer.data(ANSWERS[what](n))
        if n % 50 == 0:
            bench.peer.control(heartbeat(), status(mode=ACTIVE))
            bench.peer.drain()

    flood(one)
    bench.fence()
    last = bench.peer.data(udp(FLOW_NEW, 77))
    session = bench.peer.session
    assert session is not None
    # What its socket had no room for is not there any more; the last one is sent again.
    gone = heartbeat(following=session.sent[DATA], base=session.sent[DATA] - 1)

    def came() -> bool:
        bench.peer.control(gone)
        bench.peer.raw(last)
        return 77 in ports(bench)

    until(came, 2, "what came last")
    assert ports(bench) == {*range(ENTRIES), 77}
    bench.usable()
    assert memory_kb() - before < GROWTH_KB
    assert not bench.side.saw("peer.dead")
