/* entries.c - writes connection tracking entries as fast as the kernel takes them.
 *
 *   entries -m fill  -n ENTRIES                 fill a table with larvae
 *   entries -m lives -n LIVES -r RATE -f FLOWS [-o FIRST] [-l] [-g]
 *                                               the floor of applying: whole lives
 *
 * In the namespace it is started in.  The messages are those that hak2k's apply
 * thread sends (the core's own encoder makes them), but here they are made
 * beforehand: what is left is one system call for each 64 messages.
 *
 * A life is what six packets of a masqueraded TCP connection cause: NEW, five
 * UPDATEs, DESTROY.  With -f tuples in the table all the time each life begins by
 * deleting the one before it on the same tuple.  -o: the first of these tuples.  -l: as
 * hak2k's default events have it, without SYN_RECV and TIME_WAIT.  -g: prints "ready"
 * when all is built, and begins when a line comes in, so that several begin together.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include "hak_ct.h"
#include "hak_nl.h"

enum {
	BATCH = 64,
	MESSAGE = 320,			/* no message of ours is longer */
	LARVAL_S = 8 * 86400,
	PER_LIFE = 7,
	AHEAD = 32,			/* prebuilt groups of 64 lives, used in turn */
};

struct group { uint8_t bytes[PER_LIFE][BATCH * MESSAGE]; size_t len[PER_LIFE]; };

static struct hak_nl nl;
static uint64_t errors;
static int first_error;
static bool lean;

static void address(uint8_t to[16], uint32_t host)
{
	host = htonl(host);
	memset(to, 0, 16);
	memcpy(to, &host, sizeof host);
}

/* 10.73.0.0/16 to 10.74.0.0/16, masqueraded as 10.72.0.1: as lives.c does it. */
static void flow(struct hak_flow *f, uint64_t i)
{
	memset(f, 0, sizeof *f);
	f->l3 = AF_INET;
	f->l4proto = IPPROTO_TCP;
	f->l4kind = HAK_L4_PORTS;
	address(f->orig.src, (uint32_t)(0x0a490001 + i % 0xffff));
	address(f->orig.dst, (uint32_t)(0x0a4a0001 + i / 50000));
	f->orig.sport = (uint16_t)(10000 + i % 50000);
	f->orig.dport = 443;
	f->reply = hak_tuple_inverse(f, &f->orig);
	address(f->reply.dst, 0x0a480001);
	f->have = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_TCP | HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE;
	f->status = IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED | IPS_SRC_NAT;
	f->tcp_state = TCP_CONNTRACK_ESTABLISHED;
	f->tcp_flags[0] = f->tcp_flags[1] = IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM;
	f->tcp_wscale[0] = f->tcp_wscale[1] = 7;
}

static void flush(struct hak_wr *w)
{
	static uint8_t in[1 << 16];
	struct hak_rd r;
	size_t n;

	if (!hak_wr_len(w))
		return;
	if (w->bad || hak_nl_send(&nl, w))
		die("ctnetlink");
	w->pos = w->base;
	while (!hak_nl_recv(&nl, in, sizeof in, MSG_DONTWAIT, &n) && n) {
		r = hak_rd_on(in, n);
		while (hak_rd_left(&r)) {
			struct hak_ctmsg m;

			if (hak_ct_next(&r, &m) || m.what != HAK_CT_ERROR || !m.error)
				continue;
			if (!errors++)
				first_error = m.error;
		}
	}
}

static void fill(uint64_t from, uint64_t n)
{
	static uint8_t bytes[BATCH * MESSAGE];
	const struct hak_ct_form form = { .timeout = LARVAL_S, .larval = true, .excl = true };
	struct hak_wr w = hak_wr_on(bytes, sizeof bytes);

	for (uint64_t i = from; i < from + n; i++) {
		struct hak_flow f;

		flow(&f, i);
		if (hak_ct_put_create(&w, ++nl.seq, &f, &form))
			die("encoding");
		if ((i - from) % BATCH == BATCH - 1)
			flush(&w);
	}
	flush(&w);
}

