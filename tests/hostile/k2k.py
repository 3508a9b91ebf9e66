"""K2K in Python: a fake peer for a real engine, sharing no line of code with it.

The handshake is the package noiseprotocol's, the sealing cryptography's AESGCM; what
is written here is the header, the nonce, the bodies, and a `Peer` that is polite by
default and can be made to say anything.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from noise.connection import Keypair, NoiseConnection

from hak2k.lab import Node

VERSION, PORT, HEADER, TAG = 1, 44242, 16, 16
DGRAM_MAX = 1432
HELLO, WELCOME, DATA, CONTROL = 1, 2, 3, 4
KINDS = (HELLO, WELCOME, DATA, CONTROL)
NOISE = b"Noise_NNpsk0_25519_AESGCM_SHA256"

FLOW_NEW, FLOW_UPDATE, FLOW_DESTROY, FLOW_SYNC = 1, 2, 3, 4
EXP_NEW, EXP_DESTROY = 8, 9
SYNC_BEGIN, SYNC_END, HANDOVER, SYNC_LOST = 16, 17, 18, 19
RECON_BEGIN, RECON_LISTED, RECON_CLOSE, RECON_SUMS, RECON_MARKED, OFFERED = range(20, 26)
RECON_BRIEF = 26
HEARTBEAT, STATUS, ACK, NACK, SYNC_WANT, FLOW_WANT, BYE = range(64, 71)
RECON_WANT, RECON_CLOSE_WANT, RECON_ASK, RECON_MARK, VERIFY, TABLE = range(71, 77)
PREPARE, ARMED, OFFER, LINKS, RECON_ASK_BRIEF = range(77, 82)

ENCRYPT, KEEP = 1, 2  # flags of HELLO and WELCOME
STARTING, PASSIVE, ACTIVE, FAULT = range(4)
UDP = 17

# s; ends a wait in vain: what should not come is waited for shorter, and said so.
LONG = 10.0


# -- datagrams -------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    kind: int
    session: int
    seq: int
    cluster: int = 7
    version: int = VERSION

    def pack(self) -> bytes:
        return struct.pack(">BBHIQ", self.version, self.kind, self.cluster, self.session, self.seq)

    @classmethod
    def unpack(cls, datagram: bytes) -> Header:
        version, kind, cluster, session, seq = struct.unpack(">BBHIQ", datagram[:HEADER])
        return cls(kind, session, seq, cluster, version)


def nonce(kind: int, seq: int) -> bytes:
    return struct.pack(">IQ", kind, seq)


@dataclass(frozen=True)
class Keys:
    """Of one session, as one of its ends has them."""

    send: bytes
    receive: bytes
    encrypt: bool = True

    def seal(self, header: Header, payload: bytes) -> bytes:
        head, iv = header.pack(), nonce(header.kind, header.seq)
        if self.encrypt:
            return head + AESGCM(self.send).encrypt(iv, payload, head)
        return head + payload + AESGCM(self.send).encrypt(iv, b"", head + payload)

    def open(self, datagram: bytes) -> tuple[Header, bytes]:
        """Raises cryptography.exceptions.InvalidTag."""
        header = Header.unpack(datagram)
        head, rest = datagram[:HEADER], datagram[HEADER:]
        iv = nonce(header.kind, header.seq)
        if self.encrypt:
            return header, AESGCM(self.receive).decrypt(iv, rest, head)
        payload, tag = rest[:-TAG], rest[-TAG:]
        AESGCM(self.receive).decrypt(iv, tag, head + payload)
        return header, payload


# -- records ---------------------------------------------------------------------


def record(kind: int, body: bytes = b"") -> bytes:
    if len(body) < 255:
        return struct.pack(">BB", kind, len(body)) + body
    return struct.pack(">BBH", kind, 255, len(body)) + body


def records(payload: bytes) -> list[tuple[int, bytes]]:
    found = []
    while payload:
        kind, n, at = payload[0], payload[1], 2
        if n == 255:
            n, at = struct.unpack(">H", payload[2:4])[0], 4
        found.append((kind, payload[at : at + n]))
        payload = payload[at + n :]
    return found


def heartbeat(
    link: int = 0, sent: int = 1, echo: int = 0, hold: int = 0, following: int = 0, base: int = 0
) -> bytes:
    return record(HEARTBEAT, struct.pack(">BQQIQQ", link, sent, echo, hold, following, base))


def status(
    mode: int = PASSIVE, forced: int = 0, quality: int = 100, state: int = 2, term: int = 1
) -> bytes:
    return record(STATUS, struct.pack(">BBBBIQ", mode, forced, quality, state, term, 1))


def ack(following: int, applied: int) -> bytes:
    return record(ACK, struct.pack(">QQ", following, applied))


def nack(*ranges: tuple[int, int]) -> bytes:
    return record(NACK, b"".join(struct.pack(">QH", first, count) for first, count in ranges))


def recon(kind: int, number: int, entries: int = 0, bits: int = 0, brief: bool = False) -> bytes:
    """BEGIN, LISTED, CLOSE, MARKED, WANT, CLOSE_WANT of round `number`."""
    return record(kind, struct.pack(">IIB", number, entries, bits) + b"\1" * brief)


def recon_sums(number: int, shift: int, first: int, sums: list[int]) -> bytes:
    size = "Q" if shift == 12 else "I"
    return record(RECON_SUMS, struct.pack(f">IBI{len(sums)}{size}", number, shift, first, *sums))


def recon_brief(number: int, shift: int, first: int, sums: list[int], size: int = 2) -> bytes:
    head = struct.pack(">IBIB", number, shift, first, size)
    return record(RECON_BRIEF, head + b"".join(n.to_bytes(size, "big") for n in sums))


def recon_ask(number: int, shift: int, nodes: list[int], kind: int = RECON_ASK) -> bytes:
    return record(kind, struct.pack(f">IB{len(nodes)}I", number, shift, *nodes))


def recon_mark(number: int, chunk: int, groups: dict[int, int]) -> bytes:
    """groups: a group's number to the bits of its 16 slots."""
    pairs = b"".join(struct.pack(">IH", group, slots) for group, slots in groups.items())
    return record(RECON_MARK, struct.pack(">II", number, chunk) + pairs)


