"""Anonymous network namespaces, and processes that die with their maker.

A namespace made here has no name under ``/run/netns``: it lives exactly as long
as a file descriptor, a socket or a process refers to it.  When the process that
made it dies, in whatever way, the kernel removes it with all its devices.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_REEXEC_MARK = "HAK2K_LAB_REEXEC"
_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
_MS_REC_PRIVATE = 0x44000

_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegeError(RuntimeError):
    """The lab can neither run as it is nor get what it needs."""


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _capabilities() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def privileged() -> bool:
    """Whether this process may make namespaces and configure networks."""
    needed = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN
    return _capabilities() & needed == needed


def _reexecute() -> NoReturn:
    arguments = [sys.executable, *sys.orig_argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, arguments, {**os.environ, _REEXEC_MARK: "1"})


def ensure_privileges() -> None:
    """Return if the lab can run; otherwise restart the program where it can.

    An ordinary user gets a user, a network and a mount namespace of their own,
    in which they are root, and the program starts again from its beginning with
    the same arguments.  Call this first thing in ``main``, before any thread.

    Raises:
        PrivilegeError: user namespaces are forbidden here, or the process has
            several threads already.
    """
    if privileged():
        return
    if os.environ.get(_REEXEC_MARK):
        raise PrivilegeError(
            "even inside a user namespace this process lacks CAP_NET_ADMIN and "
            "CAP_SYS_ADMIN; run it as root"
        )
    if threading.active_count() > 1:
        raise PrivilegeError("ensure_privileges() must be called before any thread is started")
    uid, gid = os.geteuid(), os.getegid()
    try:
        _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS), "unshare")
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {uid} 1"),
            ("gid_map", f"0 {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)
    except OSError as error:
        raise PrivilegeError(
            f"needs root, or unprivileged user namespaces, which this machine "
            f"refuses ({error}); see kernel.unprivileged_userns_clone, "
            f"user.max_user_namespaces and the AppArmor restriction "
            f"kernel.apparmor_restrict_unprivileged_userns"
        ) from error
    _reexecute()


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """Move the calling thread into the network namespace ``fd``, and back.

    The namespace belongs to the thread: others are not affected.  Sockets made
    inside stay there for good.  Must not span an ``await``.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET), "setns back")
    finally:
        os.close(home)


def new_namespace() -> int:
    """Make a network namespace; return the descriptor that keeps it alive.

    Raises:
        OSError: not privileged, or too many namespaces.
    """
    result: list[int | BaseException] = []

    def make() -> None:
        # In a thread of its own: the caller's thread stays where it is.
        try:
            _check(_libc.unshare(CLONE_NEWNET), "unshare")
            result.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=make, name="lab-unshare")
    thread.start()
    thread.join()
    made = result[0]
    if isinstance(made, BaseException):
        raise made
    return made


def die_with_parent(parent: int) -> Callable[[], None]:
    """Return a ``preexec_fn`` that ties the child's life to its parent's.

    Args:
        parent: the process id of the parent, to notice that it died before the
            child could ask for the signal.
    """
    # Looked up before the fork: nothing but two system calls happens after it.
    prctl = _libc.prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


class Spawner:
    """Starts processes from one thread that lives as long as the lab.

    The kernel sends the parent-death signal when the *thread* that forked goes
    away, so no short-lived thread may fork a child of the lab.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lab-spawner", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _call(self, function: Callable[[], T]) -> T:
        done = threading.Event()
        result: list[T] = []
        failure: list[BaseException] = []

        def job() -> None:
            try:
                result.append(function())
            except BaseException as error:
                failure.append(error)
            done.set()

        self._jobs.put(job)
        done.wait()
        if failure:
            raise failure[0]
        return result[0]

    def popen(
        self, namespace: int, command: Sequence[str], **options: Any
    ) -> subprocess.Popen[Any]:
        """Start ``command`` in ``namespace``; options are those of ``Popen``.

        Raises:
            OSError: the program cannot be executed.
        """

        def start() -> subprocess.Popen[Any]:
            with entered(namespace):
                return subprocess.Popen(command, preexec_fn=die_with_parent(os.getpid()), **options)

        return self._call(start)

    def close(self) -> None:
        """End the thread.  Children that still run are killed by the kernel."""
        self._jobs.put(None)
        self._thread.join()
