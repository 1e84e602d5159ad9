"""Still figures."""

import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from minildm.images import Images
from minildm.layers import Upsample
from minildm.optional import require

from ._pictures import Axes, array

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442",
)  # fmt: skip
_COLOURS, _MARKS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY), ("o", "s", "^", "D")


def style() -> None:
    """Quiet axes and readable type for all figures that follow: nothing below 9 points."""
    rc = {
        "figure.dpi": 90,
        "savefig.dpi": 90,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "image.interpolation": "nearest",
        "axes.prop_cycle": require("matplotlib").cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY]),
    }
    require("matplotlib.pyplot").rcParams.update(rc)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():  # in a notebook
        # Photographs are noise to PNG: as JPEG they take a quarter, and a notebook must not grow large.
        require("matplotlib_inline.backend_inline").set_matplotlib_formats("jpeg", pil_kwargs={"quality": 80})


def outlines(
    axis: Axes, image: Images, labels: np.ndarray | Tensor, colour: str = ORANGE, title: str = "", width: float = 1.2
) -> Axes:
    """A grey image with the outline of every instance drawn on it; returns the axis.

    image: (h, w), any range.  labels: (h, w) int, 0 = background.
    """
    image = array(image)
    low, high = np.percentile(image, [1, 99.5])
    axis.imshow(((image - low) / max(high - low, 1e-9)).clip(0, 1) ** 0.5, cmap="gray")  # the root lifts what is dim
    outline(axis, labels, colour, linewidths=width)
    axis.set_title(title)
    axis.axis("off")
    return axis


def outline(axis: Axes, labels: np.ndarray | Tensor, colour: str = ORANGE, **options: object) -> None:
    """The outline of every instance of `labels` (h, w), drawn on what the axis shows already."""
    labels = array(labels)
    for label in np.unique(labels[labels > 0]):
        # A frame of background, so that the outline is closed where an instance is cut by the edge of the picture.
        inside = np.pad(labels == label, 1)
        at = [np.arange(side) - 1 for side in inside.shape]
        axis.contour(at[1], at[0], inside, [0.5], **{"colors": [colour], "linewidths": 1.4} | options)


def matches(
    axis: Axes,
    image: Images,
    true: np.ndarray | Tensor,
    pred: np.ndarray | Tensor,
    iou: float = 0.5,
    title: str = "",
) -> Axes:
    """What was found (blue), missed (orange) and invented (pink), at one strictness; returns the axis.

    true, pred: (h, w) int labels. What was missed is filled, within the dashed outline of the truth. What was invented,
    found where there is no such thing, is outlined thickly, above the rest.
    """
    matching = require("stardist.matching").matching
    true, pred = array(true).astype(np.int32), array(pred).astype(np.int32)
    result = matching(true, pred, thresh=iou, report_matches=True)
    pairs = [result.matched_pairs[i] for i in result.matched_tps]
    missed = np.where(np.isin(true, [i for i, _ in pairs]), 0, true)
    found = np.where(np.isin(pred, [j for _, j in pairs]), pred, 0)
    outlines(axis, image, found, SKY)
    axis.imshow((missed > 0)[..., None] * np.array([*require("matplotlib.colors").to_rgb(ORANGE), 0.4]))
    outline(axis, missed, ORANGE, linestyles="dashed", linewidths=1.0)
    outline(axis, np.where(found > 0, 0, pred), PURPLE, linewidths=2.2)
    axis.set_title(title or f"found {result.tp} (blue), missed {result.fn} (orange), invented {result.fp} (pink)")
    return axis


