"""conntrack: how full this kernel's table is, in percent of nf_conntrack_max."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hak2k.health import kind
from hak2k.health.kind import Context, Kind, Level, Sample


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    folder = context.root / "proc/sys/net/netfilter"
    count, most = (kind.number(folder / f"nf_conntrack_{n}") for n in ("count", "max"))
    if count is None or most is None:
        return kind.absent("no conntrack here")
    if most == 0:  # without a limit
        return kind.good(f"{count} entries", 0.0)
    return kind.good(f"{count} of {most} entries", round(100 * count / most, 1))


KIND: Final = Kind("conntrack", sample, level=Level("%", 1, 100, 95, 85))
