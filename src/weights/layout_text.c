// Names of text encoders: llama.cpp's in GGUF files, and Mistral's own in "consolidated" files. Source: gguf-py's
// tensor_mapping.py, mistral-inference's transformer.py.
//
// The order of the rows of q and k in a GGUF file, from the converter and the runtime of llama.cpp (conversion/llama.py, mistral.py,
// mistral3.py, qwen.py; llama_model_rope_type in llama-model.cpp):
//   llama      pairs (2i, 2i + 1): LlamaModel permutes what Hugging Face keeps as halves, and takes Mistral's own files, which have
//              pairs already, as they are ("undo_permute")
//   mistral3   pairs too: what Mistral3ForConditionalGeneration becomes since llama.cpp has that name; its class is LlamaModel's
//   qwen3      halves (i, i + head_dim / 2), as Hugging Face has them
// A vision tower is a file of its own, of the architecture "clip" (mmproj), and no text encoder.
#include "weights/layout_maps.h"

#include <stddef.h>

const struct layout_rule layout_llama_cpp[] = {
    {"token_embd.weight", "embed_tokens.weight", LAYOUT_SAME},
    {"output_norm.weight", "norm.weight", LAYOUT_SAME},
    {"output.weight", "lm_head.weight", LAYOUT_SAME},
    {"rope_freqs.weight", "rope_freqs.weight",
     LAYOUT_SAME}, // not Mistral's or Qwen3's: for the reader to refuse
    {"blk.#.attn_q.bias", "layers.#.self_attn.q_proj.bias", LAYOUT_SAME},
    {"blk.#.attn_norm.weight", "layers.#.input_layernorm.weight", LAYOUT_SAME},
    {"blk.#.attn_q.weight", "layers.#.self_attn.q_proj.weight", LAYOUT_SAME},
    {"blk.#.attn_k.weight", "layers.#.self_attn.k_proj.weight", LAYOUT_SAME},
    {"blk.#.attn_v.weight", "layers.#.self_attn.v_proj.weight", LAYOUT_SAME},
    {"blk.#.attn_output.weight", "layers.#.self_attn.o_proj.weight", LAYOUT_SAME},
    {"blk.#.attn_q_norm.weight", "layers.#.self_attn.q_norm.weight", LAYOUT_SAME},
    {"blk.#.attn_k_norm.weight", "layers.#.self_attn.k_norm.weight", LAYOUT_SAME},
    {"blk.#.ffn_norm.weight", "layers.#.post_attention_layernorm.weight", LAYOUT_SAME},
    {"blk.#.ffn_gate.weight", "layers.#.mlp.gate_proj.weight", LAYOUT_SAME},
    {"blk.#.ffn_up.weight", "layers.#.mlp.up_proj.weight", LAYOUT_SAME},
    {"blk.#.ffn_down.weight", "layers.#.mlp.down_proj.weight", LAYOUT_SAME},
    {NULL, NULL, LAYOUT_SAME},
};

const struct layout_rule layout_mistral[] = {
    {"tok_embeddings.weight", "embed_tokens.weight", LAYOUT_SAME},
    {"norm.weight", "norm.weight", LAYOUT_SAME},
    {"output.weight", "lm_head.weight", LAYOUT_SAME},
    {"layers.#.attention_norm.weight", "layers.#.input_layernorm.weight", LAYOUT_SAME},
    {"layers.#.attention.wq.weight", "layers.#.self_attn.q_proj.weight", LAYOUT_SAME},
    {"layers.#.attention.wk.weight", "layers.#.self_attn.k_proj.weight", LAYOUT_SAME},
    {"layers.#.attention.wv.weight", "layers.#.self_attn.v_proj.weight", LAYOUT_SAME},
    {"layers.#.attention.wo.weight", "layers.#.self_attn.o_proj.weight", LAYOUT_SAME},
    {"layers.#.ffn_norm.weight", "layers.#.post_attention_layernorm.weight", LAYOUT_SAME},
    {"layers.#.feed_forward.w1.weight", "layers.#.mlp.gate_proj.weight", LAYOUT_SAME},
    {"layers.#.feed_forward.w2.weight", "layers.#.mlp.down_proj.weight", LAYOUT_SAME},
    {"layers.#.feed_forward.w3.weight", "layers.#.mlp.up_proj.weight", LAYOUT_SAME},
    {NULL, NULL, LAYOUT_SAME},
};
