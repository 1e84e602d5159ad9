"""Many pictures at once: side by side, contact sheets, strips, film strips, maps of words."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from minildm.images import Images
from minildm.optional import require
from minildm.samplers import Step

from ._pictures import Figure, array, latent_colours, pixels

SMALL = 9  # points: no letter is smaller


def show(
    images: Mapping[str, Images] | Iterable[Images],
    *,
    columns: int = 6,
    size: float = 2.0,
    title: str = "",
    **options: object,
) -> Figure:
    """Pictures side by side, in rows of `columns`, each `size` inches wide; returns the figure.

    images: {title: picture}, or pictures without titles, each as `array` takes it.
    options: handed to `imshow`, such as cmap, vmin, vmax.  Raises ValueError for no pictures.
    """
    titles, pictures = zip(*images.items(), strict=True) if isinstance(images, Mapping) and images else ((), images)
    pictures = [array(image) for image in pictures]
    columns, rows = _layout(len(pictures), columns)
    height = size * pictures[0].shape[0] / pictures[0].shape[1] + (0.25 if any(titles) else 0)
    figure, axes = require("matplotlib.pyplot").subplots(
        rows, columns, figsize=(size * columns, height * rows + (0.35 if title else 0)), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, pictures, strict=False):
        axis.imshow(picture, **{"cmap": "gray"} | options)
    for axis, name in zip(axes.flat, titles, strict=False):
        axis.set_title(name, fontsize=10)
    figure.suptitle(title)
    return figure


def gallery(
    images: Images,
    columns: int = 16,
    *,
    size: float = 0.6,
    title: str = "",
    captions: Sequence[str] | None = None,
    frames: Sequence[str | None] | None = None,
) -> Figure:
    """A contact sheet of pictures, each `size` inches wide; returns the figure.

    images: (b, c, h, w) in [-1, 1], or what else `pixels` takes: PIL images, arrays, paths, lists of them.
    captions: above the pictures; may have several lines, and gets as many as it needs.
    frames: a colour around each picture; None: no frame.
    Raises ValueError for no pictures, and for pictures of several sizes.
    """
    pictures = pixels(images)
    pictures = pictures if pictures.ndim == 4 else pictures[None]
    columns, rows = _layout(len(pictures), columns)
    titles = [*(_wrapped(one, size) for one in captions or ()), *[""] * (rows * columns)][: rows * columns]
    in_rows = [titles[k : k + columns] for k in range(0, len(titles), columns)]
    lines = [max(above.count("\n") + 1 if above else 0 for above in row) for row in in_rows]
    height = size * pictures.shape[1] / pictures.shape[2] + sum(0.06 + 0.14 * n for n in lines if n) / rows
    figure, axes = _sheet(rows, columns, size, height, title)
    colours = [None] * len(pictures) if frames is None else frames
    for axis, picture, above, colour in zip(axes.flat, pictures, titles, colours, strict=False):
        axis.imshow(picture)
        axis.set_title(above, fontsize=SMALL, pad=3, linespacing=1.0)
        if colour is not None:
            axis.axis("on")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color=colour, linewidth=2)
    return figure


def strips(
    rows: Mapping[str, Images],
    title: str = "",
    *,
    size: float = 0.9,
    captions: Sequence[str] | None = None,
    frames: Mapping[str, Sequence[str | None]] | None = None,
) -> Figure:
    """Rows of pictures, edge to edge, each with its name at the left, to be compared column by column; the figure.

    rows: {name: pictures}, (b, c, h, w) in [-1, 1] or what else `pixels` takes; rows may be of different lengths.
    size: of a picture, in inches.  captions: above the columns.
    frames: {name: a colour around each picture of that row; None: no frame}.
    Raises ValueError for no rows, and for pictures of several sizes.
    """
    drawn = {name: pixels(images) for name, images in rows.items()}
    drawn = {name: one if one.ndim == 4 else one[None] for name, one in drawn.items()}
    if not drawn or len({one.shape[1:] for one in drawn.values()}) != 1:
        found = sorted({one.shape[1:3] for one in drawn.values()}) or "none"
        raise ValueError(f"expected rows of pictures, all of one size, got {found}")
    _, h, w, _ = next(iter(drawn.values())).shape
    columns = max(map(len, drawn.values()))
    plt, rectangle = require("matplotlib.pyplot"), require("matplotlib.patches").Rectangle
    figure = plt.figure(layout="none")  # the rows lie exactly where they are put
    axes = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    for axis, (name, pictures) in zip(axes, drawn.items(), strict=True):
        row = np.full((h, w * columns, 3), 255, np.uint8)
        row[:, : w * len(pictures)] = np.concatenate(list(pictures), axis=1)
        axis.imshow(row)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=SMALL + 1)
        axis.spines[:].set_visible(False)
        for k, colour in enumerate((frames or {}).get(name, ())):
            if colour is not None:
                axis.add_patch(rectangle((w * k + 1, 1), w - 3, h - 3, fill=False, lw=2, color=colour))
    captions = [_wrapped(one, size) for one in captions or ()]
    lines = max((one.count("\n") + 1 for one in captions), default=0)
    if captions:
        where = (np.arange(len(captions)) + 0.5) * w - 0.5
        axes[0].set_xticks(where, captions, fontsize=SMALL, linespacing=1.0, va="baseline")
        axes[0].tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    names = max(axis.yaxis.label.get_window_extent().width for axis in axes) / figure.dpi
    left, above, gap = names + 0.1, 0.3 * bool(title) + 0.14 * lines + 0.08, 0.03
    high, wide = size * h / w, size * columns
    figure.set_size_inches(left + wide, above + (high + gap) * len(drawn))
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left / width, gap / height, 1, 1 - above / height, hspace=gap / high)
    figure.suptitle(title, x=(left + wide / 2) / width, y=1 - 0.05 / height, fontsize=11)
    return figure


def filmstrip(
    steps: Iterable[Step],
    columns: int = 8,
    *,
    sample: int = 0,
    size: float = 1.15,
    title: str = "",
    numbered: bool = False,
    latents: Sequence[Tensor] = (),
) -> Figure:
    """The way of one sample: above, x_t as it is; below, x0_hat, what the model takes it for. Returns the figure.

    steps: all that a sampler yields; `columns` of them are shown, the first and the last among them.
    sample: which one of the batch.  numbered: say above each how many steps came before.
    latents: where the steps are decoded ones, x_t of each before that, (b, c, h, w): a row above, as `latent_colours`.
    Raises ValueError for no steps, for steps that are latents, which are decoded first, and for another number of
    latents than of steps.
    """
    steps = list(steps)
    if not steps:
        raise ValueError("expected the steps of a sampler, got none: was its generator used up before?")
    if len(latents) not in (0, len(steps)):
        raise ValueError(f"expected a latent for each of {len(steps)} steps, got {len(latents)}")
    chosen = np.linspace(0, len(steps) - 1, min(columns, len(steps))).round().astype(int)
    names = ["code"] * bool(latents) + ["$x_t$", r"$\hat x_0$"]
    room = 0.25 / len(chosen) if latents else 0  # for the longest name
    figure, axes = _sheet(len(names), len(chosen), size + room, size + 0.15, title)
    for column, number in zip(axes.T, chosen, strict=True):
        step = steps[number]
        rows = [latent_colours(z) for z in latents[number : number + 1]] + [step.x_t, step.x0_hat]
        for axis, x in zip(column, rows, strict=True):
            axis.imshow(pixels(x[sample]))
        words = "finished" if step.t < 0 else f"t = {step.t}"
        words = f"step {number}\n{words}" if numbered else words
        column[0].set_title(words, fontsize=SMALL)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.text(-0.12, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=12)
    return figure


def word_maps(
    pictures: Images,
    maps: Tensor | np.ndarray,
    words: Sequence[str],
    rows: Sequence[str] = (),
    *,
    size: float = 1.1,
    title: str = "",
) -> Figure:
    """Pictures, and beside each the same once for every word, lit where the word was looked at; returns the figure.

    pictures: (b, c, h, w) in [-1, 1], or what else `pixels` takes, one in each row.
    maps: (b, m, h, w), as from `attention.mean_map`; each is shown between its own smallest and largest value, so
        brightness says where, not how much.
    words: m titles.  rows: b labels at the left.
    Raises ValueError for maps that do not fit the pictures or the words.
    """
    drawn, maps = pixels(pictures), torch.as_tensor(maps).detach().float().cpu()
    expected = (len(drawn), len(words), *drawn.shape[1:3])
    if tuple(maps.shape) != expected:
        raise ValueError(f"expected maps {expected}, one for each picture and word, got {tuple(maps.shape)}")
    b, m, *sides = maps.shape
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    light = ((maps - low) / (high - low).clamp_min(1e-12)).numpy()[..., None]
    figure, axes = _sheet(b, 1 + m, size, size * sides[0] / sides[1] + 0.2 / b, title)
    for row, picture, lights in zip(axes, drawn, light, strict=True):
        row[0].imshow(picture)
        for axis, bright in zip(row[1:], lights, strict=True):
            axis.imshow((picture * (0.1 + 0.9 * bright)).astype(np.uint8))
    for axis, word in zip(axes[0, 1:], words, strict=True):
        axis.set_title(word, fontsize=10)
    for axis, label in zip(axes[:, 0], rows, strict=False):
        axis.text(-0.08, 0.5, label, transform=axis.transAxes, ha="right", va="center", fontsize=9)
    return figure


def _wrapped(caption, size):
    """A caption that is no wider than `size` inches; formulas stay as they are."""
    most = max(1, int(size / (0.0075 * SMALL)))  # letters, of a little more than half of their height
    lines = [caption] if "$" in caption else caption.split("\n")
    return "\n".join(textwrap.fill(line, most) if "$" not in line else line for line in lines)


def _layout(n, columns):
    """Columns and rows for n pictures."""
    if not n:
        raise ValueError("expected at least one picture, got none")
    columns = min(columns, n)
    return columns, -(-n // columns)


def _sheet(rows, columns, width, height, title):
    """Axes without ticks, hardly apart."""
    plt = require("matplotlib.pyplot")
    size = (width * columns, height * rows + (0.35 if title else 0))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.05, wspace=0, hspace=0)  # h_pad: also above and below the title
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(title, fontsize=11)
    return figure, axes
