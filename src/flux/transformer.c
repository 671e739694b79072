// The forward pass, once for every backend and type. Source: Flux2Transformer2DModel of diffusers.
//
// DESIGN. The residual stream of the whole sequence is one f32 matrix, text rows first, so that double blocks work on two row
// ranges of it and single blocks on all of it. A block has two passes over the tokens in chunks: the first normalises and
// projects queries, keys and values of every token; the second takes a chunk through attention, output product and mlp and
// adds to its residual rows, which no other chunk reads any more. So only q, k, v and the residual stream are as long as
// the sequence; what is wider exists for one chunk. Chunks depend on the shape alone, never on the number of threads.
// Relies on transformer_parts.h, ops.h.
#include "flux/transformer_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_MOST = 2048, CHUNK_STEP = 64 };

// Rows of the joint sequence.
struct range {
    int64_t begin, end;
};

struct transformer_run {
    struct transformer *t;
    struct device *device;
    const struct ops *ops;
    enum compute compute;               // of the blocks
    enum compute outer;                 // of the text's embedding and the output layer: never 8 bits
    size_t mark;                        // of the workspace
    int64_t tokens, text, generated;    // rows: all, text, of the generated picture
    struct range streams[STREAM_COUNT]; // text; generated and references
    int64_t chunk;                      // rows of the chunk buffers
    struct matrix residual;             // [tokens, hidden] f32
    struct matrix embedded_texts[2];  // [text, hidden] f32, the same in every step; the second may be missing
    int chosen_text;                  // of the two
    struct matrix references;         // [tokens - text - generated, in_channels] f32
    struct matrix qkv;                // [tokens, 3 hidden] compute type
    struct matrix normed;             // [chunk, hidden] compute type
    struct matrix wide;               // [chunk, hidden + mlp_hidden] compute type: attention, gated mlp
    struct matrix latents;            // [generated, in_channels] f32
    struct matrix velocity;           // [generated, in_channels] f32
    float *cosines, *sines;           // [tokens, head_dim / 2]
    struct matrix sincos;             // [1, timestep_width] f32
    struct matrix embedding, scratch; // [1, hidden] f32
    struct matrix double_mods[STREAM_COUNT]; // [1, 6 hidden] f32
    struct matrix single_mods;               // [1, 3 hidden] f32
    struct matrix out_mods;                  // [1, 2 hidden] f32
    transformer_progress *progress;          // of the evaluation in work
    void *context;
    int block;
    struct error *error;
};

// ------------------------------------------------------------------------------------------------------------ helpers

static void product(struct transformer_run *run, const struct linear *weights, enum compute compute,
                    struct matrix x, const struct epilogue *epilogue, struct matrix y) {
    struct linear linear = *weights;
    linear.compute = compute;
    run->ops->linear(run->device, &linear, x, epilogue, y);
}

static const struct epilogue STORE = {.kind = EPILOGUE_STORE};
static const struct epilogue GATED_SILU = {.kind = EPILOGUE_GATED_SILU};

// Shift, scale and gate from three neighbouring parts of a modulation vector, for all rows.
static struct modulation modulation_at(const struct transformer_run *run, struct matrix mods, int part) {
    const float *data = (const float *)mods.data + part * run->t->shape.hidden;
    int64_t hidden = run->t->shape.hidden;
    return (struct modulation){
        .end = INT64_MAX, .shift = data, .scale = data + hidden, .gate = data + 2 * hidden};
}

static bool stop(struct transformer_run *run) {
    return error_set(run->error, ERROR_CANCELLED, "cancelled");
}

// Asks whether to go on; between the chunks and behind each block.
static bool go_on(struct transformer_run *run) {
    if (!run->progress) return true;
    const struct transformer_shape *shape = &run->t->shape;
    return run->progress(run->context, run->block, (int)(shape->double_blocks + shape->single_blocks)) ||
           stop(run);
}

// The next chunk of [rows] from [begin]; chunks are of nearly one size.
static struct range chunk_at(const struct transformer_run *run, struct range rows, int64_t begin) {
    int64_t count = rows.end - rows.begin, parts = count > 0 ? (count + run->chunk - 1) / run->chunk : 1;
    int64_t size = (count + parts - 1) / parts;
    size = (size + CHUNK_STEP - 1) / CHUNK_STEP * CHUNK_STEP;
    if (size > run->chunk) size = run->chunk;
    return (struct range){begin, begin + size < rows.end ? begin + size : rows.end};
}

static struct matrix residual_rows(const struct transformer_run *run, struct range rows) {
    return matrix_rows(run->residual, rows.begin, rows.end - rows.begin);
}

