"""One node's replication engine, typed: the public face of the compiled core.

For appliance software that makes its own decisions.  With the daemon this is not
needed; the daemon is one user of it.

    from hak2k import Engine, load_config

    with Engine(load_config("/etc/hak2k/hak2k.toml")) as engine:
        engine.start("passive")             # builds the gate, closed
        ...
        times = engine.promote()            # publish, open the gate, announce
        print(times.gate_ns, engine.statistics()["tx.records"])

        async for event in engine:          # in an asyncio program
            ...                             # or: poll engine.fileno()

Threads: the core's own threads replicate and send heartbeats whatever Python does.
The methods take a lock, so any thread may call them, one at a time; `handover` may
hold it for its whole time-out.

The role is the caller's business: nothing here stops two nodes from both being
active.  Use `peer()` before `promote()`, or use hak2kd.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from hak2k import gate
from hak2k._version import __version__
from hak2k.errors import HakError, InternalError, KernelError, PeerError
from hak2k.model import Forced, Mode, Peer, TableState
from hak2k.settings import Config
from hak2k.swap import natural_timeouts

if TYPE_CHECKING:
    from hak2k._core import Lease, Probe, Watch

Role = Literal["passive", "active"]


class Core(Protocol):
    """What the compiled `hak2k._core.Engine` does; tests bring their own."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    def bye(self) -> None: ...
    def activate(self, term: int) -> dict[str, int]: ...
    def passivate(self, term: int) -> dict[str, int]: ...
    def arm(self, term: int) -> dict[str, int]: ...
    def handover(
        self, term: int, timeout_ms: int, prepare_ms: int = 0
    ) -> dict[str, int] | None: ...
    def gate_is_open(self) -> bool | None: ...
    def announce(self) -> int: ...
    def guard(self, interface: str) -> None: ...
    def lease(self) -> dict[str, Any]: ...
    def sweep(self, natural: dict[int, dict[int, int]]) -> None: ...
    def want_sync(self) -> None: ...
    def verify(self, id: int, repair: bool) -> bool: ...
    def table(self) -> dict[str, Any]: ...
    def set_status(
        self, *, mode: int, forced: int, quality: int, state: int, term: int, since: int
    ) -> None: ...
    def set_link(self, link: int, state: int) -> None: ...
    def set_priority(self, priority: int) -> None: ...
    def set_keys(self, psk: bytes | bytearray) -> None: ...
    def set_local_addresses(self, addresses: Sequence[bytes]) -> None: ...
    def set_announcements(self, items: Sequence[tuple[str, str]]) -> None: ...
    @property
    def event_fd(self) -> int: ...
    def events(self) -> list[dict[str, Any]]: ...
    def peer(self) -> dict[str, Any] | None: ...
    def links(self) -> list[dict[str, Any]]: ...
    def stream(self) -> dict[str, Any]: ...
    def stats(self) -> dict[str, int]: ...
    def table_count(self) -> int: ...
    def table_max(self) -> int: ...


@dataclass(frozen=True, slots=True)
class SwapTimes:
    """How long a change of role took, in nanoseconds; 0: not part of it."""

    total_ns: int
    gate_ns: int
    """The nftables transaction."""
    drain_ns: int = 0
    """Applying what had been received."""
    announce_ns: int = 0
    """Gratuitous ARP and unsolicited NA."""


