"""Checks of lesson 13: the training step of flow matching; the schedule and the blocks of Stable Diffusion 3."""

import math

import torch

from ._check import Exercise, exercise
from ._drawn import watch
from .denoising import CALLS, OWN, mse, wide


@exercise
def flow_matching_step() -> Exercise:
    """`answer(model, x_0)`: pictures (b, c, h, w) -> the loss of flow matching on straight paths.

    Draw t (b,), evenly from 0, the picture, to 1, the noise, and eps; x_t = (1 - t) x_0 + t eps; the model is asked
    once, as model(x_t, t), for eps - x_0; the loss is the mean squared error.
    """
    cases = [(7, (1, 2, 3)), (8, (2, 4, 3)), (9, (3, 2, 5))]
    ways = {
        "as (1 - t) x_0 + t eps": lambda t: (1 - t, t),
        "turned around, t x_0 + (1 - t) eps": lambda t: (t, 1 - t),
        "on a circle, as diffusion does": lambda t: ((1 - t).clamp(0).sqrt(), t.clamp(0).sqrt()),
    }

    def run(answer, seed, shape):
        return watch(seed, shape, answer, lambda x_0: {"x_0": x_0}, ways, straight=True)

    def flow(t=lambda x: torch.rand(len(x), dtype=x.dtype), noise=torch.randn_like, mix=None, target=None, loss=mse):
        def apply(model, x_0):
            at, eps = t(x_0), noise(x_0)
            u = wide(at)
            x_t = mix(x_0, eps, u) if mix else (1 - u) * x_0 + u * eps
            return loss(model(x_t, at), target(x_0, eps, x_t) if target else eps - x_0)

        return apply

    def told(what):
        return lambda model, x_0: flow()(lambda x_t, t: model(x_t, what(t)), x_0)

    mistakes = {
        "the sign: the way goes from the picture to the noise, eps - x_0": flow(target=lambda x, e, x_t: x - e),
        "t runs the wrong way: at t = 0 is the picture": flow(mix=lambda x, e, t: t * x + (1 - t) * e),
        "the answer is compared with the noise; flow matching asks for eps - x_0": flow(target=lambda x, e, x_t: e),
        "the answer is compared with the picture; flow matching asks for eps - x_0": flow(target=lambda x, e, x_t: x),
        "the answer is compared with x_t - x_0, a part of the way: take all of it, eps - x_0": flow(
            target=lambda x, e, x_t: x_t - x
        ),
        "the answer is compared with x_t; flow matching asks for eps - x_0": flow(target=lambda x, e, x_t: x_t),
        "square roots: on a straight path the shares are 1 - t and t": [
            flow(mix=lambda x, e, t: (1 - t).sqrt() * x + t.sqrt() * e),
            flow(mix=lambda x, e, t: (1 - t**2).clamp(0).sqrt() * x + t * e),
        ],
        "t is drawn once for the whole batch; each picture has its own": flow(
            t=lambda x: torch.rand(1, dtype=x.dtype).expand(len(x))
        ),
        "t is normal; draw it evenly between 0 and 1: rand": flow(t=lambda x: torch.randn(len(x), dtype=x.dtype)),
        "the noise is drawn with rand, between 0 and 1; it is normal: randn": flow(noise=torch.rand_like),
        "one noise for the whole batch; each picture has its own": flow(
            noise=lambda x: torch.randn_like(x[:1]).expand_as(x)
        ),
        "a sum of squares grows with the picture: take the mean": flow(loss=lambda p, y: (p - y).square().sum()),
        "an absolute error; take the squared one": flow(loss=lambda p, y: (p - y).abs().mean()),
        "the loss is one number, as a tensor: take the mean, leave out item(), and return it": flow(
            loss=lambda p, y: None
        ),
        "the model is told t as (b,), one number for each picture, without further axes": told(wide),
        "the model is told a timestep; here it is told the time itself, from 0 to 1": told(lambda t: (1000 * t).long()),
        "no gradient can go through: leave out detach, no_grad and item": flow(loss=lambda p, y: mse(p, y).detach()),
    }
    axes = "t is (b,), a number for each picture: give it the shape (b, 1, 1, 1) to multiply pictures"
    errors = CALLS | {"must match the size": axes}
    return Exercise(flow(), cases, mistakes, run=run, own=OWN, errors=errors, patience=30)


@exercise
def jump_pair() -> Exercise:
    """`answer(x_t, x_next, a, s, a_next, s_next)`: the picture x_0 and the noise eps (both (b, c, h, w)) that mix to
    x_t with the shares a and s, and to x_next with a_next and s_next."""

    def case(seed, shape, now, then):
        x_t, x_next = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return x_t, x_next, *now, *then

    def shares(angle):
        return math.cos(angle), math.sin(angle)

    all_noise, all_signal = (0.0, 1.0), (1.0, 0.0)
    cases = [case(1, (1, 2, 3, 2), shares(1.2), shares(0.5)), case(2, (3, 1, 2, 4), all_noise, shares(1.1))]
    cases.append(case(3, (2, 3, 1, 5), shares(0.7), all_signal))

    def pair(sign=1, picture=1, noise=1, area=lambda a, s, b, r: a * r - s * b):
        def solve(x_t, x_next, a, s, a_next, s_next):
            whole = area(a, s, a_next, s_next)
            x_0, eps = s_next * x_t - s * x_next, a * x_next - sign * a_next * x_t
            return picture * x_0 / whole, noise * eps / whole

        return solve

    def swapped(x_t, x_next, a, s, a_next, s_next):
        return pair()(x_next, x_t, a, s, a_next, s_next)

    mistakes = {
        "the other way round: first the picture, then the noise": lambda *call: pair()(*call)[::-1],
        "the signs are turned around: check which product is subtracted": pair(picture=-1, noise=-1),
        "the sign of the picture": pair(picture=-1),
        "the sign of the noise": pair(noise=-1),
        "a sum where a difference is needed: eliminate one unknown by subtracting the equations": [
            pair(sign=-1),
            pair(area=lambda a, s, b, r: a * r + s * b),
        ],
        "it is not divided: after eliminating one unknown, the other stands there a number of times": pair(
            area=lambda a, s, b, r: 1.0
        ),
        "x_t and x_next are mixed up: a and s belong to x_t": swapped,
        "that is x_t itself; the jump has to arrive at x_next": lambda x_t, x_next, a, s, a_next, s_next: (
            (x_t - s * x_next) / a if a > 1e-9 else x_t,
            x_next,
        ),
        "x_next is no picture yet, unless a_next is 1 and s_next is 0": lambda x_t, x_next, a, s, a_next, s_next: (
            x_next,
            (x_t - a * x_next) / s,
        ),
    }
    zero = "a is 0 where all is noise, s_next at the clean end: divide by a s_next - s a_next alone"
    return Exercise(pair(), cases, mistakes, errors={"division by zero": zero})


