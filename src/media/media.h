// Bytes that are kept for a while under a name that cannot be guessed: pictures behind URLs. A folder is behind it, later S3.
// Relies on base, libsodium. Safe to call from any thread; calls touch the local file system only and are short.
//
// A file's time of last change says since when it is kept, so that the folder needs no index and survives a restart; that of a
// file that lives longer than others lies by so much in the future. The sum of bytes is counted when the store is opened and
// kept from then on: the folder belongs to one process.
#ifndef LIMN_MEDIA_MEDIA_H
#define LIMN_MEDIA_MEDIA_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define MEDIA_NAME_MOST 48 // with the 0 byte
#define MEDIA_ETAG_MOST 64 // likewise

struct media;

struct media_options {
    const char *folder; // made when it is not there
    double
        lifetime_seconds; // files of which nothing else was said are served for so long and removed by media_expire
    uint64_t quota_bytes; // of all files together; 0: none
    // How often a thread removes what is over: going through a folder of a million files takes seconds. 0: there is none, and
    // media_expire is the owner's to call.
    double expire_each_seconds;
};

struct media *media_open(const struct media_options *options, struct error *error);
void media_close(struct media *media); // NULL is fine; the files stay

// Takes the file [path] over (renamed into the folder, or copied when that is on another file system; [path] is gone
// afterwards). [extension] is "png", "jpeg", "webp", "gif" or "avif"; name is filled with "<32 hex digits>.<extension>".
// [seconds]: how long it lives; 0: lifetime_seconds. When the quota would be passed, what is over goes first; where that does not help, or the disk is full, an ERROR_IO whose
// message holds strerror(ENOSPC), and [path] stays.
bool media_put_file(struct media *media, const char *path, const char *extension, double seconds,
                    char name[MEDIA_NAME_MOST], struct error *error);

struct media_item {
    int file; // open for reading; the caller's to close
    uint64_t size;
    int64_t modified;           // seconds since 1970, for Last-Modified
    char etag[MEDIA_ETAG_MOST]; // with its quotes; a strong one: the bytes under a name never change
    const char *mime;
    double seconds_left; // of its life
};

// ERROR_NOT_FOUND when there is none of that name or its time is over. Any string may be asked for.
bool media_get(struct media *media, const char *name, struct media_item *item, struct error *error);

// Removes a file before its time. ERROR_NOT_FOUND as for media_get.
bool media_remove(struct media *media, const char *name, struct error *error);

// Removes what is over. Returns how many files went.
int media_expire(struct media *media);

// Whether a file is still somebody's. Must not call into media.
typedef bool media_keep(void *context, const char *name);

// Removes the files that nobody claims ([keep] says false) and that were put more than [grace_seconds] ago (0: all of them), so
// that one whose record is just being written stays. Returns how many files went.
int media_sweep(struct media *media, double grace_seconds, media_keep *keep, void *context);

struct media_state {
    uint64_t bytes, quota_bytes;
    int64_t files;
};
void media_state(struct media *media, struct media_state *state);

// Whether [name] is one that media could have given: 32 hex digits, a dot, a known extension.
bool media_name_is_valid(const char *name);

// Fills [text] with a name that nobody can guess: hex digits of the time, [time_bytes] of microseconds since 1970 divided by
// [micros], and of [random_bytes] random bytes, then a 0 byte: 2 * (time_bytes + random_bytes) + 1. Names that were drawn later
// sort later, so that they lie side by side in the indices of the records and not all over them.
void media_timed_hex(char *text, size_t time_bytes, int64_t micros, size_t random_bytes);

#endif
