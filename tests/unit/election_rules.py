"""What must hold at every instant of a simulated run, and what must come of it.

    hearing    two nodes with open gates that hear each other: not for longer than
               `bound`; nor longer than `arming_bound` while a hand-over is under way
    accusing   nobody is called dead whose heartbeat has come in meanwhile; a node that
               was stopped itself waits for two heartbeats first
    lease      who is stopped has ceased to forward when the other one, because of
               that silence, begins to

A rule that is broken raises AssertionError where it is broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hak2k.model import Role, State

if TYPE_CHECKING:
    from tests.unit.election_sim import Node, World


class Rules:
    def __init__(self, world: World) -> None:
        self.world = world
        self.both = self.arming = 0.0  # for how long, now
        self.worst_both = self.worst_arming = 0.0
        self.woken: dict[Node, float] = {}
        self.came: dict[Node, float] = {}
        self.newest: dict[tuple[Node, int, int], int] = {}
        # when a node's role changed: had the other one sent what it had not heard?
        self.unheard: dict[Node, bool] = {}
        self.unleased = 0  # promotions beside a node whose lease was off
        self.accusations = 0

    def slowest(self) -> float:
        """The longest that a datagram may take now."""
        return max(way.delay[1] for ways in self.world.ways.values() for way in ways)

    # --- two actives ---

    def both_open(self, until: float) -> None:
        """Both gates are open from now until then."""
        w = self.world
        seconds = until - w.now
        a, b = w.a, w.b
        stalled = max(a.stalled_until, b.stalled_until) > w.now
        if stalled or not (w.hears(a) and w.hears(b)):
            self.both = self.arming = 0.0
            return
        if Role.HANDING_OVER in (a.state.role, b.state.role) or a.armed or b.armed:
            self.arming += seconds
            self.worst_arming = max(self.worst_arming, self.arming)
        else:
            self.both += seconds
            self.worst_both = max(self.worst_both, self.both)

    def turned(self, node: Node, old: State, new: State) -> None:
        self.both = self.arming = 0.0
        one, other = node.core, node.other.core
        if one is not None and other is not None:
            self.unheard[node] = other.last_sent > one.heard_sent and one.sid == other.sid

    # --- accusations ---

    def woke(self, node: Node, seconds: float) -> None:
        """It was stopped for so long.  Less than what counts as a slip harms nobody:
        what came in meanwhile is read first."""
        if seconds >= self.world.dead / 2:
            self.woken[node] = self.world.now

    def arrived(self, node: Node, link: int, sid: int, seq: int) -> None:
        """A heartbeat is in a socket of the node's.  One that was overtaken on its
        way says nothing about now."""
        core = node.core
        assert core is not None
        if seq > self.newest.get((node, link, sid), 0):
            self.newest[node, link, sid] = seq
            if sid in (core.sid, core.next_sid):
                self.came[node] = self.world.now

    def accused(self, node: Node, silence: float) -> None:
        """node says that the other one is dead, after so much silence."""
        w, core = self.world, node.core
        assert core is not None
        self.accusations += 1
        least = w.dead * 0.999
        assert silence >= least, f"{node.name} accused after {silence:.3f} s"
        came = (w.now - self.came.get(node, 0.0)) * node.rate
        assert came >= least, f"{node.name} was told something {came:.3f} s ago and accuses"
        awake = (w.now - self.woken.get(node, 0.0)) * node.rate
        grace = 2 * w.beat
        assert awake >= grace * 0.999, f"{node.name} woke {awake:.3f} s ago and accuses"

    # --- the lease ---

    def promoted(self, node: Node, reason: str) -> None:
        self.both = self.arming = 0.0
        if self.world.leased and reason.startswith("peer dead"):
            self.overlap(node, node.other)

    def renewed(self, node: Node, before: str) -> None:
        """node's lease may have been prolonged."""
        other = node.other
        core = other.core
        if before != "lapsed":
            return  # it was not late, or had no lease when it was stopped
        if not node.gate or not other.gate or core is None or core.alive or not other.up:
            return
        if other.state.role is Role.ACTIVE and node.core is not None and node.core.alive:
            self.overlap(other, node)

    def overlap(self, node: Node, silent: Node) -> None:
        """node is active because the other one was silent."""
        core = silent.core
        if not silent.forwards() or core is None or node.core is None:
            return
        sent = core.last_sent > node.core.heard_sent and core.sid == node.core.sid
        if sent or self.unheard.get(node, False):
            return  # it did send: the network took that away, and no lease helps
        if core.lease.state == "off":
            self.unleased += 1
            return  # it knew of nobody who would take over
        left = core.lease.until - silent.clock()
        raise AssertionError(f"{silent.name} may forward for another {left:.3f} s")
