"""Visible checks of homework 1, a loss that parts touching cells: properties of an answer. More run at grading."""

import math

import numpy as np
import torch

from minildm import segmentation

from ._outcome import NotWritten
from ._probe import Probe, probe


def _two_slabs(h: int, w: int, first: slice, second: slice, numbers: tuple[int, int] = (1, 2)) -> np.ndarray:
    mask = np.zeros((h, w), np.int32)
    mask[:, first], mask[:, second] = numbers
    return mask


@probe()
def seam_classes(ask: Probe) -> None:
    """Part 1: `answer(mask, reach)`, labels (h, w) -> classes (h, w): 0 background, 1 nucleus, 2 seam."""
    for side, reach, number in [(5, 1, 7), (7, 2, 70_000), (9, 3, 3_000_000)]:
        alone = np.zeros((side, side + 6), np.int32)
        alone[1:-1, 2:-3] = number
        found = ask(alone, reach)
        ask.need(found.shape == alone.shape, f"expected one class for each pixel, {alone.shape}, got {found.shape}")
        ask.need(set(np.unique(found)) <= {0, 1, 2}, f"expected the classes 0, 1 and 2, got {np.unique(found)[:6]}")
        ask.need(not np.array_equal(found == 2, alone > 0), "a nucleus is class 1; class 2 is the seam alone")
        ask.need(
            (found != 2).all(),
            "here is one nucleus alone, and your map has a seam: where a nucleus meets the background there is none"
            + (f". Its name is {number:,}: no fixed number is larger than all names" if number > 7 else ""),
        )
        ask.need(np.array_equal(found, alone > 0), "a nucleus alone is class 1, all of it, and around it is class 0")
    for h, w, middle, reach in [(4, 12, 6, 1), (3, 17, 8, 2), (6, 22, 10, 3)]:
        sides = _two_slabs(h, w, np.s_[:1], np.s_[-1:])
        ask.need((ask(sides, reach) != 2).all(), "nuclei at opposite edges of the picture are not neighbours")
        touching = _two_slabs(h, w, np.s_[:middle], np.s_[middle:])
        columns = np.flatnonzero((ask(touching, reach) == 2).all(0))
        seen = f"two nuclei meet in a straight line, and reach is {reach}: "
        ask.need(len(columns), seen + "there is no seam in your map")
        ask.need(
            len(columns) == 2 * reach,
            seen + f"{2 * reach} columns of pixels see both in their windows, your seam is {len(columns)} wide",
        )
        ask.need(columns[0] + columns[-1] == 2 * middle - 1, seen + "your seam is not in the middle of the two")
    for gap, reach in [(1, 1), (1, 2), (3, 2), (4, 2), (2, 3)]:
        apart = _two_slabs(5, 18 + gap, np.s_[:9], np.s_[9 + gap :])
        width = int((ask(apart, reach) == 2).all(0).sum())
        ask.need(
            width == max(0, 2 * reach - gap),
            f"two nuclei with {gap} columns of background between them, reach {reach}: {max(0, 2 * reach - gap)} "
            f"columns see both, and pixels of the background count as well; your seam is {width} wide",
        )
    corner = np.zeros((8, 9), np.int32)
    corner[:4, :5], corner[4:, 5:] = 1, 2
    ask.need((ask(corner, 1) == 2).sum() == 4, "two nuclei that touch at a corner alone: the window is a square")
    numbered = ask.rng.integers(0, 4, (7, 10)).astype(np.int32)
    once = ask(numbered, 1)
    again = np.array([0, 900, 3, 41], np.int32)[numbered]
    ask.need(
        np.array_equal(once, ask(again, 1)),
        "other numbers for the same nuclei change your map: the numbers are names, and may have gaps",
    )
    ask.need(np.array_equal(once.T, ask(numbered.T.copy(), 1)), "turned on its side, the picture has another map")


def _sure(classes: np.ndarray) -> np.ndarray:
    """Logits (b, 3, h, w) that are certain of these classes (b, h, w)."""
    return 120.0 * np.moveaxis(np.eye(3)[classes], -1, 1) - 60


def _of(slips: dict[float, str], found: np.ndarray, otherwise: str) -> str:
    """The hint of the slip that gives what was found; if none does, the other one."""
    return next((hint for value, hint in slips.items() if abs(float(found) - value) < 1e-6), otherwise)


