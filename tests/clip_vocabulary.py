"""CLIP's real vocabulary as a tokenizer's folder, other tokenizers, and texts of all kinds, for the tests of words."""

import gzip
import importlib.util
import json
from functools import cache
from pathlib import Path

import tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
OPEN_CLIP = Path(importlib.util.find_spec("open_clip").origin).parent  # importing it all would take seconds
TEXTS = [
    "a cat left of a red heart",
    "A Photo of THE Cat's Meow, isn't it? I'd say they're 2 or 345!",
    "  odd \t whitespace\n\r\n and\u3000more\u00a0of\u2003it ",
    "一只猫在一颗红色爱心的左边。",
    "3只狗和cats",
    "🐱 ❤️ 🧑‍🚀🇩🇪",
    "Ünïcödé, naïve cafe\u0301 — “quoted” … ½ ² Ⅷ ١٢",
    "ελληνικά русский עברית हिन्दी ไทย 日本語のテキスト 한국어",
    "x_y-z <b> [0.5:1] (((masterpiece))) #1 @home http://a.b/c?d=e",
    "\x01\x7f control\u200bcharacters \U0010fffd",
    "",
    " ",
    "!",
    "wow!! really!?",
    "'s ''ll I'LL",
    f"spelled {END} out, {START} too",
    f"and {END.upper()} in capitals",
]


@cache
def vocabulary():
    """CLIP's real vocabulary, put together as OpenAI does, and its merges."""
    lines = gzip.decompress((OPEN_CLIP / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves; others follow
    symbols = [chr(b) for b in letters] + [chr(256 + i) for i in range(256 - len(letters))]
    words = [*symbols, *(s + "</w>" for s in symbols), *("".join(merge.split()) for merge in merges), START, END]
    return {word: i for i, word in enumerate(words)}, merges


def write_clip(folder, files, pad):
    """A tokenizer/ folder as Stable Diffusion 1 (pad = end token) and 2 (pad = "!") have it."""
    folder.mkdir()
    vocab, merges = files
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {"bos_token": START, "eos_token": END, "unk_token": END}
    special = {key: {"content": token, **flags} for key, token in special.items()}
    config = {key: {"__type": "AddedToken", **token} for key, token in special.items()}
    config |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special | {"pad_token": pad}), encoding="utf-8")
    return folder


def assert_same_ids(ours, theirs, texts=TEXTS):
    for text in texts:
        ids, mask = ours(text)
        expected = theirs(text, padding="max_length", max_length=77, truncation=True)
        assert ids[0].tolist() == expected["input_ids"], text
        assert mask[0].tolist() == [bool(m) for m in expected["attention_mask"]], text
        assert ours.encode(text) == theirs(text)["input_ids"], text


def other(template):
    """A tokenizer of another family: whole words, and no start token."""
    vocab = {"[PAD]": 0, "[END]": 1, "a": 2, "cat": 3, "?": 4}
    bpe = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="?"))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if template:
        bpe.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=[("[END]", 1)])
    return bpe
