// The head of a request: one byte that says how much of one is taken, then what comes. However much of it has come, what was
// said of less of it stays true.
#include "fuzz.h"

#include "server/head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 || size > 2048) return 0;
    size_t most = 16 + 4 * (size_t)data[0];
    enum head_verdict before = HEAD_PARTIAL;
    struct head_judgement was = {0};
    for (size_t length = 0; length < size; length++) {
        char *copy = malloc(length ? length : 1); // of exactly this size, so that a read behind it is seen
        memcpy(copy, data + 1, length);
        struct head_judgement judgement = {0};
        enum head_verdict verdict = head_judge(copy, length, most, &judgement);
        free(copy);
        promise(before == HEAD_PARTIAL || verdict == before);
        promise(before != HEAD_BAD || (judgement.status == was.status && judgement.why == was.why));
        promise(verdict != HEAD_PARTIAL || length < most);
        if (verdict == HEAD_BAD)
            promise(judgement.status >= 400 && judgement.status <= 505 && *judgement.why);
        before = verdict;
        was = judgement;
    }
    return 0;
}
