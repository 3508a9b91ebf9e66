/* hak_err.h - the one vocabulary of errors of the C core.
 *
 * Functions that can fail return an `enum hak_err` (0 is success) unless their
 * comment says otherwise.  System calls keep their cause in errno; the caller
 * adds it to the message.  hak2k/_core.pyx turns these into the typed Python
 * exceptions in exactly one place.
 */
#ifndef HAK_ERR_H
#define HAK_ERR_H

enum hak_err {
	HAK_OK = 0,
	HAK_ETRUNC,	/* fewer bytes than the format needs */
	HAK_EFORMAT,	/* bytes that the format forbids */
	HAK_ESPACE,	/* no room in the caller's buffer */
	HAK_ESKIP,	/* well-formed, but of a kind this version ignores */
	HAK_EAUTH,	/* the seal does not fit: wrong key or altered bytes */
	HAK_EREPLAY,	/* authentic, but seen before or too old */
	HAK_ESTATE,	/* the call does not fit the present state */
	HAK_ESYS,	/* a system call failed, see errno */
	HAK_ECRYPTO,	/* the crypto library failed (never wrong input) */
	HAK_EINVAL,	/* an argument of our own caller is wrong */
};

static inline const char *hak_strerror(enum hak_err e)
{
	static const char *const names[] = {
		"ok", "truncated", "malformed", "no space", "unknown kind",
		"not authentic", "replayed", "wrong state", "system error",
		"crypto failure", "invalid argument",
	};
	return (unsigned)e < sizeof names / sizeof *names ? names[e] : "?";
}

#endif
