"""Write docs/events.md from the catalogue in hak2k/events.py.

python docs/generate.py            write it
python docs/generate.py --check    exit 1 if it is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from hak2k.events import CATALOG

TARGET = Path(__file__).with_name("events.md")

HEAD = """\
# Events

Made from `hak2k/events.py` by `make docs`; do not edit.

What `hak2kctl events` shows and `hak2kd` writes to standard error. Monitoring
should match on the identifier, which never changes; the text of a message may.
Events of severity *debug* are logged only with `log.level = "debug"`, and are
not kept for `hak2kctl events`.

| id | severity | meaning | what to do |
| --- | --- | --- | --- |
"""


def events() -> str:
    rows = [
        f"| `{name}` | {entry.severity} | {entry.meaning} | {entry.remedy} |"
        for name, entry in sorted(CATALOG.items())
    ]
    return HEAD + "".join(row.replace("  |", " |") + "\n" for row in rows)


def main() -> int:
    new = events()
    old = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if "--check" in sys.argv[1:]:
        if new != old:
            print(f"{TARGET.name} is not up to date: make docs", file=sys.stderr)
        return int(new != old)
    if new != old:
        TARGET.write_text(new, encoding="utf-8")
        print(f"docs: {TARGET.name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
