"""script: a program of the operator's; healthy while it ends with 0.

Without a shell, as the daemon's user, in the folder /.  The first line that it writes is
the reason shown.  When its time is over it is killed with all that it started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hak2k.health import kind
from hak2k.health.kind import Context, Kind, Option, Sample
from hak2k.health.program import Hung, first_line, run


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    command = options["command"]
    try:
        status, said = run(command, context.timeout_s)
    except Hung:
        return kind.bad(f"{command[0]} did not end within {context.timeout_s:g} s, killed")
    except OSError as e:
        return kind.bad(f"{command[0]}: {e.strerror}")
    line = first_line(said)
    if status == 0:
        return kind.good(line)
    how = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
    return kind.bad(f"{line} ({how})" if line else how)


def check(options: Mapping[str, Any]) -> str | None:
    command = options["command"]
    if command and not command[0].startswith("/"):
        return f"{command[0]!r} is not an absolute path; there is no shell that would search"
    return None


KIND: Final = Kind(
    "script",
    sample,
    {
        "command": Option(
            'a list, the program and its arguments: ["/usr/local/bin/check", "-q"]',
            r"[^\0]*",
            required=True,
            many=True,
        )
    },
    check=check,
)
