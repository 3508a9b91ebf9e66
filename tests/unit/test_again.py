"""A failure is heard a second time, but never lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.again import MOST, verdict


def never(names: Sequence[str]) -> int:
    raise AssertionError(names)


def test_what_passes_alone_is_named() -> None:
    heard: list[Sequence[str]] = []
    code, text = verdict(["a::x", "b::y"], lambda names: heard.append(names) or 0)  # type: ignore[func-returns-value]
    assert (code, heard) == (0, [["a::x", "b::y"]])
    assert text.endswith("\n  a::x\n  b::y")
    assert "FAILED" in text


def test_what_fails_twice_has_failed() -> None:
    assert verdict(["a::x"], lambda names: 1)[0] == 1
    assert verdict(["a::x"], lambda names: 2)[0] == 2


@pytest.mark.parametrize("failed", [[], [f"a::{n}" for n in range(MOST + 1)]])
def test_what_is_not_heard_again(failed: list[str]) -> None:
    assert verdict(failed, never)[0] == 1


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_pytest_says_what_failed(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Failures and errors of this run, and of no earlier one."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(
        "import os, pytest\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 'GOOD' in os.environ\n"
        "def test_error(broken): pass\n"
    )
    tree = Path(__file__).parents[2]
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def failed(**environment: str) -> str:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", *workers, "tests"],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree), **environment},
            capture_output=True,
        )
        return (tmp_path / ".pytest_cache/v/hak2k/failed").read_text()

    name = "tests/test_some.py::test_"
    assert failed().split('"')[1::2] == [f"{name}bad", f"{name}error"]
    assert failed(GOOD="1").split('"')[1::2] == [f"{name}error"]
