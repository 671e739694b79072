// What a model hub answers, and the Python source that a model's system message is read from. The first byte says which reader gets
// the rest: '0' the information on a repository, '1' a page of its tree, '2' the header lines of an answer, '3' a Python source behind
// a line with the constant's name, '4' a name, a path or a URL.
#include "fuzz.h"

#include "weights/hub.h"
#include "weights/python_text.h"

// Below a folder a path stays below it.
static void promise_inside(const char *path) {
    promise(path[0] && path[0] != '/' && strlen(path) <= HUB_PATH_MOST);
    for (const char *part = path; part; part = strchr(part, '/')) {
        if (*part == '/') part++;
        size_t length = strcspn(part, "/");
        promise(length >= 1 && length <= 255 && strncmp(part, "..", length > 2 ? length : 2) != 0);
        promise(!(length == 1 && part[0] == '.'));
    }
    for (const char *c = path; *c; c++) promise((unsigned char)*c >= 0x20 && *c != 0x7f && *c != '\\');
}

static bool fuzz_info(const char *text, size_t size, struct error *error) {
    struct hub_info info;
    if (!hub_info_parse("fuzz", text, size, &info, error)) return false;
    promise(digest_is(DIGEST_GIT_BLOB, info.commit) && strlen(info.licence) < sizeof info.licence);
    return true;
}

static bool fuzz_tree(const char *text, size_t size, struct error *error) {
    struct hub_tree tree = {0};
    bool good = hub_tree_add("fuzz", text, size, &tree, error) && hub_tree_end("fuzz", &tree, error);
    for (int i = 0; good && i < tree.count; i++) {
        promise_inside(tree.files[i].path);
        promise(digest_is(tree.files[i].kind, tree.files[i].hash) && tree.files[i].size >= 0);
        promise(i == 0 || strcmp(tree.files[i - 1].path, tree.files[i].path) < 0);
        promise(hub_path_matches(tree.files[i].path, "*"));
    }
    hub_tree_free(&tree);
    return good;
}

static void promise_ended(const char *text, size_t size) {
    promise(memchr(text, 0, size) != NULL);
    for (; *text; text++) promise((unsigned char)*text >= 0x20 && (unsigned char)*text < 0x7f);
}

static void fuzz_headers(const char *text, size_t size) {
    struct hub_headers headers;
    hub_headers_begin(&headers);
    while (size > 0) {
        const char *end = memchr(text, '\n', size);
        size_t length = end ? (size_t)(end - text) + 1 : size;
        hub_header_line(&headers, text, length, 1700000000);
        text += length;
        size -= length;
    }
    promise_ended(headers.etag, sizeof headers.etag);
    promise_ended(headers.linked_etag, sizeof headers.linked_etag);
    promise_ended(headers.error_code, sizeof headers.error_code);
    promise_ended(headers.error_message, sizeof headers.error_message);
    promise_ended(headers.next, sizeof headers.next);
    promise(headers.retry_after == -1 || headers.retry_after >= 0);
    promise(headers.range_first >= -1 && headers.range_size >= -1);
    promise(headers.range_size < 0 || headers.range_first < headers.range_size || headers.range_first == -1);
}

static bool fuzz_python(const char *text, size_t size, struct error *error) {
    char name[40];
    const char *end = memchr(text, '\n', size);
    size_t length = end ? (size_t)(end - text) : 0;
    if (length < 1 || length >= sizeof name) return true;
    snprintf(name, sizeof name, "%.*s", (int)length, text);
    for (char *c = name; *c; c++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789", *c)) *c = '_';
    struct buffer value = {0};
    bool good = python_text("fuzz", text + length + 1, size - length - 1, name, &value, error);
    promise(!good || !value.data || strlen(value.data) == value.length);
    buffer_free(&value);
    return good;
}

static void fuzz_names(const char *bytes, size_t size) {
    char *text = malloc(size + 1), name[HUB_NAME], revision[HUB_REVISION];
    if (!text) return;
    memcpy(text, bytes, size);
    text[size] = 0;
    struct hub_place place = {.endpoint = (char[]){"https://hub.example"}};
    if (hub_path_good(text)) {
        promise_inside(text);
        char *url = hub_file_url(&place, "a/b", "c", text);
        promise(url && hub_same_origin(url, place.endpoint) && hub_may_follow(place.endpoint, url));
        free(url);
    }
    if (hub_name_read(text, name, revision)) {
        promise_inside(name);
        promise_inside(revision);
        char *url = hub_info_url(&place, name, revision);
        promise(url && hub_same_origin(url, place.endpoint));
        free(url);
    }
    if (hub_may_follow(place.endpoint, text)) promise(strchr("hH", *text) != NULL);
    if (hub_same_origin(text, place.endpoint)) promise(hub_same_origin(place.endpoint, text));
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    const char *text = (const char *)data + 1;
    struct error error = {0};
    bool done = true;
    size--;
    switch (data[0]) {
    case '0':
        done = fuzz_info(text, size, &error);
        break;
    case '1':
        done = fuzz_tree(text, size, &error);
        break;
    case '2':
        fuzz_headers(text, size);
        break;
    case '3':
        done = fuzz_python(text, size, &error);
        break;
    default:
        fuzz_names(text, size);
        break;
    }
    if (!done) promise_explained(&error);
    return 0;
}
