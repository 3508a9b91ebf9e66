/* bench.h - what the load generators have in common: clocks, namespaces, pacing.
 *
 * They are run by bench/tools.py, one purpose each, and print one line of JSON at
 * their end.  A network namespace is given as the number of an open descriptor.
 * Whatever goes wrong ends the program: a wrong figure is worse than none.
 */
#ifndef BENCH_H
#define BENCH_H

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline void usage(const char *text)
{
	fprintf(stderr, "usage: %s\n", text);
	exit(2);
}

static inline long number(const char *text)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (errno || end == text || *end || n < 0) {
		fprintf(stderr, "not a number: %s\n", text);
		exit(2);
	}
	return n;
}

static inline uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t mono_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static inline void sleep_until(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u),
			      .tv_nsec = (long)(ns % 1000000000u) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/* Wake up when asked to, not up to 50 us later. */
static inline void be_punctual(void)
{
	prctl(PR_SET_TIMERSLACK, 1L);
}

static inline void enter(int namespace)
{
	if (setns(namespace, CLONE_NEWNET))
		die("setns");
}

/* cpu < 0: anywhere */
static inline void pin(long cpu)
{
	cpu_set_t s;

	if (cpu < 0)
		return;
	CPU_ZERO(&s);
	CPU_SET((size_t)cpu, &s);
	if (sched_setaffinity(0, sizeof s, &s))
		die("sched_setaffinity");
}

#endif
