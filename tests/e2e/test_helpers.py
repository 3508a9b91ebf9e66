"""Protocols with helpers: announced before the active one dies, used after it.

The connections that were announced exist only as expectations when the power goes; the
control connections carry what the helpers did to their sequence numbers.
"""

from __future__ import annotations

import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from hak2k.lab import topology as t
from tests.e2e import helped
from tests.e2e.duo import Duo
from tests.e2e.helped import Ftp, Line, Message, Phone, Sockets, die, ftpd, settle

OPTIONS = {"traffic": False, "ruleset": helped.RULESET}


def back(duo: Duo) -> None:
    """Nobody was reset; the dead one comes back and gets everything."""
    survivor = next(fw for fw in duo.lab.fw if duo.lab.daemons[fw].running)
    assert duo.lab.tap.resets() == 0, duo.lab.tap.report()
    assert duo.invalid(survivor) == 0
    dead = duo.lab.other(survivor)
    duo.lab.revive(dead)
    duo.lab.start(dead)
    duo.ready()
    duo.equal()


# From inside: the server is outside.  From outside: a server inside is published.
INSIDE = [
    (t.CLIENT4, t.SERVER4, ("PORT", "EPRT", "PASV", "EPSV")),  # masqueraded
    (t.SNAT_CLIENT4, t.SERVER4, ("PORT", "EPRT", "PASV", "EPSV")),
    (t.CLIENT6, t.SERVER6, ("EPRT", "EPSV")),  # not translated
    (t.SNAT_CLIENT6, t.SERVER6, ("EPRT", "EPSV")),
]
OUTSIDE = [
    (t.SERVER4, t.WAN4, ("PORT", "EPRT", "PASV", "EPSV")),
    (t.SERVER6, t.WAN6, ("EPRT", "EPSV")),
]


def test_ftp(duo: Duo, tmp_path: Path) -> None:
    """Active and passive, old and extended, SNAT, masquerade, DNAT, IPv4 and IPv6."""
    lab = duo.lab
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    want = hashlib.sha256(content).hexdigest()
    with ExitStack() as stack:
        for node, address in (
            (lab.server, t.SERVER4), (lab.server, t.SERVER6),
            (lab.client, t.CLIENT4), (lab.client, t.CLIENT6),
        ):  # fmt: skip
            stack.enter_context(ftpd(node, address, tmp_path))
        sessions = [
            stack.enter_context(closing(Ftp(node, source, host, how)))
            for node, routes in ((lab.client, INSIDE), (lab.server, OUTSIDE))
            for source, host, hows in routes
            for how in hows
        ]
        for ftp in sessions[::2]:  # these have shifted sequence numbers before
            ftp.announce()
            assert ftp.fetch("file") == want, ftp.name
        for ftp in sessions:
            ftp.announce()
        # To what was announced by PORT and EPRT, pyftpdlib connects at once: these data
        # connections stand, without data, when the active one dies.
        passive = sum(ftp.name.startswith(("PASV", "EPSV")) for ftp in sessions)
        settle(lab, duo.active, duo.passive, passive)
        controls = duo.table(duo.passive, lambda e: e.helper == "ftp")
        assert len(controls) >= len(sessions)

        die(duo)
        failed = []
        for again in ("announced before", "announced after"):
            for ftp in sessions:
                try:
                    if again == "announced after":
                        ftp.announce()
                    assert ftp.fetch("file") == want
                except (OSError, AssertionError, EOFError) as error:
                    failed.append(f"{ftp.name}, {again}: {error!r}")
        assert not failed, "\n".join(failed)
        back(duo)


SIP = (t.SERVER4, 5060)


