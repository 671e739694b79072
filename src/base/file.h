// Files: mapped for reading, read whole, written so that a half-written one is never seen. Relies on error.h.
#ifndef LIMN_BASE_FILE_H
#define LIMN_BASE_FILE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct file_map {
    const uint8_t *data; // NULL for an empty file
    size_t size;
};

// Maps a regular file read-only and shared: its pages are the page cache's and do not count as limn's memory.
// Errors name the path: missing, a folder, unreadable. A file that shrinks while mapped raises SIGBUS in the
// reader: model files are not to be changed while in use.
bool file_map(const char *path, struct file_map *map, struct error *error);
void file_unmap(struct file_map *map);

// Tells the system that the pages of [data, data + size) are not needed for now (they are read again from the
// file when touched), or will be needed soon. Advice only: never fails.
void file_release_pages(const void *data, size_t size);
void file_want_pages(const void *data, size_t size);

// Reads a whole file of at most [limit] bytes into fresh memory, a 0 byte behind the content. The caller frees
// *data with free().
bool file_read(const char *path, size_t limit, char **data, size_t *size, struct error *error);

// Writes [path] by way of a temporary file in the same folder that is synced and renamed: after a failure (disk full,
// killed) the old file, or none, is there and no temporary one is left behind by a failure that limn sees.
bool file_write(const char *path, const void *data, size_t size, struct error *error);

// Makes [link] a symbolic link to [path], at once and in the place of another link; what is no link is not replaced but an error.
bool file_link(const char *path, const char *link, struct error *error);

bool file_exists(const char *path);   // a regular file or a link to one
bool folder_exists(const char *path); // a folder or a link to one

// Makes [path] and the folders above it (mode 0700 for those made).
bool folder_make(const char *path, struct error *error);

// "folder/name" in fresh memory (free()), NULL when memory is gone.
char *path_join(const char *folder, const char *name);

#endif
