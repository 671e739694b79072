// data: URIs (RFC 2397), from text to bytes. Relies on base.
#ifndef LIMN_GATEWAY_DATA_URI_H
#define LIMN_GATEWAY_DATA_URI_H

#include "base/buffer.h"
#include "base/error.h"

bool data_uri_is(const char *text); // begins with "data:", in any case of letters

// Appends what [text] (length bytes) holds to [out]: base64 in either alphabet, padded or not, with line ends and spaces
// between, or percent-encoded bytes. At most [most] bytes. A media type other than image/... or application/octet-stream is
// refused; whether the bytes are what it says is for their reader to see.
bool data_uri_decode(const char *text, size_t length, size_t most, struct buffer *out, struct error *error);

#endif
