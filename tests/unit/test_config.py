"""The configuration: what is read, and how each mistake is named."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from hak2k import config as c
from hak2k import keys, settings
from hak2k.config import load_config
from hak2k.errors import ConfigError
from tests.unit.samples import GOOD, config, write


def line_of(text: str, start: str) -> int:
    return next(n for n, x in enumerate(text.splitlines(), 1) if x.startswith(start))


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        c.load_config(write(directory, text))
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def test_a_good_one(tmp_path: Path) -> None:
    got = config(tmp_path)
    assert got.node == settings.NodeConfig("FW-A", "lab")
    assert got.cluster.psk_file == tmp_path / "psk"
    assert got.cluster.psk == c.derive_key(b"0123456789ABCdef")
    assert got.control.socket == tmp_path / "a.sock"
    assert got.stream.protocols is None
    assert got.stream.exclude_mark == (0x100, 0x100)
    assert [x.interface for x in got.link] == ["ha0", "ha1"]
    assert {i.name: i.weight for i in got.interface} == {"lan": 100, "wan": 100}
    assert got.health == ()
    assert got.announcements[1] == ("lan", "fd71::1")
    assert got.notices() == []


def test_what_may_be_left_out(tmp_path: Path) -> None:
    text = """\
[node]
serial = "A"
[cluster]
id = 1
psk_file = "psk"
[[link]]
name = "main"
interface = "ha0"
local = "10.0.0.1"
peer = "10.0.0.2"
[[interface]]
name = "lan"
"""
    got = c.load_config(write(tmp_path, text))
    assert got.stream == settings.StreamConfig()
    assert got.liveness == settings.LivenessConfig()
    assert got.swap == settings.SwapConfig()
    assert str(got.control.socket) == "/run/hak2k/control.sock"


# (what, line that is replaced, new line, key as named, words of the message)
WRONG = [
    ("id", "id = 0", "cluster.id", "out of range; use 1 to 65535"),
    ("id", 'id = "7"', "cluster.id", "must be a whole number"),
    ("id", "id = 1.0", "cluster.id", "must be a whole number"),
    ("id", "id = true", "cluster.id", "must be a whole number"),
    ("id", "idd = 7", "cluster.idd", "did you mean 'id'?"),
    ("serial", 'serial = ""', "node.serial", "not allowed"),
    ("serial", 'serial = "a b"', "node.serial", "not allowed"),
    ("model", 'model = "x\\u0007"', "node.model", "not allowed"),
    ("psk_file", 'psk_file = "nope"', "cluster.psk_file", "openssl rand -hex 32"),
    ("priority", "priority = -1", "cluster.priority", "use 0 to 65535"),
    ("address_mode", 'address_mode = "x"', "cluster.address_mode", '"shared", "move"'),
    ("socket", f'socket = "{"x" * 120}"', "control.socket", "longer than 107"),
    ("port", "port = 65536", "stream.port", "use 1 to 65535"),
    ("protocols", 'protocols = "tcp"', "stream.protocols", 'one of "all"'),
    ("protocols", "protocols = []", "stream.protocols", "is empty"),
    ("protocols", 'protocols = ["tcp", "upd"]', "stream.protocols[1]", "'udp'?"),
    ("protocols", "protocols = [256]", "stream.protocols[0]", "1 to 255"),
    ("protocols", "protocols = 6", "stream.protocols", "must be a list"),
    ("min_duration_s", "min_duration_s = 1e-9", "stream.min_duration_s", "a millisecond"),
    ("min_duration_s", "min_duration_s = nan", "stream.min_duration_s", "out of range"),
    ("events", 'events = "most"', "stream.events", 'one of "lean", "all"'),
    ("adaptive", "adaptive = 1", "stream.adaptive", "must be true or false"),
    ("exclude_mark", 'exclude_mark = "1"', "stream.exclude_mark", "VALUE/MASK"),
    ("exclude_mark", 'exclude_mark = "1/0"', "stream.exclude_mark", "mask 0"),
    ("exclude_mark", 'exclude_mark = "3/1"', "stream.exclude_mark", "never fits"),
    ("exclude_mark", 'exclude_mark = "0/0x1ffffffff"', "stream.exclude_mark", "32 bits"),
    (
        "exclude_networks",
        'exclude_networks = ["10.9.0.1/16"]',
        "stream.exclude_networks[0]",
        "host bits",
    ),
    (
        "exclude_networks",
        'exclude_networks = ["10.9.0.1"]',
        "stream.exclude_networks[0]",
        "NETWORK/PREFIX",
    ),
    (
        "exclude_networks",
        'exclude_networks = ["10.0.0.0/8", "10.9.0.0/16"]',
        "stream.exclude_networks[1]",
        "contradicts stream.exclude_networks[0]",
    ),
    (
        "exclude_networks",
        'exclude_networks = ["0.0.0.0/0", "::/0"]',
        "stream.exclude_networks",
        "nothing to replicate",
    ),
    ("encrypt", 'encrypt = "yes"', "stream.encrypt", "must be true or false"),
    ("interface", 'interface = "a/b"', "link[0].interface", "not allowed"),
    ("interface", 'interface = "ha0 ha1"', "link[0].interface", "not allowed"),
    ("local", 'local = "fd00::1"', "link[0].local", "IPv4 only"),
    ("local", 'local = "224.0.0.1"', "link[0].local", "one host"),
    ("peer", 'peer = "192.168.69"', "link[0].peer", "not an IPv4 address"),
    ("weight", "weight = 10000", "interface[0].weight", "use 0 to 9999"),
    ("addresses", 'addresses = ["10.0.0.1"]', "interface[0].addresses[0]", "PREFIX"),
    ("addresses", 'addresses = ["10.0.0.0/24"]', "interface[0].addresses[0]", "one host"),
    ("addresses", 'addresses = ["x/24"]', "interface[0].addresses[0]", "PREFIX"),
    ("heartbeat_ms", "heartbeat_ms = 1", "liveness.heartbeat_ms", "use 5 to 10000 ms"),
    ("lease", "lease = 1", "liveness.lease", "must be true or false"),
    ("ping", 'ping = ["fw-b"]', "liveness.ping[0]", "not an IPv4 or IPv6 address"),
    ("ping", "ping = [1]", "liveness.ping[0]", "not an IPv4 or IPv6 address"),
    ("ping", f"ping = {['10.0.0.1'] * 9}", "liveness.ping", "at most 8"),
    ("garp_count", "garp_count = 0", "swap.garp_count", "use 1 to 50"),
    ("hold_down_s", "hold_down_s = -1", "swap.hold_down_s", "0 to 3600"),
    ("flap_count", "flap_count = 101", "swap.flap_count", "use 0 to 100"),
    ("flap_window_s", "flap_window_s = 0", "swap.flap_window_s", "1 to 86400"),
    ("flap_hold_s", "flap_hold_s = 0", "swap.flap_hold_s", "1 to 86400"),
    ("garp_interval_s", "garp_interval_s = -1", "swap.garp_interval_s", "0 to 3600"),
    ("garp_interval_s", "garp_interval_s = 0.05", "swap.garp_interval_s", "floods"),
    ("bounce_interfaces", "bounce_interfaces = 1", "swap.bounce_interfaces", "true or false"),
]


def test_move_needs_addresses(tmp_path: Path) -> None:
    text = GOOD.replace('address_mode = "shared"', 'address_mode = "move"')
    moved = load_config(write(tmp_path, text))
    assert moved.moving == moved.announcements
    assert load_config(write(tmp_path, GOOD)).moving == []
    bare = "\n".join(x for x in text.splitlines() if not x.startswith("addresses"))
    (found,) = problems(tmp_path, bare)
    assert "contradicts interface[0].name" in found


@pytest.mark.parametrize(("key", "line", "named", "words"), WRONG, ids=[w[1] for w in WRONG])
def test_a_wrong_value(tmp_path: Path, key: str, line: str, named: str, words: str) -> None:
    number = line_of(GOOD, f"{key} =")
    rows = GOOD.splitlines()
    rows[number - 1] = line
    found = problems(tmp_path, "\n".join(rows) + "\n")
    wanted = f"{tmp_path / 'node.toml'}:{number}: {named}: "
    assert any(p.startswith(wanted) and words in p for p in found), found
    assert all("\n" not in p for p in found)


# (first key, its new line, second key as named: both must be in the message)
CONTRADICTIONS = [
    ("dead_after_ms", "dead_after_ms = 99", "liveness.dead_after_ms", "liveness.heartbeat_ms"),
    (
        "dead_after_max_ms",
        "dead_after_max_ms = 199",
        "liveness.dead_after_max_ms",
        "liveness.dead_after_ms",
    ),
    ("peer", 'peer = "192.168.69.1"', "link[0].peer", "link[0].local"),
    ("peer", 'peer = "192.168.70.1"', "link[0].peer", "link[1].local"),
    ("interface", 'interface = "ha1"', "link[1].interface", "link[0].interface"),
    ("local", 'local = "192.168.70.1"', "link[1].local", "link[0].local"),
    ("peer", 'peer = "192.168.70.2"', "link[1].peer", "link[0].peer"),
    ("interface", 'interface = "lan"', "interface[0].name", "link[0].interface"),
    ("name", 'name = "backup"', "link[1].name", "link[0].name"),
    (
        "addresses",
        'addresses = ["192.168.69.2/24"]',
        "interface[0].addresses[0]",
        "link[0].peer",
    ),
    (
        "addresses",
        'addresses = ["10.72.0.1/16"]',
        "interface[1].addresses[0]",
        "interface[0].addresses[0]",
    ),
]


@pytest.mark.parametrize(
    ("key", "line", "one", "other"), CONTRADICTIONS, ids=[x[1] for x in CONTRADICTIONS]
)
def test_a_contradiction(tmp_path: Path, key: str, line: str, one: str, other: str) -> None:
    rows = GOOD.splitlines()
    rows[line_of(GOOD, f"{key} =") - 1] = line
    found = problems(tmp_path, "\n".join(rows) + "\n")
    match = [
        re.search(
            rf":(\d+): {re.escape(one)}: contradicts {re.escape(other)} "
            r"\(line (\d+)\)",
            p,
        )
        for p in found
    ]
    (hit,) = [m for m in match if m]
    # Both lines hold what the message says they hold.
    for n, named in ((1, one), (2, other)):
        word = re.sub(r"\[\d+\]", "", named).split(".")[1]
        assert rows[int(hit[n]) - 1].startswith(word)


def test_a_data_interface_twice(tmp_path: Path) -> None:
    text = GOOD.replace('name = "wan"', 'name = "lan"')
    (found,) = problems(tmp_path, text)
    assert "interface[1].name: contradicts interface[0].name" in found


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (GOOD + "[extra]\n", len(GOOD.splitlines()) + 1, "extra"),
        (GOOD.replace("[node]", "[noed]"), 1, "noed"),
        ("x = 1\n" + GOOD, 1, "x"),
        (GOOD + "[[link]]\n[[link]]\n", len(GOOD.splitlines()) + 1, "link[2]"),
        (GOOD.replace("[[link]]", "[[lnk]]"), 1, "link"),
        (GOOD.replace('serial = "FW-A"\n', ""), 1, "node.serial"),
        (GOOD.replace("[liveness]", "[[liveness]]"), line_of(GOOD, "[liveness]"), "liveness"),
    ],
    ids=["extra table", "typo", "top key", "three links", "no links", "missing", "kind"],
)
def test_tables(tmp_path: Path, text: str, line: int, key: str) -> None:
    found = problems(tmp_path, text)
    assert any(f":{line}: {key}: " in p for p in found), found


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("port = 44242", "port = 0").replace("id = 7", "id = 0")
    found = problems(tmp_path, text + "[what]\n")
    lines = [int(p.split(":")[1]) for p in found]
    assert len(found) == 3
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [("[node\n", 1), ("[node]\na = 1\na = 2\n", 3), ('a = "\n', 1), ("[a]\nb =", 2)],
)
def test_syntax(tmp_path: Path, text: str, line: int) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"{tmp_path / 'node.toml'}:{line}: syntax: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope:1: file: cannot be read, No such file"):
        c.load_config(tmp_path / "nope")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"[node]\nserial = '\xff'\n")
    with pytest.raises(ConfigError, match=r"x\.toml:2: file: is not UTF-8"):
        c.load_config(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_key_that_others_reach(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path)
    (tmp_path / "psk").chmod(mode)
    with pytest.raises(ConfigError, match=r"psk_file: .* is open to others .*chmod 600"):
        c.load_config(path)


def test_a_key_that_is_too_short(tmp_path: Path) -> None:
    # The line end does not count: 15 bytes.
    path = write(tmp_path, psk=b"0123456789abcde\r\n")
    with pytest.raises(ConfigError, match="holds 15 bytes, fewer than 16"):
        c.load_config(path)


def test_a_key_that_is_no_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "psk").unlink()
    (tmp_path / "psk").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="not a regular file"):
        c.load_config(path)
    (tmp_path / "psk").rmdir()
    os.mkfifo(tmp_path / "psk", 0o600)  # must not block either
    with pytest.raises(ConfigError, match="not a regular file"):
        c.load_config(path)


def test_the_key_is_hkdf() -> None:
    """RFC 5869 by the book, from another implementation of the same steps."""
    import hashlib
    import hmac

    prk = hmac.digest(b"hak2k psk v1", b"secret" * 4, "sha256")
    wanted = hmac.digest(prk, b"hak2k k2k psk0" + bytes([1]), hashlib.sha256)
    assert c.derive_key(b"secret" * 4) == wanted


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    got = config(tmp_path)
    assert got.cluster.psk.hex() not in repr(got)
    assert repr(got.cluster.psk) not in repr(got)


def test_protocols(tmp_path: Path) -> None:
    line = 'protocols = ["UDP", "tcp", 89, "tcp", "icmpv6"]'
    assert config(tmp_path, protocols=line).stream.protocols == (6, 17, 58, 89)


def test_where(tmp_path: Path) -> None:
    got = config(tmp_path)
    line = line_of(GOOD, 'interface = "ha1"')
    assert got.where("link", 1, "interface") == f"{got.path}:{line}: link[1].interface"
    assert got.where("swap", "unknown").startswith(f"{got.path}:{line_of(GOOD, '[swap]')}:")


def test_what_a_reload_may_change(tmp_path: Path) -> None:
    old = config(tmp_path)
    new = config(
        tmp_path,
        priority="priority = 50",
        weight="weight = 7",
        port="port = 1",
        local='local = "192.168.69.5"',
    )
    keys = settings.changed(old, new)
    assert keys == [
        ("cluster", "priority"),
        ("stream", "port"),
        ("link", 0, "local"),
        ("interface", 0, "weight"),
    ]
    assert [settings.reloadable(k) for k in keys] == [True, False, False, True]
    assert settings.changed(old, config(tmp_path)) == []


def test_interfaces_added_are_named_as_a_whole(tmp_path: Path) -> None:
    old = config(tmp_path)
    text = GOOD + '[[interface]]\nname = "dmz"\n'
    new = c.load_config(write(tmp_path, text))
    assert settings.changed(old, new) == [("interface",)]
    assert not settings.reloadable(("interface",))


def test_several_keys(tmp_path: Path) -> None:
    """One a line, the preferred one first; empty lines and comments are none."""
    first, second = b"A" * 20 + b"first", b"B" * 20 + b"second"
    path = write(tmp_path, psk=b"# new, 2026\n" + first + b"\r\n\n  " + second + b"\n")
    got = load_config(path).cluster
    assert got.psk == c.derive_key(first) + c.derive_key(second)
    assert [name for name, _ in got.keys] == [
        keys.fingerprint(c.derive_key(first)),
        keys.fingerprint(c.derive_key(second)),
    ]
    write(tmp_path, psk=b"\n".join([first] * 4))
    with pytest.raises(ConfigError, match="holds 4 keys, one a line; remove all but 3"):
        load_config(path)
    write(tmp_path, psk=first + b"\nshort\n")
    with pytest.raises(ConfigError, match=r"key 2 of .*psk has 5 bytes, fewer than 16"):
        load_config(path)
    write(tmp_path, psk=b"# nothing\n")
    with pytest.raises(ConfigError, match="holds no key"):
        load_config(path)
    # of what is no text, line ends are bytes like others
    binary = bytes(range(256))
    write(tmp_path, psk=binary)
    assert load_config(path).cluster.psk == c.derive_key(binary)


def test_other_keys_are_a_change_of_their_file(tmp_path: Path) -> None:
    old = load_config(write(tmp_path))
    new = load_config(write(tmp_path, psk=b"another key of 24 bytes!"))
    assert settings.changed(old, new) == [("cluster", "psk_file")]
    assert settings.reloadable(("cluster", "psk_file"))
    old.cluster.forget()
    assert old.cluster.psk == b""
    assert settings.changed(old, new) == [("cluster", "psk_file")]
    assert settings.changed(old, old) == []


@pytest.mark.parametrize(
    ("secret", "low", "high"),
    [
        (b"0" * 64, 0, 0),
        (b"abab" * 8, 0, 40),
        (b"0123456789abcdef", 64, 64),
        (b"20260101 20260102", 0, 79),
        (bytes.fromhex("8f14e45fceea167a5a36dedd4bea2543").hex().encode(), 100, 128),
        (bytes.fromhex("8f14e45fceea167a5a36dedd4bea2543"), 110, 128),
    ],
    ids=["zeros", "abab", "count", "date", "hex", "random"],
)
def test_strength(tmp_path: Path, secret: bytes, low: int, high: int) -> None:
    assert low <= keys.strength(secret) <= high
    notices = load_config(write(tmp_path, psk=secret)).notices()
    assert any("is weak" in x for x in notices) is (keys.strength(secret) < keys.WEAK_BITS)
    assert not any(secret.decode(errors="replace") in x for x in notices)
