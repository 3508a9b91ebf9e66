"""Who is active.  A pure state machine: no clock, no socket, no kernel.

    state, commands = step(config, state, event, now)

`now` is any monotonic time in seconds.  Feed every event as it happens and a Tick
no later than `deadline(config, state)`; carry out the commands in order.

Theory of operation
-------------------
Each node decides for itself from what it knows of both.  Both know nearly the
same (heartbeats carry it), and both use the same order (`Rank`), so they come to
opposite answers.  Where what they know differs for a moment, one of two things
happens, and each is repaired by a rule that needs no agreement beforehand:

* both active:  the loser demotes itself           rows A3 to A5
* none active:  the winner promotes itself         rows P5, P6

Facts and rules are apart.  `_absorb` turns an event into facts in State; the rows
of TABLE, read from the top, say what follows from the facts.  A row fires if its
guard holds; then the table is read again for the new role, until no row fires.
Nothing else changes a role.  docs/ and the tests are made from the same table.

Order of preference between two candidates
------------------------------------------
    none active (start, double passive)    forced, ready, quality, priority, serial
    one active, other is better?           forced, quality, priority   (strictly)
    both active (after a split)            forced, quality, term, priority, serial

* forced: active before none before passive.  Both forced alike: the rule falls
  through to the next criterion, and the event log says so.
* ready: a node whose table is complete goes before one that has just started,
  whatever their priorities: connections count more than preference.  Preference
  is restored afterwards by a hand-over that loses nothing.
* term: the number of the last promotion, which grows over both nodes.  Of two
  actives the higher term was promoted later, because the other one was silent:
  switches have learnt its announcements, and a node that was frozen for a while
  and wakes up must not take its old role back from it.  So it goes before
  priority; quality goes before it, for a node that lost all its cables promotes
  itself too, and must not win with nothing behind it.
* serial: the lower string wins.  It only makes the order total.

A single active stays where it is unless the other is strictly better: equal
nodes never swap.  A better node takes over by hand-over, when it is ready, never
before; only death, a farewell (BYE) or a command makes a node that is not ready
active, since some service is better than none, and the log says what was unproven.

Times (`ElectionConfig`)
------------------------
start_wait      a starting node that hears nobody waits this long, then is active
grace           a double passive must last this long before the winner acts: the
                moment between a hand-over and the other's promotion looks the same
conflict_wait   a double active must last this long, so that a stale heartbeat
                does not demote the new active
handover_wait   the same for one that was handed the role: until the other's
                hand-over has ended, it says that it is active
hold_down       between two voluntary switches, and how long a mere preference
                (priority) must last before it causes one
flap_hold       after flap_count changes of role within flap_window that nobody asked
                for, no quality and no priority moves the role for that long
retry_wait      after a failed hand-over or promotion
stop_wait       how long a stopping active waits for a peer that is synchronising
frozen_until    given with each freeze: while a ruleset is being reloaded on either
                node, quality and priority decide nothing between two live nodes

Not handled here: a witness.  If every HA link is lost at once and both nodes live,
both become active; E9 is for a later version.  The forced state is not kept over
a restart of the daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from hak2k.model import (
    Announce,
    Command,
    Demote,
    ElectionConfig,
    Event,
    Force,
    Forced,
    Freeze,
    HandoverDone,
    HandoverReceived,
    Log,
    Mode,
    Peer,
    PeerBye,
    PeerDead,
    PeerStatus,
    PriorityChanged,
    Promote,
    PromoteFailed,
    QualityChanged,
    Role,
    SessionUp,
    SetStatus,
    Shutdown,
    StartHandover,
    State,
    Stop,
    SyncBegin,
    SyncDone,
    SyncLost,
    TableState,
    Tick,
    WantSync,
    WentPassive,
)
from hak2k.order import both_active_order, none_active_order, preference

# --- facts -------------------------------------------------------------------


def _live(s: State) -> Peer | None:
    return s.peer if s.peer is not None and s.peer.alive else None


def frozen(s: State) -> bool:
    """Either node asked that preferences wait.  Death, commands and conflicts do not."""
    p = _live(s)
    return s.frozen_until is not None or (p is not None and p.table is TableState.FROZEN)


def _commanded(s: State) -> bool:
    """A change of role now is an operator's doing."""
    p = _live(s)
    return s.stopping is not None or (p is not None and s.forced is not p.forced)


