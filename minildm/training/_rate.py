"""The learning rate from step to step."""

import math


def learning_rate(step: int, steps: int, lr: float, warmup: int) -> float:
    """The rate at a step: a straight line up to `lr` over `warmup` steps, then half a cosine down towards zero."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
