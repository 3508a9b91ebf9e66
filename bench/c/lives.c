/* lives.c - short TCP connections (or UDP exchanges) through a firewall, as packets.
 *
 *   lives -C NS -S NS -w MAC -x MAC -n LIVES -r RATE [-f FLOWS] [-o FIRST] [-i LIFE]
 *         [-g MS] [-a STEP] [-z STEP] [-u] [-p] [-c CPU] [-d DEVICE] [-e DEVICE]
 *
 * Both ends are this program: it sends what the client says on eth0 (or -d) of namespace
 * -C to the firewall's LAN address -w, and what the server says on eth0 (or -e) of -S to
 * the WAN address -x (MACs), and never looks at what arrives.  The hosts behind do not
 * exist; bench/rig.py routes them here and drops what comes.
 *
 * A TCP life is six packets: SYN, SYN/ACK, ACK, FIN, FIN, ACK, with -g milliseconds
 * between two of them (default 20); a UDP life is two.  -a and -z: only these steps.
 * -n lives are spread over -f tuples, from tuple -o on; a tuple used again is a SYN
 * upon TIME_WAIT, which makes the kernel destroy the old entry and make a new one.
 * -i is the number of the first life: sequence numbers follow from it, so that a
 * later call reopens what an earlier one closed.  -p: to a port that is not
 * translated.  CPU is this process's, and so contains the kernel's forwarding.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>

enum { CLIENT, SERVER };
enum { FIN = 1, SYN = 2, ACK = 16 };
enum { WINDOW = 16, PORTS = 50000, PORT_FIRST = 10000, SYN_OPTIONS = 12, UDP_DATA = 12 };
enum { WAN_ADDR = 0x0a480001 /* 10.72.0.1 */, CLIENTS = 0x0a490000, SERVERS = 0x0a4a0001 };

struct step {
	uint8_t from, flags, seq, ack;	/* seq and ack: beyond the initial number */
};

static const struct step tcp_life[] = {
	{ CLIENT, SYN, 0, 0 },		{ SERVER, SYN | ACK, 0, 1 },
	{ CLIENT, ACK, 1, 1 },		{ CLIENT, FIN | ACK, 1, 1 },
	{ SERVER, FIN | ACK, 1, 2 },	{ CLIENT, ACK, 2, 2 },
};
static const struct step udp_life[] = { { CLIENT, 0, 0, 0 }, { SERVER, 0, 0, 0 } };

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	union {
		struct { struct tcphdr h; uint8_t options[SYN_OPTIONS]; } tcp;
		struct { struct udphdr h; uint8_t data[UDP_DATA]; } udp;
	};
} __attribute__((packed));

struct load {
	const struct step *steps;
	unsigned n_steps, first, last;
	bool udp, plain;
	uint64_t lives, flows, offset, number, rate, gap_ms;
	int fd[2];
	struct ethhdr eth[2];
	uint64_t packets, retries;
};

