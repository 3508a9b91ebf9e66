"""What the daemon may do: networks, real-time priority, locked memory; nothing else.

Called early, before there is another thread: capabilities belong to threads, and
those made later inherit them.

    CAP_NET_ADMIN  nftables, conntrack, receive buffers beyond the limit
    CAP_NET_RAW    gratuitous ARP: packet sockets
    CAP_SYS_NICE   real-time priority for heartbeats, if it is there
    CAP_IPC_LOCK   keys never reach the swap space, and no heartbeat waits for a page
                   to come from a disk, if it is there

Root without the others is an owner of files like any other: it still reads its own
key file at a reload, and makes its own socket.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from hak2k.errors import KernelError

NET_RAW: Final = 13
IPC_LOCK: Final = 14
NEEDED: Final = {12: "CAP_NET_ADMIN", NET_RAW: "CAP_NET_RAW"}
USEFUL: Final = {IPC_LOCK: "CAP_IPC_LOCK", 23: "CAP_SYS_NICE"}
KEPT: Final = sum(1 << bit for bit in (*NEEDED, *USEFUL))

_SETPCAP: Final = 8
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_MCL_ALL_ON_FAULT: Final = 1 | 2 | 4  # what is there, what will be; when it is touched
_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(what: str, option: int, value: int = 0, second: int = 0) -> int:
    # Unused arguments must be zero, and as long as the kernel takes them to be.
    zero = ctypes.c_ulong(0)
    done = int(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(second), zero, zero))
    if done < 0:
        raise KernelError(f"{what}", ctypes.get_errno())
    return done


def effective(status: str = "/proc/self/status") -> int:
    """The effective capabilities as bits."""
    with open(status, encoding="ascii") as f:
        for line in f:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def check(status: str = "/proc/self/status") -> None:
    """Raises KernelError naming the needed capabilities that are missing."""
    have = effective(status)
    missing = [name for bit, name in NEEDED.items() if not have >> bit & 1]
    if missing:
        raise KernelError(
            f"{' and '.join(missing)} missing; run as root, or with "
            "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"
        )


def drop() -> None:
    """Keep what is in KEPT of what is there, for good.  Raises KernelError."""
    have = effective()
    _prctl("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)
    _prctl("ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    # Without CAP_SETPCAP whoever started us decided on the bounding set; without
    # new privileges it gives nothing any more.
    if have >> _SETPCAP & 1:
        for bit in range(64):
            if KEPT >> bit & 1:
                continue
            try:
                _prctl("bounding set", _PR_CAPBSET_READ, bit)
            except KernelError:
                break  # one past the last that this kernel knows
            _prctl("bounding set", _PR_CAPBSET_DROP, bit)
    _set(have & KEPT, inheritable=0)


def _set(kept: int, inheritable: int) -> None:
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    # effective, permitted, inheritable: the low 32 bits of each, then the high ones
    data = (ctypes.c_uint32 * 6)(kept, kept, inheritable, 0, 0, 0)
    if _libc.capset(header, data) < 0:
        raise KernelError("setting capabilities", ctypes.get_errno())


@contextmanager
def lent_to_children(capability: int) -> Iterator[None]:
    """Processes that this thread starts in the block have the capability, if we have it.
    After `drop`, which leaves nothing to inherit."""
    have = effective() & KEPT
    if os.geteuid() == 0 or not have >> capability & 1:  # root's have it anyway
        yield
        return
    _set(have, inheritable=1 << capability)
    try:
        _prctl("ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
        yield
    finally:
        _set(have, inheritable=0)  # what cannot be inherited is not ambient either


def no_dumps() -> None:
    """No core dump, and nobody without privileges looks at our memory: there are keys
    in it.  HAK2K_DEBUG=1 leaves it to the developer."""
    if os.environ.get("HAK2K_DEBUG", "0") not in ("", "0"):
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl("forbidding core dumps", _PR_SET_DUMPABLE, 0)


def lock_memory() -> None:
    """Whatever of us was in memory once stays there.  Only with CAP_IPC_LOCK: else
    memory beyond RLIMIT_MEMLOCK would be refused us one day."""
    if effective() >> IPC_LOCK & 1:
        _libc.mlockall(_MCL_ALL_ON_FAULT)  # a kernel that refuses: as without it


def join(group: int) -> None:
    """Become a member of a group, so that files can be given to it.  Raises
    KernelError."""
    if group in (os.getegid(), *os.getgroups()):
        return
    try:
        os.setgroups([*os.getgroups(), group])
    except OSError as e:
        raise KernelError(
            f"this process cannot join group {group}, which control.group names; "
            "run as root, or with SupplementaryGroups=",
            e.errno or 0,
        ) from e
