// The LoRAs of a model and of a request. Relies on pipeline_inside.h, model_folder.h.
#include "flux/pipeline_inside.h"

#include "flux/model_folder.h"

#include <math.h>
#include <stdio.h>

bool pipeline_check_loras(const struct limn_lora *loras, int count, int most, struct error *error) {
    if (count < 0 || count > most)
        return error_set_field(error, ERROR_INPUT, "loras", "%d LoRAs, expected at most %d", count, most);
    if (count > 0 && !loras)
        return error_set_field(error, ERROR_INPUT, "loras", "there are no LoRAs, expected %d", count);
    for (int i = 0; i < count; i++) {
        char field[32];
        snprintf(field, sizeof field, "loras[%d]", i);
        if (!loras[i].file || !*loras[i].file)
            return error_set_field(error, ERROR_INPUT, field, "%s has no file", field);
        if (!(fabs((double)loras[i].scale) <= LIMN_LORA_SCALE_MOST))
            return error_set_field(error, ERROR_INPUT, field, "%s: the scale is %g, expected %g to %g", field,
                                   (double)loras[i].scale, -LIMN_LORA_SCALE_MOST, LIMN_LORA_SCALE_MOST);
    }
    return true;
}

// Opens a LoRA; [field] stands in the error. What is odd about it is told once.
static bool open_lora(struct pipeline *pipeline, const char *field, const char *file, float scale, bool keep,
                      struct adapter *adapter, struct error *error) {
    struct error cause = {0};
    bool fresh;
    const struct lora *lora = adapters_get(pipeline->loras, file, keep, &fresh, &cause);
    if (!lora) return error_set_field(error, cause.kind, field, "%s", cause.message);
    if (fresh && lora_warning(lora) && pipeline->warning)
        pipeline->warning(pipeline->warning_user, lora_warning(lora));
    *adapter = (struct adapter){lora, scale};
    return true;
}

bool pipeline_open_loras(struct pipeline *pipeline, const struct model_folder *folder,
                         const struct limn_options *options, struct error *error) {
    const int room = LIMN_LORAS_MOST - folder->lora_count;
    pipeline->warning = options->warning;
    pipeline->warning_user = options->warning_user;
    pipeline->loras = adapters_open(pipeline->transformer, error);
    if (!pipeline->loras || !pipeline_check_loras(options->loras, options->lora_count, room, error))
        return false;
    for (int i = 0; i < folder->lora_count + options->lora_count; i++) {
        const bool of_folder = i < folder->lora_count;
        const struct limn_lora *option = of_folder ? NULL : &options->loras[i - folder->lora_count];
        if (!open_lora(pipeline, "loras", of_folder ? folder->loras[i].file : option->file,
                       of_folder ? folder->loras[i].scale : option->scale, true, &pipeline->own_loras[i],
                       error))
            return false;
        pipeline->own_lora_count++;
    }
    return true;
}

bool pipeline_adapt(struct pipeline *pipeline, const struct limn_request *request, struct error *error) {
    struct adapter adapters[2 * LIMN_LORAS_MOST];
    int count = 0;
    for (; count < pipeline->own_lora_count; count++) adapters[count] = pipeline->own_loras[count];
    for (int i = 0; i < request->lora_count; i++) {
        char field[32];
        snprintf(field, sizeof field, "loras[%d]", i);
        if (!open_lora(pipeline, field, request->loras[i].file, request->loras[i].scale, false,
                       &adapters[count++], error))
            return false;
    }
    return transformer_adapt(pipeline->transformer, adapters, count, error);
}
