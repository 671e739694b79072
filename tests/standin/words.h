// The words that tell the stand-in worker what to do: "@name" or "@name=value", in the environment and in the prompt. Relies on
// nothing.
#ifndef LIMN_TESTS_STANDIN_WORDS_H
#define LIMN_TESTS_STANDIN_WORDS_H

#include <stdbool.h>

#define WORDS_MOST 32

struct words {
    char *text; // both texts, cut into words
    struct {
        const char *name, *value; // value NULL: none
    } list[WORDS_MOST];
    int count;
};

// The words of [always], then those of [prompt]. A later one hides an earlier one of the same name. words_free frees.
void words_read(struct words *words, const char *always, const char *prompt);
void words_free(struct words *words);

bool words_have(const struct words *words, const char *name);
const char *words_value(const struct words *words, const char *name); // NULL: not there, or without a value
int words_number(const struct words *words, const char *name, int otherwise);
bool words_are(const struct words *words, const char *name, const char *value);
bool words_misbehave(const struct words *words); // whether one asks for a fault

#endif