def test_sip(duo: Duo, sockets: Sockets) -> None:
    """Calls in every state of their making, and one that comes in afterwards."""
    lab = duo.lab
    bob = Phone(sockets, lab.server, *SIP)
    phones = [Phone(sockets, lab.client, t.CLIENT4, port) for port in range(5070, 5074)]
    talking, silent, ringing, idle = phones

    def accept(phone: Phone, invite: Message, cseq: int, call: str) -> Line:
        """Bob answers.  The call's media: the phone's end and his."""
        here = bob.new_media()
        bob.answer(invite, sdp=True)
        ok = phone.hear("SIP/2.0 200")
        phone.request("ACK", SIP, cseq, call)
        bob.hear("ACK")
        return Line(phone.rtp, ok.media, here, invite.media)

    idle.request("REGISTER", SIP, 1, "registration")
    registered = bob.hear("REGISTER")
    assert registered.contact[0] == t.WAN4
    # Until now it is expected, but not let in.  The registrar's word makes no event.
    settle(lab, duo.active, duo.passive, 1)
    bob.answer(registered)
    idle.hear("SIP/2.0 200")

    calls = ((talking, "media"), (silent, "no media yet"), (ringing, "not answered"))
    invites = []
    for phone, call in calls:
        phone.request("INVITE", SIP, 1, call, sdp=True)
        invites.append(bob.hear("INVITE"))
        assert invites[-1].media[0] == invites[-1].contact[0] == t.WAN4
    bob.answer(invites[2], "180 Ringing")  # an answer before the invitation's own event
    ringing.hear("SIP/2.0 180")
    line = accept(talking, invites[0], 1, "media")
    quiet = accept(silent, invites[1], 1, "no media yet")
    line.there()
    line.back()
    # The registration; of each call RTP and RTCP, both ways.  One of the one with media
    # became a connection; of the one that rings, only one side has said its ports.
    settle(lab, duo.active, duo.passive, 1 + 3 + 4 + 2)
    die(duo)

    # The one with media goes on, both ways.
    line.there()
    line.back()
    # The one whose media had not begun begins, from outside: the expectation.
    quiet.back()
    quiet.there()
    # The one that rang is answered.
    answered = accept(ringing, invites[2], 1, "not answered")
    answered.back()
    answered.there()
    # The helper here works on the adopted connections: other media, and the end.
    talking.new_media()
    talking.request("INVITE", SIP, 2, "media", sdp=True)
    again = bob.hear("INVITE")
    assert again.media[0] == t.WAN4
    line = accept(talking, again, 2, "media")
    line.back()
    line.there()
    for phone, call in calls:
        phone.request("BYE", SIP, 3, call)
        bob.answer(bob.hear("BYE"))
        phone.hear("SIP/2.0 200")
    # A call to the one that had registered.
    here = bob.new_media()
    bob.request("INVITE", registered.contact, 1, "incoming", sdp=True)
    incoming = idle.hear("INVITE")
    idle.answer(incoming, sdp=True)
    accepted = bob.hear("SIP/2.0 200")
    assert accepted.media[0] == t.WAN4, accepted.body
    bob.request("ACK", registered.contact, 1, "incoming")
    idle.hear("ACK")
    line = Line(idle.rtp, incoming.media, here, accepted.media)
    line.back()
    line.there()
    bob.request("BYE", registered.contact, 2, "incoming")
    idle.answer(idle.hear("BYE"))
    bob.hear("SIP/2.0 200")
    # It registers once more.
    idle.request("REGISTER", SIP, 2, "registration")
    bob.answer(bob.hear("REGISTER"))
    idle.hear("SIP/2.0 200")
    # A dialogue without media lasts for an hour, as it did before: not half a minute.
    survivor = next(fw for fw in lab.fw if lab.daemons[fw].running)
    for entry in duo.table(survivor, lambda e: e.helper == "sip").values():
        assert entry.timeout > 600, entry
    back(duo)
    # All have hung up; with the registration the last expectation goes.
    idle.request("REGISTER", SIP, 3, "registration", expires=0)
    bob.answer(bob.hear("REGISTER"), expires=0)
    idle.hear("SIP/2.0 200")
    settle(lab, duo.active, duo.passive, 0)