static void see(const struct transformer_run *run, const struct observer *observer, struct range rows,
                const char *format, int block) {
    char name[48];
    if (!observer) return;
    int64_t shape[2] = {rows.end - rows.begin, run->t->shape.hidden};
    size_t bytes = (size_t)(shape[0] * shape[1]) * sizeof(float);
    float *values = malloc(bytes ? bytes : 1);
    if (!values) {
        error_set(&run->device->status, ERROR_MEMORY, "not enough memory to observe a block");
        return;
    }
    device_download(run->device, values, residual_rows(run, rows).data, bytes);
    snprintf(name, sizeof(name), format, block);
    observer->see(observer->context, name, DTYPE_F32, 2, shape, values);
    free(values);
}

// ------------------------------------------------------------------------------------------------------ parts of blocks

// Columns of q, k or v (part 0, 1, 2) in rows of the joint sequence.
static struct matrix qkv_part(const struct transformer_run *run, int part, struct range rows) {
    int64_t hidden = run->t->shape.hidden;
    return matrix_rows(matrix_cols(run->qkv, part * hidden, hidden), rows.begin, rows.end - rows.begin);
}

static void normalise(struct transformer_run *run, struct range rows, const struct modulation *modulation) {
    run->ops->layer_norm_modulate(run->device, residual_rows(run, rows), (float)run->t->shape.eps, modulation,
                                  1, matrix_rows(run->normed, 0, rows.end - rows.begin));
}

// First pass: queries, keys and values of [rows], normed and rotated.
static bool project(struct transformer_run *run, struct range rows, const struct modulation *modulation,
                    const struct linear *qkv, const float *query_norm, const float *key_norm) {
    const struct transformer_shape *shape = &run->t->shape;
    for (struct range chunk = chunk_at(run, rows, rows.begin); chunk.begin < rows.end;
         chunk = chunk_at(run, rows, chunk.end)) {
        int64_t count = chunk.end - chunk.begin;
        normalise(run, chunk, modulation);
        product(run, qkv, run->compute, matrix_rows(run->normed, 0, count), &STORE,
                matrix_rows(run->qkv, chunk.begin, count));
        for (int part = 0; part < 2; part++)
            run->ops->norm_rope(run->device, qkv_part(run, part, chunk), (int)shape->heads,
                                part == 0 ? query_norm : key_norm, (float)shape->eps,
                                run->cosines + chunk.begin * (shape->head_dim / 2),
                                run->sines + chunk.begin * (shape->head_dim / 2), ROPE_INTERLEAVED);
        if (!go_on(run)) return false;
    }
    return true;
}

// Joint attention of the queries in [rows] over the whole sequence, into the first columns of the wide buffer.
static struct matrix attend(struct transformer_run *run, struct range rows) {
    const struct transformer_shape *shape = &run->t->shape;
    struct range all = {0, run->tokens};
    struct attention attention = {.heads = (int)shape->heads,
                                  .kv_heads = (int)shape->heads,
                                  .head_dim = (int)shape->head_dim,
                                  .scale = (float)(1 / sqrt((double)shape->head_dim))};
    struct matrix out = matrix_rows(matrix_cols(run->wide, 0, shape->hidden), 0, rows.end - rows.begin);
    run->ops->attention(run->device, &attention, qkv_part(run, 0, rows), qkv_part(run, 1, all),
                        qkv_part(run, 2, all), out);
    return out;
}

// The gated half of the mlp of what was normalised last, into the last columns of the wide buffer.
static struct matrix gated_mlp(struct transformer_run *run, struct range rows, const struct linear *mlp_in) {
    const struct transformer_shape *shape = &run->t->shape;
    int64_t count = rows.end - rows.begin;
    struct matrix out = matrix_rows(matrix_cols(run->wide, shape->hidden, shape->mlp_hidden), 0, count);
    product(run, mlp_in, run->compute, matrix_rows(run->normed, 0, count), &GATED_SILU, out);
    return out;
}

static void add_gated(struct transformer_run *run, const struct linear *weights, struct matrix x,
                      const struct modulation *modulation, struct range rows) {
    struct epilogue epilogue = {EPILOGUE_GATED_ADD, modulation, 1};
    product(run, weights, run->compute, x, &epilogue, residual_rows(run, rows));
}

// ------------------------------------------------------------------------------------------------------------- blocks

