// See state.h.
#include "cli/state.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

void bundled_model(char path[PATH_MAX]) {
    static const char here[] = "./models/pictogram", index[] = "model_index.json";
    snprintf(path, PATH_MAX, "%s/%s", here, index);
    char *program = file_exists(path) ? NULL : realpath("/proc/self/exe", NULL);
    for (int i = 0; program && i < 2; i++) { // the program is <prefix>/bin/limn
        char *slash = strrchr(program, '/');
        if (slash) *slash = 0;
    }
    int written = program ? snprintf(path, PATH_MAX, "%s/share/limn/models/pictogram/%s", program, index) : 0;
    bool installed = program && written < PATH_MAX && file_exists(path);
    free(program);
    if (installed)
        path[written - (int)sizeof index] = 0;
    else
        snprintf(path, PATH_MAX, "%s", here);
}
