"""Nanoseconds per step of the codec, without any kernel: bench/c/bench_codec.c."""

from __future__ import annotations

import json
import subprocess

from bench import tools
from bench.report import Options, Result, Table

NAME = "codec"
TITLE = "nanoseconds per step of the codec"

STEPS = {
    "decode_ns": "ctnetlink event to flow",
    "hash_ns": "keyed hash of a flow",
    "encode_update_ns": "flow to UPDATE record",
    "encode_new_nat_ns": "flow to NEW record, with NAT",
    "decode_wire_update_ns": "UPDATE record to flow",
    "decode_wire_new_nat_ns": "NEW record to flow, with NAT",
    "build_update_ns": "flow to ctnetlink update",
    "build_create_nat_ns": "flow to ctnetlink create, with NAT",
}


def run(options: Options) -> Result:
    del options  # it takes a second as it is
    done = subprocess.run(
        [tools.BUILD / "bench_codec"], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    table = Table("Codec, best of fifteen rounds (ns)", ("step", "ns"))
    table.rows = [(text, float(found[key])) for key, text in STEPS.items() if key in found]
    return Result(NAME, tables=[table], data=found)
