// LoRAs beside a base in BFL's layout: fused layers, the final modulation the other way round.
#include "fixture.h"
#include "lora_file.h"

#include "base/file.h"
#include "flux/adapters.h"
#include "weights/safetensors_write.h"

static const double F32_MOST = 2e-5; // f32 sums in another order

static const struct lora_shape SHAPE = {.hidden = 32,
                                        .mlp_hidden = 96,
                                        .in_channels = 12,
                                        .context = 24,
                                        .timestep_width = 256,
                                        .double_blocks = 2,
                                        .single_blocks = 3};
enum { VALUES = 6 * 12 };

// BFL's tensor, made of up to three of diffusers' one below the other; # is the number of a block.
static const struct {
    const char *bfl, *diffusers[3];
    bool swapped;
} TENSORS[] = {
    {"img_in.weight", {"x_embedder.weight"}, false},
    {"txt_in.weight", {"context_embedder.weight"}, false},
    {"time_in.in_layer.weight", {"time_guidance_embed.timestep_embedder.linear_1.weight"}, false},
    {"time_in.out_layer.weight", {"time_guidance_embed.timestep_embedder.linear_2.weight"}, false},
    {"double_stream_modulation_img.lin.weight", {"double_stream_modulation_img.linear.weight"}, false},
    {"double_stream_modulation_txt.lin.weight", {"double_stream_modulation_txt.linear.weight"}, false},
    {"single_stream_modulation.lin.weight", {"single_stream_modulation.linear.weight"}, false},
    {"final_layer.adaLN_modulation.1.weight", {"norm_out.linear.weight"}, true},
    {"final_layer.linear.weight", {"proj_out.weight"}, false},
    {"double_blocks.#.img_attn.qkv.weight",
     {"transformer_blocks.#.attn.to_q.weight", "transformer_blocks.#.attn.to_k.weight",
      "transformer_blocks.#.attn.to_v.weight"},
     false},
    {"double_blocks.#.img_attn.proj.weight", {"transformer_blocks.#.attn.to_out.0.weight"}, false},
    {"double_blocks.#.img_attn.norm.query_norm.scale", {"transformer_blocks.#.attn.norm_q.weight"}, false},
    {"double_blocks.#.img_attn.norm.key_norm.scale", {"transformer_blocks.#.attn.norm_k.weight"}, false},
    {"double_blocks.#.img_mlp.0.weight", {"transformer_blocks.#.ff.linear_in.weight"}, false},
    {"double_blocks.#.img_mlp.2.weight", {"transformer_blocks.#.ff.linear_out.weight"}, false},
    {"double_blocks.#.txt_attn.qkv.weight",
     {"transformer_blocks.#.attn.add_q_proj.weight", "transformer_blocks.#.attn.add_k_proj.weight",
      "transformer_blocks.#.attn.add_v_proj.weight"},
     false},
    {"double_blocks.#.txt_attn.proj.weight", {"transformer_blocks.#.attn.to_add_out.weight"}, false},
    {"double_blocks.#.txt_attn.norm.query_norm.scale",
     {"transformer_blocks.#.attn.norm_added_q.weight"},
     false},
    {"double_blocks.#.txt_attn.norm.key_norm.scale",
     {"transformer_blocks.#.attn.norm_added_k.weight"},
     false},
    {"double_blocks.#.txt_mlp.0.weight", {"transformer_blocks.#.ff_context.linear_in.weight"}, false},
    {"double_blocks.#.txt_mlp.2.weight", {"transformer_blocks.#.ff_context.linear_out.weight"}, false},
    {"single_blocks.#.linear1.weight", {"single_transformer_blocks.#.attn.to_qkv_mlp_proj.weight"}, false},
    {"single_blocks.#.linear2.weight", {"single_transformer_blocks.#.attn.to_out.weight"}, false},
    {"single_blocks.#.norm.query_norm.scale", {"single_transformer_blocks.#.attn.norm_q.weight"}, false},
    {"single_blocks.#.norm.key_norm.scale", {"single_transformer_blocks.#.attn.norm_k.weight"}, false},
};
enum { TENSOR_COUNT = sizeof TENSORS / sizeof *TENSORS };

static void numbered(const char *pattern, int block, char name[160]) {
    const char *hash = strchr(pattern, '#');
    if (hash)
        snprintf(name, 160, "%.*s%d%s", (int)(hash - pattern), pattern, block, hash + 1);
    else
        snprintf(name, 160, "%s", pattern);
}

