// See lora_names.h.
#include "weights/lora_names.h"

#include <string.h>

// ----------------------------------------------------------------------------------------------------------- modules

enum { ALL = -1 };

// # stands for the number of a block, and a point for an underscore in names that have those instead. The first name is
// diffusers', the second BFL's; more are spellings met in files. rows: hidden_rows H + mlp_rows M, from hidden_first H on.
static const struct module_name {
    const char *name;
    enum lora_module module;
    int hidden_first, hidden_rows, mlp_rows; // hidden_rows ALL: the whole module
    bool swapped;
} NAMES[] = {
    {"x_embedder", LORA_LATENT_EMBEDDER, 0, ALL, 0, false},
    {"img_in", LORA_LATENT_EMBEDDER, 0, ALL, 0, false},
    {"context_embedder", LORA_CONTEXT_EMBEDDER, 0, ALL, 0, false},
    {"txt_in", LORA_CONTEXT_EMBEDDER, 0, ALL, 0, false},
    {"time_guidance_embed.timestep_embedder.linear_1", LORA_TIME_IN, 0, ALL, 0, false},
    {"time_in.in_layer", LORA_TIME_IN, 0, ALL, 0, false},
    {"time_guidance_embed.timestep_embedder.linear_2", LORA_TIME_OUT, 0, ALL, 0, false},
    {"time_in.out_layer", LORA_TIME_OUT, 0, ALL, 0, false},
    {"time_guidance_embed.guidance_embedder.linear_1", LORA_GUIDANCE_IN, 0, ALL, 0, false},
    {"guidance_in.in_layer", LORA_GUIDANCE_IN, 0, ALL, 0, false},
    {"time_guidance_embed.guidance_embedder.linear_2", LORA_GUIDANCE_OUT, 0, ALL, 0, false},
    {"guidance_in.out_layer", LORA_GUIDANCE_OUT, 0, ALL, 0, false},
    {"double_stream_modulation_img.linear", LORA_DOUBLE_MODULATION_IMAGE, 0, ALL, 0, false},
    {"double_stream_modulation_img.lin", LORA_DOUBLE_MODULATION_IMAGE, 0, ALL, 0, false},
    {"double_stream_modulation_txt.linear", LORA_DOUBLE_MODULATION_TEXT, 0, ALL, 0, false},
    {"double_stream_modulation_txt.lin", LORA_DOUBLE_MODULATION_TEXT, 0, ALL, 0, false},
    {"single_stream_modulation.linear", LORA_SINGLE_MODULATION, 0, ALL, 0, false},
    {"single_stream_modulation.lin", LORA_SINGLE_MODULATION, 0, ALL, 0, false},
    {"norm_out.linear", LORA_OUT_MODULATION, 0, ALL, 0, false},
    {"final_layer.adaLN_modulation.1", LORA_OUT_MODULATION, 0, ALL, 0, true},
    {"proj_out", LORA_OUT, 0, ALL, 0, false},
    {"final_layer.linear", LORA_OUT, 0, ALL, 0, false},

    {"transformer_blocks.#.attn.to_qkv", LORA_IMAGE_QKV, 0, ALL, 0, false},
    {"double_blocks.#.img_attn.qkv", LORA_IMAGE_QKV, 0, ALL, 0, false},
    {"transformer_blocks.#.attn.to_q", LORA_IMAGE_QKV, 0, 1, 0, false},
    {"transformer_blocks.#.attn.to_k", LORA_IMAGE_QKV, 1, 1, 0, false},
    {"transformer_blocks.#.attn.to_v", LORA_IMAGE_QKV, 2, 1, 0, false},
    {"transformer_blocks.#.attn.to_out.0", LORA_IMAGE_OUT, 0, ALL, 0, false},
    {"double_blocks.#.img_attn.proj", LORA_IMAGE_OUT, 0, ALL, 0, false},
    {"transformer_blocks.#.ff.linear_in", LORA_IMAGE_MLP_IN, 0, ALL, 0, false},
    {"double_blocks.#.img_mlp.0", LORA_IMAGE_MLP_IN, 0, ALL, 0, false},
    {"transformer_blocks.#.ff.linear_out", LORA_IMAGE_MLP_OUT, 0, ALL, 0, false},
    {"double_blocks.#.img_mlp.2", LORA_IMAGE_MLP_OUT, 0, ALL, 0, false},

    {"transformer_blocks.#.attn.to_added_qkv", LORA_TEXT_QKV, 0, ALL, 0, false},
    {"double_blocks.#.txt_attn.qkv", LORA_TEXT_QKV, 0, ALL, 0, false},
    {"transformer_blocks.#.attn.add_q_proj", LORA_TEXT_QKV, 0, 1, 0, false},
    {"transformer_blocks.#.attn.add_k_proj", LORA_TEXT_QKV, 1, 1, 0, false},
    {"transformer_blocks.#.attn.add_v_proj", LORA_TEXT_QKV, 2, 1, 0, false},
    {"transformer_blocks.#.attn.to_add_out", LORA_TEXT_OUT, 0, ALL, 0, false},
    {"double_blocks.#.txt_attn.proj", LORA_TEXT_OUT, 0, ALL, 0, false},
    {"transformer_blocks.#.ff_context.linear_in", LORA_TEXT_MLP_IN, 0, ALL, 0, false},
    {"double_blocks.#.txt_mlp.0", LORA_TEXT_MLP_IN, 0, ALL, 0, false},
    {"transformer_blocks.#.ff_context.linear_out", LORA_TEXT_MLP_OUT, 0, ALL, 0, false},
    {"double_blocks.#.txt_mlp.2", LORA_TEXT_MLP_OUT, 0, ALL, 0, false},

    {"single_transformer_blocks.#.attn.to_qkv_mlp_proj", LORA_SINGLE_IN, 0, ALL, 0, false},
    {"single_blocks.#.linear1", LORA_SINGLE_IN, 0, ALL, 0, false},
    // The fused layer in pieces, as programs that split it for training name them.
    {"single_transformer_blocks.#.attn.to_q", LORA_SINGLE_IN, 0, 1, 0, false},
    {"single_transformer_blocks.#.attn.to_k", LORA_SINGLE_IN, 1, 1, 0, false},
    {"single_transformer_blocks.#.attn.to_v", LORA_SINGLE_IN, 2, 1, 0, false},
    {"single_transformer_blocks.#.proj_mlp", LORA_SINGLE_IN, 3, 0, 2, false},
    {"single_transformer_blocks.#.attn.to_out", LORA_SINGLE_OUT, 0, ALL, 0, false},
    {"single_blocks.#.linear2", LORA_SINGLE_OUT, 0, ALL, 0, false},
    {"single_transformer_blocks.#.proj_out", LORA_SINGLE_OUT, 0, ALL, 0, false},
};
enum { NAME_COUNT = sizeof NAMES / sizeof *NAMES, BLOCK_DIGITS_MOST = 6 };

