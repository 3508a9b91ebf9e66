/* test_engine.c - two whole engines in two network namespaces, from plain C.
 *
 * So that the threads run under AddressSanitizer, UndefinedBehaviorSanitizer and
 * ThreadSanitizer, where Python would only be in the way: churn on the active
 * side, a full copy under it, the passive restarted, differences found and repaired,
 * keys changed on the way, roles swapped back and forth, a hand-over; at the end of
 * each the two kernels hold the same connections.
 */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <arpa/inet.h>

#include "hak_ct.h"
#include "hak_engine_int.h"
#include "hak_nl.h"
#include "t.h"

enum { FLOWS = 3000 };

static int ns[2];

static void enter(int which)
{
	NEED(setns(ns[which], CLONE_NEWNET) == 0);
}

static void sh(const char *command)
{
	int r = system(command);

	if (r)
		fprintf(stderr, "failed: %s\n", command);
	NEED(r == 0);
}

/* Two namespaces joined by ha0; two data devices of their own each. */
static void build(void)
{
	char cmd[512];

	for (int i = 0; i < 2; i++) {
		NEED(unshare(CLONE_NEWNET) == 0);
		ns[i] = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
		NEED(ns[i] >= 0);
		sh("ip link set lo up; ip link add lan type veth peer name lan-x; ip link set lan up");
		sh("sysctl -qw net.netfilter.nf_conntrack_events=1");
	}
	snprintf(cmd, sizeof cmd, "ip link add ha0 type veth peer name ha0 netns /proc/%d/fd/%d",
		 getpid(), ns[0]);
	sh(cmd);
	for (int i = 0; i < 2; i++) {
		enter(i);
		snprintf(cmd, sizeof cmd, "ip addr add 192.168.69.%d/24 dev ha0; ip link set ha0 up",
			 i + 1);
		sh(cmd);
		sh("printf '%s\\n' 'table netdev hak2k {' 'set open {' 'type iface_type' '}' 'chain in {'"
		   " 'type filter hook ingress devices = { lan } priority -500; policy drop;'"
		   " 'meta iiftype @open accept' '}' '}' 'table inet hak2k {' 'chain labels {'"
		   " 'ct label set 127' '}' 'chain a {'"
		   " 'type filter hook prerouting priority raw;' 'iifname ha0 notrack' '}'"
		   " 'chain b {' 'type filter hook output priority raw;' 'oifname ha0 notrack'"
		   " '}' '}' | nft -f -");
	}
}

static void address(struct sockaddr_storage *s, const char *text)
{
	struct sockaddr_in *in = (void *)s;

	in->sin_family = AF_INET;
	in->sin_port = htons(44242);
	NEED(inet_pton(AF_INET, text, &in->sin_addr) == 1);
}

static struct hak_engine *engine(int i)
{
	static const char *const names[] = { "192.168.69.1", "192.168.69.2" };
	struct hak_engine_cfg c = {
		.cluster = 7, .n_links = 1, .n_interfaces = 1, .heartbeat_ms = 20,
		/* sanitizers are slow: nobody is to die of that */
		.dead_after_ms = 2000, .encrypt = true, .larval_timeout = 8 * 86400,
		.gate_table = "hak2k", .model = "c", .version = "test",
	};
	struct hak_engine *e;
	char why[HAK_TEXT];
	int err;

	memset(c.policy.protocols, 0xff, sizeof c.policy.protocols);
	memset(c.psk, 42, sizeof c.psk);
	c.n_psk = 1;
	snprintf(c.serial, sizeof c.serial, "E-%d", i);
	snprintf(c.links[0].ifname, sizeof c.links[0].ifname, "ha0");
	snprintf(c.interfaces[0], sizeof c.interfaces[0], "lan");
	address(&c.links[0].local, names[i]);
	address(&c.links[0].peer, names[!i]);
	enter(i);
	if (hak_engine_new(&e, &c, why, &err))
		fprintf(stderr, "%s: %s\n", why, strerror(err));
	NEED(e != NULL);
	NEED(hak_engine_start(e) == HAK_OK);
	return e;
}

