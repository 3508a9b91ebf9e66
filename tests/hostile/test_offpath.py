"""An off-path sender: every message there is, from everybody who must not be believed.

Of each message from each sender exactly one counter tells, and nothing else changes: no
entry of the kernel, nothing that the engine knows of its peer, its links' session or its
stream.  The records are those of csrc/hak_wire.h, so a new one is covered by being there.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hak2k.lab import Lab, until
from tests.hostile.bench import Bench
from tests.hostile.k2k import (
    CONTROL,
    DATA,
    FLOW_NEW,
    HEADER,
    HELLO,
    PORT,
    VERSION,
    WELCOME,
    Handshake,
    Header,
    Keys,
    Session,
    record,
    udp,
)
from tests.hostile.test_records import BODIES, RECORDS

WIRE = Path(__file__).resolve().parents[2] / "csrc" / "hak_wire.h"
TYPES = {
    name: int(number)
    for name, number in re.findall(r"^\tHAK_REC_(\w+) = (\d+),", WIRE.read_text(), re.MULTILINE)
}


@dataclass(frozen=True)
class Message:
    kind: int
    payload: bytes = b""


MESSAGES = {
    "HELLO": Message(HELLO),
    "WELCOME": Message(WELCOME),
} | {
    # One that this file does not know bears something, and is refused all the same.
    name: Message(
        CONTROL if number >= 64 else DATA,
        (RECORDS | BODIES).get(name) or record(number, bytes(16)),
    )
    for name, number in TYPES.items()
}


def test_every_record_is_here() -> None:
    assert len(MESSAGES) >= 19
    # of one type there may be several forms: "NAME with ..."
    assert {name.split()[0] for name in (*RECORDS, *BODIES)} <= set(TYPES)


class Victim:
    """An engine in a session with its true peer, and what an eavesdropper has of it: the
    session's number, which is not secret, and datagrams of this session and of one before."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.bench = Bench(lab, number)
        self.peer = self.bench.peer
        self.bench.connect()
        assert self.peer.session is not None
        self.old = self.peer.session
        self.old_offer = self.peer.offer()[0]
        self.peer.reboot()
        self.last_offer = self.reconnect()
        self.bench.passivate()
        for n in range(3):
            self.peer.data(udp(FLOW_NEW, n))
        until(lambda: len(self.bench.side.node.conntrack()) == 3, 2, "the connections")

    def reconnect(self) -> bytes:
        if self.bench.answers:
            return self.peer.connect()
        self.bench.connect()
        return self.peer.offer()[0]

    @property
    def session(self) -> Session:
        assert self.peer.session is not None
        return self.peer.session

    def true(self, message: Message) -> bytes:
        """As the peer would say it next."""
        if message.kind == HELLO:
            return self.peer.offer()[0]
        if message.kind == WELCOME:
            # The session of an offer that is not open: there is no other one to be had.
            body = Handshake(self.peer.psk, 7, True).write(bytes(60))
            return Header(WELCOME, self.session.remote ^ 1, 0).pack() + body
        return self.peer.seal(message.kind, message.payload, self.session.sent[message.kind])

    def facts(self) -> dict[str, Any]:
        side = self.bench.side
        peer, stream = dict(side.engine.peer()), dict(side.engine.stream())
        for changing in ("heard_ns_ago", "limit_ns", "longest_ns"):
            del peer[changing]
        return {
            "table": {k: (e.identity(), e.mark) for k, e in side.node.conntrack().items()},
            "peer": peer,
            "stream": {k: v for k, v in stream.items() if not k.startswith("lag")},
            "counters": {
                k: v
                for k, v in side.stats.items()
                if k.startswith(("rx.", "apply.", "sync.", "capture.", "handshakes"))
            },
        }


Sender = Callable[[Victim, Message], tuple[bytes, str]]


def wrong_address(victim: Victim, message: Message) -> tuple[bytes, str]:
    return victim.true(message), "address"


def changed(datagram: bytes, **header: int) -> bytes:
    return replace(Header.unpack(datagram), **header).pack() + datagram[HEADER:]


def wrong_version(victim: Victim, message: Message) -> tuple[bytes, str]:
    return changed(victim.true(message), version=VERSION + 1), "version"


def wrong_cluster(victim: Victim, message: Message) -> tuple[bytes, str]:
    return changed(victim.true(message), cluster=8), "cluster"


def wrong_key(victim: Victim, message: Message) -> tuple[bytes, str]:
    """From the right address, with the number of the session in use."""
    if message.kind == HELLO:
        return victim.peer.offer(psk=secrets.token_bytes(32))[0], hello(victim, "auth")
    if message.kind == WELCOME:
        return victim.true(message), "session"
    keys = Keys(secrets.token_bytes(32), secrets.token_bytes(32))
    head = Header(message.kind, victim.session.remote, victim.session.sent[message.kind])
    return keys.seal(head, message.payload), "auth"


