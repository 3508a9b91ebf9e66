"""The tables [[health]]: defaults by kind, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hak2k.config import load_config
from hak2k.errors import ConfigError
from hak2k.health.table import KINDS
from hak2k.settings import HealthConfig, changed, reloadable
from tests.unit.samples import GOOD, write

NEEDED = {"gateway": 'address = "10.72.0.254"', "script": 'command = ["/bin/true"]'}

AFTER = len(GOOD.splitlines())  # lines before what a test adds


def health(directory: Path, *lines: str) -> HealthConfig:
    text = GOOD + "\n[[health]]\n" + "\n".join(lines) + "\n"
    return load_config(write(directory, text)).health[0]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_alone_is_enough(tmp_path: Path, kind: str) -> None:
    got = health(tmp_path, f'kind = "{kind}"', NEEDED.get(kind, ""))
    assert (got.name, got.required) == (kind, False)
    known = KINDS[kind]
    # What the traffic costs would move with the role, and the role with it.
    assert got.weight == known.weight == (0 if kind in ("cpu", "memory") else 100)
    assert (got.interval_s, got.timeout_s) == (known.interval_s, known.timeout_s)
    assert (got.fail_after, got.recover_after) == (known.fail_after, known.recover_after)
    if known.level is not None:
        assert (got.fail, got.recover) == (known.level.fail, known.level.recover)


def test_every_key(tmp_path: Path) -> None:
    got = health(
        *(tmp_path, 'kind = "conntrack"', 'name = "fill"', "weight = 7", "interval_s = 2"),
        *("timeout_s = 0.5", "fail_after = 4", "recover_after = 5", "fail = 80"),
        *("recover = 70.5", "required = true"),
    )
    assert got == HealthConfig("fill", "conntrack", 7, 2.0, 0.5, 4, 5, 80, 70.5, True)


def test_a_short_interval_shortens_the_default_deadline(tmp_path: Path) -> None:
    assert health(tmp_path, 'kind = "tpm"', "interval_s = 3").timeout_s == 3


def test_a_limit_of_one_s_own_has_no_other_s_way_back(tmp_path: Path) -> None:
    got = health(tmp_path, 'kind = "conntrack"', "fail = 50")
    assert (got.fail, got.recover) == (50, None)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["weight = 1"], "health[0].kind: is missing; add it, a string"),
        (['kind = "disc"'], "health[0].kind: 'disc' is not known; use one of conntrack, cpu, "),
        (['kind = "script"'], "health[0].command: is missing; add it, a list"),
        (['kind = "script"', "command = []"], "health[0].command: is empty; use a list"),
        (['kind = "script"', 'command = ["check"]'], "health[0].command: 'check' is not an abs"),
        (['kind = "script"', "command = [1]"], "health[0].command[0]: 1 is not allowed; use"),
        (['kind = "gateway"', 'address = "gw"'], "health[0].address: 'gw' is not an IPv4 or"),
        (['kind = "fan"', 'path = "/"'], "health[0].path: is not a known key"),
        (['kind = "tpm"', "fail = 1"], "health[0].fail: is not a known key"),
        (['kind = "disk"', 'path = "var"'], "health[0].path: 'var' is not allowed; use an abs"),
        (['kind = "cpu"', "fail = 101"], "health[0].fail: 101 is out of range; use 0.1 to 100 %"),
        (
            ['kind = "cpu"', "recover = 95"],
            f"contradicts health[0].fail (line {AFTER + 2}): 95 % lies",
        ),
        (
            ['kind = "fan"', "fail = 9", "recover = 8"],
            f"contradicts health[0].fail (line {AFTER + 4}): 8 ",
        ),
        (['kind = "disk"', "recover = 8"], "health[0].recover: says nothing without"),
        (['kind = "cpu"', "interval_s = 0.5"], "health[0].interval_s: 0.5 is out of range"),
        (
            ['kind = "cpu"', "interval_s = 2", "timeout_s = 4"],
            f"health[0].timeout_s: contradicts health[0].interval_s (line {AFTER + 4}): 4 s",
        ),
        (['kind = "cpu"', "[[health]]", 'kind = "cpu"'], "both are 'cpu'; each must be its own"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as e:
        health(tmp_path, *lines)
    assert problem in str(e.value)
    assert len(e.value.problems) == 1


def test_everything_about_it_can_be_reloaded(tmp_path: Path) -> None:
    one = GOOD + '[[health]]\nkind = "disk"\npath = "/var"\n'
    texts = [
        GOOD,
        one,
        one.replace("/var", "/tmp"),
        one.replace("disk", "cpu").replace("path", "#"),
    ]
    a, b, c, d = (load_config(write(tmp_path, text)) for text in texts)
    keys = [changed(a, b), changed(b, c), changed(b, d)]
    assert keys[0] == [("health",)]
    assert keys[1] == [("health", 0, "options")]
    assert all(reloadable(k) for found in keys for k in found)
