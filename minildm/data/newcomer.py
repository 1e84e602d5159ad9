"""A thing that scenes never show, drawn as scenes draw theirs: what a trained model can be taught."""

from typing import NamedTuple

import numpy as np

from .layout import SCALES, settle
from .prompts import generator
from .scenes import ground
from .sprites import Sprite, sprite

CODEPOINT, NAME = "1F996", "dino"  # OpenMoji's T-Rex; no word of the captions


class Newcomers(NamedTuple):
    """n pictures of one new thing."""

    images: np.ndarray  # (n, size, size, 3) uint8
    masks: np.ndarray  # (n, size, size) bool: where it is


def poses(codepoint: str = CODEPOINT, size: int = 64) -> list[Sprite]:
    """The drawing in every size that `newcomers` shows, upright."""
    return [sprite(codepoint, round(scale * size)) for scale in SCALES["grid"][1]]


def newcomers(n: int, seed: int = 0, codepoint: str = CODEPOINT, size: int = 64) -> Newcomers:
    """n pictures of one OpenMoji thing alone, on the grounds of `scenes`, upright in whole cells as its layout "grid".

    Picture i depends on seed, i, codepoint and size alone.  codepoint: OpenMoji's file name.  size: of the pictures,
    from 64.  Raises FileNotFoundError for a drawing that OpenMoji has not, ValueError for other than n >= 1.
    """
    if n < 1 or size < 64:
        raise ValueError(f"expected n from 1 and a size from 64 pixels, got n={n} and size={size}")
    images, masks = np.empty((n, size, size, 3), np.uint8), np.zeros((n, size, size), bool)
    drawn = poses(codepoint, size)
    for i in range(n):
        draw = generator(seed, i, "all", purpose=2).random
        one = drawn[int(draw() * len(drawn))]
        h, w = one.mask.shape
        ((x, y),) = settle([(w, h)], None, size, draw)
        pad = one.margin  # room for a shadow that falls outside the picture
        canvas = ground(size, pad, draw)
        one.shade(canvas, x + pad, y + pad)
        one.lay(canvas, x + pad, y + pad)
        masks[i, y : y + h, x : x + w] = one.mask
        images[i] = canvas[pad : pad + size, pad : pad + size] + 0.5
    return Newcomers(images, masks)
