"""power: supplies of /sys/class/power_supply, and power alarms of sensor chips (PMBus).

Not handled: supplies that only IPMI knows; use kind script with ipmitool.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hak2k.health import hwmon, kind
from hak2k.health.kind import Context, Kind, Option, Sample

# What a battery may call itself and still be used.
_FIT: Final = frozenset({"Good", "Unknown", "Cold", "Cool", "Warm", "Hot"})


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    wanted = options.get("device")
    found = []
    for supply in kind.entries(context.root / "sys/class/power_supply"):
        if wanted is None or supply.name == wanted:
            found.append(supply.name)
            wrong = _wrong(supply)
            if wrong:
                return kind.bad(f"{supply.name}: {wrong}")
    for chip in hwmon.chips(context.root, wanted):
        name = kind.read(chip / "name") or chip.name
        for file in kind.entries(chip):
            stem, _, rest = file.name.partition("_")
            if rest in ("alarm", "crit_alarm") and stem.startswith(("power", "in", "curr")):
                found.append(name)
                if kind.number(file):
                    return kind.bad(f"{name} {stem}: alarm")
    if not found:
        return kind.absent(f"no supply {wanted}" if wanted else "no supply here")
    return kind.good(", ".join(dict.fromkeys(found)))


def _wrong(supply: Path) -> str | None:
    if kind.read(supply / "scope") == "Device":
        return None  # a mouse's battery
    if kind.read(supply / "type") == "Mains" and kind.number(supply / "online") == 0:
        return "no power"
    health = kind.read(supply / "health")
    return None if health is None or health in _FIT else health.lower()


KIND: Final = Kind(
    "power",
    sample,
    {"device": Option("the name of a supply or chip, as AC", r"[A-Za-z0-9:_.-]{1,48}")},
)
