/* hak_clock.h - the two clocks: monotonic for decisions, wall for what people read. */
#ifndef HAK_CLOCK_H
#define HAK_CLOCK_H

#include <stdint.h>
#include <time.h>

enum { HAK_MS = 1000000 };		/* ns */

static inline uint64_t hak_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t hak_wall_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / HAK_MS;
}

#endif
