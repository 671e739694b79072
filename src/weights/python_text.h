// Text constants of a Python source file, read without running it. The owners of a model keep texts that belong to it (the
// system message) in their code; this reads them from there. Relies on base.
#ifndef LIMN_WEIGHTS_PYTHON_TEXT_H
#define LIMN_WEIGHTS_PYTHON_TEXT_H

#include "base/buffer.h"
#include "base/error.h"

#include <stddef.h>

// Adds the value of the module's constant [name] to [value], as UTF-8 without 0 bytes. [file] stands in the messages.
//
// The constant is an assignment at the beginning of a line, NAME = ..., of string literals: one or several side by side, in
// parentheses or not, with single, double or triple quotes, plain or raw (r, u), with Python's escapes, and with .strip() behind
// them or not. Anything else is an error that names the line: f-strings and bytes, \N{...}, operators, a constant that is
// assigned twice, a quote that is not closed. Of the rest of the file only comments and literals are understood.
// (Python Language Reference, sections 2.2 to 2.4.)
bool python_text(const char *file, const char *source, size_t size, const char *name, struct buffer *value,
                 struct error *error);

#endif
