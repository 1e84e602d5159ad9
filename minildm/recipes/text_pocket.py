"""The pocket model's words: a tokenizer and a text encoder for English and Chinese, taught by pictures, as CLIP was.

A batch is made of families of captions that differ in one respect only, so that order and number must be read.
"""

from collections import defaultdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minildm import data, weights
from minildm.data.families import FAMILIES, family, meaning
from minildm.data.scenes import paint
from minildm.images import to_model
from minildm.optional import moved
from minildm.recipes import RUNS, Job
from minildm.recipes.probe import probe
from minildm.tensors import seeded
from minildm.text import CLIP, ImageEncoder, TextEncoder, Tokenizer, contrastive_loss, train_tokenizer
from minildm.training import train

STEPS, BATCH, LR = 4000, 128, 1e-3
VOCABULARY, DIM, DEPTH, HEADS, LENGTH = 2048, 160, 3, 5, 32
SIZE = 32  # of the pictures: where things stand and how many there are is seen there, too
DRAWINGS = 8  # one picture in so many is a drawing of OpenMoji
TRAIN_SEED, TEST_SEED = 5, 6
# How often a family is drawn: what is hard to learn more often.
SHARES = {"position": 4, "counting": 2, "colour attribution": 2, "two objects": 1, "colour": 1}


def tokenizer() -> Tokenizer:
    """Byte-pair encoding of the captions that training sees, in both languages."""
    captions = [text for language in data.LANGUAGES for text in data.prompts(20_000, TRAIN_SEED, language=language)]
    names = [name for names in drawings().values() for name in names]
    return train_tokenizer(captions + names, VOCABULARY, LENGTH)


def network(seed: int = 0, vocabulary: int = VOCABULARY) -> CLIP:
    """The untrained text encoder, and the image encoder that is its other half in training."""
    with seeded(seed):
        return CLIP(TextEncoder(vocabulary, DIM, DEPTH, HEADS, LENGTH), ImageEncoder(DIM, SIZE, (32, 64, 128)), DIM)


@cache
def drawings(split: str = "train") -> dict[str, list[str]]:
    """The names of OpenMoji's drawings by language."""
    return {language: list(data.openmoji(SIZE, language, split)["name"]) for language in data.LANGUAGES}


@cache
def drawn(split: str = "train") -> np.ndarray:
    """OpenMoji's drawings, (n, SIZE, SIZE, 3) uint8."""
    return np.stack([np.asarray(image) for image in data.openmoji(SIZE, split=split)["image"]])


