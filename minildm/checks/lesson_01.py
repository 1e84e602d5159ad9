"""Checks of lesson 01: segmentation."""

import numpy as np

from minildm import metrics

from ._check import Exercise, exercise


@exercise
def dice() -> Exercise:
    """Exercise 2: `answer(true, pred)`, two boolean arrays (h, w) -> Dice."""
    rng = np.random.default_rng(1)
    cases = [tuple(rng.random((2, h, w)) < p) for h, w, p in [(2, 3, 0.5), (4, 5, 0.4), (7, 6, 0.7), (9, 16, 0.2)]]
    cases += [(np.ones((3, 8), bool), np.ones((3, 8), bool)), (np.zeros((5, 2), bool), np.ones((5, 2), bool))]

    def ratio(top, bottom):
        return lambda a, b: float(top(a, b) / max(bottom(a, b), 1))

    def without_brackets(a, b):
        with np.errstate(all="ignore"):  # the first mask may be empty
            return 2 * (a & b).sum() / a.sum() + b.sum()

    mistakes = {
        "this is intersection over union; Dice counts the overlap twice": ratio(
            lambda a, b: (a & b).sum(), lambda a, b: (a | b).sum()
        ),
        "it can never exceed 1: does the denominator count each mask on its own, or their union?": ratio(
            lambda a, b: 2 * (a & b).sum(), lambda a, b: (a | b).sum()
        ),
        "half of what it should be: two equal masks must give 1": ratio(
            lambda a, b: (a & b).sum(), lambda a, b: a.sum() + b.sum()
        ),
        "this counts background that agrees, too; Dice looks at the foreground alone": [
            lambda a, b: float((a == b).mean()),
            ratio(lambda a, b: 2 * (a == b).sum(), lambda a, b: a.sum() + b.sum()),
        ],
        "these are all pixels; the area of a mask is the number of its true ones, its sum": [
            ratio(lambda a, b: 2 * (a & b).sum(), lambda a, b: a.size + b.size),
            ratio(lambda a, b: 2 * len(a & b), lambda a, b: len(a) + len(b)),
        ],
        "brackets are missing: both areas together stand below the fraction bar": without_brackets,
    }
    return Exercise(metrics.dice, cases, mistakes, own=[metrics.dice])


@exercise
def border_weight() -> Exercise:
    """Exercise 3: `answer(d_1, d_2, w_0, sigma)`, distances (h, w) -> weights (h, w)."""
    rng = np.random.default_rng(2)
    cases = []
    for h, w, w_0, sigma, far in [
        (1, 2, 10.0, 5.0, 12),
        (3, 4, 2.0, 3.0, 12),
        (6, 5, 7.0, 8.0, 12),
        (2, 7, 3.0, 2.0, 0.5),
    ]:
        d = np.sort(rng.uniform(0, far, (2, h, w)), axis=0)
        cases.append((d[0], d[1], w_0, sigma))

    def formula(square=lambda a, b: (a + b) ** 2, sign=-1, two=2, power=2, one=1, high=lambda sigma: 1):
        return lambda a, b, w_0, sigma: one + w_0 * high(sigma) * np.exp(sign * square(a, b) / (two * sigma**power))

    mistakes = {
        "Python reads x / 2 * sigma**2 as (x / 2) * sigma**2: brackets are missing below the fraction bar": (
            lambda a, b, w_0, sigma: 1 + w_0 * np.exp(-((a + b) ** 2) / 2 * sigma**2)
        ),
        "the sum of the distances is squared, not each distance": formula(square=lambda a, b: a**2 + b**2),
        "the sum of the distances is not squared yet": formula(square=lambda a, b: a + b),
        "the weight grows with the distance: look at the sign of the exponent": formula(sign=1),
        "a factor is missing below the fraction bar": formula(two=1),
        "sigma is squared below the fraction bar": formula(power=1),
        "far from any border a pixel must still count once": formula(one=0),
        "that is the density of a normal distribution, divided by sigma√(2π); this bell is 1 at its highest": [
            formula(high=lambda sigma: 1 / (sigma * np.sqrt(2 * np.pi))),
            formula(high=lambda sigma: 1 / np.sqrt(2 * np.pi * sigma)),
            formula(high=lambda sigma: 1 / np.sqrt(2 * np.pi)),
        ],
        "w_0 is the height of the bell alone, so that the weight at 0 is 1 + w_0": (
            lambda a, b, w_0, sigma: 1 + (w_0 - 1) * np.exp(-((a + b) ** 2) / (2 * sigma**2))
        ),
        "the bell is added to 1; the larger of both is not asked for": (
            lambda a, b, w_0, sigma: np.maximum(1, w_0 * np.exp(-((a + b) ** 2) / (2 * sigma**2)))
        ),
        "w_0 is the height of the bell; the 1 is not multiplied by it": (
            lambda a, b, w_0, sigma: w_0 * (1 + np.exp(-((a + b) ** 2) / (2 * sigma**2)))
        ),
        "only sigma is squared below the fraction bar, not 2 * sigma": formula(two=4),
        "one of the two distances is missing from the sum": [
            formula(square=lambda a, b: a**2),
            formula(square=lambda a, b: b**2),
        ],
        "the bell is over the sum of both distances, not over their difference": formula(
            square=lambda a, b: (a - b) ** 2
        ),
    }
    return Exercise(formula(), cases, mistakes)


