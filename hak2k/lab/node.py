"""One machine of the lab: a namespace, and what can be done in it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hak2k.lab.ctnl import Conntrack, Entry, Events, Expectation, Table
from hak2k.lab.netns import Spawner, entered, new_namespace
from hak2k.lab.rtnl import Link, Rtnl
from hak2k.lab.topology import is_transit

T = TypeVar("T")


class CommandFailed(AssertionError):
    """A command run inside a node exited with an unexpected status."""


class Node:
    """A network namespace with a name.

    Attributes:
        name: ``client``, ``server``, ``fw1``, ``fw2``, ``switch`` or ``wire``.
        fd: the descriptor that keeps the namespace alive.
        rtnl: links, addresses and routes.
    """

    def __init__(self, name: str, spawner: Spawner) -> None:
        self.name = name
        self.fd = new_namespace()
        self._spawner = spawner
        self._closed = False
        self._children: list[subprocess.Popen[Any]] = []
        self._conntrack: Conntrack | None = None
        with self.enter():
            self.rtnl = Rtnl()
        self.rtnl.up("lo")

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

    def close(self) -> None:
        """Kill the node's processes and let go of its namespace."""
        if self._closed:
            return
        self._closed = True
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        pass  # what was still buffered for a killed process
        self.rtnl.close()
        if self._conntrack is not None:
            self._conntrack.close()
        os.close(self.fd)

    # -- running things ------------------------------------------------------

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Run the body in this namespace; only the calling thread moves."""
        with entered(self.fd):
            yield

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call ``function`` in this namespace and return its result."""
        with self.enter():
            return function(*args, **kwargs)

    def socket(self, *args: Any, **kwargs: Any) -> socket.socket:
        """Make a socket that belongs to this namespace for good."""
        return self.call(socket.socket, *args, **kwargs)

    def popen(self, *command: str | os.PathLike[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program here; it dies with the lab.  Options as for ``Popen``.

        Raises:
            OSError: the program cannot be executed.
        """
        # Ctrl-C belongs to the program that made the lab, which then ends its children.
        options.setdefault("start_new_session", True)
        child = self._spawner.popen(self.fd, [os.fspath(part) for part in command], **options)
        self._children = [c for c in self._children if c.returncode is None]
        self._children.append(child)
        return child

    def run(
        self,
        *command: str | os.PathLike[str],
        input: str | None = None,
        check: bool = True,
        timeout: float = 30.0,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program here to its end and return its text output.

        Args:
            input: text for its standard input.
            check: whether a non-zero exit status is an error.
            timeout: seconds after which it is killed.
            env: variables to add to the environment.

        Raises:
            CommandFailed: with both outputs.
            subprocess.TimeoutExpired: it was killed.
        """
        child = self.popen(
            *command,
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=None if env is None else {**os.environ, **env},
        )
        try:
            output, errors = child.communicate(input, timeout=timeout)
        except BaseException:
            child.kill()
            child.communicate()
            raise
        done = subprocess.CompletedProcess(child.args, child.returncode, output, errors)
        if check and done.returncode != 0:
            shown = " ".join(os.fspath(part) for part in command)
            raise CommandFailed(
                f"{self.name}: {shown!r} exited with {done.returncode}\n{output}{errors}".rstrip()
            )
        return done

    # -- configuration -------------------------------------------------------

    def sysctl(self, *settings: str, optional: bool = False) -> None:
        """Set ``key=value`` settings of this namespace (``net.…``).

        Args:
            optional: ignore settings that this kernel, or an unprivileged user
                namespace, does not have.

        Raises:
            OSError: no such setting, or not permitted.
        """
        with self.enter():
            for setting in settings:
                key, _, value = setting.partition("=")
                try:
                    (Path("/proc/sys") / key.replace(".", "/")).write_text(value)
                except OSError:
                    if not optional:
                        raise

    def sysctl_get(self, key: str) -> str:
        """Read one setting of this namespace."""
        with self.enter():
            return (Path("/proc/sys") / key.replace(".", "/")).read_text().strip()

    def up(self, *links: str) -> None:
        """Set devices administratively up."""
        self.rtnl.up(*links)

    def down(self, *links: str) -> None:
        """Set devices administratively down."""
        self.rtnl.down(*links)

    def links(self) -> dict[str, Link]:
        """Devices by name."""
        return self.rtnl.links()

    def nft(self, script: str | Sequence[str]) -> str:
        """Execute nftables commands (text, or lines) as one transaction.

        Raises:
            CommandFailed: refused.
        """
        if not isinstance(script, str):
            script = "\n".join(script)
        return self.run("nft", "-f", "-", input=script + "\n").stdout

    def counters(self) -> dict[str, int]:
        """Packets per named nftables counter of every table."""
        listing = json.loads(self.run("nft", "-j", "list", "counters").stdout)
        return {
            item["counter"]["name"]: item["counter"]["packets"]
            for item in listing["nftables"]
            if "counter" in item
        }

    # -- connection tracking -------------------------------------------------

    @property
    def ct(self) -> Conntrack:
        """ctnetlink of this node."""
        if self._conntrack is None:
            self._conntrack = self.call(Conntrack)
        return self._conntrack

    def conntrack(
        self, where: Callable[[Entry], bool] | None = None, *, transit: bool = True
    ) -> Table:
        """The tracking table, by (zone, original tuple).

        Args:
            where: keeps only entries for which it is true.
            transit: leave out connections of the firewall itself.
        """

        def wanted(entry: Entry) -> bool:
            return (not transit or is_transit(entry)) and (where is None or where(entry))

        return self.ct.dump(wanted)

    def expectations(self) -> list[Expectation]:
        """The expectation table."""
        return self.ct.expectations()

    def events(self, **options: Any) -> Events:
        """Subscribe to tracking events; options as for ``Events``."""
        return self.call(Events, **options)

    def conntrack_count(self) -> int:
        """How many entries there are, the node's own ones included."""
        return self.ct.count()

    def device_packets(self, link: str) -> tuple[int, int]:
        """Packets (received, sent) by a device since it was made."""
        found = self.rtnl.links()[link]
        return found.rx_packets, found.tx_packets

    def ping(self, address: str, count: int = 1, timeout: float = 1.0) -> int:
        """Send echo requests with ``ping``; return how many were answered."""
        done = self.run(
            "ping", "-n", "-i", "0.05", "-c", str(count), "-W", str(timeout), address, check=False
        )
        match = re.search(r"(\d+) received", done.stdout)
        return int(match.group(1)) if match else 0
