"""The learning rate from step to step."""

import math


def learning_rate(step: int, steps: int, lr: float, warmup: int, decay: int | None = None) -> float:
    """The rate at a step: a straight line up to `lr` over `warmup` steps, then half a cosine down towards zero.

    decay: instead, stay at `lr`, and over so many steps at the end go down in a straight line.
    Sources: Loshchilov and Hutter (2017); Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations" (2024).
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    if decay is not None:
        return lr * min(1.0, (steps - step) / decay)
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
