// What goes wrong, as the wire says it: code, HTTP status, type; the body that OpenAI's clients read. Relies on base.
#ifndef LIMN_GATEWAY_API_ERROR_H
#define LIMN_GATEWAY_API_ERROR_H

#include "base/buffer.h"
#include "base/error.h"

enum api_code {
    API_OK,
    API_INVALID_REQUEST,
    API_CONTENT_POLICY_VIOLATION,
    API_AUTHENTICATION_FAILED,
    API_EXPIRED_KEY,
    API_INSUFFICIENT_BALANCE,
    API_BUDGET_EXCEEDED,
    API_KEY_NOT_ALLOWED,
    API_MODEL_NOT_FOUND,
    API_MODEL_DISABLED,
    API_MODEL_NOT_INSTALLED,
    API_RECORDING_NOT_FOUND,
    API_NOT_FOUND,
    API_METHOD_NOT_ALLOWED,
    API_REQUEST_TIMEOUT,
    API_IDEMPOTENCY_CONFLICT,
    API_PAYLOAD_TOO_LARGE,
    API_UNSUPPORTED_MEDIA_TYPE,
    API_RATE_LIMITED,
    API_QUEUE_FULL,
    API_CANCELLED,
    API_INTERNAL_ERROR,
    API_UPSTREAM_ERROR,
    API_ALL_PROVIDERS_EXHAUSTED,
    API_WORKER_DIED,
    API_OUT_OF_MEMORY,
    API_INTERRUPTED,
    API_GENERATION_TIMEOUT,
    API_STORAGE_FULL,
    API_CODES, // how many there are
};

struct api_code_info {
    enum api_code code;
    int status; // HTTP
    const char *name, *type;
    const char *openai_code; // OpenAI's own name where it has one; NULL
    bool retryable;          // the same request may succeed later without anybody changing anything
};

// Every code but API_OK has one; an unknown code gets INTERNAL_ERROR's.
const struct api_code_info *api_code_info(enum api_code code);
// By its name on the wire, as records keep it; NULL when there is none.
const struct api_code_info *api_code_named(const char *name);

struct api_error {
    enum api_code code; // API_OK: none
    char param[64];     // the parameter at fault, or ""
    char message[600];  // one line
    double retry_after; // seconds; 0: not said; INFINITY: the same request never succeeds
};

// Sets [error] unless it is set; returns false.
bool api_error_set(struct api_error *error, enum api_code code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// The same from an error of the layers below: a wrong input is INVALID_REQUEST, and so on. Messages about the server's own
// files are replaced by plain ones.
bool api_error_from(struct api_error *to, const struct error *from);

// Appends {"error":{"message","type","param","code"[,"openai_code"]}}. False when memory is gone.
bool api_error_body(const struct api_error *error, struct buffer *out);

#endif
