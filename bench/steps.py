"""Single steps of the core under pytest-benchmark; ``python -m bench micro`` runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import cffi
import pytest

from bench import tools
from bench.micro import ROUNDS_VARIABLE, STEPS

TURNS = 20_000
DECLARED = """
int micro_count(void);
const char *micro_name(int step);
void *micro_open(void);
void micro_close(void *b);
void micro_run(void *b, int step, unsigned turns);
"""


@pytest.fixture(scope="module")
def core() -> Iterator[tuple[Any, Any, dict[str, int]]]:
    """The library, what its steps work on, and the steps' numbers."""
    tools.build()
    ffi = cffi.FFI()
    ffi.cdef(DECLARED)
    library: Any = ffi.dlopen(os.fspath(tools.library("micro")))
    ground = library.micro_open()
    assert ground != ffi.NULL
    names = {ffi.string(library.micro_name(n)).decode(): n for n in range(library.micro_count())}
    yield library, ground, names
    library.micro_close(ground)


@pytest.mark.parametrize("step", STEPS)
def test_step(benchmark: Any, core: tuple[Any, Any, dict[str, int]], step: str) -> None:
    library, ground, names = core
    benchmark.extra_info.update(step=step, turns=TURNS)
    benchmark.pedantic(
        library.micro_run,
        args=(ground, names[step], TURNS),
        rounds=int(os.environ.get(ROUNDS_VARIABLE, "15")),
        warmup_rounds=1,
    )