def batch(generator: torch.Generator, n: int, tokens: Tokenizer, families: bool = True) -> dict[str, Tensor]:
    """n captions, each in one of the languages, with a picture each: families of scenes, and drawings.

    families: False draws each prompt by itself, to see what families are good for.
    `ids` (n, LENGTH) int64; `image` (n, 3, SIZE, SIZE) in [-1, 1]; `meaning` (n,) int64, equal where captions say
    the same.
    """
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).random
    scenes, tasks = [], [task for task, share in SHARES.items() for _ in range(share)]
    while len(scenes) < n - n // DRAWINGS:
        some = family(tasks[int(draw() * len(tasks))], "train", draw)
        scenes += some if families else [some[int(draw() * len(some))]]
    scenes = scenes[: n - n // DRAWINGS]
    chosen = [int(draw() * len(drawn())) for _ in range(n // DRAWINGS)]

    texts = [data.caption(prompt, _language(draw), draw) for prompt in scenes]
    texts += [drawings()[_language(draw)][i] for i in chosen]
    images = np.concatenate([paint(scenes, draw, SIZE), drawn()[chosen]])
    number = {}  # of each thing said
    said = [number.setdefault(what, len(number)) for what in [*map(meaning, scenes), *chosen]]
    return {"ids": tokens(texts)[0], "image": to_model(images), "meaning": torch.tensor(said)}


def _language(draw):
    return data.LANGUAGES[int(draw() * len(data.LANGUAGES))]


def loss(model: CLIP, tensors: dict[str, Tensor]) -> Tensor:
    """Find each caption's picture and each picture's caption; of several processes each looks in its own slice."""
    ids = tensors["ids"]
    ids = ids[:, : _longest(ids, model.text_encoder.end)]  # what follows is padding, which no word sees
    return contrastive_loss(*model(ids, None, tensors["image"]), tensors["meaning"])


def _longest(ids, end):
    return int((ids == end).int().argmax(1).max()) + 1


@torch.no_grad()
def hard_retrieval(
    model: CLIP, tokens: Tokenizer, language: str, n: int = 100, split: str = "heldout", seed: int = TEST_SEED
) -> dict[str, float]:
    """By family: how often a picture finds its caption among those of its family, over n families; chance is 1/4 (1/3).

    Only members with a held-out combination count where split is "heldout".
    """
    draw, found = np.random.default_rng(seed).random, defaultdict(list)
    for task in FAMILIES:
        for _ in range(n):
            members = family(task, split, draw)
            ids, mask = tokens([data.caption(prompt, language, draw) for prompt in members])
            text, image, _ = model(ids, mask, to_model(paint(members, draw, SIZE)))
            hits = (F.normalize(text, dim=1) @ F.normalize(image, dim=1).T).argmax(0) == torch.arange(len(members))
            found[task] += [
                bool(hit) for hit, prompt in zip(hits, members, strict=True) if split == "train" or data.heldout(prompt)
            ]
    return {task: float(np.mean(hits)) for task, hits in found.items()}


@torch.no_grad()
def retrieval(model: CLIP, tokens: Tokenizer, language: str, n: int = 200, seed: int = TEST_SEED) -> float:
    """How often a caption finds its picture among those of n held-out captions that say different things."""
    draw, prompts = np.random.default_rng(seed).random, {}
    for text in data.prompts(20 * n, seed, "heldout", language=language):
        prompts.setdefault(meaning(data.parse(text)), text)
    prompts = dict(list(prompts.items())[:n])
    text, image, _ = model(*tokens(prompts.values()), to_model(paint(list(prompts), draw, SIZE)))
    found = (F.normalize(text, dim=1) @ F.normalize(image, dim=1).T).argmax(1)
    return float((found == torch.arange(len(prompts))).float().mean())


def evaluate(model: CLIP, tokens: Tokenizer, n: int = 100) -> dict[str, dict]:
    """Retrieval of held-out captions, and what a probe reads off the tokens of the trained and of a random encoder."""
    random = network(1, len(tokens)).text_encoder.eval()
    return {
        "retrieval": {language: retrieval(model, tokens, language, 2 * n) for language in data.LANGUAGES},
        "in_family": {language: hard_retrieval(model, tokens, language, n) for language in data.LANGUAGES},
        "probe": probe(model.text_encoder, tokens, 60 * n),
        "probe_untrained": probe(random, tokens, 60 * n),
    }


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train tokenizer and text encoder, measure them, write the checkpoint and the tokenizer beside it."""
    tokens, job = tokenizer(), Job("text-pocket", out, seed, resume, runs)
    model = network(seed, len(tokens))
    settings = dict(steps=steps or STEPS, batch_size=BATCH, lr=LR, seed=seed)
    history = train(model, partial(batch, tokens=tokens), loss, **settings, checkpoint=job.checkpoint())
    result = evaluate(model, tokens)
    print(result)
    source = f"scenes, families of seed {seed}, and openmoji, train, {SIZE}×{SIZE}"
    path = job.finish(model.text_encoder, history, data=source, measured=result)
    tokens.save(path.with_suffix(".json"))
    return path


def load(name_or_path: str | Path = "text-pocket") -> tuple[TextEncoder, Tokenizer]:
    """The trained text encoder and its tokenizer."""
    file = weights.FOLDER / f"{name_or_path}.json" if name_or_path == "text-pocket" else Path(name_or_path)
    return weights.load(name_or_path), Tokenizer.load(file.with_suffix(".json"))


__getattr__ = moved(__name__, {"as_input": "minildm.images.to_model"})
