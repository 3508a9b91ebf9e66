"""How fast the peer's connections change, to say what a crash may have cost.

Nothing can tell what the dead node knew and did not say.  What it said per second just
before is known, and how long it was silent: their product bounds the loss, unless the
load rose in that very moment.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOWS: Final = 10
SHORTEST_S: Final = 0.1  # a window below that says more of chance than of the load


class Pace:
    """Records of the stream per second: the most of the last `WINDOWS` looks."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None  # seconds, records
        self._rates: deque[float] = deque(maxlen=WINDOWS)

    def note(self, now: float, records: int) -> None:
        """`records` have come so far, a counter that a restart of the core resets."""
        if self._last is not None:
            seconds, more = now - self._last[0], records - self._last[1]
            if seconds < SHORTEST_S:
                return
            self._rates.append(max(more, 0) / seconds)
        self._last = (now, records)

    def most(self, seconds: float) -> int:
        """What there can have been in that time, rounded up."""
        return math.ceil(max(self._rates, default=0.0) * seconds)
