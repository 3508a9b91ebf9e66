/* hak_probe.c - see hak_probe.h.  Loading: libbpf; ring: kernel/bpf/ringbuf.c. */
#include "hak_probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include "hak_probe_code.h"

/* linux/bpf.h since 6.4 */
#define PROG_TYPE_NETFILTER ((enum bpf_prog_type)32)
#define ATTACH_NETFILTER ((enum bpf_attach_type)45)

enum {
	/* Just before nf_confirm, which has the last priority of all; a place there may be
	 * taken, and no program shares one. */
	PRIORITY = INT_MAX - 1, PRIORITY_TRIES = 32,
	ZONE_ORIG = 1, ZONE_REPLY = 2,	/* NF_CT_ZONE_DIR_* */
};

/* union bpf_attr of BPF_LINK_CREATE for netfilter, since 6.4 */
struct link_create {
	uint32_t prog_fd, target, attach_type, flags;
	uint32_t pf, hook;
	int32_t priority;
	uint32_t netfilter_flags;
};

/* ---- loading --------------------------------------------------------- */

static int silent(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level, (void)format, (void)args;
	return 0;
}

/* Types by their number in the running kernel's BTF, for a map that the program reads. */
static bool name_types(struct bpf_object *o)
{
	struct bpf_map *m = bpf_object__find_map_by_name(o, ".rodata");
	struct btf *b = btf__load_vmlinux_btf();
	size_t size = 0;
	uint32_t *ids = m ? (uint32_t *)(uintptr_t)bpf_map__initial_value(m, &size) : NULL;
	int conn = -1, cache = -1;

	if (b) {
		conn = btf__find_by_name_kind(b, "nf_conn", BTF_KIND_STRUCT);
		cache = btf__find_by_name_kind(b, "nf_conntrack_ecache", BTF_KIND_STRUCT);
	}
	btf__free(b);
	if (!ids || size != 2 * sizeof *ids || conn <= 0 || cache <= 0) {
		errno = EOPNOTSUPP;
		return false;
	}
	ids[0] = (uint32_t)conn;
	ids[1] = (uint32_t)cache;
	return true;
}

static int keep(int fd)
{
	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static bool map_all(struct hak_probe *p)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *v;

	p->shared = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, p->memory, 0);
	if (p->shared == MAP_FAILED)
		p->shared = NULL;
	/* What we write, what the kernel writes.  The ring is mapped twice in a row there,
	 * so that a record at its end is in one piece; one page of that is enough here. */
	v = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, p->ring, 0);
	p->consumer = v == MAP_FAILED ? NULL : (void *)v;
	v = mmap(NULL, 2 * page + p->size, PROT_READ, MAP_SHARED, p->ring, (off_t)page);
	if (v != MAP_FAILED) {
		p->producer = (void *)v;
		p->data = v + page;
	}
	return p->shared && p->consumer && p->producer;
}

static enum hak_err failed(struct hak_probe *p, struct bpf_object *o)
{
	int cause = errno;

	bpf_object__close(o);
	hak_probe_free(p);
	errno = cause;
	return HAK_ESYS;
}

static int hook(int program, uint32_t pf, uint32_t at)
{
	struct link_create a = {
		.prog_fd = (uint32_t)program, .attach_type = ATTACH_NETFILTER, .pf = pf,
		.hook = at, .priority = PRIORITY,
	};
	int fd = -1;

	for (unsigned i = 0; i < PRIORITY_TRIES; i++, a.priority--) {
		fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &a, sizeof a);
		if (fd >= 0 || errno != EBUSY)
			break;
	}
	return fd;
}

/* For packets that leave and those for this host; where nf_confirm is too. */
static bool hook_all(struct hak_probe *p)
{
	static const uint32_t pf[] = { NFPROTO_IPV4, NFPROTO_IPV6 };
	static const uint32_t at[] = { NF_INET_POST_ROUTING, NF_INET_LOCAL_IN };

	for (unsigned i = 0; i < HAK_PROBE_HOOKS; i++) {
		p->hooks[i] = hook(p->packet, pf[i & 1], at[i >> 1]);
		if (p->hooks[i] < 0)
			return false;
	}
	return true;
}

