#include "unit.h"

#include "base/file.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64];

static int make_folder(void **state) {
    snprintf(folder, sizeof folder, "/tmp/limn-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *in_folder(const char *name) {
    static char paths[4][192];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", folder, name);
    return paths[turn];
}

static int files_in_folder(void) {
    DIR *open = opendir(folder);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(open));)
        count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(open);
    return count;
}

static void assert_holds(const char *path, const char *expected) {
    struct error error = {0};
    char *data;
    size_t size;
    assert_ok(file_read(path, 1000, &data, &size, &error), error);
    assert_string_equal(data, expected);
    assert_int_equal(size, strlen(expected));
    free(data);
}

// A writer that is killed leaves its temporary file: that has the name of what was written, so that it can be swept up.
static void what_a_killed_writer_leaves_is_known_by_its_name(void **state) {
    const char *path = in_folder("job-7.png");
    int before = files_in_folder(), ended, found = 0;
    pid_t writer = fork();
    if (writer == 0) {
        struct rlimit least = {4096, 4096}, none = {0, 0};
        struct error error = {0};
        static char data[65536];
        setrlimit(RLIMIT_CORE, &none);
        setrlimit(RLIMIT_FSIZE, &least);
        signal(SIGXFSZ, SIG_DFL); // kills at the limit
        file_write(path, data, sizeof data, &error);
        _exit(0);
    }
    assert_int_equal(waitpid(writer, &ended, 0), writer);
    assert_true(WIFSIGNALED(ended));
    assert_false(file_exists(path));
    assert_int_equal(files_in_folder(), before + 1);
    DIR *open = opendir(folder);
    for (struct dirent *entry; (entry = readdir(open));)
        if (!strncmp(entry->d_name, ".job-7.png-", 11)) {
            found++;
            assert_int_equal(unlinkat(dirfd(open), entry->d_name, 0), 0);
        }
    closedir(open);
    assert_int_equal(found, 1);
}

static void write_then_read(void **state) {
    struct error error = {0};
    const char *path = in_folder("a.txt");
    int before = files_in_folder();
    assert_false(file_exists(path));
    assert_ok(file_write(path, "one", 3, &error), error);
    assert_true(file_exists(path));
    assert_holds(path, "one");
    chmod(path, 0640);
    assert_ok(file_write(path, "second", 6, &error), error);
    assert_holds(path, "second");
    struct stat status;
    stat(path, &status);
    assert_int_equal(status.st_mode & 0777, 0640);
    assert_ok(file_write(path, NULL, 0, &error), error);
    assert_holds(path, "");
    assert_int_equal(files_in_folder(), before + 1);
}

static void link_stays_a_link(void **state) {
    struct error error = {0};
    const char *real = in_folder("real"), *link = in_folder("link");
    assert_ok(file_write(real, "x", 1, &error), error);
    assert_int_equal(symlink("real", link), 0);
    assert_ok(file_write(link, "through", 7, &error), error);
    struct stat status;
    assert_int_equal(lstat(link, &status), 0);
    assert_true(S_ISLNK(status.st_mode));
    assert_holds(real, "through");
}

// A limit on the file size stands for a full disk: write(2) fails after the temporary file was made.
static void full_disk_leaves_the_old_file(void **state) {
    struct error error = {0};
    const char *path = in_folder("full.png");
    assert_ok(file_write(path, "old", 3, &error), error);
    int before = files_in_folder();
    struct rlimit was, small;
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    static const char zeros[65536];
    bool done = file_write(path, zeros, sizeof zeros, &error);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_false(done);
    assert_int_equal(error.kind, ERROR_IO);
    assert_contains(error.message, "full.png: cannot be written: File too large");
    assert_holds(path, "old");
    assert_int_equal(files_in_folder(), before);
}

static void device_is_written_in_place(void **state) {
    struct error error = {0};
    assert_ok(file_write("/dev/null", "abc", 3, &error), error);
    struct stat status;
    stat("/dev/null", &status);
    assert_true(S_ISCHR(status.st_mode));
    if (access("/dev/full", W_OK) == 0) {
        assert_false(file_write("/dev/full", "abc", 3, &error));
        assert_contains(error.message, "/dev/full: cannot be written: No space left");
    }
}

