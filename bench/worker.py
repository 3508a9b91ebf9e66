"""``python -m bench.worker``: one engine in a process of its own.

Driven over standard input, a line of JSON for each call: ``[name, args, kwargs]``;
answers with ``[true, value]`` or ``[false, text]``.  The engine's own threads do all
the work in between, as they do in the daemon; this interpreter only waits.
"""

from __future__ import annotations

import ipaddress
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from typing import Any

from bench import filters
from hak2k import _core, gate
from hak2k.lab import topology
from hak2k.swap import natural_timeouts

LOCAL = [a.split("/")[0] for a in (*topology.LAN_ADDRESSES, *topology.WAN_ADDRESSES)]
STARTING, PASSIVE, ACTIVE = 0, 1, 2
SYNCING, RUNNING = 1, 3
SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, NETLINK_NETFILTER = 270, 9, 12


def _listens(found: socket.socket) -> bool:
    """Whether a netlink socket is a member of any of conntrack's groups."""
    groups = found.getsockopt(SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, 8)
    conntrack = found.proto == NETLINK_NETFILTER and int.from_bytes(groups, sys.byteorder) & 7
    return bool(conntrack)


class Worker:
    """The calls that the other side may make."""

    def __init__(
        self,
        name: str,
        psk: str,
        cpu: int | None,
        liveness: tuple[int, int, int],
        policy: dict[str, Any] | None,
        port: int,
        netlink: bool,
    ) -> None:
        port = port or _core.PORT
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        own = topology.HA_ADDRESSES[name]
        other = topology.HA_ADDRESSES["fw2" if name == "fw1" else "fw1"]
        links = [
            (label, device, own[device].split("/")[0], other[device].split("/")[0])
            for label, device in (("main", "ha0"), ("backup", "ha1"))
        ]
        gate.build(
            gate.GateSpec(
                interfaces=("lan", "wan"),
                links=tuple(own),
                port=port,
                addresses=(*topology.LAN_ADDRESSES, *topology.WAN_ADDRESSES),
                events="lean" if netlink else "probed",
            )
        )
        self.engine = _core.Engine(
            cluster=7,
            psk=bytes.fromhex(psk),
            serial=name,
            model="lab",
            version="bench",
            priority=0,
            links=links,
            port=port,
            heartbeat_ms=liveness[0],
            dead_after_ms=liveness[1],
            dead_after_max_ms=liveness[2],
            encrypt=True,
            interfaces=["lan", "wan"],
            gate_table=gate.TABLE,
            probe=None if netlink else _core.Probe(),
            **{"protocols": None, "exclude_mark": (0x100, 0x100), "exclude_local": True}
            | self._policy(policy or {}),
        )
        local = [*LOCAL, *(link[2] for link in links)]
        self.engine.set_local_addresses([ipaddress.ip_address(a).packed for a in local])
        self.engine.set_announcements(
            [(d, a.split("/")[0]) for d, found in (
                ("lan", topology.LAN_ADDRESSES), ("wan", topology.WAN_ADDRESSES)
            ) for a in found]
        )  # fmt: skip
        self.engine.start()
        self.term = 0

    @staticmethod
    def _policy(given: dict[str, Any]) -> dict[str, Any]:
        nets = map(ipaddress.ip_network, given.get("exclude_networks", ()))
        packed = [(net.network_address.packed, net.prefixlen) for net in nets]
        return given | {"exclude_networks": packed}

    def _status(self, mode: int, state: int) -> None:
        self.engine.set_status(
            mode=mode,
            forced=0,
            quality=100,
            state=state,
            term=self.term,
            since=int(time.time() * 1000),
        )

    def activate(self) -> dict[str, int]:
        """What the daemon does; ``wall_ns`` is when it began, by CLOCK_REALTIME."""
        self.term += 1
        began = time.time_ns()
        times = self.engine.activate(self.term)
        self._status(ACTIVE, RUNNING)
        return {**times, "wall_ns": began}

    def passivate(self) -> dict[str, int]:
        self._status(PASSIVE, SYNCING)
        return dict(self.engine.passivate(self.term))

    def share(self, code: str) -> None:
        """Filter the events that the engine listens to, see bench/filters.py."""
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                found = socket.socket(fileno=number)
            except OSError:
                continue  # no socket, or the listing's own descriptor
            listens = found.family == socket.AF_NETLINK and _listens(found)
            if listens:
                filters.attach(found, bytes.fromhex(code))
            found.detach()
            if listens:
                return
        raise RuntimeError("nobody listens to events")

    def await_death(self, timeout: float) -> dict[str, int]:
        """Promote at once when the peer is dead: the least that a daemon does."""
        self.engine.events()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            select.select([self.engine.event_fd], [], [], 0.1)
            for event in self.engine.events():
                if event["type"] == "peer.dead":
                    heard = time.monotonic_ns() - event["mono_ns"]
                    return {**self.activate(), "woken_ns": heard, "silent_ns": event["silent_ns"]}
        raise TimeoutError("the peer lives")

    def liveness(self) -> dict[str, Any]:
        """What was said since the last time, how often; and how the peer stands."""
        said = Counter(event["type"] for event in self.engine.events())
        return {"said": said, "peer": self.engine.peer(), "stats": self.engine.stats()}

    def links(self) -> list[dict[str, Any]]:
        return list(self.engine.links())

    def table(self) -> dict[str, Any]:
        return dict(self.engine.table())

    def verify(self, timeout: float) -> dict[str, Any]:
        """Compare both tables; ``ns`` is how long it took."""
        number = self.engine.table()["verified"] + 1
        began = time.monotonic_ns()
        if not self.engine.verify(number, True):
            raise RuntimeError("no peer")
        while self.engine.table()["verified"] != number:
            if time.monotonic_ns() - began > timeout * 1e9:
                raise TimeoutError("no verdict")
            select.select([self.engine.event_fd], [], [], 0.001)
            self.engine.events()
        return {**self.engine.table(), "ns": time.monotonic_ns() - began}

    def sweep(self) -> None:
        """Begin to give larvae their natural timeouts; `swept` tells the end."""
        self.engine.events()
        self.engine.sweep(natural_timeouts())

    def swept(self) -> dict[str, Any] | None:
        """The end of the sweep, if it has come."""
        found = [event for event in self.engine.events() if event["type"] == "sweep.done"]
        return dict(found[0]) if found else None

    def state(self) -> dict[str, Any]:
        """All that the other side waits for."""
        peer = self.engine.peer()
        return {
            "peer": bool(peer and peer["alive"]),
            "stream": self.engine.stream(),
            "stats": self.engine.stats(),
        }


def main() -> None:
    worker = Worker(*json.loads(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = [True, getattr(worker, name)(*arguments)]
        except Exception as error:
            answer = [False, f"{type(error).__name__}: {error}"]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
