"""Adaptation, drawn: what LoRA adds to a layer, and what a way to teach buys against what it costs."""

from collections.abc import Mapping, Sequence

from minildm.optional import require

from ._blocks import arrow
from ._figures import BLUE, GREEN, ORANGE, PURPLE, RED
from ._pictures import Figure
from ._sheets import SMALL


def low_rank(outputs: int, inputs: int, rank: int, title: str = "") -> Figure:
    """LoRA: a frozen weight, and beside it a path through a few numbers.

    Matrices are drawn in their proportions, but never too thin to be seen.

    outputs, inputs: of the layer, the rows and columns of its weight.  rank: of the path.  Returns the figure.
    Raises ValueError for a rank that is not below both.
    """
    if not 1 <= rank < min(outputs, inputs):
        raise ValueError(f"expected a rank from 1, below {outputs} and {inputs}, got {rank}")
    plt, matplotlib = require("matplotlib.pyplot"), require("matplotlib.patches")
    figure, axis = plt.subplots(figsize=(8.8, 3.4))
    axis.set(xlim=(0, 11), ylim=(-0.1, 4.2))
    axis.axis("off")
    unit = 1.7 / max(outputs, inputs)  # a matrix as it multiplies from the left: as high as its outputs

    def box(x, y, wide, high, colour, name, below):
        wide, high = max(wide, 0.09), max(high, 0.09)
        axis.add_patch(matplotlib.Rectangle((x - wide / 2, y - high / 2), wide, high, fc=colour, ec="black", lw=1))
        axis.text(x, y + high / 2 + 0.08, name, ha="center", va="bottom", fontsize=11)
        axis.text(x, y - high / 2 - 0.1, below, ha="center", va="top", fontsize=SMALL)
        return x - wide / 2, x + wide / 2

    low, high, middle = 0.85, 2.95, 1.9
    left, right = box(5.2, high, unit * inputs, unit * outputs, "0.85", "W, frozen", "")
    axis.text(5.2, high, f"{outputs}×{inputs}\n{outputs * inputs:,} numbers", ha="center", va="center", fontsize=10)
    down = box(4.2, low, unit * inputs, unit * rank, ORANGE, "down", f"{rank}×{inputs}: {rank * inputs:,}")
    up = box(6.9, low, unit * rank, unit * outputs, BLUE, "up", "")
    axis.text(7.1, low - 0.1, f"{outputs}×{rank}: {outputs * rank:,}\nstarts at 0", ha="left", va="top", fontsize=SMALL)
    axis.text(5.75, low + 0.12, f"only {rank} numbers", ha="center", va="bottom", fontsize=SMALL, color=ORANGE)
    axis.text(0.9, middle, "x", ha="center", va="center", fontsize=15)
    axis.text(1.2, middle - 0.3, f"{inputs} numbers", ha="center", va="top", fontsize=SMALL)
    arrow(axis, (1.1, middle), (left, high), "black", 1.6)
    arrow(axis, (1.1, middle), (down[0], low), "black", 1.6)
    arrow(axis, (down[1], low), (up[0], low), "black", 1.6)
    axis.add_patch(plt.Circle((9.6, middle), 0.2, fc="white", ec="black"))
    axis.text(9.6, middle, "+", ha="center", va="center", fontsize=14)
    arrow(axis, (right, high), (9.45, middle + 0.13), "black", 1.6)
    arrow(axis, (up[1], low + 0.45), (9.45, middle - 0.13), "black", 1.6)
    axis.text(8.75, 1.35, "× α / r", ha="left", va="top", fontsize=10)
    arrow(axis, (9.8, middle), (10.6, middle), "black", 1.6)
    axis.text(10.75, middle, "y", ha="center", va="center", fontsize=15)
    figure.suptitle(title)
    return figure


def kept_and_learned(
    points: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """What was learned over what was kept, by way; up and to the right is better. The figure.

    points: {name: [(kept, learned), ...]}, a point for each training, shares from 0 to 1; those of the first way, best
        the model before, are rings.
    Raises ValueError for no way or more than five.
    """
    if not 0 < len(points) <= 5:
        raise ValueError(f"expected one way to five, got {len(points)}")
    figure, axis = require("matplotlib.pyplot").subplots(figsize=(8.8, 4))
    marks = (("0.3", "o", 19), (BLUE, "s", 11), (PURPLE, "D", 10), (RED, "v", 12), (GREEN, "^", 12))
    for (name, some), (colour, mark, size) in zip(points.items(), marks, strict=False):
        how = dict(mfc="none", mew=2) if mark == "o" else {}  # a ring, around whatever lies upon it
        axis.plot(*zip(*some, strict=True), mark, color=colour, ms=size, label=name, clip_on=False, alpha=0.8, **how)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=xlabel, ylabel=ylabel, title=title)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(require("matplotlib.ticker").PercentFormatter(1))
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=1.2)
    return figure
