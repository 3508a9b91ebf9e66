/* t.h - the little that C tests need: checks that count, a fixed random source. */
#ifndef T_H
#define T_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned t_checks, t_failures;
static char t_case[128];	/* what is being tried, for the message of a failure */

static inline bool t_check(bool ok, const char *file, int line, const char *what)
{
	t_checks++;
	if (!ok && ++t_failures <= 20)
		fprintf(stderr, "%s:%d: %s%s%s\n", file, line, what, t_case[0] ? "  in " : "",
			t_case);
	return ok;
}

static inline bool t_equal(long long a, long long b, const char *file, int line, const char *what)
{
	char s[256];

	if (a == b)
		return t_check(true, file, line, what);
	snprintf(s, sizeof s, "%s: %lld (0x%llx), want %lld (0x%llx)", what, a,
		 (unsigned long long)a, b, (unsigned long long)b);
	return t_check(false, file, line, s);
}

#define CHECK(cond) t_check((cond), __FILE__, __LINE__, #cond)
#define EQUAL(a, b) t_equal((long long)(a), (long long)(b), __FILE__, __LINE__, #a)
#define FAIL(text) t_check(false, __FILE__, __LINE__, (text))
/* Nothing sensible can follow. */
#define NEED(cond) \
	do { if (!CHECK(cond)) exit(t_end()); } while (0)
#define CASE(...) snprintf(t_case, sizeof t_case, __VA_ARGS__)

static inline int t_end(void)
{
	printf("%u checks, %u failures\n", t_checks, t_failures);
	return t_failures != 0;
}

/* xorshift64*: the same numbers in each run, others with T_SEED. */
static inline uint64_t t_random(void)
{
	static uint64_t x;

	if (!x) {
		const char *s = getenv("T_SEED");

		x = s ? strtoull(s, NULL, 0) : 88172645463325252u;
		if (s)
			printf("T_SEED=%s\n", s);
	}
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	return x * 2685821657736338717u;
}

static inline unsigned t_below(unsigned n)
{
	return (unsigned)(t_random() >> 33) % n;
}

static inline void t_bytes(void *p, size_t n)
{
	uint8_t *b = p;

	while (n--)
		*b++ = (uint8_t)(t_random() >> 56);
}

#endif
