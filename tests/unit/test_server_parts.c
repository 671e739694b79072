// The small parts of the server: ranges, addresses behind proxies, the service manager's socket, log lines with fields.
#include "unit.h"

#include "base/log.h"
#include "server/address.h"
#include "server/notify.h"
#include "server/range.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void ranges(void **state) {
    static const struct {
        const char *header;
        uint64_t size;
        enum range_kind kind;
        uint64_t first, last;
    } cases[] = {
        {NULL, 100, RANGE_WHOLE, 0, 0},
        {"bytes=0-9", 100, RANGE_PART, 0, 9},
        {"Bytes= 10-", 100, RANGE_PART, 10, 99},
        {"bytes=-5", 100, RANGE_PART, 95, 99},
        {"bytes=-500", 100, RANGE_PART, 0, 99},
        {"bytes=50-5000", 100, RANGE_PART, 50, 99},
        {"bytes=99-99", 100, RANGE_PART, 99, 99},
        {"bytes=100-", 100, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=-0", 100, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=0-0", 0, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=-1", 0, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=18446744073709551616-", 100, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=5-18446744073709551616", 100, RANGE_PART, 5, 99},
        {"bytes=9-5", 100, RANGE_WHOLE, 0, 0},
        {"bytes=-", 100, RANGE_WHOLE, 0, 0},
        {"bytes=", 100, RANGE_WHOLE, 0, 0},
        {"bytes=0-1,5-6", 100, RANGE_WHOLE, 0, 0},
        {"bytes=a-b", 100, RANGE_WHOLE, 0, 0},
        {"pages=1-2", 100, RANGE_WHOLE, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct range range = range_read(cases[i].header, cases[i].size);
        if (range.kind != cases[i].kind || range.first != cases[i].first || range.last != cases[i].last)
            fail_msg("%s of %llu: %d %llu-%llu", cases[i].header, (unsigned long long)cases[i].size,
                     (int)range.kind, (unsigned long long)range.first, (unsigned long long)range.last);
    }
}

static void addresses(void **state) {
    static const struct {
        const char *text, *written; // NULL: not an address
    } cases[] = {
        {"192.0.2.7", "192.0.2.7"},
        {"192.0.2.7:8080", "192.0.2.7"},
        {"::ffff:192.0.2.7", "192.0.2.7"},
        {"2001:db8::7", "2001:db8::7"},
        {"[2001:DB8::7]:443", "2001:db8::7"},
        {"[2001:db8::7]", "2001:db8::7"},
        {"unknown", NULL},
        {"", NULL},
        {"[2001:db8::7", NULL},
        {"[2001:db8::7]x", NULL},
        {"192.0.2", NULL},
        {"192.0.2.256", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct address address;
        char text[ADDRESS_TEXT_MOST] = "";
        bool good = address_read(cases[i].text, &address);
        if (good) address_write(&address, text);
        if (good != (cases[i].written != NULL) || (good && strcmp(text, cases[i].written)))
            fail_msg("%s: %s", cases[i].text, good ? text : "not read");
    }
    struct address address;
    assert_true(address_read("127.8.9.1", &address) && address_is_loopback(&address));
    assert_true(address_read("::1", &address) && address_is_loopback(&address));
    assert_true(address_read("128.0.0.1", &address) && !address_is_loopback(&address));
    assert_true(address_read("::2", &address) && !address_is_loopback(&address));
}

static void networks(void **state) {
    static const struct {
        const char *network, *address;
        bool within;
    } cases[] = {
        {"10.0.0.0/8", "10.255.1.2", true},
        {"10.0.0.0/8", "11.0.0.1", false},
        {"192.0.2.128/25", "192.0.2.200", true},
        {"192.0.2.128/25", "192.0.2.127", false},
        {"192.0.2.7", "192.0.2.7", true},
        {"192.0.2.7", "192.0.2.6", false},
        {"0.0.0.0/0", "203.0.113.9", true},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"2001:db8::/33", "2001:db8::1", true},
        {"2001:db8::/33", "2001:db8:8000::1", false},
        {"::/0", "192.0.2.1", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct network network;
        struct address address;
        struct error error = {0};
        assert_ok(network_read(cases[i].network, &network, &error), error);
        assert_true(address_read(cases[i].address, &address));
        if (network_has(&network, 1, &address) != cases[i].within)
            fail_msg("%s in %s", cases[i].address, cases[i].network);
    }
    static const char *const bad[] = {"",      "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.0/8x",
                                      "proxy", "[::1]/128",   "::/129"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct network network;
        struct error error = {0};
        assert_false(network_read(bad[i], &network, &error));
        assert_contains(error.message, "expected an address or a network");
    }
}

static void proxies(void **state) {
    static const struct {
        const char *peer, *header, *client;
    } cases[] = {
        {"203.0.113.9", "198.51.100.1", "203.0.113.9"}, // not trusted: the header is the client's own word
        {"10.0.0.1", NULL, "10.0.0.1"},
        {"10.0.0.1", "198.51.100.1", "198.51.100.1"},
        {"10.0.0.1", "192.0.2.66, 198.51.100.1", "198.51.100.1"}, // what stands before it can be made up
        {"10.0.0.1", "198.51.100.1 , 10.0.0.2", "198.51.100.1"},
        {"10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"},
        {"10.0.0.1", "198.51.100.1, garbage", "10.0.0.1"},
        {"10.0.0.1", "garbage, 10.0.0.2", "10.0.0.2"},
        {"10.0.0.1", ",,,", "10.0.0.1"},
        {"10.0.0.1", "", "10.0.0.1"},
        {"10.0.0.1", "[2001:db8::5]:1234", "2001:db8::5"},
    };
    struct network trusted;
    struct error error = {0};
    assert_ok(network_read("10.0.0.0/8", &trusted, &error), error);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct address peer;
        char text[ADDRESS_TEXT_MOST];
        assert_true(address_read(cases[i].peer, &peer));
        struct address client = address_of_client(&peer, cases[i].header, &trusted, 1);
        address_write(&client, text);
        if (strcmp(text, cases[i].client)) fail_msg("%s: %s", cases[i].header, text);
    }
}

static void manager(void **state) {
    unsetenv("NOTIFY_SOCKET");
    assert_false(notify_manager("READY=1"));
    char folder[] = "/tmp/limn-notify-XXXXXX", text[64] = "";
    assert_non_null(mkdtemp(folder));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", folder);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
    assert_true(notify_manager("READY=1\nSTATUS=serving"));
    assert_int_equal(recv(fd, text, sizeof text - 1, MSG_DONTWAIT), 22);
    assert_string_equal(text, "READY=1\nSTATUS=serving");
    close(fd);
    unlink(address.sun_path);
    assert_false(notify_manager("READY=1")); // nobody listens any more
    rmdir(folder);
    setenv("NOTIFY_SOCKET", "relative", 1);
    assert_false(notify_manager("READY=1"));
    unsetenv("NOTIFY_SOCKET");

    char process[32];
    snprintf(process, sizeof process, "%d", (int)getpid());
    setenv("WATCHDOG_USEC", "3000000", 1);
    setenv("WATCHDOG_PID", process, 1);
    assert_true(notify_watchdog_seconds() == 3.0);
    setenv("WATCHDOG_PID", "1", 1); // meant for another process
    assert_true(notify_watchdog_seconds() == 0);
    unsetenv("WATCHDOG_PID");
    unsetenv("WATCHDOG_USEC");
    assert_true(notify_watchdog_seconds() == 0);
}

static void capture_fields(char *text, size_t size, const struct log *log, const char *message,
                           const struct log_field *fields, int count) {
    int ends[2], kept = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    log_fields(log, LOG_INFO, message, fields, count);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[1]);
    ssize_t got = read(ends[0], text, size - 1);
    close(ends[0]);
    text[got > 0 ? got : 0] = 0;
}

