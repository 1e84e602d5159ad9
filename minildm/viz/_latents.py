"""Latent spaces of two numbers as maps, with their clouds; and what a compression gets wrong, by frequency."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from minildm.images import Images
from minildm.optional import require

from ._figures import BLUE, GREEN, ORANGE, PURPLE
from ._pictures import Axes, Figure, pixels

Area = tuple[float, float, float, float]  # left, right, bottom and top of a map


def clouds(
    maps: Mapping[str, tuple[Tensor | np.ndarray, Tensor | np.ndarray]],
    drawn: Mapping[str, Images],
    colours: Sequence[str],
    *,
    marks: Sequence[str] | None = None,
    area: Area | Mapping[str, Area] = (-2.0, 2.0, -2.0, 2.0),
    prior: bool = True,
    title: str = "",
    note: str = "",
) -> Figure:
    """Latent spaces of two numbers: above where the clouds lie, below what is decoded from each place; the figure.

    maps: {name: (means, deviations)}, (n, 2) each: a cloud is an ellipse of two deviations, its mean a mark, which the
        lower panel repeats in white.
    drawn: {name: k² pictures, decoded from a lattice of places, row by row from the top left}.
    colours, marks: of the n clouds, as matplotlib names them; marks None: a disc.
    area: left, right, bottom and top of the lattice: one for all maps, or {name: area}, which both panels then show.
    prior: whether to draw, dashed, the circle of two deviations of the standard normal distribution.
    note: a line below the figure, such as what the marks mean.
    With one map both panels stand side by side, and the first shows the lattice's area, too.
    Raises ValueError where means, deviations and colours differ in number, a lattice is not square, or a map has no
    area.
    """
    plt = require("matplotlib.pyplot")
    one = len(maps) == 1
    aligned = one or isinstance(area, Mapping)  # both panels show the same places
    areas = area if isinstance(area, Mapping) else dict.fromkeys(maps, area)
    if set(areas) != set(maps):
        raise ValueError(f"expected an area for each of {list(maps)}, got one for each of {list(areas)}")
    figure, axes = plt.subplots(
        1 if one else 2, 2 if one else len(maps), figsize=(8.6, 4.4) if one else (8.8, 6.4), squeeze=False
    )
    for column, (name, (means, deviations)) in zip(axes if one else axes.T, maps.items(), strict=True):
        means, deviations = _numbers(means), _numbers(deviations)
        if means.shape != (len(colours), 2) or deviations.shape != means.shape:
            raise ValueError(
                f"expected means and deviations ({len(colours)}, 2), a row for each colour, got {means.shape} and "
                f"{deviations.shape} for {name!r}"
            )
        edges, symbols = areas[name], marks or "o" * len(colours)
        _ellipses(column[0], means, deviations, colours, symbols, prior)
        column[0].set_title(name)
        _lattice(column[1], pixels(drawn[name]), edges)
        _marks(column[1], means, ["white"] * len(colours), symbols, edge="black")
        column[1].set(xlim=edges[:2], ylim=edges[2:])
        if aligned:
            column[0].set(xlim=edges[:2], ylim=edges[2:])
        column[1].set_title("what is decoded there" if aligned else f"decoded from {edges[0]:g} to {edges[1]:g}")
    for axis in axes[:, 0]:
        axis.set_ylabel("second number")
    for axis in axes[-1]:
        axis.set_xlabel("first number")
    figure.suptitle(title)
    if note:
        figure.supxlabel(note, fontsize=10)
    return figure


def bands(
    names: Sequence[str],
    wrong: Mapping[str, Sequence[float] | Tensor],
    pictures: Mapping[str, Images],
    *,
    shares: Sequence[float] | Tensor | None = None,
    title: str = "",
) -> Figure:
    """What several compressions get wrong, by frequency, under a picture as each of them gives it; returns the figure.

    names: of the bands, from coarse to fine.  wrong: {compression: error / picture, the share of power, in each band},
        on an axis that begins at 1 / 10,000, or lower where a share is smaller (1 / 1,000,000 at least).
    pictures: {caption: one picture}, shown above.  shares: each band's part of all the picture's power, dashed.
    Raises ValueError where a compression has not one number for each band.
    """
    plt = require("matplotlib.pyplot")
    figure = plt.figure(figsize=(8.8, 6.0))
    top, below = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    for axis, (caption, picture) in zip(
        top.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
    ):
        axis.imshow(pixels(picture).squeeze())
        axis.set_title(caption, fontsize=10)
        axis.axis("off")
    axis, at = below.subplots(), np.arange(len(names))
    ends, lowest = {}, 1e-4
    for (name, values), colour, mark in zip(wrong.items(), (BLUE, ORANGE, GREEN, PURPLE), "os^D", strict=False):
        values = _numbers(values)
        if values.shape != at.shape:
            raise ValueError(f"expected {len(names)} numbers for {name!r}, one for each band, got {values.shape}")
        axis.semilogy(at, values, marker=mark, color=colour, lw=2)
        ends[name] = values[-1], colour
        lowest = min(lowest, max(1e-6, 0.5 * values.min()))
    height, apart = 0.0, (3 / lowest) ** 0.08  # a line of text, on this axis
    for name, (value, colour) in sorted(ends.items(), key=lambda one: one[1][0]):
        height = max(value, apart * height)  # apart, where two lines end at the same place
        axis.text(at[-1] + 0.12, height, name, color=colour, va="center")
    if shares is not None:
        shares = _numbers(shares)
        axis.semilogy(at, shares, "--", color="0.45", lw=1.5)
        axis.text(0.1, shares[0] * 1.5, "dashed: the band's share of the picture's power", color="0.35", va="bottom")
    axis.set_xticks(at, names)
    axis.set(xlabel="cycles per picture: coarse → fine", ylabel="share of the power that is wrong")
    axis.set(xlim=(-0.3, len(names) - 0.1), ylim=(lowest, max(3, 1.5 * height)))
    figure.suptitle(title)
    return figure


def _ellipses(axis: Axes, means, deviations, colours, marks, prior):
    ellipse, circle = (getattr(require("matplotlib.patches"), name) for name in ("Ellipse", "Circle"))
    for (x, y), (wide, tall), colour in zip(means, deviations, colours, strict=True):
        axis.add_patch(ellipse((x, y), 4 * wide, 4 * tall, fc=colour, lw=0, alpha=0.12))
        axis.add_patch(ellipse((x, y), 4 * wide, 4 * tall, fill=False, ec=colour, lw=1))
    _marks(axis, means, colours, marks, edge="0.25")
    if prior:
        axis.add_patch(circle((0, 0), 2, fill=False, ec="0.2", ls="--", lw=1.2, zorder=5))
    reach = 1.08 * max(2.0, (np.abs(means) + 2 * deviations).max())
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _marks(axis: Axes, means, colours, marks, edge):
    for (x, y), colour, mark in zip(means, colours, marks, strict=True):
        axis.plot(x, y, mark, color=colour, mec=edge, mew=0.5, ms=4.5, zorder=4)


def _lattice(axis: Axes, drawn, extent):
    n = round(len(drawn) ** 0.5)
    if n * n != len(drawn):
        raise ValueError(f"expected the pictures of a square lattice, got {len(drawn)}")
    h, w = drawn.shape[1:3]
    sheet = drawn.reshape(n, n, h, w, 3).swapaxes(1, 2).reshape(n * h, n * w, 3)
    axis.imshow(sheet, extent=extent, aspect="equal")
    axis.grid(False)


def _numbers(values):
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, float)
