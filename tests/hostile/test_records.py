"""Authentic datagrams with content that is cut short, unknown, or makes no sense."""

from __future__ import annotations

import random
import secrets
import socket
import struct
import time

import pytest

from hak2k.lab import Lab, until
from tests.hostile import k2k
from tests.hostile.bench import Bench
from tests.hostile.k2k import (
    ACK,
    CONTROL,
    DATA,
    FLOW_DESTROY,
    FLOW_NEW,
    FLOW_SYNC,
    FLOW_UPDATE,
    HEARTBEAT,
    NACK,
    STATUS,
    SYNC_WANT,
    Keys,
    ack,
    heartbeat,
    nack,
    recon,
    recon_ask,
    recon_brief,
    recon_mark,
    recon_sums,
    record,
    records,
    status,
    table,
    udp,
    verify,
)


def expectation(kind: int) -> bytes:
    """Of a child of TCP connection 10.71.0.10:40000 to 10.72.0.10:21."""
    ends = socket.inet_aton("10.71.0.10") + socket.inet_aton("10.72.0.10")
    expected = bytes([1 << 3]) + ends + struct.pack(">HH", 0, 5000)
    if kind == k2k.EXP_DESTROY:
        return record(kind, expected)
    master = bytes([6]) + ends + struct.pack(">HH", 40000, 21)
    mask = b"\xff\xff\xff\xff\x00\x00"
    fields = bytes([0 << 4 | len(master)]) + master if len(master) < 15 else b""
    return record(kind, expected + fields + bytes([1 << 4 | len(mask)]) + mask)


RECORDS = {
    "FLOW_NEW": udp(FLOW_NEW, 1),
    "FLOW_UPDATE": udp(FLOW_UPDATE, 1),
    "FLOW_DESTROY": udp(FLOW_DESTROY, 1),
    "FLOW_SYNC": udp(FLOW_SYNC, 1, bytes([0x71, 0x2A])),  # with a mark
    "EXP_NEW": expectation(k2k.EXP_NEW),
    "EXP_DESTROY": expectation(k2k.EXP_DESTROY),
    "SYNC_BEGIN": record(k2k.SYNC_BEGIN, struct.pack(">I", 9)),
    "SYNC_BEGIN with sums": record(k2k.SYNC_BEGIN, struct.pack(">IIB", 9, 16, 12)),
    "SYNC_END": record(k2k.SYNC_END, struct.pack(">IQ", 9, 0)),
    "HANDOVER": record(k2k.HANDOVER, struct.pack(">I", 1)),
    "SYNC_LOST": record(k2k.SYNC_LOST, bytes(4)),
    "RECON_BEGIN": recon(k2k.RECON_BEGIN, 7, 0, 12),
    "RECON_LISTED": recon(k2k.RECON_LISTED, 7),
    "RECON_CLOSE": recon(k2k.RECON_CLOSE, 7),
    "RECON_SUMS": recon_sums(7, 12, 0, [1]),
    "RECON_BRIEF": recon_brief(7, 4, 0, [1] * 16),
    "RECON_MARKED": recon(k2k.RECON_MARKED, 7),
    "OFFERED": record(k2k.OFFERED, struct.pack(">III", 1, 1, 0)),
}
BODIES = {
    "HEARTBEAT": heartbeat(),
    "STATUS": status(),
    "ACK": ack(0, 0),
    "NACK": nack((0, 1), (5, 2)),
    "SYNC_WANT": record(SYNC_WANT, struct.pack(">I", 3)),
    "SYNC_WANT with sums": record(SYNC_WANT, struct.pack(">III", 3, 0, 16)),
    "FLOW_WANT": udp(k2k.FLOW_WANT, 1),
    "RECON_WANT": recon(k2k.RECON_WANT, 7),
    "RECON_CLOSE_WANT": recon(k2k.RECON_CLOSE_WANT, 7),
    "RECON_ASK": recon_ask(7, 4, [0]),
    "RECON_ASK_BRIEF": recon_ask(7, 4, [0], k2k.RECON_ASK_BRIEF),
    "RECON_MARK": recon_mark(7, 0, {0: 1}),
    "VERIFY": verify(1),
    "TABLE": table(1),
    "PREPARE": record(k2k.PREPARE, struct.pack(">IQ", 1, 1)),
    "ARMED": record(k2k.ARMED, struct.pack(">I", 1)),
    "LINKS": record(k2k.LINKS, b"\2"),
    "OFFER": record(k2k.OFFER, struct.pack(">I", 1) + udp(FLOW_SYNC, 1)),
}
# More of it is more to say.  TABLE without its end is an older node's.
LISTS = ("NACK", "RECON_ASK", "RECON_ASK_BRIEF", "RECON_MARK", "TABLE", "OFFER")
# Shorter ones that are bodies too.
SHORTER = {"NACK": {10}, "SYNC_WANT with sums": {4, 8}}


