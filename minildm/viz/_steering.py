"""Guidance, drawn: the line through two answers, and what a scale buys against what it costs."""

from collections.abc import Mapping, Sequence

import numpy as np

from minildm.images import Images
from minildm.optional import require

from ._figures import BLUE, GREEN, ORANGE, PURPLE, RED
from ._pictures import Figure, pixels
from ._sheets import SMALL

_MARKS = {BLUE: "o", ORANGE: "s", GREEN: "^", PURPLE: "D", RED: "v"}


def guidance_line(
    pictures: Images,
    scales: Sequence[float],
    title: str = "",
    names: tuple[str, str] = ("unconditional", "conditional"),
) -> Figure:
    """Classifier-free guidance as a walk along a line: estimates above, scales in their true distance; the figure.

    pictures: (b, 3, h, w) in [-1, 1], or what else `pixels` takes, one for each of `scales`, which rise and hold 0
        and 1, the two answers that a network gave; beyond 1 the line is extrapolated.
    names: of those two answers.  Raises ValueError for other numbers of pictures, and scales that do not fit.
    """
    drawn, scales = pixels(pictures), [float(one) for one in scales]
    if len(drawn) != len(scales) or not {0.0, 1.0} <= set(scales) or scales != sorted(set(scales)):
        raise ValueError(
            f"expected a picture for each of some rising scales, 0 and 1 among them, got {len(drawn)} for {scales}"
        )
    plt = require("matplotlib.pyplot")
    figure, axes = plt.subplots(1, len(scales), figsize=(8.8, 8.8 / len(scales) + 1.55), layout="none")
    figure.subplots_adjust(0.01, 0.26, 0.99, 0.8, wspace=0.06)
    line = figure.add_axes((0.01, 0.0, 0.98, 0.26))
    line.set(xlim=(0, len(scales)), ylim=(0, 1))
    line.axis("off")
    at = {scale: 0.5 + (len(scales) - 1) * scale / scales[-1] for scale in scales}
    arrow = {"arrowstyle": "-|>", "lw": 2.5, "shrinkA": 5, "shrinkB": 5}
    line.annotate("", (at[1.0], 0.72), (at[0.0], 0.72), arrowprops=arrow | {"color": BLUE})
    line.text((at[0.0] + at[1.0]) / 2, 0.56, "what the condition\nchanges", color=BLUE, ha="center", va="top")
    if scales[-1] > 1:
        beyond = arrow | {"color": ORANGE, "linestyle": "--"}
        line.annotate("", (at[scales[-1]], 0.72), (at[1.0], 0.72), arrowprops=beyond)
        line.text((at[1.0] + at[scales[-1]]) / 2, 0.56, "the same, exaggerated", color="#8a5f00", ha="center", va="top")
    for k, x in enumerate(at.values()):
        line.plot(x, 0.72, "o", color="black", ms=7)
        line.annotate("", (k + 0.5, 1.0), (x, 0.76), arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 1})
    for axis, picture, scale in zip(axes, drawn, scales, strict=True):
        axis.imshow(picture)
        axis.axis("off")
        named = dict(zip((0.0, 1.0), names, strict=True)).get(scale, "")
        axis.set_title(f"scale {scale:g}" + (f"\n{named}" if named else ""), fontsize=10)
    figure.suptitle(title, fontsize=11, y=0.985)
    return figure


def trade_off(
    paths: Mapping[str, Sequence[tuple[float, float, str]]],
    title: str = "",
    *,
    xlabel: str = "",
    ylabel: str = "",
    best: tuple[float, float, str] | None = None,
) -> Figure:
    """Two measures against each other: each path is a line of labelled points, such as scales; returns the figure.

    paths: {name: [(x, y, label), ...]}, in the order in which they are joined; each gets its colour and mark.
    best: a point to compare with, such as real pictures.  Raises ValueError for no paths or more than five.
    """
    if not 0 < len(paths) <= len(_MARKS):
        raise ValueError(f"expected one path to {len(_MARKS)}, got {len(paths)}")
    figure, axis = require("matplotlib.pyplot").subplots(figsize=(8.8, 4.2))
    for (name, points), (colour, mark) in zip(paths.items(), _MARKS.items(), strict=False):
        x, y = np.array([point[:2] for point in points], float).T
        axis.plot(x, y, mark, ls="-", color=colour, ms=7, lw=1.2, label=name)
        for px, py, label in points:
            axis.annotate(label, (px, py), (6, 5), textcoords="offset points", fontsize=SMALL, color=colour)
    if best is not None:
        axis.plot(*best[:2], "*", color="0.35", ms=14)
        axis.annotate(best[2], best[:2], (-8, -4), textcoords="offset points", ha="right", fontsize=SMALL, color="0.35")
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.margins(0.1)
    axis.legend(loc="best")
    return figure
