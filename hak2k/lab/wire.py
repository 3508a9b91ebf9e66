"""The HA links' relay, seen from the lab: faults that can be set while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hak2k.lab.node import Node


@dataclass
class Faults:
    """What happens to the frames of one direction.

    ``loss``, ``duplicate``, ``reorder`` and ``corrupt`` are probabilities (0 to
    1) per frame; ``delay_ms`` and ``jitter_ms`` are added to every frame
    (jitter: uniform, and it reorders); ``blackhole`` drops everything.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    blackhole: bool = False


@dataclass
class Tally:
    """What happened to the frames of one direction so far; ``late_ms`` is by how much
    the relay itself sent one too late, at most, since that was last asked."""

    received: int = 0
    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    late_ms: float = 0.0


class Wire:
    """The relay process, seen from the lab.

    Args:
        node: the namespace that the HA links pass through.
        pairs: device names there by link: ``{"ha0": ("fw1-ha0", "fw2-ha0")}``.
    """

    def __init__(self, node: Node, pairs: dict[str, tuple[str, str]]) -> None:
        self._pairs = pairs
        self._process = node.popen(
            sys.executable,
            "-m",
            "hak2k.lab.relay",
            *(f"{a}:{b}" for a, b in pairs.values()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._output: IO[str] = self._process.stdout  # type: ignore[assignment]
        self._input: IO[str] = self._process.stdin  # type: ignore[assignment]
        if self._output.readline() != "ready\n":
            raise RuntimeError("the relay of the HA links did not start")

    def _command(self, **command: Any) -> dict[str, dict[str, Any]]:
        self._input.write(json.dumps(command) + "\n")
        self._input.flush()
        line = self._output.readline()
        if not line:
            raise RuntimeError("the relay of the HA links died")
        return dict(json.loads(line))

    def _devices(self, link: str | None, source: str | None) -> list[str]:
        links = self._pairs if link is None else {link: self._pairs[link]}
        return [
            device
            for pair in links.values()
            for device in pair
            if source is None or device.startswith(f"{source}-")
        ]

    def set(
        self,
        faults: Faults | None = None,
        *,
        link: str | None = None,
        source: str | None = None,
        seed: int | None = None,
    ) -> None:
        """Change the faults at once; frames already delayed are not recalled.

        Args:
            faults: none for a clean wire.
            link: ``ha0`` or ``ha1``; both by default.
            source: only frames from ``fw1`` or ``fw2``; both by default.
            seed: restart the random numbers, to repeat a run.
        """
        self._command(set=asdict(faults or Faults()), links=self._devices(link, source), seed=seed)

    def tally(self, *, link: str | None = None, source: str | None = None) -> Tally:
        """What happened so far, summed over the chosen directions."""
        answer = self._command(links=self._devices(link, source)).values()
        told = {f.name: sum(one[f.name] for one in answer) for f in fields(Tally)}
        return Tally(**told | {"late_ms": max(one["late_ms"] for one in answer)})
