// LoRAs: every spelling against merged weights and the reference, what their files may say, and what is refused.
#include "lora_model.h"

#include <sys/stat.h>
#include <unistd.h>

static const double BF16_MOST = 1e-2; // a few roundings of 2^-9 in each block

// ------------------------------------------------------------------------------------------------------- merged weights

struct scaled {
    const struct lora_layer *layers;
    double scale;
};

// W + scale alpha / rank B A in double, for the layer of that name.
static void merge(float *weights, const char *name, const struct scaled *loras, int count) {
    for (int n = 0; n < count; n++)
        for (int i = 0; i < LORA_LAYER_COUNT; i++) {
            const struct lora_layer *l = &loras[n].layers[i];
            if (strcmp(l->diffusers, name) != 0) continue;
            for (int row = 0; row < l->out; row++)
                for (int col = 0; col < l->in; col++) {
                    double sum = 0;
                    for (int k = 0; k < l->rank; k++)
                        sum += (double)l->b[row * l->rank + k] * l->a[k * l->in + col];
                    float *at = &weights[row * l->in + col];
                    *at = (float)((double)*at + loras[n].scale * l->alpha / l->rank * sum);
                }
        }
}

// Writes model-b with the LoRAs merged in.
static void write_merged(const char *folder, const struct scaled *loras, int count) {
    struct error error = {0};
    struct checkpoint *base = checkpoint_open(FIXTURES "model-b/transformer", &error);
    struct safetensors_writer *writer = safetensors_writer_new();
    assert_ok(base, error);
    for (int64_t i = 0; i < checkpoint_count(base); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(base, i);
        int64_t values = tensor_values(&entry->tensor);
        char name[160];
        snprintf(name, sizeof name, "%.*s", (int)(strlen(entry->name) - strlen(".weight")), entry->name);
        float *weights = malloc((size_t)values * sizeof *weights);
        assert_true(dtype_decode(entry->tensor.type, entry->tensor.data, weights, values));
        merge(weights, name, loras, count);
        assert_ok(safetensors_writer_add(writer, entry->name, DTYPE_F32, entry->tensor.rank,
                                         entry->tensor.shape, weights, &error),
                  error);
        free(weights);
    }
    model_save(writer, folder);
    safetensors_writer_free(writer);
    checkpoint_close(base);
}

static void run_merged(const struct scaled *loras, int count, float velocity[VALUES]) {
    char folder[64];
    model_begin(folder);
    write_merged(folder, loras, count);
    struct machine machine = machine_open(folder);
    run(&machine, COMPUTE_F32, velocity);
    machine_close(machine);
    model_end(folder);
}

// Every spelling, fused and split, is the same change as the one merged into the weights; rank 1, odd ranks, alpha that is not the
// rank, every module.
static void families(void **state) {
    struct lora_layer layers[LORA_LAYER_COUNT];
    float plain[VALUES], merged[VALUES], velocity[VALUES];
    struct machine machine = machine_open(FIXTURES "model-b");
    lora_layers_make(layers, 1);
    run(&machine, COMPUTE_F32, plain);
    run_merged(&(struct scaled){layers, 1}, 1, merged);
    assert_true(relative_error(plain, merged, VALUES) > 0.05); // the LoRA does change something
    for (int f = 0; f < LORA_FAMILY_COUNT; f++) {
        char what[60];
        snprintf(what, sizeof what, "%s%s", LORA_FAMILIES[f].prefix, LORA_FAMILIES[f].down);
        run_with(&machine, lora_family_file(&LORA_FAMILIES[f], layers, DTYPE_F32), 1, COMPUTE_F32, velocity);
        check_close(what, velocity, merged, F32_MOST);
        run_with(&machine, lora_family_file(&LORA_FAMILIES[f], layers, DTYPE_F32), 1, COMPUTE_BF16, velocity);
        check_close(what, velocity, merged, BF16_MOST);
    }
    run(&machine, COMPUTE_F32, velocity); // nothing of a LoRA stays
    assert_memory_equal(velocity, plain, sizeof plain);
    lora_layers_free(layers);
    machine_close(machine);
}

