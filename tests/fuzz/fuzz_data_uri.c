// A picture as a data URI.
#include "fuzz.h"

#include "gateway/data_uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct buffer out = {0};
    struct error error = {0};
    char *text = malloc(size + 1); // texts end with a 0 byte, which may lie anywhere in them
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = 0;
    size_t most = size / 2;
    if (data_uri_decode(text, strlen(text), most, &out, &error)) {
        promise(out.length <= most && data_uri_is(text));
        volatile unsigned sum = touch(out.data ? out.data : "", out.length);
        (void)sum;
    } else {
        promise(error.kind != ERROR_NONE && error.message[0]);
        promise(out.length == 0);
    }
    buffer_free(&out);
    free(text);
    return 0;
}
