"""A real pair at work, and somebody else on the link."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hak2k.lab import Entry, Lab, Tuple, until
from hak2k.lab.ctnl import CONFIRMED, SEEN_REPLY
from tests.hostile.flood import packet
from tests.hostile.k2k import CONTROL, DATA, HELLO, WELCOME, Header
from tests.pair import Pair, pair

FLOOD = Path(__file__).with_name("flood.py")
SECONDS = 2


def drops(side) -> Counter[str]:
    return Counter({k: v for k, v in side.stats.items() if k.startswith("drop.")})


class Tap:
    """What the real nodes say to each other on ha0."""

    def __init__(self, lab: Lab) -> None:
        self.socket = lab.fw2.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self.socket.bind(("ha0", 0x0800))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
        self.socket.setblocking(False)
        self.seen: list[tuple[str, bytes]] = []

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def collect(self) -> list[tuple[str, bytes]]:
        while True:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return self.seen
            if data[9] == 17:
                self.seen.append((socket.inet_ntoa(data[12:16]), data[28:]))

    def of(self, kind: int, source: str) -> list[bytes]:
        return [d for s, d in self.collect() if s == source and d[1] == kind]


@contextmanager
def flooding(lab: Lab, lines: list[str], seconds: float = SECONDS) -> Iterator[subprocess.Popen]:
    """From fw1's place to fw2 on ha0."""
    process = lab.fw1.popen(
        sys.executable, FLOOD, str(seconds), "192.168.69.1", "192.168.69.2",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write("\n".join(lines))
    process.stdin.close()
    process.stdin = None
    assert process.stdout is not None
    with process.stdout:
        yield process
        assert process.wait(20) == 0


def entry(number: int) -> Entry:
    port = 20000 + number
    return Entry(
        orig=Tuple("10.71.0.10", "10.72.0.10", 17, port, 53),
        reply=Tuple("10.72.0.10", "10.71.0.10", 17, 53, port),
        status=CONFIRMED | SEEN_REPLY,
        timeout=600,
    )


def inject(both: Pair, datagrams: list[bytes]) -> None:
    """As if fw1 had sent them."""
    with both.lab.fw1.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for each in datagrams:
            out.sendto(packet("192.168.69.1", "192.168.69.2", each), ("192.168.69.2", 0))


def garbage(tap: Tap) -> list[str]:
    """One line for each way to be refused, some of them dear; numbers from the clear
    header of what the true peer sends."""
    last = tap.of(CONTROL, "192.168.69.1")[-1]
    session = Header.unpack(last).session
    junk = "?" * 300
    return [
        "?" * 20,
        "?" * 100,
        *(Header(kind, session, 9).pack().hex() + junk for kind in (HELLO, WELCOME)),
        *(Header(kind, session, 9).pack().hex() + junk for kind in (DATA, CONTROL)),
        Header(DATA, session, 9).pack().hex() + "?" * 1400,
        last.hex(),  # replayed
    ]


def test_garbage_at_full_speed(lab: Lab) -> None:
    """Nobody is declared dead by it, and the stream goes on while it lasts."""
    with pair(lab) as both, Tap(lab) as tap:
        until(lambda: tap.of(CONTROL, "192.168.69.1"), 2, "a heartbeat")
        handshakes = [side.stats["handshakes"] for side in (both.a, both.b)]
        before = drops(both.b)
        beats = both.b.stats["heartbeats.received"]
        done = 0
        with flooding(lab, garbage(tap)) as process:
            until(lambda: drops(both.b) != before, 5, "the flood")
            while process.poll() is None:
                lab.fw1.ct.create(*[entry(done + n) for n in range(50)])
                done += 50
                until(lambda n=done: len(lab.fw2.conntrack()) >= n, 10, "replication")
            sent = int(process.stdout.read())
        both.settled()
        assert done >= 200, "hardly anything was replicated meanwhile"
        assert sent > 20_000
        got = drops(both.b) - before
        for name in ("short", "version", "rate", "auth", "replay", "session"):
            assert got[f"drop.{name}"] > 0, name
        assert both.b.stats["heartbeats.received"] - beats >= 15
        for side in (both.a, both.b):
            assert not side.saw("peer.dead")
            assert side.engine.peer()["alive"]
            assert side.stats["stream.lost"] == 0
        assert [side.stats["handshakes"] for side in (both.a, both.b)] == handshakes
        lab.fw1.ct.flush()
        until(lambda: not lab.fw2.conntrack(), 5, "the end of all connections")


def test_recorded_conversation_played_back(lab: Lab) -> None:
    """All that was ever said, from an earlier session and from this one: offers too."""
    with pair(lab) as both, Tap(lab) as tap:
        both.a.close()
        until(lambda: not both.b.engine.peer()["alive"], 3, "the end of fw1")
        both.a.open()
        until(lambda: both.b.stats["handshakes"] >= 2, 5, "the second session")
        both.a.activate()
        both.synced()
        for n in range(20):
            lab.fw1.ct.create(entry(n))
        both.settled()
        until(lambda: len(lab.fw2.conntrack()) == 20, 5, "all connections")
        tape = [d for s, d in tap.collect() if s == "192.168.69.1"]
        kinds = Counter(d[1] for d in tape)
        assert kinds.keys() >= {HELLO, DATA, CONTROL}
        handshakes = [side.stats["handshakes"] for side in (both.a, both.b)]
        before = drops(both.b)
        inject(both, tape)
        until(lambda: (drops(both.b) - before).total() >= len(tape) - kinds[HELLO], 5, "refusals")
        lab.fw1.ct.create(entry(99))
        until(lambda: len(lab.fw2.conntrack()) == 21, 5, "the stream to go on")
        got = drops(both.b) - before
        assert set(got) <= {"drop.session", "drop.replay", "drop.duplicate", "drop.rate"}
        assert got["drop.duplicate"] >= 1
        assert got["drop.replay"] >= 1
        for side in (both.a, both.b):
            assert side.engine.peer()["alive"]
            assert side.engine.stream()["synced"] == (side is both.b)
        assert [side.stats["handshakes"] for side in (both.a, both.b)] == handshakes


def test_offers_played_back_at_full_speed(lab: Lab) -> None:
    """An offer of an earlier boot, thousands of times, into a running session."""
    with pair(lab) as both, Tap(lab) as tap:
        both.a.close()
        until(lambda: not both.b.engine.peer()["alive"], 3, "the end of fw1")
        both.a.open()
        both.a.activate()
        offers = until(lambda: tap.of(HELLO, "192.168.69.1"), 5, "an offer")
        both.meet()  # what b says of the table is from the session before
        until(lambda: both.b.engine.peer()["alive"], 5, "the session that it leads to")
        both.synced()
        handshakes = [side.stats["handshakes"] for side in (both.a, both.b)]
        before = drops(both.b)
        with flooding(lab, [offers[0].hex()], 1.0) as process:
            until(lambda: drops(both.b)["drop.rate"] > 1000, 5, "the flood")
            while process.poll() is None:
                lab.fw1.ct.create(entry(1))
                until(lambda: len(lab.fw2.conntrack()) == 1, 5, "replication")
                lab.fw1.ct.flush()
                until(lambda: not lab.fw2.conntrack(), 5, "the end of the connection")
        assert set(drops(both.b) - before) <= {"drop.rate", "drop.replay"}
        assert not both.b.saw("slip")
        for side in (both.a, both.b):
            assert side.engine.peer()["alive"]
        assert [side.stats["handshakes"] for side in (both.a, both.b)] == handshakes


@pytest.mark.parametrize("encrypt", [False, True])
def test_pair_replicates_in_either_mode(lab: Lab, encrypt: bool) -> None:
    """Without encryption tuples can be read on the link; with it they cannot."""
    with pair(lab, encrypt=encrypt) as both, Tap(lab) as tap:
        lab.fw1.ct.create(*[entry(n) for n in range(30)])
        both.settled()
        until(lambda: len(lab.fw2.conntrack()) == 30, 5, "all connections")
        ends = socket.inet_aton("10.71.0.10") + socket.inet_aton("10.72.0.10")
        told = tap.of(DATA, "192.168.69.1")
        assert told
        assert any(ends in d for d in told) == (not encrypt)
        before = drops(both.b)
        bad = [bytearray(d) for d in told]
        for n, each in enumerate(bad):
            each[16 + n % (len(each) - 16)] ^= 0x40
        inject(both, [bytes(d) for d in bad])
        until(lambda: drops(both.b) - before == {"drop.auth": len(bad)}, 3, "the refusals")
        both.settled()


def test_what_a_former_term_did_not_deliver_stays_undelivered(lab: Lab) -> None:
    """A node publishes, nobody takes it, it steps down; hours later it is active again.
    What it said in between must not be heard then: those connections are long gone."""
    with pair(lab) as both:
        # Both active for a moment: what fw1 says now is refused by fw2.
        both.b.activate()
        lab.fw1.ct.create(*[entry(n) for n in range(10)])
        until(lambda: both.b.stats["drop.role"] > 0, 3, "the refusal")
        both.a.passivate()
        lab.fw1.ct.flush()
        lab.fw2.ct.flush()
        both.synced(both.a)
        both.b.passivate()
        taken = both.b.stats["apply.created"]
        both.a.activate()
        both.synced(both.b)
        both.settled()
        assert both.b.stats["apply.created"] == taken
        assert not lab.fw2.conntrack()
