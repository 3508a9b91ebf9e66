"""Every stored input of the fuzz targets, and others made from them by chance, on the
core as it is shipped: optimised, without sanitizers.  `make asan` replays the same
under sanitizers, `make fuzz` looks for new ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import SEED

FUZZ = Path(__file__).resolve().parent.parent / "fuzz"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.c"))
SECONDS = 1


@pytest.mark.parametrize("target", TARGETS)
def test_corpus(target: str) -> None:
    run = subprocess.run(
        ["make", "-C", FUZZ, "release", f"TARGET={target}", f"SECONDS={SECONDS}", f"SEED={SEED}"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    stored = sum(1 for path in (FUZZ / "corpus" / target).iterdir())
    assert f"{stored} inputs replayed" in run.stdout
