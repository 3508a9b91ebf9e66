"""Where in a TOML text each key stands: what tomllib does not tell.

A scanner, not a second parser: it is given text that tomllib has accepted, so it
need not judge, only find its way.  It therefore treats what it does not care for
(numbers, dates) as "everything up to a delimiter".

    locate('[a]\\nb = 1\\n[[c]]\\nd = [1,\\n2]\\n')
    {('a',): 1, ('a', 'b'): 2, ('c',): 3, ('c', 0): 3, ('c', 0, 'd'): 4,
     ('c', 0, 'd', 0): 4, ('c', 0, 'd', 1): 5}
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_BLANK = " \t"
_GAP = " \t\r\n"


class _Scanner:
    def __init__(self, text: str) -> None:
        # tomllib reads CRLF as LF; so do we, or a backslash before CRLF in a
        # string would need a case of its own.
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.line = 1
        self.lines: dict[Path, int] = {}
        self.arrays: dict[Path, int] = {}  # arrays of tables: how many so far

    def peek(self, what: str) -> bool:
        return self.text.startswith(what, self.at)

    def take(self, n: int) -> str:
        piece = self.text[self.at : self.at + n]
        self.line += piece.count("\n")
        self.at += n
        return piece

    def skip(self, chars: str) -> None:
        """Step over `chars`, and over comments where a newline is allowed."""
        while self.at < len(self.text):
            if self.text[self.at] in chars:
                self.take(1)
            elif self.text[self.at] == "#" and "\n" in chars:
                end = self.text.find("\n", self.at)
                self.take((end if end >= 0 else len(self.text)) - self.at)
            else:
                return

    def string(self) -> str:
        """A string of any of the four kinds, decoded."""
        quote = self.text[self.at]
        fence = quote * 3 if self.peek(quote * 3) else quote
        start = self.at
        self.take(len(fence))
        while not self.peek(fence):
            # A basic string escapes with a backslash, a literal one does not.
            self.take(2 if quote == '"' and self.peek("\\") else 1)
        self.take(len(fence))
        # Up to two quotes may stand just inside the closing fence.
        while len(fence) == 3 and self.peek(quote):
            self.take(1)
        value = tomllib.loads("k = " + self.text[start : self.at])["k"]
        assert isinstance(value, str)
        return value

    def key(self) -> Path:
        """A possibly dotted key: a, "a b", a.b.c."""
        parts: list[str | int] = []
        while True:
            self.skip(_BLANK)
            if self.text[self.at] in "\"'":
                parts.append(self.string())
            else:
                match = _BARE.match(self.text, self.at)
                assert match is not None
                parts.append(self.take(len(match.group())))
            self.skip(_BLANK)
            if not self.peek("."):
                return tuple(parts)
            self.take(1)

    def mark(self, path: Path) -> None:
        """Note the line of `path` and, where first met, of the tables above."""
        for n in range(1, len(path) + 1):
            self.lines.setdefault(path[:n], self.line)

    def value(self, path: Path) -> None:
        if self.peek('"') or self.peek("'"):
            self.string()
        elif self.peek("["):
            self.take(1)
            self.skip(_GAP)
            index = 0
            while not self.peek("]"):
                self.mark((*path, index))
                self.value((*path, index))
                index += 1
                self.skip(_GAP)
                if self.peek(","):
                    self.take(1)
                self.skip(_GAP)
            self.take(1)
        elif self.peek("{"):
            self.take(1)
            self.skip(_GAP)
            while not self.peek("}"):
                self.pair(path)
                self.skip(_GAP)
                if self.peek(","):
                    self.take(1)
                self.skip(_GAP)
            self.take(1)
        else:
            match = _SCALAR.match(self.text, self.at)
            assert match is not None
            self.take(len(match.group()))

    def pair(self, table: Path) -> None:
        path = table + self.key()
        self.mark(path)
        self.take(1)  # the "="
        self.skip(_BLANK)
        self.value(path)

    def absolute(self, key: Path) -> Path:
        """A header's key with the index of the current element put behind each
        array of tables on the way."""
        path: Path = ()
        for part in key:
            path = (*path, part)
            if path in self.arrays:
                path = (*path, self.arrays[path] - 1)
        return path

    def run(self) -> None:
        table: Path = ()
        while True:
            self.skip(_GAP)
            if self.at >= len(self.text):
                return
            if self.peek("[["):
                self.take(2)
                key = self.key()
                self.take(2)
                path = (*self.absolute(key[:-1]), key[-1])
                index = self.arrays.get(path, 0)
                self.arrays[path] = index + 1
                table = (*path, index)
                self.mark(table)
            elif self.peek("["):
                self.take(1)
                table = self.absolute(self.key())
                self.take(1)
                self.mark(table)
            else:
                self.pair(table)


def locate(text: str) -> dict[Path, int]:
    """Key path to line number, 1 for the first.

    text: TOML that tomllib accepts.  Elements of arrays and of arrays of tables
    have their index in the path.
    """
    scanner = _Scanner(text)
    scanner.run()
    return scanner.lines


def show(path: Path) -> str:
    """A path as operators read it: link[1].interface."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += f".{part}" if out else part
    return out
