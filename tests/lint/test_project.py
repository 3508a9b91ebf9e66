"""Code and documents say the same: names, counters, keys, commands, versions."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest

from hak2k import cli, config, events, settings
from hak2k._version import __version__
from hak2k.health.table import KINDS
from tests.lint import tree

ROOT = tree.ROOT
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PYPROJECT["project"]["scripts"]
PROGRAMS = sorted({"hak2kd", *(c.alias for c in cli.COMMANDS if c.alias), "hak2kctl"})


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version() -> None:
    assert PYPROJECT["project"]["version"] == __version__
    found = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert found is not None
    assert found[1] == __version__, "the newest section of CHANGELOG.md"


# --- programs ------------------------------------------------------------------


def test_all_programs_are_declared() -> None:
    assert set(SCRIPTS) == set(PROGRAMS)
    assert len(PROGRAMS) == 12


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_exists(program: str) -> None:
    module, function = SCRIPTS[program].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    installed = Path(sys.executable).with_name(program)
    assert installed.exists(), "make build"
    done = subprocess.run([installed, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert program in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "document",
    ["docs/operations.md", "contrib/completion/hak2kctl.bash", "contrib/completion/_hak2kctl"],
)
def test_program_is_documented(program: str, document: str) -> None:
    assert re.search(rf"\b{program}\b", read(document))


def plain(man: str) -> str:
    """A manual page's source without its macros' punctuation."""
    return re.sub(r"\\&|\\\(dq", "", man)


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda c: c.name)
def test_command_is_in_the_manual(command: cli.Command) -> None:
    man = plain(read("docs/man/hak2kctl.8"))
    found = re.search(rf"^\.It Cm {command.name}\b(.*)$", man, re.MULTILINE)
    assert found is not None
    entry = found[0] + man[found.end() :].split(".It Cm", 1)[0]
    if command.alias:
        assert f"Nm {command.alias}" in entry
    for argument in command.arguments:
        longest = max(argument.names, key=len).lstrip("-")
        shown = argument.options.get("metavar") or longest
        assert longest in entry or shown in entry or "Fl v" in entry, longest


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda c: c.name)
def test_command_is_completed(command: cli.Command) -> None:
    bash, zsh = read("contrib/completion/hak2kctl.bash"), read("contrib/completion/_hak2kctl")
    assert len(re.findall(rf"\b{command.name}\b", bash)) >= 2
    assert re.search(rf"['\"]{command.name}:", zsh)
    for argument in command.arguments:
        name = max(argument.names, key=len)
        if name.startswith("--"):
            assert name in bash
            assert name in zsh


@pytest.mark.parametrize("option", ["--config", "--check", "--log-format", "--version"])
def test_daemon_option_is_documented(option: str) -> None:
    assert f"Fl Fl {option[2:]}" in read("docs/man/hak2kd.8")
    assert option in read("contrib/completion/hak2kctl.bash")


# --- configuration ---------------------------------------------------------------


def keys() -> list[tuple[str, str]]:
    """(section, key) of everything that the configuration has."""
    out = []
    hints = typing.get_type_hints(settings.Config)
    for section in dataclasses.fields(settings.Config):
        kind = hints[section.name]
        kind = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
        if dataclasses.is_dataclass(kind):
            out += [(section.name, f.name) for f in dataclasses.fields(kind) if f.repr]
    out += [("health", key) for key in sorted({k for x in KINDS.values() for k in x.options})]
    return out


@pytest.mark.parametrize(("section", "key"), keys(), ids=lambda x: str(x))
def test_key_is_in_the_manual(section: str, key: str) -> None:
    man = read("docs/man/hak2k.toml.5")
    part = re.search(rf"^\.Ss \[+{section}\]+$(.*?)(?=^\.S[sh] )", man, re.MULTILINE | re.DOTALL)
    assert part is not None, f"section {section}"
    line = re.search(rf"^\.It Li {key}\b(.*)$", part[1], re.MULTILINE)
    assert line is not None
    live = any(re.fullmatch(rf"{section}(\[\*\])?\.{key}", x) for x in settings.RELOADABLE)
    assert ("live" in line[1]) == live, "marked live exactly if it can be reloaded"


@pytest.mark.parametrize("name", ["hak2k-a.toml", "hak2k-b.toml"])
def test_example_is_accepted(name: str, tmp_path: Path) -> None:
    psk = tmp_path / "psk"
    psk.touch(mode=0o600)
    psk.write_text("0" * 64)
    file = tmp_path / name
    file.write_text(read(f"contrib/{name}"))
    config.load_config(file)


def test_examples_mirror_each_other() -> None:
    """They differ in the lines that say so, and nowhere else."""
    a, b = (read(f"contrib/hak2k-{x}.toml").splitlines() for x in "ab")
    different = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    assert all("differs" in x and "differs" in y for x, y in different if not x.startswith("#"))
    first, second = (tomllib.loads("\n".join(x)) for x in (a, b))
    for one, other in zip(first["link"], second["link"], strict=True):
        assert (one["local"], one["peer"]) == (other["peer"], other["local"])


def examples(document: str) -> list[str]:
    """TOML in a document."""
    text = read(document)
    if document.endswith(".md"):
        return re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    return [x for x in re.findall(r"\.Bd.*?\n(.*?)\.Ed", text, re.DOTALL) if "[node]" in x]


@pytest.mark.parametrize("document", ["README.md", "docs/man/hak2k.toml.5"])
def test_example_in_a_document_is_accepted(document: str, tmp_path: Path) -> None:
    psk = tmp_path / "psk"
    psk.touch(mode=0o600)
    psk.write_text("0" * 64)
    found = examples(document)
    assert found
    for i, text in enumerate(found):
        file = tmp_path / f"{i}.toml"
        file.write_text(text)
        config.load_config(file)


# --- counters, events, wire -------------------------------------------------------

COUNTERS = re.findall(r'^\s*X\(\w+, "([^"]+)"\)', read("csrc/hak_stat.h"), re.MULTILINE)
RECORDS = re.findall(r"^\s*HAK_REC_(\w+) = \d+", read("csrc/hak_wire.h"), re.MULTILINE)


def test_counters_are_found() -> None:
    assert len(COUNTERS) > 40
    assert sum(name.startswith("drop.") for name in COUNTERS) > 10


@pytest.mark.parametrize("counter", COUNTERS)
def test_counter_is_documented(counter: str) -> None:
    assert f"| `{counter}` |" in read("docs/operations.md")


def test_no_counter_is_documented_that_is_not_there() -> None:
    rows = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", read("docs/operations.md"), re.MULTILINE)
    counters = [x for x in rows if x.split(".")[0] not in ("net", "stream")] + [
        x for x in rows if x.startswith("stream.") and x != "stream.lag_ms"
    ]
    assert set(counters) <= set(COUNTERS)


@pytest.mark.parametrize("counter", [c for c in COUNTERS if c.startswith("drop.")])
def test_refusal_is_part_of_the_format(counter: str) -> None:
    """Each reason to refuse a datagram or record is in the normative text."""
    text = "".join(tree.text(p) for p in (ROOT / "docs").glob("wire*.md"))
    assert f"`{counter}`" in text


@pytest.mark.parametrize("record", RECORDS)
def test_record_is_part_of_the_format(record: str) -> None:
    text = "".join(tree.text(p) for p in (ROOT / "docs").glob("wire*.md"))
    assert re.search(rf"\b{record}\b", text)


def test_events_are_documented() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_every_event_that_is_emitted_is_in_the_catalogue() -> None:
    used = set()
    for path in tree.under("hak2k", ".py"):
        used |= set(re.findall(r"\.emit\(\s*\"([a-z.]+)\"", tree.text(path)))
        used |= set(re.findall(r"\b_news\(\s*\"([a-z.]+)\"", tree.text(path)))
        used |= set(re.findall(r"\bLog\(\s*\"([a-z.]+)\"", tree.text(path)))
    assert used
    assert used <= set(events.CATALOG)


# --- the tree ------------------------------------------------------------------

TARGETS = re.findall(r"^([a-z]+):.*## ", read("Makefile"), re.MULTILINE)


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "help"])
def test_make_target_is_in_the_readme(target: str) -> None:
    assert f"| `make {target}` |" in read("README.md")


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", ROOT, "help"],
        capture_output=True,
        text=True,
        check=True,
    )
    listed = re.findall(r"^  ([a-z]+) +\S", done.stdout, re.MULTILINE)
    assert set(TARGETS) <= set(listed)


INTERNAL = {"HAK2K_LAB_REEXEC"}  # set by the program for itself


def test_environment_variables_are_in_the_readme() -> None:
    code = [p for p in tree.files() if p.suffix in {".py", ".c", ".h", ".pyx"}]
    used = set()
    for path in code:
        if path.stem in ("journal", "test_journal", "generate"):
            continue  # names of fields there
        used |= set(re.findall(r"\bHAK2K_[A-Z_]+\b", tree.text(path)))
    missing = {x for x in used - INTERNAL if f"| `{x}` |" not in read("README.md")}
    assert not missing


def test_dependencies_have_their_reasons() -> None:
    text = read("docs/dependencies.md")
    groups = PYPROJECT["dependency-groups"]
    names = [re.split(r"[<>=!~ ]", x)[0] for x in PYPROJECT["project"]["dependencies"]]
    names += [re.split(r"[<>=!~ ]", x)[0] for group in groups.values() for x in group]
    for line in re.findall(r"^APT_[A-Z]+ :=(.*)$", read("Makefile"), re.MULTILINE):
        names += [x for x in line.split() if not x.startswith("$")]
    missing = {x for x in names if not re.search(rf"\b{re.escape(x)}\b", text)}
    assert not missing


@pytest.mark.parametrize(
    "path", [p for p in tree.files() if p.suffix == ".md"], ids=lambda p: tree.name(p)
)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", tree.text(path))
    dead = [x for x in links if "://" not in x and not (path.parent / x).exists()]
    assert not dead


def test_folders_of_tests_are_in_the_guide() -> None:
    """Each folder below tests/ with files in it stands in docs/testing.md."""
    folders = {
        p.relative_to(ROOT / "tests").parts[0]
        for p in tree.under("tests")
        if p.parent != ROOT / "tests"
    }
    guide = read("docs/testing.md")
    assert {f for f in folders if f"`tests/{f}`" not in guide} == set()


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda c: c.name)
def test_bash_offers_every_option(command: cli.Command) -> None:
    script = f"""
        source contrib/completion/hak2kctl.bash
        COMP_WORDS=(hak2kctl {command.name} --) COMP_CWORD=2
        _hak2k
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script], cwd=tree.ROOT, capture_output=True, text=True, check=True
    )
    named = [name for argument in command.arguments for name in argument.names]
    wanted = {"--socket", "--json", "--help"} | {n for n in named if n.startswith("--")}
    assert wanted <= set(done.stdout.split())
