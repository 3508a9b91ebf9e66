"""The example of docs/wire.md, computed by the independent implementation.

``python -m tests.hostile.example`` puts it into the document.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from tests.hostile.k2k import (
    CONTROL,
    DATA,
    FLOW_NEW,
    HELLO,
    WELCOME,
    Handshake,
    Header,
    Hello,
    Keys,
    ack,
    heartbeat,
    nack,
    status,
    udp,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "wire.md"
BLOCK = re.compile(r"```hex\n(.*?)```", re.DOTALL)

CLUSTER = 7
PSK = bytes(range(0x20))
INITIATOR_E = bytes(range(0x20, 0x40))
RESPONDER_E = bytes(range(0x40, 0x60))
OFFER = Hello(0x11111111, 0x0101010101010101, 1700000000000, 1, "FW-1", "lab", "1.0")
ANSWER = Hello(0x22222222, 0x0202020202020202, 1700000001000, 1, "FW-2", "lab", "1.0")


def values() -> dict[str, bytes]:
    """Everything in the example, by its name there."""
    one = Handshake(PSK, CLUSTER, True, INITIATOR_E)
    two = Handshake(PSK, CLUSTER, False, RESPONDER_E)
    hello = Header(HELLO, 0, 0, CLUSTER).pack() + one.write(OFFER.pack())
    two.read(hello[16:])
    welcome = Header(WELCOME, OFFER.session, 0, CLUSTER).pack() + two.write(ANSWER.pack())
    one.read(welcome[16:])
    keys = one.keys()
    control = heartbeat(0, 5_000_000_000, 4_990_000_000, 1500, 10, 4)
    control += status(mode=2, state=3, term=3) + ack(0, 0) + nack((2, 1), (5, 300))
    control_head = Header(CONTROL, ANSWER.session, 0, CLUSTER)
    data = udp(FLOW_NEW, 0)
    data_head = Header(DATA, ANSWER.session, 10, CLUSTER)
    return {
        "pre-shared key": PSK,
        "ephemeral private key of the initiator": INITIATOR_E,
        "ephemeral private key of the responder": RESPONDER_E,
        "payload of HELLO": OFFER.pack(),
        "HELLO": hello,
        "payload of WELCOME": ANSWER.pack(),
        "WELCOME": welcome,
        "key from initiator to responder": keys.send,
        "key from responder to initiator": keys.receive,
        "payload of CONTROL": control,
        "CONTROL": keys.seal(control_head, control),
        "payload of DATA": data,
        "DATA": keys.seal(data_head, data),
        "DATA, if neither node encrypts": Keys(keys.send, b"", False).seal(data_head, data),
    }


def text() -> str:
    """The block as it stands in the document."""
    return "".join(
        f"{name}\n{textwrap.indent(textwrap.fill(value.hex(), 64), '  ')}\n"
        for name, value in values().items()
    )


if __name__ == "__main__":
    DOCUMENT.write_text(BLOCK.sub(lambda _: f"```hex\n{text()}```", DOCUMENT.read_text()))
