"""systemd: no unit has failed, or none of those named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hak2k.health import kind
from hak2k.health.kind import Context, Kind, Option, Sample
from hak2k.health.program import Hung, first_line, run

_FAILED: Final = ("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full")


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    if not (context.root / "run/systemd/system").is_dir():
        return kind.absent("systemd does not run this machine")
    units = options.get("units") or ()
    # Patterns are allowed; a unit that is not loaded has not failed.
    try:
        status, said = run((*_FAILED, "--", *units), context.timeout_s)
    except FileNotFoundError:
        return kind.absent("no systemctl here")
    except Hung:
        return kind.bad(f"systemd does not answer within {context.timeout_s:g} s")
    if status != 0:
        return kind.bad(f"systemctl: {first_line(said)}")
    failed = [line.split()[0] for line in said.splitlines() if line.strip()]
    if not failed:
        return kind.good("no failed unit")
    more = f" and {len(failed) - 2} more" if len(failed) > 2 else ""
    return kind.bad(f"failed: {', '.join(failed[:2])}{more}")


KIND: Final = Kind(
    "systemd",
    sample,
    {
        "units": Option(
            "a list of units, as vpn.service",
            r"[A-Za-z0-9@*?\[\]][A-Za-z0-9:_.@\\*?\[\]-]{0,254}",
            many=True,
        )
    },
)
