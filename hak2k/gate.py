"""The gate: nftables tables that keep a passive node mute and deaf.

Two tables, both named hak2k:

netdev hak2k    the gate.  Ingress and egress of the data interfaces drop all,
                except frames of devices whose type is in the set `open`.  Empty
                set: closed.  The core flips it with one set element (30-50 us).
                While the set `leaving` is not empty, what leaves an Ethernet device
                bears LEAVING_MAC: the peer has told the switches that the common
                address is behind it, and frames that are late must not unteach them.
                The element is a device type, not `meta nfproto`, which the kernel
                refuses in family netdev, nor a group, which belongs to the user.
inet hak2k      what must hold on both nodes, open or not:
    labels      a chain without a hook.  The kernel gives entries room for labels
                only if some rule of this netns names them.
    raw_*       replication traffic is not tracked: an entry for it would be a
                larva on the other side.
    tell_*      which events conntrack makes messages of, for making them costs the
                firewall more than all of hak2kd: those that a probe does not tell
                (PROBED), or without one those of TCP that a swap needs (LEAN).  Right
                behind conntrack, so that what is set for a packet decides over that
                packet's own events.
    guard_in    TCP to the firewall itself that opens nothing and belongs to
                nothing is dropped silently.  For a masqueraded connection that
                is (still) unknown here, the answer of this host's own stack
                would be a RST that kills it.
    guard_out   for UDP the same answer is an ICMP "port unreachable".  Only those
                about packets to our own data addresses are dropped, told by the
                destination in the packet they quote; what the user's ruleset
                rejects in forwarding is answered as before.

Neither is flagged `owner`: the gate of a passive node must stay closed when the
daemon dies.  For the same reason hak2kd does not remove them at its end; `destroy`
is for de-installation.

Each change is one transaction of libnftables, in a fresh context, so that memory
is given back.  `build` replaces what is there: closed before, closed after, never
open in between (nftables applies a transaction at once), and no duplicates.

Not handled here: the flip itself (csrc/hak_gate.c), and traffic of interfaces
that are not named in the configuration.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hak2k.errors import KernelError

if TYPE_CHECKING:
    from hak2k.settings import Config

TABLE: Final = "hak2k"
LEAVING_MAC: Final = 0x0268616B326B  # 02:68:61:6b:32:6b, locally administered
INGRESS_PRIORITY: Final = -500
EGRESS_PRIORITY: Final = 500
CONNTRACK_PRIORITY: Final = -200
# Events by their bits (enum ip_conntrack_events), for TCP packets that do nothing, that
# open, that close.  A message goes out if one of its events is among them, and is whole
# then.  A handshake is told by NEW and ASSURED, which comes with ESTABLISHED and all of
# its state; REPLY is for connections that were picked up in their middle.  A FIN or RST
# is told whatever state it leads to; the ACK of a FIN is not.
_REPLY, _PROTOINFO, _ALL = 1 << 3, 1 << 5, (1 << 12) - 1
LEAN: Final = {
    "tcp flags & (fin | syn | rst) == 0": _ALL & ~_PROTOINFO,
    "tcp flags & (fin | rst) != 0": _ALL,
    "tcp flags & syn != 0": _ALL & ~_PROTOINFO & ~_REPLY,
}
# With a probe (csrc/bpf/probe.c), which tells these without any message, of all protocols:
# NEW, REPLY, ASSURED, PROTOINFO, MARK, LABEL.  HELPER, SEQADJ and others stay, and with
# them what is done through ctnetlink, which makes all kinds of events at once.  Of DCCP the
# probe does not know the state.
PROBED: Final = _ALL & ~(1 << 0 | _REPLY | 1 << 4 | _PROTOINFO | 1 << 7 | 1 << 10)
_NAME = re.compile(r"[A-Za-z0-9._@:+-]{1,15}")
_MISSING = (
    "libnftables is missing; install it: apt-get install libnftables1 "
    "(and the Python module pip-nftables)"
)


@dataclass(frozen=True, slots=True)
class GateSpec:
    """What the tables are made from."""

    interfaces: tuple[str, ...]
    """Data interfaces; they must exist."""
    links: tuple[str, ...]
    """HA interfaces."""
    port: int
    """UDP port of the stream."""
    addresses: tuple[str, ...] = ()
    """Our addresses on the data interfaces, with or without a prefix length."""
    events: str = "lean"
    """Which conntrack events the kernel makes messages of: "lean", "all", or "probed", of
    those that a probe does not tell."""

    @classmethod
    def of(cls, config: Config, *, probe: bool = False) -> GateSpec:
        return cls(
            interfaces=tuple(i.name for i in config.interface),
            links=tuple(link.interface for link in config.link),
            port=config.stream.port,
            addresses=tuple(a for i in config.interface for a in i.addresses),
            events="probed" if probe else config.stream.events,
        )


def _quoted(names: Sequence[str]) -> list[str]:
    """Interface names in nft's syntax.  Raises ValueError for a name that could be
    anything but a name."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not an interface name: {name!r}")
    return [f'"{name}"' for name in names]


