"""The election's table, row by row, and what must hold whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hak2k import model as m
from hak2k.election import (
    TABLE,
    both_active_order,
    deadline,
    none_active_order,
    preference,
    refusal,
    settled,
    status,
    step,
)
from hak2k.events import CATALOG
from hak2k.model import Forced, Mode, Role, TableState

C = m.ElectionConfig.of("FW-A", heartbeat_ms=50, dead_after_ms=200)
NOW = 1000.0
PEER = m.Peer(serial="FW-B", mode=Mode.PASSIVE, table=TableState.READY, term=1)
STARTING = m.initial(NOW)
ACTIVE = m.State(role=Role.ACTIVE, since=NOW - 60, term=1, peer=PEER)
PASSIVE = m.State(
    role=Role.PASSIVE,
    since=NOW - 60,
    term=1,
    synced=True,
    synced_term=1,
    sync_asked=NOW - 60,
    peer=replace(PEER, mode=Mode.ACTIVE, table=TableState.RUNNING),
)


def peer(state: m.State, **changes: object) -> m.PeerStatus:
    assert state.peer is not None
    return m.PeerStatus(replace(state.peer, **changes))  # type: ignore[arg-type]


def run(state: m.State, *events: tuple[float, m.Event]) -> tuple[m.State, list[m.Command]]:
    """Events with their times after NOW; the last state and all commands."""
    out: list[m.Command] = []
    for at, event in events:
        state, commands = step(C, state, event, NOW + at)
        out += commands
    return state, out


def kinds(commands: list[m.Command]) -> list[str]:
    return [type(c).__name__ for c in commands]


START_PEER = m.Peer(serial="FW-B", mode=Mode.STARTING)
ASKED = m.Stop()
FORCE_OUT = m.Force(Forced.PASSIVE, alone=True)
HANDING = replace(ACTIVE, role=Role.HANDING_OVER, offered=2)

# row, state before, events, role after, commands
ROWS: list[tuple[str, m.State, list[tuple[float, m.Event]], Role, list[str]]] = [
    ("S1", STARTING, [(0, ASKED)], Role.STOPPED, ["Shutdown"]),
    (
        "S2",
        STARTING,
        [(0, m.PeerStatus(replace(PEER, mode=Mode.ACTIVE)))],
        Role.PASSIVE,
        ["Demote", "WantSync", "SetStatus"],
    ),
    ("S3", STARTING, [(0, m.PeerStatus(START_PEER))], Role.ACTIVE, ["Promote", "SetStatus"]),
    (
        "S4",
        STARTING,
        [(0, m.PeerStatus(replace(START_PEER, priority=1)))],
        Role.PASSIVE,
        ["Demote", "SetStatus"],
    ),
    ("S5", STARTING, [(0, FORCE_OUT)], Role.PASSIVE, ["Demote", "SetStatus"]),
    ("S6", STARTING, [(1.0, m.Tick())], Role.ACTIVE, ["Promote", "SetStatus"]),
    ("P1", PASSIVE, [(0, ASKED)], Role.STOPPED, ["Shutdown"]),
    ("P2", PASSIVE, [(0, m.HandoverReceived(2))], Role.ACTIVE, ["Promote", "SetStatus"]),
    ("P3", PASSIVE, [(0, m.PeerDead())], Role.ACTIVE, ["Promote", "SetStatus"]),
    (
        "P4",
        PASSIVE,
        [(0, peer(PASSIVE, mode=Mode.FAULT))],
        Role.ACTIVE,
        ["Promote", "SetStatus"],
    ),
    (
        "P5",
        PASSIVE,
        [(0, peer(PASSIVE, mode=Mode.STARTING, table=TableState.STARTING, priority=99))],
        Role.ACTIVE,
        ["Promote", "SetStatus"],
    ),
    (
        "P6",
        PASSIVE,
        [(0, peer(PASSIVE, mode=Mode.PASSIVE)), (C.grace + 0.01, m.Tick())],
        Role.ACTIVE,
        ["Promote", "SetStatus"],
    ),
    ("P7", PASSIVE, [(0, m.SyncLost()), (5, m.Tick())], Role.PASSIVE, ["SetStatus", "WantSync"]),
    ("A1", ACTIVE, [(0, m.PromoteFailed())], Role.PASSIVE, ["Demote", "SetStatus"]),
    ("A2", replace(ACTIVE, peer=None), [(0, ASKED)], Role.STOPPED, ["Shutdown"]),
    (
        "A3",
        replace(ACTIVE, offered=2, retry_at=NOW + 4, quality=100),
        [(0, peer(ACTIVE, mode=Mode.ACTIVE, term=2, quality=1))],
        Role.PASSIVE,
        ["Demote", "WantSync", "SetStatus"],
    ),
    (
        "A4",
        ACTIVE,
        [(0, peer(ACTIVE, mode=Mode.ACTIVE, term=2)), (C.conflict_wait + 0.01, m.Tick())],
        Role.PASSIVE,
        ["Demote", "Log", "WantSync", "SetStatus"],
    ),
    (
        "A5",
        replace(ACTIVE, term=3),
        [(0, peer(ACTIVE, mode=Mode.ACTIVE, term=2)), (C.conflict_wait + 0.01, m.Tick())],
        Role.ACTIVE,
        ["Announce", "Log"],
    ),
    ("A6", ACTIVE, [(0, ASKED)], Role.HANDING_OVER, ["SetStatus", "StartHandover"]),
    (
        "A7",
        replace(ACTIVE, peer=replace(PEER, table=TableState.SYNCING)),
        [(0, ASKED), (C.stop_wait, m.Tick())],
        Role.STOPPED,
        ["Demote", "Shutdown"],
    ),
    (
        "A8",
        replace(ACTIVE, peer=None),
        [(0, FORCE_OUT)],
        Role.PASSIVE,
        ["Demote", "SetStatus"],
    ),
    (
        "A9",
        ACTIVE,
        [(0, m.QualityChanged(50))],
        Role.HANDING_OVER,
        ["SetStatus", "StartHandover"],
    ),
    ("H1", HANDING, [(0, m.HandoverDone(True))], Role.PASSIVE, ["WentPassive", "SetStatus"]),
    ("H2", HANDING, [(0, m.HandoverDone(False))], Role.ACTIVE, ["Log", "SetStatus"]),
]


@pytest.mark.parametrize(
    ("row", "state", "events", "role", "commands"), ROWS, ids=[r[0] for r in ROWS]
)
def test_row(
    row: str,
    state: m.State,
    events: list[tuple[float, m.Event]],
    role: Role,
    commands: list[str],
) -> None:
    after, said = run(state, *events)
    assert after.role is role
    assert kinds(said) == commands
    (known,) = [r for r in TABLE if r.id == row]
    assert known.role is state.role
    assert known.to is role or row == "A7"


def test_every_row_has_a_case() -> None:
    assert [r[0] for r in ROWS] == [r.id for r in TABLE]


def test_rows_are_sorted_by_role() -> None:
    letters = [r.id[0] for r in TABLE]
    assert letters == sorted(letters, key="SPAH".index)


# --- start ---


def test_a_starting_node_waits_before_it_is_active() -> None:
    state, said = run(STARTING, (C.start_wait - 0.01, m.Tick()))
    assert state.role is Role.STARTING
    assert not said


def test_a_starting_node_takes_over_at_once_from_one_that_ends() -> None:
    state, _ = run(STARTING, (0.1, m.PeerBye()))
    assert state.role is Role.ACTIVE


@pytest.mark.parametrize("forced", [Forced.NO, Forced.ACTIVE])
@pytest.mark.parametrize("quality", [0, 100])
def test_two_that_start_together(forced: Forced, quality: int) -> None:
    """From the same facts both come to opposite answers, in one step."""
    a = replace(STARTING, forced=forced, quality=quality)
    b = replace(STARTING, quality=50)
    seen_by_b = m.Peer("FW-A", Mode.STARTING, forced, quality)
    seen_by_a = m.Peer("FW-B", Mode.STARTING, Forced.NO, 50)
    a, _ = step(C, a, m.PeerStatus(seen_by_a), NOW)
    b, _ = step(replace(C, serial="FW-B"), b, m.PeerStatus(seen_by_b), NOW)
    assert {a.role, b.role} == {Role.ACTIVE, Role.PASSIVE}
    assert (a.role is Role.ACTIVE) is (forced is Forced.ACTIVE or quality == 100)


# --- peer lost ---


def test_terms_grow_over_both_nodes() -> None:
    state, said = run(
        PASSIVE,
        (0, peer(PASSIVE, term=41)),
        (1, m.PeerDead()),
    )
    assert state.term == 42
    assert m.Promote(42, "peer dead") in said


def test_a_node_that_is_not_ready_says_so_when_it_must_be_active() -> None:
    state = replace(PASSIVE, synced=False)
    _, said = run(state, (0, m.PeerDead()))
    assert kinds(said) == ["Promote", "Log", "SetStatus"]
    assert isinstance(said[1], m.Log)
    assert said[1].id == "role.unproven"


def test_forced_passive_gives_way_when_the_peer_dies() -> None:
    state, _ = run(PASSIVE, (0, m.Force(Forced.PASSIVE)), (1, m.PeerDead()))
    assert state.role is Role.ACTIVE


def test_forced_passive_alone_does_not() -> None:
    state, _ = run(PASSIVE, (0, FORCE_OUT), (1, m.PeerDead()), (60, m.Tick()))
    assert state.role is Role.PASSIVE
    state, _ = run(state, (61, m.Force(Forced.NO)))
    assert state.role is Role.ACTIVE


# --- swaps ---


def test_equal_nodes_never_swap() -> None:
    state, said = run(ACTIVE, *[(t / 4, m.Tick()) for t in range(400)])
    assert state.role is Role.ACTIVE
    assert not said


def test_no_handover_to_a_peer_that_is_not_ready() -> None:
    state = replace(ACTIVE, peer=replace(PEER, table=TableState.SYNCING))
    state, _ = run(state, (0, m.QualityChanged(0)), (60, m.Tick()))
    assert state.role is Role.ACTIVE
    state, _ = run(state, (61, m.PeerStatus(PEER)))
    assert state.role is Role.HANDING_OVER


def test_a_preference_must_last() -> None:
    state, _ = run(ACTIVE, (0, peer(ACTIVE, priority=50)))
    assert state.role is Role.ACTIVE
    wobble, _ = run(state, (0.9, peer(ACTIVE, priority=0)), (0.95, peer(ACTIVE, priority=50)))
    assert run(wobble, (1.1, m.Tick()))[0].role is Role.ACTIVE
    assert run(state, (1.1, m.Tick()))[0].role is Role.HANDING_OVER


def test_frozen_preferences_wait_and_nothing_else_does() -> None:
    mine, _ = run(ACTIVE, (0, m.Freeze(NOW + 30)))
    theirs, _ = run(ACTIVE, (0, peer(ACTIVE, table=TableState.FROZEN)))
    for state in (mine, theirs):
        worse, _ = run(state, (0.1, m.QualityChanged(10)), (5, m.Tick()))
        assert worse.role is Role.ACTIVE
        assert settled(worse)
        assert run(state, (0.1, m.Force(Forced.PASSIVE)))[0].role is Role.HANDING_OVER
        assert run(state, (0.1, m.Stop()))[0].role is Role.HANDING_OVER
    assert mine.table is TableState.FROZEN
    worse, _ = run(mine, (0.1, m.QualityChanged(10)), (29.9, m.Tick()))
    assert worse.role is Role.ACTIVE
    assert deadline(C, worse, NOW + 29.9) == pytest.approx(NOW + 30)
    over, commands = run(worse, (30, m.Tick()))
    assert over.role is Role.HANDING_OVER
    assert m.Log("freeze.end", "preferences count again: its time is over") in commands
    lifted, commands = run(worse, (1, m.Freeze(None)), (2.5, m.Tick()))
    assert lifted.role is Role.HANDING_OVER
    assert m.Log("freeze.end", "preferences count again: lifted") in commands
    # A standby that is frozen takes over from a dead one all the same.
    standby, _ = run(PASSIVE, (0, m.Freeze(NOW + 30)))
    assert standby.table is TableState.FROZEN
    assert run(standby, (1, m.PeerDead()))[0].role is Role.ACTIVE
    # One whose table is not complete says that, which matters more.
    empty, _ = run(replace(PASSIVE, synced=False), (0, m.Freeze(NOW + 30)))
    assert empty.table is TableState.SYNCING


def test_hold_down_after_a_switch_but_not_for_a_command() -> None:
    state = replace(ACTIVE, last_switch=NOW - 0.5)
    kept, _ = run(state, (0, m.QualityChanged(10)))
    assert kept.role is Role.ACTIVE
    assert run(kept, (0.6, m.Tick()))[0].role is Role.HANDING_OVER
    forced, _ = run(state, (0, m.Force(Forced.PASSIVE)))
    assert forced.role is Role.HANDING_OVER


LIMITED = replace(C, flap_count=4, flap_window=20.0, flap_hold=30.0)


def flap(state: m.State, swaps: int, gap: float = 2.0) -> tuple[m.State, float]:
    """This node gets worse and better than its peer in turn; the state, and when."""
    now, heard = NOW, PEER
    for _ in range(swaps):
        now += gap
        if state.role is Role.ACTIVE:
            events: list[m.Event] = [m.QualityChanged(10), m.HandoverDone(True)]
            heard = replace(PEER, mode=Mode.ACTIVE, table=TableState.RUNNING, term=state.term + 1)
        else:
            events = [m.QualityChanged(100), m.SyncDone(), m.HandoverReceived(state.term + 1)]
            heard = replace(PEER, term=state.term)
        for event in (*events, m.PeerStatus(heard)):
            state, _ = step(LIMITED, state, event, now)
    return state, now


def test_who_flaps_keeps_its_role() -> None:
    state, now = flap(ACTIVE, 4)
    assert state.role is Role.ACTIVE
    assert state.held_until == now + 30
    state, said = step(LIMITED, state, m.QualityChanged(10), now + 3)
    assert state.role is Role.ACTIVE
    assert not [c for c in said if isinstance(c, m.StartHandover)]
    assert settled(state)
    assert deadline(LIMITED, state, now + 29) == pytest.approx(now + 30)
    over, said = step(LIMITED, state, m.Tick(), now + 30)
    assert over.role is Role.HANDING_OVER
    assert [c.id for c in said if isinstance(c, m.Log)] == ["flap.end"]
    # An operator need not wait.
    forced, _ = step(LIMITED, state, m.Force(Forced.PASSIVE), now + 4)
    assert forced.role is Role.HANDING_OVER


def test_the_last_change_says_that_the_role_is_kept() -> None:
    state, now = flap(ACTIVE, 3)
    assert state.role is Role.PASSIVE
    assert state.held_until is None
    events = (m.QualityChanged(100), m.SyncDone(), m.HandoverReceived(state.term + 1))
    said: list[m.Command] = []
    for event in events:
        state, commands = step(LIMITED, state, event, now + 2)
        said += commands
    assert [c.id for c in said if isinstance(c, m.Log)] == ["flap.hold"]


def test_a_standby_that_holds_takes_over_from_a_dead_one() -> None:
    state, now = flap(PASSIVE, 4)
    assert state.role is Role.PASSIVE
    assert state.held_until is not None
    assert step(LIMITED, state, m.PeerDead(), now + 1)[0].role is Role.ACTIVE


def test_slow_changes_are_not_flapping() -> None:
    assert flap(ACTIVE, 12, gap=10.0)[0].held_until is None


def test_commands_are_not_flapping() -> None:
    state, now = ACTIVE, NOW
    for _ in range(12):
        now += 2
        events = (m.Force(Forced.PASSIVE), m.HandoverDone(True), m.Force(Forced.ACTIVE))
        for event in (*events, m.SyncDone(), m.HandoverReceived(state.term + 2)):
            state, _ = step(LIMITED, state, event, now)
    assert state.role is Role.ACTIVE
    assert state.held_until is None


def test_without_a_limit_nothing_is_held() -> None:
    assert C.flap_count == 0
    state, _ = run(ACTIVE, *[(t * 2.0, m.HandoverReceived(t)) for t in range(30)])
    assert state.switches == ()


def test_a_failed_handover_is_not_repeated_at_once() -> None:
    state, _ = run(
        ACTIVE,
        (0, m.QualityChanged(10)),
        (2, m.HandoverDone(False)),
        (3, m.Tick()),
    )
    assert state.role is Role.ACTIVE
    assert run(state, (7.1, m.Tick()))[0].role is Role.HANDING_OVER


def test_nothing_else_is_decided_while_a_handover_runs() -> None:
    for event in (m.PeerDead(), m.PeerBye(), ASKED, FORCE_OUT, m.QualityChanged(100)):
        assert run(HANDING, (0, event), (9, m.Tick()))[0].role is Role.HANDING_OVER


def test_who_was_handed_the_role_ignores_the_others_last_words() -> None:
    """Until the other's hand-over has ended it says that it is active."""
    state, _ = run(PASSIVE, (0, m.HandoverReceived(2)), (0.1, peer(PASSIVE, quality=100)))
    state = replace(state, quality=50)
    assert run(state, (1.0, m.Tick()))[0].role is Role.ACTIVE
    assert run(state, (4.0, m.Tick()))[0].role is Role.PASSIVE


