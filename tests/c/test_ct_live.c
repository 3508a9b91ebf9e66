/* Connections that packets made: a real TCP life, told to a second kernel event by event,
 * and what a SYN/ACK does to a larva that has seen only the SYN.  Needs root, ip(8), nft(8)
 * and sysctl(8). */
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include "hak_wire.h"
#include "flows.h"
#include "kern.h"

static struct ns a, b;
static const struct hak_ct_form larval = { .timeout = 8 * 86400, .larval = true };

static void addresses(void)
{
	sh("for i in 10.71.0.10 10.72.0.10 10.72.0.1; do ip addr add $i/32 dev lo; done");
}

static struct sockaddr_in at(const char *ip, unsigned port)
{
	struct sockaddr_in s = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };

	NEED(inet_pton(AF_INET, ip, &s.sin_addr) == 1);
	return s;
}

static int tcp_at(const char *ip, unsigned port)
{
	struct sockaddr_in s = at(ip, port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	NEED(fd >= 0);
	NEED(!setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
	NEED(!bind(fd, (struct sockaddr *)&s, sizeof s));
	return fd;
}

/* ---- a life ------------------------------------------------------------ */

struct life {
	size_t bytes;
	unsigned events, closed_wait;
	uint8_t state;
	struct hak_flow last;
};

/* Take the events of the connection until one says `state`, write each to b by a record. */
static void follow(struct life *l, uint8_t until, enum hak_ct_what what)
{
	struct pollfd p = { .fd = a.events, .events = POLLIN };
	struct hak_ctmsg m;

	for (;;) {
		uint8_t bytes[256];
		struct hak_wr w = hak_wr_on(bytes, sizeof bytes);
		struct hak_record rec;
		struct hak_rd r;
		uint8_t type;

		if (!ns_event(&a, &m)) {
			NEED(poll(&p, 1, 5000) == 1);
			continue;
		}
		if (m.what > HAK_CT_DESTROY || m.flow.orig.dport != 80)
			continue;
		CASE("life, event %u", l->events);
		type = m.what == HAK_CT_NEW ? HAK_REC_FLOW_NEW :
		       m.what == HAK_CT_UPDATE ? HAK_REC_FLOW_UPDATE : HAK_REC_FLOW_DESTROY;
		EQUAL(hak_wire_put_flow(&w, type, &m.flow), HAK_OK);
		r = hak_rd_on(bytes, hak_wr_len(&w));
		EQUAL(hak_wire_get(&r, &rec, NULL), HAK_OK);
		EQUAL(m.what == HAK_CT_NEW ? ns_create(&b, &rec.flow, larval) :
		      m.what == HAK_CT_UPDATE ? ns_update(&b, &rec.flow, larval)
					      : ns_delete(&b, &rec.flow), 0);
		l->bytes += hak_wr_len(&w);
		l->events++;
		l->state = m.flow.tcp_state;
		l->closed_wait += l->state == TCP_CONNTRACK_CLOSE_WAIT;
		l->last = m.flow;
		if (m.what == what && l->state == until)
			return;
	}
}

static void compare(const struct life *l)
{
	struct hak_flow x, y;

	NEED(!ns_get(&a, &l->last, &x));
	NEED(!ns_get(&b, &l->last, &y));
	SAME(flow_diff(&y, &x, HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_MARK | HAK_HAS_TCP |
		       HAK_HAS_TCP_WSCALE, IPS_SEEN_REPLY | IPS_ASSURED | IPS_SRC_NAT | IPS_DST_NAT));
	for (int d = 0; d < 2; d++)
		EQUAL(y.tcp_flags[d], (x.tcp_flags[d] & 7) | IP_CT_TCP_FLAG_BE_LIBERAL);
}

/* With `acked` the server acknowledges the FIN before it sends its own: one more state. */
static void test_life(bool nat, bool acked)
{
	static unsigned port = 4711;
	struct sockaddr_in srv = at("10.72.0.10", 80);
	struct life l = { .state = 255 };
	int server, client, peer, on;
	char c = 'x';

	CASE("life%s%s", nat ? " with masqueraded port" : "", acked ? ", FIN acknowledged" : "");
	ns_enter(&a);
	if (nat && !acked)
		sh("nft 'add table ip n; add chain ip n post { type nat hook postrouting priority "
		   "100 ; }; add rule ip n post tcp dport 80 snat to 10.72.0.1:61000'");
	server = tcp_at("10.72.0.10", 80);
	NEED(!listen(server, 1));
	client = tcp_at("10.71.0.10", port);
	NEED(!connect(client, (struct sockaddr *)&srv, sizeof srv));
	peer = accept(server, NULL, NULL);
	NEED(peer >= 0);
	NEED(send(client, &c, 1, 0) == 1 && recv(peer, &c, 1, 0) == 1);
	follow(&l, TCP_CONNTRACK_ESTABLISHED, HAK_CT_UPDATE);
	EQUAL(l.last.reply.dport, nat ? 61000 : port);
	port++;
	CHECK(l.last.tcp_flags[0] & l.last.tcp_flags[1] & IP_CT_TCP_FLAG_WINDOW_SCALE);
	CHECK(l.last.tcp_wscale[0] && l.last.tcp_wscale[1]);
	compare(&l);
	on = acked;
	NEED(!setsockopt(peer, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on));
	NEED(!shutdown(client, SHUT_WR));
	NEED(recv(peer, &c, 1, 0) == 0);
	if (acked)
		follow(&l, TCP_CONNTRACK_CLOSE_WAIT, HAK_CT_UPDATE);
	close(peer);
	NEED(recv(client, &c, 1, 0) == 0);
	close(client);
	close(server);
	follow(&l, TCP_CONNTRACK_TIME_WAIT, HAK_CT_UPDATE);
	compare(&l);
	EQUAL(ns_delete(&a, &l.last), 0);
	follow(&l, l.state, HAK_CT_DESTROY);
	EQUAL(ns_get(&b, &l.last, &l.last), ENOENT);
	printf("TCP life%s: %u events%s, %zu bytes of records\n", nat ? ", masqueraded port" : "",
	       l.events, l.closed_wait ? " with CLOSE_WAIT" : "", l.bytes);
	CHECK(l.bytes <= 150);
}

int main(void)
{
	ns_make(&a);
	addresses();
	sh("nft 'add table ip t; add chain ip t c { type filter hook output priority 0 ; }; "
	   "add rule ip t c ct state new counter'");
	ns_make(&b);
	addresses();
	test_life(false, true);
	test_life(true, false);
	test_life(true, true);
	ns_close(&a);
	ns_close(&b);
	return t_end();
}
