// The plan's arithmetic: the parts say what they take. Relies on pipeline_inside.h.
#include "flux/memory_plan.h"

#include "base/memory.h"
#include "flux/pipeline_inside.h"
#include "flux/references.h"

static int64_t tokens_of(const struct pipeline *pipeline, int width, int height) {
    const int multiple = autoencoder_shape(pipeline->autoencoder)->pixels_per_token;
    return (int64_t)(width / multiple) * (height / multiple);
}

// Tokens of the references, and the most that encoding one of them takes.
static int64_t references(const struct pipeline *pipeline, const struct limn_request *filled, int64_t *most) {
    int64_t tokens = 0;
    *most = 0;
    for (int i = 0; i < filled->reference_count; i++) {
        struct reference_size size;
        const struct limn_image *image = &filled->references[i];
        if (!reference_size("references", image->width, image->height, pipeline->settings.reference_area,
                            autoencoder_shape(pipeline->autoencoder)->pixels_per_token, &size, NULL))
            continue;
        const int64_t bytes =
            (int64_t)autoencoder_encode_bytes(pipeline->autoencoder, size.width, size.height);
        if (bytes > *most) *most = bytes;
        tokens += tokens_of(pipeline, size.width, size.height);
    }
    return tokens;
}

static void add_stage(struct memory_plan *plan, struct memory_stage stage) {
    stage.resident = stage.weights.bytes + stage.own <= plan->memory;
    plan->possible &= stage.own <= plan->memory;
    plan->stages[plan->count++] = stage;
}

void pipeline_plan(const struct pipeline *pipeline, const struct limn_request *filled, int64_t memory,
                   struct memory_plan *plan) {
    const struct transformer_shape *shape = transformer_shape(pipeline->transformer);
    const bool guided = pipeline->settings.guidance_kind == GUIDANCE_CLASSIFIER && filled->guidance > 1;
    const int64_t f32 = sizeof(float);
    int64_t encoding;
    const int64_t reference_tokens = references(pipeline, filled, &encoding);
    const int64_t generated = tokens_of(pipeline, filled->width, filled->height);
    const int64_t texts = (int64_t)pipeline->settings.text_length * shape->context * f32 * (guided ? 2 : 1);
    // The autoencoder's weights as they were repacked. Embeddings, latents of all pictures and of the references, one picture in f32: kept from stage to stage.
    const int64_t kept = texts +
                         (generated * (filled->count + 2) + reference_tokens) * shape->in_channels * f32 +
                         (int64_t)filled->width * filled->height * (3 * f32 + 3) +
                         autoencoder_shape(pipeline->autoencoder)->parameters *
                             (pipeline->compute == COMPUTE_F32 ? f32 : f32 / 2);
    *plan = (struct memory_plan){.memory = memory > 0 ? memory : memory_available(), .possible = true};
    add_stage(plan, (struct memory_stage){
                        .name = "text",
                        .part = "text encoder",
                        .weights = prompt_encoder_weights(pipeline->encoder),
                        .own = kept + prompt_encoder_run_bytes(pipeline->encoder, pipeline->compute),
                        .reads = guided ? 2 : 1});
    if (filled->reference_count > 0)
        add_stage(plan, (struct memory_stage){.name = "references",
                                              .part = "autoencoder",
                                              .own = kept + encoding,
                                              .reads = filled->reference_count});
    struct checkpoint_summary transformer = transformer_weights(pipeline->transformer);
    for (int i = 0; i < pipeline->own_lora_count; i++)
        transformer.bytes += lora_bytes(pipeline->own_loras[i].lora);
    add_stage(plan, (struct memory_stage){.name = "steps",
                                          .part = "transformer",
                                          .weights = transformer,
                                          .own = kept + transformer_run_bytes(pipeline->transformer,
                                                                              pipeline->compute,
                                                                              pipeline->settings.text_length,
                                                                              generated + reference_tokens),
                                          .reads = filled->count * filled->steps * (guided ? 2 : 1)});
    plan->tile =
        pipeline_tile(pipeline->autoencoder, filled->width, filled->height, filled->tiling, plan->memory);
    const int side = plan->tile;
    const int width = side && side < filled->width ? side : filled->width;
    const int height = side && side < filled->height ? side : filled->height;
    // A row of tiles waits for the next one, as f32 planes.
    const int64_t waiting = side ? 2 * (int64_t)filled->width * side * 3 * f32 : 0;
    add_stage(plan, (struct memory_stage){
                        .name = "decode",
                        .part = "autoencoder",
                        .own = kept + waiting +
                               (int64_t)autoencoder_decode_bytes(pipeline->autoencoder, width, height),
                        .reads = filled->count});
}

bool memory_plan_check(const struct memory_plan *plan, const struct limn_request *filled,
                       struct error *error) {
    for (int i = 0; i < plan->count; i++) {
        const struct memory_stage *stage = &plan->stages[i];
        if (stage->own <= plan->memory) continue;
        return error_set(
            error, ERROR_MEMORY,
            "%dx%d with %d reference%s takes %.2f GB of memory in the stage \"%s\", and %.2f GB are "
            "available; a smaller size or fewer references take less",
            filled->width, filled->height, filled->reference_count, filled->reference_count == 1 ? "" : "s",
            (double)stage->own / 1e9, stage->name, (double)plan->memory / 1e9);
    }
    return true;
}
