// Finds and reads a tokenizer in any of its forms, as a tokenizer.json document. Relies on tokenizer_forms.h, base, weights.
#include "base/file.h"
#include "text/tokenizer_forms.h"
#include "weights/checkpoint.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_SIZE_MOST = 256 << 20 }; // bytes

json_t *tokenizer_document_parse(const char *name, const char *json, size_t size, struct error *error) {
    static const char zero[] = "\\u0000"; // a tekken.json spells out the byte 0 beside its base64
    json_t *root = json_parse_zeros(name, json, size, error);
    if (root && tokenizer_is_tekken(root)) {
        json_t *rewritten = tokenizer_from_tekken(name, root, error);
        json_decref(root);
        return rewritten;
    }
    if (root && memmem(json, size, zero, sizeof zero - 1)) {
        json_decref(root);
        root = json_parse(name, json, size, error);
    }
    return root;
}

// From weights that bring their tokenizer along. A folder without any is one without a tokenizer.
static json_t *document_of_weights(const char *path, struct error *error) {
    struct error failure = {0};
    struct checkpoint *checkpoint = checkpoint_open(path, &failure);
    bool empty = !checkpoint && folder_exists(path) && failure.kind == ERROR_NOT_FOUND;
    json_t *document = NULL;
    const struct gguf *gguf = checkpoint ? checkpoint_gguf(checkpoint) : NULL;
    const struct checkpoint_entry *tekken = checkpoint ? checkpoint_find(checkpoint, "tekken_model") : NULL;
    if (!checkpoint && !empty)
        error_set(error, failure.kind, "%s", failure.message);
    else if (gguf)
        document = tokenizer_from_gguf(path, gguf, error);
    else if (!tekken)
        error_set(
            error, ERROR_NOT_FOUND,
            "%s: there is no tokenizer in it, expected tokenizer.json, tekken.json, a GGUF file, or a tensor "
            "\"tekken_model\"",
            path);
    else if (tekken->tensor.type != DTYPE_U8)
        error_set(error, ERROR_INPUT, "%s: tensor \"tekken_model\": type %s, expected U8", tekken->file,
                  dtype_info(tekken->tensor.type)->name);
    else
        document = tokenizer_document_parse(tekken->file, tekken->tensor.data, tekken->tensor.bytes, error);
    checkpoint_close(checkpoint);
    return document;
}

// JSON, by its first bytes: in a weight file they are "GGUF" or a length, whose highest byte is 0.
static bool is_json(const struct file_map *map) {
    return map->size < 8 || (memcmp(map->data, "GGUF", 4) != 0 && map->data[7] != 0);
}

char *tokenizer_file(const char *path, struct error *error) {
    static const char *const names[] = {"tokenizer.json", "tekken.json"};
    char *file = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && folder_exists(path); i++) {
        if (!(file = path_join(path, names[i]))) break;
        if (file_exists(file)) return file;
        free(file);
    }
    file = strdup(path);
    if (!file) error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    return file;
}

json_t *tokenizer_document(const char *path, struct error *error) {
    struct file_map map;
    if (folder_exists(path)) return document_of_weights(path, error);
    if (!file_map(path, &map, error)) return NULL;
    const bool json = is_json(&map);
    json_t *document = NULL;
    if (json && map.size > FILE_SIZE_MOST)
        error_set(error, ERROR_INPUT, "%s: %zu bytes, expected at most %d", path, map.size, FILE_SIZE_MOST);
    else if (json)
        document = tokenizer_document_parse(path, (const char *)map.data, map.size, error);
    file_unmap(&map);
    return json ? document : document_of_weights(path, error);
}
