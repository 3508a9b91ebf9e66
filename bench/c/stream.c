/* stream.c - UDP streams between two hosts, and every gap in them.
 *
 *   stream -A NS,ADDR:PORT[,ADDR:PORT] -B NS,ADDR:PORT[,ADDR:PORT] -i US -g MS [-c CPU]
 *
 * Each end has one socket, bound to its first address; with a second one it sends
 * there, a datagram every -i microseconds (below 200: spinning, on -c CPU if given).
 * When a datagram arrives more than -g milliseconds after the one before it, this is
 * printed:
 *
 *   A|B LAST FIRST     which end, and when (CLOCK_REALTIME, ns, stamped by the kernel
 *                      at reception) the last one before the gap and the first one
 *                      after it came; LAST is 0 for the very first datagram
 *
 * Ends when its standard input does.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

enum { SPIN_US = 200 };

struct end {
	char name;
	int fd;
	bool sends;
	struct sockaddr_in to;
};

static atomic_bool stop;
static uint64_t interval_ns, gap_ns;
static long tx_cpu = -1;

static void address(char *text, struct sockaddr_in *a)
{
	char *port = text ? strchr(text, ':') : NULL;

	if (!port)
		usage("an address is ADDR:PORT");
	*port++ = 0;
	*a = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)number(port)) };
	if (inet_pton(AF_INET, text, &a->sin_addr) != 1)
		usage("an address is ADDR:PORT");
}

static struct end open_end(char name, char *text)
{
	struct end e = { .name = name };
	struct timeval wait = { .tv_usec = 50000 };
	struct sockaddr_in here;
	char *rest, *ns = strtok_r(text, ",", &rest), *local = strtok_r(NULL, ",", &rest);
	char *to = strtok_r(NULL, ",", &rest);
	int one = 1;

	if (!ns || !local)
		usage("an end is NS,ADDR:PORT[,ADDR:PORT]");
	enter((int)number(ns));
	address(local, &here);
	e.sends = to != NULL;
	if (to)
		address(to, &e.to);
	e.fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (e.fd < 0 || bind(e.fd, (void *)&here, sizeof here) ||
	    setsockopt(e.fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one) ||
	    setsockopt(e.fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait))
		die("UDP socket");
	return e;
}

static void *send_all(void *arg)
{
	const struct end *e = arg;
	uint64_t due = mono_ns();
	uint8_t payload[32] = { 0 };

	pin(tx_cpu);
	be_punctual();
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		/* refusals (a route is gone, a link is down) are what is measured */
		(void)!sendto(e->fd, payload, sizeof payload, 0, (const void *)&e->to, sizeof e->to);
		due += interval_ns;
		if (interval_ns >= SPIN_US * 1000) {
			sleep_until(due);
			continue;
		}
		while (mono_ns() < due)
			;
		due = mono_ns();
	}
	return NULL;
}

static uint64_t stamp(struct msghdr *m)
{
	struct timespec t = { 0 };

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS)
			memcpy(&t, CMSG_DATA(c), sizeof t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *receive_all(void *arg)
{
	const struct end *e = arg;
	uint64_t last = 0;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		uint8_t payload[64];
		union { struct cmsghdr align; uint8_t bytes[256]; } control;
		struct iovec iov = { payload, sizeof payload };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1,
				    .msg_control = &control, .msg_controllen = sizeof control };
		uint64_t at;

		if (recvmsg(e->fd, &m, 0) < 0)
			continue;
		at = stamp(&m);
		if (at > last + gap_ns)
			printf("%c %llu %llu\n", e->name, (unsigned long long)last,
			       (unsigned long long)at);
		if (at > last)
			last = at;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static const char help[] = "stream -A END -B END -i US -g MS [-c CPU]";
	char *text[2] = { NULL, NULL };
	pthread_t threads[4];
	struct end ends[2];
	unsigned n = 0;
	uint8_t byte;
	int c;

	while ((c = getopt(argc, argv, "A:B:i:g:c:")) != -1)
		switch (c) {
		case 'A': text[0] = optarg; break;
		case 'B': text[1] = optarg; break;
		case 'i': interval_ns = (uint64_t)number(optarg) * 1000; break;
		case 'g': gap_ns = (uint64_t)number(optarg) * 1000000; break;
		case 'c': tx_cpu = number(optarg); break;
		default: usage(help);
		}
	if (!text[0] || !text[1] || !interval_ns || !gap_ns)
		usage(help);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned i = 0; i < 2; i++)
		ends[i] = open_end("AB"[i], text[i]);
	for (unsigned i = 0; i < 2; i++) {
		/* also where only the other end sends: the socket is bound anyway */
		if (pthread_create(&threads[n++], NULL, receive_all, &ends[i]) ||
		    (ends[i].sends && pthread_create(&threads[n++], NULL, send_all, &ends[i])))
			die("pthread_create");
	}
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	atomic_store(&stop, true);
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
