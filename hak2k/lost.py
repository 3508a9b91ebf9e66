"""What became of a peer that is silent: has its process gone, or its machine?

The machine is asked by pings, over the HA links unless `liveness.ping` names other
addresses.  For people alone: the election does not wait for it, nor does it hear of it.

Not handled: links that are all cut.  They look like a machine that is gone, unless an
address beside them is asked too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from hak2k.ping import answering

if TYPE_CHECKING:
    from hak2k.node import Node

TRIES: Final = 2
TIMEOUT_S: Final = 0.5  # or dead_after_ms, if that is longer: a long way
AGAIN_S: Final = 2.0  # a machine that boots answers before its daemon does

Ask = Callable[[Sequence[str], float], Awaitable[str | None]]


class Lost:
    """ask: tests replace it."""

    def __init__(self, node: Node, ask: Ask = answering) -> None:
        self._node = node
        self._ask = ask
        self._task: asyncio.Task[None] | None = None
        self.cause: str | None = None
        """stopped (it said goodbye), process, machine, unknown; None: it is not lost."""

    def begin(self) -> None:
        """The peer is silent."""
        self.end("unknown")
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def end(self, cause: str | None = None) -> None:
        """It is heard again, or has said why it will not be."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.cause = cause

    async def _watch(self) -> None:
        while True:
            config = self._node.config
            addresses = config.liveness.ping
            if addresses is None:
                addresses = tuple(link.peer for link in config.link)
            try:
                if addresses:
                    self._found(await self._look(addresses))
            except PermissionError:
                self.cause = "unknown"
            await asyncio.sleep(AGAIN_S)

    async def _look(self, addresses: Sequence[str]) -> str | None:
        timeout = max(TIMEOUT_S, self._node.config.liveness.dead_after_ms / 1000)
        for _ in range(TRIES):
            answer = await self._ask(addresses, timeout)
            if answer is not None:
                return answer
        return None

    def _found(self, address: str | None) -> None:
        cause = "machine" if address is None else "process"
        if cause == self.cause:
            return
        self.cause = cause
        name = self._node.peer_name()
        if address is None:
            text = f"the machine of {name} answers no ping: it is gone, or all ways to it are"
            self._node.log.emit("peer.machine", text)
        else:
            text = f"the machine of {name} answers pings: hak2kd is gone there, or hangs"
            self._node.log.emit("peer.process", text, address=address)
