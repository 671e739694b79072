// See pull_progress.h.
#include "cli/pull_progress.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { COLUMNS_LEAST = 40, COLUMNS_MOST = 200, LINES_MOST = 20 };
static const double TELL_SECONDS = 10;

void pull_progress_begin(struct pull_progress *progress, bool quiet) {
    *progress =
        (struct pull_progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO), .told = clock_seconds()};
}

const char *size_text(int64_t bytes, char text[SIZE_TEXT]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 999.95 && unit < 5; unit++) value /= 1000;
    snprintf(text, SIZE_TEXT, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

void download_sum(const struct download *download, int64_t *here, int64_t *total, int *done) {
    *here = *total = 0;
    *done = 0;
    for (int i = 0; i < download->count; i++) {
        *here += download->items[i].here;
        *total += download->items[i].file->size;
        *done += download->items[i].state == DOWNLOAD_DONE;
    }
}

// Bytes a second over the last six seconds; 0: not known yet.
static double rate_of(struct pull_progress *progress, int64_t here) {
    double now = clock_seconds();
    if (!progress->sample_count || now - progress->samples[progress->sample].time >= 0.19) {
        progress->sample = (progress->sample + 1) % PULL_SAMPLES;
        progress->samples[progress->sample].time = now;
        progress->samples[progress->sample].bytes = here;
        if (progress->sample_count < PULL_SAMPLES) progress->sample_count++;
    }
    int oldest = (progress->sample + 1 + PULL_SAMPLES - progress->sample_count) % PULL_SAMPLES;
    double seconds = now - progress->samples[oldest].time;
    double bytes = (double)(here - progress->samples[oldest].bytes);
    return seconds > 0.5 && bytes > 0 ? bytes / seconds : 0;
}

// "12.3 of 112.1 GB, 3 of 30 files, 105.0 MB/s, 16 min left"
static void total_line(struct pull_progress *progress, const struct download *download, char *line,
                       size_t size) {
    int64_t here, total;
    int done;
    char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT];
    download_sum(download, &here, &total, &done);
    double rate = rate_of(progress, here);
    size_t used = (size_t)snprintf(line, size, "%s of %s, %d of %d files", size_text(here, a),
                                   size_text(total, b), done, download->count);
    if (rate <= 0 || used >= size) return;
    double left = (double)(total - here) / rate;
    used += (size_t)snprintf(line + used, size - used, ", %s/s", size_text((int64_t)rate, c));
    if (used >= size) return;
    if (left < 90)
        snprintf(line + used, size - used, ", %.0f s left", left);
    else if (left < 5400)
        snprintf(line + used, size - used, ", %.0f min left", left / 60);
    else
        snprintf(line + used, size - used, ", %.1f h left", left / 3600);
}

static int columns_of_terminal(void) {
    struct winsize window = {0};
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col ? window.ws_col : 80;
    return columns < COLUMNS_LEAST ? COLUMNS_LEAST : columns > COLUMNS_MOST ? COLUMNS_MOST : columns;
}

static const char *state_text(const struct download_item *item) {
    switch (item->state) {
    case DOWNLOAD_LOCKED:
        return "another process fetches it";
    case DOWNLOAD_PAUSED:
        return item->trouble;
    case DOWNLOAD_CHECKING:
        return "checking";
    default:
        return "";
    }
}

static void item_line(const struct download_item *item, int columns) {
    char a[SIZE_TEXT], b[SIZE_TEXT], line[400];
    int64_t size = item->file->size;
    double percent = size ? 100.0 * (double)item->here / (double)size : 100;
    int room = columns - 36;
    size_t length = strlen(item->file->path);
    const char *path = item->file->path + (length > (size_t)room ? length - (size_t)room : 0);
    snprintf(line, sizeof line, "%-*s %5.1f%% %9s of %9s  %s", room, path, percent, size_text(item->here, a),
             size_text(size, b), state_text(item));
    fprintf(stderr, "\033[K%.*s\n", columns - 1, line);
}

void pull_progress_end(struct pull_progress *progress) {
    if (progress->lines) fprintf(stderr, "\033[%dA\033[J", progress->lines);
    progress->lines = 0;
}

static void draw_block(struct pull_progress *progress, const struct download *download) {
    char line[200];
    int columns = columns_of_terminal();
    pull_progress_end(progress);
    for (int i = 0; i < download->count && progress->lines < LINES_MOST; i++) {
        const struct download_item *item = &download->items[i];
        if (item->state == DOWNLOAD_WAITING || item->state == DOWNLOAD_DONE) continue;
        item_line(item, columns);
        progress->lines++;
    }
    total_line(progress, download, line, sizeof line);
    fprintf(stderr, "\033[K%.*s\n", columns - 1, line);
    progress->lines++;
    fflush(stderr);
}

static void tell_item(const struct download_item *item) {
    char size[SIZE_TEXT];
    bool was_here = item->found == item->file->size && item->file->size; // the list of files says so
    if (item->state == DOWNLOAD_DONE && !was_here)
        fprintf(stderr, "%s/%s: %s\n", item->name, item->file->path, size_text(item->file->size, size));
    else if (item->state == DOWNLOAD_PAUSED)
        fprintf(stderr, "limn: %s/%s: %s; trying again\n", item->name, item->file->path, item->trouble);
    else if (item->state == DOWNLOAD_LOCKED)
        fprintf(stderr, "limn: %s/%s: another process fetches it; waiting\n", item->name, item->file->path);
}

void pull_progress_changed(void *user, const struct download *download, const struct download_item *item) {
    struct pull_progress *progress = user;
    char line[200];
    if (progress->quiet) return;
    if (item) {
        bool stays = item->state == DOWNLOAD_DONE || (!progress->terminal && item->state != DOWNLOAD_RUNNING);
        if (!stays) return;
        pull_progress_end(progress);
        tell_item(item);
        return;
    }
    if (progress->terminal) {
        draw_block(progress, download);
        return;
    }
    total_line(progress, download, line, sizeof line); // also takes the sample
    if (clock_seconds() - progress->told < TELL_SECONDS) return;
    progress->told = clock_seconds();
    fprintf(stderr, "limn: %s\n", line);
}
