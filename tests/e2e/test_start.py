"""Who becomes active when daemons start; one is enough, two are never too many."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from hak2k.lab import Lab, Node, until
from tests.e2e.duo import Duo, GateWatch


@pytest.fixture(scope="module")
def still() -> Iterator[Duo]:
    """A lab whose daemons each test starts itself."""
    duo = Duo(traffic=False)
    yield duo
    duo.close()


@pytest.fixture
def duo(still: Duo) -> Duo:
    for fw in still.lab.fw:
        still.lab.kill(fw)
        still.lab.daemons[fw].log.write_text("")
        fw.nft("table netdev hak2k\ntable inet hak2k\ndelete table netdev hak2k\n"
               "delete table inet hak2k")  # fmt: skip
    return still


def configure(lab: Lab, priorities: tuple[int, int], serials: tuple[str, str]) -> None:
    for fw, priority, serial in zip(lab.fw, priorities, serials, strict=True):
        lab.write_config(fw, cluster={"priority": priority}, node={"serial": serial})


def only_one_ever(watch: GateWatch, lab: Lab, winner: Node) -> None:
    """The winner's gate opened once, the other's never."""
    watch.never_both()
    column = 1 + lab.fw.index(winner)
    states = [change[column] for change in watch.history]
    once = states[states.index("open") :]
    assert set(once) == {"open"}, watch.history
    others = {change[3 - column] for change in watch.history}
    assert "open" not in others, watch.history


def started_together(duo: Duo, first: Node) -> None:
    """Start both at once.  On a busy machine one may come so much later that it
    finds the other past its start: then it is another story, and both try again."""
    lab = duo.lab
    for _ in range(5):
        for fw in (first, lab.other(first)):
            lab.start(fw, wait=False)
        for fw in lab.fw:
            lab.daemons.wait_answering(fw)
        boots = [
            datetime.fromisoformat(duo.ask(fw, "info")["local"]["boot"]).timestamp()
            for fw in lab.fw
        ]
        if abs(boots[0] - boots[1]) < 0.5:
            return
        for fw in lab.fw:
            lab.kill(fw)
    raise AssertionError("this machine never starts two processes within half a second")


# The one that shall lose is started first: a moment's lead decides nothing.
@pytest.mark.parametrize(
    ("priorities", "serials", "winner"),
    [
        ((50, 0), ("FW-A", "FW-B"), "fw1"),
        ((0, 50), ("FW-A", "FW-B"), "fw2"),
        ((0, 0), ("FW-A", "FW-B"), "fw1"),
        ((0, 0), ("FW-Z", "FW-B"), "fw2"),
    ],
    ids=["priority-fw1", "priority-fw2", "serial-fw1", "serial-fw2"],
)
def test_two_started_together(
    duo: Duo, priorities: tuple[int, int], serials: tuple[str, str], winner: str
) -> None:
    lab = duo.lab
    configure(lab, priorities, serials)
    with GateWatch(lab) as watch:
        started_together(duo, lab.other(winner))
        duo.ready()
        watch.more(100)
    assert duo.active is lab.node(winner), duo.report()
    only_one_ever(watch, lab, duo.active)
    for fw in lab.fw:
        roles = [i for i in duo.ids(fw) if i.startswith("role.")]
        # It may pass through passive when the other one was quicker to decide.
        assert roles in (["role.active"], ["role.passive", "role.active"], ["role.passive"])
        assert (roles[-1] == "role.active") is (fw is duo.active)


def test_one_alone_then_a_second(duo: Duo) -> None:
    """Alone: closed while it waits, then active.  The second joins as passive."""
    lab = duo.lab
    configure(lab, (0, 0), ("FW-B", "FW-A"))
    begun = time.monotonic()
    lab.start(lab.fw1)
    assert duo.mode(lab.fw1) == "starting"
    assert duo.gate(lab.fw1) == "closed"
    info = duo.ask(lab.fw1, "info")
    assert info["peer"] is None
    assert info["local"]["state"] == "starting"
    duo.wait_mode(lab.fw1, "active")
    took = time.monotonic() - begun
    assert 1.0 <= took < 5.0  # the start wait, and the interpreter's own
    assert duo.gate(lab.fw1) == "open"
    assert "no peer heard" in duo.wait_event(lab.fw1, "role.active")["reason"]
    assert duo.wait_event(lab.fw1, "peer.absent")["severity"] == "warning"
    info = duo.ask(lab.fw1, "info")
    assert (info["local"]["mode"], info["local"]["state"]) == ("active", "running")
    assert info["local"]["supervisor"] is True

    # The newcomer would win a tie, but an active node is not asked to step down.
    with GateWatch(lab) as watch:
        lab.start(lab.fw2)
        duo.ready()
        watch.more(100)
        only_one_ever(watch, lab, lab.fw1)
    assert [i for i in duo.ids(lab.fw2) if i.startswith(("role.", "sync."))] == [
        "role.passive",
        "sync.start",
        "sync.done",
    ]
    assert duo.wait_event(lab.fw2, "role.passive")["reason"] == "peer is active"
    until(lambda: duo.ask(lab.fw1, "info")["peer"]["state"] == "ready", 3, "the peer is ready")
    # Equal nodes never swap: past every waiting time of the election's.
    until(lambda: duo.ask(lab.fw2, "stats")["daemon.uptime_s"] >= 3, 10, "three seconds")
    assert duo.active is lab.fw1


def test_preferred_node_joins_later_and_takes_over(duo: Duo) -> None:
    """First everything is copied, then the role changes hands."""
    lab = duo.lab
    configure(lab, (50, 0), ("FW-A", "FW-B"))
    lab.start(lab.fw2)
    duo.wait_mode(lab.fw2, "active")
    with GateWatch(lab) as watch:
        lab.start(lab.fw1)
        duo.wait_mode(lab.fw1, "active")
        duo.ready()
        watch.handed_over()
    ids = [i for i in duo.ids(lab.fw1) if i.startswith(("role.", "sync."))]
    # What was begun before the role was known may begin once more.
    ids = [i for n, i in enumerate(ids) if i not in ids[:n]]
    assert ids[:4] == ["role.passive", "sync.start", "sync.done", "role.active"]
    reason = duo.wait_event(lab.fw2, "handover.start")["reason"]
    assert reason == "peer is better: priority 0 to 50"
    assert "handover.done" in duo.ids(lab.fw2)


def test_gate_left_open_is_closed_before_anything_else(duo: Duo) -> None:
    """A node that died active comes up mute, whatever its kernel was left with."""
    lab = duo.lab
    configure(lab, (0, 0), ("FW-A", "FW-B"))
    lab.start(lab.fw1)
    duo.wait_mode(lab.fw1, "active")
    lab.kill(lab.fw1)
    assert duo.gate(lab.fw1) == "open"
    lab.start(lab.fw1)
    assert duo.mode(lab.fw1) == "starting"
    assert duo.gate(lab.fw1) == "closed"
    duo.wait_mode(lab.fw1, "active")


def test_hangup_reloads_what_may_change(duo: Duo) -> None:
    """SIGHUP and `enha` are the same; a refused file changes nothing."""
    lab = duo.lab
    configure(lab, (0, 0), ("FW-A", "FW-B"))
    for fw in lab.fw:
        lab.start(fw)
    duo.ready()
    fw = duo.active
    sessions = duo.ask(fw, "stats")["handshakes"]
    serial = duo.ask(fw, "info")["local"]["serial"]
    lab.write_config(fw, node={"serial": serial}, cluster={"priority": 0}, swap={"garp_count": 5})
    lab.daemons.signal(fw, signal.SIGHUP)
    assert duo.wait_event(fw, "config.reloaded")["keys"] == ["swap.garp_count"]

    lab.write_config(fw, node={"serial": "FW-Q"}, cluster={"priority": 0}, swap={"garp_count": 5})
    done = lab.daemons.command(fw, "reload")
    assert done.returncode == 1
    assert "node.serial: cannot change while the stream runs" in done.stderr
    lab.write_config(fw, extra="nonsense = 1\n")
    done = lab.daemons.command(fw, "reload")
    assert done.returncode == 2  # a file that is wrong, not a refusal
    assert "nonsense: is not a known key" in done.stderr
    before = duo.position(fw)
    lab.daemons.signal(fw, signal.SIGHUP)
    assert "nonsense" in duo.wait_event(fw, "config.refused", before)["message"]
    assert duo.ask(fw, "info")["local"]["serial"] == serial
    assert duo.ask(fw, "stats")["handshakes"] == sessions
    duo.ready()


def test_log_format_json(duo: Duo) -> None:
    lab = duo.lab
    configure(lab, (0, 0), ("FW-A", "FW-B"))
    lab.start(lab.fw1, "--log-format", "json")
    duo.wait_event(lab.fw1, "daemon.start")
    lab.stop(lab.fw1)
    lines = lab.daemons[lab.fw1].log.read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [events[0]["id"], events[-1]["id"]] == ["daemon.start", "daemon.stop"]
    assert all({"time", "id", "severity", "message"} <= event.keys() for event in events)


def test_check_says_ok_and_touches_nothing(duo: Duo) -> None:
    lab = duo.lab
    configure(lab, (0, 0), ("FW-A", "FW-B"))
    done = lab.fw1.run(
        lab.daemons.bindir / "hak2kd", "--config", lab.daemons[lab.fw1].config, "--check"
    )
    assert (done.stdout, done.stderr) == ("OK\n", "")
    assert duo.gate(lab.fw1) == "missing"
