"""The lease: the kernel closes the gate of an active node that hangs, before the
standby can take over; a node that was late asks before it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hak2k.lab import Node, until
from tests.e2e.duo import Duo, frozen

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
