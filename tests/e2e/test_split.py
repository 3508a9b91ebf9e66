"""Split brain, with real daemons and connections that begin on the node that loses."""

from __future__ import annotations

from tests.e2e.duo import Duo

OPTIONS = {"wire": True}

# What begins during the split: each way of translation, and both families.
YOUNG = (
    *((route, "tcp") for route in ("plain", "masq", "snat", "dnat", "zone", "plain6", "snat6")),
    *((route, "udp") for route in ("plain", "masq")),
)


def test_what_began_on_the_loser_goes_on_through_the_winner(duo: Duo) -> None:
    assert duo.traffic is not None
    winner, loser = duo.active, duo.passive
    # By rule the later promotion wins: but for an order, which is above it.
    duo.ask(winner, "active")
    duo.equal()
    stood = {fw: duo.position(fw) for fw in duo.lab.fw}
    duo.lab.cut(how="silent")
    try:
        duo.wait_event(loser, "role.active", stood[loser])
        duo.wait_event(winner, "peer.dead", stood[winner])
        assert duo.modes() == ("active", "active")
        # It announced itself last: the switches send everything to it.
        for route, proto in YOUNG:
            duo.traffic.open(route, proto, 2)
        duo.traffic.wait_established()
        duo.progress()
        young = duo.table(loser).keys() - duo.table(winner).keys()
        assert len(young) >= 2 * len(YOUNG)
    finally:
        duo.lab.restore()
    offered = duo.wait_event(loser, "split.offered", stood[loser])
    duo.wait_event(loser, "split.resolved", stood[loser])
    assert duo.active is winner
    duo.ready()
    duo.gates()
    # Some may have had a packet through the winner before they were offered.
    assert (offered["offered"], offered["refused"]) == (len(young), 0)
    assert len(young) // 2 < offered["taken"] <= len(young)
    assert young <= duo.table(winner).keys()
    # All go on, young and old.
    duo.progress()
    assert duo.traffic.lost() == {}
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()
    assert duo.ask(winner, "verify")["equal"]
    duo.equal()
    assert duo.ask(winner, "stats")["offers.taken"] == offered["taken"]
    assert duo.ask(loser, "stats")["offers.made"] == offered["offered"]

    # They are connections like any others: the next swap carries them.
    duo.ask(winner, "reset")
    duo.ready()
    duo.ask(loser, "active")
    duo.progress()
    assert duo.traffic.lost() == {}
    assert duo.active is loser
    duo.ask(loser, "reset")
