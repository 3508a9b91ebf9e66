"""How answers look on a terminal.  Pure: JSON shapes in, lines out.

`info` is the note's `hainfo`: one row per field, this node left, the peer right,
80 columns.  A value too long for its column is cut, with a ~ at its end; `--json`
has all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

WIDTH: Final = 80
_LABEL: Final = 15
_COLUMN: Final = 31
_NONE: Final = "N/A"

Json = dict[str, Any]


def when(stamp: str | None) -> str:
    """RFC 3339 in UTC as local time: 2026-01-31 12:00:00."""
    if not stamp:
        return _NONE
    import time
    from calendar import timegm

    try:
        utc = timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return stamp
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(utc))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def wrapped(lines: Sequence[str]) -> list[str]:
    """Sentences, in lines that fit a terminal."""
    import textwrap

    parts = (textwrap.wrap(x, WIDTH, subsequent_indent="  ") or [""] for x in lines)
    return [line for part in parts for line in part]


def _row(label: str, left: str, right: str) -> str:
    # One blank between the columns even where the left one is full.
    left = _cut(left, _COLUMN - 1)
    right = _cut(right, WIDTH - _LABEL - 2 - _COLUMN)
    return f"{label:<{_LABEL}}: {left:<{_COLUMN}}{right}".rstrip()


def _yes_no(value: bool | None) -> str:
    return _NONE if value is None else "yes" if value else "no"


def _forced(node: Json) -> str:
    return str(node["forced"]).capitalize()


def _mode(node: Json) -> str:
    return "Unreachable" if not node.get("alive", True) else node["mode"].capitalize()


def _state(node: Json) -> str:
    # What an unreachable node does now is not known.
    return _NONE if not node.get("alive", True) else node["state"].capitalize()


# label, value; "v": only with -v.  Order and labels are the note's.
_Field = tuple[str, Callable[[Json], str], str]
_BEFORE_LINKS: Final[tuple[_Field, ...]] = (
    ("model", lambda n: n["model"], ""),
    ("version", lambda n: n["version"], ""),
    ("forced", _forced, ""),
    ("mode", _mode, ""),
    ("  since", lambda n: when(n["since"]), ""),
    ("supervisor", lambda n: str(n["supervisor"]).lower(), "v"),
    ("stream ver.", lambda n: str(n["protocol"]["stream"]), "v"),
    ("state ver.", lambda n: str(n["protocol"]["state"]), "v"),
    ("balanc. paused", lambda n: "Yes" if n["state"] == "frozen" else "No", "v"),
    ("backup active", lambda n: _NONE, ""),
    ("backup ver.", lambda n: _NONE, ""),
    ("backup date", lambda n: _NONE, ""),
    ("quality", lambda n: str(n["quality"]), ""),
    ("priority", lambda n: str(n["priority"]), ""),
    ("file sync", lambda n: "None running", ""),
    ("is conf sync", lambda n: _yes_no(n["config_synced"]), ""),
    ("last conf sync", lambda n: _NONE, "v"),
    ("licence", lambda n: _NONE, "v"),
    ("boot", lambda n: when(n["boot"]), ""),
    ("state", _state, ""),
    ("term", lambda n: str(n.get("term", _NONE)), "v"),
)


_LOST: Final = {
    "stopped": ": it was stopped in good order",
    "process": "; its machine answers pings",
    "machine": ", nor does its machine answer pings",
}


def info_lines(info: Json, verbose: bool) -> list[str]:
    """`hainfo` and `hainfo -v`."""
    local, peer = info["local"], info["peer"]

    def both(label: str, value: Callable[[Json], str]) -> str:
        return _row(label, value(local), value(peer) if peer is not None else _NONE)

    serial = _cut(local["serial"], _COLUMN - 9)
    out = ["Nodes status:"]
    right = peer["serial"] if peer is not None else "(no peer)"
    out.append((" " * (_LABEL + 2) + f"{serial + ' (local)':<{_COLUMN}}{right}").rstrip())
    for label, value, only in _BEFORE_LINKS:
        if not only or verbose:
            out.append(both(label, value))
    if verbose:
        # Where in the stream both tables were last proved equal: one number for both.
        proved = info["table"]["equal"] is True and peer is not None
        syncid = str(info["table"]["as_of"]) if proved else _NONE
        out.append(_row("syncid", syncid, syncid))
    for link in info["links"]:
        state = "OK" if link["state"] == "ok" else "FAILED"
        name = _cut(f"{link['name']} link", _LABEL)
        left, right = f"{link.get('local')}: {state}", f"{link.get('peer')}: {state}"
        out.append(_row(name, left, right))
        if verbose:
            rtt = link["rtt_us"]
            trip = "" if rtt is None else f"{rtt} us round trip"
            if link.get("interface_state", "works") != "works":
                trip = f"{link['interface']}: {link['interface_state']}"
            out.append(_row("  since", when(link["since"]), trip))
    out.append(_row("FwadminRevision", _NONE, _NONE))
    if verbose:
        stream, table = info["stream"], info["table"]
        how = "encrypted" if stream["encrypted"] else "authenticated"
        lag = f"{stream['lag_records']} records, {stream['lag_ms']:g} ms behind"
        out.append(_row("stream", f"{stream['sequence']}, {how}", lag))
        if "events" in stream:
            by = {"probe": "taken by a probe", "netlink": "by netlink"}
            out.append(_row("events", stream["events"], by.get(stream.get("capture", ""), "")))
        if "key" in stream:
            bits = stream["key_bits"]
            key = stream["key"] or _NONE
            strong = "" if bits is None else f", {bits} bits"
            waiting = stream["key_current"] is False
            rest = f"waits for {stream['keys'][0]}" if waiting and stream["keys"] else ""
            out.append(_row("key", f"{key}{strong}", rest))
        equal = {True: "equal", False: "different", None: "not compared"}
        said = equal[table["equal"]]
        if table["equal"] is not None:
            said += f" as of {table['as_of']}, {table['age_ms'] / 1000:.1f} s ago"
        out.append(_row("table", f"{table['entries']} entries", said))
        gate = info["gate"]
        again = f"made again {gate['rebuilt']} times, last {when(gate['rebuilt_at'])}"
        out.append(_row("gate", gate["state"], again if gate["rebuilt"] else ""))
        lease = info["lease"]
        how = lease["state"] if lease["enforced"] else "not enforced"
        left = "" if lease["left_ms"] is None else f"{lease['left_ms']:g} ms left"
        out.append(_row("lease", how, left))
        out += health_lines(info["health"], local["quality"])
    dear = [f"{r['component']} {r['cost']:g}" for r in info.get("health", ()) if r["cost"]]
    if dear and not verbose:
        out.append(_cut(f"Notice: quality, points lost: {', '.join(dear)} (hainfo -v)", WIDTH))
    pressure = info["stream"].get("pressure", 0)
    if pressure:
        held, cause = info["stream"]["held"], info["stream"]["pressure_cause"]
        out.append(f"Notice: pressure {pressure} ({cause}), {held} connections are unprotected")
    if local.get("held_until"):
        out.append(f"Notice: too many swaps; roles are kept until {when(local['held_until'])}")
    if info["gate"]["state"] == "missing":
        out.append("Notice: the gate's nftables table is gone; it is being made again")
    if peer is None:
        out.append("Notice: the other firewall has not been heard yet")
    elif not peer.get("alive", True):
        out.append(f"Notice: the other firewall does not answer{_LOST.get(peer.get('lost'), '')}")
    return out


def health_lines(rows: list[Json], quality: int) -> list[str]:
    """The table behind the quality factor: what costs how much."""
    kind = max((len(r["kind"]) for r in rows), default=0)
    head = f"{'component':<16} {'kind':<{kind}} {'state':<8} weight  cost  since"
    out = [f"quality {quality} %:", f"  {head}"]
    for r in rows:
        name, cost = _cut(r["component"], 16), f"{r['cost']:g}" if r["cost"] else "-"
        left = f"{name:<16} {r['kind']:<{kind}} {r['state']:<8} {r['weight']:>6} {cost:>5}"
        out.append(f"  {left}  {when(r['since'])}")
        if r["reason"]:
            out.append(_cut(f"    {r['reason']}", WIDTH))
    return out


def verify_lines(found: Json) -> list[str]:
    """The answer of `verify`."""
    verdict = "equal" if found["equal"] else "DIFFERENT"
    differ = ", ".join(f"{found[k]} {k}" for k in ("missing", "extra", "different"))
    return [
        f"tables: {verdict} as of {found['as_of']}, {found['entries']} entries",
        f"found: {differ}; repaired: {found['repaired']}",
    ]


def stats_lines(stats: Json) -> list[str]:
    """One counter a line, sorted by name."""
    width = max((len(name) for name in stats), default=0)
    return [f"{name:<{width}} {stats[name]}" for name in sorted(stats)]


def event_line(event: Json) -> str:
    """One event: local time, severity, identifier, message, other fields."""
    fixed = ("time", "id", "severity", "message")
    rest = "".join(f" {k}={v}" for k, v in event.items() if k not in fixed)
    return f"{when(event['time'])} {event['severity']:<7} {event['id']}: {event['message']}{rest}"
