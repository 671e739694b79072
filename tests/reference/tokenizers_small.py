"""Small byte-level BPE tokenizers in the file format of Mistral's and Qwen's tokenizer.json, trained on a text of our own.

Two splitting patterns are in use for the same vocabulary of Mistral: `hf` stands in the tokenizer.json of FLUX.2 [dev],
`tekken` in Mistral's own tokenizer file. `qwen` is that of FLUX.2 [klein]: it normalises to NFC, and its special tokens
follow the vocabulary instead of opening it.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PATTERNS = {
    "hf": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

# The ids of these are fixed: they are what the chat template and the padding use.
SPECIAL_TOKENS = [
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
]

CHAT_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}[SYSTEM_PROMPT]{% for block in message['content'] %}{{ block['text'] }}"
    "{% endfor %}[/SYSTEM_PROMPT]"
    "{%- elif message['role'] == 'user' %}[INST]{% for block in message['content'] %}{{ block['text'] }}"
    "{% endfor %}[/INST]{%- endif %}{%- endfor %}"
)

# Those of Qwen3 that matter here, in its order; true where the token is special.
QWEN_TOKENS = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<tool_call>": False, "<think>": False, "</think>": False}

# What Qwen3's template makes of messages without tools or reasoning.
QWEN_CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)

# Sentences written for this file; the vocabulary is learnt from them.
TRAINING_TEXT = """
a red circle above a blue square, a green triangle to the left of a yellow star
The painter mixes colours: crimson, ochre, teal, lavender and white. Don't move the lamp; it's where we've left it.
a photograph of an old harbour at dawn, mist over the water, gulls on the ropes, 35 mm film, soft light
She'll draw 12 boats, 345 windows and 67890 stones. HTTP servers don't say "please", iPhones and eBay do neither.
Use image 1 as the pose reference and image 2 as the character reference. Replace the sky, keep the hills.
Ein Fuchs springt über den schmalen Bach, während die Kinder im Garten Äpfel sammeln und Straßenlampen leuchten.
Le garçon a mangé une crêpe près de la rivière; l'été où j'étais à l'école, tout était déjà fini.
El niño pequeño dibujó un pingüino en la mañana. ¿Dónde está la señora? ¡Aquí!
Um coração vermelho não é só um símbolo; São Paulo amanhece com chuva e maçãs verdes.
Маленький кот сидит на крыше и смотрит на звёзды, а река тихо течёт между холмами.
Η γάτα κοιμάται δίπλα στο παράθυρο και ο ήλιος λάμπει πάνω από τη θάλασσα.
红色的圆在蓝色的方块上面，远处有一座小山和一条安静的河。请画一只黑色的猫。
赤い丸が青い四角の上にあります。静かな川のそばで猫がねむっている。カメラとテレビ。
빨간 원이 파란 사각형 위에 있습니다. 고양이가 조용한 강가에서 잠을 잔다.
قطة صغيرة تجلس فوق السطح وتنظر إلى النجوم في الليل الهادئ
חתול קטן יושב על הגג ומביט בכוכבים בלילה שקט
छोटी बिल्ली छत पर बैठी है और तारों को देख रही है
แมวตัวเล็กนั่งอยู่บนหลังคาและมองดูดวงดาว
Mała żółta łódź płynie wśród mgły. Příliš tichá řeka. Gökyüzü mavi, ağaçlar yeşil, kuşlar uçuyor.
Con mèo nhỏ ngồi trên mái nhà và nhìn những vì sao. Kissa istuu katolla ja katselee tähtiä.
int main(void) { for (int i = 0; i < 10; i++) { total += values[i] * 3; } return total / 2; }
https://example.org/path/to/file?name=value&other=1 // comment // another
\tindented line\n\n   three spaces, then     five;  two.
""".replace("\\t", "\t").replace("\\n", "\n")

# In the vocabulary without a merge that leads to them: only a whole piece can become one of these, and only where the
# tokenizer is told to look a piece up before merging ("ignore_merges").
WHOLE_PIECES = ["zephyr", "Ġquokka", "Ġ123"]


def train(pattern, vocabulary, ignore_merges):
    """A tokenizer with `vocabulary` ids in all, split by PATTERNS[pattern]. Returns its JSON form as a dict."""
    qwen = pattern == "qwen"
    if qwen:
        vocabulary -= len(QWEN_TOKENS)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[pattern]), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(WHOLE_PIECES),
        special_tokens=[] if qwen else [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT.split("\n"), trainer)
    if qwen:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        assert tokenizer.get_vocab_size() == vocabulary - len(WHOLE_PIECES), "the training text is too short"
        form = json.loads(tokenizer.to_str())
        for piece in WHOLE_PIECES:
            form["model"]["vocab"][piece] = len(form["model"]["vocab"])
        form["model"]["ignore_merges"] = ignore_merges
        form["added_tokens"] = [
            {"id": vocabulary + k, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": special} for k, (content, special) in enumerate(QWEN_TOKENS.items())
        ]
        return form
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    form = json.loads(tokenizer.to_str())
    for piece in WHOLE_PIECES:
        form["model"]["vocab"][piece] = len(form["model"]["vocab"])
    form["model"]["ignore_merges"] = ignore_merges
    assert len(form["model"]["vocab"]) == vocabulary, "the training text is too short for this vocabulary"
    for index, name in enumerate(SPECIAL_TOKENS):
        assert form["model"]["vocab"][name] == index
    return form


def write(folder, form, merges_as_strings=False):
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja into `folder` (a pathlib.Path)."""
    folder.mkdir(parents=True, exist_ok=True)
    if merges_as_strings:
        form = {**form, "model": {**form["model"], "merges": [" ".join(m) for m in form["model"]["merges"]]}}
    text = json.dumps(form, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    if any(token["content"] == "<|im_start|>" for token in form["added_tokens"]):
        decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in form["added_tokens"]}
        config = {
            "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "add_prefix_space": False,
            "added_tokens_decoder": decoder, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
            "unk_token": None, "model_max_length": 131072, "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "chat_template.jinja").write_text(QWEN_CHAT_TEMPLATE)
        return
    config = {
        "tokenizer_class": "TokenizersBackend",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "padding_side": "left",
        "model_max_length": 1000000000,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
