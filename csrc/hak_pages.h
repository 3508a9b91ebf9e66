/* hak_pages.h - memory that is wanted for a while only goes back to the kernel.
 *
 * The daemon locks its memory, and what is locked is not given up by MADV_DONTNEED: EINVAL,
 * and all stays.  Linux 5.18 has an advice for such pages; before it they are unlocked,
 * and may be swapped when they are used next.
 */
#ifndef HAK_PAGES_H
#define HAK_PAGES_H

#include <stddef.h>
#include <sys/mman.h>

enum { HAK_MADV_DONTNEED_LOCKED = 24 };	/* not in the headers of older systems */

/* `p` is page-aligned; what is read there afterwards is zero. */
static inline void hak_pages_back(void *p, size_t n)
{
	if (!madvise(p, n, HAK_MADV_DONTNEED_LOCKED))
		return;
	(void)munlock(p, n);
	(void)madvise(p, n, MADV_DONTNEED);
}

#endif