static void open_side(struct load *l, int side, int namespace, const char *device,
		      const char *gateway)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET };
	unsigned m[6];
	struct ifreq q = { 0 };
	int one = 1, size = 1 << 20;

	if (sscanf(gateway, "%x:%x:%x:%x:%x:%x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]) != 6)
		usage("a MAC address is six bytes");
	for (int i = 0; i < 6; i++)
		l->eth[side].h_dest[i] = (uint8_t)m[i];
	l->eth[side].h_proto = htons(ETH_P_IP);
	snprintf(q.ifr_name, sizeof q.ifr_name, "%s", device);
	enter(namespace);
	l->fd[side] = socket(AF_PACKET, SOCK_RAW, 0);	/* protocol 0: receives nothing */
	if (l->fd[side] < 0 || ioctl(l->fd[side], SIOCGIFHWADDR, &q))
		die(device);
	memcpy(l->eth[side].h_source, q.ifr_hwaddr.sa_data, 6);
	a.sll_ifindex = (int)if_nametoindex(device);
	if (bind(l->fd[side], (void *)&a, sizeof a) ||
	    setsockopt(l->fd[side], SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) ||
	    setsockopt(l->fd[side], SOL_SOCKET, SO_SNDBUF, &size, sizeof size))
		die(device);
}

static uint16_t header_sum(struct iphdr ip)
{
	uint16_t words[10];
	uint32_t s = 0;

	memcpy(words, &ip, sizeof words);
	for (unsigned i = 0; i < 10; i++)
		s += words[i];
	s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~(s + (s >> 16));
}

/* Step `s` of life `life`; returns the frame's length. */
static size_t make(const struct load *l, struct frame *f, uint64_t life, unsigned s)
{
	/* MSS 1460, SACK permitted, window scale 7: what every client sends */
	static const uint8_t options[SYN_OPTIONS] = { 2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1 };
	const struct step *st = &l->steps[s];
	uint64_t flow = l->offset + life % l->flows;
	uint16_t sport = htons((uint16_t)(PORT_FIRST + flow % PORTS));
	uint16_t dport = htons(l->plain ? 7010 : 443);
	uint32_t client = htonl((uint32_t)(CLIENTS + flow % 0xffff + 1));
	uint32_t server = htonl((uint32_t)(SERVERS + flow / PORTS));
	uint32_t isn[2] = { (uint32_t)(1000 + life * 64), (uint32_t)(900000 + life * 64) };
	bool back = st->from == SERVER;
	size_t len = sizeof f->ip;

	memset(f, 0, sizeof *f);
	f->eth = l->eth[st->from];
	f->ip.version = 4;
	f->ip.ihl = 5;
	f->ip.ttl = 64;
	f->ip.frag_off = htons(0x4000);
	f->ip.protocol = l->udp ? IPPROTO_UDP : IPPROTO_TCP;
	f->ip.saddr = back ? server : client;
	f->ip.daddr = !back ? server : l->plain ? client : htonl(WAN_ADDR);
	if (l->udp) {
		f->udp.h.source = back ? dport : sport;
		f->udp.h.dest = back ? sport : dport;
		f->udp.h.len = htons(sizeof f->udp);
		len += sizeof f->udp;
	} else {
		bool syn = st->flags & SYN;

		f->tcp.h.source = back ? dport : sport;
		f->tcp.h.dest = back ? sport : dport;
		f->tcp.h.seq = htonl(isn[st->from] + st->seq);
		f->tcp.h.ack_seq = st->flags & ACK ? htonl(isn[!st->from] + st->ack) : 0;
		f->tcp.h.window = htons(64240);
		f->tcp.h.syn = syn;
		f->tcp.h.ack = (st->flags & ACK) != 0;
		f->tcp.h.fin = (st->flags & FIN) != 0;
		f->tcp.h.doff = (sizeof f->tcp.h + (syn ? SYN_OPTIONS : 0)) / 4;
		if (syn)
			memcpy(f->tcp.options, options, sizeof options);
		len += f->tcp.h.doff * 4u;
	}
	f->ip.tot_len = htons((uint16_t)len);
	f->ip.check = header_sum(f->ip);
	return sizeof f->eth + len;
}

static void send_step(struct load *l, uint64_t life, unsigned n, unsigned s)
{
	static struct frame frames[WINDOW];
	struct mmsghdr mm[WINDOW];
	struct iovec iov[WINDOW];
	unsigned sent = 0;

	for (unsigned i = 0; i < n; i++) {
		iov[i] = (struct iovec){ &frames[i], make(l, &frames[i], life + i, s) };
		mm[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &iov[i], .msg_iovlen = 1 } };
	}
	while (sent < n) {
		int m = sendmmsg(l->fd[l->steps[s].from], mm + sent, n - sent, 0);

		if (m < 0 && errno != ENOBUFS && errno != EAGAIN)
			die("sendmmsg");
		if (m < 0) {
			l->retries++;
			sched_yield();
			continue;
		}
		sent += (unsigned)m;
	}
	l->packets += n;
}

