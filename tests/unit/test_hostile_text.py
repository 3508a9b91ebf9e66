"""Foreign text: requests on the control socket, and configurations that somebody, or an
editor that crashed, has left behind.  Each is answered in words, or is right.

    HAK2K_EXAMPLES=N    how many are tried of each; `make fuzz` tries many
"""

from __future__ import annotations

import asyncio
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hak2k import config
from hak2k.control import MAX_REQUEST, Server
from hak2k.errors import ConfigError
from tests.unit.samples import GOOD, write

EXAMPLES = int(os.environ.get("HAK2K_EXAMPLES", "150"))
many = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# -- the control socket ----------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
request_like = st.fixed_dictionaries(
    {}, optional={"command": st.sampled_from(["echo", "none"]) | anything, "args": anything}
)


class Long(bytes):
    """So many bytes, told in a few."""

    def __new__(cls, size: int) -> Long:
        return super().__new__(cls, b"x" * size)

    def __repr__(self) -> str:
        return f"Long({len(self)})"


lines = st.one_of(
    st.binary(max_size=300),
    anything.map(lambda value: json.dumps(value).encode()),
    request_like.map(lambda value: json.dumps(value).encode()),
    # cut short, or with a byte altered
    st.tuples(request_like.map(lambda v: json.dumps(v).encode()), st.integers(0, 80)).map(
        lambda pair: pair[0][: pair[1]]
    ),
    st.integers(1, 5000).map(lambda depth: b"[" * depth),
    st.integers(1, 5000).map(lambda depth: b'{"command":' * depth),
    st.integers(1, 6000).map(lambda digits: b'{"command": "echo", "args": ' + b"9" * digits),
    # about as long as a request may be, and more than any buffer on the way holds
    st.sampled_from([MAX_REQUEST - 1, MAX_REQUEST, MAX_REQUEST + 1, 16 * MAX_REQUEST]).map(Long),
)


async def converse(path: Path, sent: bytes, faults: list[Exception]) -> list[bytes]:
    async def echo(args: dict[str, Any]) -> Any:
        return args

    server = Server(path, {"echo": echo}, faults.append)
    await server.start()
    try:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(sent)
            writer.write_eof()
            return (await reader.read()).splitlines()
        finally:
            writer.close()
    finally:
        await server.stop()


def understood(line: bytes) -> bool:
    """Is it a request of echo by the words of hak2k.control?"""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(request, dict)
        and request.get("command") == "echo"
        and isinstance(request.get("args", {}), dict)
    )


@many
@given(st.lists(lines, max_size=5))
def test_every_line_has_one_answer(tmp_path: Path, said: list[bytes]) -> None:
    faults: list[Exception] = []
    answers = asyncio.run(converse(tmp_path / "s", b"\n".join(said), faults))
    assert faults == []
    # what ends a connection ends it with an answer
    expected = b"\n".join(said).splitlines(keepends=True)
    expected = b"".join(expected).split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    if any(len(line) > MAX_REQUEST for line in expected):
        first = next(n for n, line in enumerate(expected) if len(line) > MAX_REQUEST)
        expected = expected[: first + 1]
    assert len(answers) == len(expected)
    for line, answer in zip(expected, answers, strict=True):
        got = json.loads(answer)
        assert got["ok"] is understood(line), (line, got)
        if not got["ok"]:
            assert got["code"] == 2
            assert got["error"]


# -- the configuration -----------------------------------------------------------

GOOD_LINES = GOOD.splitlines()
values = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "[]", "{}", '""', "1979-05-27", "[[]]", '"\\u0000"', "0x7f", "nan"]),
    st.text(max_size=30).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.ip_addresses().map(lambda address: f'"{address}"'),
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A good one of which some lines are gone, doubled, moved, cut or say something else."""
    text = list(GOOD_LINES)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text) - 1)) if text else 0
        if not text:
            break
        how = draw(st.sampled_from(["drop", "double", "move", "cut", "value", "junk"]))
        if how == "drop":
            text.pop(at)
        elif how == "double":
            text.insert(at, text[at])
        elif how == "move":
            text.insert(draw(st.integers(0, len(text) - 1)), text.pop(at))
        elif how == "cut":
            text[at] = text[at][: draw(st.integers(0, len(text[at])))]
        elif how == "value" and "=" in text[at]:
            text[at] = text[at].split("=")[0] + "= " + draw(values)
        else:
            text.insert(at, draw(st.text(max_size=40)))
    return "\n".join(text)


def in_words(path: Path) -> config.Config | None:
    """Right; or None, and each problem has named the file."""
    try:
        return config.load_config(path)
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(problem.startswith(f"{path}:") for problem in problems), problems
    return None


def read(directory: Path, text: str) -> None:
    got = in_words(write(directory, text))
    if got is not None:
        tomllib.loads(text)  # what is accepted is TOML
        assert got.cluster.psk
        assert len({link.interface for link in got.link}) == len(got.link) > 0


@many
@given(damaged())
def test_damaged_configuration(tmp_path: Path, text: str) -> None:
    read(tmp_path, text)


@many
@given(st.text(max_size=200))
def test_any_text_as_configuration(tmp_path: Path, text: str) -> None:
    read(tmp_path, text)


@many
@given(st.binary(max_size=200))
def test_any_bytes_as_configuration(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, GOOD)
    path.write_bytes(data)
    in_words(path)


@pytest.mark.parametrize("value", ["[" * 100_000, "{a=" * 100_000, "[" * 300 + "]" * 300])
def test_depth_of_a_configuration(tmp_path: Path, value: str) -> None:
    """Deeper than anybody needs, or than the interpreter's stack is."""
    path = write(tmp_path, "x = " + value)
    with pytest.raises(ConfigError) as caught:
        config.load_config(path)
    assert all(problem.startswith(f"{path}:") for problem in caught.value.problems)


def test_number_of_thousands_of_digits(tmp_path: Path) -> None:
    path = write(tmp_path, "x = " + "9" * 10_000)
    with pytest.raises(ConfigError, match="syntax"):
        config.load_config(path)


@pytest.mark.parametrize("line", [b"[" * 50_000, b'{"a":' * 10_000, b"9" * 60_000])
def test_depth_of_a_request(tmp_path: Path, line: bytes) -> None:
    faults: list[Exception] = []
    (answer,) = asyncio.run(converse(tmp_path / "s", line + b"\n", faults))
    assert json.loads(answer)["code"] == 2
    assert faults == []
