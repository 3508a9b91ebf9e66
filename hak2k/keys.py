"""Pre-shared keys: the file's content to what the handshake mixes in.

One file, up to three keys, the preferred one first:

* Text: one key a line.  Empty lines, and lines that begin with #, are not keys.
* Anything that is not printable ASCII: the whole file is one key.

More than one key is for the time of a change: a node offers the first, and accepts
them all.  Nothing here keeps a secret in an object that cannot be wiped.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import string
from collections import Counter
from typing import Final

MOST: Final = 3  # HAK_KEYS_MAX
SHORTEST: Final = 16
WEAK_BITS: Final = 80
_ALPHABETS: Final = tuple(
    frozenset(text.encode())
    for text in (
        string.digits,
        string.digits + "abcdef",
        string.digits + "ABCDEF",
        string.digits + string.ascii_letters,
        string.digits + string.ascii_letters + string.punctuation + " ",
    )
)
_TEXT: Final = frozenset(b"\t\r\n") | frozenset(range(0x20, 0x7F))


def split(content: bytearray) -> list[bytearray]:
    """The keys in a file's content, each a copy."""
    if not _TEXT.issuperset(content):
        return [content.rstrip(b"\r\n")]
    lines = (line.strip() for line in content.split(b"\n"))
    return [line for line in lines if line and not line.startswith(b"#")]


def wipe(secret: bytearray) -> None:
    """Zeros in place of the secret."""
    secret[:] = bytes(len(secret))


def derive_key(secret: bytes | bytearray) -> bytearray:
    """Pre-shared key of any length to the 32 bytes that the handshake mixes in.

    HKDF-SHA256 (RFC 5869), salt and info fixed, so that the same file used by
    another program gives another key.  This spreads entropy, it does not add any:
    a key that can be guessed stays so, hence the demand for 16 bytes and the
    advice to make it with `openssl rand -hex 32`.
    """
    extracted = hmac.new(b"hak2k psk v1", secret, hashlib.sha256).digest()
    return bytearray(hmac.new(extracted, b"hak2k k2k psk0\x01", hashlib.sha256).digest())


def strength(secret: bytes | bytearray) -> int:
    """Bits of entropy that the key can have at most: its length, in the alphabet it
    seems to be drawn from, less what repeats itself.  It finds what is short or
    monotonous; what is guessable in other ways (words, dates) it cannot see."""
    size, counts = len(secret), Counter(secret)
    letters = next((len(a) for a in _ALPHABETS if a.issuperset(counts)), 256)
    seen = sum(n / size * math.log2(size / n) for n in counts.values())
    most = math.log2(min(size, letters))
    return min(256, round(size * math.log2(letters) * seen / most)) if size > 1 else 0


def fingerprint(key: bytes | bytearray) -> str:
    """What people compare keys by: 8 hexadecimal digits.  As the core's
    hak_key_print(), of the key as derived."""
    digest = hmac.new(b"hak2k key fingerprint", key, hashlib.sha256).digest()
    number = int.from_bytes(digest[:4], "big")
    return f"{number or 1:08x}"
