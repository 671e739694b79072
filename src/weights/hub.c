// The hub's names, answers and URLs. See hub.h.
#include "weights/hub.h"

#include "base/buffer.h"
#include "base/json.h"
#include "base/near.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SIZE_MOST ((int64_t)1 << 50)

// ---------------------------------------------------------------------------------------------------------------- names

static bool part_good(const char *part, size_t length) {
    if (length < 1 || length > 96 || part[0] == '.' || part[0] == '-') return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)part[i]) && !strchr("-_.", part[i])) return false;
        // "--" is what the cache writes for "/".
        if (i && part[i] == part[i - 1] && strchr("-.", part[i])) return false;
    }
    return true;
}

bool hub_name_good(const char *name) {
    const char *slash = strchr(name, '/');
    return slash && strlen(name) < HUB_NAME && part_good(name, (size_t)(slash - name)) &&
           part_good(slash + 1, strlen(slash + 1));
}

bool hub_revision_good(const char *revision) {
    size_t length = strlen(revision);
    if (length < 1 || length >= HUB_REVISION || strstr(revision, "..") || strstr(revision, "//"))
        return false;
    if (revision[0] == '/' || revision[0] == '-' || revision[0] == '.' || revision[length - 1] == '/')
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)revision[i]) && !strchr("-_./+", revision[i])) return false;
    return !strstr(revision, "/.");
}

bool hub_name_read(const char *text, char name[HUB_NAME], char revision[HUB_REVISION]) {
    const char *at = strchr(text, '@');
    size_t length = at ? (size_t)(at - text) : strlen(text);
    if (length >= HUB_NAME || (at && strlen(at + 1) >= HUB_REVISION)) return false;
    snprintf(name, HUB_NAME, "%.*s", (int)length, text);
    snprintf(revision, HUB_REVISION, "%s", at ? at + 1 : "main");
    return hub_name_good(name) && hub_revision_good(revision);
}

// The length of the UTF-8 letter at [text], at least one, control characters and what stands for no letter refused; 0: none.
static size_t letter_length(const unsigned char *text) {
    if (text[0] < 0x80) return text[0] >= 0x20 && text[0] != 0x7f ? 1 : 0;
    size_t length = text[0] >= 0xf0 && text[0] < 0xf5 ? 4 : text[0] >= 0xe0 ? 3 : text[0] >= 0xc2 ? 2 : 0;
    if (text[0] >= 0xf5 || !length) return 0;
    uint32_t code = text[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (text[i] & 0x3f);
    }
    static const uint32_t least[5] = {0, 0, 0xa0, 0x800, 0x10000}; // below 0xa0: control characters
    bool surrogate = code >= 0xd800 && code < 0xe000, turning = code >= 0x202a && code <= 0x202e;
    return code >= least[length] && code <= 0x10ffff && !surrogate && !turning ? length : 0;
}

bool hub_path_good(const char *path) {
    size_t length = strlen(path), part = 0;
    if (length < 1 || length > HUB_PATH_MOST) return false;
    for (size_t i = 0; i <= length; i++) {
        if (path[i] == '/' || !path[i]) {
            const char *begin = path + i - part;
            if (part < 1 || part > 255) return false;
            if ((part == 1 && begin[0] == '.') || (part == 2 && begin[0] == '.' && begin[1] == '.'))
                return false;
            part = 0;
            continue;
        }
        size_t letter = letter_length((const unsigned char *)path + i);
        if (!letter || path[i] == '\\') return false;
        part += letter;
        i += letter - 1;
    }
    return true;
}

bool hub_path_matches(const char *path, const char *pattern) {
    return glob_match(pattern, path);
}

// -------------------------------------------------------------------------------------------------------------- answers

static bool printable(const char *text) {
    for (; *text; text++)
        if (*text < 0x20 || *text >= 0x7f) return false;
    return true;
}

// The licence's own name where it is "other", cut and plain; what is no text counts as nothing.
static void read_licence(const json_t *root, struct hub_info *info) {
    const json_t *data = json_object_get(root, "cardData"), *word = json_object_get(data, "license");
    const char *licence = json_string_value(word),
               *own = json_string_value(json_object_get(data, "license_name"));
    if (json_is_array(word)) licence = json_string_value(json_array_get(word, 0));
    if (own && (!licence || !strcmp(licence, "other"))) licence = own;
    if (licence && printable(licence)) snprintf(info->licence, sizeof info->licence, "%s", licence);
}

