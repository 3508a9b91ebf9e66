"""What may happen to a pair of firewalls that must lose nothing.

One table: tests try each row and look at what is left, `python -m bench faults` says
how long it takes until all is well again.  Each does its harm to a running pair and
undoes it before it returns, as far as it is not the daemons' business to do so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hak2k.lab.lab import Lab
from hak2k.lab.node import Node

FLAPS: Final = 8
LARGE_RULES: Final = 6000


@dataclass(frozen=True)
class Disturbance:
    """One row.

    Attributes:
        name: in a few words.
        do: (lab, active, passive).
        swaps: whether the other node is active afterwards; None: either may be.
        churns: whether short connections may be expected to go on meanwhile.
    """

    name: str
    do: Callable[[Lab, Node, Node], None]
    swaps: bool | None = False
    churns: bool = True

    def __str__(self) -> str:
        return self.name.replace(" ", "-").replace(",", "")


def _pause(seconds: float) -> None:
    """Time is what these are about."""
    threading.Event().wait(seconds)


def _stop(which: int, seconds: float) -> Callable[[Lab, Node, Node], None]:
    def do(lab: Lab, *nodes: Node) -> None:
        lab.daemons.hang(nodes[which])
        _pause(seconds)
        lab.daemons.unhang(nodes[which])

    return do


def _kill(which: int) -> Callable[[Lab, Node, Node], None]:
    def do(lab: Lab, *nodes: Node) -> None:
        lab.daemons.kill(nodes[which])
        # As systemd does: not at once.
        _pause(1.0)
        lab.start(nodes[which])

    return do


def cut_both(seconds: float) -> Callable[[Lab, Node, Node], None]:
    def do(lab: Lab, active: Node, passive: Node) -> None:
        lab.cut()
        _pause(seconds)
        lab.restore()

    return do


def _flap(lab: Lab, active: Node, passive: Node) -> None:
    for _ in range(FLAPS):
        lab.cut("ha0")
        _pause(0.15)
        lab.restore("ha0")
        _pause(0.15)


def _large_ruleset(lab: Lab, active: Node, passive: Node) -> None:
    """Loaded on both nodes at once, while the role is being given away."""
    rules = "\n".join(
        f"add rule inet large forward ip saddr 198.18.{n // 250}.{n % 250} counter accept"
        for n in range(LARGE_RULES)
    )
    script = f"add table inet large\nadd chain inet large forward\n{rules}\n"
    loading = [node.popen("nft", "-f", "-", stdin=-1) for node in (active, passive)]
    feeders = [
        threading.Thread(target=child.communicate, args=(script.encode(),)) for child in loading
    ]
    for feeder in feeders:
        feeder.start()
    lab.daemons.command(passive, "active")
    for feeder in feeders:
        feeder.join()
    lab.daemons.command(passive, "reset")
    for node in (active, passive):
        node.nft("delete table inet large")


def _flush_ruleset(which: int) -> Callable[[Lab, Node, Node], None]:
    def do(lab: Lab, *nodes: Node) -> None:
        lab.load_ruleset(nodes[which])

    return do


def _flush_conntrack(which: int) -> Callable[[Lab, Node, Node], None]:
    def do(lab: Lab, *nodes: Node) -> None:
        nodes[which].run("conntrack", "-F")

    return do


def _reload(lab: Lab, active: Node, passive: Node) -> None:
    for _ in range(5):
        for node in (active, passive):
            lab.daemons.signal(node, signal.SIGHUP)
            _pause(0.05)


def _squeeze(lab: Lab, active: Node, passive: Node) -> None:
    """Somebody takes memory, and gives it back, again and again, on both processors."""
    code = "import time\nfor _ in range(8): b = bytearray(600 << 20); b[::4096] = b[::4096]"
    children = [node.popen("python3", "-c", code) for node in (active, passive)]
    for child in children:
        child.wait()


DISTURBANCES: Final = (
    Disturbance("active daemon stopped for 2 s", _stop(0, 2.0), swaps=True),
    Disturbance("passive daemon stopped for 2 s", _stop(1, 2.0)),
    Disturbance("active daemon killed, started after 1 s", _kill(0), swaps=True),
    Disturbance("passive daemon killed, started after 1 s", _kill(1)),
    Disturbance("both links cut for 2 s", cut_both(2.0), swaps=None, churns=False),
    Disturbance("one link flaps", _flap),
    Disturbance("swap while large rulesets load", _large_ruleset, swaps=True),
    Disturbance("flush ruleset, active", _flush_ruleset(0)),
    Disturbance("flush ruleset, passive", _flush_ruleset(1)),
    Disturbance("conntrack -F, passive", _flush_conntrack(1)),
    Disturbance("conntrack -F, active", _flush_conntrack(0), churns=False),
    Disturbance("configuration reloaded ten times", _reload),
    Disturbance("memory is scarce", _squeeze),
)
