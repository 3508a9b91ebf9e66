"""The shell around the election: feeds it what happens, does what it decides.

All of it runs in one asyncio loop.  The engine's threads and the network watcher
reach it through a descriptor and `call_soon_threadsafe`.

    engine.events() ─┐                              ┌─► engine.promote(), demote() ...
    NetWatch ────────┼─► feed(event) ─► step() ─────┼─► announcements, sweep
    commands, timer ─┘        (pure)                └─► event log, control answers

Engine calls take microseconds, except `handover`, which waits for the peer: that
one runs in a thread, and until it ends nobody else may call the engine (`busy`).
What happens meanwhile waits in the queue; the commands wait in `idle()`.

Not handled here: what a command's answer looks like (hak2k.service), process and
start-up (hak2k.daemon).
"""

from __future__ import annotations

import asyncio
import errno
import functools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from hak2k import gate, model
from hak2k.arming import HANDOVER_TIMEOUT_S, Arming
from hak2k.config import load_config
from hak2k.election import Row, deadline, refusal, settled, status, step
from hak2k.engine import Engine, EngineEvent, SwapTimes, TableInfo, Verification
from hak2k.errors import ConfigError, HakError, KernelError, RefusedError
from hak2k.events import EventLog
from hak2k.halinks import BUSY_S, WHY, HaLinks
from hak2k.health.interfaces import Interfaces, member_news
from hak2k.health.monitor import Component, Health
from hak2k.looks import Looks
from hak2k.lost import Ask, Lost
from hak2k.model import Forced, Mode, Role
from hak2k.netwatch import Snapshot
from hak2k.news import NEWS
from hak2k.ping import answering
from hak2k.ports import Ports
from hak2k.quality import quality
from hak2k.recorder import Recorder
from hak2k.settings import Config, changed, reloadable
from hak2k.swap import announce_delays, gave_way

READY_WAIT_S: Final = 2.0  # a command waits that long for what it needs
GATE_CHECK_S: Final = 5.0, 60.0  # a listing through libnftables, after changes and without
GATE_AGAIN_S: Final = 1.0
LOG_GAP_S: Final = 1.0  # between two events of one id that may come in floods