bool hub_info_parse(const char *name, const char *json, size_t size, struct hub_info *info,
                    struct error *error) {
    *info = (struct hub_info){0};
    json_t *root = json_parse(name, json, size, error);
    if (!root) return false;
    const char *commit = NULL;
    bool good = json_is_object(root) || error_set(error, ERROR_INPUT, "%s: expected an object", name);
    good = good && json_get_string((struct json_place){root, name}, "sha", JSON_REQUIRED, &commit, error);
    if (good && !digest_is(DIGEST_GIT_BLOB, commit))
        good = error_set(error, ERROR_INPUT, "%s: field \"sha\": expected a commit, 40 hexadecimal digits",
                         name);
    if (good) {
        const json_t *gated = json_object_get(root, "gated");
        snprintf(info->commit, sizeof info->commit, "%s", commit);
        info->gated = gated && !json_is_false(gated) && !json_is_null(gated);
        read_licence(root, info);
    }
    json_decref(root);
    return good;
}

static bool grow(struct hub_tree *tree, const char *name, struct error *error) {
    if (tree->count == HUB_FILES_MOST)
        return error_set(error, ERROR_UNSUPPORTED, "%s: more than %d files", name, HUB_FILES_MOST);
    if (tree->count < tree->capacity) return true;
    int capacity = tree->capacity ? 2 * tree->capacity : 64;
    struct hub_file *files = realloc(tree->files, (size_t)capacity * sizeof *files);
    if (!files) return error_set(error, ERROR_MEMORY, "%s: not enough memory for the list of files", name);
    tree->files = files;
    tree->capacity = capacity;
    return true;
}

static bool add_file(struct json_place place, struct hub_tree *tree, struct error *error) {
    const char *path = NULL, *hash = NULL;
    const json_t *lfs = NULL;
    struct hub_file file = {.kind = DIGEST_GIT_BLOB};
    if (!json_get_string(place, "path", JSON_REQUIRED, &path, error)) return false;
    if (!hub_path_good(path))
        return error_set(error, ERROR_INPUT,
                         "%s: a file's path that must not be used, expected a relative one "
                         "of plain parts",
                         place.name);
    if (!json_get_integer(place, "size", JSON_REQUIRED, 0, SIZE_MOST, &file.size, error) ||
        !json_get_string(place, "oid", JSON_REQUIRED, &hash, error) ||
        !json_get_object(place, "lfs", JSON_OPTIONAL, &lfs, error))
        return false;
    if (lfs) {
        struct json_place inner = {lfs, place.name};
        file.kind = DIGEST_SHA256;
        if (!json_get_string(inner, "oid", JSON_REQUIRED, &hash, error) ||
            !json_get_integer(inner, "size", JSON_REQUIRED, 0, SIZE_MOST, &file.size, error))
            return false;
        if (!strncmp(hash, "sha256:", 7)) hash += 7;
    }
    if (!digest_is(file.kind, hash))
        return error_set(error, ERROR_INPUT,
                         "%s: field \"oid\" of %.100s: expected a hash of %d hexadecimal digits", place.name,
                         path, lfs ? 64 : 40);
    file.path = arena_strdup(&tree->arena, path);
    file.hash = arena_strdup(&tree->arena, hash);
    if (!file.path || !file.hash)
        return error_set(error, ERROR_MEMORY, "%s: not enough memory for the list of files", place.name);
    if (!grow(tree, place.name, error)) return false;
    tree->files[tree->count++] = file;
    return true;
}

bool hub_tree_add(const char *name, const char *json, size_t size, struct hub_tree *tree,
                  struct error *error) {
    json_t *root = json_parse(name, json, size, error);
    if (!root) return false;
    bool good = json_is_array(root) || error_set(error, ERROR_INPUT, "%s: expected a list of files", name);
    for (size_t i = 0; good && i < json_array_size(root); i++) {
        struct json_place place = {json_array_get(root, i), name};
        const char *type = NULL;
        good = json_is_object(place.object) ||
               error_set(error, ERROR_INPUT, "%s: an entry that is no object", name);
        good = good && json_get_string(place, "type", JSON_REQUIRED, &type, error);
        if (good && !strcmp(type, "file")) good = add_file(place, tree, error);
    }
    json_decref(root);
    return good;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const struct hub_file *)a)->path, ((const struct hub_file *)b)->path);
}

