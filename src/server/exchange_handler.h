// libmicrohttpd's callbacks. Relies on exchange.h.
#ifndef LIMN_SERVER_EXCHANGE_HANDLER_H
#define LIMN_SERVER_EXCHANGE_HANDLER_H

#include "server/exchange.h"

// For each request: once when its headers are there, then for each piece of its body, then once more; again when resumed.
enum MHD_Result exchange_handle(void *context, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *bytes, size_t *size,
                                void **request);
// When a request is over, answered or not.
void exchange_ended(void *context, struct MHD_Connection *connection, void **request,
                    enum MHD_RequestTerminationCode why);
// When a connection begins and ends.
void connection_changed(void *context, struct MHD_Connection *connection, void **kept,
                        enum MHD_ConnectionNotificationCode what);

#endif
