// See words.h.
#include "standin/words.h"

#include <stdlib.h>
#include <string.h>

void words_read(struct words *words, const char *always, const char *prompt) {
    *words = (struct words){0};
    size_t first = strlen(always), second = strlen(prompt);
    words->text = malloc(first + second + 2);
    if (!words->text) return;
    memcpy(words->text, always, first);
    words->text[first] = ' ';
    memcpy(words->text + first + 1, prompt, second + 1);
    char *rest = words->text;
    for (char *word; (word = strtok_r(NULL, " \t\r\n,;", &rest));) {
        if (*word != '@' || words->count == WORDS_MOST) continue;
        char *value = strchr(word, '=');
        if (value) *value++ = 0;
        words->list[words->count].name = word + 1;
        words->list[words->count++].value = value;
    }
}

void words_free(struct words *words) {
    free(words->text);
    *words = (struct words){0};
}

static int find(const struct words *words, const char *name) {
    int at = words->count - 1;
    while (at >= 0 && strcmp(words->list[at].name, name)) at--;
    return at;
}

bool words_have(const struct words *words, const char *name) {
    return find(words, name) >= 0;
}

const char *words_value(const struct words *words, const char *name) {
    int at = find(words, name);
    return at < 0 ? NULL : words->list[at].value;
}

int words_number(const struct words *words, const char *name, int otherwise) {
    const char *value = words_value(words, name);
    return value ? atoi(value) : otherwise;
}

bool words_are(const struct words *words, const char *name, const char *value) {
    const char *is = words_value(words, name);
    return is && !strcmp(is, value);
}

bool words_misbehave(const struct words *words) {
    static const char *const faults[] = {"crash", "kill", "exit", "hang", "stall", "memory", "garbage"};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        if (words_have(words, faults[i])) return true;
    return false;
}
