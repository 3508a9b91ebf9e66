"""Every error that hak2k raises on purpose, and the exit code each stands for.

Exit codes (the contract of the command line): 0 done, 1 refused or failed,
2 usage or configuration, 3 the daemon cannot be reached.  A message is one line
that says what is wrong and, where there is a cure, what to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar


class HakError(Exception):
    """Base class.  `str(error)` is one line fit for an operator."""

    exit_code: ClassVar[int] = 1


class ConfigError(HakError):
    """The configuration cannot be used.  The user's to mend.

    problems: one `FILE:LINE: key: what is wrong, what to do` each, in the order
    of the file; never empty.  `str()` joins them by newlines.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("\n".join(self.problems))


class PeerError(HakError):
    """The other node did, or said, what cannot be accepted."""


class KernelError(HakError):
    """The kernel refused, or a library that speaks to it is missing.

    errno: the kernel's error number, 0 if there is none.
    """

    def __init__(self, message: str, errno: int = 0) -> None:
        if errno:
            message = f"{message}: {os.strerror(errno)}"
        super().__init__(message)
        self.errno = errno


class UsageError(HakError):
    """The request itself is wrong: an unknown command, a bad argument."""

    exit_code = 2


class RefusedError(HakError):
    """A command that is not carried out, with the reason.  Nothing was changed
    unless the message says so."""


class UnreachableError(HakError):
    """No daemon answers on the control socket."""

    exit_code = 3


class InternalError(HakError):
    """A fault of hak2k itself: worth a bug report."""
