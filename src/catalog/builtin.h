// The files of catalog/, which CMake puts into the program (scripts/embed.cmake). Relies on nothing.
#ifndef LIMN_CATALOG_BUILTIN_H
#define LIMN_CATALOG_BUILTIN_H

#include <stddef.h>

struct builtin_file {
    const char *name; // "catalog/pictogram.yaml", for messages
    const char *text;
    size_t size;
};

const struct builtin_file *catalog_builtin(int *count);

#endif
