"""Handshakes that are forged, recorded, refused, or far too many."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest
from noise.exceptions import NoiseInvalidMessage

from hak2k.lab import Lab, until
from tests.hostile.bench import Bench
from tests.hostile.k2k import (
    ACTIVE,
    CONTROL,
    DATA,
    FLOW_NEW,
    HEADER,
    HELLO,
    KEEP,
    WELCOME,
    Handshake,
    Header,
    Hello,
    Silence,
    heartbeat,
    status,
    udp,
)

# A session's number that the engine has never given out.
NOBODY = 0x01010101
# Long enough for a fake peer that shares a busy machine.
SILENCE_MS = 600


@pytest.fixture
def mortal(lab: Lab) -> Iterator[Bench]:
    """As `bench`, but the engine soon declares a silent peer dead."""
    made = Bench(lab, dead_after_ms=SILENCE_MS)
    try:
        made.connect()
        made.side.passivate()
        yield made
    finally:
        made.close()


def die(bench: Bench) -> None:
    until(lambda: not bench.side.engine.peer()["alive"], 5, "the peer's death")


# -- an independent implementation agrees ----------------------------------------


def test_our_offer_their_answer(bench: Bench) -> None:
    session = bench.peer.session
    assert session is not None
    theirs = session.theirs
    assert (theirs.serial, theirs.model, theirs.version) == ("FW-2", "lab", "test")
    assert (theirs.wire_min, theirs.wire_max, theirs.flags) == (1, 1, 1)
    assert bench.side.engine.peer()["serial"] == "FAKE"
    assert bench.side.engine.peer()["boot_id"] == bench.peer.boot_id
    bench.usable()


def test_their_offer_our_answer(beginner: Bench) -> None:
    beginner.connect()
    assert beginner.side.engine.peer()["boot_id"] == beginner.peer.boot_id
    beginner.usable()
    assert beginner.stat("handshakes") == 1


def test_every_session_has_fresh_keys(bench: Bench) -> None:
    seen = set()
    for _ in range(5):
        assert bench.peer.session is not None
        keys = bench.peer.session.keys
        seen |= {keys.send, keys.receive}
        bench.peer.reboot()
        bench.connect()
    assert len(seen) == 10


def test_an_offer_goes_out_on_both_links_and_again(beginner: Bench) -> None:
    """The same offer until it is a second old: its answer may be on the way."""
    first = beginner.peer.wait_kind(HELLO)
    for _ in range(4):
        assert beginner.peer.wait_kind(HELLO) == first
    said = [beginner.peer.wait_offer()[1]]
    until(lambda: beginner.peer.wait_kind(HELLO) != first, 3, "a new offer")
    said.append(beginner.peer.wait_offer()[1])
    assert said[0].boot_id == said[1].boot_id
    assert said[0].session != said[1].session
    assert said[0].stamp < said[1].stamp


def test_a_silence_does_not_replace_an_offer_to_change_keys(beginner: Bench) -> None:
    """The peer may have answered it already: then an offer of another session would end
    the keys that it answered with, and both would have to begin anew."""
    peer = beginner.peer
    beginner.connect()
    session = peer.psk

    def offered() -> bool:
        beginner.fence()
        peer.drain()
        peer.psk = secrets.token_bytes(32)
        beginner.side.engine.set_keys(peer.psk + session)
        first = peer.wait_kind(HELLO)
        try:
            handshake = Handshake(peer.psk, peer.cluster, False)
            said = Hello.unpack(handshake.read(first[HEADER:]))
        except NoiseInvalidMessage:  # from before, under the session's key
            return False
        return bool(said.flags & KEEP) and [peer.wait_kind(HELLO) for _ in range(5)] == [first] * 5

    # The node itself may have been late.
    until(offered, 5, "the same offer, for a while")


# -- forged ----------------------------------------------------------------------


def test_wrong_psk(bench: Bench) -> None:
    with bench.expect(auth=3):
        for psk in (bytes(32), b"\xff" * 32, bench.peer.psk[::-1]):
            bench.peer.raw(bench.peer.offer(psk=psk)[0])


def test_points_of_low_order(bench: Bench) -> None:
    """Sealed with the right key, and no secret could come of it."""
    for point in (bytes(32), (1).to_bytes(32, "little")):
        handshake = Handshake(bench.peer.psk, 7, True)
        state = handshake.noise.noise_protocol.handshake_state

        class Fake:
            """The key pair that the library is made to believe in."""

            public_bytes = point

        state.noise_protocol.dh_fn.generate_keypair = lambda fake=Fake: fake
        message = handshake.write(bench.peer.own_hello().pack())
        assert message[:32] == point
        with bench.expect("drop.auth"):
            bench.peer.raw(Header(HELLO, 0, 0).pack() + message)
    assert bench.peer.offer()[0][HEADER:][:32] != bytes(32)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01\x01\x01",
        Hello(0, 1, 1, 1).pack(),  # no session to answer to
        Hello(1, 1, 1, 1, serial="").pack(),
        Hello(1, 1, 1, 1, wire_min=2, wire_max=1).pack(),
        Hello(1, 1, 1, 1, model="a\x1b[2Jb").pack(),  # for somebody's terminal
        Hello(1, 1, 1, 1, version="x" * 64).pack(),
        Hello(1, 1, 1, 1).pack()[:-1],
    ],
)
def test_offer_that_makes_no_sense(bench: Bench, payload: bytes) -> None:
    with bench.expect("drop.malformed"):
        bench.peer.raw(bench.peer.offer(payload=payload)[0])


def test_offer_of_a_later_version(bench: Bench) -> None:
    """More bytes and flags than we know are for those who know them."""
    hello = bench.peer.own_hello(wire_max=9, flags=0xFD)
    datagram, handshake, _ = bench.peer.offer(hello, payload=hello.pack() + b"more")
    bench.peer.raw(datagram)
    bench.peer.session = bench.peer.understand(bench.peer.wait_kind(WELCOME), handshake, hello)
    bench.usable()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wire_min": 2, "wire_max": 5}, "no common protocol version"),
        ({"serial": "FW-2"}, "our own serial"),
        ({"boot_id": None}, "our own echo"),
    ],
)
def test_offer_that_we_do_not_accept(bench: Bench, changes: dict, words: str) -> None:
    assert bench.peer.session is not None
    if "boot_id" in changes:
        changes = {"boot_id": bench.peer.session.theirs.boot_id}
    with bench.expect("drop.hello"):
        bench.peer.raw(bench.peer.offer(bench.peer.own_hello(**changes))[0])
    told = [e["reason"] for e in bench.side.events() if e["type"] == "hello.refused"]
    assert len(told) == 1
    assert words in told[0]


def test_offer_to_one_who_offers(beginner: Bench) -> None:
    beginner.connect()
    with beginner.expect("drop.hello"):
        beginner.peer.raw(beginner.peer.offer()[0])


def test_welcome_that_nobody_asked_for(bench: Bench) -> None:
    assert bench.peer.session is not None
    with bench.expect(session=3):
        for session in (0, NOBODY, bench.peer.session.remote):
            bench.peer.raw(Header(WELCOME, session, 0).pack() + secrets.token_bytes(120))


def test_welcome_to_no_offer(beginner: Bench) -> None:
    beginner.connect()
    with beginner.expect(session=2):
        for session in (0, NOBODY):
            beginner.peer.raw(Header(WELCOME, session, 0).pack() + secrets.token_bytes(120))


def test_forged_welcome_does_not_spoil_the_true_one(beginner: Bench) -> None:
    handshake, theirs = beginner.peer.wait_offer()
    true, session = beginner.peer.welcome(handshake, theirs)
    head = true[:HEADER]
    before = beginner.drops()
    forged = [
        head + secrets.token_bytes(len(true) - HEADER),
        head + true[HEADER : HEADER + 32] + secrets.token_bytes(80),
        head + bytes(32) + true[HEADER + 32 :],
        true[:-1],
        true[:-1] + bytes([true[-1] ^ 1]),
        true + b"\0",
    ]
    for datagram in forged:
        beginner.peer.raw(datagram)
    beginner.peer.raw(true)
    beginner.peer.session = session
    beginner.usable()
    assert beginner.drops() - before == {"drop.auth": len(forged)}
    assert beginner.stat("handshakes") == 1


def test_welcome_that_we_do_not_accept(beginner: Bench) -> None:
    handshake, theirs = beginner.peer.wait_offer()
    hello = beginner.peer.own_hello(serial="FW-1")
    beginner.peer.raw(beginner.peer.welcome(handshake, theirs, hello)[0])
    until(lambda: beginner.stat("drop.hello") == 1, 2, "the refusal")
    assert beginner.stat("handshakes") == 0
    assert beginner.side.engine.peer() is None
    # that offer is spent; the next one is as good as any
    beginner.connect()
    beginner.usable()


# -- recorded --------------------------------------------------------------------


def test_the_same_offer_gets_the_same_answer(bench: Bench) -> None:
    datagram, handshake, hello = bench.peer.offer()
    bench.peer.drain()
    answers = []
    with bench.expect():
        for link in (0, 1, 0):
            bench.peer.raw(datagram, link)
            answers.append(bench.peer.wait_kind(WELCOME))
    assert len(set(answers)) == 1
    assert bench.peer.understand(answers[0], handshake, hello).theirs.serial == "FW-2"


def test_recorded_offer_of_this_boot(bench: Bench) -> None:
    old = bench.peer.offer()[0]
    bench.peer.reboot()
    older = bench.peer.offer()[0]
    current = bench.peer.connect()
    bench.fence()
    with bench.expect("drop.replay"):
        bench.peer.raw(older)
    # an offer that came late after a later one was answered is of no use either
    datagram, _, _ = bench.peer.offer()
    bench.peer.raw(datagram)
    bench.peer.wait_kind(WELCOME)
    with bench.expect(replay=2):
        bench.peer.raw(current)
        bench.peer.raw(older)
    with bench.expect("drop.replay"):
        bench.peer.raw(old)


def test_recorded_offer_of_an_earlier_boot(mortal: Bench) -> None:
    """While we hear the peer it is refused; when it is silent it is answered, for its
    clock may be wrong, but whoever sends it cannot use the answer."""
    recorded = mortal.peer.offer()[0]
    mortal.peer.reboot()
    current = mortal.peer.connect()
    with mortal.expect("drop.replay"):
        mortal.peer.control(heartbeat())
        mortal.peer.raw(recorded)
    die(mortal)
    mortal.peer.drain()
    before = mortal.drops()
    mortal.peer.raw(recorded)
    mortal.peer.wait_kind(WELCOME)
    mortal.usable()
    assert mortal.drops() == before
    assert mortal.stat("handshakes") == 2
    # and the answer has not made it forget what this boot has offered
    with mortal.expect("drop.replay"):
        mortal.peer.raw(current)


def test_peer_whose_clock_was_set_back(mortal: Bench) -> None:
    """It may not be locked out for that."""
    mortal.peer.boot_ms -= 86_400_000
    mortal.peer.boot_id ^= 1
    mortal.peer.stamp = 0
    offer = mortal.peer.offer()[0]
    with mortal.expect("drop.replay"):
        mortal.peer.control(heartbeat())
        mortal.peer.raw(offer)
    die(mortal)
    mortal.peer.connect()
    mortal.usable()
    assert mortal.stat("handshakes") == 2


def test_unfinished_handshake_disturbs_nothing(bench: Bench) -> None:
    """A true offer, never followed up: the session in use goes on, stream and all."""
    bench.side.passivate()
    for n in range(20):
        bench.peer.raw(bench.peer.offer()[0])
        bench.peer.data(udp(FLOW_NEW, n))
        bench.peer.control(heartbeat(), status(mode=ACTIVE))
    until(lambda: len(bench.side.node.conntrack()) == 20, 2, "all connections")
    bench.usable()
    assert bench.stat("handshakes") == 1


@pytest.mark.parametrize("kind", [CONTROL, DATA])
def test_first_datagram_under_new_keys_ends_the_old_session(bench: Bench, kind: int) -> None:
    old = bench.peer.session
    assert old is not None
    datagram, handshake, hello = bench.peer.offer()
    bench.peer.drain()
    bench.peer.raw(datagram)
    new = bench.peer.understand(bench.peer.wait_kind(WELCOME), handshake, hello)
    bench.fence()  # still under the old keys
    # forged datagrams for the session that waits confirm nothing
    with bench.expect(auth=2):
        for each in (CONTROL, DATA):
            bench.peer.raw(Header(each, new.remote, 0).pack() + secrets.token_bytes(60))
    bench.peer.session = new
    bench.peer.raw(bench.peer.seal(kind, heartbeat() if kind == CONTROL else udp(FLOW_NEW, 1)))
    until(lambda: bench.stat("handshakes") == 2, 2, "the new session")
    bench.usable()
    bench.peer.session = replace(old)
    before = bench.drops()
    bench.peer.control(heartbeat())
    until(lambda: bench.drops() - before == {"drop.session": 1}, 2, "the end of the old one")


# -- far too many ----------------------------------------------------------------


def flood(bench: Bench, datagrams: list[bytes], rounds: int) -> None:
    for _ in range(rounds):
        for datagram in datagrams:
            bench.peer.raw(datagram)


def test_flood_of_forged_offers(mortal: Bench) -> None:
    """Few are computed; heartbeats go on, and nobody is declared dead."""
    forged = [Header(HELLO, 0, 0).pack() + secrets.token_bytes(120) for _ in range(50)]
    before = mortal.drops()
    for _ in range(40):
        flood(mortal, forged, 1)
        mortal.peer.control(heartbeat(), status())
    mortal.usable()
    got = mortal.drops() - before
    assert got["drop.auth"] + got["drop.rate"] == got.total() == 2000
    assert 0 < got["drop.auth"] < 400
    assert not mortal.side.saw("peer.dead")
    assert not mortal.side.saw("slip")


def test_several_keys_do_not_cost_a_flood_more(mortal: Bench) -> None:
    """A forged offer is tried with each key, by hashes only; none more are taken."""
    mortal.side.engine.set_keys(mortal.peer.psk + secrets.token_bytes(64))
    mortal.usable()  # the io thread has come round, and has them
    forged = [Header(HELLO, 0, 0).pack() + secrets.token_bytes(120) for _ in range(50)]
    before, tried = mortal.drops(), mortal.stat("keys.tried")
    for _ in range(20):
        flood(mortal, forged, 1)
        mortal.peer.control(heartbeat(), status())
    mortal.usable()
    got = mortal.drops() - before
    assert got["drop.auth"] + got["drop.rate"] == got.total() == 1000
    assert 0 < got["drop.auth"] < 200
    assert mortal.stat("keys.tried") - tried == 3 * got["drop.auth"]


def test_flood_of_true_offers(bench: Bench) -> None:
    """By somebody who has the key: bounded as well, and the session stays."""
    offers = [bench.peer.offer()[0] for _ in range(300)]
    before = bench.drops()
    for datagram in offers:
        bench.peer.raw(datagram)
    bench.usable()
    got = bench.drops() - before
    assert got["drop.rate"] == got.total() > 200
    assert bench.stat("handshakes") == 1


def test_flood_does_not_keep_a_beginner_from_its_answer(beginner: Bench) -> None:
    """What costs nothing to refuse does not use up the handshakes we are willing to
    compute: here 2000 offers, and answers to nothing, between an offer and its answer."""
    handshake, theirs = beginner.peer.wait_offer()
    datagram, session = beginner.peer.welcome(handshake, theirs)
    junk = [Header(kind, NOBODY, 0).pack() + secrets.token_bytes(120) for kind in (HELLO, WELCOME)]
    flood(beginner, junk, 1000)
    beginner.peer.raw(datagram)
    beginner.peer.session = session
    beginner.usable()
    assert beginner.drops() == {
        **dict.fromkeys(beginner.drops(), 0),
        "drop.hello": 1000,
        "drop.session": 1000,
    }


def test_silence_is_no_reason_for_new_keys(mortal: Bench) -> None:
    """A link that was cut: the session and its numbers are as before."""
    mortal.peer.control(heartbeat())
    die(mortal)
    with pytest.raises(Silence):
        mortal.peer.wait_kind(HELLO, 0.3)
    mortal.usable()
    assert mortal.stat("handshakes") == 1
    assert mortal.side.engine.peer()["alive"]


def test_a_beginner_that_hears_nothing_offers_but_keeps_its_session(lab: Lab) -> None:
    bench = Bench(lab, 1, dead_after_ms=SILENCE_MS)
    try:
        bench.connect()
        bench.side.passivate()
        die(bench)
        handshake, theirs = bench.peer.wait_offer()
        kept = bench.peer.session
        bench.peer.raw(bench.peer.welcome(handshake, theirs)[0])
        bench.peer.session = kept
        bench.usable()
        assert bench.stat("handshakes") == 1
        # but a peer that lost it (a new boot) is believed
        bench.peer.reboot()
        die(bench)
        bench.peer.accept()
        bench.usable()
        assert bench.stat("handshakes") == 2
    finally:
        bench.close()