// Each layer by itself, so that none hides behind the others. The fused spelling is compared with the split one.
static void layers_alone(void **state) {
    struct lora_layer layers[LORA_LAYER_COUNT];
    float plain[VALUES], split[VALUES], fused[VALUES];
    struct machine machine = machine_open(FIXTURES "model-b");
    lora_layers_make(layers, 2);
    run(&machine, COMPUTE_F32, plain);
    for (int i = 0, count; i < LORA_LAYER_COUNT; i += count) {
        struct lora_file a = {0}, b = {0};
        for (count = 1; i + count < LORA_LAYER_COUNT && !strcmp(layers[i].bfl, layers[i + count].bfl);)
            count++;
        for (int k = 0; k < count; k++)
            lora_family_add(&a, &LORA_FAMILIES[0], &layers[i + k], 1, true, DTYPE_F32);
        lora_family_add(&b, &LORA_FAMILIES[3], &layers[i], count, true, DTYPE_F32);
        run_with(&machine, lora_file_finish(&a, NULL), 1, COMPUTE_F32, split);
        run_with(&machine, lora_file_finish(&b, NULL), 1, COMPUTE_F32, fused);
        assert_true(relative_error(split, plain, VALUES) > 1e-4);
        check_close(layers[i].bfl, fused, split, F32_MOST);
    }
    lora_layers_free(layers);
    machine_close(machine);
}

static void several_with_scales(void **state) {
    struct lora_layer first[LORA_LAYER_COUNT], second[LORA_LAYER_COUNT];
    struct error error = {0};
    float plain[VALUES], merged[VALUES], velocity[VALUES];
    struct machine machine = machine_open(FIXTURES "model-b");
    lora_layers_make(first, 3);
    lora_layers_make(second, 4);
    run(&machine, COMPUTE_F32, plain);
    run_merged((struct scaled[]){{first, 0.75}, {second, -1.25}}, 2, merged);
    struct buffer files[2] = {lora_family_file(&LORA_FAMILIES[0], first, DTYPE_F32),
                              lora_family_file(&LORA_FAMILIES[4], second, DTYPE_F32)};
    struct lora *loras[2] = {read_lora(&files[0]), read_lora(&files[1])};
    struct adapter adapters[9] = {{loras[0], 0.75f}, {loras[1], -1.25f}};
    assert_ok(transformer_adapt(machine.transformer, adapters, 2, &error), error);
    run(&machine, COMPUTE_F32, velocity);
    check_close("two LoRAs", velocity, merged, F32_MOST);
    // Without a scale it is as if there were none.
    adapters[0].scale = adapters[1].scale = 0;
    assert_ok(transformer_adapt(machine.transformer, adapters, 2, &error), error);
    run(&machine, COMPUTE_F32, velocity);
    assert_memory_equal(velocity, plain, sizeof plain);
    // Three branches a layer each: the ninth is one too many, and none is left behind.
    for (int i = 0; i < 9; i++) adapters[i] = (struct adapter){loras[0], 0.1f};
    assert_ok(transformer_adapt(machine.transformer, adapters, 8, &error), error);
    assert_false(transformer_adapt(machine.transformer, adapters, 9, &error));
    assert_contains(error.message, "more than 24 pieces");
    run(&machine, COMPUTE_F32, velocity);
    assert_memory_equal(velocity, plain, sizeof plain);
    for (int i = 0; i < 2; i++) {
        lora_close(loras[i]);
        buffer_free(&files[i]);
    }
    lora_layers_free(first);
    lora_layers_free(second);
    machine_close(machine);
}

