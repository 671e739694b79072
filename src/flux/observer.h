// A place from which the values inside a run can be watched: `limn dump` and the parity tests. Relies on tensor.
#ifndef LIMN_FLUX_OBSERVER_H
#define LIMN_FLUX_OBSERVER_H

#include "tensor/device.h"

// Called with host memory that is valid for the call only. Names and shapes: tests/fixtures/README.md.
struct observer {
    void (*see)(void *context, const char *name, enum dtype type, int rank, const int64_t *shape,
                const void *data);
    void *context;
};

#endif