@exercise
def valid_size() -> Exercise:
    """Exercise 1: `answer(size, levels)`, the side of the output of a U without padding."""

    def side(size, levels, down=4, bottom=4, up=4):  # what is lost in each block
        for _ in range(levels - 1):
            size = (size - down) // 2
        size -= bottom
        for _ in range(levels - 1):
            size = 2 * size - up
        return size

    def way_down(size, levels, bottom=4):
        for _ in range(levels - 1):
            size = (size - 4) // 2
        return size - bottom

    def pooled_first(size, levels):
        for _ in range(levels - 1):
            size = size // 2 - 4
        for _ in range(levels - 1):
            size = 2 * size - 4
        return size

    def doubled_last(size, levels):
        size = way_down(size, levels)
        for _ in range(levels - 1):
            size = 2 * (size - 4)
        return size

    def a_level_more_down(size, levels):
        size = way_down(size, levels + 1, bottom=0)
        for _ in range(levels - 1):
            size = 2 * size - 4
        return size

    cases = [(side, levels) for side, levels in [(572, 5), (188, 3), (92, 2), (60, 1), (252, 4), (124, 3)]]
    mistakes = {
        "that is the output of the padded network; without padding each 3×3 convolution loses a border": lambda s, _: s,
        "a 3×3 convolution loses one pixel on each side, and a block has two of them": [
            lambda s, n: side(s, n, 2, 2, 2),
            lambda s, n: side(s, n, 1, 1, 1),
        ],
        "the block at the bottom of the U loses pixels too": lambda s, n: side(s, n, bottom=0),
        "the blocks of the way down lose pixels, too": lambda s, n: side(s, n, down=0),
        "the blocks of the way up lose pixels, too": lambda s, n: side(s, n, up=0),
        "that is the map at the bottom; on the way up it is doubled again, and each block loses pixels": [
            way_down,
            lambda s, n: way_down(s, n, bottom=0),
        ],
        "pooled once too often: between 5 levels there are 4 poolings": [
            lambda s, n: side(s, n + 1),
            lambda s, n: side(s, n + 1, bottom=0),
            a_level_more_down,
        ],
        "the first block comes before the first pooling, and loses pixels": pooled_first,
        "on the way up the map is doubled first, then the block loses pixels": doubled_last,
        "a pixel that is lost below is worth several above: follow the size from block to block": (
            lambda s, n: s - 4 * (2 * n - 1)
        ),
        "388 is right for 572 and 5 levels; write it for any size": lambda s, n: 388,
    }
    return Exercise(side, cases, mistakes, tolerance=0)
