"""Checks of lesson 13: the schedule and the blocks of Stable Diffusion 3."""

import torch

from ._check import Exercise, exercise


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
        "the feed-forward is missing: up to 4 dim, and back": count(inner=0, biases=(4, 6)),
        "the normalisations have no weights of their own here: the modulation makes them": [
            lambda dim: count()(dim) + 8 * dim,
            lambda dim: count()(dim) + 4 * dim,
        ],
    }
    return Exercise(count(), cases, mistakes, tolerance=0)