def _live_mode(s: State) -> Mode | None:
    p = _live(s)
    return p.mode if p is not None else None


def _told(s: State, peer: Peer) -> State:
    # A peer that was promoted since then had a life without us.
    if peer.mode is Mode.ACTIVE and peer.term != s.synced_term and s.synced:
        s = replace(s, synced=False, sync_asked=None)
    # A live status says that the farewell, if any, is of an older life.
    return replace(
        s,
        peer=peer,
        farewell=s.farewell and not peer.alive,
        # The next promotion of either must be told from all before it,
        # so we remember the highest term heard of, except while active:
        # then ours is the number of a promotion that took place.
        term=s.term if s.mode is Mode.ACTIVE else max(s.term, peer.term),
    )


def _absorb(c: ElectionConfig, s: State, event: Event, now: float) -> State:
    """The facts after an event.  Decides nothing."""
    match event:
        case PeerStatus(peer):
            s = _told(s, peer)
        case PeerDead():
            if s.peer is not None:
                s = replace(s, peer=replace(s.peer, alive=False))
            s = replace(s, syncing=False)
        case PeerBye():
            if s.peer is not None:
                s = replace(s, peer=replace(s.peer, alive=False))
            s = replace(s, farewell=True, syncing=False)
        case SessionUp(new_boot, told):
            # Whatever was on its way to us ended with the old session.  The table
            # itself stays complete if the peer is a newborn: it has nothing that
            # we lack, and we may be the only one who knows the connections.
            s = replace(s, syncing=False, sync_asked=None)
            if new_boot:
                s = replace(s, farewell=False, offer=None)
                # What it was is over; how good it is will hardly have changed, and
                # its first status, which may be long on its way, will tell.
                if s.peer is not None:
                    newborn = replace(
                        s.peer,
                        mode=Mode.STARTING,
                        forced=Forced.NO,
                        table=TableState.STARTING,
                    )
                    s = replace(s, peer=newborn)
            else:
                s = replace(s, synced=False)
            # Both at once: between the two, a peer that is heard would be a dead one.
            if told is not None:
                s = _told(s, told)
        case SyncBegin():
            s = replace(s, syncing=True)
        case SyncDone():
            if s.role is Role.PASSIVE:
                term = s.peer.term if s.peer is not None else s.term
                s = replace(s, syncing=False, synced=True, synced_term=term)
        case SyncLost():
            # The engine asks by itself; we would, too, if that came to nothing.
            s = replace(s, syncing=False, synced=False, sync_asked=now)
        case HandoverReceived(term):
            s = replace(s, offer=term)
        case HandoverDone(ok):
            s = replace(s, outcome=ok)
        case Force(forced, alone):
            s = replace(s, forced=forced, alone=alone and forced is Forced.PASSIVE)
        case QualityChanged(quality):
            s = replace(s, quality=quality)
        case PriorityChanged(priority):
            s = replace(s, priority=priority)
        case Freeze(until):
            s = replace(s, frozen_until=until)
        case Stop():
            s = replace(s, stopping=now if s.stopping is None else s.stopping)
        case PromoteFailed():
            s = replace(s, failed=True, fault_until=now + c.retry_wait)
        case Tick():
            pass
    return s


