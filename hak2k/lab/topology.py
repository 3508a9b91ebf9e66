"""Names and numbers of the lab, and the ruleset of its firewalls.

::

                      .1/.2   ha0 192.168.69.0/24   ha1 192.168.70.0/24
                          +========= HA links =========+
                          |                            |
    client --- br-lan --- fw1 --- br-wan --- server    |
    .10          |                   |      .10        |
                 +------- fw2 -------+                 |
                          |                            |
                          +============================+

Both firewalls have the same addresses *and* the same hardware addresses on
``lan`` and ``wan``: which of them is heard is decided by nothing in the network.
"""

from __future__ import annotations

from hak2k.lab.cttypes import DST_NAT, Entry

LAN4, LAN6 = "10.71.0.1", "fd71::1"
WAN4, WAN6 = "10.72.0.1", "fd72::1"
LAN_ADDRESSES = (f"{LAN4}/24", f"{LAN6}/64")
WAN_ADDRESSES = (f"{WAN4}/24", f"{WAN6}/64")
LAN_MAC, WAN_MAC = "02:00:5e:00:71:01", "02:00:5e:00:72:01"

CLIENT4, CLIENT6 = "10.71.0.10", "fd71::10"
SERVER4, SERVER6 = "10.72.0.10", "fd72::10"

# The client's second address: everything from it leaves as one fixed address.
SNAT_CLIENT4, SNAT_CLIENT6 = "10.71.0.11", "fd71::11"
SNAT4, SNAT6 = "10.72.0.77", "fd72::77"
# Its third: tracked in a zone of its own.
ZONE_CLIENT4, ZONE_CLIENT6 = "10.71.0.12", "fd71::12"
ZONE = 12

HA_ADDRESSES = {
    "fw1": {"ha0": "192.168.69.1/24", "ha1": "192.168.70.1/24"},
    "fw2": {"ha0": "192.168.69.2/24", "ha1": "192.168.70.2/24"},
}

# Destination ports (tcp and udp) that the ruleset treats in a special way.
PLAIN_PORTS = (7000, 7099)  # routed, never translated
MARK_PORT, MARK = 7050, 0x50  # the entry gets a mark
LABEL_PORT, LABEL = 7051, 7  # the entry gets a label (this bit)
OPT_OUT_PORT, OPT_OUT_MARK = 7099, 0x100  # excluded from replication
DNAT_PORT, DNAT_TARGET_PORT = 8080, 80  # on the wan address, to the client
FTP_PORT = 21

COUNTERS = ("invalid", "established", "new", "published", "input_drop")

RULESET = f"""
table inet fw {{
  counter invalid {{ }}
  counter established {{ }}
  counter new {{ }}
  counter published {{ }}
  counter input_drop {{ }}
  ct helper ftp4 {{
    type "ftp" protocol tcp
    l3proto ip
  }}
  ct helper ftp6 {{
    type "ftp" protocol tcp
    l3proto ip6
  }}
  chain zones {{
    type filter hook prerouting priority raw
    iifname "lan" ip saddr {ZONE_CLIENT4} ct zone set {ZONE}
    iifname "wan" ip daddr {ZONE_CLIENT4} ct zone set {ZONE}
    iifname "lan" ip6 saddr {ZONE_CLIENT6} ct zone set {ZONE}
    iifname "wan" ip6 daddr {ZONE_CLIENT6} ct zone set {ZONE}
  }}
  chain classify {{
    type filter hook prerouting priority filter
    ct state new th dport {MARK_PORT} ct mark set {MARK:#x}
    ct state new th dport {LABEL_PORT} ct label set {LABEL}
    ct state new th dport {OPT_OUT_PORT} ct mark set {OPT_OUT_MARK:#x}
    meta nfproto ipv4 tcp dport {FTP_PORT} ct helper set "ftp4"
    meta nfproto ipv6 tcp dport {FTP_PORT} ct helper set "ftp6"
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop
    ct state invalid counter name "invalid" drop
    ct state established,related counter name "established" accept
    iifname "lan" ct state new counter name "new" accept
    iifname "wan" ct status dnat counter name "published" accept
  }}
  chain input {{
    type filter hook input priority filter; policy accept
    iifname {{ "lo", "ha0", "ha1" }} accept
    ct state established,related accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    counter name "input_drop" drop
  }}
}}
table ip nat {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    iifname "wan" ip daddr {WAN4} tcp dport {DNAT_PORT} dnat to {CLIENT4}:{DNAT_TARGET_PORT}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    oifname != "wan" return
    ip saddr {SNAT_CLIENT4} snat to {SNAT4}
    ip saddr {ZONE_CLIENT4} return
    meta l4proto {{ tcp, udp }} th dport {PLAIN_PORTS[0]}-{PLAIN_PORTS[1]} return
    meta l4proto {{ tcp, udp, icmp }} masquerade
  }}
}}
table ip6 nat {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    iifname "wan" ip6 daddr {WAN6} tcp dport {DNAT_PORT} dnat to [{CLIENT6}]:{DNAT_TARGET_PORT}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    oifname "wan" ip6 saddr {SNAT_CLIENT6} snat to {SNAT6}
  }}
}}
"""

# Compared as text: parsing every address of a large table would take longer than
# the kernel takes to list it.
_NOT_TRANSIT = ("192.168.69.", "192.168.70.", "127.", "224.", "255.", "fe80:", "ff0", "::")
_OWN = frozenset((LAN4, LAN6, WAN4, WAN6))


def is_transit(entry: Entry) -> bool:
    """Whether the entry is of a connection *through* a firewall.

    False for what begins or ends on a firewall itself: the HA links, neighbour
    discovery, pings to the shared addresses.
    """
    source, target = entry.orig.src, entry.orig.dst
    if source.startswith(_NOT_TRANSIT) or target.startswith(_NOT_TRANSIT) or source in _OWN:
        return False
    return target not in _OWN or bool(entry.status & DST_NAT)