// How the numbers are stored makes no difference beside their rounding: they are rounded before, so the bytes are the same.
static void stored_types(void **state) {
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_F64, DTYPE_F8_E4M3};
    float expected[VALUES], velocity[VALUES];
    struct machine machine = machine_open(FIXTURES "model-b");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct lora_layer layers[LORA_LAYER_COUNT];
        lora_layers_make(layers, 5);
        for (int i = 0; i < LORA_LAYER_COUNT; i++)
            for (int k = 0; k < (layers[i].in + layers[i].out) * layers[i].rank; k++) {
                float *at = k < layers[i].in * layers[i].rank
                                ? &layers[i].a[k]
                                : &layers[i].b[k - layers[i].in * layers[i].rank];
                if (types[t] == DTYPE_F16) *at = f16_to_f32(f32_to_f16(*at));
                if (types[t] == DTYPE_BF16) *at = bf16_to_f32(f32_to_bf16(*at));
                if (types[t] == DTYPE_F8_E4M3) *at = *at < 0 ? -1 : 1; // what lora_file_add writes
            }
        run_with(&machine, lora_family_file(&LORA_FAMILIES[3], layers, DTYPE_F32), 0.01f, COMPUTE_F32,
                 expected);
        run_with(&machine, lora_family_file(&LORA_FAMILIES[3], layers, types[t]), 0.01f, COMPUTE_F32,
                 velocity);
        assert_memory_equal(velocity, expected, sizeof expected);
        lora_layers_free(layers);
    }
    machine_close(machine);
}

// The reference's velocities with a LoRA of every layer of model-a, the guidance embedder among them.
static void against_the_reference(void **state) {
    static const char *const files[] = {"model-a-lora-diffusers.safetensors",
                                        "model-a-lora-kohya.safetensors"};
    static const struct {
        int text, grid_count;
        struct token_grid grids[5];
    } cases[] = {{5, 1, {{3, 4, 0}}},
                 {7, 2, {{5, 1, 0}, {2, 3, 10}}},
                 {1, 3, {{1, 1, 0}, {4, 1, 10}, {1, 3, 20}}},
                 {6, 5, {{3, 3, 0}, {1, 2, 10}, {2, 2, 20}, {3, 1, 30}, {2, 1, 40}}}};
    struct machine machine = machine_open(FIXTURES "model-a");
    struct checkpoint *given = fixture_open("model-a-transformer.safetensors");
    struct checkpoint *expected = fixture_open("model-a-lora.safetensors");
    const struct lora_shape shape = transformer_lora_shape(machine.transformer);
    for (int f = 0; f < 2; f++) {
        char path[300];
        struct error error = {0};
        snprintf(path, sizeof path, FIXTURES "%s", files[f]);
        struct lora *lora = lora_open(path, &shape, &error);
        assert_ok(lora, error);
        assert_null(lora_warning(lora));
        assert_ok(transformer_adapt(machine.transformer, &(struct adapter){lora, 0.75f}, 1, &error), error);
        for (int k = 0; k < 4; k++) {
            float velocity[12 * 16], sigma, guidance;
            float *tokens = fixture_values(fixture_tensor(given, DTYPE_F32, "tokens_%d", k));
            float *embeds = fixture_values(fixture_tensor(given, DTYPE_F32, "prompt_embeds_%d", k));
            float *wanted = fixture_values(fixture_tensor(expected, DTYPE_F32, "velocity_%d", k));
            const int64_t generated = token_grid_tokens(&cases[k].grids[0]) * shape.in_channels;
            memcpy(&sigma, fixture_tensor(given, DTYPE_F32, "sigma_%d", k).data, sizeof sigma);
            memcpy(&guidance, fixture_tensor(given, DTYPE_F32, "guidance_%d", k).data, sizeof guidance);
            struct transformer_run *begun =
                transformer_begin(machine.transformer, COMPUTE_F32, cases[k].text, embeds,
                                  cases[k].grid_count, cases[k].grids, tokens + generated, &error);
            assert_ok(begun, error);
            assert_ok(transformer_velocity(begun, tokens, sigma * 1000, guidance, NULL, NULL, NULL, velocity,
                                           &error),
                      error);
            transformer_end(begun);
            const double off = relative_error(velocity, wanted, generated);
            if (!(off <= F32_MOST)) fail_msg("%s, case %d: the velocity is off by %.3g", files[f], k, off);
            const struct tensor plain = fixture_tensor(given, DTYPE_F32, "velocity_%d", k);
            assert_true(relative_error(velocity, plain.data, generated) > 0.01);
            free(tokens);
            free(embeds);
            free(wanted);
        }
        lora_close(lora);
    }
    checkpoint_close(given);
    checkpoint_close(expected);
    machine_close(machine);
}

