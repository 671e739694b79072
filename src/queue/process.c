// See process.h. posix_spawn, never fork alone: the caller has threads.
#include "queue/process.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

// The count of processes that the kernel has killed for lack of memory; -1 where it does not say.
static long count_oom_kills(void) {
    FILE *file = fopen("/proc/vmstat", "re");
    if (!file) return -1;
    long count = -1;
    char line[128];
    while (count < 0 && fgets(line, sizeof line, file)) {
        long value;
        if (sscanf(line, "oom_kill %ld", &value) == 1) count = value;
    }
    fclose(file);
    return count;
}

static int spawn(pid_t *pid, const char *program, const char *const *arguments, int socket) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int bad = posix_spawn_file_actions_init(&actions);
    if (bad) return bad;
    bad = posix_spawnattr_init(&attributes);
    if (bad) {
        posix_spawn_file_actions_destroy(&actions);
        return bad;
    }
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    // A group of its own: Ctrl-C at the terminal is the server's to answer.
    if (!bad) bad = posix_spawnattr_setpgroup(&attributes, 0);
    if (!bad) bad = posix_spawnattr_setsigmask(&attributes, &none);
    if (!bad) bad = posix_spawnattr_setsigdefault(&attributes, &all);
    if (!bad)
        bad = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                                        POSIX_SPAWN_SETSIGDEF);
    // The socket first: opening /dev/null must not take its number.
    if (!bad) bad = posix_spawn_file_actions_adddup2(&actions, socket, PROCESS_SOCKET);
    if (!bad) bad = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (!bad) bad = posix_spawn_file_actions_adddup2(&actions, 2, 1);
    if (!bad) bad = posix_spawn_file_actions_addclosefrom_np(&actions, PROCESS_SOCKET + 1);
    if (!bad) bad = posix_spawn(pid, program, &actions, &attributes, (char *const *)arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return bad;
}

bool process_start(struct process *process, const char *program, const char *const *arguments,
                   struct error *error) {
    *process = PROCESS_NONE;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return error_set(error, ERROR_IO, "no socket for the worker: %s", strerror(errno));
    int bad = 0;
    if (fcntl(ends[0], F_SETFL, O_NONBLOCK)) bad = errno;
    process->oom_kills = count_oom_kills();
    if (!bad) bad = spawn(&process->pid, program, arguments, ends[1]);
    close(ends[1]);
    if (bad) {
        close(ends[0]);
        *process = PROCESS_NONE;
        return error_set(error, ERROR_IO, "the worker %s cannot be started: %s", program, strerror(bad));
    }
    process->socket = ends[0];
    return true;
}

enum process_end process_end(struct process *process, double patience, char *how, size_t size) {
    snprintf(how, size, "was not running");
    if (process->pid <= 0) return PROCESS_EXITED;
    double deadline = clock_seconds() + patience;
    int status = 0;
    bool ours = false; // the kill is ours
    pid_t ended;
    while ((ended = waitpid(process->pid, &status, ours ? 0 : WNOHANG)) == 0 ||
           (ended < 0 && errno == EINTR)) {
        if (ended == 0 && clock_seconds() >= deadline) {
            ours = true;
            kill(process->pid, SIGKILL);
        } else if (ended == 0) {
            nanosleep(&(struct timespec){0, 5 * 1000 * 1000}, NULL);
        }
    }
    close(process->socket);
    long oom_kills = process->oom_kills;
    *process = PROCESS_NONE;
    if (ended < 0) {
        snprintf(how, size, "is gone (%s)", strerror(errno));
        return PROCESS_EXITED;
    }
    if (WIFSIGNALED(status)) {
        int number = WTERMSIG(status);
        if (ours) {
            snprintf(how, size, "was stopped");
        } else if (number == SIGKILL && oom_kills >= 0 && count_oom_kills() > oom_kills) {
            snprintf(how, size, "was killed by the system because memory ran out");
            return PROCESS_OUT_OF_MEMORY;
        } else {
            snprintf(how, size, "was killed by signal %d (%s%s)", number, strsignal(number),
                     number == SIGKILL ? "; a system short of memory does that" : "");
        }
        return PROCESS_KILLED;
    }
    snprintf(how, size, "ended with status %d", WEXITSTATUS(status));
    return PROCESS_EXITED;
}
