// See hub_cache.h.
#include "weights/hub_cache.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for a path");
}

static bool fail(struct error *error, const char *path, const char *what) {
    return error_set(error, ERROR_IO, "%s: %s: %s", path, what, strerror(errno));
}

// A path in fresh memory; NULL with an error.
static char *path_of(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

static char *path_of(struct error *error, const char *format, ...) {
    char *path = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&path, format, arguments) < 0) path = NULL;
    va_end(arguments);
    if (!path) no_memory(error);
    return path;
}

// The folder and those above it. Other users of a shared cache may read what is made, as far as the umask lets them.
static bool make_folders(const char *path, struct error *error) {
    char *partial = strdup(path);
    if (!partial) return no_memory(error);
    bool good = true;
    for (size_t i = 1; good && i <= strlen(path); i++) {
        if (path[i] != '/' && path[i]) continue;
        partial[i] = 0;
        if (mkdir(partial, 0777) != 0) {
            int cause = errno;
            errno = cause;
            if (!folder_exists(partial)) {
                errno = cause;
                good = fail(error, partial, "cannot be made");
            }
        }
        partial[i] = path[i];
    }
    free(partial);
    return good;
}

static bool make_folder_of(const char *path, struct error *error) {
    char *folder = strdup(path);
    if (!folder) return no_memory(error);
    *strrchr(folder, '/') = 0;
    bool good = make_folders(folder, error);
    free(folder);
    return good;
}

// ------------------------------------------------------------------------------------------------------------ snapshots

bool hub_snapshot_of(const char *cache, const char *name, const char *commit, struct hub_snapshot *snapshot,
                     struct error *error) {
    const char *slash = strchr(name, '/');
    int owner = (int)(slash - name);
    *snapshot = (struct hub_snapshot){0};
    snapshot->repository = path_of(error, "%s/models--%.*s--%s", cache, owner, name, slash + 1);
    snapshot->locks = path_of(error, "%s/.locks/models--%.*s--%s", cache, owner, name, slash + 1);
    if (snapshot->repository)
        snapshot->folder = path_of(error, "%s/snapshots/%s", snapshot->repository, commit);
    if (snapshot->repository && snapshot->locks && snapshot->folder) return true;
    hub_snapshot_free(snapshot);
    return false;
}

void hub_snapshot_free(struct hub_snapshot *snapshot) {
    free(snapshot->repository);
    free(snapshot->locks);
    free(snapshot->folder);
    *snapshot = (struct hub_snapshot){0};
}

// What the ref of [revision] says; false where there is none, or where it says something else than a commit.
static bool read_ref(const char *repository, const char *revision, char commit[HUB_COMMIT],
                     struct error *error) {
    char *path = path_of(error, "%s/refs/%s", repository, revision), *text = NULL;
    struct error ignored = {0};
    size_t size = 0;
    bool good = path && file_exists(path) && file_read(path, 100, &text, &size, &ignored);
    if (good) {
        text[strcspn(text, "\r\n ")] = 0;
        good = digest_is(DIGEST_GIT_BLOB, text);
    }
    if (good) snprintf(commit, HUB_COMMIT, "%s", text);
    free(text);
    free(path);
    return good;
}

char *hub_cache_find(const char *cache, const char *name, const char *revision, struct error *error) {
    struct hub_snapshot snapshot;
    char commit[HUB_COMMIT] = "";
    if (!hub_name_good(name) || !hub_revision_good(revision)) return NULL;
    if (!hub_snapshot_of(cache, name, "", &snapshot, error)) return NULL;
    if (digest_is(DIGEST_GIT_BLOB, revision)) snprintf(commit, sizeof commit, "%s", revision);
    bool known = *commit || read_ref(snapshot.repository, revision, commit, error);
    hub_snapshot_free(&snapshot);
    if (!known || !hub_snapshot_of(cache, name, commit, &snapshot, error)) return NULL;
    char *folder = folder_exists(snapshot.folder) ? snapshot.folder : NULL;
    if (folder) snapshot.folder = NULL;
    hub_snapshot_free(&snapshot);
    return folder;
}

static bool has_size(const char *path, int64_t size) {
    struct stat status;
    return path && stat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_size == size;
}

bool hub_snapshot_has(const struct hub_snapshot *snapshot, const struct hub_file *file) {
    char *path = path_join(snapshot->folder, file->path);
    bool has = has_size(path, file->size);
    free(path);
    return has;
}

static char *blob_path(const struct hub_snapshot *snapshot, const struct hub_file *file, const char *ending,
                       struct error *error) {
    return path_of(error, "%s/blobs/%s%s", snapshot->repository, file->hash, ending);
}

bool hub_snapshot_has_blob(const struct hub_snapshot *snapshot, const struct hub_file *file) {
    char *path = blob_path(snapshot, file, "", NULL);
    bool has = has_size(path, file->size);
    free(path);
    return has;
}

