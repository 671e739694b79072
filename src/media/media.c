// See media.h.
#include "media/media.h"
#include "base/clock.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TIME_BYTES   5  // of milliseconds
#define RANDOM_BYTES 11 // 88 bits: not to be guessed
#define ID_BYTES     (TIME_BYTES + RANDOM_BYTES)
#define COPY_MOST    (1u << 30)

struct media {
    char *folder;
    double lifetime;
    uint64_t quota;       // 0: none
    pthread_mutex_t lock; // guards what follows
    uint64_t bytes;       // of the files that are there, and of those that are being put
    int64_t files;
    double expire_each; // seconds
    bool has_thread, stopping;
    pthread_t thread;
    pthread_cond_t wake;
};

static const struct {
    const char *extension, *mime;
} KINDS[] = {{"png", "image/png"},   {"jpeg", "image/jpeg"}, {"jpg", "image/jpeg"},
             {"webp", "image/webp"}, {"gif", "image/gif"},   {"avif", "image/avif"}};

// The type of a name of ours, NULL for any other string.
static const char *mime_of(const char *name) {
    size_t digits = strspn(name, "0123456789abcdef");
    if (digits != 2 * ID_BYTES || name[digits] != '.') return NULL;
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (!strcmp(name + digits + 1, KINDS[i].extension)) return KINDS[i].mime;
    return NULL;
}

bool media_name_is_valid(const char *name) {
    return name && mime_of(name);
}

void media_timed_hex(char *text, size_t time_bytes, int64_t micros, size_t random_bytes) {
    static const char digits[] = "0123456789abcdef";
    uint64_t time = (uint64_t)(clock_unix_micros() / micros);
    for (size_t i = 2 * time_bytes; i-- > 0; time >>= 4) text[i] = digits[time & 15];
    text += 2 * time_bytes;
    uint8_t *drawn =
        (uint8_t *)text + random_bytes; // its second half: each is read before its place is written
    randombytes_buf(drawn, random_bytes);
    for (size_t i = 0; i < random_bytes; i++) {
        uint8_t value = drawn[i];
        text[2 * i] = digits[value & 15];
        text[2 * i + 1] = digits[value >> 4];
    }
    text[2 * random_bytes] = 0;
}

// ------------------------------------------------------------------------------------------------- the sum of bytes

static void count(struct media *media, int64_t files, int64_t bytes) {
    pthread_mutex_lock(&media->lock);
    media->files += files;
    media->bytes += (uint64_t)bytes; // wraps round where it is taken away
    pthread_mutex_unlock(&media->lock);
}

// Counts [bytes] in where the quota has room for them.
static bool reserve(struct media *media, uint64_t bytes) {
    pthread_mutex_lock(&media->lock);
    bool room = media->quota == 0 || (bytes <= media->quota && media->bytes <= media->quota - bytes);
    if (room) {
        media->bytes += bytes;
        media->files++;
    }
    pthread_mutex_unlock(&media->lock);
    return room;
}

static double age_of(const struct stat *info) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)(now.tv_sec - info->st_mtim.tv_sec) + (double)(now.tv_nsec - info->st_mtim.tv_nsec) / 1e9;
}

// Removes the files of the folder that [remove] chooses. Returns how many went.
static int remove_files(struct media *media,
                        bool (*wanted)(const struct media *, const char *, const struct stat *, void *),
                        void *context) {
    DIR *folder = opendir(media->folder);
    if (!folder) return 0;
    int removed = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat info;
        if (!mime_of(entry->d_name)) continue; // not ours
        if (fstatat(dirfd(folder), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) || !S_ISREG(info.st_mode))
            continue;
        if (!wanted(media, entry->d_name, &info, context) || unlinkat(dirfd(folder), entry->d_name, 0))
            continue;
        count(media, -1, -(int64_t)info.st_size);
        removed++;
    }
    closedir(folder);
    return removed;
}

