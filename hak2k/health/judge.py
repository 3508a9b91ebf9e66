"""From samples to a state, with hysteresis.  Pure.

    unknown ──good──► ok ──fail_after bad ones in a row──► failed
                      ▲                                       │
                      └────recover_after good ones in a row───┘

Where something is measured, a value between `recover` and `fail` leaves things as
they are: it confirms a failed component and does not accuse a working one.  What is
absent costs nothing and is not good either; only if it is required, it is bad.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from hak2k.health.kind import Sample, Seen


class State(enum.StrEnum):
    UNKNOWN = "unknown"
    """Not sampled yet; costs nothing."""
    OK = "ok"
    FAILED = "failed"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Rule:
    """How a component is judged."""

    fail_after: int = 2
    recover_after: int = 3
    fail: float | None = None
    """The value from which it is bad; None: samples say so themselves."""
    recover: float | None = None
    """The value from which it is good again."""
    falls: bool = False
    """Low values are bad."""
    required: bool = False
    prompt: bool = True
    """The first sample of all decides alone."""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is thought of a component, and since when (of the caller's clock)."""

    state: State
    since: float
    reason: str = ""
    value: float | None = None
    streak: int = 0
    """Samples in a row that contradict the state."""
    checked: float | None = None
    """When it was sampled last."""


def unknown(now: float, reason: str = "") -> Judged:
    return Judged(State.UNKNOWN, now, reason)


def judge(rule: Rule, was: Judged, sample: Sample, now: float) -> Judged:
    """The state after one more sample."""
    wrong, reason = _wrong(rule, was, sample)
    target = State.ABSENT if sample.seen is Seen.ABSENT else State.OK
    next_ = replace(was, value=sample.value, checked=now)
    if was.state is State.FAILED:
        if wrong:
            return replace(next_, reason=reason, streak=0)
        if was.streak + 1 < rule.recover_after:
            return replace(next_, streak=was.streak + 1)
    elif wrong:
        needed = 1 if rule.prompt and was.state is State.UNKNOWN else rule.fail_after
        if was.streak + 1 < needed:
            return replace(next_, streak=was.streak + 1)
        target = State.FAILED
    since = was.since if target is was.state else now
    return replace(next_, state=target, since=since, reason=reason, streak=0)


def _wrong(rule: Rule, was: Judged, sample: Sample) -> tuple[bool, str]:
    """Whether a sample speaks against the component, and the reason to show."""
    if sample.seen is Seen.ABSENT:
        if rule.required:
            return True, f"{sample.reason}, but it is required"
        return False, sample.reason
    if sample.seen is Seen.BAD or sample.value is None or rule.fail is None:
        return sample.seen is Seen.BAD, sample.reason
    recover = rule.fail if rule.recover is None else rule.recover
    failing = was.state is State.FAILED
    if rule.falls:
        wrong = sample.value < (recover if failing else rule.fail)
        limit = f"below {rule.fail:g}"
    else:
        # At the limit `recover` itself it is good again, even if both are the same.
        wrong = sample.value >= rule.fail or (failing and sample.value > recover)
        limit = f"{rule.fail:g} or more"
    if wrong:
        return True, f"{sample.reason}; bad: {limit} {rule.unit}".rstrip()
    return False, sample.reason
