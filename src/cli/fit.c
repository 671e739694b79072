// See fit.h.
#include "cli/fit.h"

#include "base/file.h"
#include "base/memory.h"
#include "weights/hub.h"
#include "weights/parts.h"

#include <stdlib.h>
#include <string.h>

static double gigabytes(int64_t bytes) {
    return (double)bytes / 1e9;
}

void fit_print(const struct part_fit fits[FIT_PARTS], const char *indent, FILE *to) {
    for (int i = 0; i < FIT_PARTS; i++) {
        const struct part_fit *fit = &fits[i];
        const char *how = fit->stays                      ? "stays in memory"
                          : fit->part == PART_TRANSFORMER ? "is read from the disk in every step"
                                                          : "is read from the disk for every prompt";
        fprintf(to, "%s%-13s %-5s %s%.3g GB, %s\n", indent, model_part_name(fit->part),
                dtype_info(fit->type)->name, fit->there ? "" : "about ", gigabytes(fit->bytes), how);
    }
}

// In the hub's cache nothing is written but what comes from the hub.
static bool is_cached(const char *folder) {
    struct error ignored = {0};
    char *cache = hub_cache_folder(&ignored), *real = cache ? realpath(cache, NULL) : NULL,
         *here = realpath(folder, NULL);
    bool inside = real && here && !strncmp(here, real, strlen(real)) && here[strlen(real)] == '/';
    free(cache);
    free(real);
    free(here);
    return inside;
}

bool fit_convert(const struct convert_model *convert, const char *memory, bool quiet, struct error *error) {
    const char *folder = convert->source, *target = convert->target ? convert->target : folder;
    struct part_fit fits[FIT_PARTS];
    const int64_t bytes = memory ? memory_parse(memory) : memory_available();
    if (!folder_exists(folder))
        return error_set(error, ERROR_INPUT,
                         "%s: expected a model folder: --fit lists forms in its limn.json", folder);
    if (!convert->target && is_cached(folder))
        return error_set(error, ERROR_INPUT,
                         "%s lies in the hub's cache, which is not limn's: name a folder with -o, which then "
                         "stands on it",
                         folder);
    if (!model_fit(folder, bytes, fits, error)) return false;
    bool missing = false;
    for (int i = 0; i < FIT_PARTS; i++) missing |= !fits[i].there;
    if (!quiet) {
        fprintf(stderr, "limn: in %.3g GB of memory:\n", gigabytes(bytes));
        fit_print(fits, "  ", stderr);
    }
    setenv("LIMN_MEMORY", "1000000GB", 1); // what is made is made from the finest form
    if (!model_fit_make(folder, target, fits, convert, error)) return false;
    if (!quiet)
        fprintf(stderr, missing ? "limn: made; listed in %s/limn.json\n" : "limn: %s has them already\n",
                target);
    return true;
}

void fit_advise(const char *folder, const char *name, FILE *to) {
    struct part_fit fits[FIT_PARTS];
    struct error ignored = {0};
    const int64_t memory = memory_available();
    if (!model_fit(folder, memory, fits, &ignored)) return;
    bool missing = false;
    for (int i = 0; i < FIT_PARTS; i++) missing |= !fits[i].there;
    if (!missing) return;
    fprintf(to, "In this machine's %.3g GB of memory `limn convert --fit %s%s` would make of it:\n",
            gigabytes(memory), is_cached(folder) ? "-o FOLDER " : "", name);
    fit_print(fits, "  ", to);
}
