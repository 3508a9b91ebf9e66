"""tpm: the chip is there and answers: a register is read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hak2k.health import kind
from hak2k.health.kind import Context, Kind, Option, Sample


def sample(options: Mapping[str, Any], context: Context) -> Sample:
    name = options.get("device") or "tpm0"
    chip = context.root / "sys/class/tpm" / name
    if not chip.exists():
        return kind.absent(f"no {name}")
    # TPM 2.0, kernel 5.12 and later: one folder for each bank; TPM 1.2: one file.
    banks = [b / "0" for b in kind.entries(chip) if b.name.startswith("pcr-")]
    asked = next(iter(banks), None) or chip / "device/pcrs"
    if not asked.exists():
        return kind.good(f"{name} is there")
    try:
        answer = asked.read_text()
    except OSError as e:
        return kind.bad(f"{name} does not answer: {e.strerror}")
    return kind.good(f"{name} answers") if answer.strip() else kind.bad(f"{name}: empty answer")


KIND: Final = Kind(
    "tpm",
    sample,
    {"device": Option("the name of a TPM, as tpm0", r"tpm[0-9]{1,3}")},
    interval_s=60.0,
    timeout_s=10.0,
)