/* Message `step` of a life: 0 ends the life before it. */
static void put(struct hak_wr *w, uint64_t i, unsigned step)
{
	static const uint8_t states[] = {
		TCP_CONNTRACK_SYN_RECV, TCP_CONNTRACK_ESTABLISHED, TCP_CONNTRACK_FIN_WAIT,
		TCP_CONNTRACK_LAST_ACK, TCP_CONNTRACK_TIME_WAIT,
	};
	struct hak_ct_form form = { .timeout = LARVAL_S, .larval = true };
	struct hak_flow f;
	enum hak_err e;

	flow(&f, i);
	if (step == 0) {
		e = hak_ct_put_delete(w, ++nl.seq, &f, false);
	} else if (step == 1) {
		form.excl = true;
		f.status = IPS_CONFIRMED | IPS_SRC_NAT;
		f.tcp_state = TCP_CONNTRACK_SYN_SENT;
		e = hak_ct_put_create(w, ++nl.seq, &f, &form);
	} else {
		if (step == 2)
			f.status &= ~(uint32_t)IPS_ASSURED;
		f.tcp_state = states[step - 2];
		e = hak_ct_put_update(w, ++nl.seq, &f, &form);
	}
	if (e)
		die("encoding");
}

static void prebuild(struct group *g, uint64_t from)
{
	for (unsigned s = 0; s < PER_LIFE; s++) {
		struct hak_wr w = hak_wr_on(g->bytes[s], sizeof g->bytes[s]);

		if (lean && (s == 2 || s == PER_LIFE - 1))
			continue;
		for (uint64_t i = 0; i < BATCH; i++)
			put(&w, from + i, s);
		g->len[s] = hak_wr_len(&w);
	}
}

int main(int argc, char **argv)
{
	static const char help[] = "entries -m fill|lives -n N [-r RATE] [-f FLOWS] [-o FIRST]"
				   " [-l] [-g] [-c CPU]";
	uint64_t n = 0, rate = 0, flows = 0, first = 0, began, cpu;
	const char *mode = "";
	struct group *groups = NULL;
	bool wait = false;
	char line[8];
	long on = -1;
	int c;

	while ((c = getopt(argc, argv, "m:n:r:f:o:lgc:")) != -1)
		switch (c) {
		case 'm': mode = optarg; break;
		case 'n': n = (uint64_t)number(optarg); break;
		case 'r': rate = (uint64_t)number(optarg); break;
		case 'f': flows = (uint64_t)number(optarg); break;
		case 'o': first = (uint64_t)number(optarg); break;
		case 'l': lean = true; break;
		case 'g': wait = true; break;
		case 'c': on = number(optarg); break;
		default: usage(help);
		}
	bool lives = !strcmp(mode, "lives");
	if (!n || (!lives && strcmp(mode, "fill")) || (lives && (!rate || flows < AHEAD * BATCH)))
		usage(help);
	if (hak_nl_open(&nl, HAK_NL_CALL_BUF))
		die("ctnetlink socket");
	pin(on);
	be_punctual();
	if (lives) {
		groups = calloc(AHEAD, sizeof *groups);
		if (!groups)
			die("memory");
		fill(first, flows);
		for (unsigned i = 0; i < AHEAD; i++)
			prebuild(&groups[i], first + i * BATCH);
		n -= n % BATCH;
	}
	if (wait) {
		printf("ready\n");
		fflush(stdout);
		if (!fgets(line, sizeof line, stdin))
			die("nobody said when");
	}
	began = mono_ns();
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	if (!lives)
		fill(0, n);
	for (uint64_t i = 0; lives && i < n; i += BATCH) {
		struct group *g = &groups[i / BATCH % AHEAD];

		sleep_until(began + i * 1000000000u / rate);
		for (unsigned s = 0; s < PER_LIFE; s++) {
			struct hak_wr w = hak_wr_on(g->bytes[s], sizeof g->bytes[s]);

			w.pos += g->len[s];
			flush(&w);
		}
	}
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("{\"count\": %llu, \"errors\": %llu, \"errno\": %d, \"ns\": %llu, \"cpu_ns\": %llu}\n",
	       (unsigned long long)n, (unsigned long long)errors, first_error,
	       (unsigned long long)(mono_ns() - began), (unsigned long long)cpu);
	free(groups);
	hak_nl_close(&nl);
	return 0;
}
