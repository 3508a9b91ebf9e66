"""What is refused before a byte of content is looked at: the ladder of docs/wire.md.

Each test says which counters move, and by how much; `Bench.expect` sees to it that
nothing else does, that the kernel's table is as before and the session still works.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from dataclasses import replace

import pytest

from hak2k.lab import Lab, until
from tests.hostile.bench import Bench
from tests.hostile.k2k import (
    CONTROL,
    DATA,
    DGRAM_MAX,
    FLOW_NEW,
    HEADER,
    HELLO,
    KINDS,
    PORT,
    TAG,
    VERSION,
    WELCOME,
    Header,
    Keys,
    heartbeat,
    status,
    udp,
)

FIRST = HEADER + TAG  # the least a datagram can be


def one_of(bench: Bench, kind: int) -> bytes:
    """A datagram of that kind that would be welcome, or at least understood."""
    peer = bench.peer
    assert peer.session is not None
    if kind == HELLO:
        return peer.offer()[0]
    if kind == WELCOME:
        return Header(WELCOME, peer.session.remote ^ 1, 0).pack() + secrets.token_bytes(100)
    return peer.seal(kind, udp(FLOW_NEW, 1) if kind == DATA else heartbeat() + status())


def reason(bench: Bench, datagram: bytes) -> str:
    """The rung of the ladder where a datagram without a valid seal must stop."""
    assert bench.peer.session is not None
    if len(datagram) < FIRST:
        return "drop.short"
    if len(datagram) > DGRAM_MAX:
        return "drop.long"
    head = Header.unpack(datagram)
    if head.version != VERSION:
        return "drop.version"
    if head.kind not in KINDS:
        return "drop.kind"
    if head.cluster != bench.peer.cluster:
        return "drop.cluster"
    if head.kind == WELCOME or (
        head.kind in (DATA, CONTROL) and head.session != bench.peer.session.remote
    ):
        return "drop.session"
    return "drop.auth"


def send_all(bench: Bench, datagrams: list[bytes]) -> Counter[str]:
    for datagram in datagrams:
        bench.peer.raw(datagram)
    return Counter(reason(bench, datagram) for datagram in datagrams)


def moved(want: Counter[str]) -> dict[str, int]:
    return {name.removeprefix("drop."): n for name, n in want.items()}


@pytest.mark.parametrize("kind", [WELCOME, DATA, CONTROL])
def test_every_prefix(bench: Bench, kind: int) -> None:
    datagram = one_of(bench, kind)
    parts = [datagram[:n] for n in range(len(datagram))]
    want = Counter(reason(bench, part) for part in parts)
    assert want["drop.short"] == FIRST
    with bench.expect(**moved(want)):
        send_all(bench, parts)


def test_every_prefix_of_hello(bench: Bench) -> None:
    """Those that are long enough to be looked at are looked at at a bounded rate."""
    datagram = one_of(bench, HELLO)
    before = bench.drops()
    send_all(bench, [datagram[:n] for n in range(len(datagram))])
    bench.usable()
    got = bench.drops() - before
    assert got.pop("drop.short") == FIRST
    assert got.pop("drop.auth") > 0
    assert got.pop("drop.rate") > 0
    assert not got
    assert (bench.drops() - before).total() == len(datagram)


@pytest.mark.parametrize("kind", [DATA, CONTROL])
def test_every_byte_altered(bench: Bench, kind: int, rng: random.Random) -> None:
    """Every bit of the header, one bit of every other byte; the original still does."""
    datagram = one_of(bench, kind)
    bits = [*range(HEADER * 8), *(n * 8 + rng.randrange(8) for n in range(HEADER, len(datagram)))]
    bad = []
    for bit in bits:
        altered = bytearray(datagram)
        altered[bit // 8] ^= 1 << bit % 8
        bad.append(bytes(altered))
    with bench.expect(**moved(Counter(reason(bench, each) for each in bad))):
        send_all(bench, bad)
    before = bench.stat("heartbeats.received")
    bench.peer.raw(datagram)
    if kind == DATA:
        until(lambda: len(bench.side.node.conntrack()) == 1, 2, "the connection")
    else:
        until(lambda: bench.stat("heartbeats.received") > before, 2, "the heartbeat")


def test_version(bench: Bench) -> None:
    with bench.expect(version=255):
        for version in range(256):
            if version != VERSION:
                bench.peer.raw(bench.peer.seal(CONTROL, heartbeat(), 5000, version=version))


def test_kind(bench: Bench) -> None:
    others = [kind for kind in range(256) if kind not in KINDS]
    with bench.expect(kind=len(others)):
        for kind in others:
            # sealed for just that kind: the seal fits
            assert bench.peer.session is not None
            header = Header(kind, bench.peer.session.remote, 0)
            bench.peer.raw(bench.peer.session.keys.seal(header, heartbeat()))


def test_kinds_do_not_share_seals(bench: Bench) -> None:
    """The kind is part of the nonce and of what is authenticated."""
    datagram = bytearray(one_of(bench, CONTROL))
    datagram[1] = DATA
    with bench.expect("drop.auth"):
        bench.peer.raw(bytes(datagram))


def test_cluster(bench: Bench) -> None:
    with bench.expect(cluster=5):
        for cluster in (0, 6, 8, 7 << 8, 65535):
            bench.peer.raw(bench.peer.seal(CONTROL, heartbeat(), 5000, cluster=cluster))


def test_cluster_is_in_the_handshake(bench: Bench) -> None:
    """A HELLO of another cluster whose header was altered on the way."""
    bench.peer.cluster = 8
    hello = bench.peer.offer()[0]
    bench.peer.cluster = 7
    with bench.expect("drop.cluster"):
        bench.peer.raw(hello)
    with bench.expect("drop.auth"):
        bench.peer.raw(Header(HELLO, 0, 0).pack() + hello[HEADER:])


@pytest.mark.parametrize("size", [DGRAM_MAX + 1, 1472, 1473, 9000, 65507])
def test_too_long(bench: Bench, size: int) -> None:
    datagram = one_of(bench, CONTROL)
    with bench.expect("drop.long"):
        bench.peer.raw(datagram + bytes(size - len(datagram)))


def test_the_longest(bench: Bench) -> None:
    """As long as a datagram may be, and all of it counts."""
    filler = b"\xc8\xff" + (DGRAM_MAX - FIRST - 4).to_bytes(2, "big")
    payload = filler.ljust(DGRAM_MAX - FIRST, b"x")
    with bench.expect("drop.record"):
        datagram = bench.peer.data(payload)
        assert len(datagram) == DGRAM_MAX


def test_unknown_session(bench: Bench, rng: random.Random) -> None:
    assert bench.peer.session is not None
    ours = bench.peer.session
    ids = {0, 1, 0xFFFFFFFF, ours.local, ours.remote ^ 1, *(rng.getrandbits(32) for _ in range(50))}
    ids -= {ours.remote}
    with bench.expect(session=len(ids) * 2):
        for session in ids:
            for kind in (DATA, CONTROL):
                bench.peer.raw(bench.peer.seal(kind, heartbeat(), 5000, session=session))


def test_wrong_keys(bench: Bench) -> None:
    session = bench.peer.session
    assert session is not None
    header = Header(CONTROL, session.remote, 5000)
    for keys in (
        Keys(secrets.token_bytes(32), session.keys.receive),
        Keys(session.keys.receive, session.keys.send),  # our own words sent back to us
        Keys(session.keys.send, session.keys.receive, encrypt=False),
    ):
        with bench.expect("drop.auth"):
            bench.peer.raw(keys.seal(header, heartbeat()))


def test_own_datagram_sent_back(bench: Bench) -> None:
    echoes = [bench.peer.wait_kind(CONTROL) for _ in range(3)]
    with bench.expect(session=3):
        for datagram in echoes:
            bench.peer.raw(datagram)
    assert bench.peer.session is not None
    with bench.expect(auth=3):
        for datagram in echoes:
            head = replace(Header.unpack(datagram), session=bench.peer.session.remote)
            bench.peer.raw(head.pack() + datagram[HEADER:])


def test_source(bench: Bench) -> None:
    """Another port, another address, the right address on the wrong link."""
    bench.lab.fw1.rtnl.add_address("ha0", "192.168.69.77/24")
    target = (bench.peer.targets[0], PORT)
    for address, port in (
        ("192.168.69.1", PORT + 1),
        ("192.168.69.77", PORT),
        ("192.168.70.1", PORT + 2),
    ):
        with bench.peer.socket(address, port, "ha0") as other:
            with bench.expect(address=3):
                for kind in (CONTROL, DATA, HELLO):
                    other.sendto(one_of(bench, kind), target)


# -- replay ----------------------------------------------------------------------


def test_replayed_control(bench: Bench) -> None:
    sent = [bench.peer.control(heartbeat(), status()) for _ in range(20)]
    with bench.expect(replay=40):
        for datagram in sent:
            bench.peer.raw(datagram, 0)
            bench.peer.raw(datagram, 1)


def test_control_out_of_order_and_too_old(bench: Bench) -> None:
    old = bench.peer.seal(CONTROL, heartbeat())
    late = bench.peer.seal(CONTROL, heartbeat())
    bench.fence()
    bench.peer.raw(late)
    with bench.expect("drop.replay"):
        bench.peer.raw(late)
    assert bench.peer.session is not None
    bench.peer.session.sent[CONTROL] += 1984  # what the window spans
    with bench.expect("drop.replay"):
        bench.fence()
        bench.peer.raw(old)


def test_replayed_data(bench: Bench) -> None:
    sent = [bench.peer.data(udp(FLOW_NEW, n)) for n in range(20)]
    until(lambda: len(bench.side.node.conntrack()) == 20, 2, "the connections")
    with bench.expect(duplicate=40):
        for datagram in sent:
            bench.peer.raw(datagram, 0)
            bench.peer.raw(datagram, 1)
    # the fate of a connection that is gone: its NEW is heard once
    bench.side.node.ct.flush()
    with bench.expect(duplicate=20):
        for datagram in sent:
            bench.peer.raw(datagram)


def test_waiting_data_is_not_replaced(bench: Bench) -> None:
    """Of a datagram that is held for its turn, another copy is a duplicate."""
    first = bench.peer.seal(DATA, udp(FLOW_NEW, 0))
    second = bench.peer.data(udp(FLOW_NEW, 1))
    with bench.expect(duplicate=2):
        bench.peer.raw(second, 0)
        bench.peer.raw(second, 1)
    bench.peer.raw(first)
    until(lambda: len(bench.side.node.conntrack()) == 2, 2, "both connections")


def test_old_session(bench: Bench) -> None:
    """What was valid in a session that is over."""
    old = [bench.peer.control(heartbeat()), bench.peer.data(udp(FLOW_NEW, 1))]
    unsent = [bench.peer.seal(CONTROL, heartbeat()), bench.peer.seal(DATA, udp(FLOW_NEW, 2))]
    bench.fence()
    bench.peer.reboot()
    bench.connect()
    with bench.expect(session=4):
        for datagram in old + unsent:
            bench.peer.raw(datagram)
    # and with the new session's number on it, which is not secret
    assert bench.peer.session is not None
    with bench.expect(auth=4):
        for datagram in old + unsent:
            head = replace(Header.unpack(datagram), session=bench.peer.session.remote)
            bench.peer.raw(head.pack() + datagram[HEADER:])


def test_window_of_the_stream(bench: Bench) -> None:
    assert bench.peer.session is not None
    done = bench.peer.session.sent[DATA]
    before = bench.drops()
    with bench.expect(window=3):
        for seq in (done + 4096, done + 4097, 2**64 - 1):
            bench.peer.raw(bench.peer.seal(DATA, udp(FLOW_NEW, 1), seq))
    bench.peer.raw(bench.peer.seal(DATA, udp(FLOW_NEW, 1), done + 4095))
    bench.usable()
    assert bench.drops() - before == {"drop.window": 3}


@pytest.mark.parametrize("role", ["idle", "active"])
def test_stream_to_a_node_that_is_not_passive(lab: Lab, role: str) -> None:
    bench = Bench(lab)
    try:
        bench.connect()
        if role == "active":
            bench.side.activate()
        with bench.expect(role=2):
            bench.peer.data(udp(FLOW_NEW, 1))
            bench.peer.data(udp(FLOW_NEW, 2))
    finally:
        bench.close()


def test_data_without_content(bench: Bench) -> None:
    assert bench.peer.session is not None
    seq = bench.peer.session.sent[DATA]
    with bench.expect("drop.malformed"):
        bench.peer.data()
    # the number was not used up: something may still come under it
    bench.peer.raw(bench.peer.seal(DATA, udp(FLOW_NEW, 1), seq))
    until(lambda: len(bench.side.node.conntrack()) == 1, 2, "the connection")
