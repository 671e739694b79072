#include "cli/progress_bar.h"

#include "base/clock.h"

#include <stdio.h>
#include <unistd.h>

enum { BAR_CELLS = 24 };
static const double REDRAW_SECONDS = 0.1;

void progress_bar_begin(struct progress_bar *bar, bool quiet) {
    *bar = (struct progress_bar){.quiet = quiet,
                                 .terminal = isatty(STDERR_FILENO),
                                 .image = -1,
                                 .step = -1,
                                 .stage = LIMN_STAGE_QUEUED};
}

static const char *stage_name(enum limn_stage stage) {
    switch (stage) {
    case LIMN_STAGE_QUEUED:
        return "waiting";
    case LIMN_STAGE_TEXT:
        return "reading the prompt";
    case LIMN_STAGE_REFERENCES:
        return "reading the images";
    case LIMN_STAGE_STEPS:
        return "drawing";
    case LIMN_STAGE_DECODE:
        return "decoding";
    }
    return "";
}

// The share of the stage that is done, in [0, 1].
static double share_done(const struct limn_progress *progress) {
    double inner = progress->blocks > 0 ? (double)progress->block / progress->blocks : 0;
    double done = progress->stage == LIMN_STAGE_STEPS && progress->steps > 0
                      ? (progress->step + inner) / progress->steps
                      : inner;
    return done < 0 ? 0 : done > 1 ? 1 : done;
}

static void draw_line(struct progress_bar *bar, const struct limn_progress *progress) {
    double done = share_done(progress);
    char cells[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++) cells[i] = i < (int)(done * BAR_CELLS + 0.5) ? '#' : '.';
    cells[BAR_CELLS] = 0;
    fprintf(stderr, "\r\033[K%-18s [%s]", stage_name(progress->stage), cells);
    if (progress->images > 1) fprintf(stderr, " image %d/%d", progress->image + 1, progress->images);
    if (progress->stage == LIMN_STAGE_STEPS) {
        double spent = progress->seconds - bar->steps_began, steps_done = done * progress->steps;
        fprintf(stderr, " step %d/%d", progress->step + 1, progress->steps);
        if (steps_done > 0.01)
            fprintf(stderr, "  %.2f s a step  %.0f s left", spent / steps_done,
                    spent / steps_done * (progress->steps - steps_done));
    }
    fflush(stderr);
    bar->drawn = true;
}

void progress_bar_show(struct progress_bar *bar, const struct limn_progress *progress) {
    bool new_stage = progress->stage != bar->stage || progress->image != bar->image;
    if (new_stage && progress->stage == LIMN_STAGE_STEPS) bar->steps_began = progress->seconds;
    bool new_step = progress->stage == LIMN_STAGE_STEPS && progress->step != bar->step;
    bar->stage = progress->stage;
    bar->image = progress->image;
    bar->step = progress->stage == LIMN_STAGE_STEPS ? progress->step : -1;
    if (bar->quiet) return;
    if (bar->terminal) {
        double now = clock_seconds();
        if (!new_stage && !new_step && now - bar->last_drawn < REDRAW_SECONDS) return;
        bar->last_drawn = now;
        draw_line(bar, progress);
    } else if (new_step) {
        fprintf(stderr, "limn: step %d of %d, %.1f s\n", progress->step + 1, progress->steps,
                progress->seconds);
    } else if (new_stage && progress->stage != LIMN_STAGE_STEPS && progress->stage != LIMN_STAGE_QUEUED) {
        fprintf(stderr, "limn: %s, %.1f s\n", stage_name(progress->stage), progress->seconds);
    }
}

void progress_bar_end(struct progress_bar *bar) {
    if (bar->drawn) fprintf(stderr, "\r\033[K");
    bar->drawn = false;
}
