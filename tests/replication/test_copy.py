"""The full copy: whatever the passive kernel held before, it ends up equal."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from hak2k.lab import Entry, Expectation, Lab, Tuple, until
from hak2k.lab import ctnl as c
from hak2k.lab.ctnl import Conntrack, SeqAdj, Synproxy, Tcp
from tests.pair import Pair
from tests.replication.entries import DCCP, TCP_FLAGS, cases, make
from tests.replication.tables import equal, faults, table_faults


@contextmanager
def strangers(lab: Lab, **options: Any) -> Iterator[Pair]:
    """Two engines that have not met: both tables can be prepared before `begin`."""
    both = Pair(lab, **options)
    try:
        yield both
    finally:
        both.close()


def last_copy(two: Pair) -> dict[str, Any]:
    return two.b.seen("sync.done")[-1]


def everything() -> list[Entry]:
    """One entry of each case of the matrix, but for those that would clash."""
    found: dict[Tuple, Entry] = {}
    for case in cases():
        entry = case.entry()
        # On kernels that do not track it, DCCP has no ports to tell two apart.
        if entry.orig.proto != DCCP:
            found.setdefault(entry.reply, entry)
    return list(found.values())


def udp(number: int, **fields: Any) -> Entry:
    """A UDP entry of its own for each number."""
    orig = Tuple("10.71.0.10", "10.72.0.10", 17, 1 + number % 60000, 1000 + number // 60000)
    base = Entry(orig, orig.inverse(), status=c.CONFIRMED | c.SEEN_REPLY, timeout=600)
    return replace(base, **fields)


def wanted(two: Pair) -> None:
    """Ask for another full copy and wait for its end."""
    before = len(two.b.seen("sync.done"))
    two.b.engine.want_sync()
    until(
        lambda: len(two.b.seen("sync.done")) > before and two.b.synced,
        30,
        "another copy",
        detail=two.report,
    )


def test_into_an_empty_table(lab: Lab) -> None:
    lab.fw1.ct.create(*everything())
    with strangers(lab) as two:
        two.begin()
        equal(two)
        done = last_copy(two)
        assert (done["entries"], done["removed"]) == (len(everything()), 0)
        sent = two.a.seen("sync.sent")[-1]
        assert sent["entries"] == done["entries"]
        stats = two.b.stats
        assert stats["apply.created"] == len(everything())
        assert stats["apply.failed"] == stats["apply.replaced"] == stats["apply.evicted"] == 0


def test_into_an_equal_table(lab: Lab) -> None:
    lab.fw1.ct.create(*everything())
    with strangers(lab) as two:
        two.begin()
        equal(two)
        born = {e.key: e.id for e in lab.fw2.conntrack().values()}
        for _ in range(3):
            wanted(two)
            assert table_faults(two) == []
        assert last_copy(two)["removed"] == 0
        # All but GRE's, whose timeout cannot be renewed, are the entries they were.
        after = lab.fw2.conntrack().values()
        assert [e.orig for e in after if e.orig.proto != 47 and e.id != born[e.key]] == []


def test_what_the_active_one_does_not_have_is_removed(lab: Lab) -> None:
    """With natural timeouts, as after stepping down, and as larvae of another life."""
    lab.fw1.ct.create(*everything()[::2])
    with strangers(lab) as two:
        lab.fw2.ct.create(*everything()[:40])
        two.begin()
        equal(two)
        assert last_copy(two)["removed"] == 20
        # Now behind the engine's back, with the timeouts of larvae.
        lab.fw2.ct.create(*(replace(e, timeout=691200) for e in everything()[1:40:2]))
        assert len(table_faults(two)) == 20
        wanted(two)
        assert last_copy(two)["removed"] == 20
        equal(two)


def test_other_translation_of_the_same_connection(lab: Lab) -> None:
    """The original tuple is the same, and the reply is not: replaced."""
    ours = [udp(n) for n in range(200)]
    theirs = []
    for n, entry in enumerate(ours):
        reply = replace(entry.reply, dst="10.72.0.77", dport=2000 + n)
        status = entry.status | c.SRC_NAT
        theirs.append(replace(entry, reply=reply, status=status))
    lab.fw1.ct.create(*ours[:100], *theirs[100:])
    with strangers(lab) as two:
        lab.fw2.ct.create(*theirs[:100], *ours[100:])
        two.begin()
        equal(two)
        assert two.b.stats["apply.replaced"] == 200


def test_translated_port_of_another_connection(lab: Lab) -> None:
    """The reply tuple belongs to somebody else on the passive node: evicted."""
    ours = [make("udp", 4, "masquerade-port", f"10.71.5.{n + 1}") for n in range(100)]
    ours = [replace(e, reply=replace(e.reply, dport=3000 + n)) for n, e in enumerate(ours)]
    theirs = [replace(e, reply=replace(e.reply, dport=3099 - n)) for n, e in enumerate(ours)]
    lab.fw1.ct.create(*ours)
    with strangers(lab) as two:
        lab.fw2.ct.create(*theirs)
        two.begin()
        equal(two)
        assert two.b.stats["apply.failed"] == 0


def odd_lives() -> dict[str, tuple[Entry, Entry]]:
    """Pairs of entries with the same tuples: the active kernel's, the passive one's."""
    tcp = make("tcp", 4, "snat-port", "10.71.6.1")
    bare = replace(tcp, status=tcp.status & ~(c.SEEN_REPLY | c.ASSURED), tcp=Tcp("SYN_SENT"))
    helped = replace(tcp, helper="ftp", status=tcp.status | c.HELPER)
    master = udp(1)
    adjusted = replace(
        tcp,
        seqadj_orig=SeqAdj(1, 2, 3),
        seqadj_reply=SeqAdj(4, 5, 6),
        status=tcp.status | c.SEQ_ADJUST,
    )
    return {
        "state": (replace(tcp, tcp=Tcp("FIN_WAIT", (3, 4), (TCP_FLAGS, TCP_FLAGS))), tcp),
        "younger": (bare, tcp),
        "older": (tcp, bare),
        "mark": (replace(tcp, mark=1), replace(tcp, mark=2)),
        "no mark": (tcp, replace(tcp, mark=2)),
        "labels": (replace(tcp, labels=1), replace(tcp, labels=2)),
        "no labels": (tcp, replace(tcp, labels=2)),
        "helper": (helped, tcp),
        "no helper": (tcp, helped),
        "other helper": (replace(helped, helper="irc"), helped),
        "master": (replace(tcp, master=master.orig), tcp),
        "no master": (tcp, replace(tcp, master=master.orig)),
        "seqadj": (adjusted, tcp),
        "no seqadj": (tcp, adjusted),
        "synproxy": (replace(tcp, synproxy=Synproxy(1, 2, 3)), tcp),
        "no synproxy": (tcp, replace(tcp, synproxy=Synproxy(1, 2, 3))),
    }


@pytest.mark.parametrize("name", odd_lives())
@pytest.mark.parametrize("crowd", [False, True], ids=["few-here", "most-here"])
def test_another_life_of_the_same_tuples(lab: Lab, name: str, crowd: bool) -> None:
    """Equal tuples do not make entries equal, on either way into the table.

    While most entries are not here yet, they are created and those that exist
    cured; once most are here, they are looked at first.
    """
    mine, theirs = odd_lives()[name]
    others = [udp(n) for n in range(2, 130)]
    lab.fw1.ct.create(udp(1), *others)
    lab.fw1.ct.create(mine)
    with strangers(lab) as two:
        lab.fw2.ct.create(udp(1), *(others if crowd else []))
        lab.fw2.ct.create(theirs)
        two.begin()
        equal(two, timeout=1)


def family(client: int) -> list[Entry]:
    """A master, its children, a grandchild and its child, as H.323 has them."""
    one = make("tcp", 4, "plain", f"10.71.7.{client}")
    two = replace(make("tcp", 4, "plain", f"10.71.8.{client}"), master=one.orig)
    side = replace(make("udp", 4, "snat-port", f"10.71.9.{client}"), master=one.orig)
    side = replace(side, reply=replace(side.reply, dport=4000 + client))
    three = replace(make("udp", 4, "plain", f"10.71.10.{client}"), master=two.orig)
    four = replace(make("icmp", 4, "plain", f"10.71.11.{client}"), master=three.orig)
    return [one, two, side, three, four]


def test_masters_before_children_in_any_order(lab: Lab) -> None:
    """The kernel lists by hash: about half of the children come before."""
    for client in range(1, 101):
        lab.fw1.ct.create(*family(client))
    with strangers(lab) as two:
        two.begin()
        equal(two)
        assert two.b.stats["apply.no_master"] == 0


def test_orphans(lab: Lab) -> None:
    """Whose master is gone: nothing can give the passive one's entry its name."""
    generations = family(1)
    lab.fw1.ct.create(*generations)
    lab.fw1.ct.delete(generations[0])
    with strangers(lab) as two:
        two.begin()
        two.fence()
        table = lab.fw2.conntrack()
        assert table.keys() == lab.fw1.conntrack().keys()
        child = table[generations[1].key]
        assert child.master is None
        assert not child.status & c.EXPECTED
        # Its own children still name it, and it takes further news.
        assert table[generations[3].key].master == generations[1].orig
        lab.fw1.ct.change(generations[1], mark=99)
        two.fence()
        after = lab.fw2.ct.get(child.orig)
        assert after is not None
        assert after.mark == 99
        assert after.id == child.id
        wanted(two)
        after = lab.fw2.ct.get(child.orig)
        assert after is not None
        assert after.id == child.id


