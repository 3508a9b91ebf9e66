"""docs/wire.md says what the nodes do: its example, and every reason to refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hak2k import _core
from tests.hostile import example

HERE = Path(__file__).resolve().parent
TEXT = example.DOCUMENT.read_text()
DROPS = [name for name in _core.STAT_NAMES if name.startswith("drop.")]


def exercised() -> set[str]:
    """Counters that some test says it moves: by name, or as an argument of expect()."""
    found: set[str] = set()
    for path in HERE.glob("test_*.py"):
        if path == Path(__file__).resolve():
            continue
        source = path.read_text()
        found |= set(re.findall(r'"(drop\.\w+)"', source))
        for arguments in re.findall(r"\bexpect\(([^()]*(?:\([^()]*\)[^()]*)*)\)", source):
            found |= {f"drop.{name}" for name in re.findall(r"\b(\w+)=", arguments)}
    return found


def test_there_are_counters() -> None:
    assert len(DROPS) > 10


@pytest.mark.parametrize("name", DROPS)
def test_counter_is_described(name: str) -> None:
    rows = re.findall(rf"^\| `{re.escape(name)}` \| (.+) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 1
    assert len(rows[0]) > 15


def test_no_counter_is_made_up() -> None:
    assert set(re.findall(r"`(drop\.\w+)`", TEXT)) == set(DROPS)


@pytest.mark.parametrize("name", DROPS)
def test_counter_is_exercised(name: str) -> None:
    assert name in exercised()


@pytest.mark.filterwarnings("ignore:One of ephemeral keypairs is already set")
def test_example() -> None:
    """If this fails after a wanted change: python -m tests.hostile.example"""
    block = example.BLOCK.search(TEXT)
    assert block is not None
    assert block.group(1) == example.text()


def test_limits() -> None:
    """Numbers of the text that are names in the code."""
    root = example.DOCUMENT.parents[1] / "csrc"
    headers = "".join(path.read_text() for path in sorted(root.glob("*.h")))
    for name, value in {
        "HAK_WIRE_VERSION": 1,
        "HAK_PORT": 44242,
        "HAK_HDR_LEN": 16,
        "HAK_TAG_LEN": 16,
        "HAK_DGRAM_MAX": 1432,
        "HAK_WINDOW": 4096,
        "HAK_RING": 8192,
        "HAK_REPLAY_BITS": 1984 + 64,
        "HAK_HELLO_PER_S": 50,
        "HAK_NACK_MAX": 64,
        "HAK_NAME_MAX": 64,
    }.items():
        assert re.search(rf"\b{name} = {value}\b", headers), name
