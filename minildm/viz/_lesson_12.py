"""Drawings of lesson 12: pairs with their outlines, where pieces lie, scores of clinics, differences with intervals."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np

from minildm.metrics import Interval
from minildm.optional import require

from ._figures import BLUE, GREEN, ORANGE, PURPLE, SKY, YELLOW, outline
from ._pictures import Figure

_DARK, _BRIGHT = -1.0, 1.6  # of normalised pictures, so that all in a figure are lit alike
_FRAMES = (ORANGE, SKY, GREEN, YELLOW, PURPLE)  # of places, in this order
_ARMS = {"real": "0.2", "half": "0.55", "pasted": "#9A6A00", "painted": BLUE}


def annotated(
    rows: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], title: str = "", size: float = 1.05, line: str = ORANGE
) -> Figure:
    """Rows of annotated pictures, each with its outlines; returns the figure.

    rows: {name: (image, mask) pairs}; images (h, w) as `segmentation.normalise` makes them, masks (h, w) int.
    """
    columns = max(len(pairs) for pairs in rows.values())
    figure, axes = require("matplotlib.pyplot").subplots(
        len(rows), columns, figsize=(size * columns + 0.7, size * len(rows) + 0.4), squeeze=False
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    for row, (name, pairs) in zip(axes, rows.items(), strict=True):
        for axis, (image, mask) in zip(row, pairs, strict=False):
            axis.imshow(image, cmap="gray", vmin=_DARK, vmax=_BRIGHT)
            outline(axis, mask, line, linewidths=1.4)
        row[0].set_ylabel(name, fontsize=10)
    figure.suptitle(title)
    return figure


def places(
    known: np.ndarray, strip: np.ndarray, boxes: Mapping[str, Sequence[tuple[slice, slice]]], title: str = ""
) -> Figure:
    """The known part of a picture with boxes on it, once for each name, and the strip that stays unseen beside it.

    Each box has a colour of its own, and its number at the upper left.

    known: (h, w).  strip: (h, v).  boxes: {name: rows and columns of boxes in `known`}.  Returns the figure.
    """
    pyplot, rectangle = require("matplotlib.pyplot"), require("matplotlib.patches").Rectangle
    whole, (tall, wide) = np.concatenate([known, strip], axis=1), known.shape
    figure, axes = pyplot.subplots(1, len(boxes), figsize=(8.8, 8.8 / len(boxes) + 0.6), squeeze=False)
    for axis, (name, found) in zip(axes[0], boxes.items(), strict=True):
        axis.imshow(whole, cmap="gray", vmin=_DARK, vmax=_BRIGHT)
        axis.add_patch(rectangle((wide - 0.5, -0.5), strip.shape[1], tall, fc=SKY, alpha=0.35, lw=0))
        axis.text(wide + strip.shape[1] / 2, tall / 2, "test: never seen", rotation=90, ha="center", va="center",
                  color="white", fontsize=11)  # fmt: skip
        for (number, (rows, columns)), colour in zip(enumerate(found), cycle(_FRAMES), strict=False):
            corner, sides = (
                (columns.start - 0.5, rows.start - 0.5),
                (columns.stop - columns.start, rows.stop - rows.start),
            )
            axis.add_patch(rectangle(corner, *sides, fill=False, ec=colour, lw=2))
            axis.text(*corner, number, color=colour, fontsize=11, weight="bold", ha="left", va="top",
                      bbox=dict(boxstyle="square,pad=0.2", fc="black", ec=colour, lw=2))  # fmt: skip
        axis.set_title(name)
        axis.axis("off")
    figure.suptitle(title)
    return figure


def clinics(
    panels: Mapping[str, Sequence[Mapping[str, object]]], score: str = "ap50", title: str = "", label: str = ""
) -> Figure:
    """One score of every clinic in every arm, panel by panel; a line joins the arms of one clinic. Returns the figure.

    panels: {title: dicts with "arm", "number" and the score}.  A bar is the mean of an arm.
    """
    pyplot = require("matplotlib.pyplot")
    figure, axes = pyplot.subplots(1, len(panels), figsize=(8.8, 3.6), sharey=True, squeeze=False)
    for axis, (name, rows) in zip(axes[0], panels.items(), strict=True):
        here = {(row["number"], row["arm"]): row[score] for row in rows}
        arms, numbers = list(dict.fromkeys(row["arm"] for row in rows)), sorted({row["number"] for row in rows})
        for number in numbers:
            axis.plot(range(len(arms)), [here[number, arm] for arm in arms], color="0.75", lw=1.2, zorder=1)
        for k, arm in enumerate(arms):
            values, colour = [here[number, arm] for number in numbers], _ARMS.get(arm, GREEN)
            axis.plot([k] * len(values), values, "o", ms=6, color=colour, zorder=2)
            axis.plot([k - 0.28, k + 0.28], [np.mean(values)] * 2, color=colour, lw=3, zorder=3)
            axis.text(
                k, 1.01, f"{np.mean(values):.2f}", color=colour, ha="center", transform=axis.get_xaxis_transform()
            )
        axis.set(xlim=(-0.5, len(arms) - 0.5), xticks=range(len(arms)), xticklabels=arms)
        axis.set_title(name, pad=20, fontsize=10)
    axes[0, 0].set_ylabel(label or score)
    figure.suptitle(title)
    return figure


def differences(found: Mapping[str, Mapping[str, Interval]], title: str = "", label: str = "") -> Figure:
    """Differences with their intervals, group by group, beside the line of no difference; returns the figure.

    found: {group: {name: interval}}.  The dot of an interval that excludes 0 is filled.
    """
    count = sum(len(group) for group in found.values())
    figure, axis = require("matplotlib.pyplot").subplots(figsize=(8.8, 0.36 * count + 0.25 * len(found) + 0.9))
    axis.axvline(0, color="0.3", lw=1.2)
    y, ticks = 0.0, {}
    for group, intervals in found.items():
        for name, (mean, low, high) in intervals.items():
            colour = next((_ARMS[arm] for arm in _ARMS if name.startswith(arm)), GREEN)
            axis.plot([low, high], [y, y], color=colour, lw=2.5)
            axis.plot(mean, y, "o", color=colour, mfc=colour if low > 0 or high < 0 else "white", mew=1.8, ms=7)
            numbers = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            axis.text(1.01, y, numbers, color=colour, fontsize=9, va="center", transform=axis.get_yaxis_transform())
            ticks[y] = f"{group}: {name}"
            y += 1
        y += 0.5
    axis.set(yticks=list(ticks), yticklabels=list(ticks.values()), xlabel=label)
    axis.set_ylim(y - 0.8, -0.8)
    axis.set_title(title)
    return figure
