"""Why a role changed, in sentences.  Pure: a recorded change in, an answer out."""

from __future__ import annotations

from typing import Any

from hak2k import model
from hak2k.events import rfc3339
from hak2k.recorder import Change


def _facts(s: model.State | model.Peer, term: int) -> dict[str, Any]:
    return {
        "mode": s.mode.name.lower(),
        "forced": s.forced.name.lower(),
        "quality": s.quality,
        "priority": s.priority,
        "state": s.table.name.lower(),
        "term": term,
    }


def _words(facts: dict[str, Any]) -> str:
    forced = "not forced" if facts["forced"] == "no" else f"forced {facts['forced']}"
    return (
        f"{facts['mode']}, {facts['state']}, {forced}, quality {facts['quality']} %, "
        f"priority {facts['priority']}, term {facts['term']}"
    )


def explain(change: Change, number: int, serial: str) -> dict[str, Any]:
    """The answer of `why`.

    number: 1 for the last change.  serial: this node's.
    """
    before, after = change.before, change.after
    old, new = before.mode.name.lower(), after.mode.name.lower()
    rows = [{"row": r.id, "rule": r.why, "reason": why} for r, why in change.rows]
    reason = rows[0]["reason"] if rows else "unknown"
    local = _facts(before, before.term)
    known = after.peer or before.peer
    peer = None if known is None else {**_facts(known, known.term), "alive": known.alive}
    time = rfc3339(change.wall)
    text = [f"{time}: {serial} became {new}; it was {old}.", f"Reason: {reason}."]
    text += [f"Rule {r['row']}: {r['rule']} ({r['reason']})." for r in rows]
    text.append(f"This node was: {_words(local)}.")
    if known is None or peer is None:
        text.append("No peer was known.")
    else:
        heard = "and was heard" if known.alive else "and was not heard any more"
        text.append(f"{known.serial} had said: {_words(peer)}; {heard}.")
    for event in change.log:
        took = _took(event)
        text.append(f"{event['time']}: {event['message']}{took}.")
    return {
        "number": number,
        "time": time,
        "from": old,
        "to": new,
        "reason": reason,
        "rows": rows,
        "event": type(change.event).__name__,
        "local": local,
        "peer": peer,
        "log": change.log,
        "text": text,
    }


def _took(event: dict[str, Any]) -> str:
    words = {
        "detect_ms": "silent for {} ms",
        "armed_ms": "the peer's gate open after {} ms",
        "closed_ms": "this one closed after {} ms",
        "applied_ms": "the peer's kernel had all after {} ms",
        "gate_us": "gate open after {} us",
        "total_us": "{} us in all",
        "total_ms": "{} ms in all",
    }
    said = [text.format(event[key]) for key, text in words.items() if key in event]
    return f" ({', '.join(said)})" if said else ""
