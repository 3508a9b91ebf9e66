"""What a configuration is: its sections, keys, defaults, and what they mean.

Data only, frozen; `hak2k.config` reads it from a file and checks it.  Which keys
may change while the stream runs stands here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from hak2k import keys
from hak2k._toml import Path as KeyPath
from hak2k._toml import show
from hak2k.health.table import KINDS
from hak2k.quality import DEFAULT_WEIGHT

DEFAULT_SOCKET: Final = "/run/hak2k/control.sock"
DEFAULT_PORT: Final = 44242


@dataclass(frozen=True, slots=True)
class NodeConfig:
    serial: str
    """Who this node is: 1 to 32 of A-Z a-z 0-9 . _ : ( ) + -, different on the
    two nodes.  The last tie-break of the election: the lower string wins."""
    model: str = "hak2k"
    """What kind of machine, for `hainfo`: 1 to 32 printable ASCII characters."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    id: int
    """The same on both nodes; 1 to 65535.  Datagrams of another id are refused."""
    psk_file: Path
    """File with the pre-shared key, or several, one a line, the preferred one first;
    not readable by others.  Absolute here."""
    priority: int = 0
    """0 to 65535; decides where quality is equal.  50 marks the preferred node."""
    address_mode: str = "shared"
    """"shared": both nodes bear the same addresses, the gate keeps one mute.  "move":
    only the active one has them."""
    psk: bytearray = field(default_factory=bytearray, repr=False, compare=False)
    """The keys themselves, stretched to 32 bytes each (`derive_key`), one after the
    other; empty once they were forgotten."""
    keys: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    """Of each key: its fingerprint, and how strong it may be, in bits."""

    def forget(self) -> None:
        """Wipe the keys: the core has them now."""
        keys.wipe(self.psk)
        self.psk.clear()


@dataclass(frozen=True, slots=True)
class ControlConfig:
    socket: Path = Path(DEFAULT_SOCKET)
    """Unix socket of the `ha...` commands; at most 107 bytes."""
    group: int | None = None
    """Group whose members may use it too; in the file a name or a number.  None:
    only the daemon's own user and root."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    port: int = DEFAULT_PORT
    """UDP port, the same on both nodes; 1 to 65535."""
    protocols: tuple[int, ...] | None = None
    """IP protocol numbers to replicate, ascending; None: all."""
    min_duration_s: float = 0.0
    """Seconds below which connections are not replicated; at most a day, 0: none."""
    adaptive: bool = True
    """While the stream cannot keep up, short-lived connections without NAT wait."""
    events: str = "lean"
    """"lean": the kernel makes no events of TCP's middle states.  "all": it makes what
    it makes."""
    capture: str = "auto"
    """How events are heard of: "probe", by programs in the kernel; "netlink"; "auto": by
    the probe if this kernel has what it needs."""
    exclude_mark: tuple[int, int] | None = None
    """(value, mask): entries with ct mark & mask == value are not replicated."""
    exclude_local: bool = True
    """Leave out connections that end on the firewall itself."""
    exclude_networks: tuple[str, ...] = ()
    """Networks, "10.9.0.0/16" or "fd00::/8": connections from or to them, or to a
    server in them behind a DNAT, are not replicated; at most 64."""
    encrypt: bool = True
    """False: datagrams are authenticated, not encrypted."""
    scrub_s: float = 60.0
    """Seconds from one comparison of both tables to the next; 0: none but at joins."""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    name: str
    """"main", "backup" or another word; `hainfo` shows it."""
    interface: str
    """The HA interface, which carries no user traffic."""
    local: str
    """Our IPv4 address on it."""
    peer: str
    """The other node's."""


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    name: str
    """A data interface, behind the gate."""
    weight: int = DEFAULT_WEIGHT
    """Its share in the quality factor, 0 to 9999."""
    members: bool = False
    """Of a bond: each member that is lost costs its share of the weight; else only the
    last one does."""
    addresses: tuple[str, ...] = ()
    """Its addresses, "10.0.0.1/24" or "fd00::1/64": announced at each swap."""


@dataclass(frozen=True, slots=True)
class HealthConfig:
    name: str
    """What `hainfo -v` and events call it; unique."""
    kind: str
    """One of hak2k.health.table.KINDS; it has the defaults of what follows."""
    weight: int = DEFAULT_WEIGHT
    """Its share in the quality factor, 0 to 9999."""
    interval_s: float = 10.0
    """Seconds from one sample to the next; 1 to 86400."""
    timeout_s: float = 5.0
    """A sample that takes longer is a bad one; at most interval_s."""
    fail_after: int = 2
    """So many bad samples in a row make it fail; 1 to 100."""
    recover_after: int = 3
    """So many good ones make it good again; 1 to 100."""
    fail: float | None = None
    """The measured value that is bad."""
    recover: float | None = None
    """The value that is good again."""
    required: bool = False
    """What is not there has failed."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The kind's own keys."""


