// Names of jobs and of files in the spool folder: what both sides of the queue check. Relies on nothing.
#ifndef LIMN_QUEUE_NAMES_H
#define LIMN_QUEUE_NAMES_H

#include <stdbool.h>

#define NAME_ID_LEAST  8
#define NAME_ID_MOST   64
#define NAME_FILE_MOST 120

bool name_is_id(const char *name); // [a-z0-9_-]{8,64}
bool name_is_file(
    const char *name); // [A-Za-z0-9_-][A-Za-z0-9._-]*, at most NAME_FILE_MOST: no folder, no hidden file

#endif
