"""Which object stands where: the U-Net of lesson 01, trained on scenes, looks at pictures and says what it sees.

And so whether a picture shows what a prompt asks for, in the manner of Ghosh et al., "GenEval: An Object-Focused
Framework for Evaluating Text-to-Image Alignment" (2023).
"""

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minildm import weights
from minildm.data import VOCABULARY, Prompt, parse
from minildm.data.scenes import bounding_box
from minildm.images import Images, to_model, to_unit
from minildm.optional import require
from minildm.tensors import check_images, evaluating

SPECK = 12  # pixels of a 64×64 picture: less than that is no object

MISSING, TOO_MANY, UNASKED, ELSEWHERE = FAULTS = ("missing", "too many", "not asked for", "elsewhere")


class Found(NamedTuple):
    """One object in a picture."""

    name: str  # one of `data.VOCABULARY`
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last two exclusive
    mask: np.ndarray  # (h, w) bool


def inspect(images: Images, model: nn.Module | None = None) -> list[list[Found]]:
    """Object detection: for each picture, the objects in it, from left to right.

    images: a tensor (b, 3, h, w) in [0, 1], a list of PIL pictures of one size, or whatever else `images` takes,
        transparent ones on white; the judge knows 64×64. Their sides are multiples of what the network divides them by
        (8 for the shipped judge), and at least twice as long.
    model: a `UNet(3, 1 + len(VOCABULARY), ...)` whose outputs are ground and names; by default the shipped judge.
    Raises ValueError for images of another shape or range, for a network of another number of outputs, and where
    `data.VOCABULARY` is not what the shipped judge learned.
    """
    model = _shipped() if model is None else model
    classes = class_map(model, images)
    return [objects(picture) for picture in classes]


