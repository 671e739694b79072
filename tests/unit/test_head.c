// Heads of requests: which are good, which are refused and how, and that it does not matter in what pieces they come.
#include "server/head.h"
#include "unit.h"

#include <stdlib.h>

enum { MOST = 200 };

static const struct {
    const char *text;
    enum head_verdict verdict;
    int status;
} HEADS[] = {
    {"", HEAD_PARTIAL, 0},
    {"\r\n", HEAD_PARTIAL, 0},
    {"GE", HEAD_PARTIAL, 0},
    {"GET / HTTP/1.1", HEAD_PARTIAL, 0},
    {"GET / HTTP/1.1\r\n", HEAD_PARTIAL, 0},
    {"GET / HTTP/1.1\r\nHost: a\r\n", HEAD_PARTIAL, 0},
    {"GET / HTTP/1.1\r\nHost: a\r\nno colon as yet", HEAD_PARTIAL, 0},
    {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HEAD_GOOD, 0},
    {"GET / HTTP/1.0\n\n", HEAD_GOOD, 0},
    {"\r\n\r\nGET / HTTP/1.1\r\n\r\n", HEAD_GOOD, 0},
    {"POST /v1/images/generations?a=%20b HTTP/1.1\r\nContent-Length:  17 \r\nX: \xc3\xa9\r\n\r\n{\"prompt\"",
     HEAD_GOOD, 0},
    {"GET / HTTP/1.1\r\nX: a\r\n goes on\r\n\r\n", HEAD_GOOD, 0},
    {"GET / HTTP/1.1\r\nEmpty:\r\n\r\n", HEAD_GOOD, 0},
    {"\x16\x03\x01", HEAD_BAD, 400},
    {"\x01", HEAD_BAD, 400},
    {"\r\r", HEAD_BAD, 400},
    {" GET", HEAD_BAD, 400},
    {"GE(", HEAD_BAD, 400},
    {"GET\r\n", HEAD_BAD, 400},
    {"GET \r\n", HEAD_BAD, 400},
    {"GET /\r\n", HEAD_BAD, 400},
    {"GET  / HTTP/1.1\r\n", HEAD_BAD, 400},
    {"GET / b HTTP/1.1\r\n", HEAD_BAD, 400},
    {"GET / http/1.1\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.12\r\n", HEAD_BAD, 400},
    {"GET / HTTP/9.9\r\n", HEAD_BAD, 505},
    {"GET / HTTP/1.2\r\n", HEAD_BAD, 505},
    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HEAD_BAD, 505},
    {"GET /\t HTTP/1.1\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\nno colon\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\n: no name\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\nname : value\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\nContent-Length: -5\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\nContent-Length: 5, 5\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\nContent-Length:\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\ncontent-length: 0x10\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n", HEAD_BAD, 413},
};

static void test_heads(void **state) {
    for (size_t i = 0; i < sizeof HEADS / sizeof *HEADS; i++) {
        struct head_judgement judgement = {0};
        enum head_verdict verdict = head_judge(HEADS[i].text, strlen(HEADS[i].text), MOST, &judgement);
        if (verdict != HEADS[i].verdict || judgement.status != HEADS[i].status)
            fail_msg("\"%s\": verdict %d, status %d", HEADS[i].text, (int)verdict, judgement.status);
        assert_int_equal(verdict == HEAD_BAD, judgement.why != NULL);
    }
    static const char zero[] = "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n";
    struct head_judgement judgement = {0};
    assert_int_equal(head_judge(zero, sizeof zero - 1, MOST, &judgement), HEAD_BAD);
    assert_int_equal(judgement.status, 400);
}

// A head of exactly the limit is good, of one byte more it is not.
static void test_limit(void **state) {
    for (int more = 0; more < 2; more++)
        for (int in_target = 0; in_target < 2; in_target++) {
            static const char *const forms[] = {"GET / HTTP/1.1\r\nX: %s\r\n\r\n",
                                                "GET /%s HTTP/1.1\r\n\r\n"};
            char text[2 * MOST], filling[2 * MOST];
            size_t plain = strlen(forms[in_target]) - 2, length = (size_t)(MOST + more) - plain;
            memset(filling, 'x', length);
            filling[length] = 0;
            snprintf(text, sizeof text,
                     in_target ? "GET /%s HTTP/1.1\r\n\r\n" : "GET / HTTP/1.1\r\nX: %s\r\n\r\n", filling);
            assert_int_equal(strlen(text), MOST + more);
            struct head_judgement judgement = {0};
            enum head_verdict verdict = head_judge(text, strlen(text), MOST, &judgement);
            assert_int_equal(verdict, more ? HEAD_BAD : HEAD_GOOD);
            assert_int_equal(judgement.status, more ? 431 : 0);
        }
    char line[MOST + 1];
    memset(line, 'x', sizeof line);
    memcpy(line, "GET /", 5);
    struct head_judgement judgement = {0};
    assert_int_equal(head_judge(line, MOST - 1, MOST, &judgement), HEAD_PARTIAL);
    assert_int_equal(head_judge(line, sizeof line, MOST, &judgement), HEAD_BAD);
    assert_int_equal(judgement.status, 414);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_heads), cmocka_unit_test(test_limit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
