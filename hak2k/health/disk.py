"""disk: block devices as the kernel sees them, and whether a folder can be written.

    device   the drivers' word on it: offline, degraded (RAID), errors of its file system;
             `fail` sets how many I/O errors since boot are too many (SCSI: ioerr_cnt)
    path     a block is written to a file there and synced

Not handled: SMART, which needs privileges that this daemon has given up; run smartctl
from a timer and look at its result with kind script.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hak2k.health import kind
from hak2k.health.kind import Context, Kind, Level, Option, Sample
from hak2k.health.program import Hung, first_line, run

FILE: Final = ".hak2k-health"
# What drivers call a device that works: SCSI, NVMe.
_WORKING: Final = frozenset({"running", "live", "new", "connecting", "quiesce"})


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    path = options.get("path")
    if path is not None:
        wrong = _unwritable(path, context.timeout_s)
        if wrong:
            return kind.bad(wrong)
        if options.get("device") is None:
            return kind.good(f"{path} can be written")
    return _devices(options.get("device"), context.root)


def _devices(wanted: str | None, root: Path) -> Sample:
    blocks = root / "sys/block"
    if wanted is None:
        # Those with hardware behind them, and RAIDs; not loop, zram, dm.
        found = [b for b in kind.entries(blocks) if (b / "device").exists() or (b / "md").is_dir()]
    else:
        found = [blocks / wanted] if (blocks / wanted).is_dir() else []
    if not found:
        return kind.absent(f"no disk {wanted}" if wanted else "no disk here")
    errors = 0
    for block in found:
        wrong = _wrong(block, root)
        if wrong:
            return kind.bad(f"{block.name}: {wrong}")
        errors += kind.number(block / "device/ioerr_cnt") or 0
    names = ", ".join(b.name for b in found)
    return kind.good(f"{names}: {errors} I/O errors", float(errors))


def _wrong(block: Path, root: Path) -> str | None:
    state = kind.read(block / "device/state")
    if state and state not in _WORKING:
        return f"the kernel says {state}"
    degraded = kind.number(block / "md/degraded")
    if degraded:
        return f"RAID without {degraded} of its disks"
    for part in (block.name, *(p.name for p in kind.entries(block) if (p / "partition").exists())):
        count = kind.number(root / "sys/fs/ext4" / part / "errors_count")
        if count:
            return f"{count} errors in the file system of {part}; fsck it"
    return None


def _unwritable(path: str, timeout_s: float) -> str | None:
    # Another process: a thread that waits for a dead disk cannot be ended, and would
    # keep this process, with all that it holds, from ending.
    file = f"{path.rstrip('/')}/{FILE}"
    options = ("bs=4096", "count=1", "conv=fsync", "oflag=nofollow")
    try:
        status, said = run(("dd", "if=/dev/zero", f"of={file}", *options), timeout_s)
    except Hung:
        return f"{path}: a write did not end within {timeout_s:g} s"
    # dd: failed to open '...': No space left on device
    return None if status == 0 else f"{path}: {first_line(said.rpartition(': ')[2])}"


KIND: Final = Kind(
    "disk",
    sample,
    {
        "device": Option("the name of a block device, as sda", r"[A-Za-z0-9!_-]{1,32}"),
        "path": Option("an absolute path of a folder", r"/[^\0]*"),
    },
    Level("I/O errors", 1, 1e9, None, None),
    interval_s=30.0,
    timeout_s=10.0,
)