enum hak_err hak_probe_init(struct hak_probe *p, uint32_t size, const char **what)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "hak2k");
	struct bpf_program *packet, *message;
	struct bpf_map *ring;
	struct bpf_object *o;

	memset(p, 0, sizeof *p);
	p->packet = p->message = p->ring = p->memory = -1;
	for (unsigned i = 0; i < HAK_PROBE_HOOKS; i++)
		p->hooks[i] = -1;
	(void)libbpf_set_print(silent);
	*what = "reading the probe's program";
	o = bpf_object__open_mem(hak_probe_code, sizeof hak_probe_code, &opts);
	if (!o)
		return failed(p, NULL);
	ring = bpf_object__find_map_by_name(o, "ring");
	packet = bpf_object__find_program_by_name(o, "packet");
	message = bpf_object__find_program_by_name(o, "message");
	*what = "looking up conntrack's types in /sys/kernel/btf/vmlinux";
	if (!name_types(o))
		return failed(p, o);
	(void)bpf_program__set_type(packet, PROG_TYPE_NETFILTER);
	(void)bpf_program__set_expected_attach_type(packet, ATTACH_NETFILTER);
	*what = "loading the probe's program";
	if (bpf_map__set_max_entries(ring, size) || bpf_object__load(o))
		return failed(p, o);
	p->size = bpf_map__max_entries(ring);		/* rounded by libbpf */
	p->packet = keep(bpf_program__fd(packet));
	p->message = keep(bpf_program__fd(message));
	p->ring = keep(bpf_map__fd(ring));
	p->memory = keep(bpf_object__find_map_fd_by_name(o, ".bss"));
	*what = "mapping the probe's ring";
	if (p->packet < 0 || p->message < 0 || p->ring < 0 || p->memory < 0 || !map_all(p))
		return failed(p, o);
	*what = "putting the probe into the packets' way";
	if (!hook_all(p))
		return failed(p, o);
	bpf_object__close(o);
	(void)malloc_trim(0);	/* the kernel's types were some megabytes */
	return HAK_OK;
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void hak_probe_free(struct hak_probe *p)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (unsigned i = 0; i < HAK_PROBE_HOOKS; i++)
		shut(&p->hooks[i]);
	if (p->shared)
		(void)munmap(p->shared, page);
	if (p->consumer)
		(void)munmap((void *)p->consumer, page);
	if (p->producer)
		(void)munmap((void *)(uintptr_t)p->producer, 2 * page + p->size);
	p->shared = NULL;
	p->consumer = NULL;
	p->producer = NULL;
	p->data = NULL;
	shut(&p->packet);
	shut(&p->message);
	shut(&p->ring);
	shut(&p->memory);
}

enum hak_err hak_probe_attach(struct hak_probe *p, int fd, uint32_t portid,
			      const struct hak_policy *policy)
{
	hak_probe_tell(p, false);
	p->shared->portid = portid;
	p->shared->some = 0;
	for (unsigned i = 0; i < 8; i++) {
		p->shared->protocols[i] = policy->protocols[i];
		p->shared->some |= policy->protocols[i] != UINT32_MAX;
	}
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &p->message, sizeof p->message)
		       ? HAK_ESYS : HAK_OK;
}

/* ---- the ring -------------------------------------------------------- */

static uint64_t produced(const struct hak_probe *p)
{
	return atomic_load_explicit(p->producer, memory_order_acquire);
}

void hak_probe_tell(struct hak_probe *p, bool on)
{
	if (on)
		atomic_store(&p->from, produced(p));
	__atomic_store_n(&p->shared->on, on, __ATOMIC_RELEASE);
}

void hak_probe_quiet(struct hak_probe *p, bool quiet)
{
	__atomic_store_n(&p->shared->quiet, quiet, __ATOMIC_SEQ_CST);
}

static uint32_t length(const struct hak_probe *p)
{
	const void *header = p->data + (p->at & (p->size - 1));

	return __atomic_load_n((const uint32_t *)header, __ATOMIC_ACQUIRE);
}

bool hak_probe_busy(const struct hak_probe *p)
{
	return p->at < produced(p) && length(p) & BPF_RINGBUF_BUSY_BIT;
}

bool hak_probe_next(struct hak_probe *p, struct hak_sight *s)
{
	uint64_t from = atomic_load_explicit(&p->from, memory_order_relaxed);

	if (p->at < from)
		p->at = from;
	while (p->at < produced(p)) {
		uint32_t len = length(p);
		const struct hak_seen_message *m =
			(const void *)(p->data + (p->at & (p->size - 1)) + BPF_RINGBUF_HDR_SZ);

		if (len & BPF_RINGBUF_BUSY_BIT)		/* a processor is about to fill it */
			return false;
		p->at += ((len & ~(uint32_t)BPF_RINGBUF_DISCARD_BIT) + BPF_RINGBUF_HDR_SZ + 7) & ~7u;
		if (len & BPF_RINGBUF_DISCARD_BIT)
			continue;
		if (m->what == HAK_SEEN_MESSAGE)
			*s = (struct hak_sight){ .message = m->bytes, .len = m->len };
		else
			*s = (struct hak_sight){ .seen = (const void *)m };
		return true;
	}
	return false;
}