// lora_merge_rows gives the weights that the merged model has, in either order of the rows.
static void merging(void **state) {
    struct lora_layer layers[LORA_LAYER_COUNT];
    struct error error = {0};
    lora_layers_make(layers, 6);
    struct buffer file = lora_family_file(&LORA_FAMILIES[2], layers, DTYPE_F32);
    struct lora *lora = read_lora(&file);
    for (int i = 0; i < LORA_LAYER_COUNT; i++) {
        const struct lora_layer *l = &layers[i];
        const int count = l->out * l->in, first = l->out / 3; // from the middle on, too
        float *expected = calloc((size_t)count, sizeof(float)), *rows = calloc((size_t)count, sizeof(float));
        struct lora_place place;
        assert_true(lora_place_find(l->diffusers, &SHAPE, &place));
        assert_int_equal(place.rows, l->out);
        assert_int_equal(place.in, l->in);
        merge(expected, l->diffusers, &(struct scaled){layers, 0.5}, 1);
        assert_true(lora_merge_rows(lora, &place, 0.5f, 0, first, rows, &error));
        assert_true(lora_merge_rows(lora, &place, 0.5f, first, l->out - first, rows + first * l->in, &error));
        for (int k = 0; k < count; k++) assert_true(fabsf(rows[k] - expected[k]) <= 1e-6f);
        free(rows);
        free(expected);
    }
    // BFL's order of the final modulation: the halves stand the other way round. In two pieces across the middle.
    const struct lora_layer *l = &layers[7];
    assert_string_equal(l->diffusers, "norm_out.linear");
    float expected[64 * 32] = {0}, rows[64 * 32] = {0};
    struct lora_place place;
    assert_true(lora_place_find("model.diffusion_model.final_layer.adaLN_modulation.1", &SHAPE, &place));
    merge(expected, l->diffusers, &(struct scaled){layers, 1}, 1);
    assert_true(lora_merge_rows(lora, &place, 1, 0, 20, rows, &error));
    assert_true(lora_merge_rows(lora, &place, 1, 20, 44, rows + 20 * 32, &error));
    for (int k = 0; k < 64 * 32; k++)
        assert_true(fabsf(rows[k] - expected[(k + 32 * 32) % (64 * 32)]) <= 1e-6f);
    // A layer that the LoRA does not touch stays as it is.
    float none[32 * 32] = {0}, still[32 * 32] = {0};
    assert_true(lora_place_find("transformer_blocks.1.attn.to_out.0", &SHAPE, &place));
    assert_true(lora_merge_rows(lora, &place, 1, 0, 32, still, &error));
    assert_memory_equal(none, still, sizeof none);
    assert_false(lora_place_find("transformer_blocks.2.attn.to_out.0", &SHAPE, &place));
    assert_false(lora_place_find("transformer_blocks.1.attn.norm_q", &SHAPE, &place));
    lora_close(lora);
    buffer_free(&file);
    lora_layers_free(layers);
}

// ----------------------------------------------------------------------------------------------------------- the reader

// Adds "[module].lora_A.weight" [rank, in] and "[module].lora_B.weight" [out, rank] of small numbers.
static void add_pair(struct lora_file *file, const char *module, int64_t out, int64_t in, int64_t rank) {
    char name[200];
    float values[4096] = {0.5f, 0.25f};
    snprintf(name, sizeof name, "%s.lora_A.weight", module);
    lora_file_add(file, name, DTYPE_F32, 2, (int64_t[]){rank, in}, values);
    snprintf(name, sizeof name, "%s.lora_B.weight", module);
    lora_file_add(file, name, DTYPE_F32, 2, (int64_t[]){out, rank}, values);
}

