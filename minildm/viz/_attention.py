"""Attention as a drawing: one query worked out by hand, and the map of all queries."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from minildm.optional import require

from ._figures import BLUE, ORANGE
from ._pictures import Figure

_INK = "0.15"
_AT = (0.0, 2.35, 3.9, 4.75, 5.65, 7.55, 8.7)  # where the columns of the table begin
_END = 10.25


def attention_by_hand(
    q: Tensor, k: Tensor, v: Tensor, names: Sequence[str], *, asks: int = 0, colours: Sequence[str] | None = None
) -> Figure:
    """Attention of a few tokens, step by step: a table for the query of one of them, and below it the whole map.

    q, k: (n, d) queries and keys.  v: (n,) values, one number each.  names: of the n tokens, "A: what it is"; the map
        has the part before the colon.
    asks: the token whose query is worked out.  colours: of the tokens' marks; None: all grey.
    Returns the figure. Raises ValueError for sizes that do not fit together.
    """
    q, k, v = (np.asarray(z, float) for z in (q, k, v))
    if q.ndim != 2 or k.shape != q.shape or v.shape != q.shape[:1] or len(names) != len(q) or asks not in range(len(q)):
        raise ValueError(
            "expected q and k (n, d), v (n,), n names, and asks from 0 to n - 1; got "
            f"q {q.shape}, k {k.shape}, v {v.shape}, {len(names)} names, asks={asks}"
        )
    n, d = q.shape
    scores = q @ k.T / d**0.5
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)

    plt = require("matplotlib.pyplot")
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.9, 0.5 * n + 1.3), width_ratios=(3.5, 1))
    columns = [names, [_vector(key) for key in k], (q @ k.T)[asks], scores[asks], weights[asks], v, weights[asks] * v]
    _table(left, columns, d, colours or ["0.6"] * n)
    left.text(0, -0.15, f"{names[asks]} asks with q = {_vector(q[asks])}", va="top", fontsize=11, color=BLUE)
    total = f"sum: {weights[asks] @ v:.2f}"
    left.text(_AT[6], -0.15, total, va="top", fontsize=11, color=BLUE, weight="bold")
    left.set(xlim=(-0.15, _END), ylim=(-0.7, n + 0.6), title="one query, step by step: compare, divide, softmax, mix")
    left.axis("off")
    _map(right, weights, [name.split(":")[0] for name in names], asks)
    return figure


def _table(axis, columns, d, colours):
    n = len(colours)
    heads = ("who is asked", "key k", "q · k", f"÷ √{d}", "weight", "value v", "weight × v")
    for at, head in zip(_AT, heads, strict=True):
        axis.text(at, n + 0.08, head, fontsize=9.5, color=_INK, weight="bold", va="bottom")
    for j, (name, key, dot, score, weight, value, part) in enumerate(zip(*columns, strict=True)):
        y = n - 1 - j
        _box(axis, -0.1, y + 0.08, _END, 0.84, "#f3f3f3")
        _box(axis, 0.02, y + 0.32, 0.28, 0.36, colours[j], edge="0.5")
        _box(axis, _AT[4], y + 0.27, max(1.2 * weight, 0.02), 0.46, ORANGE)
        ats = (0.45, _AT[1], _AT[2], _AT[3], _AT[4] + 1.2 * weight + 0.08, _AT[5], _AT[6])
        texts = (name, key, f"{dot:g}", f"{score:.3g}", f"{weight:.3f}", f"{value:g}", f"{part:.2f}")
        for at, text in zip(ats, texts, strict=True):
            axis.text(at, y + 0.5, text, va="center", fontsize=10, color=_INK)


def _map(axis, weights, names, asks):
    n = len(names)
    axis.imshow(weights, cmap="Oranges", vmin=0, vmax=1.3)
    for i, j in np.ndindex(n, n):
        axis.text(j, i, f"{weights[i, j]:.2f}", ha="center", va="center", fontsize=9.5, color=_INK)
    _box(axis, -0.48, asks - 0.48, n - 0.04, 0.96, "none", edge=BLUE, line=2.5)
    axis.set_xticks(range(n), names)
    axis.set_yticks(range(n), names)
    axis.set(title="all queries: the map", xlabel="who is asked", ylabel="who asks")
    axis.tick_params(length=0)
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(False)


def _box(axis, x, y, width, height, colour, edge="none", line=0.8):
    rectangle = require("matplotlib.patches").Rectangle
    axis.add_patch(rectangle((x, y), width, height, facecolor=colour, edgecolor=edge, lw=line))


def _vector(numbers):
    return "(" + ", ".join(f"{one:g}" for one in numbers) + ")"