static bool double_block(struct transformer_run *run, const struct double_block *block) {
    for (int s = 0; s < STREAM_COUNT; s++) {
        const struct double_stream *stream = &block->streams[s];
        struct modulation modulation = modulation_at(run, run->double_mods[s], 0);
        if (!project(run, run->streams[s], &modulation, &stream->qkv, stream->query_norm, stream->key_norm))
            return false;
    }
    for (int s = 0; s < STREAM_COUNT; s++) {
        const struct double_stream *stream = &block->streams[s];
        struct range rows = run->streams[s];
        struct modulation attention = modulation_at(run, run->double_mods[s], 0);
        struct modulation mlp = modulation_at(run, run->double_mods[s], 3);
        for (struct range chunk = chunk_at(run, rows, rows.begin); chunk.begin < rows.end;
             chunk = chunk_at(run, rows, chunk.end)) {
            add_gated(run, &stream->out, attend(run, chunk), &attention, chunk);
            normalise(run, chunk, &mlp);
            add_gated(run, &stream->mlp_out, gated_mlp(run, chunk, &stream->mlp_in), &mlp, chunk);
            if (!go_on(run)) return false;
        }
    }
    return true;
}

// [rows]: whose residual is wanted behind the block.
static bool single_block(struct transformer_run *run, const struct single_block *block, struct range rows) {
    struct modulation modulation = modulation_at(run, run->single_mods, 0);
    if (!project(run, (struct range){0, run->tokens}, &modulation, &block->qkv, block->query_norm,
                 block->key_norm))
        return false;
    for (struct range chunk = chunk_at(run, rows, rows.begin); chunk.begin < rows.end;
         chunk = chunk_at(run, rows, chunk.end)) {
        attend(run, chunk);
        normalise(run, chunk, &modulation);
        gated_mlp(run, chunk, &block->mlp_in);
        add_gated(run, &block->out, matrix_rows(run->wide, 0, chunk.end - chunk.begin), &modulation, chunk);
        if (!go_on(run)) return false;
    }
    return true;
}

