"""The demonstration: it must succeed, and it must be able to fail."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hak2k.demo.screen import PlainScreen, picture, summary_lines
from hak2k.demo.show import Incident, Show, Step
from hak2k.demo.story import event_time, first_event, make_groups
from hak2k.lab.traffic import Stats


def example_show() -> Show:
    show = Show(make_groups(100))
    for group in show.groups:
        group.stats = Stats(group.proto, group.count, group.count, group.count, received=9)
        group.crash_gap_ms, group.swap_gap_ms = 250.0, 120.0
    flows = {"tcp": 100, "udp": 12}
    for title in ("power cut of FW-A", "planned swap to FW-A"):
        gaps = {group.label: 250.0 for group in show.groups}
        show.incidents.append(Incident(title, 150.0, 0.2, 50.0, 0, dict(flows), flows, gaps))
    return show


@pytest.mark.parametrize("connections", [10, 101, 240, 2000])
def test_every_connection_is_dealt_out(connections: int) -> None:
    groups = [group for group in make_groups(connections) if group.proto == "tcp"]
    assert sum(group.count for group in groups) == connections
    assert len({group.key for group in groups}) == 5


def test_success_needs_everything_unharmed() -> None:
    assert example_show().success
    for spoil in (
        lambda show: show.incidents[0].survived.update(tcp=99),
        lambda show: setattr(show.incidents[1], "resets", 1),
        lambda show: show.incidents.pop(),
        lambda show: setattr(show, "failure", "it rained"),
        lambda show: setattr(show, "leaked", 1),
        lambda show: setattr(show, "resets", 1),
    ):
        show = example_show()
        spoil(show)
        assert not show.success
        assert any(line.startswith("FAILED") for line in summary_lines(show))


@pytest.mark.parametrize("height", [10, 24, 30, 60])
def test_the_picture_fits(height: int) -> None:
    show = example_show()
    show.event("fw1", {"id": "role.active", "message": "m" * 200})
    show.event("fw2", {"id": "role.passive"})
    show.event("fw2", {"id": "sync.done", "message": "done"})
    show.steps += [Step("x" * 200, 0.0, 1.0, "y" * 90), Step("now", 0.0)]
    assert show.firewalls["fw1"].mode == "active"
    assert show.firewalls["fw2"].ready
    text = io.StringIO()
    Console(file=text, width=80, height=height).print(picture(show, height))
    lines = text.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert len(lines) <= max(height, 24)
    plain = io.StringIO()
    with PlainScreen(show, plain) as screen:
        screen.told(show.steps[0])
    assert max(len(line) for line in plain.getvalue().splitlines()[1:]) <= 100
    assert "Nothing was lost." in plain.getvalue()


def test_events_may_lack_anything() -> None:
    events = [
        {"id": "role.active", "time": "2026-01-01T00:00:00.500Z", "gate_us": 1},
        {"id": "role.active", "time": "nonsense"},
        {"id": "role.active"},
        {"id": "role.active", "time": "2026-01-01T00:00:02.000Z", "gate_us": 2},
    ]
    begin = event_time(events[0])
    assert begin is not None
    assert first_event(events, "role.active", begin)["gate_us"] == 1
    assert first_event(events, "role.active", begin + 1)["gate_us"] == 2
    assert first_event(events, "role.active", begin + 9) == {}
    assert first_event([], "peer.dead", 0) == {}


@pytest.mark.skipif(
    not (Path(sys.executable).parent / "hak2kd").exists(), reason="hak2kd is not installed"
)
def test_the_demonstration_succeeds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hak2k.demo", "--fast", "--json", "--connections", "60"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["success"]
    assert report["resets"] == 0
    assert report["tables_equal"]
    assert [incident["flows"]["tcp"] for incident in report["incidents"]] == [60, 60]
    assert all(incident["unharmed"] for incident in report["incidents"])
    assert "Nothing was lost." in done.stderr
