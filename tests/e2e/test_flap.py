"""Quality that changes in turn must not move the role for ever: swap.flap_count."""

from __future__ import annotations

from hak2k.lab import Node, until
from tests.e2e.duo import Duo

CHANGES = 3
OPTIONS = {
    "traffic": False,
    "common": {
        "swap": {"hold_down_s": 0, "flap_count": CHANGES, "flap_window_s": 60, "flap_hold_s": 3}
    },
}


def damage(fw: Node) -> None:
    fw.run("ip", "link", "set", "lan", "down")


def repair(duo: Duo, fw: Node) -> None:
    fw.run("ip", "link", "set", "lan", "up")
    until(lambda: duo.ask(fw, "info")["local"]["quality"] == 100, 5, "full quality")


def test_a_role_that_flaps_is_kept_for_a_while(duo: Duo) -> None:
    # Each counts for itself, the first promotion too; what the active one counts matters.
    for _ in range(2 * CHANGES):
        worse, better = duo.active, duo.passive
        stood = duo.position(better)
        damage(worse)
        duo.wait_mode(better, "active")
        repair(duo, worse)
        duo.ready()
        if "flap.hold" in duo.ids(better, stood):
            break
    active, passive = duo.active, duo.passive
    event = duo.wait_event(active, "flap.hold", stood)
    assert event["message"].startswith(f"{CHANGES} changes of role in ")
    assert duo.ask(active, "info")["local"]["held_until"] is not None
    said = duo.ask(active, "why")
    assert "flap.hold" in [event["id"] for event in said["log"]]
    assert any("quality and priority move it no more for 3 s" in line for line in said["text"])

    # Worse again, and it stays: until the time is over.
    stood = duo.position(active)
    damage(active)
    duo.wait_event(active, "role.passive", stood, timeout=10)
    ids = duo.ids(active, stood)
    assert "quality.changed" in ids
    assert ids.index("quality.changed") < ids.index("flap.end") < ids.index("role.passive")
    assert duo.ask(active, "why")["reason"].startswith("peer is better: quality")
    repair(duo, active)
    duo.ready()
    assert duo.active is passive


def test_commands_do_not_count_and_are_obeyed(duo: Duo) -> None:
    start = {fw: duo.position(fw) for fw in duo.lab.fw}
    until(lambda: duo.ask(duo.active, "info")["local"]["held_until"] is None, 5)
    for _ in range(CHANGES + 1):
        duo.ask(duo.active, "passive")
        for fw in duo.lab.fw:
            duo.ask(fw, "reset")
        duo.ready()
    for fw in duo.lab.fw:
        assert "flap.hold" not in duo.ids(fw, start[fw])
