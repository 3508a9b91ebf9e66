"""The commands of the control socket: what `hak2kctl NAME` asks the daemon.

One method each, named after the command; `handlers()` is the table.  Shapes of the
answers are a contract (docs/): keys may be added, never changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final

from hak2k._version import __version__
from hak2k.control import Handler
from hak2k.engine import PeerInfo, TableInfo, wire_version
from hak2k.errors import RefusedError, UsageError
from hak2k.events import rfc3339
from hak2k.health.monitor import explain as explain_quality
from hak2k.model import Forced, Mode, TableState
from hak2k.node import Node
from hak2k.why import explain

STATE_VERSION: Final = 1  # of what the records mean, beside how they are written
SWAP_TIMEOUT_S: Final = 10.0
WAIT_TIMEOUT_S: Final = 30.0
VERIFY_TIMEOUT_S: Final = 120.0
MODES: Final = ("active", "passive", "starting", "fault")

# Part of the command line for good, not built yet.
UNAVAILABLE: Final = (
    "sync",
    "diff",
    "synctest",
)


def _mode(mode: Mode) -> str:
    return mode.name.lower()


class Service:
    def __init__(self, node: Node) -> None:
        self.node = node

    def handlers(self) -> dict[str, Handler]:
        table: dict[str, Handler] = {
            "info": self.info,
            "mode": self.mode,
            "active": self._force(Forced.ACTIVE),
            "passive": self._force(Forced.PASSIVE),
            "reset": self._force(Forced.NO),
            "stats": self.stats,
            "wait": self.wait,
            "events": self.events,
            "reload": self.reload,
            "verify": self.verify,
            "why": self.why,
            "freeze": self.freeze,
            "resume": self.resume,
        }
        for name in UNAVAILABLE:
            table[name] = self._unavailable(name)
        return table

    def _unavailable(self, name: str) -> Handler:
        async def refuse(args: dict[str, Any]) -> None:
            raise RefusedError(f"{name}: not available in this version")

        return refuse

    def _force(self, forced: Forced) -> Callable[[dict[str, Any]], Awaitable[Any]]:
        async def run(args: dict[str, Any]) -> dict[str, Any]:
            timeout = _number(args, "timeout", SWAP_TIMEOUT_S)
            alone = _flag(args, "force")
            await self.node.force(forced, alone=alone, timeout_s=timeout)
            return {"mode": _mode(self.node.state.mode), "forced": _forced(forced)}

        return run

    async def mode(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"mode": _mode(self.node.state.mode)}

    async def info(self, args: dict[str, Any]) -> dict[str, Any]:
        await self.node.idle()
        node, engine = self.node, self.node.engine
        peer, stream, table = engine.peer(), engine.stream(), engine.table()
        return {
            "local": self._local(),
            "peer": None if peer is None else self._peer(peer),
            "links": [
                {
                    "name": link.name,
                    "state": "ok" if link.up else "failed",
                    "since": rfc3339(link.since_ms / 1000),
                    "rtt_us": link.rtt_us,
                    "interface": configured.interface,
                    "interface_state": node.links.text(i),
                    "local": configured.local,
                    "peer": configured.peer,
                }
                for i, (link, configured) in enumerate(
                    zip(engine.links(), node.config.link, strict=True)
                )
            ],
            "stream": {
                "lag_records": stream.lag_records,
                "lag_ms": stream.lag_ms,
                "sequence": stream.sequence,
                "encrypted": stream.encrypted,
                "published": stream.published,
                "applied": stream.applied,
                "held": stream.held,
                "pressure": stream.pressure,
                "pressure_cause": stream.pressure_cause,
                "peer_table_percent": stream.peer_fill,
                "peer_table_max": stream.peer_max,
                "policy_differs": peer is not None and peer.policy_differs,
                "events": node.config.stream.events,
                "capture": node.engine.capture,
                **self._key(stream.key),
            },
            "health": self._health(),
            "gate": self._gate(),
            "lease": asdict(engine.lease()),
            "table": {
                "entries": engine.table_count(),
                "max": engine.table_max(),
                "equal": table.equal,
                "as_of": table.as_of,
                "age_ms": float(table.age_ms),
                "compared": table.entries,
                **_differences(table),
            },
        }

    def _health(self) -> list[dict[str, Any]]:
        """Which component costs how much of 100 points, the dearest first."""
        rows = explain_quality(self.node.components())
        for row in rows:
            for key in ("since", "checked"):
                row[key] = None if row[key] is None else rfc3339(row[key])
        return rows

    def _gate(self) -> dict[str, Any]:
        """What the kernel has now, and how often it was not as it should be."""
        node = self.node
        at = node.gate_rebuilt_at
        return {
            "state": node.gate_state(),
            "rebuilt": node.gate_rebuilt,
            "rebuilt_at": None if at is None else rfc3339(at),
            "rebuilt_why": node.gate_rebuilt_why,
        }

    def _key(self, in_use: str | None) -> dict[str, Any]:
        """Never the keys: their fingerprints.  current: it is the one that psk_file
        names first, so that the others can be removed on both nodes."""
        known = self.node.config.cluster.keys
        return {
            "key": in_use,
            "key_bits": dict(known).get(in_use or ""),
            "key_current": None if in_use is None else bool(known) and known[0][0] == in_use,
            "keys": [name for name, _ in known],
        }

    def _local(self) -> dict[str, Any]:
        node = self.node
        s = node.state
        return {
            "serial": node.config.node.serial,
            "model": node.config.node.model,
            "version": __version__,
            "mode": _mode(s.mode),
            "since": rfc3339(node.mode_since),
            "forced": _forced(s.forced),
            "quality": s.quality,
            "priority": s.priority,
            "state": s.table.name.lower(),
            "boot": rfc3339(node.boot),
            "config_synced": None,
            "protocol": {"stream": wire_version(), "state": STATE_VERSION},
            "supervisor": s.mode is Mode.ACTIVE,
            "alive": True,
            "term": s.term,
            "frozen_until": self._frozen_until(),
            "held_until": _stamp(self.node.held_until()),
        }

    def _peer(self, info: PeerInfo) -> dict[str, Any]:
        """A peer that is not heard is in the mode "fault": what it said last is no
        longer known to be true."""
        alive = self.node.state.peer is not None and self.node.state.peer.alive
        mode = Mode(info.mode) if alive else Mode.FAULT
        state = TableState(info.state) if alive else TableState.STARTING
        return {
            "serial": info.serial,
            "model": info.model,
            "version": info.version,
            "mode": _mode(mode),
            "since": rfc3339(info.since / 1000),
            "forced": _forced(Forced(info.forced)),
            "quality": info.quality,
            "priority": info.priority,
            "state": state.name.lower(),
            "boot": rfc3339(info.boot_ms / 1000),
            "config_synced": None,
            "protocol": {"stream": info.wire_max, "state": STATE_VERSION},
            "supervisor": mode is Mode.ACTIVE,
            "alive": alive,
            "term": info.term,
            "lost": None if alive else self.node.lost.cause,
            "heard_ms_ago": round(info.heard_ns_ago / 1e6, 1),
            "dead_after_ms": round(info.limit_ns / 1e6, 1),
            "longest_silence_ms": round(info.longest_ns / 1e6, 1),
        }

    async def stats(self, args: dict[str, Any]) -> dict[str, int]:
        await self.node.idle()
        engine = self.node.engine
        return {
            **engine.statistics(),
            "table.entries": engine.table_count(),
            "daemon.uptime_s": int(self.node.clock() - self.node.started),
            "election.term": self.node.state.term,
        }

    async def wait(self, args: dict[str, Any]) -> dict[str, Any]:
        """Blocks until this node is in the mode; ready: and its table complete
        (passive) or it forwards (active)."""
        mode, ready = args.get("mode"), _flag(args, "ready")
        if mode is not None and mode not in MODES:
            raise UsageError(f"no such mode: {mode}")
        if mode is None and not ready:
            raise UsageError("wait needs --mode or --ready")
        timeout = _number(args, "timeout", WAIT_TIMEOUT_S)

        def holds() -> bool:
            s = self.node.state
            good = s.table in (TableState.READY, TableState.RUNNING, TableState.FROZEN)
            # Between the decision and its end a hand-over is neither.
            fits = mode is None or _mode(s.mode) == mode
            return fits and (good or not ready) and not self.node.busy

        if not await self.node.until(holds, timeout):
            s = self.node.state
            raise RefusedError(
                f"not so after {round(timeout, 2):g} s: mode {_mode(s.mode)}, "
                f"state {s.table.name.lower()}; see hak2kctl info"
            )
        return await self.mode(args)

    async def events(self, args: dict[str, Any]) -> Any:
        if _flag(args, "follow"):
            return self._follow()
        return list(self.node.log)

    async def _follow(self) -> AsyncIterator[dict[str, Any]]:
        with self.node.log.reader() as queue:
            for event in self.node.log:
                yield event
            while True:
                yield await queue.get()

    async def verify(self, args: dict[str, Any]) -> dict[str, Any]:
        """On either node; what differs is sent unless `no_repair`."""
        timeout = _number(args, "timeout", VERIFY_TIMEOUT_S)
        await self.node.idle()
        table = await self.node.verify(not _flag(args, "no_repair"), timeout)
        return {
            "equal": bool(table.equal),
            **_differences(table),
            "as_of": table.as_of,
            "entries": table.entries,
        }

    async def freeze(self, args: dict[str, Any]) -> dict[str, Any]:
        """Preferences wait while a ruleset is being reloaded."""
        seconds = None if args.get("for") is None else _number(args, "for", 0.0)
        seconds = self.node.freeze(seconds)
        return {"frozen": True, "seconds": seconds, "until": self._frozen_until()}

    async def resume(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"frozen": False, "was_frozen": self.node.resume()}

    def _frozen_until(self) -> str | None:
        return _stamp(self.node.frozen_until())

    async def why(self, args: dict[str, Any]) -> dict[str, Any]:
        """The number-th last change of role; of earlier runs too, if they are on disk."""
        number = 1 if args.get("number") is None else args["number"]
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UsageError("why needs a whole number, 1 for the last change")
        recorder = self.node.recorder
        found = recorder.changes.found
        if number > len(found):
            found = await asyncio.to_thread(recorder.read)
        if number > len(found):
            known = "no change of role is" if not found else f"only {len(found)} are"
            raise RefusedError(f"{known} on record")
        return explain(found[-number], number, self.node.config.node.serial)

    async def reload(self, args: dict[str, Any]) -> dict[str, Any]:
        await self.node.idle()
        return {"changed": self.node.reload()}


def _differences(table: TableInfo) -> dict[str, int]:
    return {
        "missing": table.missing,
        "extra": table.extra,
        "different": table.different,
        "repaired": table.repaired,
    }


def _stamp(when: float | None) -> str | None:
    return None if when is None else rfc3339(when)


def _forced(forced: Forced) -> str:
    return forced.name.lower()


def _flag(args: dict[str, Any], key: str) -> bool:
    value = args.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"{key} must be true or false")
    return value


def _number(args: dict[str, Any], key: str, default: float) -> float:
    value = args.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{key} must be a number of seconds")
    if not 0 <= value <= 86400:
        raise UsageError(f"{key} must be 0 to 86400 seconds")
    return float(value)
