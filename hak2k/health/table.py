"""All kinds of health checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hak2k.health import (
    conntrack,
    disk,
    fan,
    gateway,
    power,
    pressure,
    script,
    systemd,
    temperature,
    tpm,
)
from hak2k.health.kind import Kind

KINDS: Final[Mapping[str, Kind]] = {
    k.name: k
    for k in (
        disk.KIND,
        tpm.KIND,
        power.KIND,
        fan.KIND,
        temperature.KIND,
        gateway.KIND,
        pressure.MEMORY,
        pressure.CPU,
        conntrack.KIND,
        systemd.KIND,
        script.KIND,
    )
}