# --- both active ---


def test_one_glance_is_no_conflict() -> None:
    both = peer(ACTIVE, mode=Mode.ACTIVE, term=9)
    state, _ = run(ACTIVE, (0, both), (0.1, m.PeerStatus(PEER)), (0.2, both), (0.3, m.Tick()))
    assert state.role is Role.ACTIVE


def test_the_winner_says_so_once() -> None:
    state = replace(ACTIVE, term=3)
    state, said = run(
        state,
        (0, peer(ACTIVE, mode=Mode.ACTIVE, term=2)),
        *[(0.2 + t / 20, m.Tick()) for t in range(60)],
    )
    assert kinds(said) == ["Announce", "Log"]


def test_the_winner_raises_its_term_above_the_losers() -> None:
    state, said = run(
        ACTIVE,
        (0, peer(ACTIVE, mode=Mode.ACTIVE, term=7, quality=10)),
        (0.2, m.Tick()),
    )
    assert state.role is Role.ACTIVE
    assert state.term == 8
    assert kinds(said) == ["Announce", "Log", "SetStatus"]


def test_a_node_that_slept_does_not_take_the_role_back() -> None:
    """Its priority is better, but the other was promoted while it was away."""
    state = replace(ACTIVE, priority=50)
    both = peer(ACTIVE, mode=Mode.ACTIVE, term=2)
    state, _ = run(state, (0, both), (0.2, m.Tick()))
    assert state.role is Role.PASSIVE


