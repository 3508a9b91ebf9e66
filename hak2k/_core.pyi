"""Types of the compiled core.  See `hak2k.engine` for the public face."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

WIRE_VERSION: Final[int]
PORT: Final[int]

# Roles of an engine.
IDLE: Final[int]
PASSIVE: Final[int]
ACTIVE: Final[int]

# Event types (Event.type); `EVENT_NAMES[type]` gives the name.
EVENT_NAMES: Final[dict[int, str]]
STAT_NAMES: Final[tuple[str, ...]]

class CoreError(Exception):
    """Raised by the core; `hak2k.errors` holds the classes users meet.

    kind: "config", "peer", "kernel" or "internal"; errno: int or 0.
    """

    kind: str
    errno: int

class Lease:
    """Forwarding that the kernel ends when nobody renews it; see csrc/hak_lease.h.
    Making one needs CAP_BPF and CAP_NET_ADMIN.  It is open until an engine has it."""

    def __init__(self) -> None: ...

class Probe:
    """Conntrack's events taken in the kernel; see csrc/hak_probe.h.  For one engine, in
    the calling thread's network namespace.  Making one needs CAP_BPF, CAP_PERFMON and
    CAP_NET_ADMIN.

    ring_bytes: rounded up to a power of two of pages.
    """

    def __init__(self, ring_bytes: int = ...) -> None: ...

class Watch:
    """Waits for news of interfaces, addresses and nftables; see csrc/hak_watch.h.
    For one thread.

    stop: a descriptor that is readable, or hung up, to end a wait.
    """

    def __init__(self, stop: int, each_ms: int) -> None: ...
    def watch(self, names: Iterable[str]) -> None:
        """Instead of those before."""
    def wait(self, until_ns: int) -> tuple[bool, bool, bool]:
        """Whether there is news of (interfaces or addresses, nftables), and of `stop`;
        none: the monotonic time has come.  Releases the GIL."""

class Engine:
    """One node's replication engine: sockets, threads, the stream.

    Everything that blocks releases the GIL.  All methods may be called from one
    thread at a time (the daemon's event loop).
    """

    def __init__(
        self,
        *,
        cluster: int,
        psk: bytes | bytearray,  # 1 to 3 of 32 bytes, stretched; the preferred one first
        serial: str,
        model: str,
        version: str,
        priority: int,
        links: Sequence[tuple[str, str, str, str]],  # name, ifname, local, peer
        port: int,
        heartbeat_ms: int,
        dead_after_ms: int,
        encrypt: bool,
        interfaces: Sequence[str],  # data interfaces behind the gate
        gate_table: str,  # nftables table (family netdev) with the set "open"
        protocols: Sequence[int] | None,  # None: all
        exclude_mark: tuple[int, int] | None,  # value, mask
        exclude_local: bool,
        scrub_ms: int = 0,  # from one comparison of the tables to the next, 0: none
        exclude_networks: Sequence[tuple[bytes, int]] = (),  # address, length of prefix
        min_duration_s: float = 0,
        lease: Lease | None = None,
        probe: Probe | None = None,
        adaptive: bool = False,  # under pressure some wait; see csrc/hak_pressure.h
        dead_after_max_ms: int = 0,  # in a bad network; see csrc/hak_suspect.h
        patience_ms: int = 0,  # for a peer's listing without progress, 0: two minutes
    ) -> None: ...

    # life
    def start(self) -> None: ...
    def close(self) -> None: ...  # idempotent; joins the threads
    def bye(self) -> None: ...  # tell the peer: orderly end

    # roles.  Each is complete when it returns.
    def activate(self, term: int) -> dict[str, int]:
        """Become active: start publishing, open the gate, announce.

        Returns nanoseconds: {"drain_ns", "gate_ns", "announce_ns", "total_ns"}.
        """
    def passivate(self, term: int) -> dict[str, int]:
        """Close the gate, stop publishing, receive. {"gate_ns", "total_ns"}."""
    def arm(self, term: int) -> dict[str, int]:
        """Passive, between handover.prepare and .off: open the gate and announce, and go on
        applying.  {"gate_ns", "announce_ns", "total_ns"}.  `passivate` undoes it."""
    def handover(self, term: int, timeout_ms: int, prepare_ms: int = 0) -> dict[str, int] | None:
        """Active only: the peer told to prepare, and waited for as long as prepare_ms
        while this node forwards on (0: not at all); then gate closed, everything
        published, the peer told to take over (it gets a HANDOVER event).  Once the peer
        acknowledged the last record this engine is passive; nanoseconds since the
        beginning: {"armed_ns": 0 if it was not, "closed_ns", "applied_ns"}.  None: not
        acknowledged in time; this engine is active with its gate open."""
    def gate_is_open(self) -> bool | None:
        """What the kernel says; None if the table or set is missing."""
    def guard(self, interface: str) -> None:
        """Put the lease's filters before an interface, in the place of those that an
        earlier process left; without a lease, remove the latter."""
    def lease(self) -> dict[str, Any]:
        """{"enforced": bool, "state": 0 off 1 on 2 lapsed, "left_ns", "refused"}."""
    def announce(self) -> int:
        """Gratuitous ARP and unsolicited NA for all addresses; frames sent."""
    def sweep(self, natural: dict[int, dict[int, int]]) -> None:
        """Start the paced sweep that gives larvae their natural timeouts:
        natural[protocol][state] in seconds, natural[0][0] the default."""
    def want_sync(self) -> None: ...  # passive: compare the tables now
    def verify(self, id: int, repair: bool) -> bool:
        """Compare both nodes' tables now; a verify.done event with this id (not 0)
        follows.  False: there is no peer."""

    # inputs
    def set_status(
        self, *, mode: int, forced: int, quality: int, state: int, term: int, since: int
    ) -> None:
        """What our heartbeats say.  mode: 0 starting 1 passive 2 active 3 fault;
        forced: 0 no 1 active 2 passive; state: 0 starting 1 syncing 2 ready
        3 running 4 frozen; since: Unix time in ms."""
    def set_link(self, link: int, state: int) -> None:
        """The state of a link's interface: 0 works 1 no carrier 2 down."""
    def set_priority(self, priority: int) -> None: ...
    def set_keys(self, psk: bytes | bytearray) -> None:
        """Other pre-shared keys, as at the start.  The session goes on; see
        session.rekeyed."""
    def set_local_addresses(self, addresses: Sequence[bytes]) -> None: ...
    def set_announcements(self, items: Sequence[tuple[str, str]]) -> None:
        """(interface, address) pairs to announce at a swap."""

    # outputs
    @property
    def event_fd(self) -> int: ...  # readable when events() has something
    def events(self) -> list[dict[str, Any]]:
        """Drain.  Each: {"type": str, "mono_ns": int, ...}:
        session.up      new session with the peer {"boot": int, "new_boot": bool}
        session.rekeyed {"key"}  new keys for the session; key: as in stream()
        peer.status     the peer's STATUS changed
        peer.dead       {"silent_ns"}  nothing heard on any link for dead_after_ms
        peer.alive      first heartbeat after dead or at start
        peer.bye
        link.up/.down   {"link": index}
        handover.prepare  {"term"}  the active peer is about to hand over: `arm`
        handover.off    {"term"}  nothing comes of it: `passivate`
        handover        {"term"}  the active peer told us to take over; all its
                        records are applied
        sync.begin / sync.done {"entries", "removed", "ns"}   passive side
        sync.sent       {"entries", "ns"}                     active side
        overrun         events were lost in our kernel (ENOBUFS)
        stream.lost     the stream has a gap that cannot be filled; a sync follows
        table.full      apply refused: conntrack table is full
        apply.error     {"errno", "text"}  rate limited
        slip            {"ns"}  our own heartbeat thread was late
        hello.refused   {"reason"}
        sweep.done      {"entries", "ns"}
        recon.repaired  {"missing", "extra", "different", "text"}  passive side
        recon.stuck     the same; the differences come back
        verify.done     {"id"}  see table()
        policy.differs  the peer replicates other connections than we would
        """
    def peer(self) -> dict[str, Any] | None:
        """None before the first session; else {"serial", "model", "version",
        "boot_id", "boot_ms", "priority", "wire_min", "wire_max", "alive": bool,
        "mode", "forced", "quality", "state", "term", "since",
        "policy": int (0: not told), "policy_differs": bool, "heard_ns_ago": int,
        "limit_ns": int, "longest_ns": int}."""
    def links(self) -> list[dict[str, Any]]:
        """[{"name", "up": bool, "since_ms": int, "rtt_us": int | None}]"""
    def stream(self) -> dict[str, Any]:
        """{"role", "sequence", "acked", "lag_records", "lag_ms", "encrypted",
        "synced": bool, "generation", "published", "applied",
        "held", "peer_fill", "peer_max", "key": fingerprint of the pre-shared key as a
        number, 0 without a session}"""
    def table(self) -> dict[str, Any]:
        """What the last comparison found: {"equal": bool | None, "verified": id,
        "as_of", "age_ms", "entries", "missing", "extra", "different", "repaired"}"""
    def stats(self) -> dict[str, int]: ...
    def table_count(self) -> int:
        """Entries in this kernel's conntrack table (netlink, not a listing)."""
    def table_max(self) -> int:
        """How many it takes; 0: not told."""
