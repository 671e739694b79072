// A https site on this machine, for tests of what is fetched: a certificate of its own (by openssl), on 127.0.0.1 and 127.0.0.2.
//
// /good, /picture (a PNG's head, 4x3 pixels), /many (5000 bytes), /gone (404), /to/good, /to/inside (127.0.0.2), /to/http,
// /to/self. Where openssl or TLS is missing, daemon is NULL and a test skips.
#ifndef LIMN_TESTS_HTTPS_SITE_H
#define LIMN_TESTS_HTTPS_SITE_H

#include "base/file.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct site {
    char folder[40], certificate[60], key[60];
    struct MHD_Daemon *daemon;
    int port;
    int hits;
};

static enum MHD_Result serve(void *context, struct MHD_Connection *connection, const char *url,
                             const char *method, const char *version, const char *data, size_t *size,
                             void **request) {
    struct site *site = context;
    char target[100] = "";
    unsigned status = 200;
    size_t length = 5;
    static char many[5000], hello[] = "hello",
                            picture[33] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\4\0\0\0\3\b\2";
    site->hits++;
    if (!strcmp(url, "/gone")) status = 404;
    if (!strcmp(url, "/many")) length = sizeof many;
    if (!strcmp(url, "/picture")) length = sizeof picture;
    if (!strncmp(url, "/to/", 4)) {
        status = 302;
        if (!strcmp(url, "/to/inside")) snprintf(target, sizeof target, "https://127.0.0.2:%d/", site->port);
        if (!strcmp(url, "/to/http")) snprintf(target, sizeof target, "http://127.0.0.1:%d/", site->port);
        if (!strcmp(url, "/to/user"))
            snprintf(target, sizeof target, "https://name:word@127.0.0.1:%d/good", site->port);
        if (!strcmp(url, "/to/good")) snprintf(target, sizeof target, "/good");
        if (!strcmp(url, "/to/self")) snprintf(target, sizeof target, "/to/self");
    }
    struct MHD_Response *response = MHD_create_response_from_buffer(length,
                                                                    length == 5                ? hello
                                                                    : length == sizeof picture ? picture
                                                                                               : many,
                                                                    MHD_RESPMEM_PERSISTENT);
    if (*target) MHD_add_response_header(response, "Location", target);
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static int open_site(void **state) {
    struct site *site = calloc(1, sizeof *site);
    char command[400];
    snprintf(site->folder, sizeof site->folder, "/tmp/limn-test-fetch-XXXXXX");
    assert_non_null(mkdtemp(site->folder));
    snprintf(site->certificate, sizeof site->certificate, "%s/cert.pem", site->folder);
    snprintf(site->key, sizeof site->key, "%s/key.pem", site->folder);
    snprintf(command, sizeof command,
             "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext "
             "subjectAltName=IP:127.0.0.1,IP:127.0.0.2 -keyout %s -out %s 2>/dev/null",
             site->key, site->certificate);
    *state = site;
    if (system(command) != 0 || MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return 0; // the tests skip
    char *certificate, *key;
    size_t size;
    struct error error = {0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    assert_true(file_read(site->certificate, 100000, &certificate, &size, &error));
    assert_true(file_read(site->key, 100000, &key, &size, &error));
    site->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_TLS, 0, NULL, NULL, serve, site,
                                    MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_HTTPS_MEM_CERT, certificate,
                                    MHD_OPTION_HTTPS_MEM_KEY, key, MHD_OPTION_END);
    assert_non_null(site->daemon);
    site->port = MHD_get_daemon_info(site->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
    free(certificate);
    free(key);
    return 0;
}

static int close_site(void **state) {
    struct site *site = *state;
    char command[100];
    if (site->daemon) MHD_stop_daemon(site->daemon);
    snprintf(command, sizeof command, "rm -rf %s", site->folder);
    assert_int_equal(system(command), 0);
    free(site);
    return 0;
}

static bool only_127_0_0_1(const struct sockaddr *address) {
    return address->sa_family == AF_INET &&
           ((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr == htonl(INADDR_LOOPBACK);
}

#endif
