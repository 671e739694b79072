// Bytes as base64 (RFC 4648, the usual alphabet, padded). Relies on base.
#ifndef LIMN_GATEWAY_BASE64_H
#define LIMN_GATEWAY_BASE64_H

#include "base/buffer.h"

#include <stdint.h>

// Appends (size + 2) / 3 * 4 letters. False when memory is gone.
bool base64_add(struct buffer *out, const void *data, size_t size);

#endif
