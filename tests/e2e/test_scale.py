"""Tables of some size: the whole state, and what it costs in memory."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from hak2k.lab import Entry, Node, Tuple, until
from hak2k.lab import ctnl as c
from hak2k.lab.netlink import NETLINK_NETFILTER, NLM_F_CREATE, NLM_F_EXCL
from tests.e2e.duo import Duo, rss

MIB = 1 << 20
_NEW = c.SUBSYS_CT << 8 | c.MSG_NEW
_STATUS = c.CONFIRMED | c.SEEN_REPLY | c.ASSURED


def entry(number: int) -> Entry:
    """An established connection from a client that the lab does not have."""
    a, b = number >> 8 & 255, number & 255
    orig = Tuple(f"100.{64 + (number >> 16)}.{a}.{b}", "10.72.0.10", 6, 40000, 7000)
    tcp = c.Tcp("ESTABLISHED", (7, 7), (0x23, 0x23))
    return Entry(orig, orig.inverse(), status=_STATUS, timeout=7200, tcp=tcp)


def fill(node: Node, numbers: range) -> None:
    """Make `entry(n)` for each n: a template with another address each time."""
    sample = entry(0)
    body = c.encode_entry(sample)
    address = socket.inet_aton(sample.orig.src)
    base = struct.unpack(">I", address)[0]
    assert body.count(address) == 2
    before = node.ct.count()
    flags = 1 | NLM_F_CREATE | NLM_F_EXCL
    head = struct.pack("=IHHII", 16 + len(body), _NEW, flags, 0, 0)
    with node.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as raw:
        for first in range(numbers.start, numbers.stop, 500):
            chunk = range(first, min(first + 500, numbers.stop))
            raw.send(
                b"".join(head + body.replace(address, struct.pack(">I", base + n)) for n in chunk)
            )
    assert node.ct.count() >= before + len(numbers)


def drop(node: Node, numbers: range) -> None:
    for first in range(numbers.start, numbers.stop, 200):
        node.ct.delete(*(entry(n) for n in range(first, min(first + 200, numbers.stop))))


@pytest.fixture(scope="module")
def shared() -> Iterator[Duo]:
    duo = Duo(traffic=False)
    yield duo
    duo.close()


@pytest.fixture
def duo(shared: Duo) -> Duo:
    """Both ready, both tables empty."""
    for fw in shared.lab.fw:
        shared.lab.kill(fw)
        fw.ct.flush()
    shared.lab.start(shared.lab.fw1)
    shared.wait_mode(shared.lab.fw1, "active")
    shared.lab.start(shared.lab.fw2)
    shared.ready()
    return shared


def memory(duo: Duo) -> dict[str, int]:
    found = {}
    for fw in duo.lab.fw:
        process = duo.lab.daemons[fw].process
        assert process is not None
        found[fw.name] = rss(process.pid)
    return found


def test_memory_does_not_grow_with_the_table(duo: Duo) -> None:
    """100,000 connections, by the stream and by a copy: nothing that is kept in
    either process grows with them."""
    active, passive = duo.active, duo.passive
    before = memory(duo)
    fill(active, range(100_000))
    until(lambda: passive.ct.count() >= 100_000, 60, "100k entries on the passive", interval=0.1)
    duo.ready()
    after = memory(duo)
    growth = {name: after[name] - before[name] for name in before}
    assert max(growth.values()) < 16 * MIB, growth

    # The passive one comes back with nothing: now the table goes as a whole.
    duo.lab.kill(passive)
    passive.ct.flush()
    duo.lab.start(passive)
    duo.wait_mode(passive, "passive")
    refused_until_ready(duo)
    duo.ready(60)
    assert passive.ct.count() >= 100_000
    after = memory(duo)
    growth = {name: after[name] - before[name] for name in before}
    assert max(growth.values()) < 16 * MIB, growth


def refused_until_ready(duo: Duo) -> None:
    """While the copy is on its way the role is not to be had, nor to be got rid of.

    A hundred thousand entries take seconds, the two commands a fraction of one."""
    active, passive = duo.lab.fw1, duo.lab.fw2
    until(lambda: duo.ask(active, "info")["peer"]["state"] == "syncing", 5, "the peer syncs")
    assert duo.ask(passive, "info")["local"]["state"] == "syncing"
    for fw, command, words in (
        (active, "passive", "the peer is not ready"),
        (passive, "active", "this node is not ready"),
    ):
        done = duo.lab.daemons.command(fw, command, "--timeout", "0.05")
        assert done.returncode == 1
        assert words in done.stderr
        assert "its table is not complete" in done.stderr
        # Nothing was changed, and nothing is remembered.
        assert duo.ask(fw, "info")["local"]["forced"] == "no"
    late = duo.lab.daemons.command(passive, "wait", "--ready", "--timeout", "0.05")
    assert late.returncode == 1
    assert "syncing" in late.stderr
    assert duo.ask(passive, "info")["local"]["state"] == "syncing"  # still, all the while
    assert duo.active is active


def test_whole_state_of_an_older_node(duo: Duo) -> None:
    """fw1 had 20,000 entries, some of them from before its daemon, when fw2 began."""
    one, two = duo.lab.fw
    for fw in duo.lab.fw:
        duo.lab.kill(fw)
    two.ct.flush()
    fill(one, range(10_000))
    duo.lab.start(one)
    duo.wait_mode(one, "active")
    fill(one, range(10_000, 20_000))
    drop(one, range(9_500, 10_500))
    duo.lab.start(two)
    # The table goes on changing while it is copied: gone, new, other.
    duo.wait_event(two, "sync.start")
    drop(one, range(500))
    fill(one, range(20_000, 21_000))
    for number in range(600, 700):
        one.ct.change(entry(number), mark=0x77)
    duo.ready(60)
    table = duo.equal(30)
    assert len(table) == 20_000 - 1_000 - 500 + 1_000
    assert table[entry(650).key].mark == 0x77

    # What ends here while the other one is away is gone there when it is ready:
    # it comes back with its old table, and with entries that never were.
    duo.lab.stop(two)
    drop(one, range(1_000, 3_000))
    fill(two, range(30_000, 30_100))
    before = two.ct.count()
    duo.lab.start(two)
    duo.ready(60)
    done = duo.wait_event(two, "sync.done")
    assert done["removed"] == 2_100
    assert two.ct.count() == before - 2_100
    duo.equal(30)
