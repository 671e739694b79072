// Bytes that are kept for a while under a name that cannot be guessed: pictures behind URLs. A folder is behind it, later S3.
// Relies on base, libsodium. Safe to call from any thread; calls touch the local file system only and are short.
//
// A file's time of last change says since when it is kept, so that the folder needs no index and survives a restart.
#ifndef LIMN_MEDIA_MEDIA_H
#define LIMN_MEDIA_MEDIA_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define MEDIA_NAME_MOST 48 // with the 0 byte

struct media;

// [folder] is made when it is not there. Files are served for [lifetime_seconds] and removed by media_expire.
struct media *media_open(const char *folder, double lifetime_seconds, struct error *error);
void media_close(struct media *media); // NULL is fine; the files stay

// Takes the file [path] over (renamed into the folder, or copied when that is on another file system; [path] is gone
// afterwards). [extension] is "png", "jpeg", ...; name is filled with "<32 hex digits>.<extension>".
bool media_put_file(struct media *media, const char *path, const char *extension, char name[MEDIA_NAME_MOST],
                    struct error *error);

struct media_item {
    int file; // open for reading; the caller's to close
    uint64_t size;
    const char *mime;
    double seconds_left; // of its life
};

// ERROR_NOT_FOUND when there is none of that name or its time is over. Any string may be asked for.
bool media_get(struct media *media, const char *name, struct media_item *item, struct error *error);

// Removes what is over. Returns how many files went.
int media_expire(struct media *media);

// Fills [text] with [bytes] random bytes as hex digits and a 0 byte: 2 * bytes + 1.
void media_random_hex(char *text, size_t bytes);

#endif
