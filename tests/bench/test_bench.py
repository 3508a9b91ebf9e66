"""The measurements: that they still run, and the one figure that no noise can move."""

from __future__ import annotations

import math
import sys

import pytest

from bench import __main__, handover, idle, rig, size, tools, variants
from bench.report import Options, Table, percentile, render, text
from hak2k.lab import Lab, until


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.5) == 7
    assert math.isnan(percentile([], 0.5))


def test_three_digits_are_shown() -> None:
    assert [text(v) for v in (0.125, 9.996, 12.34, 1234.5, 1000)] == [
        "0.12", "10.0", "12.3", "1,234", "1,000",
    ]  # fmt: skip


def test_a_table_fits_a_terminal() -> None:
    row = ("twelve thousand", *[1234567.0] * 6)
    table = Table("title", [str(n) for n in range(7)], [row], ["word " * 40])
    assert all(len(line) <= 80 for line in render(table).splitlines())


@pytest.mark.usefixtures("programs")
def test_what_is_stored_is_not_told_in_place_of_a_measurement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "cost", "goals"])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert end.value.code == 2
    assert "goals: of what was measured before; give it alone" in capsys.readouterr().err


def test_floor_programs_are_not_refused() -> None:
    with Lab() as lab:
        done = tools.run(
            lab.fw1, "entries", "-m", "lives", "-n", 4096, "-r", 20000, "-f", 4096
        )  # fmt: skip
        assert done["errors"] == 0
        assert lab.fw1.conntrack_count() == 4096


@pytest.mark.usefixtures("programs")
def test_the_floor_of_idling_hears_the_other_one() -> None:
    with Lab() as lab:
        pair = [idle.beat(lab.fw1), idle.beat(lab.fw2, "-a")]
        for each in pair:
            until(lambda: variants.traffic(each.pid)["packets"] >= 8, 20, "datagrams")  # noqa: B023
        counts = [idle.told(each) for each in pair]
    assert all(
        count["received"] <= other["sent"]
        for count, other in zip(counts, counts[::-1], strict=True)
    )


@pytest.mark.usefixtures("programs")
def test_lives_are_tracked_and_replicated() -> None:
    with Lab() as lab:
        rig.prepare(lab)
        with rig.Pair(lab) as pair:
            rig.lives(lab, 200, 2000)
            pair.settled()
            states = {e.tcp.state for e in lab.fw2.conntrack().values() if e.tcp}
            assert states == {"TIME_WAIT"}
            assert len(lab.fw2.conntrack()) == 200


@pytest.mark.usefixtures("programs")
def test_a_life_stays_small() -> None:
    [target] = size.run(Options(quick=True)).targets
    assert target.met, f"{target.value:.1f} bytes"


@pytest.mark.usefixtures("programs")
def test_every_packet_of_a_swap_is_accounted() -> None:
    """Two swaps under mixed traffic."""
    data = handover.measure(2, 2000, 20, 4000)
    kinds = handover.by_kind(data["flows"])
    assert len(data["swaps"]) == 2
    assert len(kinds) == 14
    assert all(row["sent"] - row["lost"] > 100 for row in kinds.values()), kinds
    assert all("armed_ms" in swap for swap in data["swaps"]), data["swaps"]
    assert not any(row["lost"] or row["twice"] or row["repeated"] for row in kinds.values()), kinds
    assert all(one["asked"] > one["lost"] for one in data["fresh"].values())
