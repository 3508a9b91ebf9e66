"""temperature: the hottest sensor of the machine, a chip or a network card.

Without `fail` the chip's own critical value is the limit; sensors that name none only
count with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hak2k.health import hwmon, kind
from hak2k.health.kind import Context, Kind, Level, Sample


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    hottest: tuple[float, str] | None = None
    interface = options.get("interface")
    for chip in hwmon.chips(context.root, options.get("device"), interface):
        for label, sensor in hwmon.sensors(chip, "temp"):
            milli = hwmon.value(sensor, "input")
            if milli is None or hwmon.value(sensor, "fault"):
                continue  # nothing is connected there
            celsius = milli / 1000
            limit = hwmon.value(sensor, "crit")
            own = limit is not None and limit > 0 and milli >= limit
            if own or hwmon.value(sensor, "crit_alarm"):
                return kind.bad(f"{label}: {celsius:g} °C, critical")
            if hottest is None or celsius > hottest[0]:
                hottest = (celsius, label)
    if hottest is None:
        return kind.absent(f"no sensor of {interface}" if interface else "no sensor here")
    return kind.good(f"{hottest[1]}: {hottest[0]:g} °C", hottest[0])


KIND: Final = Kind(
    "temperature",
    sample,
    {"device": hwmon.CHIP, "interface": hwmon.INTERFACE},
    Level("°C", -40, 200, None, None),
)
