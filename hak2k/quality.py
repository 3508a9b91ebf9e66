"""The quality factor: how fit this node is to carry the traffic.  Pure.

The weighted share of what works (the note, "Understanding how the quality factor is
calculated"):

    out 100 up, in 100 down, dmz2 75 up
    (1*100 + 0*100 + 1*75) / (100 + 100 + 75) = 63 %

Data interfaces and the components of [[health]] count alike, by their weights.
Rounded down, so that 100 means that nothing at all is wrong.  HA links do not
count: an active node that lost them still carries everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

MAX_WEIGHT = 9999
DEFAULT_WEIGHT = 100


@dataclass(frozen=True, slots=True)
class Part:
    """One component."""

    weight: int
    """0 to 9999; 0 does not count."""
    lost: Fraction = Fraction(0)
    """What of it is lost: 0 it works, 1 it does not, between: an aggregate's members."""


def quality(parts: Sequence[Part]) -> int:
    """The quality factor in percent, 0 to 100.

    Without any weight nothing can be wrong: 100.
    """
    total = sum(part.weight for part in parts)
    if total == 0:
        return 100
    return int(100 * (total - sum(part.weight * part.lost for part in parts)) / total)


def costs(parts: Sequence[Part]) -> list[float]:
    """What each part takes from 100, in points with one decimal."""
    total = sum(part.weight for part in parts) or 1
    return [round(float(100 * part.weight * part.lost / total), 1) for part in parts]
