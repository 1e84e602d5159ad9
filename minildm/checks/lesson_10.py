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

    def merge(scale=lambda alpha, r: alpha / r, base=1.0):
        return lambda weight, down, up, alpha: base * weight + scale(alpha, len(down)) * up @ down

    mistakes = {
        "the addition does not count alpha / r, but once": merge(lambda alpha, r: 1.0),
        "alpha is not divided by the rank r, the rows of down": merge(lambda alpha, r: alpha),
        "upside down: alpha / r, not r / alpha": merge(lambda alpha, r: r / alpha),
        "the frozen weight is missing: the addition is added to it": merge(base=0.0),
        "the addition is subtracted: that takes a merged LoRA out again": merge(lambda alpha, r: -alpha / r),
        "the addition is missing: that is the frozen weight": merge(lambda alpha, r: 0.0),
    }
    errors = {"cannot be multiplied": "a weight is (o, i): up, (o, r), comes first, then down, (r, i)"}
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
        "sums, where means are wanted": loss(lambda e, p: e[~p].sum(), lambda e, p: e[p].sum()),
        "divided by all weights: the error on the new thing counts once": loss(over=lambda weight: 1 + weight),
        "the prior is missing": lambda error, prior, weight: error[~prior].mean(),
        "the new thing is missing": lambda error, prior, weight: weight * error[prior].mean(),
    }
    return Exercise(loss(), cases, mistakes)
