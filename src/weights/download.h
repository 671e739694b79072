// Many files of a hub into its cache: several at once, continued where an earlier run ended, checked by their hashes.
// Relies on hub_client.h, hub_cache.h.
//
//     struct download download;
//     download_init(&download, &client);
//     for (...) download_add(&download, &snapshot, name, commit, &file, &error);
//     bool good = download_run(&download, &error);
//     download_free(&download);
//
// DESIGN. One thread runs all connections (curl multi). A file is written to its unfinished blob from the front; a thread of its
// own reads what has been written and hashes it, so that a run that goes on hashes the old bytes while new ones come. When size
// and hash are right the blob gets its name, then the snapshot its link: a kill at any moment leaves a beginning that the next
// run continues, or a whole file. A connection that breaks is made anew from where it ended, starting at the hub (links to
// other hosts age); tries are counted from the last byte that came. A wrong hash throws the file away, once. Another process that
// fetches the same blob holds its lock; its result is taken when it is done.
#ifndef LIMN_WEIGHTS_DOWNLOAD_H
#define LIMN_WEIGHTS_DOWNLOAD_H

#include "weights/hub_cache.h"
#include "weights/hub_client.h"

enum download_state {
    DOWNLOAD_WAITING, // its turn has not come
    DOWNLOAD_LOCKED,  // another process fetches it
    DOWNLOAD_RUNNING,
    DOWNLOAD_PAUSED,   // between two tries; `trouble` says why
    DOWNLOAD_CHECKING, // all is here, the hash is not known yet
    DOWNLOAD_DONE,
};

struct download_work; // what runs a file; the downloader's own

struct download_item {
    const struct hub_snapshot *snapshot; // these three are borrowed
    const struct hub_file *file;
    const char *name; // of the repository
    char *url;
    enum download_state state;
    int64_t here;      // bytes of the file that are on disk
    int64_t found;     // of those, bytes that were there before
    char trouble[200]; // why it was tried again, "" when all went well
    struct download_work *work;
};

struct download {
    const struct hub_client *client; // its cancelled() ends a run
    int parallel;                    // connections, 1 to 16
    // Called on the running thread: with an item whose state has changed, and with NULL about five times a second.
    void (*changed)(void *user, const struct download *download, const struct download_item *item);
    void *user;

    struct download_item *items; // read only for callers
    int count, capacity;
};

void download_init(struct download *download, const struct hub_client *client); // 6 connections
bool download_add(struct download *download, const struct hub_snapshot *snapshot, const char *name,
                  const char *commit, const struct hub_file *file, struct error *error);

// Until all are done, or one cannot be had: then the others are ended, too, and what has come of them stays for the next run.
// Errors name the file: ERROR_CANCELLED; ERROR_IO (the disk: full, permissions); others of hub_explain.
bool download_run(struct download *download, struct error *error);
void download_free(struct download *download);

#endif