static void status(struct hak_engine *e, uint8_t mode, uint32_t term)
{
	struct hak_status s = { .mode = mode, .quality = 100, .state = 1, .term = term };

	hak_engine_set_status(e, &s);
}

/* Poll for at most 20 s. */
#define UNTIL(cond) do { \
	int t_ = 0; \
	while (!(cond) && t_++ < 20000) \
		(void)poll(NULL, 0, 1); \
	CHECK(cond); } while (0)

static bool synced(struct hak_engine *e)
{
	struct hak_stream_info s;

	hak_engine_stream(e, &s);
	return s.synced;
}

static bool drained(struct hak_engine *active, struct hak_engine *passive)
{
	struct hak_stream_info a, p;

	hak_engine_stream(active, &a);
	hak_engine_stream(passive, &p);
	return a.lag_records == 0 && a.sequence == p.acked;
}

static bool known(struct hak_engine *e)
{
	struct hak_peer p;

	hak_engine_peer(e, &p);
	return p.known && p.alive;
}

static void flow(struct hak_flow *f, unsigned i)
{
	memset(f, 0, sizeof *f);
	f->l3 = AF_INET;
	f->l4proto = IPPROTO_UDP;
	f->l4kind = HAK_L4_PORTS;
	f->orig.src[0] = 10;
	f->orig.src[3] = 1;
	f->orig.dst[0] = 11;
	f->orig.dst[3] = 1;
	f->orig.sport = (uint16_t)(1024 + i);
	f->orig.dport = 53;
	f->reply = hak_tuple_inverse(f, &f->orig);
	if (i % 3 == 0) {
		f->reply.dst[0] = 12;
		f->reply.dport = (uint16_t)(30000 - i);
	}
	f->have = HAK_HAS_REPLY | HAK_HAS_STATUS | HAK_HAS_MARK;
	f->mark = i;
}

/* Create, change and delete at random, as the kernel of `which` would. */
static void churn(int which, unsigned rounds)
{
	struct hak_ct_form form = { .timeout = 300 };
	struct hak_nl nl;

	enter(which);
	NEED(hak_nl_open(&nl, HAK_NL_CALL_BUF) == HAK_OK);
	for (unsigned i = 0; i < rounds; i++) {
		uint8_t buf[1024];
		struct hak_wr w = hak_wr_on(buf, sizeof buf);
		struct hak_flow f;

		flow(&f, t_below(FLOWS));
		switch (t_below(3)) {
		case 0:
			(void)hak_ct_put_delete(&w, i, &f, false);
			break;
		case 1:
			f.mark = t_below(1000);
			(void)hak_ct_put_update(&w, i, &f, &form);
			break;
		default:
			(void)hak_ct_put_create(&w, i, &f, &form);
		}
		CHECK(hak_nl_send(&nl, &w) == HAK_OK);
		if (i % 64 == 0)
			hak_nl_drain(&nl);
	}
	hak_nl_close(&nl);
}

