"""Daemons that hang, links that are cut, restarts in quick succession."""

from __future__ import annotations

import pytest

from hak2k.lab import Node, until
from tests.e2e.duo import Churn, Duo, GateWatch, frozen

OPTIONS = {"wire": True}


def roles(duo: Duo, fw: Node, after: int) -> list[str]:
    """Role changes on a node since a position in its event log."""
    return [i for i in duo.ids(fw, after) if i.startswith("role.")]


def one_active_and_equal(duo: Duo) -> Node:
    """After whatever it was has healed: the contract's fifth promise."""
    duo.ready()
    duo.gates()
    duo.equal()
    duo.progress()
    assert duo.traffic is not None
    assert duo.traffic.lost() == {}
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()
    return duo.active


# Messages per flow and 100 ms: so long does a block of `progress` last.
TWO_SECONDS = 20
THREE_SECONDS = 30


def test_hung_active_for_two_seconds(duo: Duo) -> None:
    hung, heir = duo.active, duo.passive
    duo.equal()
    before = {fw.name: duo.position(fw) for fw in duo.lab.fw}
    with frozen(duo, hung):
        duo.wait_mode(heir, "active", 2.0)
        duo.progress(TWO_SECONDS)
    duo.wait_mode(hung, "passive")
    # Who was promoted later keeps the role.
    assert one_active_and_equal(duo) is heir
    duo.wait_event(hung, "slip", before[hung.name])
    duo.wait_event(hung, "split.resolved", before[hung.name])
    assert roles(duo, heir, before[heir.name]) == ["role.active"]
    assert roles(duo, hung, before[hung.name]) == ["role.passive"]
    # It says why, to whoever looks for it.
    assert "both were active" in duo.wait_event(hung, "role.passive", before[hung.name])["reason"]


def test_hung_passive_for_two_seconds_is_only_an_event(duo: Duo) -> None:
    active, hung = duo.active, duo.passive
    before = {fw.name: duo.position(fw) for fw in duo.lab.fw}
    with GateWatch(duo.lab) as watch:
        with frozen(duo, hung), Churn(duo.lab) as churn:
            duo.wait_event(active, "peer.dead", before[active.name])
            duo.progress(TWO_SECONDS)
            churn.more(20)
        assert not churn.failed
        duo.wait_event(active, "peer.up", before[active.name])
        assert one_active_and_equal(duo) is active
        watch.never_both()
    assert roles(duo, active, before[active.name]) == []
    # The sleeper does not accuse the other of its own sleep.
    assert roles(duo, hung, before[hung.name]) == []
    assert "peer.dead" not in duo.ids(hung, before[hung.name])
    duo.unharmed(active)


@pytest.mark.parametrize("how", ["carrier", "silent"])
@pytest.mark.parametrize(("link", "name"), [("ha0", "main"), ("ha1", "backup")])
def test_one_link_cut_is_only_an_event(duo: Duo, link: str, name: str, how: str) -> None:
    active, passive = duo.active, duo.passive
    before = {fw.name: duo.position(fw) for fw in duo.lab.fw}

    def states(fw: Node) -> dict[str, str]:
        return {one["name"]: one["state"] for one in duo.ask(fw, "info")["links"]}

    with GateWatch(duo.lab) as watch:
        with Churn(duo.lab) as churn:
            churn.more(20)
            duo.lab.cut(link, how=how)
            for fw in duo.lab.fw:
                assert duo.wait_event(fw, "link.down", before[fw.name])["name"] == name
            churn.more(50)
            assert states(active) == {"main": "ok", "backup": "ok", name: "failed"}
        assert not churn.failed
        # The stream does not miss the link.
        duo.equal()
        assert duo.ask(passive, "info")["local"]["state"] == "ready"
        duo.lab.restore()
        for fw in duo.lab.fw:
            assert duo.wait_event(fw, "link.up", before[fw.name])["name"] == name
        assert states(passive) == {"main": "ok", "backup": "ok"}
        watch.never_both()
    for fw in duo.lab.fw:
        found = duo.ids(fw, before[fw.name])
        assert roles(duo, fw, before[fw.name]) == []
        assert not {"peer.dead", "stream.lost", "sync.start", "sync.sent"} & set(found), found
    duo.equal()
    duo.unharmed(*duo.lab.fw, gap_ms=3000)


def test_both_links_cut_for_three_seconds(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    before = {fw.name: duo.position(fw) for fw in duo.lab.fw}
    duo.lab.cut(how="silent")
    try:
        duo.wait_mode(passive, "active", 2.0)
        duo.progress(THREE_SECONDS)
    finally:
        duo.lab.restore()
    assert one_active_and_equal(duo) is passive
    assert "split.resolved" in duo.ids(active, before[active.name])
    assert roles(duo, passive, before[passive.name]) == ["role.active"]


def test_active_side_loses_its_links_one_after_the_other(duo: Duo) -> None:
    """Neither cut is a fault by itself, as long as one of them works."""
    active = duo.active
    before = duo.position(active)
    for link, name in (("ha0", "main"), ("ha1", "backup"), ("ha0", "main")):
        here = duo.position(active)
        duo.lab.cut(link, how="silent")
        assert duo.wait_event(active, "link.down", here)["name"] == name
        duo.lab.restore()
        assert duo.wait_event(active, "link.up", here)["name"] == name
    assert roles(duo, active, before) == []
    assert one_active_and_equal(duo) is active


def test_active_loses_a_data_interface(duo: Duo) -> None:
    """The better one takes over, by a hand-over; nothing swaps back afterwards."""
    active, passive = duo.active, duo.passive
    before = {fw.name: duo.position(fw) for fw in duo.lab.fw}
    port = f"{active.name}-wan"
    with GateWatch(duo.lab) as watch:
        duo.lab.switch.down(port)
        try:
            duo.wait_mode(passive, "active", 5.0)
            duo.unharmed(passive)
            assert duo.ask(active, "info")["local"]["quality"] == 50
        finally:
            duo.lab.switch.up(port)
        quality = duo.wait_event(active, "quality.changed", before[active.name])
        assert (quality["before"], quality["quality"]) == (100, 50)
        until(lambda: duo.ask(active, "info")["local"]["quality"] == 100, 5, "quality is back")
        assert one_active_and_equal(duo) is passive
        watch.handed_over()
    assert "handover.done" in duo.ids(active, before[active.name])


def test_passive_restarted_five_times_under_churn(duo: Duo) -> None:
    """By turns in good order and not; as soon as it answers, and before."""
    active, passive = duo.active, duo.passive
    before = duo.position(active)
    with GateWatch(duo.lab) as watch:
        with Churn(duo.lab) as churn:
            for number in range(5):
                if number % 2:
                    duo.lab.kill(passive)
                else:
                    duo.lab.stop(passive)
                duo.lab.start(passive)
                churn.more(3)
            duo.lab.wait(passive, mode="passive", ready=True)
            churn.more(50)
        assert not churn.failed
        assert one_active_and_equal(duo) is active
        watch.never_both()
    assert roles(duo, active, before) == []
    duo.unharmed(active, gap_ms=3000)


def test_active_restarted_under_churn(duo: Duo) -> None:
    """Each restart hands over: three of them, and no short connection is lost."""
    with Churn(duo.lab) as churn:
        for _ in range(3):
            old, new = duo.active, duo.passive
            assert duo.lab.stop(old) == 0
            assert duo.mode(new) == "active"
            duo.lab.start(old)
            duo.ready()
            churn.more(5)
        until(lambda: churn.done > 15, 10, "churn")
    assert not churn.failed
    one_active_and_equal(duo)
