"""The two ``hak2kd`` of a lab: files, processes, commands, logs."""

from __future__ import annotations

import errno
import json as jsonlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from hak2k.lab.config import (
    Settings,
    default_settings,
    merged,
    new_psk,
    to_toml,
    write_private,
)
from hak2k.lab.node import CommandFailed, Node
from hak2k.lab.poll import Timeout, until


@dataclass
class Instance:
    """The daemon of one firewall, running or not.

    Attributes:
        node: the firewall.
        directory: holds its configuration, key, control socket and log.
    """

    node: Node
    directory: Path
    process: subprocess.Popen[Any] | None = None
    started: int = 0
    _log: IO[bytes] | None = field(default=None, repr=False)

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "hak2k.toml"

    @property
    def control_socket(self) -> Path:
        """Where the daemon listens for commands."""
        return self.directory / "control.sock"

    @property
    def log(self) -> Path:
        """Everything that the daemon wrote, over all its starts."""
        return self.directory / "hak2kd.log"

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self.process is not None and self.process.poll() is None

    def log_tail(self, lines: int = 40) -> str:
        """The last ``lines`` of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


class Daemons:
    """Starts, stops, asks and hurts the daemons of two firewalls.

    Args:
        firewalls: the two nodes.
        directory: where their files go, one folder each.
        bindir: where ``hak2kd`` and ``hak2kctl`` are; by default beside the
            running interpreter.

    Attributes:
        common: sections to merge into both default configurations.
    """

    def __init__(
        self, firewalls: tuple[Node, Node], directory: Path, bindir: Path | None = None
    ) -> None:
        # Not resolved: in a virtual environment the interpreter is a symbolic link.
        self.bindir = bindir or Path(sys.executable).parent
        self._psk = new_psk()
        self.common: Mapping[str, Any] = {}
        self._instances: dict[str, Instance] = {}
        for node in firewalls:
            own = directory / node.name
            own.mkdir(mode=0o700)
            self._instances[node.name] = Instance(node, own)

    def __getitem__(self, firewall: Node | str) -> Instance:
        name = firewall if isinstance(firewall, str) else firewall.name
        return self._instances[name]

    def close(self) -> None:
        """Kill what runs."""
        for instance in self._instances.values():
            self.kill(instance.node)

    # -- files -----------------------------------------------------------------

    def settings(self, firewall: Node | str, overrides: Mapping[str, Any]) -> Settings:
        """What ``write_config`` would write."""
        instance = self[firewall]
        base = default_settings(instance.node.name, instance.control_socket)
        return merged(merged(base, self.common), overrides)

    def write_config(
        self, firewall: Node | str, *, extra: str = "", psk: str | None = None, **overrides: Any
    ) -> Path:
        """Write a firewall's configuration and key; return the file.

        Args:
            extra: text appended as it is, for what must be refused.
            psk: another key than the pair's common one.
            **overrides: sections to merge: ``stream={"port": 5}``; ``None``
                removes a key or a section, a list replaces one.
        """
        instance = self[firewall]
        write_private(instance.directory / "psk", (psk or self._psk) + "\n")
        instance.config.write_text(to_toml(self.settings(firewall, overrides)) + extra)
        return instance.config

    # -- processes -------------------------------------------------------------

    def start(
        self,
        firewall: Node | str,
        *arguments: str,
        wait: bool = True,
        timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
    ) -> Instance:
        """Start a daemon; write its default configuration if it has none.

        Args:
            *arguments: more options for ``hak2kd``.
            wait: return only when it answers on its control socket.
            timeout: seconds to wait.
            env: variables to add to its environment.

        Raises:
            RuntimeError: it runs already.
            Timeout: it does not answer, or it ended; with its log.
        """
        instance = self[firewall]
        if instance.running:
            raise RuntimeError(f"the daemon of {instance.node.name} runs already")
        if not instance.config.exists():
            self.write_config(firewall)
        # What a killed daemon left there would look like an answer.
        instance.control_socket.unlink(missing_ok=True)
        with open(instance.log, "ab") as log:
            instance.process = instance.node.popen(
                self.bindir / "hak2kd",
                "--config",
                instance.config,
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            )
        instance.started += 1
        if wait:
            self.wait_answering(firewall, timeout)
        return instance

    def wait_answering(self, firewall: Node | str, timeout: float = 10.0) -> None:
        """Wait until a daemon accepts connections on its control socket.

        Raises:
            Timeout: it does not, or it ended.
        """
        instance = self[firewall]

        def answers() -> bool:
            if not instance.running:
                status = instance.process.returncode if instance.process else None
                raise Timeout(
                    f"hak2kd of {instance.node.name} ended with status {status}\n"
                    f"{instance.log_tail()}"
                )
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                code = probe.connect_ex(str(instance.control_socket))
            # Another socket type would refuse a stream, but only if it is there.
            return code in (0, errno.EPROTOTYPE)

        until(
            answers,
            timeout,
            f"hak2kd of {instance.node.name} answers on its control socket",
            detail=instance.log_tail,
        )

    def stop(self, firewall: Node | str, timeout: float = 10.0) -> int | None:
        """Stop a daemon in good order (SIGTERM); return its exit status.

        Raises:
            Timeout: it still runs after ``timeout`` seconds; it is then killed.
        """
        instance = self[firewall]
        if instance.process is None:
            return None
        if instance.running:
            instance.process.terminate()
            try:
                instance.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill(firewall)
                raise Timeout(
                    f"hak2kd of {instance.node.name} ignored SIGTERM for {timeout:g} s\n"
                    f"{instance.log_tail()}"
                ) from None
        return instance.process.returncode

    def signal(self, firewall: Node | str, number: int) -> None:
        """Send a signal to a daemon that runs."""
        process = self[firewall].process
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def kill(self, firewall: Node | str) -> None:
        """Kill a daemon (SIGKILL) and wait until it is gone."""
        process = self[firewall].process
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()

    def hang(self, firewall: Node | str) -> None:
        """Stop a daemon dead (SIGSTOP), as if it hung."""
        self.signal(firewall, signal.SIGSTOP)

    def unhang(self, firewall: Node | str) -> None:
        """Let a hung daemon go on (SIGCONT)."""
        self.signal(firewall, signal.SIGCONT)

    # -- commands --------------------------------------------------------------

    def command(
        self, firewall: Node | str, *arguments: str, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``hak2kctl`` against a daemon, whatever its exit status."""
        instance = self[firewall]
        return instance.node.run(
            self.bindir / "hak2kctl",
            *arguments,
            check=False,
            timeout=timeout,
            env={"HAK2K_SOCKET": str(instance.control_socket)},
        )

    def ctl(
        self, firewall: Node | str, *arguments: str, json: bool = True, timeout: float = 30.0
    ) -> Any:
        """Run a ``hak2kctl`` command and return what it says.

        Args:
            json: ask for JSON and decode it (``events``: a list of objects);
                otherwise the text is returned.
            timeout: seconds.

        Raises:
            CommandFailed: exit status other than 0.
        """
        options = ["--json"] if json else []
        done = self.command(firewall, *arguments, *options, timeout=timeout)
        if done.returncode != 0:
            instance = self[firewall]
            raise CommandFailed(
                f"hak2kctl {' '.join(arguments)} on {instance.node.name} exited with "
                f"{done.returncode}\n{done.stdout}{done.stderr}\n{instance.log_tail()}"
            )
        if not json:
            return done.stdout
        if arguments and arguments[0] == "events":
            return [jsonlib.loads(line) for line in done.stdout.splitlines() if line.strip()]
        return jsonlib.loads(done.stdout) if done.stdout.strip() else None

    def wait(
        self,
        firewall: Node | str,
        *,
        mode: str | None = None,
        ready: bool = False,
        timeout: float = 15.0,
    ) -> None:
        """Block until a daemon is in ``mode`` (and ``ready``).

        Raises:
            Timeout: with the logs of both daemons.
        """
        instance = self[firewall]
        if mode is None:
            info = self.ctl(firewall, "info")
            mode = info["local"]["mode"]
        arguments = ["wait", "--mode", mode, "--timeout", f"{timeout:g}"]
        if ready:
            arguments.append("--ready")
        done = self.command(firewall, *arguments, timeout=timeout + 5)
        if done.returncode != 0:
            raise Timeout(
                f"{instance.node.name} was not {mode}{' and ready' if ready else ''} within "
                f"{timeout:g} s: {done.stderr.strip()}\n{self.logs()}"
            )

    def logs(self, lines: int = 40) -> str:
        """The ends of both logs."""
        return "\n".join(
            f"--- {name}: last lines of {instance.log.name}\n{instance.log_tail(lines)}"
            for name, instance in self._instances.items()
            if instance.started
        )
