"""``python -m hak2k.demo``: exits 0 only if nothing was lost."""

from __future__ import annotations

import argparse
import json
import sys

from hak2k.demo.screen import LiveScreen, PlainScreen
from hak2k.demo.show import Show
from hak2k.demo.story import Options, Story, make_groups
from hak2k.lab import PrivilegeError, ensure_privileges


def _connections(text: str) -> int:
    value = int(text)
    if not 10 <= value <= 2000:
        raise argparse.ArgumentTypeError("between 10 and 2000")
    return value


def main() -> int:
    """Run the demonstration; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hak2k.demo",
        description="Two firewalls; the active one dies; no connection is lost.",
    )
    parser.add_argument(
        "--connections", type=_connections, default=240, metavar="N", help="TCP connections (240)"
    )
    parser.add_argument("--fast", action="store_true", help="less time to look at things")
    parser.add_argument("--json", action="store_true", help="a report in JSON on standard output")
    arguments = parser.parse_args()
    try:
        ensure_privileges()
    except PrivilegeError as error:
        print(f"hak2k.demo: {error}", file=sys.stderr)
        return 2
    show = Show(make_groups(arguments.connections))
    screen: LiveScreen | PlainScreen
    if arguments.json:
        screen = PlainScreen(show, sys.stderr)
    elif sys.stdout.isatty():
        screen = LiveScreen(show)
    else:
        screen = PlainScreen(show)
    options = Options(arguments.connections, arguments.fast)
    with screen:
        Story(options, show, screen.told).run()
    if arguments.json:
        print(json.dumps(show.as_dict(), indent=2))
    return 0 if show.success else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
