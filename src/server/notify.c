// See notify.h.
#include "server/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

bool notify_manager(const char *state) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = path ? strlen(path) : 0;
    if (length < 2 || length >= sizeof address.sun_path || (*path != '/' && *path != '@')) return false;
    memcpy(address.sun_path, path, length);
    if (*path == '@') address.sun_path[0] = 0; // of the abstract name space
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    ssize_t sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT,
                          (const struct sockaddr *)(const void *)&address, size);
    close(fd);
    return sent >= 0;
}

double notify_watchdog_seconds(void) {
    const char *micros = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
    if (!micros || (process && strtol(process, NULL, 10) != (long)getpid())) return 0;
    double seconds = strtod(micros, NULL) / 1e6;
    return seconds > 0 && seconds < 1e6 ? seconds : 0;
}
