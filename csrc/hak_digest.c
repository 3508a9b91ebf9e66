/* hak_digest.c - see hak_digest.h. */
#include "hak_digest.h"
#include "hak_pages.h"
#include "hak_tcp.h"
#include "hak_wire.h"

#include <sys/mman.h>
#include <linux/netfilter/nf_conntrack_common.h>

enum {
	SUMS_SIZE = sizeof(uint64_t) << HAK_DIGEST_BITS_MAX,
	MAP_SIZE = HAK_DIGEST_MAP * sizeof(uint64_t),
	CONTENT_MAX = 256,
	BITS_SMALL = 14, BITS_LARGE = 18,	/* of tables, as brief sums see them */
};

/* With all that it calls in one piece. */
#define HOT __attribute__((flatten))

/* ---- memory ---------------------------------------------------------- */

enum hak_err hak_digest_init(struct hak_digest *d)
{
	void *p = mmap(NULL, SUMS_SIZE + 4 * (size_t)MAP_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	memset(d, 0, sizeof *d);
	if (p == MAP_FAILED)
		return HAK_ESYS;
	d->sums = p;
	d->dirty = d->sums + ((size_t)1 << HAK_DIGEST_BITS_MAX);
	d->scope = d->dirty + HAK_DIGEST_MAP;
	d->marked = d->scope + HAK_DIGEST_MAP;
	d->known = d->marked + HAK_DIGEST_MAP;
	d->bits = HAK_DIGEST_BITS_MIN;
	return HAK_OK;
}

void hak_digest_free(struct hak_digest *d)
{
	if (d->sums)
		munmap(d->sums, SUMS_SIZE + 4 * (size_t)MAP_SIZE);
	memset(d, 0, sizeof *d);
}

void hak_digest_rest(struct hak_digest *d)
{
	d->open = d->copying = false;
	hak_pages_back(d->sums, SUMS_SIZE);
}

/* ---- rounds ---------------------------------------------------------- */

static uint32_t words(const struct hak_digest *d)
{
	return (uint32_t)1 << (d->bits - 6);
}

unsigned hak_digest_bits(uint64_t entries)
{
	unsigned bits = HAK_DIGEST_BITS_MIN;

	while (bits < HAK_DIGEST_BITS_MAX && (uint64_t)1 << bits < entries)
		bits++;
	return bits;
}

void hak_digest_restart(struct hak_digest *d)
{
	for (uint32_t i = 0; i < words(d); i++)
		for (uint64_t left = d->scope[i]; left; left &= left - 1)
			d->sums[i * 64 + (unsigned)__builtin_ctzll(left)] = 0;
}

void hak_digest_begin(struct hak_digest *d, unsigned bits, const uint8_t session_key[16],
		      uint32_t round)
{
	uint8_t seed[5];
	struct hak_wr k = hak_wr_on(d->key, sizeof d->key);

	d->bits = bits;
	for (uint8_t i = 0; i < 2; i++) {
		struct hak_wr w = hak_wr_on(seed, sizeof seed);

		hak_wr_u32(&w, round);
		hak_wr_u8(&w, i);
		hak_wr_u64(&k, hak_siphash(seed, sizeof seed, session_key));
	}
	for (uint32_t i = 0; i < words(d); i++) {
		d->dirty[i] = d->marked[i] = d->known[i] = 0;
		d->scope[i] = ~(uint64_t)0;
	}
	hak_digest_restart(d);
	d->brief = false;
	d->open = true;
	d->copying = false;
}

void hak_digest_again(struct hak_digest *d)
{
	for (uint32_t i = 0; i < words(d); i++) {
		if (d->brief)
			d->known[i] = (d->known[i] | (d->scope[i] & ~d->dirty[i])) & ~d->marked[i];
		d->scope[i] = (d->scope[i] & d->dirty[i]) | d->marked[i];
		d->dirty[i] = d->marked[i] = 0;
	}
	hak_digest_restart(d);
	d->open = true;
	d->copying = false;
}

/* ---- entries --------------------------------------------------------- */

uint32_t hak_digest_slot(const struct hak_digest *d, const struct hak_flow *f)
{
	return (uint32_t)(hak_flow_hash(f, d->key) >> (64 - d->bits));
}

/* An expectation's end is told by the expected tuple alone, and without its zone. */
static struct hak_flow expected(const struct hak_expect *x)
{
	return (struct hak_flow){ .l3 = x->l3, .l4proto = x->l4proto, .l4kind = x->l4kind,
				  .orig = x->tuple };
}

uint32_t hak_digest_expect_slot(const struct hak_digest *d, const struct hak_expect *x)
{
	struct hak_flow f = expected(x);

	return hak_digest_slot(d, &f);
}

static void put_tuple(struct hak_wr *w, uint8_t l3, const struct hak_tuple *t)
{
	hak_wr_copy(w, t->src, hak_addr_len(l3));
	hak_wr_copy(w, t->dst, hak_addr_len(l3));
	hak_wr_u16(w, t->sport);
	hak_wr_u16(w, t->dport);
}

/* What TCP's window tracking knows is scaled; but ctnetlink takes scales only with the
 * flag both ways, and they are told with ESTABLISHED: where a handshake ends with a FIN,
 * or has not ended, the nodes need not both know both. */
static bool scaled(const struct hak_flow *f)
{
	return (f->have & HAK_HAS_TCP_WSCALE) && (f->have & HAK_HAS_TCP_FLAGS) &&
	       f->tcp_state == TCP_CONNTRACK_ESTABLISHED &&
	       f->tcp_flags[0] & f->tcp_flags[1] & IP_CT_TCP_FLAG_WINDOW_SCALE;
}

/* All that is compared, in one canonical form: what is absent is zero, so an entry
 * that the kernel made and one that ctnetlink made read the same. */
static void put_content(struct hak_wr *w, const struct hak_flow *f)
{
	static const struct hak_seqadj no_adj[2];
	uint32_t status = hak_wire_status(f->status);
	bool child = f->have & HAK_HAS_MASTER, tcp = f->have & HAK_HAS_TCP;
	bool adj = f->have & HAK_HAS_SEQADJ && memcmp(f->seqadj, no_adj, sizeof no_adj) != 0;

	put_tuple(w, f->l3, &f->reply);
	/* HELPER follows from the name; EXPECTED from the master, if it lives */
	hak_wr_u8(w, tcp && hak_tcp_opens(f->tcp_state) ? 0 :
		     (uint8_t)(status & (HAK_WS_SEEN_REPLY | HAK_WS_ASSURED)));
	hak_wr_u32(w, f->have & HAK_HAS_MARK ? f->mark : 0);
	hak_wr_u8(w, tcp ? hak_tcp_class(f->tcp_state) :
		     f->have & HAK_HAS_SCTP ? f->sctp_state :
		     f->have & HAK_HAS_DCCP ? f->dccp_state : 0);
	hak_wr_u8(w, scaled(f) ? (uint8_t)(f->tcp_wscale[0] << 4 | (f->tcp_wscale[1] & 15)) : 0);
	for (int i = 0; i < 2; i++)
		hak_wr_u32(w, f->have & HAK_HAS_SCTP_VTAG ? f->sctp_vtag[i] : 0);
	hak_wr_u8(w, f->have & HAK_HAS_DCCP ? f->dccp_role : 0);
	hak_wr_u64(w, f->have & HAK_HAS_DCCP ? f->dccp_seq : 0);
	hak_wr_copy(w, f->labels, sizeof f->labels);
	hak_wr_copy(w, f->helper, sizeof f->helper);
	if (child) {
		hak_wr_u8(w, f->master_l4proto);
		put_tuple(w, f->l3, &f->master);
	}
	for (int i = 0; i < 2 && adj; i++) {
		hak_wr_u32(w, f->seqadj[i].pos);
		hak_wr_u32(w, f->seqadj[i].before);
		hak_wr_u32(w, f->seqadj[i].after);
	}
	for (int i = 0; i < 3 && f->have & HAK_HAS_SYNPROXY; i++)
		if (f->synproxy[0] | f->synproxy[1] | f->synproxy[2])
			hak_wr_u32(w, f->synproxy[i]);
}

bool hak_flow_differs(const struct hak_flow *a, const struct hak_flow *b)
{
	uint8_t x[CONTENT_MAX], y[CONTENT_MAX];
	struct hak_wr wx = hak_wr_on(x, sizeof x), wy = hak_wr_on(y, sizeof y);

	put_content(&wx, a);
	put_content(&wy, b);
	return hak_wr_len(&wx) != hak_wr_len(&wy) || memcmp(x, y, hak_wr_len(&wx)) != 0;
}

/* `id` binds the content to its connection: two that swapped all else would cancel. */
static void add(struct hak_digest *d, uint64_t id, struct hak_wr *content)
{
	uint32_t slot = (uint32_t)(id >> (64 - d->bits));

	if (!hak_bit(d->scope, slot))
		return;
	hak_wr_u64(content, id);
	d->sums[slot] += hak_siphash(content->base, hak_wr_len(content), d->key);
}

HOT void hak_digest_add_flow(struct hak_digest *d, const struct hak_flow *f)
{
	uint64_t id = hak_flow_hash(f, d->key);
	uint32_t slot = (uint32_t)(id >> (64 - d->bits));
	uint8_t bytes[CONTENT_MAX];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);

