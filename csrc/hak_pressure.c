/* hak_pressure.c - see hak_pressure.h. */
#include "hak_pressure.h"

#include <netinet/in.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>

#define CALM_NS 2000000000u

enum { LAG, WINDOW, EVENTS, TABLE, SIGNS };

/* What takes the level up to 1 and 2, and what keeps it there. */
static const struct {
	enum hak_cause cause;
	uint32_t rise[HAK_PRESSURE_MAX], stay[HAK_PRESSURE_MAX];
} signs[SIGNS] = {
	[LAG] = { HAK_CAUSE_STREAM, { 500, 2000 }, { 250, 1000 } },
	[WINDOW] = { HAK_CAUSE_STREAM, { 50, 85 }, { 25, 50 } },
	[EVENTS] = { HAK_CAUSE_EVENTS, { 50, 85 }, { 25, 50 } },
	[TABLE] = { HAK_CAUSE_TABLE, { 90, 97 }, { 85, 93 } },
};

/* The highest level that one of the signs asks for.  Its cause, if there is one. */
static unsigned asked(const uint64_t v[SIGNS], bool rising, enum hak_cause *cause)
{
	for (unsigned level = HAK_PRESSURE_MAX; level; level--)
		for (unsigned i = 0; i < SIGNS; i++)
			if (v[i] >= (rising ? signs[i].rise : signs[i].stay)[level - 1]) {
				*cause = signs[i].cause;
				return level;
			}
	return 0;
}

bool hak_pressure_step(struct hak_pressure *p, const struct hak_load *l, uint64_t now)
{
	const uint64_t v[SIGNS] = {
		[LAG] = l->lag_ms, [WINDOW] = l->window, [EVENTS] = l->events, [TABLE] = l->table,
	};
	enum hak_cause cause = HAK_CAUSE_EVENTS;
	unsigned up = l->overrun ? HAK_PRESSURE_MAX : asked(v, true, &cause), before = p->level;

	if (up > before) {
		*p = (struct hak_pressure){ .level = up, .cause = cause, .calm_ns = now };
		return true;
	}
	if (up == before || asked(v, false, &cause) >= before) {
		if (before)
			p->cause = cause;
		p->calm_ns = now;
		return false;
	}
	if (now - p->calm_ns < CALM_NS)
		return false;
	p->calm_ns = now;
	if (!--p->level)
		p->cause = HAK_CAUSE_NONE;
	return true;
}

/* Asked once and answered once: names, time, echoes. */
static bool question(const struct hak_flow *f)
{
	if (f->l4proto == IPPROTO_UDP)
		return f->orig.dport == 53 || f->orig.dport == 123;
	return f->l4proto == IPPROTO_ICMP || f->l4proto == IPPROTO_ICMPV6;
}

bool hak_pressure_waits(unsigned level, const struct hak_flow *f)
{
	/* What is missing in an event is not known, and so it is told. */
	if (!level || !(f->have & HAK_HAS_STATUS) || f->status & IPS_NAT_MASK ||
	    f->have & (HAK_HAS_MASTER | HAK_HAS_HELPER | HAK_HAS_SEQADJ))
		return false;
	/* The kernel says so of UDP that goes to and fro for more than two seconds. */
	if (f->l4proto == IPPROTO_UDP && f->status & IPS_ASSURED)
		return false;
	return level == HAK_PRESSURE_MAX || question(f);
}

bool hak_pressure_over(const struct hak_flow *f)
{
	return f->have & HAK_HAS_TCP && (f->tcp_state == TCP_CONNTRACK_TIME_WAIT ||
					 f->tcp_state == TCP_CONNTRACK_LAST_ACK ||
					 f->tcp_state == TCP_CONNTRACK_CLOSE);
}

const char *hak_cause_name(enum hak_cause c)
{
	static const char *const names[HAK_CAUSES] = { "", "stream", "events", "table" };

	return c < HAK_CAUSES ? names[c] : "";
}
