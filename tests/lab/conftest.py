"""Fixtures for the tests of the lab: they need root (or user namespaces)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hak2k.lab import Lab, failure_report, privileged


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not privileged():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs CAP_NET_ADMIN and CAP_SYS_ADMIN"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and (logs := failure_report()):
        report.sections.append(("daemon logs", logs))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Both firewalls, only the first of which forwards."""
    with Lab() as made:
        made.solo(made.fw1)
        yield made
