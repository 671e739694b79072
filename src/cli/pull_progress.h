// What `limn pull` shows while it fetches: on a terminal one line a file in work and a total with rate and time left, elsewhere a
// line for each file that is done or in trouble and a total every ten seconds. All on standard error. Relies on
// weights/download.h.
#ifndef LIMN_CLI_PULL_PROGRESS_H
#define LIMN_CLI_PULL_PROGRESS_H

#include "weights/download.h"

enum { PULL_SAMPLES = 32, SIZE_TEXT = 16 };

struct pull_progress {
    bool quiet, terminal;
    int lines; // of the block at the end of the terminal that is drawn anew
    struct {
        double time;
        int64_t bytes;
    } samples[PULL_SAMPLES]; // what was there when, the newest at `sample`; a fifth of a second apart
    int sample, sample_count;
    double told; // when a line was written last
};

void pull_progress_begin(struct pull_progress *progress, bool quiet);
// A download's `changed`; [user] is the struct.
void pull_progress_changed(void *user, const struct download *download, const struct download_item *item);
// Takes the block away.
void pull_progress_end(struct pull_progress *progress);

// "512 B", "9.8 GB": decimal, as hubs and disks count.
const char *size_text(int64_t bytes, char text[SIZE_TEXT]);

// Bytes on disk of all files, and of those files together.
void download_sum(const struct download *download, int64_t *here, int64_t *total, int *done);

#endif
