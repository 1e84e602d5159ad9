"""Cut and paste: new annotated pictures from old ones, by setting cut-out objects on a ground without any.

What users try first, long before they train a generator. Source: Dwibedi et al., "Cut, Paste and Learn" (2017), there
with blended edges.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from minildm.data import masks
from minildm.optional import require

Pair = tuple[np.ndarray, np.ndarray]  # an image and its instance mask, (h, w) each


class Cutout(NamedTuple):
    """One object in its box."""

    image: np.ndarray  # (a, b)
    inside: np.ndarray  # (a, b) bool: which pixels of the box are the object


def cutouts(image: np.ndarray, mask: np.ndarray) -> list[Cutout]:
    """Every object that lies whole in the picture, cut out along its outline.

    image: (h, w).  mask: (h, w) labels as `data.masks.labels` takes them. What touches the edge of the picture is left
    out, since the edge cut it. Raises ValueError for two shapes, and where no object lies whole.
    """
    mask = masks.labels(mask)
    if image.shape != mask.shape:
        raise ValueError(f"expected image and mask of one shape (h, w), got {image.shape} and {mask.shape}")
    found = []
    for label, box in enumerate(require("scipy.ndimage").find_objects(mask), start=1):
        touches = any(part.start == 0 or part.stop == side for part, side in zip(box, mask.shape, strict=True))
        if not touches:
            found.append(Cutout(image[box], mask[box] == label))
    if not found:
        raise ValueError("expected at least one object that lies whole in the picture, away from its edges, found none")
    return found


def ground(
    image: np.ndarray, mask: np.ndarray, generator: np.random.Generator, margin: int = 2, reach: float = 5.0
) -> np.ndarray:
    """The picture without its objects: in their place the brightness around them, and noise as on the rest. -> (h, w)

    margin: pixels around each object that go with it, for its light reaches beyond its outline.
    reach: over how many pixels the brightness of the ground is averaged, the deviation of a Gaussian.
    Raises ValueError where nothing is left between the objects.
    """
    ndimage = require("scipy.ndimage")
    bare = ~ndimage.binary_dilation(masks.labels(mask) > 0, iterations=margin)
    if not bare.any():
        raise ValueError("expected some ground between the objects, found none: take a smaller margin")
    weight = ndimage.gaussian_filter(bare.astype(float), reach)
    smooth = ndimage.gaussian_filter(np.where(bare, image, 0.0), reach) / np.maximum(weight, 1e-9)
    noise = generator.choice((image - smooth)[bare], image.shape)
    return np.where(bare, image, smooth + noise).astype(image.dtype)


def compose(ground: np.ndarray, objects: Sequence[Cutout], places: Sequence[tuple[int, int]]) -> Pair:
    """Set objects on a ground, one after the other: what comes later lies on top, in the image and in the mask.

    ground: (h, w), without objects; it stays as it is.  places: row and column of each box's upper left pixel. What
    reaches beyond the ground is cut off.
    Returns the image (h, w) and its mask, (h, w) int32: the k-th object, counted from 1, has the label k.
    """
    image, mask = ground.copy(), np.zeros(ground.shape, np.int32)
    h, w = ground.shape
    for label, (cut, (top, left)) in enumerate(zip(objects, places, strict=True), start=1):
        rows, columns = np.nonzero(cut.inside)
        within = (rows >= -top) & (rows < h - top) & (columns >= -left) & (columns < w - left)
        rows, columns = rows[within], columns[within]
        image[rows + top, columns + left] = cut.image[rows, columns]
        mask[rows + top, columns + left] = label
    return image, mask


def pasted(
    image: np.ndarray,
    mask: np.ndarray,
    n: int,
    size: int,
    seed: int = 0,
    overlap: float = 0.1,
    setting: Callable[..., Pair] = compose,
) -> list[Pair]:
    """n composed pairs, (size, size) each, from one annotated picture.

    The ground is a random crop of the picture without its objects. As many objects are set on it as such a crop has on
    average, give or take, each drawn at random, turned by quarters and mirrored, at a random place. A place is taken
    where at most `overlap` of the object would cover others.
    image, mask: (h, w), both at least `size`.
    setting: what sets the objects on the ground, as `compose` does.
    Raises ValueError as `cutouts` and `ground` do, and for a small picture.
    """
    if min(image.shape) < size:
        raise ValueError(f"expected a picture of at least {size}×{size}, got {image.shape}: choose a smaller size")
    generator, objects = np.random.default_rng(seed), cutouts(image, mask)
    bare = ground(image, mask, generator)
    share = (masks.labels(mask) > 0).mean()  # of the picture that objects cover
    pairs = []
    for _ in range(n):
        top, left = (generator.integers(side - size + 1) for side in image.shape)
        wanted = generator.poisson(share * size**2 / np.mean([cut.inside.sum() for cut in objects]))
        chosen, places, taken = [], [], np.zeros((size, size), bool)
        for _ in range(10 * wanted):
            cut = _turned(objects[generator.integers(len(objects))], generator)
            place = tuple(int(generator.integers(-side // 2, size - side // 2)) for side in cut.inside.shape)
            here = compose(np.zeros((size, size)), [cut], [place])[1] > 0
            if (here & taken).sum() <= overlap * here.sum() and here.any():
                taken |= here
                chosen.append(cut)
                places.append(place)
            if len(chosen) == wanted:
                break
        pairs.append(setting(bare[top : top + size, left : left + size], chosen, places))
    return pairs


def _turned(cut: Cutout, generator: np.random.Generator) -> Cutout:
    """By a random multiple of 90 degrees, and mirrored in half of the cases."""
    quarters, mirror = generator.integers(4), generator.integers(2)
    return Cutout(*(np.rot90(one[:, ::-1] if mirror else one, quarters) for one in cut))
