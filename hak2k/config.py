"""The configuration: one TOML file, read, checked and frozen.

Rules
* Unknown keys are errors, with the nearest known name.
* Every problem is one line `FILE:LINE: key: what is wrong, what to do`; all that
  can be found in one go are reported together, in the order of the file.
* A value that contradicts another is refused and both keys are named.
* What this version cannot do is refused where it is asked for.  Nothing is
  accepted and then silently ignored.
* Relative paths are relative to the file.

What only a running kernel can tell (does the interface exist?) is checked by the
daemon, which uses `Config.where` to name file and line just the same.
"""

from __future__ import annotations

import difflib
import grp
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from hak2k import keys
from hak2k._toml import Path as KeyPath
from hak2k._toml import locate, show
from hak2k.errors import ConfigError
from hak2k.health.kind import LABEL, LABEL_RULE, Option
from hak2k.health.table import KINDS
from hak2k.keys import derive_key, fingerprint, strength
from hak2k.quality import DEFAULT_WEIGHT, MAX_WEIGHT
from hak2k.settings import (
    DEFAULT_PORT,
    DEFAULT_SOCKET,
    ClusterConfig,
    Config,
    ControlConfig,
    HealthConfig,
    InterfaceConfig,
    LinkConfig,
    LivenessConfig,
    LogConfig,
    NodeConfig,
    StreamConfig,
    SwapConfig,
    line_of,
)

LEAST_GARP_S: Final = 0.1

PROTOCOLS: Final[Mapping[str, int]] = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ospf": 89,
    "etherip": 97,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}
"""Names for `stream.protocols`; any other protocol is given as its number."""

_T = TypeVar("_T")

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:()+-]{0,31}")
_MODEL = re.compile(r"[!-~]([ -~]{0,30}[!-~])?")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,15}")
_IFNAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._@+-][A-Za-z0-9._@+:-]{0,14}")
_NAME = re.compile(LABEL)
_TOML_LINE = re.compile(r"^(.*) \(at line (\d+), column \d+\)$")
MAX_NETWORKS: Final = 64  # HAK_NETS_MAX of csrc/hak_policy.h
_MOST_PSK = 65536
_MOST_PINGS = 8
_SUN_PATH = 107  # sizeof(sockaddr_un.sun_path) less the final NUL


class _Report:
    """Collects problems with their places."""

    def __init__(self, path: Path, lines: Mapping[KeyPath, int]) -> None:
        self.path = path
        self.lines = lines
        self.found: list[tuple[int, str]] = []

    def line(self, key: KeyPath) -> int:
        return line_of(self.lines, key)

    def __call__(self, key: KeyPath, problem: str) -> None:
        n = self.line(key)
        self.found.append((n, f"{self.path}:{n}: {show(key)}: {problem}"))

    def contradiction(self, key: KeyPath, other: KeyPath, problem: str) -> None:
        self(key, f"contradicts {show(other)} (line {self.line(other)}): {problem}")

    def finish(self) -> None:
        if self.found:
            self.found.sort(key=lambda item: item[0])
            raise ConfigError([text for _, text in self.found])


_KIND = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


class _Table:
    """One table being read.  A bad value is reported and its default returned, so
    that reading goes on; nothing made from it survives `_Report.finish`."""

    def __init__(self, report: _Report, path: KeyPath, data: object) -> None:
        self.report = report
        self.path = path
        if not isinstance(data, dict):
            report(path, f"is {_is(data)}, must be a table; write [{show(path)}]")
            data = {}
        self.data: dict[str, Any] = data
        self.known: set[str] = set()

    def bad(self, key: str, problem: str) -> None:
        self.report((*self.path, key), problem)

    def _get(self, key: str, kind: type, default: Any) -> Any:
        self.known.add(key)
        if key not in self.data:
            if default is not ...:
                return default
            self.bad(key, f"is missing; add it, {_KIND[kind]}")
            return None
        value = self.data[key]
        # bool is an int to Python, and 1.0 is not a whole number to anyone.
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits:
            self.bad(key, f"is {_is(value)}, must be {_KIND[kind]}")
            return None
        return value

    def text(self, key: str, pattern: re.Pattern[str], rule: str, default: Any) -> str:
        value = self._get(key, str, default)
        if value is None:
            return ""
        if pattern.fullmatch(value) is None:
            self.bad(key, f"{value!r} is not allowed; use {rule}")
            return ""
        return str(value)

    def word(self, key: str, words: tuple[str, ...], default: str) -> str:
        value = self._get(key, str, default)
        if value is not None and value not in words:
            choice = ", ".join(f'"{w}"' for w in words)
            self.bad(key, f"{value!r} is not known; use one of {choice}")
            value = None
        return default if value is None else str(value)

    def number(self, key: str, low: float, high: float, unit: str, default: Any, kind: type) -> Any:
        value = self._get(key, kind, default)
        if value is None:
            return low
        if not low <= value <= high:  # also refuses nan
            tail = f" {unit}" if unit else ""
            self.bad(key, f"{value} is out of range; use {low} to {high}{tail}")
            return low
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._get(key, bool, default))

    def items(self, key: str, default: Any) -> list[Any]:
        return list(self._get(key, list, default) or [])

    def done(self) -> None:
        for key in self.data:
            if key not in self.known:
                near = difflib.get_close_matches(key, self.known, 1)
                hint = f"did you mean {near[0]!r}?" if near else "remove it"
                self.bad(key, f"is not a known key; {hint}")


