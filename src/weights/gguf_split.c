// Tells the parts of split GGUF files by their names. Relies on base.
#include "weights/gguf_split.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 5, ENDING = 20 }; // of "-00001-of-00003.gguf"

static bool read_digits(const char *text, int *number) {
    *number = 0;
    for (int i = 0; i < DIGITS; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        *number = *number * 10 + (text[i] - '0');
    }
    return true;
}

bool gguf_split_name(const char *path, struct gguf_split_name *name) {
    const size_t length = strlen(path);
    if (length <= ENDING || length > 1 << 16) return false;
    const char *ending = path + length - ENDING;
    name->prefix = (int)(length - ENDING);
    return ending[-1] != '/' && ending[0] == '-' && read_digits(ending + 1, &name->number) &&
           memcmp(ending + 1 + DIGITS, "-of-", 4) == 0 && read_digits(ending + 5 + DIGITS, &name->count) &&
           strcmp(ending + 5 + 2 * DIGITS, ".gguf") == 0 && name->count >= 2 &&
           name->count <= GGUF_PARTS_MOST && name->number >= 1 && name->number <= name->count;
}

bool gguf_split_follows(const char *path) {
    struct gguf_split_name name;
    if (!gguf_split_name(path, &name)) return false;
    const size_t size = strlen(path) + 1;
    char *earlier = malloc(size);
    bool found = false;
    for (int number = 1; earlier && !found && number < name.number; number++) {
        snprintf(earlier, size, "%.*s-%05d-of-%05d.gguf", name.prefix, path, number, name.count);
        found = file_exists(earlier);
    }
    free(earlier);
    return found;
}
