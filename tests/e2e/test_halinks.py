"""HA interfaces that go down: noticed at once, and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hak2k.lab import Node, until
from tests.e2e.duo import Churn, Duo

# Silence alone would take two seconds, and say so.
PATIENT = {"liveness": {"heartbeat_ms": 100, "dead_after_ms": 2000}}
OPTIONS: dict[str, Any] = {"wire": True, "common": PATIENT}


@contextmanager
def down(fw: Node, *names: str) -> Iterator[None]:
    try:
        for name in names:
            fw.run("ip", "link", "set", name, "down")
        yield
    finally:
        for name in names:
            fw.run("ip", "link", "set", name, "up")


def link(duo: Duo, fw: Node, name: str) -> dict[str, Any]:
    return next(x for x in duo.ask(fw, "info")["links"] if x["name"] == name)


def test_the_stream_leaves_a_link_whose_interface_goes_down(duo: Duo) -> None:
    """On either node: the one that sends the stream is told by the other."""
    for fw in (duo.active, duo.passive):
        other = duo.lab.other(fw)
        stood = {one: duo.position(one) for one in duo.lab.fw}
        with down(fw, "ha0"):
            event = duo.wait_event(fw, "link.down", stood[fw], timeout=5)
            assert event["message"] == "link main is down on this node"
            event = duo.wait_event(other, "link.down", stood[other], timeout=5)
            assert event["message"] in ("link main is down on the peer", "link main has no carrier")
            assert link(duo, fw, "main")["state"] == "failed"
            assert link(duo, fw, "main")["interface_state"] == "down"
            with Churn(duo.lab) as churn:
                churn.more(10)
            assert not churn.failed
            duo.equal(5)
        for one in duo.lab.fw:
            duo.wait_event(one, "link.up", stood[one])
            assert not {"peer.dead", "stream.lost", "link.deaf"} & set(duo.ids(one, stood[one]))
        assert link(duo, fw, "main")["interface_state"] == "works"


def test_a_carrier_that_is_lost(duo: Duo) -> None:
    stood = {one: duo.position(one) for one in duo.lab.fw}
    duo.lab.cut("ha0", how="carrier")
    try:
        for fw in duo.lab.fw:
            event = duo.wait_event(fw, "link.down", stood[fw], timeout=5)
            assert event["message"] in ("link main has no carrier", "link main is down on the peer")
        until(lambda: link(duo, duo.active, "main")["interface_state"] == "no carrier", 5)
        duo.equal(5)
    finally:
        duo.lab.restore()
    for fw in duo.lab.fw:
        duo.wait_event(fw, "link.up", stood[fw])


def test_a_passive_node_that_made_itself_deaf_does_not_take_over() -> None:
    duo = Duo(traffic=False)
    try:
        active, passive = duo.active, duo.passive
        stood = {one: duo.position(one) for one in duo.lab.fw}
        with down(passive, "ha0", "ha1"):
            duo.wait_event(passive, "link.deaf", stood[passive])
            # The other one hears nobody, which is long after this one would have.
            duo.wait_event(active, "peer.dead", stood[active])
            beats = duo.ask(passive, "stats")["heartbeats.sent"]
            until(lambda: duo.ask(passive, "stats")["heartbeats.sent"] > beats + 40, 10)
            assert duo.modes().count("active") == 1
            assert duo.active is active
            assert "peer.dead" not in duo.ids(passive, stood[passive])
        # Heard again, it is what it was; and if its peer dies then, it takes over.
        duo.ready()
        assert duo.active is active
        duo.lab.crash(active)
        duo.wait_event(passive, "role.active", stood[passive])
    finally:
        duo.close()


def test_one_whose_peer_died_meanwhile_takes_over_when_it_can_hear() -> None:
    duo = Duo(traffic=False)
    try:
        active, passive = duo.active, duo.passive
        stood = duo.position(passive)
        with down(passive, "ha0", "ha1"):
            duo.wait_event(passive, "link.deaf", stood)
            duo.lab.kill(active)
        duo.wait_event(passive, "role.active", stood)
    finally:
        duo.close()
