#include "cli/options.h"

#include "base/memory.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool option_integer(const char *option, const char *text, int64_t least, int64_t most, int64_t *value) {
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end || errno || number < least || number > most) {
        fprintf(stderr, "limn: %s: \"%s\" is not a whole number from %lld to %lld\n", option, text,
                (long long)least, (long long)most);
        return false;
    }
    *value = number;
    return true;
}

bool option_number(const char *option, const char *text, double least, double most, double *value) {
    char *end = NULL;
    double number = strtod(text, &end);
    if (end == text || *end || !isfinite(number) || number < least || number > most) {
        fprintf(stderr, "limn: %s: \"%s\" is not a number from %g to %g\n", option, text, least, most);
        return false;
    }
    *value = number;
    return true;
}

bool option_numbers(const char *option, const char *text, double least, double most, float *values,
                    int capacity, int *count) {
    *count = 0;
    for (const char *at = text;;) {
        char *end = NULL;
        double number = strtod(at, &end);
        bool separated = end != at && (*end == ',' || !*end);
        if (!separated || !isfinite(number) || number < least || number > most) {
            fprintf(stderr, "limn: %s: \"%s\" is not a list of numbers from %g to %g, separated by commas\n",
                    option, text, least, most);
            return false;
        }
        if (*count == capacity) {
            fprintf(stderr, "limn: %s: more than %d numbers\n", option, capacity);
            return false;
        }
        values[(*count)++] = (float)number;
        if (!*end) return true;
        at = end + 1;
    }
}

bool option_size(const char *option, const char *text, int least, int most, int *width, int *height) {
    char *end = NULL;
    errno = 0;
    long w = strtol(text, &end, 10), h = 0;
    bool good = end != text && (*end == 'x' || *end == 'X');
    if (good) {
        const char *second = end + 1;
        h = strtol(second, &end, 10);
        good = end != second && !*end && !errno && w >= least && w <= most && h >= least && h <= most;
    }
    if (!good) {
        fprintf(stderr, "limn: %s: \"%s\" is not WIDTHxHEIGHT with sides from %d to %d\n", option, text,
                least, most);
        return false;
    }
    *width = (int)w;
    *height = (int)h;
    return true;
}

bool option_word(const char *option, const char *text, const char *const *words, int count, int *index) {
    for (int i = 0; i < count; i++)
        if (!strcmp(text, words[i])) {
            *index = i;
            return true;
        }
    fprintf(stderr, "limn: %s: \"%s\" is none of", option, text);
    for (int i = 0; i < count; i++) fprintf(stderr, "%s %s", i ? "," : "", words[i]);
    fprintf(stderr, "\n");
    return false;
}

bool option_lora(const char *option, char *text, double most, const char **file, float *scale) {
    char *colon = strrchr(text, ':'), *end = NULL;
    double number = colon ? strtod(colon + 1, &end) : 1;
    const bool scaled = colon && end != colon + 1 && !*end;
    *file = text;
    *scale = scaled ? (float)number : 1;
    if (scaled && !(fabs(number) <= most)) {
        fprintf(stderr, "limn: %s: the scale \"%s\" is not a number from %g to %g\n", option, colon + 1,
                -most, most);
        return false;
    }
    if (scaled) *colon = 0;
    if (*text) return true;
    fprintf(stderr, "limn: %s: expected FILE or FILE:SCALE\n", option);
    return false;
}

bool option_memory(const char *option, const char *text, const char **to) {
    if (memory_parse(text) > 0) {
        *to = text;
        return true;
    }
    fprintf(stderr, "limn: %s: \"%s\", expected a size such as 24GB\n", option, text);
    return false;
}
