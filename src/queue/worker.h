// The worker's side of the queue: what `limn worker` runs. Relies on queue's messages, the public limn.h, image.
//
// It opens the model, says "ready" (or "fatal", and ends), and serves one job after another. The main thread reads messages
// and beats once a second; a second thread runs the engine, so a cancel is heard while a step is computed. When the socket
// closes (the server is gone) the process ends at once.
#ifndef LIMN_QUEUE_WORKER_H
#define LIMN_QUEUE_WORKER_H

#include "base/log.h"
#include "limn/limn.h"

struct worker_options {
    int socket; // connected to the queue
    const char *model_folder, *spool_folder;
    struct limn_options engine;
    const struct log *log;
};

// Returns the exit status when the queue closes the socket or says "stop"; ends the process itself when a job is in work.
int worker_run(const struct worker_options *options);

#endif
