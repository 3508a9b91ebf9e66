"""The files of the project, as the rules in this folder see them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_SKIP = {".git", ".venv", "build", "dist", "__pycache__"}


@cache
def files() -> tuple[Path, ...]:
    """Everything that belongs to the project: tracked, or new and not ignored.

    Without git (a source distribution): everything that make did not put there.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0 and listing.stdout:
        names = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        names = [
            path
            for path in ROOT.rglob("*")
            if not _SKIP.intersection(part for part in path.relative_to(ROOT).parts)
            and not any(part.endswith("_cache") for part in path.parts)
        ]
    return tuple(sorted(path for path in names if path.is_file()))


def named(*patterns: str) -> list[Path]:
    """Files whose path from the root fits one of the patterns (** spans folders)."""
    return [p for p in files() if any(p.relative_to(ROOT).match(x) for x in patterns)]


def under(folder: str, *suffixes: str) -> list[Path]:
    """Files below a folder with one of these suffixes (all, if none is given)."""
    base = ROOT / folder
    return [p for p in files() if base in p.parents and (not suffixes or p.suffix in suffixes)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def c_code(path: Path) -> list[str]:
    """The lines of a C file with comments and strings blanked, so that a rule
    never hits a word in prose.  Line numbers stay."""
    out: list[str] = []
    source = text(path)
    i = 0
    while i < len(source):
        if source.startswith("/*", i):
            end = source.find("*/", i + 2)
            end = len(source) if end < 0 else end + 2
            out.append("".join(c if c == "\n" else " " for c in source[i:end]))
        elif source.startswith("//", i):
            end = source.find("\n", i)
            end = len(source) if end < 0 else end
            out.append(" " * (end - i))
        elif source[i] in "\"'":
            end = i + 1
            while end < len(source) and source[end] != source[i]:
                end += 2 if source[end] == "\\" else 1
            end += 1
            out.append(source[i] + " " * (end - i - 2) + source[i])
        else:
            end = i + 1
            out.append(source[i])
        i = end
    return "".join(out).split("\n")