def test_forced_alike_falls_through_and_is_said() -> None:
    state, said = run(
        replace(ACTIVE, forced=Forced.ACTIVE),
        (0, peer(ACTIVE, forced=Forced.ACTIVE, quality=99)),
        (5, m.Tick()),
    )
    assert state.role is Role.ACTIVE
    assert [c.id for c in said if isinstance(c, m.Log)] == ["force.tie"]


# --- fault ---


def test_a_fault_is_told_and_tried_again() -> None:
    state, _ = run(ACTIVE, (0, m.PromoteFailed()))
    assert state.mode is Mode.FAULT
    state, _ = run(state, (1, m.PeerDead()))
    assert state.role is Role.PASSIVE
    state, _ = run(state, (5.1, m.Tick()))
    assert state.role is Role.ACTIVE


def test_a_session_and_a_status_are_one_event() -> None:
    """A node that could not be active meets an active peer that it took for dead."""
    alone = replace(PASSIVE, peer=replace(PEER, alive=False), fault_until=NOW - 1)
    told = replace(PEER, mode=Mode.ACTIVE, table=TableState.RUNNING)
    state, _ = run(alone, (0, m.SessionUp(True, told)))
    assert state.role is Role.PASSIVE


# --- table state ---


def test_a_newborn_peer_does_not_make_our_table_worse() -> None:
    state, commands = run(PASSIVE, (0, m.SessionUp(new_boot=True)))
    assert state.role is Role.ACTIVE
    assert "role.unproven" not in [c.id for c in commands if isinstance(c, m.Log)]


