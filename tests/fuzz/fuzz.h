// What the fuzz targets share. A target takes bytes as an attacker would send them and hands them to one reader; whatever the
// reader accepts is then used, so that a check that is missing shows as a sanitizer's finding.
#ifndef LIMN_TESTS_FUZZ_H
#define LIMN_TESTS_FUZZ_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A promise of the reader: when it is broken the run ends and the input is kept.
#define promise(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);                  \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

// A refusal says why, in one line without control characters.
static inline void promise_explained(const struct error *error) {
    promise(error->kind != ERROR_NONE && error->message[0]);
    for (const char *c = error->message; *c; c++) promise((unsigned char)*c >= 0x20 && *c != 0x7f);
}

// The values of [bytes] are read, so that the sanitizer sees where they lie.
static inline unsigned touch(const void *bytes, size_t size) {
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++) sum = sum * 31 + ((const uint8_t *)bytes)[i];
    return sum;
}

#endif