def score(images: Images, prompts: Sequence[str | Prompt], model: nn.Module | None = None) -> list[bool]:
    """GenEval's verdict: for each picture, whether it shows what its prompt asks for and nothing else, no `faults`.

    images, model: as in `inspect`.  prompts: captions in English or Chinese, as `data.parse` reads them, or Prompts;
    one for each picture, or a single one for all.
    The shipped judge passed all of 2,400 fresh scenes, 200 of each task in either split, and none of them beside the
    caption of another one of its task, unless that asks for the same.
    Raises ValueError for prompts that it cannot read, another number of them, and what `inspect` refuses.
    """
    images = to_unit(images)
    prompts = [prompts] * len(images) if isinstance(prompts, str | Prompt) else list(prompts)
    if len(prompts) != len(images):
        raise ValueError(f"expected a prompt for each picture, got {len(prompts)} for {len(images)} pictures")
    prompts = [parse(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    found = inspect(images, model)
    return [not faults(seen, prompt) for seen, prompt in zip(found, prompts, strict=True)]


def faults(found: Sequence[Found], prompt: Prompt) -> list[str]:
    """GenEval's errors: what is wrong with a picture in which `found` was seen, given its prompt; some of FAULTS.

    "missing": fewer of a named object than asked for. A heart of another colour is no red heart: it is not asked for.
    "too many": more of a named object than asked for.  "not asked for": an object that the prompt does not name.
    "elsewhere": both objects are there, but the relation does not hold between the largest of each.

    GenEval forgives objects that were not asked for, and too many where the task is not counting; but scenes show
    what their caption names and nothing else, so a picture for a prompt should too.
    """
    asked = dict(prompt.objects)
    seen = {name: [one for one in found if one.name == name] for name in asked}
    wrong = {
        MISSING: any(len(seen[name]) < n for name, n in asked.items()),
        TOO_MANY: any(len(seen[name]) > n for name, n in asked.items()),
        UNASKED: any(one.name not in asked for one in found),
    }
    if prompt.relation and all(seen.values()):
        first, second = (max(some, key=lambda one: one.mask.sum()) for some in seen.values())
        wrong[ELSEWHERE] = prompt.relation not in relations(first.box, second.box)
    return [fault for fault, there in wrong.items() if there]


def relations(a: Sequence[int], b: Sequence[int]) -> set[str]:
    """Spatial relations: where box a stands, seen from box b.

    One of `data.RELATIONS`, two where it is diagonal, none if they are close.
    Boxes are x0, y0, x1, y1.  The centres must differ along an axis by more than a tenth of both boxes' sides
    together, and what they differ by beyond that must be more than half the distance of the centres. So a may stand
    off the axis by nearly 60° if it is far from b, by less if it is close; the scenes themselves stay within 27°.
    Source: GenEval, its `relative_position`.
    """
    a, b = np.reshape(a, (2, 2)), np.reshape(b, (2, 2))  # (corner, axis)
    offset = a.mean(0) - b.mean(0)
    margin = 0.1 * (a[1] - a[0] + b[1] - b[0])
    beyond = np.maximum(np.abs(offset) - margin, 0) > np.linalg.norm(offset) / 2
    names = np.where(offset < 0, ("left of", "above"), ("right of", "below"))
    return {str(name) for name in names[beyond]}


@torch.no_grad()
def class_map(model: nn.Module, images: Images) -> np.ndarray:
    """Semantic segmentation, the likeliest class of each pixel: 0 = ground, i + 1 = VOCABULARY[i].

    images: as in `inspect`.  Returns (b, h, w) int64.  Raises ValueError as `inspect` does.
    """
    with evaluating(model):
        maps = [_classes(model(part)) for part in _parts(model, images)]
    return torch.cat(maps).cpu().numpy()


def _classes(scores: Tensor) -> Tensor:
    if scores.shape[1] != 1 + len(VOCABULARY):
        raise ValueError(
            f"expected a network of {1 + len(VOCABULARY)} outputs, the ground and the {len(VOCABULARY)} names of "
            f"data.VOCABULARY, got {scores.shape[1]}: train it anew with the vocabulary that is used"
        )
    if not scores.isfinite().all():
        raise ValueError("the judge's answers are not finite numbers: its weights are damaged, or its training failed")
    return scores.argmax(1)


@torch.no_grad()
def features(images: Images, model: nn.Module | None = None) -> Tensor:
    """Features of pictures for the distances of `metrics`, from the judge's encoder. -> (b, 2 * channels[-1])

    The mean and the standard deviation over the picture of its coarsest feature map.  images: as in `inspect`.
    model: any UNet; by default the shipped judge.  Raises ValueError for images of another shape or range.
    """
    model = _shipped() if model is None else model
    with evaluating(model):
        maps = torch.cat([model.encode(part)[-1] for part in _parts(model, images)])
    maps = maps.flatten(2)  # (b, c, h w)
    return torch.cat([maps.mean(2), maps.std(2)], dim=1)


def objects(classes: np.ndarray) -> list[Found]:
    """Connected components of a class map (h, w), the objects: each has the commonest name of its pixels.

    Where two names each hold a quarter of a connected region or more, they are two objects that touch. What is ten
    times smaller than another object of its name is a part that stands apart from it, such as a crab's eye.
    Raises ValueError unless the classes are whole numbers from 0, the ground, to len(VOCABULARY).
    """
    classes = np.asarray(classes)
    if classes.ndim != 2 or not classes.size or classes.dtype.kind not in "bui":
        raise ValueError(f"expected classes (h, w) of whole numbers, got shape {classes.shape}, dtype {classes.dtype}")
    if classes.min() < 0 or classes.max() > len(VOCABULARY):
        found = f"{classes.min()} to {classes.max()}"
        raise ValueError(f"expected classes from 0, the ground, to {len(VOCABULARY)}, got {found}")
    classes = classes.astype(np.int64)
    label = require("scipy.ndimage").label
    near = np.ones((3, 3))  # pixels hang together across corners too
    speck = SPECK * classes.size / 64**2
    regions, n = label(classes > 0, near)
    found = []
    for k in range(1, n + 1):
        region = regions == k
        counts = np.bincount(classes[region], minlength=len(VOCABULARY) + 1)
        names = np.flatnonzero(counts >= max(counts.sum() / 4, speck))
        for name in names:
            parts, m = label(region & (classes == name), near) if len(names) > 1 else (region, 1)
            masks = [parts == part for part in range(1, m + 1)]
            sizable = [mask for mask in masks if mask.sum() >= speck]
            found += [Found(VOCABULARY[name - 1], bounding_box(mask), mask) for mask in sizable]
    largest = {one.name: 0 for one in found}
    for one in found:
        largest[one.name] = max(largest[one.name], one.mask.sum())
    return sorted((one for one in found if one.mask.sum() * 10 > largest[one.name]), key=lambda one: one.box)


def _parts(model: nn.Module, images: Images) -> tuple[Tensor, ...]:
    """Pictures as the judge takes them, in [-1, 1] and where it is; a few at a time, so that memory stays small."""
    multiple, images = getattr(model, "multiple", 1), to_model(images)
    check_images(images, 3, multiple)
    h, w = images.shape[2:]
    if min(h, w) < 2 * multiple:  # a coarsest map of one pixel has no spread, and no room for an object and its ground
        side = 2 * multiple
        raise ValueError(f"expected pictures of at least {side}×{side} pixels, got {h}×{w}: scale them up")
    parameter = next(model.parameters())
    return images.to(parameter.device, parameter.dtype).split(64)


@cache
def _shipped() -> nn.Module:
    learned = weights.record("scenes-judge").get("vocabulary", [])
    for number, (old, new) in enumerate(zip_longest(learned, VOCABULARY), start=1):
        if old != new:
            raise ValueError(
                f"the shipped judge learned other classes than data.VOCABULARY names: class {number} was {old!r} and "
                f"is {new!r} now; train it anew, minildm train scenes-judge, or hand over a judge of your own as model"
            )
    return weights.load("scenes-judge")
