/* filter.h - a socket's filter, as bench/filters.py writes it: instructions in hex. */
#ifndef FILTER_H
#define FILTER_H

#include "bench.h"

#include <sys/socket.h>
#include <linux/filter.h>

/* Before it joins a group.  An empty text: none. */
static inline void filter(int fd, const char *text)
{
	enum { MOST = 64 };
	struct sock_filter code[MOST];
	struct sock_fprog prog = { .filter = code };
	size_t n = strlen(text) / 2;
	uint8_t bytes[sizeof code];

	if (!n)
		return;
	if (n > sizeof bytes || n % sizeof *code)
		usage("a filter is some whole instructions, in hex");
	for (size_t i = 0; i < n; i++) {
		unsigned byte;

		if (sscanf(&text[2 * i], "%2x", &byte) != 1)
			usage("a filter is some whole instructions, in hex");
		bytes[i] = (uint8_t)byte;
	}
	memcpy(code, bytes, n);
	prog.len = (unsigned short)(n / sizeof *code);
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog))
		die("SO_ATTACH_FILTER");
}

#endif
