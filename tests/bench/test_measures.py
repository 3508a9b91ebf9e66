"""What is measured in process, whole tables, and what is told of stored figures."""

from __future__ import annotations

from typing import Any

import pytest

from bench import bulk, conntrackd, latency, micro, peer, report, rig, saturate
from bench.report import Target


@pytest.mark.usefixtures("programs")
def test_every_step_of_the_core_is_measured() -> None:
    found = micro.measure(2)
    assert set(found) == set(micro.STEPS)
    # More than a call that does nothing, less than a system call that waits.
    assert all(1 < own["min"] < 1e6 for own in found.values()), found


@pytest.mark.usefixtures("programs")
def test_a_table_is_copied_and_a_node_rejoins() -> None:
    size = 3000
    with rig.table_size(2 * size) as room:
        assert room
        found = bulk.measure(size, 1)
    assert found["bytes"] > 10 * size
    assert 0 < found["rejoin_bytes"] < found["bytes"]
    assert all(ns > 0 for ns in found["floors"].values())
    assert found["forwarding"]["during"]["n"] > 0
    assert found["forwarding"]["lost"] == 0


def test_the_peer_copies_and_commits_a_table() -> None:
    assert conntrackd.available(), "make peer"
    found = peer.bulk("ftfw", 2000)
    assert found is not None
    assert found["committed"] >= 2000
    assert found["sync_ns"] > 0
    assert min(found["rss"]) > 1 << 20


@pytest.mark.usefixtures("programs")
def test_latency_is_that_of_both_kernels() -> None:
    found = latency.measure("floor, woken", 500, 0.2)
    assert found["missing"] == 0
    assert found["stats"]["n"] == 100
    assert found["stats"]["min"] > 1000


@pytest.mark.usefixtures("programs")
def test_less_is_offered_until_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def attempt(name: str, lives: int, rate: int, kind: None) -> dict[str, Any]:
        asked.append(rate)
        return {"rate": rate * 0.5, "offered": rate * 0.8, "lost": rate > 50, "different": ""}

    monkeypatch.setattr(saturate, "attempt", attempt)
    found = saturate.reach("any", 10, 100)
    assert asked == [100, 50]
    assert not found[-1]["lost"]


@pytest.mark.usefixtures("programs")
def test_a_saturated_machine_replicates() -> None:
    found = saturate.attempt("floor", 2000, saturate.ENDLESS)
    assert not found["lost"]
    assert not found["different"]
    assert 0 < found["rate"] <= found["offered"]


def test_goals_are_told_of_stored_figures() -> None:
    targets = [
        vars(Target("speed", 4.0, 3, "x", True, "theirs 1")) | {"met": True},
        vars(Target("cost", 4.0, 3, "x")) | {"met": False},
    ]
    table = report.goals([{"name": "any", "quick": False, "targets": targets}])
    assert [(row[0], row[2], row[4]) for row in table.rows] == [
        ("speed", ">= 3", "ok"), ("cost", "<= 3", "MISSED"),
    ]  # fmt: skip
    assert table.notes == ["speed: theirs 1."]
