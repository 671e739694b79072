// See names.h.
#include "queue/names.h"

#include <string.h>

#define ID_LETTERS   "abcdefghijklmnopqrstuvwxyz0123456789_-"
#define FILE_LETTERS ID_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZ."

bool name_is_id(const char *name) {
    size_t length = name ? strlen(name) : 0;
    return length >= NAME_ID_LEAST && length <= NAME_ID_MOST && strspn(name, ID_LETTERS) == length;
}

bool name_is_file(const char *name) {
    size_t length = name ? strlen(name) : 0;
    return length >= 1 && length <= NAME_FILE_MOST && *name != '.' && strspn(name, FILE_LETTERS) == length;
}
