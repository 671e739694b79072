// Files. Relies on error.h.
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static bool fail(struct error *error, const char *path, const char *what) {
    enum error_kind kind = errno == ENOENT || errno == ENOTDIR ? ERROR_NOT_FOUND
                           : errno == ENOMEM                   ? ERROR_MEMORY
                                                               : ERROR_IO;
    return error_set(error, kind, "%s: %s: %s", path, what, strerror(errno));
}

// Opens for reading and says what is there; refuses folders. The caller closes the result; -1 with an error.
static int open_for_reading(const char *path, int flags, struct stat *status, struct error *error) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | flags);
    if (file < 0) {
        fail(error, path, "cannot be opened");
        return -1;
    }
    if (fstat(file, status) != 0) {
        fail(error, path, "cannot be examined");
    } else if (S_ISDIR(status->st_mode)) {
        error_set(error, ERROR_INPUT, "%s: is a folder, expected a file", path);
    } else {
        return file;
    }
    close(file);
    return -1;
}

bool file_map(const char *path, struct file_map *map, struct error *error) {
    *map = (struct file_map){0};
    struct stat status;
    int file =
        open_for_reading(path, O_NONBLOCK, &status, error); // opening a pipe must not wait for a writer
    if (file < 0) return false;
    bool done = true;
    if (!S_ISREG(status.st_mode)) {
        done = error_set(error, ERROR_INPUT, "%s: not a regular file", path);
    } else if ((uint64_t)status.st_size > SIZE_MAX / 2) {
        done = error_set(error, ERROR_UNSUPPORTED, "%s: too large to map", path);
    } else if (status.st_size > 0) {
        void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (data == MAP_FAILED) {
            done = fail(error, path, "cannot be mapped");
        } else {
            map->data = data;
            map->size = (size_t)status.st_size;
        }
    }
    close(file);
    return done;
}

void file_unmap(struct file_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct file_map){0};
}

static void advise(const void *data, size_t size, int advice, bool inner) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)data, end = begin + size;
    if (!data || size == 0) return;
    // Released are only whole pages; wanted is every page that is touched.
    begin = inner ? (begin + page - 1) / page * page : begin / page * page;
    end = inner ? end / page * page : (end + page - 1) / page * page;
    if (end > begin) madvise((void *)begin, end - begin, advice);
}

void file_release_pages(const void *data, size_t size) {
    advise(data, size, MADV_DONTNEED, true);
}

void file_want_pages(const void *data, size_t size) {
    advise(data, size, MADV_WILLNEED, false);
}

bool file_read(const char *path, size_t limit, char **data, size_t *size, struct error *error) {
    *data = NULL;
    *size = 0;
    struct stat status;
    int file = open_for_reading(path, 0, &status, error);
    if (file < 0) return false;
    if (S_ISREG(status.st_mode) && (uint64_t)status.st_size > limit) {
        close(file);
        return error_set(error, ERROR_INPUT, "%s: larger than %zu bytes, the most accepted here", path,
                         limit);
    }
    size_t capacity = S_ISREG(status.st_mode) && status.st_size > 0 ? (size_t)status.st_size : 4096;
    if (capacity > limit) capacity = limit;
    char *text = malloc(capacity + 2); // one byte more than fits tells of a longer file; one for the 0
    size_t used = 0;
    bool done = text || error_set(error, ERROR_MEMORY, "%s: no memory to read it", path);
    while (done) {
        ssize_t got = read(file, text + used, capacity + 1 - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            done = fail(error, path, "cannot be read");
            break;
        }
        used += (size_t)got;
        if (used > limit) {
            done = error_set(error, ERROR_INPUT, "%s: larger than %zu bytes, the most accepted here", path,
                             limit);
            break;
        }
        if (got == 0) break;
        if (used > capacity) { // the file grew, or its size was not known
            capacity = capacity < limit / 2 ? capacity * 2 : limit;
            char *larger = realloc(text, capacity + 2);
            if (!larger) {
                done = error_set(error, ERROR_MEMORY, "%s: no memory to read it", path);
                break;
            }
            text = larger;
        }
    }
    close(file);
    if (!done) {
        free(text);
        return false;
    }
    text[used] = 0;
    *data = text;
    *size = used;
    return true;
}

static bool write_all(int file, const void *data, size_t size) {
    const char *from = data;
    while (size > 0) {
        ssize_t done = write(file, from, size < (1u << 30) ? size : (1u << 30));
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return false;
        from += done;
        size -= (size_t)done;
    }
    return true;
}

// Pipes and devices cannot be replaced by a rename: they are written in place.
static bool write_in_place(const char *path, const void *data, size_t size, struct error *error) {
    int file = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (file < 0) return fail(error, path, "cannot be written");
    bool done = write_all(file, data, size);
    if (!done) fail(error, path, "cannot be written");
    if (close(file) != 0 && done) done = fail(error, path, "cannot be written");
    return done;
}

