"""One stream or two: what several sockets and threads gain here, and what they do not.

listeners   what it costs the firewall that several sockets hear its events: each of all
            of them, or each of a share, which its filter (bench/filters.py) chooses.
stages      the floor replicator, once with one shard and once with two, a CPU for each.
            Its stages one after the other, each with all of its work waiting in front of
            it: a table's worth of events in the sockets, then the datagrams they become.
            So nothing but the stage itself says how fast it is.
writers     prebuilt batches into the kernel: one writer, two, two into different
            namespaces.
listings    one listing of a table, two at the same time.
together    everything at once, the machine saturated as in `saturate`: the floor and
            hak2k's engines, one pair and two, each pair with half of the connections.

A shard is one of equal shares of all connections, by a hash of the original tuple.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import filters, rig, saturate, tools, variants
from bench.report import Options, Result, Table
from bench.variants import Setup
from hak2k import _core
from hak2k.lab import Lab, until

NAME = "shards"
TITLE = "one stream and two: listeners, stages alone, writers, and all at once"

PORT = 4100  # of the first shard's floor; the next one has the next
LISTENERS: dict[str, list[bytes]] = {
    "one": [b""],
    "two, each all": [b"", b""],
    "two, by hash": [filters.by_hash(i, 2) for i in range(2)],
    "two, by CPU": [filters.by_cpu(i, 2) for i in range(2)],
    "eight, by hash": [filters.by_hash(i, 8) for i in range(8)],
}
RATE = 8000
# What a socket's buffer holds: 1,280 bytes each of twice HAK_NL_EVENT_BUF.
QUEUED = 100_000
EVENTS_PER_LIFE = 7
GIVEN = 20_000  # lives a second at most, while nobody reads
IDLE_NS = 2_000_000  # in 150 ms: whoever does no more only looks for signals
NEVER_SLOW = 200_000_000

Figures = dict[str, Any]


# -- what listening costs the firewall


@contextmanager
def listening(lab: Lab, shares: list[bytes], cpu: int) -> Iterator[list[subprocess.Popen[str]]]:
    """A bench/c/listen.c for each filter, which naps: being woken is another cost."""
    readers = [
        tools.start(lab.fw1, "listen", "-s", "-c", cpu, *(("-k", code.hex()) if code else ()))
        for code in shares
    ]
    try:
        for reader in readers:
            _ready(reader)
        yield readers
    finally:
        for reader in readers:
            reader.kill()


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise tools.ToolError("a program did not start")


def told(readers: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """End the readers; what each of them saw."""
    for reader in readers:
        reader.send_signal(signal.SIGTERM)
    return [tools.result("listen", reader) for reader in readers]


def listeners(shares: list[bytes], seconds: float) -> Figures:
    """CPU (ns) of forwarding one life, and of all readers, with these readers."""
    load_cpu, cpu = rig.cpus()
    with Lab() as lab:
        rig.prepare(lab)
        lab.solo(lab.fw1)
        options = ("-f", RATE, "-c", load_cpu)
        rig.lives(lab, RATE, RATE, *options)
        with listening(lab, shares, cpu) as readers:
            made = rig.lives(lab, int(RATE * seconds), RATE, *options, "-i", RATE)
            used = [variants.process_ns(reader.pid) for reader in readers]
            seen = told(readers)
    return {
        "forward": made["cpu_ns"] / made["lives"],
        "read": sum(used) / made["lives"],
        "events": sum(s["events"] for s in seen) / made["lives"],
        "overruns": sum(s["overruns"] for s in seen),
        "seen": [s["events"] / made["lives"] for s in seen],
    }


# -- several pairs as one


class Several(variants.Variant):
    """Pairs of one kind, each with its share of the connections."""

    parts: Sequence[variants.Variant]

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def cpu(self) -> tuple[int, int]:
        each = [part.cpu() for part in self.parts]
        return sum(a for a, _ in each), sum(p for _, p in each)

    def lost(self) -> int:
        return max(part.lost() for part in self.parts)


class Floors(Several):
    """Two of bench/c/floor.c on either node."""

    name = "two floors"
    shards = 2

    def __init__(self, lab: Lab, setup: Setup, *, cpus: tuple[int, ...] = ()) -> None:
        super().__init__(lab, setup)
        self.floors: list[variants.Floor] = []
        self.parts = self.floors
        for i in range(self.shards):
            share = filters.by_hash(i, self.shards) if self.shards > 1 else b""
            own = Setup(cpus[i] if cpus else setup.cpu, setup.passive_events, setup.nap_us)
            self.floors.append(variants.Floor(lab, own, port=PORT + i, share=share))
        self.pids = self.parts[0].pids


class OneFloor(Floors):
    name = "floor"
    shards = 1


class Engines(Several):
    """Two pairs of engines; the filter takes the place of the one the engine has."""

    name = "two pairs of engines"
    shards = 2

    def __init__(self, lab: Lab, setup: Setup) -> None:
        super().__init__(lab, setup)
        ports = [_core.PORT + i for i in range(self.shards)]
        for node in lab.fw:  # each engine keeps its own port untracked, and forgets the others'
            node.nft(
                "table inet shards {\n"
                + "".join(
                    f"chain {hook} {{ type filter hook {hook} priority raw;\n"
                    f"udp dport {{ {', '.join(map(str, ports))} }} notrack\n}}\n"
                    for hook in ("prerouting", "output")
                )
                + "}"
            )
        # Each with a socket of its own: a probe tells all that it sees.
        pairs = [variants.ByNetlink(lab, setup, start=False, port=port) for port in ports]
        self.parts, self.pids = pairs, pairs[0].pids
        for i, part in enumerate(pairs):
            part.pair.start()
            if self.shards > 1:
                part.pair.a.call("share", filters.by_hash(i, self.shards).hex())


class OneEngine(Engines):
    name = "engines"
    shards = 1


TOGETHER: dict[str, tuple[type[Several], ...]] = {
    "floor": (OneFloor, Floors),
    "hak2k": (OneEngine, Engines),
}


# -- stages alone


def _stop(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGSTOP)


def _waiting(pid: int) -> int:
    """Bytes in the buffers of a namespace's event and UDP sockets."""
    netlink, udp = (
        [line.split() for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
        for name in ("netlink", "udp")
    )
    queued = sum(int(row[4]) for row in netlink if row[1] == "12")
    return queued + sum(int(row[4].split(":")[1], 16) for row in udp)


def _run_dry(processes: list[subprocess.Popen[str]]) -> None:
    """Let them do what waits for them, until they do nothing any more."""
    for process in processes:
        process.send_signal(signal.SIGCONT)
    before = -IDLE_NS

    def still() -> bool:
        nonlocal before
        now = sum(variants.process_ns(process.pid) for process in processes)
        done = now - before < IDLE_NS and not _waiting(processes[0].pid)
        before = now
        return done

    until(still, 60, "an end of what waits", interval=0.15)


def _stage(ends: list[dict[str, Any]], lives: int) -> Figures:
    wall = max(e["last_ns"] for e in ends) - min(e["first_ns"] for e in ends)
    return {
        "rate": lives / wall * 1e9,
        "cpu": sum(e["cpu_ns"] for e in ends) / lives,
        "shares": [e["events"] + e["records"] for e in ends],
    }


def stages(shards: int, lives: int) -> dict[str, Figures]:
    """Capture, then apply: lives a second, and CPU (ns) of all shards for one life.

    Raises:
        RuntimeError: something was lost on the way.
    """
    kind, cpus = (OneFloor, Floors)[shards - 1], rig.cpus()
    # A nap after each read would be what is measured.
    with variants.running(kind.name, Setup(nap_us=0), kind, cpus=cpus) as both:
        assert isinstance(both, Floors)
        actives = [part.active for part in both.floors]
        passives = [part.passive for part in both.floors]
        _stop([*passives, *actives])
        rig.lives(both.lab, lives, min(GIVEN, 2 * lives), "-f", lives // 2, "-c", cpus[0])
        _run_dry(actives)
        _run_dry(passives)
        until(lambda: not both.different(), 10, "equal tables", detail=both.different)
        lost = both.lost()
        both.close()
        ends = [part.found for part in both.floors]
    if lost:
        raise RuntimeError(f"{shards} shards: {lost} messages lost")
    return {
        "capture": _stage([e["active"] for e in ends], lives),
        "apply": _stage([e["passive"] for e in ends], lives),
    }


# -- the kernel's own locks


def writers(nodes: list[int], lives: int, *, lean: bool = False) -> Figures:
    """Whole lives from prebuilt batches, a writer for each of ``nodes`` (0: fw1, 1: fw2).

    Returns:
        ``rate`` (lives a second, all together), ``cpu`` (ns of one life).
    """
    flows = 8192
    with Lab() as lab:
        for node in lab.fw:
            node.sysctl("net.netfilter.nf_conntrack_events=0")
        found = [
            tools.start(
                lab.fw[node], "entries", "-m", "lives", "-n", lives, "-r", NEVER_SLOW,
                "-f", flows, "-o", i * flows, "-g", *(("-l",) if lean else ()),
                "-c", rig.cpus()[i % 2], stdin=subprocess.PIPE,
            )
            for i, node in enumerate(nodes)
        ]  # fmt: skip
        for process in found:
            _ready(process)
        for process in found:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ends = [tools.result("entries", process) for process in found]
    if any(end["errors"] for end in ends):
        raise RuntimeError(f"entries refused: {ends}")
    return {
        "rate": sum(end["count"] / end["ns"] * 1e9 for end in ends),
        "cpu": sum(end["cpu_ns"] for end in ends) / sum(end["count"] for end in ends),
    }


def listings(count: int, size: int) -> Figures:
    """The same table listed ``count`` times at once: entries a second, CPU of one."""
    with Lab() as lab:
        rig.fill(lab.fw1, size)
        found = [tools.start(lab.fw1, "list", "-c", rig.cpus()[i % 2]) for i in range(count)]
        ends = [tools.result("list", process) for process in found]
    return {
        "rate": sum(end["entries"] / end["ns"] * 1e9 for end in ends),
        "cpu": sum(end["cpu_ns"] for end in ends) / sum(end["entries"] for end in ends),
    }


# -- all of it


def _middle(runs: list[Figures]) -> Figures:
    """The median of each figure of several runs."""
    return {
        key: statistics.median(run[key] for run in runs)
        for key, value in runs[0].items()
        if isinstance(value, (int, float))
    }


def measures(options: Options) -> dict[str, Callable[[], Figures]]:
    """All that one round does, by name."""
    seconds = options.pick(1, 0.3)
    lives = QUEUED // EVENTS_PER_LIFE // options.pick(1, 4)
    written, size = options.pick(100_000, 20_000), options.pick(200_000, 20_000)
    offered = options.pick(40_000, 6000)
    found: dict[str, Callable[[], Figures]] = {}
    for name, shares in LISTENERS.items():
        found[f"listeners, {name}"] = lambda s=shares: listeners(s, seconds)  # type: ignore[misc]
    for n in (1, 2):
        found[f"stages, {n}"] = lambda n=n: _flat(stages(n, lives))  # type: ignore[misc]
    for lean in (False, True):
        kind = "lean" if lean else "all"
        for name, nodes in (("one", [0]), ("two", [0, 0]), ("two kernels", [0, 1])):
            found[f"writers, {kind}, {name}"] = (
                lambda nodes=nodes, lean=lean: writers(nodes, written, lean=lean)  # type: ignore[misc]
            )
    for n in (1, 2):
        found[f"listings, {n}"] = lambda n=n: listings(n, size)  # type: ignore[misc]
    for name, kinds in TOGETHER.items():
        for n, kind_ in enumerate(kinds, 1):
            found[f"together, {name}, {n}"] = lambda k=kind_: _together(k, offered)  # type: ignore[misc]
    return found


def _flat(found: dict[str, Figures]) -> Figures:
    return {f"{stage}.{key}": value for stage, own in found.items() for key, value in own.items()}


def _together(kind: type[Several], lives: int) -> Figures:
    tried = saturate.reach(kind.name, lives, saturate.ENDLESS, kind)[-1]
    active, passive = tried["cpu"]
    return {
        "rate": tried["rate"],
        "active": active,
        "passive": passive,
        "lost": tried["lost"],
        "different": len(tried["different"]),
    }


def _listeners_table(found: dict[str, Figures], rounds: int) -> Table:
    table = Table(
        f"Several sockets hear the same events, {RATE:,} lives/s, median of {rounds} (us)",
        ("listeners", "forward", "more than one", "read", "events/life"),
    )
    first = found["listeners, one"]
    for name in LISTENERS:
        own = found[f"listeners, {name}"]
        more = (own["forward"] - first["forward"]) / 1000
        table.rows.append((name, own["forward"] / 1000, more, own["read"] / 1000, own["events"]))
    table.notes.append("read: all of them together. A filter drops before it is queued.")
    return table


def _stages_table(found: dict[str, Figures]) -> Table:
    table = Table(
        "One stage at a time, its work waiting: lives/s, and CPU of one life (us)",
        ("", "one", "us", "two", "us", "gain"),
    )
    for label, (one, two), prefix in (
        ("floor: capture", ("stages, 1", "stages, 2"), "capture."),
        ("floor: apply", ("stages, 1", "stages, 2"), "apply."),
        ("write, all events", ("writers, all, one", "writers, all, two"), ""),
        ("write, two namespaces", ("writers, all, one", "writers, all, two kernels"), ""),
        ("write, lean", ("writers, lean, one", "writers, lean, two"), ""),
        ("list (entries/s)", ("listings, 1", "listings, 2"), ""),
    ):
        rates = [found[name][f"{prefix}rate"] for name in (one, two)]
        cpu = [found[name][f"{prefix}cpu"] / 1000 for name in (one, two)]
        gain = f"{rates[1] / rates[0]:.2f} x"
        table.rows.append((label, rates[0], cpu[0], rates[1], cpu[1], gain))
    return table


def _together_table(found: dict[str, Figures]) -> Table:
    table = Table(
        "All stages at once, machine saturated: lives/s, CPU of one life (us)",
        ("", "shards", "lives/s", "active", "passive"),
    )
    for name, kinds in TOGETHER.items():
        for n in range(1, len(kinds) + 1):
            own = found[f"together, {name}, {n}"]
            row = (own["rate"], own["active"] / 1000, own["passive"] / 1000)
            table.rows.append((name, n, *row))
            if own["lost"] or own["different"]:
                table.notes.append(f"{name}, {n}: something was lost at every rate.")
    table.notes.append("Active and passive: of all shards of that node together.")
    return table


def run(options: Options) -> Result:
    rounds = options.times(5)
    steps = measures(options)
    runs: dict[str, list[Figures]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            runs[name].append(step())
    found = {name: _middle(own) for name, own in runs.items()}
    return Result(
        NAME,
        tables=[_listeners_table(found, rounds), _stages_table(found), _together_table(found)],
        data={"rounds": rounds, "median": found, "runs": runs},
    )
