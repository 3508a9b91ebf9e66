"""The C programs of bench/c: compiled when needed, started in a lab's namespaces."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hak2k.lab import Node

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "bench" / "c"
BUILD = ROOT / "build" / "bench"

# What each program takes from the core: codec and sockets, nothing else.
_CORE = {
    "beat": ("hak_crypto.c",),
    "entries": ("hak_ct*.c", "hak_nl.c"),
    "floor": ("hak_ct*.c", "hak_nl.c"),
    "list": ("hak_ct*.c", "hak_nl.c"),
    "listen": ("hak_nl.c",),
    "lives": (),
    "mixed": (),
    "stream": (),
}
# The same, as a library for bench/steps.py.
_LIBRARY = {
    "micro": (
        "hak_ct*.c",
        "hak_exp*.c",
        "hak_wire*.c",
        "hak_crypto.c",
        "hak_digest.c",
        "hak_stream.c",
    ),
}
_FLAGS = "-std=c11 -D_GNU_SOURCE=1 -O2 -Wall -Wextra -Wshadow -Werror -pthread"


class ToolError(RuntimeError):
    """A C program could not be compiled, or ended badly."""


def library(name: str) -> Path:
    """Where a library of bench/c is, once it was built."""
    return BUILD / f"lib{name}.so"


def build() -> None:
    """Compile what is older than its sources.

    Raises:
        ToolError: with the compiler's words.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    csrc = ROOT / "csrc"
    headers = [*SOURCE.glob("*.h"), *csrc.glob("*.h")]
    for name, core in (_CORE | _LIBRARY).items():
        sources = [SOURCE / f"{name}.c", *(path for part in core for path in csrc.glob(part))]
        program = library(name) if name in _LIBRARY else BUILD / name
        newest = max(path.stat().st_mtime for path in (*sources, *headers))
        if program.exists() and program.stat().st_mtime > newest:
            continue
        # Under another name first: a test may be running the old one.
        fresh = program.with_suffix(f".{os.getpid()}")
        command = [
            *shlex.split(os.environ.get("CC", "gcc")),
            *shlex.split(_FLAGS),
            f"-I{csrc}",
            "-o",
            os.fspath(fresh),
            *map(os.fspath, sources),
            *(("-shared", "-fPIC") if name in _LIBRARY else ()),
            *(("-lcrypto",) if "hak_crypto.c" in core else ()),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ToolError(f"no C compiler: {error}") from error
        if done.returncode != 0:
            raise ToolError(f"{shlex.join(command)}\n{done.stderr}")
        fresh.replace(program)


def start(
    node: Node, name: str, *arguments: object, namespaces: Iterable[Node] = (), **options: Any
) -> subprocess.Popen[str]:
    """Start a program in a node's namespace, with pipes for its output.

    Args:
        arguments: a ``Node`` among them stands for the number of the descriptor of
            its namespace, which the program inherits.
        namespaces: nodes whose descriptors it inherits besides.
    """
    inherited = [*namespaces, *(a for a in arguments if isinstance(a, Node))]
    words = [str(a.fd) if isinstance(a, Node) else str(a) for a in arguments]
    return node.popen(
        BUILD / name,
        *words,
        pass_fds=sorted({other.fd for other in inherited}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def result(name: str, process: subprocess.Popen[str], timeout: float = 120) -> dict[str, Any]:
    """Wait for a program's end and decode the line it prints last.

    Raises:
        ToolError: it failed.
    """
    output, errors = process.communicate(timeout=timeout)
    if process.returncode != 0:
        raise ToolError(f"{name} exited with {process.returncode}: {errors.strip()}")
    return dict(json.loads(output.splitlines()[-1]))


def run(node: Node, name: str, *arguments: object, timeout: float = 120) -> dict[str, Any]:
    """Run a program to its end."""
    return result(name, start(node, name, *arguments), timeout)