void hak_probe_done(struct hak_probe *p)
{
	atomic_store_explicit(p->consumer, p->at, memory_order_release);
}

bool hak_probe_lost(struct hak_probe *p)
{
	uint64_t lost = __atomic_load_n(&p->shared->lost, __ATOMIC_RELAXED);
	bool more = lost != p->lost;

	p->lost = lost;
	return more;
}

unsigned hak_probe_backlog(const struct hak_probe *p)
{
	return (unsigned)((produced(p) - atomic_load(p->consumer)) * 100 / p->size);
}

/* ---- what a note says ------------------------------------------------ */

static void put_tuple(struct hak_tuple *t, const struct hak_seen *s, unsigned at)
{
	const struct hak_seen_long *l = (const void *)s;
	bool long_ = s->flags & HAK_SEEN_LONG;

	if (s->l3 == AF_INET6) {
		memcpy(t->src, l->addrs[at], 16);
		memcpy(t->dst, l->addrs[at + 1], 16);
	} else {
		memcpy(t->src, long_ ? l->addrs[at] : &s->addrs[at], 4);
		memcpy(t->dst, long_ ? l->addrs[at + 1] : &s->addrs[at + 1], 4);
	}
	t->sport = ntohs(s->ports[at]);
	t->dport = ntohs(s->ports[at + 1]);
}

bool hak_probe_event(const struct hak_seen *s, struct hak_ctmsg *out)
{
	const struct hak_seen_long *l = (const void *)s;
	struct hak_flow *f = &out->flow;

	if (s->l3 != AF_INET && s->l3 != AF_INET6)
		return false;
	memset(f, 0, sizeof *f);
	out->what = s->what;
	out->seq = out->portid = 0;
	out->error = 0;
	out->dump_intr = false;
	f->l3 = s->l3;
	f->l4proto = s->l4proto;
	f->l4kind = hak_l4kind_of(s->l4proto);
	f->have = HAK_HAS_REPLY | HAK_HAS_STATUS;
	if (s->mark || s->flags & HAK_SEEN_MARK)
		f->have |= HAK_HAS_MARK;
	put_tuple(&f->orig, s, 0);
	put_tuple(&f->reply, s, 2);
	if (f->l4kind == HAK_L4_NONE)
		f->orig.sport = f->orig.dport = f->reply.sport = f->reply.dport = 0;
	if (s->zone) {
		f->zone = s->zone;
		f->zone_dir = s->zone_dir == ZONE_ORIG ? HAK_ZONE_ORIG :
			      s->zone_dir == ZONE_REPLY ? HAK_ZONE_REPLY : HAK_ZONE_BOTH;
	}
	f->status = s->status;
	f->mark = s->mark;
	if (s->l4proto == IPPROTO_TCP && s->state < TCP_CONNTRACK_MAX) {
		f->have |= HAK_HAS_TCP | HAK_HAS_TCP_WSCALE | HAK_HAS_TCP_FLAGS;
		f->tcp_state = s->state;
		memcpy(f->tcp_wscale, s->tcp_wscale, 2);
		memcpy(f->tcp_flags, s->tcp_flags, 2);
	}
	if (!(s->flags & HAK_SEEN_LONG))
		return true;
	if (s->l4proto == IPPROTO_SCTP) {
		f->have |= HAK_HAS_SCTP | HAK_HAS_SCTP_VTAG;
		f->sctp_state = s->state;
		f->sctp_vtag[0] = ntohl(l->vtag[0]);
		f->sctp_vtag[1] = ntohl(l->vtag[1]);
	}
	if (l->labels[0] | l->labels[1]) {
		f->have |= HAK_HAS_LABELS;
		memcpy(f->labels, l->labels, sizeof f->labels);
	}
	return true;
}

bool hak_probe_same(const struct hak_seen *x, const struct hak_seen *y)
{
	const struct hak_seen_long *a = (const void *)x, *b = (const void *)y;

	if (x->l3 != y->l3 || x->l4proto != y->l4proto || x->zone != y->zone ||
	    x->zone_dir != y->zone_dir || (x->flags ^ y->flags) & HAK_SEEN_LONG ||
	    memcmp(x->ports, y->ports, sizeof x->ports / 2))
		return false;
	return x->flags & HAK_SEEN_LONG ? !memcmp(a->addrs, b->addrs, sizeof a->addrs / 2) :
					  !memcmp(x->addrs, y->addrs, sizeof x->addrs / 2);
}
