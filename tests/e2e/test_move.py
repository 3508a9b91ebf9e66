"""`address_mode = "move"`: own hardware addresses, and the pair's addresses on the active
node alone."""

from __future__ import annotations

import pytest

from hak2k.lab import Node, until
from hak2k.lab.topology import LAN4, LAN_ADDRESSES, WAN4, WAN_ADDRESSES
from hak2k.lab.traffic import Traffic
from tests.e2e.duo import Duo, GateWatch
from tests.e2e.test_scale import fill

OPTIONS = {"move": True}
WANTED = {("lan", a) for a in LAN_ADDRESSES} | {("wan", a) for a in WAN_ADDRESSES}


def addresses(fw: Node) -> set[tuple[str, str]]:
    """What of the pair's addresses a kernel has."""
    return {(n, a) for n in ("lan", "wan") for a in fw.rtnl.addresses(n)} & WANTED


def moved(duo: Duo) -> None:
    assert addresses(duo.active) == WANTED
    until(lambda: not addresses(duo.passive), 2, "none on the passive node")


def fresh(duo: Duo) -> None:
    """Masqueraded connections of the active node's own making: its kernel ends them
    when it loses the address, as it does no copy."""
    assert duo.traffic is not None
    duo.traffic.open("masq", "tcp", 3)
    duo.traffic.open("masq", "udp", 2)
    duo.traffic.wait_established()
    duo.equal()
    duo.mark()


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_swaps_by_command(duo: Duo, times: int) -> None:
    macs = {fw.links()["lan"].mac for fw in duo.lab.fw}
    assert len(macs) == 2
    moved(duo)
    with GateWatch(duo.lab) as watch:
        for number in range(times):
            fresh(duo)
            active, passive = duo.active, duo.passive
            stats = {fw: duo.ask(fw, "stats") for fw in duo.lab.fw}
            after = duo.position(passive)
            if number % 2:
                duo.ask(passive, "active")
            else:
                duo.ask(active, "passive")
            # Complete when the command returns, but for what the stepping down node does
            # behind its gate.
            assert duo.gate(active) == "closed"
            assert addresses(passive) == WANTED
            moved(duo)
            assert duo.wait_event(passive, "role.active", after)["address_us"] > 0
            duo.unharmed(*duo.lab.fw, gap_ms=3000)
            duo.ask(passive if number % 2 else active, "reset")
            duo.ready()
            # The old active's own went with the address, and are back.
            duo.equal()
            made = duo.ask(active, "stats")["apply.created"] - stats[active]["apply.created"]
            assert made >= 5
            for fw in duo.lab.fw:
                assert duo.ask(fw, "stats")["capture.trapped"] == stats[fw]["capture.trapped"]
        watch.never_both()
    for fw in duo.lab.fw:
        assert "address.failed" not in duo.ids(fw)
        assert "address.corrected" not in duo.ids(fw)
    info = duo.active.run("ip", "-6", "address", "show", "dev", "lan", "scope", "global").stdout
    assert "nodad" in info


def test_the_active_dies(duo: Duo) -> None:
    fresh(duo)
    dead, survivor = duo.active, duo.passive
    duo.lab.crash(dead)
    duo.wait_mode(survivor, "active", 2.0)
    assert addresses(survivor) == WANTED
    duo.unharmed(survivor, gap_ms=3000)
    duo.lab.revive(dead)
    duo.lab.start(dead)
    duo.ready()
    duo.equal()
    moved(duo)
    duo.unharmed(survivor)


