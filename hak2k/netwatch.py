"""Watches interfaces, local addresses, and whether anybody changes nftables.

A thread of its own, for rtnetlink takes a lock of the kernel that may be held for
long (somebody configures thousands of interfaces): the event loop must not wait
for it, and the heartbeats, which live in the core, do not care.

Events alone can come 0.8 s late (the kernel defers a change of a carrier that follows
another one), so each interface's is asked for as well, every 200 ms and, for a second
and a half after any event, every 100 ms; and once a second all of it.  That is done by
the core (csrc/hak_watch.h), which hashes the answers: nothing of Python runs
while they stay the same.  When they do not, or an event comes, all is asked for once
more, and read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hak2k._rtnl import Link, Rtnl
from hak2k.engine import make_watch
from hak2k.errors import KernelError

POLL_S = 0.1
# Without anything new, in case that nobody told of it.
LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen in one round."""

    links: dict[str, Link] = field(default_factory=dict)
    """Watched interfaces that exist, by name."""
    addresses: frozenset[tuple[int, bytes]] = frozenset()
    """(interface index, address) of the whole network namespace."""
    members: dict[str, dict[str, bool]] = field(default_factory=dict)
    """Of watched aggregates: whether each member works, by name."""

    def working(self, names: Iterable[str]) -> set[str]:
        """Those of `names` that are up and have a carrier."""
        return {n for n in names if n in self.links and self.links[n].working}

    def local_addresses(self) -> list[bytes]:
        """All addresses of this machine, 4 or 16 bytes each, sorted."""
        return sorted({a for _, a in self.addresses})

    def has_address(self, name: str, address: bytes) -> bool:
        link = self.links.get(name)
        return link is not None and (link.index, address) in self.addresses


def look(names: Iterable[str]) -> Snapshot:
    """One round, now.  Raises KernelError."""
    rtnl = Rtnl()
    try:
        found = {name: rtnl.link(name) for name in names}
        links = {name: link for name, link in found.items() if link is not None}
        return Snapshot(links, frozenset(rtnl.addresses()), _members(rtnl, links))
    finally:
        rtnl.close()


def _members(rtnl: Rtnl, links: dict[str, Link]) -> dict[str, dict[str, bool]]:
    return {name: rtnl.members(link) for name, link in links.items() if link.aggregate}


class NetWatch:
    """Calls `notify(snapshot)` in its own thread whenever something changed.

    names: interfaces to watch.
    notify: must not block; typically `loop.call_soon_threadsafe`.
    first: what is known already; `look(names)` if absent.
    rules: the same, called without arguments when nftables may have been changed.
    """

    def __init__(
        self,
        names: Iterable[str],
        notify: Callable[[Snapshot], None],
        first: Snapshot | None = None,
        *,
        rules: Callable[[], None] = lambda: None,
        poll_s: float = POLL_S,
    ) -> None:
        self._names = tuple(names)
        self._notify = notify
        self._rules = rules
        self.snapshot = look(self._names) if first is None else first
        self._rtnl = Rtnl()
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._watch = make_watch(self._wake_r, round(poll_s * 1000))
        self._thread = threading.Thread(target=self._run, name="hak2k-netwatch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; returns when it has ended, or after 3 s."""
        if self._wake_w < 0:
            return
        os.close(self._wake_w)
        self._wake_w = -1
        if self._thread.ident is not None:
            self._thread.join(3.0)
        if not self._thread.is_alive():
            os.close(self._wake_r)
            self._rtnl.close()

    def _run(self) -> None:
        watched: list[str] = []
        wait_s = 0.0
        while True:
            # A member may lose its carrier without any change of its aggregate.
            wanted = [*self._names, *(m for each in self.snapshot.members.values() for m in each)]
            if wanted != watched:
                self._watch.watch(watched := wanted)
            links, rules, stop = self._watch.wait(time.monotonic_ns() + round(wait_s * 1e9))
            if stop:
                return
            if rules:
                self._rules()
            if links or not rules:
                wait_s = self._look()

    def _look(self) -> float:
        """Ask for all; how long the next time may wait for something new."""
        try:
            found = {n: self._rtnl.link(n) for n in self._names}
            links = {n: link for n, link in found.items() if link is not None}
            members = _members(self._rtnl, links)
            addresses = frozenset(self._rtnl.addresses())
        except KernelError:
            # A stall of the kernel's: what we knew stays true until it answers again.
            return POLL_S
        new = Snapshot(links, addresses, members)
        if new != self.snapshot:
            self.snapshot = new
            self._notify(new)
        return LOOK_S
