// What a person sees while a picture is made: on a terminal one line that is drawn over, elsewhere a plain line a stage and
// a step. Relies on limn.h.
#ifndef LIMN_CLI_PROGRESS_BAR_H
#define LIMN_CLI_PROGRESS_BAR_H

#include "limn/limn.h"

struct progress_bar {
    bool quiet;    // shows nothing
    bool terminal; // standard error is one
    bool drawn;    // a line is on the terminal that has no newline yet
    enum limn_stage stage;
    int image, step;    // last shown, to write a plain line once
    double steps_began; // seconds into the request when the first step of this picture began
    double last_drawn;  // monotonic seconds
};

void progress_bar_begin(struct progress_bar *bar, bool quiet);
void progress_bar_show(struct progress_bar *bar, const struct limn_progress *progress);
// Clears the line, so that other output starts on a clean one.
void progress_bar_end(struct progress_bar *bar);

#endif
