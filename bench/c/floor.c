/* floor.c - the least that can replicate: events -> small records -> UDP -> ctnetlink.
 *
 *   floor -m active  -l LOCAL -p PEER [-s NAP_US] [-k FILTER] [-q PORT] [-c CPU]
 *   floor -m passive -l LOCAL [-s NAP_US] [-b BATCH] [-q PORT] [-c CPU]
 *
 * In the namespace it is started in, until SIGTERM.  Prints "ready" when it listens.
 *
 * Neither encrypted nor reliable, without a table, a heartbeat or an answer: what is
 * left are the system calls that no replicator can do without, in the cheapest form
 * that is known.  Events are read by recvmmsg, and after each read it naps (-s, default
 * 1000 us; 0: never), so that they queue and nobody wakes it for each.  The passive
 * side writes -b messages (default 64) with one call.  IPv4 TCP alone.
 *
 * Which events there are is the firewall's ruleset's choice, `ct event set`; which of
 * them this one gets, -k (see filter.h).  Several pairs have a port each.  Tells when it
 * handled the first and the last of them, and the CPU it took in between.
 */
#include "filter.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include "hak_ct.h"
#include "hak_nl.h"

enum {
	UDP_BUF = 64 << 20,
	EVENTS = 1024, EVENT = 1024,	/* read at once; bytes, more than an event has */
	DATAGRAMS = 64, DATAGRAM = 1472,
	RECORD = 32,			/* no record is longer */
	MESSAGE = 320,
	LARVAL_S = 8 * 86400,
	WAIT_US = 100000,		/* how late it may notice SIGTERM */
};

static volatile sig_atomic_t stop;
static unsigned long nap_us = 1000;
static unsigned batch = 64;
static uint16_t port = 3999;
static const char *share = "";
static uint64_t events, records, datagrams, bytes, lost, errors, overruns;
static uint64_t first_ns, last_ns, first_cpu, last_cpu;
static uint8_t events_in[EVENTS][EVENT], wire[DATAGRAMS][DATAGRAM];

static void on_term(int signal)
{
	(void)signal;
	stop = 1;
}

/* Something came, and is handled at the next call with `done`. */
static void note(bool done)
{
	if (done) {
		last_ns = mono_ns();
		last_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	} else if (!first_ns) {
		first_ns = mono_ns();
		first_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	}
}

static void wait_at_most(int fd)
{
	struct timeval t = { .tv_usec = WAIT_US };

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t))
		die("SO_RCVTIMEO");
}

static void nap(void)
{
	struct timespec t = { .tv_nsec = (long)nap_us * 1000 };

	if (nap_us)
		nanosleep(&t, NULL);
}

static int udp(const char *local, const char *peer)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = UDP_BUF;

	if (fd < 0 || inet_pton(AF_INET, local, &a.sin_addr) != 1 || bind(fd, (void *)&a, sizeof a) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
		die("UDP socket");
	if (peer && (inet_pton(AF_INET, peer, &a.sin_addr) != 1 || connect(fd, (void *)&a, sizeof a)))
		die("peer");
	return fd;
}

/* what, state, status, tuple; a NEW has translation, flags and scales besides. */
static void put(struct hak_wr *w, const struct hak_ctmsg *m)
{
	const struct hak_flow *f = &m->flow;

	hak_wr_u8(w, m->what);
	hak_wr_u8(w, f->tcp_state);
	hak_wr_u16(w, (uint16_t)f->status);
	hak_wr_copy(w, f->orig.src, 4);
	hak_wr_copy(w, f->orig.dst, 4);
	hak_wr_u16(w, f->orig.sport);
	hak_wr_u16(w, f->orig.dport);
	if (m->what != HAK_CT_NEW)
		return;
	hak_wr_copy(w, f->reply.dst, 4);
	hak_wr_u16(w, f->reply.dport);
	hak_wr_copy(w, f->tcp_wscale, 2);
	hak_wr_copy(w, f->tcp_flags, 2);
}

