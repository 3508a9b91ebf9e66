"""Connections are shared out among sockets, and what one machine needs is worked out."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import pytest

from bench import filters, report, rig, saturate, scaling, shards
from bench.scaling import Load
from hak2k.lab import Lab

LIVES = 300


def _seen(shares: list[bytes], *loads: tuple[object, ...]) -> list[dict[str, Any]]:
    with Lab() as lab:
        rig.prepare(lab)
        lab.solo(lab.fw1)
        with shards.listening(lab, shares, rig.cpus()[1]) as readers:
            for options in loads:
                rig.lives(lab, LIVES, 2000, *options)
            return shards.told(readers)


@pytest.mark.usefixtures("programs")
def test_by_hash_a_connection_is_whole_in_one_share() -> None:
    seen = _seen([filters.by_hash(i, 3) for i in range(3)], ())
    assert sum(s["began"] for s in seen) == LIVES
    # From NEW to TIME_WAIT, whichever way the packets go and whatever NAT makes of them.
    assert all(s["events"] == 6 * s["began"] for s in seen), seen
    assert all(s["began"] > LIVES / 6 for s in seen), seen


@pytest.mark.usefixtures("programs")
def test_by_cpu_a_connection_is_torn() -> None:
    one, other = rig.cpus()
    seen = _seen(
        [filters.by_cpu(i, 2) for i in range(2)],
        ("-a", 0, "-z", 0, "-c", one),
        ("-a", 1, "-c", other),
    )
    expected = [0, 0]
    expected[one % 2] += LIVES
    expected[other % 2] += 5 * LIVES
    assert [s["events"] for s in seen] == expected
    assert seen[one % 2]["began"] == LIVES
    assert len(os.sched_getaffinity(0)) == 1 or seen[other % 2]["began"] == 0


@pytest.mark.usefixtures("programs")
def test_stages_of_two_shards_do_the_work_of_one() -> None:
    one, two = (shards.stages(n, 600) for n in (1, 2))
    for stage in ("capture", "apply"):
        assert len(one[stage]["shares"]) == 1
        assert len(two[stage]["shares"]) == 2
        assert sum(two[stage]["shares"]) == sum(one[stage]["shares"])
        assert min(two[stage]["shares"]) > 600
        assert two[stage]["rate"] > 0


@pytest.mark.usefixtures("programs")
def test_writers_and_listings_run_side_by_side() -> None:
    for nodes in ([0], [0, 0], [0, 1]):
        assert shards.writers(nodes, 2048, lean=True)["rate"] > 0
    assert shards.listings(2, 1000)["cpu"] > 0


@pytest.mark.parametrize("kind", [shards.Floors, shards.Engines])
@pytest.mark.usefixtures("programs")
def test_two_pairs_replicate_all(kind: type[shards.Several]) -> None:
    found = saturate.attempt(kind.name, 1500, 5000, kind)
    assert not found["lost"]
    assert not found["different"]
    assert all(ns > 0 for ns in found["cpu"])


def test_figures_come_from_what_was_measured() -> None:
    stated, measured = scaling.costs({})
    assert not any(measured.values())
    cost = {"off": {"load": 50_000.0}, "hak2k": {"load": 60_000.0, "payload": 80.0}}
    found, measured = scaling.costs(
        {
            "cost": {"rates": {"12000": {"median": cost}, "2000": {"median": {}}}},
            "bulk": {"sizes": {"1000": {}, "20000": {"floors": {"list": 60e6}}}},
        }
    )
    assert found == dataclasses.replace(stated, events=10.0, bytes=80.0, list=3.0)
    assert [name for name, known in measured.items() if known] == ["events", "bytes", "list"]


def test_a_load_is_worked_out_by_hand() -> None:
    costs, _ = scaling.costs({})
    own = dataclasses.replace(
        costs, events=8.0, listener=2.0, capture=5.0, apply=8.0, bytes=140.0,
        list=2.0, insert=4.0, entry=512.0, writer=5.0, writers=4.0,
    )  # fmt: skip
    load = Load(gbit=80, mean=100_000, entries=1_000_000)
    assert load.lives == 100_000
    needs = {name: value for name, value, _ in scaling.needs(load, own, 2)}
    assert needs["mean time in the table"] == 10
    assert needs["active: making events"] == pytest.approx(1.0)
    assert needs["active: capture, all shards"] == pytest.approx(0.5)
    assert needs["HA link, datagrams a second"] == pytest.approx(10_000)
    assert needs["HA link, live"] == pytest.approx((14e6 + 10_000 * scaling.FRAME) * 8 / 1e6)
    assert needs["kernel memory of the table, each node"] == pytest.approx(488.28, abs=0.01)
    # Half of the writer's time is the stream's: 4 s of writing take 8.
    own = dataclasses.replace(own, apply=10.0, writers=5.0)
    assert scaling.join_s(load, own, 5.0) == pytest.approx(8)
    assert math.isinf(scaling.join_s(load, own, 10.0))


def test_shards_move_what_is_theirs_alone() -> None:
    costs, _ = scaling.costs({})
    own = dataclasses.replace(costs, capture=10.0, apply=10.0, writer=6.0, writers=5.0)
    found = {limit.name.split(",")[0]: limit for limit in scaling.limits(Load(), own)}
    assert found["capture thread"].at(1) == pytest.approx(70_000)
    assert found["capture thread"].at(4) == pytest.approx(280_000)
    # One kernel writes 200,000 lives a second, whoever asks.
    assert found["apply thread"].at(4) == pytest.approx(140_000)
    link = found["link of 1 Gbit/s"]
    assert link.at(4) == link.at(1)
    assert scaling.shards_for(Load(gbit=8), own) == 1
    assert scaling.shards_for(Load(gbit=100), own) == 2
    lives = [limit.lives for limit in scaling.limits(Load(), own)]
    assert lives == sorted(lives)


def test_slots_are_dirty_by_chance() -> None:
    assert scaling.dirty(0, 10, 1000) == 0
    assert scaling.dirty(100, 10, 1000) == pytest.approx(1 - 1 / math.e)


def test_the_derivation_fits_a_terminal() -> None:
    for table in scaling.tables({}, Load()):
        assert all(len(line) <= 80 for line in report.render(table).splitlines())