@pytest.mark.parametrize("how", [pytest.param("start", marks=pytest.mark.soak), "release"])
def test_a_killed_daemon_leaves_addresses(duo: Duo, how: str) -> None:
    """The kernel fences it; its next start, or systemd, removes them."""
    fresh(duo)
    killed, heir = duo.active, duo.passive
    duo.lab.kill(killed)
    duo.wait_mode(heir, "active", 2.0)
    assert addresses(killed) == addresses(heir) == WANTED
    duo.unharmed(heir)
    if how == "release":
        daemon = duo.lab.daemons[killed]
        program = duo.lab.daemons.bindir / "hak2kd"
        killed.run(program, "--config", daemon.config, "--release")
        assert addresses(killed) == set()
        assert duo.gate(killed) == "closed"
        refused = heir.run(
            program, "--config", duo.lab.daemons[heir].config, "--release", check=False
        )
        assert refused.returncode == 1  # a daemon runs there
        assert addresses(heir) == WANTED
    duo.lab.start(killed)
    duo.ready()
    duo.equal()
    assert duo.active is heir
    moved(duo)
    duo.unharmed(heir)


@pytest.mark.soak
def test_ready_is_proved_after_the_walk() -> None:
    """In a large table the kernel ends entries while they are being compared."""
    duo = Duo(traffic=False, move=True)
    try:
        fill(duo.active, range(30000))
        until(lambda: duo.passive.conntrack_count() >= 30000, 60)
        duo.ready(60)
        duo.traffic = Traffic(duo.lab)
        for _ in range(2):
            duo.traffic.open("masq", "tcp", 50)
            duo.traffic.wait_established()
            until(lambda: not missing(duo), 10, "copied")
            active = duo.active
            duo.ask(active, "passive")
            duo.ready(60)
            assert missing(duo) == []
            duo.ask(active, "reset")
        duo.progress()
        assert duo.traffic.lost() == {}
    finally:
        duo.close()


def missing(duo: Duo) -> list[str]:
    """What the passive node lacks of the masqueraded connections."""
    have, want = (
        {e.orig for e in fw.conntrack(lambda e: e.reply.dst == WAN4).values()}
        for fw in (duo.passive, duo.active)
    )
    return [str(t) for t in want - have]


@pytest.mark.soak
def test_a_lone_node_keeps_them_over_a_restart(duo: Duo) -> None:
    """Or its own masqueraded connections would end."""
    fresh(duo)
    active, passive = duo.active, duo.passive
    duo.lab.stop(passive)
    until(lambda: not duo.ask(active, "info")["peer"]["alive"], 3, "alone")
    assert duo.lab.stop(active) == 0
    assert addresses(active) == WANTED
    duo.unharmed(active)
    duo.lab.start(active)
    duo.wait_mode(active, "active")
    assert "address.corrected" not in duo.ids(active)
    duo.unharmed(active)
    duo.lab.start(passive)
    duo.ready()
    duo.equal()


@pytest.mark.soak
def test_stopping_hands_over_first(duo: Duo) -> None:
    fresh(duo)
    active, passive = duo.active, duo.passive
    assert duo.lab.stop(active) == 0
    assert duo.mode(passive) == "active"
    assert addresses(passive) == WANTED
    assert addresses(active) == set()
    duo.unharmed(passive, gap_ms=3000)
    duo.lab.start(active)
    duo.ready()
    duo.equal()


def test_others_who_change_them_are_put_right(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    after = {fw: duo.position(fw) for fw in duo.lab.fw}
    active.run("ip", "address", "del", f"{WAN4}/24", "dev", "wan")
    assert (
        f"{WAN4}/24 on wan" in duo.wait_event(active, "address.corrected", after[active])["message"]
    )
    passive.run("ip", "address", "add", f"{LAN4}/24", "dev", "lan")
    assert (
        f"{LAN4}/24 on lan"
        in duo.wait_event(passive, "address.corrected", after[passive])["message"]
    )
    moved(duo)
    duo.ready()
    # Another address of the same network, made secondary, stays when ours goes.
    active.run("ip", "address", "add", "10.71.0.200/24", "dev", "lan")
    duo.ask(active, "passive")
    moved(duo)
    assert "10.71.0.200/24" in active.rtnl.addresses("lan")
    active.run("ip", "address", "del", "10.71.0.200/24", "dev", "lan")
    duo.heal()
    duo.equal()
