// Heads of requests: which are good, which are refused and how, and that it does not matter in what pieces they come.
#include "server/chunks.h"
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
    {"POST / HTTP/1.1\r\ntransfer-encoding:\tCHUNKED \r\n\r\n", HEAD_GOOD, 0},
    {"GET / HTTP/1.1\r\nEmpty:\r\n\r\n", HEAD_GOOD, 0},
    {"GET / HTTP/1.1\r\nX: a\r\n goes on\r\n\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HEAD_BAD, 400},
    {"GET / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", HEAD_BAD, 400},
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

// What a good head says of the body that follows it.
static void test_bodies(void **state) {
    static const struct {
        const char *text;
        int framings;
        uint64_t body;
        bool chunked;
    } heads[] = {
        {"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, 0, false},
        {"POST / HTTP/1.1\r\nContent-Length: 123456789012345678\r\n\r\n", 1, 123456789012345678, false},
        {"POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n", 1, 0, true},
        {"POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n", 2, 4, false},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", 2, 4, true},
    };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        char text[2 * MOST];
        struct head_judgement judgement = {0};
        snprintf(text, sizeof text, "%sGET / HTTP", heads[i].text);
        assert_int_equal(head_judge(text, strlen(text), MOST, &judgement), HEAD_GOOD);
        assert_int_equal(judgement.length, strlen(heads[i].text));
        assert_int_equal(judgement.framings, heads[i].framings);
        assert_true(judgement.body == heads[i].body);
        assert_int_equal(judgement.chunked, heads[i].chunked);
    }
}

// A head may be short and yet be much to keep.
static void test_weight(void **state) {
    static const struct {
        const char *start, *piece, *end;
        int most, status;
    } heads[] = {
        {"GET / HTTP/1.1\r\n", "X:\r\n", "\r\n", 256, 431},
        {"GET /?", "a&", " HTTP/1.1\r\n\r\n", 256, 414},
        {"GET / HTTP/1.1\r\nCookie: ", "a;", "\r\n\r\n", 246, 431},
    };
    char text[4096];
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        for (int more = 0; more < 2; more++) {
            struct head_judgement judgement = {0};
            strcpy(text, heads[i].start);
            for (int k = 0; k < heads[i].most + more; k++) strcat(text, heads[i].piece);
            strcat(text, heads[i].end);
            assert_int_equal(head_judge(text, strlen(text), sizeof text, &judgement),
                             more ? HEAD_BAD : HEAD_GOOD);
            assert_int_equal(judgement.status, more ? heads[i].status : 0);
        }
}

static const struct {
    const char *text, *body;
    enum chunks_verdict verdict;
} BODIES[] = {
    {"0\r\n\r\n", "", CHUNKS_END},
    {"5\r\nhello\r\n0\r\n\r\n", "hello", CHUNKS_END},
    {"5\nhello\n0\n\n", "hello", CHUNKS_END},
    {"00A;x=\"y\"\r\n0123456789\r\n1 \r\nx\r\n000\r\nX: y\r\nZ:\r\n\r\n", "0123456789x", CHUNKS_END},
    {"5\r\nhel", "hel", CHUNKS_MORE},
    {"5\r\nhello\r\n0\r\nX: y\r\n", "hello", CHUNKS_MORE},
    {"5", "", CHUNKS_MORE},
    {"\r\n", "", CHUNKS_BAD},
    {"x", "", CHUNKS_BAD},
    {"-5\r\n", "", CHUNKS_BAD},
    {"0x5\r\n", "", CHUNKS_BAD},
    {";a\r\n", "", CHUNKS_BAD},
    {"5\rhello", "", CHUNKS_BAD},
    {"5;a\rb\n", "", CHUNKS_BAD},
    {"5\r\nhelloworld", "hello", CHUNKS_BAD},
    {"5\r\nhello\rx", "hello", CHUNKS_BAD},
    {"5\r\nhello\r\n\r\n", "hello", CHUNKS_BAD},
    {"0\r\nX: y\rz", "", CHUNKS_BAD},
    {"10000000000\r\n", "", CHUNKS_BAD},
};

static enum chunks_verdict read_chunks(const char *text, size_t piece, char *body) {
    struct chunks chunks = {0};
    size_t size = strlen(text), length = 0;
    enum chunks_verdict verdict = CHUNKS_MORE;
    for (size_t at = 0; at < size;) {
        size_t taken, found, given = size - at < piece ? size - at : piece;
        verdict = chunks_read(&chunks, text + at, given, &taken, &found);
        memcpy(body + length, text + at + taken - found, found);
        length += found;
        at += taken;
        if (verdict == CHUNKS_END || verdict == CHUNKS_BAD) break;
        if (verdict == CHUNKS_MORE) assert_int_equal(taken, given);
    }
    body[length] = 0;
    assert_int_equal(verdict == CHUNKS_BAD, chunks.why != NULL);
    return verdict == CHUNKS_DATA ? CHUNKS_MORE : verdict;
}

static void test_chunks(void **state) {
    char body[64];
    for (size_t i = 0; i < sizeof BODIES / sizeof *BODIES; i++)
        for (size_t piece = 1; piece < 64; piece++) {
            enum chunks_verdict verdict = read_chunks(BODIES[i].text, piece, body);
            if (verdict != BODIES[i].verdict) fail_msg("\"%s\": verdict %d", BODIES[i].text, (int)verdict);
            assert_string_equal(body, BODIES[i].body);
        }
    static char endless[9000];
    memset(endless, 'x', sizeof endless - 1);
    memcpy(endless, "5;", 2);
    assert_int_equal(read_chunks(endless, 100, body), CHUNKS_BAD);
    memcpy(endless, "0\r\n", 3);
    for (size_t i = 3; i + 2 < sizeof endless; i += 4) memcpy(endless + i, "X:\r\n", 4);
    assert_int_equal(read_chunks(endless, 100, body), CHUNKS_BAD);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_heads), cmocka_unit_test(test_limit),
                                       cmocka_unit_test(test_bodies), cmocka_unit_test(test_weight),
                                       cmocka_unit_test(test_chunks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
