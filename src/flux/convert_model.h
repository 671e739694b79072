// Turns a model, in whatever form limn opens it, into a model folder in the diffusers layout, or one part of it into a file.
// Relies on model.h, weights/convert.h, the readers of the parts.
//
// A folder gets model_index.json, scheduler/, tokenizer/, transformer/, text_encoder/, vae/ and a limn.json with everything that the
// source says, so that it stands by itself. Its large matrices have the type that is asked for: F32, F16 and BF16 as safetensors,
// which diffusers opens too; block types as GGUF files in the same folders, which limn and others open; fp8, NVFP4 and NF4 as
// safetensors with scales beside the codes, as ComfyUI and bitsandbytes have them. The autoencoder stays as fine as it is.
//
// What was written before a stop is gone on with by the same conversion: a part that is finished is not made again.
#ifndef LIMN_FLUX_CONVERT_MODEL_H
#define LIMN_FLUX_CONVERT_MODEL_H

#include "weights/convert.h"
#include "weights/layout.h"

// The types there are.
#define CONVERT_MODEL_TYPES                                                                                  \
    "F32, F16, BF16, F8_E4M3, F8_E5M2, NVFP4, NF4, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, IQ4_NL, " \
    "IQ4_XS, Q3_K or Q2_K"
bool convert_model_has(enum dtype type);

struct convert_model {
    const char *source; // a model folder (docs/model-folder.md)
    // A folder, new or of an earlier run of the same; or, where it ends in ".gguf" or ".safetensors", a file for [part] alone:
    // GGUF with the names of BFL or llama.cpp, safetensors with those of diffusers or Hugging Face, or, a transformer in fp8 or
    // NVFP4, of BFL.
    const char *target;
    enum model_part part;     // of a file
    enum dtype type;          // one that convert_model_has
    bool row_scales;          // fp8 with a scale a row rather than one a matrix
    enum dtype text_type;     // of the text encoder in a folder; DTYPE_NONE: type
    const char *const *loras; // files, added to the transformer's weights
    const float *lora_scales;
    int lora_count;
    bool without_loras;         // the source's own LoRAs are left out
    int threads;                // 0: one a processor
    convert_progress *progress; // NULL: none
    void *context;
};

// False with an error that names the file and the tensor or field. Files appear under their names when they are whole.
bool convert_model(const struct convert_model *convert, struct error *error);

#endif
