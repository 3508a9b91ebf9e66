"""A firewall and a host behind it, each in a namespace of its own.

host lan ---- lan fw      10.71.0.2, fd71::2    10.71.0.1, fd71::1
host wan ---- wan fw
host ha0 ---- ha0 fw      192.168.69.2          192.168.69.1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hak2k.lab import privileged
from hak2k.lab.netns import Spawner
from hak2k.lab.node import Node
from hak2k.lab.rtnl import End

LINKS = {
    "lan": (("10.71.0.1/24", "fd71::1/64"), ("10.71.0.2/24", "fd71::2/64")),
    "wan": (("10.72.0.1/24", "fd72::1/64"), ("10.72.0.2/24", "fd72::2/64")),
    "ha0": (("192.168.69.1/30",), ("192.168.69.2/30",)),
}
HERE = Path(__file__).parent


@dataclass
class Two:
    fw: Node
    host: Node


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not privileged():
        for item in items:
            if HERE in item.path.parents:
                reason = "needs CAP_NET_ADMIN and CAP_SYS_ADMIN"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def two() -> Iterator[Two]:
    spawner = Spawner()
    made: list[Node] = []
    try:
        fw = Node("fw", spawner)
        made.append(fw)
        host = Node("host", spawner)
        made.append(host)
        for name, (ours, theirs) in LINKS.items():
            fw.rtnl.add_veth(End(fw.fd, name), End(host.fd, name))
            for node, addresses in ((fw, ours), (host, theirs)):
                node.rtnl.add_address(name, *addresses)
                node.rtnl.up(name)
        yield Two(fw, host)
    finally:
        for node in made:
            node.close()
        spawner.close()