@exercise
def shifted_time() -> Exercise:
    """Exercise 1: `answer(t, shift)`, (b,) from 0 to 1 and a number above 0 -> (b,), at `shift` times the noise."""
    cases = [
        (torch.tensor([0.5], dtype=torch.float64), 3.0),
        (torch.tensor([0.0, 0.25, 0.8, 1.0], dtype=torch.float64), 2.0),
        (torch.tensor([0.1, 0.9, 1.0], dtype=torch.float64), 0.5),
    ]

    def moved(up=lambda t, k: k * t, down=lambda t, k: 1 + (k - 1) * t):
        return lambda t, shift: up(t, shift) / down(t, shift)

    mistakes = {
        "t is multiplied; it is the noise per signal, t / (1 - t), that becomes shift times as large": [
            lambda t, shift: shift * t,
            lambda t, shift: (shift * t).clamp(max=1),
        ],
        "turned around: the noise per signal is divided by shift, so there is less noise": moved(
            lambda t, k: t, lambda t, k: k + (1 - k) * t
        ),
        "that is the new noise per signal, r; a time t' is asked for: r = t' / (1 - t')": lambda t, shift: (
            shift * t / (1 - t)
        ),
        "that is the new share of signal, 1 - t'": moved(lambda t, k: 1 - t),
        "squared: shift is a ratio of noise and signal, not of their powers": moved(
            lambda t, k: k**2 * t, lambda t, k: 1 + (k**2 - 1) * t
        ),
        "a root too many: shift is a ratio of noise and signal, not of their powers": moved(
            lambda t, k: k**0.5 * t, lambda t, k: 1 + (k**0.5 - 1) * t
        ),
        "t is raised to a power; that is another way to move it": [
            lambda t, shift: t**shift,
            lambda t, shift: t ** (1 / shift),
        ],
        "t is not yet the noise per signal; that is t / (1 - t)": lambda t, shift: shift * t / (1 + shift * t),
        "a sign: collect what stands with t' on one side, and solve again": moved(down=lambda t, k: 1 + (k + 1) * t),
        "t = 1 needs no small number: solve for t', and 1 - t stands under no fraction any more": [
            moved(down=lambda t, k, small=small: 1 - t + small + k * t) for small in (1e-2, 1e-3, 1e-4, 1e-5)
        ],
        "shift is always 3 here; use the one that your function is given": lambda t, shift: 3 * t / (1 + 2 * t),
    }
    return Exercise(moved(), cases, mistakes)


@exercise
def double_block() -> Exercise:
    """Exercise 2: `answer(dim)`, the width of all tokens -> parameters of a block of two streams, biases included."""
    cases = [(dim,) for dim in (1, 3, 64, 1536)]

    def count(streams=2, attention=4, modulation=6, inner=4, biases=(4, 6, 5), shared=0):
        def parameters(dim):
            matrices = attention + modulation + 2 * inner
            return streams * (matrices * dim**2 + sum(biases) * dim) - shared * dim**2

        return parameters

    mistakes = {
        "that is one stream; the words have all of these layers, too": count(streams=1),
        "the biases are missing: a linear layer from a to b has a b + b parameters": count(biases=()),
        "the modulation is missing: a linear layer from dim to 6 dim, in each stream": count(
            modulation=0, biases=(4, 5)
        ),
        "one modulation for both streams; each has its own": lambda dim: count()(dim) - 6 * dim**2 - 6 * dim,
        "the attention's output is missing: queries, keys, values, output are four layers": count(
            attention=3, biases=(3, 6, 5)
        ),
        "one attention layer for both streams; they meet in one attention, but each makes its own queries, keys and "
        "values": lambda dim: count()(dim) - 4 * dim**2 - 4 * dim,
        "the feed-forward goes up to 4 dim and back down: two matrices": count(inner=2, biases=(4, 6, 4)),
        "a linear layer has a bias for each number that comes out: 6 dim, 4 dim, and dim on the way back": [
            count(biases=(4, 1, 5)),  # of the modulation
            count(biases=(4, 6, 2)),  # of the way up
            count(biases=(4, 6, 8)),  # of the way back
            count(biases=(4, 1, 2)),  # dim for each layer
        ],
        "the feed-forward is missing: up to 4 dim, and back": count(inner=0, biases=(4, 6)),
        "the normalisations have no weights of their own here: the modulation makes them": [
            lambda dim: count()(dim) + 8 * dim,
            lambda dim: count()(dim) + 4 * dim,
        ],
        "that is the block for dim = 1536; your function is asked for other widths, too": lambda dim: count()(1536),
    }
    return Exercise(count(), cases, mistakes, tolerance=0)
