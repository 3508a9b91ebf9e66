"""memory and cpu: how long work waits for them, in percent of the time (PSI).

memory: the share of the last 10 s in which nothing at all could go on (full); cpu: in
which something had to wait for its turn (some).

Without a weight unless one is given: what the traffic costs moves with the role, and two
nodes that each find themselves overloaded would hand it back and forth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from hak2k.health import kind
from hak2k.health.kind import Context, Kind, Level, Sample


def _sample(what: str, line: str, options: Mapping[str, Any], context: Context) -> Sample:
    text = kind.read(context.root / "proc/pressure" / what)
    found = None if text is None else re.search(rf"^{line} avg10=([0-9.]+)", text, re.MULTILINE)
    if found is None:
        return kind.absent("this kernel does not measure pressure (psi=1)")
    return kind.good(f"{float(found[1]):g} % waiting", float(found[1]))


MEMORY: Final = Kind(
    "memory",
    partial(_sample, "memory", "full"),
    level=Level("%", 0.1, 100, 20, 5),
    weight=0,
    fail_after=3,
    prompt=False,
)
CPU: Final = Kind(
    "cpu",
    partial(_sample, "cpu", "some"),
    level=Level("%", 0.1, 100, 90, 60),
    weight=0,
    fail_after=3,
    prompt=False,
)
