"""What failed beside other tests, once more and alone.

    python -m tests.again [ARGUMENTS OF PYTEST]

Hundreds of daemons with deadlines of milliseconds share two cores with each other, and
often the machine with strangers.  A test that fails then may have found a defect, or a
machine that stood still.  So `make test` gives a few failures a second hearing without
neighbours.  The first failure stays in the output and is named again at the end: one that
comes back, in whatever run, is a defect of the test if it is none of hak2k.

Not heard again: more than MOST of them, and a run that was broken off.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

MOST = 10
FAILED = "hak2k/failed"  # in pytest's cache: written by tests/conftest.py
_CACHE = Path(".pytest_cache/v") / FAILED


def verdict(failed: Sequence[str], run: Callable[[Sequence[str]], int]) -> tuple[int, str]:
    """The exit status of the whole, and what to say of it."""
    if not failed:
        return 1, "again: no test failed, the run did"
    if len(failed) > MOST:
        return 1, f"again: {len(failed)} failures, above {MOST}: they stand"
    code = run(failed)
    names = "".join(f"\n  {name}" for name in failed)
    if code:
        return code, "again: failed beside others, and not all of them pass alone:" + names
    return 0, "again: FAILED BESIDE OTHERS, passed alone; the first failure is above:" + names


def main(arguments: Sequence[str]) -> int:
    failed = json.loads(_CACHE.read_text()) if _CACHE.exists() else []

    def run(names: Sequence[str]) -> int:
        print(f"again: {len(names)} once more, alone", flush=True)
        return subprocess.run([sys.executable, "-m", "pytest", *arguments, *names]).returncode

    code, text = verdict(failed, run)
    print(text, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
