"""Checks of what learners write of a VAE: a sample of its cloud, and the cloud's divergence."""

import math

import torch

from minildm.autoencoder import Gaussian

from ._check import Exercise, exercise

_SIGNED = (
    "the sample is free of NaN (log_variance may be negative: it is already a logarithm, take no root or log of it)"
)


@exercise
def reparameterise() -> Exercise:
    """`answer(mean, log_variance, eps)`: the sample of a cloud that noise eps stands for; all (b, c, h, w)."""
    draw = torch.Generator().manual_seed(61)
    shapes = ((1, 2, 3, 4), (2, 3, 4, 5), (3, 2, 5, 4))
    cases = [tuple(torch.randn(3, *shape, generator=draw, dtype=torch.float64)) for shape in shapes]

    def run(answer, mean, log_variance, eps):
        mean, log_variance = (one.clone().requires_grad_() for one in (mean, log_variance))
        sample = answer(mean, log_variance, eps)
        back = torch.is_tensor(sample) and sample.requires_grad
        grads = torch.autograd.grad(sample.sum(), [mean, log_variance], allow_unused=True) if back else [None, None]
        reached = {
            f"a gradient reaches {name}": grad is not None
            for name, grad in zip(("mean", "log_variance"), grads, strict=True)
        }
        with torch.no_grad():
            repeated = answer(mean, log_variance, eps)
        same = not torch.is_tensor(sample) or torch.equal(sample.nan_to_num(), repeated.nan_to_num())
        if torch.is_tensor(sample) and sample.isnan().any():
            return {_SIGNED: False}
        return {
            _SIGNED: True,
            "the same eps gives the same sample (draw no noise of your own)": same,
            "the sample": sample,
            **reached,
        }

    def cloud(std=lambda v: (v / 2).exp(), centre=lambda m: m, sign=1):
        return lambda mean, log_variance, eps: centre(mean) + sign * std(log_variance) * eps

    mistakes = {
        "that multiplies by the variance; the deviation is its root, exp(log_variance / 2)": cloud(lambda v: v.exp()),
        "log_variance is a logarithm: take its exponential": [cloud(lambda v: v), cloud(lambda v: v / 2)],
        "a root too many: exp(log_variance / 2) is the deviation already": cloud(lambda v: (v / 4).exp()),
        "the sign in the exponent: a large logarithm is a wide cloud": [
            cloud(lambda v: (-v / 2).exp()),
            cloud(lambda v: (-v).exp()),
        ],
        "log_variance is the natural logarithm: exp, not a power of 10": cloud(lambda v: 10 ** (v / 2)),
        "the half belongs into the exponent: a root halves the logarithm": cloud(lambda v: v.exp() / 2),
        "log_variance is a logarithm: first its exponential, then the root": cloud(lambda v: v.abs().sqrt()),
        "twice too large in the exponent: the deviation is exp(log_variance / 2)": cloud(lambda v: (2 * v).exp()),
        "the mean is missing": cloud(centre=torch.zeros_like),
        "the noise is missing: that is the middle of the cloud": cloud(torch.zeros_like),
        "the noise is not weighted by the deviation": cloud(torch.ones_like),
        "the noise is subtracted": cloud(sign=-1),
        "only the deviation multiplies the noise; the mean is added after that": lambda mean, log_variance, eps: (
            (mean + (log_variance / 2).exp()) * eps
        ),
        "that is the way back, from a sample to its noise": lambda mean, log_variance, eps: (
            (eps - mean) / (log_variance / 2).exp()
        ),
        "no gradient can go through: leave out detach, .data, no_grad and item": [
            lambda *case: cloud()(*case).detach(),
            cloud(lambda v: (v.detach() / 2).exp()),
            cloud(centre=lambda m: m.detach()),
        ],
    }
    return Exercise(cloud(), cases, mistakes, run=run)


