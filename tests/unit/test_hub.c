// The hub's names, answers and URLs, and the cache on a disk of its own.
#include "unit.h"

#include "base/file.h"
#include "weights/hub_cache.h"
#include "weights/hub_client.h"

#include <sys/stat.h>
#include <unistd.h>

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define SHA256 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void names(void **state) {
    char name[HUB_NAME], revision[HUB_REVISION];
    assert_true(hub_name_read("black-forest-labs/FLUX.2-dev", name, revision));
    assert_string_equal(name, "black-forest-labs/FLUX.2-dev");
    assert_string_equal(revision, "main");
    assert_true(hub_name_read("a/b_c@refs/pr/1", name, revision));
    assert_string_equal(revision, "refs/pr/1");
    static const char *const bad[] = {"",         "a",       "a/b/c",  "/b",      "a/",     "../b",
                                      "a/..",     "a/.b",    "a b/c",  "a--b/c",  "a/b@",   "a/b@../main",
                                      "a/b@-x",   "a/b@x y", "a/b@/x", "a/b@x//", "a/b@x/", "a/b@a/.b",
                                      "a/b@x..y", "a\n/b",   "ü/b",    "-a/b",    "a/b..c"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (hub_name_read(bad[i], name, revision)) fail_msg("\"%s\" was taken", bad[i]);
    char text[400];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    assert_false(hub_name_read(text, name, revision));
    text[2] = '/';
    assert_false(hub_name_read(text, name, revision));
    text[4] = '@';
    assert_false(hub_name_read(text, name, revision));
}

static void paths(void **state) {
    static const char *const good[] = {"a",     "a/b", ".gitattributes", "a/..b", "a/b..", "...",
                                       "ü/→ x", "a b", "vae/*.json"};
    static const char *const bad[] = {"",
                                      "/a",
                                      "a/",
                                      "a//b",
                                      ".",
                                      "..",
                                      "a/..",
                                      "../a",
                                      "a/./b",
                                      "a\\b",
                                      "a\nb",
                                      "a\x7f",
                                      "a\xc2\x80",
                                      "a\xff",
                                      "a\xc3",
                                      "a\xe2\x86",
                                      "\xe2\x80\xae",
                                      "a\xed\xa0\x80",
                                      "\xc0\xaf",
                                      "\xf4\x90\x80\x80",
                                      "\xe0\x80\xaf"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!hub_path_good(good[i])) fail_msg("\"%s\" was refused", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (hub_path_good(bad[i])) fail_msg("path %zu was taken", i);
    char text[HUB_PATH_MOST + 10];
    memset(text, 'a', sizeof text);
    text[256] = 0;
    assert_false(hub_path_good(text));
    text[255] = 0;
    assert_true(hub_path_good(text));
    assert_true(hub_path_matches("vae/a/b.json", "vae/*") && hub_path_matches("x.json", "*.json"));
    assert_false(hub_path_matches("vae2/a", "vae/*"));
}

static void information(void **state) {
    static const struct {
        const char *json, *licence;
        bool gated;
    } cases[] = {
        {"{\"sha\":\"" COMMIT "\"}", "", false},
        {"{\"sha\":\"" COMMIT "\",\"gated\":false,\"cardData\":{\"license\":\"mit\"}}", "mit", false},
        {"{\"sha\":\"" COMMIT
         "\",\"gated\":\"auto\",\"cardData\":{\"license\":\"other\",\"license_name\":\"own\"}}",
         "own", true},
        {"{\"sha\":\"" COMMIT
         "\",\"gated\":null,\"cardData\":{\"license\":[\"mit\",\"x\"],\"license_name\":5}}",
         "mit", false},
        {"{\"sha\":\"" COMMIT "\",\"gated\":true,\"cardData\":null}", "", true},
        {"{\"sha\":\"" COMMIT "\",\"cardData\":{\"license\":\"a\\nb\"}}", "", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hub_info info;
        struct error error = {0};
        assert_ok(hub_info_parse("a/b", cases[i].json, strlen(cases[i].json), &info, &error), error);
        assert_string_equal(info.commit, COMMIT);
        assert_string_equal(info.licence, cases[i].licence);
        assert_int_equal(info.gated, cases[i].gated);
    }
}

static bool add(struct hub_tree *tree, const char *json, struct error *error) {
    return hub_tree_add("a/b", json, strlen(json), tree, error);
}

static void trees(void **state) {
    struct hub_tree tree = {0};
    struct error error = {0};
    assert_ok(add(&tree,
                  "[{\"type\":\"directory\",\"path\":\"..\",\"oid\":\"x\"},"
                  "{\"type\":\"file\",\"path\":\"vae/m\",\"size\":3,\"oid\":\"" COMMIT
                  "\",\"lfs\":{\"oid\":\"" SHA256 "\",\"size\":9000000000}}]",
                  &error),
              error);
    assert_ok(add(&tree,
                  "[{\"type\":\"file\",\"path\":\"a\",\"size\":3,\"oid\":\"" COMMIT "\",\"lfs\":null}]",
                  &error),
              error);
    assert_ok(hub_tree_end("a/b", &tree, &error), error);
    assert_int_equal(tree.count, 2);
    assert_string_equal(tree.files[0].path, "a");
    assert_int_equal(tree.files[0].kind, DIGEST_GIT_BLOB);
    assert_string_equal(tree.files[1].hash, SHA256);
    assert_true(tree.files[1].size == 9000000000);
    assert_ok(add(&tree, "[{\"type\":\"file\",\"path\":\"a\",\"size\":4,\"oid\":\"" COMMIT "\"}]", &error),
              error);
    assert_false(hub_tree_end("a/b", &tree, &error));
    assert_contains(error.message, "a/b: the file a is there twice");
    hub_tree_free(&tree);
}

static struct hub_headers headers_of(const char *const *lines) {
    struct hub_headers headers;
    hub_headers_begin(&headers);
    for (; *lines; lines++) hub_header_line(&headers, *lines, strlen(*lines), 1000000000);
    return headers;
}

static void headers(void **state) {
    struct hub_headers all = headers_of((const char *[]){
        "HTTP/1.1 302 Found\r\n", "etag: \"old\"\r\n", "HTTP/1.1 206 Partial Content\r\n",
        "ETag:  \"new\" \r\n", "X-LINKED-ETAG: W/\"" SHA256 "\"\r\n", "Content-Range: bytes 5-9/10\r\n",
        "Retry-After: 7\r\n", "Link: <https://h/1>; rel=\"first\", <https://h/2?a=b>; rel=\"next\"\r\n",
        "X-Error-Code: GatedRepo\r\n", "X-Error-Message: say \"please\"\r\n", "Other: x\r\n", "\r\n", NULL});
    assert_string_equal(all.etag, "\"new\"");
    assert_string_equal(all.linked_etag, SHA256);
    assert_true(all.range_first == 5 && all.range_size == 10 && all.retry_after == 7);
    assert_string_equal(all.next, "https://h/2?a=b");
    assert_string_equal(all.error_code, "GatedRepo");
    assert_string_equal(all.error_message, "say \"please\"");
    struct hub_headers odd = headers_of((const char *[]){
        "ETag: W/\"weak\"", "Content-Range: bytes 9-5/10", "Retry-After: soon",
        "Link: <https://h/1>; rel=\"prev\"", "X-Error-Message: a\x01z", "X-Error-Code\r\n", NULL});
    assert_string_equal(odd.etag, "");
    assert_true(odd.range_first == -1 && odd.range_size == -1 && odd.retry_after == -1);
    assert_true(!*odd.next && !*odd.error_message && !*odd.error_code);
    struct hub_headers date = headers_of(
        (const char *[]){"Retry-After: Sun, 09 Sep 2001 01:47:40 GMT", "Content-Range: bytes */77", NULL});
    assert_true(date.retry_after == 60 && date.range_first == -1 && date.range_size == 77);
}

static void origins(void **state) {
    assert_true(hub_same_origin("https://a.b/x", "https://A.b:443/y?z"));
    assert_false(hub_same_origin("https://a.b/", "http://a.b/"));
    assert_false(hub_same_origin("https://a.b/", "https://a.b:444/"));
    assert_false(hub_same_origin("https://a.b/", "https://a.b.c/"));
    assert_false(hub_same_origin("https://a.b/", "https://a.b@c/"));
    assert_false(hub_same_origin("https://a.b/", "nonsense with blanks"));
    assert_true(hub_may_follow("https://a", "https://b/x"));
    assert_true(hub_may_follow("https://a", "http://127.0.0.1:8/x") &&
                hub_may_follow("https://a", "http://[::1]/"));
    assert_false(hub_may_follow("https://a", "http://b/x"));
    assert_false(hub_may_follow("https://a", "http://127.0.0.1.b/x"));
    assert_true(hub_may_follow("http://a", "http://b/x"));
    assert_false(hub_may_follow("http://a", "https://user@b/x"));
    assert_false(hub_may_follow("http://a", "file:///etc/passwd"));
    struct hub_place place = {.endpoint = (char[]){"https://hub/base"}};
    char *url = hub_file_url(&place, "a/b", "c", "ü x/%?#.json");
    assert_string_equal(url, "https://hub/base/a/b/resolve/c/%C3%BC%20x/%25%3F%23.json");
    free(url);
    url = hub_info_url(&place, "a/b", "refs/pr/1");
    assert_string_equal(url, "https://hub/base/api/models/a/b/revision/refs%2Fpr%2F1");
    free(url);
}

static void retries(void **state) {
    for (int attempt = 1; attempt <= 100; attempt++) {
        double most = attempt >= 7 ? 30 : 0.5 * (1 << (attempt - 1)),
               seconds = hub_retry_seconds(attempt, -1);
        assert_true(seconds >= most * 0.66 && seconds <= most);
    }
    assert_true(hub_retry_seconds(1, 20) == 20);
    assert_true(hub_retry_seconds(1, 1e9) == 300);
    assert_true(hub_may_retry(CURLE_OK, 503, true) && hub_may_retry(CURLE_RECV_ERROR, 0, true));
    assert_true(hub_may_retry(CURLE_OK, 403, false) && !hub_may_retry(CURLE_OK, 403, true));
    assert_false(hub_may_retry(CURLE_PEER_FAILED_VERIFICATION, 0, true));
}

static void the_environment(void **state) {
    struct hub_place place;
    struct error error = {0};
    static const char *const names[] = {"HF_ENDPOINT",           "HF_HOME",        "HF_HUB_CACHE",
                                        "HUGGINGFACE_HUB_CACHE", "HF_TOKEN",       "HUGGING_FACE_HUB_TOKEN",
                                        "HF_TOKEN_PATH",         "XDG_CACHE_HOME", "HF_HUB_OFFLINE",
                                        "TRANSFORMERS_OFFLINE",  "SSL_CERT_FILE",  "CURL_CA_BUNDLE",
                                        "XDG_DATA_HOME"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
    setenv("HOME", "/nonexistent/home", 1);
    assert_ok(hub_place_read(&place, &error), error);
    assert_string_equal(place.endpoint, "https://huggingface.co");
    assert_string_equal(place.cache, "/nonexistent/home/.cache/huggingface/hub");
    assert_string_equal(place.token_file, "/nonexistent/home/.cache/huggingface/token");
    assert_true(!place.token && !place.offline && !place.authorities);
    hub_place_free(&place);
    char *data = hub_data_folder(&error);
    assert_string_equal(data, "/nonexistent/home/.local/share/limn/models");
    free(data);
    setenv("HF_HOME", "~/hf", 1);
    setenv("HF_ENDPOINT", "http://127.0.0.1:9/base//", 1);
    setenv("HF_TOKEN", " hf_x\n", 1);
    setenv("HF_HUB_OFFLINE", "True", 1);
    assert_ok(hub_place_read(&place, &error), error);
    assert_string_equal(place.endpoint, "http://127.0.0.1:9/base");
    assert_string_equal(place.cache, "/nonexistent/home/hf/hub");
    assert_string_equal(place.token, "hf_x");
    assert_true(place.offline && place.token_given);
    hub_place_free(&place);
    setenv("HF_HUB_CACHE", "relative", 1);
    char *cache = hub_cache_folder(&error), here[4096], expected[4200];
    snprintf(expected, sizeof expected, "%s/relative", getcwd(here, sizeof here));
    assert_string_equal(cache, expected);
    free(cache);
    setenv("HF_TOKEN", "two words", 1);
    assert_false(hub_place_read(&place, &error));
    assert_contains(error.message, "HF_TOKEN");
}

// ------------------------------------------------------------------------------------------------------------ the cache

static void the_cache(void **state) {
    char root[] = "/tmp/limn-test-hub-XXXXXX", path[600], target[200] = "";
    assert_non_null(mkdtemp(root));
    struct hub_snapshot snapshot;
    struct error error = {0};
    const struct hub_file file = {"vae/x/m.bin", 4, DIGEST_SHA256, SHA256};
    assert_ok(hub_snapshot_of(root, "own/er.x", COMMIT, &snapshot, &error), error);
    assert_null(hub_cache_find(root, "own/er.x", "main", &error));
    assert_ok(hub_snapshot_make(&snapshot, &error), error);
    assert_false(hub_snapshot_has(&snapshot, &file) || hub_snapshot_has_blob(&snapshot, &file));
    int lock = hub_snapshot_lock(&snapshot, &file, &error);
    assert_true(lock >= 0);
    assert_int_equal(hub_snapshot_lock(&snapshot, &file, &error), -2);
    int blob = hub_snapshot_open(&snapshot, &file, &error);
    assert_int_equal(write(blob, "abcd", 4), 4);
    close(blob);
    assert_int_equal(hub_snapshot_begun(&snapshot, &file), 4);
    assert_ok(hub_snapshot_finish(&snapshot, &file, &error), error);
    assert_true(hub_snapshot_has_blob(&snapshot, &file) && !hub_snapshot_has(&snapshot, &file));
    assert_ok(hub_snapshot_link(&snapshot, &file, &error), error);
    assert_true(hub_snapshot_has(&snapshot, &file));
    close(lock);
    snprintf(path, sizeof path, "%s/models--own--er.x/snapshots/" COMMIT "/vae/x/m.bin", root);
    assert_true(readlink(path, target, sizeof target - 1) > 0);
    assert_string_equal(target, "../../../../blobs/" SHA256);
    // A link that leads elsewhere is put right.
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("nowhere", path), 0);
    assert_ok(hub_snapshot_link(&snapshot, &file, &error), error);
    assert_true(hub_snapshot_has(&snapshot, &file));
    assert_ok(hub_snapshot_note(&snapshot, "refs/pr/1", COMMIT, &error), error);
    char *folder = hub_cache_find(root, "own/er.x", "refs/pr/1", &error);
    assert_string_equal(folder, snapshot.folder);
    free(folder);
    folder = hub_cache_find(root, "own/er.x", COMMIT, &error);
    assert_string_equal(folder, snapshot.folder);
    free(folder);
    snprintf(path, sizeof path, "%s/models--own--er.x/refs/bad", root);
    assert_ok(file_write(path, "../../..", 8, &error), error);
    assert_null(hub_cache_find(root, "own/er.x", "bad", &error));
    assert_null(hub_cache_find(root, "own/er.x", "../refs/bad", &error));
    assert_int_equal(error.kind, ERROR_NONE);
    hub_snapshot_free(&snapshot);
    snprintf(path, sizeof path, "rm -rf %s", root);
    assert_int_equal(system(path), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),   cmocka_unit_test(paths),           cmocka_unit_test(information),
        cmocka_unit_test(trees),   cmocka_unit_test(headers),         cmocka_unit_test(origins),
        cmocka_unit_test(retries), cmocka_unit_test(the_environment), cmocka_unit_test(the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