def _watch(s: State, now: float) -> State:
    """Keep the stopwatches of conditions that must last before they count."""

    def watch(since: float | None, holds: bool) -> float | None:
        if not holds:
            return None
        return now if since is None else since

    def ends(until: float | None) -> float | None:
        return None if until is None or now >= until else until

    p = _live(s)
    idle = (Mode.STARTING, Mode.PASSIVE)
    none_active = s.role is Role.PASSIVE and p is not None and p.mode in idle
    both_active = s.role is Role.ACTIVE and p is not None and p.mode is Mode.ACTIVE
    better = s.role is Role.ACTIVE and p is not None and p.ready and preference(s, p)[0] < 0
    before = (
        s.none_active_since,
        s.both_active_since,
        s.better_since,
        s.fault_until,
        s.frozen_until,
        s.held_until,
    )
    after = (
        watch(s.none_active_since, none_active),
        watch(s.both_active_since, both_active),
        watch(s.better_since, better),
        # A fault heals by time: the next promotion tries again.
        s.fault_until if now < s.fault_until else 0.0,
        # So does a freeze that nobody lifted: its author may have died.
        ends(s.frozen_until),
        ends(s.held_until),
    )
    if after == before:
        return s
    none_active_since, both_active_since, better_since, fault, freeze, hold = after
    return replace(
        s,
        none_active_since=none_active_since,
        both_active_since=both_active_since,
        better_since=better_since,
        fault_until=fault,
        frozen_until=freeze,
        held_until=hold,
    )


# --- guards: State -> why the row fires, or None ------------------------------

_Guard = Callable[[ElectionConfig, State, float], str | None]


def _stopping(c: ElectionConfig, s: State, now: float) -> str | None:
    return "stopping" if s.stopping is not None else None


def _peer_is_set(c: ElectionConfig, s: State, now: float) -> str | None:
    """The peer is past its start: what it is needs no decision of ours."""
    mode = _live_mode(s)
    if mode in (Mode.ACTIVE, Mode.PASSIVE, Mode.FAULT):
        return f"peer is {mode.name.lower()}"
    return None


def _starting_together(c: ElectionConfig, s: State, now: float, sign: int) -> str | None:
    p = _live(s)
    if p is None or p.mode is not Mode.STARTING:
        return None
    order, why = none_active_order(c, s, p)
    return f"elected at start: {why}" if order * sign > 0 else None


def _start_won(c: ElectionConfig, s: State, now: float) -> str | None:
    return _starting_together(c, s, now, 1)


def _start_lost(c: ElectionConfig, s: State, now: float) -> str | None:
    return _starting_together(c, s, now, -1)


def _nobody_heard(c: ElectionConfig, s: State, now: float) -> str | None:
    if _live(s) is not None or s.alone or s.fault_until:
        return None
    if s.farewell:
        return "peer said goodbye"
    if now - s.since >= c.start_wait:
        return f"no peer heard for {c.start_wait:g} s"
    return None


def _alone_at_start(c: ElectionConfig, s: State, now: float) -> str | None:
    return "forced passive" if s.alone and _live(s) is None else None


def _offered(c: ElectionConfig, s: State, now: float) -> str | None:
    return "hand-over by the peer" if s.offer is not None else None


def _peer_gone(c: ElectionConfig, s: State, now: float) -> str | None:
    # Forced passive is a preference between two, not a veto: without another
    # node it gives way, unless the operator said so in so many words (--force).
    if _live(s) is not None or s.alone or s.fault_until:
        return None
    if s.farewell:
        return "peer said goodbye"
    return "peer dead" if s.peer is not None else "no peer"


def _peer_unfit(c: ElectionConfig, s: State, now: float) -> str | None:
    if _live_mode(s) is not Mode.FAULT or s.alone or s.fault_until:
        return None
    return "peer cannot be active"


def _peer_restarted(c: ElectionConfig, s: State, now: float) -> str | None:
    """The peer starts: so nobody is active, and it will find us passive, which
    makes it passive too (row S2) unless it decided before it heard that: hence
    the order, which it would have used as well."""
    p = _live(s)
    if p is None or p.mode is not Mode.STARTING or s.fault_until:
        return None
    order, why = none_active_order(c, s, p)
    return f"peer restarted: {why}" if order > 0 else None


def _nobody_active(c: ElectionConfig, s: State, now: float) -> str | None:
    p = _live(s)
    since = s.none_active_since
    if p is None or since is None or s.fault_until:
        return None
    if now - max(since, s.since) < c.grace:
        return None
    order, why = none_active_order(c, s, p)
    return f"no node is active: {why}" if order > 0 else None