@exercise
def kl() -> Exercise:
    """`answer(mean, log_variance)`: the divergence of a cloud (b, c, h, w) from the standard normal, in nats, (b,)."""
    draw = torch.Generator().manual_seed(62)
    shapes = ((1, 2, 3, 4), (2, 3, 4, 5), (3, 2, 5, 4))
    cases = [tuple(torch.randn(2, *shape, generator=draw, dtype=torch.float64)) for shape in shapes]

    def nats(square=torch.square, variance=torch.exp, log=lambda v: v, one=1.0, half=0.5):
        return lambda m, v: half * (square(m) + variance(v) - one - log(v))

    def divergence(join=lambda each: each.flatten(1).sum(1), **slip):
        return lambda mean, log_variance: join(nats(**slip)(mean, log_variance))

    def terms(square=0.5, variance=0.5, one=0.5, log=0.5):  # what each of the four counts
        def each(m, v):
            return square * m.square() + variance * v.exp() - one - log * v

        return lambda mean, log_variance: each(mean, log_variance).flatten(1).sum(1)

    mistakes = {
        "the half is missing": [divergence(half=1.0), divergence(torch.sum, half=1.0)],
        "a mean over the numbers, and the half is missing: nats add up": divergence(
            lambda each: each.flatten(1).mean(1), half=1.0
        ),
        "the half belongs to all four: the squared mean, the variance, the 1 and the logarithm": [
            terms(one=1.0),
            terms(log=1.0),
            terms(one=1.0, log=1.0),
            terms(square=1.0, variance=1.0),
            terms(square=1.0, variance=1.0, one=1.0),
            terms(variance=1.0, one=1.0, log=1.0),
        ],
        "ln σ² is log_variance itself; only the half in front of all halves it": terms(log=0.25),
        "the squared mean has the wrong sign: it costs": terms(square=-0.5),
        "the variance has the wrong sign: a wide cloud costs, too": terms(variance=-0.5),
        "ln 2π stands in both logarithms, so it cancels": [
            divergence(one=1 - math.log(2 * math.pi)),
            divergence(one=1 + math.log(2 * math.pi)),
        ],
        "p and q are exchanged: the mean is taken over q, the cloud": lambda mean, log_variance: divergence()(
            mean * (-log_variance / 2).exp(), -log_variance
        ),
        "mean and deviation are squared separately: the mean of z² is μ² + σ²": lambda mean, log_variance: (
            ((mean + (log_variance / 2).exp()).square() - 1 - log_variance).flatten(1).sum(1) / 2
        ),
        "the sign is turned around: a divergence is never negative": divergence(half=-0.5),
        "a mean over the numbers: nats add up": divergence(lambda each: each.flatten(1).mean(1)),
        "a single number: each picture has its own": [
            divergence(torch.sum),
            divergence(torch.mean),
            divergence(lambda each: each.flatten(1).sum(1).mean()),
        ],
        "summed over the batch: each picture has its own": divergence(lambda each: each.sum(0)),
        "not summed over all yet: the numbers of a picture belong together": [
            divergence(lambda each: each),
            divergence(lambda each: each.sum(1)),
            divergence(lambda each: each.sum((2, 3))),
        ],
        "log_variance may be negative: it is already a logarithm, take no root or log of it": [
            divergence(variance=variance, log=log)
            for variance in (torch.exp, lambda v: v, torch.sqrt, lambda v: (v / 2).exp(), torch.square)
            for log in (torch.log, lambda v: v, lambda v: v.sqrt().log(), lambda v: 2 * v.log(), lambda v: v.log() / 2)
            if variance is torch.sqrt or log(torch.tensor(-1.0)).isnan()
        ],
        "the mean is not squared": [divergence(square=lambda m: m), divergence(square=torch.abs)],
        "log_variance is a logarithm: the variance is its exponential": divergence(variance=lambda v: v),
        "the variance is exp(log_variance); its root is the deviation": divergence(variance=lambda v: (v / 2).exp()),
        "the deviation is squared: exp(log_variance) is the variance already": divergence(
            variance=lambda v: (2 * v).exp()
        ),
        "the 1 is missing: the standard normal itself must give 0": divergence(one=0.0),
        "the 1 has the wrong sign: the standard normal itself must give 0": divergence(one=-1.0),
        "the logarithm's sign: a narrow cloud costs, too": divergence(log=lambda v: -v),
        "the logarithm is missing: it keeps the cloud from becoming a point": divergence(log=torch.zeros_like),
    }
    return Exercise(divergence(), cases, mistakes, own=[Gaussian.kl])
