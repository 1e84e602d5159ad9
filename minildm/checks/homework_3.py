"""Visible checks of homework 3, samplers up and down: properties of an answer. More run at grading."""

import math

import numpy as np
import torch

from minildm import samplers

from ._outcome import NotWritten
from ._probe import Probe, probe

SOLVERS = [samplers.ddim, samplers.euler, samplers.heun, samplers.dpm_solver_2m, samplers.ddpm]


@probe(own=SOLVERS)
def two_step(ask: Probe) -> None:
    """Part 1: `answer(z, eps_now, eps_before, before, now, then)` -> z at the noise level `then`."""
    for shape, before, now, then in [
        ((2, 3), 3.0, 2.0, 1.0),
        ((4, 1, 5), 2.5, 2.2, 0.3),
        ((3, 2, 2, 4), 1.4, 0.6, 0.4),
    ]:
        z, a, b = torch.as_tensor(ask.rng.normal(size=(3, *shape)))
        found = ask(z, a, None, None, now, then)
        ask.need(found.shape == shape, f"expected a result shaped like z, {shape}, got {found.shape}")
        ask.near(found, z + (then - now) * a, "at the first step there is no answer before: take a step of Euler")
        ask.near(
            ask(z, a, a, before, now, then), z + (then - now) * a, "both answers are alike, so the slope is constant"
        )
        slope_now, slope_before = a + b * now, a + b * before
        exact = z + a * (then - now) + b * (then**2 - now**2) / 2
        ask.near(
            ask(z, slope_now, slope_before, before, now, then),
            exact,
            "the slope is a straight line in sigma, and your step is not exact there: which slope has that line in the "
            "middle of the step? The steps before and after differ in length",
        )
        ask.near(ask(z, a, b, before, now, now), z, "a step to the level where it is already: nothing changes")


def _unit(z, sigma):
    """The exact answer where the data are normally distributed with variance 1."""
    return z * sigma / (1 + sigma**2)


def _down(n: int, high: float = 3.0, low: float = 0.1) -> list[float]:
    return np.geomspace(high, low, n + 1).tolist()


@probe(own=SOLVERS)
def solve(ask: Probe) -> None:
    """Part 2: `answer(eps, z, sigmas)` -> z at the last of the levels, (b, ...)."""
    z = torch.as_tensor(ask.rng.normal(size=(2, 3)))
    found = ask(lambda x, s: 0 * x, z, _down(3))
    ask.need(found.shape == (2, 3), f"expected z at the last level alone, (2, 3), got shape {found.shape}")
    ask.near(found, z, "where eps is 0, z stays as it is")

    def asked(answer, n):
        seen = []

        def eps(x, sigma):
            seen.append(float(sigma))
            return _unit(x, sigma)

        answer(eps, z, _down(n))
        return seen

    for n in (1, 4):
        seen = ask(n, run=asked)
        ask.need(len(seen) == n, f"{n + 1} levels are {n} steps, and each asks once; yours asks {len(seen)} times")
        ask.near(seen, _down(n)[:-1], "each step asks at the level where it begins")
    for levels, hint in [
        (_down(6), "is the *last* answer kept, with its level?"),
        ([*_down(3), 0.0], "and so is the last one, to level 0: it remembers as the others do"),
    ]:
        first = levels[1]
        ask.near(
            ask(lambda x, s: 0 * x + s, z, levels),
            z + (first - 3) * 3 + (levels[-1] ** 2 - first**2) / 2,
            f"eps is sigma itself: after the first step each is exact; {hint}",
        )
    off = []
    for n in (64, 128, 256):
        exact = z * math.sqrt((1 + 0.1**2) / (1 + 9))
        off.append(float(np.abs(ask(_unit, z, _down(n)) - exact.numpy()).max()))
    rate = math.log2(off[1] / off[2])
    ask.need(rate > 1.7, f"twice the steps divide the error by {2**rate:.1f}; of a second-order method it is about 4")
    ask.need(off[2] < 1e-3, f"with 256 steps the end is off by {off[2]:.2g}")


@probe()
def measured_order(ask: Probe) -> None:
    """Part 3: `answer(steps, errors)`, two lists -> the order, a number."""
    for order, scale in [(1, 0.3), (2, 5.0), (3.5, 0.01)]:
        steps = [4, 8, 16, 32, 100]
        found = ask(steps, [scale * n**-order for n in steps])
        ask.need(found.shape == (), f"expected one number, got shape {found.shape}")
        ask.near(found, order, "errors that fall as steps ** -p have the order p, whatever stands before it")
    found = ask([10, 20, 40], [0.1, 0.2, 0.4])
    ask.near(found, -1, "errors that *grow* with the steps have an order below 0")
    bent = [10, 20, 40, 50, 80], [0.1, 0.07, 0.02, 0.021, 0.009]
    ask.near(
        ask(*bent),
        1.1836,
        "errors that are no exact power: one straight line, the best through *all* points, and its slope; not the mean "
        "of the slopes between neighbours, nor the ends alone",
        tolerance=1e-3,
    )