@dataclass(frozen=True, slots=True)
class HandoverTimes:
    """When, in nanoseconds after its beginning."""

    armed_ns: int
    """The peer's gate was open and announced; 0: it was not, before ours closed."""
    closed_ns: int
    """Ours was closed."""
    applied_ns: int
    """The peer's kernel had all records."""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    type: str
    """"session.up", "peer.dead", "handover" ...; see `hak2k/_core.pyi`."""
    mono_ns: int
    """When, on CLOCK_MONOTONIC."""
    data: Mapping[str, Any]
    """What else the event says."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """The other node, as its handshake and its last heartbeat describe it."""

    serial: str
    model: str
    version: str
    boot_id: int
    """Different for each start of its process."""
    boot_ms: int
    """Unix time in ms of that start, by its clock."""
    priority: int
    wire_min: int
    wire_max: int
    alive: bool
    mode: int
    """0 starting, 1 passive, 2 active, 3 fault."""
    forced: int
    """0 no, 1 active, 2 passive."""
    quality: int
    state: int
    """0 starting, 1 syncing, 2 ready, 3 running, 4 frozen."""
    term: int
    since: int
    """Unix time in ms of its last change of role, by its clock."""
    heard_ns_ago: int
    limit_ns: int
    """The silence that would mean its death now."""
    longest_ns: int
    """The longest silence that did not, since our start."""
    policy_differs: bool = False
    """Whether its [stream] replicates other connections than ours."""

    def judged(self, *, alive: bool) -> Peer:
        """What the election looks at."""
        return Peer(
            serial=self.serial,
            mode=Mode(self.mode),
            forced=Forced(self.forced),
            quality=self.quality,
            priority=self.priority,
            table=TableState(self.state),
            term=self.term,
            alive=alive,
        )


@dataclass(frozen=True, slots=True)
class LinkInfo:
    name: str
    up: bool
    since_ms: int
    """Unix time in ms of the last change."""
    rtt_us: int | None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    role: str
    sequence: int
    """Of the next datagram to send, or the next expected."""
    acked: int
    lag_records: int
    """Records that the peer has not acknowledged, or we have not applied."""
    lag_ms: float
    encrypted: bool
    synced: bool
    generation: int
    published: int
    applied: int
    held: int
    """Connections that wait, for `stream.min_duration_s` or for the pressure: a crash
    now loses them."""
    pressure: int
    """Active, `stream.adaptive`: 0 none wait, 1 questions and pings, 2 all young ones
    without NAT."""
    pressure_cause: str | None
    """"stream": a link or the peer is too slow; "events": this node is; "table": the
    peer's table is nearly full."""
    peer_fill: int | None
    """Active: per cent of the peer's nf_conntrack_max in use."""
    peer_max: int | None
    """Active: the peer's nf_conntrack_max."""
    key: str | None
    """Fingerprint of the pre-shared key that the session was made under."""


@dataclass(frozen=True, slots=True)
class TableInfo:
    """How equal the two kernels' tables are, as the last comparison found."""

    equal: bool | None
    """None: not compared since the last change of roles or of the session."""
    as_of: int
    """Sequence of the stream at which they were compared."""
    age_ms: int
    entries: int
    """Replicable entries of the active node then."""
    missing: int
    """The passive node lacked these."""
    extra: int
    """The active node did not have these."""
    different: int
    """Both had these, in different states."""
    repaired: int
    verified: int = 0
    """The last `verify` that was carried out."""


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """Whether the kernel ends forwarding if this process hangs."""

    enforced: bool
    state: str
    """"off": there is no standby, "on", or "lapsed": this process was late, and its
    gate stays closed until the standby answers."""
    left_ms: float | None
    refused: int
    """Frames that came after a lease had ended."""


_KINDS: Mapping[str, type[HakError]] = {
    "config": HakError,
    "peer": PeerError,
    "kernel": KernelError,
}


@contextmanager
def _translated() -> Iterator[None]:
    """The core's one exception as the classes of `hak2k.errors`."""
    try:
        yield
    except HakError:
        raise
    except Exception as e:
        kind = getattr(e, "kind", None)
        if kind is None:
            raise
        code = int(getattr(e, "errno", 0) or 0)
        if kind == "kernel":
            # The core's text already ends with strerror().
            error = KernelError(str(e))
            error.errno = code
            raise error from e
        raise _KINDS.get(kind, InternalError)(str(e)) from e


