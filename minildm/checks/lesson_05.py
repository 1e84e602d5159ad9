"""Checks of lesson 05: attention."""

import torch
from torch import Tensor

from ._check import Exercise, exercise


@exercise
def masked_attention() -> Exercise:
    """Exercise 2: `answer(q, k, v, mask)`, q: (b, n, d), k and v: (b, m, d), mask: bool (b, m) -> like q."""
    draw = torch.Generator().manual_seed(6)
    cases = []
    for b, n, m, d in ((1, 2, 3, 2), (2, 3, 3, 4), (2, 4, 5, 3), (3, 6, 4, 5)):
        q, k, v = (torch.randn(b, length, d, generator=draw, dtype=torch.float64) for length in (n, m, m))
        mask = torch.rand(b, m, generator=draw) < 0.6
        mask[:, 0], mask[:, -1] = True, False  # something may be looked at, and something may not
        cases.append((2 * q, k, v, mask))

    def attend(scale=lambda d: d**-0.5, hide=lambda scores, mask: scores.masked_fill(~mask, -torch.inf)):
        def apply(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            scores = q @ k.mT * scale(q.shape[-1])  # (b, n, m)
            return hide(scores, mask[:, None]).softmax(-1) @ v

        return apply

    def across(low):
        def apply(q, k, v, mask):
            scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask[:, None], low)
            return scores.softmax(-2) @ v

        return apply

    def too_late(q, k, v, mask):
        return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) * mask[:, None]) @ v

    mistakes = {
        "the mask is not used": attend(hide=lambda scores, mask: scores),
        "the mask is the wrong way round: True means that a place may be looked at": attend(
            hide=lambda scores, mask: scores.masked_fill(mask, -torch.inf)
        ),
        "a score of 0 still gets weight, for exp(0) = 1; hide it with minus infinity": attend(
            hide=lambda scores, mask: scores * mask
        ),
        "the softmax runs over the wrong axis: for each query the weights of all places add up to 1": across(-1e30),
        "all is NaN: a hidden score is minus infinity; infinity times 0 is NaN; the softmax runs over axis -1": [
            across(-torch.inf),
            attend(hide=lambda scores, mask: scores.masked_fill(~mask, torch.inf)),
            attend(hide=lambda scores, mask: scores - torch.inf * ~mask),
        ],
        "the mask is added as 1 and 0; a hidden score becomes minus infinity": attend(
            hide=lambda scores, mask: scores + mask
        ),
        "minus infinity belongs into the scores, before the softmax": lambda q, k, v, mask: (
            (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).masked_fill(~mask[:, None], -torch.inf) @ v
        ),
        "the mask comes after the softmax, so the weights that are left do not sum to 1": too_late,
        "the scores are not divided by the root of d": attend(scale=lambda d: 1),
        "divided by d itself: take its root": attend(scale=lambda d: 1 / d),
        "multiplied by the root of d instead of divided": attend(scale=lambda d: d**0.5),
        "the scores are used without a softmax": lambda q, k, v, mask: (
            (q @ k.mT * q.shape[-1] ** -0.5 * mask[:, None]) @ v
        ),
    }
    errors = {"must match the size": "the mask is (b, m) and the scores (b, n, m): mask[:, None] is (b, 1, m)"}
    return Exercise(attend(), cases, mistakes, errors=errors)


@exercise
def attention_flops() -> Exercise:
    """Exercise 3: `answer(n, dim)`, the FLOPs of one self-attention layer on n places."""

    def count(linear=4, products=2, each=2, layer=lambda n, dim: n * dim**2, product=lambda n, dim: n**2 * dim):
        return lambda n, dim: each * (linear * layer(n, dim) + products * product(n, dim))

    cases = [(4, 8), (64, 128), (100, 32), (1024, 16), (4096, 320)]
    mistakes = {
        "a multiplication with its addition counts as two": [
            count(each=1),
            count(each=1, linear=3),
            count(each=1, products=1),
            count(each=1, linear=3, products=1),
        ],
        "a multiplication with its addition counts as two in the linear layers, too": count(linear=2),
        "the linear layers are missing: queries, keys, values and output": count(linear=0),
        "the output layer is missing": [count(linear=3), count(linear=3, products=1)],
        "there are four linear layers: queries, keys, values and output": count(linear=1),
        "a linear layer takes dim · dim products at each place": [
            count(layer=lambda n, dim: n * dim),
            count(layer=lambda n, dim: dim**2),
        ],
        "each of the n · n scores is an inner product of dim numbers": [
            count(product=lambda n, dim: n**2),
            count(product=lambda n, dim: n**2 * dim**2),
        ],
        "only one of the two products is counted: scores, and weights times values": count(products=1),
        "the scores are missing: n places compare themselves with n places": count(products=0),
        "each place is compared with every other, so the products grow with the square of n": count(
            product=lambda n, dim: n * dim
        ),
    }
    return Exercise(count(), cases, mistakes, tolerance=0)