bool hub_tree_end(const char *name, struct hub_tree *tree, struct error *error) {
    if (tree->count) qsort(tree->files, (size_t)tree->count, sizeof *tree->files, by_path);
    for (int i = 1; i < tree->count; i++)
        if (!strcmp(tree->files[i - 1].path, tree->files[i].path))
            return error_set(error, ERROR_INPUT, "%s: the file %.200s is there twice", name,
                             tree->files[i].path);
    return true;
}

void hub_tree_free(struct hub_tree *tree) {
    free(tree->files);
    arena_free(&tree->arena);
    *tree = (struct hub_tree){0};
}

// -------------------------------------------------------------------------------------------------------------- headers

void hub_headers_begin(struct hub_headers *headers) {
    *headers = (struct hub_headers){.retry_after = -1, .range_first = -1, .range_size = -1};
}

// A whole number of at most 18 digits at *text, which is moved behind it; -1: none.
static int64_t take_number(const char **text) {
    int64_t number = 0;
    size_t digits = strspn(*text, "0123456789");
    if (digits < 1 || digits > 18) return -1;
    for (size_t i = 0; i < digits; i++) number = number * 10 + ((*text)[i] - '0');
    *text += digits;
    return number;
}

// "bytes 100-199/200"; "bytes */200" says the size alone.
static void read_range(struct hub_headers *headers, const char *value) {
    if (strncasecmp(value, "bytes ", 6) != 0) return;
    value += 6;
    int64_t first = *value == '*' ? -1 : take_number(&value), last = -1;
    if (*value == '*') {
        value++;
    } else {
        if (*value != '-') return;
        value++;
        last = take_number(&value);
        if (first < 0 || last < first) return;
    }
    if (*value != '/') return;
    value++;
    int64_t size = *value == '*' ? -1 : take_number(&value);
    if (*value == '*' ? value[1] : *value) return;
    if (size >= 0 && last >= size) return;
    headers->range_first = first;
    headers->range_size = size;
}

// The target of rel="next" among <URL>; rel="..." of Link, RFC 8288.
static void read_link(struct hub_headers *headers, const char *value) {
    while ((value = strchr(value, '<'))) {
        const char *end = strchr(value, '>'), *next = end ? strchr(end, '<') : NULL;
        if (!end) return;
        const char *relation = strstr(end, "rel=\"next\"");
        size_t length = (size_t)(end - value) - 1;
        if (relation && (!next || relation < next)) {
            if (length > 0 && length < sizeof headers->next)
                snprintf(headers->next, sizeof headers->next, "%.*s", (int)length, value + 1);
            return;
        }
        value = end;
    }
}

static void read_retry_after(struct hub_headers *headers, const char *value, int64_t now) {
    const char *at = value;
    int64_t seconds = take_number(&at);
    if (seconds >= 0 && !*at) {
        headers->retry_after = (double)seconds;
        return;
    }
    int64_t date = (int64_t)curl_getdate(value, NULL);
    if (date >= 0) headers->retry_after = date > now ? (double)(date - now) : 0;
}

static void read_etag(struct hub_headers *headers, const char *name, const char *value) {
    bool linked = name[0] == 'x' || name[0] == 'X', weak = !strncmp(value, "W/", 2);
    size_t length = strlen(value);
    if (!linked) {
        bool quoted = length > 2 && value[0] == '"' && value[length - 1] == '"';
        if (quoted && !weak && length < sizeof headers->etag) memcpy(headers->etag, value, length + 1);
        return;
    }
    if (weak) value += 2, length -= 2;
    if (length > 2 && value[0] == '"' && value[length - 1] == '"') value++, length -= 2;
    snprintf(headers->linked_etag, sizeof headers->linked_etag, "%.*s", (int)length, value);
}