def _pick(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """A dataclass from a mapping that may hold more than it wants."""
    return cls(**{name: values[name] for name in cls.__dataclass_fields__})


def _compiled_core(**arguments: Any) -> Core:
    try:
        from hak2k import _core
    except ImportError as e:
        raise InternalError(f"the compiled core cannot be loaded ({e}); make build") from e
    core: Core = _core.Engine(**arguments)
    return core


def make_lease() -> Lease:
    """Load the program that enforces leases.  CAP_BPF and CAP_NET_ADMIN are needed for
    this, not afterwards.  Raises KernelError."""
    with _translated():
        from hak2k import _core

        return _core.Lease()


def make_probe() -> Probe:
    """Load the programs that take conntrack's events in the kernel, for one engine in this
    thread's network namespace.  CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed for
    this, not afterwards.  Raises KernelError."""
    with _translated():
        from hak2k import _core

        return _core.Probe()


def make_watch(stop: int, each_ms: int) -> Watch:
    """What `hak2k.netwatch` waits with.  Raises KernelError."""
    with _translated():
        from hak2k import _core

        return _core.Watch(stop, each_ms)


def wire_version() -> int:
    """The version of the stream's format that this build speaks; 0: no core."""
    try:
        from hak2k._core import WIRE_VERSION
    except ImportError:
        return 0
    return WIRE_VERSION


class Engine:
    """See the module.  Raises HakError and its subclasses only.

    config: what `load_config` returned.
    lease: from `make_lease`; `guard` puts it before the interfaces.
    probe: from `make_probe`; without it events come by netlink.
    core: makes the core; by default the compiled one.
    """

    def __init__(
        self,
        config: Config,
        *,
        lease: Lease | None = None,
        probe: Probe | None = None,
        core: Callable[..., Core] = _compiled_core,
    ) -> None:
        self.config = config
        self.gate_spec = gate.GateSpec.of(config, probe=probe is not None)
        self.capture: Literal["probe", "netlink"] = "netlink" if probe is None else "probe"
        """How conntrack's events are heard of."""
        self._lock = threading.RLock()
        self._term = 0
        self._closed = False
        # Two nodes may ask at once, and an answer names its question.
        self._verify_id = random.getrandbits(31)
        with _translated():
            self._core = core(
                cluster=config.cluster.id,
                psk=config.cluster.psk,
                serial=config.node.serial,
                model=config.node.model,
                version=__version__,
                priority=config.cluster.priority,
                links=[(x.name, x.interface, x.local, x.peer) for x in config.link],
                port=config.stream.port,
                heartbeat_ms=config.liveness.heartbeat_ms,
                dead_after_ms=config.liveness.dead_after_ms,
                dead_after_max_ms=config.liveness.dead_after_max_ms,
                encrypt=config.stream.encrypt,
                interfaces=[i.name for i in config.interface],
                gate_table=gate.TABLE,
                protocols=config.stream.protocols,
                exclude_mark=config.stream.exclude_mark,
                exclude_local=config.stream.exclude_local,
                scrub_ms=round(config.stream.scrub_s * 1000),
                lease=lease,
                probe=probe,
                min_duration_s=config.stream.min_duration_s,
                adaptive=config.stream.adaptive,
                exclude_networks=[
                    (net.network_address.packed, net.prefixlen)
                    for net in map(ip_network, config.stream.exclude_networks)
                ],
            )
            self._core.set_announcements(config.announcements)

    @contextmanager
    def _call(self) -> Iterator[Core]:
        with self._lock:
            if self._closed:
                raise InternalError("the engine is closed")
            with _translated():
                yield self._core

    # --- life ---

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, role: Role | None = None, *, build_gate: bool = True) -> None:
        """Open the sockets and start the threads.

        role: take it at once; None: neither, as the daemon starts.
        build_gate: make the nftables tables first, with the gate closed.
        """
        if build_gate:
            gate.build(self.gate_spec)
        with self._call() as core:
            core.start()
        if role == "active":
            self.promote()
        elif role == "passive":
            self.demote()

    def close(self) -> None:
        """Join the threads and close the sockets.  The gate stays as it is.  May be
        called again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                with _translated():
                    self._core.close()

    def bye(self) -> None:
        """Tell the peer that this process ends in an orderly way."""
        with self._call() as core:
            core.bye()

    # --- roles ---

    def promote(self, term: int | None = None) -> SwapTimes:
        """Become active: publish, open the gate, announce.  Complete on return.

        term: the number of this promotion, higher than any before on both nodes;
        None: counted from what is known of the peer.
        """
        with self._call() as core:
            self._term = self._next_term(core) if term is None else term
            return _times(core.activate(self._term))

    def demote(self, term: int | None = None) -> SwapTimes:
        """Become passive: close the gate, stop publishing, receive."""
        with self._call() as core:
            if term is not None:
                self._term = term
            return _times(core.passivate(self._term))

    def arm(self, term: int) -> SwapTimes:
        """Upon handover.prepare, passive only: open the gate and announce, while the
        active node forwards on; records are applied as before.  `promote` completes it,
        `demote` takes it back."""
        with self._call() as core:
            return _times(core.arm(term))

    def handover(
        self, timeout_s: float = 2.0, term: int | None = None, prepare_s: float = 0.0
    ) -> HandoverTimes | None:
        """Give the role to the peer.  Active only.

        prepare_s: wait as long for the peer to `arm`, forwarding on; 0: do not ask.
        Returns when the peer has every record and was told to take over; this node is
        passive.  None: not acknowledged within timeout_s; nothing changed.
        """
        with self._call() as core:
            chosen = self._next_term(core) if term is None else term
            times = core.handover(chosen, max(1, round(timeout_s * 1000)), round(prepare_s * 1000))
            if times is None:
                return None
            self._term = chosen
            found: HandoverTimes = _pick(HandoverTimes, times)
            return found

    def _next_term(self, core: Core) -> int:
        peer = core.peer()
        return max(self._term, peer["term"] if peer is not None else 0) + 1

    def gate_is_open(self) -> bool | None:
        """As the kernel says; None: the gate's table is missing."""
        with self._call() as core:
            return core.gate_is_open()

    def guard(self, interfaces: Iterable[str]) -> None:
        """Let frames of these interfaces pass only while the lease lasts; without a
        lease, see to it that no earlier one is in the way.  Raises KernelError."""
        with self._call() as core:
            for name in interfaces:
                core.guard(name)

    def lease(self) -> LeaseInfo:
        with self._call() as core:
            found = core.lease()
        on = found["state"] == 1
        return LeaseInfo(
            enforced=found["enforced"],
            state=("off", "on", "lapsed")[found["state"]],
            left_ms=round(found["left_ns"] / 1e6, 1) if on else None,
            refused=found["refused"],
        )

    def announce(self) -> int:
        """Gratuitous ARP and unsolicited NA for all addresses; frames sent."""
        with self._call() as core:
            return core.announce()

    def set_announcements(self, items: Sequence[tuple[str, str]]) -> None:
        """(interface, address) of what `announce` tells; anew if a hardware address
        has changed."""
        with self._call() as core:
            core.set_announcements(list(items))

    def sweep(self, natural: dict[int, dict[int, int]] | None = None) -> None:
        """After a promotion: give entries without traffic their natural timeouts,
        paced, in the background.  natural: see `hak2k.swap`; None: the kernel's."""
        with self._call() as core:
            core.sweep(natural_timeouts() if natural is None else natural)

    def want_sync(self) -> None:
        """Passive: compare with the active's table now, as after a loss: the node is
        not ready until both are equal."""
        with self._call() as core:
            core.want_sync()

    def begin_verify(self, repair: bool = True) -> int:
        """Compare the two kernels' tables, on either node, through the stream.

        repair: send what differs; False: only tell.
        Returns the number that a verify.done event will bear; `table()` then has
        what was found.  Raises PeerError if there is no peer to compare with.
        """
        with self._call() as core:
            self._verify_id = self._verify_id % 0x7FFFFFFF + 1
            if not core.verify(self._verify_id, repair):
                raise PeerError("there is no peer to compare with; see hak2kctl info")
            return self._verify_id

    @property
    def last_verify(self) -> int:
        """What `begin_verify` returned last."""
        return self._verify_id

    def verify(self, repair: bool = True, timeout_s: float = 60.0) -> TableInfo:
        """As `begin_verify`, and wait.  Raises PeerError, also when it takes longer."""
        asked = Verification(self, repair)
        deadline = time.monotonic() + timeout_s
        while True:
            info = asked.answer()
            if info is not None:
                return info
            if time.monotonic() > deadline:
                raise PeerError(f"the comparison was not complete within {timeout_s:g} s")
            time.sleep(0.01)

    def table(self) -> TableInfo:
        """What the last comparison found, on either node."""
        with self._call() as core:
            info: TableInfo = _pick(TableInfo, core.table())
            return info

    # --- what we say of ourselves ---

    def set_status(
        self,
        *,
        mode: int,
        forced: int = 0,
        quality: int = 100,
        state: int = 0,
        term: int | None = None,
        since_ms: int | None = None,
    ) -> None:
        """What heartbeats say from now on; numbers as in PeerInfo."""
        since = int(time.time() * 1000) if since_ms is None else since_ms
        with self._call() as core:
            core.set_status(
                mode=mode,
                forced=forced,
                quality=quality,
                state=state,
                term=self._term if term is None else term,
                since=since,
            )

    def set_link(self, link: int, state: int) -> None:
        """What is known of a link's interface (`halinks.LinkState`)."""
        with self._call() as core:
            core.set_link(link, state)

    def set_priority(self, priority: int) -> None:
        """Another priority; the peer hears of it with the next heartbeat."""
        with self._call() as core:
            core.set_priority(priority)

    def set_keys(self, psk: bytes | bytearray) -> None:
        """Other pre-shared keys, the preferred one first (`ClusterConfig.psk`).  The
        stream goes on; as soon as the peer knows the first, under that one."""
        with self._call() as core:
            core.set_keys(psk)

    def set_local_addresses(self, addresses: Sequence[bytes]) -> None:
        """Addresses of this machine, 4 or 16 bytes each: connections that end at
        one of them are not replicated if `stream.exclude_local` says so."""
        with self._call() as core:
            core.set_local_addresses(addresses)

    # --- what is to be seen ---

    def fileno(self) -> int:
        """A descriptor that is readable when `events()` has something.  Do not read
        from it."""
        return self._core.event_fd

    def events(self) -> list[EngineEvent]:
        """What happened since the last call, oldest first; never blocks."""
        with self._call() as core:
            return [
                EngineEvent(
                    type=e["type"],
                    mono_ns=e["mono_ns"],
                    data={k: v for k, v in e.items() if k not in ("type", "mono_ns")},
                )
                for e in core.events()
            ]

    async def __aiter__(self) -> AsyncIterator[EngineEvent]:
        """Events as they happen; for one reader, inside a running loop."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        fd = self.fileno()
        loop.add_reader(fd, ready.set)
        try:
            while not self._closed:
                await ready.wait()
                ready.clear()
                for event in self.events():
                    yield event
        finally:
            loop.remove_reader(fd)

    def peer(self) -> PeerInfo | None:
        """None before the first session."""
        with self._call() as core:
            found = core.peer()
        info: PeerInfo | None = None if found is None else _pick(PeerInfo, found)
        return info

    def links(self) -> list[LinkInfo]:
        with self._call() as core:
            return [_pick(LinkInfo, link) for link in core.links()]

    def stream(self) -> StreamInfo:
        with self._call() as core:
            found = core.stream()
        key = int(found["key"])
        info: StreamInfo = _pick(StreamInfo, {**found, "key": f"{key:08x}" if key else None})
        return info

    def statistics(self) -> dict[str, int]:
        """Every counter of the core by name; "drop.REASON" counts refusals."""
        with self._call() as core:
            return core.stats()

    def table_count(self) -> int:
        """Entries in this kernel's conntrack table."""
        with self._call() as core:
            return core.table_count()

    def table_max(self) -> int:
        """How many it takes: nf_conntrack_max; 0 if the kernel does not tell."""
        with self._call() as core:
            return core.table_max()


def _times(found: Mapping[str, int]) -> SwapTimes:
    return SwapTimes(
        total_ns=found.get("total_ns", 0),
        gate_ns=found.get("gate_ns", 0),
        drain_ns=found.get("drain_ns", 0),
        announce_ns=found.get("announce_ns", 0),
    )


class Verification:
    """A comparison that was asked for.

    The core keeps one question, so another's (a daemon's own look, a second operator)
    may take its place before it was carried out; then it is asked again.

    Raises PeerError if there is no peer to compare with.
    """

    def __init__(self, engine: Engine, repair: bool) -> None:
        self._engine, self._repair = engine, repair
        self._ask()

    def _ask(self) -> None:
        self._number = self._engine.begin_verify(self._repair)

    def answer(self) -> TableInfo | None:
        """What was found; None: not yet.  Raises as the constructor."""
        table = self._engine.table()
        if table.verified == self._number:
            return table
        if table.verified == self._engine.last_verify:
            self._ask()
        return None
