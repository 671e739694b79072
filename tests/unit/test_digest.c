// Hashes against known ones, in pieces of every size.
#include "unit.h"

#include "weights/digest.h"

static void check(enum digest_kind kind, const char *text, size_t size, const char *expected) {
    for (size_t piece = 1; piece <= 130; piece += piece < 70 ? 1 : 30) {
        struct digest digest;
        char hash[DIGEST_TEXT];
        digest_begin(&digest, kind, size);
        for (size_t at = 0; at < size; at += piece)
            digest_add(&digest, text + at, size - at < piece ? size - at : piece);
        digest_end(&digest, hash);
        assert_string_equal(hash, expected);
        assert_true(digest_is(kind, hash));
    }
}

// `git hash-object` and `sha256sum` of the same bytes.
static void known_hashes(void **state) {
    char many[1000];
    memset(many, 'a', sizeof many);
    check(DIGEST_SHA256, "", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check(DIGEST_SHA256, "abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check(DIGEST_SHA256, many, sizeof many,
          "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
    check(DIGEST_GIT_BLOB, "", 0, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    check(DIGEST_GIT_BLOB, "abc", 3, "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f");
    check(DIGEST_GIT_BLOB, many, sizeof many, "a50be72b20f0e3f078d252e8e56b11b4bec67509");
}

// Around the places where the padding needs another block (the header of a git blob counts, too).
static void lengths_around_a_block(void **state) {
    static const struct {
        size_t size;
        const char *hash;
    } cases[] = {
        {46, "1d98a4e287acc725ef6f635b729014f7d49148da"},  {47, "719ddd7888a02660234770b651274214ff7df239"},
        {48, "3b3abca28de4b8ce6ea9dac5da512120ed7c5a0c"},  {55, "e329c5109ce10a7367561757d2f5a053c528f11e"},
        {56, "355e203863c368f0404d7fc7ae4761122c117dd2"},  {57, "f32768e30e0507780e5b9edc8afa9d3f1009926c"},
        {63, "6529afa7528d02472056dd24b8348542a4ad65b0"},  {64, "2036367ceafc6ad317a509db8f6b9c2773f731e0"},
        {110, "5b47a7823a0eb565ed152a5cfb1bf549955ef0f9"}, {111, "caa12a76d1ee289e28788808afe369025e50a334"},
        {112, "1ddbbc32c1e5989311c400a360f1527fe343040e"}, {119, "476be27639daf140e142c5f18280c33563ade72b"},
        {120, "cb470da43c08b0274449cea06ef71c6e77359c30"}};
    char text[200];
    memset(text, 'x', sizeof text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(DIGEST_GIT_BLOB, text, cases[i].size, cases[i].hash);
}

static void what_is_a_hash(void **state) {
    assert_true(digest_is(DIGEST_GIT_BLOB, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"));
    assert_false(digest_is(DIGEST_SHA256, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"));
    assert_false(digest_is(DIGEST_GIT_BLOB, "E69DE29BB2D1D6434B8B29AE775AD8C2E48C5391"));
    assert_false(digest_is(DIGEST_GIT_BLOB, "../e29bb2d1d6434b8b29ae775ad8c2e48c53910"));
    assert_false(digest_is(DIGEST_GIT_BLOB, ""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_hashes),
        cmocka_unit_test(lengths_around_a_block),
        cmocka_unit_test(what_is_a_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
