"""Words: tokenizer and text tower against the references, what training never saw, and contrast by hand."""

import gzip
import importlib.util
import json
import math
import random
import re
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

from minildm import weights
from minildm.attention import attention_maps
from minildm.data.prompts import prompts
from minildm.denoiser import Denoiser
from minildm.stable_diffusion import reference_name
from minildm.tensors import count_parameters, seeded
from minildm.text import CLIP, ImageEncoder, TextEncoder, Tokenizer, contrastive_loss, train_tokenizer

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


@pytest.fixture(scope="module")
def clip_files():
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


@pytest.fixture(scope="module", params=[END, "!"], ids=["SD 1", "SD 2"])
def clip(request, clip_files, tmp_path_factory):
    """Our reading of a folder, transformers', and the folder."""
    folder = write_clip(tmp_path_factory.mktemp("clip") / "tokenizer", clip_files, request.param)
    return SimpleNamespace(ours=Tokenizer.load(folder), theirs=CLIPTokenizer.from_pretrained(folder), folder=folder)


@pytest.fixture(scope="module")
def captions():
    return [text for language in ("en", "zh") for text in prompts(1500, 3, "all", language=language)]


@pytest.fixture(scope="module")
def trained(captions):
    return train_tokenizer(captions, 700, length=40)


def assert_same_ids(ours, theirs, texts=TEXTS):
    for text in texts:
        ids, mask = ours(text)
        expected = theirs(text, padding="max_length", max_length=77, truncation=True)
        assert ids[0].tolist() == expected["input_ids"], text
        assert mask[0].tolist() == [bool(m) for m in expected["attention_mask"]], text
        assert ours.encode(text) == theirs(text)["input_ids"], text


def test_clips_ids_are_transformers(clip):
    assert (len(clip.ours), clip.ours.start, clip.ours.end, clip.ours.length) == (49408, 49406, 49407, 77)
    assert clip.ours.pad == clip.theirs.pad_token_id
    assert_same_ids(clip.ours, clip.theirs)
    assert clip.ours("a cat")[0][0, :5].tolist() == [49406, 320, 2368, 49407, clip.ours.pad]  # known from the web


def test_over_long_prompts_are_transformers(clip):
    for text in ("a red heart above " * 40, "猫在狗的左边" * 40):
        with pytest.warns(UserWarning, match=r"\d\d\d tokens, and only 77 fit: '.*' is left out"):
            ids, mask = clip.ours([text, "a cat"])
        expected = clip.theirs([text, "a cat"], padding="max_length", max_length=77, truncation=True)
        assert ids.tolist() == expected["input_ids"]
        assert mask.sum(1).tolist() == [77, 4] and ids[0, -1] == 49407


@given(text=st.text(max_size=30))
def test_any_texts_ids_are_transformers(clip, text):
    assert clip.ours.encode(text) == clip.theirs(text)["input_ids"]
    words = clip.theirs.decode(clip.theirs(text)["input_ids"][1:-1])
    assert clip.ours.decode(clip.ours.encode(text)).strip() == words


def test_clips_ids_are_openais(clip_files, tmp_path):
    spec = importlib.util.spec_from_file_location("openai_tokenizer", OPEN_CLIP / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ours, theirs = Tokenizer.load(write_clip(tmp_path / "tokenizer", clip_files, END)), module.SimpleTokenizer()
    # OpenAI's also mends what looks broken (“ becomes ", ü composed), and names its own tokens differently.
    same = [text for text in TEXTS if END not in text.lower() and "“" not in text and "\x01" not in text]
    assert len(same) == len(TEXTS) - 4
    for text in same:
        assert ours.encode(text) == [49406, *theirs.encode(text), 49407], text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text)).strip(), text


