// Scales beside quantised tensors: found, checked, and cut together with the rows that they belong to. The quantised files of
// tests/fixtures/layouts and the rows expected of them are written by tests/reference/make_layouts.py.
#include "layout_files.h"

#include "tensor/stored.h"
#include "weights/companions.h"
#include "weights/layout.h"

#define LAYOUTS FIXTURES "layouts/"

static void rows_are_as_expected(void **state) {
    static const char *const files[] = {"fp8.safetensors", "fp8-old.safetensors", "nvfp4.safetensors",
                                        "nf4.safetensors", "q8_0.gguf"};
    struct error error = {0};
    struct checkpoint *expected = fixture_open("layouts/expected.safetensors");
    int64_t checked = 0;
    for (int f = 0; f < 5; f++) {
        char path[300];
        snprintf(path, sizeof path, LAYOUTS "%s", files[f]);
        struct checkpoint *checkpoint = layout_open(path, PART_TRANSFORMER, NULL, &error);
        assert_ok(checkpoint, error);
        for (int64_t i = 0; i < checkpoint_count(checkpoint); i++)
            assert_null(strstr(checkpoint_entry(checkpoint, i)->name, "scale"));
        size_t stem = strcspn(files[f], ".");
        for (int64_t i = 0; i < checkpoint_count(expected); i++) {
            const struct checkpoint_entry *entry = checkpoint_entry(expected, i);
            char name[200];
            if (strncmp(entry->name, files[f], stem) != 0 || entry->name[stem] != '/') continue;
            snprintf(name, sizeof name, "%s", entry->name + stem + 1);
            char *slash = strrchr(name, '/');
            *slash = 0;
            const struct checkpoint_entry *found = checkpoint_find(checkpoint, name);
            bool scales = found && (found->tensor.scales || found->tensor.type == DTYPE_Q8_0);
            if (!scales) fail_msg("%s: %s has no scales", files[f], name);
            int64_t row = atoi(slash + 1);
            assert_int_equal(entry->tensor.shape[0], found->tensor.shape[1]);
            float *wanted = fixture_values(entry->tensor);
            float *decoded = malloc(entry->tensor.bytes);
            assert_true(tensor_decode_row(&found->tensor, row, decoded));
            for (int64_t col = 0; col < entry->tensor.shape[0]; col++) {
                if (fabsf(decoded[col] - wanted[col]) > 1e-6f * fabsf(wanted[col]) + 1e-9f)
                    fail_msg("%s: %s [%d, %d] is decoded as %.9g, expected %.9g", files[f], name, (int)row,
                             (int)col, (double)decoded[col], (double)wanted[col]);
            }
            free(decoded);
            free(wanted);
            checked++;
        }
        checkpoint_close(checkpoint);
    }
    assert_true(checked >= 110);
    checkpoint_close(expected);
}

