"""Bonds of a passive node, with the bonding driver; tests/unit/test_bond.py does without."""

from __future__ import annotations

import threading

import pytest

from hak2k import gate
from hak2k.lab import Node, until
from hak2k.netwatch import look
from hak2k.ports import bounce
from tests.netns.conftest import Two

BOND = {
    "802.3ad": ("mode", "802.3ad", "miimon", "50", "lacp_rate", "fast"),
    "active-backup": ("mode", "active-backup", "miimon", "50"),
}


def make(node: Node, mode: str, *addresses: str) -> None:
    done = node.run("ip", "link", "add", "bond0", "type", "bond", *BOND[mode], check=False)
    if done.returncode:
        pytest.skip(f"needs the bonding driver: {done.stderr.strip()}")
    for name in ("lan", "wan"):
        node.down(name)
        node.run("ip", "link", "set", name, "master", "bond0")
    for address in addresses:
        node.run("ip", "address", "add", address, "dev", "bond0", "nodad")


def whole(node: Node) -> bool:
    """Both members carry frames; with LACP, the partner has agreed."""
    seen = node.call(look, ["bond0"])
    members = seen.members["bond0"]
    return seen.links["bond0"].working and len(members) == 2 and all(members.values())


def shown(node: Node) -> str:
    routes = node.run("ip", "route", "show", "dev", "bond0").stdout.replace(" linkdown", "")
    addresses = node.run("ip", "-o", "address", "show", "dev", "bond0", "scope", "global")
    return routes + addresses.stdout


@pytest.mark.parametrize("mode", BOND)
def test_it_is_up_behind_a_closed_gate_and_bounces(two: Two, mode: str) -> None:
    make(two.fw, mode, "10.77.0.1/24", "fd77::1/64")
    make(two.host, mode, "10.77.0.2/24")
    spec = gate.GateSpec(("bond0",), ("lo",), 44242)
    two.fw.call(gate.build, spec)
    two.fw.up("bond0")
    two.host.up("bond0")
    until(lambda: whole(two.fw) and whole(two.host), 30, "aggregates up")
    assert two.fw.ping("10.77.0.2") == 0
    two.fw.run("ip", "route", "add", "10.78.0.0/16", "via", "10.77.0.2")
    before = shown(two.fw)

    states: list[bool] = []
    two.fw.call(
        bounce, ["bond0"], threading.Event(), 0.5, lambda: states.append(two.fw.links()["lan"].up)
    )
    assert states == [False]
    until(lambda: whole(two.fw) and whole(two.host), 30, "aggregates up again")
    assert shown(two.fw) == before

    two.fw.call(gate.build, spec, [1])
    until(lambda: two.fw.ping("10.77.0.2") == 1, 10, "an answer through the open gate")