def _is(value: object) -> str:
    kind = _KIND.get(type(value), "a date or time")
    return kind if isinstance(value, list | dict) else f"{kind} ({value!r})"


def _ipv4(value: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(value)
    except ValueError:
        return None


def _read_node(t: _Table) -> NodeConfig:
    return NodeConfig(
        serial=t.text("serial", _SERIAL, "1 to 32 of A-Z a-z 0-9 . _ : ( ) + -", ...),
        model=t.text("model", _MODEL, "1 to 32 printable ASCII characters", "hak2k"),
    )


def _read_psk(t: _Table, path: Path) -> list[bytearray]:
    """The keys as they stand in the file; the caller wipes them.

    Open first, then look at what was opened: no race with a rename."""

    def bad(problem: str) -> list[bytearray]:
        t.bad("psk_file", problem)
        return []

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as e:
        return bad(f"cannot read {path}: {e.strerror}; make it: openssl rand -hex 32")
    content = bytearray(_MOST_PSK)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return bad(f"{path} is not a regular file")
        if info.st_mode & 0o077:
            mode = f"{stat.S_IMODE(info.st_mode):04o}"
            return bad(f"{path} is open to others (mode {mode}); chmod 600 {path}")
        if info.st_uid not in (0, os.geteuid()):
            return bad(f"{path} belongs to user {info.st_uid}; chown root {path}")
        if info.st_size > _MOST_PSK:
            return bad(f"{path} is longer than {_MOST_PSK} bytes; one key a line")
        del content[os.readv(fd, [content]) :]
        found = keys.split(content)
    finally:
        os.close(fd)
        keys.wipe(content)
    make = f"make a new one: openssl rand -hex 32 > {path}"
    if not found:
        return bad(f"{path} holds no key, 0 bytes; {make}")
    if len(found) > keys.MOST:
        return bad(f"{path} holds {len(found)} keys, one a line; remove all but {keys.MOST}")
    for i, secret in enumerate(found, 1):
        which = f"{path} holds" if len(found) == 1 else f"key {i} of {path} has"
        if len(secret) < keys.SHORTEST:
            bad(f"{which} {len(secret)} bytes, fewer than {keys.SHORTEST}; {make}")
    return found


def _read_cluster(t: _Table, base: Path) -> ClusterConfig:
    ident = t.number("id", 1, 65535, "", ..., int)
    name = t.text("psk_file", re.compile(r"[^\0]+"), "the path of a file", ...)
    path = base / name
    secrets = _read_psk(t, path) if name else []
    known = [(derive_key(s), strength(s)) for s in secrets if s]
    for secret in secrets:
        keys.wipe(secret)
    mode = t.word("address_mode", ("shared", "move"), "shared")
    return ClusterConfig(
        id=ident,
        psk_file=path,
        priority=t.number("priority", 0, 65535, "", 0, int),
        address_mode=mode,
        psk=bytearray().join(key for key, _ in known),
        keys=tuple((fingerprint(key), bits) for key, bits in known),
    )


def _read_control(t: _Table, base: Path) -> ControlConfig:
    rule = "the path of a socket"
    path = base / t.text("socket", re.compile(r"[^\0]+"), rule, DEFAULT_SOCKET)
    if len(os.fsencode(path)) > _SUN_PATH:
        t.bad("socket", f"is longer than {_SUN_PATH} bytes; use a shorter path")
    return ControlConfig(socket=path, group=_read_group(t))


def _read_group(t: _Table) -> int | None:
    name = t.text("group", re.compile(r"[^\0]*"), "the name of a group", "")
    if not name:
        return None
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        t.bad("group", f"there is no group {name!r}; make it: groupadd --system {name}")
        return None


def _read_protocols(t: _Table) -> tuple[int, ...] | None:
    key = "protocols"
    if isinstance(t.data.get(key, "all"), str):
        t.word(key, ("all",), "all")
        return None
    numbers = set()
    for i, item in enumerate(t.items(key, ...)):
        number = PROTOCOLS.get(item.lower()) if isinstance(item, str) else item
        if type(number) is int and 0 < number < 256:
            numbers.add(number)
            continue
        near = difflib.get_close_matches(str(item).lower(), PROTOCOLS, 1)
        hint = f"did you mean {near[0]!r}?" if near else "use a name or 1 to 255"
        t.report((*t.path, key, i), f"{item!r} is not a protocol; {hint}")
    if not t.data[key]:
        t.bad(key, 'is empty, nothing would be replicated; use "all" or name some')
    return tuple(sorted(numbers))


def _read_mark(t: _Table) -> tuple[int, int] | None:
    key = "exclude_mark"
    rule = '"VALUE/MASK" with 32-bit numbers, as "0x100/0x100"'
    text = t.text(key, re.compile(r".*"), rule, "")
    if not text:
        return None
    try:
        value, mask = (int(part.strip(), 0) for part in text.split("/"))
    except ValueError:
        t.bad(key, f"{text!r} is not a mark; use {rule}")
        return None
    if not (0 <= value < 1 << 32 and 0 <= mask < 1 << 32):
        t.bad(key, f"{text!r} does not fit 32 bits; use {rule}")
    elif mask == 0:
        t.bad(key, "the mask 0 fits every connection; name at least one bit")
    elif value & ~mask:
        t.bad(key, f"{text!r} never fits: the value has bits outside the mask")
    return value, mask


def _read_networks(t: _Table) -> tuple[str, ...]:
    key = "exclude_networks"
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for i, item in enumerate(t.items(key, [])):
        here = (*t.path, key, i)
        try:
            if not isinstance(item, str) or "/" not in item:
                raise ValueError
            net = ipaddress.ip_network(item)
        except ValueError:
            t.report(here, f'{item!r} is not NETWORK/PREFIX without host bits, as "10.9.0.0/16"')
            continue
        for j, other in enumerate(found):
            if net.version == other.version and net.overlaps(other):
                t.report.contradiction(
                    here, (*t.path, key, j), f"{item} and {other} overlap; keep the larger one"
                )
        found.append(net)
    if len(found) > MAX_NETWORKS:
        t.bad(key, f"has {len(found)} networks, at most {MAX_NETWORKS} are possible")
    if {str(net) for net in found} >= {"0.0.0.0/0", "::/0"}:
        t.bad(key, "leaves nothing to replicate; remove one")
    return tuple(str(net) for net in found)


def _read_capture(t: _Table) -> tuple[str, str]:
    """How events are heard of, and which there are."""
    events = t.word("events", ("lean", "all"), "lean")
    capture = t.word("capture", ("auto", "probe", "netlink"), "auto")
    if capture == "probe" and events == "all":
        problem = 'a probe tells what "lean" does; use capture = "netlink" with it'
        t.report.contradiction((*t.path, "events"), (*t.path, "capture"), problem)
    return capture, events


def _read_stream(t: _Table) -> StreamConfig:
    duration = t.number("min_duration_s", 0, 86400, "seconds", 0, float)
    if 0 < duration < 0.001:
        t.bad("min_duration_s", f"{duration} is less than a millisecond; use 0 or more")
    capture, events = _read_capture(t)
    return StreamConfig(
        port=t.number("port", 1, 65535, "", DEFAULT_PORT, int),
        protocols=_read_protocols(t),
        min_duration_s=float(duration),
        adaptive=t.flag("adaptive", True),
        events=events,
        capture=capture,
        exclude_mark=_read_mark(t),
        exclude_local=t.flag("exclude_local", True),
        exclude_networks=_read_networks(t),
        encrypt=t.flag("encrypt", True),
        scrub_s=float(t.number("scrub_s", 0, 86400, "seconds", 60, float)),
    )


def _read_link(t: _Table) -> LinkConfig:
    def address(key: str) -> str:
        value = t._get(key, str, ...)
        if value is None:
            return ""
        found = _ipv4(value)
        if found is None:
            t.bad(key, f"{value!r} is not an IPv4 address; K2K links are IPv4 only")
        elif found.is_multicast or found.is_unspecified or int(found) == 0xFFFFFFFF:
            t.bad(key, f"{value!r} is not the address of one host; use a unicast one")
        return str(found)

    return LinkConfig(
        name=t.text("name", _LABEL, "1 to 16 of A-Z a-z 0-9 _ -", ...),
        interface=t.text("interface", _IFNAME, "the name of an interface", ...),
        local=address("local"),
        peer=address("peer"),
    )


def _read_interface(t: _Table) -> InterfaceConfig:
    addresses = []
    for i, item in enumerate(t.items("addresses", [])):
        key = (*t.path, "addresses", i)
        try:
            if not isinstance(item, str) or "/" not in item:
                raise ValueError
            found = ipaddress.ip_interface(item)
        except ValueError:
            t.report(key, f'{item!r} is not ADDRESS/PREFIX, as "10.0.0.1/24"')
            continue
        net = found.network
        is_net = found.ip == net.network_address and net.num_addresses > 2
        if is_net or found.ip.is_multicast or found.ip.is_unspecified:
            t.report(key, f"{item!r} is not the address of one host")
        addresses.append(str(found))
    return InterfaceConfig(
        name=t.text("name", _IFNAME, "the name of an interface", ...),
        weight=t.number("weight", 0, MAX_WEIGHT, "", DEFAULT_WEIGHT, int),
        members=t.flag("members", False),
        addresses=tuple(addresses),
    )


def _read_option(t: _Table, key: str, option: Option) -> Any:
    pattern = re.compile(option.pattern)
    if not option.many:
        if not option.required and key not in t.data:
            t.known.add(key)
            return None
        return t.text(key, pattern, option.rule, ...)
    items = t.items(key, ... if option.required else [])
    for i, item in enumerate(items):
        if not isinstance(item, str) or pattern.fullmatch(item) is None:
            t.report((*t.path, key, i), f"{item!r} is not allowed; use {option.rule}")
    if not items and key in t.data:
        t.bad(key, f"is empty; use {option.rule}")
    return items or None


def _read_health(t: _Table) -> HealthConfig:
    word = t._get("kind", str, ...)
    kind = KINDS.get(word or "")
    if kind is None:
        if word is not None:
            t.bad("kind", f"{word!r} is not known; use one of {', '.join(sorted(KINDS))}")
        t.known.update(t.data)  # whatever else is there belongs to a kind we do not know
        return HealthConfig("", "")
    before = len(t.report.found)
    interval = t.number("interval_s", 1, 86400, "seconds", kind.interval_s, float)
    timeout = t.number(
        "timeout_s", 0.1, 3600, "seconds", min(kind.timeout_s, max(interval, 1)), float
    )
    level, fail, recover = kind.level, None, None
    if level is not None:
        fail = t.number("fail", level.low, level.high, level.unit, level.fail, float)
        fail = fail if "fail" in t.data else level.fail
        # A limit of one's own, and another's way back, seldom fit.
        back = level.recover if "fail" not in t.data else None
        recover = t.number("recover", level.low, level.high, level.unit, back, float)
        recover = recover if "recover" in t.data else back
    config = HealthConfig(
        name=t.text("name", _NAME, LABEL_RULE, kind.name),
        kind=kind.name,
        weight=t.number("weight", 0, MAX_WEIGHT, "", kind.weight, int),
        interval_s=float(interval),
        timeout_s=float(timeout),
        fail_after=t.number("fail_after", 1, 100, "samples", kind.fail_after, int),
        recover_after=t.number("recover_after", 1, 100, "samples", kind.recover_after, int),
        fail=fail,
        recover=recover,
        required=t.flag("required", False),
        options={key: _read_option(t, key, option) for key, option in kind.options.items()},
    )
    if len(t.report.found) > before:
        return config
    wrong = kind.check(config.options)
    if wrong is not None:
        t.bad(next(iter(kind.options)), wrong)
    if timeout > interval:
        t.report.contradiction(
            (*t.path, "timeout_s"),
            (*t.path, "interval_s"),
            f"{timeout:g} s is longer than the {interval:g} s to the next sample",
        )
    if level is not None and recover is not None:
        if fail is None:
            t.bad("recover", 'says nothing without "fail"; add it')
        elif (recover < fail) if level.falls else (recover > fail):
            side = "below" if level.falls else "above"
            t.report.contradiction(
                (*t.path, "recover"),
                (*t.path, "fail"),
                f"{recover:g} {level.unit} lies {side} {fail:g}, where it fails",
            )
    return config


def _read_liveness(t: _Table) -> LivenessConfig:
    dead = t.number("dead_after_ms", 10, 60000, "ms", 200, int)
    return LivenessConfig(
        heartbeat_ms=t.number("heartbeat_ms", 5, 10000, "ms", 50, int),
        dead_after_ms=dead,
        dead_after_max_ms=t.number("dead_after_max_ms", 10, 300000, "ms", 5 * dead, int),
        lease=t.flag("lease", True),
        ping=_read_ping(t),
    )


def _read_ping(t: _Table) -> tuple[str, ...] | None:
    key = "ping"
    items = t.items(key, [])
    for i, item in enumerate(items):
        try:
            if not isinstance(item, str):
                raise ValueError
            ipaddress.ip_address(item)
        except ValueError:
            t.report((*t.path, key, i), f"{item!r} is not an IPv4 or IPv6 address")
    if len(items) > _MOST_PINGS:
        t.bad(key, f"has {len(items)} addresses, at most {_MOST_PINGS} are possible")
    return tuple(str(item) for item in items) if key in t.data else None


def _read_swap(t: _Table) -> SwapConfig:
    interval = float(t.number("garp_interval_s", 0, 3600, "seconds", 0, float))
    if 0 < interval < LEAST_GARP_S:
        t.bad("garp_interval_s", f"floods the network; use 0, or {LEAST_GARP_S:g} to 3600 seconds")
    return SwapConfig(
        garp_count=t.number("garp_count", 1, 50, "", 3, int),
        garp_interval_s=interval,
        bounce_interfaces=t.flag("bounce_interfaces", False),
        freeze_max_s=float(t.number("freeze_max_s", 1, 3600, "seconds", 30, float)),
        hold_down_s=float(t.number("hold_down_s", 0, 3600, "seconds", 1, float)),
        flap_count=t.number("flap_count", 0, 100, "", 8, int),
        flap_window_s=float(t.number("flap_window_s", 1, 86400, "seconds", 60, float)),
        flap_hold_s=float(t.number("flap_hold_s", 1, 86400, "seconds", 60, float)),
    )


def _read_log(t: _Table, base: Path, socket: Path) -> LogConfig:
    level = t.word("level", ("debug", "info", "warning", "error"), "info")
    beside = f"{socket}.flight"
    path = t.text("recorder", re.compile(r"[^\0]*"), "a path", beside)
    return LogConfig(level, base / path if path else None)


def _unique(report: _Report, where: str, key: str, values: list[str]) -> None:
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        if value in first:
            other = (where, first[value], key)
            report.contradiction(
                (where, i, key), other, f"both are {value!r}; each must be its own"
            )
        first.setdefault(value, i)


def _cross_check(report: _Report, c: Config) -> None:
    """What one key says of another."""
    beat, dead = c.liveness.heartbeat_ms, c.liveness.dead_after_ms
    if dead < 2 * beat:
        report.contradiction(
            ("liveness", "dead_after_ms"),
            ("liveness", "heartbeat_ms"),
            f"{dead} ms is less than two heartbeats of {beat} ms, one lost datagram "
            f"would be a death; use {2 * beat} or more",
        )
    if c.liveness.dead_after_max_ms < dead:
        report.contradiction(
            ("liveness", "dead_after_max_ms"),
            ("liveness", "dead_after_ms"),
            f"{c.liveness.dead_after_max_ms} ms is less than {dead} ms; use {dead} or more",
        )
    for i, link in enumerate(c.link):
        if link.local == link.peer:
            report.contradiction(
                ("link", i, "peer"),
                ("link", i, "local"),
                f"both are {link.local!r}; peer is the other node's address",
            )
        for j, other in enumerate(c.link):
            if i != j and link.peer == other.local:
                report.contradiction(
                    ("link", i, "peer"),
                    ("link", j, "local"),
                    f"{link.peer!r} cannot be the peer's and ours",
                )
    if c.cluster.address_mode == "move" and not c.announcements:
        report.contradiction(
            ("cluster", "address_mode"),
            ("interface", 0, "name"),
            '"move" needs addresses that can move; name them in interface.addresses',
        )
    for key in ("name", "interface", "local", "peer"):
        _unique(report, "link", key, [getattr(link, key) for link in c.link])
    _unique(report, "interface", "name", [i.name for i in c.interface])
    _unique(report, "health", "name", [h.name for h in c.health])
    owner: dict[str, KeyPath] = {}
    for i, interface in enumerate(c.interface):
        for j, link in enumerate(c.link):
            if interface.name == link.interface:
                report.contradiction(
                    ("interface", i, "name"),
                    ("link", j, "interface"),
                    f"{link.interface!r} cannot be a data interface, behind the gate, "
                    "and an HA link",
                )
        for k, address in enumerate(interface.addresses):
            here = ("interface", i, "addresses", k)
            bare = address.split("/")[0]
            if bare in owner:
                report.contradiction(here, owner[bare], f"both are {bare}")
            owner.setdefault(bare, here)
            for j, link in enumerate(c.link):
                if bare in (link.local, link.peer):
                    key = "local" if bare == link.local else "peer"
                    report.contradiction(
                        here,
                        ("link", j, key),
                        f"{bare} cannot be a data address and an HA one",
                    )


_SECTIONS = (
    *("node", "cluster", "control", "stream", "link", "interface", "liveness"),
    *("swap", "log", "health"),
)


def parse_config(text: str, path: Path) -> Config:
    """`load_config` of a text; `path` names it and is the base of relative paths.

    Raises ConfigError with every problem found.
    """
    try:
        data = tomllib.loads(text)
        lines = locate(text)
    except RecursionError:
        raise ConfigError([f"{path}:1: syntax: is nested too deeply, correct it"]) from None
    except ValueError as e:  # TOMLDecodeError, or a number of thousands of digits
        match = _TOML_LINE.match(str(e))
        line = int(match[2]) if match else text.count("\n") + 1
        what = match[1] if match else str(e)
        raise ConfigError([f"{path}:{line}: syntax: {what}, correct it"]) from None
    base = path.absolute().parent
    report = _Report(path, lines)
    top = _Table(report, (), data)
    top.known.update(_SECTIONS)

    def section(name: str) -> _Table:
        return _Table(report, (name,), data.get(name, {}))

    def read_all(
        name: str, read: Callable[[_Table], _T], most: int, least: int = 1
    ) -> tuple[_T, ...]:
        rows = data.get(name, [])
        if not isinstance(rows, list):
            report((name,), f"must be an array of tables; write [[{name}]]")
            return ()
        if len(rows) < least:
            report((name,), f"is missing; add a [[{name}]] table")
        if len(rows) > most:
            report((name, most), f"there are {len(rows)}; at most {most} are possible")
        tables = [_Table(report, (name, i), row) for i, row in enumerate(rows)]
        out = tuple(read(t) for t in tables)
        for t in tables:
            t.done()
        return out

    def read_one(name: str, read: Callable[[_Table], _T]) -> _T:
        t = section(name)
        out = read(t)
        t.done()
        return out

    control = read_one("control", lambda t: _read_control(t, base))
    config = Config(
        path=path,
        node=read_one("node", _read_node),
        cluster=read_one("cluster", lambda t: _read_cluster(t, base)),
        control=control,
        stream=read_one("stream", _read_stream),
        link=read_all("link", _read_link, 2),
        interface=read_all("interface", _read_interface, 64),
        liveness=read_one("liveness", _read_liveness),
        swap=read_one("swap", _read_swap),
        log=read_one("log", lambda t: _read_log(t, base, control.socket)),
        health=read_all("health", _read_health, 64, least=0),
        lines=report.lines,
    )
    top.done()
    # Only sound values can contradict each other.
    if not report.found:
        _cross_check(report, config)
    report.finish()
    return config


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises ConfigError (exit code 2) with every problem found.
    """
    where = Path(path)
    try:
        raw = where.read_bytes()
    except OSError as e:
        problem = f"{where}:1: file: cannot be read, {e.strerror}; check the path"
        raise ConfigError([problem]) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        problem = f"{where}:{line}: file: is not UTF-8, save it as such"
        raise ConfigError([problem]) from None
    return parse_config(text, where)