	/* A million sums are in no cache: fetched while the content is put together. */
	__builtin_prefetch(&d->scope[slot / 64]);
	__builtin_prefetch(&d->sums[slot], 1);
	put_content(&w, f);
	add(d, id, &w);
}

/* Not its timeout; nor its helper's name, which ctnetlink takes from the master. */
void hak_digest_add_expect(struct hak_digest *d, const struct hak_expect *x)
{
	uint8_t bytes[CONTENT_MAX];
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
	struct hak_flow id = expected(x);

	hak_wr_copy(&w, "expect", 6);
	hak_wr_u8(&w, x->master_l4proto);
	put_tuple(&w, x->l3, &x->master);
	put_tuple(&w, x->l3, &x->mask);
	hak_wr_u32(&w, x->flags & ~(uint32_t)NF_CT_EXPECT_USERSPACE);
	hak_wr_u32(&w, x->class_);
	hak_wr_u8(&w, x->has_nat);
	if (x->has_nat) {
		hak_wr_u32(&w, x->nat_dir);
		put_tuple(&w, x->l3, &x->nat);
	}
	hak_wr_copy(&w, x->fn, sizeof x->fn);
	add(d, hak_flow_hash(&id, d->key), &w);
}

/* ---- sums ------------------------------------------------------------ */

