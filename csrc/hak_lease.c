/* hak_lease.c - see hak_lease.h.  Program: bpf(2); filter: net/sched/cls_bpf.c. */
#include "hak_lease.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include "hak_nlmsg.h"

#define FILTER_NAME "hak2k_lease"

enum {
	PREFERENCE = 1,			/* before any other filter */
	HANDLE = 0x68616b,
	PASS = -1,			/* TC_ACT_UNSPEC: to the next filter */
};

struct shared {				/* the map's one value */
	uint64_t until, refused;
};

static int bpf(enum bpf_cmd cmd, union bpf_attr *a)
{
	return (int)syscall(SYS_bpf, cmd, a, sizeof *a);
}

#define INSN(op, d, s, o, i) { .code = (op), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) }

static int load(int map)
{
	const struct bpf_insn program[] = {
		/* r6 = the shared value, r7 = until */
		INSN(BPF_LD | BPF_DW | BPF_IMM, 6, BPF_PSEUDO_MAP_VALUE, 0, map),
		INSN(0, 0, 0, 0, 0),
		INSN(BPF_LDX | BPF_MEM | BPF_DW, 7, 6, 0, 0),
		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ktime_get_ns),
		INSN(BPF_JMP | BPF_JGT | BPF_X, 0, 7, 2, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, PASS),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, 1),
		INSN(BPF_STX | BPF_ATOMIC | BPF_DW, 6, 1, 8, BPF_ADD),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, TC_ACT_SHOT),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	union bpf_attr a = {
		.prog_type = BPF_PROG_TYPE_SCHED_CLS,
		.insn_cnt = sizeof program / sizeof program[0],
		.insns = (uint64_t)(uintptr_t)program,
		.license = (uint64_t)(uintptr_t)"Dual BSD/GPL",
	};

	snprintf(a.prog_name, sizeof a.prog_name, "%s", FILTER_NAME);
	return bpf(BPF_PROG_LOAD, &a);
}

enum hak_err hak_lease_init(struct hak_lease *l)
{
	union bpf_attr a = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = 4,
		.value_size = sizeof(struct shared),
		.max_entries = 1,
		.map_flags = BPF_F_MMAPABLE,
	};
	uint64_t *shared;
	int keep;

	*l = (struct hak_lease){ .map = -1, .prog = -1 };
	l->map = bpf(BPF_MAP_CREATE, &a);
	if (l->map < 0)
		return HAK_ESYS;
	shared = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, l->map, 0);
	if (shared != MAP_FAILED) {
		l->until = (_Atomic uint64_t *)&shared[0];
		l->refused = (_Atomic uint64_t *)&shared[1];
		atomic_store(l->until, HAK_LEASE_FOREVER);
		l->prog = load(l->map);
	}
	if (l->prog >= 0)
		return HAK_OK;
	keep = errno;
	hak_lease_free(l);
	errno = keep;
	return HAK_ESYS;
}

void hak_lease_free(struct hak_lease *l)
{
	if (l->until)
		munmap((void *)l->until, sizeof(struct shared));
	if (l->prog >= 0)
		close(l->prog);
	if (l->map >= 0)
		close(l->map);
	*l = (struct hak_lease){ .map = -1, .prog = -1 };
}

/* ---- the filters ------------------------------------------------------- */

static size_t begin(struct hak_wr *w, uint16_t type, uint16_t flags, unsigned ifindex,
		    uint32_t handle, uint32_t parent, uint32_t info)
{
	size_t at = hak_wr_len(w);

	hak_wr_h32(w, 0);		/* struct nlmsghdr */
	hak_wr_h16(w, type);
	hak_wr_h16(w, (uint16_t)(flags | NLM_F_REQUEST | NLM_F_ACK));
	hak_wr_h32(w, 1);
	hak_wr_h32(w, 0);
	hak_wr_h32(w, AF_UNSPEC);	/* struct tcmsg */
	hak_wr_h32(w, ifindex);
	hak_wr_h32(w, handle);
	hak_wr_h32(w, parent);
	hak_wr_h32(w, info);
	return at;
}

/* Send one message, read its acknowledgement; the errno in it. */
static int call(int fd, const struct hak_wr *w)
{
	uint8_t buf[4096];
	struct nlmsghdr h;
	struct hak_rd r, body;
	ssize_t n;

	if (w->bad)
		return ENOSPC;
	if (send(fd, w->base, hak_wr_len(w), 0) < 0)
		return errno;
	n = recv(fd, buf, sizeof buf, 0);
	if (n < 0)
		return errno;
	r = hak_rd_on(buf, (size_t)n);
	body = hak_nlmsg_next(&r, &h);
	return body.bad || h.nlmsg_type != NLMSG_ERROR ? EPROTO : -(int)hak_rd_h32(&body);
}

