"""From samples to a state: hysteresis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hak2k.health.judge import Judged, Rule, State, judge, unknown
from hak2k.health.kind import Sample, Seen, absent, bad, good

FAILED, OK, ABSENT = State.FAILED, State.OK, State.ABSENT


def states(rule: Rule, samples: list[Sample]) -> list[State]:
    """The state after each sample."""
    now, out = unknown(0.0), []
    for at, sample in enumerate(samples, 1):
        now = judge(rule, now, sample, float(at))
        out.append(now.state)
    return out


def letters(text: str) -> list[Sample]:
    return [{"g": good("fine"), "b": bad("broken"), "-": absent("gone")}[c] for c in text]


@pytest.mark.parametrize(
    ("samples", "after"),
    [
        ("b", "F"),  # the first one decides
        ("gb", "OO"),
        ("gbb", "OOF"),
        ("gbgbgb", "OOOOOO"),
        ("gbbgg", "OOFFF"),
        ("gbbggg", "OOFFFO"),
        ("gbbggbggg", "OOFFFFFFO"),
        ("g-g", "OAO"),
        ("gbb--", "OOFFF"),  # not by unplugging it for a moment
        ("gbb---", "OOFFFA"),
        ("-bb", "AAF"),
    ],
)
def test_streaks(samples: str, after: str) -> None:
    names = {OK: "O", FAILED: "F", ABSENT: "A"}
    got = states(Rule(fail_after=2, recover_after=3), letters(samples))
    assert "".join(names[s] for s in got) == after


def test_what_says_little_decides_nothing_alone() -> None:
    got = states(Rule(fail_after=2, prompt=False), letters("bb"))
    assert got == [State.UNKNOWN, FAILED]


def test_required() -> None:
    rule = Rule(fail_after=2, recover_after=1, required=True)
    assert states(rule, letters("g--g")) == [OK, OK, FAILED, OK]
    now = judge(rule, unknown(0.0), absent("no disk sdb"), 1.0)
    assert now.reason == "no disk sdb, but it is required"


def measured(*values: float) -> list[Sample]:
    return [good(f"{v}", v) for v in values]


def test_a_level_with_a_band() -> None:
    rule = Rule(fail_after=1, recover_after=1, fail=95, recover=85, unit="%")
    got = states(rule, measured(94.9, 95, 94, 86, 85, 90))
    assert got == [OK, FAILED, FAILED, FAILED, OK, OK]
    assert judge(rule, unknown(0), good("98 %", 98.0), 1).reason == "98 %; bad: 95 or more %"


def test_one_limit_for_both_ways() -> None:
    rule = Rule(fail_after=1, recover_after=1, fail=50)
    assert states(rule, measured(49, 50, 50, 49)) == [OK, FAILED, FAILED, OK]


def test_low_values_are_bad() -> None:
    rule = Rule(fail_after=1, recover_after=1, fail=500, recover=800, falls=True)
    assert states(rule, measured(500, 499, 700, 800)) == [OK, FAILED, FAILED, OK]


SAMPLES = st.lists(
    st.one_of(
        st.sampled_from([bad("x"), absent("x"), good()]),
        st.floats(0, 100).map(lambda v: good("m", v)),
    ),
    max_size=60,
)
RULES = st.builds(
    Rule,
    fail_after=st.integers(1, 5),
    recover_after=st.integers(1, 5),
    fail=st.just(60.0),
    recover=st.just(40.0),
    required=st.booleans(),
)


@given(RULES, SAMPLES)
def test_it_never_flaps(rule: Rule, samples: list[Sample]) -> None:
    """Into failure and out of it only after as many samples as the rule says, each of
    which said so."""
    now, since = unknown(0.0), 0
    for at, sample in enumerate(samples, 1):
        before: Judged = now
        now = judge(rule, before, sample, float(at))
        assert now.checked == at
        if (now.state is FAILED) is not (before.state is FAILED):
            first = before.state is State.UNKNOWN
            needed = rule.fail_after if now.state is FAILED else rule.recover_after
            assert first or at - since >= needed
            assert now.since == at
            last = samples[at - needed : at] if not first else [sample]
            if now.state is FAILED:
                assert not any(s.seen is Seen.GOOD and s.value is None for s in last)
                assert not any(s.value is not None and s.value < 60 for s in last)
            else:
                assert not any(s.seen is Seen.BAD or (s.value or 0) > 40 for s in last)
            since = at
        if now.state is before.state:
            assert now.since == before.since


@given(RULES, st.integers(1, 30))
def test_a_value_in_the_band_changes_nothing(rule: Rule, count: int) -> None:
    for start in (OK, FAILED):
        now = Judged(start, 0.0)
        for at in range(count):
            now = judge(rule, now, good("m", 50.0), float(at))
        assert now.state is start