def datagrams(bench: Bench, n: int) -> list[bytes]:
    """The engine's first stream datagrams, sealed as they came, for n connections."""
    with bench.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind(("10.71.0.10", 0))
        got = []
        for port in range(7000, 7000 + n):
            out.sendto(b"x", ("10.72.0.10", port))
            got.append(bench.peer.wait_kind(DATA))
    return got


# -- cut short -------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDS)
def test_every_prefix_of_a_record_of_the_stream(bench: Bench, name: str) -> None:
    """Alone in its datagram, and behind a record that stands."""
    whole = RECORDS[name]
    with bench.expect(malformed=2 * len(whole) - 1):
        for n in range(len(whole)):
            bench.peer.data(whole[:n])
            if n:
                bench.peer.data(record(k2k.SYNC_END, bytes(12)), whole[:n])
            else:
                # nothing cannot be carried, so that number is still free
                assert bench.peer.session is not None
                bench.peer.session.sent[DATA] -= 1


@pytest.mark.parametrize("name", RECORDS)
def test_every_prefix_of_a_body_of_the_stream(bench: Bench, name: str) -> None:
    """Cut where its own length says: whatever follows is still understood."""
    kind, body = records(RECORDS[name])[0]
    before = bench.drops(), bench.stat("rx.records")
    for n in range(len(body)):
        bench.peer.data(record(kind, body[:n]))
    bench.peer.data(udp(FLOW_NEW, 77))
    until(
        lambda: any(e.orig.sport == 10077 for e in bench.side.node.conntrack().values()),
        3,
        "the record that follows",
    )
    bench.usable()
    got = bench.drops() - before[0]
    assert set(got) <= {"drop.malformed"}
    # a flow's body cut between two fields is a body; the tuple itself is not
    taken = bench.stat("rx.records") - before[1] - 1
    assert got["drop.malformed"] + taken == len(body)
    assert taken <= 1


@pytest.mark.parametrize("name", BODIES)
def test_every_prefix_of_a_record_of_control(bench: Bench, name: str) -> None:
    whole = BODIES[name]
    cuts = range(1, len(whole))  # an empty datagram says nothing, which is allowed
    with bench.expect(malformed=len(cuts)):
        for n in cuts:
            bench.peer.control(whole[:n])


@pytest.mark.parametrize("name", BODIES)
def test_every_prefix_of_a_body_of_control(bench: Bench, name: str) -> None:
    kind, body = records(BODIES[name])[0]
    cuts = [n for n in range(len(body)) if n not in SHORTER.get(name, ())]
    with bench.expect(malformed=len(cuts)):
        for n in cuts:
            bench.peer.control(record(kind, body[:n]))


def test_control_that_says_nothing(bench: Bench) -> None:
    with bench.expect():
        bench.peer.control()


def test_bodies_of_later_versions_are_longer(bench: Bench) -> None:
    with bench.expect():
        for name, whole in BODIES.items():
            if name not in (*LISTS, "FLOW_WANT"):
                kind, body = records(whole)[0]
                bench.peer.control(record(kind, body + secrets.token_bytes(20)))


