"""One real engine and one fake peer, and the bookkeeping around a bad datagram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hak2k.lab import Lab, until
from tests.hostile.k2k import CONTROL, DATA, PASSIVE, SYNC_END, Peer, heartbeat, record, status
from tests.pair import Side

PSK = bytes(range(32))


class Bench:
    """An engine at one firewall and a fake peer at the other.

    The engine at fw2 answers handshakes, the one at fw1 begins them.
    """

    def __init__(self, lab: Lab, number: int = 2, *, peer_encrypts: bool = True, **options) -> None:
        self.lab = lab
        self.side = Side(lab.fw[number - 1], number, PSK, **({"dead_after_ms": 60_000} | options))
        self.peer = Peer(lab.fw[2 - number], 3 - number, PSK, encrypt=peer_encrypts)
        self.answers = number == 2
        self.mode = PASSIVE  # what the fake peer says that it is

    def close(self) -> None:
        self.peer.close()
        self.side.close()

    def connect(self) -> None:
        if self.answers:
            self.peer.connect()
        else:
            self.peer.accept()
        until(lambda: self.side.engine.peer() and self.side.engine.peer()["alive"], 2, "a peer")

    def passivate(self) -> None:
        """Take the stream.  The engine refuses it for the moment that its apply thread
        needs to let go of an earlier session, so the first datagram is repeated."""
        self.side.passivate()
        first = self.peer.seal(DATA, record(SYNC_END, bytes(12)))

        def taken() -> bool:
            if self.stat("rx.datagrams") == datagrams:
                self.peer.raw(first)
            self.fence()
            return self.stat("rx.records") > before

        before, datagrams = self.stat("rx.records"), self.stat("rx.datagrams")
        until(taken, 2, "the stream's beginning")

    def stat(self, name: str) -> int:
        return self.side.stats[name]

    def drops(self) -> Counter[str]:
        return Counter({k: v for k, v in self.side.stats.items() if k.startswith("drop.")})

    def fence(self) -> None:
        """All that was sent before, on both links, has been read."""
        for link in (0, 1):
            before = self.stat("heartbeats.received")
            self.peer.control(heartbeat(link=link), status(mode=self.mode), link=link)
            until(lambda n=before: self.stat("heartbeats.received") > n, 3, "the fence")

    def usable(self) -> None:
        """The session works in both directions."""
        self.fence()
        self.peer.drain()
        self.peer.wait_payload(CONTROL)

    @contextmanager
    def expect(self, *names: str, in_session: bool = True, **counts: int) -> Iterator[None]:
        """The body moves these drop counters, each by one or as much as is said, and
        nothing else: no other counter, no entry of the kernel, no session."""
        want = Counter({f"drop.{k}": v for k, v in counts.items()}) + Counter(names)
        before = self.drops()
        table = self.side.node.conntrack()
        handshakes = self.stat("handshakes")
        yield
        if in_session:
            self.fence()
        until(
            lambda: sum((self.drops() - before).values()) >= sum(want.values()),
            3,
            f"{dict(want)}",
            detail=lambda: dict(self.drops() - before),
        )
        if in_session:
            self.usable()
        assert self.drops() - before == want
        assert self.stat("handshakes") == handshakes
        assert {k: e.identity() for k, e in self.side.node.conntrack().items()} == {
            k: e.identity() for k, e in table.items()
        }
