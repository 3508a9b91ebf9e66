"""Events for journald, each with fields of its own, so that they can be asked for:

    journalctl HAK2K_EVENT=peer.dead

One datagram for each event, in journald's native format (systemd.io,
JOURNAL_NATIVE_PROTOCOL): no library is needed for it.
"""

from __future__ import annotations

import json
import socket
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hak2k.events import SYSLOG, StderrSink, as_text

SOCKET: Final = Path("/run/systemd/journal/socket")
# The identifiers of all events hang on this one: it never changes.
_NAMESPACE: Final = uuid.UUID("5b0d62f1-3c1e-4f7e-9a55-6b2e8a0c44d7")

Sink = Callable[[dict[str, Any]], None]


def message_id(id: str) -> str:
    """journald's MESSAGE_ID of an event: the same on every machine, for good."""
    return uuid.uuid5(_NAMESPACE, id).hex


def fields(event: dict[str, Any]) -> dict[str, str]:
    """What journald is told; fields of our own as HAK2K_NAME, values as JSON unless text."""
    out = {
        "MESSAGE": as_text(event),
        "MESSAGE_ID": message_id(event["id"]),
        "PRIORITY": str(SYSLOG[event["severity"]]),
        "SYSLOG_IDENTIFIER": "hak2kd",
        "HAK2K_EVENT": event["id"],
    }
    for key, value in event.items():
        if key not in ("id", "severity"):
            out[f"HAK2K_{key.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    return out


def encode(values: dict[str, str]) -> bytes:
    """A datagram.  A value of several lines is told with its length, so that none can
    pass for a field."""
    out = b""
    for name, text in values.items():
        value = text.encode(errors="replace")
        if b"\n" in value:
            out += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            out += name.encode() + b"=" + value + b"\n"
    return out


class JournalSink:
    """Writes events to journald; what it does not take goes to `fallback`."""

    def __init__(self, fallback: Sink, path: Path = SOCKET) -> None:
        self._fallback = fallback
        self._path = str(path)

    def __call__(self, event: dict[str, Any]) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
                s.setblocking(False)  # a journald that hangs holds up nothing
                s.sendto(encode(fields(event)), self._path)
        except OSError:
            self._fallback(event)


def sink(style: str) -> Sink:
    """Where the daemon's events go: to journald, if standard error does and no other
    style is asked for; else to standard error."""
    stderr = StderrSink(style)
    return JournalSink(stderr) if style == "text" and stderr.journald else stderr
