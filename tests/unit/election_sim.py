"""Two nodes, a bad network and a seed: a simulator for the election.

Time runs in steps of 10 ms; everything random comes from one seed.  The engine is
a model of what the core promises: heartbeats that carry the status, silence that
becomes PEER DEAD, a full copy that takes its time, a hand-over that is repeated
until it is acknowledged or given up.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hak2k.election import deadline, refusal, status, step
from hak2k.model import (
    Demote,
    ElectionConfig,
    Event,
    Force,
    Forced,
    Freeze,
    HandoverDone,
    HandoverReceived,
    Peer,
    PeerBye,
    PeerDead,
    PeerStatus,
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
    Tick,
    WantSync,
    WentPassive,
    initial,
)

TICK = 0.01
BEAT = 0.05
DEAD = 0.2
HANDOVER_TIMEOUT = 0.5


@dataclass
class Node:
    name: str
    world: World
    priority: int = 0
    up: bool = False
    frozen_until: float = 0.0
    gate: bool = False
    boot: int = 0
    state: State = field(init=False)
    config: ElectionConfig = field(init=False)
    said: SetStatus = field(init=False)
    next_beat: float = 0.0
    heard_at: float | None = None
    peer_boot: int | None = None
    peer_alive: bool = False
    handing: tuple[int, float, float] | None = None  # term, give up, next send
    sync_ready_at: float | None = None
    queue: list[Event] = field(default_factory=list)
    roles: list[tuple[float, Role, str]] = field(default_factory=list)
    promote_fails: float = 0.0

    def start(self) -> None:
        w = self.world
        self.config = ElectionConfig.of(self.name, int(BEAT * 1000), int(DEAD * 1000))
        self.state = initial(w.now, quality=self.quality, priority=self.priority)
        self.said = status(self.state)
        self.up, self.gate = True, False
        self.boot += 1
        self.next_beat = w.now + w.rng.uniform(0, BEAT)
        self.heard_at, self.peer_boot, self.peer_alive = None, None, False
        self.handing = self.sync_ready_at = None
        self.queue = []

    quality: int = 100
    last_tick: float = 0.0

    def kill(self) -> None:
        """The machine is gone: process, gate, everything."""
        self.up = self.gate = False

    @property
    def running(self) -> bool:
        return self.up and self.world.now >= self.frozen_until

    def feed(self, event: Event) -> None:
        if self.handing is not None and not isinstance(event, HandoverDone):
            self.queue.append(event)  # the shell is blocked in the engine
            return
        old = self.state.role
        self.state, commands = step(self.config, self.state, event, self.world.now)
        if self.state.role is not old:
            self.roles.append((self.world.now, self.state.role, repr(commands)))
        failed = False
        for c in commands:
            match c:
                case Promote():
                    if self.world.rng.random() < self.promote_fails:
                        failed = True
                    else:
                        self.gate = True
                case Demote() | WentPassive():
                    self.gate = False
                case StartHandover(term):
                    self.gate = False
                    w = self.world
                    self.handing = (term, w.now + HANDOVER_TIMEOUT, w.now)
                case SetStatus():
                    self.said = c
                case WantSync():
                    self.world.send(self, "want", None)
                case Shutdown():
                    self.world.send(self, "bye", self.boot)
                    self.up = False
        if failed:
            self.feed(PromoteFailed())

    def finish_handover(self, ok: bool) -> None:
        self.handing = None
        self.gate = not ok
        self.feed(HandoverDone(ok))
        waiting, self.queue = self.queue, []
        for event in waiting:
            if self.up:
                self.feed(event)

    def receive(self, kind: str, body: object) -> None:
        w = self.world
        match kind:
            case "beat":
                assert isinstance(body, tuple)
                boot, priority, said, serial = body
                self.heard_at = w.now
                new = boot != self.peer_boot
                revived = not self.peer_alive
                self.peer_boot, self.peer_alive = boot, True
                if new or revived:
                    self.sync_ready_at = None
                    self.feed(SessionUp(new_boot=new))
                peer = Peer(
                    serial=serial,
                    mode=said.mode,
                    forced=said.forced,
                    quality=said.quality,
                    priority=priority,
                    table=said.table,
                    term=said.term,
                )
                if new or revived or peer != self.state.peer:
                    self.feed(PeerStatus(peer))
            case "bye":
                if body == self.peer_boot:
                    self.peer_alive = False
                    self.feed(PeerBye())
            case "want":
                if self.state.role is Role.ACTIVE:
                    w.send(self, "copy", None)
            case "copy":
                if self.state.role is Role.PASSIVE and self.peer_alive:
                    self.feed(SyncBegin())
                    self.sync_ready_at = w.now + w.rng.uniform(0.02, 1.0)
            case "handover":
                if self.state.role in (Role.PASSIVE, Role.ACTIVE):
                    if self.state.role is Role.PASSIVE:
                        self.feed(HandoverReceived(body))  # type: ignore[arg-type]
                    w.send(self, "took", body)
            case "took":
                if self.handing is not None and self.handing[0] == body:
                    self.finish_handover(True)

    def run(self) -> None:
        w = self.world
        if not self.running:
            return
        # Heartbeats come from the core and go on during a hand-over.
        if w.now >= self.next_beat:
            self.next_beat = w.now + BEAT
            w.send(self, "beat", (self.boot, self.priority, self.said, self.name))
        if self.handing is not None:
            term, give_up, again = self.handing
            if w.now >= give_up:
                self.finish_handover(False)
            elif w.now >= again:
                self.handing = (term, give_up, w.now + BEAT)
                w.send(self, "handover", term)
        # One that was frozen itself does not accuse: it listens first.
        since = max(self.heard_at or 0.0, self.frozen_until)
        if self.peer_alive and w.now - since > DEAD:
            self.peer_alive = False
            self.sync_ready_at = None
            self.feed(PeerDead())
        if self.sync_ready_at is not None and w.now >= self.sync_ready_at:
            self.sync_ready_at = None
            other = w.other(self)
            if self.peer_alive and other.up and other.state.role is Role.ACTIVE:
                self.feed(SyncDone())
        if self.up and self.handing is None:
            due = deadline(self.config, self.state, self.last_tick)
            latest = self.last_tick + 0.25
            if w.now >= (latest if due is None else min(latest, due)):
                self.last_tick = w.now
                self.feed(Tick())

    def force(self, forced: Forced, alone: bool = False) -> str | None:
        """As the command does it: refused, or set."""
        if not self.running or self.handing is not None:
            return "not running"
        event = Force(forced, alone)
        why = refusal(self.config, self.state, event)
        if why is None:
            self.feed(event)
        return why


class World:
    def __init__(self, seed: int, priorities: tuple[int, int] = (0, 0)) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.loss = 0.0
        self.delay = (0.001, 0.005)
        self.cut: set[str] = set()  # names of nodes whose sending is lost
        self.mail: list[tuple[float, str, str, object]] = []
        self.a = Node("FW-A", self, priorities[0])
        self.b = Node("FW-B", self, priorities[1])
        self.both_open = 0.0  # for how long, while they hear each other
        self.worst_both_open = 0.0
        self.watchers: list[Callable[[], None]] = []

    def other(self, node: Node) -> Node:
        return self.b if node is self.a else self.a

    def send(self, node: Node, kind: str, body: object) -> None:
        if node.name in self.cut or self.rng.random() < self.loss:
            return
        at = self.now + self.rng.uniform(*self.delay)
        self.mail.append((at, self.other(node).name, kind, body))

    def hears(self, node: Node) -> bool:
        return (
            node.running
            and node.peer_alive
            and node.heard_at is not None
            and self.now - node.heard_at <= 2.5 * BEAT
        )

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += TICK
            due = [m for m in self.mail if m[0] <= self.now]
            self.mail = [m for m in self.mail if m[0] > self.now]
            for _, name, kind, body in sorted(due, key=lambda m: m[0]):
                node = self.a if name == self.a.name else self.b
                if node.running:
                    node.receive(kind, body)
            nodes = [self.a, self.b]
            self.rng.shuffle(nodes)
            for node in nodes:
                node.run()
            if self.a.gate and self.b.gate and self.hears(self.a) and self.hears(self.b):
                self.both_open += TICK
                self.worst_both_open = max(self.worst_both_open, self.both_open)
            else:
                self.both_open = 0.0

    def active(self) -> list[str]:
        return [n.name for n in (self.a, self.b) if n.up and n.gate]

    def set_quality(self, node: Node, quality: int) -> None:
        node.quality = quality
        if node.running:
            node.feed(QualityChanged(quality))

    def chaos(self, rng: random.Random) -> None:
        """One random fault, or its end."""
        node = rng.choice([self.a, self.b])
        match rng.randrange(10):
            case 0:
                node.kill()
            case 1 | 2:
                if not node.up:
                    node.start()
            case 3:
                self.cut = set(rng.choice([(), ("FW-A",), ("FW-B",), ("FW-A", "FW-B")]))
            case 4:
                self.loss = rng.choice([0.0, 0.05, 0.3, 0.6])
            case 5:
                node.frozen_until = self.now + rng.choice([0.1, 0.5, 2.0])
            case 6:
                self.set_quality(node, rng.choice([0, 50, 100, 100]))
            case 7:
                if node.running:
                    node.feed(Stop())
            case 8:
                node.force(rng.choice(list(Forced)), rng.random() < 0.2)
            case 9:
                if node.running:
                    node.feed(Freeze(rng.choice([None, self.now + 0.5, self.now + 5])))

    def heal(self, *, reset: bool = True) -> None:
        self.cut, self.loss = set(), 0.0
        for node in (self.a, self.b):
            node.frozen_until = 0.0
        self.run(8)  # who was asked to stop has stopped by then
        for node in (self.a, self.b):
            if not node.up:
                node.start()
            node.promote_fails = 0.0
            node.feed(QualityChanged(node.quality))  # it may have missed a change
            # Stop and force are orders, not faults; an operator takes them back.
            node.feed(Freeze(None))
            if reset:
                node.feed(Force(Forced.NO))
