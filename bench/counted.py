"""A daemon that counts the lines of Python it runs; started by bench/python.py.

The count is kept in a file of eight bytes that is mapped, so that whoever wants to know
needs to ask nobody.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

VARIABLE = "HAK2K_BENCH_LINES"
_COUNT = struct.Struct("=Q")


def read(path: Path) -> int:
    """Lines that the daemon behind ``path`` has run so far."""
    return int(_COUNT.unpack(path.read_bytes())[0])


def _count(path: Path) -> None:
    """Count each line of every thread from now on."""
    path.write_bytes(bytes(_COUNT.size))
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), _COUNT.size)
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            _COUNT.pack_into(shared, 0, lines)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def main() -> None:
    from hak2k import daemon

    _count(Path(os.environ[VARIABLE]))
    sys.exit(daemon.main())


if __name__ == "__main__":
    main()