def test_content_at_random(bench: Bench, rng: random.Random) -> None:
    """By somebody with the key and a bad day.  Whatever it is, it is counted, and the
    stream is understood from the next datagram on."""
    before = bench.drops()
    for _ in range(300):
        bench.peer.data(rng.randbytes(rng.randrange(1, 200)))
    bench.peer.data(udp(FLOW_NEW, 77))
    until(
        lambda: any(e.orig.sport == 10077 for e in bench.side.node.conntrack().values()),
        5,
        "the record that follows",
        detail=lambda: bench.drops() - before,
    )
    for _ in range(300):
        bench.peer.control(rng.randbytes(rng.randrange(200)))
    # some of it may have been an end, or a jump of the stream: so a new beginning
    bench.usable()
    bench.peer.reboot()
    bench.connect()
    bench.usable()
    assert set(bench.drops() - before) <= {"drop.malformed", "drop.record", "drop.field"}


# -- unknown ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 1300])
def test_unknown_records_are_stepped_over(bench: Bench, size: int) -> None:
    unknown = [0, 5, 7, 63, 200, 254, 255]
    for n, kind in enumerate(unknown):
        before = bench.drops()
        bench.peer.data(record(kind, bytes(size)), udp(FLOW_NEW, n))
        until(lambda n=n: len(bench.side.node.conntrack()) == n + 1, 2, "what stands behind it")
        assert bench.drops() - before == {"drop.record": 1}
    beats = bench.stat("heartbeats.received")
    with bench.expect(record=len(unknown)):
        for kind in unknown:
            bench.peer.control(record(kind, bytes(size)), heartbeat())
    assert bench.stat("heartbeats.received") >= beats + len(unknown)


def test_records_in_the_wrong_kind_of_datagram(bench: Bench) -> None:
    with bench.expect(record=2):
        bench.peer.control(udp(FLOW_NEW, 1), heartbeat())
        bench.peer.control(record(k2k.HANDOVER, struct.pack(">I", 1)))
    assert not bench.side.saw("handover")
    with bench.expect(record=3):
        bench.peer.data(status(mode=k2k.ACTIVE), ack(0, 0), record(k2k.BYE))
    assert not bench.side.saw("peer.bye")


def test_unknown_fields_and_shapes(bench: Bench) -> None:
    fields = bytes([0xE3]) + b"abc" + bytes([0xD0])
    before = bench.drops()
    bench.peer.data(udp(FLOW_NEW, 1, fields))
    until(lambda: len(bench.side.node.conntrack()) == 1, 2, "the connection")
    assert bench.drops() - before == {"drop.field": 2}
    kind, body = records(udp(FLOW_NEW, 2))[0]
    with bench.expect(record=3):
        for bit in (0x20, 0x40, 0x80):
            bench.peer.data(record(kind, bytes([body[0] | bit]) + body[1:]))
    bench.usable()


# -- no sense --------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        ack(1 << 20, 0),  # never sent
        ack(2**64 - 1, 0),
        ack(0, 1),  # in the kernel, but not received
        status(mode=4),
        status(forced=3),
        status(quality=101),
        status(state=5),
        heartbeat(following=3, base=4),
        nack((7, 0)),
        nack((2**64 - 1, 1)),
        record(NACK),
        record(NACK, bytes(11)),
        record(HEARTBEAT),
        record(STATUS),
        record(ACK),
    ],
)
def test_control_that_makes_no_sense(bench: Bench, body: bytes) -> None:
    said = bench.side.engine.peer()
    with bench.expect("drop.malformed"):
        bench.peer.control(body)
    assert bench.side.engine.peer()["mode"] == said["mode"]


def test_acknowledging_the_future(active: Bench) -> None:
    """The very next one is already too many."""
    sent = len(datagrams(active, 3))
    with active.expect(malformed=2):
        active.peer.control(ack(sent + 1, sent + 1))
        active.peer.control(ack(sent + 1, 0))
    with active.expect():
        active.peer.control(ack(sent, sent))
    assert active.side.engine.stream()["lag_records"] == 0


