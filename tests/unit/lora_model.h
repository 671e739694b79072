// model-b of the fixtures with LoRAs, for the tests of them: its transformer on fixed inputs, folders with its weights changed.
#ifndef LIMN_TESTS_LORA_MODEL_H
#define LIMN_TESTS_LORA_MODEL_H

#include "fixture.h"
#include "lora_file.h"

#include "base/file.h"
#include "flux/adapters.h"
#include "weights/safetensors_write.h"

static const double F32_MOST = 2e-5; // f32 sums in another order

// What model-b is.
static const struct lora_shape SHAPE = {.hidden = 32,
                                        .mlp_hidden = 96,
                                        .in_channels = 12,
                                        .context = 24,
                                        .timestep_width = 256,
                                        .double_blocks = 2,
                                        .single_blocks = 3};
enum { VALUES = 15 * 12 }; // of a velocity of 5x3 tokens

struct machine {
    struct pool *pool;
    struct device *device;
    struct transformer *transformer;
};

static inline struct machine machine_open(const char *folder) {
    struct machine machine;
    struct error error = {0};
    machine.pool = pool_open(2, &error);
    assert_ok(machine.pool, error);
    machine.device = device_open_cpu(&(struct device_options){.pool = machine.pool}, &error);
    assert_ok(machine.device, error);
    machine.transformer = transformer_open(folder, machine.device, &error);
    assert_ok(machine.transformer, error);
    return machine;
}

static inline void machine_close(struct machine machine) {
    transformer_close(machine.transformer);
    device_close(machine.device);
    pool_close(machine.pool);
}

static inline void run(const struct machine *machine, enum compute compute, float velocity[VALUES]) {
    struct error error = {0};
    struct token_grid grids[2] = {{5, 3, 0}, {2, 2, 10}};
    float embeds[7 * 24], latents[VALUES], references[4 * 12];
    for (int i = 0; i < 7 * 24; i++) embeds[i] = sinf((float)i);
    for (int i = 0; i < VALUES; i++) latents[i] = cosf((float)(3 * i));
    for (int i = 0; i < 4 * 12; i++) references[i] = sinf((float)(5 * i));
    struct transformer_run *begun =
        transformer_begin(machine->transformer, compute, 7, embeds, 2, grids, references, &error);
    assert_ok(begun, error);
    assert_ok(transformer_velocity(begun, latents, 700, 2.5f, NULL, NULL, NULL, velocity, &error), error);
    transformer_end(begun);
}

static inline struct lora *read_lora(struct buffer *file) {
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_parse("file", file->data, file->length, &error);
    assert_ok(checkpoint, error);
    struct lora *lora = lora_read("file", checkpoint, &SHAPE, &error);
    assert_ok(lora, error);
    return lora;
}

// The velocity with one LoRA, given as the bytes of its file (freed).
static inline void run_with(const struct machine *machine, struct buffer file, float scale,
                            enum compute compute, float velocity[VALUES]) {
    struct error error = {0};
    struct lora *lora = read_lora(&file);
    struct adapter adapter = {lora, scale};
    assert_null(lora_warning(lora));
    assert_ok(transformer_adapt(machine->transformer, &adapter, 1, &error), error);
    run(machine, compute, velocity);
    assert_true(transformer_adapt(machine->transformer, NULL, 0, &error));
    lora_close(lora);
    buffer_free(&file);
}

static inline void check_close(const char *what, const float *a, const float *b, double most) {
    double off = relative_error(a, b, VALUES);
    if (!(off <= most)) fail_msg("%s: the velocity is off by %.3g, at most %.3g", what, off, most);
}

// A fresh folder under /tmp with the config.json of model-b's transformer, and its end.
static inline void model_begin(char folder[64]) {
    char command[300];
    snprintf(folder, 64, "/tmp/limn-lora-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command,
             "mkdir '%s/transformer' && cp %smodel-b/transformer/config.json '%s/transformer'", folder,
             FIXTURES, folder);
    assert_int_equal(system(command), 0);
}

static inline void model_end(const char *folder) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

// The transformer's weights, in a folder of model_begin.
static inline void model_save(struct safetensors_writer *writer, const char *folder) {
    char path[300];
    struct error error = {0};
    snprintf(path, sizeof path, "%s/transformer/model.safetensors", folder);
    assert_ok(safetensors_writer_save(writer, path, &error), error);
}

#endif