static void alphas(void **state) {
    static const struct {
        const char *metadata;
        float scale_in, scale_out; // of x_embedder (rank 2) and proj_out (rank 4)
    } cases[] = {
        {NULL, 1, 1},
        {"{}", 1, 1},
        {"{\"lora_alpha\":8}", 4, 2},
        {"{\"transformer.lora_alpha\":8,\"lora_alpha\":1}", 4, 2},
        {"{\"transformer.lora_alpha\":8,\"transformer.alpha_pattern\":{\"proj_out\":2}}", 4, 0.5f},
        {"{\"lora_alpha\":8,\"alpha_pattern\":{\"^x_embedder$\":1,\"out\":3}}", 0.5f, 2},
        {"{\"alpha_pattern\":{\"embedder\":9}}", 1, 1},
        {"{\"lora_alpha\":4,\"use_rslora\":true}", 2.82842712f, 2},
        {"{\"lora_alpha\":4,\"use_rslora\":false,\"use_dora\":false,\"r\":16,\"rank_pattern\":{\"a\":1}}", 2,
         1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int own = 0; own < 2; own++) { // a module's own alpha wins
            struct lora_file file = {0};
            add_pair(&file, "transformer.x_embedder", 32, 12, 2);
            add_pair(&file, "transformer.proj_out", 12, 32, 4);
            if (own)
                lora_file_add(&file, "transformer.proj_out.alpha", DTYPE_I64, 1, (int64_t[]){1}, &(float){3});
            struct buffer whole = lora_file_finish(&file, cases[i].metadata);
            struct lora *lora = read_lora(&whole);
            assert_int_equal(lora_branch_count(lora), 2);
            assert_int_equal(lora_branch(lora, 0)->module, LORA_LATENT_EMBEDDER);
            assert_true(fabsf(lora_branch(lora, 0)->low_rank.scale - cases[i].scale_in) < 1e-6f);
            assert_int_equal(lora_branch(lora, 1)->module, LORA_OUT);
            assert_true(lora_branch(lora, 1)->low_rank.scale == (own ? 0.75f : cases[i].scale_out));
            lora_close(lora);
            buffer_free(&whole);
        }
}

static void pieces_of_fused_layers(void **state) {
    struct lora_file file = {0};
    add_pair(&file, "single_transformer_blocks.1.proj_mlp", 192, 32, 2);
    add_pair(&file, "single_transformer_blocks.1.attn.to_v", 32, 32, 3);
    add_pair(&file, "transformer_blocks.0.attn.to_k", 32, 32, 1);
    add_pair(&file, "final_layer.adaLN_modulation.1", 64, 32, 1);
    struct buffer whole = lora_file_finish(&file, NULL);
    struct lora *lora = read_lora(&whole);
    static const struct {
        enum lora_module module;
        int64_t block, first, rows;
    } expected[] = {{LORA_OUT_MODULATION, 0, 0, 32},
                    {LORA_OUT_MODULATION, 0, 32, 32},
                    {LORA_IMAGE_QKV, 0, 32, 32},
                    {LORA_SINGLE_IN, 1, 64, 32},
                    {LORA_SINGLE_IN, 1, 96, 192}};
    assert_int_equal(lora_branch_count(lora), 5);
    for (int i = 0; i < 5; i++) {
        const struct lora_branch *branch = lora_branch(lora, i);
        assert_int_equal(branch->module, expected[i].module);
        assert_int_equal(branch->block, expected[i].block);
        assert_int_equal(branch->low_rank.first_output, expected[i].first);
        assert_int_equal(branch->low_rank.up.rows, expected[i].rows);
    }
    lora_close(lora);
    buffer_free(&whole);
}

static void tell_what_has_no_effect(void **state) {
    struct lora_file file = {0};
    add_pair(&file, "transformer.x_embedder", 32, 12, 2);
    add_pair(&file, "transformer.time_guidance_embed.guidance_embedder.linear_1", 32, 256,
             2); // model-b has none
    add_pair(&file, "transformer.transformer_blocks.0.norm1.linear", 32, 32, 2);
    struct buffer whole = lora_file_finish(&file, NULL);
    struct lora *lora = read_lora(&whole);
    assert_int_equal(lora_branch_count(lora), 1);
    assert_contains(lora_warning(lora), "file: 4 tensors belong to no layer");
    assert_contains(lora_warning(lora),
                    "transformer.time_guidance_embed.guidance_embedder.linear_1.lora_A.weight");
    assert_contains(lora_warning(lora), "...");
    lora_close(lora);
    buffer_free(&whole);
}

// What has to be refused: tensors to leave out, to add, or to give another shape, and the message.
struct wrong {
    const char *name; // of an additional tensor
    enum dtype type;
    int rank;
    int64_t shape[4];
    float value;
    const char *metadata, *message;
    bool alone; // without the good pair x_embedder
};

static const struct wrong WRONGS[] = {
    {"transformer.proj_out.lora_A.weight",
     DTYPE_F32,
     2,
     {2, 32},
     1,
     NULL,
     "proj_out.lora_A.weight\": its partner lora_B",
     false},
    {"transformer.proj_out.lora_B.weight",
     DTYPE_F32,
     2,
     {12, 2},
     1,
     NULL,
     "proj_out.lora_B.weight\": its partner lora_A",
     false},
    {"transformer.proj_out.alpha", DTYPE_F32, 0, {0}, 1, NULL, "proj_out.alpha\": its partner lora_A", false},
    {"transformer.x_embedder.alpha",
     DTYPE_F32,
     1,
     {2},
     1,
     NULL,
     "x_embedder.alpha\": shape [2], expected one number",
     false},
    {"transformer.x_embedder.alpha",
     DTYPE_F32,
     0,
     {0},
     NAN,
     NULL,
     "x_embedder.alpha\": expected a finite number",
     false},
    {"transformer.x_embedder.alpha", DTYPE_F32, 0, {0}, INFINITY, NULL, "expected a finite number", false},
    {"img_in.lora_A.weight", DTYPE_F32, 2, {2, 12}, 1, NULL, "its partner", false},
    {"x_embedder.lora_A.weight", DTYPE_F32, 2, {2, 12}, 1, NULL, "are the same", false},
    {"x_embedder.lora_down.weight", DTYPE_F32, 2, {2, 12}, 1, NULL, "are the same", false},
    {"transformer.x_embedder.dora_scale",
     DTYPE_F32,
     1,
     {32},
     1,
     NULL,
     "dora_scale\": the file holds a DoRA",
     false},
    {"diffusion_model.img_in.lokr_w1", DTYPE_F32, 2, {2, 2}, 1, NULL, "a LoKr (LyCORIS)", true},
    {"lora_unet_img_in.hada_w1_a", DTYPE_F32, 2, {2, 2}, 1, NULL, "a LoHa (LyCORIS)", true},
    {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
     DTYPE_F32,
     2,
     {2, 2},
     1,
     NULL,
     "a LoRA of a text encoder",
     false},
    {"text_encoder.layers.0.self_attn.q_proj.lora_A.weight",
     DTYPE_F32,
     2,
     {2, 2},
     1,
     NULL,
     "a LoRA of a text encoder",
     false},
    {"diffusion_model.img_in.diff", DTYPE_F32, 2, {2, 2}, 1, NULL, "whole differences of weights", false},
    {"diffusion_model.img_in.lora_B.bias", DTYPE_F32, 1, {2}, 1, NULL, "a LoRA with biases", false},
    {"diffusion_model.img_in.lora_mid.weight", DTYPE_F32, 4, {1, 1, 1, 1}, 1, NULL, "convolution", false},
    {"transformer.proj_out.lora_A.weight", DTYPE_F32, 4, {2, 32, 1, 1}, 1, NULL, "partner", false},
    {"transformer.transformer_blocks.2.attn.to_q.lora_A.weight",
     DTYPE_F32,
     2,
     {2, 32},
     1,
     NULL,
     "2 double and 3 single blocks",
     false},
    {"single_blocks.3.linear1.lora_A.weight",
     DTYPE_F32,
     2,
     {2, 32},
     1,
     NULL,
     "2 double and 3 single blocks",
     false},
    {"some.other.weight",
     DTYPE_F32,
     2,
     {2, 2},
     1,
     NULL,
     "none of its 1 tensors belongs to a layer of this transformer (\"some.other.weight\")",
     true},
    {NULL, DTYPE_F32, 0, {0}, 1, NULL, "none of its 0 tensors", true},
    {NULL, DTYPE_F32, 0, {0}, 1, "[]", "lora_adapter_metadata: expected an object", false},
    {NULL, DTYPE_F32, 0, {0}, 1, "{", "lora_adapter_metadata", false},
    {NULL, DTYPE_F32, 0, {0}, 1, "{\"use_dora\":true}", "says that it is a DoRA", false},
    {NULL, DTYPE_F32, 0, {0}, 1, "{\"lora_alpha\":\"8\"}", "\"lora_alpha\": expected a finite number", false},
    {NULL, DTYPE_F32, 0, {0}, 1, "{\"alpha_pattern\":{\"proj.*\":1}}", "a regular expression", false},
    {NULL, DTYPE_F32, 0, {0}, 1, "{\"alpha_pattern\":{\"proj\":null}}", "\"proj\": expected a number", false},
    {NULL, DTYPE_F32, 0, {0}, 1, "{\"use_rslora\":1}", "\"use_rslora\": expected true or false", false},
};

static void refuse(struct buffer *whole, const char *message) {
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_parse("file", whole->data, whole->length, &error);
    assert_ok(checkpoint, error);
    struct lora *lora = lora_read("file", checkpoint, &SHAPE, &error);
    if (lora) fail_msg("not refused: %s", message);
    assert_contains(error.message, message);
    assert_contains(error.message, "file");
    buffer_free(whole);
}

static void wrong_files(void **state) {
    for (size_t i = 0; i < sizeof WRONGS / sizeof *WRONGS; i++) {
        const struct wrong *w = &WRONGS[i];
        struct lora_file file = {0};
        float values[512];
        for (int k = 0; k < 512; k++) values[k] = w->value;
        if (!w->alone) add_pair(&file, "transformer.x_embedder", 32, 12, 2);
        if (w->name) lora_file_add(&file, w->name, w->type, w->rank, w->shape, values);
        struct buffer whole = lora_file_finish(&file, w->metadata);
        refuse(&whole, w->message);
    }
}

// Shapes and values of a pair.
static void wrong_pairs(void **state) {
    static const struct {
        int down_rank;
        int64_t down[4], up[2];
        float down_value, up_value;
        enum dtype type;
        const char *message;
    } cases[] = {
        {2, {2, 31}, {12, 2}, 1, 1, DTYPE_F32, "proj_out.lora_A.weight\": shape [2, 31], expected [any, 32]"},
        {2, {2, 32}, {12, 3}, 1, 1, DTYPE_F32, "proj_out.lora_B.weight\": shape [12, 3], expected [12, 2]"},
        {2, {2, 32}, {13, 2}, 1, 1, DTYPE_F32, "proj_out.lora_B.weight\": shape [13, 2], expected [12, 2]"},
        {1, {64}, {12, 2}, 1, 1, DTYPE_F32, "proj_out.lora_A.weight\": shape [64], expected [any, 32]"},
        {4, {2, 32, 1, 1}, {12, 2}, 1, 1, DTYPE_F32, "a LoRA of a convolution"},
        {2, {0, 32}, {12, 0}, 1, 1, DTYPE_F32, "is empty"},
        {2, {2, 32}, {12, 2}, NAN, 1, DTYPE_F32, "proj_out.lora_A.weight\": a value is NaN or infinite"},
        {2, {2, 32}, {12, 2}, 1, INFINITY, DTYPE_F32, "proj_out.lora_B.weight\": a value is NaN or infinite"},
        {2, {2, 32}, {12, 2}, 1, NAN, DTYPE_BF16, "proj_out.lora_B.weight\": a value is NaN or infinite"},
        {2,
         {2, 32},
         {12, 2},
         -INFINITY,
         1,
         DTYPE_F16,
         "proj_out.lora_A.weight\": a value is NaN or infinite"},
        {2, {2, 32}, {12, 2}, 1, 1e39f, DTYPE_F64, "proj_out.lora_B.weight\": a value is NaN or infinite"},
        {2, {2, 32}, {12, 2}, 1, 1, DTYPE_I64, "type I64, expected real numbers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lora_file file = {0};
        float down[64], up[64];
        for (int k = 0; k < 64; k++) down[k] = up[k] = 1;
        down[63] = cases[i].down_value;
        up[23] = cases[i].up_value;
        lora_file_add(&file, "proj_out.lora_A.weight", cases[i].type, cases[i].down_rank, cases[i].down,
                      down);
        lora_file_add(&file, "proj_out.lora_B.weight", cases[i].type, 2, cases[i].up, up);
        struct buffer whole = lora_file_finish(&file, NULL);
        refuse(&whole, cases[i].message);
    }
    struct lora_file twice = {0};
    add_pair(&twice, "x_embedder", 32, 12, 2);
    add_pair(&twice, "diffusion_model.img_in", 32, 12, 2);
    struct buffer whole = lora_file_finish(&twice, NULL);
    refuse(&whole, "change the same rows");
    struct lora_file over = {0};
    add_pair(&over, "double_blocks.0.img_attn.qkv", 96, 32, 2);
    add_pair(&over, "transformer_blocks.0.attn.to_v", 32, 32, 2);
    whole = lora_file_finish(&over, NULL);
    refuse(&whole, "change the same rows");
}

// ------------------------------------------------------------------------------------------------------------ the files

static void write_pair(const char *path, float value) {
    struct error error = {0};
    struct lora_file file = {0};
    float values[64];
    for (int i = 0; i < 64; i++) values[i] = value;
    lora_file_add(&file, "x_embedder.lora_A.weight", DTYPE_F32, 2, (int64_t[]){1, 12}, values);
    lora_file_add(&file, "x_embedder.lora_B.weight", DTYPE_F32, 2, (int64_t[]){32, 1}, values);
    struct buffer whole = lora_file_finish(&file, NULL);
    assert_ok(file_write(path, whole.data, whole.length, &error), error);
    buffer_free(&whole);
}

static float first_of(const struct lora *lora) {
    return *(const float *)lora_branch(lora, 0)->low_rank.down.data;
}

static void files_stay_open(void **state) {
    char folder[64] = "/tmp/limn-lora-XXXXXX", path[12][100], command[100];
    struct error error = {0};
    bool fresh;
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 12; i++) {
        snprintf(path[i], sizeof path[i], "%s/%d.safetensors", folder, i);
        write_pair(path[i], (float)(i + 1));
    }
    struct machine machine = machine_open(FIXTURES "model-b");
    struct adapters *adapters = adapters_open(machine.transformer, &error);
    assert_ok(adapters, error);
    const struct lora *kept = adapters_get(adapters, path[0], true, &fresh, &error);
    assert_true(kept && fresh);
    for (int i = 1; i <= ADAPTERS_KEPT_MOST; i++) {
        const struct lora *lora = adapters_get(adapters, path[i], false, &fresh, &error);
        assert_ok(lora && fresh, error);
        assert_true(first_of(lora) == (float)(i + 1));
    }
    assert_true(adapters_get(adapters, path[1], false, &fresh, &error) && !fresh);
    assert_true(adapters_get(adapters, path[10], false, &fresh, &error) &&
                fresh); // the second goes, not the first
    assert_true(adapters_get(adapters, path[1], false, &fresh, &error) && !fresh);
    assert_true(adapters_get(adapters, path[2], false, &fresh, &error) && fresh);
    assert_true(adapters_get(adapters, path[0], false, &fresh, &error) == kept && !fresh);
    // Another file under the same name is another LoRA.
    write_pair(path[1], 77);
    const struct lora *replaced = adapters_get(adapters, path[1], false, &fresh, &error);
    assert_true(replaced && fresh && first_of(replaced) == 77);
    adapters_release_pages(adapters);
    assert_true(first_of(replaced) == 77);
    assert_null(adapters_get(adapters, "/no/such.safetensors", false, &fresh, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    assert_contains(error.message, "/no/such.safetensors");
    error = (struct error){0};
    assert_ok(file_write(path[3], "", 0, &error), error);
    assert_null(adapters_get(adapters, path[3], false, &fresh, &error));
    assert_contains(error.message, path[3]);
    adapters_close(adapters);
    machine_close(machine);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families),
        cmocka_unit_test(layers_alone),
        cmocka_unit_test(several_with_scales),
        cmocka_unit_test(stored_types),
        cmocka_unit_test(against_the_reference),
        cmocka_unit_test(merging),
        cmocka_unit_test(alphas),
        cmocka_unit_test(pieces_of_fused_layers),
        cmocka_unit_test(tell_what_has_no_effect),
        cmocka_unit_test(wrong_files),
        cmocka_unit_test(wrong_pairs),
        cmocka_unit_test(files_stay_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