def _wants_sync(c: ElectionConfig, s: State, now: float) -> str | None:
    if s.synced or s.syncing or _live_mode(s) is not Mode.ACTIVE:
        return None
    if s.sync_asked is not None and now - s.sync_asked < c.retry_wait:
        return None
    return "table not complete"


def _conflict(c: ElectionConfig, s: State, now: float, sign: int) -> str | None:
    p = _live(s)
    since = s.both_active_since
    if p is None or since is None or now - since < c.conflict_wait:
        return None
    # Who handed us the role says "active" until our acknowledgement reached it.
    if s.accepted and p.term < s.term and now - s.since < c.handover_wait:
        return None
    order, why = both_active_order(c, s, p)
    if order * sign <= 0:
        return None
    tie = " (both forced alike)" if s.forced is p.forced is not Forced.NO else ""
    return f"both were active: {why}{tie}"


def _conflict_lost(c: ElectionConfig, s: State, now: float) -> str | None:
    return _conflict(c, s, now, -1)


def _conflict_won(c: ElectionConfig, s: State, now: float) -> str | None:
    # A peer that does not hear us cannot step down: say it again, but rarely.
    if s.won_at is not None and now - s.won_at < c.retry_wait:
        return None
    return _conflict(c, s, now, 1)


def _taken_late(c: ElectionConfig, s: State, now: float) -> str | None:
    """The hand-over that we gave up did reach the peer.  It acts on our word and
    has all our records, so it keeps the role, whoever would win."""
    p = _live(s)
    if p is None or s.offered is None or now >= s.retry_at + c.retry_wait:
        return None
    if p.mode is not Mode.ACTIVE or p.term < s.offered:
        return None
    return "hand-over taken late"


def _cannot(c: ElectionConfig, s: State, now: float) -> str | None:
    return "promotion failed" if s.failed else None


def _told_to_stand_down(c: ElectionConfig, s: State, now: float) -> str | None:
    return "forced passive, no peer" if s.alone and _live(s) is None else None


def _can_hand_over(s: State, now: float) -> bool:
    p = _live(s)
    return p is not None and p.ready and now >= s.retry_at


def _stop_by_handover(c: ElectionConfig, s: State, now: float) -> str | None:
    if s.stopping is None or not _can_hand_over(s, now):
        return None
    return "stopping"


def _stop_alone(c: ElectionConfig, s: State, now: float) -> str | None:
    if s.stopping is None or _live(s) is not None:
        return None
    return "stopping without a peer"


def _stop_unproven(c: ElectionConfig, s: State, now: float) -> str | None:
    if s.stopping is None or now - s.stopping < c.stop_wait:
        return None
    return "stopping, peer is not ready"


def _peer_better(c: ElectionConfig, s: State, now: float) -> str | None:
    p = _live(s)
    if p is None or s.better_since is None or not _can_hand_over(s, now):
        return None
    _, why = preference(s, p)
    # An operator's command is obeyed at once.
    if not why.startswith("forced"):
        if frozen(s) or s.held_until is not None:
            return None
        if s.last_switch is not None and now - s.last_switch < c.hold_down:
            return None
        # A failing link should be left quickly; a preference can wait, for it
        # may be only as old as a flapping interface.
        if why.startswith("priority") and now - s.better_since < c.hold_down:
            return None
    return f"peer is better: {why}"


def _handed_over(c: ElectionConfig, s: State, now: float) -> str | None:
    return "handed over" if s.outcome is True else None


def _handover_failed(c: ElectionConfig, s: State, now: float) -> str | None:
    return "hand-over not acknowledged in time" if s.outcome is False else None


# --- actions -----------------------------------------------------------------

_Result = tuple[State, list[Command]]
_Action = Callable[[ElectionConfig, State, float, str], _Result]


def _enter(s: State, role: Role, now: float) -> State:
    """A new role: what was known of the old one no longer counts."""
    return replace(
        s,
        role=role,
        since=now,
        offer=None,
        outcome=None,
        offered=None,
        accepted=False,
        failed=False,
        syncing=False,
        none_active_since=None,
        both_active_since=None,
        won_at=None,
        better_since=None,
    )