// Adds TENSORS[index] for a block; false when the base has no such block.
static bool add_tensor(const struct checkpoint *base, struct safetensors_writer *writer, int index,
                       int block) {
    float *values = malloc(1 << 20);
    int64_t shape[2] = {0}, count = 0;
    int rank = 0;
    char name[160];
    struct error error = {0};
    for (int i = 0; i < 3 && TENSORS[index].diffusers[i]; i++) {
        numbered(TENSORS[index].diffusers[i], block, name);
        const struct checkpoint_entry *entry = checkpoint_find(base, name);
        if (!entry) {
            free(values);
            return false;
        }
        const int64_t more = tensor_values(&entry->tensor);
        assert_true(dtype_decode(entry->tensor.type, entry->tensor.data, values + count, more));
        count += more;
        rank = entry->tensor.rank;
        shape[0] += entry->tensor.shape[0];
        shape[1] = entry->tensor.shape[1];
    }
    float *turned = malloc((size_t)count * sizeof *turned);
    const int64_t half = TENSORS[index].swapped ? count / 2 : 0;
    memcpy(turned, values + half, (size_t)(count - half) * sizeof *turned);
    memcpy(turned + count - half, values, (size_t)half * sizeof *turned);
    numbered(TENSORS[index].bfl, block, name);
    assert_ok(safetensors_writer_add(writer, name, DTYPE_F32, rank, shape, turned, &error), error);
    free(turned);
    free(values);
    return true;
}

// Writes [folder]/transformer: model-b with BFL's names.
static void write_bfl(const char *folder) {
    char path[300], *json;
    size_t size;
    struct error error = {0};
    snprintf(path, sizeof path, "%s/transformer", folder);
    assert_ok(folder_make(path, &error), error);
    assert_ok(file_read(FIXTURES "model-b/transformer/config.json", 1 << 16, &json, &size, &error), error);
    snprintf(path, sizeof path, "%s/transformer/config.json", folder);
    assert_ok(file_write(path, json, size, &error), error);
    free(json);
    struct checkpoint *base = checkpoint_open(FIXTURES "model-b/transformer", &error);
    struct safetensors_writer *writer = safetensors_writer_new();
    assert_ok(base, error);
    for (int i = 0; i < TENSOR_COUNT; i++)
        for (int block = 0; add_tensor(base, writer, i, block) && strchr(TENSORS[i].bfl, '#');) block++;
    snprintf(path, sizeof path, "%s/transformer/model.safetensors", folder);
    assert_ok(safetensors_writer_save(writer, path, &error), error);
    safetensors_writer_free(writer);
    checkpoint_close(base);
}

// The velocity of the transformer in [folder] with a LoRA (NULL: none).
static void run(const char *folder, const struct lora *lora, float velocity[VALUES]) {
    struct error error = {0};
    struct token_grid grid = {2, 3, 0};
    float embeds[4 * 24], latents[VALUES];
    struct pool *pool = pool_open(2, &error);
    struct device *device = device_open_cpu(&(struct device_options){.pool = pool}, &error);
    assert_ok(device, error);
    struct transformer *transformer = transformer_open(folder, device, &error);
    assert_ok(transformer, error);
    assert_ok(transformer_adapt(transformer, &(struct adapter){lora, 0.8f}, lora != NULL, &error), error);
    for (int i = 0; i < 4 * 24; i++) embeds[i] = sinf((float)i);
    for (int i = 0; i < VALUES; i++) latents[i] = cosf((float)(3 * i));
    struct transformer_run *begun =
        transformer_begin(transformer, COMPUTE_F32, 4, embeds, 1, &grid, NULL, &error);
    assert_ok(begun, error);
    assert_ok(transformer_velocity(begun, latents, 400, 1, NULL, NULL, NULL, velocity, &error), error);
    transformer_end(begun);
    transformer_close(transformer);
    device_close(device);
    pool_close(pool);
}

static void any_spelling_beside_any_layout(void **state) {
    char folder[64] = "/tmp/limn-lora-XXXXXX", command[100];
    struct lora_layer layers[LORA_LAYER_COUNT];
    float expected[VALUES], velocity[VALUES];
    assert_non_null(mkdtemp(folder));
    write_bfl(folder);
    lora_layers_make(layers, 9);
    run(FIXTURES "model-b", NULL, expected);
    run(folder, NULL, velocity);
    assert_true(relative_error(velocity, expected, VALUES) <= F32_MOST);
    for (int f = 0; f < LORA_FAMILY_COUNT; f += 3) { // diffusers, BFL, kohya
        struct error error = {0};
        struct buffer file = lora_family_file(&LORA_FAMILIES[f], layers, DTYPE_F32);
        struct checkpoint *checkpoint = checkpoint_parse("file", file.data, file.length, &error);
        struct lora *lora = lora_read("file", checkpoint, &SHAPE, &error);
        assert_ok(lora, error);
        run(FIXTURES "model-b", lora, expected);
        run(folder, lora, velocity);
        const double off = relative_error(velocity, expected, VALUES);
        if (!(off <= F32_MOST)) fail_msg("%s: off by %.3g", LORA_FAMILIES[f].prefix, off);
        lora_close(lora);
        buffer_free(&file);
    }
    lora_layers_free(layers);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_spelling_beside_any_layout)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
