/* mixed.c - numbered packets of many kinds through the firewalls, every one accounted.
 *
 *   mixed -C NS -S NS -r PACKETS_PER_SECOND [-f FRESH_PER_SECOND] [-c CPU]
 *
 * Long-lived flows between the client and the server: UDP and TCP, plain, masqueraded
 * and over IPv6, numbered in both directions, and pings over both families.  The kinds
 * take turns, so that each gets the same share of -r.  Besides, -f times a second a new
 * flow asks one question, by UDP and by TCP in turn, masqueraded, and wants the answer.
 *
 * Ends when its standard input does: it stops sending, waits for what is on its way, and
 * prints one line of JSON.  For each kind and direction: sent, lost, duplicated, out of
 * order, and the longest time between two arrivals; for TCP, which repeats what was
 * lost, how often it did (`repeated`) and how often for nothing (`spurious`: the other
 * side had it).  `losses` has when lost ones were sent (CLOCK_MONOTONIC).
 */
#include "bench.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define CLIENT4 "10.71.0.10"
#define SERVER4 "10.72.0.10"
#define SERVER6 "fd72::10"

enum {
	PER_KIND = 2,
	FLOWS_MAX = 32,
	NUMBERS = 1 << 20,		/* per flow and direction */
	FRESH_MAX = 1 << 16,
	MESSAGE = 32,
	LOSSES_SHOWN = 100,
	LINGER_MS = 1500,
	ANSWER_MS = 900,		/* before TCP would try again */
};

struct track {				/* one direction of a flow */
	uint32_t sent, unique, twice, late, top;
	uint64_t last_ns, gap_ns, slow_ns;
	uint64_t *at;			/* when each was sent */
	uint8_t *seen;
	uint8_t part[MESSAGE];		/* TCP: of a message */
	unsigned n_part;
};

struct flow {
	const char *kind;
	int proto;			/* IPPROTO_UDP, _TCP, _ICMP, _ICMPV6 */
	int fd[2];			/* client's, server's; ping has no server's */
	bool known;			/* UDP: the server knows where it is seen from */
	struct track to[2];		/* to[1]: to the server */
};

struct fresh {
	int fd;
	bool tcp, asked;
	uint64_t began;
};

static struct flow flows[FLOWS_MAX];
static struct fresh fresh[FRESH_MAX];
static unsigned n_flows, n_fresh, fresh_open;
static uint64_t fresh_asked[2], fresh_lost[2], fresh_repeated[2], fresh_slow;
static int ep, ns[2], udp_answerer, tcp_answerer;
static bool ending;

static union { struct sockaddr a; struct sockaddr_in v4; struct sockaddr_in6 v6; } addr_;

static socklen_t address(bool v6, bool server, uint16_t port)
{
	memset(&addr_, 0, sizeof addr_);
	if (v6) {
		addr_.v6.sin6_family = AF_INET6;
		addr_.v6.sin6_port = htons(port);
		if (server)
			inet_pton(AF_INET6, SERVER6, &addr_.v6.sin6_addr);
		return sizeof addr_.v6;
	}
	addr_.v4.sin_family = AF_INET;
	addr_.v4.sin_port = htons(port);
	if (server)
		inet_pton(AF_INET, SERVER4, &addr_.v4.sin_addr);
	return sizeof addr_.v4;
}

static int make(bool v6, int type, int proto, bool server)
{
	int one = 1, fd, size = 1 << 20;

	enter(ns[server]);
	fd = socket(v6 ? AF_INET6 : AF_INET, type | SOCK_NONBLOCK, proto);
	if (fd < 0)
		die("socket");
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	if (proto == IPPROTO_TCP)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

/* what: flow << 1 | end; from FRESH on a fresh one; the answerers above all */
enum { FRESH = 1 << 10, ANSWER_UDP = 1 << 20, ACCEPT, ANSWER_TCP = 1 << 21 };

static void watch(int fd, uint32_t what, uint32_t events)
{
	struct epoll_event v = { .events = events, .data.u64 = (uint64_t)(uint32_t)fd << 32 | what };

	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &v))
		die("epoll_ctl");
}

