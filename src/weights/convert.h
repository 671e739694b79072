// Turns the weights of one part of a model into a file of another format, type or layout, row by row in bounded memory.
// Relies on checkpoint.h, weights_writer.h, lora.h.
//
// The source has the names of diffusers (transformer, autoencoder) or of Hugging Face's transformers (text encoder), whatever
// layout its files are in: see layout.h. What is written:
//
//     NAMES_KEEP   the same names and shapes
//     NAMES_BFL    a transformer as Black Forest Labs have it: q, k, v in one matrix, the halves of the last modulation swapped
//     NAMES_LLAMA  a text encoder as llama.cpp has it
//
// Values are brought to f32 with all their scales, LoRAs are added there, and the result is rounded once. A tensor that keeps
// its type and has no scales and no LoRA is copied byte for byte. Types whose scales lie beside the codes (convert_scaled.h) become
// several tensors; where one scale is for a whole matrix the matrix is read twice.
#ifndef LIMN_WEIGHTS_CONVERT_H
#define LIMN_WEIGHTS_CONVERT_H

#include "base/pool.h"
#include "weights/checkpoint.h"
#include "weights/lora.h"
#include "weights/weights_writer.h"

#include <jansson.h> // defines: json_t

enum convert_names { NAMES_KEEP, NAMES_BFL, NAMES_LLAMA };

struct convert_lora {
    const struct lora *lora;
    float scale;
};

// Called between pieces, with bytes of the output written so far and in all; returns false to stop. [tensor] is the one in
// work. What is written stays, and the same conversion goes on from there.
typedef bool convert_progress(void *context, const char *tensor, uint64_t done, uint64_t total);

struct convert_job {
    const struct checkpoint *from;
    enum convert_names names;
    const char *prefix; // NAMES_KEEP: put in front of a text encoder's names but lm_head's; NULL: nothing
    enum weights_format format;
    // Of the large matrices. Where a row is no whole number of its blocks the next finer type that fits is taken: Q8_0, then
    // BF16. Norms and other vectors are F32 in GGUF. Embedders, modulations, the last layer and convolutions, through which
    // everything passes, are never coarser than BF16; the token embedding of a text encoder is never coarser than Q8_0.
    // F8_E4M3, F8_E5M2, NVFP4 and NF4, in safetensors only, are of nothing but those matrices: what is no whole number of their
    // blocks, the token embedding and lm_head are BF16 or what they were (F32, F16).
    enum dtype type;
    bool row_scales; // of fp8: one for each row rather than one for a matrix
    bool keep_plain; // F32, F16 and BF16 tensors keep their type
    // Of a text encoder: whether rows of q and k lie in pairs for interleaved rotation (2i, 2i + 1) in the source, and shall in
    // the output; and the rows of a head.
    bool from_pairs, to_pairs;
    int64_t head_dim;
    const struct convert_lora *loras; // of a transformer
    int lora_count;
    const struct lora_shape *lora_shape;
    const struct planned_metadata *metadata; // beside the source's identity
    int64_t metadata_count;
    struct pool *pool;
    convert_progress *progress; // NULL: none
    void *context;
};

// Converts [job] into [path], see weights_writer.h for what is there until it is done; nothing is done where [path] is its finished
// file already, and a file that is anything else is an error and stays. Errors name the tensor and the file.
bool convert_weights(const struct convert_job *job, const char *path, struct error *error);

// The names, without ".weight", of the matrices of linear layers that do not get a type with scales: what a configuration of
// bitsandbytes must list. NULL with an error.
json_t *convert_plain_modules(const struct convert_job *job, struct error *error);

// Bytes that [path] will have; 0 with an error.
uint64_t convert_bytes(const struct convert_job *job, struct error *error);

#endif
