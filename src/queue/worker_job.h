// One job of a worker: from its message to its pictures in the spool folder. Relies on worker.h.
#ifndef LIMN_QUEUE_WORKER_JOB_H
#define LIMN_QUEUE_WORKER_JOB_H

#include "base/error.h"
#include "base/json.h"
#include "queue/worker.h"

struct worker;

// What a job needs of the worker (worker.c).
bool worker_send(struct worker *worker, const char *type, json_t *message); // takes the reference
bool worker_cancelled(struct worker *worker);  // to be asked often: counts as headway
json_t *worker_message(struct worker *worker); // {"job", "attempt"} of the job in work
const struct worker_options *worker_options_of(const struct worker *worker);
void worker_error_from(struct error *to, const struct limn_error *from);

// Runs [job]; progress, previews and pictures are sent on the way. What "done" says besides is put into [done].
bool worker_job(struct worker *worker, struct limn_model *model, const json_t *job, json_t *done,
                struct error *error);

#endif
