# The compiled core's Python face: lifetimes, the GIL, errors to exceptions.
# No logic: what an engine does is in csrc/, what it should do is in Python.
# cython: freethreading_compatible = False
import socket
import time

cimport cython

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from hak2k cimport _csrc as c

WIRE_VERSION = c.HAK_WIRE_VERSION
PORT = c.HAK_PORT
IDLE = c.HAK_IDLE
PASSIVE = c.HAK_PASSIVE
ACTIVE = c.HAK_ACTIVE

LARVAL_TIMEOUT = 8 * 86400     # seconds; natural ones are five days at most


cdef dict _event_names():
    names, i = {}, 0
    while c.hak_event_name(i) is not NULL:
        names[i] = c.hak_event_name(i).decode()
        i += 1
    return names


EVENT_NAMES = _event_names()
STAT_NAMES = tuple(c.hak_stat_name(i).decode() for i in range(c.HAK_STAT_COUNT))

# How the three numbers of an event are called; see csrc/hak_engine.h.
_EVENT_FIELDS = {
    "session.up": ("boot", "new_boot", None),
    "session.rekeyed": ("key", None, None),
    "peer.dead": ("silent_ns", "missing", None),
    "link.up": ("link", None, None),
    "link.down": ("link", "why", None),
    "handover.prepare": ("term", None, None),
    "handover.off": ("term", None, None),
    "handover": ("term", None, None),
    "sync.done": ("entries", "removed", "ns"),
    "sync.sent": ("entries", None, "ns"),
    "table.full": ("errno", None, None),
    "apply.error": ("errno", None, None),
    "slip": ("ns", None, None),
    "split.offered": ("taken", "refused", "offered"),
    "sweep.done": ("entries", None, "ns"),
    "recon.repaired": ("missing", "extra", "different"),
    "recon.stuck": ("missing", "extra", "different"),
    "verify.done": ("id", None, None),
    "masquerade.trapped": ("connections", None, None),
    "lease.lapsed": ("late_ns", None, None),
    "lease.regained": ("closed_ns", None, None),
    "stream.pressure": ("level", "before", "held"),
}


class CoreError(Exception):
    """What the core could not do; `kind` says whose business it is."""

    def __init__(self, kind, message, errno=0):
        super().__init__(message)
        self.kind = kind
        self.errno = errno


cdef object _raise(c.hak_err e, int err, what):
    """The one place where the core's errors become exceptions."""
    import os

    if e == c.HAK_ESYS:
        raise CoreError("kernel", f"{what}: {os.strerror(err)}", err)
    text = c.hak_strerror(e).decode()
    kind = "config" if e == c.HAK_EINVAL else "internal"
    raise CoreError(kind, f"{what}: {text}")


cdef int _put_text(char *to, Py_ssize_t size, str text) except -1:
    raw = text.encode()
    if len(raw) >= size:
        raise CoreError("config", f"{text!r} is longer than {size - 1} bytes")
    memset(to, 0, size)
    memcpy(to, <const char *>raw, len(raw))
    return 0


cdef int _put_address(c.sockaddr_storage *to, str text, int port) except -1:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        raw = socket.inet_pton(family, text)
    except OSError:
        raise CoreError("config", f"{text!r} is not an IP address") from None
    memset(to, 0, sizeof(to[0]))
    cdef uint16_t be_port = socket.htons(port)
    if family == socket.AF_INET6:
        to.ss_family = c.AF_INET6
        (<c.sockaddr_in6 *>to).sin6_port = be_port
        memcpy(&(<c.sockaddr_in6 *>to).sin6_addr, <const char *>raw, 16)
    else:
        to.ss_family = c.AF_INET
        (<c.sockaddr_in *>to).sin_port = be_port
        memcpy(&(<c.sockaddr_in *>to).sin_addr, <const char *>raw, 4)
    return 0


