// The folder in which files of a hub are kept, shared with the official Python client. Relies on base, hub.h.
//
// DESIGN. CACHE/models--OWNER--NAME holds a repository:
//
//     blobs/HASH                the content, once, named by its hash (hub.h)
//     blobs/HASH.incomplete     what has come of it so far: always a beginning of the content
//     snapshots/COMMIT/PATH     a relative link to the blob; this folder is what a program opens
//     refs/REVISION             the commit that a branch or tag led to when it was last asked for, 40 digits
//
// and CACHE/.locks/models--OWNER--NAME/HASH.lock is locked (flock) by whoever fetches or links a blob. A blob gets its name by a
// rename when its hash is right, a link by a rename, a ref last: whatever is seen under a final name is whole.
#ifndef LIMN_WEIGHTS_HUB_CACHE_H
#define LIMN_WEIGHTS_HUB_CACHE_H

#include "weights/hub.h"

// One commit of one repository in the cache; texts belong to the struct.
struct hub_snapshot {
    char *repository; // CACHE/models--OWNER--NAME
    char *locks;      // CACHE/.locks/models--OWNER--NAME
    char *folder;     // REPOSITORY/snapshots/COMMIT
};

// Makes no folder. False: not enough memory.
bool hub_snapshot_of(const char *cache, const char *name, const char *commit, struct hub_snapshot *snapshot,
                     struct error *error);
void hub_snapshot_free(struct hub_snapshot *snapshot); // {0} is fine

// The snapshot that [revision] (a commit, or a ref that is kept) of [name] led to, in fresh memory; NULL without an error where
// there is none in the cache.
char *hub_cache_find(const char *cache, const char *name, const char *revision, struct error *error);

// Whether the snapshot has [file] with its size.
bool hub_snapshot_has(const struct hub_snapshot *snapshot, const struct hub_file *file);
// Whether its blob is there, with its size; the link may be missing.
bool hub_snapshot_has_blob(const struct hub_snapshot *snapshot, const struct hub_file *file);
// Bytes of it in an unfinished blob.
int64_t hub_snapshot_begun(const struct hub_snapshot *snapshot, const struct hub_file *file);

// Makes the folders for blobs, locks and links.
bool hub_snapshot_make(const struct hub_snapshot *snapshot, struct error *error);

// Locks a blob: a descriptor, which the caller closes; -1 with an error; -2 where another process has it.
int hub_snapshot_lock(const struct hub_snapshot *snapshot, const struct hub_file *file, struct error *error);

// Opens the unfinished blob for reading and writing, made when it is not there; -1 with an error. Under the lock.
int hub_snapshot_open(const struct hub_snapshot *snapshot, const struct hub_file *file, struct error *error);
// The unfinished blob is whole: gives it its name. Under the lock.
bool hub_snapshot_finish(const struct hub_snapshot *snapshot, const struct hub_file *file,
                         struct error *error);
// Links the blob into the snapshot. Under the lock.
bool hub_snapshot_link(const struct hub_snapshot *snapshot, const struct hub_file *file, struct error *error);

// Notes that [revision] is [commit]; nothing is done where it is a commit itself.
bool hub_snapshot_note(const struct hub_snapshot *snapshot, const char *revision, const char *commit,
                       struct error *error);

#endif