def ftp_control(form: str, client: str, **fields: Any) -> Entry:
    """A control connection with its helper."""
    base = make("tcp", 4, form, client)
    return replace(
        base,
        orig=replace(base.orig, dport=21),
        reply=replace(base.reply, sport=21),
        helper="ftp",
        status=base.status | c.HELPER,
        **fields,
    )


def announced(master: Entry, port: int, **fields: Any) -> Expectation:
    """What a PORT in it announces."""
    return Expectation(
        master=master.orig,
        expected=Tuple(master.orig.dst, master.reply.dst, 6, 0, port),
        mask=Tuple("255.255.255.255", "255.255.255.255", 6, 0, 0xFFFF),
        **fields,
    )


def expectations(lab: Lab) -> list[Expectation]:
    """Masters with a helper on fw1, and what may be expected of them."""
    found = []
    for n, form in enumerate(("plain", "masquerade-port", "snat")):
        master = ftp_control(form, f"10.71.12.{n + 1}")
        lab.fw1.ct.create(master)
        nat = None
        if form != "plain":
            nat = (1, Tuple(master.orig.src, "0.0.0.0", 6, 5000 + n, 0))
        function = "nat-follow-master" if nat else ""
        flags = n & 1  # permanent
        found.append(announced(master, 6000 + n, flags=flags, nat=nat, function=function))
    lab.fw1.ct.expect(*found)
    return found


