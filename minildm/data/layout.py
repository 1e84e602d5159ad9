"""Where the objects of a scene stand, how large they are, and which way they lean."""

from collections.abc import Callable, Sequence

from .sprites import Sprite, sprite
from .vocabulary import THINGS

# The size of an object, as `sprite` takes it, in shares of the canvas, by the number of objects.
_SCALES = {
    1: (0.40, 0.45, 0.50, 0.55, 0.60),
    2: (0.32, 0.35, 0.38),
    3: (0.27, 0.30, 0.33),
    4: (0.25, 0.28, 0.31),
}
_ANGLES = (-12, -6, 0, 6, 12)


def arrange(
    names: Sequence[str], relation: str | None, size: int, draw: Callable[[], float]
) -> tuple[list[Sprite], list[tuple[int, int]]]:
    """Sprites and their top left corners (x, y): within the canvas, and apart from each other by a gap."""
    while True:
        sprites = [_choose(name, size, len(names), draw) for name in names]
        extents = [(one.mask.shape[1], one.mask.shape[0]) for one in sprites]
        corners = _relate(extents, relation, size, draw) if relation else _scatter(extents, size, draw)
        if corners is not None:
            return sprites, corners


def _choose(name: str, size: int, count: int, draw) -> Sprite:
    thing, scales = THINGS[name], _SCALES[count]
    side = round(size * scales[int(draw() * len(scales))])
    if thing.colour:  # a turned square is less of a square; and a full, flat shape looks larger than it is
        return sprite(thing.codepoint, round(0.92 * side), fill=thing.fill)
    return sprite(thing.codepoint, side, _ANGLES[int(draw() * len(_ANGLES))], draw() < 0.5)


def _gap(size: int) -> int:
    return max(2, round(size / 24))


def _scatter(extents, size: int, draw) -> list[tuple[int, int]] | None:
    gap = _gap(size)
    margin = max(1, gap // 2)
    if len(extents) == 1:  # one object looks best not far from the middle

        def where():
            return (draw() + draw()) / 2
    else:
        where = draw
    placed = []
    for w, h in extents:
        for _ in range(12):
            x = margin + int(where() * (size - 2 * margin - w + 1))
            y = margin + int(where() * (size - 2 * margin - h + 1))
            if all(
                x + w + gap <= left or right + gap <= x or y + h + gap <= top or bottom + gap <= y
                for left, top, right, bottom in placed
            ):
                placed.append((x, y, x + w, y + h))
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