def verify(number: int, repair: bool = True) -> bytes:
    return record(VERIFY, struct.pack(">IB", number, repair))


def table(equal: int = 2, verified: int = 0, as_of: int = 0, *numbers: int) -> bytes:
    """numbers: age in ms, entries, missing, extra, different, repaired."""
    six = (*numbers, *[0] * 6)[:6]
    return record(TABLE, struct.pack(">BIQ6I", equal, verified, as_of, *six))


def sync_want(generation: int, *numbers: int) -> bytes:
    """numbers: the round whose marks are meant, or 0; the round that it is summed up as."""
    return record(SYNC_WANT, struct.pack(f">{1 + len(numbers)}I", generation, *numbers))


def udp(kind: int, number: int, fields: bytes = b"") -> bytes:
    """A record of UDP connection `number`: 10.71.0.10 to 10.72.0.10, from port 10000 on."""
    shape = 2 << 3  # UDP over IPv4, no zone
    ends = socket.inet_aton("10.71.0.10") + socket.inet_aton("10.72.0.10")
    return record(kind, bytes([shape]) + ends + struct.pack(">HH", 10000 + number, 53) + fields)


# -- the handshake ---------------------------------------------------------------


def prologue(cluster: int) -> bytes:
    return b"K2K" + bytes([VERSION]) + struct.pack(">H", cluster)


@dataclass(frozen=True)
class Hello:
    """What HELLO and WELCOME say once they are open."""

    session: int
    boot_id: int
    boot_ms: int
    stamp: int
    serial: str = "FAKE"
    model: str = "python"
    version: str = "test"
    wire_min: int = VERSION
    wire_max: int = VERSION
    flags: int = 1
    priority: int = 0

    def pack(self) -> bytes:
        names = (name.encode() for name in (self.serial, self.model, self.version))
        return struct.pack(
            ">BBBIQQQH", self.wire_min, self.wire_max, self.flags, self.session,
            self.boot_id, self.boot_ms, self.stamp, self.priority,
        ) + b"".join(bytes([len(name)]) + name for name in names)  # fmt: skip

    @classmethod
    def unpack(cls, payload: bytes) -> Hello:
        wire_min, wire_max, flags, *numbers = struct.unpack(">BBBIQQQH", payload[:33])
        at, names = 33, []
        for _ in range(3):
            end = at + 1 + payload[at]
            names.append(payload[at + 1 : end].decode())
            at = end
        return cls(*numbers[:4], *names, wire_min, wire_max, flags, numbers[4])


