// What `limn plan`, `limn convert --fit` and `limn pull` say of the forms that a machine's memory wants. Relies on flux/fit.h.
#ifndef LIMN_CLI_FIT_H
#define LIMN_CLI_FIT_H

#include "flux/fit.h"

#include <stdio.h>

// Two lines: each large part in its type, with its size, and whether it stays in memory. [indent] stands before each.
void fit_print(const struct part_fit fits[FIT_PARTS], const char *indent, FILE *to);

// `limn convert --fit`: convert->source is the model folder, convert->target NULL or the folder to make. [memory]: text, NULL: what
// is available now.
bool fit_convert(const struct convert_model *convert, const char *memory, bool quiet, struct error *error);

// Where a part of the model folder does not stay in this machine's memory and a smaller form would: says so, and the command that
// makes it. [name]: as the user names the model.
void fit_advise(const char *folder, const char *name, FILE *to);

#endif
