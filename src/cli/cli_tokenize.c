// limn tokenize --model DIR: token ids of strings, for comparing tokenizers. Reads NUL-separated strings from standard
// input and prints one JSON array of ids a line: the plain encoding with added tokens split out, no template around it.
// Relies on text, base.
#include "base/buffer.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/model_path.h"
#include "flux/model_folder.h"
#include "text/tokenizer.h"
#include "weights/parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_all(struct buffer *input, struct error *error) {
    for (;;) {
        if (!buffer_reserve(input, 1 << 16))
            return error_set(error, ERROR_MEMORY, "standard input: out of memory");
        ssize_t got = read(STDIN_FILENO, input->data + input->length, 1 << 16);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(error, ERROR_IO, "standard input: %s", strerror(errno));
        if (got == 0) return true;
        input->length += (size_t)got;
    }
}

static bool print_ids(const struct token_list *list, struct error *error) {
    fputc('[', stdout);
    for (int64_t i = 0; i < list->count; i++) printf(i ? ",%d" : "%d", list->ids[i]);
    fputs("]\n", stdout);
    return !ferror(stdout) || error_set(error, ERROR_IO, "standard output: %s", strerror(errno));
}

// Each string ends with a 0 byte; behind the last one it may be missing.
static bool tokenize(const struct tokenizer *tokenizer, const struct buffer *input, struct error *error) {
    struct token_list list = {0};
    bool done = true;
    for (size_t at = 0; done && at < input->length;) {
        const char *text = input->data + at, *end = memchr(text, 0, input->length - at);
        size_t size = end ? (size_t)(end - text) : input->length - at;
        list.count = 0;
        done = tokenizer_encode(tokenizer, text, size, &list, error) && print_ids(&list, error);
        at += size + 1;
    }
    free(list.ids);
    if (done && fflush(stdout) != 0)
        done = error_set(error, ERROR_IO, "standard output: %s", strerror(errno));
    return done;
}

// The tokenizer of a model folder or of its base, or the folder or file itself.
static struct tokenizer *open_tokenizer(const char *model, struct error *error) {
    struct error ignored = {0};
    struct model_folder folder = {0};
    char *path = NULL;
    if (folder_exists(model) && !(path = part_find_tokenizer(model, &ignored)) &&
        model_folder_open(model, &folder, &ignored))
        path = part_find_tokenizer(model_folder_part(&folder, PART_TEXT_ENCODER), NULL);
    model_folder_free(&folder);
    struct tokenizer *tokenizer = tokenizer_open(path ? path : model, error);
    free(path);
    return tokenizer;
}

int command_tokenize(int count, char **arguments) {
    const char *model = NULL;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--model") == 0 && i + 1 < count) {
            model = arguments[++i];
        } else if (strncmp(arguments[i], "--model=", 8) == 0) {
            model = arguments[i] + 8;
        } else {
            bool help = strcmp(arguments[i], "--help") == 0;
            if (!help) fprintf(stderr, "limn tokenize: unexpected \"%s\"\n", arguments[i]);
            fputs("usage: limn tokenize --model DIR < strings separated by NUL bytes\n",
                  help ? stdout : stderr);
            return help ? 0 : 2;
        }
    }
    if (!model) {
        fputs("limn tokenize: --model is missing\n", stderr);
        return 2;
    }
    struct error error = {0};
    struct buffer input = {0};
    char *path = model_path(NULL, model, &error);
    struct tokenizer *tokenizer = path ? open_tokenizer(path, &error) : NULL;
    free(path);
    bool done = tokenizer && read_all(&input, &error) && tokenize(tokenizer, &input, &error);
    if (!done) fprintf(stderr, "limn tokenize: %s\n", error.message);
    tokenizer_close(tokenizer);
    buffer_free(&input);
    return done ? 0 : 1;
}
