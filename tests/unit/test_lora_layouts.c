// LoRAs beside a base in BFL's layout (fused layers, the final modulation the other way round) and beside quantised bases.
#include "layout_files.h"
#include "lora_model.h"

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

// Writes model-b with BFL's names.
static void write_bfl(const char *folder) {
    struct error error = {0};
    struct checkpoint *base = checkpoint_open(FIXTURES "model-b/transformer", &error);
    struct safetensors_writer *writer = safetensors_writer_new();
    assert_ok(base, error);
    for (int i = 0; i < TENSOR_COUNT; i++)
        for (int block = 0; add_tensor(base, writer, i, block) && strchr(TENSORS[i].bfl, '#');) block++;
    model_save(writer, folder);
    safetensors_writer_free(writer);
    checkpoint_close(base);
}

static void any_spelling_beside_any_layout(void **state) {
    char folder[64];
    struct lora_layer layers[LORA_LAYER_COUNT];
    float expected[VALUES], velocity[VALUES];
    model_begin(folder);
    write_bfl(folder);
    lora_layers_make(layers, 9);
    struct machine diffusers = machine_open(FIXTURES "model-b"), bfl = machine_open(folder);
    run(&diffusers, COMPUTE_F32, expected);
    run(&bfl, COMPUTE_F32, velocity);
    check_close("without a LoRA", velocity, expected, F32_MOST);
    for (int f = 0; f < LORA_FAMILY_COUNT; f += 3) { // diffusers, BFL, kohya
        run_with(&diffusers, lora_family_file(&LORA_FAMILIES[f], layers, DTYPE_F32), 0.8f, COMPUTE_F32,
                 expected);
        run_with(&bfl, lora_family_file(&LORA_FAMILIES[f], layers, DTYPE_F32), 0.8f, COMPUTE_F32, velocity);
        check_close(LORA_FAMILIES[f].prefix, velocity, expected, F32_MOST);
    }
    machine_close(diffusers);
    machine_close(bfl);
    lora_layers_free(layers);
    model_end(folder);
}

// A change beside codes and scales is the one beside the weights that they stand for, which test_lora.c holds against merged ones.
static void beside_quantised_weights(void **state) {
    static const char *const files[] = {"q8_0.gguf", "fp8.safetensors", "fp8-old.safetensors",
                                        "nvfp4.safetensors", "nf4.safetensors"};
    struct lora_layer layers[LORA_LAYER_COUNT];
    lora_layers_make(layers, 10);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char folder[64], decoded[64], from[64];
        float plain[VALUES], expected[VALUES], velocity[VALUES];
        folder_begin(folder);
        model_begin(decoded);
        snprintf(from, sizeof from, "layouts/%s", files[i]);
        copy_fixture(from, in(folder, files[i]));
        write_decoded(in(folder, files[i]), in(decoded, "transformer/model.safetensors"));
        struct machine stored = machine_open(folder), reference = machine_open(decoded);
        for (int f = 0; f < LORA_FAMILY_COUNT; f += 3) {
            run(&stored, COMPUTE_F32, plain);
            run_with(&reference, lora_family_file(&LORA_FAMILIES[f], layers, DTYPE_F32), 0.8f, COMPUTE_F32,
                     expected);
            run_with(&stored, lora_family_file(&LORA_FAMILIES[f], layers, DTYPE_F32), 0.8f, COMPUTE_F32,
                     velocity);
            check_close(files[i], velocity, expected, F32_MOST);
            assert_true(relative_error(velocity, plain, VALUES) > 0.02);
        }
        machine_close(stored);
        machine_close(reference);
        folder_end(folder);
        model_end(decoded);
    }
    lora_layers_free(layers);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_spelling_beside_any_layout),
                                       cmocka_unit_test(beside_quantised_weights)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
