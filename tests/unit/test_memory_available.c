#include "unit.h"

#include "base/file.h"
#include "base/memory.h"

#include <unistd.h>

// A root folder with the files that the kernel would show.
static char root[64];

static void put(const char *name, const char *text) {
    char path[256];
    struct error error = {0};
    snprintf(path, sizeof path, "%s/%s", root, name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    assert_ok(folder_make(path, &error), error);
    *slash = '/';
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state) {
    snprintf(root, sizeof root, "/tmp/limn-memory-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static void nothing_is_known(void **state) {
    assert_true(memory_available_under(root) == INT64_MAX);
}

static void without_groups(void **state) {
    put("proc/meminfo",
        "MemTotal:       99 kB\nMemFree:         3 kB\nMemAvailable:    1000 kB\nBuffers: 5 kB\n");
    assert_int_equal(memory_available_under(root), 1000 * 1024);
}

// The limit of a group above counts, and file pages that a group holds do not.
static void groups_of_version_2(void **state) {
    put("proc/meminfo", "MemAvailable:    1000 kB\n");
    put("proc/self/cgroup", "0::/slice/job\n");
    put("sys/fs/cgroup/slice/job/memory.max", "max\n");
    put("sys/fs/cgroup/slice/job/memory.current", "5\n");
    put("sys/fs/cgroup/slice/memory.max", "600000\n");
    put("sys/fs/cgroup/slice/memory.current", "500000\n");
    put("sys/fs/cgroup/slice/memory.stat", "anon 1\ninactive_file 100000\nactive_file 50000\nfile 9\n");
    assert_int_equal(memory_available_under(root), 600000 - (500000 - 150000));
    put("sys/fs/cgroup/slice/job/memory.max", "4\n");
    assert_int_equal(memory_available_under(root), 0);
}

// A container sees its own group as the root.
static void group_of_a_container(void **state) {
    put("proc/meminfo", "MemAvailable:    1000 kB\n");
    put("proc/self/cgroup", "0::/\n");
    put("sys/fs/cgroup/memory.max", "70000\n");
    put("sys/fs/cgroup/memory.current", "20000\n");
    assert_int_equal(memory_available_under(root), 50000);
}

static void groups_of_version_1(void **state) {
    put("proc/meminfo", "MemAvailable:    1000 kB\n");
    put("proc/self/cgroup", "4:cpu:/other\n3:memory:/box\nno colon\n");
    put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9000\n");
    put("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "8000\n");
    put("sys/fs/cgroup/memory/box/memory.stat", "cache 1\ntotal_inactive_file 500\ntotal_active_file 20\n");
    assert_int_equal(memory_available_under(root), 1520);
}

static void this_machine(void **state) {
    assert_true(memory_available() > 1 << 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_is_known, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_groups, set_up, tear_down),
        cmocka_unit_test_setup_teardown(groups_of_version_2, set_up, tear_down),
        cmocka_unit_test_setup_teardown(group_of_a_container, set_up, tear_down),
        cmocka_unit_test_setup_teardown(groups_of_version_1, set_up, tear_down),
        cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
