"""`hak2kctl verify`, and `info`'s table: what an operator can prove."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hak2k.lab import Node, until
from tests.e2e.duo import Duo

KINDS = ("missing", "extra", "different")


def verify(duo: Duo, fw: Node, *options: str) -> dict[str, Any]:
    daemons = duo.lab.daemons
    done = subprocess.run(
        [
            *(daemons.bindir / "hak2kctl", "--socket", daemons[fw].control_socket),
            *("verify", "--json", *options),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() >= {"equal", *KINDS, "repaired", "as_of"}
    return found


def test_what_was_changed_behind_the_daemons_back(duo: Duo) -> None:
    """Told by either node, repaired by either, and no connection notices."""
    for fw in (duo.active, duo.passive):
        found = verify(duo, fw)
        assert found["equal"] is True
        assert [found[kind] for kind in KINDS] == [0, 0, 0], duo.report()
    passive = duo.passive
    before = duo.position(passive)
    # Of TCP: those of UDP become assured after two seconds, and that heals them.
    victims = [e for e in passive.conntrack().values() if e.orig.proto == 6][:9]
    passive.ct.delete(*victims[:4])
    for entry in victims[4:6]:
        passive.ct.update(dataclasses.replace(entry, mark=entry.mark ^ 0x4000))
    found = verify(duo, duo.active, "--no-repair")
    assert found["equal"] is False
    assert (found["missing"], found["different"], found["repaired"]) == (4, 2, 0)
    found = verify(duo, passive)
    assert found["equal"] is True
    assert (found["missing"], found["different"], found["repaired"]) == (4, 2, 6)
    duo.equal()
    told = duo.wait_event(passive, "recon.repaired", before)
    assert (told["missing"], told["different"]) == (4, 2)
    assert told["what"].startswith(("missing: ", "different: "))
    assert verify(duo, duo.active)["equal"] is True
    for fw in duo.lab.fw:
        table = duo.ask(fw, "info")["table"]
        assert table["equal"] is True
        assert table["age_ms"] < 60_000


def test_a_flush_of_the_passive_node(duo: Duo) -> None:
    before = duo.ask(duo.passive, "stats")["recon.repaired"]
    duo.passive.run("conntrack", "-F")
    # It looks for itself, once a second, and may have been first.
    found = verify(duo, duo.active)["missing"]
    assert found > 10 or duo.ask(duo.passive, "stats")["recon.repaired"] - before > 10
    duo.equal()


def test_several_who_ask_at_the_same_time(duo: Duo) -> None:
    """The engine keeps one question; nobody waits in vain for the answer to another's."""
    before = duo.ask(duo.passive, "stats")["recon.started"]
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(verify, duo, duo.lab.fw[i % 2]) for i in range(6)]
    assert [found.result()["equal"] for found in asked] == [True] * 6
    made = duo.ask(duo.passive, "stats")["recon.started"] - before
    assert made <= 12, "a question is carried out once, or once more"


def test_nobody_to_compare_with(duo: Duo) -> None:
    active = duo.active
    duo.lab.daemons.kill(duo.passive)
    until(lambda: not duo.ask(active, "info")["peer"]["alive"], 5, "a dead peer")
    daemons = duo.lab.daemons
    done = subprocess.run(
        [daemons.bindir / "hak2kctl", "--socket", daemons[active].control_socket, "verify"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "no peer" in done.stderr