def test_tftp(duo: Duo, sockets: Sockets) -> None:
    """Asked for before, served after, from a port that no packet has come from yet."""
    lab = duo.lab
    content = os.urandom(3000)
    asked = []
    for server, sources in (
        (t.SERVER4, (t.CLIENT4, t.SNAT_CLIENT4)),
        (t.SERVER6, (t.CLIENT6,)),
    ):
        daemon = sockets.udp(lab.server, server, 69)
        for source in sources:
            client = sockets.udp(lab.client, source)
            receive = helped.tftp_get(client, "file", server)
            asked.append((daemon, client, receive, daemon.recvfrom(600)[1]))
    settle(lab, duo.active, duo.passive, len(asked))
    die(duo)
    for daemon, client, receive, asker in asked:
        server = daemon.getsockname()[0]
        for once in ("asked before", "asked after"):
            if once == "asked after":
                receive = helped.tftp_get(client, "file", server)
                asker = daemon.recvfrom(600)[1]
            data = sockets.udp(lab.server, server)
            with ThreadPoolExecutor() as pool:
                served = pool.submit(helped.tftp_put, data, content, asker)
                assert receive() == content, (server, once)
                served.result()
    back(duo)


def dcc(alice: socket.socket, chat: socket.socket, offer: socket.socket) -> tuple[str, int]:
    """Offer a file in a line of IRC; where it can be fetched, as it was told."""
    host, port = offer.getsockname()
    number = int.from_bytes(socket.inet_aton(host), "big")
    text = f"PRIVMSG bob :\1DCC SEND file {number} {port} 10\1"
    words = helped.line(alice, chat, text).rstrip("\1").split()
    return socket.inet_ntoa(int(words[5]).to_bytes(4, "big")), int(words[6])


def test_irc(duo: Duo, sockets: Sockets) -> None:
    """A file is offered before and fetched after; then another one is offered."""
    lab = duo.lab
    ircd = sockets.listener(lab.server, t.SERVER4, 6667)
    for source, seen in ((t.CLIENT4, t.WAN4), (t.SNAT_CLIENT4, t.SNAT4)):
        alice = sockets.stream(lab.client, source, (t.SERVER4, 6667))
        chat = sockets.accept(ircd)
        offer = sockets.listener(lab.client, source)
        told = dcc(alice, chat, offer)
        settle(lab, duo.active, duo.passive, 1)
        die(duo)
        for once in ("offered before", "offered after"):
            if once == "offered after":
                told = dcc(alice, chat, offer)
            assert told[0] == seen
            fetch = sockets.stream(lab.server, t.SERVER4, told)
            send = sockets.accept(offer)
            assert helped.line(send, fetch, "0123456789") == "0123456789", once
            assert helped.line(chat, alice, ":bob thanks") == ":bob thanks"
        back(duo)


def test_amanda(duo: Duo, sockets: Sockets) -> None:
    """A published client of backups names its port before; it is connected to after."""
    lab = duo.lab
    amandad = sockets.udp(lab.client, t.CLIENT4, 10080)
    server = sockets.udp(lab.server, t.SERVER4)
    data = sockets.listener(lab.client, t.CLIENT4)

    def connect() -> tuple[str, int]:
        server.sendto(b"Amanda 2.6 REQ HANDLE 0 SEQ 0\n", (t.WAN4, 10080))
        _, who = amandad.recvfrom(600)
        amandad.sendto(f"CONNECT DATA {data.getsockname()[1]}\n".encode(), who)
        said = server.recv(600).split()
        return t.WAN4, int(said[2])

    told = connect()
    settle(lab, duo.active, duo.passive, 1)
    die(duo)
    for once in ("named before", "named after"):
        if once == "named after":
            told = connect()
        stream = sockets.stream(lab.server, t.SERVER4, told)
        inside = sockets.accept(data)
        assert helped.line(inside, stream, "backup") == "backup", once
    back(duo)