/* Identity, NAT and mark of every entry, as one number that order cannot change. */
static uint64_t digest(int which, unsigned *count)
{
	static uint8_t buf[HAK_NL_BUF];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	struct hak_nl nl;
	uint64_t sum = 0;

	*count = 0;
	enter(which);
	NEED(hak_nl_open(&nl, HAK_NL_CALL_BUF) == HAK_OK);
	(void)hak_ct_put_list(&w, 1);
	NEED(hak_nl_send(&nl, &w) == HAK_OK);
	for (;;) {
		struct hak_ctmsg m;
		struct hak_rd r;
		size_t n;

		NEED(hak_nl_recv(&nl, buf, sizeof buf, 0, &n) == HAK_OK);
		r = hak_rd_on(buf, n);
		while (hak_rd_left(&r)) {
			uint64_t h = 1469598103934665603u;
			const uint8_t *p;

			if (hak_ct_next(&r, &m))
				continue;
			if (m.what == HAK_CT_DONE) {
				hak_nl_close(&nl);
				return sum;
			}
			p = (const uint8_t *)&m.flow.orig;
			for (size_t i = 0; i < sizeof m.flow.orig; i++)
				h = (h ^ p[i]) * 1099511628211u;
			p = (const uint8_t *)&m.flow.reply;
			for (size_t i = 0; i < sizeof m.flow.reply; i++)
				h = (h ^ p[i]) * 1099511628211u;
			sum += (h ^ m.flow.mark) * 1099511628211u;
			++*count;
		}
	}
}

static void compare(const char *what)
{
	unsigned a, b;
	uint64_t x = digest(0, &a), y = digest(1, &b);

	CASE("%s", what);
	CHECK(a > 0);
	EQUAL(a, b);
	CHECK(x == y);
	t_case[0] = 0;
}

/* What the other side will not hear of: this kernel alone loses and alters entries. */
static void spoil(int which, unsigned n)
{
	struct hak_ct_form form = { .timeout = 8 * 86400 };
	struct hak_nl nl;

	enter(which);
	NEED(hak_nl_open(&nl, HAK_NL_CALL_BUF) == HAK_OK);
	for (unsigned i = 0; i < n; i++) {
		uint8_t buf[1024];
		struct hak_wr w = hak_wr_on(buf, sizeof buf);
		struct hak_flow f;

		flow(&f, t_below(FLOWS));
		f.mark = 5000 + i;
		if (i % 3 == 0)
			(void)hak_ct_put_delete(&w, i, &f, false);
		else if (i % 3 == 1)
			(void)hak_ct_put_update(&w, i, &f, &form);
		else
			(void)hak_ct_put_create(&w, i, &f, &form);
		CHECK(hak_nl_send(&nl, &w) == HAK_OK);
		hak_nl_drain(&nl);
	}
	hak_nl_close(&nl);
}

static struct hak_table verified(struct hak_engine *asked, uint32_t id, bool repair)
{
	struct hak_table t;

	CHECK(hak_engine_verify(asked, id, repair) == HAK_OK);
	UNTIL((hak_engine_table(asked, &t), t.verified == id));
	return t;
}

static uint32_t key_in_use(struct hak_engine *e)
{
	struct hak_stream_info s;

	hak_engine_stream(e, &s);
	return s.key;
}

/* Both know the new key before the old one goes. */
static void rekey(struct hak_engine *a, struct hak_engine *b, uint8_t old, uint8_t new)
{
	uint8_t psk[2][32];
	uint32_t before = key_in_use(a);

	memset(psk[0], new, sizeof psk[0]);
	memset(psk[1], old, sizeof psk[1]);
	CHECK(hak_engine_set_keys(a, psk, 2) == HAK_OK);
	CHECK(hak_engine_set_keys(b, psk, 2) == HAK_OK);
	UNTIL(key_in_use(a) != before && key_in_use(a) == key_in_use(b));
	CHECK(hak_engine_set_keys(a, psk, 1) == HAK_OK);
	CHECK(hak_engine_set_keys(b, psk, 1) == HAK_OK);
}

static void role(struct hak_engine *e, int i, bool active, uint32_t term)
{
	struct hak_swap_times t;

	enter(i);
	status(e, active ? 2 : 1, term);
	CHECK((active ? hak_engine_activate(e, term, &t) : hak_engine_passivate(e, &t)) == HAK_OK);
	EQUAL(hak_engine_gate(e), active);
}

static void drain_events(struct hak_engine *e)
{
	struct hak_event v;

	while (hak_engine_event(e, &v))
		CHECK(v.type < HAK_EV_COUNT);
}

