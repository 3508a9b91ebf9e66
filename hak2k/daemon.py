"""hak2kd: the process around a node.

Order at start, and why:
 1. configuration                    exit 2 before anything was touched
 2. capabilities, libnftables        one clear line instead of EPERM from somewhere;
                                    what is not needed is dropped for good
 3. lock on the control socket       before the gate: a second daemon must not
 4. UDP port free                    close the gate of the first one
 5. interfaces and HA addresses      what the configuration promised
 6. sysctls, gate (closed)           nothing may leak before the first decision
 7. engine, network watcher, control socket, signals, READY=1

At the end an active node hands over first.  The gate stays closed if the peer took
over, and open if there is no peer: then this machine goes on forwarding without a
daemon.  The tables stay in any case; see hak2k.gate.

Exit codes: 0 orderly end, 1 cannot run (one line on standard error says why),
2 configuration or usage.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from hak2k import gate, ports, privileges
from hak2k._version import __version__
from hak2k.config import load_config
from hak2k.control import Lock, Server
from hak2k.engine import Engine, make_lease, make_probe
from hak2k.errors import ConfigError, HakError, KernelError
from hak2k.events import EventLog
from hak2k.journal import sink
from hak2k.netwatch import NetWatch, Snapshot, look
from hak2k.node import Node
from hak2k.service import Service

if TYPE_CHECKING:
    from hak2k._core import Lease, Probe
from hak2k.settings import Config

SYSCTLS: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "net/netfilter/nf_conntrack_events",
        "1",
        "an entry made while this is 0 never reports anything",
    ),
)
"""What hak2k needs of the kernel: name under /proc/sys, value, why."""


def check_port(config: Config) -> None:
    """Raises KernelError if another process has the stream's port, or a link's
    address is not on this machine."""
    for i, link in enumerate(config.link):
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            probe.bind((link.local, config.stream.port))
        except OSError as e:
            port = config.stream.port
            raise KernelError(
                f"{config.where('link', i, 'local')}: UDP port {port} on {link.local} "
                f"cannot be used, {e.strerror}; is another hak2kd running here?"
            ) from e
        finally:
            probe.close()


def check_interfaces(config: Config, snapshot: Snapshot) -> None:
    """Raises KernelError naming what the configuration has and the kernel has not."""
    wrong = []
    for i, link in enumerate(config.link):
        if link.interface not in snapshot.links:
            where = config.where("link", i, "interface")
            wrong.append(f"{where}: interface {link.interface} does not exist; make it")
            continue
        address = ipaddress.ip_address(link.local).packed
        if not snapshot.has_address(link.interface, address):
            where = config.where("link", i, "local")
            wrong.append(
                f"{where}: {link.local} is not an address of {link.interface}; "
                f"ip address add {link.local}/30 dev {link.interface}"
            )
    for i, interface in enumerate(config.interface):
        if interface.name not in snapshot.links:
            where = config.where("interface", i, "name")
            wrong.append(f"{where}: interface {interface.name} does not exist; make it")
    if wrong:
        raise KernelError("\n".join(wrong))


def sysctls(config: Config) -> list[tuple[str, str, str]]:
    """SYSCTLS, and what this configuration needs beside them."""
    why = "removing an address would take others of its network along"
    names = dict.fromkeys(name for name, _ in config.moving)
    more = [(f"net/ipv4/conf/{name}/promote_secondaries", "1", why) for name in names]
    return [*SYSCTLS, *more]


def set_sysctls(
    log: EventLog,
    wanted: Iterable[tuple[str, str, str]] = SYSCTLS,
    root: Path = Path("/proc/sys"),
) -> None:
    """Set what hak2k needs; each change, and each failure, is logged."""
    for name, value, why in wanted:
        path, dotted = root / name, name.replace("/", ".")
        try:
            before = path.read_text().strip()
            if before == value:
                continue
            path.write_text(value)
        except OSError as e:
            text = f"{dotted} must be {value}: {why} ({e.strerror})"
            log.emit("sysctl.failed", text, name=dotted, value=value)
        else:
            text = f"{dotted} set from {before} to {value}: {why}"
            log.emit("sysctl.set", text, name=dotted, value=value, before=before)


def notify(message: str) -> None:
    """Tell systemd; nothing happens without it (sd_notify(3))."""
    target = os.environ.get("NOTIFY_SOCKET", "")
    if not target:
        return
    address = "\0" + target[1:] if target.startswith("@") else target
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.connect(address)
            s.sendall(message.encode())
    except OSError:
        pass  # systemd notices by itself that it hears nothing


def take_lease(config: Config, log: EventLog) -> Lease | None:
    """The lease, if it is wanted and possible."""
    if not config.liveness.lease:
        return None
    try:
        return make_lease()
    except HakError as e:
        text = f"{e}; a hung active node is not fenced"
        log.emit("lease.unavailable", f"{config.where('liveness', 'lease')}: {text}")
        return None


def take_probe(config: Config, log: EventLog) -> Probe | None:
    """The probe, if it is wanted and possible.  Raises KernelError if it is demanded."""
    if config.stream.capture == "netlink" or config.stream.events == "all":
        return None
    try:
        return make_probe()
    except HakError as e:
        where = config.where("stream", "capture")
        if config.stream.capture == "probe":
            raise KernelError(f'{where}: {e}; use capture = "auto"') from e
        log.emit("probe.unavailable", f"{where}: {e}; events come by netlink")
        return None


async def _serve(
    config: Config,
    log: EventLog,
    snapshot: Snapshot,
    lease: Lease | None = None,
    probe: Probe | None = None,
) -> None:
    loop = asyncio.get_running_loop()

    def unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        _debug(error if isinstance(error, BaseException) else None)
        what = f"{context.get('message')}: {error!r}" if error else context["message"]
        log.emit("daemon.error", str(what))

    loop.set_exception_handler(unexpected)
    engine = Engine(config, lease=lease, probe=probe)
    config.cluster.forget()
    node = Node(config, engine, log, snapshot)

    def seen(new: Snapshot) -> None:
        loop.call_soon_threadsafe(node.on_snapshot, new)

    def rules() -> None:
        loop.call_soon_threadsafe(node.on_rules)

    watch = NetWatch(
        [*(i.name for i in config.interface), *(link.interface for link in config.link)],
        seen,
        snapshot,
        rules=rules,
    )
    server = Server(
        config.control.socket,
        Service(node).handlers(),
        lambda e: unexpected(loop, {"message": "command", "exception": e}),
        config.control.group,
    )
    try:
        node.start()
        await server.start()
        watch.start()
        # Signals last: before this, their default is right.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.stop)
        loop.add_signal_handler(signal.SIGHUP, _reload, node)
        log.emit(
            "daemon.start",
            f"hak2kd {__version__} runs as {config.node.serial}",
            version=__version__,
            serial=config.node.serial,
            config=str(config.path),
        )
        for text in config.notices():
            log.emit("config.warning", text)
        notify("READY=1")
        assert node.finished is not None
        gate_open = await node.finished
        notify("STOPPING=1")
        engine.bye()
        text = "the gate is closed"
        if gate_open:
            text = "without a peer the gate stays open: this machine goes on forwarding"
        log.emit("daemon.stop", text, gate_open=gate_open)
    finally:
        watch.stop()
        await server.stop()
        node.close()


def _reload(node: Node) -> None:
    try:
        node.reload()
    except HakError:
        pass  # the event log has it


def snapshot_names(config: Config) -> list[str]:
    """The interfaces to watch."""
    data = [i.name for i in config.interface]
    return data + [link.interface for link in config.link]


def run(config: Config, log_format: str) -> None:
    """Run until told to stop.  Raises HakError if that cannot be done."""
    log = EventLog(sink=sink(log_format), level=config.log.level)
    privileges.no_dumps()  # there are keys in memory
    privileges.check()
    if config.control.group is not None:
        privileges.join(config.control.group)
    # These need more privileges than anything after them.
    lease, probe = take_lease(config, log), take_probe(config, log)
    privileges.drop()
    privileges.lock_memory()
    gate.check_library()
    lock = Lock(config.control.socket)
    lock.take()
    try:
        snapshot = look(snapshot_names(config))
        check_interfaces(config, snapshot)
        check_port(config)
        # The sysctls of conntrack exist once a rule has called for it.
        gate.build(gate.GateSpec.of(config, probe=probe is not None))
        set_sysctls(log, sysctls(config))
        asyncio.run(_serve(config, log, snapshot, lease, probe))
    finally:
        lock.release()


def release(config: Config) -> None:
    """Leave the network to the peer, for a daemon that died: gate closed, no address
    that moves.  Raises HakError, also if a daemon runs."""
    privileges.check()
    gate.check_library()
    lock = Lock(config.control.socket)
    lock.take()
    try:
        there = look([i.name for i in config.interface]).links
        spec = gate.GateSpec.of(config)
        gate.build(replace(spec, interfaces=tuple(n for n in spec.interfaces if n in there)))
        ports.release(config.moving)
    finally:
        lock.release()


def _debug(error: BaseException | None) -> None:
    """Tracebacks are for developers: HAK2K_DEBUG=1."""
    if error is not None and os.environ.get("HAK2K_DEBUG"):
        traceback.print_exception(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hak2kd", description="Stateful high availability for a pair of firewalls."
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="TOML file")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument(
        "--release",
        action="store_true",
        help="of a daemon that died: close the gate, remove addresses that move, and end",
    )
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="default: text"
    )
    parser.add_argument("--version", action="version", version=f"hak2kd {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    args = _parser().parse_args(argv)
    try:
        config = load_config(args.config)
        if args.check:
            print("OK")
            return 0
        if args.release:
            release(config)
            return 0
        run(config, args.log_format)
    except ConfigError as e:
        # FILE:LINE: key: problem, with nothing in front: editors jump to it.
        print(e, file=sys.stderr)
        return e.exit_code
    except HakError as e:
        _debug(e)
        for line in str(e).splitlines():
            print(f"hak2kd: {line}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 1
    except Exception as e:
        _debug(e)
        print(f"hak2kd: internal error: {e!r}; please report it", file=sys.stderr)
        return 1
    return 0


def _entry() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _entry()
