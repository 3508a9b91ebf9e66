"""Planned swaps: by command, by SIGTERM; and those that are refused."""

from __future__ import annotations

import time

import pytest

from hak2k.errors import HakError
from hak2k.lab import Node, until
from tests.e2e.duo import Duo, GateWatch, frozen


def command(duo: Duo, fw: Node, program: str, *arguments: str) -> tuple[int, str, str]:
    """Run one of the installed programs against a daemon."""
    done = fw.run(
        duo.lab.daemons.bindir / program,
        *arguments,
        check=False,
        env={"HAK2K_SOCKET": str(duo.lab.daemons[fw].control_socket)},
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_ten_swaps_by_command(duo: Duo) -> None:
    """Each way to ask for one, in turn, from either side."""
    duo.equal()
    duo.mark()
    with GateWatch(duo.lab) as watch:
        for number in range(10):
            active, passive = duo.active, duo.passive
            # The swap is complete when the command returns.
            if number % 2:
                assert command(duo, passive, "haactive") == (0, "active, forced active", "")
            else:
                assert command(duo, active, "hapassive") == (0, "passive, forced passive", "")
            assert duo.modes() == tuple(
                "active" if fw is passive else "passive" for fw in duo.lab.fw
            )
            assert duo.gate(active) == "closed"
            assert duo.gate(passive) == "open"
            # Lifting it swaps nothing: equal nodes stay where they are.
            forced = passive if number % 2 else active
            mode = duo.mode(forced)
            assert command(duo, forced, "hareset") == (0, f"{mode}, not forced", "")
            assert duo.active is passive
            duo.ready()
            duo.equal()
        watch.handed_over()
    duo.unharmed(*duo.lab.fw, gap_ms=3000)


def test_a_peer_that_hangs_gets_nothing(duo: Duo) -> None:
    """Called off, before the gate was ever closed."""
    active, passive = duo.active, duo.passive
    before = duo.position(active)
    with GateWatch(duo.lab) as watch:
        with frozen(duo, passive):
            with pytest.raises(HakError):
                duo.ask(active, "passive", timeout=1.0)
            duo.wait_event(active, "handover.failed", before)
            duo.ask(active, "reset")
        duo.ready()
        column = 1 + duo.lab.fw.index(active)
        assert {change[column] for change in watch.history} == {"open"}
    duo.unharmed(active)


def test_forced_state_is_shown_to_both(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    assert command(duo, active, "haactive")[0] == 0  # it is there already
    assert duo.ask(active, "info")["local"]["forced"] == "active"
    until(lambda: duo.ask(passive, "info")["peer"]["forced"] == "active", 2, "the peer knows")
    # Against it, the peer's wish is refused, with the reason.
    code, _, error = command(duo, passive, "haactive")
    assert code == 1
    assert "forced active" in error
    assert duo.active is active
    assert command(duo, active, "hareset")[0] == 0
    until(lambda: duo.ask(passive, "info")["peer"]["forced"] == "no", 2, "the peer knows")


def test_hapassive_without_a_peer_is_refused(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    duo.lab.stop(passive)
    until(lambda: not duo.ask(active, "info")["peer"]["alive"], 3, "the peer is gone")
    code, output, error = command(duo, active, "hapassive", "--timeout", "0.2")
    assert (code, output) == (1, "")
    assert error.startswith("hapassive: ")
    assert "no live peer" in error
    assert duo.gate(active) == "open"
    assert duo.ask(active, "info")["local"]["forced"] == "no"
    duo.unharmed(active)

    # In so many words, it is obeyed; and lifted again.
    assert command(duo, active, "hapassive", "--force")[0] == 0
    assert duo.mode(active) == "passive"
    assert duo.gate(active) == "closed"
    code, output, _ = command(duo, active, "hareset")
    assert (code, output) == (0, "active, not forced")
    assert duo.gate(active) == "open"
    duo.unharmed(active)


def test_forced_passive_without_a_peer_gives_way(duo: Duo) -> None:
    """Forced passive is a preference between two: some service is better than none."""
    active, passive = duo.active, duo.passive
    assert command(duo, passive, "hapassive")[0] == 0
    duo.lab.crash(active)
    duo.wait_mode(passive, "active", 2.0)
    duo.unharmed(passive)
    duo.lab.revive(active)
    duo.lab.start(active)
    # The other one is not forced passive, so it gets the role when it is ready.
    duo.wait_mode(active, "active")
    duo.wait_mode(passive, "passive")
    assert command(duo, passive, "hareset")[0] == 0
    duo.ready()
    duo.equal()
    duo.unharmed()


def test_sigterm_of_the_active_hands_over_first(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    duo.equal()
    duo.mark()
    before = {fw.name: duo.position(fw) for fw in duo.lab.fw}
    process = duo.lab.daemons[active].process
    assert process is not None
    with GateWatch(duo.lab) as watch:
        begun = time.monotonic()
        process.terminate()
        duo.wait_mode(passive, "active", 2.0)
        # Not asked twice: who is about to end may die of the second signal.
        until(lambda: process.poll() is not None, 10, "its end")
        assert duo.lab.stop(active) == 0
        watch.more(20)
        watch.handed_over()
        # From the signal until the other gate is open, as the kernels see it.
        column = 1 + duo.lab.fw.index(passive)
        swapped = next(change[0] for change in watch.history if change[column] == "open")
        assert swapped - begun < 0.5
    assert duo.gate(active) == "closed"  # the peer has it
    duo.unharmed(passive, gap_ms=3000)
    ids = duo.ids(passive, before[passive.name])
    assert "peer.bye" in ids
    assert "peer.dead" not in ids
    taken = duo.wait_event(passive, "role.active", before[passive.name])
    assert taken["reason"] == "hand-over by the peer"

    duo.lab.start(active)
    duo.ready()
    duo.equal()
    assert duo.active is passive
    duo.unharmed(passive)


def test_sigterm_of_the_passive_changes_nothing(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    before = duo.position(active)
    with GateWatch(duo.lab) as watch:
        assert duo.lab.stop(passive) == 0
        duo.wait_event(active, "peer.bye", before)
        duo.progress()
        assert len(watch.history) == 1, watch.history  # nothing changed
    expected = {active: "open", passive: "closed"}
    assert watch.history[0][1:] == tuple(expected[fw] for fw in duo.lab.fw)
    assert not [i for i in duo.ids(active, before) if i.startswith("role.")]
    duo.unharmed(active, gap_ms=3000)
    assert duo.ask(active, "info")["peer"]["alive"] is False
    duo.lab.start(passive)
    duo.ready()
    duo.equal()
    assert duo.active is active


def test_sigterm_of_a_lone_active_leaves_its_gate_open(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    duo.lab.stop(passive)
    until(lambda: not duo.ask(active, "info")["peer"]["alive"], 3, "the peer is gone")
    assert duo.lab.stop(active) == 0
    assert duo.gate(active) == "open"
    assert "gate stays open" in duo.lab.daemons[active].log_tail(3)
    # It forwards without a daemon: connections of old, and new ones.
    duo.unharmed(active)
    assert duo.lab.client.ping("10.72.0.10") == 1

    # Both come back; what went on meanwhile is in both tables.
    duo.lab.start(active)
    duo.wait_mode(active, "active")
    duo.lab.start(passive)
    duo.ready()
    duo.equal()
    assert duo.active is active
    assert duo.traffic is not None
    duo.progress()
    assert duo.traffic.lost() == {}
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()
