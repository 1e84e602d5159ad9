"""Checks of lesson 02: noise."""

import numpy as np

from ._check import Exercise, exercise


@exercise
def onward() -> Exercise:
    """Exercise 1: `answer(x_s, eps, s, t, betas)`, pictures (h, w) at stage s -> the pictures at stage t > s."""
    rng = np.random.default_rng(11)
    cases = []
    for h, w, s, t, steps in [(1, 2, 0, 1, 3), (2, 3, 1, 4, 6), (4, 3, 2, 3, 5), (5, 7, 4, 10, 11)]:
        cases.append((*rng.standard_normal((2, h, w)), s, t, rng.uniform(0.02, 0.3, steps)))

    def left(s, t, betas):
        return np.prod(1 - betas[s + 1 : t + 1])  # alphas_cumprod[t] / alphas_cumprod[s]

    def jump(share=left, root=np.sqrt, swap=False, noise=None):
        def answer(x_s, eps, s, t, betas):
            a = share(s, t, betas)
            rest = 1 - a if noise is None else noise(s, t, betas)
            x, e = (eps, x_s) if swap else (x_s, eps)
            with np.errstate(invalid="ignore"):  # some mistakes take the root of less than nothing
                return root(a) * x + root(rest) * e

        return answer

    def in_steps(x_s, eps, s, t, betas):
        for beta in betas[s + 1 : t + 1]:
            x_s = np.sqrt(1 - beta) * x_s + np.sqrt(beta) * eps
        return x_s

    def cumulative(t, betas):
        return np.prod(1 - betas[: t + 1])

    mistakes = {
        "roots are missing: variances add, but x_s and eps are multiplied by standard deviations": jump(
            root=lambda share: share
        ),
        "the two coefficients are swapped": jump(swap=True),
        "this jumps from x_0; x_s has gone part of the way already": jump(lambda s, t, betas: cumulative(t, betas)),
        "this is the single step t; all steps after s belong into the product": jump(lambda s, t, betas: 1 - betas[t]),
        "step s is in x_s already: the product starts at s + 1": jump(lambda s, t, b: np.prod(1 - b[s : t + 1])),
        "step t is missing from the product: in code a slice ends before its last index": jump(
            lambda s, t, betas: np.prod(1 - betas[s + 1 : t])
        ),
        "a slice [s:t] begins with s, which is in x_s already, and ends before t, which is not": jump(
            lambda s, t, betas: np.prod(1 - betas[s:t])
        ),
        "this noise counts from x_0: what x_s has already is not added again": jump(
            noise=lambda s, t, betas: 1 - cumulative(t, betas)
        ),
        "the noise of x_s shrinks along with the picture, so the two noise variances cannot simply be subtracted": jump(
            noise=lambda s, t, betas: cumulative(s, betas) - cumulative(t, betas)
        ),
        "the same eps in each of several steps adds up standard deviations, where variances add: jump once": in_steps,
        "those are the first steps of the list; the steps to come are s + 1 to t": [
            jump(lambda s, t, betas: cumulative(t - s, betas)),
            jump(lambda s, t, betas: cumulative(t - s - 1, betas)),
        ],
        "1 minus the sum of the betas; each step keeps a share, and shares are multiplied": jump(
            lambda s, t, betas: 1 - betas[s + 1 : t + 1].sum()
        ),
        "1 minus the product of the betas; it is the product of all 1 - beta": jump(
            lambda s, t, betas: 1 - betas[s + 1 : t + 1].prod()
        ),
        "a share lies between 0 and 1: is the fraction upside down, or are shares subtracted?": [
            jump(lambda s, t, betas: cumulative(s, betas) / cumulative(t, betas)),
            jump(lambda s, t, betas: cumulative(t, betas) - cumulative(s, betas)),
        ],
        "shares are not subtracted: the share of s, times that of the steps to come, is the share of t": jump(
            lambda s, t, betas: cumulative(s, betas) - cumulative(t, betas)
        ),
    }
    return Exercise(jump(), cases, mistakes)


