"""The network watcher with real interfaces."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from hak2k._rtnl import Rtnl
from hak2k.lab import until
from hak2k.lab.rtnl import End
from hak2k.netwatch import NetWatch, Snapshot, look
from tests.netns.conftest import Two

DATA = ("lan", "wan")


@contextmanager
def watching(two: Two) -> Iterator[list[Snapshot]]:
    seen: list[Snapshot] = []
    with two.fw.enter():
        watch = NetWatch((*DATA, "ha0"), seen.append)
        seen.append(watch.snapshot)
        watch.start()
    try:
        yield seen
    finally:
        watch.stop()
        watch.stop()


def test_look(two: Two) -> None:
    found = two.fw.call(look, ["lan", "nope"])
    assert found.links.keys() == {"lan"}
    lan = found.links["lan"]
    assert lan.name == "lan"
    assert lan.index == two.fw.rtnl.index("lan")
    assert lan.type == 1
    assert lan.mac.hex(":") == two.fw.links()["lan"].mac
    assert lan.working
    address = socket.inet_pton(socket.AF_INET6, "fd71::1")
    assert found.has_address("lan", address)
    assert not found.has_address("nope", address)
    assert address in found.local_addresses()
    assert socket.inet_aton("192.168.69.1") in found.local_addresses()


def test_it_looks_at_its_own_namespace(two: Two) -> None:
    with watching(two) as seen:
        assert seen[0].links.keys() == {"lan", "wan", "ha0"}


def test_carrier(two: Two) -> None:
    with watching(two) as seen:
        assert seen[-1].working(DATA) == {"lan", "wan"}
        start = time.monotonic()
        two.host.rtnl.down("lan")
        until(lambda: seen[-1].working(DATA) == {"wan"}, what="carrier lost")
        assert time.monotonic() - start < 1
        two.host.rtnl.up("lan")
        until(lambda: seen[-1].working(DATA) == {"lan", "wan"}, what="carrier back")
        two.fw.rtnl.down("wan")
        until(lambda: seen[-1].working(DATA) == {"lan"}, what="link down")


def test_addresses(two: Two) -> None:
    new = socket.inet_aton("10.71.0.77")
    with watching(two) as seen:
        two.fw.rtnl.add_address("lan", "10.71.0.77/24")
        until(lambda: new in seen[-1].local_addresses(), what="address added")
        two.fw.rtnl.remove_address("lan", "10.71.0.77/24")
        until(lambda: new not in seen[-1].local_addresses(), what="address removed")


def test_a_device_that_goes_and_comes_again(two: Two) -> None:
    with watching(two) as seen:
        old = seen[-1].links["wan"].index
        two.fw.rtnl.delete("wan")
        until(lambda: "wan" not in seen[-1].links, what="gone")
        two.fw.rtnl.add_veth(End(two.fw.fd, "wan"), End(two.host.fd, "wan"))
        until(lambda: "wan" in seen[-1].links, what="back")
        assert seen[-1].links["wan"].index != old


def test_a_flood_of_events(two: Two) -> None:
    with watching(two) as seen:
        for i in range(300):
            two.fw.rtnl.add_address("ha0", f"10.9.{i // 200}.{i % 200 + 1}/32")
        wanted = socket.inet_aton("10.9.1.100")
        until(lambda: wanted in seen[-1].local_addresses(), what="the last one", timeout=10)


@pytest.mark.parametrize("many", [300])
def test_many_addresses_fit_several_messages(two: Two, many: int) -> None:
    for i in range(many):
        two.fw.rtnl.add_address("ha0", f"10.9.{i // 200}.{i % 200 + 1}/32")
    found = [a for a in two.fw.call(look, []).local_addresses() if a[:2] == b"\x0a\x09"]
    assert len(found) == many


def test_members(two: Two) -> None:
    """Of a bridge, for this needs no bonding driver: what a bond's members say beyond
    their carriers is in tests/unit/test_bond.py."""
    two.fw.rtnl.add_bridge("br0")
    two.fw.rtnl.up("br0")
    for name in ("lan", "wan"):
        two.fw.rtnl.set_master(name, "br0")
    with two.fw.enter():
        rtnl = Rtnl()
    try:
        master = rtnl.link("br0")
        assert master is not None
        assert master.kind == "bridge"
        assert not master.aggregate
        assert rtnl.members(master) == {"lan": True, "wan": True}
        two.host.rtnl.down("wan")
        until(lambda: rtnl.members(master) == {"lan": True, "wan": False}, what="carrier lost")
        two.fw.rtnl.set_master("lan", None)
        assert rtnl.members(master) == {"wan": False}
    finally:
        rtnl.close()


def test_no_python_runs_while_nothing_changes(two: Two) -> None:
    """The thread wakes up to ask; the core compares the answers."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    threading.settrace(trace)
    try:
        with watching(two):
            thread = next(t for t in threading.enumerate() if t.name == "hak2k-netwatch")
            status = Path(f"/proc/self/task/{thread.native_id}/status")

            def wakes() -> int:
                found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status.read_text(), re.M)
                assert found is not None
                return int(found[1])

            def quiet() -> bool:
                before, since = lines, wakes()
                until(lambda: wakes() >= since + 10, what="ten questions")
                return lines == before

            # Not at once: there is a first look, and one that nothing calls for.
            until(quiet, 20, "ten questions without a line of Python")
            before = lines
            two.host.rtnl.down("lan")
            until(lambda: lines > before, what="a look")
    finally:
        threading.settrace(None)


def test_changes_of_nftables_are_told(two: Two) -> None:
    told = 0

    def rules() -> None:
        nonlocal told
        told += 1

    with two.fw.enter():
        watch = NetWatch((), lambda seen: None, rules=rules)
        watch.start()
    try:
        until(lambda: told, what="whatever was there before")
        before = told
        two.fw.nft(
            "add table inet somebody\nadd set inet somebody s { type mark; elements = { 1 }; }"
        )
        until(lambda: told > before, what="a table")
        before = told
        two.fw.nft("delete element inet somebody s { 1 }")
        until(lambda: told > before, what="an element that went")
    finally:
        watch.stop()
