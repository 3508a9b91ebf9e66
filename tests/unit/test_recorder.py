"""The flight recorder: all that was decided can be decided again from its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hak2k import model as m
from hak2k.election import Row, step
from hak2k.lab import until
from hak2k.recorder import Recorder, lines_of, main, pack, replay, unpack
from hak2k.why import explain
from tests.unit import election_sim

RULES = m.ElectionConfig.of("FW-A", 50, 200)
PEER = m.Peer("FW-B", m.Mode.ACTIVE, table=m.TableState.RUNNING, term=3)


class Play:
    """An election and its recorder."""

    def __init__(self, path: Path | None, **options: Any) -> None:
        self.recorder = Recorder(path, RULES, **options)
        self.state = m.initial(0.0)
        self.commands: list[Any] = []

    def __call__(self, now: float, event: m.Event) -> None:
        rows: list[tuple[Row, str]] = []
        before = self.state
        self.state, commands = step(RULES, before, event, now, rows)
        self.recorder.step(event, before, self.state, commands, rows, now, 1.7e9 + now)
        self.commands += commands


def takeover(play: Play, at: float = 0.0) -> None:
    play(at + 0.1, m.SessionUp())
    play(at + 0.2, m.PeerStatus(PEER))
    play(at + 0.3, m.SyncBegin())
    play(at + 0.4, m.SyncDone())
    for n in range(100):
        play(at + 0.5 + n / 100, m.Tick())
    play(at + 2, m.PeerDead())
    play.recorder.log({"id": "role.active", "time": "T", "message": "peer dead", "total_us": 90})


@pytest.mark.parametrize(
    "value",
    [
        PEER,
        m.initial(1.5, quality=63),
        replace(m.initial(1.5), switches=(1.0, 2.5)),
        m.PeerStatus(PEER),
        m.Promote(3, "why"),
        m.SetStatus(m.Mode.FAULT, m.Forced.PASSIVE, 1, m.TableState.FROZEN, 9),
        m.Freeze(None),
        RULES,
    ],
    ids=lambda v: type(v).__name__,
)
def test_data_survives_being_written(value: Any) -> None:
    assert unpack(json.loads(json.dumps(pack(value)))) == value


@pytest.mark.parametrize(
    "value", [{"Nobody": {}}, {"Peer": {"x": 1}}, {"Mode": "X"}, {"Peer": 3}, {}]
)
def test_what_is_of_another_version_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not of this version"):
        unpack(value)


def test_a_takeover_can_be_played_again(tmp_path: Path) -> None:
    play = Play(tmp_path / "f")
    takeover(play)
    play.recorder.close()
    found = replay(lines_of([tmp_path / "f"]))
    assert found.differences == []
    assert found.steps == 4  # ticks that changed nothing are not there
    (passive, active) = found.changes.found
    assert active.log[0]["total_us"] == 90
    kept = play.recorder.changes.found
    assert (passive.before, active.after) == (kept[0].before, kept[1].after)
    assert main([str(tmp_path / "f")]) == 0


def test_another_decision_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play = Play(tmp_path / "f")
    takeover(play)
    play.recorder.close()
    text = (tmp_path / "f").read_text()
    (tmp_path / "f").write_text(text.replace('peer dead"}}, {"SetStatus', 'x"}}, {"SetStatus'))
    assert main([str(tmp_path / "f")]) == 1
    assert "1 decided otherwise" in capsys.readouterr().out
    (tmp_path / "f").write_text(text.replace('"version": 1', '"version": 99'))
    assert main([str(tmp_path / "f")]) == 1
    assert "another version: 99" in capsys.readouterr().err


def test_every_prefix_of_a_file_can_be_read(tmp_path: Path) -> None:
    """As a crash leaves it."""
    play = Play(tmp_path / "f")
    takeover(play)
    play.recorder.close()
    raw = (tmp_path / "f").read_bytes()
    steps = set()
    for n in range(0, len(raw), 7):
        (tmp_path / "g").write_bytes(raw[:n])
        found = replay(lines_of([tmp_path / "g"]))
        assert found.differences == []
        steps.add(found.steps)
    assert steps >= {0, 1, 4}


def test_the_files_are_bounded_and_each_is_whole(tmp_path: Path) -> None:
    play = Play(tmp_path / "f", file_bytes=20_000)
    both = [tmp_path / "f.1", tmp_path / "f"]
    for n in range(40):
        play.state = m.initial(n * 10.0)
        play.recorder._fresh = True  # a life of its own
        takeover(play, n * 10.0)
        # The writer is a thread; a node does not take a thousand steps at once.
        until(lambda: not play.recorder._lines, 3)
    play.recorder.close()
    assert both[0].stat().st_size > 3_000
    for path in both:  # the second may have been begun just now
        assert path.stat().st_size < 30_000
        found = replay(lines_of([path]))
        assert found.steps > 0
        assert found.differences == []
    assert play.recorder.lost == 0
    assert len(play.recorder.read()) >= 64


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    play = Play(tmp_path / "file" / "f")
    until(lambda: play.recorder.failure is not None, 3)
    takeover(play)
    assert len(play.recorder.changes.found) == 2
    assert play.recorder.read() == play.recorder.changes.found
    play.recorder.close()


@pytest.mark.parametrize("seed", range(12))
def test_runs_of_the_simulator_are_decided_the_same_again(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorders: dict[str, Recorder] = {}
    last: dict[str, m.State] = {}

    def recorded(c: Any, s: Any, event: Any, now: float) -> Any:
        rows: list[tuple[Row, str]] = []
        after, commands = step(c, s, event, now, rows)
        if c.serial not in recorders:
            recorders[c.serial] = Recorder(tmp_path / c.serial, c, file_bytes=1 << 30)
        one = recorders[c.serial]
        if s is not last.get(c.serial):
            one._fresh = True  # a process of its own
        last[c.serial] = after
        one.step(event, s, after, commands, rows, now, now)
        until(lambda: len(one._lines) < 500, 5, interval=0.001)
        return after, commands

    monkeypatch.setattr(election_sim, "step", recorded)
    world = election_sim.World(seed)
    for node in (world.a, world.b):
        node.start()
    for _ in range(60):
        world.chaos(world.rng)
        world.run(1.0)
    steps = 0
    for name, one in recorders.items():
        one.close()
        found = replay(lines_of([tmp_path / name]))
        steps += found.steps
        assert found.differences == []
        assert one.lost == 0
    assert steps > 10


def test_why_says_what_was_known(tmp_path: Path) -> None:
    play = Play(None)
    takeover(play)
    play.recorder.close()
    answer = explain(play.recorder.changes.found[-1], 1, "FW-A")
    assert (answer["from"], answer["to"], answer["reason"]) == ("passive", "active", "peer dead")
    assert [r["row"] for r in answer["rows"]] == ["P3"]
    assert answer["peer"]["alive"] is False
    text = "\n".join(answer["text"])
    assert "FW-A became active; it was passive." in text
    assert "FW-B had said: active" in text
    assert "(90 us in all)" in text


def test_why_of_a_hand_over_names_what_led_to_it() -> None:
    play = Play(None)
    play.state = m.State(
        role=m.Role.ACTIVE, since=0.0, peer=m.Peer("FW-B", m.Mode.PASSIVE, table=m.TableState.READY)
    )
    play(10.0, m.Force(m.Forced.PASSIVE))
    play.recorder.log({"id": "handover.start", "time": "T1", "message": "x"})
    play(10.1, m.HandoverDone(False))
    play.recorder.log({"id": "handover.failed", "time": "T2", "message": "y"})
    assert not play.recorder.changes.found
    play(20.0, m.Tick())
    play.recorder.log({"id": "handover.start", "time": "T3", "message": "x"})
    play(20.1, m.HandoverDone(True))
    play.recorder.log({"id": "role.passive", "time": "T4", "message": "z"})
    (change,) = play.recorder.changes.found
    answer = explain(change, 1, "FW-A")
    assert answer["reason"].startswith("peer is better: forced")
    assert [r["row"] for r in answer["rows"]] == ["A9", "H1"]
    assert [e["time"] for e in answer["log"]] == ["T3", "T4"]
