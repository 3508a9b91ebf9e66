"""Fixtures for the tests of replication: two engines, two kernels' tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hak2k.lab import Lab
from tests.pair import Pair, pair


@pytest.fixture(scope="module")
def shared() -> Iterator[Pair]:
    """A pair for a whole module: its tests must not change roles or links."""
    with Lab() as lab, pair(lab) as two:
        yield two


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def two(lab: Lab) -> Iterator[Pair]:
    """fw1 active, fw2 passive and equal."""
    with pair(lab) as both:
        yield both


@pytest.fixture
def by_netlink(lab: Lab) -> Iterator[Pair]:
    """The same, without the probe."""
    with pair(lab, netlink=True) as both:
        yield both
