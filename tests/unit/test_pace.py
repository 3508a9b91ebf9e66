"""What a crash may have cost, from what was said before."""

from __future__ import annotations

from hak2k.pace import WINDOWS, Pace


def test_nothing_known_nothing_claimed() -> None:
    pace = Pace()
    assert pace.most(0.2) == 0
    pace.note(1.0, 500)  # a counter's value is no rate
    assert pace.most(0.2) == 0


def test_the_most_of_the_last_seconds() -> None:
    pace = Pace()
    for second, records in enumerate((0, 100, 1100, 1200)):
        pace.note(float(second), records)
    assert pace.most(0.2) == 200
    assert pace.most(0.0001) == 1  # rounded up
    for second in range(WINDOWS):
        pace.note(4.0 + second, 1200 + 10 * second)
    assert pace.most(1.0) == 10  # the rush is over


def test_a_new_counter_and_a_short_window() -> None:
    pace = Pace()
    pace.note(0.0, 1000)
    pace.note(0.01, 1500)  # too short: goes into the next one
    pace.note(1.0, 1500)
    assert pace.most(1.0) == 500
    pace.note(2.0, 0)  # the core was made anew
    assert pace.most(1.0) == 500