def expected_on(two: Pair) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    def sorted_on(node: Any) -> list[dict[str, Any]]:
        found = sorted(node.expectations(), key=lambda e: str(e.expected))
        return [e.identity() for e in found]

    return sorted_on(two.a.node), sorted_on(two.b.node)


def same_expectations(two: Pair, count: int) -> None:
    def same() -> bool:
        mine, theirs = expected_on(two)
        return len(mine) == count and mine == theirs

    until(same, 3, "the same expectations", detail=lambda: (expected_on(two), two.report()))


def test_expectations(lab: Lab) -> None:
    made = expectations(lab)
    with strangers(lab) as two:
        two.begin()
        equal(two)
        same_expectations(two, len(made))
        # They must not run out on a passive node, whose masters see no packets.
        assert all(e.timeout > 80000 for e in lab.fw2.expectations())
        for expectation in made:
            lab.fw1.ct.unexpect(expectation)
        same_expectations(two, 0)
        lab.fw1.ct.expect(*made)
        same_expectations(two, len(made))
        # Over expectations that are here: none may double or stay behind.
        lab.fw2.ct.unexpect(made[0])
        wanted(two)
        same_expectations(two, len(made))
        lab.fw1.ct.flush()
        same_expectations(two, 0)
        assert two.b.stats["apply.failed"] == 0, two.report()