uint64_t hak_digest_sum(const struct hak_digest *d, unsigned shift, uint32_t node)
{
	uint64_t sum = 0;

	for (uint32_t s = node << shift; s < (node + 1) << shift; s++)
		if (hak_bit(d->known, s) || (hak_bit(d->scope, s) && !hak_bit(d->dirty, s)))
			sum += d->sums[s];
	return sum;
}

/* A slot can hide only beside another one that differs, under the same node.  The fewer
 * slots there are, the likelier is that, and the less do longer sums cost. */
unsigned hak_digest_brief_size(const struct hak_digest *d, unsigned shift)
{
	return d->bits <= BITS_SMALL ? 4 : shift || d->bits < BITS_LARGE ? 2 : 1;
}

uint32_t hak_digest_brief(uint64_t sum, unsigned size, uint32_t round)
{
	unsigned turn = round % 4 * 16;

	if (turn)
		sum = sum >> turn | sum << (64 - turn);
	return (uint32_t)(sum & (UINT64_MAX >> (64 - 8 * size)));
}

uint64_t hak_digest_marks(const struct hak_digest *d)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < words(d); i++)
		n += (unsigned)__builtin_popcountll(d->marked[i]);
	return n;
}

uint64_t hak_digest_scope(const struct hak_digest *d)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < words(d); i++)
		n += (unsigned)__builtin_popcountll(d->scope[i]);
	return n;
}

void hak_digest_keep_marks(const struct hak_digest *d, uint64_t *map)
{
	for (uint32_t i = 0; i < words(d); i++)
		map[i] = d->marked[i];
}

bool hak_digest_join_marks(const struct hak_digest *d, uint64_t *map)
{
	bool had = false;

	for (uint32_t i = 0; i < words(d); i++) {
		had |= (map[i] & d->marked[i]) != 0;
		map[i] |= d->marked[i];
	}
	return had;
}

uint64_t hak_digest_dirty(const struct hak_digest *d)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < words(d); i++)
		n += (unsigned)__builtin_popcountll(d->dirty[i] & d->scope[i]);
	return n;
}

void hak_digest_mark_dirty(struct hak_digest *d)
{
	for (uint32_t i = 0; i < words(d); i++)
		d->marked[i] |= d->dirty[i] & d->scope[i];
}
