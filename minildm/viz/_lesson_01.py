"""Drawings of lesson 01: the U of 2015 by the names of its parts, the targets of one field, what was found."""

import numpy as np
from torch import Tensor

from minildm.images import Images
from minildm.optional import require

from ._blocks import arrow
from ._figures import BLUE, GREEN, ORANGE, PURPLE, SKY, matches, outline, outlines
from ._pictures import Figure, array

_HALF, _TALL, _ACROSS = 0.85, 0.56, 10.2  # of a box: half its width, and its height; how wide the U is


def u_2015(channels: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> Figure:
    """The U-Net of 2015 as a drawing: every part with its name, every level with size and channels; returns the figure.

    channels: width of each level, from full resolution down. The names are those that `checks.unet_forward` uses.
    """
    plt = require("matplotlib.pyplot")
    bottom = len(channels) - 1
    figure, axis = plt.subplots(figsize=(8.8, 0.9 + 0.82 * len(channels)))
    for level, width in enumerate(channels):
        size = "h × w" if level == 0 else f"h/{2**level} × w/{2**level}"
        axis.text(-3.5, -level, f"{size}\n{width} channels", ha="left", va="center", fontsize=9, color="0.35")
        left, right = _places(level, bottom)
        _box(axis, left, -level, f"down[{level - 1}]" if level else "first", BLUE)
        if level:
            aside = 0.3 if level == bottom else 0  # one arrow comes in there, another leaves
            arrow(axis, (_places(level - 1, bottom)[0], 1 - level - _TALL / 2), (left - aside, -level + _TALL / 2))
            middle = (left + _places(level - 1, bottom)[0]) / 2
            axis.text(
                middle - (0.3 if level < bottom else 0.7), 0.5 - level, "max pool", ha="right", va="center", fontsize=9
            )
        if level < bottom:
            joint = right - _HALF - 0.85
            _box(axis, right, -level, f"up[{level}]", GREEN)
            axis.plot(joint, -level, "o", ms=23, mfc="white", mec="0.35", zorder=3)
            axis.text(joint, -level, "cat", ha="center", va="center", fontsize=9, zorder=4)
            arrow(axis, (left + _HALF, -level), (joint - 0.35, -level), ORANGE, 2)
            arrow(axis, (joint + 0.35, -level), (right - _HALF, -level))
            below = _places(level + 1, bottom)[1] + (0.3 if level + 1 == bottom else 0)
            arrow(axis, (below, -level - 1 + _TALL / 2), (joint, -level - 0.18), GREEN, 1.6)
            axis.text((below + joint) / 2 + 0.35, -level - 0.5, f"grow[{level}]", va="center", fontsize=9, color=GREEN)
    axis.text(_ACROSS / 2 - 0.6, 0.1, "skip", ha="center", va="bottom", fontsize=10, color="#9A6A00")
    for x, words in ((-_HALF - 0.75, "x"), (_ACROSS + _HALF + 2.8, "out")):
        axis.text(x, 0, words, ha="center", va="center", fontsize=10)
    arrow(axis, (-_HALF - 0.5, 0), (-_HALF, 0))
    arrow(axis, (_ACROSS + _HALF, 0), (_ACROSS + _HALF + 0.35, 0))
    _box(axis, _ACROSS + _HALF + 1.0, 0, "head", PURPLE, 0.65)
    arrow(axis, (_ACROSS + _HALF + 1.65, 0), (_ACROSS + _HALF + 2.4, 0))
    axis.set(xlim=(-3.6, _ACROSS + 4.0), ylim=(-bottom - 0.45, 0.5))
    axis.set_title("2015: the left arm finds what is there, the orange skips say where")
    axis.axis("off")
    return figure


def _places(level, bottom):
    """Where the boxes of a level stand, in the left arm and in the right; at the bottom both are one."""
    if level == bottom:
        return _ACROSS / 2 - 0.4, _ACROSS / 2 - 0.4
    return 0.95 * level, _ACROSS - 0.5 * level


def _box(axis, x, y, words, colour, half=_HALF):
    patches = require("matplotlib.patches")
    style = patches.BoxStyle("Round", pad=0.0, rounding_size=0.1)
    corner = (x - half, y - _TALL / 2)
    axis.add_patch(patches.FancyBboxPatch(corner, 2 * half, _TALL, style, fc=colour, ec="none", alpha=0.25, zorder=2))
    axis.text(x, y, words, ha="center", va="center", fontsize=10, zorder=4, family="monospace")


def targets(
    image: Images,
    mask: np.ndarray | Tensor,
    depth: np.ndarray,
    weight: np.ndarray,
    line: tuple[tuple[float, float], tuple[float, float]],
) -> Figure:
    """A field of nuclei, the two maps made from its outlines, and both along a line through two nuclei; the figure.

    image, mask, depth, weight: (h, w) each, as `segmentation` makes the last two.  line: its ends, (x, y) in pixels.
    """
    plt = require("matplotlib.pyplot")
    figure = plt.figure(figsize=(8.8, 5.6))
    top, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    axes = top.subplots(1, 3)
    outlines(axes[0], image, mask, ORANGE, "two nuclei touch on the line")
    names = "depth: hills", "weight: the gap glows"
    for axis, values, name in zip(axes[1:], (depth, weight), names, strict=True):
        axis.imshow(values, cmap="magma")
        outline(axis, mask, "white", linewidths=0.8)
        axis.set_title(f"{name} ({values.min():.0f} to {values.max():.1f})")
        axis.axis("off")
    ends = np.array(line, float)
    for axis in axes:
        axis.plot(*ends.T, color=SKY, lw=2)
    count = int(np.linalg.norm(ends[1] - ends[0])) + 1
    columns, rows = np.linspace(*ends, count).round().astype(int).T
    inside, deep, price = (array(one)[rows, columns] for one in (mask, depth, weight))
    axis, pixels = below.subplots(), np.arange(count)
    axis.fill_between(pixels, (inside > 0) * 1.0, color="0.88", step="mid", lw=0)
    axis.plot(pixels, deep, color=BLUE, lw=2.2)
    axis.plot(pixels, price / price.max(), color="#B35900", lw=1.6, ls="--")
    seam = int(np.flatnonzero((inside[1:] != inside[:-1]) & (inside[1:] > 0) & (inside[:-1] > 0))[0]) + 0.5
    axis.axvline(seam, color="0.3", lw=1)
    for at, words, colour, ha in (
        ((0.5 * seam, 0.5 * deep.max()), "depth has two summits", BLUE, "center"),
        ((seam + 0.8, 1.08), "the seam", "0.3", "left"),
    ):
        axis.text(*at, words, color=colour, ha=ha, va="center", fontsize=10)
    axis.text(count - 1, 1.08, "grey: nucleus or not, one plateau", color="0.4", ha="right", va="center", fontsize=10)
    axis.text(count - 8, 0.26, f"dashed: weight / {price.max():.0f}", color="#B35900", ha="right", fontsize=10)
    axis.set(xlabel="pixels along the line", ylim=(0, 1.2), xlim=(0, count - 1))
    axis.set_title("along the line: the plateau hides the seam, the depth shows it")
    return figure


def found_in(image: Images, true: np.ndarray | Tensor, found: dict[str, np.ndarray], title: str = "") -> Figure:
    """What several methods find in one tall picture, lying on its side: `matches` under each other; returns the figure.

    To save room, rows and columns change places: the picture's top is at the left, as the figure says.

    image, true: (h, w).  found: {name: labels (h, w)}.
    """
    plt = require("matplotlib.pyplot")
    image, true = array(image).T, array(true).T
    tall = 8.8 * image.shape[0] / image.shape[1]
    figure, axes = plt.subplots(len(found), 1, figsize=(8.8, len(found) * (tall + 0.35) + 0.35), squeeze=False)
    for axis, (name, labels) in zip(axes[:, 0], found.items(), strict=True):
        matches(axis, image, true, array(labels).T)
        axis.text(-0.008, 0.5, "top", rotation=90, ha="right", va="center", transform=axis.transAxes, fontsize=10)
        axis.text(1.008, 0.5, "bottom", rotation=90, ha="left", va="center", transform=axis.transAxes, fontsize=10)
        axis.set_title(f"{name}: {axis.get_title()}")
    figure.suptitle(title)
    return figure