def test_what_a_peer_was_ends_with_its_process() -> None:
    # Its first status may be long on its way: no hand-over to who was ready once.
    state = replace(ACTIVE, quality=50)
    after, commands = run(state, (0, m.SessionUp(new_boot=True)), (1, m.Tick()))
    assert after.role is Role.ACTIVE
    assert not commands
    assert after.peer is not None
    assert not after.peer.ready
    # How good it was still counts: no election against made-up zeroes.
    weak = replace(PASSIVE, synced=False, quality=50)
    after, _ = run(weak, (0, m.SessionUp(new_boot=True)))
    assert after.role is Role.PASSIVE


@pytest.mark.parametrize(
    "event", [m.SessionUp(new_boot=False), m.SyncLost(), peer(PASSIVE, term=9)]
)
def test_the_table_must_be_compared_anew(event: m.Event) -> None:
    assert run(PASSIVE, (0, event))[0].table is TableState.SYNCING


def test_a_copy_that_does_not_come_is_asked_for_again() -> None:
    state = replace(PASSIVE, synced=False, sync_asked=None)
    state, said = run(state, *[(t / 10, m.Tick()) for t in range(101)])
    assert kinds(said) == ["WantSync", "WantSync", "WantSync"]
    state, said = run(state, (10.1, m.SyncBegin()), (60, m.Tick()), (61, m.SyncDone()))
    assert kinds(said) == ["SetStatus"]
    assert state.table is TableState.READY


