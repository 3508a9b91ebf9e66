"""An HA link with faults: a relay of raw frames between two devices.

``python -m hak2k.lab.relay A1:B1 A2:B2`` carries every frame between the devices
of each pair and takes settings as lines of JSON on standard input.  Each
direction of each pair has its own faults.  It ends with its standard input.

Frames travel with their offload header, so that a datagram whose checksum the
sender left to the hardware arrives as valid as over a direct cable.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import socket
import sys
import time
from dataclasses import asdict
from typing import Any

from hak2k.lab.wire import Faults, Tally

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_BUFFER_BYTES = 1 << 23
_VNET_HEADER = 10
_BURST = 64
# Past this a late frame is sent although it has overtaken nothing.
_REORDER_HOLD_MS = 5.0


class _Direction:
    """Frames from one device to another."""

    def __init__(self, source: socket.socket, sink: socket.socket, seed: str) -> None:
        self.source = source
        self.sink = sink
        self.faults = Faults()
        self.tally = Tally()
        self.random = random.Random(seed)
        self._waiting: list[tuple[float, int, bytes]] = []
        self._late: list[tuple[float, bytes]] = []
        self._number = 0

    def _send(self, frame: bytes) -> None:
        try:
            self.sink.send(frame)
        except OSError:
            self.tally.lost += 1  # device down, or its queue is full: as on a real wire
            return
        self.tally.sent += 1

    def _schedule(self, frame: bytes, now: float) -> None:
        faults = self.faults
        if faults.delay_ms or faults.jitter_ms or self._waiting:
            delay = faults.delay_ms + self.random.random() * faults.jitter_ms
            self._number += 1
            heapq.heappush(self._waiting, (now + delay / 1000, self._number, frame))
        else:
            self._send(frame)

    def _corrupted(self, frame: bytes) -> bytes:
        # Behind the Ethernet header: a broken address is just a lost frame.
        first = _VNET_HEADER + 14
        if len(frame) <= first:
            return frame
        self.tally.corrupted += 1
        data = bytearray(frame)
        data[self.random.randrange(first, len(data))] ^= 1 << self.random.randrange(8)
        return bytes(data)

    def pump(self, now: float) -> None:
        """Read what has come and send it on, or not."""
        faults, tally, chance = self.faults, self.tally, self.random.random
        clean = faults == Faults()
        for _ in range(_BURST):
            try:
                frame = self.source.recv(0x1FFFF)
            except (BlockingIOError, OSError):
                return
            tally.received += 1
            if clean and not self._waiting and not self._late:
                self._send(frame)
                continue
            if faults.blackhole or (faults.loss and chance() < faults.loss):
                tally.lost += 1
                continue
            if faults.corrupt and chance() < faults.corrupt:
                frame = self._corrupted(frame)
            copies = 1
            if faults.duplicate and chance() < faults.duplicate:
                tally.duplicated += 1
                copies = 2
            if faults.reorder and chance() < faults.reorder:
                tally.reordered += 1
                self._late.append((now + _REORDER_HOLD_MS / 1000, frame))
                copies -= 1
            for _ in range(copies):
                self._schedule(frame, now)
            if copies and self._late and chance() < 0.5:
                self._schedule(self._late.pop(0)[1], now)

    def flush(self, now: float) -> float | None:
        """Send what is due; return when (s) the next frame will be, if any."""
        while self._late and self._late[0][0] <= now:
            self._schedule(self._late.pop(0)[1], now)
        while self._waiting and self._waiting[0][0] <= now:
            due, _, frame = heapq.heappop(self._waiting)
            self.tally.late_ms = max(self.tally.late_ms, 1000 * (now - due))
            self._send(frame)
        times = [queue[0][0] for queue in (self._waiting, self._late) if queue]
        return min(times) if times else None


def _packet_socket(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    for option in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
        try:
            made.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        except PermissionError:
            pass
    made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    made.setblocking(False)
    made.bind((device, _ETH_P_ALL))
    return made


def _answer(directions: dict[str, _Direction], line: bytes, seed: str) -> dict[str, Any]:
    command = json.loads(line)
    chosen = [
        (name, direction)
        for name, direction in directions.items()
        if command.get("links") is None or name.split(">")[0] in command["links"]
    ]
    if "set" in command:
        for name, direction in chosen:
            direction.faults = Faults(**command["set"])
            if command.get("seed") is not None:
                direction.random.seed(f"{command['seed']}/{name}")
    told = {name: asdict(direction.tally) for name, direction in chosen}
    for _, direction in chosen:
        direction.tally.late_ms = 0.0
    return told


def _hurry() -> None:
    """A cable does not wait for its turn on a busy machine."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pass


def main(arguments: list[str]) -> int:
    """Relay between the pairs of devices given as ``A:B``, until input ends."""
    sockets: dict[str, socket.socket] = {}
    directions: dict[str, _Direction] = {}
    seed = "0"
    for pair in arguments:
        a, b = pair.split(":")
        sockets[a], sockets[b] = _packet_socket(a), _packet_socket(b)
        # Named by the device that the frames come from.
        for source, sink in ((a, b), (b, a)):
            name = f"{source}>{sink}"
            directions[name] = _Direction(sockets[source], sockets[sink], f"{seed}/{name}")
    by_fd = {direction.source.fileno(): direction for direction in directions.values()}
    poller = select.epoll()
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    os.set_blocking(0, False)
    _hurry()
    poller.register(0, select.EPOLLIN)
    pending = b""
    print("ready", flush=True)
    due: float | None = None
    while True:
        wait = -1.0 if due is None else max(0.0, due - time.monotonic())
        for fd, _ in poller.poll(wait):
            if fd in by_fd:
                by_fd[fd].pump(time.monotonic())
                continue
            data = os.read(0, 65536)
            if not data:
                return 0
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                print(json.dumps(_answer(directions, line, seed)), flush=True)
        now = time.monotonic()
        times = [when for d in directions.values() if (when := d.flush(now)) is not None]
        due = min(times) if times else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
