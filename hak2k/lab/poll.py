"""Waiting for something that can be observed, with a clear error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# All deadlines are multiplied by it.  They end a wait in vain, and say nothing about how
# long anything should take: what has many busy neighbours sets it higher.
patience = 1.0


class Timeout(AssertionError):
    """A condition did not come true in time; a failed assertion in a test."""


def until(
    predicate: Callable[[], T],
    timeout: float = 5.0,
    what: str = "",
    *,
    interval: float = 0.01,
    detail: Callable[[], object] | None = None,
) -> T:
    """Poll ``predicate`` until it returns something true, and return that.

    Args:
        predicate: called at once, then every ``interval`` seconds, and one last
            time when the time is over.
        timeout: seconds, of which there are ``patience`` times as many.
        what: what is being waited for, for the error message.
        interval: seconds between two calls.
        detail: called upon a time-out; its result goes into the message.

    Raises:
        Timeout: with ``what``, the last value and ``detail()``.
    """
    timeout *= patience
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        value = predicate()
        if value:
            return value
        if late:
            name = what or getattr(predicate, "__name__", "condition")
            message = f"not within {timeout:g} s: {name} (last value: {value!r})"
            if detail is not None:
                message += f"\n{detail()}"
            raise Timeout(message)
        time.sleep(interval)
