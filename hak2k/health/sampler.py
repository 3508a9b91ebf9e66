"""The process that samples: `python -m hak2k.health.sampler [ROOT]`.

Sampling may block: a dying disk, a driver, a program that hangs.  So it is done apart
from the daemon, which must neither wait nor be kept from ending; what blocks for ever
takes this process along, not the daemon.  A thread for each question, so that one that
blocks delays no other.

Standard input is a SOCK_SEQPACKET socket, one JSON object a datagram:

    question   {"id": 17, "kind": "disk", "options": {"path": "/var"}, "timeout_s": 5}
    answer     {"id": 17, "seen": "good", "reason": "/var can be written", "value": null}

It ends, with what it started, when the other end is closed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

from hak2k.health import kind, program
from hak2k.health.kind import Context, Sample
from hak2k.health.table import KINDS

MOST: Final = 65536  # bytes of a datagram


def answer(question: dict[str, Any], root: Path) -> Sample:
    """Take one sample.  May block."""
    context = Context(root, question["timeout_s"])
    try:
        return KINDS[question["kind"]].sample(question["options"], context)
    except OSError as e:
        return kind.bad(f"cannot be checked: {e.strerror or e}")
    except Exception as e:  # a fault in one kind must not silence the others
        return kind.bad(f"cannot be checked: {e!r}")


def _reply(s: socket.socket, question: dict[str, Any], root: Path) -> None:
    sample = answer(question, root)
    said = {"seen": sample.seen, "reason": sample.reason, "value": sample.value}
    try:
        s.send(json.dumps({"id": question["id"], **said}).encode())
    except OSError:
        pass  # nobody listens any more: the main thread sees it too


def _humble() -> None:
    """Give back what the daemon has for its heartbeats' sake and children inherit."""
    try:
        Path("/proc/self/oom_score_adj").write_text("0")
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        pass


def main() -> None:
    # Who stops the daemon from a terminal does not mean this process: it ends with
    # its socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # vfork() would hold all threads until the disk has yielded a program's first page.
    setattr(subprocess, "_USE_VFORK", False)  # noqa: B010
    _humble()
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "/")
    s = socket.socket(fileno=os.dup(0))
    os.set_inheritable(s.fileno(), False)
    while True:
        data = s.recv(MOST)
        if not data:
            break
        threading.Thread(target=_reply, args=(s, json.loads(data), root), daemon=True).start()
    for group in list(program.running):
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass
    # Not exit(): threads that hang would be in the way.
    os._exit(0)


if __name__ == "__main__":
    main()
