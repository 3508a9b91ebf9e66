"""Two nodes, a bad network and a seed: a simulator for the election.

Events jump: whatever is due next is done next, and heartbeats that can change nothing
are passed over (`World.skip`).  Everything random comes from one seed.

    World     clock, queues, two links each way, what may happen to them
    Node      a machine with a process: hak2k/node.py around the real election, and
              `election_core.Core` under it; may be stopped or die between any two steps
    Rules     (election_rules.py) what must hold at every instant

Not modelled: tables and records, health, the kernel's own failures except a promotion
that cannot be carried out, more than two nodes.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from hak2k import model as m
from hak2k.election import deadline, refusal, step
from hak2k.model import Forced, Mode, Role, State
from tests.unit.election_core import FOREVER, LINKS, Core, Step
from tests.unit.election_rules import Rules

_FEW: Final = 4  # heartbeats that must be quiet before any are passed over


class Node:
    def __init__(self, name: str, other_name: str, world: World, priority: int) -> None:
        self.name, self.other_name, self.world = name, other_name, world
        self.priority = priority
        self.quality = 100
        self.offset, self.rate = 0.0, 1.0  # of its clock
        self.wall = 1e9  # what people's clock says; must never matter
        self.up = False  # the process
        self.machine = True
        self.gate = False
        self.older = False  # knows no PREPARE
        self.life = 0
        self.core: Core | None = None
        self.state: State = m.initial(0.0)
        self.config = m.ElectionConfig(name)
        self.halted = False  # the process is stopped
        self.stalled_until = 0.0  # the interpreter alone is
        self.backlog: list[Step] = []
        self.fuse: list[Any] | None = None  # steps left, what then, how long
        self.queue: deque[m.Event] = deque()
        self.inbox: deque[tuple[str, Any]] = deque()
        self.late: list[m.Event] = []  # what came while the interpreter hung
        self.todo: deque[m.Command] = deque()
        self.busy = self.gone = self.armed = self.pumping = False
        self.fails = 0.0  # how likely a promotion cannot be carried out
        self.tick_at = FOREVER
        self.roles: list[tuple[float, Role, str]] = []

    @property
    def other(self) -> Node:
        return self.world.b if self is self.world.a else self.world.a

    def clock(self) -> float:
        return self.offset + self.rate * self.world.now

    @property
    def running(self) -> bool:
        return self.up and not self.halted

    # --- life and death ---

    def start(self) -> None:
        w = self.world
        self.life += 1
        self.up, self.machine, self.halted, self.gate = True, True, False, False
        self.stalled_until, self.fuse, self.backlog = 0.0, None, []
        rules = m.ElectionConfig.of(self.name, round(w.beat * 1000), round(w.dead * 1000))
        self.config = replace(rules, **w.swap)
        self.queue, self.inbox, self.todo, self.late = deque(), deque(), deque(), []
        self.busy = self.gone = self.armed = self.pumping = False
        self.tick_at = FOREVER
        self.state = m.initial(self.clock(), quality=self.quality, priority=self.priority)
        self.core = Core(self)
        self.core.say(_status(self.state))
        self.core.later(w.rng.uniform(0, w.beat), self.core.begin)
        self.feed(m.Tick())

    def kill(self) -> None:
        """The machine is gone: process, gate, everything."""
        self.end()
        self.machine = self.gate = False

    def end(self) -> None:
        """The process is gone; the gate stays as it is, the lease as it was."""
        self.up = self.halted = False
        self.life += 1
        self.queue.clear()
        self.inbox.clear()
        self.todo.clear()

    def call(self, life: int, do: Callable[..., None], args: tuple[Any, ...]) -> None:
        """Something falls due in the process of that life."""
        if life != self.life or not self.up:
            return
        if self.halted:
            self.backlog.append((do, args))
        else:
            do(*args)

    def steps(self, steps: list[Step]) -> None:
        """One after the other; the process may end or be stopped between any two."""
        life = self.life
        for i, (do, args) in enumerate(steps):
            if self.fuse is not None and self.burn():
                if life == self.life:
                    self.backlog[:0] = steps[i:]
                return
            do(*args)
            if life != self.life:
                return

    def burn(self) -> bool:
        """One step nearer to what `fuse` is for; True: it has happened."""
        assert self.fuse is not None
        self.fuse[0] -= 1
        if self.fuse[0] > 0:
            return False
        _, what, seconds = self.fuse
        self.fuse = None
        if what == "pause":
            self.pause(seconds)
        elif what == "end":
            self.end()
        else:
            self.kill()
        return True

    def pause(self, seconds: float) -> None:
        """As SIGSTOP does, or a host that gives the machine no time."""
        if not self.running:
            return
        self.halted = True
        self.world.at(self.world.now + seconds, self.wake, self.life, self.world.now)

    def wake(self, life: int, since: float) -> None:
        if life != self.life or not self.halted:
            return
        w = self.world
        self.halted = False
        assert self.core is not None
        w.rules.woke(self, w.now - since)
        if w.now - since >= w.dead / 2:
            self.core.slip()
        # Datagrams waited in the sockets; they are read before anybody is judged.
        backlog, self.backlog = self.backlog, []
        core = self.core
        timed = [s for s in backlog if s[0] in (core.beat, core.judge)]
        rest = [s for s in backlog if s not in timed]
        mail = [s for s in rest if s[0].__name__ in ("arrive",)]
        other = [s for s in rest if s not in mail]
        if w.rng.random() < 0.5:
            order = other + mail + timed
        else:
            order = mail + timed + other  # the other threads run when it suits them
        for i, (do, args) in enumerate(order):
            if life != self.life:
                return
            if self.halted:
                self.backlog += order[i:]
                return
            do(*args)
        self.pump()

    def stall(self, seconds: float) -> None:
        """The interpreter hangs; the threads of the core go on."""
        if not self.running:
            return
        self.stalled_until = max(self.stalled_until, self.world.now + seconds)
        self.world.at(self.stalled_until, self.call, self.life, self.pump, ())

    # --- what hak2k/node.py does ---

    def emit(self, kind: str, data: object = None) -> None:
        """The core has something to say."""
        self.inbox.append((kind, data))
        if not self.pumping:
            self.pump()

    def feed(self, event: m.Event) -> None:
        # The core is asked first: what it has to say is older than a late tick.
        if self.world.now < self.stalled_until:
            self.late.append(event)
        else:
            self.queue.append(event)
        self.pump()

    def pump(self) -> None:
        """Do what there is to do, as far as it can be done now."""
        if self.pumping:
            return
        self.pumping = True
        life = self.life
        try:
            while self.up and life == self.life and not self.halted:
                if self.world.now < self.stalled_until:
                    break
                if self.todo:
                    if self.fuse is not None and self.burn():
                        continue
                    self.do(self.todo.popleft())
                elif self.queue and (not self.busy or isinstance(self.queue[0], m.HandoverDone)):
                    self.step(self.queue.popleft())
                elif self.inbox and not self.busy:
                    self.translate(*self.inbox.popleft())
                elif self.late and not self.busy:
                    self.queue.append(self.late.pop(0))
                else:
                    break
        finally:
            if life == self.life:
                self.pumping = False
        if self.up and life == self.life:
            self.wind()

    def wind(self) -> None:
        """The clock for the next tick."""
        now = self.clock()
        due = deadline(self.config, self.state, now)
        if due is None:
            return
        w = self.world
        at = w.now + (due - now + 0.001) / self.rate
        if at < self.tick_at or self.tick_at <= w.now:
            self.tick_at = at
            w.at(at, self.call, self.life, self.tick, ())

    def tick(self) -> None:
        if self.world.now >= self.tick_at:
            self.tick_at = FOREVER
        self.feed(m.Tick())

    def step(self, event: m.Event) -> None:
        old = self.state
        self.state, commands = step(self.config, old, event, self.clock())
        if self.state.role is not old.role:
            self.roles.append((self.world.now, self.state.role, _reason(commands)))
            self.world.rules.turned(self, old, self.state)
        self.todo.extend(commands)

    def do(self, command: m.Command) -> None:
        core = self.core
        assert core is not None
        match command:
            case m.Promote(_, reason):
                if self.world.rng.random() < self.fails:
                    self.queue.append(m.PromoteFailed())
                else:
                    core.activate()
                    self.armed = False
                    self.world.rules.promoted(self, reason)
            case m.Demote():
                self.armed = False
                core.passivate()
            case m.StartHandover(term):
                self.busy = True
                core.handover(term)
            case m.SetStatus():
                core.say(command)
            case m.WantSync():
                core.need_copy()
            case m.Shutdown():
                core.goodbye()
                self.end()

    def handed(self, ok: bool) -> None:
        """The hand-over's thread has ended."""
        self.queue.appendleft(m.HandoverDone(ok))
        self.busy = False
        self.pump()

    def translate(self, kind: str, data: Any) -> None:
        core = self.core
        assert core is not None
        match kind:
            case "session":
                self.gone = False
                self.queue.append(m.SessionUp(data, self.told()))
            case "status":
                self.peer_status()
            case "alive":
                self.gone = False
                self.peer_status()
            case "dead" if core.alive:
                pass  # heard again, while the interpreter hung
            case "dead":
                self.queue.append(m.PeerDead())
            case "bye":
                if not self.gone:
                    self.gone = True
                    self.queue.append(m.PeerBye())
            case "prepare":
                ready = self.state.role is Role.PASSIVE and self.state.synced
                if ready and core.arm(data):
                    self.armed = True
            case "off":
                if self.armed:
                    self.armed = False
                    core.passivate()
                    self.queue.append(m.SyncLost())
            case "handover":
                self.queue.append(m.HandoverReceived(data))
            case "sync.begin":
                self.queue.append(m.SyncBegin())
            case "sync.done":
                self.queue.append(m.SyncDone())
            case "sync.lost":
                self.queue.append(m.SyncLost())

    def peer_status(self) -> None:
        peer = self.told()
        if peer is not None:
            self.queue.append(m.PeerStatus(peer))

    def told(self) -> m.Peer | None:
        core = self.core
        assert core is not None
        said = core.peer_said
        if said is None:
            return None
        return m.Peer(
            serial=self.other_name,
            mode=said.mode,
            forced=said.forced,
            quality=said.quality,
            priority=core.peer_priority,
            table=said.table,
            term=said.term,
            alive=core.alive and not self.gone,
        )

    # --- commands ---

    def force(self, forced: Forced, alone: bool = False) -> str | None:
        """As the command does it: refused, or set."""
        if not self.running or self.busy:
            return "not running"
        event = m.Force(forced, alone)
        why = refusal(self.config, self.state, event)
        if why is None:
            self.feed(event)
        return why

    def forwards(self) -> bool:
        """Whether the kernel lets frames pass."""
        if not self.machine or not self.gate:
            return False
        if not self.world.leased or self.core is None:
            return True
        return self.clock() < self.core.lease.until