static void errors_name_the_path(void **state) {
    char *data;
    size_t size;
    struct file_map map;
    struct error error = {0};
    assert_false(file_read(in_folder("absent"), 10, &data, &size, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    assert_contains(error.message, "/absent: cannot be opened: No such file");
    error_clear(&error);
    assert_false(file_map(in_folder("absent"), &map, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    error_clear(&error);
    assert_false(file_map(folder, &map, &error));
    assert_contains(error.message, "is a folder, expected a file");
    error_clear(&error);
    assert_false(file_map("/dev/null", &map, &error));
    assert_contains(error.message, "/dev/null: not a regular file");
    error_clear(&error);
    assert_false(file_write(in_folder("no/such/folder"), "x", 1, &error));
    assert_contains(error.message, "/no/such/folder: cannot be written: No such file");
    error_clear(&error);
    assert_false(file_write(folder, "x", 1, &error));
    assert_contains(error.message, "is a folder");
    error_clear(&error);
    assert_false(file_write("", "x", 1, &error));
    assert_contains(error.message, "expected the name of a file");
}

static void reading_has_a_limit(void **state) {
    char *data;
    size_t size;
    struct error error = {0};
    const char *path = in_folder("ten");
    assert_ok(file_write(path, "0123456789", 10, &error), error);
    assert_ok(file_read(path, 10, &data, &size, &error), error);
    assert_int_equal(size, 10);
    free(data);
    assert_false(file_read(path, 9, &data, &size, &error));
    assert_contains(error.message, "larger than 9 bytes");
    error_clear(&error);
    assert_false(file_read("/dev/zero", 100000, &data, &size, &error));
    assert_contains(error.message, "/dev/zero: larger than 100000 bytes");
    error_clear(&error);
    // The size of a file under /proc is not known before it is read.
    assert_ok(file_read("/proc/self/status", 1 << 20, &data, &size, &error), error);
    assert_contains(data, "Name:");
    free(data);
}

static void mapping(void **state) {
    struct error error = {0};
    struct file_map map;
    const char *path = in_folder("mapped");
    static char bytes[100000];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 31);
    assert_ok(file_write(path, bytes, sizeof bytes, &error), error);
    assert_ok(file_map(path, &map, &error), error);
    assert_int_equal(map.size, sizeof bytes);
    assert_memory_equal(map.data, bytes, sizeof bytes);
    file_release_pages(map.data + 1, map.size - 1);
    file_want_pages(map.data + 1, map.size - 1);
    assert_memory_equal(map.data, bytes, sizeof bytes);
    file_unmap(&map);
    assert_null(map.data);
    file_unmap(&map);
    assert_ok(file_write(path, "", 0, &error), error);
    assert_ok(file_map(path, &map, &error), error);
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    file_release_pages(map.data, 0);
}

static void folders(void **state) {
    struct error error = {0};
    assert_ok(folder_make(in_folder("a/b/c/"), &error), error);
    assert_true(folder_exists(in_folder("a/b/c")));
    assert_ok(folder_make(in_folder("a/b/c"), &error), error);
    struct stat status;
    stat(in_folder("a"), &status);
    assert_int_equal(status.st_mode & 0777, 0700);
    assert_ok(file_write(in_folder("a/file"), "x", 1, &error), error);
    assert_false(folder_exists(in_folder("a/file")));
    assert_false(file_exists(in_folder("a/b")));
    assert_false(folder_make(in_folder("a/file/below"), &error));
    assert_contains(error.message, "/a/file: cannot be made");
}

static void paths_join(void **state) {
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = path_join(cases[i][0], cases[i][1]);
        assert_string_equal(path, cases[i][2]);
        free(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write_then_read),
        cmocka_unit_test(what_a_killed_writer_leaves_is_known_by_its_name),
        cmocka_unit_test(link_stays_a_link),
        cmocka_unit_test(full_disk_leaves_the_old_file),
        cmocka_unit_test(device_is_written_in_place),
        cmocka_unit_test(errors_name_the_path),
        cmocka_unit_test(reading_has_a_limit),
        cmocka_unit_test(mapping),
        cmocka_unit_test(folders),
        cmocka_unit_test(paths_join),
    };
    return cmocka_run_group_tests_name("file", tests, make_folder, remove_folder);
}
