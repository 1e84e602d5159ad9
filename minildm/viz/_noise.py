"""What noise does, drawn: the paths of single pixels, and noise schedules side by side."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minildm.images import Images
from minildm.optional import require
from minildm.schedule import NoiseSchedule

from ._figures import BLUE, GREEN, ORANGE, PURPLE, RED, SKY
from ._pictures import Figure, pixels
from ._sheets import SMALL

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)


def noise_paths(
    schedule: NoiseSchedule, starts: Mapping[str, float], walks: Sequence[Tensor], title: str = ""
) -> Figure:
    """Random walks of single pixels through all timesteps, over what one jump promises of them; returns the figure.

    starts: {name of a pixel: its clean value}.  walks: for each pixel its walks, (len(schedule), n), from t = 0 on.
    The lines in black are the promised mean and, dashed, two standard deviations to either side. The names stand at the
    clean values, on the axis.
    Raises ValueError for other than one set of walks for each pixel, and for walks of another length.
    """
    steps = len(schedule)
    found = [tuple(one.shape) for one in walks]
    if len(starts) != len(found) or any(len(shape) != 2 or shape[0] != steps for shape in found):
        raise ValueError(f"expected {len(starts)} sets of walks, each ({steps}, n), got {found}")
    figure, axis = require("matplotlib.pyplot").subplots(figsize=(8.4, 3.9))
    for k, (start, paths) in enumerate(zip(starts.values(), walks, strict=True)):
        colour = _COLOURS[k % len(_COLOURS)]
        axis.plot(paths.numpy(force=True), color=colour, lw=0.6, alpha=0.5)
        axis.plot(0, start, "o", color=colour, ms=8, mec="white", clip_on=False, zorder=3)
        mean = schedule.signal * start
        for offset, look in ((0, "-"), (2, "--"), (-2, "--")):
            axis.plot((mean + offset * schedule.noise).numpy(), look, color="0.1", lw=1.6 if look == "-" else 1)
    axis.set(xlim=(0, steps - 1), xlabel="t", title=title, ylabel="value of the pixel")
    names = {start: name for name, start in starts.items()}
    low, high = axis.get_ylim()
    free = [at for at in axis.get_yticks() if all(abs(at - start) > 0.06 * (high - low) for start in names)]
    ticks = sorted({*names, *(at for at in free if low < at < high)})
    axis.set_yticks(ticks, [f"{names[at]} {at:g}" if at in names else f"{at:g}" for at in ticks])
    for label, at in zip(axis.get_yticklabels(), ticks, strict=True):
        if at in names:
            label.set(color=_COLOURS[list(starts.values()).index(at) % len(_COLOURS)], weight="bold")
    for at, words in ((0, "mean"), (2, "+ 2 std"), (-2, "− 2 std")):
        axis.text(1.01 * steps, at, words, va="center", fontsize=SMALL)
    return figure


def schedule_sheet(
    schedules: Mapping[str, NoiseSchedule],
    x_0: Tensor,
    eps: Tensor,
    times: Sequence[int] = (100, 300, 500, 700, 900),
    title: str = "",
) -> Figure:
    """How fast schedules destroy a picture: log SNR above, below it the picture at some timesteps; returns the figure.

    x_0, eps: one picture and its noise, (c, h, w), the same for all.  times: where it is shown, evenly apart.
    Raises ValueError for no schedules, for schedules of several lengths, and for fewer than two times.
    """
    lengths = sorted({len(schedule) for schedule in schedules.values()})
    if len(lengths) != 1 or len(times) < 2:
        raise ValueError(f"expected schedules of one length and two times or more, got {lengths} and {times}")
    rows = 1 + len(schedules)
    figure = require("matplotlib.pyplot").figure(figsize=(8.4, 2.9 + 1.35 * len(schedules)))
    above, *below = figure.subplots(rows, 1, sharex=True, height_ratios=[2.9, *[1.35] * len(schedules)])
    at = torch.arange(lengths[0])
    half = 0.42 * (times[1] - times[0])  # of a picture's width, in timesteps
    for axis, (name, schedule), colour in zip(below, schedules.items(), _COLOURS, strict=False):
        level = schedule.snr(at).log().numpy()
        above.plot(level, lw=2.2, color=colour)
        end = max(level[-1], -12)
        above.text(1.01 * lengths[0], end, name, color=colour, va="center", weight="bold")
        x_t = schedule.add_noise(
            x_0.expand(len(times), *x_0.shape), eps.expand(len(times), *eps.shape), at[list(times)]
        )
        for t, picture in zip(times, pixels(x_t), strict=True):
            axis.imshow(picture, extent=(t - half, t + half, 0, 1), aspect="auto")
        axis.set(xlim=(0, lengths[0] - 1), ylim=(0, 1), yticks=[])
        axis.grid(False)
        axis.tick_params(bottom=False)
        axis.spines[:].set_visible(False)
        axis.text(1.01 * lengths[0], 0.5, name, color=colour, va="center", weight="bold")
    above.axhline(0, color="0.3", lw=1, ls="--")
    above.text(0.99 * lengths[0], 0.3, "half picture, half noise", ha="right", fontsize=SMALL, color="0.3")
    above.set(ylim=(-12.5, 9.5), ylabel="natural log of the SNR", title=title, xticks=list(times))
    above.tick_params(labelbottom=True)
    below[-1].set_xlabel("t")
    for axis in below:
        axis.tick_params(labelbottom=axis is below[-1])
    return figure


def picture_and_values(x_t: Images, titles: Sequence[str], title: str = "") -> Figure:
    """Pictures, and below each the histogram of all its values; returns the figure.

    x_t: (b, c, h, w), or one (c, h, w).  titles: one for each.  Raises ValueError for another number of titles.
    """
    x_t = torch.as_tensor(x_t)
    x_t = x_t if x_t.ndim == 4 else x_t[None]
    if len(titles) != len(x_t):
        raise ValueError(f"expected a title for each of {len(x_t)} pictures, got {len(titles)}")
    size = min(2.6, 8.4 / len(x_t))
    figure, axes = require("matplotlib.pyplot").subplots(
        2, len(x_t), figsize=(size * len(x_t), 1.55 * size + 0.7), squeeze=False, height_ratios=(2, 1)
    )
    for (above, below), x, words in zip(axes.T, x_t, titles, strict=True):
        above.imshow(pixels(x))
        above.axis("off")
        above.set_title(words, fontsize=10)
        share = 100 / x.numel()
        below.hist(x.flatten().numpy(force=True), 61, range=(-3.05, 3.05), color=BLUE, weights=[share] * x.numel())
        below.set(yticks=[], ylim=(0, 12), xticks=(-2, 0, 2))
        below.spines["left"].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure
