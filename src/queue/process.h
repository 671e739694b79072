// A worker process and the socket to it. Relies on base.
#ifndef LIMN_QUEUE_PROCESS_H
#define LIMN_QUEUE_PROCESS_H

#include "base/error.h"

#include <stddef.h>
#include <sys/types.h>

#define PROCESS_SOCKET 3 // the worker's end of the socket

struct process {
    pid_t pid;      // 0: none
    int socket;     // ours, non-blocking; -1: none
    long oom_kills; // the system's count of processes killed for memory when it was started; -1: not known
};

#define PROCESS_NONE ((struct process){0, -1, -1})

// Executes [program] anew with [arguments] (ending with NULL): a process group of its own, no signal blocked or ignored, no
// descriptors but standard ones (input empty, output to our standard error) and PROCESS_SOCKET.
bool process_start(struct process *process, const char *program, const char *const *arguments,
                   struct error *error);

enum process_end { PROCESS_EXITED, PROCESS_KILLED, PROCESS_OUT_OF_MEMORY };

// Waits for a process that is on its way out for up to [patience] seconds, then kills it; takes its status and closes the
// socket. [how] says in words how it ended.
enum process_end process_end(struct process *process, double patience, char *how, size_t size);

#endif
