"""Checks of lesson 12: a pair composed by cut and paste, batches of real and made pairs, what a difference is worth."""

import numpy as np
import torch

from minildm import metrics
from minildm.data import paste
from minildm.optional import require

from ._check import Exercise, exercise


@exercise
def pasted_pair() -> Exercise:
    """`answer(ground, objects, places)` -> image (h, w) and mask (h, w): objects set on a ground, one after the other.

    ground: (h, w), without objects.  objects: (image, inside) of each, two arrays (a, b), inside of bool.
    places: row and column of the upper left pixel of each box, which lies within the ground.
    What comes later lies on top. The k-th object, counted from 1, has the label k.
    """
    draw = np.random.default_rng(12)

    def case(shape, boxes, places):
        objects = []
        for box in boxes:
            inside = draw.random(box) < 0.6
            inside[0, 0], inside[-1, -1], inside[box[0] // 2, box[1] // 2] = False, False, True
            objects.append((draw.random(box) + 1, inside))
        return draw.random(shape) - 1, objects, places

    cases = [
        case((6, 8), [(3, 4)], [(1, 3)]),
        case((7, 9), [(4, 3), (3, 5)], [(1, 2), (2, 3)]),
        case((10, 8), [(3, 4), (5, 3), (4, 4)], [(0, 4), (2, 3), (3, 2)]),
    ]

    def composed(
        ground,
        objects,
        places,
        box=False,
        label=lambda k: k,
        backwards=False,
        mask_first=False,
        exchanged=False,
        added=False,
        only_image=False,
        dark=False,
        summed=False,
        erased=False,
    ):
        image, mask = ground.copy(), np.zeros(ground.shape, int)
        numbered = list(enumerate(zip(objects, places, strict=True), start=1))
        for k, ((picture, inside), place) in reversed(numbered) if backwards else numbered:
            top, left = place[::-1] if exchanged else place
            here = np.s_[top : top + inside.shape[0], left : left + inside.shape[1]]
            where = np.ones_like(inside) if box else inside
            free = mask[here] == 0
            rest = 0 * picture if dark else image[here]
            image[here] = np.where(where, picture + (ground[here] if added else 0), rest)
            if not only_image:
                before = mask[here] * (not erased)
                new = label(k) + (before if summed else 0)
                mask[here] = np.where(where & free if mask_first else where, new, before)
        return image, mask

    def wrong(**how):
        return lambda *case: composed(*case, **how)

    mistakes = {
        "the whole box is set, corners and all: only pixels that are inside": wrong(box=True),
        "all objects have the label 1, so those that touch melt into one: count them": wrong(label=lambda k: 1),
        "labels are counted from 0, which is the background: begin with 1": wrong(label=lambda k: k - 1),
        "the first object lies on top: the later one does": wrong(backwards=True),
        "image and mask disagree where objects overlap: the later one lies on top in both": wrong(mask_first=True),
        "row and column of the places are exchanged": wrong(exchanged=True),
        "the object is added to the ground; it takes its place": wrong(added=True),
        "the mask stays empty: write the label where the object is": wrong(only_image=True),
        "the box is 0 around the object: the ground stays where inside is False": [
            wrong(dark=True),
            wrong(dark=True, summed=True),
            wrong(dark=True, erased=True),
        ],
        "where objects overlap, their labels are added: the later one takes the place of the other": wrong(summed=True),
        "a later box wipes out labels around its object: write the label only where inside is True": wrong(erased=True),
        "the two results are exchanged: first the image, then the mask": lambda *case: composed(*case)[::-1],
    }
    errors = {
        "could not broadcast": "does the slice have the size of the box? Its height is inside.shape[0]",
        "boolean index did not match": "inside belongs to the box, not to the whole ground: cut the box out first",
    }
    return Exercise(composed, cases, mistakes, own=[paste.compose, paste.pasted], errors=errors)


@exercise
def mixed_batch() -> Exercise:
    """`answer(real, made, n, share)` -> one batch of n crops, of which round(share * n) are made, the real ones first.

    real, made: `real(k)` draws k crops, a dict of tensors (k, ...).
    """
    cases = [(8, 0.5), (4, 0.25), (6, 0.0), (5, 0.6), (6, 0.3)]

    def source(start):
        def draw(k):
            if k < 0 or k != int(k):
                raise ValueError(f"asked for {k} crops")
            numbers = start + torch.arange(float(k))
            crops = numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 3)
            return {"image": crops, "depth": -crops[:, 0]}

        return draw

    def run(answer, n, share):
        batch = answer(source(1.0), source(101.0), n, share)
        return {name: batch.get(name) for name in ("image", "depth")} if isinstance(batch, dict) else batch

    def mix(counts=lambda n, share: (n - round(share * n), round(share * n)), made_first=False, shared=False):
        def answer(real, made, n, share):
            a, b = counts(n, share)
            parts = [real(a), made(b)]
            parts = parts[::-1] if made_first else parts
            batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            return batch | {"depth": real(a + b)["depth"]} if shared else batch

        return answer

    mistakes = {
        "made crops come on top of n real ones, so this arm gets larger batches: the budget must be equal": mix(
            lambda n, share: (n, round(share * n))
        ),
        "n of each, so this arm gets batches twice as large: the budget must be equal": mix(lambda n, share: (n, n)),
        "share is the share of made crops; here it is that of real ones": mix(
            lambda n, share: (round(share * n), n - round(share * n))
        ),
        "int cuts off what comes after the point, so 1.8 becomes 1: round(share * n) of them are made": mix(
            lambda n, share: (n - int(share * n), int(share * n))
        ),
        "half of each, whatever share says": mix(lambda n, share: (n - n // 2, n // 2)),
        "the made ones come first: the real ones do": mix(made_first=True),
        "the pictures are mixed, but not their depth: what belongs to a picture must stay with it": mix(shared=True),
        "| keeps one value for each name, so made crops replace the real ones: torch.cat joins both": lambda *case: (
            case[0](case[2] - round(case[3] * case[2])) | case[1](round(case[3] * case[2]))
        ),
        "only the real crops are there": lambda real, made, n, share: real(n - round(share * n)),
    }
    errors = {
        "asked for": "how many are drawn must be a whole number from 0: round(share * n) made ones, and the rest real",
        "expected Tensor": "a batch is a dict: join the tensors of each name by torch.cat",
        "'dict' and 'dict'": "+ does not join two dicts: join the tensors of each name by torch.cat",
        "stack expects": "torch.stack makes a new axis; torch.cat makes the axis of crops longer",
        "must match except in dimension": "join along the first axis, that of the crops: torch.cat does so without dim",
    }
    return Exercise(mix(), cases, mistakes, run=run, errors=errors)


@exercise
def paired_interval() -> Exercise:
    """`answer(one, other)`, two rows of n figures that belong together -> mean, low and high of other - one.

    low and high: of the 95 % confidence interval by Student's t, with n - 1 degrees of freedom.
    """
    draw, stats = np.random.default_rng(13), require("scipy.stats")
    cases = []
    for n in (5, 3, 8):
        piece = draw.normal(0.7, 0.2, n)
        cases.append((piece, piece + draw.normal(0.05, 0.04, n)))

    def interval(one, other, ddof=1, root=True, quantile=lambda n: stats.t.ppf(0.975, n - 1), spread=None):
        difference, n = other - one, len(one)
        deviation = difference.std(ddof=ddof) if spread is None else spread(one, other)
        half = quantile(n) * deviation / (n**0.5 if root else 1)
        return np.array([difference.mean(), difference.mean() - half, difference.mean() + half])

    def wrong(**how):
        return lambda one, other: interval(one, other, **how)

    def apart(one, other):
        return (one.var(ddof=1) + other.var(ddof=1)) ** 0.5

    mistakes = {
        "not divided by the root of n: that is the spread of one difference, not of their mean": wrong(root=False),
        "the spread of both rows is used: only that of the differences counts, that is what pairing buys": [
            wrong(spread=apart),
            wrong(spread=apart, ddof=0),
            wrong(spread=lambda one, other: other.std(ddof=1)),
        ],
        "1.96 is for many pairs; with few, Student's t is wider: stats.t.ppf(0.975, n - 1)": [
            wrong(quantile=lambda n: stats.norm.ppf(0.975)),
            wrong(quantile=lambda n: 1.96),
            wrong(quantile=lambda n: 2.0),
        ],
        "the standard deviation is taken with n; with n - 1 (ddof=1) it is not too small": wrong(ddof=0),
        "the variance is used for s; s is its root, the standard deviation": wrong(
            spread=lambda one, other: (other - one).var(ddof=1)
        ),
        "divided by n; the mean of n differences scatters by s divided by the root of n": wrong(
            quantile=lambda n: stats.t.ppf(0.975, n - 1) / n**0.5
        ),
        "divided by the root of n - 1; n - 1 belongs to s and to t, the root is that of n": wrong(
            quantile=lambda n: stats.t.ppf(0.975, n - 1) * (n / (n - 1)) ** 0.5
        ),
        "2.78 is for five pairs only: ask stats.t.ppf(0.975, n - 1)": [
            wrong(quantile=lambda n: 2.78),
            wrong(quantile=lambda n: stats.t.ppf(0.975, 4)),
        ],
        "low and high are exchanged: first the lower one; stats.t.ppf(0.025, n - 1) is negative": wrong(
            quantile=lambda n: stats.t.ppf(0.025, n - 1)
        ),
        "the mean stands between low and high: return it first": lambda one, other: interval(one, other)[[1, 0, 2]],
        "0.95 on one side: 2.5 % lie beyond each end, so ask for 0.975": wrong(
            quantile=lambda n: stats.t.ppf(0.95, n - 1)
        ),
        "n degrees of freedom: one goes for the mean, n - 1 are left": wrong(quantile=lambda n: stats.t.ppf(0.975, n)),
        "one - other: the gain is other - one": lambda one, other: interval(other, one),
        "half the width is returned: low and high are asked for": [
            lambda one, other: np.array([(found := interval(one, other))[0], found[0] - found[1], found[2] - found[0]]),
            lambda one, other: interval(one, other) - [0, (other - one).mean(), (other - one).mean()],
        ],
    }
    return Exercise(interval, cases, mistakes, tolerance=1e-5, own=[metrics.paired_interval])
