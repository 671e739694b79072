// Tells the service manager how the server does: a datagram to the socket that NOTIFY_SOCKET names, as sd_notify(3) sends it.
// Relies on nothing.
#ifndef LIMN_SERVER_NOTIFY_H
#define LIMN_SERVER_NOTIFY_H

#include <stdbool.h>

// [state] is "READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=..."; several stand on lines of their own. False when no manager
// listens (nobody is to be told then) or the datagram cannot be sent.
bool notify_manager(const char *state);

// Seconds after which the manager restarts a service that has not said WATCHDOG=1; 0: it does not watch this process.
double notify_watchdog_seconds(void);

#endif
