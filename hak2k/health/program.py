"""Runs a program with a deadline, and keeps the beginning of what it says.

Without a shell.  In a session of its own, so that what it started ends with it when it
hangs.  Waits for the program, not for the end of its output: a child left in the
background may hold that open for ever.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final

MOST: Final = 65536  # bytes kept of the output; the rest is read and dropped

running: set[int] = set()
"""Process groups now at work, to be ended when the sampler ends."""


class Hung(Exception):
    """It did not end in time and was killed."""


def run(command: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """(exit status, what it wrote to both outputs).  A status below 0 is a signal.

    Raises OSError: it cannot be started; Hung.
    """
    end = time.monotonic() + timeout_s
    # fork() and not vfork(): a program on a disk that does not answer must hang
    # its own sample only.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "LC_ALL": "C"},
    ) as process:
        assert process.stdout is not None
        running.add(process.pid)
        out = process.stdout.fileno()
        os.set_blocking(out, False)
        ended = os.pidfd_open(process.pid)
        kept = b""
        poll = select.poll()
        poll.register(out, select.POLLIN)
        poll.register(ended, select.POLLIN)
        try:
            while True:
                left = end - time.monotonic()
                ready = dict(poll.poll(max(0.0, left) * 1000))
                if out in ready:
                    data = _read(out)
                    kept = (kept + data)[:MOST]
                    if data == b"":
                        poll.unregister(out)
                if ended in ready:
                    kept = (kept + _read(out))[:MOST]
                    return process.wait(), kept.decode(errors="replace").strip()
                if left <= 0:
                    raise Hung
        except Hung:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            running.discard(process.pid)
            os.close(ended)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, MOST)
    except BlockingIOError:
        return b""


def first_line(text: str, most: int = 120) -> str:
    """The first line that says something, printable and short."""
    for line in text.splitlines():
        clean = "".join(c if c.isprintable() else "?" for c in line).strip()
        if clean:
            return clean if len(clean) <= most else clean[: most - 1] + "~"
    return ""