# --- commands ---


@pytest.mark.parametrize(
    ("state", "event", "words"),
    [
        (replace(PASSIVE, synced=False), m.Force(Forced.ACTIVE), "not ready"),
        (replace(PASSIVE, fault_until=NOW + 9), m.Force(Forced.ACTIVE), "promotion failed"),
        (HANDING, m.Force(Forced.ACTIVE), "in progress"),
        (replace(ACTIVE, stopping=NOW), m.Force(Forced.PASSIVE), "stopping"),
        (replace(ACTIVE, peer=None), m.Force(Forced.PASSIVE), "--force"),
        (
            replace(ACTIVE, peer=replace(PEER, table=TableState.SYNCING)),
            m.Force(Forced.PASSIVE),
            "peer is not ready",
        ),
        (
            replace(ACTIVE, peer=replace(PEER, forced=Forced.PASSIVE)),
            m.Force(Forced.PASSIVE),
            "forced passive as well",
        ),
        (PASSIVE, m.Force(Forced.ACTIVE), None),
        (ACTIVE, m.Force(Forced.ACTIVE), None),
        (PASSIVE, m.Force(Forced.PASSIVE), None),
        (replace(ACTIVE, peer=None), FORCE_OUT, None),
        (replace(ACTIVE, peer=None), m.Force(Forced.NO), None),
        (STARTING, m.Force(Forced.ACTIVE), None),
    ],
)
def test_refusals(state: m.State, event: m.Force, words: str | None) -> None:
    why = refusal(C, state, event)
    if words is None:
        assert why is None
    else:
        assert why is not None
        assert words in why


