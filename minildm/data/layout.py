"""Where the objects of a scene stand, how large they are, and which way they lean."""

import itertools
from collections.abc import Callable, Sequence

from .sprites import Sprite, sprite
from .vocabulary import THINGS

# The size of an object, as `sprite` takes it, in shares of the canvas, by the number of objects; its tilts; and how
# often it is mirrored.
SCALES = {
    "free": {
        1: (0.40, 0.45, 0.50, 0.55, 0.60),
        2: (0.32, 0.35, 0.38),
        3: (0.27, 0.30, 0.33),
        4: (0.25, 0.28, 0.31),
    },
    "grid": {1: (0.5, 0.6), 2: (0.34,), 3: (0.28,), 4: (0.28,)},
}
_ANGLES = {"free": (-12, -6, 0, 6, 12), "grid": (0,)}
_MIRRORED = {"free": 0.5, "grid": 0.0}
LAYOUTS = tuple(SCALES)
CELLS = 8  # of a side, in the layout "grid"


def arrange(
    names: Sequence[str], relation: str | None, size: int, draw: Callable[[], float], layout: str = "free"
) -> tuple[list[Sprite], list[tuple[int, int]]]:
    """Sprites and their top left corners (x, y): within the canvas, and apart from each other by a gap.

    layout: "free" puts things at any pixel, in several sizes and tilts, mirrored or not; "grid" upright, each facing
        one way, in fewer sizes, in the middle of whole cells of a grid of 8×8, so that an autoencoder with latents of
        8×8 sees a drawing in few ways.
        Two things on the grid between which the words state no relation stand in the order in which they are named,
        the first nearer to the top left: then the words alone say which of the two belongs where.
    """
    while True:
        sprites = [_choose(name, size, len(names), draw, layout) for name in names]
        extents = [(one.mask.shape[1], one.mask.shape[0]) for one in sprites]
        if layout == "grid":
            corners = settle(extents, relation, size, draw)
        else:
            corners = _relate(extents, relation, size, draw) if relation else _scatter(extents, size, draw)
        if corners is not None:
            return sprites, corners


def _choose(name: str, size: int, count: int, draw, layout: str) -> Sprite:
    thing, scales, angles = THINGS[name], SCALES[layout][count], _ANGLES[layout]
    side = round(size * scales[int(draw() * len(scales))])
    if thing.colour:
        return _drawn(name, side, 0, False)
    return _drawn(name, side, angles[int(draw() * len(angles))], draw() < _MIRRORED[layout])


def poses(name: str, size: int, count: int) -> list[Sprite]:
    """Every sprite of a thing that scenes of `count` objects may show, in either layout, each facing either way."""
    ways = {}  # in order, each once
    for layout in LAYOUTS:
        sides = [round(size * scale) for scale in SCALES[layout][count]]
        turns = [(0, False)] if THINGS[name].colour else itertools.product(_ANGLES[layout], (False, True))
        ways |= dict.fromkeys(itertools.product(sides, turns))
    return [_drawn(name, side, *turn) for side, turn in ways]


def _drawn(name: str, side: int, angle: int, mirrored: bool) -> Sprite:
    thing = THINGS[name]
    if thing.colour:  # a turned square is less of a square; and a full, flat shape looks larger than it is
        return sprite(thing.codepoint, round(0.92 * side), fill=thing.fill)
    return sprite(thing.codepoint, side, angle, mirrored)


