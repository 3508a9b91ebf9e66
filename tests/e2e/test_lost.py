"""A peer is silent: the other one says whether its process or its machine is gone."""

from __future__ import annotations

from hak2k.lab import Node, until
from tests.e2e.duo import Duo

OPTIONS = {"traffic": False}


def lost(duo: Duo, fw: Node) -> str | None:
    peer = duo.ask(fw, "info")["peer"]
    found: str | None = peer["lost"]
    assert peer["alive"] is (found is None)
    return found


def told(duo: Duo, heir: Node, after: int, id: str) -> None:
    """By an event once the role is taken, by info and by hawhy."""
    duo.wait_event(heir, id, after)
    ids = [i for i in duo.ids(heir, after) if i in ("peer.dead", "role.active", id)]
    assert ids == ["peer.dead", "role.active", id]
    assert lost(duo, heir) == id.split(".")[1]
    why = duo.ask(heir, "why")
    assert [e["id"] for e in why["log"]] == ["role.active", "stream.cut", id]
    assert any("ping" in line for line in why["text"])


def test_the_process_is_killed(duo: Duo) -> None:
    killed, heir = duo.active, duo.passive
    after = duo.position(heir)
    duo.lab.kill(killed)
    told(duo, heir, after, "peer.process")
    shown = duo.lab.ctl(heir, "info", json=False)
    assert "its machine answers pings" in shown
    assert "peer.machine" not in duo.ids(heir, after)
    duo.lab.start(killed)
    duo.ready()
    assert lost(duo, heir) is None


def test_the_machine_is_gone_then_it_boots(duo: Duo) -> None:
    dead, heir = duo.active, duo.passive
    after = duo.position(heir)
    duo.lab.crash(dead)
    told(duo, heir, after, "peer.machine")
    assert "peer.process" not in duo.ids(heir, after)
    assert "nor does its machine" in duo.lab.ctl(heir, "info", json=False)
    duo.lab.revive(dead)
    duo.wait_event(heir, "peer.process", after)
    duo.lab.start(dead)
    duo.ready()


def test_an_orderly_stop_needs_no_question(duo: Duo) -> None:
    stopped, heir = duo.active, duo.passive
    after = duo.position(heir)
    duo.lab.stop(stopped)
    duo.wait_event(heir, "peer.bye", after)
    until(lambda: lost(duo, heir) == "stopped", 3, "it says so")