static int add_qdisc(int fd, unsigned ifindex)
{
	uint8_t buf[128];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	size_t at = begin(&w, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, ifindex,
			  TC_H_MAKE(TC_H_CLSACT, 0), TC_H_CLSACT, 0);
	int err;

	hak_nla_str(&w, TCA_KIND, "clsact");
	hak_nlmsg_end(&w, at);
	err = call(fd, &w);
	return err == EEXIST ? 0 : err;
}

/* prog: its descriptor; -1: remove the filter. */
static int set_filter(int fd, unsigned ifindex, uint32_t hook, int prog)
{
	uint8_t buf[256];
	struct hak_wr w = hak_wr_on(buf, sizeof buf);
	uint32_t info = PREFERENCE << 16 | htons(ETH_P_ALL);
	uint32_t flags = TCA_BPF_FLAG_ACT_DIRECT;
	size_t at, options;

	at = begin(&w, prog < 0 ? RTM_DELTFILTER : RTM_NEWTFILTER,
		   prog < 0 ? 0 : NLM_F_CREATE | NLM_F_REPLACE, ifindex, HANDLE,
		   TC_H_MAKE(TC_H_CLSACT, hook), info);
	hak_nla_str(&w, TCA_KIND, "bpf");
	if (prog >= 0) {
		options = hak_nla_begin(&w, TCA_OPTIONS);
		hak_nla_put(&w, TCA_BPF_FD, &prog, sizeof prog);
		hak_nla_str(&w, TCA_BPF_NAME, FILTER_NAME);
		hak_nla_put(&w, TCA_BPF_FLAGS, &flags, sizeof flags);
		hak_nla_end(&w, options);
	}
	hak_nlmsg_end(&w, at);
	return call(fd, &w);
}

static enum hak_err set_filters(const char *ifname, int prog)
{
	unsigned ifindex = if_nametoindex(ifname);
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int err = fd < 0 ? errno : ifindex ? 0 : ENODEV;

	if (!err && prog >= 0)
		err = add_qdisc(fd, ifindex);
	for (int i = 0; i < 2 && !err; i++)
		err = set_filter(fd, ifindex, i ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS, prog);
	if (fd >= 0)
		close(fd);
	/* no such filter, no such qdisc */
	if (prog < 0 && (err == ENOENT || err == EINVAL))
		err = 0;
	errno = err;
	return err ? HAK_ESYS : HAK_OK;
}

enum hak_err hak_lease_attach(const struct hak_lease *l, const char *ifname)
{
	return set_filters(ifname, l->prog);
}

enum hak_err hak_lease_detach(const char *ifname)
{
	return set_filters(ifname, -1);
}

/* ---- when --------------------------------------------------------------- */

bool hak_lease_step(struct hak_lessee *l, const struct hak_lease_facts *f)
{
	enum hak_lease_state before = l->state;
	bool standby = f->active && f->heard && !f->peer_active;

	if (!f->active && f->armed) {
		bool late = before == HAK_LEASE_ON && f->now >= l->until;

		if (late)
			l->lapsed_ns = f->now;
		if (late || before == HAK_LEASE_LAPSED) {
			l->state = HAK_LEASE_LAPSED;
			l->until = 0;
		} else {
			l->state = HAK_LEASE_ON;
			if (f->prepared || before == HAK_LEASE_OFF)
				l->until = f->now + f->length;
		}
		return l->state != before;
	}
	if (!f->active) {
		l->state = HAK_LEASE_OFF;
	} else if (before == HAK_LEASE_LAPSED) {
		/* what it said before we woke may be old: it waited in our socket */
		if (!f->heard || (standby && f->echoed_ns >= l->lapsed_ns))
			l->state = standby ? HAK_LEASE_ON : HAK_LEASE_OFF;
	} else if (before == HAK_LEASE_ON && f->now >= l->until) {
		l->state = HAK_LEASE_LAPSED;
		l->lapsed_ns = f->now;
	} else {
		l->state = standby ? HAK_LEASE_ON : HAK_LEASE_OFF;
	}
	l->until = l->state == HAK_LEASE_OFF  ? HAK_LEASE_FOREVER
		   : l->state == HAK_LEASE_ON ? f->now + f->length
					      : 0;
	return l->state != before;
}
