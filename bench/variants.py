"""Everything that replicates, behind one face, so that all are measured alike.

Each is a pair of processes, one in each firewall's namespace of a lab made for it:

    off         nothing: conntrack's events are off
    silent      nothing: events are on, nobody listens
    listen      bench/c/listen.c on the active node: receives events, drops them
    floor       bench/c/floor.c
    hak2k       two engines, encrypted and reliable
    netlink     the same without a probe: its events come by netlink
    ftfw, direct, notrack   conntrackd, see bench/conntrackd.py

``masked`` restricts the events of the active firewall as hak2k does for itself if they
come by netlink, by the same rules: they are lent to the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import conntrackd, rig, tools
from hak2k import gate
from hak2k.lab import Lab, topology, until

# What is lent: hak2k's own rules, in a table of the ruleset.
RULESET = "\n".join(("table inet bench {", *gate.event_chains(), "}", ""))

# What a frame has besides: Ethernet, IPv4 and UDP headers.
HEADERS = 14 + 20 + 8


@dataclass(frozen=True)
class Setup:
    """Where things run, and with which events.

    Attributes:
        cpu: of the replicators; None: anywhere.
        passive_events: whether the passive kernel's entries can make events.  Whether
            anybody listens is asked per host and not per namespace: with events, the
            passive kernel builds one for each entry it is given, for the listener on
            the other node, which on a machine of its own it would not.
        nap_us: of the floor.
    """

    cpu: int | None = None
    passive_events: bool = False
    nap_us: int = 1000


def process_ns(pid: int) -> int:
    """CPU time of a whole process, in ns, as the scheduler counts it."""
    return sum(rig.thread_ns(pid).values())


def resident(pid: int) -> int:
    """Bytes of memory that a process occupies."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def dropped(pid: int) -> int:
    """What netlink and UDP sockets of a process's namespace had no room for."""
    netlink, udp = (
        [line.split() for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
        for name in ("netlink", "udp")
    )
    return sum(int(row[8]) for row in netlink if row[1] == "12") + sum(int(r[-1]) for r in udp)


def traffic(pid: int) -> dict[str, int]:
    """Bytes and packets that went out over a namespace's HA links."""
    total = {"bytes": 0, "packets": 0}
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() in topology.HA_ADDRESSES["fw1"]:
            fields = counters.split()
            total["bytes"] += int(fields[8])
            total["packets"] += int(fields[9])
    return total


class Variant(ABC):
    """A pair that replicates from fw1 to fw2.

    Attributes:
        pids: the process on the active and the one on the passive node.
        threads: the beginning of the names of the threads that count.
    """

    name = ""
    caches = False  # whether the passive kernel stays empty
    threads = ""
    pids: tuple[int, int]

    def __init__(self, lab: Lab, setup: Setup) -> None:
        self.lab, self.setup = lab, setup

    @abstractmethod
    def close(self) -> None:
        """End both processes."""

    def cpu(self) -> tuple[int, int]:
        """CPU time so far, in ns, on the active and the passive node."""
        active, passive = (sum(rig.thread_ns(pid, self.threads).values()) for pid in self.pids)
        return active, passive

    def drained(self, quiet: float = 0.15, busy: float = 0.06, timeout: float = 60) -> float:
        """Wait until nothing is under way any more.

        Args:
            quiet: for how many seconds both processes must do next to nothing,
            busy: which is less than this share of a CPU.

        Returns:
            When that began, by ``time.monotonic()``.
        """
        seen = since = time.monotonic()
        last = sum(self.cpu())

        def still() -> bool:
            nonlocal last, seen, since
            now, used = time.monotonic(), sum(self.cpu())
            if used - last > busy * (now - seen) * 1e9:
                since = now
            last, seen = used, now
            return now - since >= quiet

        until(still, timeout, f"{self.name} to have nothing to do", interval=0.02)
        return since

    def lost(self) -> int:
        """Whatever did not reach the other side, by any counter there is."""
        return sum(map(dropped, self.pids))

    def different(self) -> str:
        """What the passive node has not as the active one has; empty if nothing."""
        ours, theirs = (tools.run(node, "list", "-d") for node in self.lab.fw)
        if (ours["entries"], ours["sum"]) == (theirs["entries"], theirs["sum"]):
            return ""
        return f"{ours['entries']} entries and {theirs['entries']}"


class Nobody(Variant):
    """Forwarding alone."""

    def __init__(self, lab: Lab, setup: Setup) -> None:
        super().__init__(lab, setup)
        lab.solo(lab.fw1)
        self.pids = (os.getpid(), os.getpid())

    def close(self) -> None:
        pass

    def cpu(self) -> tuple[int, int]:
        return 0, 0

    def lost(self) -> int:
        return 0

    def different(self) -> str:
        return ""


class Off(Nobody):
    name = "off"

    def __init__(self, lab: Lab, setup: Setup) -> None:
        super().__init__(lab, setup)
        for node in lab.fw:
            node.sysctl("net.netfilter.nf_conntrack_events=0")


class Silent(Nobody):
    name = "silent"


class Listen(Nobody):
    """Half of a floor: whoever replicates has to receive the events at least."""

    name = "listen"

    def __init__(self, lab: Lab, setup: Setup) -> None:
        super().__init__(lab, setup)
        options = () if setup.cpu is None else ("-c", setup.cpu)
        self.process = tools.start(lab.fw1, "listen", *options)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise tools.ToolError("listen did not start")
        self.pids = (self.process.pid, os.getpid())

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        tools.result("listen", self.process)

    def cpu(self) -> tuple[int, int]:
        return process_ns(self.pids[0]), 0

    def lost(self) -> int:
        return dropped(self.pids[0])


class Floor(Variant):
    """bench/c/floor.c on both nodes."""

    name = "floor"

    def __init__(self, lab: Lab, setup: Setup, *, port: int = 3999, share: bytes = b"") -> None:
        super().__init__(lab, setup)
        lab.solo(lab.fw1)
        local, peer = (topology.HA_ADDRESSES[n.name]["ha0"].split("/")[0] for n in lab.fw)
        common: tuple[object, ...] = ("-s", setup.nap_us, "-q", port)
        if setup.cpu is not None:
            common += ("-c", setup.cpu)
        self.passive = tools.start(lab.fw2, "floor", "-m", "passive", "-l", peer, *common)
        self.active = tools.start(
            lab.fw1, "floor", "-m", "active", "-l", local, "-p", peer, "-k", share.hex(), *common
        )
        for process in (self.passive, self.active):
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise tools.ToolError("floor did not start")
        self.pids = (self.active.pid, self.passive.pid)
        self.found: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        for name, process in (("active", self.active), ("passive", self.passive)):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                self.found[name] = tools.result("floor", process)


class Hak2k(Variant):
    """A pair of engines; the daemon around them sleeps between heartbeats."""

    name = "hak2k"
    threads = "hak-"

    def __init__(self, lab: Lab, setup: Setup, **options: Any) -> None:
        super().__init__(lab, setup)
        self.pair = rig.Pair(lab, cpu=setup.cpu, **options)
        self.pids = (self.pair.a.process.pid, self.pair.b.process.pid)

    def close(self) -> None:
        self.pair.close()

    def lost(self) -> int:
        a, b = self.pair.a.stats, self.pair.b.stats
        counted = a["capture.overruns"] + b["stream.lost"] + b["apply.failed"] + b["apply.full"]
        return super().lost() + counted


class Conntrackd(Variant):
    """conntrackd on both nodes."""

    mode = ""

    def __init__(self, lab: Lab, setup: Setup) -> None:
        super().__init__(lab, setup)
        lab.solo(lab.fw1)
        self.b = conntrackd.Conntrackd(lab, lab.fw2, self.mode, setup.cpu)
        self.a = conntrackd.Conntrackd(lab, lab.fw1, self.mode, setup.cpu)
        self.pids = (self.a.process.pid, self.b.process.pid)
        self.drained(0.5)

    def close(self) -> None:
        for daemon in (self.a, self.b):
            daemon.process.terminate()
            try:
                daemon.process.wait(20)
            except subprocess.TimeoutExpired:
                daemon.process.kill()

    def lost(self) -> int:
        return super().lost() + self.b.lost()

    def different(self) -> str:
        if not self.caches:
            return super().different()
        ours = tools.run(self.lab.fw1, "list", "-d")["entries"]
        theirs = self.b.cached(external=True)
        # Its own link's flow is in its cache as well.
        return "" if 0 <= theirs - ours <= 2 else f"{ours} entries and {theirs} in the cache"


class ByNetlink(Hak2k):
    name = "netlink"

    def __init__(self, lab: Lab, setup: Setup, **options: Any) -> None:
        super().__init__(lab, setup, netlink=True, **options)


class Ftfw(Conntrackd):
    name = mode = "ftfw"
    caches = True


class Direct(Conntrackd):
    name = mode = "direct"


class Notrack(Conntrackd):
    name = mode = "notrack"


KINDS: dict[str, type[Variant]] = {
    kind.name: kind
    for kind in (Off, Silent, Listen, Floor, Hak2k, ByNetlink, Ftfw, Direct, Notrack)
}
PEERS = ("ftfw", "direct", "notrack")

LABELS = {
    "off": "no events",
    "silent": "nobody listens",
    "listen": "receive and discard",
    "floor": "floor",
    "floor, masked": "floor, masked",
    "floor, woken": "floor, woken for each",
    "hak2k": "hak2k",
    "netlink": "hak2k, by netlink",
    "ftfw": "conntrackd FTFW, caches",
    "direct": "conntrackd FTFW, direct",
    "notrack": "conntrackd NOTRACK",
    "ftfw, masked": "conntrackd FTFW, masked",
    "notrack, masked": "conntrackd NOTRACK, masked",
}


def known(*names: str) -> list[str]:
    """Those of the names that can run here: conntrackd may not have been unpacked."""
    return [n for n in names if n.split(",")[0] not in PEERS or conntrackd.available()]


@contextmanager
def running(
    name: str, setup: Setup, kind: type[Variant] | None = None, **options: Any
) -> Iterator[Variant]:
    """A lab with a pair in it.

    Args:
        name: one of ``KINDS``, or of any name with a ``kind``; may end in ", masked".
    """
    known_as, _, masked = name.partition(", ")
    with Lab() as lab:
        rig.prepare(lab)
        if not setup.passive_events:
            lab.fw2.sysctl("net.netfilter.nf_conntrack_events=0")
        if masked:
            lab.fw1.nft(RULESET)
        variant = (kind or KINDS[known_as])(lab, setup, **options)
        try:
            yield variant
        finally:
            variant.close()