def test_a_force_that_is_not_refused_leads_to_a_swap() -> None:
    _, said = run(ACTIVE, (0, m.Force(Forced.PASSIVE)))
    assert kinds(said) == ["SetStatus", "StartHandover"]
    # Forced active on the other node, seen here.
    _, said = run(ACTIVE, (0, peer(ACTIVE, forced=Forced.ACTIVE)))
    assert "StartHandover" in kinds(said)


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (STARTING, False),
        (HANDING, False),
        (ACTIVE, True),
        (PASSIVE, True),
        (replace(ACTIVE, peer=None), True),
        (replace(PASSIVE, peer=None), False),
        (replace(PASSIVE, peer=None, alone=True), True),
        (replace(ACTIVE, peer=replace(PEER, priority=1)), False),
        (replace(PASSIVE, priority=1), False),
        (replace(PASSIVE, priority=1, synced=False), True),
    ],
)
def test_settled(state: m.State, wanted: bool) -> None:
    assert settled(state) is wanted


# --- what holds for every input ---

PEERS = st.builds(
    m.Peer,
    serial=st.just("FW-B"),
    mode=st.sampled_from(Mode),
    forced=st.sampled_from(Forced),
    quality=st.sampled_from([0, 50, 100]),
    priority=st.sampled_from([0, 50]),
    table=st.sampled_from(TableState),
    term=st.integers(0, 4),
    alive=st.booleans(),
)
EVENTS = st.one_of(
    st.just(m.Tick()),
    st.builds(m.PeerStatus, PEERS),
    st.just(m.PeerDead()),
    st.just(m.PeerBye()),
    st.builds(m.SessionUp, st.booleans()),
    st.sampled_from([m.SyncBegin(), m.SyncDone(), m.SyncLost(), m.PromoteFailed()]),
    st.builds(m.HandoverReceived, st.integers(1, 5)),
    st.builds(m.Force, st.sampled_from(Forced), st.booleans()),
    st.builds(m.QualityChanged, st.sampled_from([0, 50, 100])),
    st.builds(m.PriorityChanged, st.sampled_from([0, 50])),
    st.just(m.Stop()),
)


