"""What surrounds a swap: announcements to come, and natural timeouts.  Pure.

Natural timeouts
----------------
A larva bears a timeout of days.  The first packet after the swap makes the kernel
put the natural one back; entries without a packet get it from the core's sweep,
which needs to know what is natural: `natural[protocol][state]` in seconds, as the
sysctls have it.  States are the kernel's numbers:

    TCP      1 SYN_SENT 2 SYN_RECV 3 ESTABLISHED 4 FIN_WAIT 5 CLOSE_WAIT
             6 LAST_ACK 7 TIME_WAIT 8 CLOSE 9 SYN_SENT2
             (include/uapi/linux/netfilter/nf_conntrack_tcp.h)
    SCTP     1 CLOSED 2 COOKIE_WAIT 3 COOKIE_ECHOED 4 ESTABLISHED 5 SHUTDOWN_SENT
             6 SHUTDOWN_RECD 7 SHUTDOWN_ACK_SENT 8 HEARTBEAT_SENT
             (include/uapi/linux/netfilter/nf_conntrack_sctp.h)
    DCCP     1 REQUEST 2 RESPOND 3 PARTOPEN 4 OPEN 5 CLOSEREQ 6 CLOSING 7 TIMEWAIT
             (kernels before 6.16)
    UDP, UDP-Lite, GRE    0 one direction only, 1 a stream (ASSURED)
    the rest              0
    natural[0][0]         any protocol without an entry (the generic tracker)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hak2k import model

SYSCTL_DIR: Final = "/proc/sys/net/netfilter/nf_conntrack_"

# protocol, state, sysctl behind SYSCTL_DIR, seconds if the kernel has it not
_TIMEOUTS: Final[tuple[tuple[int, int, str, int], ...]] = (
    (0, 0, "generic_timeout", 600),
    (1, 0, "icmp_timeout", 30),
    (58, 0, "icmpv6_timeout", 30),
    (6, 1, "tcp_timeout_syn_sent", 120),
    (6, 2, "tcp_timeout_syn_recv", 60),
    (6, 3, "tcp_timeout_established", 432000),
    (6, 4, "tcp_timeout_fin_wait", 120),
    (6, 5, "tcp_timeout_close_wait", 60),
    (6, 6, "tcp_timeout_last_ack", 30),
    (6, 7, "tcp_timeout_time_wait", 120),
    (6, 8, "tcp_timeout_close", 10),
    (6, 9, "tcp_timeout_syn_sent", 120),  # SYN_SENT2 has no sysctl of its own
    (17, 0, "udp_timeout", 30),
    (17, 1, "udp_timeout_stream", 120),
    (136, 0, "udp_timeout", 30),  # UDP-Lite uses the table of UDP
    (136, 1, "udp_timeout_stream", 120),
    (47, 0, "gre_timeout", 30),
    (47, 1, "gre_timeout_stream", 180),
    (132, 1, "sctp_timeout_closed", 10),
    (132, 2, "sctp_timeout_cookie_wait", 3),
    (132, 3, "sctp_timeout_cookie_echoed", 3),
    (132, 4, "sctp_timeout_established", 210),
    (132, 5, "sctp_timeout_shutdown_sent", 3),
    (132, 6, "sctp_timeout_shutdown_recd", 3),
    (132, 7, "sctp_timeout_shutdown_ack_sent", 3),
    (132, 8, "sctp_timeout_heartbeat_sent", 30),
    (33, 1, "dccp_timeout_request", 240),
    (33, 2, "dccp_timeout_respond", 480),
    (33, 3, "dccp_timeout_partopen", 480),
    (33, 4, "dccp_timeout_open", 43200),
    (33, 5, "dccp_timeout_closereq", 64),
    (33, 6, "dccp_timeout_closing", 64),
    (33, 7, "dccp_timeout_timewait", 240),
)


def _read_sysctl(name: str) -> str:
    with open(SYSCTL_DIR + name, encoding="ascii") as f:
        return f.read()


def natural_timeouts(
    read: Callable[[str], str] = _read_sysctl,
) -> dict[int, dict[int, int]]:
    """natural[protocol][state] in seconds, as this kernel has it now.

    A sysctl that is missing, unreadable or 0 counts with the kernel's default: a
    timeout of 0 would end every connection.
    """
    out: dict[int, dict[int, int]] = {}
    for protocol, state, name, default in _TIMEOUTS:
        try:
            seconds = int(read(name))
        except (OSError, ValueError):
            seconds = 0
        out.setdefault(protocol, {})[state] = seconds if seconds > 0 else default
    return out


ANNOUNCE_FIRST_S: Final = 0.1
ANNOUNCE_LONGEST_S: Final = 2.0  # ANNOUNCE_INTERVAL of RFC 5227


def announce_delays(count: int) -> list[float]:
    """Seconds after a promotion at which to announce again: at once for what was lost,
    ever more rarely for a switch whose port needs a while.

    count: announcements in all; the first is part of the promotion itself.
    """
    delays, at, gap = [], 0.0, ANNOUNCE_FIRST_S
    for _ in range(1, count):
        at += gap
        gap = min(2 * gap, ANNOUNCE_LONGEST_S)
        delays.append(at)
    return delays


def gave_way(before: model.Peer | None, now: model.State) -> bool:
    """Both were active, and the peer was the first to decide: it may have announced
    itself last, and the switches send it what is for this node."""
    return (
        now.role is model.Role.ACTIVE
        and not now.accepted
        and before is not None
        and now.peer is not None
        and (before.mode, now.peer.mode) == (model.Mode.ACTIVE, model.Mode.PASSIVE)
    )
