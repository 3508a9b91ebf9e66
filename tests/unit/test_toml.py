"""The locator of TOML keys: its own cases, and whatever TOML hypothesis makes."""

from __future__ import annotations

import string
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hak2k._toml import Path, locate, show

CASES: list[tuple[str, str, dict[Path, int]]] = [
    ("empty", "", {}),
    ("only comments", "# [a]\n  # b = 1\n", {}),
    ("bare", "a = 1\nb = 2\n", {("a",): 1, ("b",): 2}),
    ("table", "[t]\n\n# x\nk = 1 # y = 2\n", {("t",): 1, ("t", "k"): 4}),
    (
        "arrays of tables",
        "[[l]]\na=1\n[[l]]\na=2\n",
        {("l",): 1, ("l", 0): 1, ("l", 0, "a"): 2, ("l", 1): 3, ("l", 1, "a"): 4},
    ),
    ("dotted", "a.b.c = 1\n", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1}),
    (
        "quoted keys",
        '"a b" = 1\n\'c.d\' = 2\n"\\u0065" = 3\n',
        {
            ("a b",): 1,
            ("c.d",): 2,
            ("e",): 3,
        },
    ),
    (
        "list",
        "a = [\n 1,\n # two\n 2,\n]\nb = 3\n",
        {
            ("a",): 1,
            ("a", 0): 2,
            ("a", 1): 4,
            ("b",): 6,
        },
    ),
    (
        "brackets in strings",
        'a = "]"\nb = [ "[", \'#\', "\\"]" ]\nc = 1\n',
        {
            ("a",): 1,
            ("b",): 2,
            ("b", 0): 2,
            ("b", 1): 2,
            ("b", 2): 2,
            ("c",): 3,
        },
    ),
    (
        "long strings",
        'a = """\n[x]\nb = 1\n\\""""\nc = \'\'\'\n\\\'\'\'\nd = 1\n',
        {
            ("a",): 1,
            ("c",): 5,
            ("d",): 7,
        },
    ),
    ("quotes inside the fence", 'a = """x"""""\nb = 1\n', {("a",): 1, ("b",): 2}),
    (
        "inline table",
        "a = {b = 1, c = {d = 2}}\ne = 1\n",
        {
            ("a",): 1,
            ("a", "b"): 1,
            ("a", "c"): 1,
            ("a", "c", "d"): 1,
            ("e",): 2,
        },
    ),
    (
        "table in an array of tables",
        "[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 1\n",
        {
            ("a",): 1,
            ("a", 0): 1,
            ("a", 0, "b"): 2,
            ("a", 0, "b", "c"): 3,
            ("a", 1): 4,
            ("a", 1, "b"): 5,
            ("a", 1, "b", "c"): 6,
        },
    ),
    (
        "array of tables in one",
        "[[a]]\n[[a.b]]\n[[a.b]]\nc = 1\n",
        {
            ("a",): 1,
            ("a", 0): 1,
            ("a", 0, "b"): 2,
            ("a", 0, "b", 0): 2,
            ("a", 0, "b", 1): 3,
            ("a", 0, "b", 1, "c"): 4,
        },
    ),
    (
        "dates and floats",
        "a = 1979-05-27 07:32:00\nb = 1e5\nc = -inf # x\n",
        {
            ("a",): 1,
            ("b",): 2,
            ("c",): 3,
        },
    ),
    ("no newline at the end", "a = 1", {("a",): 1}),
]


@pytest.mark.parametrize(("text", "lines"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_lines(text: str, lines: dict[Path, int]) -> None:
    tomllib.loads(text)
    assert locate(text) == lines
    assert locate(text.replace("\n", "\r\n")) == lines


KEYS = st.text(string.ascii_letters + "_-", min_size=1, max_size=6)
TEXTS = st.text(string.printable.replace("\r", "").replace("\x0b", "").replace("\x0c", ""))


def quoted(text: str, kind: int) -> str:
    """`text` as a TOML string of one of three kinds."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if kind == 0:
        return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t") + '"'
    if kind == 1:
        return '"""\n' + escaped + '"""'
    plain = text.replace("'", "")
    return "'''\n" + plain + "'''"


@given(
    st.lists(
        st.tuples(KEYS, st.lists(st.tuples(TEXTS, st.integers(0, 2)), max_size=3)),
        max_size=5,
        unique_by=lambda item: item[0],
    )
)
def test_whatever_stands_in_the_strings(
    entries: list[tuple[str, list[tuple[str, int]]]],
) -> None:
    text = ""
    expected: dict[Path, int] = {}
    for key, values in entries:
        expected[(key,)] = text.count("\n") + 1
        text += f"{key} = ["
        for i, (value, kind) in enumerate(values):
            text += "\n "
            expected[(key, i)] = text.count("\n") + 1
            text += quoted(value, kind) + ","
        text += "]\n"
    tomllib.loads(text)
    assert locate(text) == expected


def test_show() -> None:
    assert show(("link", 1, "interface")) == "link[1].interface"
    assert show(("stream", "protocols", 0)) == "stream.protocols[0]"
