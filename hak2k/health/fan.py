"""fan: the slowest of the fans, in turns a minute, and the alarms of their chips.

Not handled: fans that only IPMI knows; use kind script with ipmitool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hak2k.health import hwmon, kind
from hak2k.health.kind import Context, Kind, Level, Sample


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    slowest: tuple[int, str] | None = None
    for chip in hwmon.chips(context.root, options.get("device")):
        for label, sensor in hwmon.sensors(chip, "fan"):
            if hwmon.value(sensor, "fault") or hwmon.value(sensor, "alarm"):
                return kind.bad(f"{label}: alarm")
            turns = hwmon.value(sensor, "input")
            if turns is not None and (slowest is None or turns < slowest[0]):
                slowest = (turns, label)
    if slowest is None:
        return kind.absent("no fan here")
    return kind.good(f"{slowest[1]}: {slowest[0]} rpm", float(slowest[0]))


KIND: Final = Kind(
    "fan",
    sample,
    {"device": hwmon.CHIP},
    Level("rpm", 1, 100000, 1, None, falls=True),
)