@dataclass(frozen=True, slots=True)
class LivenessConfig:
    heartbeat_ms: int = 50
    """Between two heartbeats on each link; 5 to 10000 ms."""
    dead_after_ms: int = 200
    """Silence on all links after which the peer counts as dead; at least twice
    heartbeat_ms, at most 60000 ms."""
    dead_after_max_ms: int = 1000
    """What a bad network may make of dead_after_ms; by default five times as much."""
    lease: bool = True
    """While a standby listens, the kernel ends forwarding if this daemon hangs."""
    ping: tuple[str, ...] | None = None
    """Addresses of the peer's machine to ask when it is silent; at most 8, empty: do
    not ask; None: those of the links."""


@dataclass(frozen=True, slots=True)
class SwapConfig:
    garp_count: int = 3
    """How often the addresses are announced after a swap: at once, after 100 ms, then
    at growing intervals; 1 to 50."""
    garp_interval_s: float = 0.0
    """Seconds between further announcements while active, 0.1 or more; 0: none."""
    hold_down_s: float = 1.0
    """Between two swaps for quality or priority, and how long a better priority must
    last; 0 to 3600."""
    flap_count: int = 8
    """After so many changes of role that nobody asked for, the role is kept; 0: never."""
    flap_window_s: float = 60.0
    """If they fell within so many seconds."""
    flap_hold_s: float = 60.0
    """For so many seconds, whatever quality and priority say."""
    bounce_interfaces: bool = False
    """A node that steps down takes its data interfaces down and up."""
    freeze_max_s: float = 30.0
    """The longest time, and the usual one, that `freeze` may make preferences wait."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str = "info"
    """The least severity that is logged: debug, info, warning or error."""
    recorder: Path | None = None
    """File of the flight recorder; a second one beside it bears ".1" too.  Absolute
    here; None: only in memory."""


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration."""

    path: Path
    node: NodeConfig
    cluster: ClusterConfig
    control: ControlConfig
    stream: StreamConfig
    link: tuple[LinkConfig, ...]
    interface: tuple[InterfaceConfig, ...]
    liveness: LivenessConfig
    swap: SwapConfig
    log: LogConfig
    health: tuple[HealthConfig, ...]
    lines: Mapping[KeyPath, int] = field(repr=False, compare=False)
    """Line numbers by key path, for messages."""

    def where(self, *key: str | int) -> str:
        """`FILE:LINE: key` for a message about a value, found at run time."""
        return f"{self.path}:{line_of(self.lines, key)}: {show(key)}"

    def notices(self) -> list[str]:
        """What was accepted but does less than its name says; one line each."""
        out = [
            f"{self.where('cluster', 'psk_file')}: key {name} is weak, {bits} bits at most; "
            "make a new one: openssl rand -hex 32"
            for name, bits in self.cluster.keys
            if bits < keys.WEAK_BITS
        ]
        return out

    @property
    def moving(self) -> list[tuple[str, str]]:
        """(interface, address) of what only the active node has."""
        return self.announcements if self.cluster.address_mode == "move" else []

    @property
    def announcements(self) -> list[tuple[str, str]]:
        """(interface, address without prefix), in the order of the file."""
        return [(i.name, a.split("/")[0]) for i in self.interface for a in i.addresses]


# What SIGHUP may change while the stream runs.  An index stands as *.
RELOADABLE: Final = frozenset(
    {
        "cluster.priority",
        "cluster.psk_file",
        "health",
        *(f"health[*].{f.name}" for f in fields(HealthConfig)),
        *(f"health[*].{key}" for kind in KINDS.values() for key in kind.options),
        "interface[*].members",
        "interface[*].weight",
        "liveness.ping",
        "log.level",
        "swap.freeze_max_s",
        "swap.garp_count",
        "swap.garp_interval_s",
    }
)


def changed(old: Config, new: Config) -> list[KeyPath]:
    """The keys whose values differ, as paths.  Tables that were added or removed
    stand as a whole: ("link",)."""
    out: list[KeyPath] = []

    def walk(path: KeyPath, a: Any, b: Any) -> None:
        if is_dataclass(a):
            for f in fields(a):
                if f.compare:
                    walk((*path, f.name), getattr(a, f.name), getattr(b, f.name))
        elif isinstance(a, tuple) and a and is_dataclass(a[0]):
            if len(a) != len(b):
                out.append(path)
                return
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                walk((*path, i), x, y)
        elif a != b:
            out.append(path)

    walk((), old, new)
    # Other keys in the same file are a change of that file.
    file: KeyPath = ("cluster", "psk_file")
    out = [file if p == ("cluster", "keys") else p for p in out]
    return [p for p in dict.fromkeys(out) if p != ("path",)]


def reloadable(path: KeyPath) -> bool:
    """Whether a changed key may take effect without dropping the stream."""
    star: KeyPath = tuple("*" if isinstance(part, int) else part for part in path)
    return show(star).replace(".*", "[*]") in RELOADABLE


def line_of(lines: Mapping[KeyPath, int], key: KeyPath) -> int:
    """The line of a key, or of the nearest table above that exists, or 1."""
    for n in range(len(key), 0, -1):
        if key[:n] in lines:
            return lines[key[:n]]
    return 1