static uint8_t get(struct hak_rd *r, struct hak_flow *f)
{
	uint8_t what = hak_rd_u8(r);

	memset(f, 0, sizeof *f);
	f->l3 = AF_INET;
	f->l4proto = IPPROTO_TCP;
	f->l4kind = HAK_L4_PORTS;
	f->have = HAK_HAS_STATUS | HAK_HAS_TCP;
	f->tcp_state = hak_rd_u8(r);
	f->status = hak_rd_u16(r);
	hak_rd_copy(r, f->orig.src, 4);
	hak_rd_copy(r, f->orig.dst, 4);
	f->orig.sport = hak_rd_u16(r);
	f->orig.dport = hak_rd_u16(r);
	if (what != HAK_CT_NEW)
		return what;
	f->have |= HAK_HAS_REPLY | HAK_HAS_TCP_FLAGS | HAK_HAS_TCP_WSCALE;
	f->reply = hak_tuple_inverse(f, &f->orig);
	hak_rd_copy(r, f->reply.dst, 4);
	f->reply.dport = hak_rd_u16(r);
	hak_rd_copy(r, f->tcp_wscale, 2);
	hak_rd_copy(r, f->tcp_flags, 2);
	return what;
}

static void aim(struct mmsghdr *mm, struct iovec *iov, unsigned n, void *to, size_t each)
{
	for (unsigned i = 0; i < n; i++) {
		iov[i] = (struct iovec){ (uint8_t *)to + i * each, each };
		mm[i].msg_hdr = (struct msghdr){ .msg_iov = &iov[i], .msg_iovlen = 1 };
	}
}

static void send_all(int fd, struct mmsghdr *mm, unsigned n)
{
	for (unsigned sent = 0; sent < n;) {
		int m = sendmmsg(fd, mm + sent, n - sent, 0);

		if (m < 0)
			die("sendmmsg");
		sent += (unsigned)m;
	}
	datagrams += n;
}

/* The records of `n` events, as few datagrams as hold them. */
static void forward(int fd, const struct mmsghdr *in, unsigned n)
{
	static struct mmsghdr mm[DATAGRAMS];
	static struct iovec iov[DATAGRAMS];
	static uint32_t sequence;
	struct hak_wr w = hak_wr_on(wire[0], DATAGRAM);
	unsigned full = 0;

	aim(mm, iov, DATAGRAMS, wire, DATAGRAM);
	for (unsigned i = 0; i < n; i++) {
		struct hak_rd r = hak_rd_on(events_in[i], in[i].msg_len);
		struct hak_ctmsg m;

		if (hak_ct_next(&r, &m) || m.what > HAK_CT_DESTROY || m.flow.l3 != AF_INET ||
		    m.flow.l4proto != IPPROTO_TCP)
			continue;
		events++;
		if (hak_wr_left(&w) < RECORD) {
			iov[full++].iov_len = hak_wr_len(&w);
			bytes += hak_wr_len(&w);
			if (full == DATAGRAMS) {
				send_all(fd, mm, full);
				aim(mm, iov, DATAGRAMS, wire, DATAGRAM);
				full = 0;
			}
			w = hak_wr_on(wire[full], DATAGRAM);
		}
		if (!hak_wr_len(&w))
			hak_wr_u32(&w, sequence++);
		put(&w, &m);
	}
	if (hak_wr_len(&w)) {
		iov[full++].iov_len = hak_wr_len(&w);
		bytes += hak_wr_len(&w);
	}
	if (full)
		send_all(fd, mm, full);
}

static void active(int fd)
{
	static struct mmsghdr mm[EVENTS];
	static struct iovec iov[EVENTS];
	struct hak_nl nl;

	if (hak_nl_open(&nl, HAK_NL_EVENT_BUF))
		die("ctnetlink");
	filter(nl.fd, share);
	if (hak_nl_join(&nl, 1))
		die("ctnetlink events");
	wait_at_most(nl.fd);
	aim(mm, iov, EVENTS, events_in, EVENT);
	printf("ready\n");
	fflush(stdout);
	while (!stop) {
		int n = recvmmsg(nl.fd, mm, EVENTS, MSG_WAITFORONE, NULL);

		if (n < 0 && errno == ENOBUFS)
			overruns++;
		if (n > 0) {
			uint64_t before = events;

			note(false);
			forward(fd, mm, (unsigned)n);
			note(events != before);
		}
		nap();
	}
	hak_nl_close(&nl);
}

static void flush(struct hak_nl *nl, struct hak_wr *w)
{
	static uint8_t in[1 << 16];
	size_t n;

	if (!hak_wr_len(w))
		return;
	if (w->bad || hak_nl_send(nl, w))
		die("ctnetlink");
	w->pos = w->base;
	/* Nobody asked for answers: whatever comes is a refusal. */
	while (!hak_nl_recv(nl, in, sizeof in, MSG_DONTWAIT, &n) && n) {
		struct hak_rd r = hak_rd_on(in, n);
		struct hak_ctmsg m;

		while (hak_rd_left(&r))
			if (!hak_ct_next(&r, &m) && m.what == HAK_CT_ERROR && m.error)
				errors++;
	}
}