// "<folder of path>/.<its name>-<random>.part" into [name]: whoever sweeps up behind a writer that was killed knows by the name what
// it belongs to.
static void temporary_name(const char *path, char *name, size_t size) {
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random) {
        random = (uint64_t)getpid() << 32 ^ (uintptr_t)name;
    }
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    snprintf(name, size, "%.*s.%.200s-%016llx.part", folder, path, path + folder, (unsigned long long)random);
}

// Writes and syncs the temporary file, then puts it in the place of [target]. [path] is the name for messages.
static bool write_and_rename(const char *path, const char *target, mode_t mode, const void *data, size_t size,
                             struct error *error) {
    size_t room = strlen(target) + 40;
    char *name = malloc(room);
    if (!name) return error_set(error, ERROR_MEMORY, "%s: no memory to write it", path);
    int file = -1;
    for (int attempt = 0; attempt < 8 && file < 0; attempt++) {
        temporary_name(target, name, room);
        file = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file < 0 && errno != EEXIST) break;
    }
    if (file < 0) {
        fail(error, path, "cannot be written");
        free(name);
        return false;
    }
    bool done = (mode == 0 || fchmod(file, mode) == 0) && write_all(file, data, size) &&
                (fsync(file) == 0 || errno == EINVAL || errno == ENOSYS);
    if (!done) fail(error, path, "cannot be written");
    if (close(file) != 0 && done) done = fail(error, path, "cannot be written");
    if (done && rename(name, target) != 0) done = fail(error, path, "cannot be put in place");
    if (!done) unlink(name);
    free(name);
    return done;
}

static void sync_folder_of(const char *path) {
    char *copy = strdup(path);
    if (!copy) return;
    char *slash = strrchr(copy, '/');
    if (slash) slash[slash == copy] = 0;
    int folder = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
        fsync(folder); // best effort: the file itself is synced
        close(folder);
    }
    free(copy);
}

bool file_write(const char *path, const void *data, size_t size, struct error *error) {
    struct stat status;
    if (stat(path, &status) != 0) {
        size_t length = strlen(path);
        if (length == 0 || path[length - 1] == '/') {
            return error_set(error, ERROR_INPUT, "\"%s\": expected the name of a file", path);
        }
        if (!write_and_rename(path, path, 0, data, size, error)) return false;
        sync_folder_of(path);
        return true;
    }
    if (S_ISDIR(status.st_mode))
        return error_set(error, ERROR_INPUT, "%s: is a folder, expected a file", path);
    if (!S_ISREG(status.st_mode)) return write_in_place(path, data, size, error);
    char *target = realpath(path, NULL); // a link stays a link: what it points to is replaced
    if (!target) return fail(error, path, "cannot be resolved");
    bool done = write_and_rename(path, target, status.st_mode & 07777, data, size, error);
    if (done) sync_folder_of(target);
    free(target);
    return done;
}

bool file_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

bool folder_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool folder_make(const char *path, struct error *error) {
    char *partial = strdup(path);
    if (!partial) return error_set(error, ERROR_MEMORY, "%s: no memory to make the folder", path);
    bool done = path[0] || error_set(error, ERROR_INPUT, "\"\": expected the name of a folder");
    for (size_t i = 1; done && i <= strlen(path); i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        partial[i] = 0;
        if (mkdir(partial, 0700) != 0) {
            int cause = errno; // a read-only system says so even where the folder is there
            if (!folder_exists(partial)) {
                errno = cause;
                done = fail(error, partial, "cannot be made");
            }
        }
        partial[i] = path[i];
    }
    free(partial);
    return done;
}

char *path_join(const char *folder, const char *name) {
    size_t length = strlen(folder);
    size_t room = length + strlen(name) + 2;
    char *path = malloc(room);
    if (path) snprintf(path, room, "%s%s%s", folder, length && folder[length - 1] != '/' ? "/" : "", name);
    return path;
}

bool file_link(const char *path, const char *link, struct error *error) {
    struct stat there;
    const size_t size = strlen(link) + 32;
    char *draft = malloc(size);
    if (!draft) return error_set(error, ERROR_MEMORY, "%s: not enough memory for a path", link);
    snprintf(draft, size, "%s.%ld", link, (long)getpid());
    if (lstat(link, &there) == 0 && !S_ISLNK(there.st_mode)) {
        free(draft);
        return error_set(error, ERROR_IO, "%s: is there already, expected nothing or a link", link);
    }
    unlink(draft); // of a process of that number that died
    bool good = symlink(path, draft) == 0 && rename(draft, link) == 0;
    if (!good) {
        error_set(error, ERROR_IO, "%s: no link to %s: %s", link, path, strerror(errno));
        unlink(draft);
    }
    free(draft);
    return good;
}
