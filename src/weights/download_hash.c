// See download_hash.h.
#include "weights/download_hash.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 };

struct follower {
    int descriptor;
    int64_t size;
    void (*wake)(void *user);
    void *user;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more;
    int64_t written;        // guarded by lock
    bool stopped, finished; // likewise
    int failure;            // errno; written before finished is
    char hash[DIGEST_TEXT]; // likewise
    struct digest digest;
    unsigned char *chunk;
};

// Waits for more than [done] bytes. Returns how many there are, -1: stopped.
static int64_t wait_for_more(struct follower *follower, int64_t done) {
    pthread_mutex_lock(&follower->lock);
    while (!follower->stopped && follower->written <= done)
        pthread_cond_wait(&follower->more, &follower->lock);
    int64_t written = follower->stopped ? -1 : follower->written;
    pthread_mutex_unlock(&follower->lock);
    return written;
}

// 0 or errno; *stopped: nobody waits for the hash any more.
static int hash_all(struct follower *follower, bool *stopped) {
    for (int64_t done = 0; done < follower->size;) {
        int64_t written = wait_for_more(follower, done);
        *stopped = written < 0;
        if (*stopped) return 0;
        size_t want = written - done < CHUNK ? (size_t)(written - done) : CHUNK;
        ssize_t got = pread(follower->descriptor, follower->chunk, want, done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got < 0 ? errno : EIO;
        digest_add(&follower->digest, follower->chunk, (size_t)got);
        done += got;
    }
    digest_end(&follower->digest, follower->hash);
    // Before the file gets its name it is on the disk, not only in memory.
    return fsync(follower->descriptor) == 0 || errno == EINVAL || errno == ENOSYS ? 0 : errno;
}

static void *follow(void *context) {
    struct follower *follower = context;
    bool stopped = false;
    follower->failure = hash_all(follower, &stopped);
    pthread_mutex_lock(&follower->lock);
    follower->finished = !stopped;
    pthread_mutex_unlock(&follower->lock);
    if (!stopped) follower->wake(follower->user);
    return NULL;
}

static void free_follower(struct follower *follower) {
    if (!follower) return;
    free(follower->chunk);
    free(follower);
}

struct follower *follower_start(int descriptor, enum digest_kind kind, int64_t size, int64_t written,
                                void (*wake)(void *user), void *user, struct error *error) {
    struct follower *follower = calloc(1, sizeof *follower);
    if (follower) {
        *follower = (struct follower){
            .descriptor = descriptor, .size = size, .wake = wake, .user = user, .written = written};
        follower->chunk = malloc(CHUNK);
    }
    if (!follower || !follower->chunk) {
        free_follower(follower);
        error_set(error, ERROR_MEMORY, "not enough memory to hash a file");
        return NULL;
    }
    digest_begin(&follower->digest, kind, (uint64_t)size);
    pthread_mutex_init(&follower->lock, NULL);
    pthread_cond_init(&follower->more, NULL);
    int failure = pthread_create(&follower->thread, NULL, follow, follower);
    if (!failure) return follower;
    error_set(error, ERROR_MEMORY, "a thread cannot be started: %s", strerror(failure));
    free_follower(follower);
    return NULL;
}

void follower_written(struct follower *follower, int64_t written) {
    pthread_mutex_lock(&follower->lock);
    follower->written = written;
    pthread_cond_signal(&follower->more);
    pthread_mutex_unlock(&follower->lock);
}

bool follower_finished(struct follower *follower) {
    pthread_mutex_lock(&follower->lock);
    bool finished = follower->finished;
    pthread_mutex_unlock(&follower->lock);
    return finished;
}

bool follower_end(struct follower *follower, char hash[DIGEST_TEXT], struct error *error) {
    pthread_mutex_lock(&follower->lock);
    follower->stopped = true;
    pthread_cond_signal(&follower->more);
    pthread_mutex_unlock(&follower->lock);
    pthread_join(follower->thread, NULL);
    bool good = !follower->failure || error_set(error, ERROR_IO, "cannot be read or written to the disk: %s",
                                                strerror(follower->failure));
    memcpy(hash, follower->hash, DIGEST_TEXT);
    pthread_cond_destroy(&follower->more);
    pthread_mutex_destroy(&follower->lock);
    free_follower(follower);
    return good;
}
