// What a model folder says beside its weights: model_index.json and limn.json, held against the transformer's shape.
// Relies on transformer.h, base.
#ifndef LIMN_FLUX_MODEL_H
#define LIMN_FLUX_MODEL_H

#include "flux/transformer.h"
#include "text/prompt_encoder.h"

#include <stddef.h>

enum { MODEL_SIGMAS_MOST = 200, MODEL_SIZES_MOST = 32 };

// What model_index.json says.
struct model_index {
    enum model_pipeline {
        MODEL_FLUX2, // Flux2Pipeline: FLUX.2 [dev]
        MODEL_KLEIN, // Flux2KleinPipeline: FLUX.2 [klein]
    } pipeline;
    bool distilled; // klein: trained for few steps without guidance ("is_distilled")
    bool given;     // there is one; else limn.json and the transformer's shape say what it would
};

// What guidance does.
enum model_guidance {
    GUIDANCE_NONE,
    GUIDANCE_EMBEDDED, // the transformer reads it
    GUIDANCE_CLASSIFIER, // above 1, a step also evaluates the empty prompt: v = empty + guidance * (prompt - empty)
};

// What the reference pipeline keeps in its own code. limn.json overrides; absent fields take the values of a recognised
// architecture (all: length 512, 1024x1024; FLUX.2 [dev]: taps 10, 20, 30, 50 steps, guidance 4; [klein] 4B and 9B: taps 9, 18,
// 27, 4 steps, of their base models 50 and guidance 4). A folder of no known architecture must state text_taps and
// text_length; the rest it may leave to the values of its pipeline.
struct model_settings {
    enum model_guidance guidance_kind;
    enum prompt_template text_template;
    bool text_template_named; // by limn.json: then it goes with every text encoder
    char name[64];            // the folder's own where limn.json has none
    char software[96];        // EXIF marks of its pictures
    char make[96];
    char *system_message;            // NULL: the template has none
    int text_taps[PROMPT_TAPS_MOST]; // rising
    int text_tap_count;
    int text_length;
    int default_width, default_height; // pixels, as written: maybe no multiples of 16
    int sizes[MODEL_SIZES_MOST][2];    // native sizes (width, height), for listings
    int size_count;
    int steps;
    float guidance;                  // the default; 1 where it has no effect
    float sigmas[MODEL_SIGMAS_MOST]; // before the shift, falling; with steps of them
    int sigma_count;                 // 0: linspace(1, 1/steps)
    int64_t reference_area;          // pixels
    bool trained;
};

// Reads model_index.json of the folder or of its base (model_folder.h), which may be absent: a pipeline class other than these two
// is an error that names the class.
bool model_index_read(const char *folder, struct model_index *index, struct error *error);

// Reads [folder]/limn.json, which may be absent, what its bases say (model_folder.h), and system_message.txt, whose text counts where
// no limn.json has one. shape: the folder's transformer. Errors name the file and the field.
// On success the caller frees with model_settings_free.
bool model_settings_read(const char *folder, const struct model_index *index,
                         const struct transformer_shape *shape, struct model_settings *settings,
                         struct error *error);
void model_settings_free(struct model_settings *settings); // {0} is fine

// What the prompt encoder needs of them; the system message is borrowed.
struct prompt_settings model_prompt_settings(const struct model_settings *settings);

// The two from memory, for tests and fuzzing; [name] stands in the errors. fallback_name: the model's where the JSON has none.
bool model_index_parse(const char *name, const char *json, size_t size, struct model_index *index,
                       struct error *error);
bool model_settings_parse(const char *name, const char *json, size_t size, const char *fallback_name,
                          const struct model_index *index, const struct transformer_shape *shape,
                          struct model_settings *settings, struct error *error);

#endif
