"""conntrackd in a lab: the peer that every figure of hak2k is set beside.

Debian's own package, unpacked by ``make bench`` below build/bench and not installed,
since an installed one starts a daemon on the host.  Its settings are the best for each
configuration: unicast UDP, no polling, no filter that costs, buffers as large as those
of hak2k (it asks the kernel for half of its NetlinkBufferSize), real-time priority as
shipped.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from bench import tools
from hak2k.lab import Lab, Node, topology, until

PROGRAM = tools.BUILD / "conntrackd" / "usr" / "sbin" / "conntrackd"
PORT = 3780
BUFFER = 64 << 20  # of csrc/hak_nl.h: HAK_NL_EVENT_BUF

# The answers of `conntrackd -s`.
_EXTERNAL = re.compile(r"cache external:\s+current active connections:\s+(\d+)")
_INTERNAL = re.compile(r"cache internal:\s+current active connections:\s+(\d+)")
_LOST = re.compile(r"(\d+) Lost msgs")

_FTFW = (
    "Mode FTFW {{\n  ResendQueueSize 2097152\n  ACKWindowSize 300\n  DisableExternalCache {}\n }}"
)
MODES = {
    # A cache in each daemon; the passive kernel gets nothing until it takes over.
    "ftfw": _FTFW.format("Off"),
    # What comes goes straight into the passive kernel.
    "direct": _FTFW.format("On"),
    # No reliability, no caches.
    "notrack": "Mode NOTRACK {\n  DisableInternalCache On\n  DisableExternalCache On\n }",
}


def available() -> bool:
    return PROGRAM.exists()


def version() -> str | None:
    """What it says of itself; None where it is not there."""
    if not available():
        return None
    done = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"v(\d[\d.]*)", done.stdout)
    return found.group(1) if found else None


def _configuration(directory: Path, mode: str, local: str, peer: str) -> str:
    return f"""Sync {{
 {MODES[mode]}
 UDP {{
  IPv4_address {local}
  IPv4_Destination_Address {peer}
  Port {PORT}
  Interface ha0
  SndSocketBuffer {BUFFER}
  RcvSocketBuffer {BUFFER}
  Checksum on
 }}
}}
General {{
 HashSize 1048576
 HashLimit 8388608
 LogFile {directory}/log
 LockFile {directory}/lock
 UNIX {{
  Path {directory}/ctl
 }}
 NetlinkBufferSize {2 * BUFFER}
 NetlinkBufferSizeMaxGrowth {2 * BUFFER}
 NetlinkOverrunResync off
}}
"""


class Conntrackd:
    """One daemon in a firewall's namespace."""

    def __init__(self, lab: Lab, node: Node, mode: str, cpu: int | None = None) -> None:
        own = topology.HA_ADDRESSES[node.name]["ha0"].split("/")[0]
        other = topology.HA_ADDRESSES[lab.other(node).name]["ha0"].split("/")[0]
        self.mode = mode
        directory = lab.directory / f"conntrackd-{node.name}"
        directory.mkdir(exist_ok=True)
        self.file = directory / "conf"
        self.file.write_text(_configuration(directory, mode, own, other))
        control = directory / "ctl"
        control.unlink(missing_ok=True)
        self.process: subprocess.Popen[str] = node.popen(
            PROGRAM, "-C", self.file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: control.exists() or self.process.poll() is not None, 20, "conntrackd")
        if self.process.poll() is not None:
            raise RuntimeError(f"conntrackd ended: {(directory / 'log').read_text()}")
        if cpu is not None:
            os.sched_setaffinity(self.process.pid, {cpu})

    def ask(self, *arguments: str, timeout: float = 120) -> str:
        """What the daemon answers to ``conntrackd ARGUMENTS``."""
        done = subprocess.run(
            [PROGRAM, "-C", self.file, *arguments],
            capture_output=True, text=True, timeout=timeout, check=True,
        )  # fmt: skip
        return done.stdout

    def cached(self, *, external: bool) -> int:
        """Entries in one of its caches; 0 where it has none."""
        found = (_EXTERNAL if external else _INTERNAL).search(self.ask("-s"))
        return int(found.group(1)) if found else 0

    def lost(self) -> int:
        """Messages of the peer that never came."""
        return sum(map(int, _LOST.findall(self.ask("-s"))))
