"""The tokenizer against transformers' and OpenAI's, what training never saw, and what lies in a folder."""

import importlib.util
import json
import random
import re
import unicodedata
from types import SimpleNamespace

import pytest
import torch
from clip_vocabulary import END, OPEN_CLIP, START, TEXTS, assert_same_ids, other, vocabulary, write_clip
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPTokenizer

from minildm.data.prompts import prompts
from minildm.text import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def clip_files():
    return vocabulary()


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
