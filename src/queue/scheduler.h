// Whose job is next: stands in front of the queues (queue.h), one for each model, each with a worker process of its own.
// Relies on queue.h.
//
// DESIGN. A job waits here, not in a queue; a queue gets its next job only when its worker has ended the one before. Among
// the jobs that a free worker could take, the highest priority goes first; within it the principal that has had the least of
// the engine (sum of the costs of its jobs, start-time fair queueing: one that comes anew starts where the others stand);
// within a principal the oldest. So that nobody starves, the 8th pick in a row that would pass over a lower priority takes
// that one. A model's worker is started with the scheduler (`start`) or by its first job; at most `resident_most` are up at
// once: where one more is needed, the idle model that was used least lately is closed, after at most 8 further jobs of it that
// stand behind.
//
// A job whose worker died, hung or broke the protocol is run again once from the start, if nothing that cannot be taken back
// was delivered and its time is not over; not when memory ran out (it would again). A job whose time limit passes fails with
// QUEUE_FAILURE_TIME, waiting or running.
//
// Every function may be called from any thread, also from within the listener, except scheduler_close, scheduler_wait_ready
// and scheduler_wait_idle.
#ifndef LIMN_QUEUE_SCHEDULER_H
#define LIMN_QUEUE_SCHEDULER_H

#include "queue/queue.h"

#define SCHEDULER_MODELS_MOST 64
#define PRINCIPAL_NAME_MOST   96 // with the 0 byte

struct scheduler;

struct scheduler_model {
    const char *name;   // as jobs name it, "pictogram"; at most 127 bytes
    const char *folder; // its model folder
    bool start;         // start its worker with the scheduler, not with its first job
};

struct scheduler_options {
    // For each model's queue; model_folder and depth are the scheduler's own, and loras are the first model's alone.
    struct queue_options queue;
    const struct scheduler_model *models;
    int model_count;     // 1 to SCHEDULER_MODELS_MOST
    int resident_most;   // worker processes at once; 0: 1
    int depth;           // jobs that may wait beside those that run
    int principal_depth; // of one principal; 0: no limit of its own
    double time_limit;   // seconds from submission to the end, for jobs that say none; 0: none
    bool no_rerun;       // jobs whose worker was lost fail at once
};

enum scheduler_priority { SCHEDULER_LOW = -1, SCHEDULER_NORMAL = 0, SCHEDULER_HIGH = 1 };

struct scheduler_job { // copied by scheduler_submit
    struct queue_job job;
    const char *model;     // one of the options' models; NULL: the first
    const char *principal; // who is served: a key's id, "address:192.0.2.7"; NULL is one of its own
    enum scheduler_priority priority;
    double cost; // what it takes of the engine, in any unit that all jobs share; 0: pixels * steps * pictures
    double time_limit; // seconds; 0: the options'
    // Previews and pictures go to the client as they come, so it is not run again once one came. false: they are kept until
    // QUEUE_DONE and given up on QUEUE_RERUN.
    bool streams;
};

enum scheduler_refusal_reason {
    SCHEDULER_TAKEN,
    SCHEDULER_FULL,           // depth
    SCHEDULER_PRINCIPAL_FULL, // principal_depth
    SCHEDULER_DRAINING,
    SCHEDULER_UNKNOWN_MODEL,
    SCHEDULER_BAD, // the job itself, or no memory: the error says
};

struct scheduler_refusal {
    enum scheduler_refusal_reason reason;
    double retry_after; // FULL, PRINCIPAL_FULL: seconds after which there may be room, at least 1
    int waiting;        // jobs in front
};

// Starts the scheduler's thread and the workers that are to start with it. [listener] gets the events of all jobs: those of
// one job one at a time and in order, those of different jobs from different threads at once. Every job that was taken
// ends with exactly one QUEUE_DONE or QUEUE_FAILED. [refusal] may be NULL.
struct scheduler *scheduler_open(const struct scheduler_options *options, queue_listener *listener,
                                 void *context, struct error *error);
// Jobs not done fail with QUEUE_FAILURE_STOPPED before this returns. NULL is fine.
void scheduler_close(struct scheduler *scheduler);

bool scheduler_submit(struct scheduler *scheduler, const struct scheduler_job *job,
                      struct scheduler_refusal *refusal, struct error *error);
// Whether a job that came now would be taken.
bool scheduler_has_room(struct scheduler *scheduler, const char *principal, struct scheduler_refusal *refusal,
                        struct error *error);
// The job fails with ERROR_CANCELLED, at once when it waits, else when its worker has stopped. Unknown ids are fine.
void scheduler_cancel(struct scheduler *scheduler, const char *job);
// How many jobs stand in front of a waiting one, by the time of their coming; -1 when it does not wait.
int scheduler_position(struct scheduler *scheduler, const char *job);

// From now on new jobs are refused (SCHEDULER_DRAINING) and those that wait fail with QUEUE_FAILURE_STOPPED; those that run go
// on.
void scheduler_drain(struct scheduler *scheduler);
// Waits until no job is left; false when [seconds] have passed.
bool scheduler_wait_idle(struct scheduler *scheduler, double seconds);

struct scheduler_state {
    int waiting, running; // jobs
    int resident;         // worker processes
    int workers_started;  // since scheduler_open
    int reruns;           // jobs run again since then
    bool draining;
};
void scheduler_state(struct scheduler *scheduler, struct scheduler_state *state);

struct scheduler_model_state {
    bool resident, ready; // its worker process is there; and has opened the model
    int waiting, running;
    int workers_started;
    double job_seconds;       // what its jobs took lately (a running mean), 0 before the first
    bool known;               // its worker has been ready once: [model] is filled in
    struct queue_model model; // what it said then
};
// NULL: the first model. False when there is none of that name.
bool scheduler_model_state(struct scheduler *scheduler, const char *model,
                           struct scheduler_model_state *state);
// Starts the model's worker where it is not up and waits until it is ready (true), or has said that it cannot open the model,
// or time is up (false).
bool scheduler_wait_ready(struct scheduler *scheduler, const char *model, double seconds,
                          struct queue_model *info, struct error *error);

#endif