def other_lane(victim: Victim, message: Message) -> tuple[bytes, str]:
    """The right seal of another kind of datagram."""
    if message.kind in (HELLO, WELCOME):
        sealed = Message(CONTROL, BODIES["STATUS"])
        forged = changed(victim.true(sealed), kind=message.kind)
        return forged, hello(victim, "auth") if message.kind == HELLO else welcome(victim)
    return changed(victim.true(message), kind=CONTROL + DATA - message.kind), "auth"


def old_session(victim: Victim, message: Message) -> tuple[bytes, str]:
    """True once, under a session that is over."""
    if message.kind == HELLO:
        return victim.old_offer, hello(victim, "replay")
    if message.kind == WELCOME:
        return changed(victim.true(message), session=victim.old.remote), "session"
    head = Header(message.kind, victim.old.remote, 5)
    return victim.old.keys.seal(head, message.payload), "session"


def old_keys(victim: Victim, message: Message) -> tuple[bytes, str]:
    """The same with the number of the session in use, which is no secret."""
    datagram, why = old_session(victim, message)
    if message.kind in (HELLO, WELCOME):
        return datagram, why
    return changed(datagram, session=victim.session.remote), "auth"


def replayed(victim: Victim, message: Message) -> tuple[bytes, str]:
    """Authentic in this very session, under a number that was used."""
    if message.kind == HELLO:
        if victim.bench.answers:  # or the one answered last would be answered again
            victim.peer.raw(victim.peer.offer()[0])
            victim.peer.wait_kind(WELCOME)
        return victim.last_offer, hello(victim, "replay")
    if message.kind == WELCOME:
        return victim.true(message), "session"
    why = "duplicate" if message.kind == DATA else "replay"
    return victim.peer.seal(message.kind, message.payload, 0), why


def hello(victim: Victim, why: str) -> str:
    """Who begins handshakes himself refuses every offer."""
    return why if victim.bench.answers else "hello"


def welcome(victim: Victim) -> str:
    """One that bears the session in use says nothing new to who began it: its answer comes
    on every link.  It is ignored, and not counted."""
    return "session" if victim.bench.answers else ""


SENDERS: list[Sender] = [
    wrong_address, wrong_version, wrong_cluster, wrong_key, other_lane, old_session, old_keys,
    replayed,
]  # fmt: skip


@pytest.fixture(scope="module", params=[2, 1], ids=["answers", "begins"])
def victim(laboratory: Lab, request: pytest.FixtureRequest) -> Iterator[Victim]:
    for node in laboratory.fw:
        node.ct.flush()
    made = Victim(laboratory, request.param)
    try:
        yield made
    finally:
        made.bench.close()


@pytest.fixture(scope="module")
def elsewhere(laboratory: Lab, victim: Victim) -> Iterator[list[tuple[str, socket.socket]]]:
    """Sockets that are not the peer's: another address, another port, both."""
    peer = victim.peer
    own = peer.sockets[0].getsockname()[0]
    # not the same one on both: the victim would take it for its own
    stranger = own + "1"
    peer.node.rtnl.add_address("ha0", f"{stranger}/24")
    ends = [(stranger, PORT), (own, PORT + 1), (stranger, PORT + 1)]
    made = [(f"{a}:{p}", peer.socket(a, p, "ha0")) for a, p in ends]
    yield made
    for _, each in made:
        each.close()


def try_all(victim: Victim, sender: Sender, send: Callable[[bytes], object]) -> None:
    bench = victim.bench
    bench.fence()
    before = victim.facts()
    for name, message in MESSAGES.items():
        datagram, why = sender(victim, message)
        drops = bench.drops()
        send(datagram)
        bench.fence()
        want = {f"drop.{why}": 1} if why else {}
        assert Counter(bench.drops() - drops) == want, name
        assert victim.facts() == before, name
    bench.usable()
    assert not bench.side.saw("peer.dead")


@pytest.mark.parametrize("sender", SENDERS[1:], ids=lambda sender: sender.__name__)
def test_from_the_right_address(victim: Victim, sender: Sender) -> None:
    try_all(victim, sender, victim.peer.raw)


@pytest.mark.parametrize("end", range(3), ids=["address", "port", "both"])
def test_from_elsewhere(
    victim: Victim, elsewhere: list[tuple[str, socket.socket]], end: int
) -> None:
    target = (victim.peer.targets[0], PORT)
    try_all(victim, wrong_address, lambda datagram: elsewhere[end][1].sendto(datagram, target))
