// See api_error.h.
#include "gateway/api_error.h"
#include "base/json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct api_code_info CODES[] = {
    {API_INVALID_REQUEST, 400, "INVALID_REQUEST", "invalid_request_error", NULL, false},
    {API_CONTENT_POLICY_VIOLATION, 400, "CONTENT_POLICY_VIOLATION", "invalid_request_error",
     "moderation_blocked", false},
    {API_AUTHENTICATION_FAILED, 401, "AUTHENTICATION_FAILED", "authentication_error", "invalid_api_key",
     false},
    {API_EXPIRED_KEY, 401, "EXPIRED_KEY", "authentication_error", "invalid_api_key", false},
    {API_INSUFFICIENT_BALANCE, 402, "INSUFFICIENT_BALANCE", "billing_error", NULL, false},
    {API_BUDGET_EXCEEDED, 402, "BUDGET_EXCEEDED", "billing_error", NULL, false},
    {API_KEY_NOT_ALLOWED, 403, "KEY_NOT_ALLOWED", "permission_error", NULL, false},
    {API_MODEL_NOT_FOUND, 404, "MODEL_NOT_FOUND", "invalid_request_error", "model_not_found", false},
    {API_MODEL_DISABLED, 404, "MODEL_DISABLED", "invalid_request_error", "model_not_found", false},
    {API_MODEL_NOT_INSTALLED, 404, "MODEL_NOT_INSTALLED", "invalid_request_error", NULL, false},
    {API_RECORDING_NOT_FOUND, 404, "RECORDING_NOT_FOUND", "invalid_request_error", NULL, false},
    {API_NOT_FOUND, 404, "NOT_FOUND", "invalid_request_error", NULL, false},
    {API_METHOD_NOT_ALLOWED, 405, "METHOD_NOT_ALLOWED", "invalid_request_error", NULL, false},
    {API_REQUEST_TIMEOUT, 408, "REQUEST_TIMEOUT", "invalid_request_error", NULL, true},
    {API_IDEMPOTENCY_CONFLICT, 409, "IDEMPOTENCY_CONFLICT", "invalid_request_error", NULL, false},
    {API_PAYLOAD_TOO_LARGE, 413, "PAYLOAD_TOO_LARGE", "invalid_request_error", NULL, false},
    {API_UNSUPPORTED_MEDIA_TYPE, 415, "UNSUPPORTED_MEDIA_TYPE", "invalid_request_error", NULL, false},
    {API_RATE_LIMITED, 429, "RATE_LIMITED", "rate_limit_error", "rate_limit_exceeded", true},
    {API_QUEUE_FULL, 429, "QUEUE_FULL", "rate_limit_error", "rate_limit_exceeded", true},
    {API_CANCELLED, 499, "CANCELLED", "cancelled_error", NULL, false},
    {API_INTERNAL_ERROR, 500, "INTERNAL_ERROR", "server_error", NULL, true},
    {API_UPSTREAM_ERROR, 502, "UPSTREAM_ERROR", "server_error", NULL, true},
    {API_ALL_PROVIDERS_EXHAUSTED, 502, "ALL_PROVIDERS_EXHAUSTED", "server_error", NULL, true},
    {API_WORKER_DIED, 503, "WORKER_DIED", "server_error", NULL, true},
    {API_OUT_OF_MEMORY, 503, "OUT_OF_MEMORY", "server_error", NULL, true},
    {API_INTERRUPTED, 503, "INTERRUPTED", "server_error", NULL, true},
    {API_GENERATION_TIMEOUT, 504, "GENERATION_TIMEOUT", "server_error", NULL, true},
    {API_STORAGE_FULL, 507, "STORAGE_FULL", "server_error", NULL, true},
};

const struct api_code_info *api_code_info(enum api_code code) {
    const struct api_code_info *internal = NULL;
    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++) {
        if (CODES[i].code == code) return &CODES[i];
        if (CODES[i].code == API_INTERNAL_ERROR) internal = &CODES[i];
    }
    return internal;
}

const struct api_code_info *api_code_named(const char *name) {
    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++)
        if (!strcmp(CODES[i].name, name)) return &CODES[i];
    return NULL;
}

bool api_error_set(struct api_error *error, enum api_code code, const char *param, const char *format, ...) {
    if (error->code != API_OK) return false;
    error->code = code;
    snprintf(error->param, sizeof error->param, "%s", param);
    va_list list;
    va_start(list, format);
    vsnprintf(error->message, sizeof error->message, format, list);
    va_end(list);
    for (char *c = error->message; *c; c++) // what came from outside stays in one line
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
    return false;
}

bool api_error_from(struct api_error *to, const struct error *from) {
    enum api_code code = API_INTERNAL_ERROR;
    switch (from->kind) {
    case ERROR_INPUT:
    case ERROR_UNSUPPORTED:
        code = API_INVALID_REQUEST;
        break;
    case ERROR_NOT_FOUND:
        code = !strcmp(from->field, "model") ? API_MODEL_NOT_FOUND : API_NOT_FOUND;
        break;
    case ERROR_MEMORY:
        code = API_OUT_OF_MEMORY;
        break;
    case ERROR_CANCELLED:
        code = API_CANCELLED;
        break;
    case ERROR_UNAVAILABLE:
        code = API_WORKER_DIED;
        break;
    case ERROR_IO: // the server's own files: their paths are not the client's business
        if (strstr(from->message, strerror(ENOSPC)))
            return api_error_set(to, API_STORAGE_FULL, "", "the server has no room left to store pictures");
        return api_error_set(to, API_INTERNAL_ERROR, "", "the server cannot read or write a file of its own");
    default:
        break;
    }
    return api_error_set(to, code, from->field, "%s", from->message);
}

bool api_error_body(const struct api_error *error, struct buffer *out) {
    const struct api_code_info *info = api_code_info(error->code);
    // What came from outside may be cut within a character: then it is made plain.
    char message[sizeof error->message];
    snprintf(message, sizeof message, "%s", error->message);
    json_t *text = json_string(message);
    if (!text) {
        for (char *c = message; *c; c++)
            if ((unsigned char)*c > 0x7e) *c = '?';
        text = json_string(message);
    }
    json_t *param = *error->param ? json_string(error->param) : json_null();
    json_t *inner = json_pack("{s:o?, s:s, s:o?, s:s}", "message", text, "type", info->type, "param", param,
                              "code", info->name);
    if (inner && info->openai_code) json_object_set_new(inner, "openai_code", json_string(info->openai_code));
    json_t *body = json_pack("{s:o?}", "error", inner);
    char *dumped = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    bool good = dumped && buffer_add_string(out, dumped);
    free(dumped);
    return good;
}