def _value(answer, logits, *more):
    return answer(torch.as_tensor(logits), *more)


def _needs_gradient(ask: Probe, *more: object) -> None:
    """Whether the loss of some logits has a gradient."""
    logits = torch.tensor(ask.rng.normal(size=(2, 3, 4, 5)), requires_grad=True)

    def slope(answer, *arguments):
        loss = answer(logits, *arguments)
        if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            return np.zeros(1)
        return torch.autograd.grad(loss, logits)[0]

    target = torch.as_tensor(np.arange(40).reshape(2, 4, 5) % 3)
    ask.need(
        np.abs(ask(target, *more, run=slope)).max() > 0,
        "no gradient reaches the logits: nothing on the way may be rounded, compared, detached or taken as a number",
    )


@probe()
def weighted_cross_entropy(ask: Probe) -> None:
    """Part 2: `answer(logits, target, seam)`, (b, 3, h, w), (b, h, w) and a number -> a loss without axes."""
    for b, h, w, seam in [(1, 2, 3, 1.0), (2, 5, 4, 4.0), (3, 4, 7, 9.0)]:
        target = ask.rng.integers(0, 3, (b, h, w))
        found = ask(np.zeros((b, 3, h, w)), torch.as_tensor(target), seam, run=_value)
        ask.need(found.shape == (), f"expected one number for the batch, without axes, got shape {found.shape}")
        ask.near(
            found,
            math.log(3),
            "logits that are all equal cost log 3 a pixel, so the weighted mean is log 3 for any weights: "
            "divide by the sum of the weights",
        )
        logits = ask.rng.normal(size=(b, 3, h, w))
        shifted = logits + ask.rng.normal(size=(b, 1, h, w))
        one, other = (ask(x, torch.as_tensor(target), seam, run=_value) for x in (logits, shifted))
        ask.near(one, other, "one number added to all three logits of a pixel changes nothing: softmax over axis 1")
        found = ask(_sure(target), torch.as_tensor(target), seam, run=_value)
        ask.near(found, 0, "logits that are right and certain cost nothing: is a softmax taken of a softmax?")
    seam, right, little, wrong = 5.0, 2.0, 1.0, 4.0
    target = torch.tensor([[[0, 1, 2, 2]]])
    logits = np.zeros((1, 3, 1, 4))
    logits[0, 2, 0, 2:] = right
    good, bad = math.log(1 + 2 * math.exp(-right)), math.log(3)
    expected = (2 * seam * good + 2 * bad) / (2 * seam + 2)
    ask.near(
        ask(logits, target, seam, run=_value),
        expected,
        "two pixels of seam that are predicted well, two others that are not: a seam pixel counts `seam` times",
    )
    two = np.moveaxis(logits.reshape(3, 2, 1, 2), 0, 1).copy(), target.reshape(2, 1, 2)
    ask.near(
        ask(*two, seam, run=_value),
        expected,
        "the same four pixels as two pictures: the mean goes over all pixels of the batch, not picture by picture",
    )
    logits[0, 2, 0, 0] = wrong
    logits[0, :, 0, 3] = little, 0, 0
    worse, worst = math.log(2 + math.exp(little)), math.log(2 + math.exp(wrong))
    ask.near(
        ask(logits, target, seam, run=_value),
        (seam * (good + worse) + worst + bad) / (2 * seam + 2),
        "background is taken for seam, and seam for background: the weight belongs where the *target* is seam",
    )
    huge = np.full((1, 3, 2, 2), -1000.0)
    huge[:, 1] = 1000
    found = ask.raw(huge, torch.zeros(1, 2, 2, dtype=torch.int64), 3.0, run=_value)
    ask.near(found, 2000, "large logits: take the logarithm of the softmax in one step, so that it stays finite")
    _needs_gradient(ask, 3.0)


