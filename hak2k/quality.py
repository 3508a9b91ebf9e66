"""The quality factor: how fit this node is to carry the traffic.  Pure.

The weighted share of the data interfaces that work (the note, "Understanding how
the quality factor is calculated"):

    out 100 up, in 100 down, dmz2 75 up
    (1*100 + 0*100 + 1*75) / (100 + 100 + 75) = 63 %

Rounded down, so that 100 means that nothing at all is wrong.  HA links do not
count: an active node that lost them still carries everything.

Not handled here: disks, TPM, power supplies, aggregates.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

MAX_WEIGHT = 9999
DEFAULT_WEIGHT = 100


def quality(weights: Mapping[str, int], working: Container[str]) -> int:
    """The quality factor in percent, 0 to 100.

    weights: data interface name to weight, 0 to 9999; weight 0 does not count.
    working: the names of those that are up and have a carrier.

    Without any weight nothing can be wrong: 100.
    """
    total = sum(weights.values())
    if total == 0:
        return 100
    have = sum(weight for name, weight in weights.items() if name in working)
    return 100 * have // total
