"""Drawings of a network's blocks: layers from top to bottom, paths around them, and what comes in from the side."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from minildm.optional import require

from ._figures import BLUE, ORANGE
from ._pictures import Axes, Figure

_FILLS = (  # the first word that a layer's name holds says its colour
    ("attention", "#F6DDEB"),
    ("conv", "#D3E6F3"),
    ("linear", "#D3E6F3"),
    ("feed-forward", "#D3E6F3"),
    ("Norm", "#FBEFD5"),
    ("LU", "#D9F0E7"),  # ReLU, SiLU, GELU
)
_HALF, _TALL = 1.4, 0.62  # of a layer's box: half its width, and its height; from one layer to the next is 1
_INCH = 0.45  # of one such step, so that 9 points fit into a box


@dataclass(frozen=True)
class Block:
    """What a block is made of, in the order in which the picture goes through it.

    parts: names of the layers; "+" and "concat" are joints, drawn as a circle.
    begin, end: what goes in at the top, and what comes out at the bottom.
    around: paths around layers: (first, joint), or (first, joint, words). The path leaves before the part of number
        `first` and comes in at the "+" of number `joint`; a layer on the way, such as "1×1 convolution", is its words.
    beside: {number of a part: what comes in from the right}: one name, or several in their order, the last one nearest.
    new: numbers of the parts that a lesson adds. They, and what comes in beside them, get an orange frame.

    A later block grows from an earlier one by `dataclasses.replace`.
    """

    parts: tuple[str, ...]
    begin: str = "x"
    end: str = ""
    around: tuple[tuple, ...] = ()
    beside: Mapping[int, str | tuple[str, ...]] = field(default_factory=dict)
    new: tuple[int, ...] = ()


CONV_BLOCK = Block(("3×3 convolution", "ReLU", "3×3 convolution", "ReLU"))
RESIDUAL_BLOCK = Block(
    ("GroupNorm", "SiLU", "3×3 convolution", "GroupNorm", "SiLU", "3×3 convolution", "+"), around=((0, 6, "shortcut"),)
)
TIME_BLOCK = Block(
    ("GroupNorm", "SiLU", "3×3 convolution", "+", "GroupNorm", "SiLU", "3×3 convolution", "+"),
    around=((0, 7, "shortcut"),),
    beside={3: ("digested time", "linear")},
    new=(3,),
)
TRANSFORMER_BLOCK = Block(
    ("LayerNorm", "self-attention", "+", "LayerNorm", "cross-attention", "+", "LayerNorm", "feed-forward", "+"),
    begin="pixels as tokens",
    around=((0, 2), (3, 5), (6, 8)),
    beside={4: "words"},
)


def blocks(drawn: Mapping[str, Block], title: str = "") -> Figure:
    """Block diagrams side by side, one for each title, from input to output; returns the figure.

    drawn: {title: a `Block`, such as `CONV_BLOCK`, `RESIDUAL_BLOCK`, `TIME_BLOCK`, `TRANSFORMER_BLOCK`}.
    Raises ValueError for a number that is no part's, and for a path that does not end in a joint.
    """
    plt = require("matplotlib.pyplot")
    extents = [_extent(name, block) for name, block in drawn.items()]
    widths = [right - left for left, right in extents]
    deepest = max(len(block.parts) for block in drawn.values()) + 1
    size = (max(_INCH * sum(widths), 0.09 * len(title) + 0.2), _INCH * (deepest + 0.9) + (0.65 if title else 0.35))
    figure, axes = plt.subplots(1, len(drawn), figsize=size, width_ratios=widths, squeeze=False)
    for axis, (name, block), (left, right) in zip(axes[0], drawn.items(), extents, strict=True):
        axis.set(xlim=(left, right), ylim=(-deepest - 0.4, 0.5), aspect="equal", anchor="N")
        axis.set_title(name, x=-left / (right - left))  # above the block itself, wherever that stands
        axis.axis("off")
        _draw(axis, block)
    figure.suptitle(title)
    return figure


def _names(beside):
    return (beside,) if isinstance(beside, str) else tuple(beside)


def _extent(name, block):
    """How far a block, or its title, reaches to the left and to the right of its middle."""
    half = 0.1 * len(name) + 0.2
    inputs = max((len(_names(beside)) for beside in block.beside.values()), default=0)
    left = _HALF + (1.5 if any(len(path) > 2 for path in block.around) else 0.9 if block.around else 0.4)
    right = _HALF + 0.4 + inputs * (2 * _HALF + 0.6)
    return -max(left, half), max(right, half)


def _draw(axis, block):
    for number in [*block.new, *block.beside, *[one for path in block.around for one in path[:2]]]:
        if not 0 <= number < len(block.parts):
            raise ValueError(f"expected numbers of parts from 0 to {len(block.parts) - 1}, got {number}")
    bottom = -len(block.parts) - 1
    axis.text(0, 0, block.begin, ha="center", va="center", fontsize=10)
    axis.text(0, bottom, block.end or "out", ha="center", va="center", fontsize=10)
    for number, part in enumerate(block.parts):
        arrow(axis, (0, -number - _reach(block.parts, number - 1)), (0, -number - 1 + _reach(block.parts, number)))
        _part(axis, 0, -number - 1, part, number in block.new)
    arrow(axis, (0, bottom + 1 - _reach(block.parts, len(block.parts) - 1)), (0, bottom + 0.25))
    for number, beside in block.beside.items():
        _inputs(axis, block, number, _names(beside))
    for first, joint, *words in block.around:
        if not _joint(block.parts[joint]):
            raise ValueError(f'expected a path around that ends in "+" or "concat", got {block.parts[joint]!r}')
        _path(axis, -first - 0.5 + 0.1, -joint - 1, *words)


def _joint(part):
    return part in ("+", "concat")


def _reach(parts, number):
    """Half the height of a part, or of the word that goes in."""
    return 0.25 if number < 0 or _joint(parts[number]) else _TALL / 2


def _part(axis, x, y, words, new, fill=None):
    patches = require("matplotlib.patches")
    edge = dict(ec=ORANGE if new else "0.35", lw=2.2 if new else 1.0, zorder=3)
    if _joint(words):
        axis.add_patch(patches.Circle((x, y), 0.25, fc="white", **edge))
        axis.text(x, y, {"+": "+", "concat": "‖"}[words], ha="center", va="center_baseline", fontsize=11, zorder=4)
        return
    fill = fill or next((colour for word, colour in _FILLS if word in words), "0.94")
    corner = (x - _HALF + 0.08, y - _TALL / 2 + 0.08)
    style = patches.BoxStyle("Round", pad=0.08, rounding_size=0.12)
    axis.add_patch(patches.FancyBboxPatch(corner, 2 * _HALF - 0.16, _TALL - 0.16, style, fc=fill, **edge))
    axis.text(x, y, words, ha="center", va="center_baseline", fontsize=9.5, zorder=4)


def _inputs(axis, block, number, names):
    y, new = -number - 1, number in block.new
    target = 0.25 if _joint(block.parts[number]) else _HALF
    for name in reversed(names):
        x = target + 0.6 + _HALF
        _part(axis, x, y, name, new)
        arrow(axis, (x - _HALF, y), (target, y), ORANGE if new else "0.35")
        target = x + _HALF


def _path(axis, start, end, words=""):
    x = -_HALF - 0.45
    axis.plot([0, x, x], [start, start, end], color=BLUE, lw=1.6, solid_joinstyle="round", zorder=1)
    arrow(axis, (x, end), (-0.25, end), BLUE, 1.6)
    if words:
        axis.text(x - 0.15, (start + end) / 2, words, ha="right", va="center", fontsize=9.5, color=BLUE, rotation=90)


def arrow(axis: Axes, start: tuple, end: tuple, colour: str = "0.35", width: float = 1.0) -> None:
    """An arrow with a filled head from one point to another, in data coordinates."""
    look = {"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axis.annotate("", end, start, arrowprops=look, zorder=2)
