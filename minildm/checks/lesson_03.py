"""Checks of lesson 03: predicting noise."""

import numpy as np
import torch
from torch import Tensor

from ._check import Exercise, exercise


def _tensors(*arguments) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.array(argument)) for argument in arguments)


@exercise
def shift_weights() -> Exercise:
    """Exercise 1: `answer(channels, level)` -> how many weights `TimeBlock.shift` has at that level."""

    def count(channels, level, times=4, bias=1):
        return (times * channels[0] + bias) * channels[level]

    widths = [(16, 32, 64, 128), (32, 64, 128, 128), (320, 640, 1280, 1280), (8, 24), (48,)]
    cases = [(channels, level) for channels in widths for level in range(len(channels))]
    mistakes = {
        "each of its outputs has a bias as well": lambda c, k: count(c, k, bias=0),
        "there is a bias for each of its outputs, not one for all": lambda c, k: count(c, k, bias=0) + 1,
        "the digested time has four times channels[0] numbers, at every level": lambda c, k: count(c, k, times=1),
        "the time is digested once for all levels, so its size follows channels[0], not channels[level]": (
            lambda c, k: (4 * c[k] + 1) * c[k]
        ),
        "one bias for each output, not one for each input": lambda c, k: 4 * c[0] * (c[k] + 1),
        "the shift is added after the first convolution, which has channels[level] outputs already": [
            lambda c, k: (4 * c[0] + 1) * c[max(k - 1, 0)],
            lambda c, k: (4 * c[0] + 1) * c[k - 1],
            lambda c, k: (4 * c[0] + 1) * c[0],
        ],
        "64 is what the lesson's own network is told, 4 times 16; here channels[0] may be another number": (
            lambda c, k: (64 + 1) * c[k]
        ),
        "those are its outputs; each of them has a weight for each input, and a bias": lambda c, k: c[k],
        "shift is a linear layer, not a 3×3 convolution": lambda c, k: (9 * 4 * c[0] + 1) * c[k],
    }
    return Exercise(count, cases, mistakes, tolerance=0)


@exercise
def eps_from_v() -> Exercise:
    """Exercise 2: `answer(x_t, v, kept)`, tensors (b, c, h, w) and alphas_cumprod (b, 1, 1, 1) -> eps (b, c, h, w)."""
    rng = np.random.default_rng(3)
    shapes = [(1, 1, 2, 1), (2, 1, 4, 3), (3, 2, 5, 4)]
    cases = [_tensors(*rng.normal(size=(2, *shape)), rng.uniform(0.05, 0.95, (shape[0], 1, 1, 1))) for shape in shapes]

    def turned(x=1.0, v=1.0, swapped=False, root=torch.sqrt):
        def formula(x_t, velocity, kept):
            a, s = root(kept), root(1 - kept)
            return x * a * x_t + v * s * velocity if swapped else x * s * x_t + v * a * velocity

        return formula

    mistakes = {
        "that is the clean picture, a x_t - s v; the noise is the other one": turned(v=-1, swapped=True),
        "a and s have changed places": turned(swapped=True),
        "look at the sign of v: without signal, at the end, x_t is the noise; at the start v is": turned(v=-1),
        "look at the sign of x_t: without signal, at the end, it is the noise itself": turned(x=-1),
        "signal and noise are the square roots of kept and of 1 - kept": turned(root=lambda level: level),
        "that turns x_0_to_eps: v is not the clean picture": (
            lambda x_t, v, kept: (x_t - kept.sqrt() * v) / (1 - kept).sqrt()
        ),
        "x_t stands in the place of x_0, which is not known: eliminate it with the other equation": (
            lambda x_t, v, kept: (v + (1 - kept).sqrt() * x_t) / kept.sqrt()
        ),
        "one of the two roots is missing": [
            lambda x_t, v, kept: (1 - kept).sqrt() * x_t + kept * v,
            lambda x_t, v, kept: (1 - kept) * x_t + kept.sqrt() * v,
        ],
        "the root is taken before the subtraction: s is the root of 1 - kept": (
            lambda x_t, v, kept: (1 - kept.sqrt()) * x_t + kept.sqrt() * v
        ),
    }
    return Exercise(turned(), cases, mistakes)


