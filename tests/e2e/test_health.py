"""Two daemons and what they check: the better one takes over, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hak2k.lab import Node, until
from tests.e2e.duo import Duo

QUICK = {"interval_s": 1, "timeout_s": 1, "fail_after": 1, "recover_after": 1}


@pytest.fixture(autouse=True)
def restored(duo: Duo) -> Iterator[None]:
    yield
    duo.configure()
    for fw in duo.lab.fw:
        duo.ask(fw, "reload")


def apply(duo: Duo, fw: Node, check: dict[str, Any]) -> None:
    duo.lab.write_config(fw, health=[check], cluster={"priority": 0})
    assert duo.ask(fw, "reload") == {"changed": ["health"]}


def component(duo: Duo, fw: Node, name: str) -> dict[str, Any]:
    return next(c for c in duo.ask(fw, "info")["health"] if c["component"] == name)


def becomes(duo: Duo, fw: Node, name: str, state: str) -> dict[str, Any]:
    until(lambda: component(duo, fw, name)["state"] == state, 10, f"{name} {state}")
    return component(duo, fw, name)


def quality(duo: Duo, fw: Node) -> int:
    return int(duo.ask(fw, "info")["local"]["quality"])


def test_a_script_that_fails_on_the_active_node(duo: Duo, tmp_path: Path) -> None:
    script = tmp_path / "check"
    script.write_text('#!/bin/sh\n[ -e "$1" ] || exit 0\necho tunnel 3 is down\nexit 1\n')
    script.chmod(0o755)
    broken = {fw.name: tmp_path / f"{fw.name}-broken" for fw in duo.lab.fw}
    for fw in duo.lab.fw:
        command = [str(script), str(broken[fw.name])]
        check = {"kind": "script", "name": "vpn", "command": command, "weight": 50, **QUICK}
        apply(duo, fw, check)
    active, passive = duo.active, duo.passive
    for fw in duo.lab.fw:
        becomes(duo, fw, "vpn", "ok")
    duo.ready()
    duo.mark()

    broken[active.name].touch()
    duo.wait_mode(passive, "active")
    duo.wait_mode(active, "passive")
    found = becomes(duo, active, "vpn", "failed")
    assert found["cost"] == 20
    assert found["reason"] == "tunnel 3 is down (exit status 1)"
    assert quality(duo, active) == 80
    assert quality(duo, passive) == 100
    text = duo.lab.daemons.command(active, "info", "-v").stdout
    lines = text[text.index("quality 80 %:") :].splitlines()
    assert lines[2].split()[:5] == ["vpn", "script", "failed", "50", "20"]
    assert lines[3].strip() == "tunnel 3 is down (exit status 1)"
    assert all(len(line) <= 80 for line in text.splitlines())
    said = duo.ask(active, "why")
    assert said["reason"] == "peer is better: quality 80 to 100"
    duo.ready()
    duo.unharmed(*duo.lab.fw)

    broken[active.name].unlink()
    becomes(duo, active, "vpn", "ok")
    duo.wait_event(active, "health.recovered")
    assert quality(duo, active) == 100
    assert duo.modes() == tuple("passive" if fw is active else "active" for fw in duo.lab.fw)


def test_a_gateway_that_neither_node_reaches(duo: Duo) -> None:
    """The role moves once, for the other node may see more, and then stays."""
    check = {"kind": "gateway", "name": "gw", "address": "10.72.0.99", "weight": 50, **QUICK}
    active, passive = duo.active, duo.passive
    before = {fw.name: duo.position(fw) for fw in duo.lab.fw}
    for fw in (passive, active):
        apply(duo, fw, check)
    assert component(duo, passive, "gw")["reason"] == "not checked while passive"
    duo.wait_mode(passive, "active")
    lost = becomes(duo, passive, "gw", "failed")
    for _ in range(2):  # it goes on asking
        last = lost["checked"]
        until(lambda: component(duo, passive, "gw")["checked"] != last, 10, "another sample")  # noqa: B023
        lost = component(duo, passive, "gw")
    assert component(duo, active, "gw")["state"] == "failed"
    assert duo.active is passive
    roles = [i for fw in duo.lab.fw for i in duo.ids(fw, before[fw.name]) if i == "role.active"]
    assert len(roles) == 1
