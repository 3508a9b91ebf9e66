"""Keeps the picture fresh: traffic figures, kernel tables, the daemons' events."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from hak2k.demo.show import Show
from hak2k.lab import Conntrack, Lab
from hak2k.lab.topology import is_transit
from hak2k.lab.traffic import Traffic, TrafficError

_STATS_EVERY_S = 0.25
_TABLES_EVERY = 3  # of the above
# No natural timeout is longer than an established TCP connection's five days.
_LARVAL_S = 432_060


class Monitor:
    """Threads that fill a ``Show`` while the story goes on.

    Args:
        lab, traffic: what to look at.
        show: what to fill.
    """

    def __init__(self, lab: Lab, show: Show) -> None:
        self._lab = lab
        self._show = show
        self._traffic: Traffic | None = None
        self._stop = threading.Event()
        self._tables = {node.name: node.call(Conntrack) for node in lab.fw}
        self._followers: list[subprocess.Popen[Any]] = []
        self._threads: list[threading.Thread] = []
        self._start(self._look)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def watch(self, traffic: Traffic) -> None:
        """From now on, ask this traffic for its figures."""
        self._traffic = traffic

    def follow(self, firewall: str) -> None:
        """Listen to the events of a daemon that has just been started."""
        instance = self._lab.daemons[firewall]
        child = instance.node.popen(
            Path(sys.executable).parent / "hak2kctl",
            "events",
            "--follow",
            "--json",
            "--socket",
            instance.control_socket,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._followers.append(child)
        self._start(self._listen, firewall, child)

    def _listen(self, firewall: str, child: subprocess.Popen[Any]) -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self._show.event(firewall, event)

    def _look(self) -> None:
        count = 0
        while not self._stop.wait(_STATS_EVERY_S):
            traffic = self._traffic
            if traffic is not None:
                try:
                    self.take_stats(traffic)
                except TrafficError:
                    return  # the story will notice, and tell
            if count % _TABLES_EVERY == 0:
                self._look_at_tables()
            count += 1

    def take_stats(self, traffic: Traffic) -> None:
        """Put the present figures of the traffic into the show."""
        stats = traffic.stats()
        with self._show.lock:
            for group in self._show.groups:
                if group.key in stats:
                    group.stats = stats[group.key]

    def _look_at_tables(self) -> None:
        for name, table in self._tables.items():
            try:
                entries = table.dump(is_transit)
            except OSError:
                continue  # overtaken by a change: next time
            with self._show.lock:
                node = self._show.firewalls[name]
                node.entries = len(entries)
                node.larval = sum(e.timeout > _LARVAL_S for e in entries.values())

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        for child in self._followers:
            child.kill()
            child.wait()
        for thread in self._threads:
            thread.join()
        for table in self._tables.values():
            table.close()