def u_diagram(axis: Axes, model: nn.Module, x: Tensor, title: str = "") -> Axes:
    """The feature maps of a `UNet` in one forward pass of x (1, c, h, w), drawn as a U; returns the axis.

    A box is the output of a layer, as tall as the map (on a square-root scale), as wide as it has channels; the number
    below counts them. Arrows across are skips: what waits on the left is what the decoder takes in on the right.
    """
    layers = [model.stem, *model.down, *model.up]
    shapes = []
    handles = [layer.register_forward_hook(lambda *call: shapes.append(call[-1].shape[1:3])) for layer in layers]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    encoder, full, widest = 1 + len(model.down), x.shape[2], max(c for c, _ in shapes)
    rectangle = require("matplotlib.patches").Rectangle
    boxes, at = [], 0.0
    for k, (channels, size) in enumerate(shapes):
        at += 0.9 if k == encoder else 0.0  # the gap in which the bottom of the U lies
        wide, tall = 0.2 + 0.6 * channels / widest, 0.8 * (size / full) ** 0.5
        level = np.log2(full / size)
        axis.add_patch(rectangle((at, -level - tall / 2), wide, tall, color=BLUE if k < encoder else GREEN))
        axis.text(at + wide / 2, -level - tall / 2 - 0.03, channels, ha="center", va="top", fontsize=9)
        boxes.append((at, at + wide, -level))
        at += wide + 0.15
    (_, left, bottom), (right, _, _) = boxes[encoder - 1], boxes[encoder]
    axis.annotate("", (right, bottom), (left, bottom), arrowprops={"arrowstyle": "->", "lw": 2, "color": "0.4"})
    waiting = boxes[:encoder]
    for layer, (start, _, level) in zip(model.up, boxes[encoder:], strict=True):
        if model.skip and not isinstance(layer, Upsample):
            _, end, _ = waiting.pop()
            bow = {"arrowstyle": "->", "color": ORANGE, "lw": 1.2, "connectionstyle": "arc3,rad=-0.1"}
            axis.annotate("", (start, level + 0.1), (end, level + 0.1), arrowprops=bow)
    for level in range(int(-bottom) + 1):
        axis.text(-0.2, -level, f"{full >> level}×{x.shape[3] >> level}", ha="right", va="center", fontsize=9)
    axis.set(xlim=(-1.2, at), ylim=(bottom - 0.7, 0.75), title=title)
    axis.axis("off")
    return axis


def curve(axis: Axes, values: Iterable[float] | Tensor, smooth: int = 20, label: str = "", colour: str = BLUE) -> Axes:
    """A noisy curve in a pale line, and its running mean over `smooth` values in a strong one; returns the axis."""
    values = np.array([one.item() if isinstance(one, Tensor) else float(one) for one in values])
    axis.plot(values, color=colour, alpha=0.2, lw=0.8)
    if len(values) >= smooth:
        mean = np.convolve(values, np.ones(smooth) / smooth, "valid")
        axis.plot(np.arange(smooth - 1, len(values)), mean, color=colour, label=label)
    return axis


def spread(axis: Axes, groups: Mapping[str, Mapping[str, Sequence[float]]], ylabel: str = "", title: str = "") -> Axes:
    """Every single result as a dot, and the mean as a bar: {on the x axis: {arm: results}}; returns the axis.

    Each arm has its colour; from the seventh on colours come again, with another mark.
    """
    arms = list(dict.fromkeys(arm for group in groups.values() for arm in group))
    looks = {arm: (_COLOURS[k % len(_COLOURS)], _MARKS[k // len(_COLOURS) % len(_MARKS)]) for k, arm in enumerate(arms)}
    named = set()
    for at, group in enumerate(groups.values()):
        apart = min(0.22, 0.8 / max(len(group), 1))
        for k, (arm, results) in enumerate(group.items()):
            x, (colour, mark) = at + apart * (k - (len(group) - 1) / 2), looks[arm]
            axis.plot([x] * len(results), results, mark, ms=4, alpha=0.5, color=colour)
            wide, mean = 0.36 * apart, [np.mean(results)] * 2 if len(results) else [np.nan] * 2
            mark = mark if mark != "o" else ""  # in the legend, where the colour alone does not tell
            label = None if arm in named else arm
            axis.plot([x - wide, x + wide], mean, lw=3, marker=mark, ms=5, color=colour, label=label)
            named.add(arm)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set(ylabel=ylabel, title=title)
    axis.legend(**({"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(arms) > len(_COLOURS) else {}))
    return axis