@probe()
def seam_dice_loss(ask: Probe) -> None:
    """Part 3: `answer(logits, target)`, (b, 3, h, w) and (b, h, w) -> 1 minus the soft Dice of the seam."""

    for b, h, w in [(2, 5, 3), (1, 3, 4), (3, 4, 6)]:
        target = ask.rng.integers(0, 3, (b, h, w))
        target[0, 0, 0], target[0, 0, 1] = 2, 0
        n, seam, nuclei = target.size, int((target == 2).sum()), int((target == 1).sum())
        found = ask(_sure(target), torch.as_tensor(target), run=_value)
        ask.need(found.shape == (), f"expected one number for the batch, without axes, got shape {found.shape}")
        logits = ask.rng.normal(size=(b, 3, h, w))
        shifted = logits + ask.rng.normal(size=(b, 1, h, w))
        one, other = (ask(x, torch.as_tensor(target), run=_value) for x in (logits, shifted))
        ask.near(one, other, "one number added to all three logits of a pixel changes nothing: softmax over axis 1")
        slips = {
            1.0: "this is Dice itself: one *minus* it is the loss",
            1 - 2 * seam + 1 / (2 * seam + 1): "the numerator is a sum: are parentheses missing?",
            1 - (4 * seam + 1) / (nuclei + 3 * seam + 1): "s is 1 where the target is seam and 0 elsewhere: no class",
        }
        right = "a prediction that is right and certain has the loss 0: is the overlap counted twice?"
        ask.near(found, 0, _of(slips, found, right))
        found = ask(_sure(target * 0 + 2), torch.as_tensor(target), run=_value)
        each = [1 - (2 * one + 1) / (h * w + one + 1) for one in (target == 2).sum((1, 2))]
        slips = {
            1 - (seam + 1) / (n + 1): "this is intersection over union: Dice divides by the sum of both areas",
            1 - 1 / (nuclei + 1): "this is the overlap of the class nucleus: the seam is class 2",
            1 - 1 / (n - nuclei - seam + 1): "this is the overlap of the background: the seam is class 2",
            1 - (2 * seam + 1) / (2 * n + 1): "all three classes are summed: the seam alone counts",
            float(np.mean(each)): "each picture has its own Dice: the sums go over all pixels of the batch",
        }
        wide = "everything is called seam: the sums go over all pixels of the batch, and 1 is added above and below"
        ask.near(found, 1 - (2 * seam + 1) / (n + seam + 1), _of(slips, found, wide))
        found = ask(np.zeros((b, 3, h, w)), torch.as_tensor(target), run=_value)
        slips = {1 - (2 * seam / 3 + 1) / (n / 9 + seam + 1): "the probabilities are squared below; their sum is asked"}
        third = "all logits are equal, so the class seam has the probability 1/3 at each pixel"
        ask.near(found, 1 - (2 * seam / 3 + 1) / (n / 3 + seam + 1), _of(slips, found, third))
    nothing = torch.zeros(1, 4, 4, dtype=torch.int64)
    found = ask(_sure(nothing.numpy()), nothing, run=_value)
    ask.near(found, 0, "no seam is there and none is predicted: that is no mistake, and no division by zero")
    _needs_gradient(ask)


