"""Checks of lesson 10: a merged LoRA, and prior preservation."""

import torch

from ._check import Exercise, exercise


@exercise
def merged() -> Exercise:
    """`answer(weight, down, up, alpha)`, (o, i), (r, i), (o, r) and a number -> the weight that does both, (o, i)."""
    dice = torch.Generator().manual_seed(11)
    cases = []
    for o, i, r, alpha in ((4, 3, 2, 1.0), (3, 5, 1, 4.0), (7, 6, 3, 6.0), (5, 5, 2, 3.0)):
        shapes = [(o, i), (r, i), (o, r)]
        cases.append((*(torch.randn(shape, generator=dice, dtype=torch.float64) for shape in shapes), alpha))

    def merge(scale=lambda alpha, r: alpha / r, base=1.0, rank=lambda down, up: len(down)):
        return lambda weight, down, up, alpha: base * weight + scale(alpha, rank(down, up)) * up @ down

    mistakes = {
        "the addition does not count alpha / r, but once": merge(lambda alpha, r: 1.0),
        "alpha is not divided by the rank r, the rows of down": merge(lambda alpha, r: alpha),
        "alpha is missing: the addition counts alpha / r": merge(lambda alpha, r: 1 / r),
        "divided by the wrong axis: the rank r is the rows of down, the columns of up": [
            merge(rank=lambda down, up: down.shape[1]),
            merge(rank=lambda down, up: len(up)),
        ],
        "the frozen weight counts once, whatever alpha is": (
            lambda weight, down, up, alpha: alpha / len(down) * (weight + up @ down)
        ),
        "upside down: alpha / r, not r / alpha": merge(lambda alpha, r: r / alpha),
        "the frozen weight is missing: the addition is added to it": merge(base=0.0),
        "the addition is subtracted: that takes a merged LoRA out again": merge(lambda alpha, r: -alpha / r),
        "the addition is missing: that is the frozen weight": merge(lambda alpha, r: 0.0),
    }
    shapes = "a weight is (o, i): up, (o, r), comes first, then down, (r, i)"
    errors = {"cannot be multiplied": shapes, "must match the size": shapes}
    errors |= {"name 'r' is not defined": "the rank r is not handed in: it is the rows of down, len(down)"}
    return Exercise(merge(), cases, mistakes, errors=errors)


@exercise
def prior_loss() -> Exercise:
    """`answer(error, prior, weight)`, (b,) numbers, (b,) bool and a number -> the loss of DreamBooth, a number.

    error: of each sample.  prior: which are of the prior, the others are of the new thing.
    """
    dice = torch.Generator().manual_seed(12)
    cases = []
    for b, priors, weight in ((4, 2, 1.0), (5, 2, 0.5), (7, 3, 2.0), (6, 1, 1.0)):
        prior = torch.randperm(b, generator=dice) < priors
        cases.append((torch.rand(b, generator=dice, dtype=torch.float64) + 0.1, prior, weight))

    def loss(new=lambda e, p: e[~p].mean(), old=lambda e, p: e[p].mean(), over=lambda weight: 1.0):
        return lambda error, prior, weight: (new(error, prior) + weight * old(error, prior)) / over(weight)

    mistakes = {
        "the two kinds are exchanged: the weight belongs to the prior": (
            lambda error, prior, weight: error[prior].mean() + weight * error[~prior].mean()
        ),
        "the weight does nothing": lambda error, prior, weight: error[~prior].mean() + error[prior].mean(),
        "one mean over all: a kind with more samples counts more": lambda error, prior, weight: error.mean(),
        "a weighted mean over all samples: each kind has a mean of its own": (
            lambda error, prior, weight: torch.where(prior, weight * error, error).mean()
        ),
        "sums, where means are wanted": [
            loss(lambda e, p: e[~p].sum(), lambda e, p: e[p].sum()),
            loss(old=lambda e, p: e[p].sum()),
            loss(new=lambda e, p: e[~p].sum()),
        ],
        "the first mean is over all samples: it belongs to the new thing alone": loss(new=lambda e, p: e.mean()),
        "the formula adds the two errors: nothing is divided by two": loss(over=lambda weight: 2.0),
        "the error on the new thing counts once, not 1 - weight": (
            lambda error, prior, weight: (1 - weight) * error[~prior].mean() + weight * error[prior].mean()
        ),
        "divided by all weights: the error on the new thing counts once": loss(over=lambda weight: 1 + weight),
        "the prior is missing": lambda error, prior, weight: error[~prior].mean(),
        "the new thing is missing": lambda error, prior, weight: weight * error[prior].mean(),
    }
    errors = {"must match the size": "each kind has a mean of its own, a single number: add these, not the samples"}
    return Exercise(loss(), cases, mistakes, errors=errors)
