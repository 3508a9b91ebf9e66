"""The quality factor, and what explains it."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from hak2k.health.interfaces import Interfaces
from hak2k.health.monitor import explain
from hak2k.netwatch import Snapshot
from hak2k.quality import MAX_WEIGHT, Part, costs, quality
from hak2k.settings import InterfaceConfig
from tests.unit.test_node import link

GONE = Fraction(1)


def test_the_example_of_the_note() -> None:
    """out and dmz2 work, in has no carrier: 63 %, and in costs the difference."""
    config = [
        InterfaceConfig("out", 100),
        InterfaceConfig("in", 100),
        InterfaceConfig("dmz2", 75),
    ]
    links = {"out": link("out", 1), "in": link("in", 2, carrier=False), "dmz2": link("dmz2", 3)}
    components = Interfaces().components(config, Snapshot(links), 7.0)
    assert quality([c.part for c in components]) == 63
    rows = explain(components)
    assert rows[0] == {
        "component": "in",
        "kind": "interface",
        "state": "failed",
        "weight": 100,
        "cost": 36.4,
        "since": 7.0,
        "checked": None,
        "reason": "no carrier",
    }
    assert [r["cost"] for r in rows[1:]] == [0, 0]


def test_since_is_when_it_became_so() -> None:
    config, seen = [InterfaceConfig("lan")], Interfaces()

    def since(at: float, *, carrier: bool) -> float:
        now = Snapshot({"lan": link("lan", 1, carrier=carrier)})
        return seen.components(config, now, at)[0].since

    assert [since(1, carrier=True), since(2, carrier=True)] == [1, 1]
    assert [since(3, carrier=False), since(4, carrier=False)] == [3, 3]
    assert seen.components(config, Snapshot(), 5)[0].reason == "does not exist"


def test_without_weights_nothing_is_wrong() -> None:
    assert quality([]) == 100
    assert quality([Part(0, GONE)]) == 100
    assert costs([Part(0, GONE)]) == [0]


def test_what_has_no_weight_does_not_count() -> None:
    assert quality([Part(100), Part(0, GONE)]) == 100
    assert quality([Part(100, GONE), Part(0)]) == 0


def test_half_of_it() -> None:
    assert quality([Part(100, Fraction(1, 2)), Part(100)]) == 75


PARTS = st.lists(
    st.builds(Part, st.integers(0, MAX_WEIGHT), st.fractions(0, 1, max_denominator=64)),
    max_size=6,
)


@given(PARTS)
def test_limits(parts: list[Part]) -> None:
    value = quality(parts)
    assert 0 <= value <= 100
    # 100 means that nothing is wrong: one interface of 9999 already shows.
    assert (value == 100) is not any(p.weight > 0 and p.lost > 0 for p in parts)
    # The explanation adds up: the points and the number make 100.
    assert abs(value + sum(costs(parts)) - 100) <= 1 + 0.05 * len(parts)
