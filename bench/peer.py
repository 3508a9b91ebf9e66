"""What conntrackd does with a whole table: copying it, holding it, committing it.

Three measurements want it, so each size is done once in a run and remembered.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from bench import conntrackd, rig, variants
from hak2k.lab import Lab, until

PATIENCE_S = 120


@cache
def bulk(mode: str, size: int) -> dict[str, Any] | None:
    """A pair of conntrackd, the active one beside a table of that size.

    The passive one asks for everything (``conntrackd -n``); with caches it then commits
    (``-c``), as at a failover.

    Returns:
        ``sync_ns``, ``bytes`` on the link, ``rss`` of both (bytes), and with caches
        ``commit_ns``; None if it was not unpacked.
    """
    if not conntrackd.available():
        return None
    with Lab() as lab:
        rig.prepare(lab)
        lab.fw2.sysctl("net.netfilter.nf_conntrack_events=0")
        if size:
            rig.fill(lab.fw1, size)
        variant = variants.KINDS[mode](lab, variants.Setup())
        assert isinstance(variant, variants.Conntrackd)
        try:
            variant.drained(0.5)
            lab.fw2.ct.flush()
            return _measure(lab, variant, size)
        finally:
            variant.close()


def _measure(lab: Lab, variant: variants.Conntrackd, size: int) -> dict[str, Any]:
    def held() -> int:
        return variant.b.cached(external=True) if variant.caches else lab.fw2.conntrack_count()

    began, sent = time.monotonic(), variants.traffic(variant.pids[0])["bytes"]
    variant.b.ask("-n")
    until(lambda: held() >= size, PATIENCE_S, "all entries", detail=held)
    found: dict[str, Any] = {
        "sync_ns": (time.monotonic() - began) * 1e9,
        "bytes": variants.traffic(variant.pids[0])["bytes"] - sent,
        "rss": [variants.resident(pid) for pid in variant.pids],
    }
    if variant.caches:
        lab.fw2.ct.flush()
        began = time.monotonic()
        variant.b.ask("-c")
        # What some entries' commit fails with is told in its log alone.
        until(lambda: lab.fw2.conntrack_count() >= 0.999 * size, PATIENCE_S, "the commit")
        found["commit_ns"] = (time.monotonic() - began) * 1e9
        found["committed"] = lab.fw2.conntrack_count()
    return found
