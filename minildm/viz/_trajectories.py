"""Paths of a solver through a plane of points, beside the exact curves that it should follow."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from torch import Tensor

from minildm.optional import require

from ._figures import BLUE, GREEN, ORANGE, PURPLE
from ._pictures import Axes, Figure


def trajectories(
    paths: Mapping[str, Tensor | np.ndarray],
    curves: Tensor | np.ndarray,
    points: Tensor | np.ndarray,
    *,
    closer: tuple[float, float, float, float] | None = None,
    title: str = "",
) -> Figure:
    """The steps of several solvers, a panel each, on the exact curves; returns the figure.

    paths: {name of the solver: (steps + 1, b, 2), the places that it visits from each of b starts}.
    curves: (k, b, 2) the exact curves from the same starts.  points: (n, 2) the data, drawn in grey.
    closer: (left, right, bottom, top) of a part of the plane that a second row of panels shows larger.
    Below a name stands how far its ends lie from those of the curves, the mean over b.
    Raises ValueError for paths that do not begin where the curves do.
    """
    curves, points = _numbers(curves), _numbers(points)
    paths = {name: _numbers(path) for name, path in paths.items()}
    for name, path in paths.items():
        if path.ndim != 3 or path.shape[1:] != curves.shape[1:] or not np.allclose(path[0], curves[0], atol=1e-4):
            raise ValueError(
                f"expected a path (steps + 1, b, 2) that begins where the curves do, got {path.shape} for {name!r} and "
                f"curves {curves.shape}"
            )
    rows = 1 if closer is None else 2
    plt = require("matplotlib.pyplot")
    figure, axes = plt.subplots(rows, len(paths), figsize=(3 * len(paths), 3.1 * rows + 0.7), squeeze=False)
    reach = 1.06 * max(np.abs(curves).max(), np.abs(points).max())
    for column, (name, path), colour in zip(axes.T, paths.items(), cycle((BLUE, ORANGE, GREEN, PURPLE)), strict=False):
        away = np.linalg.norm(path[-1] - curves[-1], axis=1).mean()
        _panel(column[0], path, curves, points, colour, (-reach, reach, -reach, reach), 1.0)
        column[0].set_title(f"{name}\nends {away:.2f} from the curve's end", fontsize=10.5)
        if closer is not None:
            left, right, bottom, top = closer
            frame = require("matplotlib.patches").Rectangle(
                (left, bottom), right - left, top - bottom, fill=False, ec="0.3", lw=1, ls=":", zorder=6
            )
            column[0].add_patch(frame)
            _panel(column[1], path, curves, points, colour, closer, 2.0)
    if closer is not None:
        axes[1, 0].set_ylabel("the dotted part, larger")
    line = plt.Line2D
    keys = {
        "exact curve": line([], [], color="0.45", lw=4, alpha=0.5),
        "its end": line([], [], ls="", marker="o", color="white", mec="0.2", mew=1.1, ms=6),
        "steps": line([], [], color="0.2", marker="o", ms=4),
        "data": line([], [], ls="", marker="o", color="0.75", ms=4),
    }
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def _panel(axis: Axes, path, curves, points, colour, view, large):
    left, right, bottom, top = view
    axis.scatter(*points.T, s=5 * large**1.6, color="0.75", lw=0, zorder=1)
    for k in range(curves.shape[1]):
        axis.plot(*curves[:, k].T, color="0.45", lw=2.5 * large, alpha=0.5, zorder=2, solid_capstyle="round")
        axis.plot(*path[:, k].T, "-o", color=colour, lw=1.1 * large**0.5, ms=2.4 * large**0.7, zorder=3)
        axis.plot(*curves[-1, k], "o", color="white", mec="0.2", mew=1.1, ms=3.2 * large**0.7, zorder=4)
        axis.plot(*path[-1, k], "o", color=colour, mec="0.2", mew=0.6, ms=3.2 * large**0.7, zorder=5)
    axis.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set(visible=True, color="0.8")


def _numbers(values):
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
