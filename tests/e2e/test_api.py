"""docs/api.md, run as it stands; and the types of answers against real ones."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from hak2k import AsyncClient, RefusedError, answers
from tests.e2e.duo import Duo

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"^## ([^\n]+)\n|^```python\n(.*?)^```", TEXT, re.M | re.S)
SAID = {
    "Asking": ("is active, quality 100 %", "active"),
    "Errors": ("is it running?",),
    "A swap, for maintenance": ("now the work",),
    "While a ruleset is loaded": ("",),
    "Following events": ("role.",),
    "Configuration": ("FW-",),
}


def examples() -> list[tuple[str, str, str]]:
    """Chapter, program, what it prints."""
    found, chapter = [], ""
    left = {name: list(said) for name, said in SAID.items()}
    for title, program in EXAMPLES:
        chapter = title or chapter
        if program:
            found.append((chapter, program, left[chapter].pop(0)))
    assert not any(left.values())
    return found


@pytest.mark.parametrize(("chapter", "program", "said"), examples())
def test_example(duo: Duo, tmp_path: Path, chapter: str, program: str, said: str) -> None:
    active = duo.active
    instance = duo.lab.daemons[active]
    ruleset = tmp_path / "ruleset"
    ruleset.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", program, instance.config if "load_config" in program else ruleset],
        env={
            "HAK2K_SOCKET": str(instance.control_socket),
            "PATH": "/usr/sbin:/usr/bin",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert said in done.stdout
    duo.ready()


def has_type(value: object, kind: object, where: str) -> None:
    """`value` is what the annotation says; all keys of a TypedDict, and no other."""
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        assert isinstance(value, dict)
        assert value.keys() == hints.keys(), where
        for key, hint in hints.items():
            has_type(value[key], hint, f"{where}.{key}")
    elif typing.get_origin(kind) is list:
        assert isinstance(value, list)
        for one in value:
            has_type(one, typing.get_args(kind)[0], f"{where}[]")
    elif typing.get_origin(kind) is typing.Literal:
        assert value in typing.get_args(kind), where
    elif typing.get_origin(kind) is dict:
        assert isinstance(value, dict), where
    elif args := typing.get_args(kind):
        possible = [a for a in args if (a is type(None)) == (value is None)]
        assert len(possible) == 1, where
        if value is not None:
            has_type(value, possible[0], where)
    else:
        assert isinstance(value, (int, float) if kind is float else kind), (where, value)  # type: ignore[arg-type]


def test_answers_are_of_their_types(duo: Duo) -> None:
    async def ask(client: AsyncClient) -> None:
        has_type(await client.info(), answers.Info, "info")
        has_type(await client.verify(repair=False), answers.Verdict, "verify")
        for event in await client.events():
            hints = typing.get_type_hints(answers.Event)
            for key, hint in hints.items():
                has_type(event[key], hint, f"event.{key}")  # type: ignore[literal-required]
        assert (await client.why())["number"] == 1
        assert all(isinstance(n, int) for n in (await client.stats()).values())
        assert await client.reload() == []

    for fw in duo.lab.fw:
        asyncio.run(ask(AsyncClient(str(duo.lab.daemons[fw].control_socket))))


def test_each_method_does_what_it_says(duo: Duo) -> None:
    active, passive = duo.active, duo.passive
    here, there = (AsyncClient(str(duo.lab.daemons[fw].control_socket)) for fw in (active, passive))

    async def use() -> None:
        assert (await here.mode(), await there.mode()) == ("active", "passive")
        async with here.frozen(20) as seconds:
            assert seconds == 20
            assert (await here.info())["local"]["state"] == "frozen"
        assert await here.resume() is False
        with pytest.raises(RefusedError):
            await here.wait("passive", timeout_s=0.1)
        assert await there.active() == "active"
        assert await here.wait("passive", ready=True, timeout_s=20) == "passive"
        assert (await there.info())["local"]["forced"] == "active"
        assert await there.reset() == "active"
        assert await there.passive() == "passive"
        await there.reset()
        # Cancelled: it hangs up, and the daemon answers others.
        waiting = asyncio.ensure_future(here.wait("passive", timeout_s=60))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await here.mode() == "active"

    asyncio.run(use())
    duo.ready()
