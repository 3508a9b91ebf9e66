# Transcription of csrc/hak_engine.h and what it needs; nothing else.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<sys/socket.h>" nogil:
    int AF_INET
    int AF_INET6

    struct sockaddr_storage:
        uint16_t ss_family


cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr

    struct in6_addr:
        uint8_t s6_addr[16]

    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr

    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr


cdef extern from "hak_err.h" nogil:
    enum hak_err:
        HAK_OK
        HAK_ESYS
        HAK_EINVAL
        HAK_ESTATE
        HAK_ESPACE
    const char *hak_strerror(hak_err e)


cdef extern from "hak_crypto.h" nogil:
    void hak_wipe(void *p, size_t n)


cdef extern from "hak_wire.h" nogil:
    enum:
        HAK_WIRE_VERSION
        HAK_PORT


cdef extern from "hak_policy.h" nogil:
    struct hak_locals:
        unsigned n

    enum:
        HAK_NETS_MAX

    struct hak_net:
        uint8_t l3
        uint8_t bits
        uint8_t addr[16]

    struct hak_policy:
        uint32_t protocols[8]
        uint32_t mark
        uint32_t mark_mask
        bint exclude_local
        uint32_t min_ms
        unsigned n_nets
        hak_net nets[64]

    bint hak_locals_add(hak_locals *l, uint8_t l3, const uint8_t *a)


cdef extern from "hak_control.h" nogil:
    struct hak_status:
        uint8_t mode
        uint8_t forced
        uint8_t quality
        uint8_t state
        uint32_t term
        uint64_t since_ms

    struct hak_hello:
        uint8_t wire_min
        uint8_t wire_max
        bint encrypt
        uint64_t boot_id
        uint64_t boot_ms
        uint16_t priority
        char *serial
        char *model
        char *version
        uint64_t policy


cdef extern from "hak_probe.h" nogil:
    struct hak_probe:
        pass

    enum: HAK_PROBE_RING

    hak_err hak_probe_init(hak_probe *p, uint32_t size, const char **what)
    void hak_probe_free(hak_probe *p)

cdef extern from "hak_lease.h" nogil:
    struct hak_lease:
        int map
        int prog

    hak_err hak_lease_init(hak_lease *l)
    void hak_lease_free(hak_lease *l)
    hak_err hak_lease_attach(const hak_lease *l, const char *ifname)
    hak_err hak_lease_detach(const char *ifname)


cdef extern from "hak_watch.h" nogil:
    enum:
        HAK_WATCH_LINKS
        HAK_WATCH_RULES
        HAK_WATCH_STOP

    struct hak_watch:
        int events
        int links

    hak_err hak_watch_open(hak_watch *w, int stop, uint32_t each_ms)
    void hak_watch_close(hak_watch *w)
    void hak_watch_clear(hak_watch *w)
    hak_err hak_watch_add(hak_watch *w, const char *name)
    unsigned hak_watch_wait(hak_watch *w, uint64_t until)


cdef extern from "hak_stat.h" nogil:
    enum:
        HAK_STAT_COUNT

    struct hak_stats:
        pass

    const char *hak_stat_name(unsigned i)