# As nf_conntrack_h323_main.c, nf_conntrack_sip.c and the others register them: the port
# that selects the helper, and which protocol is expected.  H.245's is the kernel's alone.
HELPERS = [
    ("Q.931", 6, 1720, 6), ("RAS", 17, 1719, 6), ("pptp", 6, 1723, 47),
    ("irc", 6, 6667, 6), ("sip", 17, 5060, 17), ("tftp", 17, 69, 17), ("amanda", 17, 10080, 6),
    ("sane", 6, 6566, 6),
]  # fmt: skip


@pytest.mark.parametrize(("helper", "proto", "port", "what"), HELPERS, ids=[h[0] for h in HELPERS])
def test_expectations_of_each_helper(
    two: Pair, helper: str, proto: int, port: int, what: int
) -> None:
    """Made while the pair runs, before it compares, and masqueraded or not."""
    name = {6: "tcp", 17: "udp"}[proto]
    for n, form in enumerate(("plain", "masquerade-port")):
        base = make(name, 4, form, f"10.71.13.{n + 1}")
        master = replace(
            base,
            orig=replace(base.orig, dport=port),
            reply=replace(base.reply, sport=port),
            helper=helper,
            status=base.status | c.HELPER,
        )
        two.lab.fw1.ct.create(master)
        nat = (1, Tuple(master.orig.src, "0.0.0.0", what, 5000, 0)) if n else None
        found = announced(master, 7000 + n, nat=nat)
        found = replace(
            found,
            expected=replace(found.expected, proto=what),
            mask=replace(found.mask, proto=what),
        )
        two.lab.fw1.ct.expect(found)
    same_expectations(two, 2)
    two.fence()
    equal(two)
    assert {e.helper for e in two.lab.fw2.conntrack().values()} == {helper}
    assert two.b.stats["apply.failed"] == 0, two.report()


def test_expectations_of_what_is_not_replicated(lab: Lab) -> None:
    """They go by their masters: told neither by a copy nor as they come."""
    local = ftp_control("plain", "10.71.12.9")
    local = replace(local, orig=replace(local.orig, src="10.72.0.1"))
    local = replace(local, reply=local.orig.inverse())
    quiet = ftp_control("plain", "10.71.12.10", mark=0x100)
    lab.fw1.ct.create(local, quiet)
    lab.fw1.ct.expect(announced(local, 6000), announced(quiet, 6001))
    with strangers(lab) as two:
        two.begin()
        lab.fw1.ct.expect(announced(local, 6002), announced(quiet, 6003))
        two.fence()
        # FTP's helper allows one each: the later took the place of the earlier.
        assert len(lab.fw1.expectations()) == 2
        assert lab.fw2.expectations() == []
        for expectation in lab.fw1.expectations():
            lab.fw1.ct.unexpect(expectation)
        two.fence()
        assert two.b.stats["apply.expectations"] == 0
        assert two.b.stats["apply.failed"] == 0


# -- under way -----------------------------------------------------------------------


