"""Classic BPF for conntrack's event sockets: which events one of several readers gets.

A filter keeps a share of the events and drops the others before they are queued.  The
kernel runs it once for each reader and event, on the CPU whose packet made the event.

by_hash     by the original tuple, which every event of a connection bears first and
            unchanged, whatever NAT makes of the reply: all events of one connection go
            to one reader, in their order.
by_cpu      by the CPU that tells: cheaper to ask, but a connection whose packets come
            in on several CPUs, or whose end a timer finds, goes to several readers.

The hash is of IPv4 with ports, which is what the load is.  What it finds elsewhere in
other families is not what it takes it for, but the same in each event of a connection,
so they are kept together as well, only not evenly spread.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

# Code of an instruction: what it does, and to what.
_LOAD_WORD, _LOAD_HALF = 0x20, 0x28  # A = what is at an offset
_TO_X: Final = 0x07
_XOR_X, _LSH, _RSH, _MUL, _MOD = 0xAC, 0x64, 0x74, 0x24, 0x94
_SKIP_IF: Final = 0x15  # jump if A is K
_RETURN: Final = 0x06
_CPU: Final = 0xFFFFF024  # SKF_AD_OFF + SKF_AD_CPU

# Where the kernel has always written them: behind two headers and nested attributes.
_SOURCE, _DESTINATION, _SPORT, _DPORT = 32, 40, 60, 68
# Odd and without a pattern; where strangers choose the tuples it would be a secret.
_FACTOR: Final = 0x9E3779B1

SO_ATTACH_FILTER: Final = 26

Instruction = tuple[int, int]


def _keep_if(index: int) -> list[tuple[int, int, int, int]]:
    return [(_SKIP_IF, 0, 1, index), (_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)]


def _code(steps: list[Instruction], index: int) -> bytes:
    whole = [(code, 0, 0, k) for code, k in steps] + _keep_if(index)
    return b"".join(struct.pack("=HBBI", *one) for one in whole)


def by_hash(index: int, of: int) -> bytes:
    """Code that keeps one of ``of`` equal shares of all connections."""
    steps = [
        (_LOAD_WORD, _SOURCE), (_MUL, _FACTOR), (_TO_X, 0),
        (_LOAD_WORD, _DESTINATION), (_XOR_X, 0), (_MUL, _FACTOR), (_TO_X, 0),
        (_LOAD_HALF, _SPORT), (_LSH, 16), (_XOR_X, 0), (_TO_X, 0),
        (_LOAD_HALF, _DPORT), (_XOR_X, 0), (_MUL, _FACTOR),
        (_RSH, 16), (_MOD, of),
    ]  # fmt: skip
    return _code(steps, index)


def by_cpu(index: int, of: int) -> bytes:
    """Code that keeps what one of ``of`` groups of CPUs tells."""
    return _code([(_LOAD_WORD, _CPU), (_MOD, of)], index)


def attach(sock: socket.socket, code: bytes) -> None:
    """Put a filter on a socket, in place of the one it has."""
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
