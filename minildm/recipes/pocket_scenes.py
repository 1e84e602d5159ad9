"""What the pocket learns from: scenes of each task as latents, with captions and with what stands in each cell."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minildm import data, storage
from minildm.autoencoder import AutoencoderKL
from minildm.data import sprites
from minildm.data._cache import cached
from minildm.data.scenes import CONTENT, bounding_box
from minildm.images import to_model
from minildm.losses import draw_noise, spread_timesteps
from minildm.schedule import NoiseSchedule
from minildm.tensors import best_device
from minildm.text import Tokenizer

SIZE, TRAIN_SEED = 64, 7
UNCONDITIONAL_RATE = 0.1  # how often a caption is dropped, so that the U-Net can also draw without one, for guidance
HIDDEN = 0.94  # of the timesteps: from here on, nothing of the picture is to be seen in the noise
# Which share of the samples lies below which part of the timesteps: what stands where is decided in much noise, how it
# is drawn in less, and the autoencoder forgives what is wrong in little.
TIMES = {0.0: 0.0, 0.25: 0.35, 0.6: 0.7, 0.88: HIDDEN, 1.0: 1.0}

# How often a task is drawn. Which colour is whose takes longest to learn, and the most different scenes.
SHARES = {"one object": 3, "two objects": 3, "counting": 3, "colour": 2, "position": 4, "colour attribution": 4}


class Latents(NamedTuple):
    """Scenes of one task, ready for training."""

    z: Tensor  # (n, c, h, w) float16, scaled
    classes: Tensor  # (n, h, w) uint8, what stands in each cell of the latent: 0 = ground, i + 1 = VOCABULARY[i]
    boxes: Tensor  # (n, 4, h, w) float16: from a cell to the middle of its thing, and the thing's size, see `_cells`
    things: Tensor  # (n, 2) uint8: the prompt's first and second thing, numbered as in classes; 0 where there is none
    layouts: Tensor  # (n,) uint8: what the prompt says about places, the number of the relation or of the things
    captions: dict[str, list[str]]  # by language


def latents(
    vae: AutoencoderKL, task: str, n: int, seed: int = TRAIN_SEED, split: str = "train", size: int = SIZE
) -> Latents:
    """The first n scenes of a task as the autoencoder's means, with captions in both languages; computed once.

    They lie in the cache folder, `data.scenes` says where that is, under a name that changes with the encoder.
    """
    values = hashlib.sha256()
    for name, tensor in sorted(storage.state(vae).items()):
        if name.startswith(("encoder.", "quant.")):
            values.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    key = dict(task=task, n=n, seed=seed, split=split, size=size, content=CONTENT, sprites=sprites.version())
    layout = "grid" if size >= 64 else "free"  # smaller pictures have no room for it
    key |= dict(version=2, vae=values.hexdigest(), scale_factor=vae.scale_factor, multiple=vae.multiple, layout=layout)

    def build(folder: Path):
        captions = {language: [] for language in data.LANGUAGES}
        parts = {name: [] for name in Latents._fields[:-1]}
        for start in range(0, n, 500):
            asked = dict(size=size, tasks=task, start=start, layout=layout)
            scenes = data.scene_arrays(min(500, n - start), seed, split, **asked)
            parts["z"].append(encoded(vae, scenes.images))
            said = (*_cells(scenes, vae.multiple), *_asked(scenes.prompts))
            for name, part in zip(("classes", "boxes", "things", "layouts"), said, strict=True):
                parts[name].append(part)
            wording = np.random.default_rng((seed, start)).random
            for language, texts in captions.items():
                texts += [data.caption(prompt, language, wording) for prompt in scenes.prompts]
        storage.write(folder / "latents.safetensors", {name: torch.cat(some) for name, some in parts.items()}, {})
        storage.write_text(folder / "captions.json", json.dumps(captions))

    folder = cached("latents", key, build)
    tensors, _ = storage.read(folder / "latents.safetensors")
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    return Latents(**tensors, captions=captions)


def _asked(prompts: Sequence[data.Prompt]) -> tuple[Tensor, Tensor]:
    """The things of each prompt, and what it says about places. -> (n, 2) uint8, (n,) uint8"""
    things = torch.zeros(len(prompts), 2, dtype=torch.uint8)
    layouts = torch.zeros(len(prompts), dtype=torch.uint8)
    for i, prompt in enumerate(prompts):
        for j, (name, count) in enumerate(prompt.objects):
            things[i, j] = data.VOCABULARY.index(name) + 1
            layouts[i] = count
        if prompt.relation:
            layouts[i] = data.RELATIONS.index(prompt.relation)
    return things, layouts


def expected_layouts(scenes: Latents) -> Tensor:
    """How often each thing of a prompt stands in a cell, over all scenes that ask for the same layout.

    -> (layouts, 2, h, w): the chance to find the first thing there, and the second. What a painter can know from the
    words alone.
    """
    found = (scenes.classes[:, None] == scenes.things[:, :, None, None]) & (scenes.things > 0)[:, :, None, None]
    maps = torch.zeros(int(scenes.layouts.max()) + 1, *found.shape[1:])
    for layout in scenes.layouts.unique().tolist():
        maps[layout] = found[scenes.layouts == layout].float().mean(0)
    return maps


def _cells(scenes: data.Scenes, cell: int) -> tuple[Tensor, Tensor]:
    """What stands in each cell of `cell` pixels a side, and its box: offset of its middle in units of two cells, size
    in units of three, less one. -> (n, h, w) uint8, (n, 4, h, w) float16"""
    n, side = len(scenes.images), scenes.images.shape[1] // cell
    classes, boxes = np.zeros((n, side, side), np.uint8), np.zeros((n, 4, side, side), np.float16)
    middles = np.arange(side) * cell + cell / 2
    for i, (mask, names) in enumerate(zip(scenes.masks, scenes.names, strict=True)):
        for j, name in enumerate(names, 1):
            x0, y0, x1, y1 = bounding_box(mask == j)
            rows, columns = slice(y0 // cell, -(-y1 // cell)), slice(x0 // cell, -(-x1 // cell))
            classes[i, rows, columns] = data.VOCABULARY.index(name) + 1
            boxes[i, 0, rows, columns] = (((x0 + x1) / 2 - middles[columns]) / (2 * cell))[None]
            boxes[i, 1, rows, columns] = (((y0 + y1) / 2 - middles[rows]) / (2 * cell))[:, None]
            boxes[i, 2, rows, columns] = (x1 - x0) / (3 * cell) - 1
            boxes[i, 3, rows, columns] = (y1 - y0) / (3 * cell) - 1
    return torch.from_numpy(classes), torch.from_numpy(boxes)


@torch.no_grad()
def encoded(vae: AutoencoderKL, images: np.ndarray) -> Tensor:
    """Pictures (n, h, w, 3) uint8 as scaled latents, the means, in float16. -> (n, c, h / f, w / f)"""
    device, home = best_device(), next(vae.parameters()).device
    vae.to(device)
    parts = (to_model(part).to(device) for part in np.array_split(images, -(-len(images) // 64)))
    z = torch.cat([vae.scale(vae.encode(part).mean).half().cpu() for part in parts])
    vae.to(home)
    return z


def draw_prompts(n: int, dice: np.random.Generator, shares: Mapping[str, float] = SHARES) -> list[str]:
    """n prompts of all tasks, each as often as its share, in both languages; none of them held out."""
    often = np.array([*shares.values()], float)
    said = []
    for task in dice.choice(list(shares), n, p=often / often.sum()):
        language = str(dice.choice(data.LANGUAGES))
        said += data.prompts(1, int(dice.integers(2**31)), tasks=str(task), language=language)
    return said


class Batches:
    """`batches(generator, n)` -> x_0, eps, t, ids (n, length), classes, boxes and cells of n scenes.

    Each is captioned in one of the languages. cells: (n, 1 + things, h, w), the chance that a thing stands in a cell:
    what the picture shows or, where noise hides the picture, what can be expected from the words. Taught the one layout
    that was drawn, a network would have to average over thousands of them before it saw what the words have to do
    with it.

    shares: how often each task is drawn, in any unit.
    unconditional_rate: how often a caption is dropped, that is, left empty.
    """

    def __init__(
        self,
        latents: Mapping[str, Latents],
        tokenizer: Tokenizer,
        shares: Mapping[str, float],
        schedule: NoiseSchedule,
        unconditional_rate: float = UNCONDITIONAL_RATE,
    ):
        self.latents, self.tokenizer, self.unconditional_rate = latents, tokenizer, unconditional_rate
        self.tasks = [task for task in latents if shares.get(task, 0)]
        self.shares = torch.tensor([float(shares[task]) for task in self.tasks])
        self.expected = {task: expected_layouts(latents[task]) for task in self.tasks}
        self.schedule = schedule

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        tasks = torch.multinomial(self.shares, n, replacement=True, generator=generator).tolist()
        where, language, kept = torch.rand(3, n, generator=generator, dtype=torch.float64).tolist()
        t = draw_timesteps(n, self.schedule, generator)
        hidden = t >= HIDDEN * len(self.schedule)
        z, classes, boxes, cells, texts = [], [], [], [], []
        for i, task in enumerate(self.tasks[k] for k in tasks):
            scenes = self.latents[task]
            at = int(where[i] * len(scenes.z))
            for found, part in zip((z, classes, boxes), scenes, strict=False):
                found.append(part[at])
            cells.append(self._expected(task, at) if hidden[i] else _as_chances(classes[-1]))
            captions = scenes.captions[data.LANGUAGES[int(language[i] * len(data.LANGUAGES))]]
            texts.append(captions[at] if kept[i] >= self.unconditional_rate else "")
        noised = draw_noise(torch.stack(z).float(), self.schedule, generator)
        said = {
            "classes": torch.stack(classes).long(),
            "boxes": torch.stack(boxes).float(),
            "cells": torch.stack(cells),
        }
        return noised | said | {"t": t, "ids": self.tokenizer(texts)[0]}

    def _expected(self, task: str, at: int) -> Tensor:
        scenes = self.latents[task]
        maps = self.expected[task][int(scenes.layouts[at])]  # (2, h, w)
        chances = torch.zeros(1 + len(data.VOCABULARY), *maps.shape[1:])
        chances.index_add_(0, scenes.things[at].long(), maps)
        chances[0] = (1 - maps.sum(0)).clamp(min=0)
        return chances


def _as_chances(classes: Tensor) -> Tensor:
    """Cells of which one knows what stands there. (h, w) -> (1 + things, h, w)"""
    return F.one_hot(classes.long(), 1 + len(data.VOCABULARY)).movedim(-1, 0).float()


def draw_timesteps(
    n: int, schedule: NoiseSchedule, generator: torch.Generator, times: Mapping[float, float] = TIMES
) -> Tensor:
    """n timesteps spread over the schedule as `times` says, in random order. (n,)"""
    even = (spread_timesteps(n, schedule, generator) + 0.5) / len(schedule)
    warped = np.interp(even.numpy(), list(times), list(times.values()))
    return torch.from_numpy(warped * len(schedule)).long()
