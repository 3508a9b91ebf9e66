"""What a node looks at now and then, for nothing tells it by itself.

Refused datagrams, the table's size, the key in use, the recorder's file, the gate: each
a method that the node calls in its loop, when nobody else uses the engine.  With its
tick and not by timers of their own: waking up costs more than to look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hak2k.errors import HakError
from hak2k.model import Role
from hak2k.pace import Pace

if TYPE_CHECKING:
    from hak2k.node import Node

STRANGERS_S: Final = 2.0  # between two looks at what was refused
STRANGERS_AGAIN_S: Final = 60.0  # until the same is logged again
KEY_WAIT_S: Final = 2.0  # a change of keys takes one
PACE_S: Final = 1.0
ENTRIES_S: Final = 1.0  # two numbers from the kernel
ENTRIES_AGAIN_S: Final = 5.0
GATE_S: Final = 5.0  # beside what is told of nftables
EARLY_S: Final = 0.1  # ticks do not come to the point
MISSING_LEAST, MISSING_SHARE = 8, 0.05  # less is left to the scrub

# Refusals that, without a peer, say why there is none: counter, text.
_STRANGERS: Final = {
    "drop.auth": "datagrams of another key arrive; compare psk_file on both nodes",
    "drop.cluster": "datagrams of another cluster arrive; compare cluster.id",
    "drop.version": "datagrams of another protocol version arrive; compare versions",
    "drop.address": "datagrams come from an address that is no link's peer",
}


class Looks:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._refused: dict[str, int] = {}  # counters of _STRANGERS as last seen
        self._refused_said: dict[str, float] = {}
        self._key_waits = node.clock()  # since then the session's key is not the first one
        self._key_again = 0.0
        self._recorder_said = False
        self._table_seen: tuple[int, int] | None = None  # entries, and what we were told
        self._table_again = 0.0
        self._sizes_said: tuple[int, int] | None = None  # ours, the peer's
        self._pace = Pace()
        # What to call, and every how many seconds.
        self._table: list[tuple[Callable[[], None], float]] = [
            (self.entries, ENTRIES_S),  # first: it compares counters with a count of now
            (self.strangers, STRANGERS_S),
            (self.pace, PACE_S),
            (self.key, KEY_WAIT_S),
            (self.recorder, STRANGERS_S),
            (self.sizes, ENTRIES_AGAIN_S),
            (node.probe_gate, GATE_S),
        ]
        self._at = [node.clock() + seconds for _, seconds in self._table]
        self._round: list[dict[str, int]] | None = None  # while one is under way

    def due(self) -> None:
        """Look at what has not been looked at for its time."""
        now = self._node.clock()
        self._round = []
        try:
            for i, (look, seconds) in enumerate(self._table):
                if now >= self._at[i] - EARLY_S:
                    self._at[i] = now + seconds
                    look()
        finally:
            self._round = None

    def _statistics(self) -> dict[str, int]:
        """Once for a round of looks: these are a hundred counters."""
        if self._round:
            return self._round[0]
        found = self._node.engine.statistics()
        if self._round is not None:
            self._round.append(found)
        return found

    def wait(self) -> float:
        """How long nothing of this is to be looked at.  What is looked at most often says
        nothing about an active node."""
        return STRANGERS_S if self._node.state.role is Role.ACTIVE else PACE_S

    def new_keys(self) -> None:
        """The keys were read again: begin to wait anew."""
        self._key_waits, self._key_again = self._node.clock(), 0.0

    def unsettled(self) -> None:
        """For a while, this node itself makes the kernel end entries."""
        self._table_again = self._node.clock() + ENTRIES_AGAIN_S

    def pace(self) -> None:
        """How much the peer has to tell; see `cut`."""
        if self._node.state.role is Role.ACTIVE:
            return
        try:
            records = self._statistics().get("rx.records", 0)
        except HakError:
            return  # said by `strangers`
        self._pace.note(self._node.clock(), records)

    def cut(self, silent_s: float, datagrams: int) -> None:
        """This node took over from a dead peer: what that may have cost."""
        changes, ms = self._pace.most(silent_s), round(silent_s * 1000, 1)
        text = f"at most {changes} changes in the last {ms:g} ms were not replicated"
        if datagrams:
            text += f", and {datagrams} datagrams of changes before were lost"
        self._node.log.emit("stream.cut", text, changes=changes, ms=ms, datagrams=datagrams)

    def strangers(self) -> None:
        """Two nodes that do not fit are silent to each other; tell why."""
        try:
            stats = self._statistics()
        except HakError as e:
            self._node.news("daemon.error", str(e))
            return
        now = self._node.clock()
        alone = self._node.state.peer is None or not self._node.state.peer.alive
        for name, text in _STRANGERS.items():
            count = stats.get(name, 0)
            more = count - self._refused.get(name, 0)
            self._refused[name] = count
            said = self._refused_said.get(name, -STRANGERS_AGAIN_S)
            if alone and more > 0 and now - said >= STRANGERS_AGAIN_S:
                self._refused_said[name] = now
                self._node.log.emit("hello.refused", text, counter=name, refused=count)

    def entries(self) -> None:
        """A passive node's table that lost what nobody told it to lose was emptied by
        somebody else (`conntrack -F`): compare now, not at the next scrub."""
        if self._node.state.role is not Role.PASSIVE:
            self._table_seen = None
            return
        now = self._node.clock()
        try:
            stats, count = self._statistics(), self._node.engine.table_count()
        except HakError as e:
            self._node.news("daemon.error", str(e))
            return
        told = stats.get("apply.created", 0) - stats.get("apply.deleted", 0)
        told -= stats.get("sync.removed", 0)
        before, self._table_seen = self._table_seen, (count, told)
        if not self._node.state.synced or before is None:
            return
        missing = before[0] + told - before[1] - count
        if missing > max(MISSING_LEAST, before[0] * MISSING_SHARE) and now >= self._table_again:
            self._table_again = now + ENTRIES_AGAIN_S
            text = f"{missing} entries went that the peer did not end; comparing"
            self._node.news("table.disturbed", text, entries=count, missing=missing)
            self._node.attempt("comparing", self._node.engine.begin_verify)

    def sizes(self) -> None:
        """A peer whose table takes less than this one's cannot hold all of it one day.
        The buckets of the hash only make it slower, and are not told."""
        try:
            theirs, ours = self._node.engine.stream().peer_max, self._node.engine.table_max()
        except HakError as e:
            self._node.news("daemon.error", str(e))
            return
        if theirs is None or not ours:  # passive, or the peer did not say
            return
        smaller = (ours, theirs) if theirs < ours else None
        if smaller is not None and smaller != self._sizes_said:
            text = f"the peer's table takes {theirs} connections, this one {ours}"
            self._node.log.emit("table.smaller", text, max=ours, peer_max=theirs)
        self._sizes_said = smaller

    def recorder(self) -> None:
        recorder = self._node.recorder
        failure = recorder.failure
        if failure is not None and not self._recorder_said:
            self._recorder_said = True
            self._node.log.emit("recorder.failed", f"{recorder.path}: {failure.strerror}")

    def key(self) -> None:
        """Say that a change of keys is not complete, until it is."""
        in_use, now = self._node.engine.stream().key, self._node.clock()
        wanted = self._node.config.cluster.keys[0][0] if self._node.config.cluster.keys else in_use
        if in_use is None or in_use == wanted:
            self._key_waits = now
            return
        if now - self._key_waits < KEY_WAIT_S or now < self._key_again:
            return
        self._key_again = now + STRANGERS_AGAIN_S
        text = f"the peer does not take key {wanted}, the session goes on under key {in_use}"
        if in_use not in dict(self._node.config.cluster.keys):
            text += ", which is not in psk_file any more"
        self._node.log.emit("key.waiting", text, key=in_use, wanted=wanted)