class Handshake:
    """One end of Noise NNpsk0."""

    def __init__(
        self, psk: bytes, cluster: int, initiator: bool, ephemeral: bytes | None = None
    ) -> None:
        self.noise = NoiseConnection.from_name(NOISE)
        self.noise.set_psks(psk)
        self.noise.set_prologue(prologue(cluster))
        if initiator:
            self.noise.set_as_initiator()
        else:
            self.noise.set_as_responder()
        if ephemeral is not None:
            self.noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        self.noise.start_handshake()

    def write(self, payload: bytes) -> bytes:
        return bytes(self.noise.write_message(payload))

    def read(self, message: bytes) -> bytes:
        return bytes(self.noise.read_message(message))

    def keys(self, encrypt: bool = True) -> Keys:
        inner = self.noise.noise_protocol
        return Keys(inner.cipher_state_encrypt.k, inner.cipher_state_decrypt.k, encrypt)


# -- a node ----------------------------------------------------------------------


class Silence(AssertionError):
    """Nothing of that kind came in time."""


@dataclass
class Session:
    """What this end knows of one."""

    keys: Keys
    local: int  # what datagrams to us bear
    remote: int  # what datagrams from us bear
    theirs: Hello
    sent: dict[int, int] = field(default_factory=lambda: {DATA: 0, CONTROL: 0})


