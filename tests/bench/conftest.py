"""Fixtures for the tests of the measurements."""

from __future__ import annotations

import pytest

from bench import tools
from hak2k.lab import privileged


@pytest.fixture(scope="module")
def programs() -> None:
    """What bench/c has is compiled."""
    if not privileged():
        pytest.skip("needs root")
    tools.build()