def test_asking_for_the_future_and_for_the_past(active: Bench) -> None:
    sent = datagrams(active, 3)
    resent = active.stat("tx.resent")
    with active.expect():
        active.peer.control(nack((3, 1), (4, 65535), (1 << 60, 65535)))
        active.peer.control(nack(*[(k << 32, 65535) for k in range(1, 65)]))
        active.peer.control(ack(2, 2))
        active.peer.control(nack((0, 2)))
    assert active.stat("tx.resent") == resent
    active.peer.control(nack((0, 65535)))
    assert active.peer.wait_kind(DATA) == sent[2]
    assert active.stat("tx.resent") == resent + 1


def test_overtaken_status_is_history(bench: Bench) -> None:
    late = bench.peer.seal(CONTROL, heartbeat() + status(mode=k2k.FAULT))
    bench.peer.control(status(mode=k2k.STARTING))
    until(lambda: bench.side.engine.peer()["mode"] == k2k.STARTING, 2, "the status")
    beats = bench.stat("heartbeats.received")
    bench.peer.raw(late)
    until(lambda: bench.stat("heartbeats.received") > beats, 2, "the late one")
    assert bench.side.engine.peer()["mode"] == k2k.STARTING


# -- the stream, from both ends --------------------------------------------------


def test_order_is_the_sequence_not_the_arrival(bench: Bench) -> None:
    parts = [udp(FLOW_NEW, 1), udp(FLOW_DESTROY, 1), udp(FLOW_NEW, 2), udp(FLOW_DESTROY, 2)]
    parts += [udp(FLOW_NEW, 3)]
    sealed = [bench.peer.seal(DATA, part) for part in parts]
    for datagram in reversed(sealed):
        bench.peer.raw(datagram)
    until(lambda: bench.stat("apply.records") >= len(parts), 2, "all of it")
    bench.usable()
    assert [e.orig.sport for e in bench.side.node.conntrack().values()] == [10003]


def test_an_event_older_than_what_was_told_as_a_whole(bench: Bench) -> None:
    """It is of the same life: the entry is not ended for it, with all it is master of."""
    assured, replied = bytes([0x31, 6]), bytes([0x31, 2])
    bench.peer.data(udp(FLOW_SYNC, 1, assured))
    bench.peer.data(udp(FLOW_UPDATE, 1, replied + bytes([0x71, 5])))
    until(lambda: bench.stat("apply.records") >= 2, 2, "both")
    bench.usable()
    (entry,) = bench.side.node.conntrack().values()
    assert entry.mark == 5
    assert entry.status & 6 == 6, entry  # SEEN_REPLY, ASSURED
    assert bench.stat("apply.wanted") == 0


@pytest.mark.parametrize("turn", range(5))
def test_any_order_and_any_number_of_times(bench: Bench, rng: random.Random, turn: int) -> None:
    """Of marks that only grow none is ever seen to shrink, and the last one stays."""
    steps, flows = 60, 4
    parts = [udp(FLOW_NEW, n, bytes([0x71, 1])) for n in range(flows)]
    parts += [
        udp(FLOW_UPDATE, n, bytes([0x71, mark])) for mark in range(2, steps) for n in range(flows)
    ]
    sealed = [bench.peer.seal(DATA, part) for part in parts]
    sent = sealed + rng.choices(sealed, k=len(sealed))
    rng.shuffle(sent)
    seen = dict.fromkeys(range(10000, 10000 + flows), 0)

    def look() -> bool:
        for entry in bench.side.node.conntrack().values():
            assert entry.mark >= seen[entry.orig.sport]
            seen[entry.orig.sport] = entry.mark
        return set(seen.values()) == {steps - 1}

    before = bench.drops()
    for n, datagram in enumerate(sent):
        bench.peer.raw(datagram, n % 2)
        if n % 20 == 0:
            look()
    until(look, 3, "the last marks", detail=lambda: seen)
    bench.usable()
    assert bench.drops() - before == {"drop.duplicate": len(sealed)}
    assert look()


