"""Whatever happens to a pair: one node is active, the tables are equal, every flow lives."""

from __future__ import annotations

import pytest

from hak2k.lab import until
from hak2k.lab.disturb import DISTURBANCES, Disturbance, cut_both
from tests.e2e.duo import Churn, Duo, rss

# Loose: what an administrator deletes on the active node is deleted, and a connection
# goes on only where the kernel may pick it up in its middle.
OPTIONS = {"wire": True, "loose": True}


def survives(duo: Duo, what: Disturbance) -> None:
    active, passive = duo.active, duo.passive
    duo.equal()
    duo.mark()
    with Churn(duo.lab) as churn:
        churn.more(10)
        what.do(duo.lab, active, passive)
        duo.ready()
        churn.more(10)
    if what.churns:
        # A connection that begins while nobody is active may have to try again, which
        # TCP does by itself, or its client (Churn).
        assert not churn.failed, churn.failed[:5]
    if what.swaps is not None:
        assert duo.active is (passive if what.swaps else active)
    gates = ["closed", "open"]
    until(lambda: sorted(map(duo.gate, duo.lab.fw)) == gates, 5, "one gate open")
    duo.gates()
    duo.equal(timeout=15)
    duo.progress()
    assert duo.traffic is not None
    assert duo.traffic.lost() == {}
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()
    table = duo.ask(duo.active, "verify")
    assert table["equal"] is True


# test_faults.py looks at these more closely.
ELSEWHERE = ("stopped", "both links", "memory")


def rows() -> list[object]:
    return [
        pytest.param(d, marks=[pytest.mark.soak] if any(w in d.name for w in ELSEWHERE) else [])
        for d in DISTURBANCES
    ]


@pytest.mark.parametrize("what", rows(), ids=str)
def test_nothing_is_lost(duo: Duo, what: Disturbance) -> None:
    survives(duo, what)


@pytest.mark.soak
def test_both_links_cut_for_a_minute(duo: Duo) -> None:
    survives(duo, Disturbance("cut", cut_both(60.0), swaps=None, churns=False))


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_hundred_swaps_under_traffic(duo: Duo) -> None:
    """There and back: nothing grows, neither the tables nor the daemons."""
    assert duo.traffic is not None
    memory: list[list[int]] = []
    entries: list[int] = []
    with Churn(duo.lab) as churn:
        for _ in range(100):
            duo.ask(duo.passive, "active")
            duo.ready()
            for fw in duo.lab.fw:
                duo.ask(fw, "reset")
            daemons = [duo.lab.daemons[fw].process for fw in duo.lab.fw]
            memory.append([rss(daemon.pid) for daemon in daemons if daemon is not None])
            entries.append(len(duo.active.conntrack()))
        assert not churn.failed, churn.failed[:5]
    duo.equal()
    duo.progress()
    assert duo.traffic.lost() == {}
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()
    for number in (0, 1):
        grown = memory[-1][number] - memory[20][number]
        assert grown < 4 << 20, [m[number] >> 10 for m in memory[::10]]
    # A swap gives a whole natural timeout to what saw no packet since the last one, so
    # that of short connections all are still there.  Then they end, on both nodes.
    for fw in duo.lab.fw:
        until(lambda fw=fw: len(fw.conntrack()) <= entries[0] + 10, 60, "the end of the short")
    duo.equal()
