"""Checks of lesson 04: sampling."""

import math

import numpy as np

from ._check import Function, check


def trailing(answer: Function) -> None:
    """Exercise 1: `answer(total, steps)`, where steps divides total -> list of timesteps, "trailing" spacing."""

    def spaced(total, steps):
        return list(range(total - 1, -1, -(total // steps)))

    cases = [(6, 3), (10, 5), (10, 1), (12, 12), (1000, 10), (8192, 64)]
    mistakes = {
        "it starts past the end: the last timestep of a schedule of `total` steps is total - 1": lambda total, steps: [
            t + 1 for t in spaced(total, steps)
        ],
        "this is ascending; a sampler goes from noise, the highest t, to picture": lambda total, steps: spaced(
            total, steps
        )[::-1],
        'this is "leading": it counts up from 0 and leaves the end, the pure noise, out': lambda total, steps: [
            t - total // steps + 1 for t in spaced(total, steps)
        ],
        "these are the first timesteps next to each other; `steps` of them must span the whole schedule": (
            lambda total, steps: list(range(total - 1, total - 1 - steps, -1))
        ),
    }
    check("trailing", answer, spaced, cases, mistakes, tolerance=0)


def ddpm_step(answer: Function) -> None:
    """Exercise 2: `answer(x0_hat, eps_hat, z, kept, kept_next)`, pictures and two plain numbers -> x_next."""
    rng = np.random.default_rng(4)
    cases = []
    for shape, kept, kept_next in [((1, 2), 0.3, 0.4), ((3, 4), 0.1, 0.2), ((2, 5, 3), 0.8, 0.85), ((4, 7), 0.6, 1.0)]:
        cases.append((*rng.normal(size=(3, *shape)), kept, kept_next))

    def small(kept, kept_next):
        return (1 - kept_next) / (1 - kept) * (1 - kept / kept_next)

    def wide(kept, kept_next):
        return 1 - kept / kept_next if kept_next < 1 else 0.0

    def step(signal=math.sqrt, old=math.sqrt, new=math.sqrt, fresh=small, less=1, swap=False, last=0):
        def take(x0_hat, eps_hat, z, kept, kept_next):
            first, second = (eps_hat, x0_hat) if swap else (x0_hat, eps_hat)
            variance = fresh(kept, kept_next)
            rest = 1 - kept_next - less * variance
            added = new(variance) if kept_next < 1 else last * math.sqrt(1 - kept)
            return signal(kept_next) * first + old(rest) * second + added * z

        return take

    def backwards(x0_hat, eps_hat, z, kept, kept_next):
        fresh = small(kept, kept_next)
        return math.sqrt(kept) * x0_hat + math.sqrt(1 - kept - fresh) * eps_hat + math.sqrt(fresh) * z

    def ddim(x0_hat, eps_hat, z, kept, kept_next):
        return math.sqrt(kept_next) * x0_hat + math.sqrt(1 - kept_next) * eps_hat

    plain = float
    mistakes = {
        "the square root of alphas_cumprod is missing before x0_hat": step(signal=plain),
        "1 - kept_next - sigma² is a variance: its square root stands before eps_hat": step(old=plain),
        "sigma² is a variance: its square root, sigma, stands before z": step(new=plain),
        "no square roots at all: each of the three parts needs one": step(plain, plain, plain),
        "the coefficients of x0_hat and eps_hat are swapped": step(swap=True),
        "noise is added at the last step, where kept_next = 1: it would stay in the picture": step(last=1),
        "this adds fresh noise on top of all the old: sigma² must be taken out before eps_hat": step(less=0),
        "this is DDIM: nothing fresh is added": ddim,
        "the proportions are those of t; x_next needs those of the next timestep, kept_next": backwards,
        "the first factor of sigma² is missing, (1 - kept_next) / (1 - kept)": step(fresh=wide),
    }
    check("ddpm_step", answer, step(), cases, mistakes)


def to_sigma(answer: Function) -> None:
    """Exercise 3: `answer(alphas_cumprod)`, a plain number -> sigma, the noise per signal."""
    cases = [(kept,) for kept in (0.999, 0.9, 0.64, 0.5, 0.1, 0.0025)]
    mistakes = {
        "this is sigma squared: the variance of the noise per power of the signal": lambda kept: (1 - kept) / kept,
        "this is the noise in x_t; sigma is what it becomes when x_t is divided by its signal": lambda kept: math.sqrt(
            1 - kept
        ),
        "this is signal per noise; sigma is noise per signal": lambda kept: math.sqrt(kept / (1 - kept)),
        "this is the signal-to-noise ratio; sigma is the square root of its inverse": lambda kept: kept / (1 - kept),
        "the noise is divided by alphas_cumprod; the signal in x_t is its square root": lambda kept: (
            math.sqrt(1 - kept) / kept
        ),
    }
    check("to_sigma", answer, lambda kept: math.sqrt((1 - kept) / kept), cases, mistakes)


def from_sigma(answer: Function) -> None:
    """Exercise 3: `answer(sigma)`, a plain number -> alphas_cumprod."""
    cases = [(sigma,) for sigma in (0.01, 0.3, 0.75, 1.0, 7.0, 80.0)]
    mistakes = {
        "sigma is not squared yet": lambda sigma: 1 / (1 + sigma),
        "this is the signal, sqrt(alphas_cumprod)": lambda sigma: 1 / math.sqrt(1 + sigma**2),
        "this is 1 - alphas_cumprod, the share of the noise": lambda sigma: sigma**2 / (1 + sigma**2),
        "that inverts sigma = sqrt(1 - alphas_cumprod), which is the noise in x_t, not per signal": lambda sigma: (
            1 - sigma**2
        ),
        "this is the signal-to-noise ratio": lambda sigma: 1 / sigma**2,
    }
    check("from_sigma", answer, lambda sigma: 1 / (1 + sigma**2), cases, mistakes)
