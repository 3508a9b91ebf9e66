/* listen.c - the floor of capturing: receives connection tracking events, and no more.
 *
 *   listen [-k FILTER] [-s] [-c CPU]
 *
 * In the namespace it is started in, until SIGTERM.  Prints "ready" when it listens.
 * Reads as hak2k's capture thread does: 64 at a time, woken by the first one while
 * they are few, napping a millisecond between reads above 20,000 events a second.
 * -s: naps at any rate, so that it is not woken.  -k: with a filter, see filter.h.
 * Tells how many events of all were a beginning.
 */
#include "bench.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <linux/netlink.h>
#include "filter.h"
#include "hak_nl.h"

enum { BATCH = 64, BYTES = 4096, FAST = 20000, NAP_NS = 1000000, SPAN_NS = 10000000 };

static volatile sig_atomic_t stop;

static void on_term(int signal)
{
	(void)signal;
	stop = 1;
}

int main(int argc, char **argv)
{
	static uint8_t bytes[BATCH][BYTES];
	static struct mmsghdr mm[BATCH];
	static struct iovec iov[BATCH];
	struct sigaction end = { .sa_handler = on_term };
	uint64_t events = 0, began = 0, bytes_seen = 0, reads = 0, overruns = 0, since, seen = 0;
	const char *share = "";
	struct hak_nl nl;
	bool fast = false, naps = false;
	int c;

	while ((c = getopt(argc, argv, "k:sc:")) != -1)
		if (c == 'k')
			share = optarg;
		else if (c == 's')
			naps = true;
		else if (c == 'c')
			pin(number(optarg));
		else
			usage("listen [-k FILTER] [-s] [-c CPU]");
	sigaction(SIGTERM, &end, NULL);
	if (hak_nl_open(&nl, HAK_NL_EVENT_BUF))
		die("ctnetlink");
	filter(nl.fd, share);
	if (hak_nl_join(&nl, 1))
		die("ctnetlink events");
	for (unsigned i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){ bytes[i], BYTES };
		mm[i].msg_hdr = (struct msghdr){ .msg_iov = &iov[i], .msg_iovlen = 1 };
	}
	printf("ready\n");
	fflush(stdout);
	since = mono_ns();
	while (!stop) {
		struct pollfd p = { .fd = nl.fd, .events = POLLIN };
		int n = recvmmsg(nl.fd, mm, BATCH, MSG_DONTWAIT, NULL);
		uint64_t now;

		reads++;
		if (n < 0 && errno == ENOBUFS)
			overruns++;
		for (int i = 0; i < n; i++) {
			struct nlmsghdr h;

			memcpy(&h, bytes[i], sizeof h);
			began += (h.nlmsg_flags & NLM_F_CREATE) != 0;
			bytes_seen += mm[i].msg_len;
		}
		if (n > 0)
			events += (uint64_t)n;
		if (n == BATCH)
			continue;
		now = mono_ns();
		if (now - since >= SPAN_NS) {
			fast = (events - seen) * 1000000000u / (now - since) > FAST;
			since = now;
			seen = events;
		}
		if (fast || naps) {
			struct timespec nap = { .tv_nsec = NAP_NS };

			nanosleep(&nap, NULL);
		} else {
			(void)poll(&p, 1, 1000);
		}
	}
	printf("{\"events\": %llu, \"began\": %llu, \"bytes\": %llu, \"reads\": %llu, \"overruns\": %llu}\n",
	       (unsigned long long)events, (unsigned long long)began,
	       (unsigned long long)bytes_seen, (unsigned long long)reads,
	       (unsigned long long)overruns);
	hak_nl_close(&nl);
	return 0;
}
