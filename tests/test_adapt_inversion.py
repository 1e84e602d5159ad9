"""Textual inversion: one vector learns, a word is added to tokenizer and table, and diffusers reads and writes it."""

import warnings

import pytest
import torch
from clip_vocabulary import END, TEXTS, assert_same_ids, vocabulary, write_clip
from compare import random, randomized
from safetensors.torch import save_file
from small_sd import small

from minildm import stable_diffusion, training
from minildm.adapt import Examples, NewWord, example_loss, load_word, networks
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.text import TextEncoder, Tokenizer


def pipeline(known=("a", "cat")):
    pipe = small()
    pipe.unet = randomized(Denoiser(4, 4, (8, 16), attention=(1,), heads=2, context_dim=12, groups=8))
    pipe.unet.schedule = pipe.schedule
    pipe.words = frozenset(known)
    return pipe


def context(pipe, *texts):
    ids, mask = pipe.tokenizer(list(texts))
    return pipe.text_encoder(ids, mask).detach()


def test_only_the_new_vector_learns():
    pipe = pipeline()
    parts = networks(pipe).requires_grad_(False)
    near = pipe.text_encoder.tokens.weight[pipe.tokenizer.encode("cat")[1:-1]].mean(0)
    word = NewWord(pipe.tokenizer, pipe.text_encoder, "<b>", like="cat")
    assert torch.equal(word.vector, near)
    before = {name: p.clone() for name, p in parts.named_parameters()}
    assert [name for name, p in parts.named_parameters() if p.requires_grad] == ["text_encoder.tokens.vector"]
    examples = Examples(pipe, torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(0)), "a <b>")
    training.train(parts, examples, example_loss, steps=5, batch_size=2, lr=0.1, progress=False)
    changed = [name for name, p in parts.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["text_encoder.tokens.vector"] and (word.vector - near).abs().max() > 0.01
    learned = context(pipe, "a <b>")
    word.keep()
    assert torch.equal(context(pipe, "a <b>"), learned) and word.vector.shape == (12,)


def test_a_word_is_one_token_and_the_rest_is_as_before(tmp_path):
    pipe = pipeline()
    before, ids = context(pipe, "a cat"), pipe.tokenizer.encode("a cat")
    word = NewWord(pipe.tokenizer, pipe.text_encoder, "<blorp>", vector=random(12))
    n = len(pipe.tokenizer)
    assert torch.equal(context(pipe, "a cat"), before) and pipe.tokenizer.encode("a cat") == ids
    assert n - 1 in pipe.tokenizer.encode("a <blorp> and a cat") and pipe.tokenizer.encode("<blorp>")[1:-1] == [n - 1]
    with pytest.raises(ValueError, match="its keep()"):
        pipe.save_pretrained(tmp_path / "early")
    with pytest.raises(ValueError, match="call its keep"):
        NewWord(pipe.tokenizer, pipe.text_encoder, "<other>", like="cat")
    word.keep()
    word.keep()
    NewWord(pipe.tokenizer, pipe.text_encoder, "<other>", like="cat").keep()
    pipe.words = None
    drawn = pipe("a <blorp>", steps=1, seed=0, output="tensor", guidance=1)
    for path in (tmp_path / "folder", tmp_path / "one.safetensors"):
        again = LatentDiffusion.from_pretrained(pipe.save_pretrained(path))
        assert torch.equal(again("a <blorp>", steps=1, seed=0, output="tensor", guidance=1), drawn)
        assert again.tokenizer.encode("<other>")[1:-1] == [n]


def test_its_own_file(tmp_path):
    pipe = pipeline()
    word = NewWord(pipe.tokenizer, pipe.text_encoder, "<b>", vector=random(12))
    for path in (tmp_path / "b.safetensors", tmp_path / "folder"):
        word.save(path, steps=3)
        other = pipeline()
        assert other.load_word(path) == "<b>"
        assert torch.equal(context(other, "a <b>"), context(pipe, "a <b>"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other("a <b>", steps=1, seed=0)  # no warning of an unknown word
    assert (tmp_path / "b.safetensors").stat().st_size < 2000
    assert other.load_word(path, word="<c>") == "<c>"


class TestDiffusers:
    @pytest.fixture
    def folder(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return stable_diffusion.save(pipeline(), tmp_path / "sd")

    @staticmethod
    def both(folder):
        diffusers = pytest.importorskip("diffusers")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
            return stable_diffusion.load(folder), theirs

    @staticmethod
    def same(pipe, theirs, text):
        ids, _ = pipe.tokenizer([text])
        there = theirs.tokenizer(text, padding="max_length", max_length=ids.shape[1], return_tensors="pt").input_ids
        assert torch.equal(ids, there)
        with torch.no_grad():
            assert (context(pipe, text) - theirs.text_encoder(there)[0]).abs().max() <= 1e-5

    def test_ours_there(self, folder, tmp_path):
        pipe, theirs = self.both(folder)
        NewWord(pipe.tokenizer, pipe.text_encoder, "<b>", vector=random(12)).save(tmp_path / "word")
        theirs.load_textual_inversion(tmp_path / "word")
        self.same(pipe, theirs, "a <b>")

    def test_theirs_here(self, folder, tmp_path):
        """As its training script writes it: a row, by its token."""
        pipe, theirs = self.both(folder)
        save_file({"<b>": random(1, 12)}, tmp_path / "learned_embeds.safetensors", {"format": "pt"})
        theirs.load_textual_inversion(tmp_path)
        assert pipe.load_word(tmp_path) == "<b>"
        self.same(pipe, theirs, "a <b>")

    def test_a_whole_model_with_a_new_word(self, folder, tmp_path):
        pipe, _ = self.both(folder)
        NewWord(pipe.tokenizer, pipe.text_encoder, "<b>", vector=random(12)).keep()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again, theirs = self.both(stable_diffusion.save(pipe, tmp_path / "more"))
        self.same(pipe, theirs, "a <b>")
        self.same(again, theirs, "a <b>")


@pytest.mark.parametrize("word", ["<b>", "<Blorp-2>", "sks"])
def test_clips_own_vocabulary(word, tmp_path):
    """Where the word is found in a text, as transformers finds it."""
    transformers = pytest.importorskip("transformers")
    folder = write_clip(tmp_path / "tokenizer", vocabulary(), END)
    ours, theirs = Tokenizer.load(folder), transformers.CLIPTokenizer.from_pretrained(folder)
    NewWord(ours, TextEncoder(len(ours), 4, depth=1, heads=1), word, like="a cat")
    theirs.add_tokens(word)
    assert_same_ids(ours, theirs, [*TEXTS, word, f"a photo of {word}", f"{word}, {word.upper()} on grass", f"x{word}y"])


def test_what_does_not_fit(tmp_path):
    pipe = pipeline()
    parts = pipe.tokenizer, pipe.text_encoder
    for word, said in (("a b", "without spaces"), ("", "without spaces"), ("<|endoftext|>", "has .* already")):
        with pytest.raises(ValueError, match=said):
            NewWord(*parts, word, like="cat")
    with pytest.raises(ValueError, match="either like"):
        NewWord(*parts, "<b>")
    with pytest.raises(ValueError, match="an empty one"):
        NewWord(*parts, "<b>", like=" ")
    with pytest.raises(ValueError, match="pipeline for words"):
        NewWord(None, None, "<b>", like="cat")
    file = tmp_path / "b.safetensors"
    for tensors, said in (
        ({"<b>": torch.ones(13)}, "another text encoder: its vector has 13 numbers, not 12"),
        ({"<b>": torch.ones(3, 12)}, "holds 3 vectors"),
        ({"clip_l": torch.ones(12), "clip_g": torch.ones(12)}, "no embedding of one word"),
    ):
        save_file(tensors, file)
        with pytest.raises(ValueError, match=said):
            load_word(file, *parts)
    save_file({"emb_params": torch.ones(1, 12)}, tmp_path / "nice.safetensors")
    assert load_word(tmp_path / "nice.safetensors", *parts) == "nice"
    with pytest.raises(ValueError, match="has 'nice' already"):
        load_word(tmp_path / "nice.safetensors", *parts)
    (tmp_path / "b.pt").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="unpickles nothing"):
        load_word(tmp_path / "b.pt", *parts)
    with pytest.raises(FileNotFoundError, match="learned_embeds.safetensors"):
        load_word(tmp_path, *parts)
    file.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="damaged"):
        load_word(file, *parts)