class Node:
    """One node at work.

    config, engine, log: as made by the daemon; the engine not yet started.
    snapshot: the interfaces and addresses as last seen.
    gate_build: makes the gate's tables; tests replace it.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        log: EventLog,
        snapshot: Snapshot,
        *,
        gate_build: Callable[[gate.GateSpec, list[int]], None] = gate.build,
        gate_present: Callable[[gate.GateSpec], bool] = gate.present,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        ask: Ask = answering,
    ) -> None:
        self.config = config
        self.engine = engine
        self.log = log
        self.snapshot = snapshot
        self._gate_build = gate_build
        self._gate_present = gate_present
        self.clock = clock
        self._wall = wall
        rules = model.ElectionConfig.of(
            config.node.serial,
            config.liveness.heartbeat_ms,
            config.liveness.dead_after_ms,
        )
        self.rules = replace(
            rules,
            hold_down=config.swap.hold_down_s,
            flap_count=config.swap.flap_count,
            flap_window=config.swap.flap_window_s,
            flap_hold=config.swap.flap_hold_s,
        )
        self.boot = self.mode_since = wall()
        self.started = clock()
        self._interfaces = Interfaces()
        self.health = Health(
            config.health,
            emit=log.emit,
            changed=self._update_quality,
            active=lambda: self.state.role is Role.ACTIVE,
            clock=clock,
            wall=wall,
        )
        self.state = model.initial(clock(), priority=config.cluster.priority)
        self.state = replace(self.state, quality=self._quality())
        self.recorder = Recorder(config.log.recorder, self.rules)
        log.watch(self.recorder.log)
        self.busy = False
        self.finished: asyncio.Future[bool] | None = None
        self._queue: deque[model.Event] = deque()
        self._draining = False
        self._changed = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._announcing: list[asyncio.TimerHandle] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent_ns = self._missing = 0  # of the last peer.dead
        self._gone = False  # said goodbye, and not heard since
        self.arming = Arming(self)
        self.looks = Looks(self)
        self.lost = Lost(self, ask)
        self.ports = Ports(self)
        self.links = HaLinks(self)
        self._said: dict[str, tuple[float, int]] = {}  # id: when, not logged since
        self._gate_checked = self._tick_at = 0.0
        self._rules_changed = True  # nftables, since it was checked
        self.gate_rebuilt = 0  # how often it was not as it should be
        self.gate_rebuilt_at: float | None = None
        self.gate_rebuilt_why: str | None = None

    # --- life ---

    def start(self) -> None:
        """Start the engine and the timers.  The gate is there and closed.
        Raises HakError."""
        loop = asyncio.get_running_loop()
        self.finished = loop.create_future()
        self.engine.set_local_addresses(self.ports.addresses())
        # Before the first heartbeat: the peer decides by what that one says.
        self._set_status(status(self.state))
        self._guard()
        self.engine.start(build_gate=False)
        self.links.look(self.snapshot)
        loop.add_reader(self.engine.fileno(), self.drain_engine)
        self._tick()
        self.health.start()
        if self.config.swap.garp_interval_s > 0:
            self._schedule_garp()

    def stop(self) -> None:
        """Ask for an orderly end; `finished` is set when it is reached."""
        self.feed(model.Stop())

    def close(self) -> None:
        """Stop the timers and the engine.  The gate stays as it is."""
        loop = asyncio.get_running_loop()
        for timer in (*self._timers.values(), *self._announcing):
            timer.cancel()
        loop.remove_reader(self.engine.fileno())
        self.lost.end()
        self.health.close()
        self.engine.close()
        self.recorder.close()

    def later(self, name: str, seconds: float, do: Callable[[], None]) -> None:
        """Once; instead of an earlier one of that name."""
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, do)

    def _tick(self) -> None:
        self.drain_engine()  # first: a late tick must not decide on what is over
        self.feed(model.Tick())
        self._tick_at = self.clock() + (wait := self.looks.wait())
        self.later("tick", wait, self._tick)
        self._tick_in_time()
        if not self.busy:
            self.looks.due()

    def _tick_in_time(self) -> None:
        """Bring it forward to when time alone may decide something."""
        due = deadline(self.rules, self.state, now := self.clock())
        if due is not None and due + 0.001 < self._tick_at:
            self._tick_at = due + 0.001
            self.later("tick", self._tick_at - now, self._tick)

    # --- the election's shell ---

    def feed(self, event: model.Event) -> None:
        """Let the election know, and do what follows.  May be called while
        commands are being carried out: then the event waits its turn."""
        self._queue.append(event)
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue:
                # Only its own end can change anything while a hand-over runs.
                if self.busy and not isinstance(self._queue[0], model.HandoverDone):
                    break
                self._step(self._queue.popleft())
        finally:
            self._draining = False

    def _step(self, event: model.Event) -> None:
        before, now, wall = self.state, self.clock(), self._wall()
        fired: list[tuple[Row, str]] = []
        self.state, commands = step(self.rules, before, event, now, fired)
        self.recorder.step(event, before, self.state, commands, fired, now, wall)
        if self.state.mode is not before.mode:
            self.mode_since = self._wall()
        started = before.role is Role.STARTING and self.state.role in (Role.ACTIVE, Role.PASSIVE)
        for command in commands:
            self._do(command)
        if started and self.state.peer is None:
            self.log.emit("peer.absent", "the other firewall was not heard at this one's start")
        if self.state is not before:
            self._poke()
            self._tick_in_time()

    def _poke(self) -> None:
        """Whoever waits in `until` looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _do(self, command: model.Command) -> None:
        match command:
            case model.Promote(term, reason):
                self._promote(term, reason)
            case model.Demote(term, reason):
                self._demote(term, reason)
            case model.WentPassive(term, reason):
                self.log.emit("role.passive", reason, reason=reason, term=term)
                self.ports.leave()
            case model.StartHandover(term, reason):
                self.busy = True
                self.keep(self._hand_over(term, reason))
            case model.Announce():
                self.announce_all()
            case model.WantSync():
                self.attempt("sync", self.engine.want_sync)
            case model.SetStatus():
                self._set_status(command)
            case model.Log(id, text):
                self.log.emit(id, text)
            case model.Shutdown(gate_open):
                if self.finished is not None and not self.finished.done():
                    self.finished.set_result(gate_open)

    def keep(self, work: object) -> None:
        """Run a coroutine; asyncio itself holds tasks by weak references only."""
        assert asyncio.iscoroutine(work)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def attempt(self, what: str, do: Callable[[], object]) -> None:
        """Something whose failure must not stop the daemon."""
        try:
            do()
        except HakError as e:
            self.news("daemon.error", f"{what}: {e}")

    def _promote(self, term: int, reason: str) -> None:
        arrived_us = self.ports.arrive()
        try:
            times = self._open_gate(term)
        except HakError as e:
            self.log.emit("role.refused", str(e), reason=reason, term=term)
            self._queue.append(model.PromoteFailed())
            return
        fields: dict[str, object] = {
            "reason": reason,
            "gate_us": round(times.gate_ns / 1000, 1),
            "total_us": round(times.total_ns / 1000, 1),
            "term": term,
        }
        if arrived_us is not None:
            fields["address_us"] = arrived_us
        if reason.startswith("peer dead"):
            fields["detect_ms"] = round(self._silent_ns / 1e6, 1)
        self.arming.done()
        self.log.emit("role.active", reason, **fields)
        self.announce_all(first_done=True)
        self.attempt("sweep", self.engine.sweep)
        if "detect_ms" in fields:
            self.looks.cut(self._silent_ns / 1e9, self._missing)

    def _open_gate(self, term: int) -> SwapTimes:
        """Promote; with a gate made anew if somebody has just removed it, which the
        next probe would have noticed too late."""
        try:
            return self.engine.promote(term)
        except KernelError as e:
            if e.errno != errno.ENOENT:
                raise
        self._rebuild_gate("its table was gone when it was to be opened", open_=False)
        return self.engine.promote(term)

    def _demote(self, term: int, reason: str) -> None:
        self.arming.done()
        for timer in self._announcing:
            timer.cancel()
        try:
            self.engine.demote(term)
        except HakError as e:
            # The tables anew are a closed gate too, by another way.
            self.log.emit("role.refused", str(e), reason=reason, term=term)
            self._rebuild_gate("could not be closed")
        self.log.emit("role.passive", reason, reason=reason, term=term)
        self.ports.leave()

    async def _hand_over(self, term: int, reason: str) -> None:
        self.log.emit("handover.start", reason, reason=reason, term=term)
        for timer in self._announcing:
            timer.cancel()
        started = self.clock()
        loop = asyncio.get_running_loop()
        fd = self.engine.fileno()
        loop.remove_reader(fd)
        try:
            wait = self.arming.prepare_s
            give = functools.partial(self.engine.handover, HANDOVER_TIMEOUT_S, term, wait)
            times = await loop.run_in_executor(None, give)
        except HakError as e:
            self.news("daemon.error", f"hand-over: {e}")
            times = None
        finally:
            self.busy = False
            loop.add_reader(fd, self.drain_engine)
        if times is not None:
            fields = {
                "armed_ms": round(times.armed_ns / 1e6, 1),
                "closed_ms": round(times.closed_ns / 1e6, 1),
                "applied_ms": round(times.applied_ns / 1e6, 1),
                "total_ms": round((self.clock() - started) * 1000, 1),
            }
            if not times.armed_ns:
                del fields["armed_ms"]
            self.log.emit("handover.done", "the peer has the role", **fields, term=term)
        # Ahead of what waited: those events were made under the old role.
        self._queue.appendleft(model.HandoverDone(times is not None))
        self.feed(model.Tick())
        self.drain_engine()

    async def idle(self) -> None:
        """Returns when the engine may be called."""
        while self.busy:
            await self.until(lambda: not self.busy, 1.0)

    def _set_status(self, s: model.SetStatus) -> None:
        self.attempt(
            "status",
            lambda: self.engine.set_status(
                mode=int(s.mode),
                forced=int(s.forced),
                quality=s.quality,
                state=int(s.table),
                term=s.term,
                since_ms=int(self.mode_since * 1000),
            ),
        )

    # --- announcements ---

    def announce_all(self, *, first_done: bool = False) -> None:
        for timer in self._announcing:
            timer.cancel()
        if not first_done:
            self._announce()
        loop = asyncio.get_running_loop()
        count = self.config.swap.garp_count
        self._announcing = [
            loop.call_later(delay, self._announce) for delay in announce_delays(count)
        ]

    def _announce(self) -> None:
        if self.state.role is Role.ACTIVE and not self.busy:
            self.attempt("announcement", self.engine.announce)

    def _schedule_garp(self) -> None:
        timer = self._timers.pop("garp", None)
        if timer is not None:
            timer.cancel()

        def run() -> None:
            self._schedule_garp()
            self._announce()

        if self.config.swap.garp_interval_s > 0:
            self.later("garp", self.config.swap.garp_interval_s, run)

    # --- what the engine says ---

    def news(self, id: str, text: str, **fields: object) -> None:
        """Log what may come in floods: one a second, with how many were left out."""
        now = self.clock()
        last, left_out = self._said.get(id, (-LOG_GAP_S, 0))
        if now - last < LOG_GAP_S:
            self._said[id] = (last, left_out + 1)
            return
        if left_out:
            fields["left_out"] = left_out
        self._said[id] = (now, 0)
        self.log.emit(id, text, **fields)

    def drain_engine(self) -> None:
        """Take in all that the engine has to say."""
        if self.busy:
            return
        try:
            events = self.engine.events()
        except HakError as e:
            self.news("daemon.error", str(e))
            return
        for event in events:
            self._on_engine(event)

    def _on_engine(self, event: EngineEvent) -> None:
        data = dict(event.data)
        if "text" in data:
            data["what"] = data.pop("text")  # the line in the log has a text of its own
        match event.type:
            case "session.up":
                new_boot = bool(data.get("new_boot", True))
                self._gone = False
                self.lost.end()
                self.log.emit("session.up", "session with the peer", new_boot=new_boot)
                self.feed(model.SessionUp(new_boot, self._told()))
            case "session.rekeyed":
                name = f"{int(data['key']):08x}"
                self.log.emit("session.rekeyed", f"the session goes on under key {name}", key=name)
                self._peer_status()
            case "peer.status":
                self._peer_status()
            case "peer.alive":
                self._gone = False
                self.lost.end()
                self.log.emit("peer.up", f"{self.peer_name()} is heard")
                self._peer_status()
            case "peer.dead":
                self._silent_ns = int(data.get("silent_ns", 0))
                self._missing = int(data.get("missing", 0))
                ms = round(self._silent_ns / 1e6, 1)
                self.log.emit("peer.dead", f"{self.peer_name()} is silent", silent_ms=ms)
                # It may be over by now: then this interpreter hung, and no peer did.
                if (info := self.engine.peer()) is None or not info.alive:
                    self.feed(model.PeerDead())
                    self.lost.begin()  # after what has to be quick
            case "peer.bye":
                if not self._gone:  # it says so on each link
                    self._gone = True
                    self.lost.end("stopped")
                    self.log.emit("peer.bye", f"{self.peer_name()} said goodbye")
                    self.feed(model.PeerBye())
            case "link.up" | "link.down":
                name = self._link_name(int(data.get("link", 0)))
                word = "works" if event.type == "link.up" else WHY[int(data.get("why", 0))]
                self.log.emit(event.type, f"link {name} {word}", name=name)
            case "handover.prepare":
                self.arming.arm(int(data["term"]))
            case "handover.off":
                self.arming.disarm()
            case "handover":
                self.feed(model.HandoverReceived(int(data["term"])))
            case "sync.begin":
                self.log.emit("sync.start", "the tables are being compared")
                self.feed(model.SyncBegin())
            case "sync.done" if self.ports.doubted():
                pass
            case "sync.done":
                self.log.emit(
                    "sync.done",
                    "this node's table is complete",
                    entries=data.get("entries", 0),
                    removed=data.get("removed", 0),
                    ms=round(data.get("ns", 0) / 1e6, 1),
                )
                self.feed(model.SyncDone())
            case "recon.repaired":
                self.news("recon.repaired", "the tables differed; they are equal now", **data)
            case "recon.stuck":
                self.news("recon.stuck", "the tables stay different", **data)
                self.feed(model.SyncLost())
            case "stream.pressure":
                self._pressure(data)
            case "verify.done":
                self._poke()
            case "stream.lost":
                self.news("stream.lost", "the stream has a gap")
                self.feed(model.SyncLost())
            case kind if kind in NEWS:
                for name in [n for n in data if n == "ns" or n.endswith("_ns")]:
                    data[name[:-2] + "ms"] = round(data.pop(name) / 1e6, 1)
                self.news(kind, NEWS[kind], **data)
            case kind:
                self.news("daemon.error", f"unknown engine event {kind}")

    def _pressure(self, data: dict[str, Any]) -> None:
        level, before, held = int(data["level"]), int(data["before"]), int(data["held"])
        if level > before:
            who = "name lookups, NTP and pings" if level == 1 else "young connections without NAT"
            text = f"under pressure ({data['what']}), {who} wait unprotected"
            self.log.emit("stream.pressure", text, level=level, cause=data["what"], held=held)
        elif level:
            self.log.emit("stream.relieved", "the pressure falls", level=level, held=held)
        else:
            self.log.emit("stream.relieved", "the pressure is over", level=0, held=held)

    def _link_name(self, index: int) -> str:
        links = self.config.link
        return links[index].name if index < len(links) else str(index)

    def peer_name(self) -> str:
        return self.state.peer.serial if self.state.peer is not None else "the peer"

    def _told(self) -> model.Peer | None:
        info = self.engine.peer()
        if info is None or not info.since:
            return None  # it has said nothing yet in this life: zeroes are no status
        if info.serial == self.config.node.serial:  # neither would win a tie-break
            self.news("peer.conflict", f"the peer is called {info.serial} as well")
        return info.judged(alive=info.alive and not self._gone)

    def _peer_status(self) -> None:
        if (peer := self._told()) is None:
            return
        before = self.state.peer
        self.feed(model.PeerStatus(peer))
        if gave_way(before, self.state):
            self.announce_all()

    # --- interfaces ---

    def components(self) -> list[Component]:
        """What makes up the quality factor."""
        interfaces = self._interfaces.components(self.config.interface, self.snapshot, self._wall())
        return interfaces + self.health.components()

    def _quality(self) -> int:
        return quality([c.part for c in self.components()])

    def on_snapshot(self, new: Snapshot) -> None:
        """Interfaces or addresses changed; called in the loop's thread."""
        old, self.snapshot = self.snapshot, new
        rebuilt = False
        for interface in self.config.interface:
            name = interface.name
            was, now = old.links.get(name), new.links.get(name)
            if now is None:
                if was is not None:
                    self.log.emit("interface.lost", f"{name} is gone", name=name)
                continue
            for id, text, member in member_news(old, new, name):
                self.log.emit(id, text, name=name, member=member)
            # A new device of the old name is not behind the old gate.
            rebuilt |= was is None or was.index != now.index
            if was is None or was.working != now.working:
                up = now.working
                word = "up" if up else "down"
                id = "interface.up" if up else "interface.down"
                self.log.emit(id, f"{name} is {word}", name=name)
        if rebuilt and not self.busy:
            self._rebuild_gate("an interface was made anew")
        if new.addresses != old.addresses and not self.busy:
            self.attempt(
                "addresses",
                lambda: self.engine.set_local_addresses(self.ports.addresses()),
            )
        self.links.look(new)
        if not self.busy:
            self.ports.check()
        self._update_quality()

    def _update_quality(self) -> None:
        value = self._quality()
        if value != self.state.quality:
            self.log.emit(
                "quality.changed",
                f"quality is {value} %",
                quality=value,
                before=self.state.quality,
            )
            self.feed(model.QualityChanged(value))

    # --- the gate ---

    def on_rules(self) -> None:
        """Somebody changed nftables; called in the loop's thread."""
        self._rules_changed = True
        if self.busy:
            self.later("gate", BUSY_S, self.on_rules)
        else:
            self.probe_gate()

    def probe_gate(self) -> None:
        """Somebody may flush all of nftables: then a passive node is no longer
        mute.  Or open a closed gate, or close an open one."""
        try:
            is_open = self.engine.gate_is_open()
        except HakError as e:
            self.news("gate.failed", str(e))
            self.later("gate", GATE_AGAIN_S, self.on_rules)
            return
        active = self.state.role is Role.ACTIVE or self.arming.armed
        if is_open is None:
            self._rebuild_gate("its table was gone")
        elif is_open is not active and self.state.role is not Role.STOPPED:
            self._rebuild_gate("it was open" if is_open else "it was closed")
        elif self.clock() - self._gate_checked >= GATE_CHECK_S[not self._rules_changed]:
            self._gate_checked, self._rules_changed = self.clock(), False
            try:
                if not self._gate_present(self._gate_spec()):
                    self._rebuild_gate("a part of it was gone")
            except HakError as e:
                self.news("gate.failed", str(e))

    def _gate_spec(self) -> gate.GateSpec:
        spec = self.engine.gate_spec
        there = tuple(n for n in spec.interfaces if n in self.snapshot.links)
        return replace(spec, interfaces=there)

    def _guard(self) -> None:
        try:
            self.engine.guard(self._gate_spec().interfaces)
        except HakError as e:
            if self.config.liveness.lease:
                self.news("lease.unavailable", f"{e}; a hung active node is not fenced")

    def _rebuild_gate(self, why: str, *, open_: bool | None = None) -> None:
        """open_: None: as the role says."""
        self._guard()  # an interface made anew has no filters
        active = self.state.role is Role.ACTIVE if open_ is None else open_
        spec = self._gate_spec()
        types = sorted({self.snapshot.links[n].type for n in spec.interfaces})
        try:
            self._gate_build(spec, types if active else [])
        except HakError as e:
            self.news("gate.failed", str(e))
            self.later("gate", GATE_AGAIN_S, self.on_rules)
        else:
            word = "open" if active else "closed"
            self.gate_rebuilt += 1
            self.gate_rebuilt_at, self.gate_rebuilt_why = self._wall(), why
            self.news("gate.missing", f"the gate was made again, {word}: {why}")
        if self.state.role is Role.ACTIVE and self.state.peer and self.state.peer.alive:
            # Which events there are was chosen by a table that was gone.
            self.attempt("verify", self.engine.begin_verify)
        if self.state.role is Role.PASSIVE and self.state.synced:
            # Packets that came in meanwhile made ordinary entries of larvae.
            self.attempt("sync", self.engine.want_sync)
            self.feed(model.SyncLost())

    # --- for the commands ---

    async def until(self, holds: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait for a condition on this node's state; False: not in time."""
        end = None if timeout_s is None else self.clock() + timeout_s
        while not holds():
            left = None if end is None else end - self.clock()
            if left is not None and left <= 0:
                return False
            # The state tells when it changes; the limit is for conditions on
            # something else (busy, the peer's liveness).
            pause = 0.25 if left is None else min(left, 0.25)
            try:
                await asyncio.wait_for(self._changed.wait(), pause)
            except TimeoutError:
                pass
        return True

    def gate_state(self) -> str:
        """ "open", "closed" or "missing", as the kernel says now."""
        is_open = self.engine.gate_is_open()
        return "missing" if is_open is None else "open" if is_open else "closed"

    async def verify(self, repair: bool, timeout_s: float) -> TableInfo:
        """Compare both kernels' tables.  Raises PeerError; RefusedError: not in time."""
        asked = Verification(self.engine, repair)
        found: TableInfo | None = None

        def done() -> bool:
            nonlocal found
            found = asked.answer()
            return found is not None

        if await self.until(done, timeout_s) and found is not None:
            return found
        raise RefusedError(
            f"not compared within {timeout_s:g} s; hak2kctl info tells whether the peer answers"
        )

    async def force(self, forced: Forced, *, alone: bool, timeout_s: float) -> None:
        """Force a state or lift it, and wait for the swap it means.
        Raises RefusedError."""
        await self.idle()
        event = model.Force(forced, alone)

        def refused() -> str | None:
            return refusal(self.rules, self.state, event)

        # Right after a swap, or a join, a copy is under way that takes moments: a
        # script that swaps there and back should not have to know.
        await self.until(lambda: refused() is None and not self.busy, min(timeout_s, READY_WAIT_S))
        why = refused()
        if why is not None:
            raise RefusedError(why)
        word = forced.name.lower()
        self.log.emit("force.set", f"forced: {word}", forced=word)
        self.feed(event)
        if not await self.until(lambda: self._obeyed(forced), timeout_s):
            raise RefusedError(
                f"the swap was not complete after {timeout_s:g} s; the forced state "
                f'"{word}" stays set, `hareset` lifts it; see `hak2kctl events`'
            )

    def freeze(self, seconds: float | None) -> float:
        """Let preferences wait, for as long as the configuration allows if None; the
        seconds.  Raises RefusedError."""
        most = self.config.swap.freeze_max_s
        seconds = most if seconds is None else seconds
        if not 0 < seconds <= most:
            where = self.config.where("swap", "freeze_max_s")
            raise RefusedError(f"{seconds:g} s is not above 0 and at most {most:g} s; see {where}")
        text = f"quality and priority decide nothing for {seconds:g} s"
        self.log.emit("freeze.set", text, seconds=seconds)
        self.feed(model.Freeze(self.clock() + seconds))
        return seconds

    def resume(self) -> bool:
        """End a freeze; whether there was one."""
        frozen = self.state.frozen_until is not None
        self.feed(model.Freeze(None))
        return frozen

    def frozen_until(self) -> float | None:
        """Unix time."""
        return self._unix(self.state.frozen_until)

    def held_until(self) -> float | None:
        """Unix time."""
        return self._unix(self.state.held_until)

    def _unix(self, end: float | None) -> float | None:
        return None if end is None else self._wall() + max(0.0, end - self.clock())

    def _obeyed(self, forced: Forced) -> bool:
        s = self.state
        if self.busy:
            return False
        if forced is Forced.NO:
            return settled(s)
        theirs = s.peer.mode if s.peer is not None and s.peer.alive else None
        if forced is Forced.ACTIVE:
            return s.role is Role.ACTIVE and theirs is not Mode.ACTIVE
        return s.role is Role.PASSIVE and (theirs is Mode.ACTIVE or s.alone)

    def reload(self) -> list[str]:
        """Read the configuration again; the keys that changed.
        Raises ConfigError, RefusedError, and then nothing has changed."""
        try:
            new = load_config(self.config.path)
        except ConfigError as e:
            self.log.emit("config.refused", e.problems[0], problems=len(e.problems))
            raise
        keys = changed(self.config, new)
        fixed = [k for k in keys if not reloadable(k)]
        if fixed:
            what = "; ".join(
                f"{new.where(*k)}: cannot change while the stream runs, restart hak2kd"
                for k in fixed
            )
            self.log.emit("config.refused", what)
            raise RefusedError(what)
        if ("cluster", "psk_file") in keys:
            self.engine.set_keys(new.cluster.psk)
            self.looks.new_keys()
        new.cluster.forget()
        old, self.config = self.config, new
        self.log.level = new.log.level
        if new.cluster.priority != old.cluster.priority:
            self.engine.set_priority(new.cluster.priority)
            value = new.cluster.priority
            self.log.emit("priority.changed", f"priority is {value}", priority=value)
            self.feed(model.PriorityChanged(value))
        self._schedule_garp()
        self._interfaces.forget()
        self.health.reload(new.health)
        self._update_quality()
        names = [new.where(*k).rsplit(": ", 1)[-1] for k in keys]
        text = "changed: " + ", ".join(names) if names else "nothing changed"
        self.log.emit("config.reloaded", text, keys=names)
        for notice in set(new.notices()) - set(old.notices()):
            self.log.emit("config.warning", notice)
        return names
