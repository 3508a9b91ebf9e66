"""Configuration files for the lab's two daemons."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hak2k.lab.topology import HA_ADDRESSES, LAN_ADDRESSES, WAN_ADDRESSES

SERIALS = {"fw1": "FW-A", "fw2": "FW-B"}
Settings = dict[str, Any]


def new_psk() -> str:
    """A fresh pre-shared key, as text."""
    return secrets.token_hex(32)


def default_settings(firewall: str, control_socket: Path) -> Settings:
    """The settings of one firewall; the preferred node is ``fw1``.

    Args:
        firewall: ``fw1`` or ``fw2``.
        control_socket: where its daemon listens for commands.
    """
    own = HA_ADDRESSES[firewall]
    peer = HA_ADDRESSES["fw2" if firewall == "fw1" else "fw1"]

    def bare(address: str) -> str:
        return address.split("/")[0]

    return {
        "node": {"serial": SERIALS[firewall], "model": "lab"},
        "cluster": {
            "id": 7,
            "psk_file": "psk",
            "priority": 50 if firewall == "fw1" else 0,
            "address_mode": "shared",
        },
        "control": {"socket": str(control_socket)},
        "stream": {
            "port": 44242,
            "protocols": "all",
            "min_duration_s": 0,
            "exclude_mark": "0x100/0x100",
            "exclude_local": True,
            "encrypt": True,
        },
        "link": [
            {
                "name": name,
                "interface": device,
                "local": bare(own[device]),
                "peer": bare(peer[device]),
            }
            for name, device in (("main", "ha0"), ("backup", "ha1"))
        ],
        "interface": [
            {"name": "lan", "weight": 100, "addresses": list(LAN_ADDRESSES)},
            {"name": "wan", "weight": 100, "addresses": list(WAN_ADDRESSES)},
        ],
        "liveness": {"heartbeat_ms": 50, "dead_after_ms": 200, "lease": True},
        "swap": {"garp_count": 3, "garp_interval_s": 0, "bounce_interfaces": False},
    }


def merged(base: Settings, overrides: Mapping[str, Any]) -> Settings:
    """``base`` with ``overrides``: tables merge, all else is replaced.

    A value of ``None`` removes its key.
    """
    result = dict(base)
    for key, value in overrides.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{quoted}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + "}"
    raise TypeError(f"no TOML for {type(value).__name__}")


def to_toml(settings: Settings) -> str:
    """Write settings of at most two levels as TOML.

    Raises:
        TypeError: a value has no TOML form.
    """
    lines: list[str] = []
    for key, value in settings.items():
        if not isinstance(value, (Mapping, list)):
            lines.append(f"{key} = {_value(value)}")
    for key, value in settings.items():
        tables: list[tuple[str, Mapping[str, Any]]] = []
        if isinstance(value, Mapping):
            tables = [(f"[{key}]", value)]
        elif isinstance(value, list) and all(isinstance(v, Mapping) for v in value):
            tables = [(f"[[{key}]]", one) for one in value]
        elif isinstance(value, list):
            lines.insert(0, f"{key} = {_value(value)}")
        for header, table in tables:
            lines += ["", header]
            lines += [f"{k} = {_value(v)}" for k, v in table.items()]
    return "\n".join(lines).strip() + "\n"


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner may read, never readable in between."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w") as file:
        file.write(content)