static int listener(bool v6, uint16_t port)
{
	int fd = make(v6, SOCK_STREAM, IPPROTO_TCP, true);
	socklen_t len = address(v6, true, port);

	if (bind(fd, &addr_.a, len) || listen(fd, 1024))
		die("listen");
	return fd;
}

static void add(const char *kind, int proto, bool v6, uint16_t port)
{
	unsigned i = n_flows++;
	struct flow *f = &flows[i];
	int type = proto == IPPROTO_TCP ? SOCK_STREAM : SOCK_DGRAM, server = -1;
	socklen_t len;

	*f = (struct flow){ .kind = kind, .proto = proto, .fd = { -1, -1 } };
	for (unsigned d = 0; d < 2; d++) {
		f->to[d].at = calloc(NUMBERS, sizeof *f->to[d].at);
		f->to[d].seen = calloc(NUMBERS, 1);
		if (!f->to[d].at || !f->to[d].seen)
			die("memory");
	}
	if (proto == IPPROTO_TCP)
		server = listener(v6, port);
	f->fd[0] = make(v6, type, proto, false);
	if (proto == IPPROTO_UDP) {
		f->fd[1] = make(v6, type, proto, true);
		len = address(v6, true, port);
		if (bind(f->fd[1], &addr_.a, len))
			die("bind");
	}
	len = address(v6, true, proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6 ? 0 : port);
	if (connect(f->fd[0], &addr_.a, len) && errno != EINPROGRESS)
		die("connect");
	if (server >= 0) {
		while ((f->fd[1] = accept4(server, NULL, NULL, SOCK_NONBLOCK)) < 0)
			if (errno != EAGAIN)
				die("accept");
		int one = 1;
		(void)setsockopt(f->fd[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		close(server);
	}
	watch(f->fd[0], i << 1, EPOLLIN);
	if (f->fd[1] >= 0)
		watch(f->fd[1], i << 1 | 1, EPOLLIN);
}

/* ---- sending --------------------------------------------------------- */

static void send_one(struct flow *f, unsigned to)
{
	struct track *t = &f->to[to];
	uint64_t message[MESSAGE / 8] = { t->sent, mono_ns() };
	struct { struct icmphdr h; uint64_t m[MESSAGE / 8]; } ping = {
		.h = { .type = f->proto == IPPROTO_ICMP ? ICMP_ECHO : 128 },
	};
	ssize_t n;

	if (t->sent == NUMBERS)
		return;
	if (f->fd[1] < 0) {
		ping.h.un.echo.sequence = htons((uint16_t)t->sent);
		memcpy(ping.m, message, sizeof message);
		n = send(f->fd[0], &ping, sizeof ping, 0);
	} else {
		n = send(f->fd[!to], message, sizeof message, MSG_NOSIGNAL);
		if (f->proto == IPPROTO_TCP && n != (ssize_t)sizeof message)
			die("a TCP flow is stuck");
	}
	if (n < 0)		/* refused here: it is not under way */
		return;
	t->at[t->sent++] = message[1];
}

static void ask_fresh(void)
{
	struct fresh *f = &fresh[n_fresh % FRESH_MAX];
	bool tcp = n_fresh & 1;
	uint64_t message[MESSAGE / 8] = { n_fresh };
	socklen_t len;

	*f = (struct fresh){ .tcp = tcp, .began = mono_ns() };
	f->fd = make(false, tcp ? SOCK_STREAM : SOCK_DGRAM, tcp ? IPPROTO_TCP : IPPROTO_UDP, false);
	len = address(false, true, 9100);
	if (connect(f->fd, &addr_.a, len) && errno != EINPROGRESS)
		die("connect");
	if (!tcp && send(f->fd, message, sizeof message, 0) < 0)
		die("send");
	f->asked = !tcp;
	watch(f->fd, FRESH + n_fresh % FRESH_MAX, tcp ? EPOLLOUT : EPOLLIN);
	fresh_asked[tcp]++;
	fresh_open++;
	n_fresh++;
}

/* ---- receiving ------------------------------------------------------- */

static void arrived(struct track *t, const uint64_t *message)
{
	uint64_t now = mono_ns(), number = message[0];

	if (number >= t->sent)
		die("a number that was never sent");
	if (t->last_ns && now - t->last_ns > t->gap_ns)
		t->gap_ns = now - t->last_ns;
	t->last_ns = now;
	if (now - message[1] > t->slow_ns)
		t->slow_ns = now - message[1];
	if (t->seen[number]++) {
		t->twice++;
		return;
	}
	t->unique++;
	if (number < t->top)
		t->late++;
	else
		t->top = (uint32_t)number;
}

static void receive(struct flow *f, unsigned end)
{
	union { uint8_t b[2048]; uint64_t align; } in;
	struct track *t = &f->to[end];
	uint64_t message[MESSAGE / 8];
	ssize_t n;

	for (;;) {
		if (f->proto == IPPROTO_UDP && end && !f->known) {
			socklen_t len = sizeof addr_;

			n = recvfrom(f->fd[1], in.b, sizeof in.b, 0, &addr_.a, &len);
			if (n > 0) {
				f->known = true;
				if (connect(f->fd[1], &addr_.a, len))
					die("connect");
			}
		} else {
			n = recv(f->fd[end], in.b, sizeof in.b, 0);
		}
		if (n <= 0)
			return;
		if (f->fd[1] < 0) {
			memcpy(message, in.b + sizeof(struct icmphdr), sizeof message);
			arrived(t, message);
			continue;
		}
		for (ssize_t i = 0; i < n; i++) {
			t->part[t->n_part++] = in.b[i];
			if (t->n_part < MESSAGE)
				continue;
			t->n_part = 0;
			memcpy(message, t->part, sizeof message);
			arrived(t, message);
		}
	}
}

static void end_fresh(struct fresh *f, bool answered)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof info;
	struct linger at_once = { 0 };
	uint64_t took = mono_ns() - f->began;

	if (!answered)
		fresh_lost[f->tcp]++;
	else if (took > fresh_slow)
		fresh_slow = took;
	if (f->tcp && !getsockopt(f->fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		fresh_repeated[1] += info.tcpi_total_retrans > info.tcpi_dsack_dups ?
				     info.tcpi_total_retrans - info.tcpi_dsack_dups : 0;
	(void)setsockopt(f->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	close(f->fd);
	f->fd = -1;
	fresh_open--;
}

static void on_fresh(struct fresh *f)
{
	uint64_t message[MESSAGE / 8] = { 0 };

	if (f->fd < 0)
		return;
	if (f->asked) {
		if (recv(f->fd, message, sizeof message, 0) > 0)
			end_fresh(f, true);
		return;
	}
	if (send(f->fd, message, sizeof message, MSG_NOSIGNAL) != sizeof message)
		return end_fresh(f, false);
	f->asked = true;
	struct epoll_event v = {
		.events = EPOLLIN,
		.data.u64 = (uint64_t)(uint32_t)f->fd << 32 | (FRESH + (uint32_t)(f - fresh)),
	};
	if (epoll_ctl(ep, EPOLL_CTL_MOD, f->fd, &v))
		die("epoll_ctl");
}

static void give_up(uint64_t now)
{
	static unsigned first;

	for (; first < n_fresh; first++) {
		struct fresh *f = &fresh[first % FRESH_MAX];

		if (f->fd >= 0 && now - f->began < ANSWER_MS * 1000000u)
			return;
		if (f->fd >= 0)
			end_fresh(f, false);
	}
}

static void answer(int fd, bool tcp)
{
	uint8_t buf[MESSAGE];
	socklen_t len = sizeof addr_;
	ssize_t n;

	if (tcp) {
		n = recv(fd, buf, sizeof buf, 0);
		if (n > 0)
			(void)!send(fd, buf, (size_t)n, MSG_NOSIGNAL);
		else if (!n || errno != EAGAIN)
			close(fd);
		return;
	}
	while ((n = recvfrom(fd, buf, sizeof buf, 0, &addr_.a, &len)) > 0)
		(void)!sendto(fd, buf, (size_t)n, 0, &addr_.a, len);
}

static void listen_until(uint64_t until)
{
	struct epoll_event v[64];

	for (;;) {
		uint64_t now = mono_ns(), left = until > now ? until - now : 0;
		struct timespec t = { .tv_sec = (time_t)(left / 1000000000u),
				      .tv_nsec = (long)(left % 1000000000u) };
		int n = epoll_pwait2(ep, v, 64, &t, NULL);

		for (int i = 0; i < n; i++) {
			uint32_t what = (uint32_t)v[i].data.u64;
			int fd = (int)(v[i].data.u64 >> 32), peer;

			if (fd == STDIN_FILENO)
				ending = true;
			else if (what == ACCEPT)
				while ((peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0)
					watch(peer, ANSWER_TCP, EPOLLIN);
			else if (what >= ANSWER_UDP)
				answer(fd, what == ANSWER_TCP);
			else if (what >= FRESH)
				on_fresh(&fresh[what - FRESH]);
			else
				receive(&flows[what >> 1], what & 1);
		}
		if (n < 64 && mono_ns() >= until)
			return;
	}
}

/* ---- the account ----------------------------------------------------- */

static void account(void)
{
	unsigned shown = 0, flow = 0;

	printf("{\"flows\":[");
	for (; flow < n_flows; flow++) {
		struct flow *f = &flows[flow];

		for (unsigned d = 0; d < (f->fd[1] < 0 ? 1u : 2u); d++) {
			struct track *t = &f->to[d];
			struct tcp_info info = { 0 };
			socklen_t len = sizeof info;

			if (f->proto == IPPROTO_TCP)
				(void)getsockopt(f->fd[!d], IPPROTO_TCP, TCP_INFO, &info, &len);
			printf("%s{\"kind\":\"%s\",\"to\":\"%s\",\"sent\":%u,\"lost\":%u,"
			       "\"twice\":%u,\"late\":%u,\"gap_ns\":%llu,\"slow_ns\":%llu,"
			       "\"repeated\":%u,\"spurious\":%u}",
			       flow || d ? "," : "", f->kind,
			       f->fd[1] < 0 ? "and back" : d ? "server" : "client", t->sent,
			       t->sent - t->unique, t->twice, t->late,
			       (unsigned long long)t->gap_ns, (unsigned long long)t->slow_ns,
			       info.tcpi_total_retrans, info.tcpi_dsack_dups);
		}
	}
	printf("],\"fresh\":{");
	for (unsigned tcp = 0; tcp < 2; tcp++)
		printf("%s\"%s\":{\"asked\":%llu,\"lost\":%llu,\"repeated\":%llu}", tcp ? "," : "",
		       tcp ? "tcp" : "udp", (unsigned long long)fresh_asked[tcp],
		       (unsigned long long)fresh_lost[tcp], (unsigned long long)fresh_repeated[tcp]);
	printf("},\"fresh_slow_ns\":%llu,\"losses\":[", (unsigned long long)fresh_slow);
	for (flow = 0; flow < n_flows; flow++)
		for (unsigned d = 0; d < 2; d++)
			for (uint32_t i = 0; i < flows[flow].to[d].sent && shown < LOSSES_SHOWN; i++)
				if (!flows[flow].to[d].seen[i])
					printf("%s[\"%s\",\"%s\",%u,%llu]", shown++ ? "," : "",
					       flows[flow].kind, d ? "server" : "client", i,
					       (unsigned long long)flows[flow].to[d].at[i]);
	printf("]}\n");
}

int main(int argc, char **argv)
{
	static const char help[] = "mixed -C NS -S NS -r PPS [-f PPS] [-c CPU]";
	uint64_t step, fresh_step = 0, due, fresh_due;
	long rate = 0, fresh_rate = 0, cpu = -1;
	unsigned turn = 0;
	int c;

	ns[0] = ns[1] = -1;
	while ((c = getopt(argc, argv, "C:S:r:f:c:")) != -1)
		switch (c) {
		case 'C': ns[0] = (int)number(optarg); break;
		case 'S': ns[1] = (int)number(optarg); break;
		case 'r': rate = number(optarg); break;
		case 'f': fresh_rate = number(optarg); break;
		case 'c': cpu = number(optarg); break;
		default: usage(help);
		}
	if (ns[0] < 0 || ns[1] < 0 || !rate)
		usage(help);
	pin(cpu);
	be_punctual();
	ep = epoll_create1(0);
	if (ep < 0)
		die("epoll");
	watch(STDIN_FILENO, 0, EPOLLIN | EPOLLHUP);
	for (uint16_t i = 0; i < PER_KIND; i++) {
		add("UDP plain", IPPROTO_UDP, false, (uint16_t)(7001 + i));
		add("UDP masqueraded", IPPROTO_UDP, false, (uint16_t)(9001 + i));
		add("UDP IPv6", IPPROTO_UDP, true, (uint16_t)(7001 + i));
		add("TCP plain", IPPROTO_TCP, false, (uint16_t)(7001 + i));
		add("TCP masqueraded", IPPROTO_TCP, false, (uint16_t)(9001 + i));
		add("TCP IPv6", IPPROTO_TCP, true, (uint16_t)(7001 + i));
		add("ping", IPPROTO_ICMP, false, 0);
		add("ping IPv6", IPPROTO_ICMPV6, true, 0);
	}
	udp_answerer = make(false, SOCK_DGRAM, IPPROTO_UDP, true);
	(void)address(false, true, 9100);
	if (bind(udp_answerer, &addr_.a, sizeof addr_.v4))
		die("bind");
	tcp_answerer = listener(false, 9100);
	watch(udp_answerer, ANSWER_UDP, EPOLLIN);
	watch(tcp_answerer, ACCEPT, EPOLLIN);
	/* neighbours are resolved, flows known, before anything counts as late */
	for (unsigned i = 0; i < n_flows; i++) {
		send_one(&flows[i], flows[i].fd[1] >= 0);
		listen_until(mono_ns() + 5000000u);
	}
	printf("ready\n");
	fflush(stdout);
	for (unsigned i = 0; i < n_flows; i++)
		for (unsigned d = 0; d < 2; d++)
			flows[i].to[d].last_ns = flows[i].to[d].gap_ns = flows[i].to[d].slow_ns = 0;

	step = 1000000000u / (uint64_t)rate;
	due = fresh_due = mono_ns();
	if (fresh_rate)
		fresh_step = 1000000000u / (uint64_t)fresh_rate;
	while (!ending) {
		struct flow *f = &flows[turn % n_flows];
		unsigned to = turn / n_flows & 1;

		if (f->fd[1] < 0)
			to = 0;
		if (f->proto != IPPROTO_UDP || to || f->known)
			send_one(f, to);
		turn++;
		due += step;
		if (fresh_step && mono_ns() >= fresh_due) {
			ask_fresh();
			fresh_due += fresh_step;
		}
		listen_until(due);
		if (!(turn % 256))
			give_up(mono_ns());
	}
	ending = false;
	(void)epoll_ctl(ep, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
	listen_until(mono_ns() + (uint64_t)LINGER_MS * 1000000u);
	give_up(UINT64_MAX);
	account();
	return 0;
}
