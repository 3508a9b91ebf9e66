"""hak2kctl and the `ha...` commands: one table, two spellings.

    hak2kctl info -v        hainfo -v

Every command takes --socket PATH and --json.  Exit codes: 0 done, 1 refused or
failed (the reason on standard error), 2 usage, 3 daemon not reachable.

These run in scripts and at prompts, so start-up counts: this module imports
argparse, json and socket, and nothing else that is large.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from hak2k._version import __version__
from hak2k.client import Client, default_socket
from hak2k.errors import HakError, UnreachableError

_Arguments = argparse.Namespace
_SWAP_TIMEOUT_S: Final = 10.0
_WAIT_TIMEOUT_S: Final = 30.0
_VERIFY_TIMEOUT_S: Final = 120.0
_GRACE_S: Final = 5.0  # for the daemon to answer beyond the time-out it was given
_RETRY_S: Final = 0.1


def _client(args: _Arguments, timeout_s: float = 30.0) -> Client:
    return Client(args.socket, timeout_s)


def _show(args: _Arguments, result: Any, lines: Callable[[], Sequence[str]]) -> int:
    if args.json:
        print(json.dumps(result))
    else:
        for line in lines():
            print(line)
    return 0


def _info(args: _Arguments) -> int:
    from hak2k.present import info_lines

    with _client(args) as client:
        result = client.call("info")
    return _show(args, result, lambda: info_lines(result, args.verbose))


def _mode(args: _Arguments) -> int:
    with _client(args) as client:
        result = client.call("mode")
    return _show(args, result, lambda: [result["mode"]])


def _force(args: _Arguments) -> int:
    with _client(args, args.timeout + _GRACE_S) as client:
        result = client.call(
            args.command, timeout=args.timeout, force=getattr(args, "force", False)
        )
    forced = result["forced"]
    said = "not forced" if forced == "no" else f"forced {forced}"
    return _show(args, result, lambda: [f"{result['mode']}, {said}"])


def _stats(args: _Arguments) -> int:
    from hak2k.present import stats_lines

    with _client(args) as client:
        result = client.call("stats")
    return _show(args, result, lambda: stats_lines(result))


def _wait(args: _Arguments) -> int:
    """The daemon may just be starting: keep trying to reach it in the time given."""
    import time

    if args.mode is None and not args.ready:
        print("hak2kctl wait: --mode or --ready is needed", file=sys.stderr)
        return 2
    end = time.monotonic() + args.timeout
    while True:
        left = max(0.0, end - time.monotonic())
        try:
            with _client(args, left + _GRACE_S) as client:
                result = client.call("wait", mode=args.mode, ready=args.ready, timeout=left)
            break
        except UnreachableError:
            if time.monotonic() + _RETRY_S >= end:
                raise
        time.sleep(_RETRY_S)
    return _show(args, result, lambda: [result["mode"]])


def _events(args: _Arguments) -> int:
    from hak2k.present import event_line

    def show(event: dict[str, Any]) -> None:
        print(json.dumps(event) if args.json else event_line(event), flush=True)

    with _client(args) as client:
        source = client.follow("events") if args.follow else client.call("events")
        for event in source:
            show(event)
    return 0


def _reload(args: _Arguments) -> int:
    with _client(args) as client:
        result = client.call("reload")
        info = client.call("info")
    local, peer = info["local"], info["peer"]
    led = local["supervisor"] or (peer is not None and peer["supervisor"])
    answer = f"Supervisor ? {'OK' if led else 'None'} || Local fw ? {local['state'].capitalize()}"
    return _show(args, result, lambda: [answer])


def _verify(args: _Arguments) -> int:
    with _client(args, args.timeout + _GRACE_S) as client:
        result = client.call("verify", no_repair=args.no_repair, timeout=args.timeout)
    from hak2k.present import verify_lines

    return _show(args, result, lambda: verify_lines(result))


def _freeze(args: _Arguments) -> int:
    """With a command: frozen while it runs, whatever becomes of it.  A ruleset must be
    loaded even if there is no daemon that could be told."""
    import subprocess

    command: list[str] = args.program
    try:
        with _client(args) as client:
            result = client.call("freeze", **{"for": args.seconds})
    except UnreachableError as e:
        if not command:
            raise
        print(f"hak2kctl: {e}; running {command[0]} all the same", file=sys.stderr)
        result = None
    if not command:
        lines = lambda: [f"frozen for {result['seconds']:g} s; hak2kctl resume ends it"]  # noqa: E731
        return _show(args, result, lines)
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as e:
        print(f"hak2kctl: {command[0]}: {e.strerror}", file=sys.stderr)
        code = 127
    finally:
        if result is not None:
            try:
                with _client(args) as client:
                    client.call("resume")
            except HakError as e:
                print(f"hak2kctl: {e}; the freeze ends by itself", file=sys.stderr)
    # As a shell tells of a signal.
    return code if code >= 0 else 128 - code


def _resume(args: _Arguments) -> int:
    with _client(args) as client:
        result = client.call("resume")
    said = "no longer frozen" if result["was_frozen"] else "was not frozen"
    return _show(args, result, lambda: [said])


def _why(args: _Arguments) -> int:
    from hak2k.present import wrapped

    with _client(args) as client:
        result = client.call("why", number=args.number)
    return _show(args, result, lambda: wrapped(result["text"]))


def _plain(args: _Arguments) -> int:
    """Commands whose answer has no layout of its own yet."""
    known = ("command", "socket", "json", "run")
    extra = {k: v for k, v in vars(args).items() if k not in known and v is not None}
    with _client(args) as client:
        result = client.call(args.command, **extra)
    return _show(args, result, lambda: [json.dumps(result)])


# --- the table ---------------------------------------------------------------


class _Argument(NamedTuple):
    names: tuple[str, ...]
    options: dict[str, Any]


def _arg(*names: str, **options: Any) -> _Argument:
    return _Argument(names, options)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError("must be 0 to 86400")
    return value


def _timeout(default: float) -> _Argument:
    return _arg(
        "--timeout",
        type=_seconds,
        default=default,
        metavar="S",
        help=f"seconds to wait for it, default {default:g}",
    )


_VERBOSE: Final = _arg("-v", "--verbose", action="store_true", help="more fields")


class Command(NamedTuple):
    name: str
    alias: str | None
    """The program of its own, if it has one."""
    help: str
    run: Callable[[_Arguments], int]
    arguments: tuple[_Argument, ...] = ()


COMMANDS: Final[tuple[Command, ...]] = (
    Command("info", "hainfo", "both nodes side by side", _info, (_VERBOSE,)),
    Command("mode", "hamode", "print this node's mode", _mode),
    Command(
        "active",
        "haactive",
        "force this node active; returns when the swap is complete",
        _force,
        (_timeout(_SWAP_TIMEOUT_S),),
    ),
    Command(
        "passive",
        "hapassive",
        "force this node passive; returns when the swap is complete",
        _force,
        (
            _timeout(_SWAP_TIMEOUT_S),
            _arg(
                "--force",
                action="store_true",
                help="even if no peer takes over: all traffic stops",
            ),
        ),
    ),
    Command(
        "reset",
        "hareset",
        "lift a forced state; returns when a swap that follows is complete",
        _force,
        (_timeout(_SWAP_TIMEOUT_S),),
    ),
    Command("sync", "hasync", "synchronise configuration files", _plain, (_VERBOSE,)),
    Command(
        "diff",
        "hadiff",
        "compare a configuration file with the peer's",
        _plain,
        (_arg("path", nargs="?", metavar="PATH"),),
    ),
    Command("synctest", "hasynctest", "list files that differ", _plain),
    Command("reload", "enha", "re-read the HA configuration", _reload),
    Command(
        "freeze",
        None,
        "pause balancing while a ruleset is reloaded",
        _freeze,
        (
            _arg("--for", type=_seconds, dest="seconds", metavar="S", help="at most so long"),
            _arg(
                "program",
                nargs="*",
                metavar="PROGRAM",
                help="after --: run it, and end the freeze when it ends",
            ),
        ),
    ),
    Command("resume", None, "end a freeze", _resume),
    Command(
        "verify",
        None,
        "compare both kernels' tables, and repair the difference",
        _verify,
        (
            _arg("--no-repair", action="store_true", help="only compare"),
            _timeout(_VERIFY_TIMEOUT_S),
        ),
    ),
    Command("stats", None, "all counters", _stats),
    Command(
        "events",
        None,
        "the event log, newest last",
        _events,
        (_arg("--follow", "-f", action="store_true", help="go on as they come"),),
    ),
    Command(
        "why",
        "hawhy",
        "explain the N-th last role change",
        _why,
        (_arg("number", nargs="?", type=int, metavar="N"),),
    ),
    Command(
        "wait",
        None,
        "block until this node is in a mode",
        _wait,
        (
            _arg("--mode", choices=("active", "passive", "starting", "fault")),
            _arg("--ready", action="store_true", help="and its table is complete"),
            _timeout(_WAIT_TIMEOUT_S),
        ),
    ),
)


def _common(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: what was said before the command must not be undone behind it.
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="control socket; default: HAK2K_SOCKET, or /run/hak2k/control.sock",
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="answer in JSON"
    )


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    _common(parser)
    for argument in command.arguments:
        parser.add_argument(*argument.names, **argument.options)
    parser.set_defaults(command=command.name, run=command.run)


def parser_for(program: str) -> argparse.ArgumentParser:
    """The parser of hak2kctl or of one of the aliases."""
    for command in COMMANDS:
        if command.alias == program:
            parser = argparse.ArgumentParser(prog=program, description=command.help)
            _fill(parser, command)
            return parser
    parser = argparse.ArgumentParser(prog=program, description="Control a running hak2kd.")
    parser.add_argument("--version", action="version", version=f"hak2k {__version__}")
    _common(parser)
    sub = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        text = command.help + (f" ({command.alias})" if command.alias else "")
        _fill(sub.add_parser(command.name, help=text, description=text), command)
    return parser


def run(program: str, argv: Sequence[str] | None = None) -> int:
    """Run `program` with arguments (None: those of the process); the exit code."""
    args = parser_for(program).parse_args(argv)
    args.socket = getattr(args, "socket", None) or default_socket()
    args.json = getattr(args, "json", False)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except HakError as e:
        print(f"{program}: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # `hainfo | head -1`: nobody reads on.  Keep Python from complaining at
        # its end that it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


# --- entry points ------------------------------------------------------------


def hak2kctl_main(argv: Sequence[str] | None = None) -> int:
    return run("hak2kctl", argv)


def hainfo_main(argv: Sequence[str] | None = None) -> int:
    return run("hainfo", argv)


def hamode_main(argv: Sequence[str] | None = None) -> int:
    return run("hamode", argv)


def haactive_main(argv: Sequence[str] | None = None) -> int:
    return run("haactive", argv)


def hapassive_main(argv: Sequence[str] | None = None) -> int:
    return run("hapassive", argv)


def hareset_main(argv: Sequence[str] | None = None) -> int:
    return run("hareset", argv)


def hasync_main(argv: Sequence[str] | None = None) -> int:
    return run("hasync", argv)


def hadiff_main(argv: Sequence[str] | None = None) -> int:
    return run("hadiff", argv)


def hasynctest_main(argv: Sequence[str] | None = None) -> int:
    return run("hasynctest", argv)


def enha_main(argv: Sequence[str] | None = None) -> int:
    return run("enha", argv)


def hawhy_main(argv: Sequence[str] | None = None) -> int:
    return run("hawhy", argv)
