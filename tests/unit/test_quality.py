"""The quality factor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hak2k.quality import MAX_WEIGHT, quality


def test_the_example_of_the_note() -> None:
    assert quality({"out": 100, "in": 100, "dmz2": 75}, {"out", "dmz2"}) == 63


def test_without_weights_nothing_is_wrong() -> None:
    assert quality({}, set()) == 100
    assert quality({"lan": 0}, set()) == 100


def test_an_interface_without_weight_does_not_count() -> None:
    assert quality({"lan": 100, "dmz": 0}, {"lan"}) == 100
    assert quality({"lan": 100, "dmz": 0}, {"dmz"}) == 0


WEIGHTS = st.dictionaries(st.text(max_size=4), st.integers(0, MAX_WEIGHT), max_size=6)


@given(WEIGHTS, st.sets(st.text(max_size=4)))
def test_limits(weights: dict[str, int], working: set[str]) -> None:
    value = quality(weights, working)
    assert 0 <= value <= 100
    # 100 means that nothing is wrong: one interface of 9999 already shows.
    lost = any(w > 0 and name not in working for name, w in weights.items())
    assert (value == 100) is not lost
