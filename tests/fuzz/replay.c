/* replay.c - run a target over files, without libFuzzer: any compiler will do.
 *
 *   replay [-s SECONDS [-r SEED]] PATH...
 *
 * With -s it goes on with inputs made from the files by chance, the same ones for the
 * same SEED; one that crashes is left in ./crash-input, to be put into the corpus. */
#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "fuzz.h"

enum { MAX = 1 << 20, INPUT_MAX = 4096, KEPT = 1024 };

static unsigned files;
static struct { uint8_t *p; size_t n; } kept[KEPT];
static uint8_t input[INPUT_MAX];
static size_t input_len;

static void replay(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *buf = malloc(MAX), *exact;
	size_t n;

	if (!f || !buf) {
		perror(path);
		exit(1);
	}
	n = fread(buf, 1, MAX, f);
	fclose(f);
	/* of exactly this size, so that the sanitizer sees a read of one byte more */
	exact = malloc(n ? n : 1);
	if (!exact)
		exit(1);
	memcpy(exact, buf, n);
	free(buf);
	(void)LLVMFuzzerTestOneInput(exact, n);
	if (files < KEPT) {
		kept[files].p = exact;
		kept[files].n = n;
	} else {
		free(exact);
	}
	files++;
}

/* ---- by chance ------------------------------------------------------- */

static uint64_t chance;

static size_t below(size_t n)
{
	chance ^= chance >> 12;
	chance ^= chance << 25;
	chance ^= chance >> 27;
	return (size_t)((chance * 2685821657736338717u) >> 33) % n;
}

/* Overwrite, insert, remove, or a piece of another file. */
static void alter(void)
{
	static const uint8_t odd[] = { 0, 1, 2, 0x7f, 0x80, 0xf1, 0xfe, 0xff };
	size_t other = below(files < KEPT ? files : KEPT), at = below(input_len + 1), n, from;

	switch (below(5)) {
	case 0:
		if (at < input_len)
			input[at] ^= (uint8_t)(1u << below(8));
		break;
	case 1:
		if (at < input_len)
			input[at] = odd[below(sizeof odd)];
		break;
	case 2:
		if (at < input_len)
			input[at] = (uint8_t)below(256);
		break;
	case 3:
		n = at < input_len ? below(input_len - at) + 1 : 0;
		memmove(input + at, input + at + n, input_len - at - n);
		input_len -= n;
		break;
	default:
		if (!kept[other].n)
			break;
		from = below(kept[other].n);
		n = below(kept[other].n - from) + 1;
		if (n > INPUT_MAX - input_len)
			n = INPUT_MAX - input_len;
		memmove(input + at + n, input + at, input_len - at);
		memcpy(input + at, kept[other].p + from, n);
		input_len += n;
	}
}

static void on_crash(int sig)
{
	static const char note[] = "crashed; the input is in ./crash-input\n";
	FILE *f = fopen("crash-input", "wb");

	if (f) {
		(void)fwrite(input, 1, input_len, f);
		(void)fclose(f);
		(void)!write(2, note, sizeof note - 1);
	}
	(void)signal(sig, SIG_DFL);
	(void)raise(sig);
}

static void by_chance(unsigned seconds, uint64_t seed)
{
	time_t end = time(NULL) + seconds;
	unsigned long n = 0;

	chance = seed * 2 + 1;
	(void)signal(SIGSEGV, on_crash);
	(void)signal(SIGABRT, on_crash);
	(void)signal(SIGBUS, on_crash);
	for (; time(NULL) < end; n++) {
		size_t which = below(files < KEPT ? files : KEPT);
		uint8_t *exact;

		input_len = kept[which].n < INPUT_MAX ? kept[which].n : INPUT_MAX;
		memcpy(input, kept[which].p, input_len);
		for (size_t i = below(6) + 1; i; i--)
			alter();
		exact = malloc(input_len ? input_len : 1);
		if (!exact)
			exit(1);
		memcpy(exact, input, input_len);
		(void)LLVMFuzzerTestOneInput(exact, input_len);
		free(exact);
	}
	printf("%lu inputs made by chance\n", n);
}

static void walk(const char *path)
{
	struct dirent *e;
	DIR *d = opendir(path);

	if (!d) {
		replay(path);
		return;
	}
	while ((e = readdir(d))) {
		char sub[4096];

		if (e->d_name[0] == '.')
			continue;
		snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
		walk(sub);
	}
	closedir(d);
}

int main(int argc, char **argv)
{
	unsigned seconds = 0;
	uint64_t seed = 1;

	for (int o; (o = getopt(argc, argv, "s:r:")) != -1;) {
		if (o == 's')
			seconds = (unsigned)strtoul(optarg, NULL, 0);
		else if (o == 'r')
			seed = strtoull(optarg, NULL, 0);
		else
			return 2;
	}
	for (int i = optind; i < argc; i++)
		walk(argv[i]);
	printf("%u inputs replayed\n", files);
	if (files && seconds)
		by_chance(seconds, seed);
	for (unsigned i = 0; i < files && i < KEPT; i++)
		free(kept[i].p);
	return files == 0;
}
