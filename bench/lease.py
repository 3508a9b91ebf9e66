"""Could a lease be an nftables element that expires?  How long a renewal may be held up.

An element with a timeout of 190 ms, as a lease of `dead_after_ms = 200` would be, is
renewed every 50 ms by libnftables in this process, while `nft -f` loads a ruleset in
another one, again and again.  nftables carries out one transaction after the other, in
one network namespace and, for parts of it, on the whole host: a renewal waits for
whatever is being loaded.  "lapsed" is how often the element had expired meanwhile, that
is, how often a healthy node would have closed its own gate.

Beside it, the same with hak2k's lease: a store into memory that a BPF program reads.
"""

from __future__ import annotations

import subprocess
import threading
import time

from nftables import Nftables

from bench.report import Options, Result, Table, spread
from hak2k.lab import Lab, Node

NAME = "lease"
LONG = True
TITLE = "renewing an nftables element, and a lease, while rulesets load"

TIMEOUT_MS, PERIOD_MS = 190, 50
TABLE = "bench_lease"
MADE = f"""
table inet {TABLE} {{
  set open {{
    type mark
    flags timeout
  }}
}}
"""
RENEW = f"add element inet {TABLE} open {{ 1 timeout {TIMEOUT_MS}ms }}"


def _ruleset(rules: int) -> str:
    """Made anew each time, as an administrator's file does."""
    lines = [f"  ip saddr 10.{n >> 16}.{n >> 8 & 255}.{n & 255} accept" for n in range(rules)]
    return "\n".join(
        ["table inet large", "delete table inet large", "table inet large {", " chain forward {",
         *lines, " }", "}"]
    )  # fmt: skip


def _load(node: Node, rules: int, stop: threading.Event) -> None:
    text = _ruleset(rules).encode()
    while rules and not stop.is_set():
        loading = node.popen("nft", "-f", "-", stdin=subprocess.PIPE)
        loading.communicate(text)
        if loading.returncode:
            raise RuntimeError(f"nft refused {rules} rules")


def _renew(node: Node, seconds: float) -> tuple[list[float], int]:
    """Microseconds of each renewal; how often one came too late."""
    took, lapsed = [], 0
    with node.enter():
        nft = Nftables()

        def run(command: str) -> None:
            code, _, error = nft.cmd(command)
            if code:
                raise RuntimeError(f"nftables: {error}")

        run(MADE)
        try:
            last = None
            end = time.monotonic() + seconds
            while (began := time.monotonic()) < end:
                run(RENEW)
                done = time.monotonic()
                took.append((done - began) * 1e6)
                if last is not None and (done - last) * 1e3 > TIMEOUT_MS:
                    lapsed += 1
                last = done
                time.sleep(max(0.0, began + PERIOD_MS / 1e3 - done))
        finally:
            run(f"delete table inet {TABLE}")
    return took, lapsed


def run(options: Options) -> Result:
    seconds = options.pick(8, 2)
    result = Result(NAME, data={"seconds": seconds, "rules": {}})
    table = Table(
        f"renewing an element of {TIMEOUT_MS} ms every {PERIOD_MS} ms (us), {seconds} s each",
        ("rules being loaded", "renewals", "p50", "p99", "max", "lapsed"),
    )
    for rules in (0, 1_000, 10_000, options.pick(60_000, 20_000)):
        with Lab() as lab:
            stop = threading.Event()
            loader = threading.Thread(target=_load, args=(lab.fw1, rules, stop))
            loader.start()
            try:
                took, lapsed = _renew(lab.fw1, seconds)
            finally:
                stop.set()
                loader.join()
        found = spread(took)
        result.data["rules"][str(rules)] = {"us": found, "renewals": len(took), "lapsed": lapsed}
        table.rows.append(
            (f"{rules:,}", len(took), found["p50"], found["p99"], found["max"], lapsed)
        )
    table.notes.append("hak2k's lease is renewed by one store, which waits for nobody.")
    result.tables.append(table)
    return result
