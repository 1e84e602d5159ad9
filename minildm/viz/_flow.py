"""Flows: paths on a plane, quality over the number of network calls, and what large models consist of."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from torch import Tensor

from minildm.optional import require

from ._figures import BLUE, GREEN, ORANGE, PURPLE, RED, SKY
from ._pictures import Figure
from ._trajectories import _numbers

COLOURS, MARKS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY), "osD^vP"


def plane_paths(
    panels: Mapping[str, Tensor | np.ndarray], points: Tensor | np.ndarray, title: str = "", reach: float = 3.2
) -> Figure:
    """Ways from noise to data on a plane, a panel each; returns the figure.

    panels: {title: (steps + 1, b, 2), the places on b ways, the noise first}.  points: (n, 2) the data, in grey.
    reach: how far from the middle the panels show.
    Raises ValueError for no panel, and for ways of another shape.
    """
    found = {name: _numbers(ways) for name, ways in panels.items()}
    if not found or any(ways.ndim != 3 or ways.shape[2] != 2 for ways in found.values()):
        raise ValueError(f"expected ways (steps + 1, b, 2), got { ({n: w.shape for n, w in found.items()}) }")
    figure, axes = require("matplotlib.pyplot").subplots(1, len(found), figsize=(4.1 * len(found), 4.6), squeeze=False)
    data = _numbers(points)
    for axis, (name, ways), colour in zip(axes[0], found.items(), cycle((ORANGE, BLUE, GREEN)), strict=False):
        axis.scatter(*data.T, s=5, color="0.6", lw=0, zorder=1)
        for k in range(ways.shape[1]):
            axis.plot(*ways[:, k].T, color=colour, lw=1.1, alpha=0.75, zorder=2)
        axis.plot(*ways[0].T, "o", ms=4.5, mfc="white", mec=colour, zorder=3)
        axis.plot(*ways[-1].T, "o", ms=4.5, color=colour, mec="0.2", mew=0.5, zorder=4)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        axis.set_title(name)
        axis.grid(False)
        axis.spines[:].set(visible=True, color="0.8")
    line = require("matplotlib.lines").Line2D
    keys = {
        "noise, t = 1": line([], [], ls="", marker="o", mfc="white", mec="0.3"),
        "picture, t = 0": line([], [], ls="", marker="o", color="0.3"),
        "data": line([], [], ls="", marker="o", color="0.6", ms=3),
    }
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


Place = tuple[float, ...]  # x, y, and how much y may be off: up and down alike, or down, then up


def over_calls(
    panels: Mapping[str, Mapping[str, Sequence[Place]]],
    title: str = "",
    ylabels: Sequence[str] = (),
    xlabel: str | Sequence[str] = "network calls for each picture",
    xticks: Sequence[float] | None = (1, 2, 4, 8, 25),
) -> Figure:
    """Quality over the number of calls, or over anything else, a panel for each measure; returns the figure.

    panels: {title of the panel: {name of the line: [(x, y, error), ...]}}; error is drawn as a band around y, and
        (x, y, below, above) as one that is not as wide on both sides. A name has the same colour in all panels, and
        stands at the right end of its line.
    ylabels: one for each panel.  xlabel: one for all, or one for each.
    xticks: on a logarithmic axis; None: a linear axis.
    Raises ValueError for no panel, and for lines without points.
    """
    lines = [line for panel in panels.values() for line in panel.values()]
    if not lines or not all(len(line) for line in lines):
        raise ValueError(f"expected panels of lines with points, got {dict(panels)}")
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    look = {name: (colour, mark) for name, colour, mark in zip(names, cycle(COLOURS), cycle(MARKS), strict=False)}
    figure, axes = require("matplotlib.pyplot").subplots(
        1, len(panels), figsize=(8.8 if len(panels) > 1 else 7.4, 3.8), squeeze=False
    )
    for k, (axis, (name, panel)) in enumerate(zip(axes[0], panels.items(), strict=True)):
        for label, line in panel.items():
            (x, y, *off), (colour, mark) = np.array(sorted(line), float).T, look[label]
            axis.plot(x, y, "-", marker=mark, ms=5, color=colour)
            axis.fill_between(x, y - off[0], y + off[-1], color=colour, alpha=0.15, lw=0)
        if xticks is not None:
            axis.set_xscale("log")
            axis.set_xticks(xticks, [f"{x:g}" for x in xticks])
            axis.minorticks_off()
        below = xlabel if isinstance(xlabel, str) else xlabel[k]
        axis.set(title=name, xlabel=below, ylabel=ylabels[k] if k < len(ylabels) else "")
        _names_at_the_right(axis, panel, look)
    figure.suptitle(title)
    return figure


def _names_at_the_right(axis, panel, look):
    """Write each line's name beside its last point, no two on top of each other, in room made for them."""
    ends = sorted((max(line)[1], max(line)[0], label) for label, line in panel.items())
    low, high = axis.get_ylim()
    gap, before, heights = 0.075, -np.inf, []
    for y, _, _ in ends:
        before = max((y - low) / (high - low), before + gap)
        heights.append(before)
    for k in reversed(range(len(heights))):  # what would stand above the axes goes down, and takes along what is below
        heights[k] = min(heights[k], 0.97 if k + 1 == len(heights) else heights[k + 1] - gap)
    for (y, x, label), height in zip(ends, heights, strict=True):
        style = dict(textcoords="axes fraction", va="center", fontsize=9.5, annotation_clip=False)
        axis.annotate(label, (x, y), (1.02, height), color=look[label][0], **style)
    axis.set_ylim(low, high)


def consists_of(models: Mapping[str, Mapping[str, float]], title: str = "", unit: str = "billion") -> Figure:
    """Stacked bars of shares: what each model consists of, a bar each, with its whole behind; returns the figure.

    models: {model: {part: amount}}; a part has the same colour in all, and a key above. Amounts of 0 are left out.
    unit: of the amounts, for the wholes.
    Raises ValueError for no model, for one without any amount, and for amounts below 0.
    """
    wholes = [sum(parts.values()) for parts in models.values()]
    amounts = [amount for parts in models.values() for amount in parts.values()]
    if not amounts or min(amounts) < 0 or not all(wholes):
        raise ValueError(f"expected models of parts that are not negative, got {dict(models)}")
    kinds = list(dict.fromkeys(part for parts in models.values() for part, amount in parts.items() if amount))
    colours = dict(zip(kinds, cycle((SKY, BLUE, ORANGE, GREEN, "0.75", PURPLE, RED)), strict=False))
    figure, axis = require("matplotlib.pyplot").subplots(figsize=(8.8, 1.4 + 0.66 * len(models)))
    for row, (whole, parts) in enumerate(zip(wholes, models.values(), strict=True)):
        left = 0.0
        for part, amount in parts.items():
            share = amount / whole
            axis.barh(row, share, left=left, color=colours.get(part), height=0.66, edgecolor="white")
            if share > 0.04:
                ink = "white" if colours[part] == BLUE else "black"
                axis.text(left + share / 2, row, f"{share:.0%}", ha="center", va="center", color=ink)
            left += share
        axis.text(1.015, row, f"{whole:.2f} {unit}", va="center", fontweight="bold")
    for kind in kinds:
        axis.barh(0, 0, color=colours[kind], label=kind)
    axis.set_yticks(range(len(models)), models)
    axis.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axis.set(ylim=(len(models) - 0.5, -0.5), xlim=(0, 1.2))
    axis.grid(False)
    figure.legend(loc="outside upper center", ncols=len(kinds), title=title, title_fontsize=11, columnspacing=1.2)
    return figure