def test_what_is_missing_is_asked_for_exactly(bench: Bench) -> None:
    assert bench.peer.session is not None
    first = bench.peer.session.sent[DATA]
    sealed = [bench.peer.seal(DATA, udp(FLOW_NEW, n)) for n in range(12)]
    for n in (0, 2, 5, 6):
        bench.peer.raw(sealed[n])

    def asked() -> set[tuple[int, int]]:
        body = bench.peer.wait_record(NACK)
        return set(struct.iter_unpack(">QH", body))

    until(lambda: asked() == {(first + 1, 1), (first + 3, 2)}, 2, "the request")
    # told how far the stream reaches, it asks for the rest as well
    bench.peer.control(heartbeat(following=first + 12, base=first))
    wanted = {(first + 1, 1), (first + 3, 2), (first + 7, 5)}
    until(lambda: asked() == wanted, 2, "the longer request")
    for n in (11, 10, 9, 8, 7, 4, 3, 1):
        bench.peer.raw(sealed[n])
    until(lambda: len(bench.side.node.conntrack()) == 12, 2, "all connections")
    until(
        lambda: bench.peer.wait_record(ACK) == struct.pack(">QQ", first + 12, first + 12),
        2,
        "the acknowledgement",
    )


def test_what_nobody_has_any_more_is_a_loss_that_is_told(bench: Bench) -> None:
    assert bench.peer.session is not None
    bench.peer.data(udp(FLOW_NEW, 1))
    until(lambda: len(bench.side.node.conntrack()) == 1, 2, "the first connection")
    bench.peer.session.sent[DATA] += 10_000
    base = bench.peer.session.sent[DATA]
    bench.peer.control(heartbeat(following=base, base=base))
    until(lambda: bench.side.saw("stream.lost"), 2, "the loss")
    bench.peer.data(udp(FLOW_NEW, 2))
    until(lambda: len(bench.side.node.conntrack()) == 2, 2, "what came after it")
    assert not bench.side.engine.stream()["synced"]


def test_what_is_resent_is_the_same_bytes(active: Bench) -> None:
    """A sequence seals one text, or its key stream would be known."""
    sent = datagrams(active, 5)
    active.peer.drain()
    active.peer.control(nack((0, 5)))
    again = [active.peer.wait_kind(DATA) for _ in sent]
    assert again == sent


def test_more_resends_than_losses_can_need(active: Bench) -> None:
    """One NACK of 650 bytes asks for a thousand datagrams.  Above the rate the node
    goes on with its own business; below it there are answers again."""
    datagrams(active, 16)
    before, began, asked = active.stat("tx.resent"), time.monotonic(), 128
    for _ in range(asked):
        active.peer.control(nack(*[(0, 16)] * 64))
    active.fence()
    resent = active.stat("tx.resent") - before
    # as in csrc/hak_io.c: a whole window at once, then so many a second
    assert 4096 <= resent <= 4096 + 50_000 * (time.monotonic() - began) + 1
    assert active.stat("nack.received") == asked
    assert 0 < active.stat("nack.limited") < asked

    def answered() -> bool:
        before = active.stat("tx.resent")
        active.peer.control(nack((0, 16)))
        active.fence()
        return active.stat("tx.resent") == before + 16

    until(answered, 2, "a whole answer")
    assert not active.side.saw("peer.dead")
    active.usable()


def test_no_nonce_is_used_twice(active: Bench) -> None:
    """Over sessions, resends and changes of role."""
    seen: dict[tuple[bytes, int, int], bytes] = {}

    def note(datagram: bytes) -> None:
        session, head = active.peer.session, k2k.Header.unpack(datagram)
        assert session is not None
        if head.session == session.local and head.kind in (DATA, CONTROL):
            key = session.keys.receive, head.kind, head.seq
            assert seen.setdefault(key, datagram) == datagram

    for turn in range(3):
        for datagram in datagrams(active, 4):
            note(datagram)
        active.peer.control(nack((0, 100)), heartbeat())
        for _ in range(20):
            note(active.peer.receive())
        active.side.passivate()
        for _ in range(3):
            note(active.peer.receive())
        active.side.activate()
        if turn == 1:
            active.peer.reboot()
            active.connect()
    kinds = {kind for _, kind, _ in seen}
    assert kinds == {DATA, CONTROL}
    assert len({key for key, _, _ in seen}) == 2


