"""Rules of the source that no compiler checks.

Each exception stands in a table with its reason, and with a count where one more
of the same kind should be thought about again.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lint import tree

CORE = tree.under("csrc", ".c", ".h")
SOURCES = [
    p
    for p in tree.files()
    if p.suffix in {".c", ".h", ".py", ".pyx", ".pxd", ".pyi", ".sh", ".mk"}
    or p.name in {"Makefile", "run"}
]

# csrc file: (calls that copy bytes, why they may).  hak_buf.h is the place for them.
COPIES = {
    "hak_flow.h": (2, "addresses inside a tuple: 16 bytes both"),
    "hak_policy.h": (1, "an address into a slot, as long as its family says"),
    "hak_crypto.c": (14, "keys, hashes and texts whose lengths are constants or were compared"),
    "hak_stream.c": (1, "a payload into its slot, after its length was compared"),
    "hak_session.c": (2, "a public key: 32 bytes both; a table of keys to its like"),
    "hak_io.c": (1, "a header struct, whose size is asserted"),
    "hak_capture.c": (1, "a sealed payload into its slot, both of HAK_PAYLOAD_MAX"),
    "hak_engine.c": (2, "a whole table between two arrays of the same type; keys of 32 bytes"),
    "hak_probe.c": (7, "addresses and small arrays out of a record that our own probe wrote"),
    "hak_sync.c": (1, "a whole table between two arrays of the same type"),
}

# csrc file: (lines where a pointer to bytes is moved, why).
ARITHMETIC = {
    "hak_crypto.c": (6, "parts of a handshake message, lengths compared above each"),
    "hak_capture.c": (2, "header, payload and tag of the datagram being sealed"),
    "hak_io.c": (5, "payload and tag: of a buffer of fixed size, of a length compared above"),
    "hak_probe.c": (3, "records of the kernel's ring, by lengths that it wrote"),
    "hak_session.c": (2, "what follows the header in a message of ours"),
}

NEVER = r"\b(strcpy|strcat|strncpy|strncat|sprintf|vsprintf|gets|alloca|strtok|atoi|rand)\s*\("


def ids(path: Path) -> str:
    return tree.name(path)


def find(path: Path, pattern: str) -> list[str]:
    """FILE:LINE: TEXT of each hit in the code of a C file."""
    return [
        f"{tree.name(path)}:{n}: {line.strip()}"
        for n, line in enumerate(tree.c_code(path), 1)
        if re.search(pattern, line)
    ]


# Uses of the wall clock, which an administrator or NTP may set by hours at any moment:
# for what people read, and for the one identity that says so.  All else is monotonic.
WALL = {
    "csrc/hak_clock.h": (2, "the function"),
    "csrc/hak_engine.c": (1, "the start's name; a later one may bear an earlier time"),
    "csrc/hak_judge.c": (1, "since when a link works"),
    "hak2k/engine.py": (1, "since when a node has its mode"),
    "hak2k/events.py": (1, "an entry's time"),
    "hak2k/node.py": (1, "since when a node has its mode"),
    "hak2k/present.py": (1, "text"),
    "hak2k/health/monitor.py": (1, "since when a part is what it is"),
}

Lines = list[tuple[int, str]]


def blocks(path: Path) -> list[Lines]:
    """The file in pieces that end with a brace in the first column: functions."""
    out: list[Lines] = [[]]
    for numbered in enumerate(tree.c_code(path), 1):
        out[-1].append(numbered)
        if numbered[1].startswith("}"):
            out.append([])
    return out


def moves_of_pointers(block: Lines) -> Lines:
    """Lines that add to something declared as a pointer to, or array of, bytes."""
    code = "\n".join(line for _, line in block)
    found = set(re.findall(r"\b(?:u?int8_t|char|void)\b[\s\w]*\*\s*(?:const\s+)?(\w+)", code))
    found |= set(re.findall(r"\bu?int8_t\s+(?:\w+,\s*)*(\w+)\[", code))
    names = "|".join(sorted({*found, "pos", "bytes"}))
    add = re.compile(
        rf"(?<![\w.])(?:\w+(?:->|\.))*\b(?:{names})\s*(?:\+=|\+\+|-=|--|\+\s*[\w(])"
        rf"|(?:\+\+|--)(?:\w+(?:->|\.))*\b(?:{names})\b"
    )
    return [(n, line) for n, line in block if add.search(line)]


def allowed(path: Path, table: dict[str, tuple[int, str]]) -> int:
    return table.get(path.name, (0, ""))[0]


def test_a_clock_that_is_set_decides_nothing() -> None:
    wall = r"CLOCK_REALTIME|hak_wall_ms\(|gettimeofday|\btime\(NULL\)"
    wall += r"|\btime\.time\b|\btime\.time_ns\b|datetime\.now|\blocaltime\("
    found = {}
    for path in SOURCES:
        name = str(path.relative_to(tree.ROOT))
        apart = name.startswith(("hak2k/lab/", "hak2k/demo/"))
        if name.startswith(("csrc/", "hak2k/")) and not apart:
            lines = len(re.findall(wall, tree.text(path)))
            if lines:
                found[name] = lines
    assert found == {name: count for name, (count, _) in WALL.items()}


def test_there_is_a_core() -> None:
    assert len(CORE) > 20


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_the_core_knows_no_python(path: Path) -> None:
    assert not find(path, r"Python\.h|\bPy_?[A-Z]\w+|\bPyObject\b")
    assert "Python.h" not in tree.text(path)


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_bytes_are_copied_by_the_cursor(path: Path) -> None:
    if path.name == "hak_buf.h":
        return
    hits = find(path, r"\bmem(cpy|move|pcpy|ccpy)\s*\(")
    assert len(hits) <= allowed(path, COPIES), "\n".join(hits)


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_bytes_are_reached_by_the_cursor(path: Path) -> None:
    """No arithmetic on pointers to bytes: `p + n` says nothing about an end."""
    if path.name == "hak_buf.h":
        return
    hits = [
        f"{tree.name(path)}:{n}: {line.strip()}"
        for block in blocks(path)
        for n, line in moves_of_pointers(block)
    ]
    assert len(hits) <= allowed(path, ARITHMETIC), "\n".join(hits)


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_no_function_that_cannot_be_used_safely(path: Path) -> None:
    assert not find(path, NEVER)


def test_exceptions_are_used() -> None:
    """An exception that nobody needs any more would hide the next offence."""
    present = {p.name for p in CORE}
    assert set(COPIES) <= present
    assert set(ARITHMETIC) <= present


@pytest.mark.parametrize("path", CORE, ids=ids)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    first = tree.text(path).split("\n", 1)[0]
    assert first.startswith(f"/* {path.name} - "), "first line: /* NAME - what it is for"


@pytest.mark.parametrize(
    "path", [p for p in tree.under("hak2k", ".py") if tree.text(p).strip()], ids=ids
)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    lines = [x for x in tree.text(path).splitlines() if not x.startswith("#!")]
    assert lines[0].startswith(('"""', 'r"""'))


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_no_file_is_too_long(path: Path) -> None:
    """800 lines: what is longer has two purposes."""
    assert tree.text(path).count("\n") <= 800


@pytest.mark.parametrize("path", tree.under("tests"), ids=ids)
def test_tests_do_not_sleep(path: Path) -> None:
    """Wait for what can be seen, with a deadline; never for time to pass.

    Minutes are allowed: that is how a child that hangs is made."""
    if path.suffix == ".py":
        pattern = r"\btime\.sleep\((?!\d{3,}\))|\basyncio\.sleep\((?!0\))|from time .*\bsleep\b"
    elif path.suffix in {".c", ".h"}:
        pattern = r"\b(u|nano)?sleep\("
    elif path.suffix == ".sh":
        pattern = r"^\s*sleep\b"
    else:
        return
    if path == Path(__file__).resolve():
        return
    hits = [
        f"{tree.name(path)}:{n}: {line.strip()}"
        for n, line in enumerate(tree.text(path).splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not hits, "\n".join(hits)


def is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:4096] and "corpus" not in path.parts


@pytest.mark.parametrize("path", [p for p in tree.files() if is_text(p)], ids=ids)
def test_text_is_clean(path: Path) -> None:
    raw = path.read_bytes()
    assert b"\r" not in raw, "line ends are LF"
    if raw and path.suffix not in {".hex", ".bin"}:
        assert raw.endswith(b"\n"), "the last line has an end"
    here = re.compile(rb"(?<![\w.])/(?:wo" + rb"rk|ho" + rb"me/\w+|ro" + rb"ot)/")
    assert not here.search(raw), "a path of one machine"
    if path.suffix in {".c", ".h", ".py", ".pyx", ".pxd", ".md", ".toml"}:
        bad = [n for n, x in enumerate(raw.split(b"\n"), 1) if x != x.rstrip()]
        assert not bad, f"blanks at the end of lines {bad}"


@pytest.mark.parametrize(
    "path", [*CORE, *tree.under("hak2k", ".py", ".pyx", ".pxd", ".pyi")], ids=ids
)
def test_nothing_is_left_for_later(path: Path) -> None:
    """What is not handled is said in the file's head or filed as an issue."""
    words = "TO" + "DO|FIX" + "ME|XX" + "X|HA" + "CK"
    assert not re.search(rf"\b({words})\b", tree.text(path))


PROSE = [p for p in tree.files() if p.suffix == ".md"]


@pytest.mark.parametrize("path", PROSE, ids=ids)
def test_prose_fits_a_terminal(path: Path) -> None:
    """80 columns, but for tables and lines that are one long link."""
    code = False
    wide = []
    for n, line in enumerate(tree.text(path).splitlines(), 1):
        if line.startswith("```"):
            code = not code
        if len(line) > 80 and not line.startswith("|") and (code or " " in line.strip()):
            wide.append(f"{tree.name(path)}:{n}: {len(line)} columns")
    assert not wide, "\n".join(wide)
