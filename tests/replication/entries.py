"""Entries of every protocol and every form of translation, to be replicated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hak2k.lab import Entry, Tuple
from hak2k.lab import ctnl as c
from hak2k.lab.ctnl import Sctp, Tcp

TCP, UDP, DCCP, GRE, SCTP, UDPLITE = 6, 17, 33, 47, 132, 136
PORTED = (TCP, UDP, DCCP, SCTP, UDPLITE)
ICMP = {4: (1, 8), 6: (58, 128)}  # protocol, echo request
PROTOCOLS = {
    "tcp": TCP,
    "udp": UDP,
    "udplite": UDPLITE,
    "dccp": DCCP,
    "icmp": 0,  # one for each family
    "sctp": SCTP,
    "gre": GRE,
    "esp": 50,
    "ah": 51,
    "ospf": 89,
    "other": 253,
}
TCP_FLAGS = c.TCP_WINDOW_SCALE | c.TCP_SACK_PERM

# Who is what, by family.  The last two are the firewall's own and its pool's.
SERVER = {4: "10.72.0.10", 6: "fd72::10"}
PUBLISHED = {4: "10.72.0.99", 6: "fd72::99"}
OWN = {4: "10.72.0.1", 6: "fd72::1"}
POOL = {4: "10.72.0.77", 6: "fd72::77"}

FORMS = ("plain", "snat", "masquerade", "dnat", "redirect", "both")
PORT_FORMS = ("snat-port", "masquerade-port", "dnat-port", "redirect-port", "both-ports")


@dataclass(frozen=True)
class Case:
    protocol: str
    family: int
    form: str
    number: int

    def __str__(self) -> str:
        return f"{self.protocol}-{self.form}-v{self.family}"

    def entry(self) -> Entry:
        """An entry that no other case has; its client sees to that."""
        client = f"10.71.{1 + self.number // 250}.{1 + self.number % 250}"
        if self.family == 6:
            client = f"fd71::1:{self.number:x}"
        return make(self.protocol, self.family, self.form, client)


def cases() -> list[Case]:
    found: list[tuple[str, int, str]] = []
    for protocol, number in PROTOCOLS.items():
        for family in (4, 6):
            forms: tuple[str, ...] = FORMS
            if number in PORTED:
                forms += PORT_FORMS
            elif protocol == "icmp":
                forms += ("snat-port", "masquerade-port", "both-ports")
            # A redirection without another port is none.
            found += [(protocol, family, form) for form in forms if form != "redirect"]
    return [Case(p, family, form, i) for i, (p, family, form) in enumerate(found)]


def flow(protocol: str, family: int, client: str, server: str) -> Tuple:
    number = PROTOCOLS[protocol]
    if protocol == "icmp":
        number, kind = ICMP[family]
        return Tuple(client, server, number, icmp=(0x1234, kind, 0))
    if number in PORTED:
        return Tuple(client, server, number, 40000, 8080)
    if number == GRE:
        return Tuple(client, server, number, 0x1122, 0x3344)
    return Tuple(client, server, number)


def make(protocol: str, family: int, form: str, client: str) -> Entry:
    """A living entry of a protocol, translated as `form` says."""
    kind, _, ports = form.partition("-")
    target = {"dnat": OWN, "both": PUBLISHED}.get(kind, SERVER)[family]
    if kind == "dnat":
        # From outside, to a host inside.
        orig = flow(protocol, family, client.replace("71", "72", 1), target)
    else:
        orig = flow(protocol, family, client, target)
    reply = orig.inverse()
    status = c.CONFIRMED | c.SEEN_REPLY
    if kind in ("snat", "both", "masquerade"):
        status |= c.SRC_NAT
        # The client's own host part, that no other entry of the pool is like it.
        pool = (OWN if kind == "masquerade" else POOL)[family]
        if reply.dport is None and reply.icmp is None:
            pool = client.replace("71", "73", 1)
        reply = replace(reply, dst=pool)
        if ports and reply.icmp:
            reply = replace(reply, icmp=(0x4321, *reply.icmp[1:]))
        elif ports:
            reply = replace(reply, dport=50000)
    if kind in ("dnat", "both", "redirect"):
        status |= c.DST_NAT
        inside = {4: "10.71.0.10", 6: "fd71::10"} if kind == "dnat" else SERVER
        if kind != "redirect":
            reply = replace(reply, src=inside[family])
        if ports and reply.sport is not None:
            reply = replace(reply, sport=80)
    if status & (c.SRC_NAT | c.DST_NAT):
        status |= c.SRC_NAT_DONE | c.DST_NAT_DONE
    entry = Entry(orig, reply, status=status, timeout=600)
    if orig.proto == TCP:
        flags = (TCP_FLAGS, TCP_FLAGS)
        return replace(entry, tcp=Tcp("ESTABLISHED", (7, 2), flags), status=status | c.ASSURED)
    if orig.proto == SCTP:
        state = Sctp("ESTABLISHED", (0x1A2B3C4D, 0xF0E0D0C0))
        return replace(entry, sctp=state, status=status | c.ASSURED)
    return entry
