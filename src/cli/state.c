// See state.h.
#include "cli/state.h"
#include "base/file.h"

#include <stdlib.h>

char *state_folder(struct error *error) {
    const char *home = getenv("XDG_STATE_HOME");
    char *path = NULL, *inner = NULL;
    if (home && *home == '/') {
        path = path_join(home, "limn");
    } else {
        home = getenv("HOME");
        if (!home || *home != '/') {
            error_set(error, ERROR_INPUT, "neither XDG_STATE_HOME nor HOME names a folder for limn's state");
            return NULL;
        }
        inner = path_join(home, ".local/state");
        path = inner ? path_join(inner, "limn") : NULL;
        free(inner);
    }
    if (!path) error_set(error, ERROR_MEMORY, "no memory for a path");
    if (path && folder_make(path, error)) return path;
    free(path);
    return NULL;
}
