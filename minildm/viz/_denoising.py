"""What a denoiser answers, drawn on the plane of points, and the time as hands of clocks."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from minildm.denoiser import timestep_embedding
from minildm.optional import require
from minildm.schedule import NoiseSchedule

from ._figures import BLUE, GREEN, ORANGE
from ._pictures import Figure

WIDTH = 8.8  # inches: a code host's page
EDGE = 2.5  # how far the plane of points is shown
SMALL = 9  # points: no letter is smaller


def origins(points: Tensor, spot: Tensor, landed: Mapping[int, Tensor], title: str = "") -> Figure:
    """Where the points came from that noise brought to one spot, and their mean: a panel for each timestep; the figure.

    points: all there are, (n, 2).  spot: x_t, (2,).  landed: {t: the x_0 of those that came to lie there, (m, 2)}.
    """
    figure, axes = _planes(len(landed), title)
    for axis, (t, x_0) in zip(axes, landed.items(), strict=True):
        axis.scatter(*points.T.numpy(), s=4, color="0.8")
        origin, count = x_0.unique(dim=0, return_counts=True)
        axis.scatter(*origin.T.numpy(), s=(5 + 600 * count / len(x_0)).numpy(), alpha=0.6, lw=0, color=ORANGE)
        mean, at = x_0.mean(0).tolist(), spot.tolist()
        axis.plot(*at, "x", ms=11, mew=3, color=BLUE)
        axis.plot(*mean, "*", ms=17, color=GREEN, mec="white")
        axis.text(at[0] + 0.2, at[1] - 0.1, "$x_t$", color=BLUE, fontsize=13, va="top")
        axis.annotate(
            "mean", mean, (-1.0, -2.35), color=GREEN, fontsize=11, arrowprops=dict(arrowstyle="-", color=GREEN)
        )
        axis.set_title(f"t = {t}: {len(x_0):,} landed at the cross", fontsize=10)
    return figure


def answers(
    points: Tensor,
    schedule: NoiseSchedule,
    answered: Mapping[int, Tensor],
    title: str = "",
    *,
    colour: str = BLUE,
    behind: Mapping[int, Tensor] | None = None,
) -> Figure:
    """A denoiser's answers x0_hat to many questions, as dots on the plane of points: a panel for each t; the figure.

    points: the data, (n, 2).  answered: {t: x0_hat, (m, 2)}.  behind: other answers to compare with, larger and blue.
    The shade shows where noised points lie at that t.
    """
    figure, axes = _planes(len(answered), title)
    side = torch.linspace(-EDGE, EDGE, 120)
    everywhere = torch.cartesian_prod(side, side)
    for axis, (t, x0_hat) in zip(axes, answered.items(), strict=True):
        kept = schedule.alphas_cumprod[t].float()
        away = (everywhere[:, None] - kept.sqrt() * points).square().sum(-1)
        shade = torch.logsumexp(-away / (2 * (1 - kept)), dim=1).exp().view(120, 120).T.numpy()
        axis.imshow(shade, extent=[-EDGE, EDGE] * 2, origin="lower", cmap="YlOrBr", alpha=0.45)
        if behind is not None:
            axis.plot(*behind[t].detach().T.numpy(), "o", ms=6, mew=0, color=BLUE)
        small = 2.3 if behind is None else 1.5  # so that what is behind stays in sight
        axis.plot(*x0_hat.detach().T.numpy(), "o", ms=small, mew=0, color=colour)
        axis.set_title(f"t = {t}", fontsize=10)
    return figure


def clocks(timesteps: Sequence[int], dim: int = 16, title: str = "") -> Figure:
    """The time embedding as hands of clocks: a row for each timestep, a dial for each cosine and sine; the figure.

    A hand at angle 0 points up, where the cosine is 1, and it turns clockwise.
    """
    plt, patches = require("matplotlib.pyplot"), require("matplotlib.patches")
    half = dim // 2
    hands = timestep_embedding(torch.tensor(timesteps), dim).view(len(timesteps), 2, half)  # cosines, sines
    turns = 2 * np.pi * 10_000 ** (np.arange(half) / half)  # timesteps that a whole turn takes
    figure, axis = plt.subplots(figsize=(WIDTH, 0.85 * len(timesteps) + 1.45))
    for row, t in enumerate(timesteps):
        axis.text(-0.75, -row, f"t = {t}", ha="right", va="center", fontsize=11)
        for k in range(half):
            cosine, sine = (0.42 * hands[row, part, k].item() for part in (0, 1))
            axis.add_patch(patches.Circle((k, -row), 0.42, fc="white", ec="0.6", lw=1))
            axis.plot([k, k + sine], [-row, -row + cosine], color=BLUE, lw=2.5, solid_capstyle="round")
    for k, turn in enumerate(turns):
        axis.text(k, 0.58, f"{turn:,.0f}", ha="center", va="bottom", fontsize=10)
    axis.text(-0.75, 0.58, "a turn takes … steps:", ha="right", va="bottom", fontsize=10)
    axis.text(
        half / 2 - 0.5, 0.3 - len(timesteps), "angle 0 points up, and hands turn clockwise", ha="center", fontsize=10
    )
    axis.set(xlim=(-2.6, half - 0.4), ylim=(0.2 - len(timesteps), 0.95), aspect="equal", title=title)
    axis.axis("off")
    return figure


def _planes(n, title):
    """A row of empty planes, all of the same stretch."""
    width = WIDTH / n
    figure, axes = require("matplotlib.pyplot").subplots(1, n, figsize=(WIDTH, width + 0.6), squeeze=False)
    for axis in axes[0]:
        axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE))
        axis.grid(False)
    figure.suptitle(title, fontsize=11)
    return figure, axes[0]