static bool is_double(enum lora_module module) {
    return module >= LORA_IMAGE_QKV && module <= LORA_TEXT_MLP_OUT;
}

static bool is_single(enum lora_module module) {
    return module == LORA_SINGLE_IN || module == LORA_SINGLE_OUT;
}

void lora_module_size(const struct lora_shape *shape, enum lora_module module, int64_t *out, int64_t *in) {
    const int64_t hidden = shape->hidden, mlp = shape->mlp_hidden;
    *out = *in = hidden;
    switch (module) {
    case LORA_LATENT_EMBEDDER:
        *in = shape->in_channels;
        break;
    case LORA_CONTEXT_EMBEDDER:
        *in = shape->context;
        break;
    case LORA_TIME_IN:
    case LORA_GUIDANCE_IN:
        *in = shape->timestep_width;
        break;
    case LORA_DOUBLE_MODULATION_IMAGE:
    case LORA_DOUBLE_MODULATION_TEXT:
        *out = 6 * hidden;
        break;
    case LORA_SINGLE_MODULATION:
    case LORA_IMAGE_QKV:
    case LORA_TEXT_QKV:
        *out = 3 * hidden;
        break;
    case LORA_OUT_MODULATION:
        *out = 2 * hidden;
        break;
    case LORA_OUT:
        *out = shape->in_channels;
        break;
    case LORA_IMAGE_MLP_IN:
    case LORA_TEXT_MLP_IN:
        *out = 2 * mlp;
        break;
    case LORA_IMAGE_MLP_OUT:
    case LORA_TEXT_MLP_OUT:
        *in = mlp;
        break;
    case LORA_SINGLE_IN:
        *out = 3 * hidden + 2 * mlp;
        break;
    case LORA_SINGLE_OUT:
        *in = hidden + mlp;
        break;
    default:
        break;
    }
}