def _names(names: Sequence[str]) -> str:
    """A set of them."""
    return "{ " + ", ".join(_quoted(names)) + " }"


def _quoted_destinations(spec: GateSpec, version: int) -> str:
    """Our own addresses as raw payload: 0x0a480001."""
    digits = 8 if version == 4 else 32
    found = [ipaddress.ip_interface(a).ip for a in spec.addresses]
    ours = sorted({int(a) for a in found if a.version == version})
    return "{ " + ", ".join(f"{a:#0{digits + 2}x}" for a in ours) + " }" if ours else ""


def event_chains(events: str = "lean") -> Iterator[str]:
    """Chains that choose events, for a table of family inet; a line each."""
    if events == "all":
        return
    rule = f"ct state new meta l4proto != dccp ct event set {PROBED:#x}"
    if events == "lean":
        rule = "meta l4proto tcp jump tell"
        yield " chain tell {"
        for packet, bits in LEAN.items():
            yield f"  {packet} ct event set {bits:#x} return"
        yield " }"
    for name, hook in (("tell_in", "prerouting"), ("tell_out", "output")):
        yield f" chain {name} {{"
        yield f"  type filter hook {hook} priority {CONNTRACK_PRIORITY + 1};"
        yield f"  {rule}"
        yield " }"


def ruleset(spec: GateSpec, open_types: Iterable[int] = ()) -> str:
    """The transaction that makes both tables anew.

    open_types: ARPHRD types of devices for which the gate is open at once; empty:
    closed.
    """
    # A rule for each link: there are one or two, and a name is compared in less time than
    # it is looked up in a set.
    data, links = _names(spec.interfaces), _quoted(spec.links)
    elements = ", ".join(str(int(t)) for t in sorted(set(open_types)))
    lines = []
    for family in ("netdev", "inet"):
        # Adding first makes the deletion valid whether the table is there or not.
        lines += [f"add table {family} {TABLE}", f"delete table {family} {TABLE}"]
    lines += [
        f"table netdev {TABLE} {{",
        " set open {",
        "  type iface_type",
        *([f"  elements = {{ {elements} }}"] if elements else []),
        " }",
        " set leaving {",
        "  type iface_type",
        " }",
    ]
    # By its place: by its name nft would also ask for the type of the input device,
    # and a frame that leaves has none.
    leaving = (f"  meta oiftype 1 meta oiftype @leaving @ll,48,48 set {LEAVING_MAC:#014x}",)
    for hook, direction, priority in (
        ("ingress", "iiftype", INGRESS_PRIORITY),
        ("egress", "oiftype", EGRESS_PRIORITY),
    ):
        lines += [
            f" chain {hook} {{",
            f"  type filter hook {hook} devices = {data} priority {priority}; policy drop;",
            *(leaving if hook == "egress" else ()),
            f"  meta {direction} @open accept",
            " }",
        ]
    lines += [
        "}",
        f"table inet {TABLE} {{",
        " chain labels {",
        "  ct label set 127",
        " }",
        " chain raw_in {",
        "  type filter hook prerouting priority raw;",
        *(f"  udp dport {spec.port} iifname {link} notrack" for link in links),
        " }",
        " chain raw_out {",
        "  type filter hook output priority raw;",
        *(f"  udp dport {spec.port} oifname {link} notrack" for link in links),
        " }",
        *event_chains(spec.events),
        " chain guard_in {",
        "  type filter hook input priority filter - 1;",
        "  meta l4proto tcp"  # first: what is of another protocol costs no look-up of a name
        f" iifname {data} tcp flags & (syn|rst|ack) != syn ct state {{ new, invalid }} drop",
        " }",
        " chain guard_out {",
        "  type filter hook output priority filter - 1;",
    ]
    # The quoted packet starts 8 bytes into the ICMP header; its destination lies
    # 16 bytes into an IPv4 and 24 into an IPv6 header.
    for version, proto, at, bits in ((4, "icmp", 24, 32), (6, "icmpv6", 32, 128)):
        ours = _quoted_destinations(spec, version)
        if ours:
            lines.append(
                f"  {proto} type destination-unreachable oifname {data}"
                f" {proto} code port-unreachable @th,{at * 8},{bits} {ours} drop"
            )
    lines += [" }", "}"]
    return "\n".join(lines) + "\n"


