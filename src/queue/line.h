// The jobs that wait for a worker, and whose turn it is: the plain data structure behind scheduler.h, without threads. Relies on
// scheduler.h.
#ifndef LIMN_QUEUE_LINE_H
#define LIMN_QUEUE_LINE_H

#include "base/arena.h"
#include "queue/names.h"
#include "queue/scheduler.h"

// A picker passes over a lower priority at most so often in a row.
#define LINE_STREAK_MOST 7

struct line_principal {
    struct line_principal *next;
    double used; // of the engine, in cost; rises when a job of it is taken
    int jobs;    // that wait or run
    int waiting;
    char name[PRINCIPAL_NAME_MOST];
};

struct line_job {
    struct line_job *next;
    struct arena arena; // what job points to
    struct queue_job job;
    char id[NAME_ID_MOST + 1];
    int model; // index
    struct line_principal *principal;
    enum scheduler_priority priority;
    double cost;      // over 0
    uint64_t order;   // of its coming
    double submitted; // clock_seconds
    double deadline;  // likewise; 0: none
    double began;     // likewise; when it was given to a queue
    bool streams;
    bool delivered; // something that cannot be taken back went to the client
    bool cancelled, timed_out;
    int runs; // that were begun
    enum queue_failure
        failure; // how and why it is to end, where that was decided before the listener hears of it
    struct error why;
};

// Starts as {0}.
struct line {
    struct line_job *first; // in no order that matters
    int count;
    int of_model[SCHEDULER_MODELS_MOST]; // of these, by model
    struct line_principal *principals;
    double now; // virtual time: what the principal that was served last had used before
    uint64_t next_order;
};

// A copy of [from] that belongs to nobody yet; its principal and place come with line_enter. NULL: no memory, or names that
// are too long.
struct line_job *line_job_make(const struct scheduler_job *from, int model, struct error *error);
void line_job_free(struct line_job *job); // NULL is fine

// Puts a new job at the end. False when memory is gone.
bool line_enter(struct line *line, struct line_job *job, const char *principal);
// Puts one that was taken back in, in its old place; its principal pays no second time.
void line_return(struct line *line, struct line_job *job);
// Takes one out that waits, without serving it.
void line_remove(struct line *line, struct line_job *job);
// A job has ended, or was removed for good: its principal is forgotten when nothing more is to be known of it.
void line_leave(struct line *line, struct line_job *job);

// Who waits of [principal]; 0 for an unknown one.
int line_waiting_of(const struct line *line, const char *principal);
struct line_job *line_find(const struct line *line, const char *id);
int line_position(const struct line *line, const struct line_job *job); // jobs that came earlier

// The job whose turn it is among those of the models that [wanted] marks; [streak]: how often in a row the picker has passed over
// a lower priority. NULL: none. Changes nothing.
struct line_job *line_choose(const struct line *line, const bool wanted[], int streak);
// Takes the chosen job out to be served: its principal pays. *streak is brought up to date, for the same [wanted].
void line_take(struct line *line, struct line_job *job, const bool wanted[], int *streak);

#endif
