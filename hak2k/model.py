"""What the election is fed and what it answers: facts, events, commands.

Data only; `hak2k.election` has the rules, and says what the words mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Role(Enum):
    STARTING = "starting"
    PASSIVE = "passive"
    ACTIVE = "active"
    HANDING_OVER = "handing over"  # active for everyone else, until it is done
    STOPPED = "stopped"  # final


class Mode(IntEnum):
    """What heartbeats say of a node; the numbers are the wire's."""

    STARTING = 0
    PASSIVE = 1
    ACTIVE = 2
    FAULT = 3  # passive and unable to be active


class Forced(IntEnum):
    NO = 0
    ACTIVE = 1
    PASSIVE = 2


class TableState(IntEnum):
    """How complete a node's table is, as heartbeats say.  FROZEN: complete, and
    preferences wait."""

    STARTING = 0
    SYNCING = 1
    READY = 2
    RUNNING = 3
    FROZEN = 4


@dataclass(frozen=True, slots=True)
class ElectionConfig:
    """Times in seconds; `hak2k.election` says what each is for."""

    serial: str
    start_wait: float = 1.0
    grace: float = 0.4
    conflict_wait: float = 0.15
    handover_wait: float = 3.0
    hold_down: float = 1.0
    retry_wait: float = 5.0
    stop_wait: float = 5.0
    flap_count: int = 0  # 0: no limit
    flap_window: float = 60.0
    flap_hold: float = 60.0

    @classmethod
    def of(cls, serial: str, heartbeat_ms: int, dead_after_ms: int) -> ElectionConfig:
        """The times that fit a heartbeat interval and a detection time."""
        beat, dead = heartbeat_ms / 1000, dead_after_ms / 1000
        return cls(
            serial=serial,
            start_wait=max(1.0, 5 * dead),
            grace=max(0.3, 2 * dead),
            conflict_wait=3 * beat,
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """The other node as its last status describes it."""

    serial: str
    mode: Mode = Mode.STARTING
    forced: Forced = Forced.NO
    quality: int = 100
    priority: int = 0
    table: TableState = TableState.STARTING
    term: int = 0
    alive: bool = True

    @property
    def complete(self) -> bool:
        """Its table holds all that an active one's did; of a node that is not active."""
        return self.table in (TableState.READY, TableState.FROZEN)

    @property
    def ready(self) -> bool:
        return self.mode is Mode.PASSIVE and self.complete


@dataclass(frozen=True, slots=True)
class State:
    """All that the decision depends on."""

    role: Role
    since: float  # of the role
    quality: int = 100
    priority: int = 0
    forced: Forced = Forced.NO
    alone: bool = False  # forced passive even if nobody else is active
    term: int = 0  # of our last promotion, or the highest heard of
    synced: bool = False  # our table holds all that the active's does
    synced_term: int = 0  # of that active
    syncing: bool = False  # a full copy is on its way
    sync_asked: float | None = None
    peer: Peer | None = None
    farewell: bool = False  # the peer ended in an orderly way
    offer: int | None = None  # term of a hand-over to us, not yet taken
    outcome: bool | None = None  # of our hand-over, not yet acted upon
    offered: int | None = None  # term of our last hand-over that failed
    accepted: bool = False  # active by a hand-over of the peer
    failed: bool = False  # the promotion could not be carried out
    stopping: float | None = None  # since when we are asked to stop
    none_active_since: float | None = None
    both_active_since: float | None = None
    won_at: float | None = None  # when this node last decided to stay, of two
    better_since: float | None = None
    last_switch: float | None = None
    switches: tuple[float, ...] = ()  # the latest changes of role that nobody asked for
    held_until: float | None = None  # there were too many: the role is kept until then
    retry_at: float = 0.0  # no hand-over before
    fault_until: float = 0.0  # no promotion before
    frozen_until: float | None = None  # preferences wait until then

    @property
    def mode(self) -> Mode:
        if self.role is Role.STARTING:
            return Mode.STARTING
        if self.role in (Role.ACTIVE, Role.HANDING_OVER):
            return Mode.ACTIVE
        return Mode.FAULT if self.fault_until else Mode.PASSIVE

    @property
    def table(self) -> TableState:
        if self.mode is Mode.ACTIVE or self.synced:
            if self.frozen_until is not None:
                return TableState.FROZEN
            return TableState.RUNNING if self.mode is Mode.ACTIVE else TableState.READY
        return TableState.STARTING if self.role is Role.STARTING else TableState.SYNCING


def initial(now: float, *, quality: int = 100, priority: int = 0) -> State:
    return State(role=Role.STARTING, since=now, quality=quality, priority=priority)


# --- events ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """The peer's status as it now stands, with whether it is heard."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerDead:
    """Silence on every link for the configured time."""


@dataclass(frozen=True, slots=True)
class PeerBye:
    """The peer ends its process in an orderly way."""


@dataclass(frozen=True, slots=True)
class SessionUp:
    """A new session; new_boot: with another life of the peer's process.  peer: its
    status, if it has told one by now."""

    new_boot: bool = True
    peer: Peer | None = None


@dataclass(frozen=True, slots=True)
class SyncBegin:
    """A full copy is arriving."""


@dataclass(frozen=True, slots=True)
class SyncDone:
    """Our table holds what the active's does."""


@dataclass(frozen=True, slots=True)
class SyncLost:
    """It no longer does: the stream has a gap."""


@dataclass(frozen=True, slots=True)
class HandoverReceived:
    """The active peer tells us to take over; all its records are applied."""

    term: int


@dataclass(frozen=True, slots=True)
class HandoverDone:
    """Our StartHandover ended.  ok: the peer has everything, we are passive."""

    ok: bool


@dataclass(frozen=True, slots=True)
class Force:
    """haactive, hapassive, hareset.  alone: stay passive even without a peer."""

    forced: Forced
    alone: bool = False


@dataclass(frozen=True, slots=True)
class QualityChanged:
    quality: int


@dataclass(frozen=True, slots=True)
class PriorityChanged:
    priority: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """No swap for a mere preference until then; None: no longer."""

    until: float | None


@dataclass(frozen=True, slots=True)
class PromoteFailed:
    """The Promote command could not be carried out; the gate is closed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The process is asked to end."""


Event = (
    Tick
    | PeerStatus
    | PeerDead
    | PeerBye
    | SessionUp
    | SyncBegin
    | SyncDone
    | SyncLost
    | HandoverReceived
    | HandoverDone
    | Force
    | QualityChanged
    | PriorityChanged
    | Freeze
    | PromoteFailed
    | Stop
)


# --- commands ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Promote:
    """Become active: publish, open the gate, announce."""

    term: int
    reason: str


@dataclass(frozen=True, slots=True)
class Demote:
    """Become passive: close the gate first.  Also a start's first passive."""

    term: int
    reason: str


@dataclass(frozen=True, slots=True)
class StartHandover:
    """Give the role to the peer; answer with HandoverDone."""

    term: int
    reason: str


@dataclass(frozen=True, slots=True)
class WentPassive:
    """The hand-over made us passive already; for the log."""

    term: int
    reason: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell switches and hosts again where the addresses are."""


@dataclass(frozen=True, slots=True)
class WantSync:
    """Ask the active for a full copy."""


@dataclass(frozen=True, slots=True)
class SetStatus:
    """What our heartbeats shall say from now on."""

    mode: Mode
    forced: Forced
    quality: int
    table: TableState
    term: int


@dataclass(frozen=True, slots=True)
class Log:
    """An entry for the event log: id (see hak2k.events) and text."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Say BYE and end.  gate_open: leave it open, nobody else forwards."""

    gate_open: bool


Command = (
    Promote
    | Demote
    | StartHandover
    | WentPassive
    | Announce
    | WantSync
    | SetStatus
    | Log
    | Shutdown
)