def _nft(command: str, *, as_json: bool = False) -> str:
    """One transaction; its output.

    Raises KernelError: the library is missing, or nftables refused.
    """
    try:
        import nftables

        # Nftables() would find out too, but leave an object whose end fails noisily.
        ctypes.CDLL("libnftables.so.1")
        context = nftables.Nftables()
    except (ImportError, OSError) as e:
        raise KernelError(_MISSING) from e
    context.set_json_output(as_json)
    code, output, error = context.cmd(command)
    if code != 0:
        # "Error: Could not process rule: ...", then the rule, then a caret line.
        first = str(error).strip().splitlines()
        raise KernelError(f"nftables: {first[0] if first else 'failed'}")
    return str(output)


def check_library() -> None:
    """Raises KernelError if libnftables cannot be used."""
    _nft("")


def build(spec: GateSpec, open_types: Iterable[int] = ()) -> None:
    """Make both tables, replacing what is there, in one transaction.

    open_types: as in `ruleset`; empty closes the gate.
    Raises KernelError, and then nothing has changed.
    """
    _nft(ruleset(spec, open_types))


def destroy() -> None:
    """Remove both tables: the data interfaces are open to all.  No error if they
    are not there.  Raises KernelError."""
    _nft(
        "".join(
            f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n"
            for family in ("netdev", "inet")
        )
    )


def present(spec: GateSpec) -> bool:
    """Whether both tables are there and the gate covers every data interface.

    Raises KernelError if the library is missing.
    """
    try:
        inet = _chains(_nft(f"list table inet {TABLE}", as_json=True))
        netdev = _chains(_nft(f"list table netdev {TABLE}", as_json=True))
    except KernelError as e:
        if str(e) == _MISSING:
            raise
        return False
    wanted = {"labels", "raw_in", "raw_out", "guard_in", "guard_out"}
    if spec.events != "all":
        wanted |= {"tell_in", "tell_out"}
    if ("tell" in inet) is not (spec.events == "lean"):
        return False
    if not wanted <= inet.keys():
        return False
    for hook in ("ingress", "egress"):
        chain = netdev.get(hook)
        if chain is None or chain.get("policy") != "drop":
            return False
        devices = chain.get("dev")
        # nftables before 1.1 does not print the devices of several as JSON; then
        # the text has to do.
        if devices is None:
            return _devices_in_text(spec)
        names = {devices} if isinstance(devices, str) else set(devices)
        if not set(spec.interfaces) <= names:
            return False
    return True


def _chains(text: str) -> dict[str, dict[str, Any]]:
    items = json.loads(text)["nftables"]
    return {i["chain"]["name"]: i["chain"] for i in items if "chain" in i}


def _devices_in_text(spec: GateSpec) -> bool:
    text = _nft(f"list table netdev {TABLE}")
    found = re.findall(r"hook (?:in|e)gress devices? ?=? \{? ?([^}\n]*?) \}? ?pri", text)
    wanted = set(spec.interfaces)
    return len(found) == 2 and all(
        wanted <= {n.strip(' "') for n in names.split(",")} for names in found
    )
