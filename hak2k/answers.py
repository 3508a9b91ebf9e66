"""What a running hak2kd answers, for type checkers and readers.

Times are RFC 3339 in UTC.  Keys are added by later versions, never renamed.  Only
types are here, and nothing imports this at run time on the way to a command.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Mode = Literal["active", "passive", "starting", "fault"]
Forced = Literal["no", "active", "passive"]
State = Literal["running", "ready", "syncing", "frozen", "starting"]
Severity = Literal["debug", "info", "warning", "error"]


class Protocol(TypedDict):
    stream: int
    state: int


class NodeInfo(TypedDict):
    """Either node."""

    serial: str
    model: str
    version: str
    mode: Mode
    since: str
    forced: Forced
    quality: int  # 0 to 100
    priority: int
    state: State
    boot: str
    config_synced: bool | None
    protocol: Protocol
    supervisor: bool
    alive: bool
    term: int


class LocalInfo(NodeInfo):
    frozen_until: str | None
    held_until: str | None  # too many swaps: roles are kept until then


class PeerInfo(NodeInfo):
    lost: Literal["stopped", "process", "machine"] | None
    heard_ms_ago: float
    dead_after_ms: float
    longest_silence_ms: float


class LinkInfo(TypedDict):
    name: str
    state: Literal["ok", "failed"]
    since: str
    rtt_us: int | None
    interface: str
    interface_state: Literal["works", "no carrier", "down"]
    local: str
    peer: str


class StreamInfo(TypedDict):
    lag_records: int
    lag_ms: float
    sequence: int
    encrypted: bool
    published: int
    applied: int
    held: int  # connections that are not on the peer yet, by policy or pressure
    pressure: int  # 0: none
    pressure_cause: str | None
    peer_table_percent: int | None
    peer_table_max: int | None
    policy_differs: bool
    events: Literal["lean", "all"]  # which conntrack events there are
    capture: Literal["probe", "netlink"]  # how they are heard of
    key: str | None  # a fingerprint
    key_bits: int | None
    key_current: bool | None
    keys: list[str]


class TableInfo(TypedDict):
    entries: int
    max: int | None
    equal: bool | None  # None: not compared yet
    as_of: int  # sequence of the stream
    age_ms: float
    compared: int
    missing: int
    extra: int
    different: int
    repaired: int


class ComponentInfo(TypedDict):
    """What a component costs, of 100 points."""

    component: str
    kind: str
    state: str
    weight: int
    cost: float
    reason: str
    since: str | None
    checked: str | None


class GateInfo(TypedDict):
    state: str
    rebuilt: int
    rebuilt_at: str | None
    rebuilt_why: str | None


class Info(TypedDict):
    """The answer of `info`."""

    local: LocalInfo
    peer: PeerInfo | None
    links: list[LinkInfo]
    stream: StreamInfo
    table: TableInfo
    health: list[ComponentInfo]
    gate: GateInfo
    lease: dict[str, Any]


class Verdict(TypedDict):
    """The answer of `verify`: what was found, and whether it is equal now."""

    equal: bool
    missing: int
    extra: int
    different: int
    repaired: int
    as_of: int
    entries: int


class Event(TypedDict):
    """docs/events.md has a row for each id; fields of its own come with these."""

    time: str
    id: str
    severity: Severity
    message: str
