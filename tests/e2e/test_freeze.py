"""A ruleset is reloaded: nobody swaps for a preference meanwhile, and all else goes on."""

from __future__ import annotations

import json

import pytest

from hak2k.errors import HakError
from hak2k.lab import Node, until
from tests.e2e.duo import Duo


def state(duo: Duo, fw: Node) -> str:
    return str(duo.ask(fw, "info")["local"]["state"])


def quality(duo: Duo, fw: Node) -> int:
    return int(duo.ask(fw, "info")["local"]["quality"])


@pytest.mark.parametrize("where", ["active", "passive"])
def test_a_worse_active_stays_while_frozen(duo: Duo, where: str) -> None:
    active, passive = duo.active, duo.passive
    node = active if where == "active" else passive
    port = f"{active.name}-wan"
    answer = duo.ask(node, "freeze", **{"for": 20})
    assert answer["frozen"] is True
    assert answer["seconds"] == 20
    assert answer["until"] == duo.ask(node, "info")["local"]["frozen_until"]
    assert state(duo, node) == "frozen"
    other = duo.lab.other(node)
    until(lambda: duo.ask(other, "info")["peer"]["state"] == "frozen", 2)
    after = duo.position(active)
    duo.lab.switch.down(port)
    try:
        until(lambda: quality(duo, active) == 50, 5)
        # Longer than any hold-down: the election has looked again and again.
        beats = duo.ask(active, "stats")["heartbeats.sent"]
        until(lambda: duo.ask(active, "stats")["heartbeats.sent"] > beats + 80, 10)
        assert duo.active is active
        assert not [i for i in duo.ids(active, after) if i.startswith(("role.", "handover."))]
        assert duo.ask(node, "resume") == {"frozen": False, "was_frozen": True}
        duo.wait_mode(passive, "active", 5.0)
    finally:
        duo.lab.switch.up(port)
    until(lambda: quality(duo, active) == 100, 5)
    duo.ready()
    duo.equal()
    assert duo.ask(node, "resume") == {"frozen": False, "was_frozen": False}


def test_the_standby_takes_over_from_a_dead_one_though_frozen(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    for fw in duo.lab.fw:
        duo.ask(fw, "freeze")
    duo.lab.crash(active)
    duo.wait_mode(passive, "active", 3.0)
    duo.progress()
    duo.lab.revive(active)
    duo.lab.start(active.name)
    duo.ask(passive, "resume")
    duo.ready()
    duo.equal()


def test_it_ends_by_itself(duo: Duo) -> None:
    fw = duo.active
    after = duo.position(fw)
    duo.ask(fw, "freeze", **{"for": 0.3})
    duo.wait_event(fw, "freeze.set", after)
    duo.wait_event(fw, "freeze.end", after)
    assert state(duo, fw) == "running"
    assert duo.ask(fw, "info")["local"]["frozen_until"] is None


def test_not_for_longer_than_configured(duo: Duo) -> None:
    fw = duo.active
    for seconds in (31, 0, -1):
        with pytest.raises(HakError) as refused:
            duo.ask(fw, "freeze", **{"for": seconds})
        assert "freeze_max_s" in str(refused.value) or "0 to 86400" in str(refused.value)
    assert state(duo, fw) == "running"


def test_a_ruleset_is_loaded_frozen(duo: Duo) -> None:
    fw = duo.active
    after = duo.position(fw)
    done = duo.lab.daemons.command(fw, "freeze", "--", "nft", "-j", "list", "tables")
    assert done.returncode == 0
    assert "hak2k" in json.dumps(json.loads(done.stdout))
    assert duo.ids(fw, after) == ["freeze.set", "freeze.end"]