def test_a_new_session_publishes_from_zero(active: Bench) -> None:
    sent = datagrams(active, 3)
    assert [k2k.Header.unpack(d).seq for d in sent] == [0, 1, 2]
    active.peer.reboot()
    active.connect()
    active.peer.drain()
    following, base = struct.unpack(">QQ", active.peer.wait_record(HEARTBEAT)[-16:])
    assert (following, base) == (0, 0)
    assert k2k.Header.unpack(datagrams(active, 1)[0]).seq == 0


def test_a_new_session_is_heard_from_zero(bench: Bench) -> None:
    """And nothing that an old one left waiting for its turn is taken for the new one's."""
    for n in (0, 1, 3, 4):
        assert bench.peer.session is not None
        seq = bench.peer.session.sent[DATA] + n
        bench.peer.raw(bench.peer.seal(DATA, udp(FLOW_NEW, n), seq))
    until(lambda: len(bench.side.node.conntrack()) == 2, 2, "what is in order")
    bench.fence()
    bench.peer.reboot()
    bench.connect()
    bench.passivate()  # with sequence 0
    for n in range(10, 16):
        bench.peer.data(udp(FLOW_NEW, n))
    until(lambda: len(bench.side.node.conntrack()) == 8, 2, "the new session's")
    bench.usable()
    ports = sorted(e.orig.sport - 10000 for e in bench.side.node.conntrack().values())
    assert ports == [0, 1, *range(10, 16)]


# -- orderly end -----------------------------------------------------------------


def test_bye_overtakes_a_heartbeat(bench: Bench) -> None:
    """What was sent before the end and comes after it, by the other link, is no life."""
    late = [bench.peer.seal(CONTROL, heartbeat(link=1) + status()) for _ in range(3)]
    bench.peer.control(record(k2k.BYE), link=0)
    until(lambda: bench.side.saw("peer.bye"), 2, "the end")
    beats = bench.stat("heartbeats.received")
    for datagram in late:
        bench.peer.raw(datagram, link=1)
    until(lambda: bench.stat("heartbeats.received") == beats + 3, 2, "the heartbeats")
    assert not bench.side.engine.peer()["alive"]
    bench.fence()
    assert bench.side.engine.peer()["alive"]


# -- encryption ------------------------------------------------------------------


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
def test_encryption_is_used_if_either_wants_it(lab: Lab, ours: bool, theirs: bool) -> None:
    bench = Bench(lab, encrypt=ours, peer_encrypts=theirs)
    try:
        bench.connect()
        bench.passivate()
        session = bench.peer.session
        assert session is not None
        assert session.keys.encrypt == (ours or theirs)
        assert bench.side.engine.stream()["encrypted"] == (ours or theirs)
        payload = heartbeat(sent=0x1234567890ABCDEF)
        assert (payload in bench.peer.control(payload)) == (not (ours or theirs))
        bench.usable()
        # the other mode is not understood, so nobody can strip the encryption
        stripped = Keys(session.keys.send, session.keys.receive, not session.keys.encrypt)
        header = k2k.Header(CONTROL, session.remote, 7000)
        with bench.expect("drop.auth"):
            bench.peer.raw(stripped.seal(header, heartbeat()))
        bench.peer.data(udp(FLOW_NEW, 1))
        until(lambda: len(bench.side.node.conntrack()) == 1, 2, "the connection")
    finally:
        bench.close()


def test_readable_is_authentic_all_the_same(lab: Lab, rng: random.Random) -> None:
    bench = Bench(lab, encrypt=False, peer_encrypts=False)
    try:
        bench.connect()
        bench.passivate()
        datagram = bench.peer.seal(DATA, udp(FLOW_NEW, 1))
        assert udp(FLOW_NEW, 1) in datagram
        with bench.expect(auth=len(datagram) - k2k.HEADER):
            for n in range(k2k.HEADER, len(datagram)):
                bad = bytearray(datagram)
                bad[n] ^= 1 << rng.randrange(8)
                bench.peer.raw(bytes(bad))
        bench.peer.raw(datagram)
        until(lambda: len(bench.side.node.conntrack()) == 1, 2, "the connection")
    finally:
        bench.close()
