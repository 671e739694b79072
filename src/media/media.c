// See media.h.
#include "media/media.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ID_BYTES  16 // 128 bits: not to be guessed
#define COPY_MOST (1u << 30)

struct media {
    char *folder;
    double lifetime;
};

static const struct {
    const char *extension, *mime;
} KINDS[] = {{"png", "image/png"}, {"jpeg", "image/jpeg"}, {"jpg", "image/jpeg"}, {"webp", "image/webp"}};

// The type of a name of ours, NULL for any other string.
static const char *mime_of(const char *name) {
    size_t digits = strspn(name, "0123456789abcdef");
    if (digits != 2 * ID_BYTES || name[digits] != '.') return NULL;
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (!strcmp(name + digits + 1, KINDS[i].extension)) return KINDS[i].mime;
    return NULL;
}

void media_random_hex(char *text, size_t bytes) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < bytes; i++) {
        uint32_t value = randombytes_random();
        text[2 * i] = digits[value & 15];
        text[2 * i + 1] = digits[value >> 4 & 15];
    }
    text[2 * bytes] = 0;
}

struct media *media_open(const char *folder, double lifetime_seconds, struct error *error) {
    if (sodium_init() < 0) {
        error_set(error, ERROR_INTERNAL, "libsodium does not start: no source of random numbers");
        return NULL;
    }
    if (!folder_make(folder, error)) return NULL;
    struct media *media = calloc(1, sizeof *media);
    if (!media || !(media->folder = strdup(folder))) {
        error_set(error, ERROR_MEMORY, "no memory for the media folder");
        free(media);
        return NULL;
    }
    media->lifetime = lifetime_seconds;
    return media;
}

void media_close(struct media *media) {
    if (!media) return;
    free(media->folder);
    free(media);
}

static bool copy_file(const char *from, const char *to, struct error *error) {
    char *data;
    size_t size;
    if (!file_read(from, COPY_MOST, &data, &size, error)) return false;
    bool good = file_write(to, data, size, error);
    free(data);
    if (good) unlink(from);
    return good;
}

bool media_put_file(struct media *media, const char *path, const char *extension, char name[MEDIA_NAME_MOST],
                    struct error *error) {
    char id[2 * ID_BYTES + 1];
    media_random_hex(id, ID_BYTES);
    snprintf(name, MEDIA_NAME_MOST, "%s.%s", id, extension);
    if (!mime_of(name))
        return error_set(error, ERROR_INTERNAL, "media of kind \"%s\" are not kept", extension);
    char *to = path_join(media->folder, name);
    if (!to) return error_set(error, ERROR_MEMORY, "no memory for a path");
    bool good = rename(path, to) == 0;
    if (!good && errno == EXDEV)
        good = copy_file(path, to, error);
    else if (!good)
        error_set(error, ERROR_IO, "%s: cannot be moved to %s: %s", path, media->folder, strerror(errno));
    // Its life begins now, not when it was written.
    if (good && utimensat(AT_FDCWD, to, NULL, 0))
        good = error_set(error, ERROR_IO, "%s: %s", to, strerror(errno));
    free(to);
    return good;
}

static double seconds_left(const struct media *media, const struct stat *info) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double age =
        (double)(now.tv_sec - info->st_mtim.tv_sec) + (double)(now.tv_nsec - info->st_mtim.tv_nsec) / 1e9;
    return media->lifetime - age;
}

bool media_get(struct media *media, const char *name, struct media_item *item, struct error *error) {
    struct stat info;
    *item = (struct media_item){.file = -1, .mime = mime_of(name)};
    char *path = item->mime ? path_join(media->folder, name) : NULL;
    if (path) item->file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    free(path);
    if (item->file < 0)
        return error_set(error, ERROR_NOT_FOUND, "there is no such picture, or its time is over");
    if (fstat(item->file, &info) || !S_ISREG(info.st_mode) ||
        (item->seconds_left = seconds_left(media, &info)) <= 0) {
        close(item->file);
        item->file = -1;
        return error_set(error, ERROR_NOT_FOUND, "there is no such picture, or its time is over");
    }
    item->size = (uint64_t)info.st_size;
    return true;
}

int media_expire(struct media *media) {
    DIR *folder = opendir(media->folder);
    if (!folder) return 0;
    int removed = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat info;
        if (!mime_of(entry->d_name)) continue; // not ours
        if (fstatat(dirfd(folder), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) || !S_ISREG(info.st_mode))
            continue;
        if (seconds_left(media, &info) <= 0 && unlinkat(dirfd(folder), entry->d_name, 0) == 0) removed++;
    }
    closedir(folder);
    return removed;
}