@probe(own=SOLVERS)
def invert(ask: Probe) -> None:
    """Part 4: `answer(eps, z, sigmas, rounds)`, ascending levels -> z at the last of them, (b, ...)."""
    z = torch.as_tensor(ask.rng.normal(size=(3, 4)))
    up = [0.0, 0.4, 1.0, 2.5]

    def asked(answer, rounds):
        seen = []

        def eps(x, sigma):
            seen.append(float(sigma))
            return _unit(x, sigma)

        answer(eps, z, up, rounds)
        return seen

    found = ask(_unit, z, up, 1)
    ask.need(found.shape == (3, 4), f"expected z at the last level alone, (3, 4), got shape {found.shape}")
    for rounds in (1, 3):
        seen = ask(rounds, run=asked)
        ask.need(len(seen) == 3 * rounds, f"3 steps of {rounds} rounds ask {3 * rounds} times; yours {len(seen)} times")
        ask.need(min(seen) > 0, "eps is asked at the level where the step *ends*; at sigma 0 there is no noise to see")
        ask.near(seen, np.repeat(up[1:], rounds), "all rounds of a step ask at the level where it ends")
    ask.near(ask(lambda x, s: 0 * x + 1, z, up, 2), z + 2.5, "eps is 1 everywhere: z grows as much as sigma, once")

    def there_and_back(answer, rounds):
        x = answer(_unit, z, up, rounds)
        for now, then in zip(up[::-1], up[-2::-1], strict=False):
            x = x + (then - now) * _unit(x, now)  # DDIM's step down
        return x

    back = [float(np.abs(ask(rounds, run=there_and_back) - z.numpy()).max()) for rounds in (1, 4, 60)]
    ask.need(back[2] < 1e-5, f"with 60 rounds DDIM leads back to the start; yours ends {back[2]:.2g} away from it")
    ask.need(back[1] < back[0] / 2, "more rounds must lead back more exactly: does each begin from the last result?")


@probe()
def slerp(ask: Probe) -> None:
    """Part 5: `answer(one, other, share)`, two (b, ...) and a number from 0 to 1 -> (b, ...)."""
    for shape in [(1, 2), (3, 4), (2, 3, 4, 5)]:
        one, other = torch.as_tensor(ask.rng.normal(size=(2, *shape)))
        other = other * (one.flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)).view(-1, *[1] * (len(shape) - 1))
        half = ask.raw(one, other, 0.5)
        ask.need(np.shape(half) == shape, f"expected a result of shape {shape}, got {tuple(np.shape(half))}")
        ask.need(
            np.isfinite(np.asarray(half)).all(),
            "NaN for two ordinary noises: the cosine of an angle is the dot product divided by *both* lengths",
        )
        half = ask(one, other, 0.5)
        ask.near(ask(one, other, 0.0), one, "at share 0 it is the first")
        ask.near(ask(one, other, 1.0), other, "at share 1 it is the second")
        ask.near(
            ask(3 * one, 3 * other, 0.5), 3 * half, "three times as long, in the same directions: the angle is the same"
        )
        ask.near(ask(one[:1], other[:1], 0.5), half[:1], "each sample of the batch has an angle of its own")
        ask.near(
            ask(one.flatten(1), other.flatten(1), 0.5),
            half.reshape(shape[0], -1),
            "a picture and its numbers in one row give different results: the angle is between whole samples",
        )
        ask.near(
            np.linalg.norm(half.reshape(shape[0], -1), axis=1),
            one.flatten(1).norm(dim=1),
            "half-way between two noises of one length lies a noise of that length, for each sample of the batch",
        )
        ask.near(half, ask(other, one, 0.5), "half-way is half-way, from either side")
    right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    ask.near(
        ask(*right, 1 / 3),
        [[math.cos(math.pi / 6), math.sin(math.pi / 6)]],
        "at a third of the way a third of the angle is done",
    )
    for same in (torch.tensor([[3.0, 4.0, 0.0]]), torch.as_tensor(ask.rng.normal(size=(200, 5))).float()):
        found = np.asarray(ask.raw(same, same.clone(), 0.3))
        ask.need(
            np.isfinite(found).all(),
            "NaN between two that are equal: sin(theta) is 0 there, and rounding can make a cosine exceed 1",
        )
        ask.near(found, same, "between two that are equal lies the same", tolerance=1e-4)


@probe()
def experiment(ask: Probe) -> None:
    """Part 6: `answer()` -> back, morph: {rounds: RMS distance} and five pictures (5, 3, 32, 32)."""
    back, morph = ask.raw()
    if not back and morph is None:
        raise NotWritten("nothing in back and morph: experiment() returns back, morph")
    ask.need(isinstance(back, dict) and set(back) == {1, 4}, "back has the keys 1 and 4")
    ask.need(
        all(np.ndim(one) == 0 for one in back.values()), "back holds two numbers, each over both drawings together"
    )
    shape = tuple(np.shape(morph)) if isinstance(morph, torch.Tensor | np.ndarray) else type(morph).__name__
    ask.need(shape == (5, 3, 32, 32), f"morph holds five pictures in one tensor, (5, 3, 32, 32), got {shape}")
    ask.need(
        np.abs(np.asarray(morph)).max() < 3, "morph is in the model's range, about -1 to 1, and not in that of pixels"
    )
