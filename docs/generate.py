"""Write docs/events.md and docs/election.md from the tables that the daemon uses.

python docs/generate.py            write it
python docs/generate.py --check    exit 1 if one is not up to date
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from hak2k.election import TABLE
from hak2k.events import CATALOG
from hak2k.model import ElectionConfig, Role
from hak2k.order import ORDERS

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

Made from `TABLE` in `hak2k/election.py`, `ORDERS` in `hak2k/order.py` and the
times in `hak2k/model.py` by `make docs`; do not edit.

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

ORDERS_HEAD = """
## Which of two nodes

The first criterion that differs decides. *Forced rank*: active before none
before passive.

| situation | criteria | all equal |
| --- | --- | --- |
"""

TIMES_HEAD = """
## Times

In seconds, from heartbeats of 50 ms and `dead_after_ms = 200`, and from 1000 ms
and `dead_after_ms = 5000`, where the configuration names no others. The head of
`hak2k/election.py` says what each is for.

| time | 50 / 200 | 1000 / 5000 |
| --- | --- | --- |
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
    parts = [ELECTION_HEAD + "\n".join(lines), ROWS_HEAD + "\n".join(rows)]
    orders = [f"| {when} | {', '.join(names)} | {tie} |" for when, names, tie in ORDERS]
    parts.append(ORDERS_HEAD + "\n".join(orders))
    near, far = ElectionConfig.of("", 50, 200), ElectionConfig.of("", 1000, 5000)
    times = [
        f"| `{f.name}` | {getattr(near, f.name):g} | {getattr(far, f.name):g} |"
        for f in fields(ElectionConfig)
        if f.name not in ("serial", "flap_count")
    ]
    parts.append(TIMES_HEAD + "\n".join(times))
    return "\n".join(parts) + "\n"


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
