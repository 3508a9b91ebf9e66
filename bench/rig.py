"""A lab made ready for measuring: engines in processes, hosts that do not exist."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import tools
from hak2k.lab import Entry, Lab, Node, Tuple, topology, until

# Hosts of bench/c/lives.c and entries.c, behind the client and behind the server.
CLIENTS, SERVERS = "10.73.0.0/16", "10.74.0.0/16"


def cpus() -> tuple[int, int]:
    """One CPU for what makes load, another one (if there is one) for what is measured."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def prepare(lab: Lab) -> None:
    """Route the hosts that do not exist, and let nobody wait for ARP."""
    client_mac = lab.client.links()["eth0"].mac
    server_mac = lab.server.links()["eth0"].mac
    for node in lab.fw:
        node.rtnl.set_neighbour("lan", topology.CLIENT4, client_mac)
        node.rtnl.set_neighbour("wan", topology.SERVER4, server_mac)
        node.rtnl.add_route(CLIENTS, topology.CLIENT4, "lan")
        node.rtnl.add_route(SERVERS, topology.SERVER4, "wan")
    lab.client.rtnl.set_neighbour("eth0", topology.LAN4, topology.LAN_MAC)
    lab.server.rtnl.set_neighbour("eth0", topology.WAN4, topology.WAN_MAC)
    for node, net in ((lab.client, CLIENTS), (lab.server, SERVERS)):
        # What comes back to hosts that are not there must not cost a stack's time.
        node.nft(
            "table netdev bench { chain in { type filter hook ingress device eth0 "
            f"priority -500;\n ip daddr {net} drop\n }}\n}}"
        )


def prepare_ports(lab: Lab, *, closed: bool = False) -> None:
    """Let packets be dropped where fw1's cables end, before a bridge has seen them.

    Args:
        closed: let fw1 itself drop all, at its door.
    """
    nets = f"ip daddr {{ {CLIENTS}, {SERVERS} }} drop"
    chain = "chain {0} {{ type filter hook ingress device {1} priority -600;\n {2}\n }}"
    ports = "\n".join(chain.format(name, f"fw1-{name}", nets) for name in ("lan", "wan"))
    lab.switch.nft(f"table netdev bench {{\n{ports}\n}}")
    if closed:
        doors = "\n".join(
            chain.format(name, name, "meta protocol ip drop") for name in ("lan", "wan")
        )
        lab.fw1.nft(f"table netdev bench {{\n{doors}\n}}")


def life_options(lab: Lab, *, ports: bool = False) -> tuple[object, ...]:
    """Where bench/c/lives.c sends from.

    Args:
        ports: from the other ends of fw1's own cables instead of from the hosts; see
            ``prepare_ports``.
    """
    if ports:
        return (
            "-C", lab.switch, "-S", lab.switch, "-w", topology.LAN_MAC, "-x", topology.WAN_MAC,
            "-d", "fw1-lan", "-e", "fw1-wan",
        )  # fmt: skip
    return ("-C", lab.client, "-S", lab.server, "-w", topology.LAN_MAC, "-x", topology.WAN_MAC)


def entry(orig: Tuple) -> Entry:
    """One of bench/c/entries.c, masqueraded; enough of it to find it by."""
    reply = Tuple(orig.dst, topology.WAN4, orig.proto, orig.dport, orig.sport)
    return Entry(orig, reply)


def fill(node: Node, size: int, cpu: int | None = None) -> dict[str, Any]:
    """Put that many entries of bench/c/entries.c into a table.

    Raises:
        RuntimeError: the kernel refused some.
    """
    options = () if cpu is None else ("-c", cpu)
    filled = tools.run(node, "entries", "-m", "fill", "-n", size, *options, timeout=300)
    if filled["errors"]:
        raise RuntimeError(f"{filled['errors']} entries refused: {filled['errno']}")
    return filled


def lives(lab: Lab, count: int, rate: int, *options: object, ports: bool = False) -> dict[str, Any]:
    """Run connections through the active firewall; see bench/c/lives.c."""
    return tools.run(
        lab.client, "lives", *life_options(lab, ports=ports), "-n", count, "-r", rate, *options,
    )  # fmt: skip


