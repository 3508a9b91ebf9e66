"""Faults in any order: when the last has healed, one is active, the other is ready,
and their tables are equal.  HAK2K_SEED replays a sequence."""

from __future__ import annotations

import random
from collections.abc import Callable

from hak2k.errors import HakError
from hak2k.lab import Node, until
from hak2k.lab.topology import SERVER4
from tests.e2e.conftest import Shelf
from tests.e2e.duo import Churn, Duo, GateWatch

OPTIONS = {"wire": True}
STEPS = 8
UNDISCOVERED = ("crash", "kill", "hang", "cut both")


class Trouble:
    """One fault at a time, overlapping with what is left of the last one."""

    def __init__(self, duo: Duo, rng: random.Random) -> None:
        self.duo = duo
        self.lab = duo.lab
        self.rng = rng
        self.done: list[str] = []
        self.wounds: dict[str, Callable[[], object]] = {}  # what: how it is healed
        self.faults = (
            self.crash,
            self.kill,
            self.stop,
            self.hang,
            self.cut_one,
            self.cut_both,
            self.swap,
            self.flush,
        )

    def step(self) -> None:
        # Heal before the third wound: two nodes can stand no more than they have.
        if self.wounds and (len(self.wounds) > 1 or self.rng.random() < 0.6):
            self.heal(self.rng.choice(sorted(self.wounds)))
        else:
            self.rng.choice(self.faults)()

    def heal(self, what: str) -> None:
        self.done.append(f"heal {what}")
        self.wounds.pop(what)()

    def heal_all(self) -> None:
        for what in sorted(self.wounds):
            self.heal(what)

    def _free(self) -> Node | None:
        """A firewall that is not wounded."""
        busy = {what.split()[-1] for what in self.wounds}
        free = [fw for fw in self.lab.fw if fw.name not in busy]
        return self.rng.choice(free) if free else None

    def _wound(
        self, name: str, fault: Callable[[Node], object], cure: Callable[[Node], object]
    ) -> None:
        fw = self._free()
        if fw is not None:
            self.done.append(f"{name} {fw.name}")
            fault(fw)
            self.wounds[f"{name} {fw.name}"] = lambda: cure(fw)

    def crash(self) -> None:
        def cure(fw: Node) -> None:
            self.lab.revive(fw)
            self.lab.start(fw)

        self._wound("crash", self.lab.crash, cure)

    def kill(self) -> None:
        self._wound("kill", self.lab.kill, self.lab.start)

    def stop(self) -> None:
        self._wound("stop", self.lab.stop, self.lab.start)

    def hang(self) -> None:
        self._wound("hang", self.lab.daemons.hang, self.lab.daemons.unhang)

    def cut_one(self) -> None:
        link, how = self.rng.choice(("ha0", "ha1")), self.rng.choice(("carrier", "silent"))
        if not any(what.startswith("cut") for what in self.wounds):
            self.done.append(f"cut {how} {link}")
            self.lab.cut(link, how=how)
            self.wounds[f"cut {how} {link}"] = self.lab.restore

    def cut_both(self) -> None:
        if not any(what.startswith("cut") for what in self.wounds):
            self.done.append("cut both")
            self.lab.cut(how="silent")
            self.wounds["cut both"] = self.lab.restore

    def swap(self) -> None:
        fw = self._free()
        if fw is None:
            return
        command = self.rng.choice(("active", "passive"))
        self.done.append(f"{command} {fw.name}")
        try:
            self.duo.ask(fw, command, timeout=1.0)
        except HakError as error:
            self.done.append(f"({error})")
        try:
            self.duo.ask(fw, "reset", timeout=1.0)
        except HakError as error:
            self.done.append(f"({error})")

    def flush(self) -> None:
        fw = self._free()
        if fw is not None:
            self.done.append(f"flush gate {fw.name}")
            # Not an error if the last one still hurts.
            fw.nft("add table netdev hak2k\ndelete table netdev hak2k")


def wait(watch: GateWatch, rng: random.Random) -> None:
    """Some faults are met while the last one still hurts, some later.  There may be
    no traffic to count by, so the samples of the gates are counted."""
    watch.more(rng.choice((1, 10, 100, 300)), timeout=60)


def healed(duo: Duo) -> None:
    duo.ready(30)
    duo.gates()
    duo.equal()
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()


def test_any_sequence_of_faults(duo: Duo, rng: random.Random) -> None:
    """Both may be down at once, and connections may be lost with them; but no
    state of affairs lasts that is not a pair."""
    trouble = Trouble(duo, rng)
    try:
        with Churn(duo.lab), GateWatch(duo.lab) as watch:
            for _ in range(STEPS):
                trouble.step()
                wait(watch, rng)
            trouble.heal_all()
            duo.ready(30)
        healed(duo)
        # A lease that lapses just now closes the gate for a moment: that does not last.
        until(lambda: duo.lab.client.ping(SERVER4, 1), 2, "a ping")
    except AssertionError as error:
        raise AssertionError("\n".join(["sequence:", *trouble.done, str(error)])) from error


def test_any_sequence_of_single_faults(shelf: Shelf, rng: random.Random) -> None:
    """One fault at a time, each when the pair is whole again: nothing is lost."""
    shelf.drop()  # after the other test, connections may be
    duo = shelf.take()
    trouble = Trouble(duo, rng)
    try:
        with Churn(duo.lab) as churn, GateWatch(duo.lab) as watch:
            for _ in range(STEPS):
                trouble.rng.choice(trouble.faults)()
                wait(watch, rng)
                trouble.heal_all()
                duo.ready(30)
                # A short connection fell into each gap, and came out of it again.
                churn.more(1)
            duo.progress()
        healed(duo)
        assert duo.traffic is not None
        assert duo.traffic.lost() == {}
        # Only one that begins between a fault and its discovery is nobody's but the
        # victim's; and they come one by one.
        undiscovered = [what for what in trouble.done if what.startswith(UNDISCOVERED)]
        assert len(churn.failed) <= len(undiscovered), churn.failed
    except AssertionError as error:
        raise AssertionError("\n".join(["sequence:", *trouble.done, str(error)])) from error