@given(st.lists(st.tuples(st.floats(0, 3), EVENTS, st.booleans()), max_size=30))
def test_any_history(history: list[tuple[float, m.Event, bool]]) -> None:
    """Commands and roles fit each other; terms never fall; time alone is announced
    by deadline()."""
    state, now, gate = m.initial(NOW), NOW, False
    for pause, event, ok in history:
        now += pause
        events = [event]
        if state.role is Role.HANDING_OVER:
            events.append(m.HandoverDone(ok))
        for e in events:
            before = state
            state, commands = step(C, state, e, now)
            assert state.term >= before.term
            for command in commands:
                match command:
                    case m.Promote():
                        gate = True
                    case m.Demote() | m.WentPassive() | m.StartHandover():
                        gate = False
                    case m.Log(id, _):
                        assert id in CATALOG
            if before.role is Role.HANDING_OVER and state.role is Role.ACTIVE:
                gate = True  # the engine does that
            if state.role is not Role.STOPPED:
                assert gate is (state.role is Role.ACTIVE)
            if status(state) != status(before) and state.role is not Role.STOPPED:
                assert m.SetStatus in [type(x) for x in commands]
            if before.role is Role.STOPPED:
                assert state.role is Role.STOPPED
        # Nothing may be due already: whatever could fire has fired.
        again, commands = step(C, state, m.Tick(), now)
        assert again.role is state.role
        assert not [x for x in commands if isinstance(x, m.Promote | m.Demote)]
        # And nothing becomes due before the deadline.
        due = deadline(C, state, now)
        just_before = now + 50 if due is None else due - 1e-3
        if just_before > now:
            later, _ = step(C, state, m.Tick(), just_before)
            assert later.role is state.role


STATES = st.builds(
    m.State,
    role=st.just(Role.ACTIVE),
    since=st.just(NOW),
    quality=st.sampled_from([0, 50, 100]),
    priority=st.sampled_from([0, 50]),
    forced=st.sampled_from(Forced),
    term=st.integers(0, 3),
    synced=st.booleans(),
    frozen_until=st.sampled_from([None, NOW + 5]),
)


@given(STATES, STATES)
def test_both_sides_of_each_order_agree(a: m.State, b: m.State) -> None:
    def seen(s: m.State, serial: str) -> m.Peer:
        table = replace(s, role=Role.PASSIVE).table  # while none is active
        return m.Peer(serial, s.mode, s.forced, s.quality, s.priority, table, s.term)

    other = replace(C, serial="FW-B")
    as_a, as_b = seen(a, "FW-A"), seen(b, "FW-B")
    for order in (none_active_order, both_active_order):
        ours, theirs = order(C, a, as_b)[0], order(other, b, as_a)[0]
        assert ours * theirs < 0
    assert preference(a, as_b)[0] == -preference(b, as_a)[0]