cdef extern from "hak_engine.h" nogil:
    enum:
        HAK_KEYS_MAX
        HAK_LINKS_MAX
        HAK_IFACES_MAX
        HAK_TEXT
        HAK_IDLE
        HAK_PASSIVE
        HAK_ACTIVE

    struct hak_link_cfg:
        char *ifname
        sockaddr_storage local
        sockaddr_storage peer

    struct hak_engine_cfg:
        uint16_t cluster
        uint16_t priority
        uint8_t psk[3][32]
        unsigned n_psk
        char *serial
        char *model
        char *version
        hak_link_cfg links[4]
        unsigned n_links
        uint32_t heartbeat_ms
        uint32_t dead_after_ms
        uint32_t dead_after_max_ms
        bint encrypt
        char interfaces[64][16]
        unsigned n_interfaces
        char *gate_table
        hak_policy policy
        uint32_t larval_timeout
        uint32_t scrub_ms
        bint adaptive
        uint32_t patience_ms
        hak_lease *lease
        hak_probe *probe

    struct hak_lease_info:
        bint enforced
        int state
        int64_t left_ns
        uint64_t refused

    struct hak_event:
        uint8_t type
        uint64_t mono_ns
        uint64_t a
        uint64_t b
        uint64_t c
        char *text

    struct hak_peer:
        bint known
        bint alive
        bint policy_differs
        hak_hello hello
        hak_status status
        uint64_t heard_ns
        uint64_t limit_ns
        uint64_t longest_ns

    struct hak_link_info:
        bint up
        uint64_t since_ms
        int64_t rtt_us

    enum hak_cause:
        HAK_CAUSES
    const char *hak_cause_name(hak_cause c)

    struct hak_stream_info:
        int role
        uint64_t sequence
        uint64_t acked
        uint64_t lag_records
        uint64_t lag_ns
        uint64_t published
        uint64_t applied
        bint encrypted
        bint synced
        uint32_t generation
        uint32_t held
        unsigned pressure
        hak_cause cause
        int peer_fill
        uint32_t peer_max
        uint32_t key

    struct hak_swap_times:
        uint64_t drain_ns
        uint64_t gate_ns
        uint64_t announce_ns
        uint64_t total_ns

    struct hak_handover_times:
        uint64_t armed_ns, closed_ns, applied_ns

    struct hak_table:
        uint8_t equal
        uint32_t verified
        uint64_t as_of
        uint32_t age_ms
        uint32_t entries
        uint32_t missing
        uint32_t extra
        uint32_t different
        uint32_t repaired

    struct hak_engine:
        pass

    hak_err hak_engine_new(hak_engine **out, const hak_engine_cfg *cfg, char *why, int *err)
    hak_err hak_engine_start(hak_engine *e)
    void hak_engine_free(hak_engine *e)
    void hak_engine_bye(hak_engine *e)
    hak_err hak_engine_activate(hak_engine *e, uint32_t term, hak_swap_times *t)
    hak_err hak_engine_passivate(hak_engine *e, hak_swap_times *t)
    hak_err hak_engine_arm(hak_engine *e, uint32_t term, hak_swap_times *t)
    hak_err hak_engine_handover(hak_engine *e, uint32_t term, uint32_t timeout_ms,
                                uint32_t prepare_ms, hak_handover_times *t)
    int hak_engine_gate(hak_engine *e)
    void hak_engine_lease(hak_engine *e, hak_lease_info *out)
    unsigned hak_engine_announce(hak_engine *e)
    void hak_engine_sweep(hak_engine *e, const uint32_t (*natural)[16])
    void hak_engine_want_sync(hak_engine *e)
    hak_err hak_engine_verify(hak_engine *e, uint32_t id, bint repair) nogil
    void hak_engine_table(hak_engine *e, hak_table *out)
    hak_err hak_engine_set_keys(hak_engine *e, const uint8_t (*psk)[32], unsigned n)
    void hak_engine_set_link(hak_engine *e, unsigned i, unsigned state)
    void hak_engine_set_priority(hak_engine *e, uint16_t priority)
    void hak_engine_set_status(hak_engine *e, const hak_status *s)
    hak_err hak_engine_set_locals(hak_engine *e, const hak_locals *l)
    hak_err hak_engine_set_announcements(hak_engine *e, unsigned n, const char **ifnames,
                                         const char **addrs, unsigned *bad)
    int hak_engine_event_fd(const hak_engine *e)
    bint hak_engine_event(hak_engine *e, hak_event *out)
    void hak_engine_peer(hak_engine *e, hak_peer *out)
    void hak_engine_link(hak_engine *e, unsigned i, hak_link_info *out)
    void hak_engine_stream(hak_engine *e, hak_stream_info *out)
    const hak_stats *hak_engine_stats(const hak_engine *e)
    uint64_t hak_stat_value(const hak_stats *s, unsigned i)
    int64_t hak_engine_table_count(hak_engine *e, uint32_t *max)
    const char *hak_event_name(unsigned type)
