"""Fixtures for the tests of whole daemons."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from hak2k.lab import ensure_privileges, failure_report
from tests.e2e.duo import Duo
from tests.e2e.helped import Sockets

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, object]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        if logs := failure_report():
            report.sections.append(("daemon logs", logs))
    return report


@pytest.fixture(scope="session", autouse=True)
def privileges() -> None:
    """An error, not a skip: a run that tested nothing must not look like one that did."""
    ensure_privileges()


class Shelf:
    """Keeps a pair for the next test, unless a test failed on it."""

    def __init__(self, options: dict[str, object]) -> None:
        self._options = options
        self._duo: Duo | None = None

    def take(self) -> Duo:
        if self._duo is None:
            self._duo = Duo(**self._options)  # type: ignore[arg-type]
        else:
            self._duo.heal()
        return self._duo

    def drop(self) -> None:
        if self._duo is not None:
            self._duo.close()
            self._duo = None


@pytest.fixture(scope="module")
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    kept = Shelf(getattr(request.module, "OPTIONS", {}))
    yield kept
    kept.drop()


@pytest.fixture
def duo(shelf: Shelf, request: pytest.FixtureRequest) -> Iterator[Duo]:
    """One active, one passive and ready, traffic through them; the module's own.

    ``OPTIONS`` in a test module are those of ``Duo``.
    """
    try:
        yield shelf.take()
    except BaseException:
        shelf.drop()
        raise
    if request.node.stash.get(FAILED, False):
        shelf.drop()


@pytest.fixture
def sockets(duo: Duo) -> Iterator[Sockets]:
    with Sockets(duo.lab) as made:
        yield made
