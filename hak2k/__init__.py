"""hak2k: stateful high availability for a pair of Linux firewalls.

Public names, loaded when they are first used (PEP 562): `import hak2k` costs
nothing, which matters because every `ha...` command starts with it.

    Engine, Config, load_config     drive hak2k from appliance software
    Client, AsyncClient             talk to a running hak2kd
    HakError and its subclasses     all that hak2k raises on purpose
"""

from typing import TYPE_CHECKING, Any

from hak2k._version import __version__

if TYPE_CHECKING:
    from hak2k.client import AsyncClient, Client
    from hak2k.config import load_config
    from hak2k.engine import Engine
    from hak2k.errors import (
        ConfigError,
        HakError,
        InternalError,
        KernelError,
        PeerError,
        RefusedError,
        UnreachableError,
    )
    from hak2k.settings import Config

__all__ = [
    "AsyncClient",
    "Client",
    "Config",
    "ConfigError",
    "Engine",
    "HakError",
    "InternalError",
    "KernelError",
    "PeerError",
    "RefusedError",
    "UnreachableError",
    "__version__",
    "load_config",
]

_HOME = {
    "AsyncClient": "hak2k.client",
    "Client": "hak2k.client",
    "Config": "hak2k.settings",
    "load_config": "hak2k.config",
    "Engine": "hak2k.engine",
    "ConfigError": "hak2k.errors",
    "HakError": "hak2k.errors",
    "InternalError": "hak2k.errors",
    "KernelError": "hak2k.errors",
    "PeerError": "hak2k.errors",
    "RefusedError": "hak2k.errors",
    "UnreachableError": "hak2k.errors",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'hak2k' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