def _switched(c: ElectionConfig, before: State, s: State, now: float) -> _Result:
    """The role changed hands.  Too often without a command, and it is kept for a while:
    what makes the nodes better and worse in turn must not make them swap for ever."""
    s = replace(s, last_switch=now)
    if not c.flap_count or before.role is Role.STARTING or _commanded(before):
        return s, []
    recent = (*s.switches, now)[-c.flap_count :]
    s = replace(s, switches=recent)
    if len(recent) < c.flap_count or now - recent[0] > c.flap_window:
        return s, []
    text = f"{len(recent)} changes of role in {now - recent[0]:.0f} s; "
    text += f"quality and priority move it no more for {c.flap_hold:g} s"
    return replace(s, held_until=now + c.flap_hold), [Log("flap.hold", text)]


def _promote(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    # A hand-over brings the term that the peer counted for us.
    heard = s.peer.term if s.peer is not None else 0
    term = max(s.term, heard) + 1 if s.offer is None else max(s.term, s.offer)
    commands: list[Command] = [Promote(term, why)]
    # Where no active one was ever seen there is nothing to be missed.
    if s.role is Role.PASSIVE and not s.synced and s.sync_asked is not None:
        text = "promoted although the table was not proven complete"
        commands.append(Log("role.unproven", text))
    accepted = s.offer is not None
    s, more = _switched(c, s, replace(_enter(s, Role.ACTIVE, now), term=term), now)
    return replace(s, synced=False, farewell=False, accepted=accepted), commands + more


def _go_passive(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    """STARTING or ACTIVE to PASSIVE.  The table must be compared anew: what this
    node did alone is not what the other one holds."""
    commands: list[Command] = [Demote(s.term, why)]
    after = replace(_enter(s, Role.PASSIVE, now), synced=False, sync_asked=None)
    if s.role is Role.STARTING:
        return after, commands
    after, more = _switched(c, s, after, now)
    return after, commands + more


def _lose_conflict(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    s, commands = _go_passive(c, s, now, why)
    return s, [*commands, Log("split.resolved", f"{why}; this node is passive")]


def _win_conflict(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    """Stay.  A term above both says that this was decided after all before it;
    the announcement brings back the switches that had learnt the loser."""
    heard = s.peer.term if s.peer is not None else 0
    term = s.term if s.term > heard else heard + 1
    s = replace(s, term=term, won_at=now)
    return s, [Announce(), Log("split.resolved", f"{why}; this node stays active")]


def _hand_over(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    term = max(s.term, s.peer.term if s.peer is not None else 0) + 1
    return replace(_enter(s, Role.HANDING_OVER, now), offered=term), [StartHandover(term, why)]


def _handover_ok(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    """The engine is passive already.  The copy that is now asked for turns our
    entries into larvae; until it is done this node is not ready."""
    term = s.term if s.offered is None else s.offered
    after = replace(_enter(s, Role.PASSIVE, now), term=term, synced=False, sync_asked=None)
    after, more = _switched(c, s, after, now)
    return after, [WentPassive(term, why), *more]


def _handover_bad(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    offered = s.offered
    s = replace(_enter(s, Role.ACTIVE, now), offered=offered)
    s = replace(s, retry_at=now + c.retry_wait)
    return s, [Log("handover.failed", f"{why}; this node stays active")]


def _ask_sync(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    return replace(s, sync_asked=now), [WantSync()]


def _end(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    return _enter(s, Role.STOPPED, now), [Shutdown(gate_open=False)]


def _end_alone(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    return _enter(s, Role.STOPPED, now), [Shutdown(gate_open=True)]


def _end_unproven(c: ElectionConfig, s: State, now: float, why: str) -> _Result:
    s, commands = _go_passive(c, s, now, why)
    s, more = _end(c, s, now, why)
    return s, [*commands, *more]


# --- the table ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """In `role`, if `guard` holds, `action` is done and the role becomes `to`.
    Rows of a role are tried in order."""

    id: str
    role: Role
    guard: _Guard
    to: Role
    action: _Action
    why: str


_S, _P, _A, _H, _END = (
    Role.STARTING,
    Role.PASSIVE,
    Role.ACTIVE,
    Role.HANDING_OVER,
    Role.STOPPED,
)

TABLE: Final[tuple[Row, ...]] = (
    # A starting node does not know what it missed: whoever is past its start
    # knows better, even if it is only passive (row P5 or P6 there promotes it).
    Row("S1", _S, _stopping, _END, _end, "asked to stop"),
    Row("S2", _S, _peer_is_set, _P, _go_passive, "peer is active or passive"),
    Row("S3", _S, _start_won, _A, _promote, "both start, this node wins"),
    Row("S4", _S, _start_lost, _P, _go_passive, "both start, this node loses"),
    Row("S5", _S, _alone_at_start, _P, _go_passive, "forced passive, no peer"),
    Row("S6", _S, _nobody_heard, _A, _promote, "no peer heard in start_wait"),
    # A passive node acts when there is no active one, and when it is told to.
    Row("P1", _P, _stopping, _END, _end, "asked to stop"),
    Row("P2", _P, _offered, _A, _promote, "the active handed over"),
    Row("P3", _P, _peer_gone, _A, _promote, "peer dead, or said goodbye"),
    Row("P4", _P, _peer_unfit, _A, _promote, "peer cannot be active"),
    Row("P5", _P, _peer_restarted, _A, _promote, "peer starts, this node wins"),
    Row("P6", _P, _nobody_active, _A, _promote, "both passive, this node wins"),
    Row("P7", _P, _wants_sync, _P, _ask_sync, "table not complete"),
    # An active node steps down for one that is better, never for an equal one.
    Row("A1", _A, _cannot, _P, _go_passive, "promotion failed: fault"),
    Row("A2", _A, _stop_alone, _END, _end_alone, "asked to stop, no peer"),
    Row("A3", _A, _taken_late, _P, _go_passive, "hand-over taken after all"),
    Row("A4", _A, _conflict_lost, _P, _lose_conflict, "both active, loses"),
    Row("A5", _A, _conflict_won, _A, _win_conflict, "both active, wins"),
    Row("A6", _A, _stop_by_handover, _H, _hand_over, "asked to stop, peer ready"),
    Row("A7", _A, _stop_unproven, _END, _end_unproven, "asked to stop, stop_wait"),
    Row("A8", _A, _told_to_stand_down, _P, _go_passive, "forced passive, no peer"),
    Row("A9", _A, _peer_better, _H, _hand_over, "peer better and ready"),
    # While a hand-over runs nothing else is decided; it ends by itself.
    Row("H1", _H, _handed_over, _P, _handover_ok, "peer has everything"),
    Row("H2", _H, _handover_failed, _A, _handover_bad, "not acknowledged"),
)

_BY_ROLE: Final = {role: [r for r in TABLE if r.role is role] for role in Role}
_MAX_ROWS = 6  # more rows than that in one step would be a loop in the table


def status(s: State) -> SetStatus:
    """What heartbeats say of a state."""
    return SetStatus(s.mode, s.forced, s.quality, s.table, s.term)


def _forced_tie(s: State) -> bool:
    p = _live(s)
    return p is not None and s.forced is p.forced is not Forced.NO


def step(
    c: ElectionConfig,
    s: State,
    event: Event,
    now: float,
    fired: list[tuple[Row, str]] | None = None,
) -> _Result:
    """The state after an event, and what to do, in order.  Raises nothing.

    now: monotonic seconds, never less than in an earlier call.
    fired: gets the rows that fired, each with its reason.
    """
    before, said, tie, was = s.role, status(s), _forced_tie(s), s.frozen_until
    held = s.held_until
    commands: list[Command] = []
    s = _absorb(c, s, event, now)
    if _forced_tie(s) and not tie:
        text = "both nodes are forced alike; quality and priority decide"
        commands.append(Log("force.tie", text))
    for _ in range(_MAX_ROWS):
        s = _watch(s, now)
        for row in _BY_ROLE[s.role]:
            why = row.guard(c, s, now)
            if why is not None:
                s, more = row.action(c, s, now, why)
                assert s.role is row.to, row.id
                commands += more
                if fired is not None:
                    fired.append((row, why))
                break
        else:
            break
    if was is not None and s.frozen_until is None:
        how = "lifted" if isinstance(event, Freeze) else "its time is over"
        commands.append(Log("freeze.end", f"preferences count again: {how}"))
    if held is not None and s.held_until is None:
        commands.append(Log("flap.end", "quality and priority may move the role again"))
    # The peer must hear of a new role after the role is real, of the loss of one
    # too: so the status goes last, except before a hand-over, which blocks.
    changed = status(s) != said or s.role is not before
    if changed and s.role is not Role.STOPPED:
        at = next(
            (i for i, x in enumerate(commands) if isinstance(x, StartHandover)),
            len(commands),
        )
        commands.insert(at, status(s))
    return s, commands


def deadline(c: ElectionConfig, s: State, now: float) -> float | None:
    """When, by time alone, a row may next fire; None: not without an event."""
    times = [
        s.since + c.start_wait if s.role is Role.STARTING else None,
        s.since + c.grace,
        s.since + c.handover_wait if s.accepted else None,
        s.fault_until,
        s.retry_at,
        s.frozen_until,
        s.held_until,
    ]
    times += [
        start + wait if start is not None else None
        for start, wait in (
            (s.none_active_since, c.grace),
            (s.both_active_since, c.conflict_wait),
            (s.won_at, c.retry_wait),
            (s.better_since, c.hold_down),
            (s.last_switch, c.hold_down),
            (s.sync_asked, c.retry_wait),
            (s.stopping, c.stop_wait),
        )
    ]
    return min((t for t in times if t is not None and t > now), default=None)


# --- for the commands ---------------------------------------------------------


def refusal(c: ElectionConfig, s: State, event: Force) -> str | None:
    """Why a forced state cannot be had now; None: it can, or is there already.

    An operator who asks for a swap wants it done, so a command that would only
    be remembered is refused, with the reason.
    """
    p = _live(s)
    if event.forced is Forced.NO or s.role is Role.STARTING:
        return None
    if s.role is Role.HANDING_OVER:
        return "a hand-over is in progress; try again"
    if s.role is Role.STOPPED or s.stopping is not None:
        return "this node is stopping"
    if event.forced is Forced.ACTIVE and s.role is Role.PASSIVE:
        if s.fault_until:
            return "this node cannot be active: its last promotion failed, see events"
        if p is None:
            return None
        if not s.synced:
            return "this node is not ready: its table is not complete yet"
    elif event.forced is Forced.PASSIVE and s.role is Role.ACTIVE:
        if p is None:
            if event.alone:
                return None
            return "no live peer would take over; --force stops all traffic"
        if not p.ready:
            return "the peer is not ready: its table is not complete yet"
    else:
        return None
    # Both forced alike: the next criterion decides, perhaps against the command.
    order, why = preference(replace(s, forced=event.forced), p)
    wanted = 1 if event.forced is Forced.ACTIVE else -1
    if p.forced is event.forced and order * wanted <= 0:
        return f"the peer is forced {p.forced.name.lower()} as well, {why}; reset it"
    return None


def settled(s: State) -> bool:
    """No swap is under way or due, so far as this node can tell."""
    if s.role in (Role.STARTING, Role.HANDING_OVER):
        return False
    p = _live(s)
    if p is None:
        return s.role is Role.ACTIVE or s.alone or s.role is Role.STOPPED
    if frozen(s) or s.held_until is not None:
        return (s.role is Role.ACTIVE) is not (p.mode is Mode.ACTIVE)
    if s.role is Role.ACTIVE:
        return p.mode is not Mode.ACTIVE and not (p.ready and preference(s, p)[0] < 0)
    return p.mode is Mode.ACTIVE and not (s.synced and preference(s, p)[0] > 0)
