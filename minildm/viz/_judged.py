"""Pictures with what a judge found in them: an outline around each object, and names that do not lie on each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minildm.images import Images
from minildm.optional import require

from ._figures import BLUE, outline
from ._pictures import Axes, Figure, array
from ._sheets import _layout, _sheet

if TYPE_CHECKING:
    from minildm.judge import Found

LETTERS = 10  # points
WIDE, TALL = 0.62, 1.3  # of a letter, and of a line, in heights of the letters: a little more than they take


def judged(
    pictures: Sequence[Images],
    found: Sequence[Sequence["Found"]],
    titles: Sequence[str],
    columns: int = 3,
    *,
    size: float = 2.7,
    title: str = "",
) -> Figure:
    """Pictures, each with the outlines and the names of the objects that a judge found in it; returns the figure.

    pictures: each as `array` takes it.  found: the objects of each, as `judge.inspect` gives them.
    titles: above the pictures; may have several lines.  size: of a picture, in inches.
    A name stands above its object, or where there is room for it; it never leaves the picture.
    Raises ValueError where pictures, found and titles differ in number.
    """
    if not len(pictures) == len(found) == len(titles):
        raise ValueError(
            f"expected objects and a title for each of {len(pictures)} pictures, got {len(found)} and {len(titles)}"
        )
    columns, rows = _layout(len(pictures), columns)
    lines = 1 + max(one.count("\n") for one in titles)
    figure, axes = _sheet(rows, columns, size, size + 0.12 + 0.17 * lines, title)
    for axis, picture, objects, above in zip(axes.flat, pictures, found, titles, strict=False):
        picture = array(picture)
        axis.imshow(picture, cmap="gray")
        axis.set_title(above, fontsize=LETTERS)
        _named(axis, objects, picture.shape[:2], picture.shape[1] / (72 * size))
    return figure


def _named(axis: Axes, objects, sides, point):
    """Outlines and names; a point is so many pixels of the picture."""
    effects = require("matplotlib.patheffects")
    names = []
    for one in objects:
        mask = one.mask.astype(int)
        outline(axis, mask, "white", linewidths=3.5)
        outline(axis, mask, BLUE, linewidths=1.8)
        wide, tall = WIDE * LETTERS * point * len(one.name), TALL * LETTERS * point
        spots = [_kept_inside(x, y, wide, tall, sides) for x, y in _around(one.box, wide, tall)]
        # On no other name; then on as little of any object as can be; and of equal places the first.
        best = min(spots, key=lambda spot: 100 * _hidden(spot, names) + _hidden(spot, [other.box for other in objects]))
        names.append(best)
        axis.text(
            (best[0] + best[2]) / 2 - 0.5,
            (best[1] + best[3]) / 2 - 0.5,
            one.name,
            color=BLUE,
            fontsize=LETTERS,
            ha="center",
            va="center",
            path_effects=[effects.withStroke(linewidth=3, foreground="white")],
        )


def _around(box, wide, tall):
    """Middles of a name: above and below an object, at its right and its left, and upon it."""
    x0, y0, x1, y1 = box
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    away = 1 + tall / 2
    return [(x, y0 - away), (x, y1 + away), (x1 + 1 + wide / 2, y), (x0 - 1 - wide / 2, y), (x, y)]


def _kept_inside(x, y, wide, tall, sides):
    """The box around a middle, moved into the picture."""
    h, w = sides
    x = min(max(x, wide / 2), w - wide / 2)
    y = min(max(y, tall / 2), h - tall / 2)
    return x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2


def _hidden(box, others):
    """How many pixels of others a box lies on."""
    total = 0.0
    for other in others:
        wide, tall = (min(box[k + 2], other[k + 2]) - max(box[k], other[k]) for k in (0, 1))
        total += max(wide, 0) * max(tall, 0)
    return total
