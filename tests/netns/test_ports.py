"""Orders to rtnetlink, with real interfaces; what is done at a swap is in tests/e2e."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from hak2k._rtnl import Link, Rtnl
from hak2k.errors import KernelError
from hak2k.ports import bounce, targets
from tests.netns.conftest import Two
from tests.unit.test_node import link


def addresses(two: Two, name: str = "lan") -> list[str]:
    return [a for a in two.fw.rtnl.addresses(name) if not a.startswith("fe80")]


def test_addresses(two: Two) -> None:
    index = two.fw.rtnl.index("lan")
    before = addresses(two)
    wanted = ["10.77.0.1/24", "10.77.0.2/24", "fd77::1/64"]
    with closing(two.fw.call(Rtnl)) as rtnl:
        for a in wanted:
            assert rtnl.add_address(index, ip_interface(a)) is True
            assert rtnl.add_address(index, ip_interface(a)) is False
        assert sorted(addresses(two)) == sorted(before + wanted)
        shown = two.fw.run("ip", "-6", "address", "show", "dev", "lan").stdout
        assert "nodad" in shown[shown.index("fd77::1") :].splitlines()[0]
        # The kernel removes secondary addresses with their primary one; these go
        # before it, and those that are not ours stay.
        two.fw.sysctl("net.ipv4.conf.lan.promote_secondaries=1")
        two.fw.run("ip", "address", "add", "10.77.0.3/24", "dev", "lan")
        unwanted = {(index, ip_address(a.split("/")[0]).packed) for a in wanted}
        assert len(rtnl.remove_addresses(unwanted)) == 3
        assert sorted(addresses(two)) == sorted([*before, "10.77.0.3/24"])
        assert rtnl.remove_addresses(unwanted) == []
        with pytest.raises(KernelError):
            rtnl.add_address(9999, ip_interface("10.77.0.1/24"))


ROUTES = (
    ("-4", "10.81.0.0/16", "via", "10.77.0.9"),
    ("-4", "10.82.0.0/16", "via", "10.81.0.1", "dev", "lan", "onlink", "metric", "7"),
    (
        "-4",
        "10.83.0.0/16",
        "table",
        "83",
        "nexthop",
        "via",
        "10.77.0.8",
        "nexthop",
        "via",
        "10.77.0.9",
    ),
    ("-6", "fd81::/64", "via", "fd77::9", "proto", "static"),
    ("-6", "fd82::/64", "dev", "lan", "metric", "9"),
)


@pytest.mark.parametrize("carrier", [True, False])
def test_a_bounce_forgets_nothing(two: Two, carrier: bool) -> None:
    """With the cable in, and without: the routes are marked as dead then."""

    def shown() -> str:
        said = [two.fw.run("ip", f, "route", "show", "table", "all").stdout for f in ("-4", "-6")]
        lines = [line.split(" linkdown")[0].strip() for line in "".join(said).splitlines()]
        return "\n".join(
            sorted(x for x in lines if " lan" in x and "fe80" not in x and "ff00" not in x)
        )

    two.fw.run("ip", "address", "add", "10.77.0.1/24", "dev", "lan")
    two.fw.run("ip", "address", "add", "fd77::1/64", "dev", "lan", "nodad")
    for route in ROUTES:
        two.fw.run("ip", route[0], "route", "add", *route[1:])
    before, had = shown(), addresses(two)
    if not carrier:
        two.host.rtnl.down("lan")
    assert two.fw.call(bounce, ["lan", "nope"], threading.Event(), 0.0) == 0
    two.host.rtnl.up("lan")
    assert two.fw.links()["lan"].up
    assert sorted(addresses(two)) == sorted(had)
    assert shown() == before
    assert before.count("10.8") >= 3


def test_in_a_hurry_nothing_goes_down(two: Two) -> None:
    hurry = threading.Event()
    hurry.set()
    downs = two.fw.run("cat", "/sys/class/net/lan/carrier_down_count", check=False).stdout
    assert two.fw.call(bounce, ["lan"], hurry, 60.0) == 0
    assert two.fw.links()["lan"].up
    assert two.fw.run("cat", "/sys/class/net/lan/carrier_down_count", check=False).stdout == downs


class Bonded:
    """Stands in for rtnetlink: this kernel may have no bonding driver."""

    def link(self, name: str) -> Link | None:
        bond = replace(link("bond0", 9), kind="bond")
        down = replace(link("eth2", 4), up=False)
        return {"bond0": bond, "eth0": link("eth0", 2), "eth1": link("eth1", 3), "eth2": down}.get(
            name
        )

    def members(self, master: Link) -> dict[str, bool]:
        return {"eth0": True, "eth1": False, "eth2": False}


def test_of_a_bond_the_members_bounce() -> None:
    """Those that are up; the bond itself keeps its addresses and routes."""
    found = targets(Bonded(), ["bond0", "nope"])  # type: ignore[arg-type]
    assert [x.name for x in found] == ["eth0", "eth1"]