cdef unsigned _put_keys(uint8_t (*to)[32], object keys) except 0:
    """One to three keys of 32 bytes, one after the other; how many.  No copy of them
    is left with Python."""
    cdef Py_buffer raw
    PyObject_GetBuffer(keys, &raw, PyBUF_SIMPLE)
    try:
        if raw.len % 32 or not 1 <= raw.len // 32 <= c.HAK_KEYS_MAX:
            raise CoreError("config", f"1 to {c.HAK_KEYS_MAX} keys of 32 bytes are needed")
        memcpy(to, raw.buf, raw.len)
        return <unsigned>(raw.len // 32)
    finally:
        PyBuffer_Release(&raw)


cdef class Lease:
    cdef c.hak_lease lease

    def __init__(self):
        c.hak_lease_free(&self.lease)
        if c.hak_lease_init(&self.lease) != c.HAK_OK:
            _raise(c.HAK_ESYS, c_errno, "loading the lease's BPF program")

    def __cinit__(self):
        memset(&self.lease, 0, sizeof(self.lease))
        self.lease.map = self.lease.prog = -1

    def __dealloc__(self):
        c.hak_lease_free(&self.lease)


cdef class Probe:
    cdef c.hak_probe *p

    def __cinit__(self, uint32_t ring_bytes=c.HAK_PROBE_RING):
        cdef const char *what = NULL
        self.p = <c.hak_probe *>calloc(1, sizeof(c.hak_probe))
        if self.p is NULL:
            raise MemoryError
        if c.hak_probe_init(self.p, ring_bytes, &what) != c.HAK_OK:
            free(self.p)
            self.p = NULL
            _raise(c.HAK_ESYS, c_errno, what.decode())

    def __dealloc__(self):
        if self.p is not NULL:
            c.hak_probe_free(self.p)
            free(self.p)


cdef class Watch:
    cdef c.hak_watch *w

    def __cinit__(self, int stop, uint32_t each_ms):
        self.w = <c.hak_watch *>calloc(1, sizeof(c.hak_watch))
        if self.w is NULL:
            raise MemoryError
        if c.hak_watch_open(self.w, stop, each_ms) != c.HAK_OK:
            _raise(c.HAK_ESYS, c_errno, "watching the kernel's interfaces")

    def watch(self, names):
        cdef c.hak_err r
        c.hak_watch_clear(self.w)
        for name in names:
            r = c.hak_watch_add(self.w, name.encode())
            if r == c.HAK_EINVAL:
                _raise(r, 0, f"watching {name!r}")

    def wait(self, uint64_t until_ns):
        cdef unsigned seen
        with nogil:
            seen = c.hak_watch_wait(self.w, until_ns)
        return (bool(seen & c.HAK_WATCH_LINKS), bool(seen & c.HAK_WATCH_RULES),
                bool(seen & c.HAK_WATCH_STOP))

    def __dealloc__(self):
        if self.w is not NULL:
            c.hak_watch_close(self.w)
            free(self.w)


@cython.no_gc_clear     # lease and probe outlive the engine
cdef class Engine:
    cdef c.hak_engine *e
    cdef list _link_names
    cdef Lease _lease
    cdef Probe _probe

    def __cinit__(self):
        self.e = NULL

    def __init__(
        self, *, int cluster, object psk, str serial, str model, str version,
        int priority, links, int port, int heartbeat_ms, int dead_after_ms,
        bint encrypt, interfaces, str gate_table, protocols, exclude_mark,
        bint exclude_local, exclude_networks=(),
        double min_duration_s=0, uint32_t scrub_ms=0, Lease lease=None,
        bint adaptive=False, uint32_t patience_ms=0,
        uint32_t dead_after_max_ms=0, Probe probe=None,
    ):
        cdef c.hak_engine_cfg *cfg
        cdef char why[160]
        cdef int err = 0
        cdef c.hak_err r
        cdef int i

        if self.e is not NULL:
            raise CoreError("internal", "engine initialised twice")
        if not 1 <= len(links) <= c.HAK_LINKS_MAX:
            raise CoreError("config", f"1 to {c.HAK_LINKS_MAX} links are needed")
        if len(interfaces) > c.HAK_IFACES_MAX:
            raise CoreError("config", f"at most {c.HAK_IFACES_MAX} data interfaces")
        cfg = <c.hak_engine_cfg *>calloc(1, sizeof(c.hak_engine_cfg))
        if cfg is NULL:
            raise MemoryError
        try:
            cfg.cluster = cluster
            cfg.priority = priority
            cfg.n_psk = _put_keys(cfg.psk, psk)
            _put_text(cfg.serial, 64, serial)
            _put_text(cfg.model, 64, model)
            _put_text(cfg.version, 64, version)
            for i, (_, ifname, local, peer) in enumerate(links):
                _put_text(cfg.links[i].ifname, 16, ifname)
                _put_address(&cfg.links[i].local, local, port)
                _put_address(&cfg.links[i].peer, peer, port)
            cfg.n_links = len(links)
            cfg.heartbeat_ms = heartbeat_ms
            cfg.dead_after_ms = dead_after_ms
            cfg.dead_after_max_ms = dead_after_max_ms
            cfg.encrypt = encrypt
            for i, name in enumerate(interfaces):
                _put_text(cfg.interfaces[i], 16, name)
            cfg.n_interfaces = len(interfaces)
            _put_text(cfg.gate_table, 32, gate_table)
            for number in range(256) if protocols is None else protocols:
                i = number
                cfg.policy.protocols[i // 32] |= <uint32_t>1 << (i % 32)
            if exclude_mark is not None:
                cfg.policy.mark, cfg.policy.mark_mask = exclude_mark
            cfg.policy.exclude_local = exclude_local
            if len(exclude_networks) > c.HAK_NETS_MAX:
                raise CoreError("config", f"at most {c.HAK_NETS_MAX} excluded networks")
            # in one order, whatever the file's: the two nodes compare their policies
            for i, (raw, bits) in enumerate(sorted(exclude_networks)):
                cfg.policy.nets[i].l3 = c.AF_INET if len(raw) == 4 else c.AF_INET6
                cfg.policy.nets[i].bits = bits
                memcpy(cfg.policy.nets[i].addr, <const char *>raw, len(raw))
            cfg.policy.min_ms = <uint32_t>(min_duration_s * 1000)
            cfg.policy.n_nets = len(exclude_networks)
            cfg.larval_timeout = LARVAL_TIMEOUT
            cfg.scrub_ms = scrub_ms
            if lease is not None:
                self._lease = lease
                cfg.lease = &lease.lease
            if probe is not None:
                self._probe = probe
                cfg.probe = probe.p
            cfg.adaptive = adaptive
            cfg.patience_ms = patience_ms
            with nogil:
                r = c.hak_engine_new(&self.e, cfg, why, &err)
            if r != c.HAK_OK:
                _raise(r, err, why.decode(errors="replace"))
            self._link_names = [link[0] for link in links]
        finally:
            c.hak_wipe(cfg, sizeof(c.hak_engine_cfg))
            free(cfg)

    cdef c.hak_engine *_get(self) except NULL:
        if self.e is NULL:
            raise CoreError("internal", "the engine is closed")
        return self.e

    def start(self):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_err r
        with nogil:
            r = c.hak_engine_start(e)
        if r != c.HAK_OK:
            _raise(r, c_errno, "threads")

    def close(self):
        cdef c.hak_engine *e = self.e
        self.e = NULL
        with nogil:
            c.hak_engine_free(e)

    def __dealloc__(self):
        c.hak_engine_free(self.e)

    def bye(self):
        cdef c.hak_engine *e = self._get()
        with nogil:
            c.hak_engine_bye(e)

    def activate(self, uint32_t term):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_swap_times t
        cdef c.hak_err r
        cdef int err
        with nogil:
            r = c.hak_engine_activate(e, term, &t)
            err = c_errno
        if r != c.HAK_OK:
            _raise(r, err, "opening the gate")
        return {"drain_ns": t.drain_ns, "gate_ns": t.gate_ns,
                "announce_ns": t.announce_ns, "total_ns": t.total_ns}

    def passivate(self, uint32_t term):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_swap_times t
        cdef c.hak_err r
        cdef int err
        with nogil:
            r = c.hak_engine_passivate(e, &t)
            err = c_errno
        if r != c.HAK_OK:
            _raise(r, err, "closing the gate")
        return {"gate_ns": t.gate_ns, "total_ns": t.total_ns}

    def arm(self, uint32_t term):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_swap_times t
        cdef c.hak_err r
        cdef int err
        with nogil:
            r = c.hak_engine_arm(e, term, &t)
            err = c_errno
        if r != c.HAK_OK:
            _raise(r, err, "opening the gate")
        return {"gate_ns": t.gate_ns, "announce_ns": t.announce_ns, "total_ns": t.total_ns}

    def handover(self, uint32_t term, uint32_t timeout_ms, uint32_t prepare_ms=0):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_handover_times t
        cdef c.hak_err r
        cdef int err
        with nogil:
            r = c.hak_engine_handover(e, term, timeout_ms, prepare_ms, &t)
            err = c_errno
        if r == c.HAK_ESTATE:
            return None
        if r != c.HAK_OK:
            _raise(r, err, "moving the gate")
        return {"armed_ns": t.armed_ns, "closed_ns": t.closed_ns, "applied_ns": t.applied_ns}

    def gate_is_open(self):
        cdef c.hak_engine *e = self._get()
        cdef int r
        with nogil:
            r = c.hak_engine_gate(e)
        if r == -2:
            _raise(c.HAK_ESYS, c_errno, "asking for the gate")
        return None if r < 0 else bool(r)

    def guard(self, str interface):
        cdef c.hak_err r
        raw = interface.encode()
        if self._lease is None:
            r = c.hak_lease_detach(raw)
        else:
            r = c.hak_lease_attach(&self._lease.lease, raw)
        if r != c.HAK_OK:
            _raise(r, c_errno, f"the lease's filters on {interface}")

    def lease(self):
        cdef c.hak_lease_info i
        c.hak_engine_lease(self._get(), &i)
        return {"enforced": bool(i.enforced), "state": i.state, "left_ns": i.left_ns,
                "refused": i.refused}

    def announce(self):
        cdef c.hak_engine *e = self._get()
        cdef unsigned n
        with nogil:
            n = c.hak_engine_announce(e)
        return n

    def sweep(self, natural):
        cdef c.hak_engine *e = self._get()
        cdef uint32_t table[256][16]
        memset(table, 0, sizeof(table))
        for protocol, states in natural.items():
            for state, seconds in states.items():
                table[<uint8_t>protocol][<uint8_t>state & 15] = seconds
        with nogil:
            c.hak_engine_sweep(e, table)

    def want_sync(self):
        c.hak_engine_want_sync(self._get())

    def verify(self, uint32_t id, bint repair):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_err r
        with nogil:
            r = c.hak_engine_verify(e, id, repair)
        return r == c.HAK_OK

    def set_status(self, *, int mode, int forced, int quality, int state,
                   uint32_t term, uint64_t since):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_status s
        memset(&s, 0, sizeof(s))
        s.mode, s.forced, s.quality, s.state = mode, forced, quality, state
        s.term, s.since_ms = term, since
        with nogil:
            c.hak_engine_set_status(e, &s)

    def set_link(self, unsigned link, unsigned state):
        c.hak_engine_set_link(self._get(), link, state)

    def set_priority(self, uint16_t priority):
        cdef c.hak_engine *e = self._get()
        with nogil:
            c.hak_engine_set_priority(e, priority)

    def set_keys(self, psk):
        cdef c.hak_engine *e = self._get()
        cdef uint8_t keys[3][32]
        cdef unsigned n
        cdef c.hak_err r
        try:
            n = _put_keys(keys, psk)
            r = c.hak_engine_set_keys(e, keys, n)
        finally:
            c.hak_wipe(keys, sizeof(keys))
        if r != c.HAK_OK:
            _raise(r, 0, "keys")

    def set_local_addresses(self, addresses):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_locals *found = <c.hak_locals *>calloc(1, sizeof(c.hak_locals))
        if found is NULL:
            raise MemoryError
        try:
            for raw in addresses:
                if len(raw) not in (4, 16):
                    raise CoreError("internal", "an address has 4 or 16 bytes")
                family = c.AF_INET if len(raw) == 4 else c.AF_INET6
                if not c.hak_locals_add(found, family, <const uint8_t *><const char *>raw):
                    raise CoreError("kernel", "more than 1024 local addresses")
            c.hak_engine_set_locals(e, found)
        finally:
            free(found)

    def set_announcements(self, items):
        cdef c.hak_engine *e = self._get()
        cdef const char *names[256]
        cdef const char *addrs[256]
        cdef unsigned bad = 0
        cdef unsigned i
        cdef c.hak_err r
        if len(items) > 128:
            raise CoreError("config", "at most 128 addresses can be announced")
        raw = [(name.encode(), addr.encode()) for name, addr in items]
        for i in range(len(raw)):
            names[i], addrs[i] = raw[i][0], raw[i][1]
        r = c.hak_engine_set_announcements(e, len(raw), names, addrs, &bad)
        if r != c.HAK_OK:
            _raise(r, c_errno, f"announcing {items[bad][1]} on {items[bad][0]}")

    @property
    def event_fd(self):
        return c.hak_engine_event_fd(self._get())

    def events(self):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_event v
        out = []
        while c.hak_engine_event(e, &v):
            name = EVENT_NAMES[v.type]
            item = {"type": name, "mono_ns": v.mono_ns}
            for key, value in zip(_EVENT_FIELDS.get(name, ()), (v.a, v.b, v.c)):
                if key is not None:
                    item[key] = value
            if "new_boot" in item:
                item["new_boot"] = bool(item["new_boot"])
            text = v.text.decode(errors="replace")
            if text:
                item["reason" if name == "hello.refused" else "text"] = text
            out.append(item)
        return out

    def peer(self):
        cdef c.hak_peer p
        c.hak_engine_peer(self._get(), &p)
        if not p.known:
            return None
        return {
            "serial": p.hello.serial.decode(), "model": p.hello.model.decode(),
            "version": p.hello.version.decode(), "boot_id": p.hello.boot_id,
            "boot_ms": p.hello.boot_ms, "priority": p.hello.priority,
            "wire_min": p.hello.wire_min, "wire_max": p.hello.wire_max,
            "alive": p.alive, "mode": p.status.mode, "forced": p.status.forced,
            "quality": p.status.quality, "state": p.status.state,
            "policy": p.hello.policy, "policy_differs": bool(p.policy_differs),
            "term": p.status.term, "since": p.status.since_ms,
            "heard_ns_ago": max(0, time.monotonic_ns() - p.heard_ns),
            "limit_ns": p.limit_ns, "longest_ns": p.longest_ns,
        }

    def links(self):
        cdef c.hak_engine *e = self._get()
        cdef c.hak_link_info link
        out = []
        for i, name in enumerate(self._link_names):
            c.hak_engine_link(e, i, &link)
            out.append({"name": name, "up": link.up, "since_ms": link.since_ms,
                        "rtt_us": link.rtt_us if link.rtt_us >= 0 else None})
        return out

    def stream(self):
        cdef c.hak_stream_info s
        c.hak_engine_stream(self._get(), &s)
        return {
            "role": s.role, "sequence": s.sequence, "acked": s.acked,
            "lag_records": s.lag_records, "lag_ms": s.lag_ns / 1e6,
            "encrypted": s.encrypted, "synced": s.synced,
            "generation": s.generation, "published": s.published,
            "applied": s.applied, "held": s.held, "key": s.key,
            "pressure": s.pressure, "pressure_cause": c.hak_cause_name(s.cause).decode() or None,
            "peer_fill": s.peer_fill if s.peer_fill >= 0 else None,
            "peer_max": s.peer_max or None,
        }

    def table(self):
        cdef c.hak_table t
        c.hak_engine_table(self._get(), &t)
        return {"equal": None if t.equal == 2 else bool(t.equal), "verified": t.verified,
                "as_of": t.as_of, "age_ms": t.age_ms, "entries": t.entries,
                "missing": t.missing, "extra": t.extra, "different": t.different,
                "repaired": t.repaired}

    def stats(self):
        cdef const c.hak_stats *s = c.hak_engine_stats(self._get())
        return {name: c.hak_stat_value(s, i) for i, name in enumerate(STAT_NAMES)}

    def table_count(self):
        cdef c.hak_engine *e = self._get()
        cdef int64_t n
        with nogil:
            n = c.hak_engine_table_count(e, NULL)
        if n < 0:
            _raise(c.HAK_ESYS, c_errno, "counting conntrack entries")
        return n

    def table_max(self):
        cdef c.hak_engine *e = self._get()
        cdef uint32_t most = 0
        with nogil:
            c.hak_engine_table_count(e, &most)
        return most
