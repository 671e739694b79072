// Pictures behind URLs: which addresses are public, and what a server on this machine gets to see of the rules.
#include "base/clock.h"
#include "base/file.h"
#include "gateway/fetch.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "https_site.h"

static bool is_public(const char *text) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) return fetch_is_public((struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return fetch_is_public((struct sockaddr *)&v6);
}

static void test_addresses(void **state) {
    static const char *const good[] = {
        "1.1.1.1",         "8.8.8.8",          "9.255.255.255", "11.0.0.0",       "100.63.255.255",
        "100.128.0.0",     "126.0.0.1",        "128.0.0.1",     "169.253.1.1",    "172.15.255.255",
        "172.32.0.0",      "192.0.1.1",        "192.167.0.1",   "198.17.255.255", "198.20.0.0",
        "223.255.255.255", "2606:4700::1",     "2a00::1",       "2001:200::1",    "2400:cb00::1",
        "::ffff:8.8.8.8",  "64:ff9b::8.8.8.8", "3ffe::1",
    };
    static const char *const bad[] = {
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:db8::1",
        "2002:0a00:0001::1",
        "3fff::1",
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "5f00::1",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!is_public(good[i])) fail_msg("%s is public", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (is_public(bad[i])) fail_msg("%s is not public", bad[i]);
    struct sockaddr other = {.sa_family = AF_UNIX};
    assert_false(fetch_is_public(&other));
}

// -------------------------------------------------------------------------------------------------------- transfers

struct result {
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool there;
    struct error error;
};

static void on_done(void *context, const char *path, const struct error *error) {
    struct result *result = context;
    pthread_mutex_lock(&result->lock);
    result->error = *error;
    result->there = true;
    pthread_cond_signal(&result->change);
    pthread_mutex_unlock(&result->lock);
}

// Fetches and waits; the error is ERROR_NONE where the file is there.
static struct error fetch_into(struct fetch *fetch, const char *url, const char *path) {
    struct result result = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, {0}};
    struct error error = {0};
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 20;
    if (!fetch_start(fetch, url, path, on_done, &result, &error)) return error;
    pthread_mutex_lock(&result.lock);
    while (!result.there)
        if (pthread_cond_timedwait(&result.change, &result.lock, &end) != 0) break;
    pthread_mutex_unlock(&result.lock);
    assert_true(result.there);
    return result.error;
}

// What no option allows: other protocols, names in URLs, addresses of this machine and its network, in every spelling.
static void test_refused(void **state) {
    static const struct {
        const char *url, *word;
    } cases[] = {
        {"http://example.com/", "https"},
        {"file:///etc/passwd", "https"},
        {"ftp://example.com/", "https"},
        {"gopher://127.0.0.1/", "https"},
        {"https://user@example.com/", "user name"},
        {"https://user:word@127.0.0.1/", "user name"},
        {"https://127.0.0.1/", "not public"},
        {"https://127.1/", "not public"},
        {"https://2130706433/", "not public"},
        {"https://0x7f000001/", "not public"},
        {"https://0177.0.0.1/", "not public"},
        {"https://[::1]/", "not public"},
        {"https://[::ffff:127.0.0.1]/", "not public"},
        {"https://[::ffff:a9fe:a9fe]/", "not public"},
        {"https://[fe80::1]/", "not public"},
        {"https://10.1.2.3/", "not public"},
        {"https://169.254.169.254/latest/meta-data/", "not public"},
        {"https://localhost/", "not public"},
        {"https://0.0.0.0/", "not public"},
        {"https://:word@example.com/", "user name"},
        {"https://@127.0.0.1/", "user name"},
        {"https://0/", "not public"},
        {"https://017700000001/", "not public"},
        {"https://0x7f.0.0.1/", "not public"},
        {"https://127.0.0.1./", "resolve"},
        {"https://LOCALHOST/", "not public"},
        {"https://100.64.0.1/", "not public"},
        {"https://192.168.0.1:8443/", "not public"},
        {"https://[::]/", "not public"},
        {"https://[::127.0.0.1]/", "not public"},
        {"https://[::ffff:0:127.0.0.1]/", "not public"},
        {"https://[64:ff9b::7f00:1]/", "not public"},
        {"https://[64:ff9b::a9fe:a9fe]/", "not public"},
        {"https://[64:ff9b:1::7f00:1]/", "not public"},
        {"https://[2002:7f00:1::]/", "not public"},
        {"https://[fd00:ec2::254]/", "not public"},
        {"https://[fe80::1%25lo]/", "not public"},
        {"https://1.1.1.1:22/", "port"},
        {"https://8.8.8.8:80/", "port"},
        {"https://[2606:4700::1111]:6379/", "port"},
        {"https://127.0.0.1:8080/", "port"},
    };
    struct fetch_options options = {.bytes_most = 1000, .seconds = 5, .redirects_most = 3};
    struct error error = {0};
    struct fetch *fetch = fetch_open(&options, &error);
    assert_non_null(fetch);
    char folder[] = "/tmp/limn-test-fetch-XXXXXX", path[100];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        error = fetch_into(fetch, cases[i].url, path);
        if (error.kind != ERROR_INPUT || !strstr(error.message, cases[i].word))
            fail_msg("%s: %s", cases[i].url, error.message);
        assert_false(file_exists(path));
    }
    fetch_close(fetch);
    rmdir(folder);
}

