"""Real packets for the tests of a swap: ways through the firewalls, and a swap."""

from __future__ import annotations

import socket

from hak2k.lab import Lab, until
from hak2k.lab import topology as t
from hak2k.lab.rawflow import Packet, RawFlow
from hak2k.lab.traffic import Traffic
from tests.pair import Pair, Side

# More translations than the lab's own ruleset has.  From inside to a published
# address: both ends are translated, with ports where there are some.
PUBLISHED4, PUBLISHED6 = "10.72.0.99", "fd72::99"
BOTH_PORT, REAL_PORT = 8081, 5000
EXTRA_RULES = f"""
table ip more {{
  chain prerouting {{
    type nat hook prerouting priority dstnat - 1
    iifname "lan" ip daddr {PUBLISHED4} tcp dport {BOTH_PORT} dnat to {t.SERVER4}:{REAL_PORT}
    iifname "lan" ip daddr {PUBLISHED4} udp dport {BOTH_PORT} dnat to {t.SERVER4}:{REAL_PORT}
    iifname "lan" ip daddr {PUBLISHED4} dnat to {t.SERVER4}
    iifname "wan" ip daddr {t.WAN4} tcp dport {t.FTP_PORT} dnat to {t.CLIENT4}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 1
    oifname != "wan" return
    ip saddr {t.SNAT_CLIENT4} meta l4proto {{ sctp, udplite }} snat to {t.SNAT4}:30000-30999
  }}
}}
table ip6 more {{
  chain prerouting {{
    type nat hook prerouting priority dstnat - 1
    iifname "lan" ip6 daddr {PUBLISHED6} tcp dport {BOTH_PORT} dnat to [{t.SERVER6}]:{REAL_PORT}
    iifname "lan" ip6 daddr {PUBLISHED6} dnat to {t.SERVER6}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 1
    oifname "wan" ip6 saddr {t.CLIENT6} tcp dport {REAL_PORT} masquerade
    oifname "wan" ip6 saddr {t.SNAT_CLIENT6} meta l4proto {{ sctp, udplite }} snat to [{t.SNAT6}]:30000-30999
  }}
}}
"""  # noqa: E501
RULESET = t.RULESET + EXTRA_RULES

SOURCES = (
    t.CLIENT4,
    t.SNAT_CLIENT4,
    t.ZONE_CLIENT4,
    t.CLIENT6,
    t.SNAT_CLIENT6,
    t.ZONE_CLIENT6,
)


def published(kind: type[RawFlow]) -> type[RawFlow]:
    """The same protocol towards the published address: translated at its other end."""

    class Published(kind):  # type: ignore[misc, valid-type]
        def _pass(
            self, reply: bool, payload: bytes, marker: bytes, timeout: float
        ) -> Packet | None:
            there = PUBLISHED6 if ":" in self.source else PUBLISHED4
            sender, receiver = self.pair.client, self.pair.server
            src, dst, seen = self.source, there, self.seen_source
            if reply:
                sender, receiver = receiver, sender
                src, dst, seen = self.target, self.seen_source, there
            receiver.drain()
            sender.send(src, dst, self.protocol, payload)
            found: Packet | None = receiver.receive(
                lambda p: p.protocol == self.protocol and p.src == seen and marker in p.payload,
                timeout,
            )
            return found

    Published.__name__ = f"Published{kind.__name__}"
    return Published


class Talk:
    """One TCP connection or one UDP conversation between the test's own sockets.

    Args:
        near, far: the client's end and the server's.
    """

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self._count = 0

    def both_ways(self, timeout: float = 5.0) -> None:
        """A message each way.

        Raises:
            TimeoutError, ConnectionError: it did not arrive.
        """
        for sender, receiver in ((self.far, self.near), (self.near, self.far)):
            self._count += 1
            message = f"message {self._count}".encode()
            receiver.settimeout(timeout)
            sender.send(message)
            got = b""
            while len(got) < len(message):
                part = receiver.recv(len(message) - len(got))
                if not part:
                    raise ConnectionError("closed")
                got += part
            assert got == message

    def close(self) -> None:
        self.near.close()
        self.far.close()


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(lab: Lab, to: str, port: int, real: str, real_port: int, source: str) -> Talk:
    """A connection of the client to `to`, which is `real` behind the firewalls."""
    with lab.server.socket(family_of(real), socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((real, real_port))
        listener.listen()
        listener.settimeout(5)
        near = lab.client.socket(family_of(to), socket.SOCK_STREAM)
        near.settimeout(5)
        near.bind((source, 0))
        near.connect((to, port))
        far = listener.accept()[0]
    return Talk(near, far)


def udp(lab: Lab, to: str, port: int, real: str, real_port: int, source: str) -> Talk:
    """The same with datagrams."""
    far = lab.server.socket(family_of(real), socket.SOCK_DGRAM)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    far.bind((real, real_port))
    far.settimeout(5)
    near = lab.client.socket(family_of(to), socket.SOCK_DGRAM)
    near.bind((source, 0))
    near.connect((to, port))
    near.send(b"hello")
    # Another conversation may have the same service.
    far.connect(far.recvfrom(100)[1])
    return Talk(near, far)


def swap(two: Pair) -> dict[str, int]:
    """fw1 dies: all its links go down at once, and fw2 takes over."""
    two.lab.crash(two.lab.fw1)
    return two.b.activate()


def change_roles(two: Pair, old: Side, new: Side) -> None:
    """A planned swap; the old active node has compared its table when it is over."""
    old.passivate()
    new.activate()
    two.synced(old)


def both_keep_quiet(two: Pair) -> None:
    """Nobody was reset, and nothing was invalid to fw2."""
    assert two.lab.tap.resets() == 0, two.lab.tap.report()
    counters = two.lab.fw2.counters()
    assert counters["invalid"] == 0, counters


def received(traffic: Traffic) -> dict[tuple[str, int], int]:
    """Messages that each flow got back so far."""
    return {
        (side, flow["number"]): flow["received"]
        for side, report in traffic.report().items()
        for flow in report["flows"]
        if flow["kind"] != "bulk-bulk"
    }


def every_flow_goes_on(traffic: Traffic, more: int = 3, timeout: float = 10.0) -> None:
    """Each of them gets further replies, and none was harmed."""
    before = received(traffic)

    def waiting() -> list[tuple[str, int]]:
        return [key for key, n in received(traffic).items() if n < before[key] + more]

    until(lambda: not waiting(), timeout, "every flow goes on", interval=0.05, detail=waiting)
    assert traffic.lost() == {}
