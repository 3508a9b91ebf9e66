"""Write docs/events.md and docs/election.md from the tables that the daemon uses.

python docs/generate.py            write it
python docs/generate.py --check    exit 1 if one is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from hak2k.election import TABLE
from hak2k.events import CATALOG
from hak2k.model import Role

EVENTS_HEAD = """\
# Events

Made from `hak2k/events.py` by `make docs`; do not edit.

What `hak2kctl events` shows and `hak2kd` writes to standard error. Monitoring
should match on the identifier, which never changes; the text of a message may.
Events of severity *debug* are logged only with `log.level = "debug"`, and are
not kept for `hak2kctl events`.

Under systemd, journald gets each with fields: `HAK2K_EVENT` is the identifier,
`MESSAGE_ID` a hash of it, `HAK2K_` and a name in capitals each further field:
`journalctl -u hak2kd HAK2K_EVENT=role.active -o json`.

| id | severity | meaning | what to do |
| --- | --- | --- | --- |
"""


ELECTION_HEAD = """\
# Election

Made from `TABLE` in `hak2k/election.py` by `make docs`; do not edit.

What a node does follows from its role and the rows below. After each event the
rows of the role are read from the top; the first one whose condition holds
fires, and the table is read again, until none does. Nothing else changes a
role. Reasons, order of preference and times are told at the head of that file;
`hawhy` says which row a change of role came from.

```mermaid
stateDiagram-v2
"""

ROWS_HEAD = """
| row | role | when | then |
| --- | --- | --- | --- |
"""


def events() -> str:
    rows = [
        f"| `{name}` | {entry.severity} | {entry.meaning} | {entry.remedy} |"
        for name, entry in sorted(CATALOG.items())
    ]
    return EVENTS_HEAD + "".join(row.replace("  |", " |") + "\n" for row in rows)


def name(role: Role) -> str:
    return role.value.replace(" ", "_")


def election() -> str:
    edges: dict[tuple[Role, Role], list[str]] = {}
    for row in TABLE:
        edges.setdefault((row.role, row.to), []).append(row.id)
    lines = [f"    [*] --> {name(Role.STARTING)}"]
    for (of, to), ids in edges.items():
        lines.append(f"    {name(of)} --> {name(to)}: {' '.join(ids)}")
    lines += [f"    {name(Role.STOPPED)} --> [*]", "```"]
    rows = [f"| {r.id} | {r.role.value} | {r.why} | {r.to.value} |" for r in TABLE]
    return ELECTION_HEAD + "\n".join(lines) + "\n" + ROWS_HEAD + "\n".join(rows) + "\n"


def main() -> int:
    stale = 0
    for file, new in (("events.md", events()), ("election.md", election())):
        target = Path(__file__).with_name(file)
        if target.exists() and target.read_text(encoding="utf-8") == new:
            continue
        if "--check" in sys.argv[1:]:
            print(f"{file} is not up to date: make docs", file=sys.stderr)
            stale = 1
        else:
            target.write_text(new, encoding="utf-8")
            print(f"docs: {file} written")
    return stale


if __name__ == "__main__":
    sys.exit(main())
