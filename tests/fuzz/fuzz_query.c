// Query strings of the lists: "limit=5&starting_after=req_...". The first byte says whether requests, keys or statistics are
// asked for.
#include "fuzz.h"

#include "store/query.h"

static void take(char kind, struct query_requests *requests, struct query_keys *keys,
                 struct query_stats *stats, const char *name, const char *value) {
    struct error error = {0};
    bool good = kind % 3 == 0   ? query_requests_set(requests, name, value, &error)
                : kind % 3 == 1 ? query_keys_set(keys, name, value, &error)
                                : query_stats_set(stats, name, value, &error);
    if (good)
        promise(error.kind == ERROR_NONE);
    else
        promise(error.kind != ERROR_NONE && error.message[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    struct query_scope scope = {0};
    struct query_requests requests;
    struct query_keys keys;
    struct query_stats stats = {0};
    query_requests_init(&requests, &scope);
    query_keys_init(&keys);
    char *text = malloc(size), *rest = text;
    if (!text) return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    for (char *pair; (pair = strsep(&rest, "&"));) {
        char *value = strchr(pair, '=');
        if (value) *value++ = 0;
        take((char)(data[0] & 0x7f), &requests, &keys, &stats, pair, value ? value : "");
    }
    promise(requests.limit >= 1 && requests.limit <= 100 && keys.limit >= 1 && keys.limit <= 100);
    volatile unsigned sum =
        touch(&requests, sizeof requests) + touch(&keys, sizeof keys) + touch(&stats, sizeof stats);
    (void)sum;
    free(text);
    return 0;
}
