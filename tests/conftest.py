"""What every test of the tree gets: a header that tells runs apart, seeds that
can be replayed, and the name of the test in which an earlier run died.

    HAK2K_SEED=N    seeds the `rng` fixture; a fresh N is drawn if it is not set
"""

from __future__ import annotations

import os
import platform
import random
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from hak2k.lab import poll
from tests.again import FAILED

# Two of these tests share two cores, and perhaps the machine with others.
poll.patience = 4.0

SEED = int(os.environ.get("HAK2K_SEED") or secrets.randbelow(1 << 32))
os.environ["HAK2K_SEED"] = str(SEED)  # the same in every worker

# No deadline: the machine may be busy.  The blob makes a failure reproducible.
settings.register_profile("hak2k", deadline=None, print_blob=True)
settings.load_profile("hak2k")

CAPABILITIES = {12: "net_admin", 13: "net_raw", 14: "ipc_lock", 21: "sys_admin", 23: "sys_nice"}
RUNNING = "hak2k-running"  # in pytest's cache: the tests that run right now, by worker
# What watches a pair of daemons, or measures one, is disturbed by another pair of them at
# work: one after the other.
IN_TURN = ("bench", "e2e")


def capabilities() -> str:
    status = Path("/proc/self/status").read_text()
    mask = int(status.split("CapEff:")[1].split()[0], 16)
    return " ".join(name for bit, name in CAPABILITIES.items() if mask >> bit & 1) or "none"


def core_kind() -> str:
    """How the compiled core was built: release, debug, sanitize."""
    try:
        from hak2k import _core
    except ImportError as error:
        return f"not importable ({error})"
    kind = getattr(_core, "BUILD", None)
    if kind is None:
        kind = "sanitize" if b"__asan_init" in Path(_core.__file__).read_bytes() else "release"
    return str(kind)


def running_file(config: pytest.Config) -> Path:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return config.cache.mkdir("hak2k") / f"{RUNNING}-{worker}"


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = [
        f"hak2k: core {core_kind()}, kernel {platform.release()}, {os.cpu_count()} cpus",
        f"hak2k: capabilities {capabilities()}; HAK2K_SEED={SEED}",
    ]
    died = config.stash.get(DIED, "")
    if died:
        lines.append(f"hak2k: THE LAST RUN DIED in {died}")
    return lines


DIED = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config, "cache", None) is None:  # -p no:cacheprovider
        return
    if not hasattr(config, "workerinput"):
        files = running_file(config).parent.glob(f"{RUNNING}-*")
        config.stash[DIED] = ", ".join(file.read_text() for file in files)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """For tests/again.py: what failed in this run."""
    if getattr(config, "cache", None) is not None:
        bad = [r for kind in ("failed", "error") for r in terminalreporter.stats.get(kind, ())]
        config.cache.set(FAILED, sorted({report.nodeid for report in bad}))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """For two workers: one takes all that has to run in turn, the other all else."""

    class InTurn(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "in turn" if file.split("/")[1] in IN_TURN else file

    return InTurn(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # A crash of the core takes the interpreter with it and leaves no report.
    # The file survives, and the next run says where it was.
    if getattr(item.config, "cache", None) is None:
        return (yield)
    file = running_file(item.config)
    file.write_text(item.nodeid)
    result = yield
    file.unlink(missing_ok=True)
    return result


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test's own, the same again for the same HAK2K_SEED."""
    return random.Random(f"{SEED}/{request.node.nodeid}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, object]:
    report = yield
    if report.failed and "rng" in getattr(item, "fixturenames", ()):
        report.sections.append(("seed", f"replay with HAK2K_SEED={SEED}"))
    return report
