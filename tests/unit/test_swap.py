"""Natural timeouts and announcements."""

from __future__ import annotations

from dataclasses import replace

from hak2k import model
from hak2k.swap import announce_delays, gave_way, natural_timeouts


def test_the_kernels_figures() -> None:
    def read(name: str) -> str:
        return {"tcp_timeout_established": "1000\n", "udp_timeout": "0\n"}[name]

    def reader(name: str) -> str:
        try:
            return read(name)
        except KeyError:
            raise FileNotFoundError(name) from None

    natural = natural_timeouts(reader)
    assert natural[6][3] == 1000
    assert natural[17] == {0: 30, 1: 120}, "0 would end every connection"
    assert natural[0] == {0: 600}
    assert natural[6].keys() == set(range(1, 10))
    assert natural[132].keys() == set(range(1, 9))
    assert all(t > 0 for states in natural.values() for t in states.values())


def test_this_kernel() -> None:
    assert natural_timeouts()[6][3] > 0


def test_announcements() -> None:
    assert announce_delays(1) == []
    assert announce_delays(50)[-1] - announce_delays(49)[-1] == 2.0
    assert [round(x, 3) for x in announce_delays(4)] == [0.1, 0.3, 0.7]


def test_who_gave_way_after_a_split() -> None:
    """Not one that handed over, nor one that was passive all along."""
    peer = model.Peer("B", mode=model.Mode.ACTIVE)
    passive = replace(peer, mode=model.Mode.PASSIVE)
    active = replace(model.initial(0), role=model.Role.ACTIVE, peer=passive)
    assert gave_way(peer, active)
    assert not gave_way(passive, active)
    assert not gave_way(None, active)
    assert not gave_way(peer, replace(active, accepted=True))
    assert not gave_way(peer, replace(active, role=model.Role.PASSIVE))
    assert not gave_way(peer, replace(active, peer=peer))
