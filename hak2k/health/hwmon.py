"""Sensors of /sys/class/hwmon, for the kinds fan, power and temperature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hak2k.health import kind
from hak2k.health.kind import Option

CHIP: Final = Option("a sensor chip's name, as coretemp", r"[A-Za-z0-9_-]{1,48}")
INTERFACE: Final = Option("the name of an interface", r"(?!\.{1,2}$)[A-Za-z0-9._@+:-]{1,15}")


def chips(root: Path, name: str | None = None, interface: str | None = None) -> Iterator[Path]:
    """The folders of all chips, of those called `name`, or of a network card's.

    Names repeat (one coretemp for each socket); hwmonN is another one after each boot."""
    if interface is not None:
        device = root / "sys/class/net" / interface / "device"
        # Behind the card, or behind its PHY.
        folders = kind.entries(device / "hwmon")
        if not folders:
            folders = [h for h in _all(root) if _same(h / "device", device)]
    else:
        folders = _all(root)
    for folder in folders:
        if name is None or kind.read(folder / "name") == name:
            yield folder


def _all(root: Path) -> list[Path]:
    return kind.entries(root / "sys/class/hwmon")


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.resolve() == b.resolve()


def sensors(chip: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """(label, path up to the number) of each fanN, tempN ... of a chip."""
    for file in kind.entries(chip):
        stem, _, rest = file.name.partition("_")
        digits = stem.removeprefix(prefix)
        if rest == "input" and stem != digits and digits.isdecimal():
            label = kind.read(chip / f"{stem}_label") or stem
            yield f"{kind.read(chip / 'name') or chip.name} {label}", chip / stem


def value(sensor: Path, what: str) -> int | None:
    """tempN_crit ...; None: the chip has no such thing, or cannot say."""
    return kind.number(sensor.with_name(f"{sensor.name}_{what}"))
