"""Checks of lesson 06."""

import torch
from torch import Tensor

from ._check import Exercise, exercise


@exercise
def compression() -> Exercise:
    """Exercise 1: `answer(in_channels, halvings, latent_channels)`, how many times fewer numbers the latent has."""
    cases = [(3, 3, 4), (3, 3, 16), (3, 2, 4), (1, 4, 8), (4, 1, 6), (3, 0, 3)]
    mistakes = {
        "the wrong way up: divide the picture's numbers by the latent's": lambda c, n, d: d / (c * 4**n),
        "a halving leaves a quarter of the places: both sides are halved": lambda c, n, d: c * 2**n / d,
        "halvings are not squared: each of them leaves a quarter of the places": lambda c, n, d: c * n**2 / d,
        "two halvings divide a side by 4, not by 2 · 2 times 2": lambda c, n, d: c * (2 * n) ** 2 / d,
        "n halvings leave a share of 1 / 4 ** n: a power, no product": [
            lambda c, n, d: c * 2 * n / d,
            lambda c, n, d: c * 4 * n / d,
        ],
        "64 is right for three halvings only": lambda c, n, d: c * 64 / d,
        "both sides are halved; and the channels are forgotten": lambda c, n, d: 2**n,
        "the channels are forgotten": lambda c, n, d: 4**n,
        "the channels are the wrong way up": lambda c, n, d: d * 4**n / c,
        "the latent's channels count too": lambda c, n, d: c * 4**n,
        "the picture's channels count too": lambda c, n, d: 4**n / d,
        "rounded: 1.5 times fewer is not 1": [lambda c, n, d: c * 4**n // d, lambda c, n, d: round(c * 4**n / d)],
    }
    return Exercise(lambda c, n, d: c * 4**n / d, cases, mistakes)


@exercise
def kl_between() -> Exercise:
    """Exercise 2: `answer(mean_q, std_q, mean_p, std_p)`, all (b, d), the divergence of q from p in nats, (b,)."""
    generator = torch.Generator().manual_seed(0)

    def case(b, d):
        means = [torch.randn(b, d, generator=generator, dtype=torch.float64) for _ in range(2)]
        stds = [torch.rand(b, d, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2)]
        return means[0], stds[0], means[1], stds[1]

    def truth(mean_q: Tensor, std_q: Tensor, mean_p: Tensor, std_p: Tensor) -> Tensor:
        return nats(mean_q, std_q, mean_p, std_p).sum(1)

    def nats(mean_q, std_q, mean_p, std_p):
        ratio = (std_q / std_p) ** 2
        return (ratio + ((mean_q - mean_p) / std_p) ** 2 - 1 - ratio.log()) / 2

    mistakes = {
        "p and q are swapped: the average is taken over samples of q": lambda mq, sq, mp, sp: truth(mp, sp, mq, sq),
        "that is the divergence from N(0, 1): p is not used": lambda mq, sq, mp, sp: truth(mq, sq, 0 * mp, sp / sp),
        "the half is missing": lambda *case: 2 * truth(*case),
        "a mean over the numbers: nats add up": lambda *case: nats(*case).mean(1),
        "a sum over the batch: each sample has its own": lambda *case: nats(*case).sum(0),
        "a single number: each sample has its own": [
            lambda *case: nats(*case).sum(),
            lambda *case: nats(*case).mean(),
            lambda *case: nats(*case).sum(1).mean(),
        ],
        "not summed yet: the nats of a sample's d numbers add up": nats,
        "the logarithm is of a ratio: std_p is missing in it": lambda mq, sq, mp, sp: (
            truth(mq, sq, mp, sp) - sp.log().sum(1)
        ),
        "what stands below is the variance of p, std_p ** 2": lambda mq, sq, mp, sp: (
            (sp / sq).log() + (sq**2 + (mq - mp) ** 2) / (2 * sp) - 0.5
        ).sum(1),
        "measured in deviations of q: take those of p": lambda mq, sq, mp, sp: (
            (sp / sq).log() + (sq**2 + (mq - mp) ** 2) / (2 * sq**2) - 0.5
        ).sum(1),
        "the distance of the means is not squared": lambda mq, sq, mp, sp: (
            (sp / sq).log() + (sq**2 + mq - mp) / (2 * sp**2) - 0.5
        ).sum(1),
        "a difference of two divergences from N(0, 1) is another number: compare q with p itself": (
            lambda mq, sq, mp, sp: truth(mq, sq, 0 * mp, sp / sp) - truth(mp, sp, 0 * mp, sp / sp)
        ),
        "the distance of the means is not measured in deviations of p": lambda mq, sq, mp, sp: (
            truth(mq, sq, mp, sp) + (((mq - mp) ** 2) * (1 - 1 / sp**2)).sum(1) / 2
        ),
        "the distance of the means is measured in deviations of q: take those of p": lambda mq, sq, mp, sp: (
            truth(mq, sq, mp, sp) + (((mq - mp) ** 2) * (1 / sq**2 - 1 / sp**2)).sum(1) / 2
        ),
        "the logarithm is of the ratio of variances, not of deviations": lambda mq, sq, mp, sp: (
            truth(mq, sq, mp, sp) + (sq / sp).log().sum(1) / 2
        ),
        "std has to be squared: the variances are compared": [
            lambda mq, sq, mp, sp: (sq / sp + ((mq - mp) / sp) ** 2 - 1 - (sq / sp).log()).sum(1) / 2,
            lambda mq, sq, mp, sp: (sq / sp + ((mq - mp) / sp) ** 2 - 1 - 2 * (sq / sp).log()).sum(1) / 2,
            lambda mq, sq, mp, sp: (sq / sp + (mq - mp) ** 2 / sp - 1 - (sq / sp).log()).sum(1) / 2,
        ],
        "the half is missing at the squares and at the 1": lambda mq, sq, mp, sp: (
            2 * truth(mq, sq, mp, sp) + (sq / sp).log().sum(1)
        ),
        "the 1 counts a half, too: equal distributions must give 0": lambda *case: truth(*case) - case[0].shape[1] / 2,
        "the logarithm has the wrong sign": lambda mq, sq, mp, sp: truth(mq, sq, mp, sp) + 2 * (sq / sp).log().sum(1),
        "the 1 is missing: equal distributions must give 0": lambda *case: truth(*case) + case[0].shape[1] / 2,
    }
    return Exercise(truth, [case(1, 2), case(3, 4), case(5, 7)], mistakes)


@exercise
def scale_factor() -> Exercise:
    """Exercise 3: `answer(mean, std)`, (n, c, h, w) each, 1 / the spread of samples of all numbers together."""
    generator = torch.Generator().manual_seed(0)

    def case(*shape):
        offset = torch.randn(1, shape[1], 1, 1, generator=generator, dtype=torch.float64)
        mean = 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + offset + 1
        return mean, torch.rand(shape, generator=generator, dtype=torch.float64) + 0.3

    def spread(mean, std):
        return (mean.var(correction=0) + std.square().mean()).sqrt()

    # Whether a variance is divided by n or by n - 1 is no matter for so many numbers, in wrong answers neither.
    def of(wrong):  # wrong(variance of the means, mean, std)
        return [lambda m, s, less=less: wrong(m.var(correction=less), m, s) for less in (0, 1)]

    mistakes = {
        "that is the spread itself: take 1 / it": of(lambda v, m, s: (v + s.square().mean()).sqrt()),
        "std has to be squared; and take 1 / the spread": of(lambda v, m, s: (v + s.mean()).sqrt()),
        "variances add up, deviations do not; and take 1 / the spread": of(lambda v, m, s: v.sqrt() + s.mean()),
        "the spread of samples, not of means alone; and take 1 / it": of(lambda v, m, s: v.sqrt()),
        "square std before you average it; and take 1 / the spread": of(lambda v, m, s: (v + s.mean() ** 2).sqrt()),
        "the noise is missing: a sample also spreads by std around its mean": of(lambda v, m, s: v**-0.5),
        "std is a deviation already: average its square, and take no spread of it": of(
            lambda v, m, s: (v + s.var()) ** -0.5
        ),
        "the means are missing: which picture it is spreads a sample, too": [
            lambda m, s: s.square().mean() ** -0.5,
            lambda m, s: 1 / s.mean(),
            lambda m, s: 1 / s.std(),
        ],
        "deviations do not add up, variances do": of(lambda v, m, s: 1 / (v.sqrt() + s.mean())),
        "square std before you average it": of(lambda v, m, s: (v + s.mean() ** 2) ** -0.5),
        "std has to be squared": of(lambda v, m, s: (v + s.mean()) ** -0.5),
        "std has to be squared, and a root is missing": of(lambda v, m, s: 1 / (v + s.mean())),
        "a root is missing": of(lambda v, m, s: 1 / (v + s.square().mean())),
        "the squares of std are averaged, not added up": of(lambda v, m, s: (v + s.square().sum()) ** -0.5),
        "the spread is around the mean: subtract it before squaring": lambda m, s: (
            (m.square() + s.square()).mean() ** -0.5
        ),
        "one factor for all channels, not one for each": [
            lambda m, s, less=less: (m.var((0, 2, 3), correction=less) + s.square().mean((0, 2, 3))) ** -0.5
            for less in (0, 1)
        ],
        "one factor for all numbers together, not one for each": [
            *of(lambda v, m, s: (v + s.square()) ** -0.5),
            lambda m, s: (m.var(0, correction=0) + s.square().mean(0)) ** -0.5,
            lambda m, s: (m.var(0) + s.square().mean(0)) ** -0.5,
        ],
        "the spread over all numbers together is not the average of each picture's": lambda m, s: (
            1 / (m.var((1, 2, 3), correction=0) + s.square().mean((1, 2, 3))).sqrt().mean()
        ),
    }
    cases = [case(3, 4, 16, 18), case(5, 4, 14, 16), case(6, 8, 12, 10)]
    return Exercise(lambda m, s: 1 / spread(m, s), cases, mistakes, tolerance=2e-4)
