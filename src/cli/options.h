// Reading the values of command-line options. Each reader prints one line on standard error that names the option, what was
// given and what was expected, and returns false. Relies on libc.
#ifndef LIMN_CLI_OPTIONS_H
#define LIMN_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

// A whole number in [least, most].
bool option_integer(const char *option, const char *text, int64_t least, int64_t most, int64_t *value);

// A finite number in [least, most].
bool option_number(const char *option, const char *text, double least, double most, double *value);

// "a,b,c": 1 to [capacity] numbers in [least, most].
bool option_numbers(const char *option, const char *text, double least, double most, float *values,
                    int capacity, int *count);

// "1024x768": two whole numbers in [least, most].
bool option_size(const char *option, const char *text, int least, int most, int *width, int *height);

// One of the [count] words; *index is its place.
bool option_word(const char *option, const char *text, const char *const *words, int count, int *index);

// "FILE" or "FILE:SCALE", the scale in [-most, most] (1 where none is given). Cuts [text] at the colon; *file points into it. A
// colon with no number behind it belongs to the file's name.
bool option_lora(const char *option, char *text, double most, const char **file, float *scale);

// "24GB": a size of memory; *to is [text] then.
bool option_memory(const char *option, const char *text, const char **to);

#endif