static void apply(struct hak_nl *nl, struct hak_wr *w, struct hak_rd *r)
{
	struct hak_ct_form form = { .timeout = LARVAL_S, .larval = true };
	struct hak_flow f;
	uint8_t what = get(r, &f);
	enum hak_err e;

	form.excl = what == HAK_CT_NEW;
	if (what == HAK_CT_NEW)
		e = hak_ct_put_create(w, ++nl->seq, &f, &form);
	else if (what == HAK_CT_UPDATE)
		e = hak_ct_put_update(w, ++nl->seq, &f, &form);
	else
		e = hak_ct_put_delete(w, ++nl->seq, &f, false);
	if (r->bad || e)
		die("record");
	records++;
}

static void passive(int fd)
{
	static struct mmsghdr mm[DATAGRAMS];
	static struct iovec iov[DATAGRAMS];
	uint8_t *messages = malloc(batch * (size_t)MESSAGE);
	struct hak_wr w = hak_wr_on(messages, batch * (size_t)MESSAGE);
	uint32_t expected = 0;
	struct hak_nl nl;

	if (!messages || hak_nl_open(&nl, HAK_NL_CALL_BUF))
		die("ctnetlink");
	wait_at_most(fd);
	aim(mm, iov, DATAGRAMS, wire, DATAGRAM);
	printf("ready\n");
	fflush(stdout);
	while (!stop) {
		int n = recvmmsg(fd, mm, DATAGRAMS, MSG_WAITFORONE, NULL);
		unsigned waiting = 0;

		if (n > 0)
			note(false);
		for (int i = 0; i < n; i++) {
			struct hak_rd r = hak_rd_on(wire[i], mm[i].msg_len);
			uint32_t sequence = hak_rd_u32(&r);

			lost += sequence - expected;
			expected = sequence + 1;
			datagrams++;
			bytes += mm[i].msg_len;
			while (hak_rd_left(&r)) {
				apply(&nl, &w, &r);
				if (++waiting == batch) {
					flush(&nl, &w);
					waiting = 0;
				}
			}
		}
		flush(&nl, &w);
		if (n > 0)
			note(true);
		nap();
	}
	hak_nl_close(&nl);
	free(messages);
}

int main(int argc, char **argv)
{
	static const char help[] = "floor -m active|passive -l LOCAL [-p PEER] [-s NAP_US]"
				   " [-b BATCH] [-k FILTER] [-q PORT] [-c CPU]";
	struct sigaction end = { .sa_handler = on_term };
	const char *mode = "", *local = NULL, *peer = NULL;
	long on = -1;
	int c, fd;

	while ((c = getopt(argc, argv, "m:l:p:s:b:k:q:c:")) != -1)
		switch (c) {
		case 'm': mode = optarg; break;
		case 'l': local = optarg; break;
		case 'p': peer = optarg; break;
		case 's': nap_us = (unsigned long)number(optarg); break;
		case 'b': batch = (unsigned)number(optarg); break;
		case 'k': share = optarg; break;
		case 'q': port = (uint16_t)number(optarg); break;
		case 'c': on = number(optarg); break;
		default: usage(help);
		}
	bool reads = !strcmp(mode, "active");
	if (!local || !batch || nap_us >= 1000000 || reads != (peer != NULL) ||
	    (!reads && strcmp(mode, "passive")))
		usage(help);
	sigaction(SIGTERM, &end, NULL);
	pin(on);
	fd = udp(local, peer);
	if (reads)
		active(fd);
	else
		passive(fd);
	printf("{\"events\": %llu, \"records\": %llu, \"datagrams\": %llu, \"bytes\": %llu,"
	       " \"lost\": %llu, \"errors\": %llu, \"overruns\": %llu,"
	       " \"first_ns\": %llu, \"last_ns\": %llu, \"cpu_ns\": %llu}\n",
	       (unsigned long long)events, (unsigned long long)records,
	       (unsigned long long)datagrams, (unsigned long long)bytes, (unsigned long long)lost,
	       (unsigned long long)errors, (unsigned long long)overruns,
	       (unsigned long long)first_ns, (unsigned long long)last_ns,
	       (unsigned long long)(last_cpu - first_cpu));
	return 0;
}