class Churn(threading.Thread):
    """Somebody who makes, changes and ends connections as fast as it can.

    Args:
        ct: the active kernel.
        entries: what to play with; some are there at the beginning.
        seed: for the order of things.
    """

    def __init__(self, ct: Conntrack, entries: list[Entry], seed: int) -> None:
        super().__init__(daemon=True)
        self._ct = ct
        self._entries = entries
        self._random = random.Random(seed)
        self._over = threading.Event()
        self.rounds = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            there = {i for i in range(len(self._entries)) if i % 2}
            while not self._over.is_set():
                self._round(there)
                self.rounds += 1
        except BaseException as error:
            self.failure = error

    def _round(self, there: set[int]) -> None:
        pick = self._random.sample(range(len(self._entries)), 40)
        ending = [i for i in pick if i in there]
        coming = [i for i in pick if i not in there]
        # Some that end come again at once, with another translation.
        again = ending[::2]
        self._ct.delete(*(self._entries[i] for i in ending))
        for i in again:
            # As no other entry is translated, and as this one was perhaps before.
            entry = self._entries[i]
            reply = replace(entry.reply, dst=f"10.72.0.{self._random.randrange(100, 104)}")
            self._entries[i] = replace(entry, reply=reply, status=entry.status | c.SRC_NAT)
            self._ct.create(self._entries[i])
        self._ct.create(*(self._entries[i] for i in coming))
        there.difference_update(set(ending) - set(again))
        there.update(coming)
        changing = [i for i in self._random.sample(range(len(self._entries)), 20) if i in there]
        for i in changing:
            mark = self._random.getrandbits(32) & ~0x100
            self._ct.change(self._entries[i], mark=mark)

    def end(self) -> None:
        self._over.set()
        self.join()
        if self.failure is not None:
            raise self.failure


@pytest.mark.parametrize(("count", "before"), [(5000, "empty"), (10000, "mixed")])
def test_thousands_under_churn(lab: Lab, rng: random.Random, count: int, before: str) -> None:
    """Nothing is missing, nothing comes back from the dead, and it ends."""
    entries = [udp(n) for n in range(count)]
    lab.fw1.ct.create(*entries[1::2])
    with strangers(lab) as two:
        if before == "mixed":
            # A third each of stale ones, of equal ones, and of none.
            lab.fw2.ct.create(*entries[::3])
        with lab.fw1.enter(), Conntrack() as ct:
            churn = Churn(ct, entries, rng.getrandbits(32))
            churn.start()
            two.begin()
            for _ in range(2):
                wanted(two)
            churn.end()
            assert churn.rounds > 30
        two.fence()
        assert table_faults(two) == []
        stats = two.b.stats
        assert stats["apply.failed"] == stats["apply.full"] == 0, two.report()
        assert two.a.stats["capture.overruns"] == 0


def test_an_entry_that_ends_while_it_is_being_copied_stays_ended(lab: Lab) -> None:
    """Ten thousand ends during the copy, each of them just after it was listed or
    just before."""
    entries = [udp(n) for n in range(12000)]
    lab.fw1.ct.create(*entries)
    with strangers(lab) as two:
        two.meet()
        two.a.activate()
        two.b.passivate()
        for start in range(2000, 12000, 500):
            lab.fw1.ct.delete(*entries[start : start + 500])
        two.synced()
        two.fence()
        assert table_faults(two) == []
        assert len(lab.fw2.conntrack()) == 2000


# -- what is nobody else's business ----------------------------------------------------


def own(lab: Lab, which: int) -> list[Entry]:
    """Connections that begin or end on a firewall itself."""
    found = []
    ends = [
        ("10.71.0.10", "10.71.0.1"),
        ("10.72.0.1", "10.72.0.10"),
        ("192.168.69.1", "192.168.69.2"),
        ("fd71::10", "fd71::1"),
        ("fd72::1", "fd72::10"),
        ("fe80::1", "ff02::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.71.0.10", "224.0.0.18"),
    ]
    for n, (src, dst) in enumerate(ends):
        orig = Tuple(src, dst, 6, 1000 * which + n + 1, 22)
        status = c.CONFIRMED | c.SEEN_REPLY | c.ASSURED
        found.append(
            Entry(orig, orig.inverse(), status=status, timeout=5000, tcp=Tcp("ESTABLISHED"))
        )
    return found