static void kinds_are_named(void **state) {
    static const struct {
        const char *file, *tensor, *text;
    } cases[] = {{"fp8", "transformer_blocks.1.attn.to_k.weight", "one scale"},
                 {"fp8", "single_transformer_blocks.1.attn.to_out.weight", "a scale a row"},
                 {"fp8-old", "single_transformer_blocks.1.attn.to_out.weight", "one scale"},
                 {"nvfp4", "transformer_blocks.1.ff.linear_in.weight", "NVFP4 blocks"},
                 {"nf4", "transformer_blocks.1.attn.to_v.weight", "nf4 blocks"},
                 {"nf4", "single_transformer_blocks.2.attn.to_out.weight", "nested nf4 blocks"},
                 {"fp8", "x_embedder.weight", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        char path[300];
        snprintf(path, sizeof path, LAYOUTS "%s.safetensors", cases[i].file);
        struct checkpoint *checkpoint = layout_open(path, PART_TRANSFORMER, NULL, &error);
        assert_ok(checkpoint, error);
        const char *text = companions_text(&checkpoint_find(checkpoint, cases[i].tensor)->tensor);
        if (cases[i].text)
            assert_string_equal(text, cases[i].text);
        else
            assert_null(text);
        checkpoint_close(checkpoint);
    }
}

// ------------------------------------------------------------------------------------------------------ wrong companions

struct piece {
    const char *name, *type; // type as safetensors spells it
    const char *shape;       // "2,8"
    size_t bytes;
    const char *data; // with spaces behind it; NULL: ones
};

// A file image of the pieces; [metadata] as JSON, or NULL.
static struct checkpoint *parse_pieces(const struct piece *pieces, int count, const char *metadata,
                                       struct error *error, char **image) {
    char header[4000];
    size_t used = (size_t)snprintf(header, sizeof header, "{%s%s%s", metadata ? "\"__metadata__\":" : "",
                                   metadata ? metadata : "", metadata ? "," : ""),
           at = 0;
    for (int i = 0; i < count && pieces[i].name; i++) {
        used += (size_t)snprintf(header + used, sizeof header - used,
                                 "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                                 i ? "," : "", pieces[i].name, pieces[i].type, pieces[i].shape, at,
                                 at + pieces[i].bytes);
        at += pieces[i].bytes;
    }
    used += (size_t)snprintf(header + used, sizeof header - used, "}");
    *image = malloc(8 + used + at);
    for (int i = 0; i < 8; i++) (*image)[i] = (char)((uint64_t)used >> 8 * i);
    memcpy(*image + 8, header, used);
    size_t to = 8 + used;
    for (int i = 0; i < count && pieces[i].name; i++) {
        memset(*image + to, pieces[i].data ? ' ' : 1, pieces[i].bytes);
        if (pieces[i].data) memcpy(*image + to, pieces[i].data, strlen(pieces[i].data));
        to += pieces[i].bytes;
    }
    *error = (struct error){0};
    struct checkpoint *checkpoint = checkpoint_parse("f", *image, 8 + used + at, error);
    assert_ok(checkpoint, *error);
    return checkpoint;
}

#define NF4_STATE(text) "w.quant_state.bitsandbytes__nf4", "U8", "100", 100, text

static void wrong_companions_are_refused(void **state) {
    static const struct {
        struct piece pieces[6];
        const char *metadata, *expected;
    } cases[] = {
        {{{"a.weight", "F8_E4M3", "2,3", 6}, {"a.weight_scale", "F32", "3", 12}},
         NULL,
         "f: tensor \"a.weight_scale\": F32 of shape [3], expected one scale, or one a row: [2] or [2, 1]"},
        {{{"a.weight", "F8_E4M3", "2,3", 6}, {"a.weight_scale", "I32", "", 4}},
         NULL,
         "\"a.weight_scale\": I32 of shape [], expected scales in F32"},
        {{{"a.weight", "F8_E4M3", "2,3", 6}, {"a.weight_scale", "F32", "", 4, "\xff\xff\xff\x7f"}},
         NULL,
         "\"a.weight_scale\": value 0 is not a finite number"},
        {{{"a.weight", "I8", "2,3", 6}, {"a.weight_scale", "F32", "", 4}},
         NULL,
         "\"a.weight\": I8 of shape [2, 3], expected F8_E4M3 or F8_E5M2 beside a scale"},
        {{{"a.weight", "F8_E4M3", "2,3", 6},
          {"a.weight_scale", "F32", "", 4},
          {"a.scale_weight", "F32", "", 4}},
         NULL,
         "has both weight_scale and scale_weight"},
        {{{"b.weight_scale", "F32", "", 4}},
         NULL,
         "\"b.weight_scale\" belongs to a tensor that is not there"},
        {{{"a.weight", "U8", "2,8", 16}, {"a.weight_scale", "F8_E4M3", "128,4", 512}},
         NULL,
         "NVFP4 without weight_scale_2, expected weight_scale and weight_scale_2"},
        {{{"a.weight", "U8", "2,8", 16}, {"a.weight_scale_2", "F32", "", 4}},
         NULL,
         "NVFP4 without weight_scale,"},
        {{{"a.weight", "U8", "2,9", 18},
          {"a.weight_scale", "F8_E4M3", "128,4", 512},
          {"a.weight_scale_2", "F32", "", 4}},
         NULL,
         "expected U8 [out, in / 2] for NVFP4, in a multiple of 16"},
        {{{"a.weight", "U8", "2,8", 16},
          {"a.weight_scale", "F8_E4M3", "2,1", 2},
          {"a.weight_scale_2", "F32", "", 4}},
         NULL,
         "\"a.weight_scale\": F8_E4M3 of shape [2, 1], expected F8_E4M3 [128, 4], the block scales of NVFP4"},
        {{{"a.weight", "F8_E4M3", "2,8", 16}, {"a.comfy_quant", "U8", "18", 18, "{\"format\":\"mxfp8\"}"}},
         NULL,
         "\"a.weight\": the format \"mxfp8\" is not one limn reads"},
        {{{"a.weight", "F16", "2,8", 32},
          {"a.comfy_quant", "U8", "26", 26, "{\"format\":\"float8_e4m3fn\"}"}},
         NULL,
         "stored as F16, but its format is \"float8_e4m3fn\""},
        {{{"a.weight", "F8_E4M3", "2,8", 16}, {"a.comfy_quant", "U8", "2", 2, "{]"}},
         NULL,
         "f: a.comfy_quant: "},
        {{{"a.weight", "F8_E4M3", "1,1", 1}},
         "{\"_quantization_metadata\":\"{\\\"layers\\\":{\\\"a\\\":{\\\"format\\\":\\\"int8\\\"}}}\"}",
         "the format \"int8\" is not one limn reads"},
        {{{"a.weight", "F8_E4M3", "1,1", 1}},
         "{\"_quantization_metadata\":\"{\\\"layers\\\":{\\\"b\\\":{\\\"format\\\":\\\"nvfp4\\\"}}}\"}",
         "\"layers\" names \"b\", but there is no tensor \"b.weight\""},
        {{{"a.weight", "F8_E4M3", "1,1", 1}},
         "{\"_quantization_metadata\":\"{\\\"layers\\\":{\\\"a\\\":{\\\"format\\\":\\\"float8_e4m3fn\\\","
         "\\\"convrot\\\":true}}}\"}",
         "\"float8_e4m3fn\" with \"convrot\" is not one limn reads"},
        {{{"model.diffusion_model.a.weight", "F16", "1,1", 2}},
         "{\"_quantization_metadata\":\"{\\\"layers\\\":{\\\"a\\\":\\\"nvfp4\\\"}}\"}",
         "\"model.diffusion_model.a.weight\": stored as F16, but its format is \"nvfp4\""},
        {{{"a.weight", "F8_E4M3", "1,1", 1}}, "{\"_quantization_metadata\":\"7\"}", "f: "},
        {{{"w", "U8", "16,1", 16},
          {NF4_STATE("{\"quant_type\":\"fp4\",\"blocksize\":32,\"shape\":[1,32]}                             "
                     "                    ")}},
         NULL,
         "quant_type \"fp4\", expected \"nf4\""},
        {{{"w", "U8", "15,1", 15},
          {NF4_STATE("{\"quant_type\":\"nf4\",\"blocksize\":32,\"shape\":[1,32]}                             "
                     "                    ")}},
         NULL,
         "\"w\": U8 of shape [15, 1], expected U8 codes, two a byte, for the shape in its quant_state"},
        {{{"w", "U8", "16,1", 16},
          {NF4_STATE("{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[1,32]}                             "
                     "                    ")}},
         NULL,
         "nf4 with rows of 32 values, expected a multiple of its blocksize, 64"},
        {{{"w", "U8", "16,1", 16},
          {NF4_STATE("{\"quant_type\":\"nf4\",\"blocksize\":32,\"shape\":[1,32]}                             "
                     "                    ")}},
         NULL,
         "nf4 without \"w.absmax\""},
        {{{"w", "U8", "16,1", 16},
          {NF4_STATE("{\"quant_type\":\"nf4\",\"blocksize\":32,\"shape\":[1,32]}                             "
                     "                    ")},
          {"w.absmax", "F32", "2", 8}},
         NULL,
         "\"w.absmax\": F32 of shape [2], expected 1 values in F32"},
        {{{"w", "U8", "16,1", 16},
          {NF4_STATE("{\"quant_type\":\"nf4\",\"blocksize\":32,\"shape\":[4611686018427387904,"
                     "4611686018427387904]}")}},
         NULL,
         "expected U8 codes, two a byte"},
        {{{"a.weight.SCB", "F32", "1", 4}}, NULL, "quantised as LLM.int8 of bitsandbytes"},
        {{{"a.qweight", "I32", "1", 4}}, NULL, "quantised as GPTQ, AWQ or SVDQuant"},
        {{{"a.weight_scale_inv", "F32", "1", 4}}, NULL, "quantised as fp8 with scales of 128x128 blocks"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error;
        char *image;
        struct checkpoint *checkpoint = parse_pieces(cases[i].pieces, 6, cases[i].metadata, &error, &image);
        if (companions_attach(checkpoint, &error))
            fail_msg("case %zu was accepted: %s", i, cases[i].expected);
        assert_contains(error.message, cases[i].expected);
        assert_contains(error.message, "f");
        checkpoint_close(checkpoint);
        free(image);
    }
}

// What is only for quantised activations is left out, and unscaled fp8 stays as it is.
static void other_companions_are_left_out(void **state) {
    static const struct piece pieces[] = {{"scaled_fp8", "F8_E4M3", "2", 2},
                                          {"a.weight", "F8_E5M2", "2,3", 6},
                                          {"a.scale_weight", "F16", "2,1", 4},
                                          {"a.scale_input", "F32", "", 4},
                                          {"b.weight", "F8_E4M3", "1,2", 2},
                                          {"b.input_scale", "F32", "", 4},
                                          {"b.bias", "F32", "1", 4}};
    struct error error;
    char *image;
    struct checkpoint *checkpoint = parse_pieces(pieces, 7, NULL, &error, &image);
    assert_ok(companions_attach(checkpoint, &error), error);
    assert_int_equal(checkpoint_count(checkpoint), 3);
    const struct tensor *a = &checkpoint_find(checkpoint, "a.weight")->tensor;
    assert_int_equal(a->scales->row_stride, 1);
    assert_null(checkpoint_find(checkpoint, "b.weight")->tensor.scales);
    assert_non_null(checkpoint_find(checkpoint, "b.bias"));
    // A tensor with scales is not read as if it had none.
    assert_null(checkpoint_get_f32(checkpoint, 6, &error, "a.weight"));
    assert_contains(error.message, "stored as F8_E5M2 with scales, expected F32, F16 or BF16");
    checkpoint_close(checkpoint);
    free(image);
}

// q, k and v of a fused matrix have their own rows' scales.
static void scales_are_cut_with_rows(void **state) {
    static const struct piece pieces[] = {
        {"double_stream_modulation_img.lin.weight", "F32", "6,1", 24},
        {"double_blocks.0.img_attn.qkv.weight", "F8_E4M3", "6,2", 12,
         "\x30\x31\x32\x33\x34\x35\x36\x37\x38\x39\x3a\x3b"},
        {"double_blocks.0.img_attn.qkv.weight_scale", "BF16", "6,1", 12, "@?@@@A@B@C@D"}};
    static const char *const names[] = {"to_q", "to_k", "to_v"};
    struct error error;
    char *image;
    struct layout layout;
    struct checkpoint *checkpoint = parse_pieces(pieces, 3, NULL, &error, &image);
    assert_true(layout_find(checkpoint, PART_TRANSFORMER, &layout));
    assert_string_equal(layout.name, "BFL");
    assert_ok(layout_apply(checkpoint, &layout, &error), error);
    for (int i = 0; i < 3; i++) {
        char name[80];
        snprintf(name, sizeof name, "transformer_blocks.0.attn.%s.weight", names[i]);
        const struct tensor *tensor = &checkpoint_find(checkpoint, name)->tensor;
        assert_int_equal(tensor->shape[0], 2);
        assert_int_equal(tensor->scales->first_row, 2 * i);
        for (int row = 0; row < 2; row++) {
            uint8_t codes[2] = {(uint8_t)(0x30 + 4 * i + 2 * row), (uint8_t)(0x31 + 4 * i + 2 * row)};
            float scale = bf16_to_f32((uint16_t)(0x3f40 + 0x100 * (2 * i + row))), decoded[2];
            assert_true(tensor_decode_row(tensor, row, decoded));
            for (int col = 0; col < 2; col++) assert_true(decoded[col] == f8_e4m3_to_f32(codes[col]) * scale);
        }
    }
    checkpoint_close(checkpoint);
    free(image);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_as_expected),         cmocka_unit_test(kinds_are_named),
        cmocka_unit_test(wrong_companions_are_refused), cmocka_unit_test(other_companions_are_left_out),
        cmocka_unit_test(scales_are_cut_with_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
