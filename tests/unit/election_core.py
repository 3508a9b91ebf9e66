"""What the core promises to the election, as a model: csrc/ in miniature.

Sessions, heartbeats over two links with one sequence, suspicion, the lease, the full
copy and both sides of a hand-over, each as far as decisions or gates depend on it.
Tables, records and keys are left out.  Named after the parts of csrc/ they imitate;
where that changes, this has to follow.

Everything is driven by the world's clock; a node's own clock runs faster or slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hak2k.model import Mode, SetStatus

if TYPE_CHECKING:
    from tests.unit.election_sim import Node

LINKS: Final = 2
HANDOVER_TIMEOUT: Final = 2.0  # hak2k/arming.py
PREPARE: Final = 0.5
SETTLE: Final = 0.005
RESEND: Final = 0.03  # of what a hand-over waits for
ACK: Final = 0.002
COPY_ASK: Final = 0.1
OFFER_LIFE: Final = 1.0
FOREVER: Final = float("inf")

Step = tuple[Callable[..., None], tuple[Any, ...]]


class Suspect:
    """csrc/hak_suspect.c"""

    PEAKS: Final = 8
    EACH: Final = 1024
    FIRST: Final = 32

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, max(least, most)
        self.peaks = [0.0] * self.PEAKS
        self.n = 0
        self.limit = self.most

    def heard(self, silence: float) -> None:
        at = self.n // self.EACH % self.PEAKS
        peak = self.peaks[at]
        fresh = self.n % self.EACH == 0
        self.n += 1
        if fresh or silence > peak or self.n == self.FIRST:
            self.peaks[at] = silence if fresh else max(silence, peak)
            if self.n >= self.FIRST:
                self.limit = min(max(2 * max(self.peaks), self.least), self.most)


class Lease:
    """hak_lease_step() of csrc/hak_lease.c"""

    def __init__(self) -> None:
        self.state = "off"
        self.until = FOREVER
        self.lapsed = 0.0

    def step(
        self,
        now: float,
        length: float,
        *,
        active: bool,
        heard: bool,
        peer_active: bool,
        echoed: float,
    ) -> None:
        standby = active and heard and not peer_active
        if not active:
            self.state = "off"
        elif self.state == "lapsed":
            if not heard or (standby and echoed >= self.lapsed):
                self.state = "on" if standby else "off"
        elif self.state == "on" and now >= self.until:
            self.state, self.lapsed = "lapsed", now
        else:
            self.state = "on" if standby else "off"
        self.until = {"off": FOREVER, "on": now + length, "lapsed": 0.0}[self.state]


class Core:
    """One process's engine.  All times but `world.now` are of the node's own clock."""

    def __init__(self, node: Node) -> None:
        w = node.world
        self.node, self.world = node, w
        self.initiator = node.name < node.other_name
        self.boot = w.fresh()
        self.boot_wall = node.wall
        self.role = Mode.PASSIVE
        self.said: SetStatus | None = None
        # session
        self.sid: int | None = None
        self.next_sid: int | None = None
        self.next_hello: tuple[int, float] = (0, 0.0)
        self.answered: tuple[int, int] = (0, 0)  # offer, session
        self.offer: tuple[int, float] | None = None
        self.peer_boot = 0
        self.peer_wall = 0.0
        self.session_heard = False
        self.began = -FOREVER
        self.seq = self.top = self.seen = 0
        self.last_seq = [0] * LINKS
        # liveness
        self.suspect = Suspect(w.dead, w.dead_max)
        self.link_heard = [-FOREVER] * LINKS
        self.heard_at: float | None = None
        self.heard_sent = -FOREVER  # in world's time, when the newest of them was sent
        self.slipped = -FOREVER
        self.alive = self.accused = False
        self.judging = False
        self.peer_said: SetStatus | None = None
        self.peer_priority = 0
        self.echo = self.echoed = -FOREVER
        self.lease = Lease()
        self.last_sent = -FOREVER  # in world's time
        # copy: done, needed, asked, copying
        self.copy = "needed"
        self.copy_round = 0
        self.copy_polls = False
        # hand-over
        self.prepare = self.armed = self.peer_prepares = 0
        self.handing: dict[str, Any] | None = None
        self.taken: int | None = None  # HANDOVER that was received
        self.bye = False

    # --- clock and steps ---

    def clock(self) -> float:
        return self.node.clock()

    def later(self, seconds: float, do: Callable[..., None], *args: object) -> None:
        """After so much of this node's time."""
        w, node = self.world, self.node
        w.at(w.now + seconds / node.rate, node.call, node.life, do, args)

    def begin(self) -> None:
        """The io thread's first round."""
        self.beat()
        if self.copy_polls is False:
            self.need_copy()

    # --- heartbeats ---

    def beat(self) -> None:
        w, node = self.world, self.node
        w.periodic(w.now + w.beat / node.rate, node.call, node.life, self.beat, ())
        now = node.offset + node.rate * w.now
        if node.fuse is None:
            if self.sid is not None:
                for link in range(LINKS):
                    self.send_beat(link)
            if w.leased:
                self.renew(now)
        else:
            steps: list[Step] = [(self.send_beat, (link,)) for link in range(LINKS)]
            # Sent first: a stop between the two must not leave a lease longer than
            # the peer's patience.
            node.steps([*steps, (self.renew, (now,))])
            if node.halted:
                return
        if self.initiator and self.lonely(now):
            self.hello(now)

    def send_beat(self, link: int) -> None:
        w = self.world
        if self.sid is None or self.bye or self.said is None:
            return
        self.seq += 1
        self.last_sent = w.now
        body = (
            self.sid,
            self.seq,
            self.said,
            self.node.priority,
            self.prepare,
            self.armed if not self.prepare else 0,
            self.clock(),
            self.echo,
            w.now,
        )
        w.send(self.node, link, self.other_hears, body, periodic=True)

    def other_hears(self, link: int, body: tuple[Any, ...]) -> None:
        """Bound to the sender; runs at the receiver."""
        other = self.node.other
        if other.up and other.core is not None:
            other.core.on_beat(link, body)

    def beats_now(self) -> None:
        for link in range(LINKS):
            self.send_beat(link)

    def renew(self, now: float) -> None:
        w = self.world
        if not w.leased:
            return
        said, before = self.peer_said, self.lease.state
        self.lease.step(
            now,
            w.dead * 15 / 16,
            active=self.role is Mode.ACTIVE,
            heard=self.alive,
            peer_active=said is not None and said.mode is Mode.ACTIVE,
            echoed=self.echoed,
        )
        w.rules.renewed(self.node, before)

    def on_beat(self, link: int, body: tuple[Any, ...]) -> None:
        sid, seq, said, priority, prepare, armed, sent, echo, real = body
        if sid != self.sid:
            if sid != self.next_sid:
                return
            self.confirm(sid, *self.next_hello)
            self.accused = False
        top = self.top
        if seq > top:
            self.seen = (self.seen << (seq - top) | 1) & 0xFFFFFFFF
            self.top = seq
        else:
            bit = 1 << (top - seq)
            if top - seq >= 32 or self.seen & bit:
                return
            self.seen |= bit
        self.session_heard = True
        if seq > self.last_seq[link]:
            self.last_seq[link] = seq
            self.echo = sent
            if echo > self.echoed:
                self.echoed = echo
            if real > self.heard_sent:
                self.heard_sent = real
            self.heard(link)
            if self.taken is not None and self.role is Mode.PASSIVE:
                self.later(ACK, self.acknowledge)
        if seq > top:  # one that was overtaken is history
            if said != self.peer_said or priority != self.peer_priority:
                self.peer_said, self.peer_priority = said, priority
                self.node.emit("status")
            if armed and self.handing is not None:
                self.handing["armed"] = armed
                self.hand_on()
            if prepare != self.peer_prepares:
                self.peer_prepare(prepare)

    # --- sessions ---

    def lonely(self, now: float) -> bool:
        if self.sid is None:
            return True
        heard = self.heard_at if self.session_heard and self.heard_at is not None else self.began
        return now > heard + 2 * self.world.beat

    def hello(self, now: float) -> None:
        w = self.world
        if self.offer is None or now - self.offer[1] > OFFER_LIFE:
            self.offer = (w.fresh(), now)
        body = (self.boot, self.boot_wall, self.offer[0])
        for link in range(LINKS):
            w.send(self.node, link, self.other_greets, body)

    def other_greets(self, link: int, body: tuple[Any, ...]) -> None:
        other = self.node.other
        if other.up and other.core is not None:
            other.core.on_hello(link, body)

    def on_hello(self, link: int, body: tuple[Any, ...]) -> None:
        boot, wall, offer = body
        if offer != self.answered[0]:
            if offer < self.answered[0]:
                return  # a recording
            if self.alive and boot != self.peer_boot and wall < self.peer_wall:
                return  # of an earlier boot, as far as its clock tells
            self.answered = (offer, self.world.fresh())
            self.next_sid, self.next_hello = self.answered[1], (boot, wall)
        answer = (offer, self.answered[1], self.boot, self.boot_wall)
        self.world.send(self.node, link, self.other_welcomes, answer)

    def other_welcomes(self, link: int, body: tuple[Any, ...]) -> None:
        other = self.node.other
        if other.up and other.core is not None:
            other.core.on_welcome(body)

    def on_welcome(self, body: tuple[Any, ...]) -> None:
        offer, sid, boot, wall = body
        if self.offer is None or self.offer[0] != offer:
            return
        self.offer = None
        if self.sid is not None and self.session_heard and self.peer_boot == boot:
            return  # the session stands
        self.confirm(sid, boot, wall)
        self.beats_now()

    def confirm(self, sid: int, boot: int, wall: float) -> None:
        new_boot = self.sid is None or boot != self.peer_boot
        self.sid, self.next_sid = sid, None
        self.peer_boot, self.peer_wall = boot, wall
        if new_boot:
            self.peer_said = None
        self.seq = self.top = self.seen = 0
        self.last_seq = [0] * LINKS
        self.session_heard = False
        self.began = self.clock()
        self.taken = None
        self.node.emit("session", new_boot)
        self.need_copy()

    # --- liveness (csrc/hak_judge.c) ---

    def heard(self, link: int) -> None:
        now = self.node.offset + self.node.rate * self.world.now
        self.link_heard[link] = now
        before, self.heard_at = self.heard_at, now
        suspect = self.suspect
        if before is not None and before > self.slipped and now - before < suspect.limit:
            suspect.heard(now - before)
        if not self.alive:
            self.alive, self.accused = True, False
            self.node.emit("alive")
        if not self.judging:
            self.judging = True
            self.look_again(suspect.limit)

    def look_again(self, seconds: float) -> None:
        w, node = self.world, self.node
        at = w.now + max(seconds, 1e-6) / node.rate
        w.periodic(at, node.call, node.life, self.judge, ())

    def judge(self) -> None:
        if self.heard_at is None:
            self.judging = False
            return
        now = self.clock()
        limit = self.suspect.limit
        if now - self.heard_at < limit:
            self.look_again(self.heard_at + limit - now)
            return
        self.judging = False
        self.alive = False
        if not self.accused:
            self.accused = True
            self.world.rules.accused(self.node, now - self.heard_at)
            self.node.emit("dead")
            self.peer_prepare(0)
        self.hand_on()

    def slip(self) -> None:
        """hak_note_slip(): who was stopped forgives."""
        now = self.clock()
        self.slipped = now
        limit = self.suspect.limit
        grace = now - limit + min(2 * self.world.beat, limit)
        if self.alive and self.heard_at is not None:
            self.heard_at = max(self.heard_at, grace)

    def best_link(self, other: bool = False) -> int:
        now, limit = self.clock(), self.suspect.limit
        up = [i for i in range(LINKS) if now - self.link_heard[i] < limit]
        if not up:
            return 1 if other else 0
        return up[1] if other and len(up) > 1 else up[0]

    # --- role ---

    def activate(self) -> None:
        self.role = Mode.ACTIVE
        self.armed = 0
        self.node.gate = True

    def become_passive(self) -> None:
        self.role = Mode.PASSIVE
        self.armed = 0
        self.taken = None
        self.need_copy()

    def passivate(self) -> None:
        self.node.gate = False
        if self.role is not Mode.PASSIVE or self.armed:
            self.become_passive()

    def say(self, said: SetStatus) -> None:
        if said == self.said:
            return
        self.said = said
        self.beats_now()

    # --- the full copy (csrc/hak_recon.c) ---

    def need_copy(self) -> None:
        self.copy = "needed"
        if not self.copy_polls:
            self.copy_polls = True
            self.later(0.01, self.poll_copy)

    def peer_is_active(self) -> bool:
        said = self.peer_said
        return self.sid is not None and self.alive and said is not None and said.mode is Mode.ACTIVE

    def poll_copy(self) -> None:
        if self.copy == "done" or self.role is not Mode.PASSIVE:
            self.copy_polls = False
            return
        if not self.peer_is_active():
            self.copy = "needed"
        elif self.copy in ("needed", "asked"):
            self.copy = "asked"
            self.world.send(self.node, self.best_link(), self.other_copies, (self.sid,))
        self.later(COPY_ASK, self.poll_copy)

    def other_copies(self, link: int, body: tuple[Any, ...]) -> None:
        core = self.node.other.core
        if core is not None and core.role is Mode.ACTIVE and core.sid == body[0]:
            core.world.send(core.node, core.best_link(), core.other_gets_copy, body)

    def other_gets_copy(self, link: int, body: tuple[Any, ...]) -> None:
        core = self.node.other.core
        if core is not None and core.copy == "asked" and core.sid == body[0]:
            core.copy = "copying"
            core.copy_round += 1
            core.node.emit("sync.begin")
            core.later(core.world.rng.uniform(0.02, 1.0), core.copied, core.copy_round)

    def copied(self, round: int) -> None:
        if self.copy != "copying" or round != self.copy_round or self.role is not Mode.PASSIVE:
            return
        other = self.node.other
        core = other.core
        if other.halted:
            self.later(COPY_ASK, self.copied, round)
        elif (
            core is None
            or core.role is not Mode.ACTIVE
            or core.sid != self.sid
            or not self.peer_is_active()
        ):
            self.copy = "needed"
        else:
            self.copy = "done"
            self.node.emit("sync.done")

    # --- hand-over (csrc/hak_handover.c) ---

    def peer_prepare(self, term: int) -> None:
        was, self.peer_prepares = self.peer_prepares, term
        if self.node.older:
            return  # its version does not know the record
        if term and term != was:
            self.later(self.world.rng.uniform(0, 0.01), self.tell_prepare, term)
        if was and not term:
            self.node.emit("off")

    def tell_prepare(self, term: int) -> None:
        if self.peer_prepares == term and self.role is Mode.PASSIVE:
            self.node.emit("prepare", term)

    def arm(self, term: int) -> bool:
        if self.role is not Mode.PASSIVE or self.peer_prepares != term:
            return False
        self.node.gate = True
        self.armed = term
        self.beats_now()
        return True

    def handover(self, term: int) -> None:
        """It ends with node.handed(ok)."""
        if self.role is not Mode.ACTIVE or not self.alive:
            self.later(0.0, self.node.handed, False)
            return
        self.handing = h = {"term": term, "phase": "prepare", "armed": 0, "id": self.world.fresh()}
        self.later(HANDOVER_TIMEOUT, self.give_up, h)
        if self.node.older:
            self.later(0.0, self.close, h)
            return
        self.later(PREPARE, self.close, h)
        self.later(self.world.rng.uniform(0.0005, 0.01), self.say_prepare, h)

    def say_prepare(self, h: dict[str, Any]) -> None:
        if self.handing is h and h["phase"] == "prepare":
            self.prepare = h["term"]
            self.beats_now()

    def hand_on(self) -> None:
        """Something changed that the hand-over's thread may wait for."""
        h = self.handing
        if h is None:
            return
        if not self.alive:
            self.give_up(h)
        elif h["phase"] == "prepare" and h["armed"] == h["term"]:
            h["phase"] = "settle"
            self.later(SETTLE, self.close, h)

    def close(self, h: dict[str, Any]) -> None:
        if self.handing is not h or h["phase"] == "drain":
            return
        h["phase"], h["sid"] = "drain", self.sid  # the stream ends with its session
        self.node.steps([(self.gate_closed, (h,)), (self.send_handover, (h,))])

    def gate_closed(self, h: dict[str, Any]) -> None:
        if self.handing is h:
            self.node.gate = False

    def send_handover(self, h: dict[str, Any]) -> None:
        if self.handing is not h:
            return
        link = self.best_link(other=self.world.rng.random() < 0.5)
        self.world.send(self.node, link, self.other_takes, (h["sid"], h["id"], h["term"]))
        self.later(RESEND, self.send_handover, h)

    def other_takes(self, link: int, body: tuple[Any, ...]) -> None:
        core = self.node.other.core
        sid, id, term = body
        if core is None or core.sid != sid or core.role is not Mode.PASSIVE:
            return
        core.later(ACK, core.acknowledge)
        if core.taken is None or id > core.taken:
            core.taken = id
            core.node.emit("handover", term)

    def acknowledge(self) -> None:
        if self.taken is not None:
            body = (self.sid, self.taken)
            self.world.send(self.node, self.best_link(), self.other_is_acked, body)

    def other_is_acked(self, link: int, body: tuple[Any, ...]) -> None:
        core = self.node.other.core
        if core is None or core.handing is None or core.sid != body[0]:
            return
        if core.handing.get("sid") != core.sid:
            return
        if core.handing["phase"] == "drain" and core.handing["id"] == body[1]:
            core.handing = None
            core.node.steps(
                [(core.become_passive, ()), (core.stop_preparing, ()), (core.node.handed, (True,))]
            )

    def stop_preparing(self) -> None:
        if self.prepare:
            self.prepare = 0
            self.beats_now()

    def give_up(self, h: dict[str, Any]) -> None:
        if self.handing is not h:
            return
        self.handing = None
        self.node.steps(
            [(self.reopen, ()), (self.stop_preparing, ()), (self.node.handed, (False,))]
        )

    def reopen(self) -> None:
        self.node.gate = True

    # --- the end ---

    def goodbye(self) -> None:
        self.seq += 1
        for link in range(LINKS):
            self.world.send(self.node, link, self.other_is_left, (self.sid, self.seq))
        self.bye = True

    def other_is_left(self, link: int, body: tuple[Any, ...]) -> None:
        core = self.node.other.core
        if core is None or core.sid != body[0] or core.sid is None:
            return
        core.last_seq = [max(seq, body[1]) for seq in core.last_seq]
        core.alive, core.accused = False, True
        core.node.emit("bye")
        core.peer_prepare(0)
        core.hand_on()