class Peer:
    """A fake node, at the addresses of the laboratory's firewall `number`.

    It does nothing by itself: no heartbeat, no acknowledgement, no answer.
    """

    def __init__(
        self, node: Node, number: int, psk: bytes, *, cluster: int = 7, encrypt: bool = True
    ) -> None:
        self.node = node
        self.psk = psk
        self.cluster = cluster
        self.encrypt = encrypt
        self.boot_id = secrets.randbits(64)
        self.boot_ms = time.time_ns() // 1_000_000
        self.stamp = 0
        self.targets = [f"192.168.{net}.{3 - number}" for net in (69, 70)]
        self.sockets = [
            self.socket(f"192.168.{net}.{number}", PORT, device)
            for net, device in ((69, "ha0"), (70, "ha1"))
        ]
        self.session: Session | None = None
        self.strangers: list[bytes] = []  # datagrams nobody waited for

    def socket(self, address: str, port: int, device: str) -> socket.socket:
        made = self.node.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        made.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
        made.bind((address, port))
        made.setblocking(False)
        return made

    def close(self) -> None:
        for each in self.sockets:
            each.close()

    def reboot(self) -> None:
        """A new start of the same node: what it knew is gone."""
        self.boot_id = secrets.randbits(64)
        self.boot_ms += 1
        self.stamp = 0
        self.session = None

    # -- raw -----------------------------------------------------------------------

    def raw(self, datagram: bytes, link: int = 0) -> None:
        self.sockets[link].sendto(datagram, (self.targets[link], PORT))

    def receive(self, timeout: float = LONG) -> bytes:
        """The next datagram on any link."""
        ready = select.select(self.sockets, [], [], timeout)[0]
        if not ready:
            raise Silence("no datagram")
        return bytes(ready[0].recv(65536))

    def drain(self) -> None:
        try:
            while True:
                self.receive(0)
        except Silence:
            pass

    def wait_kind(self, kind: int, timeout: float = LONG) -> bytes:
        """The next datagram of that kind; what comes before is dropped."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Silence(f"no datagram of kind {kind}")
            datagram = self.receive(left)
            if Header.unpack(datagram).kind == kind:
                return datagram

    # -- handshakes ----------------------------------------------------------------

    def own_hello(self, **changes: Any) -> Hello:
        self.stamp += 1
        hello = Hello(
            session=secrets.randbelow((1 << 32) - 1) + 1,
            boot_id=self.boot_id,
            boot_ms=self.boot_ms,
            stamp=self.stamp,
            flags=int(self.encrypt),
        )
        return replace(hello, **changes)

    def offer(
        self, hello: Hello | None = None, *, psk: bytes | None = None, payload: bytes | None = None
    ) -> tuple[bytes, Handshake, Hello]:
        """A HELLO, ready to send, and what is needed to understand its answer."""
        hello = hello or self.own_hello()
        handshake = Handshake(psk or self.psk, self.cluster, True)
        message = handshake.write(hello.pack() if payload is None else payload)
        return Header(HELLO, 0, 0, self.cluster).pack() + message, handshake, hello

    def understand(self, welcome: bytes, handshake: Handshake, hello: Hello) -> Session:
        theirs = Hello.unpack(handshake.read(welcome[HEADER:]))
        encrypt = self.encrypt or bool(theirs.flags & 1)
        return Session(handshake.keys(encrypt), hello.session, theirs.session, theirs)

    def connect(self) -> bytes:
        """Begin a session and confirm it; returns the HELLO that was sent."""
        self.drain()
        datagram, handshake, hello = self.offer()
        self.raw(datagram)
        self.session = self.understand(self.wait_kind(WELCOME), handshake, hello)
        self.control(heartbeat(), status())
        return datagram

    def wait_offer(self, timeout: float = LONG) -> tuple[Handshake, Hello]:
        """A HELLO of a beginning engine, opened."""
        self.drain()
        datagram = self.wait_kind(HELLO, timeout)
        handshake = Handshake(self.psk, self.cluster, False)
        return handshake, Hello.unpack(handshake.read(datagram[HEADER:]))

    def welcome(
        self, handshake: Handshake, theirs: Hello, hello: Hello | None = None
    ) -> tuple[bytes, Session]:
        """The answer to an offer, and the session that comes of it."""
        hello = hello or self.own_hello()
        message = handshake.write(hello.pack())
        keys = handshake.keys(self.encrypt or bool(theirs.flags & 1))
        session = Session(keys, hello.session, theirs.session, theirs)
        return Header(WELCOME, theirs.session, 0, self.cluster).pack() + message, session

    def accept(self) -> None:
        """Answer the engine's offer and take the session into use."""
        datagram, session = self.welcome(*self.wait_offer())
        self.raw(datagram)
        self.session = session
        self.wait_payload(CONTROL)
        self.control(heartbeat(), status())

    # -- under keys ----------------------------------------------------------------

    def seal(self, kind: int, payload: bytes, seq: int | None = None, **header: Any) -> bytes:
        """A datagram of this session, with the next sequence of its kind."""
        assert self.session is not None
        if seq is None:
            seq = self.session.sent[kind]
            self.session.sent[kind] += 1
        made = Header(kind, self.session.remote, seq, self.cluster)
        return self.session.keys.seal(replace(made, **header), payload)

    def control(self, *parts: bytes, link: int = 0) -> bytes:
        datagram = self.seal(CONTROL, b"".join(parts))
        self.raw(datagram, link)
        return datagram

    def data(self, *parts: bytes, link: int = 0) -> bytes:
        datagram = self.seal(DATA, b"".join(parts))
        self.raw(datagram, link)
        return datagram

    def wait_payload(self, kind: int, timeout: float = LONG) -> tuple[Header, bytes]:
        """The next datagram of that kind in this session, opened."""
        assert self.session is not None
        deadline = time.monotonic() + timeout
        while True:
            datagram = self.wait_kind(kind, max(0.0, deadline - time.monotonic()))
            if Header.unpack(datagram).session == self.session.local:
                return self.session.keys.open(datagram)

    def wait_record(self, kind: int, timeout: float = LONG) -> bytes:
        """The body of the next record of that type, in CONTROL or in DATA."""
        carrier = CONTROL if kind >= HEARTBEAT else DATA
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            for found, body in records(self.wait_payload(carrier, left)[1]):
                if found == kind:
                    return body
