// Tensors and model folders of tests/fixtures, for the tests that compare with the reference pipeline.
#ifndef LIMN_TESTS_FIXTURE_H
#define LIMN_TESTS_FIXTURE_H

#include "unit.h"

#include "weights/checkpoint.h"

#include <math.h>

#define FIXTURES LIMN_SOURCE_DIR "/tests/fixtures/"

static inline struct checkpoint *fixture_open(const char *name) {
    char path[512];
    struct error error = {0};
    snprintf(path, sizeof(path), FIXTURES "%s", name);
    struct checkpoint *fixture = checkpoint_open(path, &error);
    assert_ok(fixture, error);
    return fixture;
}

// A tensor that must be there, of that type; name by printf.
__attribute__((format(printf, 3, 4))) static inline struct tensor
fixture_tensor(const struct checkpoint *fixture, enum dtype type, const char *format, ...) {
    char name[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof(name), format, arguments);
    va_end(arguments);
    const struct checkpoint_entry *entry = checkpoint_find(fixture, name);
    if (!entry) fail_msg("the fixture has no tensor %s", name);
    if (entry->tensor.type != type) fail_msg("%s is %s", name, dtype_info(entry->tensor.type)->name);
    return entry->tensor;
}

// Its values in fresh, aligned memory (free()).
static inline float *fixture_values(struct tensor tensor) {
    float *values = malloc(tensor.bytes ? tensor.bytes : 1);
    assert_non_null(values);
    memcpy(values, tensor.data, tensor.bytes);
    return values;
}

// |a - b| / |b|, Euclidean norms over all values.
static inline double relative_error(const float *a, const float *b, int64_t count) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return size > 0 ? sqrt(difference / size) : sqrt(difference);
}

#endif