/* What only the log wants leaves places for what decides; what is lost is counted. */
static void test_a_daemon_that_does_not_read(struct hak_engine *e)
{
	const struct hak_stats *s = hak_engine_stats(e);
	uint64_t before = hak_stat_value(s, HAK_STAT_EVENTS_LOST);
	struct hak_event v = { 0 };
	unsigned refused = 0, deaths = 0;

	CASE("%s", "a daemon that does not read");
	drain_events(e);
	for (unsigned i = 0; i < 2 * HAK_EVENTS_HELD; i++)
		hak_emit(e, HAK_EV_HELLO_REFUSED, i, 0, 0, "no");
	for (unsigned i = 0; i < 100; i++)
		hak_emit(e, HAK_EV_PEER_DEAD, i, 0, 0, NULL);
	while (hak_engine_event(e, &v)) {
		refused += v.type == HAK_EV_HELLO_REFUSED;
		if (v.type == HAK_EV_PEER_DEAD && v.a == deaths)
			deaths++;
	}
	CHECK(refused <= HAK_EVENTS_HELD / 2);
	CHECK(refused > HAK_EVENTS_HELD / 4);
	EQUAL(deaths, 100);
	EQUAL(hak_stat_value(s, HAK_STAT_EVENTS_LOST) - before, 2 * HAK_EVENTS_HELD - refused);
}

int main(void)
{
	struct hak_engine *a, *b;

	if (geteuid() != 0) {
		fprintf(stderr, "test_engine needs root: it makes network namespaces\n");
		return 1;
	}
	build();
	a = engine(0);
	b = engine(1);
	UNTIL(known(a) && known(b));

	churn(0, 4000);				/* before anybody listens */
	role(a, 0, true, 1);
	role(b, 1, false, 0);
	churn(0, 8000);				/* under the copy */
	UNTIL(synced(b));
	UNTIL(drained(a, b));
	compare("copy under churn");

	hak_engine_free(b);			/* crash and restart of the passive */
	churn(0, 3000);
	b = engine(1);
	role(b, 1, false, 0);
	churn(0, 3000);
	UNTIL(synced(b));
	UNTIL(drained(a, b));
	compare("restart");
	drain_events(a);
	drain_events(b);

	for (uint8_t i = 0; i < 2; i++) {	/* asked by either node, keys and all */
		struct hak_engine *asked = i % 2 ? a : b;
		struct hak_table t;

		spoil(1, 300);
		t = verified(asked, 100 + i, false);
		CHECK(!t.equal && t.missing && t.extra + t.different);
		rekey(a, b, 42 + i, 43 + i);
		churn(0, 1000);
		t = verified(asked, 200 + i, true);
		CHECK(t.equal == 1 && t.repaired);
		UNTIL(synced(b));
		UNTIL(drained(a, b));
		compare("differences repaired");
	}
	drain_events(a);
	drain_events(b);

	enter(0);				/* planned swap */
	struct hak_handover_times took;

	CHECK(hak_engine_handover(a, 2, 5000, 0, &took) == HAK_OK);
	EQUAL(hak_engine_gate(a), 0);
	status(a, 1, 1);
	role(b, 1, true, 2);
	churn(1, 5000);
	UNTIL(synced(a));
	UNTIL(drained(b, a));
	compare("hand-over");

	for (uint32_t i = 0; i < 10; i++) {	/* back and forth, no time to breathe */
		role(i % 2 ? a : b, i % 2 ? 0 : 1, false, 3 + i);
		role(i % 2 ? b : a, i % 2 ? 1 : 0, true, 3 + i);
		churn(i % 2 ? 1 : 0, 500);
	}
	UNTIL(synced(a));
	UNTIL(drained(b, a));
	compare("ten swaps");

	test_a_daemon_that_does_not_read(a);

	hak_engine_bye(a);
	hak_engine_free(a);
	hak_engine_free(b);
	return t_end();
}
