"""Interfaces of a node that steps down go down and up, and lose nothing by it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hak2k.lab import Node, until
from hak2k.lab.topology import LAN6, WAN6
from tests.e2e.duo import Duo


@pytest.fixture
def bouncing() -> Iterator[Duo]:
    duo = Duo(common={"swap": {"bounce_interfaces": True, "garp_count": 5}})
    try:
        yield duo
    finally:
        duo.close()


def routes(fw: Node) -> list[str]:
    lines = (fw.run("ip", f, "route", "show", "table", "all").stdout for f in ("-4", "-6"))
    return sorted(line.strip() for text in lines for line in text.splitlines() if " via " in line)


def test_bounced_and_whole(bouncing: Duo) -> None:
    duo = bouncing
    for fw in duo.lab.fw:
        fw.rtnl.add_route("default4", "10.72.0.10", "wan")
        fw.rtnl.add_route("default6", "fd72::10", "wan")
        fw.run("ip", "route", "add", "10.99.0.0/16", "via", "10.71.0.10", "table", "77")
        fw.run("ip", "-6", "route", "add", "fd99::/64", "via", "fd71::10", "metric", "5")
    before = routes(duo.active)
    assert len(before) == 4
    for number in range(2):
        active, passive = duo.active, duo.passive
        after = {fw: duo.position(fw) for fw in duo.lab.fw}
        duo.ask(active, "passive")
        duo.wait_event(active, "interface.bounced", after[active])
        duo.wait_event(active, "interface.down", after[active])
        duo.wait_event(active, "interface.up", after[active])
        assert "interface.down" not in duo.ids(passive, after[passive])
        assert f"{LAN6}/64" in active.rtnl.addresses("lan")
        assert f"{WAN6}/64" in active.rtnl.addresses("wan")
        assert routes(active) == before
        assert "address.failed" not in duo.ids(active)
        duo.ask(active, "reset")
        duo.unharmed(passive)
        duo.ready()
        duo.equal()
        if number == 0:
            assert duo.traffic is not None
            duo.traffic.open("masq", "tcp", 3)
            duo.traffic.wait_established()
            duo.equal()
            duo.mark()


@pytest.mark.soak
def test_promoted_while_its_interfaces_are_down(bouncing: Duo) -> None:
    """The other one dies then: up at once, and announced again."""
    duo = bouncing
    # What the first active node masqueraded itself ends with its interface, and comes
    # back with the comparison; copies do not end.
    first = duo.active
    after = duo.position(first)
    duo.ask(first, "passive")
    duo.wait_event(first, "interface.bounced", after)
    duo.ask(first, "reset")
    duo.ready()
    duo.equal()
    duo.mark()
    active, passive = duo.active, duo.passive
    after = duo.position(active)
    duo.ask(active, "passive")
    until(lambda: not active.links()["wan"].up, 2, "down", interval=0.002)
    crash = duo.lab.crash(passive)
    seen = duo.wait_mode(active, "active", 2.0)
    until(lambda: active.links()["wan"].up, 0.5, "up again")
    assert seen - crash.at < 0.8
    duo.wait_event(active, "interface.bounced", after)
    assert f"{WAN6}/64" in active.rtnl.addresses("wan")
    duo.unharmed()
