"""A configuration that is right, and how to make it wrong in one place."""

from __future__ import annotations

from pathlib import Path

from hak2k.config import load_config
from hak2k.settings import Config

GOOD = """\
[node]
serial = "FW-A"
model = "lab"

[cluster]
id = 7
psk_file = "psk"
priority = 0
address_mode = "shared"

[control]
socket = "a.sock"

[stream]
port = 44242
protocols = "all"
min_duration_s = 0
adaptive = true
events = "lean"
exclude_mark = "0x100/0x100"
exclude_local = true
exclude_networks = ["10.9.0.0/16"]
encrypt = true

[[link]]
name = "main"
interface = "ha0"
local = "192.168.69.1"
peer = "192.168.69.2"

[[link]]
name = "backup"
interface = "ha1"
local = "192.168.70.1"
peer = "192.168.70.2"

[[interface]]
name = "lan"
weight = 100
addresses = ["10.71.0.1/24", "fd71::1/64"]

[[interface]]
name = "wan"
weight = 100
addresses = ["10.72.0.1/24", "fd72::1/64"]

[liveness]
heartbeat_ms = 50
dead_after_ms = 200
dead_after_max_ms = 1000
lease = false
ping = ["192.168.69.2", "fd00::2"]

[swap]
garp_count = 3
garp_interval_s = 0
hold_down_s = 1
flap_count = 8
flap_window_s = 60
flap_hold_s = 60
bounce_interfaces = false
"""


def write(directory: Path, text: str = GOOD, psk: bytes = b"0123456789ABCdef\n") -> Path:
    """A configuration file with its key; the file's path."""
    key = directory / "psk"
    key.write_bytes(psk)
    key.chmod(0o600)
    path = directory / "node.toml"
    path.write_text(text)
    return path


def config(directory: Path, **replaced: str) -> Config:
    """The good configuration, with lines replaced: `config(d, id="id = 8")`."""
    text = GOOD
    for key, line in replaced.items():
        old = next(x for x in text.splitlines() if x.startswith(f"{key} ="))
        text = text.replace(old, line, 1)
    return load_config(write(directory, text))