class Engine:
    """One engine in a process in a firewall's namespace."""

    def __init__(
        self,
        node: Node,
        psk: str,
        *,
        cpu: int | None = None,
        heartbeat_ms: int = 50,
        dead_after_ms: int = 200,
        dead_after_max_ms: int = 0,
        policy: dict[str, Any] | None = None,
        port: int = 0,
        netlink: bool = False,
    ) -> None:
        self.node = node
        liveness = (heartbeat_ms, dead_after_ms, dead_after_max_ms)
        arguments = json.dumps([node.name, psk, cpu, liveness, policy, port, netlink])
        self.process = node.popen(
            sys.executable, "-m", "bench.worker", arguments,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tools.ROOT,
        )  # fmt: skip
        if self._line() != "ready\n":
            raise RuntimeError(f"the engine of {node.name} did not start")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return str(self.process.stdout.readline())

    def tell(self, name: str, *arguments: object) -> None:
        """Make a call whose answer is fetched later, by ``answer``."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        line = self._line()
        if not line:
            raise RuntimeError(f"the engine of {self.node.name} ended")
        good, value = json.loads(line)
        if not good:
            raise RuntimeError(f"{self.node.name}: {value}")
        return value

    def call(self, name: str, *arguments: object) -> Any:
        self.tell(name, *arguments)
        return self.answer()

    @property
    def stats(self) -> dict[str, int]:
        return dict(self.call("state")["stats"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Pair:
    """fw1 active, fw2 passive and synced.

    Args:
        keep: leave in the tables what is there.
        start: False: both engines wait for ``start()``.
    """

    def __init__(self, lab: Lab, *, keep: bool = False, start: bool = True, **options: Any) -> None:
        self.lab = lab
        self.options = options
        self.psk = secrets.token_hex(32)
        self.a = Engine(lab.fw1, self.psk, **options)
        self.b = Engine(lab.fw2, self.psk, **options)
        for node in () if keep else lab.fw:
            node.ct.flush()  # what came over the HA links before the gate was built
        if start:
            self.start()

    def start(self) -> None:
        self.b.call("passivate")
        self.a.call("activate")
        self.synced(self.b)

    def synced(self, passive: Engine) -> None:
        until(lambda: passive.call("state")["stream"]["synced"], 120, "equal tables")

    def settled(self, quiet: float = 0.1) -> None:
        """All that the active side published is in the other's kernel."""
        last, since = -1, time.monotonic()

        def done() -> bool:
            nonlocal last, since
            s = self.a.call("state")["stream"]
            if s["lag_records"] or s["published"] != last:
                last, since = s["published"], time.monotonic()
            return time.monotonic() - since >= quiet

        until(done, 20, "the stream to drain")

    def close(self) -> None:
        self.a.kill()
        self.b.kill()

    def __enter__(self) -> Pair:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def thread_ns(pid: int, prefix: str = "") -> dict[str, int]:
    """CPU time of a process's threads by name, in ns, as the scheduler counts it.

    Args:
        prefix: only threads whose names begin so.
    """
    found: dict[str, int] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        if name.startswith(prefix):
            found[name] = found.get(name, 0) + int((task / "schedstat").read_text().split()[0])
    return found


@contextmanager
def table_size(entries: int) -> Iterator[bool]:
    """Let tables hold that many entries; the host's settings are put back.

    Both the limit and the hash table are common to all namespaces and can be set from
    the first one only.  Yields False where that is refused: no room for as many.
    """
    room = entries + 50_000
    wanted = (
        (Path("/sys/module/nf_conntrack/parameters/hashsize"), min(1 << 22, entries)),
        # After the hash size, whose change may move the limit.
        (Path("/proc/sys/net/netfilter/nf_conntrack_max"), room),
    )
    restore: list[tuple[Path, str]] = []
    limit = room
    try:
        for path, least in wanted:
            try:
                before = path.read_text().strip()
                if int(before) < least:
                    path.write_text(str(least))
                    restore.append((path, before))
                limit = int(path.read_text())
            except OSError:
                pass
        yield limit >= room
    finally:
        for path, before in restore:
            path.write_text(before)