def test_saving_a_tokenizer_replaces_only_what_belongs_to_one(trained, tmp_path):
    (tmp_path / "words").mkdir()
    for name in ("notes.txt", "vocab.txt"):
        (tmp_path / "words" / name).write_text("mine")
    with pytest.raises(FileExistsError, match="words has no tokenizer_config.json but notes.txt, vocab.txt"):
        trained.save(tmp_path / "words")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "vocab.json"):  # as of an earlier one
        (tmp_path / "words" / name).write_text("{}")
    trained.save(tmp_path / "words")
    assert {path.name for path in (tmp_path / "words").iterdir()} == {
        *("notes.txt", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
    }
    assert Tokenizer.load(tmp_path / "words").encode(TEXTS[0]) == trained.encode(TEXTS[0])
    (tmp_path / "link.json").symlink_to("target.json")
    trained.save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink() and Tokenizer.load(tmp_path / "target.json").length == trained.length


@pytest.mark.parametrize("clip", ["!"], indirect=True)
def test_clips_folders_go_round(clip, tmp_path):
    """What transformers saves we read; what we save transformers reads, and so do we, as a file as well."""
    clip.theirs.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "vocab.json").exists()  # so another layout is read here
    assert clip.ours.save(tmp_path / "ours") == tmp_path / "ours"
    clip.ours.save(tmp_path / "ours.json")
    for name in ("theirs", "ours", "ours.json"):
        again = Tokenizer.load(tmp_path / name)
        assert (again.pad, again.length, len(again)) == (clip.ours.pad, 77, 49408)
        assert_same_ids(again, clip.theirs)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert isinstance(theirs, CLIPTokenizer) and theirs.model_max_length == 77
    assert_same_ids(clip.ours, theirs)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # older programs need the other two
        (tmp_path / "ours" / name).unlink()
    assert Tokenizer.load(tmp_path / "ours").encode("a cat's 猫") == clip.ours.encode("a cat's 猫")


INVERTED = ["a photo of <my-cat> and a dog", "<my-cat><other> <my-cat>", "A <MY-CAT>, my-cat", "no such thing"]


@pytest.mark.parametrize(
    ("file", "added"),
    [
        ("added_tokens.json", {"<my-cat>": 49408}),
        ("added_tokens.json", {"<other>": 49409, "<my-cat>": 49408}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"49408": {"content": "<my-cat>", "special": True}}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["<my-cat>", "<other>"]}),
        ("tokenizer_config.json", {"extra_special_tokens": ["<other>", "<my-cat>"]}),
        ("special_tokens_map.json", {"additional_special_tokens": ["<my-cat>"]}),
    ],
)
def test_tokens_that_were_added_later_are_transformers(clip_files, tmp_path, file, added):
    """As textual inversion does. Read past, their words would be cut into letters."""
    folder = write_clip(tmp_path / "tokenizer", clip_files, END)
    before = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(before | added))
    ours, theirs = Tokenizer.load(folder), CLIPTokenizer.from_pretrained(folder)
    assert len(ours) == len(theirs) > 49408
    assert_same_ids(ours, theirs, INVERTED)
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    for name in ("theirs", "ours"):
        assert_same_ids(Tokenizer.load(tmp_path / name), theirs, INVERTED)


@pytest.mark.parametrize(
    ("file", "found", "message"),
    [
        ("added_tokens.json", {"<my-cat>": 49500}, "the added token '<my-cat>' is said to be 49500, but it is 49408"),
        ("added_tokens.json", {"cat</w>": 5}, "the added token 'cat</w>' is said to be 5, but it is 2368"),
        ("added_tokens.json", {"<my-cat>": "first"}, "its added tokens are damaged: ValueError"),
        ("added_tokens.json", ["<my-cat>"], "added_tokens.json is damaged or of another format"),
        ("tokenizer_config.json", {"added_tokens_decoder": ["<my-cat>"]}, "its added tokens are damaged"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"49408": {}}}, "its added tokens are damaged: KeyError"),
        ("tokenizer_config.json", {"additional_special_tokens": [3]}, "its added tokens are damaged"),
        ("tokenizer_config.json", {"padding_side": "left"}, "padding_side is 'left', .* expected 'right'"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side is 'left', .* expected 'right'"),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "GPT2Tokenizer"},
            "a GPT2Tokenizer is read from its tokenizer.json",
        ),
        ("tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer"}, "a RobertaTokenizer is read from its"),
    ],
)
def test_what_a_tokenizers_folder_says_and_is_not_read_past(clip_files, tmp_path, file, found, message):
    folder = write_clip(tmp_path / "tokenizer", clip_files, END)
    before = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(before | found if isinstance(found, dict) else found))
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(folder)


