"""PPTP through a swap, with its own messages and packets; docs/helpers.md says the same.

What the kernel's helper knows of a call, the map of its GRE keys above all, has no
attribute in ctnetlink: the call's packets are then in no connection.
"""

from __future__ import annotations

import socket

from hak2k.lab import Node
from hak2k.lab import topology as t
from tests.e2e import helped, pptp
from tests.e2e.duo import Duo
from tests.e2e.helped import Sockets, die, settle

OPTIONS = {"traffic": False, "ruleset": helped.RULESET}


class Office:
    """A client inside, masqueraded, and a server outside."""

    def __init__(self, duo: Duo, sockets: Sockets) -> None:
        self._lab, self._sockets = duo.lab, sockets
        self._listener = sockets.listener(duo.lab.server, t.SERVER4, pptp.PORT)
        self._near = self._gre(duo.lab.client, t.CLIENT4)
        self._far = self._gre(duo.lab.server, t.SERVER4)

    def _gre(self, node: Node, address: str) -> socket.socket:
        made = self._sockets.keep(node.socket(socket.AF_INET, socket.SOCK_RAW, 47))
        made.bind((address, 0))
        return made

    def dial(self, ours: int, theirs: int) -> tuple[socket.socket, socket.socket, int]:
        """The control connection's two ends, and the id by which the server calls back."""
        client = self._sockets.stream(self._lab.client, t.CLIENT4, (t.SERVER4, pptp.PORT))
        server = self._sockets.accept(self._listener)
        pptp.start(client, server)
        seen, told = pptp.call(client, server, ours, theirs)
        assert told == theirs
        return client, server, seen

    def speaks(self, ours: int, theirs: int, seen: int, timeout: float = 5) -> bool:
        """A packet of the call each way, the answer translated to the client's id."""
        for raw in (self._near, self._far):
            raw.settimeout(timeout)
        self._near.sendto(pptp.gre(theirs, b"there"), (t.SERVER4, 0))
        there = pptp.receives(self._far, theirs, b"there")
        self._far.sendto(pptp.gre(seen, b"back"), (t.WAN4, 0))
        return there and pptp.receives(self._near, ours, b"back")


def test_pptp(duo: Duo, sockets: Sockets) -> None:
    """Entries and expectations are copied; the control connections go on; a call from
    before the crash has to be made anew, and one made anew works."""
    office = Office(duo, sockets)
    _, _, seen = office.dial(100, 200)
    settle(duo.lab, duo.active, duo.passive, 2)
    assert office.speaks(100, 200, seen)
    client, server, _ = office.dial(101, 201)
    settle(duo.lab, duo.active, duo.passive, 2)
    die(duo)

    client.sendall(pptp.message(pptp.START, b"still there"))
    assert pptp.hear(server, pptp.START) == b"still there"
    # Were this to change, docs/helpers.md would have good news to tell.
    assert not office.speaks(100, 200, seen, timeout=0.5)
    _, _, seen = office.dial(102, 202)
    assert office.speaks(102, 202, seen)
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()