def _status(s: State) -> m.SetStatus:
    return m.SetStatus(s.mode, s.forced, s.quality, s.table, s.term)


def _reason(commands: list[m.Command]) -> str:
    return "; ".join(str(c) for c in commands if not isinstance(c, m.SetStatus))


class Way:
    """One direction of one link."""

    def __init__(self) -> None:
        self.cut = False
        self.loss = self.twice = 0.0
        self.delay = (0.0002, 0.002)

    @property
    def clean(self) -> bool:
        return not (self.cut or self.loss or self.twice) and self.delay[1] <= 0.01


class World:
    """beat, dead: heartbeat_ms and dead_after_ms in seconds.  drift: how much faster one
    clock runs than true time, and the other one slower.  swap: of ElectionConfig."""

    def __init__(
        self,
        seed: int,
        priorities: tuple[int, int] = (0, 0),
        *,
        beat: float = 0.05,
        dead: float = 0.2,
        leased: bool = False,
        drift: float = 0.0,
        **swap: Any,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.beat, self.dead, self.dead_max = beat, dead, 5 * dead
        self.leased = leased
        self.swap = swap
        self.a = Node("FW-A", "FW-B", self, priorities[0])
        self.b = Node("FW-B", "FW-A", self, priorities[1])
        self.a.rate, self.b.rate = 1 + drift, 1 - drift
        self.a.offset, self.b.offset = 5000.0, 77.0
        self.ways = {n: [Way() for _ in range(LINKS)] for n in (self.a, self.b)}
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._beats: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self.handled = self.skipped = 0
        self.rules = Rules(self)

    def fresh(self) -> int:
        self._number += 1
        return self._number

    def at(self, time: float, do: Callable[..., None], *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, do, args))

    def periodic(self, time: float, do: Callable[..., None], *args: Any) -> None:
        """What heartbeats consist of: may be passed over."""
        self._number += 1
        heapq.heappush(self._beats, (time, self._number, do, args))

    def send(
        self,
        node: Node,
        link: int,
        arrive: Callable[..., None],
        body: tuple[Any, ...],
        *,
        periodic: bool = False,
    ) -> None:
        """arrive: bound to the sender's core; it runs when the receiver reads."""
        way = self.ways[node][link]
        if way.cut:
            return
        rng = self.rng
        if way.loss and rng.random() < way.loss:
            return
        low, high = way.delay
        put = self.periodic if periodic else self.at
        mail = (node, link, arrive, body, periodic)
        put(self.now + low + (high - low) * rng.random(), self.deliver, *mail)
        if way.twice and rng.random() < way.twice:
            put(self.now + low + 2 * high * rng.random(), self.deliver, *mail)

    def deliver(
        self,
        sender: Node,
        link: int,
        arrive: Callable[..., None],
        body: tuple[Any, ...],
        periodic: bool,
    ) -> None:
        other = sender.other
        core = other.core
        if not other.up or core is None:
            return
        if periodic:
            self.rules.arrived(other, link, body[0], body[1])
        if other.halted:
            other.backlog.append((self.arrive, (other.life, arrive, link, body)))
        else:
            arrive(link, body)

    def arrive(
        self, life: int, arrive: Callable[..., None], link: int, body: tuple[Any, ...]
    ) -> None:
        """What waited in a socket is read."""
        arrive(link, body)

    # --- time ---

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        events, beats = self._events, self._beats
        a, b, rules = self.a, self.b, self.rules
        count = 0
        while True:
            heap = beats
            if not beats or (events and events[0] < beats[0]):
                heap = events
            if not heap or heap[0][0] > end:
                break
            time, _, do, args = heapq.heappop(heap)
            if a.gate and b.gate:
                rules.both_open(time)
            self.now = time
            do(*args)
            count += 1
            if count % 16 == 0:
                self.skip(min(end, events[0][0]) if events else end)
        self.handled += count
        if a.gate and b.gate:
            rules.both_open(end)
        self.now = end

    def skip(self, horizon: float) -> None:
        """Pass over heartbeats that would tell nobody anything new."""
        whole = int((horizon - self.now) / self.beat) - _FEW
        if whole <= 0 or not (self.quiet(self.a) and self.quiet(self.b)):
            return
        jump = whole * self.beat
        if any(not way.clean for ways in self.ways.values() for way in ways):
            return
        self.now += jump
        self.skipped += whole
        self._beats[:] = [(t + jump, n, do, args) for t, n, do, args in self._beats]
        for node in (self.a, self.b):
            core = node.core
            if not node.up or core is None:
                continue
            more = jump * node.rate
            if core.heard_at is not None and core.alive:
                core.heard_at += more
                core.link_heard = [at + more for at in core.link_heard]
                core.heard_sent += jump
            core.last_sent += jump
            self.rules.came[node] = self.now
            core.began += more
            if core.lease.until < FOREVER and core.lease.state == "on":
                core.lease.until += more
            core.suspect.n += whole

    def quiet(self, node: Node) -> bool:
        """Nothing about this node would change before the next event."""
        core, peer = node.core, node.other.core
        if not node.up:
            return True
        if core is None or node.halted or node.fuse is not None or self.now < node.stalled_until:
            return False
        if (
            node.inbox
            or node.queue
            or node.late
            or node.todo
            or node.busy
            or node.armed
            or core.handing
        ):
            return False
        if core.said is None or core.prepare or core.peer_prepares:
            return False
        if not node.other.up:
            return not core.alive and not core.judging
        return (
            peer is not None
            and core.alive
            and core.sid is not None
            and core.sid == peer.sid
            and core.peer_said == peer.said
            and core.peer_priority == node.other.priority
            and core.link_heard[0] > core.clock() - 2.5 * self.beat
            and core.link_heard[1] > core.clock() - 2.5 * self.beat
            and (not self.leased or core.lease.state != "lapsed")
            and (core.role is not Mode.ACTIVE or peer.role is not Mode.ACTIVE)
        )

    # --- what can be seen and done ---

    def other(self, node: Node) -> Node:
        return node.other

    def active(self) -> list[str]:
        return [n.name for n in (self.a, self.b) if n.up and n.gate]

    def hears(self, node: Node) -> bool:
        core = node.core
        return (
            node.running
            and core is not None
            and core.alive
            and core.heard_at is not None
            and core.clock() - core.heard_at <= 2.5 * self.beat
        )

    def set_quality(self, node: Node, quality: int) -> None:
        node.quality = quality
        if node.up:
            node.feed(m.QualityChanged(quality))

    def set_priority(self, node: Node, priority: int) -> None:
        node.priority = priority
        if node.up:
            node.feed(m.PriorityChanged(priority))

    def cut(self, *names: str) -> None:
        """Whatever these send is lost; all others are heard again."""
        for node, ways in self.ways.items():
            for way in ways:
                way.cut = node.name in names

    def chaos(self, rng: random.Random) -> None:
        """One random fault, or its end."""
        from tests.unit.election_chaos import fault

        fault(self, rng)

    def heal(self, *, reset: bool = True) -> None:
        """Everything works again.  reset: operators take their orders back, too."""
        for ways in self.ways.values():
            ways[:] = [Way() for _ in range(LINKS)]
        for node in (self.a, self.b):
            node.fuse, node.fails, node.stalled_until = None, 0.0, 0.0
            if node.halted:
                node.wake(node.life, 0.0)
            node.pump()
        self.run(8)  # who was asked to stop has stopped by then
        for node in (self.a, self.b):
            if not node.up:
                node.start()
            # Stop and force are orders, not faults; an operator takes them back.
            node.feed(m.Freeze(None))
            if reset:
                node.feed(m.Force(Forced.NO))
