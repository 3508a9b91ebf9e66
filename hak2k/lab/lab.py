"""The test bed: two firewalls, a client, a server, and what can go wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hak2k.lab import topology
from hak2k.lab.daemons import Daemons, Instance
from hak2k.lab.netns import Spawner, privileged
from hak2k.lab.node import Node
from hak2k.lab.rtnl import End
from hak2k.lab.tap import Tap
from hak2k.lab.wire import Faults, Wire

HA_LINKS = ("ha0", "ha1")
DATA_LINKS = ("lan", "wan")

_open_labs: weakref.WeakSet[Lab] = weakref.WeakSet()

# Nobody but the traffic may speak: no autoconfiguration, no duplicate detection.
_QUIET = (
    "net.ipv6.conf.all.disable_ipv6=0",
    "net.ipv6.conf.default.disable_ipv6=0",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.accept_ra=0",
    "net.ipv6.conf.default.accept_ra=0",
    "net.ipv6.conf.default.router_solicitations=0",
)
_FIREWALL = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.forwarding=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
)


@dataclass(frozen=True)
class Crash:
    """When a firewall died.

    Attributes:
        at: seconds on the clock of ``time.monotonic``, before the first blow.
        wall: the same instant on the clock of ``time.time``.
        took_ms: until the last link was down.
    """

    at: float
    wall: float
    took_ms: float


class Lab:
    """A pair of firewalls between a client and a server.

    All namespaces are anonymous and all processes die with this one, so that
    nothing is left behind however the program ends.  Several labs can exist at
    a time.

    Args:
        wire: let the HA links pass through a relay that can inject faults.
        flood: let the switch flood all data traffic to both firewalls.
        loose: let the firewalls pick up TCP connections that they do not know
            in mid-stream; off, so that a connection that was not replicated
            dies and the test sees it.
        move: give the firewalls hardware addresses of their own, and leave the others
            to the daemons: ``address_mode = "move"``.
        ruleset: the firewalls' nftables ruleset.
        bindir: where ``hak2kd`` and ``hak2kctl`` are; by default beside the
            running interpreter.

    Raises:
        PermissionError: see ``ensure_privileges``.
    """

    def __init__(
        self,
        *,
        wire: bool = False,
        flood: bool = False,
        loose: bool = False,
        move: bool = False,
        ruleset: str = topology.RULESET,
        bindir: Path | None = None,
    ) -> None:
        if not privileged():
            raise PermissionError(
                "the lab needs root; call hak2k.lab.ensure_privileges() first, "
                "which can do without where user namespaces are allowed"
            )
        self._closed = False
        self._flood = flood
        self._loose = loose
        self._move = move
        self._ruleset = ruleset
        self._nodes: list[Node] = []
        self._unplugged: set[str] = set()
        self._cut: dict[str, str] = {}
        self._tap: Tap | None = None
        self.wire: Wire | None = None
        self.directory = Path(tempfile.mkdtemp(prefix=f"hak2k-lab-{os.getpid()}-"))
        self._janitor = self._start_janitor()
        self._spawner = Spawner()
        try:
            self.client = self._node("client")
            self.server = self._node("server")
            self.fw1 = self._node("fw1")
            self.fw2 = self._node("fw2")
            self.switch = self._node("switch")
            self.fw = (self.fw1, self.fw2)
            self.daemons = Daemons(self.fw, self.directory, bindir)
            if move:
                self.daemons.common = {"cluster": {"address_mode": "move"}}
            self._build(wire)
        except BaseException:
            self.close()
            raise
        _open_labs.add(self)

    # -- life ------------------------------------------------------------------

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and not self._closed:
            logs = self.daemons.logs()
            if logs:
                print(logs, file=sys.stderr)
        self.close()

    def close(self) -> None:
        """End every process and namespace and remove the files.

        With ``HAK2K_LAB_KEEP`` in the environment the files stay.  Harmless when
        repeated.
        """
        if self._closed:
            return
        self._closed = True
        _open_labs.discard(self)
        if self._tap is not None:
            self._tap.close()
        if hasattr(self, "daemons"):
            self.daemons.close()
        for node in self._nodes:
            node.close()
        self._spawner.close()
        if not os.environ.get("HAK2K_LAB_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)
        # A line, not the end of the input: there is nothing left to clean up.
        self._janitor.communicate(b"\n")

    def _start_janitor(self) -> subprocess.Popen[bytes]:
        """Start the one process that outlives a killed lab, to remove its files.

        It waits for the end of its input, which the kernel brings about when
        the lab dies, and leaves the lab's process group so as not to be killed
        with it.
        """
        keep = ":" if os.environ.get("HAK2K_LAB_KEEP") else 'sleep 0.2; rm -rf -- "$1"'
        return subprocess.Popen(
            ["/bin/sh", "-c", f"read _ || {{ {keep}; }}", "sh", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    # -- building --------------------------------------------------------------

    def _node(self, name: str) -> Node:
        node = Node(name, self._spawner)
        self._nodes.append(node)
        return node

    def _cable(self, node: Node, name: str, port: str, bridge: str, mac: str | None = None) -> None:
        self.switch.rtnl.add_veth(End(node.fd, name, mac), End(self.switch.fd, port))
        self.switch.rtnl.set_master(port, bridge)
        if self._flood and node in self.fw:
            self.switch.rtnl.set_learning(port, False)
        self.switch.up(port)

    def _build(self, wire: bool) -> None:
        # The switch itself must never say a word.
        self.switch.sysctl(
            "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"
        )
        for node in (self.client, self.server, *self.fw):
            node.sysctl(*_QUIET)
        for name in ("br-lan", "br-wan"):
            self.switch.rtnl.add_bridge(name)
            self.switch.up(name)
        self._cable(self.client, "eth0", "client", "br-lan")
        self._cable(self.server, "eth0", "server", "br-wan")
        self._build_endpoints()
        for node in self.fw:
            node.sysctl(*_FIREWALL)
            for link, mac in (("lan", topology.LAN_MAC), ("wan", topology.WAN_MAC)):
                own = None if self._move else mac
                self._cable(node, link, f"{node.name}-{link}", f"br-{link}", own)
        self._build_ha(wire)
        for node in self.fw:
            self.load_ruleset(node)
            self._links_up(node)
        if wire:
            node = self.wire_node
            pairs = {link: (f"fw1-{link}", f"fw2-{link}") for link in HA_LINKS}
            self.wire = Wire(node, pairs)

    def _build_ha(self, wire: bool) -> None:
        if not wire:
            for link in HA_LINKS:
                self.switch.rtnl.add_veth(End(self.fw1.fd, link), End(self.fw2.fd, link))
            return
        self.wire_node = self._node("wire")
        self.wire_node.sysctl(
            "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"
        )
        for node in self.fw:
            for link in HA_LINKS:
                port = f"{node.name}-{link}"
                # One segment per frame: faults must hit single datagrams, not bursts
                # that the sender left to the device to cut up.
                self.wire_node.rtnl.add_veth(
                    End(node.fd, link, gso_max_segs=1), End(self.wire_node.fd, port)
                )
                self.wire_node.up(port)

    def _build_endpoints(self) -> None:
        t = topology
        for node, addresses, gateways in (
            (
                self.client,
                (
                    *(f"{a}/24" for a in (t.CLIENT4, t.SNAT_CLIENT4, t.ZONE_CLIENT4)),
                    # The kernel prefers the IPv6 address that came last, and the
                    # IPv4 address that came first.
                    *(f"{a}/64" for a in (t.ZONE_CLIENT6, t.SNAT_CLIENT6, t.CLIENT6)),
                ),
                (t.LAN4, t.LAN6),
            ),
            (self.server, (f"{t.SERVER4}/24", f"{t.SERVER6}/64"), (t.WAN4, t.WAN6)),
        ):
            node.up("eth0")
            node.rtnl.add_address("eth0", *addresses)
            node.rtnl.add_route("default4", gateways[0], "eth0")
            node.rtnl.add_route("default6", gateways[1], "eth0")
        # The fixed translated addresses belong to no device: they are routed.
        self.server.rtnl.add_route(f"{t.SNAT4}/32", t.WAN4, "eth0")
        self.server.rtnl.add_route(f"{t.SNAT6}/128", t.WAN6, "eth0")

    def load_ruleset(self, node: Node) -> None:
        """Load a firewall's own ruleset as an administrator does who knows no better:
        `flush ruleset` first."""
        node.nft("flush ruleset\n" + self._ruleset)
        node.sysctl(
            f"net.netfilter.nf_conntrack_tcp_loose={int(self._loose)}",
            "net.netfilter.nf_conntrack_events=1",
            "net.netfilter.nf_conntrack_acct=1",
            # The kernel checks UDP-Lite against UDP's pseudo-header and so finds every
            # such packet invalid; only without checksums does it track them.
            "net.netfilter.nf_conntrack_checksum=0",
            optional=True,
        )

    def _links_up(self, node: Node) -> None:
        node.up(*HA_LINKS, *DATA_LINKS)
        for link, address in topology.HA_ADDRESSES[node.name].items():
            node.rtnl.add_address(link, address)
        if self._move:
            return
        node.rtnl.add_address("lan", *topology.LAN_ADDRESSES)
        node.rtnl.add_address("wan", *topology.WAN_ADDRESSES)

    def node(self, name: Node | str) -> Node:
        """The node of that name (a node is returned as it is).

        Raises:
            KeyError: no such node.
        """
        if isinstance(name, Node):
            return name
        return {node.name: node for node in self._nodes}[name]

    def other(self, firewall: Node | str) -> Node:
        """The firewall that ``firewall`` is not."""
        return self.fw2 if self.node(firewall) is self.fw1 else self.fw1

    def hints(self) -> str:
        """Shell commands that enter each node while the lab lives, for debugging."""
        return "\n".join(
            f"{node.name}: nsenter --net=/proc/{os.getpid()}/fd/{node.fd}" for node in self._nodes
        )

    # -- faults ----------------------------------------------------------------

    def solo(self, firewall: Node | str) -> None:
        """Leave one firewall alone: the other's data interfaces go down."""
        self.other(firewall).down(*DATA_LINKS)

    def unplug(self, firewall: Node | str) -> None:
        """Take a firewall's data ports out of the switch; its links stay up."""
        name = self.node(firewall).name
        for link in DATA_LINKS:
            self.switch.rtnl.set_master(f"{name}-{link}", None)
        self._unplugged.add(name)

    def plug(self, firewall: Node | str) -> None:
        """Put a firewall's data ports back into the switch."""
        name = self.node(firewall).name
        for link in DATA_LINKS:
            port = f"{name}-{link}"
            self.switch.rtnl.set_master(port, f"br-{link}")
            if self._flood:
                self.switch.rtnl.set_learning(port, False)
        self._unplugged.discard(name)

    def crash(self, firewall: Node | str) -> Crash:
        """Cut a firewall's power: its daemon is killed and all its links go down.

        One signal and one system call; the HA links go first, so that nothing
        the dying kernel does about its data links can reach the peer.
        """
        node = self.node(firewall)
        process = self.daemons[node].process
        wall, begin = time.time(), time.monotonic()
        if process is not None and process.returncode is None:
            process.kill()
        node.down(*HA_LINKS, *DATA_LINKS)
        took = time.monotonic() - begin
        if process is not None:
            process.wait()
        return Crash(begin, wall, took * 1000)

    def revive(self, firewall: Node | str) -> None:
        """Boot a crashed firewall: empty tables, fresh ruleset, links up, no daemon.

        Its data ports stay out of the switch until ``start`` sees its daemon
        answer (or ``plug`` is called): a firewall that boots with addresses
        that another one serves is isolated until its gate stands.
        """
        node = self.node(firewall)
        self.daemons.kill(node)
        self.unplug(node)
        node.ct.flush()
        self.load_ruleset(node)
        self._links_up(node)

    def cut(self, *links: str, how: str | None = None) -> None:
        """Cut HA links (both, if none is named).

        Args:
            how: ``carrier``: both ends see the cable pulled (needs ``wire``);
                ``silent``: frames vanish, nobody sees why (needs ``wire``);
                ``admin``: taken down on ``fw1``, which ``fw2`` sees as a pulled
                cable.  By default ``carrier`` if possible, else ``admin``.
        """
        how = how or ("carrier" if self.wire else "admin")
        if how not in ("carrier", "silent", "admin"):
            raise ValueError(f"no such way to cut a link: {how!r}")
        for link in links or HA_LINKS:
            if how == "admin":
                self.fw1.down(link)
            elif self.wire is None:
                raise ValueError(f"cutting a link by {how!r} needs Lab(wire=True)")
            elif how == "silent":
                self.wire.set(Faults(blackhole=True), link=link)
            else:
                self.wire_node.down(f"fw1-{link}", f"fw2-{link}")
            self._cut[link] = how

    def restore(self, *links: str) -> None:
        """Restore HA links that were cut (all of them, if none is named).

        The kernel may take up to a second to use a device whose carrier came back.
        """
        for link in links or tuple(self._cut):
            how = self._cut.pop(link, None)
            if how == "admin":
                self.fw1.up(link)
            elif how == "silent" and self.wire is not None:
                self.wire.set(None, link=link)
            elif how == "carrier":
                self.wire_node.up(f"fw1-{link}", f"fw2-{link}")

    # -- watching --------------------------------------------------------------

    @property
    def tap(self) -> Tap:
        """Counts and keeps frames on the firewalls' data ports; made at first use."""
        if self._tap is None:
            self._tap = Tap(
                self.switch, [f"{node.name}-{link}" for node in self.fw for link in DATA_LINKS]
            )
        return self._tap

    # -- daemons ---------------------------------------------------------------

    def write_config(
        self, firewall: Node | str, *, extra: str = "", psk: str | None = None, **overrides: Any
    ) -> Path:
        """Write a firewall's configuration; see ``Daemons.write_config``."""
        return self.daemons.write_config(firewall, extra=extra, psk=psk, **overrides)

    def start(
        self,
        firewall: Node | str,
        *arguments: str,
        wait: bool = True,
        timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
    ) -> Instance:
        """Start a daemon (``Daemons.start``) and plug its data ports in again.

        With ``wait=False`` a revived firewall stays unplugged.
        """
        node = self.node(firewall)
        instance = self.daemons.start(node, *arguments, wait=wait, timeout=timeout, env=env)
        if wait and node.name in self._unplugged:
            self.plug(node)
        return instance

    def start_pair(self, timeout: float = 20.0) -> None:
        """Start both daemons; return when fw1 is active and fw2 passive and ready.

        Raises:
            Timeout: with both logs.
        """
        self.start(self.fw1)
        self.start(self.fw2)
        self.wait(self.fw1, mode="active", timeout=timeout)
        self.wait(self.fw2, mode="passive", ready=True, timeout=timeout)

    def stop(self, firewall: Node | str, timeout: float = 10.0) -> int | None:
        """Stop a daemon in good order; see ``Daemons.stop``."""
        return self.daemons.stop(self.node(firewall), timeout)

    def kill(self, firewall: Node | str) -> None:
        """Kill a daemon; the links stay as they are."""
        self.daemons.kill(self.node(firewall))

    def ctl(
        self, firewall: Node | str, *arguments: str, json: bool = True, timeout: float = 30.0
    ) -> Any:
        """Run a ``hak2kctl`` command; see ``Daemons.ctl``."""
        return self.daemons.ctl(firewall, *arguments, json=json, timeout=timeout)

    def wait(
        self,
        firewall: Node | str,
        *,
        mode: str | None = None,
        ready: bool = False,
        timeout: float = 15.0,
    ) -> None:
        """Block until a daemon is in ``mode`` (and ``ready``)."""
        self.daemons.wait(firewall, mode=mode, ready=ready, timeout=timeout)


def failure_report(lines: int = 60) -> str:
    """The logs of every open lab, for a test runner to show upon a failure."""
    return "\n".join(text for lab in list(_open_labs) if (text := lab.daemons.logs(lines)))
