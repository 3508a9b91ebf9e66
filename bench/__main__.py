"""``python -m bench [--quick] [NAME ...]``: measure, print tables, store JSON."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from types import ModuleType

from bench import report, scaling, tools
from hak2k.lab import PrivilegeError, ensure_privileges, privileged

NAMES = (
    "flip",
    "latency",
    "size",
    "cost",
    "alone",
    "saturate",
    "shards",
    "crash",
    "flood",
    "micro",
    "policy",
    "bulk",
    "memory",
    "idle",
    "python",
    "recon",
    "sweep",
    "faults",
    "handover",
    "liveness",
    "lease",
)

STORED = ("goals", "plots", "scaling")


def _long(module: ModuleType) -> bool:
    return bool(getattr(module, "LONG", False))


def _arguments(modules: dict[str, ModuleType]) -> argparse.Namespace:
    width = max(map(len, modules))
    names = "\n".join(
        f"  {name:{width}} {'*' if _long(module) else ' '} {module.TITLE}"
        for name, module in modules.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure hak2k on this machine's kernel. Needs root.",
        epilog=f"names (default: all but those marked *, which take long):\n{names}\n"
        "or, of what is in bench/out:\n"
        "  goals  what was measured beside what is aimed at\n"
        "  plots  pictures, SVG and PNG\n"
        "  scaling  what a larger firewall would need, from these costs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure")
    parser.add_argument("--quick", action="store_true", help="smaller: does it work at all?")
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a target is missed")
    parser.add_argument("--swaps", type=int, default=0, help="handover: how many")
    parser.add_argument("--rate", type=int, default=0, help="handover: packets a second")
    parser.add_argument("--rounds", type=int, default=0, help="of each that takes a median")
    parser.add_argument("--large", action="store_true", help="flip: with 4,000,000 entries as well")
    for name, (kind, text) in {
        "gbit": (float, "scaling: traffic, Gbit/s"),
        "mean": (float, "scaling: bytes of a connection"),
        "entries": (int, "scaling: connections in the table"),
    }.items():
        usual = getattr(scaling.Load(), name)
        parser.add_argument(
            f"--{name}", type=kind, default=usual, help=f"{text} (default {usual:,.0f})"
        )
    found = parser.parse_args()
    for name in found.names:
        if name not in (*modules, *STORED):
            parser.error(f"no measurement named {name!r}")
    told = set(found.names) & set(STORED)
    if told and told != set(found.names):
        what = ", ".join(sorted(told))
        parser.error(f"{what}: of what was measured before; give it alone")
    return found


def _stored(arguments: argparse.Namespace) -> int:
    """Tell, or draw, what is in bench/out."""
    contents, names = report.stored(), arguments.names
    if "scaling" in names:
        load = scaling.Load(arguments.gbit, arguments.mean, arguments.entries)
        for table in scaling.tables(scaling.loaded(contents), load):
            print(report.render(table), end="\n\n")
    if names == ["scaling"]:
        return 0
    if not contents:
        print("bench: nothing was measured yet: bench/out is empty", file=sys.stderr)
        return 1
    if "goals" in names:
        print(report.render(report.goals(contents)))
    if "plots" in names:
        _draw()
    return 0


def _draw() -> None:
    """Pictures of what is in bench/out, if there is something to draw them with."""
    try:
        from bench import plots
    except ImportError as error:
        print(f"bench: no pictures: {error} (`make bench` installs it)", file=sys.stderr)
        return
    for path in plots.draw({content["name"]: content for content in report.stored()}):
        print(path)


def main() -> int:
    modules = {name: importlib.import_module(f"bench.{name}") for name in NAMES}
    arguments = _arguments(modules)
    if set(arguments.names) & set(STORED):
        return _stored(arguments)
    try:
        ensure_privileges()
    except PrivilegeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    assert privileged()
    tools.build()
    options = report.Options(
        arguments.quick, arguments.swaps, arguments.rate, arguments.large, arguments.rounds
    )
    about = report.machine()
    print(report.heading(about), end="\n\n", flush=True)
    results = []
    failed = False
    usual = [name for name in NAMES if not _long(modules[name])]
    for name in arguments.names or usual:
        began = time.monotonic()
        try:
            result = modules[name].run(options)
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            print(f"{name}: FAILED: {type(error).__name__}: {error}\n", file=sys.stderr, flush=True)
            failed = True
            continue
        report.show(result)
        report.write(result, about, options, time.monotonic() - began)
        results.append(result)
    targets = report.verdicts(results)
    if targets.rows:
        print(report.render(targets), end="\n\n")
    _draw()
    missed = any(not t.met for result in results for t in result.targets)
    return 1 if failed or (missed and arguments.strict) else 0


if __name__ == "__main__":
    sys.exit(main())