static bool all_blocks(struct transformer_run *run, const struct observer *observer) {
    const struct transformer *t = run->t;
    struct range all = {0, run->tokens}, generated = {run->text, run->text + run->generated};
    run->block = 0;
    for (int64_t i = 0; i < t->shape.double_blocks; i++) {
        if (!double_block(run, &t->double_blocks[i])) return false;
        see(run, observer, run->streams[STREAM_TEXT], "double_%d_txt", (int)i);
        see(run, observer, run->streams[STREAM_IMAGE], "double_%d_img", (int)i);
        run->block++;
        if (!go_on(run)) return false;
    }
    for (int64_t i = 0; i < t->shape.single_blocks; i++) {
        // Behind the last block only the generated picture's tokens are read.
        bool last = i == t->shape.single_blocks - 1 && !observer;
        if (!single_block(run, &t->single_blocks[i], last ? generated : all)) return false;
        see(run, observer, all, "single_%d", (int)i);
        run->block++;
        if (!go_on(run)) return false;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------- embeddings and output

// The embedding of a scalar, added to run->embedding where [add] is set, else stored there. All in f32.
static void embed_scalar(struct transformer_run *run, const struct scalar_embedder *embedder, float value,
                         bool add) {
    struct epilogue epilogue = {.kind = add ? EPILOGUE_ADD : EPILOGUE_STORE};
    run->ops->timestep_embedding(run->device, value, run->sincos);
    product(run, &embedder->in, COMPUTE_F32, run->sincos, &STORE, run->scratch);
    run->ops->silu(run->device, run->scratch, run->scratch);
    product(run, &embedder->out, COMPUTE_F32, run->scratch, &epilogue, run->embedding);
}

// Modulation vectors of this step, shared by all blocks of a kind.
static void modulate(struct transformer_run *run, float timestep, float guidance) {
    const struct transformer *t = run->t;
    float sigma = timestep / 1000; // the reference divides and multiplies again, in f32
    embed_scalar(run, &t->time, sigma * 1000, false);
    if (t->shape.guidance && guidance >= 0) embed_scalar(run, &t->guidance, guidance * 1000, true);
    run->ops->silu(run->device, run->embedding, run->scratch);
    for (int s = 0; s < STREAM_COUNT; s++)
        product(run, &t->double_modulation[s], COMPUTE_F32, run->scratch, &STORE, run->double_mods[s]);
    product(run, &t->single_modulation, COMPUTE_F32, run->scratch, &STORE, run->single_mods);
    product(run, &t->out_modulation, COMPUTE_F32, run->scratch, &STORE, run->out_mods);
}

// The residual stream at the start of a step: embedded text, latents, references. Latents are embedded in f32: the product is
// small, and what is rounded here is rounded in every step.
static void embed(struct transformer_run *run, const float *latents) {
    struct range text = run->streams[STREAM_TEXT], generated = {run->text, run->text + run->generated};
    struct range references = {generated.end, run->tokens};
    device_upload(run->device, run->latents.data, latents,
                  (size_t)(run->generated * run->t->shape.in_channels) * sizeof(float));
    run->ops->copy(run->device, run->embedded_texts[run->chosen_text], residual_rows(run, text));
    product(run, &run->t->latent_embedder, COMPUTE_F32, run->latents, &STORE, residual_rows(run, generated));
    if (references.begin < references.end)
        product(run, &run->t->latent_embedder, COMPUTE_F32, run->references, &STORE,
                residual_rows(run, references));
}

static void read_velocity(struct transformer_run *run, float *velocity) {
    const struct transformer_shape *shape = &run->t->shape;
    const float *mods = run->out_mods.data; // scale first, as diffusers stores it
    struct modulation modulation = {.end = INT64_MAX, .scale = mods, .shift = mods + shape->hidden};
    struct range rows = {run->text, run->text + run->generated};
    for (struct range chunk = chunk_at(run, rows, rows.begin); chunk.begin < rows.end;
         chunk = chunk_at(run, rows, chunk.end)) {
        int64_t count = chunk.end - chunk.begin;
        normalise(run, chunk, &modulation);
        product(run, &run->t->out, run->outer, matrix_rows(run->normed, 0, count), &STORE,
                matrix_rows(run->velocity, chunk.begin - run->text, count));
    }
    device_download(run->device, velocity, run->velocity.data,
                    (size_t)(run->generated * shape->in_channels) * sizeof(float));
}

bool transformer_velocity(struct transformer_run *run, const float *latents, float timestep, float guidance,
                          transformer_progress *progress, void *context, const struct observer *observer,
                          float *velocity, struct error *error) {
    run->progress = progress;
    run->context = context;
    run->error = error;
    modulate(run, timestep, guidance);
    embed(run, latents);
    if (!all_blocks(run, observer)) return false;
    read_velocity(run, velocity);
    return device_status(run->device, error);
}

// ---------------------------------------------------------------------------------------------------------- begin, end

static struct matrix buffer(struct transformer_run *run, enum dtype type, int64_t rows, int64_t cols) {
    return workspace_matrix(run->device, type, rows, cols);
}

static void allocate(struct transformer_run *run) {
    const struct transformer_shape *shape = &run->t->shape;
    enum dtype type = compute_dtype(run->compute);
    int64_t hidden = shape->hidden;
    run->residual = buffer(run, DTYPE_F32, run->tokens, hidden);
    run->embedded_texts[0] = buffer(run, DTYPE_F32, run->text, hidden);
    run->references = buffer(run, DTYPE_F32, run->tokens - run->text - run->generated, shape->in_channels);
    run->qkv = buffer(run, type, run->tokens, 3 * hidden);
    run->normed = buffer(run, type, run->chunk, hidden);
    run->wide = buffer(run, type, run->chunk, hidden + shape->mlp_hidden);
    run->latents = buffer(run, DTYPE_F32, run->generated, shape->in_channels);
    run->velocity = buffer(run, DTYPE_F32, run->generated, shape->in_channels);
    run->sincos = buffer(run, DTYPE_F32, 1, shape->timestep_width);
    run->embedding = buffer(run, DTYPE_F32, 1, hidden);
    run->scratch = buffer(run, DTYPE_F32, 1, hidden);
    for (int s = 0; s < STREAM_COUNT; s++) run->double_mods[s] = buffer(run, DTYPE_F32, 1, 6 * hidden);
    run->single_mods = buffer(run, DTYPE_F32, 1, 3 * hidden);
    run->out_mods = buffer(run, DTYPE_F32, 1, 2 * hidden);
    run->cosines = buffer(run, DTYPE_F32, run->tokens, shape->head_dim / 2).data;
    run->sines = buffer(run, DTYPE_F32, run->tokens, shape->head_dim / 2).data;
}

static bool make_tables(struct transformer_run *run, int grid_count, const struct token_grid *grids,
                        struct error *error) {
    const struct transformer_shape *shape = &run->t->shape;
    size_t bytes = (size_t)(run->tokens * (shape->head_dim / 2)) * sizeof(float);
    float *tables = malloc(2 * bytes), *sines = tables ? tables + bytes / sizeof(float) : NULL;
    if (!tables)
        return error_set(error, ERROR_MEMORY, "not enough memory for the positions of %lld tokens",
                         (long long)run->tokens);
    positions_rope((int)run->text, grid_count, grids, shape->axes, shape->rope_theta, tables, sines);
    device_upload(run->device, run->cosines, tables, bytes);
    device_upload(run->device, run->sines, sines, bytes);
    free(tables);
    return true;
}

// The text does not change over the steps: it is embedded once, from passing workspace.
static void embed_text(struct transformer_run *run, const float *prompt_embeds, struct matrix embedded) {
    const struct linear *weights = &run->t->context_embedder;
    size_t mark = workspace_mark(run->device);
    struct matrix x = buffer(run, DTYPE_F32, run->text, weights->in);
    if (x.data) {
        device_upload(run->device, x.data, prompt_embeds, (size_t)(run->text * weights->in) * sizeof(float));
        product(run, weights, run->outer, x, &STORE, embedded);
    }
    workspace_release(run->device, mark);
}

struct transformer_run *transformer_begin(struct transformer *t, enum compute compute, int text_length,
                                          const float *prompt_embeds, int grid_count,
                                          const struct token_grid *grids, const float *references,
                                          struct error *error) {
    struct transformer_run *run = calloc(1, sizeof(*run));
    if (!run) {
        error_set(error, ERROR_MEMORY, "not enough memory to begin a request");
        return NULL;
    }
    run->t = t;
    run->device = t->device;
    run->ops = t->device->ops;
    run->compute = compute;
    run->outer = compute == COMPUTE_I8 ? COMPUTE_BF16 : compute;
    run->mark = workspace_mark(t->device);
    run->text = text_length;
    run->generated = token_grid_tokens(&grids[0]);
    run->tokens = run->text;
    for (int g = 0; g < grid_count; g++) run->tokens += token_grid_tokens(&grids[g]);
    run->streams[STREAM_TEXT] = (struct range){0, run->text};
    run->streams[STREAM_IMAGE] = (struct range){run->text, run->tokens};
    run->chunk = run->tokens < CHUNK_MOST ? run->tokens : CHUNK_MOST;
    allocate(run);
    if (device_status(t->device, error) && make_tables(run, grid_count, grids, error)) {
        embed_text(run, prompt_embeds, run->embedded_texts[0]);
        if (run->references.rows > 0)
            device_upload(run->device, run->references.data, references,
                          (size_t)(run->references.rows * t->shape.in_channels) * sizeof(float));
        if (device_status(t->device, error)) return run;
    }
    transformer_end(run);
    return NULL;
}

bool transformer_add_text(struct transformer_run *run, const float *prompt_embeds, struct error *error) {
    run->embedded_texts[1] = buffer(run, DTYPE_F32, run->text, run->t->shape.hidden);
    if (!device_status(run->device, error)) return false;
    embed_text(run, prompt_embeds, run->embedded_texts[1]);
    return device_status(run->device, error);
}

void transformer_choose(struct transformer_run *run, bool second) {
    run->chosen_text = second;
}

void transformer_end(struct transformer_run *run) {
    if (!run) return;
    workspace_release(run->device, run->mark);
    free(run);
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// What allocate() takes, and on top of it the most that an op takes.
int64_t transformer_run_bytes(const struct transformer *t, enum compute compute, int text_length,
                              int64_t tokens) {
    const struct transformer_shape *shape = &t->shape;
    const struct ops *ops = t->device->ops;
    const int64_t all = text_length + tokens, hidden = shape->hidden, wide = hidden + shape->mlp_hidden;
    const int64_t chunk = all < CHUNK_MOST ? all : CHUNK_MOST;
    const int64_t element = (int64_t)dtype_bytes(compute_dtype(compute), 1), f32 = sizeof(float);
    const struct attention attention = {
        .heads = (int)shape->heads, .kv_heads = (int)shape->heads, .head_dim = (int)shape->head_dim};
    const int64_t stays = all * hidden * f32 + 2 * text_length * hidden * f32 + 3 * all * hidden * element +
                          chunk * (hidden + wide) * element + 3 * tokens * shape->in_channels * f32 +
                          all * shape->head_dim * f32 + 20 * hidden * f32 + shape->timestep_width * f32;
    const int64_t text =
        text_length * shape->context * f32 + ops->linear_bytes(t->device, shape->context, text_length);
    const int64_t passing = larger(larger(ops->linear_bytes(t->device, wide, chunk), text),
                                   ops->attention_bytes(t->device, &attention, all));
    return stays + passing + 32 * 64; // each allocation begins at a multiple of 64
}