// ------------------------------------------------------------------------------------------------- a site's rules

static void test_site(void **state) {
    struct site *site = *state;
    if (!site->daemon) skip();
    static const struct {
        const char *path, *word; // NULL: it is fetched
    } cases[] = {
        {"/good", NULL},
        {"/to/good", NULL},
        {"/gone", "404"},
        {"/many", "more than 1000 bytes"},
        {"/to/inside", "not public"}, // judged again behind a redirect
        {"/to/http", "https"},
        {"/to/user", "user name"},
        {"/to/self", "redirects"},
    };
    struct fetch_options options = {.bytes_most = 1000,
                                    .seconds = 5,
                                    .redirects_most = 3,
                                    .may_connect = only_127_0_0_1,
                                    .authorities = site->certificate};
    struct error error = {0};
    struct fetch *fetch = fetch_open(&options, &error);
    assert_non_null(fetch);
    char path[100], url[100];
    snprintf(path, sizeof path, "%s/file", site->folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(url, sizeof url, "https://127.0.0.1:%d%s", site->port, cases[i].path);
        error = fetch_into(fetch, url, path);
        if (cases[i].word) {
            if (error.kind != ERROR_INPUT || !strstr(error.message, cases[i].word))
                fail_msg("%s: %s", cases[i].path, error.message);
            assert_false(file_exists(path));
            continue;
        }
        if (error.kind != ERROR_NONE) fail_msg("%s: %s", cases[i].path, error.message);
        char *data;
        size_t size;
        assert_true(file_read(path, 100, &data, &size, &error));
        assert_int_equal(size, 5);
        assert_memory_equal(data, "hello", 5);
        free(data);
        unlink(path);
    }
    fetch_close(fetch);

    // A certificate that nobody vouches for is not enough.
    options.authorities = NULL;
    fetch = fetch_open(&options, &error);
    snprintf(url, sizeof url, "https://127.0.0.1:%d/good", site->port);
    int hits = site->hits;
    error = fetch_into(fetch, url, path);
    assert_int_equal(error.kind, ERROR_INPUT);
    assert_int_equal(site->hits, hits);
    fetch_close(fetch);
}

// An address on which nothing answers: the time limit ends it, and closing does so at once.
static void test_time(void **state) {
    struct site *site = *state;
    int quiet = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    assert_int_equal(bind(quiet, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(quiet, 5), 0);
    assert_int_equal(getsockname(quiet, (struct sockaddr *)&address, &size), 0);
    struct fetch_options options = {
        .bytes_most = 1000, .seconds = 0.3, .redirects_most = 3, .may_connect = only_127_0_0_1};
    struct error error = {0};
    char path[100], url[100];
    snprintf(path, sizeof path, "%s/file", site->folder);
    snprintf(url, sizeof url, "https://127.0.0.1:%d/", ntohs(address.sin_port));
    struct fetch *fetch = fetch_open(&options, &error);
    error = fetch_into(fetch, url, path);
    assert_int_equal(error.kind, ERROR_INPUT);
    assert_non_null(strstr(error.message, "0.3 seconds"));
    fetch_close(fetch);

    options.seconds = 60;
    fetch = fetch_open(&options, &error);
    struct result result = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, {0}};
    error = (struct error){0};
    assert_true(fetch_start(fetch, url, path, on_done, &result, &error));
    double before = clock_seconds();
    fetch_close(fetch);
    assert_true(clock_seconds() - before < 10);
    assert_true(result.there);
    assert_int_equal(result.error.kind, ERROR_CANCELLED);
    assert_false(file_exists(path));
    close(quiet);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_refused),
        cmocka_unit_test_setup_teardown(test_site, open_site, close_site),
        cmocka_unit_test_setup_teardown(test_time, open_site, close_site),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