static bool is_over(const struct media *media, const char *name, const struct stat *info, void *context) {
    return age_of(info) >= media->lifetime;
}

int media_expire(struct media *media) {
    return remove_files(media, is_over, NULL);
}

struct sweep {
    double grace;
    media_keep *keep;
    void *context;
};

static bool is_orphan(const struct media *media, const char *name, const struct stat *info, void *context) {
    const struct sweep *sweep = context;
    return (sweep->grace <= 0 || age_of(info) >= sweep->grace) && !sweep->keep(sweep->context, name);
}

int media_sweep(struct media *media, double grace_seconds, media_keep *keep, void *context) {
    struct sweep sweep = {grace_seconds, keep, context};
    return remove_files(media, is_orphan, &sweep);
}

// Counts a file and chooses none.
static bool just_count(const struct media *media, const char *name, const struct stat *info, void *context) {
    count(context, 1, info->st_size);
    return false;
}

void media_state(struct media *media, struct media_state *state) {
    pthread_mutex_lock(&media->lock);
    *state = (struct media_state){media->bytes, media->quota, media->files};
    pthread_mutex_unlock(&media->lock);
}

// ------------------------------------------------------------------------------------------------- opening, closing

// Goes through the folder every now and then. Its time does not matter: what is over is not served.
static void *keep_up(void *context) {
    struct media *media = context;
    pthread_mutex_lock(&media->lock);
    while (!media->stopping) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)media->expire_each;
        until.tv_nsec += (long)((media->expire_each - (double)(time_t)media->expire_each) * 1e9);
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        if (pthread_cond_timedwait(&media->wake, &media->lock, &until) != ETIMEDOUT) continue;
        pthread_mutex_unlock(&media->lock);
        media_expire(media);
        pthread_mutex_lock(&media->lock);
    }
    pthread_mutex_unlock(&media->lock);
    return NULL;
}

static bool start_thread(struct media *media, double each_seconds, struct error *error) {
    if (each_seconds <= 0) return true;
    sigset_t all, before;
    sigfillset(&all);
    media->expire_each = each_seconds;
    pthread_sigmask(SIG_SETMASK, &all, &before); // the process's signals are not for it
    media->has_thread = pthread_create(&media->thread, NULL, keep_up, media) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return media->has_thread ||
           error_set(error, ERROR_MEMORY, "the thread of the media folder cannot be started");
}

struct media *media_open(const struct media_options *options, struct error *error) {
    if (sodium_init() < 0) {
        error_set(error, ERROR_INTERNAL, "libsodium does not start: no source of random numbers");
        return NULL;
    }
    if (!folder_make(options->folder, error)) return NULL;
    struct media *media = calloc(1, sizeof *media);
    if (!media || !(media->folder = strdup(options->folder))) {
        error_set(error, ERROR_MEMORY, "no memory for the media folder");
        free(media);
        return NULL;
    }
    media->lifetime = options->lifetime_seconds;
    media->quota = options->quota_bytes;
    pthread_mutex_init(&media->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&media->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    media_expire(media);
    media->files = 0, media->bytes = 0;
    remove_files(media, just_count, media);
    if (start_thread(media, options->expire_each_seconds, error)) return media;
    media_close(media);
    return NULL;
}

void media_close(struct media *media) {
    if (!media) return;
    pthread_mutex_lock(&media->lock);
    media->stopping = true;
    pthread_cond_signal(&media->wake);
    pthread_mutex_unlock(&media->lock);
    if (media->has_thread) pthread_join(media->thread, NULL);
    pthread_cond_destroy(&media->wake);
    pthread_mutex_destroy(&media->lock);
    free(media->folder);
    free(media);
}

// ---------------------------------------------------------------------------------------------------- in and out

static bool copy_file(const char *from, const char *to, struct error *error) {
    char *data;
    size_t size;
    if (!file_read(from, COPY_MOST, &data, &size, error)) return false;
    bool good = file_write(to, data, size, error);
    free(data);
    if (good) unlink(from);
    return good;
}

// Sets the file's time so that it is over [seconds] from now.
static bool set_life(const struct media *media, const char *path, double seconds, struct error *error) {
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {0}};
    clock_gettime(CLOCK_REALTIME, &times[1]);
    if (seconds > 0) times[1].tv_sec += (time_t)(seconds - media->lifetime);
    return utimensat(AT_FDCWD, path, times, 0) == 0 ||
           error_set(error, ERROR_IO, "%s: cannot be kept: %s", path, strerror(errno));
}

