// `limn inspect`: what a weight file or a model folder holds. Relies on inspect.h, commands.h.
#include "cli/commands.h"
#include "cli/inspect.h"
#include "cli/model_path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "limn inspect - show what a weight file or a model folder holds\n"
    "\n"
    "usage: limn inspect [--json] PATH\n"
    "\n"
    "PATH is one of\n"
    "  a .safetensors or .gguf file, a .safetensors.index.json, or a folder of weights:\n"
    "      what part of FLUX.2 it is, in which layout, every tensor with its type, shape and bytes, the "
    "totals, the\n"
    "      metadata\n"
    "  a model folder, or the name of a model that `limn pull` fetched:\n"
    "      the parts with their layouts, shapes, types and sizes, the settings, and what is missing or "
    "wrong\n"
    "\n"
    "options:\n"
    "  --json   print one JSON document for machines\n"
    "  --help   print this text\n"
    "\n"
    "exit status: 0 when everything can be used, 1 when something is missing, damaged or unknown, 2 for "
    "wrong usage\n";

// Writes [value] with three digits and a power of 1000: "32.2 G", "1.71 MB" where [unit] is "B".
static const char *scaled(json_int_t value, const char *unit, char *text, size_t size) {
    static const char *const powers[] = {"", "k", "M", "G", "T", "P", "E"};
    double shown = (double)value;
    size_t power = 0;
    while (shown >= 999.5 && power + 1 < sizeof powers / sizeof *powers) {
        shown /= 1000;
        power++;
    }
    int digits = power == 0 || shown >= 99.95 ? 0 : shown >= 9.995 ? 1 : 2;
    snprintf(text, size, "%.*f%s%s%s", digits, shown, power || *unit ? " " : "", powers[power], unit);
    return text;
}

static json_int_t integer_of(const json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

// Text from a file, without what would steer a terminal.
static void print_text(const char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '\n') {
            fputs("\\n", stdout);
        } else {
            putchar(c < 0x20 || c == 0x7f ? '?' : c);
        }
    }
}

// "12 tensors, 1.20 G values, 2.40 GB (BF16 1.20 G, F32 3)"
static void print_totals(const json_t *totals) {
    char values[32], bytes[32];
    printf("%" JSON_INTEGER_FORMAT " tensor%s, %s values, %s", integer_of(totals, "tensors"),
           integer_of(totals, "tensors") == 1 ? "" : "s",
           scaled(integer_of(totals, "values"), "", values, sizeof values),
           scaled(integer_of(totals, "bytes"), "B", bytes, sizeof bytes));
    const char *type, *before = " (";
    json_t *sums;
    json_object_foreach(json_object_get(totals, "types"), type, sums) {
        printf("%s%s %s", before, type, scaled(integer_of(sums, "values"), "", values, sizeof values));
        before = ", ";
    }
    puts(*before == ',' ? ")" : "");
}

static void print_value(const json_t *value) {
    size_t index;
    json_t *element;
    switch (json_typeof(value)) {
    case JSON_ARRAY:
        json_array_foreach((json_t *)value, index, element) {
            if (index) putchar(' ');
            print_value(element);
        }
        if (json_array_size(value) == 0) fputs("none", stdout);
        break;
    case JSON_STRING:
        print_text(json_string_value(value));
        break;
    case JSON_INTEGER:
        printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        printf("%g", json_real_value(value));
        break;
    default:
        fputs(json_is_true(value) ? "yes" : "no", stdout);
    }
}

// "    name   value" for each field.
static void print_fields(const json_t *object, int indent) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        printf("%*s%-18s ", indent, "", key);
        print_value(value);
        putchar('\n');
    }
}

// "in the layout of BFL, names begin with model.diffusion_model."
static void print_layout(const json_t *part) {
    printf("%s", text_of(part, "layout"));
    if (*text_of(part, "prefix")) printf(", names begin with %s", text_of(part, "prefix"));
    putchar('\n');
}

// "    NVFP4 blocks       12 tensors"
static void print_scales(const json_t *part, int indent) {
    const char *kind;
    json_t *count;
    json_object_foreach(json_object_get(part, "scales"), kind, count) {
        printf("%*s%-18s %s beside %" JSON_INTEGER_FORMAT " tensors\n", indent, "", "scales", kind,
               json_integer_value(count));
    }
}

static void print_recognised(const json_t *report) {
    size_t index;
    json_t *part;
    const json_t *parts = json_object_get(report, "recognised");
    json_array_foreach((json_t *)parts, index, part) {
        printf("%s of FLUX.2, layout ", text_of(part, "part"));
        print_layout(part);
        if (json_object_get(part, "totals")) {
            fputs("  ", stdout);
            print_totals(json_object_get(part, "totals"));
        }
        print_scales(part, 2);
        if (*text_of(part, "problem")) {
            fputs("  cannot be used: ", stdout);
            print_text(text_of(part, "problem"));
            putchar('\n');
        }
    }
    if (*text_of(report, "holds"))
        printf("%s\n", text_of(report, "holds"));
    else if (json_array_size(parts) == 0)
        puts("no part of FLUX.2 that limn knows");
}