void hub_header_line(struct hub_headers *headers, const char *line, size_t size, int64_t now) {
    char text[4096];
    while (size && strchr("\r\n \t", line[size - 1])) size--;
    if (size >= sizeof text || memchr(line, 0, size)) return;
    memcpy(text, line, size);
    text[size] = 0;
    if (!strncmp(text, "HTTP/", 5)) {
        hub_headers_begin(headers);
        return;
    }
    char *colon = strchr(text, ':');
    if (!colon || !printable(text)) return;
    *colon = 0;
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    if (!strcasecmp(text, "etag") || !strcasecmp(text, "x-linked-etag"))
        read_etag(headers, text, value);
    else if (!strcasecmp(text, "x-error-code"))
        snprintf(headers->error_code, sizeof headers->error_code, "%.59s", value);
    else if (!strcasecmp(text, "x-error-message"))
        snprintf(headers->error_message, sizeof headers->error_message, "%.299s", value);
    else if (!strcasecmp(text, "link"))
        read_link(headers, value);
    else if (!strcasecmp(text, "retry-after"))
        read_retry_after(headers, value, now);
    else if (!strcasecmp(text, "content-range"))
        read_range(headers, value);
}

// ----------------------------------------------------------------------------------------------------------------- URLs

// A part of a URL in fresh memory (curl_free); NULL where there is none.
static char *url_part(const char *url, CURLUPart part) {
    CURLU *parts = curl_url();
    char *text = NULL;
    if (parts && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK)
        curl_url_get(parts, part, &text, part == CURLUPART_PORT ? CURLU_DEFAULT_PORT : 0);
    curl_url_cleanup(parts);
    return text;
}

bool hub_same_origin(const char *a, const char *b) {
    static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT};
    bool same = true;
    for (int i = 0; same && i < 3; i++) {
        char *left = url_part(a, parts[i]), *right = url_part(b, parts[i]);
        same = left && right && !strcasecmp(left, right);
        curl_free(left);
        curl_free(right);
    }
    return same;
}

static bool on_this_machine(const char *url) {
    char *host = url_part(url, CURLUPART_HOST);
    bool here =
        host && (!strcasecmp(host, "localhost") || !strcmp(host, "127.0.0.1") || !strcmp(host, "[::1]"));
    curl_free(host);
    return here;
}

bool hub_may_follow(const char *endpoint, const char *to) {
    char *scheme = url_part(to, CURLUPART_SCHEME), *user = url_part(to, CURLUPART_USER);
    bool good = scheme && !user && !strcmp(scheme, "https");
    if (scheme && !user && !strcmp(scheme, "http"))
        good = on_this_machine(to) || !strncasecmp(endpoint, "http://", 7);
    curl_free(scheme);
    curl_free(user);
    return good;
}

// Letters that a URL cannot hold as %XX; [slashes]: "/" stays.
static bool add_escaped(struct buffer *url, const char *text, bool slashes) {
    bool good = true;
    for (; good && *text; text++) {
        unsigned char c = (unsigned char)*text;
        bool plain = isalnum(c) || strchr("-_.~", c) || (slashes && c == '/');
        good = plain ? buffer_add(url, text, 1) : buffer_printf(url, "%%%02X", c);
    }
    return good;
}

static char *finished(struct buffer *url, bool good) {
    if (good) return url->data;
    buffer_free(url);
    return NULL;
}

char *hub_info_url(const struct hub_place *place, const char *name, const char *revision) {
    struct buffer url = {0};
    bool good = buffer_printf(&url, "%s/api/models/%s/revision/", place->endpoint, name) &&
                add_escaped(&url, revision, false);
    return finished(&url, good);
}

char *hub_tree_url(const struct hub_place *place, const char *name, const char *commit) {
    struct buffer url = {0};
    return finished(&url, buffer_printf(&url, "%s/api/models/%s/tree/%s?recursive=true&expand=false",
                                        place->endpoint, name, commit));
}

char *hub_file_url(const struct hub_place *place, const char *name, const char *commit, const char *path) {
    struct buffer url = {0};
    bool good = buffer_printf(&url, "%s/%s/resolve/%s/", place->endpoint, name, commit) &&
                add_escaped(&url, path, true);
    return finished(&url, good);
}