const char *lora_module_name(enum lora_module module) {
    for (int i = 0; i < NAME_COUNT; i++)
        if (NAMES[i].module == module) return NAMES[i].name;
    return "?";
}

// ---------------------------------------------------------------------------------------------------------- matching

// Whether [text, text + length) is the name; the number at # goes to *block.
static bool matches(const char *name, const char *text, size_t length, bool underscored, int64_t *block) {
    const char *end = text + length;
    *block = 0;
    for (; *name; name++) {
        if (*name == '#') {
            int digits = 0;
            for (; text < end && *text >= '0' && *text <= '9'; text++) {
                if (++digits > BLOCK_DIGITS_MOST) return false;
                *block = *block * 10 + (*text - '0');
            }
            if (digits == 0) return false;
        } else if (text == end || *text++ != (*name == '.' && underscored ? '_' : *name)) {
            return false;
        }
    }
    return text == end;
}

static struct lora_place place_of(const struct module_name *name, const struct lora_shape *shape,
                                  int64_t block) {
    struct lora_place place = {.module = name->module, .block = block, .swapped = name->swapped};
    lora_module_size(shape, name->module, &place.rows, &place.in);
    if (name->hidden_rows == ALL) return place;
    place.first = name->hidden_first * shape->hidden;
    place.rows = name->hidden_rows * shape->hidden + name->mlp_rows * shape->mlp_hidden;
    return place;
}

// The place of a module's name without prefix; LORA_KEY_DOWN where there is one.
static enum lora_key_kind find(const char *text, size_t length, bool underscored,
                               const struct lora_shape *shape, struct lora_place *place) {
    // What a program left of "transformer_blocks" that took the prefix "transformer" for a set of letters.
    static const char cut[] = "sformer_blocks", whole[] = "transformer_blocks";
    char mended[160];
    if (length > sizeof cut - 1 && length < 120 && !memcmp(text, cut, sizeof cut - 1)) {
        memcpy(mended, whole, sizeof whole - 1);
        memcpy(mended + sizeof whole - 1, text + sizeof cut - 1, length - (sizeof cut - 1));
        length += sizeof whole - sizeof cut;
        text = mended;
    }
    for (int i = 0; i < NAME_COUNT; i++) {
        const enum lora_module module = NAMES[i].module;
        int64_t block;
        if (!matches(NAMES[i].name, text, length, underscored, &block)) continue;
        if (!shape->guidance && (module == LORA_GUIDANCE_IN || module == LORA_GUIDANCE_OUT))
            return LORA_KEY_UNKNOWN;
        if ((is_double(module) && block >= shape->double_blocks) ||
            (is_single(module) && block >= shape->single_blocks))
            return LORA_KEY_BEYOND;
        *place = place_of(&NAMES[i], shape, block);
        return LORA_KEY_DOWN;
    }
    return LORA_KEY_UNKNOWN;
}

static bool starts(const char *text, const char *start) {
    return !strncmp(text, start, strlen(start));
}

// Steps over the prefixes; *underscored says whether the rest has underscores for points.
static const char *skip_prefixes(const char *key, bool *underscored) {
    static const char *const pointed[] = {"base_model.model.", "model.diffusion_model.", "diffusion_model.",
                                          "transformer.", "model."};
    static const char *const others[] = {"lora_unet_", "lora_transformer_"};
    *underscored = false;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (starts(key, others[i])) {
            *underscored = true;
            return key + strlen(others[i]);
        }
    for (size_t i = 0; i < sizeof pointed / sizeof *pointed; i++) // each may stand there once, in this order
        if (starts(key, pointed[i])) key += strlen(pointed[i]);
    return key;
}

bool lora_place_find(const char *module, const struct lora_shape *shape, struct lora_place *place) {
    bool underscored;
    const char *name = skip_prefixes(module, &underscored);
    return find(name, strlen(name), underscored, shape, place) == LORA_KEY_DOWN;
}

// -------------------------------------------------------------------------------------------------------------- keys

