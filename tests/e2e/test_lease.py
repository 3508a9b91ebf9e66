"""The lease: the kernel closes the gate of an active node that hangs, before the
standby can take over; a node that was late asks before it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hak2k.errors import HakError
from hak2k.lab import Node, until
from tests.e2e.duo import Duo, Gate, frozen

# As from a switch that has forgotten where everybody is: frames go to both nodes.
OPTIONS = {"flood": True}

SECOND = 10  # messages per flow and 100 ms


def lease(duo: Duo, fw: Node) -> dict[str, Any]:
    found: dict[str, Any] = duo.ask(fw, "info")["lease"]
    return found


@contextmanager
def flooded(duo: Duo, dead: Node, heir: Node) -> Iterator[None]:
    """Once the heir is active, nothing comes out of the other node, whatever comes in."""
    after, tap = duo.position(heir), duo.lab.tap
    tap.mute(dead.name)
    try:
        yield
        duo.wait_event(heir, "role.active", after)
        tap.reset()
        duo.progress(2 * SECOND)
        assert tap.count(dead.name, "in") > 100
        assert [f for f in tap.frames() if f.direction == "out"] == [], tap.report()
    finally:
        tap.mute(dead.name, False)


def test_hung_active_is_fenced_before_the_standby_promotes(duo: Duo) -> None:
    hung, heir = duo.active, duo.passive
    until(lambda: lease(duo, hung)["state"] == "on", 5.0)
    assert lease(duo, hung)["enforced"]
    assert lease(duo, heir)["state"] == "off"
    after = duo.position(hung)
    try:
        with flooded(duo, hung, heir):
            duo.lab.daemons.hang(hung)
    finally:
        duo.lab.daemons.unhang(hung)
    # It wakes up, looks before it leaps, and gives way.
    assert duo.wait_event(hung, "lease.lapsed", after)["late_ms"] > 0
    duo.wait_mode(hung, "passive")
    assert "lease.regained" not in duo.ids(hung, after)
    assert lease(duo, hung)["refused"] > 0
    duo.ready()
    duo.equal()
    duo.progress()
    assert duo.lab.tap.resets() == 0


def test_killed_active_is_fenced_too(duo: Duo) -> None:
    """Its filters outlive the process; the next one replaces them."""
    killed, heir = duo.active, duo.passive
    until(lambda: lease(duo, killed)["state"] == "on", 5.0)
    with flooded(duo, killed, heir):
        duo.lab.daemons.kill(killed)
    duo.lab.start(killed.name)
    duo.ready()
    duo.ask(killed, "active")
    duo.progress()
    duo.ask(killed, "reset")
    duo.ready()


def test_a_hang_shorter_than_the_lease_costs_nothing(duo: Duo) -> None:
    active = duo.active
    after = duo.position(active)
    until(lambda: (lease(duo, active)["left_ms"] or 0) > 150, 5.0)
    duo.lab.daemons.hang(active)
    duo.lab.daemons.unhang(active)
    duo.progress(SECOND)
    assert "lease.lapsed" not in duo.ids(active, after)
    assert duo.active is active


def test_alone_there_is_no_lease(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    until(lambda: lease(duo, active)["state"] == "on", 5.0)
    duo.lab.daemons.stop(passive)
    until(lambda: lease(duo, active)["state"] == "off", 5.0)
    with frozen(duo, active):
        duo.progress(SECOND)
    duo.lab.start(passive.name)
    duo.ready()
    until(lambda: lease(duo, active)["state"] == "on", 5.0)


@contextmanager
def hung_when_it_opens(duo: Duo, fw: Node) -> Iterator[None]:
    """The daemon is stopped dead as soon as its gate is open."""
    over = threading.Event()

    def watch() -> None:
        with Gate(fw) as gate:
            while not over.is_set():
                if gate.state() == "open":
                    duo.lab.daemons.hang(fw)
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_passive_node_that_hangs_with_its_gate_open_is_fenced(duo: Duo) -> None:
    """In a planned swap both gates are open for some milliseconds; it hangs then."""
    tap = duo.lab.tap
    for _ in range(10):
        giver, taker = duo.active, duo.passive
        stood, before = duo.position(giver), duo.position(taker)
        try:
            with hung_when_it_opens(duo, taker), suppress(HakError):
                duo.ask(giver, "passive", timeout=1)
            if "handover.failed" in duo.ids(giver, stood):
                assert duo.mode(giver) == "active"
                assert duo.gate(taker) == "open"
                tap.mute(taker.name)
                tap.reset()
                duo.progress(SECOND)
                assert tap.count(taker.name, "in") > 50
                assert [f for f in tap.frames() if f.direction == "out"] == [], tap.report()
                break
        finally:
            tap.mute(taker.name, False)
            duo.lab.daemons.unhang(taker)
        duo.heal()  # it had the role already, or had not opened yet
    else:
        raise AssertionError("never stopped in time")
    # It runs on, and finds that nothing came of it, or the hand-over itself in its socket.
    known = {"handover.disarmed", "role.active"}
    until(lambda: known & set(duo.ids(taker, before)), 5)
    duo.heal()
    duo.gates()
    duo.equal()
    duo.progress()
    assert lease(duo, duo.passive)["state"] == "off"