int64_t hub_snapshot_begun(const struct hub_snapshot *snapshot, const struct hub_file *file) {
    struct stat status;
    char *path = blob_path(snapshot, file, ".incomplete", NULL);
    bool known = path && stat(path, &status) == 0 && status.st_size <= file->size;
    free(path);
    return known ? (int64_t)status.st_size : 0;
}

bool hub_snapshot_make(const struct hub_snapshot *snapshot, struct error *error) {
    char *blobs = path_of(error, "%s/blobs", snapshot->repository);
    bool good = blobs && make_folders(blobs, error) && make_folders(snapshot->locks, error) &&
                make_folders(snapshot->folder, error);
    free(blobs);
    return good;
}

// --------------------------------------------------------------------------------------------------------------- blobs

int hub_snapshot_lock(const struct hub_snapshot *snapshot, const struct hub_file *file, struct error *error) {
    char *path = path_of(error, "%s/%s.lock", snapshot->locks, file->hash);
    int lock = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (path && lock < 0) fail(error, path, "cannot be opened");
    struct stat mine, there;
    if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) != 0) {
        bool held = errno == EWOULDBLOCK || errno == EINTR;
        if (!held) fail(error, path, "cannot be locked");
        close(lock);
        lock = held ? -2 : -1;
    } else if (lock >= 0 &&
               (fstat(lock, &mine) != 0 || stat(path, &there) != 0 || mine.st_ino != there.st_ino)) {
        close(lock); // somebody removed the file meanwhile: what is locked is not what others will lock
        lock = -2;
    }
    free(path);
    return lock;
}

int hub_snapshot_open(const struct hub_snapshot *snapshot, const struct hub_file *file, struct error *error) {
    char *path = blob_path(snapshot, file, ".incomplete", error);
    int blob = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666) : -1;
    if (path && blob < 0) fail(error, path, "cannot be written");
    free(path);
    return blob;
}

bool hub_snapshot_finish(const struct hub_snapshot *snapshot, const struct hub_file *file,
                         struct error *error) {
    char *from = blob_path(snapshot, file, ".incomplete", error), *to = blob_path(snapshot, file, "", error);
    bool good = from && to;
    // Where locks do not hold (some network file systems) another process may have been faster.
    if (good && rename(from, to) != 0 && !hub_snapshot_has_blob(snapshot, file))
        good = fail(error, to, "cannot be put in place");
    free(from);
    free(to);
    return good;
}

// Puts a link to [target] at [path], in the place of whatever is there. What a kill may leave lies among the locks, where nobody
// looks for files. Under the lock of the blob.
static bool put_link(const struct hub_snapshot *snapshot, const struct hub_file *file, const char *path,
                     const char *target, struct error *error) {
    if (symlink(target, path) == 0) return true;
    if (errno != EEXIST) return fail(error, path, "cannot be linked to its blob");
    char *name = path_of(error, "%s/%s.link", snapshot->locks, file->hash);
    if (!name) return false;
    unlink(name);
    bool good = symlink(target, name) == 0 || fail(error, path, "cannot be linked to its blob");
    if (good && rename(name, path) != 0) {
        good = fail(error, path, "cannot be put in place");
        unlink(name);
    }
    free(name);
    return good;
}

bool hub_snapshot_link(const struct hub_snapshot *snapshot, const struct hub_file *file,
                       struct error *error) {
    char target[4 * (HUB_PATH_MOST / 2) + 100], *path = path_of(error, "%s/%s", snapshot->folder, file->path);
    size_t used = (size_t)snprintf(target, sizeof target, "../../");
    for (const char *c = file->path; *c; c++)
        if (*c == '/') used += (size_t)snprintf(target + used, sizeof target - used, "../");
    snprintf(target + used, sizeof target - used, "blobs/%s", file->hash);
    bool good = path && (hub_snapshot_has(snapshot, file) ||
                         (make_folder_of(path, error) && put_link(snapshot, file, path, target, error)));
    free(path);
    return good;
}

// Writes [text] to [path] by way of a file among the locks.
static bool put_text(const struct hub_snapshot *snapshot, const char *path, const char *text,
                     struct error *error) {
    char *name = path_of(error, "%s/ref.%ld", snapshot->locks, (long)getpid());
    bool good = name && file_write(name, text, strlen(text), error);
    if (good && rename(name, path) != 0) {
        good = fail(error, path, "cannot be put in place");
        unlink(name);
    }
    free(name);
    return good;
}

bool hub_snapshot_note(const struct hub_snapshot *snapshot, const char *revision, const char *commit,
                       struct error *error) {
    if (!strcmp(revision, commit)) return true;
    char *path = path_of(error, "%s/refs/%s", snapshot->repository, revision), known[HUB_COMMIT];
    bool good = path != NULL;
    if (good && !(read_ref(snapshot->repository, revision, known, error) && !strcmp(known, commit)))
        good = make_folder_of(path, error) && put_text(snapshot, path, commit, error);
    free(path);
    return good;
}
