/* list.c - the floor of listing: asks for a table and throws it away.
 *
 *   list [-d] [-c CPU]
 *
 * In the namespace it is started in.  -d: parses each entry as well, and prints the
 * number and a sum of the tuples of those from 10.73.0.0/16, by which two tables can
 * be compared without holding either.
 */
#include "bench.h"

#include <arpa/inet.h>
#include "hak_ct.h"
#include "hak_ct_tuple.h"
#include "hak_nl.h"
#include "hak_siphash.h"

enum { REQUEST = 64, OWN = 0x0a49 /* 10.73 */ };

static const uint8_t key[HAK_SIPHASH_KEY] = { 'b', 'e', 'n', 'c', 'h' };
static uint64_t entries, sum;

/* False at the listing's end. */
static bool take(const uint8_t *in, size_t n, bool digest)
{
	struct hak_rd r = hak_rd_on(in, n);
	struct hak_ctmsg m;

	while (hak_rd_left(&r)) {
		if (!digest) {
			struct hak_rd at = r;
			uint32_t len = hak_rd_h32(&at);
			uint16_t type = hak_rd_h16(&at);

			if (type == NLMSG_DONE || type == NLMSG_ERROR || at.bad)
				return false;
			hak_rd_take(&r, NLMSG_ALIGN(len));
			if (r.bad)
				die("listing");
			entries++;
			continue;
		}
		if (hak_ct_next(&r, &m))
			continue;
		if (m.what == HAK_CT_DONE || m.what == HAK_CT_ERROR)
			return false;
		if ((m.flow.orig.src[0] << 8 | m.flow.orig.src[1]) != OWN)
			continue;
		entries++;
		sum += hak_flow_hash(&m.flow, key) +
		       hak_siphash(&m.flow.reply, sizeof m.flow.reply, key);
	}
	return true;
}

int main(int argc, char **argv)
{
	static uint8_t in[HAK_NL_BUF], out[REQUEST];
	struct hak_wr w = hak_wr_on(out, sizeof out);
	bool digest = false, more = true;
	uint64_t began, cpu;
	struct hak_nl nl;
	size_t n;
	int c;

	while ((c = getopt(argc, argv, "dc:")) != -1)
		if (c == 'd')
			digest = true;
		else if (c == 'c')
			pin(number(optarg));
		else
			usage("list [-d] [-c CPU]");
	if (hak_nl_open(&nl, HAK_NL_CALL_BUF) || hak_ct_put_list(&w, ++nl.seq))
		die("ctnetlink socket");
	began = mono_ns();
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	if (hak_nl_send(&nl, &w))
		die("listing");
	while (more) {
		if (hak_nl_recv(&nl, in, sizeof in, 0, &n))
			die("listing");
		more = take(in, n, digest);
	}
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("{\"entries\": %llu, \"sum\": \"%016llx\", \"ns\": %llu, \"cpu_ns\": %llu}\n",
	       (unsigned long long)entries, (unsigned long long)sum,
	       (unsigned long long)(mono_ns() - began), (unsigned long long)cpu);
	hak_nl_close(&nl);
	return 0;
}