def normal(text):
    """What a trained tokenizer keeps of a text; letter by letter, since Python alone knows of a final sigma."""
    text = re.sub(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+", " ", text)
    return "".join(letter.lower() for letter in unicodedata.normalize("NFC", text)).strip(" ")


@pytest.mark.parametrize("text", TEXTS)
def test_what_training_never_saw_comes_back(trained, text):
    assert trained.decode(trained.encode(text)) == normal(text)


@given(text=st.text() | st.text("aA cC\t'三3猫狗🐱\u0301", max_size=12))
def test_any_text_comes_back(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == normal(text)
    assert ids[0] == trained.start and ids[-1] == trained.end and not {*ids[1:-1]} & {trained.start, trained.end}


def test_words_are_tokens(trained):
    assert len(trained) == 700 and (trained.start, trained.end, trained.pad) == (698, 699, 699)
    for text in ("a red heart left of a cat", "一只猫在狗的左边"):
        words = list(text) if "猫" in text else text.split()
        assert [trained.decode([i]).strip() for i in trained.encode(text)[1:-1]] == words
    one, other = (trained.encode(text)[1:-1] for text in ("cat and dog", "dog with cat"))
    assert one[0] == other[2] and one[2] == other[0]  # the same at the beginning and inside
    one, other = (trained.encode(text)[1:-1] for text in ("猫和狗", "狗与猫"))
    assert one[0] == other[2] and one[2] == other[0]
    assert len(trained.encode("zebra")) > 3 and len(trained.encode("猫")) == 3


def test_training_is_deterministic(captions, trained):
    shuffled = random.Random(0).sample(captions, len(captions))
    for texts in (captions, iter(shuffled)):
        assert train_tokenizer(texts, 700, length=40).bpe.to_str() == trained.bpe.to_str()
    assert train_tokenizer(captions, 600).bpe.to_str() != trained.bpe.to_str()
    assert len(train_tokenizer(["a cat", "a cat"], 700)) < 280  # no more merges than the texts give reason for
    assert len(train_tokenizer(["zebra"], 700)) == 258  # what was seen once is no pattern
    assert len(train_tokenizer([], 258)) == 258


def test_ids_and_mask(trained):
    ids, mask = trained(["a cat", "", "三只狗"], length=6)
    assert ids.shape == mask.shape == (3, 6) and (ids.dtype, mask.dtype) == (torch.int64, torch.bool)
    assert mask.sum(1).tolist() == [4, 2, 5]
    assert ids[1].tolist() == [698, 699, 699, 699, 699, 699]
    for row, seen in zip(ids, mask, strict=True):
        assert row[0] == 698 and row[seen][-1] == 699 and (row[~seen] == 699).all()
    alone, _ = trained("a cat", length=6)
    assert torch.equal(alone, ids[:1]) and trained.decode(ids[0]) == "a cat"
    assert trained("a cat")[0].shape == (1, 40) and trained([])[0].shape == (0, 40)


def test_a_long_text_is_cut_with_a_warning(trained):
    with pytest.warns(UserWarning, match=r"9 tokens, and only 6 fit: 'of a dog' is left out"):
        ids, mask = trained("a cat right below of a dog", length=6)
    assert ids[0].tolist() == [*trained.encode("a cat right below")[:-1], 699] and mask.all()
    trained("a cat right below", length=6)  # fits exactly: no warning


def test_special_tokens_in_a_prompt_are_text(trained):
    text = f"a {END} cat {START}"
    assert trained(text)[1].sum() > 10 and trained.decode(trained.encode(text)) == text


def test_a_trained_one_goes_round(trained, tmp_path):
    trained.save(tmp_path / "a" / "words.json")
    trained.save(tmp_path / "folder")
    for name in ("a/words.json", "folder"):
        again = Tokenizer.load(tmp_path / name)
        assert (again.start, again.end, again.pad, again.length, len(again)) == (698, 699, 699, 40, 700)
        assert [again.encode(text) for text in TEXTS] == [trained.encode(text) for text in TEXTS]
        assert again.bpe.to_str() == trained.bpe.to_str()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "folder")
    texts = [text for text in TEXTS if END not in text.lower()]
    ids, mask = trained(texts, length=199)
    found = theirs(texts, padding="max_length", max_length=199, truncation=True, return_tensors="pt")
    assert torch.equal(ids, found["input_ids"]) and torch.equal(mask, found["attention_mask"].bool())
    (tmp_path / "folder" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert Tokenizer.load(tmp_path / "folder").length == 77  # so transformers writes that it knows of no limit


def other(template):
    """A tokenizer of another family: whole words, and no start token."""
    vocab = {"[PAD]": 0, "[END]": 1, "a": 2, "cat": 3, "?": 4}
    bpe = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="?"))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if template:
        bpe.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=[("[END]", 1)])
    return bpe


