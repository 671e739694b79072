// Tensors as files hold them. Relies on dtype.h.
#include "tensor/tensor.h"

#include <stdio.h>

int64_t tensor_values(const struct tensor *tensor) {
    int64_t values = 1;
    for (int i = 0; i < tensor->rank; i++) values *= tensor->shape[i];
    return values;
}

char *tensor_shape_text(const struct tensor *tensor, char *text, size_t size) {
    size_t used = 0;
    if (size == 0) return text;
    text[0] = 0;
    for (int i = 0; i <= tensor->rank && used < size; i++) {
        int added = i < tensor->rank ? snprintf(text + used, size - used, "%s%lld", i ? ", " : "[",
                                                (long long)tensor->shape[i])
                                     : snprintf(text + used, size - used, "%s]", tensor->rank ? "" : "[");
        used += added > 0 ? (size_t)added : 0;
    }
    return text;
}