@exercise
def half_noise() -> Exercise:
    """Exercise 2: `answer(betas)`, (steps,) -> the first t at which the SNR is at most 1."""
    spans = [(7, 0.1, 0.8), (40, 0.01, 0.3), (300, 1e-3, 0.04), (1000, 1e-4, 0.02)]
    cases = [(np.linspace(low, high, steps),) for steps, low, high in spans]
    cases.append((np.linspace(0.03**0.5, 0.9**0.5, 12) ** 2,))

    def first(reached):
        return lambda betas: int(np.argmax(reached(betas, np.cumprod(1 - betas))))

    def closest(away):
        return lambda betas: int(np.abs(away(np.cumprod(1 - betas))).argmin())

    truth = first(lambda betas, a: a <= 0.5)

    def at_the_stage(value):
        return lambda betas: value(np.cumprod(1 - betas))[truth(betas)]

    mistakes = {
        "one too early: that is the last t at which the picture is still the stronger": lambda b: truth(b) - 1,
        "one too late: t counts from 0": lambda b: truth(b) + 1,
        "there half of the *amplitude* is left; the SNR compares variances, without the root": first(
            lambda betas, a: np.sqrt(a) <= 0.5
        ),
        "the betas are not simply added up: each step also shrinks the noise of the steps before it": first(
            lambda betas, a: np.cumsum(betas) >= 0.5
        ),
        "that is where the noise has all but drowned the picture; the SNR is 1 where both are equally strong": first(
            lambda betas, a: a <= 0.01
        ),
        "that is where the SNR is closest to 1, and may be just above it; the first t is asked for where it is at most "
        "1": [closest(lambda a: a / (1 - a) - 1), closest(lambda a: a - 0.5), closest(lambda a: np.log(a / (1 - a)))],
        "those are all t from there on; the first of them is asked for": [
            lambda betas, find=find: find(np.cumprod(1 - betas) <= 0.5)
            for find in (np.flatnonzero, np.where, np.argwhere)
        ],
        "a single step's alpha; the SNR compares what all steps up to t have left": first(
            lambda betas, a: 1 - betas <= 0.5
        ),
        "t = 0 in each case, but at the start the SNR is above 1: which way does the sign point?": lambda betas: 0,
        "that is how many stages come from there on; so many come before it": lambda betas: len(betas) - truth(betas),
        "that is the last stage of all; the first is asked for with an SNR of at most 1": lambda betas: len(betas) - 1,
        "that is the value at the stage; its t, a whole number, is asked for": [
            at_the_stage(lambda a: a / (1 - a)),
            at_the_stage(lambda a: a),
        ],
    }
    return Exercise(truth, cases, mistakes, tolerance=0)


@exercise
def shifted() -> Exercise:
    """Exercise 3: `answer(alphas_cumprod, k)`, (steps,) -> those of the SNR divided by k², (steps,)."""
    rng = np.random.default_rng(13)
    cases = [(np.sort(rng.uniform(0.01, 0.99, steps))[::-1].copy(), k) for steps, k in ((2, 2), (5, 4), (9, 3))]

    def divided(by=lambda k: k**2, back=lambda snr: snr / (1 + snr)):
        return lambda a, k: back(a / (1 - a) / by(k))

    mistakes = {
        "the SNR is divided by k; averaging k × k pixels multiplies it by k²": divided(by=lambda k: k),
        "the wrong way round: the larger picture needs more noise, so a smaller SNR": divided(by=lambda k: 1 / k**2),
        "that is the new SNR; turn it back into alphas_cumprod, a = SNR / (1 + SNR)": divided(back=lambda snr: snr),
        "that is the noise, 1 - alphas_cumprod": divided(back=lambda snr: 1 / (1 + snr)),
        "alphas_cumprod itself is divided; it is the SNR, alphas_cumprod / (1 - alphas_cumprod), that is k² times "
        "smaller": lambda a, k: a / k**2,
        "that is the log of the new SNR; turn it back into alphas_cumprod with a sigmoid": divided(back=np.log),
        "a root too many: the SNR compares variances": [
            divided(by=lambda k: k**0.5),
            lambda a, k: np.sqrt(a / (1 - a)) / k / (1 + np.sqrt(a / (1 - a)) / k),
        ],
        "a sign below the fraction bar: what is signal is SNR / (SNR + 1) of all": divided(
            back=lambda snr: snr / (1 - snr)
        ),
        "brackets are missing: alphas_cumprod is divided by (1 - alphas_cumprod)": (
            lambda a, k: (a - a / k**2) / (1 + a - a / k**2)
        ),
        "alphas_cumprod itself is multiplied; the SNR is divided": lambda a, k: a * k**2,
    }
    return Exercise(divided(), cases, mistakes)
