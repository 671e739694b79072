"""Trains the tokenizer: byte-level BPE on captions and instructions of the world, with Mistral's special ids 0 to 19."""

import argparse
import json
import os

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.world import captions, edits, scenes

SYSTEM_MESSAGE = "Draw."
TEXT_LENGTH = 64
PAD = 11
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<SPECIAL_5>", "<SPECIAL_6>", "<SPECIAL_7>", "<SPECIAL_8>",
           "<SPECIAL_9>", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "<SPECIAL_14>", "<SPECIAL_15>", "<SPECIAL_16>",
           "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<SPECIAL_19>"]
VOCAB = 896
WORDS = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CHAT = ("<s>{%- for m in messages -%}{%- if m['content'] is string -%}{%- set text = m['content'] -%}{%- else -%}"
        "{%- set text = m['content'][0]['text'] -%}{%- endif -%}{%- if m['role'] == 'system' -%}"
        "{{- '[SYSTEM_PROMPT]' + text + '[/SYSTEM_PROMPT]' -}}{%- else -%}{{- '[INST]' + text + '[/INST]' -}}"
        "{%- endif -%}{%- endfor -%}")


def texts(rng, n):
    for i in range(n):
        if i % 3:
            yield captions.caption(scenes.random_scene(rng, bool(i % 2)), rng)
        else:
            yield edits.random_edit(rng, edits.TASKS[rng.integers(len(edits.TASKS))])["prompt"]


def train(folder, n=60000):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    special = [AddedToken(s, special=True, normalized=False) for s in SPECIAL]
    tok.train_from_iterator(texts(np.random.default_rng(5), n), trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    os.makedirs(folder, exist_ok=True)
    tok.save(os.path.join(folder, "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": TEXT_LENGTH, "padding_side": "left",
              "truncation_side": "right", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
              "pad_token": "<pad>", "clean_up_tokenization_spaces": False, "chat_template": CHAT}
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump(config, f, indent=1)
    with open(os.path.join(folder, "special_tokens_map.json"), "w") as f:
        json.dump({k: config[k] for k in ("bos_token", "eos_token", "unk_token", "pad_token")}, f, indent=1)


class Encoder:
    """Prompts to left-padded ids and masks, as the reference pipeline's template makes them."""

    def __init__(self, folder):
        self.tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.system = self.tok.encode(SYSTEM_MESSAGE, add_special_tokens=False).ids

    def ids(self, prompt):
        body = self.tok.encode(prompt, add_special_tokens=False).ids
        return ([1, 17] + self.system + [18, 3] + body + [4])[:TEXT_LENGTH]

    def batch(self, prompts, length=TEXT_LENGTH):
        out = np.full((len(prompts), length), PAD, np.int64)
        for i, p in enumerate(prompts):
            k = self.ids(p)[:length]
            out[i, length - len(k):] = k
        return out


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default="build/training/tokenizer")
    train(ap.parse_args().out)
