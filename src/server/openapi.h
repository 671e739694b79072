// The OpenAPI 3.1 document of the server: made from the route table, the catalog's parameters and the table of errors, with the
// objects of answers described in openapi_schemas.c. Relies on exchange.h.
#ifndef LIMN_SERVER_OPENAPI_H
#define LIMN_SERVER_OPENAPI_H

#include "server/exchange.h"

// [needs_key]: whether calls need a key now. [url]: of the server. The caller decref's; NULL: no memory.
json_t *openapi_document(const struct catalog *catalog, bool needs_key, const char *url);

// ---- openapi_schemas.c: components.schemas, by name.
json_t *openapi_schemas(void);

#endif