@probe(own=[segmentation.instances, segmentation.segment, segmentation.classical])
def to_instances(ask: Probe) -> None:
    """Part 4: `answer(probabilities)`, (3, h, w) -> labels (h, w), whole numbers, 0 = background."""

    chances = {"#": (0.1, 0.7, 0.2), "o": (0.3, 0.4, 0.3), "|": (0.1, 0.3, 0.6), ".": (0.8, 0.1, 0.1)}
    chances[":"], chances["="] = (0.45, 0.25, 0.3), (0.45, 0.3, 0.25)

    def picture(rows):
        """Probabilities, from a drawing: . background, : and = less sure, # nucleus, o less sure, | seam; and it."""
        signs = np.array([list(row) for row in rows])
        return np.moveaxis(np.array([[chances[sign] for sign in row] for row in rows]), -1, 0), signs

    p, signs = picture(["........", ".##|##..", ".##|##..", ".##|##..", "........"])
    found = ask(p)
    ask.need(found.shape == signs.shape, f"expected one label for each pixel, {signs.shape}, got {found.shape}")
    ask.need(np.array_equal(found, found.round()), "labels are whole numbers")
    ask.need((found[signs == "."] == 0).all(), "where background is more likely than 1/2, the label is 0")
    left, right = found[2, 1], found[2, 4]
    ask.need(left and right and left != right, "two nuclei with a seam between them have one label: part them first")
    ask.need((found[1:4, 1:3] == left).all(), "one nucleus has several labels")
    ask.need(
        (found[signs == "|"] > 0).all(),
        "the seam is left without a label: what is no background belongs to one of the nuclei beside it",
    )
    p, signs = picture([".......", ".###...", ".......", "....||.", "......."])
    found = ask(p)
    ask.need((found[signs == "#"] > 0).all(), "a nucleus without a seam is lost")
    ask.need(
        (found[signs == "|"] == 0).all(),
        "a piece of seam that touches no nucleus has a label: there is nothing to grow",
    )
    p, signs = picture(["#" * 9, "#" * 9])
    found = ask(p)
    ask.need((found == found[0, 0]).all() and found[0, 0], "one nucleus that fills the picture has one label")
    p, signs = picture(["....", "...."])
    ask.need((ask(p) == 0).all(), "an empty picture has no label")
    p, signs = picture([".....", ".oo..", ".oo..", "....."])
    ask.need(
        (ask(p)[signs == "o"] > 0).all(),
        "a nucleus of probability 0.4, where the others have 0.3, is lost: a seed is where nucleus is the most likely "
        "class, and need not exceed 1/2",
    )
    p, signs = picture([".....", ".##::", ".##::", "....."])
    ask.need(
        (ask(p)[signs == ":"] > 0).all(),
        "background has 0.45 beside a nucleus, the most of the three, and no label: foreground is where background is "
        "less likely than 1/2",
    )
    p, signs = picture(["........", ".##==##.", ".##==##.", "........"])
    found = ask(p)
    ask.need((found[signs == "="] > 0).all(), "a bridge where background has 0.45 has no label: it is foreground")
    ask.need(
        found[1, 1] != found[1, 6],
        "a bridge of background 0.45, nucleus 0.3, seam 0.25 melts two nuclei: a seed is where nucleus is the "
        "most likely of all three",
    )
    p, signs = picture(["##....", "##....", "..##..", "..##.."])
    found = ask(p)
    ask.need(found[0, 0] != found[3, 3], "two nuclei that touch at a corner alone are one: connect rows and columns")
    p, signs = picture(["##....", "##....", "..||..", "..||.."])
    ask.need(
        (ask(p)[signs == "|"] == 0).all(),
        "a piece of seam that touches a nucleus at a corner alone has a label: pieces, too, are connected along rows "
        "and columns",
    )
    for width in (8, 60):
        p, signs = picture([f"##{'|' * width}##"] * 4)
        for lean in (0.0, 0.2 / width):
            rise = lean * np.arange(width, 0, -1)
            p[1, :, 2:-2], p[2, :, 2:-2] = 0.3 - rise, 0.6 + rise
            found = ask(p)
            ask.need((found > 0).all(), f"of a seam {width} pixels wide a part is left without a label")
            ask.need(
                (found[:, : width // 2 + 2] == found[0, 0]).all()
                and (found[:, width // 2 + 2 :] == found[0, -1]).all(),
                "a wide seam: each of its pixels belongs to the nucleus that is nearer"
                + (", however its probabilities rise to one side" if lean else ""),
            )


@probe()
def trained(ask: Probe) -> None:
    """Part 5: `answer()` -> {(kind, seed): labels (h, w)} with the kinds "two" and "three" and the seeds 0 and 1."""
    found = ask.raw()
    ask.need(isinstance(found, dict), f"expected a dictionary, got {type(found).__name__}")
    if not found:
        raise NotWritten("nothing in found: experiment() returns nets, found")
    expected = {(kind, seed) for kind in ("two", "three") for seed in (0, 1)}
    ask.need(set(found) == expected, f"expected the keys {sorted(expected)}, got {sorted(map(str, found))[:6]}")
    pairs = [key for key, one in found.items() if isinstance(one, tuple)]
    ask.need(not pairs, f"{pairs[:1]} is a pair: ndimage.label returns the labels and how many, keep the labels")
    shapes = {np.shape(one) for one in found.values()}
    ask.need(len(shapes) == 1 and len(next(iter(shapes))) == 2, f"expected maps (h, w) of one size, got {shapes}")
    for kind in ("two", "three"):
        ask.need(
            not np.array_equal(found[kind, 0], found[kind, 1]),
            "both seeds give the same map to the last pixel: does the seed reach the network's weights?",
        )
