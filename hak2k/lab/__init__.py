"""A test bed for pairs of firewalls, made of anonymous network namespaces.

::

    from hak2k.lab import Lab, ensure_privileges, until

    ensure_privileges()
    with Lab() as lab:
        lab.start_pair()
        ...

See ``topology`` for addresses and the ruleset, ``traffic`` for connections that
run through it, ``rawflow`` for protocols that the kernel has no sockets for, and
``ctnl`` for the connection tracking tables.
"""

from hak2k.lab.ctnl import Conntrack, Entry, Events, Expectation, Table, Tuple, differences
from hak2k.lab.lab import Crash, Lab, failure_report
from hak2k.lab.netns import PrivilegeError, ensure_privileges, privileged
from hak2k.lab.node import CommandFailed, Node
from hak2k.lab.poll import Timeout, until
from hak2k.lab.tap import Frame, Tap
from hak2k.lab.wire import Faults, Tally, Wire

__all__ = [
    "CommandFailed",
    "Conntrack",
    "Crash",
    "Entry",
    "Events",
    "Expectation",
    "Faults",
    "Frame",
    "Lab",
    "Node",
    "PrivilegeError",
    "Table",
    "Tally",
    "Tap",
    "Timeout",
    "Tuple",
    "Wire",
    "differences",
    "ensure_privileges",
    "failure_report",
    "privileged",
    "until",
]