static const struct {
    const char *ending;
    enum lora_key_kind kind;
} ENDINGS[] = {
    {".lora_A.weight", LORA_KEY_DOWN},
    {".lora_A.default.weight", LORA_KEY_DOWN},
    {".lora_down.weight", LORA_KEY_DOWN},
    {".lora_down.default.weight", LORA_KEY_DOWN},
    {".lora.down.weight", LORA_KEY_DOWN},
    {".lora_B.weight", LORA_KEY_UP},
    {".lora_B.default.weight", LORA_KEY_UP},
    {".lora_up.weight", LORA_KEY_UP},
    {".lora_up.default.weight", LORA_KEY_UP},
    {".lora.up.weight", LORA_KEY_UP},
    {".alpha", LORA_KEY_ALPHA},
};
enum { ENDING_COUNT = sizeof ENDINGS / sizeof *ENDINGS };

// Kinds that are no LoRA of the transformer's products; applied as one they would give another picture without a word.
static const struct {
    enum { BEGINS, CONTAINS, ENDS } where;
    const char *part, *kind;
} REFUSED[] = {
    {CONTAINS, ".lokr_", "a LoKr (LyCORIS)"},
    {CONTAINS, ".hada_", "a LoHa (LyCORIS)"},
    {CONTAINS, ".oft_", "an OFT adapter"},
    {CONTAINS, ".boft_", "a BOFT adapter"},
    {CONTAINS, ".dora_scale", "a DoRA"},
    {CONTAINS, ".lora_magnitude_vector", "a DoRA"},
    {CONTAINS, ".lora_mid.", "a LoRA of a convolution (LoCon)"},
    {CONTAINS, ".lora_embedding_", "a LoRA of an embedding table"},
    {ENDS, ".lora_A.bias", "a LoRA with biases"},
    {ENDS, ".lora_B.bias", "a LoRA with biases"},
    {ENDS, ".lora_down.bias", "a LoRA with biases"},
    {ENDS, ".lora_up.bias", "a LoRA with biases"},
    {ENDS, ".diff", "whole differences of weights"},
    {ENDS, ".diff_b", "whole differences of biases"},
    {ENDS, ".set_weight", "whole weights"},
    {ENDS, ".weight_scale", "scaled fp8"},
    {ENDS, ".scale_weight", "scaled fp8"},
    {BEGINS, "lora_te", "a LoRA of a text encoder"},
    {BEGINS, "lora_clip", "a LoRA of a text encoder"},
    {BEGINS, "text_encoder", "a LoRA of a text encoder"},
    {BEGINS, "language_model.", "a LoRA of a text encoder"},
    {BEGINS, "base_model.model.language_model.", "a LoRA of a text encoder"},
    {BEGINS, "base_model.model.model.layers.", "a LoRA of a language model"},
};
enum { REFUSED_COUNT = sizeof REFUSED / sizeof *REFUSED };

static bool ends(const char *text, size_t length, const char *end) {
    const size_t size = strlen(end);
    return length >= size && !memcmp(text + length - size, end, size);
}

static const char *refusal_of(const char *key) {
    for (int i = 0; i < REFUSED_COUNT; i++) {
        const char *part = REFUSED[i].part;
        if (REFUSED[i].where == BEGINS     ? starts(key, part)
            : REFUSED[i].where == CONTAINS ? strstr(key, part) != NULL
                                           : ends(key, strlen(key), part))
            return REFUSED[i].kind;
    }
    return NULL;
}

void lora_key_read(const char *key, const struct lora_shape *shape, struct lora_key *to) {
    bool underscored;
    *to = (struct lora_key){.kind = LORA_KEY_REFUSED, .refused = refusal_of(key)};
    if (to->refused) return;
    to->kind = LORA_KEY_UNKNOWN;
    to->module = skip_prefixes(key, &underscored);
    const size_t length = strlen(to->module);
    for (int i = 0; i < ENDING_COUNT; i++) {
        if (!ends(to->module, length, ENDINGS[i].ending)) continue;
        to->module_length = length - strlen(ENDINGS[i].ending);
        const enum lora_key_kind found = find(to->module, to->module_length, underscored, shape, &to->place);
        to->kind = found == LORA_KEY_DOWN ? ENDINGS[i].kind : found;
        return;
    }
}