// Its life begins now, not when it was written: the time is set before the file can be seen under its name.
static bool move_file(struct media *media, const char *path, const char *to, double seconds,
                      struct error *error) {
    if (!set_life(media, path, seconds, error)) return false;
    if (rename(path, to) == 0) return true;
    if (errno == EXDEV) return copy_file(path, to, error) && set_life(media, to, seconds, error);
    return error_set(error, ERROR_IO, "%s: cannot be moved to %s: %s", path, media->folder, strerror(errno));
}

bool media_put_file(struct media *media, const char *path, const char *extension, double seconds,
                    char name[MEDIA_NAME_MOST], struct error *error) {
    char id[2 * ID_BYTES + 1];
    struct stat info;
    media_timed_hex(id, TIME_BYTES, 1000, RANDOM_BYTES);
    snprintf(name, MEDIA_NAME_MOST, "%s.%s", id, extension);
    if (!mime_of(name))
        return error_set(error, ERROR_INTERNAL, "media of kind \"%s\" are not kept", extension);
    if (lstat(path, &info) || !S_ISREG(info.st_mode))
        return error_set(error, ERROR_IO, "%s: cannot be kept: expected a file", path);
    uint64_t size = (uint64_t)info.st_size;
    if (!reserve(media, size) && (media_expire(media) == 0 || !reserve(media, size)))
        return error_set(error, ERROR_IO, "%s: %s: the media folder may hold %llu bytes", media->folder,
                         strerror(ENOSPC), (unsigned long long)media->quota);
    char *to = path_join(media->folder, name);
    bool good = (to || error_set(error, ERROR_MEMORY, "no memory for a path")) &&
                move_file(media, path, to, seconds, error);
    if (!good) count(media, -1, -(int64_t)size);
    free(to);
    return good;
}

static bool not_there(struct error *error) {
    return error_set(error, ERROR_NOT_FOUND, "there is no such picture, or its time is over");
}

bool media_get(struct media *media, const char *name, struct media_item *item, struct error *error) {
    struct stat info;
    *item = (struct media_item){.file = -1, .mime = name ? mime_of(name) : NULL};
    char *path = item->mime ? path_join(media->folder, name) : NULL;
    if (path) item->file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    free(path);
    if (item->file < 0) return not_there(error);
    if (fstat(item->file, &info) || !S_ISREG(info.st_mode) ||
        (item->seconds_left = media->lifetime - age_of(&info)) <= 0) {
        close(item->file);
        item->file = -1;
        return not_there(error);
    }
    item->size = (uint64_t)info.st_size;
    // One that lives longer than others has a time to come: then the one of its being put there.
    item->modified = age_of(&info) < 0 ? info.st_ctim.tv_sec : info.st_mtim.tv_sec;
    snprintf(item->etag, sizeof item->etag, "\"%.16s-%llx\"", name, (unsigned long long)info.st_size);
    return true;
}

bool media_remove(struct media *media, const char *name, struct error *error) {
    struct media_item item;
    if (!media_get(media, name, &item, error)) return false;
    close(item.file);
    char *path = path_join(media->folder, name);
    if (!path) return error_set(error, ERROR_MEMORY, "no memory for a path");
    bool good = unlink(path) == 0;
    free(path);
    if (!good) return not_there(error); // another call was faster
    count(media, -1, -(int64_t)item.size);
    return true;
}