static void log_lines(void **state) {
    char text[8192];
    struct log log = {LOG_INFO, "server", false};
    const struct log_field fields[] = {{"id", "req_1", 0, false, 0},
                                       {"path", "/a \"b\"\n", 0, false, 0},
                                       {"none", NULL, 0, false, 0},
                                       {"seconds", NULL, 0.1234, true, 3}};
    capture_fields(text, sizeof text, &log, "done", fields, 4);
    assert_string_equal(strchr(text, ' '),
                        " info server: done id=req_1 path=\"/a \\\"b\\\" \" seconds=0.123\n");
    log.json = true;
    capture_fields(text, sizeof text, &log, "a \"word\"\n", fields, 4);
    assert_contains(text, "{\"time\":\"2");
    assert_contains(
        text, "\",\"level\":\"info\",\"part\":\"server\",\"message\":\"a \\\"word\\\" \",\"id\":\"req_1\","
              "\"path\":\"/a \\\"b\\\" \",\"seconds\":0.123}\n");
    // However long the message, the line is one JSON object with its fields.
    char *long_message = calloc(1, 10001);
    memset(long_message, '\\', 10000);
    capture_fields(text, sizeof text, &log, long_message, fields, 4);
    free(long_message);
    assert_true(strlen(text) <= 4096);
    assert_string_equal(text + strlen(text) - 2, "}\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges),  cmocka_unit_test(addresses), cmocka_unit_test(networks),
        cmocka_unit_test(proxies), cmocka_unit_test(manager),   cmocka_unit_test(log_lines),
    };
    return cmocka_run_group_tests_name("server parts", tests, NULL, NULL);
}
