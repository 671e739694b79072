// Unicode normalisation form C, as of Unicode 9, which is what the reference's normaliser has. Relies on base, utf8proc.
#ifndef LIMN_TEXT_NFC_H
#define LIMN_TEXT_NFC_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>

// Appends the NFC of [text], valid UTF-8. n log n in [size]. False when memory is gone.
bool nfc_add(const char *text, size_t size, struct buffer *buffer);

#endif
