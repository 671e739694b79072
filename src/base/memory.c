// Available memory: MemAvailable of /proc/meminfo and the limits of control groups, version 2 and version 1. File pages that a
// group holds count as available: the kernel drops them first. Relies on nothing.
#include "base/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_MOST = 4096 };

// The number that follows [key] at the start of a line (the whole file where key is ""); -1 where there is none, as for "max".
static int64_t read_number(const char *path, const char *key) {
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    char line[512];
    int64_t value = -1;
    while (fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) == 0 && sscanf(line + length, "%" SCNd64, &value) == 1) break;
        value = -1;
    }
    fclose(file);
    return value;
}

static int64_t read_in(const char *folder, const char *name, const char *key) {
    char path[PATH_MOST + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return read_number(path, key);
}

static int64_t zero_if_absent(int64_t value) {
    return value < 0 ? 0 : value;
}

// What one group leaves; INT64_MAX where it sets no limit.
static int64_t left_in_group(const char *folder, int version) {
    int64_t limit = read_in(folder, version == 2 ? "memory.max" : "memory.limit_in_bytes", "");
    int64_t used = read_in(folder, version == 2 ? "memory.current" : "memory.usage_in_bytes", "");
    if (limit < 0 || used < 0) return INT64_MAX;
    const char *inactive = version == 2 ? "inactive_file " : "total_inactive_file ";
    const char *active = version == 2 ? "active_file " : "total_active_file ";
    used -= zero_if_absent(read_in(folder, "memory.stat", inactive));
    used -= zero_if_absent(read_in(folder, "memory.stat", active));
    if (used < 0) used = 0;
    return limit > used ? limit - used : 0;
}

// The least that the group at [path] below [mount] and those above it leave.
static int64_t left_in_groups(const char *mount, const char *path, int version) {
    char folder[PATH_MOST];
    int written = snprintf(folder, sizeof folder, "%s%s", mount, strcmp(path, "/") ? path : "");
    if (written < 0 || (size_t)written >= sizeof folder) return INT64_MAX;
    int64_t least = INT64_MAX;
    for (;;) {
        int64_t left = left_in_group(folder, version);
        if (left < least) least = left;
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= strlen(mount) || !slash) return least;
        *slash = 0;
    }
}

int64_t memory_available_under(const char *root) {
    char path[PATH_MOST], mount[PATH_MOST], line[PATH_MOST];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    int64_t kibibytes = read_number(path, "MemAvailable:");
    int64_t least = kibibytes < 0 || kibibytes > INT64_MAX / 1024 ? INT64_MAX : kibibytes * 1024;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (!file) return least;
    // Lines are "id:controllers:path"; version 2 has the id 0 and no controllers.
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        controllers++;
        int version = *controllers ? 1 : 2;
        if (version == 1 && strcmp(controllers, "memory") != 0) continue;
        int written =
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, version == 1 ? "/memory" : "");
        if (written < 0 || (size_t)written >= sizeof mount) continue;
        int64_t left = left_in_groups(mount, group, version);
        if (left < least) least = left;
    }
    fclose(file);
    return least;
}

int64_t memory_parse(const char *text) {
    static const char units[] = "kmgt";
    char *end;
    if (*text < '0' || *text > '9') return -1;
    double bytes = strtod(text, &end);
    while (*end == ' ') end++;
    const char *unit = *end ? strchr(units, *end | 0x20) : NULL;
    if (unit) {
        const bool binary = end[1] == 'i';
        for (const char *u = units; u <= unit; u++) bytes *= binary ? 1024 : 1000;
        end += binary ? 2 : 1;
    }
    if (*end == 'B' || *end == 'b') end++;
    return *end == 0 && bytes < 9e18 ? (int64_t)bytes : -1;
}

int64_t memory_available(void) {
    const char *wish = getenv("LIMN_MEMORY");
    const int64_t bytes = wish ? memory_parse(wish) : -1;
    return bytes >= 0 ? bytes : memory_available_under("");
}
