// The fields are those that diffusers 0.42 and transformers 5 read; the scheduler's are the same for every FLUX.2. Relies on
// convert_config.h.
#include "flux/convert_config.h"

#define DIFFUSERS "_diffusers_version", "0.42.1"

json_t *config_of_transformer(const struct transformer_shape *shape) {
    return json_pack(
        "{s:s, s:s, s:I, s:[i,i,i,i], s:f, s:b, s:I, s:I, s:f, s:I, s:I, s:I, s:n, s:i, s:f, s:I}",
        "_class_name", "Flux2Transformer2DModel", DIFFUSERS, "attention_head_dim",
        (json_int_t)shape->head_dim, "axes_dims_rope", shape->axes[0], shape->axes[1], shape->axes[2],
        shape->axes[3], "eps", shape->eps, "guidance_embeds", shape->guidance, "in_channels",
        (json_int_t)shape->in_channels, "joint_attention_dim", (json_int_t)shape->context, "mlp_ratio",
        (double)shape->mlp_hidden / (double)shape->hidden, "num_attention_heads", (json_int_t)shape->heads,
        "num_layers", (json_int_t)shape->double_blocks, "num_single_layers", (json_int_t)shape->single_blocks,
        "out_channels", "patch_size", 1, "rope_theta", shape->rope_theta, "timestep_guidance_channels",
        (json_int_t)shape->timestep_width);
}

json_t *config_of_text_encoder(const struct language_model_config *config) {
    const bool qwen = config->kind == LANGUAGE_MODEL_QWEN3;
    json_t *json = json_pack(
        "{s:[s], s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:{s:s, s:f}, s:b, s:b}",
        "architectures", qwen ? "Qwen3ForCausalLM" : "MistralForCausalLM", "model_type",
        qwen ? "qwen3" : "mistral", "hidden_act", "silu", "vocab_size", (json_int_t)config->vocabulary,
        "hidden_size", (json_int_t)config->hidden, "intermediate_size", (json_int_t)config->mlp_hidden,
        "num_hidden_layers", (json_int_t)config->layers, "num_attention_heads", (json_int_t)config->heads,
        "num_key_value_heads", (json_int_t)config->kv_heads, "head_dim", (json_int_t)config->head_dim,
        "rms_norm_eps", config->eps, "rope_theta", config->rope_theta, "rope_parameters", "rope_type",
        "default", "rope_theta", config->rope_theta, "tie_word_embeddings", 1, "use_cache", 0);
    json_t *window = config->window ? json_integer(config->window) : json_null();
    if (json) json_object_set_new(json, "sliding_window", window);
    return json;
}

static json_t *repeated(const char *text, int count) {
    json_t *array = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(array, json_string(text));
    return array;
}

static json_t *widths(const int64_t *values, int count) {
    json_t *array = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(array, json_integer(values[i]));
    return array;
}

json_t *config_of_autoencoder(const struct autoencoder_config *config) {
    bool same = true;
    for (int i = 0; i < config->levels; i++) same &= config->encoder[i] == config->decoder[i];
    json_t *json = json_pack(
        "{s:s, s:s, s:i, s:i, s:o, s:o, s:o, s:i, s:s, s:I, s:i, s:b, s:b, s:b, s:f, s:f, s:[i,i], s:b}",
        "_class_name", "AutoencoderKLFlux2", DIFFUSERS, "in_channels", 3, "out_channels", 3,
        "block_out_channels", widths(config->encoder, config->levels), "down_block_types",
        repeated("DownEncoderBlock2D", config->levels), "up_block_types",
        repeated("UpDecoderBlock2D", config->levels), "layers_per_block", config->resnets, "act_fn", "silu",
        "latent_channels", (json_int_t)config->latent_channels, "norm_num_groups", config->groups,
        "use_quant_conv", config->quant, "use_post_quant_conv", config->post_quant, "mid_block_add_attention",
        config->attention, "batch_norm_eps", (double)config->batch_norm_eps, "batch_norm_momentum", 0.1,
        "patch_size", 2, 2, "force_upcast", 1);
    if (json && !same)
        json_object_set_new(json, "decoder_block_out_channels", widths(config->decoder, config->levels));
    return json;
}

json_t *config_of_scheduler(void) {
    return json_pack("{s:s, s:s, s:i, s:f, s:b, s:i, s:f, s:i, s:f, s:n, s:b, s:s, s:b, s:b, s:b, s:b}",
                     "_class_name", "FlowMatchEulerDiscreteScheduler", DIFFUSERS, "base_image_seq_len", 256,
                     "base_shift", 0.5, "invert_sigmas", 0, "max_image_seq_len", 4096, "max_shift", 1.15,
                     "num_train_timesteps", 1000, "shift", 3.0, "shift_terminal", "stochastic_sampling", 0,
                     "time_shift_type", "exponential", "use_beta_sigmas", 0, "use_dynamic_shifting", 1,
                     "use_exponential_sigmas", 0, "use_karras_sigmas", 0);
}

json_t *config_of_pipeline(bool klein, bool distilled, enum language_model_kind text_encoder) {
    const bool qwen = text_encoder == LANGUAGE_MODEL_QWEN3;
    json_t *json = json_pack("{s:s, s:s, s:[s,s], s:[s,s], s:[s,s], s:[s,s], s:[s,s]}", "_class_name",
                             klein ? "Flux2KleinPipeline" : "Flux2Pipeline", DIFFUSERS, "scheduler",
                             "diffusers", "FlowMatchEulerDiscreteScheduler", "text_encoder", "transformers",
                             qwen ? "Qwen3ForCausalLM" : "MistralForCausalLM", "tokenizer", "transformers",
                             "PreTrainedTokenizerFast", "transformer", "diffusers", "Flux2Transformer2DModel",
                             "vae", "diffusers", "AutoencoderKLFlux2");
    if (json && klein) json_object_set_new(json, "is_distilled", json_boolean(distilled));
    return json;
}
