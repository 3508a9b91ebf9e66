"""As many datagrams as one process can send: ``python flood.py SECONDS SOURCE TARGET``.

Run in a namespace that has the device.  Through a raw socket, from the port of the
real peer, which another process holds: what an attacker on the link does.  Datagrams
are taken in turn from standard input (hex, one a line); "?" in a line stands for a
byte to be made up anew each time.  Prints how many were sent.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import time

PORT = 44242


def packet(source: str, target: str, payload: bytes) -> bytes:
    """IPv4 and UDP around it, without a UDP checksum; the kernel adds IP's."""
    udp = struct.pack(">HHHH", PORT, PORT, 8 + len(payload), 0) + payload
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ends + udp


def main(seconds: float, source: str, target: str) -> None:
    chance = random.Random(1)
    packets = []
    for line in sys.stdin.read().split():
        for _ in range(64):
            made = "".join(f"{chance.randrange(256):02x}" if c == "?" else c for c in line)
            packets.append(packet(source, target, bytes.fromhex(made)))
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    end = time.monotonic() + seconds
    n = 0
    while time.monotonic() < end:
        for each in packets:
            try:
                out.sendto(each, (target, 0))
            except BlockingIOError:
                continue
            n += 1
    print(n)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3])