static void print_weights(const json_t *report) {
    char bytes[32];
    const char *key;
    json_t *value, *tensor;
    size_t index;
    printf("%s: %s, %" JSON_INTEGER_FORMAT " file%s, %s%s%s\n", text_of(report, "path"),
           text_of(report, "format"), integer_of(report, "files"),
           integer_of(report, "files") == 1 ? "" : "s",
           scaled(integer_of(report, "bytes"), "B", bytes, sizeof bytes),
           *text_of(report, "class") ? ", " : "", text_of(report, "class"));
    print_recognised(report);
    json_object_foreach(json_object_get(report, "metadata"), key, value) {
        fputs("metadata ", stdout);
        print_text(key);
        fputs(" = ", stdout);
        print_text(json_string_value(value));
        putchar('\n');
    }
    int widest = 0;
    const json_t *tensors = json_object_get(report, "tensors");
    json_array_foreach((json_t *)tensors, index, tensor) {
        int length = (int)strlen(text_of(tensor, "name"));
        if (length > widest) widest = length < 100 ? length : 100;
    }
    json_array_foreach((json_t *)tensors, index, tensor) {
        const char *name = text_of(tensor, "name");
        char shape[160] = "[";
        size_t used = 1, axis;
        json_array_foreach(json_object_get(tensor, "shape"), axis, value) {
            used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%" JSON_INTEGER_FORMAT,
                                     axis ? ", " : "", json_integer_value(value));
        }
        snprintf(shape + used, sizeof shape - used, "]");
        print_text(name);
        int padding = widest - (int)strlen(name);
        printf("%*s  %-7s  %-20s  %" JSON_INTEGER_FORMAT "\n", padding > 0 ? padding : 0, "",
               text_of(tensor, "type"), shape, integer_of(tensor, "bytes"));
    }
    print_totals(json_object_get(report, "totals"));
}

static void print_model(const json_t *report) {
    char bytes[32];
    size_t index;
    json_t *part, *problem;
    printf("%s: %s\n", text_of(report, "path"),
           *text_of(report, "pipeline") ? text_of(report, "pipeline") : "a model without model_index.json");
    if (*text_of(report, "name")) {
        fputs("name: ", stdout);
        print_text(text_of(report, "name"));
        putchar('\n');
    }
    json_array_foreach(json_object_get(report, "parts"), index, part) {
        printf("\n%s: ", text_of(part, "part"));
        print_text(*text_of(part, "class") ? text_of(part, "class") : "no class named");
        putchar('\n');
        if (*text_of(part, "path")) {
            printf("  %-18s ", "path");
            print_text(text_of(part, "path"));
            putchar('\n');
        }
        if (*text_of(part, "layout")) {
            printf("  %-18s ", "layout");
            print_layout(part);
        }
        if (json_object_get(part, "totals")) {
            printf("  %-18s %" JSON_INTEGER_FORMAT " file%s, %s\n", "weights", integer_of(part, "files"),
                   integer_of(part, "files") == 1 ? "" : "s",
                   scaled(integer_of(part, "bytes"), "B", bytes, sizeof bytes));
            printf("  %-18s ", "");
            print_totals(json_object_get(part, "totals"));
        }
        print_scales(part, 2);
        print_fields(json_object_get(part, "shape"), 2);
        if (json_object_get(part, "problem")) fputs("  cannot be used, see below\n", stdout);
    }
    if (json_object_get(report, "settings")) {
        puts("\nsettings:");
        print_fields(json_object_get(report, "settings"), 2);
    }
    const json_t *problems = json_object_get(report, "problems");
    puts(json_array_size(problems) ? "\nproblems:" : "\neverything is there");
    json_array_foreach((json_t *)problems, index, problem) {
        fputs("  ", stdout);
        print_text(json_string_value(problem));
        putchar('\n');
    }
}

// The exit status, worse when the report did not get through. A reader that went away needs no message.
static int finish_output(int status) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    if (errno != EPIPE) fprintf(stderr, "limn inspect: standard output: %s\n", strerror(errno));
    return 1;
}

int command_inspect(int count, char **arguments) {
    bool json = false, options = true;
    const char *path = NULL;
    for (int i = 1; i < count; i++) {
        const char *word = arguments[i];
        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (options && strcmp(word, "--json") == 0) {
            json = true;
        } else if (options && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            fputs(help, stdout);
            return finish_output(0);
        } else if (options && word[0] == '-' && word[1]) {
            fprintf(stderr, "limn inspect: there is no option %s; `limn inspect --help` lists them\n", word);
            return 2;
        } else if (path) {
            fprintf(stderr, "limn inspect: expected one path, got \"%s\" and \"%s\"\n", path, word);
            return 2;
        } else {
            path = word;
        }
    }
    if (!path) {
        fputs("limn inspect: expected the path of a weight file or a model folder; `limn inspect --help` "
              "tells more\n",
              stderr);
        return 2;
    }
    struct error error = {0}, ignored = {0};
    char *found = access(path, F_OK) == 0 ? NULL : model_path(NULL, path, &ignored);
    if (found) path = found;
    bool model = inspect_is_model(path);
    json_t *report = model ? inspect_model(path, &error) : inspect_weights(path, &error);
    free(found);
    if (!report) {
        fprintf(stderr, "limn inspect: %s\n", error.kind ? error.message : "out of memory");
        return 1;
    }
    errno = 0;
    if (json) {
        json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else if (model) {
        print_model(report);
    } else {
        print_weights(report);
    }
    bool sound = json_array_size(json_object_get(report, "problems")) == 0;
    json_decref(report);
    return finish_output(sound ? 0 : 1);
}
