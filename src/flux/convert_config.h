// What stands beside the weights of a converted model: config.json of each part and the other JSON files of the diffusers layout,
// made from what limn read. Private to convert_model.c and convert_config.c.
#ifndef LIMN_FLUX_CONVERT_CONFIG_H
#define LIMN_FLUX_CONVERT_CONFIG_H

#include "base/json.h"
#include "flux/autoencoder_config.h"
#include "flux/transformer.h"
#include "text/language_model.h"

// Each gives a document in fresh memory, NULL when memory is gone.
json_t *config_of_transformer(const struct transformer_shape *shape);
json_t *config_of_text_encoder(const struct language_model_config *config);
json_t *config_of_autoencoder(const struct autoencoder_config *config);
json_t *config_of_scheduler(void);
// klein: the pipeline of FLUX.2 [klein], distilled or not; else that of [dev].
json_t *config_of_pipeline(bool klein, bool distilled, enum language_model_kind text_encoder);

#endif