/* Ticks of `window` lives each.  At a tick the newest window gets its first packet,
 * the one that was new `lag` ticks ago its second, and so on. */
static void run(struct load *l)
{
	unsigned window = l->rate > 2000 ? WINDOW : 1, steps = l->last - l->first + 1;
	uint64_t lag = l->gap_ms * l->rate / 1000 / window;
	uint64_t windows = (l->lives + window - 1) / window;
	uint64_t ticks = windows + lag * (steps - 1), began = mono_ns();

	for (uint64_t t = 0; t < ticks; t++) {
		sleep_until(began + t * window * 1000000000u / l->rate);
		for (unsigned s = 0; s < steps; s++) {
			uint64_t at, left;

			if (t < s * lag || t - s * lag >= windows)
				continue;
			at = (t - s * lag) * window;
			left = l->lives - at;
			send_step(l, l->number + at, left < window ? (unsigned)left : window,
				  l->first + s);
		}
	}
}

int main(int argc, char **argv)
{
	static const char help[] = "lives -C NS -S NS -w MAC -x MAC -n LIVES -r RATE [-f FLOWS]"
				   " [-o FIRST] [-i LIFE] [-g MS] [-a STEP] [-z STEP] [-u] [-p] [-c CPU]"
				   " [-d DEVICE] [-e DEVICE]";
	const char *device[] = { "eth0", "eth0" };
	struct load l = { .gap_ms = 20, .last = 99 };
	const char *lan = NULL, *wan = NULL;
	int client = -1, server = -1, c;
	uint64_t began, cpu;
	long on = -1;

	while ((c = getopt(argc, argv, "C:S:w:x:n:r:f:o:i:g:a:z:upc:d:e:")) != -1)
		switch (c) {
		case 'C': client = (int)number(optarg); break;
		case 'S': server = (int)number(optarg); break;
		case 'w': lan = optarg; break;
		case 'x': wan = optarg; break;
		case 'n': l.lives = (uint64_t)number(optarg); break;
		case 'r': l.rate = (uint64_t)number(optarg); break;
		case 'f': l.flows = (uint64_t)number(optarg); break;
		case 'o': l.offset = (uint64_t)number(optarg); break;
		case 'i': l.number = (uint64_t)number(optarg); break;
		case 'g': l.gap_ms = (uint64_t)number(optarg); break;
		case 'a': l.first = (unsigned)number(optarg); break;
		case 'z': l.last = (unsigned)number(optarg); break;
		case 'u': l.udp = true; break;
		case 'p': l.plain = true; break;
		case 'c': on = number(optarg); break;
		case 'd': device[CLIENT] = optarg; break;
		case 'e': device[SERVER] = optarg; break;
		default: usage(help);
		}
	l.steps = l.udp ? udp_life : tcp_life;
	l.n_steps = l.udp ? 2 : 6;
	if (l.last >= l.n_steps)
		l.last = l.n_steps - 1;
	if (client < 0 || server < 0 || !lan || !wan || !l.lives || !l.rate || l.first > l.last)
		usage(help);
	if (!l.flows)
		l.flows = l.lives;
	open_side(&l, CLIENT, client, device[CLIENT], lan);
	open_side(&l, SERVER, server, device[SERVER], wan);
	pin(on);
	be_punctual();
	began = mono_ns();
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	run(&l);
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("{\"lives\": %llu, \"packets\": %llu, \"retries\": %llu, \"ns\": %llu, \"cpu_ns\": %llu}\n",
	       (unsigned long long)l.lives, (unsigned long long)l.packets,
	       (unsigned long long)l.retries, (unsigned long long)(mono_ns() - began),
	       (unsigned long long)cpu);
	return 0;
}