def settle(
    extents: Sequence[tuple[int, int]], relation: str | None, size: int, draw: Callable[[], float]
) -> list[tuple[int, int]] | None:
    """Corners for things that stand in the middle of the fewest cells that hold them, drawn until all is well."""
    gap = _gap(size)
    where = _middling(draw) if len(extents) == 1 else draw
    places = [[_starts(side, size, max(1, gap // 2)) for side in extent] for extent in extents]
    if not all(axis for both in places for axis in both):
        return None
    for _ in range(60):
        corners = [tuple(axis[int(where() * len(axis))] for axis in both) for both in places]
        stands = _related(corners, extents, relation, gap) if relation else _in_order(corners, extents)
        if stands and _apart(corners, extents, gap):
            return corners
    return None


def _in_order(corners, extents) -> bool:
    """Whether the first of two things lies no further from the top left than the second, along the diagonal."""
    middles = [x + y + (w + h) / 2 for (x, y), (w, h) in zip(corners, extents, strict=True)]
    return len(middles) != 2 or middles[0] <= middles[1]


def _starts(side: int, size: int, margin: int) -> list[int]:
    """Where a thing so wide, or so high, may start."""
    cell = size // CELLS
    cells = -(-(side + 2 * margin) // cell)
    inset = (cells * cell - side) // 2
    starts = (i * cell + inset for i in range(size // cell - cells + 1))
    return [start for start in starts if margin <= start <= size - margin - side]


def _apart(corners, extents, gap: int) -> bool:
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, extents, strict=True)]
    return all(_clear(*pair, gap) for pair in itertools.combinations(boxes, 2))


def _clear(a, b, gap: int) -> bool:
    """Whether two boxes (x0, y0, x1, y1) are apart by a gap, beside or above one another."""
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]


def _related(corners, extents, relation: str, gap: int) -> bool:
    """Whether the relation holds beyond doubt, as `_relate` has it."""
    along = 0 if relation in ("left of", "right of") else 1
    first, second = (0, 1) if relation in ("left of", "above") else (1, 0)
    (x, y), (other_x, other_y) = (
        [c + e / 2 for c, e in zip(corners[i], extents[i], strict=True)] for i in (first, second)
    )
    far, aside = (other_x - x, abs(other_y - y)) if along == 0 else (other_y - y, abs(other_x - x))
    return corners[first][along] + extents[first][along] + gap <= corners[second][along] and aside < far / 2


def _gap(size: int) -> int:
    return max(2, round(size / 24))


def _middling(draw):
    """One object looks best not far from the middle."""
    return lambda: (draw() + draw()) / 2


def _scatter(extents, size: int, draw) -> list[tuple[int, int]] | None:
    gap = _gap(size)
    margin = max(1, gap // 2)
    where = _middling(draw) if len(extents) == 1 else draw
    placed = []
    for w, h in extents:
        for _ in range(12):
            x = margin + int(where() * (size - 2 * margin - w + 1))
            y = margin + int(where() * (size - 2 * margin - h + 1))
            box = (x, y, x + w, y + h)
            if all(_clear(box, other, gap) for other in placed):
                placed.append(box)
                break
        else:
            return None
    return [(x, y) for x, y, _, _ in placed]


def _relate(extents, relation: str, size: int, draw) -> list[tuple[int, int]] | None:
    """Two corners for which the relation holds beyond doubt: the boxes are apart along its axis by a gap, and the
    centres differ along the other axis by less than half as much."""
    along = 0 if relation in ("left of", "right of") else 1
    across = 1 - along
    gap = _gap(size)
    margin = max(1, gap // 2)
    order = (0, 1) if relation in ("left of", "above") else (1, 0)
    first, second = (extents[i] for i in order)
    free = size - 2 * margin - gap - first[along] - second[along]
    if free < 0:
        return None
    before, between = sorted((int(draw() * (free + 1)), int(draw() * (free + 1))))
    start = margin + before
    other = margin + between + first[along] + gap
    apart = other + second[along] / 2 - start - first[along] / 2
    for _ in range(12):
        sides = [margin + int(draw() * (size - 2 * margin - box[across] + 1)) for box in (first, second)]
        if abs(sides[0] + first[across] / 2 - sides[1] - second[across] / 2) < apart / 2:
            corners = [None, None]
            for i, one, side in zip(order, (start, other), sides, strict=True):
                corners[i] = (one, side) if along == 0 else (side, one)
            return corners
    return None