def test_local_connections_stay_where_they_are(lab: Lab) -> None:
    transit = everything()
    lab.fw1.ct.create(*transit, *own(lab, 1))
    with strangers(lab) as two:
        lab.fw2.ct.create(*own(lab, 2))
        two.begin()
        for entry in own(lab, 3):
            lab.fw1.ct.create(entry)
        lab.fw1.ct.delete(*own(lab, 1))
        lab.fw1.ct.change(transit[0], mark=1)
        wanted(two)
        two.fence()
        equal(two)
        table = lab.fw2.conntrack(transit=False)
        for entry in own(lab, 2):
            assert entry.key in table, entry.orig
            assert 4900 < table[entry.key].timeout <= 5000
        for entry in own(lab, 1) + own(lab, 3):
            assert entry.key not in table, entry.orig
        assert two.a.stats["capture.excluded"] >= 2 * len(own(lab, 1))


def test_local_connections_if_they_are_wanted(lab: Lab) -> None:
    """Without exclude_local they are told, and still not judged."""
    with strangers(lab, exclude_local=False) as two:
        lab.fw2.ct.create(*own(lab, 2))
        lab.fw1.ct.create(*own(lab, 1))
        two.begin()
        two.fence()
        table = lab.fw2.conntrack(transit=False)
        for entry in own(lab, 1) + own(lab, 2):
            assert entry.key in table, entry.orig


def test_marks_that_opt_out(lab: Lab) -> None:
    quiet, loud = replace(udp(1), mark=0x100), replace(udp(2), mark=0xFFFFFEFF)
    lab.fw1.ct.create(quiet, loud)
    with strangers(lab) as two:
        lab.fw2.ct.create(replace(udp(3), mark=0x123))
        two.begin()
        late = replace(udp(4), mark=0xF00)
        lab.fw1.ct.create(late)
        two.fence()
        table = lab.fw2.conntrack()
        assert quiet.key not in table
        assert late.key not in table
        assert loud.key in table
        # Whoever opted out here is not the peer's to remove.
        assert udp(3).key in table
        # An end that nobody was told the beginning of does no harm.
        lab.fw1.ct.delete(late)
        two.fence()
        assert two.b.stats["apply.failed"] == 0


def test_a_mark_that_opts_out_later_and_back(lab: Lab) -> None:
    with strangers(lab) as two:
        two.begin()
        entry = replace(udp(1), mark=1)
        lab.fw1.ct.create(entry)
        equal(two)
        lab.fw1.ct.change(entry, mark=0x101)
        two.fence()
        assert lab.fw2.ct.get(entry.orig) is None, "the passive one is not told its end"
        lab.fw1.ct.change(entry, mark=2)
        equal(two)
        assert lab.fw2.ct.get(entry.orig) is not None
        lab.fw1.ct.change(entry, mark=0x100)
        lab.fw1.ct.delete(entry)
        two.fence()
        equal(two)
        assert lab.fw2.conntrack() == {}


def test_only_some_protocols(lab: Lab) -> None:
    chosen = [make(name, 4, "plain", "10.71.13.1") for name in ("tcp", "esp")]
    others = [make(name, 4, "plain", "10.71.13.1") for name in ("udp", "icmp", "sctp", "gre")]
    lab.fw1.ct.create(*chosen, *others)
    with strangers(lab, protocols=[6, 50]) as two:
        kept = make("udp", 4, "plain", "10.71.13.2")
        lab.fw2.ct.create(kept, make("tcp", 4, "plain", "10.71.13.3"))
        two.begin()
        for entry in chosen + others:
            lab.fw1.ct.change(entry, mark=3)
        wanted_keys = {e.key for e in [*chosen, kept]}
        until(lambda: lab.fw2.conntrack().keys() == wanted_keys, 3, detail=two.report)
        for entry in chosen:
            here = lab.fw1.ct.get(entry.orig)
            assert here is not None
            until(lambda: not faults(here, lab.fw2.ct.get(entry.orig)), 3)  # noqa: B023
