/* beat.c - the least that heartbeats cost: two links, sealed datagrams, nothing else.
 *
 *   beat -l LOCAL -p PEER -l LOCAL -p PEER [-m MS] [-n BYTES] [-a]
 *
 * In the namespace it is started in, until SIGTERM: every -m milliseconds (default 50)
 * one datagram of -n bytes (default 120) on each link.  Prints "ready" when it listens,
 * and at its end how many went out, came in, and were refused.
 *
 * With -a it sends when the peer's come, and by its timer only if none does: one wake
 * for both.  One thread, fixed key, numbers of no meaning, no check of the sender: what
 * is left are the system calls and the seal.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include "hak_crypto.h"

enum { LINKS = 2, PORT = 3997, HEADER = 16, TAG = 16, LARGEST = 1400 };

static volatile sig_atomic_t stop;
static uint64_t sent, received, refused;
static size_t bytes = 120;

static void on_term(int signal)
{
	(void)signal;
	stop = 1;
}

static void address(const char *text, struct sockaddr_in *a)
{
	*a = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(PORT) };
	if (inet_pton(AF_INET, text, &a->sin_addr) != 1)
		usage("addresses are IPv4");
}

static void send_one(int fd, const struct sockaddr_in *to, struct hak_aead *seal)
{
	uint8_t dg[LARGEST] = { 0 };
	size_t text = bytes - HEADER - TAG;

	memcpy(dg, &sent, sizeof sent);
	if (hak_aead_seal(seal, 1, sent++, dg, HEADER, dg + HEADER, text, dg + HEADER + text, false))
		die("seal");
	/* while nobody listens yet, or any more */
	(void)!sendto(fd, dg, bytes, MSG_DONTWAIT, (const void *)to, sizeof *to);
}

static void receive(int fd, struct hak_aead *open)
{
	uint8_t dg[LARGEST];
	ssize_t n = recv(fd, dg, sizeof dg, MSG_DONTWAIT);
	uint64_t seq;

	if (n < HEADER + TAG)
		return;
	memcpy(&seq, dg, sizeof seq);
	if (hak_aead_open(open, 1, seq, dg, HEADER, dg + HEADER, (size_t)n - HEADER - TAG,
			  dg + n - TAG, false))
		refused++;
	else
		received++;
}

int main(int argc, char **argv)
{
	static const char help[] = "beat -l LOCAL -p PEER -l LOCAL -p PEER [-m MS] [-n BYTES] [-a]";
	static const uint8_t key[HAK_KEY_LEN];
	struct sockaddr_in peer[LINKS], local[LINKS];
	struct sched_param rt = { .sched_priority = 10 };
	struct hak_aead seal, open;
	struct pollfd fds[LINKS];
	unsigned locals = 0, peers = 0;
	uint64_t each = 50000000, due;
	bool answers = false;
	int c;

	while ((c = getopt(argc, argv, "l:p:m:n:a")) != -1)
		switch (c) {
		case 'l': if (locals < LINKS) address(optarg, &local[locals++]); break;
		case 'p': if (peers < LINKS) address(optarg, &peer[peers++]); break;
		case 'm': each = (uint64_t)number(optarg) * 1000000; break;
		case 'n': bytes = (size_t)number(optarg); break;
		case 'a': answers = true; break;
		default: usage(help);
		}
	if (locals < LINKS || peers < LINKS || !each || bytes < HEADER + TAG || bytes > LARGEST)
		usage(help);
	for (unsigned i = 0; i < LINKS; i++) {
		fds[i] = (struct pollfd){ .fd = socket(AF_INET, SOCK_DGRAM, 0), .events = POLLIN };
		if (fds[i].fd < 0 || bind(fds[i].fd, (void *)&local[i], sizeof local[i]))
			die("UDP socket");
	}
	if (hak_aead_init(&seal, key, true) || hak_aead_init(&open, key, false))
		die("AES");
	signal(SIGTERM, on_term);
	(void)sched_setscheduler(0, SCHED_RR, &rt);
	printf("ready\n");
	fflush(stdout);

	due = mono_ns() + each;
	while (!stop) {
		uint64_t now = mono_ns(), left = due > now ? due - now : 0;
		struct timespec t = { .tv_nsec = (long)(left % 1000000000u),
				      .tv_sec = (time_t)(left / 1000000000u) };
		bool heard = false;

		if (ppoll(fds, LINKS, &t, NULL) > 0)
			for (unsigned i = 0; i < LINKS; i++)
				if (fds[i].revents) {
					receive(fds[i].fd, &open);
					heard = true;
				}
		now = mono_ns();
		if (now < due && !(answers && heard && due - now < each / 2))
			continue;
		for (unsigned i = 0; i < LINKS; i++)
			send_one(fds[i].fd, &peer[i], &seal);
		/* who answers waits a little longer than for the next one */
		due = (answers ? now : due) + each + (answers ? each / 50 : 0);
	}
	printf("{\"sent\": %llu, \"received\": %llu, \"refused\": %llu}\n",
	       (unsigned long long)sent, (unsigned long long)received,
	       (unsigned long long)refused);
	return 0;
}
