"""Checks of lesson 09: guidance, a picture to start from, a mask for what must stay."""

import math

import torch

from ._check import Exercise, exercise


@exercise
def guidance() -> Exercise:
    """`answer(conditional, unconditional, scale)`, two (b, c, h, w) and a number -> the guided one."""
    draw = torch.Generator().manual_seed(9)
    cases = []
    for shape, scale in (((1, 2, 2, 3), 4.0), ((2, 4, 3, 5), 7.5), ((3, 1, 2, 4), 1.0), ((1, 3, 4, 4), 0.0)):
        conditional, unconditional = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        cases.append((conditional, unconditional, scale))

    mistakes = {
        "here 1 is off; in your formula 0 is, so its scale is one less": lambda c, n, s: c + s * (c - n),
        "the sign of the difference: that moves away from what was asked for": lambda c, n, s: n + s * (n - c),
        "conditional and unconditional are swapped": lambda c, n, s: c + s * (n - c),
        "the unconditional answer is missing: the difference is added to it": lambda c, n, s: s * (c - n),
        "the difference is added to the conditional answer; at scale 1 that is not off": (
            lambda c, n, s: c + (s + 1) * (c - n)
        ),
        "both answers are scaled; only their difference is": lambda c, n, s: s * c + n,
        "the unconditional answer alone: the words are not heard": lambda c, n, s: n,
        "the conditional answer alone: that is scale 1": lambda c, n, s: c,
    }
    return Exercise(lambda c, n, s: n + s * (c - n), cases, mistakes)


@exercise
def remaining() -> Exercise:
    """`answer(timesteps, strength)`, a descending list and a number above 0 and up to 1 -> those left."""
    cases = [([999, 749, 499, 249], 0.5), ([999, 899, 799, 699, 599, 499, 399, 299, 199, 99], 0.25)]
    cases += [
        ([999, 799, 599, 399, 199], 0.75),
        ([999, 499], 1.0),
        ([999, 666, 333], 0.1),
        ([7, 6, 5, 4, 3, 2, 1, 0], 0.8),
    ]

    def left(whole=math.floor, least=1, cut=lambda path, n: path[len(path) - n :]):
        return lambda path, strength: cut(list(path), max(least, whole(len(path) * strength)))

    mistakes = {
        "those are the steps that are skipped; what is left are the others": (
            lambda path, strength: list(path)[: len(path) - max(1, math.floor(len(path) * strength))]
        ),
        "taken from the start of the list: the noisy steps are skipped, the last ones stay": left(
            cut=lambda path, n: path[:n]
        ),
        "turned around: strength is how much is left to go, not how much is skipped": (
            lambda path, strength: list(path)[max(1, math.floor(len(path) * strength)) :]
        ),
        "rounded up; it is rounded down": left(whole=math.ceil),
        "rounded to the nearest; it is rounded down": left(whole=round),
        "one step must be left": left(least=0),
        "a list[-0:] is the whole list; and one step must be left": left(least=0, cut=lambda path, n: path[-n:]),
        "cut by the timestep; strength is a share of the steps": (
            lambda path, strength: [t for t in path if t < 1000 * strength]
        ),
    }
    return Exercise(left(), cases, mistakes, tolerance=0)


@exercise
def rescaled() -> Exercise:
    """Exercise 1: `answer(guided, conditional, share)`, two (b, c, h, w) and a number from 0 to 1 -> (b, c, h, w)."""
    draw = torch.Generator().manual_seed(10)
    cases = []
    for shape, share in (((1, 2, 2, 3), 1.0), ((2, 4, 3, 5), 0.7), ((3, 1, 4, 2), 0.25), ((2, 3, 2, 4), 0.0)):
        guided, conditional = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        widths = torch.linspace(1.5, 4, shape[0], dtype=torch.float64).view(-1, 1, 1, 1)
        cases.append((widths * guided + 0.5, conditional, share))

    def back(over=(1, 2, 3), turned=False, by=lambda ratio, share: 1 + share * (ratio - 1), centred=False):
        def apply(guided, conditional, share):
            wide, wanted = (x.std(over, keepdim=True) for x in (guided, conditional))
            ratio = wide / wanted if turned else wanted / wide
            middle = guided.mean((1, 2, 3), keepdim=True) if centred else 0
            return (guided - middle) * by(ratio, share) + middle

        return apply

    mistakes = {
        "one spread for the whole batch: each picture has its own": back((0, 1, 2, 3)),
        "one spread for each channel: a picture has one, over all of its numbers": back((2, 3)),
        "the ratio is turned around: the guided answer is divided by its own spread": back(turned=True),
        "share is not heard: only at 1 does all of the spread go back": back(by=lambda ratio, share: ratio),
        "share is turned around: at 0 nothing changes": back(by=lambda ratio, share: share + (1 - share) * ratio),
        "at share 0 nothing is left: the guided answer keeps its part, 1 - share": back(
            by=lambda ratio, share: share * ratio
        ),
        "only the spread is changed here, not the mean: Lin et al. multiply all of the answer": back(centred=True),
        "mixed with the conditional answer; only its spread is wanted": (
            lambda guided, conditional, share: share * conditional + (1 - share) * guided
        ),
    }
    return Exercise(back(), cases, mistakes)


@exercise
def overwriting() -> Exercise:
    """Exercise 2: `answer(x_t, z, eps, now, new)`, tensors (b, c, h, w), a number, (b, 1, h, w) -> the new x_t."""
    draw = torch.Generator().manual_seed(11)
    cases = []
    for (b, c, h, w), now in (((1, 2, 2, 3), 0.81), ((2, 4, 3, 5), 0.3), ((3, 1, 4, 5), 0.04)):
        x_t, z, eps = torch.randn(3, b, c, h, w, generator=draw, dtype=torch.float64)
        new = (torch.rand(b, 1, h, w, generator=draw) < 0.5).double()
        new[0, 0, 0, :2] = torch.tensor([0.0, 1.0])  # some of each
        cases.append((x_t, z, eps, now, new))

    def put(known=lambda z, eps, now: math.sqrt(now) * z + math.sqrt(1 - now) * eps, swapped=False):
        def apply(x_t, z, eps, now, new):
            there = (new > 0) != swapped
            return torch.where(there, x_t, known(z, eps, now))

        return apply

    mistakes = {
        "the mask is turned around: new is 1 where to paint": put(swapped=True),
        "the known latent has no noise: at this step x_t is noisy everywhere": put(lambda z, eps, now: z),
        "roots are missing: now is the share of the signal's power": put(lambda z, eps, now: now * z + (1 - now) * eps),
        "the roots are swapped: now is the signal": put(
            lambda z, eps, now: math.sqrt(1 - now) * z + math.sqrt(now) * eps
        ),
        "the signal is not weakened: x_t has variance 1 at every step": put(
            lambda z, eps, now: z + math.sqrt(1 - now) * eps
        ),
        "z is missing: that is only noise": put(lambda z, eps, now: math.sqrt(1 - now) * eps),
        "all of it is overwritten: where new is 1, x_t stays": (
            lambda x_t, z, eps, now, new: math.sqrt(now) * z + math.sqrt(1 - now) * eps
        ),
    }
    return Exercise(put(), cases, mistakes)