def test_other_families_fit_in():
    bpe = other("$A [END]")
    bpe.enable_padding(length=5, pad_id=0, pad_token="[PAD]")
    bpe.enable_truncation(5)
    tokenizer = Tokenizer(bpe)
    assert (tokenizer.length, tokenizer.pad, tokenizer.end) == (5, 0, 1)
    ids, mask = tokenizer(["a cat", ""])
    assert ids.tolist() == [[2, 3, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]
    assert tokenizer.decode(ids[0]) == "a cat"
    assert (Tokenizer(other("$A [END]")).length, Tokenizer(other("$A [END]"), 9, pad=0).pad) == (77, 0)
    with pytest.raises(ValueError, match="closes each text with an end token"):
        Tokenizer(other(None))


def test_bad_texts(trained):
    for text, said in [(3, "got 3"), (None, "got None"), ("\ud800", r"valid Unicode, got '\\ud800'")]:
        with pytest.raises(ValueError, match=said):
            trained([text])
    with pytest.raises(ValueError, match="length from 2, .* got 1"):
        trained("a cat", length=1)
    with pytest.raises(ValueError, match="vocab_size from 258, .* got 257"):
        train_tokenizer(["a cat"], 257)


def test_bad_files(clip_files, tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer file .*none.json"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"model": ')
    with pytest.raises(ValueError, match="bad.json is damaged"):
        Tokenizer.load(tmp_path / "bad.json")
    folder = write_clip(tmp_path / "tokenizer", clip_files, "[PAD]")
    with pytest.raises(ValueError, match=r"tokenizer: the special token '\[PAD\]' is not in the vocabulary"):
        Tokenizer.load(folder)
    for name, content, said in [
        ("special_tokens_map.json", "{", "special_tokens_map.json is damaged"),
        ("merges.txt", "a b c\n", "vocab.json is damaged, or merges.txt"),
        ("vocab.json", "[]", "vocab.json is damaged"),
        ("tokenizer.json", "{}", "tokenizer.json is damaged"),
    ]:
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=said):
            Tokenizer.load(folder)
        (folder / name).unlink() if before is None else (folder / name).write_bytes(before)
    (folder / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor merges.txt"):
        Tokenizer.load(folder)


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install"):
        train_tokenizer(["a cat"], 300)
    with pytest.raises(ImportError, match=r"pip install"):
        Tokenizer.load(tmp_path)


SMALL = dict(vocab_size=97, dim=24, depth=2, heads=3, length=13, hidden_dim=40)


def reference(**config):
    """transformers' text tower of our configuration."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["dim"],
            num_hidden_layers=config["depth"],
            num_attention_heads=config["heads"],
            intermediate_size=config.get("hidden_dim", 4 * config["dim"]),
            max_position_embeddings=config.get("length", 77),
            hidden_act=config.get("activation", "quick_gelu"),
            layer_norm_eps=config.get("eps", 1e-5),
            eos_token_id=config.get("end", config["vocab_size"] - 1),
            bos_token_id=0,
            pad_token_id=0,
        )
    ).eval()


def shapes(theirs):
    return {name.removeprefix("text_model."): tuple(t.shape) for name, t in theirs.state_dict().items()}


def at_random(module, seed=0):
    """All parameters at random: those that start at 0 or 1 would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


def copy_weights(ours, theirs):
    prefix = "text_model." if any(name.startswith("text_model.") for name in theirs.state_dict()) else ""
    found = {prefix + reference_name(ours, name): tensor for name, tensor in ours.state_dict().items()}
    return theirs.load_state_dict(found)  # strict


def draw_ids(b, n, seed=1, high=96):
    """Texts of random length, an end token (96) behind each, and padding (again 96) behind that; and their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(high, (b, n), generator=generator)
    ends = torch.randint(2, n, (b, 1), generator=generator)
    return ids.masked_fill(torch.arange(n) >= ends, 96), torch.arange(n) <= ends


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(vocab_size=49408, dim=768, depth=12, heads=12), 123_060_480),
        (dict(vocab_size=49408, dim=1024, depth=23, heads=16, activation="gelu"), 340_387_840),
    ],
    ids=["SD 1", "SD 2"],
)
def test_full_size_is_stable_diffusions(config, expected):
    with torch.device("meta"):  # shapes only
        ours, theirs = TextEncoder(**config), reference(**config)
    assert count_parameters(ours) == expected
    assert {reference_name(ours, name): tuple(t.shape) for name, t in ours.state_dict().items()} == shapes(theirs)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("more", [{}, dict(depth=3, heads=4, dim=20, eps=1e-2), dict(depth=1, length=29, end=5)])
def test_equals_the_reference(activation, more):
    config = SMALL | dict(activation=activation) | more
    ours, theirs = at_random(TextEncoder(**config)), reference(**config)
    copy_weights(ours, theirs)
    ids, mask = draw_ids(7, 11)
    if "end" in more:
        ids = torch.where(ids == 5, 6, ids)
        ids[:, 4] = ids[:, 8] = 5
    with torch.no_grad():
        hidden, expected = ours(ids, mask), theirs(ids)
        assert hidden.shape == (7, 11, config["dim"]) and hidden.abs().max() > 0.5
        assert (hidden - expected.last_hidden_state).abs().max() <= 1e-5
        assert (ours.pool(hidden, ids) - expected.pooler_output).abs().max() <= 1e-5
        masked = theirs(ids, attention_mask=mask.long()).last_hidden_state
        assert (hidden - masked)[mask].abs().max() <= 1e-5  # a mask changes nothing before the padding


def test_the_last_but_one_is_one_block_less():
    """Stable Diffusion 2 was trained with 24 blocks, and takes what the 23rd says, normalised."""
    theirs = at_random(reference(**SMALL | dict(depth=3)))
    ours, copy = TextEncoder(**SMALL | dict(depth=2)), reference(**SMALL | dict(depth=2))
    copy.load_state_dict({name: tensor for name, tensor in theirs.state_dict().items() if "layers.2." not in name})
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(copy.get_parameter(reference_name(ours, name)))
        ids, _ = draw_ids(3, 8)
        *_, last_but_one, _ = theirs(ids, output_hidden_states=True).hidden_states
        assert (ours(ids) - theirs.final_layer_norm(last_but_one)).abs().max() <= 1e-5


def test_nothing_looks_ahead():
    model = at_random(TextEncoder(**SMALL))
    ids, mask = draw_ids(3, 10)
    with torch.no_grad():
        before = model(ids)
        for k in (1, 6, 9):
            changed = ids.clone()
            changed[:, k] = (ids[:, k] + 7) % 97
            after = model(changed)
            assert torch.equal(before[:, :k], after[:, :k])
            assert (before[:, k:] - after[:, k:]).abs().amax((0, 2)).min() > 1e-3  # each later one hears of it
        torch.testing.assert_close(model(ids[:, :4]), before[:, :4])
        assert torch.equal(model(ids), model(ids, torch.zeros_like(mask)))  # the mask is for others
    with attention_maps(model) as maps:
        model(ids)
    assert all(not layer_map.triu(1).any() for calls in maps.values() for layer_map in calls) and len(maps) == 2


def test_pool_takes_the_first_end_token():
    model = TextEncoder(**SMALL)
    hidden = torch.arange(2 * 4 * 24.0).reshape(2, 4, 24)
    pooled = model.pool(hidden, torch.tensor([[3, 96, 96, 96], [0, 5, 7, 96]]))
    assert torch.equal(pooled, torch.stack([hidden[0, 1], hidden[1, 3]]))
    with pytest.raises(ValueError, match="end token, id 96, in each row"):
        model.pool(hidden, torch.tensor([[3, 96, 96, 96], [0, 5, 7, 8]]))


def test_it_starts_as_clip_does():
    with seeded(3):
        model = TextEncoder(301, 96, depth=8, heads=4, length=50)
    block = model.blocks[5]
    for weight, std in [
        (model.tokens.weight, 0.02),
        (model.positions.weight, 0.01),
        (block.attention.to_q.weight, 96**-0.5),
        (block.attention.to_k.weight, 96**-0.5),
        (block.attention.to_v.weight, 96**-0.5),
        (block.attention.to_out.weight, 96**-0.5 * 16**-0.5),
        (block.fc1.weight, (2 * 96) ** -0.5),
        (block.fc2.weight, 96**-0.5 * 16**-0.5),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.05)
        assert abs(weight.mean().item()) < 0.05 * std
    assert not any(parameter.any() for name, parameter in model.named_parameters() if name.endswith("bias"))


def test_config_rebuilds_it_and_weights_come_back(tmp_path):
    ids, mask = draw_ids(3, 9)
    for config in (SMALL, dict(vocab_size=97, dim=8, depth=1, heads=2, activation="gelu", end=3, eps=1e-3)):
        model = at_random(TextEncoder(**config))
        assert TextEncoder(**json.loads(json.dumps(model.config))).config == model.config
        loaded = weights.load(weights.save(tmp_path / "text.safetensors", model))
        assert type(loaded) is TextEncoder and loaded.config == model.config
        assert torch.equal(loaded(ids, mask), model(ids, mask))


def test_another_text_encoder_can_take_its_place():
    """The contract is (ids, mask) -> (b, n, d), so the denoiser takes what T5 says as well."""
    with seeded(0):
        t5 = T5EncoderModel(T5Config(vocab_size=5, d_model=10, d_kv=4, d_ff=12, num_layers=1, num_heads=2)).eval()
        denoiser = Denoiser(3, 3, channels=(8, 12), context_dim=10)

    def encode(ids, mask):
        return t5(input_ids=ids, attention_mask=mask).last_hidden_state

    ids, mask = Tokenizer(other("$A [END]"), length=6, pad=0)(["a cat", "a"])
    with torch.no_grad():
        context = encode(ids, mask)
        x_t, t = torch.zeros(2, 3, 8, 8), torch.tensor([3, 3])
        one, two = denoiser(x_t, t, context, mask)
    assert context.shape == (2, 6, 10) and one.shape == (3, 8, 8) and (one - two).abs().max() > 1e-5


@pytest.mark.parametrize("autocast", [False, True])
def test_lower_precision(autocast):
    model, (ids, mask) = at_random(TextEncoder(**SMALL)), draw_ids(3, 9)
    with torch.no_grad():
        exact = model(ids, mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = model(ids, mask) if autocast else model.bfloat16()(ids, mask)
    assert (found - exact).abs().max() <= 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(activation="relu"), "expected activation as one of 'gelu', 'quick_gelu', got 'relu'"),
        (dict(heads=5), "24 channels do not split into 5 heads"),
        (dict(depth=0), "positive sizes, .*depth=0"),
        (dict(end=97), "end, an id, from 0 to 96, got 97"),
    ],
)
def test_bad_configurations(more, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(**SMALL | more)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2]], "got list"),
        (torch.tensor([1, 2]), r"expected ids: \(b, n\) int64.* got shape \(2,\) of torch.int64"),
        (torch.tensor([[1.0, 2.0]]), "got shape .* of torch.float32"),
        (torch.tensor([[True, False]]), "of torch.bool"),
        (torch.zeros(1, 14, dtype=torch.int64), r"at most 13 tokens, got 14: tokenizer\(texts, length=13\)"),
        (torch.tensor([[1, 97]]), "expected ids from 0 to 96, got 1 to 97: do tokenizer"),
        (torch.tensor([[-1, 5]]), "got -1 to 5"),
    ],
)
def test_bad_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(**SMALL)(ids)


E1, E2, E3 = torch.eye(3)


def test_the_loss_by_hand():
    """Cosines: 1 and 0.6 of caption 1 with pictures 1 and 2, 0 and 0.8 of caption 2."""
    text = torch.stack([2 * E1, 3 * E2])
    image = torch.stack([5 * E1, 0.6 * E1 + 0.8 * E2])
    log_scale = torch.tensor(math.log(10))
    by_text = [math.log(1 + math.exp(10 * (0.6 - 1.0))), math.log(1 + math.exp(10 * (0.0 - 0.8)))]
    by_image = [math.log(1 + math.exp(10 * (0.0 - 1.0))), math.log(1 + math.exp(10 * (0.6 - 0.8)))]
    expected = (sum(by_text) / 2 + sum(by_image) / 2) / 2
    torch.testing.assert_close(contrastive_loss(text, image, log_scale), torch.tensor(expected))


def test_equal_captions_are_no_wrong_answers():
    """Captions 1 and 3 say the same: 1 chooses among pictures 1 and 2, 3 among 2 and 3, and 2 among all three."""
    text = torch.stack([E1, E2, E1])
    image = torch.stack([E1, E3, 0.6 * E1 + 0.8 * E2])
    s = 4.0
    cosines = [[1.0, 0.0, 0.6], [0.0, 0.0, 0.8], [1.0, 0.0, 0.6]]

    def cost(right, *wrong):
        return math.log(sum(math.exp(s * c) for c in (right, *wrong))) - s * right

    by_text = cost(1.0, 0.0) + cost(0.0, 0.0, 0.8) + cost(0.6, 0.0)
    by_image = cost(1.0, 0.0) + cost(0.0, 0.0, 0.0) + cost(0.6, 0.8)
    assert [row[2] for row in cosines] == pytest.approx((text @ image[2]).tolist())
    found = contrastive_loss(text, image, torch.tensor(math.log(s)), torch.tensor([8, 5, 8]))
    torch.testing.assert_close(found, torch.tensor((by_text + by_image) / 6))
    plain = contrastive_loss(text, image, torch.tensor(math.log(s)))
    assert plain > found
    torch.testing.assert_close(contrastive_loss(text, image, torch.tensor(math.log(s)), torch.tensor([8, 5, 7])), plain)
    assert contrastive_loss(text, image, torch.tensor(0.0), torch.tensor([1, 1, 1])) == 0  # nothing to choose


def test_equal_captions_are_not_pushed_apart():
    generator = torch.Generator().manual_seed(0)
    text, image = torch.randn(2, 4, 6, generator=generator)
    captions = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6]])
    meaning = captions.unique(dim=0, return_inverse=True)[1]
    assert meaning[0] == meaning[2] and len(meaning.unique()) == 3

    def pull(image):
        features = text.clone().requires_grad_()
        contrastive_loss(features, image, torch.tensor(1.0), meaning).backward()
        return features.grad

    moved = image.clone()
    moved[2] += 1.0
    assert torch.equal(pull(image)[0], pull(moved)[0])  # caption 1 is not pushed from the picture of its twin
    assert not torch.equal(pull(image)[1], pull(moved)[1])


def test_the_scale_is_bounded():
    generator = torch.Generator().manual_seed(0)
    text, image = torch.randn(2, 5, 3, generator=generator)
    losses = [contrastive_loss(text, image, torch.tensor(math.log(s))) for s in (100.0, 1e4, 50.0)]
    assert losses[0] == losses[1] != losses[2]
    guess = contrastive_loss(torch.ones(7, 3), torch.ones(7, 3), torch.tensor(2.0))
    torch.testing.assert_close(guess, torch.tensor(math.log(7)))
    assert contrastive_loss(text.bfloat16(), image.bfloat16(), torch.tensor(1.0)).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "image", "meaning", "message"),
    [
        ((4, 3), (5, 3), None, r"one shape \(b, d\), got \(4, 3\) and \(5, 3\)"),
        ((4,), (4,), None, r"got \(4,\) and \(4,\)"),
        ((4, 3), (4, 3), (4, 3), r"expected meaning: \(4,\), one label per caption, got shape \(4, 3\)"),
    ],
)
def test_bad_features(text, image, meaning, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(torch.ones(text), torch.ones(image), torch.tensor(1.0), meaning and torch.ones(meaning))


def test_every_parameter_learns():
    with seeded(0):
        model = CLIP(TextEncoder(**SMALL), ImageEncoder(10, size=12, channels=(8, 16, 24), heads=2, in_channels=5), 10)
    ids, mask = draw_ids(6, 13)
    images = torch.randn(6, 5, 12, 12, generator=torch.Generator().manual_seed(2))
    text, image, log_scale = model(ids, mask, images)
    assert text.shape == image.shape == (6, 10) and log_scale.exp().item() == pytest.approx(1 / 0.07)
    contrastive_loss(text, image, log_scale).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith("to_k.bias"), name


def test_where_something_stands_matters_to_the_image_encoder():
    with seeded(0):
        model = ImageEncoder(7, size=16, channels=(8, 12)).eval()
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., 5:8, 5:8] = 1.0
    with torch.no_grad():
        one, other = model(torch.cat([picture, picture.roll(4, -1)]))  # far from the edges: padding tells nothing
    assert (one - other).abs().max() > 1e-4 and one.shape == (7,)


def test_bad_pictures():
    model = ImageEncoder(7, size=16, channels=(8, 12))
    for shape, message in [
        ((1, 3, 16, 12), "16×16 pixels, got 16×12"),
        ((1, 1, 16, 16), "expected 3 channels, got 1"),
        ((3, 16, 16), "add a batch axis"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match="halved 2 times, got 10"):
        ImageEncoder(7, size=10, channels=(8, 12, 16))


COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}


def squares(generator, n):
    """Squares in four colours, on the left or on the right, and what they are: 0 to 7."""
    kinds = torch.randint(8, (n,), generator=generator)
    images = -torch.ones(n, 3, 16, 16)
    for image, kind in zip(images, kinds.tolist(), strict=True):
        y, x = torch.randint(10, (), generator=generator), torch.randint(3, (), generator=generator) + 8 * (kind % 2)
        image[:, y : y + 6, x : x + 6] = torch.tensor(list(COLOURS.values())[kind // 2])[:, None, None]
    return images, kinds


def test_pictures_teach_words():
    """After a hundred small batches, full of equal captions, each picture finds its caption: colour and place."""
    texts = [f"a {colour} square {where}" for colour in COLOURS for where in ("left", "right")]
    tokenizer = train_tokenizer(texts * 2, 300, length=8)
    ids, mask = tokenizer(texts)
    with seeded(0):
        text_encoder = TextEncoder(len(tokenizer), 32, depth=1, heads=2, length=8)
        model = CLIP(text_encoder, ImageEncoder(16, size=16, channels=(8, 16)), dim=16)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(100):
        images, kinds = squares(generator, 16)
        loss = contrastive_loss(*model(ids[kinds], mask[kinds], images), meaning=kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    images, kinds = squares(generator, 64)
    with torch.no_grad():
        text, image, _ = model(ids, mask, images)
        found = (image @ F.normalize(text, dim=1).T).argmax(1)
    assert losses[0] > 1.5 and sum(losses[-10:]) / 10 < 0.2
    assert (found == kinds).float().mean() > 0.9
