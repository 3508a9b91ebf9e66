"""Nanoseconds per step of the core, without any kernel.

pytest-benchmark runs bench/steps.py, which calls bench/c/micro.c through cffi.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import tools
from bench.report import Options, Result, Table

NAME = "micro"
TITLE = "nanoseconds per step of the core: codec, sealing, digest, rings"

STEPS = {
    "decode": "ctnetlink event to flow",
    "hash": "keyed hash of a flow",
    "digest": "entry into the sums of a comparison",
    "encode_update": "flow to UPDATE record",
    "encode_new_nat": "flow to NEW record, with NAT",
    "decode_wire_update": "UPDATE record to flow",
    "decode_wire_new_nat": "NEW record to flow, with NAT",
    "build_update": "flow to ctnetlink update",
    "build_create_nat": "flow to ctnetlink create, with NAT",
    "seal": "seal a full datagram",
    "open": "open a full datagram",
    "ring": "datagram into the sender's ring, acknowledged",
    "hold": "datagram into the receiver's ring, done with",
}
STEPS_FILE = "bench/steps.py"
ROUNDS_VARIABLE = "HAK2K_BENCH_ROUNDS"


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Nanoseconds of each step: minimum, median, mean, and the spread of the rounds."""
    with tempfile.TemporaryDirectory(prefix="hak2k-bench-") as name:
        path = Path(name) / "steps.json"
        # Without the options of the test suite, which leaves this plugin out.
        options = ("-q", "-o", "addopts=", "-p", "no:cacheprovider", "--import-mode=importlib")
        command = [sys.executable, "-m", "pytest", *options, f"--benchmark-json={path}", STEPS_FILE]
        # Nor as a worker of it, if it is from there that we come.
        ours = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        done = subprocess.run(
            command, cwd=tools.ROOT, capture_output=True, text=True, check=False, timeout=300,
            env={**ours, ROUNDS_VARIABLE: str(rounds)},
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"pytest-benchmark: {done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(path.read_text())
    return {
        one["extra_info"]["step"]: {
            key: one["stats"][key] / one["extra_info"]["turns"] * 1e9
            for key in ("min", "median", "mean", "stddev")
        }
        for one in found["benchmarks"]
    }


def run(options: Options) -> Result:
    rounds = options.pick(30, 5)
    found = measure(rounds)
    table = Table(f"Steps of the core (ns), {rounds} rounds", ("step", "best", "median", "spread"))
    for step, text in STEPS.items():
        own = found[step]
        table.rows.append((text, own["min"], own["median"], own["stddev"]))
    return Result(NAME, tables=[table], data=found)
