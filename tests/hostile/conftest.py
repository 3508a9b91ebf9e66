"""Fixtures of the tests that do not wish the engine well: they need root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hak2k.lab import Lab, privileged

# So that its assertions say what they found; before it is imported.
pytest.register_assert_rewrite("tests.hostile.bench")

from tests.hostile.bench import Bench  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not privileged():
        for item in items:
            if "lab" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="needs CAP_NET_ADMIN and CAP_SYS_ADMIN"))


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def lab(laboratory: Lab) -> Lab:
    """One for all tests of a module, with empty tables; engines are made anew."""
    for node in laboratory.fw:
        node.ct.flush()
    return laboratory


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    """A passive engine that answers, in a session with a fake peer."""
    made = Bench(lab)
    try:
        made.connect()
        made.passivate()
        yield made
    finally:
        made.close()


@pytest.fixture
def active(lab: Lab) -> Iterator[Bench]:
    """An active engine in a session with a fake peer that is passive."""
    lab.solo(lab.fw2)
    made = Bench(lab)
    try:
        made.connect()
        made.side.activate()
        yield made
    finally:
        made.close()


@pytest.fixture
def beginner(lab: Lab) -> Iterator[Bench]:
    """An engine that begins handshakes; there is no session yet."""
    made = Bench(lab, 1)
    try:
        yield made
    finally:
        made.close()
