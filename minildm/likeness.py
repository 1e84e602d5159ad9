"""Is it drawn like the thing? Template matching: how much of a drawing a picture leaves unexplained.

The judge is a network, and kind to sketches: a lump of the right colours passes. This second eye lays the drawing
itself over the picture, in each size and pose that scenes have, and asks how well it fits at the best place.

Held against a viewer who knew nothing and graded 200 pictures of single things (real, decoded, painted by two models):
the rank correlation of the grades with `unexplained` is 0.82, among the painted ones 0.72. Of those below one half 97 %
were graded clearly recognisable or clean, of all that were so graded it finds 77 %; that a drawing is clean it tells at
0.15, agreeing in 86 % (Cohen's kappa 0.69).
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minildm.data.layout import poses
from minildm.data.sprites import Sprite
from minildm.data.vocabulary import THINGS
from minildm.images import Images, to_unit
from minildm.judge import Found

RING = 3  # pixels around the drawing that count, too: nothing may stick out
ALIKE = 0.5  # less than this unexplained: drawn like itself, see above
CLEAN = 0.15  # ... and as in a printed icon
MARGIN = 4  # by which a drawing may stand out of the picture, above and on the left
REACH = 3  # pixels by which a found object's box may be wrong


class Templates(NamedTuple):
    """A thing in each of its sizes and poses, on a common canvas."""

    colour: Tensor  # (n, 3, h, w) in [0, 1], already multiplied by alpha
    alpha: Tensor  # (n, 1, h, w)
    region: Tensor  # (n, 1, h, w) of 0 and 1: what counts, the drawing and a ring around it
    extents: Tensor  # (n, 2): height and width of each drawing


def unexplained(images: Images, names: Sequence[str]) -> np.ndarray:
    """The share of a drawing's variance that a picture leaves unexplained, at its best match anywhere. -> (n,)

    0: a copy; 1: no better than a single flat colour.
    images: 64×64, as `images` takes them.  names: of `data.VOCABULARY`, one for each picture.
    Raises ValueError for another number of names, and for unknown ones.
    """
    x = _pictures(images, names)
    return np.array([_best(picture, _templates(name)).min().item() for picture, name in zip(x, names, strict=True)])


def unexplained_by(images: Images, sprites: Sequence[Sprite]) -> np.ndarray:
    """The same for one drawing that needs not be in the vocabulary, in each of these sizes and poses. -> (n,)

    images: 64×64, as `images` takes them.  Raises ValueError for pictures of another size.
    """
    some = _as_templates(sprites)
    return np.array([_best(picture, some).min().item() for picture in _pictures(images)])


def drawn_like(images: Images, found: Sequence[Sequence[Found]]) -> list[list[float]]:
    """For each picture, of each object that `judge.inspect` found there, how much is unexplained at its own place."""
    x = _pictures(images, found)
    return [[_at_its_place(picture, one) for one in objects] for picture, objects in zip(x, found, strict=True)]


def gauge(images: Images, names: Sequence[str]) -> dict[str, float]:
    """The likeness of a model's pictures: median of `unexplained`, and the shares below ALIKE and CLEAN."""
    share = unexplained(images, names)
    return {
        "median": float(np.median(share)),
        "alike": float((share < ALIKE).mean()),
        "clean": float((share < CLEAN).mean()),
    }


def _pictures(images, each=None):
    x = to_unit(images)
    each = [None] * len(x) if each is None else each
    if len(x) != len(each) or x.shape[1:] != (3, 64, 64):
        raise ValueError(f"expected {len(each)} pictures of 64×64, one for each entry, got shape {tuple(x.shape)}")
    if unknown := sorted({name for name in each if isinstance(name, str)} - THINGS.keys()):
        raise ValueError(f"expected names of data.VOCABULARY, got {', '.join(unknown)}")
    return x


@cache
def _templates(name: str, count: int = 1) -> Templates:
    return _as_templates(poses(name, 64, count))


def _as_templates(sprites: Sequence[Sprite]) -> Templates:
    h, w = (max(one.mask.shape[axis] for one in sprites) + 2 * RING for axis in (0, 1))
    colour, alpha, region = (np.zeros((len(sprites), c, h, w), np.float32) for c in (3, 1, 1))
    for i, one in enumerate(sprites):
        box = tuple(slice(RING, RING + side) for side in one.mask.shape)
        colour[i][:, *box] = one.colour.transpose(2, 0, 1) / 255
        alpha[i, 0][box] = 1 - one.through[..., 0]
        region[i, 0][box] = one.mask
    wide = F.max_pool2d(torch.from_numpy(region), 2 * RING + 1, 1, RING)
    extents = torch.tensor([one.mask.shape for one in sprites])
    return Templates(torch.from_numpy(colour), torch.from_numpy(alpha), wide, extents)


def _best(picture: Tensor, some: Templates, near: tuple[int, int] | None = None) -> Tensor:
    """What each template leaves unexplained, on the picture's own ground, at every place. -> (n, y, x)

    near: only with the drawing's top left corner within REACH of this place (y, x).
    """
    h, w = some.region.shape[2:]
    edges = (picture[:, :2], picture[:, -2:], picture[:, :, :2], picture[:, :, -2:])
    ground = torch.cat([edge.flatten(1) for edge in edges], 1).median(1).values
    drawn = some.colour + (1 - some.alpha) * ground[None, :, None, None]
    # So far that the smallest template, in the corner of the canvas, reaches the far side, too.
    padded = F.pad(picture[None], (MARGIN, w, MARGIN, h), mode="replicate")
    if near is not None:
        top, left = (max(0, corner + MARGIN - RING - REACH) for corner in near)
        padded = padded[..., top : top + h + 2 * REACH, left : left + w + 2 * REACH]
    seen = F.conv2d(padded.square().sum(1, keepdim=True), some.region)  # |p|² within the region
    both = F.conv2d(padded, drawn * some.region)
    own = (drawn.square() * some.region).sum((1, 2, 3))[:, None, None]
    mean = (drawn * some.region).sum((2, 3)) / some.region.sum((2, 3))
    variance = ((drawn - mean[:, :, None, None]).square() * some.region).sum((1, 2, 3))[:, None, None]
    return (seen[0] - 2 * both[0] + own) / variance


def _at_its_place(picture: Tensor, one: Found) -> float:
    """The best match near the box of a found object, of templates about as large."""
    x0, y0, x1, y1 = one.box
    candidates = []
    for count in range(1, 5):
        some = _templates(one.name, count)
        alike = ((some.extents - torch.tensor([y1 - y0, x1 - x0])).abs() <= 2 * REACH).all(1)
        if alike.any():
            chosen = Templates(*(part[alike] for part in some))
            candidates.append(_best(picture, chosen, (y0, x0)).min().item())
    return min(candidates, default=1.0)
