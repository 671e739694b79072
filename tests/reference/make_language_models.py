"""Writes the small Qwen3 language model that the unit tests read: make_language_models.py OUT_DIR

Its folder holds config.json, model.safetensors and hidden.safetensors: `tokens` I32 [n] and `hidden_i` [n, hidden], the
hidden states of the reference (transformers, f32, causal), the last with the final norm.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3Model

CONFIG = {
    "architectures": ["Qwen3Model"], "model_type": "qwen3", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "attention_bias": False, "use_sliding_window": False,
    "tie_word_embeddings": True,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("out_dir")
    folder = pathlib.Path(arguments.parse_args().out_dir) / "qwen3"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(21)
    model = Qwen3Model(Qwen3Config(**CONFIG, attn_implementation="sdpa")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.3 * values)
            elif "embed_tokens" in name:
                parameter.copy_(values)
            else:
                parameter.copy_(1.2 * values / parameter.shape[1] ** 0.5)
        tokens = torch.randint(0, CONFIG["vocab_size"], (19,), generator=generator)
        hidden = model(input_ids=tokens[None], output_hidden_states=True, use_cache=False).hidden_states
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    save_file({f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    out = {f"hidden_{i}": state[0].contiguous() for i, state in enumerate(hidden)}
    save_file({"tokens": tokens.to(torch.int32), **out}, folder / "hidden.safetensors")


if __name__ == "__main__":
    main()
