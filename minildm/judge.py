"""Which object stands where: the U-Net of lesson 01, trained on scenes, looks at pictures and says what it sees."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minildm import weights
from minildm.data import VOCABULARY
from minildm.data.scenes import bounding_box
from minildm.optional import require
from minildm.tensors import to_pictures

SPECK = 12  # pixels of a 64×64 picture: less than that is no object


class Found(NamedTuple):
    """One object in a picture."""

    name: str  # one of `data.VOCABULARY`
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last two exclusive
    mask: np.ndarray  # (h, w) bool


def inspect(images: Tensor | Sequence, model: nn.Module | None = None) -> list[list[Found]]:
    """For each picture, the objects in it, from left to right.

    images: a tensor (b, 3, h, w) in [0, 1], or a list of PIL pictures of one size; the judge knows 64×64.
    model: a `UNet(3, 1 + len(VOCABULARY), ...)` whose outputs are ground and names; by default the shipped judge.
    Raises ValueError for images of another shape or range.
    """
    model = _shipped() if model is None else model
    classes = class_map(model, to_pictures(images))
    return [objects(picture) for picture in classes]


@torch.no_grad()
def class_map(model: nn.Module, images: Tensor) -> np.ndarray:
    """The likeliest class of each pixel: 0 = ground, i + 1 = VOCABULARY[i]. (b, 3, h, w) in [0, 1] -> (b, h, w)"""
    return torch.cat([model(part).argmax(1) for part in _parts(model, images)]).cpu().numpy()


@torch.no_grad()
def features(images: Tensor | Sequence, model: nn.Module | None = None) -> Tensor:
    """What the judge's encoder makes of each picture, for `metrics.kernel_distance`. -> (b, 2 * channels[-1])

    The mean and the standard deviation over the picture of its coarsest feature map.  images, model: as in `inspect`.
    """
    model = _shipped() if model is None else model
    maps = torch.cat([model.encode(part)[-1] for part in _parts(model, to_pictures(images))]).flatten(2)  # (b, c, h w)
    return torch.cat([maps.mean(2), maps.std(2)], dim=1)


def objects(classes: np.ndarray) -> list[Found]:
    """Part a class map (h, w) into objects: pixels that hang together belong to one, and it has their commonest name.

    Where two names each hold a quarter of a connected region or more, they are two objects that touch. What is ten
    times smaller than another object of its name is a part that stands apart from it, such as a crab's eye.
    """
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


def _parts(model, images):
    """Pictures as the judge takes them, in [-1, 1] and where it is; a few at a time, so that memory stays small."""
    parameter = next(model.parameters())
    return images.to(parameter.device, parameter.dtype).mul(2).sub(1).split(64)


@cache
def _shipped() -> nn.Module:
    return weights.load("scenes-judge")
