"""The active one dies, in several ways, under traffic; and comes back."""

from __future__ import annotations

import pytest

from hak2k.lab import until
from tests.e2e.duo import Churn, Duo, GateWatch


# Twice: what was a survivor once, and what came back once, must do as well.
@pytest.mark.parametrize("time", ["first", "second"])
def test_crash_of_the_active_and_its_return(duo: Duo, time: str) -> None:
    dead, survivor = duo.active, duo.passive
    known = duo.equal()
    duo.mark()
    before = duo.position(survivor)

    crash = duo.lab.crash(dead)
    seen = duo.wait_mode(survivor, "active", 2.0)
    assert seen - crash.at < 2.0  # 0.2 s of silence, and what a busy machine adds
    assert duo.gate(survivor) == "open"
    duo.unharmed(survivor, gap_ms=3000)
    became = duo.wait_event(survivor, "role.active", before)
    assert became["reason"] == "peer dead"
    assert 150 < became["detect_ms"] <= 1100  # of a machine that was busy: dead_after_max_ms
    assert duo.wait_event(survivor, "stream.cut", before)["ms"] == became["detect_ms"]
    assert "role.unproven" not in duo.ids(survivor, before)
    assert duo.table(survivor).keys() >= known.keys()

    info = duo.ask(survivor, "info")
    assert info["peer"]["mode"] == "fault"
    assert {link["state"] for link in info["links"]} == {"failed"}

    # It comes back with an empty table.
    duo.mark()
    duo.lab.revive(dead)
    assert not duo.table(dead)
    with GateWatch(duo.lab) as watch:
        duo.lab.start(dead)
        duo.lab.wait(dead, mode="passive", ready=True)
        duo.equal()
        watch.never_both()
    duo.gates()
    assert duo.active is survivor
    # Of equal nodes, the one that came back stays passive: "role.passive" is all.
    assert [i for i in duo.ids(dead) if i.startswith("role.")] == ["role.passive"]
    duo.unharmed(survivor)
    assert {link["state"] for link in duo.ask(dead, "info")["links"]} == {"ok"}


def test_what_a_crash_may_have_cost(duo: Duo) -> None:
    """By the load before it; and of what was told before, nothing is missing."""
    dead, survivor = duo.active, duo.passive
    before = duo.position(survivor)
    with Churn(duo.lab) as churn:
        churn.more(200)
        duo.lab.kill(dead)
        cut = duo.wait_event(survivor, "stream.cut", before)
    # At least a record for each of some 50 connections a second, for 0.2 s.
    assert cut["changes"] >= 5
    assert cut["datagrams"] <= 1
    text = f"at most {cut['changes']} changes in the last {cut['ms']:g} ms were not replicated"
    assert cut["message"].startswith(text)
    # wherever its lines were broken
    assert text in " ".join(duo.lab.ctl(survivor, "why", json=False).split())
    duo.lab.start(dead)
    duo.ready()
    duo.equal()


def test_crash_of_the_passive_is_only_an_event(duo: Duo) -> None:
    dead, active = duo.passive, duo.active
    before = duo.position(active)
    duo.lab.crash(dead)
    duo.wait_event(active, "peer.dead", before)
    duo.unharmed(active, gap_ms=3000)
    assert not [i for i in duo.ids(active, before) if i.startswith("role.")]
    duo.lab.revive(dead)
    duo.lab.start(dead)
    duo.ready()
    duo.equal()
    assert duo.active is active
    duo.unharmed(active)


def test_daemon_of_the_active_killed_machine_alive(duo: Duo) -> None:
    """Nobody fences the machine: its gate stays open until its daemon is back."""
    killed, heir = duo.active, duo.passive
    duo.equal()
    before = duo.position(heir)
    duo.lab.kill(killed)
    duo.wait_mode(heir, "active", 2.0)
    assert duo.wait_event(heir, "role.active", before)["reason"] == "peer dead"
    duo.unharmed()

    duo.lab.start(killed)
    assert duo.gate(killed) == "closed"
    duo.ready()
    assert duo.active is heir
    duo.gates()
    duo.equal()
    duo.unharmed(heir)


def test_daemon_of_the_passive_killed_gate_stays(duo: Duo) -> None:
    killed, active = duo.passive, duo.active
    tap = duo.lab.tap
    tap.mute(killed.name)
    before = duo.position(active)
    try:
        duo.lab.kill(killed)
        duo.wait_event(active, "peer.dead", before)
        assert duo.gate(killed) == "closed"
        killed.ping("10.71.0.10", timeout=0.2)
        duo.unharmed(active)
        duo.lab.start(killed)
        duo.ready()
        assert tap.count(killed.name, "out") == 0, tap.report()
    finally:
        tap.mute(killed.name, False)
    assert duo.active is active
    duo.equal()


def test_both_daemons_killed_and_started(duo: Duo) -> None:
    """The connections outlive both daemons; after it one is active.

    The active one goes on without a daemon only if it knew that it was alone: while a
    standby listened, its death closed the gate."""
    active, passive = duo.active, duo.passive
    duo.lab.kill(passive)
    until(lambda: duo.ask(active, "info")["lease"]["state"] == "off", 3, "alone")
    duo.lab.kill(active)
    duo.progress()
    for fw in (passive, active):
        duo.lab.start(fw, wait=False)
    for fw in duo.lab.fw:
        duo.lab.daemons.wait_answering(fw)
    # The gate that the killed one left open is closed first of all.
    with GateWatch(duo.lab) as watch:
        until(lambda: sorted(duo.modes()) == ["active", "passive"], 10, "one active")
        duo.ready()
        watch.never_both()
    duo.equal()
    assert duo.traffic is not None
    duo.progress()
    assert duo.traffic.lost() == {}
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()
