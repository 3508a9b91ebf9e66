/* replay.c - run a target over files, without libFuzzer: any compiler will do. */
#include <dirent.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include "fuzz.h"

enum { MAX = 1 << 20 };

static unsigned files;

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
	free(exact);
	files++;
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
	for (int i = 1; i < argc; i++)
		walk(argv[i]);
	printf("%u inputs replayed\n", files);
	return files == 0;
}
