"""What a node does with its data interfaces at a swap, beside the gate.

Addresses that move (`cluster.address_mode = "move"`)
    Added before the gate opens, removed after it is closed and the peer has the role:
    nobody sees a node without its addresses, or two with the same.  A node that
    starts leaves what it finds until it knows its role: its gate is closed, and if it
    becomes active again, what was masqueraded to them must not end.  While the node
    runs, the role decides: what somebody adds or removes is put right.

Bouncing (`swap.bounce_interfaces`)
    Interfaces of a node that stepped down go down and up again, so that switches
    forget what they learnt on these ports.  Of an aggregate, its members do.

Both make the kernel end what was masqueraded on this node itself.  It walks its whole
table for that, in the background.  The comparison that follows a step-down anyway may
have listed an entry before it ended, so it proves nothing: a second one, begun after
the walk, brings the entries back, and only then is the node ready.

Announcements name hardware addresses; they are made anew when those change.

Not handled: routes that go with the last IPv4 address of an interface (see
docs/operations.md); a process that is killed while its interfaces are down.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Final

from hak2k._rtnl import Address, Link, Rtnl
from hak2k.errors import HakError, KernelError
from hak2k.model import Role, SyncLost

if TYPE_CHECKING:
    from hak2k.node import Node

BOUNCE_S: Final = 1.0  # switches take less for a glitch
# The kernel tells nobody when its walk is over.  It walks once for each address or
# interface, one after the other, 16 at most; an entry takes 0.25 us.
WALK_S: Final = 0.05
WALK_ENTRY_S: Final = 1e-6
WALKS_MOST: Final = 16


class Ports:
    def __init__(self, node: Node) -> None:
        self._node = node
        config = node.config
        moves = config.cluster.address_mode == "move"
        self._moving = [
            (i.name, ip_interface(a)) for i in config.interface for a in i.addresses if moves
        ]
        self._known = self._hardware()
        self._served = False  # since the last step-down
        self._hurry = threading.Event()
        self._walk_ends: float | None = None  # None: there was no walk
        self._owed = False  # a comparison was over before the walk

    # --- addresses ---

    def addresses(self) -> list[bytes]:
        """Of this machine and of the pair, 4 or 16 bytes each: what ends at one of
        them is local on both nodes, whoever has it now."""
        moving = {address.ip.packed for _, address in self._moving}
        return sorted(moving.union(self._node.snapshot.local_addresses()))

    def arrive(self) -> float | None:
        """This node becomes active; before its gate opens.  How long it took, in
        microseconds; None: no address moves."""
        self._hurry.set()
        self._served = True
        self._walk_ends, self._owed = None, False
        begun = time.monotonic_ns()
        self._put()
        return (time.monotonic_ns() - begun) / 1000 if self._moving else None

    def leave(self) -> None:
        """This node is passive, its gate closed."""
        node = self._node
        moved = self._take()
        bounces = self._served and node.config.swap.bounce_interfaces
        self._served = False
        if bounces:
            self._hurry = threading.Event()
            self._walk_ends = math.inf  # it has not begun
            node.keep(self._bounce())
        elif moved:
            self._walk()

    def check(self) -> None:
        """Interfaces or addresses have changed: is all as the role wants it?"""
        node = self._node
        there = [node.snapshot.has_address(n, a.ip.packed) for n, a in self._reachable()]
        if node.state.role is Role.ACTIVE and not all(there):
            if missing := self._put():
                node.news("address.corrected", f"{missing} was gone; it is here again")
                node.announce_all()
        elif node.state.role is Role.PASSIVE and any(there) and (left := self._take()):
            node.news("address.corrected", f"{left} was on this passive node; it is gone")
            self._owed = True
            self._walk()
            node.feed(SyncLost())
        hardware = self._hardware()
        if hardware != self._known:
            self._known = hardware
            names = {name for name, _, _ in hardware}
            items = [i for i in node.config.announcements if i[0] in names]
            node.attempt("announcements", lambda: node.engine.set_announcements(items))
            if node.state.role is Role.ACTIVE:
                node.announce_all()

    def _reachable(self) -> list[tuple[str, Address]]:
        return [(n, a) for n, a in self._moving if n in self._node.snapshot.links]

    def _hardware(self) -> list[tuple[str, int, bytes]]:
        links = self._node.snapshot.links
        names = [i.name for i in self._node.config.interface if i.name in links]
        return [(n, links[n].index, links[n].mac) for n in names]

    def _put(self) -> str:
        """Add what is missing; what was, for a message."""
        if not self._moving:
            return ""
        added = []
        with contextlib.closing(Rtnl()) as rtnl:
            for name, address in self._moving:
                try:
                    if rtnl.add_address(_index(name), address):
                        added.append(f"{address} on {name}")
                except HakError as e:
                    self._failed(f"{address} on {name}: {e}")
        return ", ".join(added)

    def _take(self) -> str:
        """Remove what is there; what was, for a message."""
        if not self._moving:
            return ""
        unwanted = set()
        for name, address in self._moving:
            try:
                unwanted.add((_index(name), address.ip.packed))
            except HakError:
                continue  # with its interface
        try:
            with contextlib.closing(Rtnl()) as rtnl:
                gone = set(rtnl.remove_addresses(unwanted))
        except HakError as e:
            self._failed(str(e))
            return "an address"
        return ", ".join(f"{a} on {n}" for n, a in self._moving if a.ip.packed in gone)

    def _failed(self, what: str) -> None:
        self._node.news("address.failed", what)

    # --- the kernel's walk ---

    def doubted(self) -> bool:
        """A comparison is over.  True: it may have seen entries that are gone now;
        another one follows."""
        if self._walk_ends is None:
            return False
        self._owed = True
        self._compare_after()
        return True

    def _walk(self) -> None:
        """The kernel ends what was masqueraded on this node, from now on."""
        node = self._node
        node.looks.unsettled()
        entries = 0
        with contextlib.suppress(HakError):
            entries = node.engine.table_count()
        config = node.config
        walks = min(WALKS_MOST, max(len(config.announcements), len(config.interface)))
        self._walk_ends = node.clock() + WALK_S + WALK_ENTRY_S * entries * walks
        self._compare_after()

    def _compare_after(self) -> None:
        if self._owed and self._walk_ends is not None and self._walk_ends < math.inf:
            wait = max(0.0, self._walk_ends - self._node.clock())
            self._node.later("walk", wait, self._compare)

    def _compare(self) -> None:
        node = self._node
        if self._owed and node.state.role is Role.PASSIVE:
            self._walk_ends, self._owed = None, False
            node.attempt("sync", node.engine.want_sync)

    # --- bouncing ---

    async def _bounce(self) -> None:
        names = [i.name for i in self._node.config.interface]
        loop = asyncio.get_running_loop()
        tell = loop.call_soon_threadsafe
        try:
            refused = await loop.run_in_executor(
                None, bounce, names, self._hurry, BOUNCE_S, lambda: tell(self._lowered)
            )
        except HakError as e:
            self._lowered()
            self._failed(f"bouncing: {e}")
            return
        text = f"{', '.join(names)} went down and up, so that switches forget this node"
        self._node.log.emit("interface.bounced", text)
        if refused:
            self._failed(f"{refused} of the addresses and routes of {', '.join(names)}: not set")

    def _lowered(self) -> None:
        if self._node.state.role is Role.PASSIVE:
            self._walk()


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as e:
        raise KernelError(name, e.errno or 0) from e


def release(names_and_addresses: Iterable[tuple[str, str]]) -> None:
    """Remove addresses, for a node whose daemon does not run.  Raises KernelError."""
    unwanted = set()
    for name, address in names_and_addresses:
        try:
            unwanted.add((_index(name), ip_interface(address).ip.packed))
        except KernelError:
            continue
    with contextlib.closing(Rtnl()) as rtnl:
        rtnl.remove_addresses(unwanted)


def targets(rtnl: Rtnl, names: Iterable[str]) -> list[Link]:
    """The devices that are up, with a switch behind them: of an aggregate its members."""
    found: list[Link] = []
    for name in names:
        link = rtnl.link(name)
        if link is None or not link.up:
            continue
        members = [rtnl.link(m) for m in rtnl.members(link)] if link.aggregate else [link]
        found += [m for m in members if m is not None and m.up]
    return found


def bounce(
    names: Iterable[str],
    hurry: threading.Event,
    seconds: float,
    lowered: Callable[[], object] = lambda: None,
) -> int:
    """Take interfaces down, and up after so many seconds, or when there is a hurry.

    lowered: called when they are down.
    Blocks.  Returns how many addresses and routes could not be brought back.  Raises
    KernelError.
    """
    with contextlib.closing(Rtnl()) as rtnl:
        links = targets(rtnl, names)
        kept = rtnl.forgettable({link.index for link in links})
        down = []
        try:
            for link in links:
                if hurry.is_set():
                    break
                down.append(link)
                rtnl.set_up(link.index, False)
            lowered()
            hurry.wait(seconds)
        finally:
            for link in down:
                rtnl.set_up(link.index, True)
        return rtnl.remember(kept)