@exercise
def posterior_mean() -> Exercise:
    """Exercise 3: `answer(x_t, points, p, kept)` -> the mean of x_0 given x_t, (b, d).

    x_t: (b, d).  points: (n, d).  p: (n,) their probabilities.  kept: () alphas_cumprod at the timestep of all.
    """
    rng = np.random.default_rng(4)
    cases = []
    for b, n, d, kept in [(1, 3, 2, 0.7), (2, 4, 1, 0.5), (3, 5, 2, 0.2), (4, 7, 3, 0.9)]:
        points, p = rng.normal(size=(n, d)), rng.dirichlet(np.ones(n))
        x_t = np.sqrt(kept) * points[rng.integers(n, size=b)] + rng.normal(size=(b, d)) / 2
        cases.append(_tensors(x_t, points, p, kept))

    def formula(
        root=torch.sqrt,
        two=2.0,
        own=lambda p: p,
        noise=lambda kept: 1 - kept,
        best=False,
        sign=-1,
        end=lambda kept: 1.0,
    ):
        def mean(x_t, points, p, kept):
            away = ((x_t[:, None] - root(kept) * points) ** 2).sum(-1)  # (b, n)
            weight = own(p) * torch.exp(sign * away / (two * noise(kept)))
            if best:
                return points[weight.argmax(1)]
            return weight / weight.sum(1, keepdim=True) @ (end(kept) * points)

        return mean

    def unnormalised(x_t, points, p, kept, total=lambda weight: 1.0):
        away = ((x_t[:, None] - kept.sqrt() * points) ** 2).sum(-1)
        weight = p * torch.exp(-away / (2 * (1 - kept)))
        return weight / total(weight) @ points

    def normalised_together(x_t, points, p, kept):
        return unnormalised(x_t, points, p, kept, total=torch.sum)

    def unsquared(x_t, points, p, kept):
        away = torch.linalg.vector_norm(x_t[:, None] - kept.sqrt() * points, dim=-1)
        return torch.softmax(p.log() - away / (2 * (1 - kept)), 1) @ points

    def inside(share):
        def mean(x_t, points, p, kept):
            away = ((x_t[:, None] - kept.sqrt() * points) ** 2).sum(-1)
            return torch.softmax(share(p) - away / (2 * (1 - kept)), 1) @ points

        return mean

    def p_times_distance(x_t, points, p, kept):
        away = ((x_t[:, None] - kept.sqrt() * points) ** 2).sum(-1)
        return torch.softmax(-p * away / (2 * (1 - kept)), 1) @ points

    def after(axis):
        def mean(x_t, points, p, kept):
            away = ((x_t[:, None] - kept.sqrt() * points) ** 2).sum(-1)
            logits = -away / (2 * (1 - kept))
            return p * logits.softmax(1) @ points if axis else (p.log() + logits).softmax(0) @ points

        return mean

    mistakes = {
        "all points count alike here: where do their probabilities p come in?": formula(own=torch.ones_like),
        "x_t is compared with the points as they are, but noising shrinks them, by the root of kept": (
            formula(root=lambda kept: 1.0)
        ),
        "noising shrinks the points by the root of kept, not by kept": formula(root=lambda kept: kept),
        "the weights must add up to 1 for each x_t": [unnormalised, normalised_together],
        "p comes after the softmax, so the weights no longer add up to 1: what does log p do inside of it?": after(1),
        "p itself is added inside the softmax; there, a factor becomes an added logarithm": inside(lambda p: p),
        "the distance is not squared yet": unsquared,
        "the softmax runs over the wrong axis: for each x_t the weights of all points add up to 1": after(0),
        "there is a 2 below the fraction bar": formula(two=1.0),
        "the variance of the noise is 1 - kept, not its root": formula(noise=lambda kept: (1 - kept).sqrt()),
        "that is the likeliest point; the mean weighs all of them": formula(best=True),
        "brackets are missing below the fraction bar: Python reads x / 2 * y as (x / 2) * y": formula(
            two=2.0, noise=lambda kept: 1 / (1 - kept)
        ),
        "1 - kept is the variance already: it is not squared": formula(noise=lambda kept: (1 - kept) ** 2),
        "the mean is of the points themselves, not of where noising would put them": formula(end=torch.sqrt),
        "what is far away counts most: look at the sign of the exponent": formula(sign=1),
        "p multiplies the distance inside the softmax; there, a factor becomes an added logarithm": p_times_distance,
    }
    return Exercise(formula(), cases, mistakes)
